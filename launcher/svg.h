#ifndef LONGSPAN_LAUNCHER_SVG_H_
#define LONGSPAN_LAUNCHER_SVG_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

// Figures as SVG, which keep their looks when they are copied out of a page: colours are attributes
// of the elements, for paper; classes let a page's style replace them. Lengths are in pixels.
namespace longspan {

// For HTML and SVG, in text and in attributes.
std::string EscapeMarkup(absl::string_view text);

// One axis of a plot.
struct Axis {
  std::string label;  // with its unit
  double low = 0, high = 1;
  bool logarithmic = false;  // then `low` is above 0
  std::vector<std::pair<double, std::string>> ticks;

  // 0 at `low`, 1 at `high`.
  double Share(double value) const;
};

// From 0 to a round number not below `high`, with round ticks.
Axis LinearAxis(std::string label, double high);
// Whole powers of ten around the values, which are above 0.
Axis LogAxis(std::string label, double low, double high);

struct Point {
  double x = 0, y = 0;
};

// The elements of one figure, from the top left corner.
class Svg {
 public:
  Svg(double width, std::string title) : width_(width), title_(std::move(title)) {}

  enum class Anchor { kStart, kMiddle, kEnd };
  void Text(Point at, absl::string_view text, Anchor anchor = Anchor::kStart,
            absl::string_view weight = "normal");
  // In the middle of an area of a light colour: dark, whatever the page is.
  void TextOnColour(Point middle, absl::string_view text);
  void Line(Point from, Point to, absl::string_view style_class);  // "axis", "grid" or "ideal"
  void Path(const std::vector<Point>& points, absl::string_view colour, absl::string_view dashes);
  // With a tooltip.
  void Rectangle(Point corner, double width, double height, absl::string_view colour,
                 absl::string_view tip);
  // One of several forms, by number.
  void Marker(Point at, int form, absl::string_view colour, bool filled, absl::string_view tip);
  // Frame, ticks and labels; the inner area begins at `corner`.
  void Axes(Point corner, double width, double height, const Axis& x, const Axis& y);

  // `height`: of the whole figure.
  std::string Finish(double height) const;

 private:
  double width_;
  std::string title_;
  std::string elements_;
};

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_SVG_H_
