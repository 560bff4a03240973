#include "llm/support/chart.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "llm/support/error.h"
#include "llm/support/file.h"

namespace {

const char* kColours[] = {"#1f5fa8", "#c8501e", "#2f8a4c", "#8b4fa8", "#a8871f", "#3a3a3a"};
constexpr size_t kMostPoints = 400, kShades = 20, kLongestName = 60;

std::string text_at(double x, double y, const char* anchor, int size, const std::string& text, const char* more = "") {
  return strprintf("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" font-size=\"%d\"%s>%s</text>\n", x, y, anchor, size,
                   more, xml_escaped(text).c_str());
}

std::string line(double x1, double y1, double x2, double y2, const char* colour) {
  return strprintf("<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"/>\n", x1, y1, x2, y2, colour);
}

std::string document(double width, double height, const std::string& title, const std::string& content) {
  return strprintf(
             "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" height=\"%.0f\" "
             "font-family=\"system-ui, sans-serif\" fill=\"#222\">\n<title>%s</title>\n"
             "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
             width, height, width, height, xml_escaped(title).c_str()) +
         text_at(width / 2, 22, "middle", 15, title) + content + "</svg>\n";
}

// From low to high, widened to multiples (4 to 10 of them) of a step of 1, 2 or 5 times a power of ten.
struct Axis {
  double low, high, step;

  Axis(double least, double most) {
    if (!(most > least)) {  // one value: some room on each side of it
      const double around = least == 0 ? 1 : std::abs(least) / 2;
      least -= around;
      most += around;
    }
    const double raw = (most - least) / 6, power = std::pow(10, std::floor(std::log10(raw)));
    step = power * (raw / power < 1.5 ? 1 : raw / power < 3.5 ? 2 : raw / power < 7.5 ? 5 : 10);
    low = std::floor(least / step + 1e-9) * step;
    high = std::ceil(most / step - 1e-9) * step;
  }
  int ticks() const { return static_cast<int>(std::lround((high - low) / step)) + 1; }
  double tick(int i) const {
    const double value = low + i * step;
    return std::abs(value) < step * 1e-9 ? 0 : value;
  }
  double share(double value) const { return (value - low) / (high - low); }
};

std::vector<std::pair<double, double>> thinned(const std::vector<std::pair<double, double>>& points) {
  if (points.size() <= kMostPoints) return points;
  std::vector<std::pair<double, double>> means;
  for (size_t group = 0; group < kMostPoints; ++group) {
    const size_t begin = group * points.size() / kMostPoints, end = (group + 1) * points.size() / kMostPoints;
    double x = 0, y = 0;
    for (size_t i = begin; i < end; ++i) {
      x += points[i].first;
      y += points[i].second;
    }
    means.push_back({x / static_cast<double>(end - begin), y / static_cast<double>(end - begin)});
  }
  return means;
}

// The end, which tells runs apart, of a name that is too long for the legend.
std::string shortened(const std::string& name) {
  if (name.size() <= kLongestName) return name;
  size_t begin = name.size() - kLongestName;
  while (begin < name.size() && (static_cast<unsigned char>(name[begin]) & 0xC0) == 0x80)
    ++begin;  // inside a character
  return "…" + name.substr(begin);
}

}  // namespace

std::string flow_svg(const std::string& title, const std::vector<FlowStep>& steps) {
  constexpr double kRow = 46, kTop = 60, kBox = 210, kLeft = 20, kMiddle = 330, kBuffer = 190, kRight = 640;
  size_t there = 0, buffers = 0;
  for (const FlowStep& step : steps) there += !step.back, buffers += step.back ? 0 : step.writes.size();
  const size_t back = steps.size() - there;
  const double height = kTop + kRow * static_cast<double>(std::max({there, back, buffers}) + 1);
  const auto spread = [&](size_t k, size_t n) {
    return kTop + (height - kTop - kRow) * (n > 1 ? static_cast<double>(k) / static_cast<double>(n - 1) : 0.5);
  };
  const auto box = [](double x, double y, double width, const char* fill, const std::string& text) {
    return strprintf(
               "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"26\" rx=\"4\" fill=\"%s\" stroke=\"#888\"/>\n", x,
               y - 13, width, fill) +
           text_at(x + width / 2, y + 4, "middle", 12, text);
  };
  std::vector<double> y_of;
  std::map<std::string, double> written;  // what the way there writes: its y
  size_t k_there = 0, k_back = 0, k_buffer = 0;
  for (const FlowStep& step : steps) {
    y_of.push_back(step.back ? spread(back - 1 - k_back++, back) : spread(k_there++, there));
    for (const std::string& name : step.writes) {
      if (!step.back && !written.contains(name)) written[name] = spread(k_buffer++, buffers);
    }
  }
  std::string lines, boxes;
  for (size_t k = 0; k < steps.size(); ++k) {
    const FlowStep& step = steps[k];
    const double side = step.back ? kRight : kLeft + kBox;
    boxes += box(step.back ? kRight : kLeft, y_of[k], kBox, step.back ? "#fbe9df" : "#e4eef9", step.text);
    std::string results;
    for (const std::string& name : step.writes) {
      if (step.back) {
        results += (results.empty() ? "" : ", ") + name;
      } else {
        lines += line(side, y_of[k], kMiddle, written[name], kColours[0]);
      }
    }
    if (step.back) boxes += text_at(kRight + kBox + 10, y_of[k] + 4, "start", 12, results);
    for (const std::string& name : step.reads) {
      if (!written.contains(name)) continue;
      lines +=
          line(side, y_of[k], step.back ? kMiddle + kBuffer : kMiddle, written[name], step.back ? kColours[1] : "#999");
    }
  }
  for (const auto& [name, y] : written) boxes += box(kMiddle, y, kBuffer, "#fff", name);
  return document(kRight + kBox + 260, height, title,
                  text_at(kLeft + kBox / 2, 44, "middle", 12, "forward, from the top") +
                      text_at(kRight + kBox / 2, 44, "middle", 12, "backward, from the bottom") + lines + boxes);
}

std::string xml_escaped(const std::string& text) {
  std::string out;
  for (const char c : replace_invalid_utf8(text)) {
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '"') {
      out += "&quot;";
    } else if (static_cast<unsigned char>(c) < 0x20 && c != '\t' && c != '\n') {
      out += "\uFFFD";
    } else {
      out += c;
    }
  }
  return out;
}

std::string curves_svg(const std::string& title, const std::string& x_label, const std::string& y_label,
                       const std::vector<Curve>& curves, const ScaleAbove& above) {
  constexpr double kWidth = 720, kHeight = 420, kRight = 20, kBottom = 50;
  const double y_top = above.label.empty() ? 40 : 76;
  std::vector<Curve> drawn = curves;
  double x_least = INFINITY, x_most = -INFINITY, y_least = INFINITY, y_most = -INFINITY;
  for (Curve& curve : drawn) {
    curve.points = thinned(curve.points);
    for (const auto& [x, y] : curve.points) {
      x_least = std::min(x_least, x);
      x_most = std::max(x_most, x);
      y_least = std::min(y_least, y);
      y_most = std::max(y_most, y);
    }
  }
  if (!drawn.empty() && !std::isfinite(y_most - y_least) && std::isfinite(y_most)) {
    fail("values from %g to %g are too far apart to be drawn", y_least, y_most);
  }
  const Axis across(x_least, x_most), up(y_least, y_most);
  size_t widest = 0;
  for (int i = 0; i < up.ticks(); ++i) widest = std::max(widest, strprintf("%.6g", up.tick(i)).size());
  const double x_left = std::max(70.0, 36 + 7.5 * static_cast<double>(widest));
  const auto at_x = [&](double x) { return x_left + across.share(x) * (kWidth - x_left - kRight); };
  const auto at_y = [&](double y) { return kHeight - kBottom - up.share(y) * (kHeight - y_top - kBottom); };

  std::string content;
  for (int i = 0; i < across.ticks(); ++i) {
    const double x = at_x(across.tick(i));
    content += line(x, y_top, x, kHeight - kBottom, "#e4e4e4");
    content += text_at(x, kHeight - kBottom + 18, "middle", 12, strprintf("%.6g", across.tick(i)));
  }
  for (int i = 0; i < up.ticks(); ++i) {
    const double y = at_y(up.tick(i));
    content += line(x_left, y, kWidth - kRight, y, "#e4e4e4");
    content += text_at(x_left - 8, y + 4, "end", 12, strprintf("%.6g", up.tick(i)));
  }
  content += text_at((x_left + kWidth - kRight) / 2, kHeight - 12, "middle", 13, x_label);
  if (!above.label.empty()) {
    const Axis scale(across.low * above.per_x, across.high * above.per_x);
    for (int i = 0; i < scale.ticks(); ++i) {
      const double x = at_x(scale.tick(i) / above.per_x);
      if (x < x_left - 0.1 || x > kWidth - kRight + 0.1) continue;
      content += line(x, y_top - 5, x, y_top, "#999");
      content += text_at(x, y_top - 9, "middle", 12, strprintf("%.6g", scale.tick(i)));
    }
    content += text_at((x_left + kWidth - kRight) / 2, y_top - 25, "middle", 13, above.label);
  }
  content += strprintf("<g transform=\"rotate(-90 16 %.1f)\">", (y_top + kHeight - kBottom) / 2);
  content += text_at(16, (y_top + kHeight - kBottom) / 2 + 4, "middle", 13, y_label) + "</g>\n";

  for (size_t k = 0; k < drawn.size(); ++k) {
    const char* colour = kColours[k % std::size(kColours)];
    const auto& points = drawn[k].points;
    std::string path;
    for (size_t i = 0; i < points.size(); ++i) {
      path += strprintf("%s%.1f %.1f", i == 0 ? "M" : "L", at_x(points[i].first), at_y(points[i].second));
    }
    content +=
        strprintf("<path d=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"1.8\" stroke-linejoin=\"round\"%s/>\n",
                  path.c_str(), colour, k < std::size(kColours) ? "" : " stroke-dasharray=\"6 4\"");
    for (size_t i = 0; points.size() <= 40 && i < points.size(); ++i) {
      content += strprintf("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>\n", at_x(points[i].first),
                           at_y(points[i].second), colour);
    }
  }
  if (drawn.size() > 1) {
    size_t longest = 0;
    for (Curve& curve : drawn) {
      curve.name = shortened(curve.name);
      longest = std::max(longest, curve.name.size());
    }
    // In the corner that is farther from the last curve's end.
    const double width = 40 + 7.2 * static_cast<double>(longest), height = 10 + 18 * static_cast<double>(drawn.size());
    const bool below = at_y(drawn[0].points.back().second) < (y_top + kHeight - kBottom) / 2;
    const double left = kWidth - kRight - 8 - width, top = below ? kHeight - kBottom - 8 - height : y_top + 8;
    content += strprintf(
        "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"#fff\" fill-opacity=\"0.85\" "
        "stroke=\"#ccc\"/>\n",
        left, top, width, height);
    for (size_t k = 0; k < drawn.size(); ++k) {
      const double y = top + 18 + 18 * static_cast<double>(k);
      content += strprintf("<rect x=\"%.1f\" y=\"%.1f\" width=\"18\" height=\"3\" fill=\"%s\"/>\n", left + 8, y - 5,
                           kColours[k % std::size(kColours)]);
      content += text_at(left + 32, y, "start", 12, drawn[k].name);
    }
  }
  return document(kWidth, kHeight, title, content);
}

std::string square_maps_svg(const std::string& title, const std::vector<std::string>& labels,
                            const std::vector<SquareMap>& maps) {
  const size_t n = labels.size();
  const double cell = std::clamp(260.0 / static_cast<double>(n), 6.0, 26.0), side = cell * static_cast<double>(n);
  const int font = static_cast<int>(std::clamp(cell - 2, 5.0, 12.0));
  size_t longest = 0;
  for (const std::string& label : labels) longest = std::max(longest, label.size());
  const double margin = 12 + 0.62 * font * static_cast<double>(longest);
  const auto across = static_cast<size_t>(std::ceil(std::sqrt(static_cast<double>(maps.size()))));
  const double step_x = side + margin + 16, step_y = side + margin + 34;

  std::string content;
  for (size_t k = 0; k < maps.size(); ++k) {
    const double left = margin + step_x * static_cast<double>(k % across),
                 top = 62 + step_y * static_cast<double>(k / across);
    content += text_at(left + side / 2, top - 8, "middle", 12, maps[k].title);
    // One path per shade, with all its squares, in units of a square: a tenth of the bytes of one rectangle per square.
    std::string shades[kShades + 1];
    for (size_t row = 0; row < n; ++row) {
      content +=
          text_at(left - 5, top + cell * (static_cast<double>(row) + 0.5) + font * 0.35, "end", font, labels[row]);
      for (size_t column = 0; column < n; ++column) {
        const auto shade = static_cast<size_t>(std::lround(maps[k].values[row * n + column] * kShades));
        shades[shade] += strprintf("M%zu %zuh1v1h-1z", column, row);
      }
    }
    content += strprintf("<g transform=\"translate(%.1f %.1f) scale(%.2f)\" fill=\"#1f5fa8\">\n", left, top, cell);
    for (size_t shade = 1; shade <= kShades; ++shade) {
      if (shades[shade].empty()) continue;
      content += strprintf("<path fill-opacity=\"%.3g\" d=\"%s\"/>\n", static_cast<double>(shade) / kShades,
                           shades[shade].c_str());
    }
    content += "</g>\n";
    content += strprintf("<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"none\" stroke=\"#999\"/>\n",
                         left, top, side, side);
    for (size_t column = 0; column < n; ++column) {
      const double x = left + cell * (static_cast<double>(column) + 0.5) + font * 0.35, y = top + side + 5;
      content +=
          text_at(x, y, "end", font, labels[column], strprintf(" transform=\"rotate(-90 %.1f %.1f)\"", x, y).c_str());
    }
  }
  const double rows = static_cast<double>((maps.size() + across - 1) / across);
  const double kLeastWidth = 240;  // for the title
  return document(std::max(kLeastWidth, margin + step_x * static_cast<double>(across)), 44 + step_y * rows, title,
                  content);
}
