#include "launcher/svg.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace longspan {
namespace {

constexpr double kTickLength = 4;
constexpr double kTextHeight = 11;

// Of a class, as an attribute.
absl::string_view StrokeOf(absl::string_view style_class) {
  if (style_class == "grid") return "#d9dce0";
  return style_class == "ideal" ? "#8a9099" : "#40464d";
}

// The largest step of 1, 2 or 5 times a power of ten that divides `range` into at least `parts`.
double RoundStep(double range, int parts) {
  const double most = range / parts;
  const double power = std::pow(10, std::floor(std::log10(most)));
  for (const double factor : {5.0, 2.0}) {
    if (factor * power <= most) return factor * power;
  }
  return power;
}

}  // namespace

std::string EscapeMarkup(absl::string_view text) {
  return absl::StrReplaceAll(
      text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}, {"'", "&#39;"}});
}

double Axis::Share(double value) const {
  if (!logarithmic) return (value - low) / (high - low);
  return std::log(value / low) / std::log(high / low);
}

Axis LinearAxis(std::string label, double high) {
  Axis axis;
  axis.label = std::move(label);
  const double step = RoundStep(high > 0 ? high : 1, 4);
  const auto steps = static_cast<int>(std::ceil((high > 0 ? high : 1) / step - 1e-9));
  axis.high = step * steps;
  for (int i = 0; i <= steps; ++i) {
    axis.ticks.emplace_back(step * i, absl::StrFormat("%.6g", step * i));
  }
  return axis;
}

Axis LogAxis(std::string label, double low, double high) {
  Axis axis;
  axis.label = std::move(label);
  axis.logarithmic = true;
  const auto first = static_cast<int>(std::floor(std::log10(low)));
  const auto last = std::max(first + 1, static_cast<int>(std::ceil(std::log10(high))));
  axis.low = std::pow(10, first);
  axis.high = std::pow(10, last);
  const int stride = (last - first + 7) / 8;
  for (int power = first; power <= last; power += stride) {
    axis.ticks.emplace_back(std::pow(10, power), absl::StrCat("1e", power));
  }
  return axis;
}

void Svg::Text(Point at, absl::string_view text, Anchor anchor, absl::string_view weight) {
  constexpr absl::string_view kAnchors[] = {"start", "middle", "end"};
  absl::StrAppendFormat(
      &elements_,
      "<text class=\"ink\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" font-weight=\"%s\" "
      "fill=\"#20252b\">%s</text>\n",
      at.x, at.y, kAnchors[static_cast<int>(anchor)], weight, EscapeMarkup(text));
}

void Svg::TextOnColour(Point middle, absl::string_view text) {
  absl::StrAppendFormat(&elements_,
                        "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\" fill=\"#20252b\">%s"
                        "</text>\n",
                        middle.x, middle.y + kTextHeight / 3, EscapeMarkup(text));
}

void Svg::Line(Point from, Point to, absl::string_view style_class) {
  absl::StrAppendFormat(
      &elements_,
      "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"%s/>\n",
      style_class, from.x, from.y, to.x, to.y, StrokeOf(style_class),
      style_class == "ideal" ? " stroke-dasharray=\"4 3\"" : "");
}

void Svg::Path(const std::vector<Point>& points, absl::string_view colour,
               absl::string_view dashes) {
  std::string list;
  for (const Point& point : points) absl::StrAppendFormat(&list, "%.1f,%.1f ", point.x, point.y);
  absl::StrAppendFormat(&elements_,
                        "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"1.6\" "
                        "stroke-dasharray=\"%s\"/>\n",
                        list, colour, dashes);
}

void Svg::Rectangle(Point corner, double width, double height, absl::string_view colour,
                    absl::string_view tip) {
  absl::StrAppendFormat(
      &elements_,
      "<rect x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%.1f\" fill=\"%s\"><title>%s</title>"
      "</rect>\n",
      corner.x, corner.y, width, height, colour, EscapeMarkup(tip));
}

void Svg::Marker(Point at, int form, absl::string_view colour, bool filled, absl::string_view tip) {
  constexpr absl::string_view kForms[] = {"M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
                                          "M-3.5 -3.5h7v7h-7z", "M0 -4.5l4.5 8h-9z",
                                          "M0 -5l5 5l-5 5l-5 -5z"};
  absl::StrAppendFormat(&elements_,
                        "<path class=\"%s\" d=\"%s\" transform=\"translate(%.1f %.1f)\" "
                        "fill=\"%s\" stroke=\"%s\" stroke-width=\"1.4\"><title>%s</title></path>\n",
                        filled ? "marker" : "marker hollow", kForms[form % std::size(kForms)], at.x,
                        at.y, filled ? colour : "#ffffff", colour, EscapeMarkup(tip));
}

void Svg::Axes(Point corner, double width, double height, const Axis& x, const Axis& y) {
  const double bottom = corner.y + height;
  for (const auto& [value, label] : x.ticks) {
    const double at = corner.x + width * x.Share(value);
    Line({at, corner.y}, {at, bottom}, "grid");
    Line({at, bottom}, {at, bottom + kTickLength}, "axis");
    Text({at, bottom + kTickLength + kTextHeight}, label, Anchor::kMiddle);
  }
  for (const auto& [value, label] : y.ticks) {
    const double at = bottom - height * y.Share(value);
    Line({corner.x, at}, {corner.x + width, at}, "grid");
    Text({corner.x - 2 * kTickLength, at + kTextHeight / 3}, label, Anchor::kEnd);
  }
  Line({corner.x, bottom}, {corner.x + width, bottom}, "axis");
  Line({corner.x, corner.y}, {corner.x, bottom}, "axis");
  Text({corner.x + width / 2, bottom + kTickLength + 2.4 * kTextHeight}, x.label, Anchor::kMiddle);
  // Above the axis, since turned text is hard to read.
  Text({4, corner.y - 8}, y.label);
}

std::string Svg::Finish(double height) const {
  return absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" "
      "height=\"%.0f\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"11\" "
      "role=\"img\">\n"
      "<title>%s</title>\n%s</svg>\n",
      width_, height, width_, height, EscapeMarkup(title_), elements_);
}

}  // namespace longspan
