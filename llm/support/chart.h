// Pictures as separate SVG files: curves over one axis, and maps of squares. White background, for light and dark
// pages.
#pragma once

#include <string>
#include <utility>
#include <vector>

struct Curve {
  std::string name;                               // in the legend, if there is more than one curve
  std::vector<std::pair<double, double>> points;  // (x, y), x ascending, both finite; at least one
};

// A second scale above the picture: its label, and how much of it corresponds to 1 on the x axis. None without a label.
struct ScaleAbove {
  std::string label;
  double per_x = 0;
};

// Axes with round ticks; the y axis spans the curves' values. A curve of more than 400 points is drawn as means of
// neighbours.
std::string curves_svg(const std::string& title, const std::string& x_label, const std::string& y_label,
                       const std::vector<Curve>& curves, const ScaleAbove& above);

// n x n numbers from 0 to 1, rows from the top; larger is darker, in 20 shades.
struct SquareMap {
  std::string title;
  std::vector<float> values;
};

// Maps in a square grid, each with `labels` (n) below and to the left.
std::string square_maps_svg(const std::string& title, const std::vector<std::string>& labels,
                            const std::vector<SquareMap>& maps);

// A step of work: what it reads, what it writes (names), and whether it belongs to the way back.
struct FlowStep {
  std::string text;
  std::vector<std::string> reads, writes;
  bool back = false;
};

// Steps as boxes: those of the way there on the left from the top down, those of the way back on the right from the
// bottom up. Between them what the first kind writes, each with lines to the steps that read it; next to a step of the
// way back what it writes.
std::string flow_svg(const std::string& title, const std::vector<FlowStep>& steps);

// Escaped for XML and HTML: & < > " as entities; control characters and bytes that are not UTF-8, which XML cannot
// hold, as the replacement character.
std::string xml_escaped(const std::string& text);
