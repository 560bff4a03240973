// The results as one page without scripts or other files: a roofline, then each ladder with its versions' ideas.
#include <algorithm>
#include <cmath>
#include <vector>

#include "dev/bench/bench_report.h"
#include "llm/support/chart.h"
#include "llm/support/error.h"

namespace bench {

namespace {

std::string text_of(const json& object, const char* key) { return xml_escaped(object[key].get<std::string>()); }

// Three digits, and k, M or G: 1234567 is 1.23 M.
std::string short_number(double x) {
  const char* units[] = {"", " k", " M", " G"};
  int unit = 0;
  while (std::abs(x) >= 999.5 && unit < 3) x /= 1000, ++unit;
  const int digits = x == std::floor(x) && unit == 0 ? 0 : std::abs(x) < 9.995 ? 2 : std::abs(x) < 99.95 ? 1 : 0;
  return strprintf("%.*f%s", digits, x, units[unit]);
}

bool counts(const json& results) { return results["kind"] == "cudasim"; }

// ---- roofline ------------------------------------------------------------------------------------------------------

struct Point {
  double intensity, tflops;  // FLOP per byte; rate
  bool kernel, library;
  std::string title;
};

// The points of the ladder's versions, in order. A time gives the rate over the minimum bytes; counts give the bytes,
// and the rate is the highest that the roofs then allow.
std::vector<Point> points_of(const json& ladder, const json& results) {
  const json& ceilings = results["ceilings"];
  const double flops = ladder["flops"];
  std::vector<Point> points;
  for (const json& version : ladder["versions"]) {
    if (version.contains("error")) continue;
    Point p{flops / ladder["bytes"].get<double>(), 0, version["kernel"], version["library"],
            text_of(ladder, "operation") + ", " + text_of(version, "name")};
    if (counts(results)) {
      const double bytes = version["counts"]["dram_bytes"];
      if (bytes <= 0) continue;
      p.intensity = flops / bytes;
      const double roof = ceilings[ladder["limit"] == "float_units" ? "float_tflops" : "matmul_tflops"];
      p.tflops = std::min(roof, 1e-3 * ceilings["copy_gbps"].get<double>() * p.intensity);
      p.title += strprintf(": %.3g FLOP per byte of memory, at most %.3g TFLOP/s", p.intensity, p.tflops);
    } else {
      p.tflops = version["tflops"];
      p.title += strprintf(": %.3g TFLOP/s, %.1f us", p.tflops, version["us"].get<double>());
    }
    points.push_back(p);
  }
  return points;
}

// Positions on the paper: powers of ten at even distances.
struct Axes {
  static constexpr double kWidth = 720, kHeight = 400, kLeft = 52, kRight = 28, kTop = 14, kBottom = 46;
  double x0, x1, y0, y1;  // exponents of ten
  double x(double value) const { return kLeft + (std::log10(value) - x0) / (x1 - x0) * (kWidth - kLeft - kRight); }
  double y(double value) const {
    return kHeight - kBottom - (std::log10(value) - y0) / (y1 - y0) * (kHeight - kTop - kBottom);
  }
};

std::string grid(const Axes& a) {
  std::string svg;
  for (int e = static_cast<int>(a.x0); e <= static_cast<int>(a.x1); ++e) {
    const double x = a.x(std::pow(10, e));
    svg += strprintf("<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>", x, x, Axes::kTop,
                     Axes::kHeight - Axes::kBottom);
    svg += strprintf("<text class=\"tick\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%g</text>", x,
                     Axes::kHeight - Axes::kBottom + 16, std::pow(10, e));
  }
  for (int e = static_cast<int>(a.y0); e <= static_cast<int>(a.y1); ++e) {
    const double y = a.y(std::pow(10, e));
    svg += strprintf("<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>", Axes::kLeft,
                     Axes::kWidth - Axes::kRight, y, y);
    svg += strprintf("<text class=\"tick\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%g</text>", Axes::kLeft - 6, y + 4,
                     std::pow(10, e));
  }
  svg += strprintf("<text class=\"axis\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">FLOP per byte</text>",
                   (Axes::kLeft + Axes::kWidth - Axes::kRight) / 2, Axes::kHeight - 8);
  svg += strprintf(
      "<text class=\"axis\" transform=\"translate(13 %.1f) rotate(-90)\" text-anchor=\"middle\">"
      "TFLOP/s</text>\n",
      (Axes::kTop + Axes::kHeight - Axes::kBottom) / 2);
  return svg;
}

std::string roofs(const Axes& a, const json& ceilings) {
  const double gbps = ceilings["copy_gbps"], peak = ceilings["matmul_tflops"], float_peak = ceilings["float_tflops"];
  const double left = std::max(std::pow(10, a.x0), 1e3 * std::pow(10, a.y0) / gbps), right = std::pow(10, a.x1),
               ridge = 1e3 * peak / gbps, float_ridge = 1e3 * float_peak / gbps;
  std::string svg = strprintf("<path class=\"roof\" d=\"M%.1f %.1fL%.1f %.1fL%.1f %.1f\"/>", a.x(left),
                              a.y(1e-3 * gbps * left), a.x(ridge), a.y(peak), a.x(right), a.y(peak));
  svg += strprintf("<path class=\"roof minor\" d=\"M%.1f %.1fL%.1f %.1f\"/>", a.x(float_ridge), a.y(float_peak),
                   a.x(right), a.y(float_peak));
  svg += strprintf("<text class=\"note\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">tensor cores, %.0f TFLOP/s</text>",
                   a.x(right) - 4, a.y(peak) - 6, peak);
  svg += strprintf("<text class=\"note\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">float units, %.0f TFLOP/s</text>",
                   a.x(right) - 4, a.y(float_peak) - 6, float_peak);
  const double place = ridge / 6;  // of the label: above the roof, right of most points
  const double angle = std::atan2(a.y(1e-3 * gbps * ridge) - a.y(1e-3 * gbps * left), a.x(ridge) - a.x(left));
  svg += strprintf(
      "<text class=\"note\" transform=\"translate(%.1f %.1f) rotate(%.1f)\" text-anchor=\"middle\">"
      "memory, %.0f GB/s</text>\n",
      a.x(place) - 5, a.y(1e-3 * gbps * place) - 8, angle * 180 / M_PI, gbps);
  return svg;
}

std::string roofline(const json& results) {
  std::vector<std::vector<Point>> ladders;
  const double gbps = results["ceilings"]["copy_gbps"], peak = results["ceilings"]["matmul_tflops"];
  double low_x = 1, high_x = 1e3 * peak / gbps * 5, low_y = peak;
  for (const json& ladder : results["ladders"]) {
    ladders.push_back(points_of(ladder, results));
    for (const Point& p : ladders.back()) {
      low_x = std::min(low_x, p.intensity);
      high_x = std::max(high_x, p.intensity);
      low_y = std::min(low_y, p.tflops);
    }
  }
  const Axes a{std::floor(std::log10(low_x)), std::ceil(std::log10(high_x)),
               std::floor(std::log10(std::max(low_y, 1e-6))), std::ceil(std::log10(peak * 1.2))};

  std::string marks, numbers;
  struct Label {
    double x, y;
  };
  std::vector<Label> labels;
  for (size_t i = 0; i < ladders.size(); ++i) {
    std::string path;
    for (const Point& p : ladders[i]) {
      if (!p.library) path += strprintf("%s%.1f %.1f", path.empty() ? "M" : "L", a.x(p.intensity), a.y(p.tflops));
    }
    marks += "<path class=\"rungs\" d=\"" + path + "\"/>";
    for (const Point& p : ladders[i]) {
      const double x = a.x(p.intensity), y = a.y(p.tflops);
      marks += strprintf("<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%s\"><title>%s</title></circle>",
                         p.kernel    ? "kernel"
                         : p.library ? "library"
                                     : "rung",
                         x, y, p.kernel ? "4.5" : "3", p.title.c_str());
      if (!p.kernel) continue;
      Label label{x, y - 9};  // above its point, and above labels already placed
      for (bool moved = true; moved;) {
        moved = false;
        for (const Label& other : labels) {
          if (std::abs(other.x - label.x) < 15 && std::abs(other.y - label.y) < 12) {
            label.y = other.y - 12;
            moved = true;
          }
        }
      }
      labels.push_back(label);
      numbers += strprintf(
          "<a href=\"#l%zu\"><text class=\"number\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%zu"
          "</text></a>\n",
          i + 1, label.x, label.y, i + 1);
    }
  }
  return strprintf("<div class=\"scroll\"><svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"Roofline\">\n",
                   Axes::kWidth, Axes::kHeight) +
         grid(a) + roofs(a, results["ceilings"]) + marks + numbers + "</svg></div>\n";
}

// ---- ladders -------------------------------------------------------------------------------------------------------

const char* limit_text(const json& ladder) {
  return ladder["limit"] == "memory" ? "memory" : ladder["limit"] == "tensor_cores" ? "tensor cores" : "float units";
}

// A version's figure for the bars, as a number and as text.
double figure(const json& version, bool counted) {
  return counted ? version["counts"]["ratio"].get<double>() : version["us"].get<double>();
}
std::string figure_text(const json& version, bool counted) {
  if (counted) return strprintf("%.2f &times;", figure(version, true));
  const double us = figure(version, false);
  return us < 9995 ? strprintf("%.*f &micro;s", us < 99.95 ? 1 : 0, us) : strprintf("%.1f ms", us / 1000);
}

std::string version_item(const json& version, bool counted, double longest, double most_requests) {
  const bool kernel = version["kernel"], library = version["library"];
  std::string html = strprintf("<li class=\"%s\"><div class=\"head\"><b>%s</b>%s<span class=\"value\">",
                               kernel    ? "kernel"
                               : library ? "library"
                                         : "rung",
                               text_of(version, "name").c_str(),
                               kernel    ? "<span class=\"chip\">kernels/</span>"
                               : library ? "<span class=\"chip\">library</span>"
                                         : "");
  if (version.contains("error")) {
    return html + "wrong</span></div><p>" + text_of(version, "error") + "</p></li>\n";
  }
  html += figure_text(version, counted) + "</span></div>";
  const double share = 100 * figure(version, counted) / longest;
  html += strprintf("<div class=\"bar\"><i style=\"width:%.2f%%\"></i>", share);
  if (!counted) {
    const double low = 100 * version["us_p10"].get<double>() / longest,
                 high = std::min(100.0, 100 * version["us_p90"].get<double>() / longest);
    html += strprintf("<s style=\"left:%.2f%%;width:%.2f%%\"></s>", low, std::max(high - low, 0.3));
  }
  html += "</div>";
  if (counted) {
    const double requests = version["counts"]["requests"];
    html += strprintf("<div class=\"bar thin\"><i style=\"width:%.2f%%\"></i></div>",
                      100 * requests / std::max(most_requests, 1.0));
  }
  return html + "<p>" + text_of(version, "idea") + "</p></li>\n";
}

std::string counts_table(const json& ladder) {
  std::string html =
      "<div class=\"scroll\"><table><tr><th>version<th>DRAM MB<th>requests<th>MB asked for<th>sectors per "
      "request<th>ideal"
      "<th>bank conflicts<th>barriers per block<th>shuffles<th>mma<th>atomics<th>partial</tr>\n";
  for (const json& version : ladder["versions"]) {
    if (version.contains("error")) continue;
    const json& c = version["counts"];
    const auto number = [&](const char* key) { return c[key].get<double>(); };
    const double requests = std::max(number("requests"), 1.0);
    html += strprintf(
        "<tr><td>%s<td>%.3f<td>%s<td>%.3f<td>%.2f<td>%.2f<td>%s<td>%.1f<td>%s<td>%s<td>%s<td>%.1f "
        "%%</tr>\n",
        text_of(version, "name").c_str(), 1e-6 * number("dram_bytes"), short_number(number("requests")).c_str(),
        1e-6 * (number("read_bytes") + number("write_bytes")), number("sectors") / requests,
        number("least_sectors") / requests, short_number(number("bank_conflicts")).c_str(), number("barriers_a_block"),
        short_number(number("shuffles")).c_str(), short_number(number("mma")).c_str(),
        short_number(number("atomics")).c_str(), 100 * number("partial_share"));
  }
  return html + "</table></div>\n";
}

std::string times_table(const json& ladder) {
  std::string html =
      "<div class=\"scroll\"><table><tr><th>version<th>&micro;s<th>10th<th>90th<th>GB/s<th>TFLOP/s<th>share of "
      "ceiling</tr>\n";
  for (const json& version : ladder["versions"]) {
    if (version.contains("error")) continue;
    const auto number = [&](const char* key) { return version[key].get<double>(); };
    html += strprintf("<tr><td>%s<td>%.2f<td>%.2f<td>%.2f<td>%.0f<td>%.2f<td>%.0f %%</tr>\n",
                      text_of(version, "name").c_str(), number("us"), number("us_p10"), number("us_p90"),
                      number("gbps"), number("tflops"), 100 * number("share"));
  }
  return html + "</table></div>\n";
}

std::string ladder_section(const json& ladder, size_t number, bool counted) {
  double longest = 1e-9, most_requests = 0;
  for (const json& version : ladder["versions"]) {
    if (version.contains("error")) continue;
    longest = std::max(longest, figure(version, counted));
    if (counted) most_requests = std::max(most_requests, version["counts"]["requests"].get<double>());
  }
  std::string html = strprintf(
      "<section id=\"l%zu\"><h2><span>%zu</span> %s</h2>\n<p class=\"size\">%s &middot; limit: %s "
      "&middot; least: %sB, %sFLOP</p>\n<ol>\n",
      number, number, text_of(ladder, "operation").c_str(), text_of(ladder, "size").c_str(), limit_text(ladder),
      short_number(ladder["bytes"].get<double>()).c_str(), short_number(ladder["flops"].get<double>()).c_str());
  for (const json& version : ladder["versions"]) html += version_item(version, counted, longest, most_requests);
  html += "</ol>\n<details><summary>all figures</summary>\n";
  html += counted ? counts_table(ladder) : times_table(ladder);
  return html + "</details></section>\n";
}

// One line per ladder: the last version's result.
std::string summary(const json& results) {
  const bool counted = counts(results);
  std::string html = "<div class=\"scroll\"><table class=\"summary\"><tr><th><th>operation<th>";
  html += counted ? "bytes / least<th>sectors / ideal<th>bank conflicts" : "share<th>&micro;s<th>GB/s<th>TFLOP/s";
  html += "<th>limit</tr>\n";
  size_t number = 0;
  for (const json& ladder : results["ladders"]) {
    ++number;
    for (const json& version : ladder["versions"]) {
      if (!version["kernel"].get<bool>() || version.contains("error")) continue;
      html +=
          strprintf("<tr><td>%zu<td><a href=\"#l%zu\">%s</a>", number, number, text_of(ladder, "operation").c_str());
      if (counted) {
        const json& c = version["counts"];
        html += strprintf("<td>%.2f<td>%.2f<td>%s", c["ratio"].get<double>(),
                          c["sectors"].get<double>() / std::max(c["least_sectors"].get<double>(), 1.0),
                          short_number(c["bank_conflicts"].get<double>()).c_str());
      } else {
        html += strprintf("<td>%.0f %%<td>%.1f<td>%.0f<td>%.2f", 100 * version["share"].get<double>(),
                          version["us"].get<double>(), version["gbps"].get<double>(), version["tflops"].get<double>());
      }
      html += strprintf("<td>%s</tr>\n", limit_text(ladder));
    }
  }
  return html + "</table></div>\n";
}

const char* const kStyle = R"(
:root { color-scheme: light dark; --paper: #fcfcfa; --ink: #1d2126; --soft: #636b74; --line: #dfe1de; --faint: #eef0ec;
        --kernel: #0b6e69; --rung: #a9b3ba; --library: #b3741f; --roof: #4a525a; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171a; --ink: #e4e6e7; --soft: #98a1a9; --line: #2d3338; --faint: #1d2226;
          --kernel: #43b8ae; --rung: #5b666e; --library: #d9a04a; --roof: #a7b0b7; } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 54rem; background: var(--paper); color: var(--ink);
       font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
       font-variant-numeric: tabular-nums; overflow-wrap: break-word }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0 .2rem; letter-spacing: -.01em }
h2 { font-size: 1.15rem; margin: 0; font-family: ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere }
h2 span { display: inline-block; min-width: 1.7em; padding: 0 .35em; margin-right: .3em; text-align: center;
          background: var(--kernel); color: var(--paper); border-radius: .25em; font-size: .85em }
a { color: inherit; text-decoration-color: var(--rung); text-underline-offset: .15em }
p { margin: .5rem 0 } .lead, .size, figcaption { color: var(--soft) } .size, figcaption { font-size: .88rem }
section { margin-top: 2.6rem; padding-top: 1.2rem; border-top: 1px solid var(--line) }
figure { margin: 1.6rem 0 }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch }
svg { display: block; width: 100%; min-width: 34rem; height: auto }
.grid { stroke: var(--line); stroke-width: 1 } .tick, .note { fill: var(--soft); font-size: 11px }
.axis { fill: var(--soft); font-size: 12px } .roof { fill: none; stroke: var(--roof); stroke-width: 1.8 }
.minor { stroke-width: 1; stroke-dasharray: 5 4 } .rungs { fill: none; stroke: var(--rung); stroke-width: 1 }
circle.rung { fill: var(--paper); stroke: var(--rung); stroke-width: 1.5 }
circle.kernel { fill: var(--kernel) } circle.library { fill: var(--library) }
.number { fill: var(--kernel); font-size: 11px; font-weight: 600; paint-order: stroke; stroke: var(--paper);
          stroke-width: 3px }
ol { list-style: none; margin: 1rem 0; padding: 0 } li { margin: 0 0 1.1rem }
li p { margin: .25rem 0 0; font-size: .92rem; color: var(--soft); max-width: 44rem }
.head { display: flex; align-items: baseline; gap: .5rem } .value { margin-left: auto; white-space: nowrap }
.chip { font-size: .72rem; padding: 0 .4em; border: 1px solid currentColor; border-radius: 1em }
.kernel .chip, .kernel .value { color: var(--kernel) } .library .chip, .library .value { color: var(--library) }
.bar { position: relative; height: .8rem; margin-top: .25rem; background: var(--faint); border-radius: .15rem;
       overflow: hidden }
.bar i { display: block; height: 100%; background: var(--rung); min-width: 1px }
.kernel .bar i { background: var(--kernel) } .library .bar i { background: var(--library) }
.bar s { position: absolute; top: 45%; height: 10%; background: var(--ink) }
.thin { height: .28rem; margin-top: .12rem } .thin i { opacity: .55 }
table { border-collapse: collapse; font-size: .85rem; white-space: nowrap; margin: .6rem 0 }
th { color: var(--soft); font-weight: 500 } th, td { padding: .25rem .8rem .25rem 0; text-align: right }
td, th { border-bottom: 1px solid var(--line) }
th:first-child, td:first-child { text-align: left }
.summary td:nth-child(2), .summary th:nth-child(2) { text-align: left }
summary { cursor: pointer; color: var(--soft); font-size: .88rem }
)";

}  // namespace

std::string html_page(const json& results) {
  const bool counted = counts(results);
  const json& ceilings = results["ceilings"];
  std::string html =
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<title>wrought: kernels, version by version</title>\n<style>";
  html += kStyle;
  html += "</style></head><body>\n<h1>Kernels, version by version</h1>\n<p class=\"lead\">" +
          text_of(results, "device") + " &middot; " + text_of(results, "date") + "</p>\n";
  html +=
      "<p>For each operation a ladder: from the version that comes to mind first to the one in <code>kernels/</code>, "
      "which trains. Each step is one idea, and each version was checked against the plain one on the CPU.</p>\n";
  if (counted) {
    html +=
        "<p>No GPU was used. The kernels ran in cudasim, which counts the requests that a GPU would get. The upper bar "
        "is "
        "the bytes to and from memory, past a cache like a GPU's L2, as a multiple of the least possible: every "
        "input read once, every output written once. The thin bar below is the number of requests, each an access of "
        "32 lanes at once, relative to the ladder's largest.</p>\n";
  } else {
    html +=
        "<p>Bars are times, medians on random data outside any cache; the fine line spans the 10th to the 90th "
        "percentile. Shares are of ceilings measured in the same run.</p>\n";
  }
  html += "<figure>\n" + roofline(results) + "<figcaption>";
  html += counted
              ? strprintf(
                    "A roofline, predicted for an H100 SXM: copies at %.0f GB/s, matrix products at %.0f TFLOP/s. A "
                    "version stands where its counted bytes put it, and no higher than the roof; whatever else slows "
                    "it down is not in this picture. ",
                    ceilings["copy_gbps"].get<double>(), ceilings["matmul_tflops"].get<double>())
              : strprintf(
                    "A roofline, measured: a copy at %.0f GB/s (read and written), a matrix product at %.0f TFLOP/s "
                    "(%s). Float units by the clock rate. Bytes are the minimum. ",
                    ceilings["copy_gbps"].get<double>(), ceilings["matmul_tflops"].get<double>(),
                    xml_escaped(ceilings.value("matmul_by", "")).c_str());
  html += "Filled and numbered: the version in kernels/; rings: those before it.</figcaption></figure>\n";
  html += summary(results);
  size_t number = 0;
  for (const json& ladder : results["ladders"]) html += ladder_section(ladder, ++number, counted);
  return html + "</body></html>\n";
}

}  // namespace bench
