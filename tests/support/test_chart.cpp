#include <cmath>
#include <cstdio>
#include <cstring>

#include "doctest/doctest.h"
#include "llm/support/chart.h"
#include "llm/support/error.h"

namespace {

size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

bool has(const std::string& text, const std::string& part) { return count(text, part) > 0; }

// The points of the k-th path, in page coordinates.
std::vector<std::pair<double, double>> path_of(const std::string& svg, size_t k) {
  size_t at = 0;
  for (size_t i = 0; i <= k; ++i) at = svg.find("<path d=\"", at + 1);
  std::vector<std::pair<double, double>> points;
  const char* text = svg.c_str() + at + 9;
  for (double x, y; std::sscanf(text, "%*[ML]%lf %lf", &x, &y) == 2;) {
    points.push_back({x, y});
    text += 1 + strcspn(text + 1, "ML\"");
  }
  return points;
}

}  // namespace

TEST_CASE("curves: values beyond any axis are refused") {
  CHECK_THROWS_WITH_AS(curves_svg("a title", "step", "loss", {{"loss", {{0, 1e308}, {1, -1e308}}}}, {}),
                       "values from -1e+308 to 1e+308 are too far apart to be drawn", Error);
}

TEST_CASE("curves: points agree with the axes, and ticks are round") {
  const std::string svg = curves_svg("a title", "step", "loss", {{"loss", {{0, 4}, {50, 2}, {100, 1}}}}, {});
  const auto points = path_of(svg, 0);
  REQUIRE(points.size() == 3);
  CHECK(points[0] == std::pair(70.0, 40.0));    // the upper corner, x = 0 and y = 4
  CHECK(points[1] == std::pair(385.0, 260.0));  // the middle of 70 to 700; a third of 370 to 40
  CHECK(points[2] == std::pair(700.0, 370.0));
  for (const char* tick : {">0<", ">20<", ">100<", ">1<", ">1.5<", ">4<", ">a title<", ">step<", ">loss<"}) {
    INFO(tick);
    CHECK(has(svg, tick));
  }
  CHECK(count(svg, "<circle") == 3);
}

TEST_CASE("curves: a legend for more than one, means of many points, a single point") {
  Curve many{"noisy & long", {}};
  for (int i = 0; i < 10'000; ++i) many.points.push_back({i, i % 2});
  const std::string svg = curves_svg("", "", "", {many, {"one <point>", {{0, 0}, {5000, 0.5}, {9999, 1}}}}, {});
  CHECK(has(svg, ">noisy &amp; long<"));
  CHECK(has(svg, ">one &lt;point&gt;<"));
  const auto points = path_of(svg, 0);
  REQUIRE(points.size() == 400);
  const auto few = path_of(svg, 1);
  REQUIRE(few.size() == 3);
  for (const auto& [x, y] : points) REQUIRE(std::abs(y - few[1].second) < 7);  // 12 or 13 of 25 neighbours are 1
  for (const double value : {0.0, -3.0, 1e-9, 7e12}) {
    const auto only = path_of(curves_svg("", "", "", {{"", {{value, value}}}}, {}), 0);
    REQUIRE(only.size() == 1);
    CHECK((only[0].first > 70 && only[0].first < 700 && only[0].second > 40 && only[0].second < 370));
  }
}

TEST_CASE("curves: a second scale above, with its own round ticks at their places on the first") {
  const std::vector<Curve> curves = {{"loss", {{0, 4}, {90, 1}}}};
  const std::string svg = curves_svg("", "step", "loss", curves, {"tokens & more", 512});
  CHECK(has(svg, ">tokens &amp; more<"));
  // The x axis is 0 to 100 on 70 to 700, so 40000 tokens are at 70 + 630 * 40000 / 51200.
  CHECK(has(svg, "<text x=\"562.2\" y=\"67.0\" text-anchor=\"middle\" font-size=\"12\">40000</text>"));
  CHECK(!has(svg, ">60000<"));
  CHECK(path_of(svg, 0).front() == std::pair(70.0, 76.0));  // the picture makes room
  CHECK(!has(curves_svg("", "step", "loss", curves, {}), ">40000<"));
}

TEST_CASE("curves: long numbers at the y axis push it to the right, away from its label") {
  const std::string svg = curves_svg("", "step", "rate", {{"", {{0, 0.000125}, {1, 0.00017}}}}, {});
  CHECK(has(svg, ">0.00017<"));
  CHECK(path_of(svg, 0).front().first == 36 + 7.5 * 7);
}

TEST_CASE("curves: more than distinguishable colours are dashed; a long name keeps its end") {
  const Curve curve{"x", {{0, 0}, {1, 1}}};
  CHECK(count(curves_svg("", "", "", std::vector(6, curve), {}), "stroke-dasharray") == 0);
  CHECK(count(curves_svg("", "", "", std::vector(8, curve), {}), "stroke-dasharray") == 2);
  std::string name;
  for (int i = 0; i < 40; ++i) name += "\u00e9";  // two bytes each; the cut would be within one
  const std::string svg = curves_svg("", "", "", {curve, {name + ":", curve.points}}, {});
  CHECK(has(svg, ">\u2026" + name.substr(2 * 11) + ":<"));
}

TEST_CASE("maps: a square for each visible number, each map with its labels") {
  const std::string svg =
      square_maps_svg("maps", {"a", "<b>"}, {{"head 0", {1, 0, 0.25f, 0.76f}}, {"head 1", {0.99f, 0.02f, 0, 1}}});
  CHECK(count(svg, "M0 0h1v1h-1z") == 2);
  CHECK(has(svg, "<path fill-opacity=\"0.25\" d=\"M0 1h1v1h-1z\"/>"));
  CHECK(has(svg, "<path fill-opacity=\"0.75\" d=\"M1 1h1v1h-1z\"/>"));
  CHECK(has(svg, "<path fill-opacity=\"1\" d=\"M0 0h1v1h-1zM1 1h1v1h-1z\"/>"));
  CHECK(count(svg, "M1 0") == 0);
  CHECK(count(svg, ">&lt;b&gt;<") == 4);
  CHECK(has(svg, ">head 1<"));
}

TEST_CASE("text is escaped in XML") {
  CHECK(xml_escaped("a<b> & \"c\" \x01é") == "a&lt;b&gt; &amp; &quot;c&quot; \uFFFDé");
  CHECK(xml_escaped("\xff<") == "\uFFFD&lt;");
}
