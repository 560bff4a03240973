// Pictures as SVG files of their own: curves over one axis, and maps of squares. White behind, for light and dark
// pages.
#pragma once

#include <string>
#include <utility>
#include <vector>

struct Curve {
  std::string name;                               // in the legend, if there is more than one
  std::vector<std::pair<double, double>> points;  // (x, y), x ascending, both finite; at least one
};

// A second scale above the picture: of what, and how much of it there is to 1 on the x axis. None without a label.
struct ScaleAbove {
  std::string label;
  double per_x = 0;
};

// Axes with round ticks, the y axis over what the curves take. Of more than 400 points a curve's neighbours are drawn
// as their mean.
std::string curves_svg(const std::string& title, const std::string& x_label, const std::string& y_label,
                       const std::vector<Curve>& curves, const ScaleAbove& above);

// n x n numbers of 0 to 1, rows from above; the larger the darker, in 20 shades.
struct SquareMap {
  std::string title;
  std::vector<float> values;
};

// Side by side, in as many rows as columns, each with `labels` (n) below and at the left.
std::string square_maps_svg(const std::string& title, const std::vector<std::string>& labels,
                            const std::vector<SquareMap>& maps);

// As text in XML and HTML: & < > " by their names; control characters and bytes that are not UTF-8, which XML
// cannot hold, as the replacement character.
std::string xml_escaped(const std::string& text);
