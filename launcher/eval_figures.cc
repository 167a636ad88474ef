#include "launcher/eval_figures.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "launcher/report_page.h"
#include "launcher/svg.h"

namespace longspan {
namespace {

constexpr double kWidth = 380;
constexpr double kLeft = 46, kTop = 40, kPlotWidth = kWidth - kLeft - 26, kPlotHeight = 200;
constexpr double kBelowPlot = 38;  // ticks and the label of the axis
constexpr double kScale = 34;      // of colours, with its label
constexpr double kLegendLine = 16;
constexpr double kMapRow = 26;
constexpr size_t kMostNumbers = 8;  // columns of a map that have room for numbers

// Okabe and Ito's colours, which those who do not tell red from green see too.
constexpr absl::string_view kCurveColours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                               "#e69f00", "#56b4e9", "#8c3a6b", "#6b6b6b"};

// Orange at 0, white, blue at 1: all light, for dark figures on them.
std::string ShareColour(double share) {
  constexpr std::array<double, 3> kWrong = {244, 165, 98}, kHalf = {246, 246, 242},
                                  kRight = {126, 184, 222};
  const auto& from = share < 0.5 ? kWrong : kHalf;
  const auto& to = share < 0.5 ? kHalf : kRight;
  const double way = share < 0.5 ? 2 * share : 2 * share - 1;
  std::string colour = "#";
  for (size_t i = 0; i < from.size(); ++i) {
    absl::StrAppendFormat(&colour, "%02x",
                          static_cast<int>(std::lround(from[i] + way * (to[i] - from[i]))));
  }
  return colour;
}

// A bar of the colours from 0 to 100%, and what they stand for.
void AddColourScale(double top, Svg* svg) {
  constexpr int kSteps = 20;
  constexpr double kStep = 0.6 * kPlotWidth / kSteps, kHeight = 10;
  for (int i = 0; i < kSteps; ++i) {
    const double share = (i + 0.5) / kSteps;
    svg->Rectangle({kLeft + kStep * i, top}, kStep, kHeight, ShareColour(share),
                   absl::StrFormat("%.0f%%", 100 * share));
  }
  svg->Text({kLeft - 8, top + kHeight}, "0", Svg::Anchor::kEnd);
  svg->Text({kLeft + kStep * kSteps + 8, top + kHeight}, "100%");
}

// How a method is drawn in all figures: no two of 32 alike.
struct CurveStyle {
  absl::string_view colour;
  int form = 0;
  absl::string_view dashes;
};

// By its place among all methods.
CurveStyle StyleOf(size_t place) {
  constexpr size_t kColours = std::size(kCurveColours);
  constexpr absl::string_view kDashes[] = {"", "6 3", "2 3", "9 3 2 3", "1 5"};
  const size_t round = place / kColours;
  return {kCurveColours[place % kColours], static_cast<int>(place + round),
          kDashes[round % std::size(kDashes)]};
}

// In order of their coming.
std::vector<std::string> MethodsOf(absl::Span<const EvalCell> cells) {
  std::vector<std::string> methods;
  for (const EvalCell& cell : cells) {
    if (std::find(methods.begin(), methods.end(), cell.method) == methods.end()) {
      methods.push_back(cell.method);
    }
  }
  return methods;
}

CurveStyle StyleOf(const std::string& method, const std::vector<std::string>& methods) {
  return StyleOf(std::find(methods.begin(), methods.end(), method) - methods.begin());
}

// Cells by what a figure has in common, in order of their first one.
template <typename Key>
std::vector<std::vector<EvalCell>> Groups(absl::Span<const EvalCell> cells, Key key) {
  std::vector<std::vector<EvalCell>> groups;
  std::map<decltype(key(cells[0])), size_t> places;
  for (const EvalCell& cell : cells) {
    const auto [place, is_new] = places.emplace(key(cell), groups.size());
    if (is_new) groups.emplace_back();
    groups[place->second].push_back(cell);
  }
  return groups;
}

std::string MapOf(const std::vector<EvalCell>& cells) {
  std::set<int64_t> lengths;
  std::set<double> depths;
  for (const EvalCell& cell : cells) {
    lengths.insert(cell.length);
    depths.insert(*cell.depth);
  }
  const std::string title = absl::StrCat(cells[0].task, ", ", cells[0].method);
  Svg svg(kWidth, title);
  svg.Text({4, 14}, title, Svg::Anchor::kStart, "bold");
  svg.Text({4, kTop - 8}, "depth");
  const double width = kPlotWidth / static_cast<double>(lengths.size());
  for (const EvalCell& cell : cells) {
    const auto column = std::distance(lengths.begin(), lengths.find(cell.length));
    const auto row = std::distance(depths.begin(), depths.find(*cell.depth));
    const Point corner = {kLeft + width * static_cast<double>(column),
                          kTop + kMapRow * static_cast<double>(row)};
    svg.Rectangle(corner, width, kMapRow, ShareColour(cell.score),
                  absl::StrCat(Grouped(cell.length), " tokens, depth ", *cell.depth, ": ",
                               ScoreText(cell), " of ", cell.cases, ", ", IntervalText(cell)));
    if (lengths.size() > kMostNumbers) continue;
    svg.TextOnColour({corner.x + width / 2, corner.y + kMapRow / 2},
                     absl::StrFormat("%.0f", 100 * cell.score));
  }
  const double bottom = kTop + kMapRow * static_cast<double>(depths.size());
  const size_t stride = (lengths.size() + 5) / 6;
  size_t i = 0;
  for (const int64_t length : lengths) {
    if (i % stride == 0) {
      svg.Text({kLeft + width * (static_cast<double>(i) + 0.5), bottom + 14}, Grouped(length),
               Svg::Anchor::kMiddle);
    }
    ++i;
  }
  double middle = kTop + kMapRow * 0.65;
  for (const double depth : depths) {
    svg.Text({kLeft - 8, middle}, absl::StrFormat("%.4g", depth), Svg::Anchor::kEnd);
    middle += kMapRow;
  }
  svg.Text({kLeft + kPlotWidth / 2, bottom + 30}, "tokens of the prompt", Svg::Anchor::kMiddle);
  AddColourScale(bottom + kBelowPlot + 6, &svg);
  return svg.Finish(bottom + kBelowPlot + kScale);
}

struct Curve {
  std::string name;
  CurveStyle style;
  std::vector<Point> points;        // values of the axes
  std::vector<Interval> intervals;  // of each; empty: none
};

std::string CurvesOf(const std::string& title, const std::vector<Curve>& curves, const Axis& x,
                     const Axis& y) {
  Svg svg(kWidth, title);
  svg.Text({4, 14}, title, Svg::Anchor::kStart, "bold");
  const Point corner = {kLeft, kTop};
  svg.Axes(corner, kPlotWidth, kPlotHeight, x, y);
  const auto height = [&](double value) {
    return kTop + kPlotHeight * (1 - std::clamp(y.Share(value), 0.0, 1.0));
  };
  double legend = kTop + kPlotHeight + kBelowPlot + 8;
  for (size_t c = 0; c < curves.size(); ++c) {
    const CurveStyle& style = curves[c].style;
    std::vector<Point> places;
    for (size_t i = 0; i < curves[c].points.size(); ++i) {
      const Point& point = curves[c].points[i];
      places.push_back({kLeft + kPlotWidth * x.Share(point.x), height(point.y)});
      if (curves[c].intervals.empty()) continue;
      // Beside each other, as intervals of several methods at one length overlap.
      const double at =
          places[i].x + 2.0 * (static_cast<double>(c) - static_cast<double>(curves.size() - 1) / 2);
      const Interval& interval = curves[c].intervals[i];
      svg.Path({{at, height(interval.low)}, {at, height(interval.high)}}, style.colour, "");
    }
    svg.Path(places, style.colour, style.dashes);
    for (size_t i = 0; i < places.size() && !curves[c].intervals.empty(); ++i) {
      svg.Marker(
          places[i], style.form, style.colour, true,
          absl::StrFormat("%s, %s tokens: %.1f%%", curves[c].name,
                          Grouped(std::llround(curves[c].points[i].x)), curves[c].points[i].y));
    }
    svg.Path({{kLeft - 8, legend - 4}, {kLeft + 20, legend - 4}}, style.colour, style.dashes);
    if (!curves[c].intervals.empty()) {
      svg.Marker({kLeft + 6, legend - 4}, style.form, style.colour, true, "");
    }
    svg.Text({kLeft + 28, legend}, curves[c].name);
    legend += kLegendLine;
  }
  return svg.Finish(legend - kLegendLine + 6);
}

// Some of the lengths are ticks, as far apart as their labels need.
Axis LengthAxis(const std::vector<EvalCell>& cells) {
  std::set<int64_t> lengths;
  for (const EvalCell& cell : cells) lengths.insert(cell.length);
  Axis axis;
  axis.label = "tokens of the prompt";
  axis.low = static_cast<double>(*lengths.begin());
  axis.high = static_cast<double>(*lengths.rbegin());
  axis.logarithmic = axis.high > 4 * axis.low;
  // Room for the intervals of the first and the last, beside each other.
  constexpr double kMargin = 0.05;
  const double factor = std::pow(axis.high / axis.low, kMargin);
  const double shift = kMargin * (axis.high - axis.low);
  axis.low = axis.logarithmic ? axis.low / factor : axis.low - shift;
  axis.high = axis.logarithmic ? axis.high * factor : axis.high + shift;
  double last = -1;
  for (const int64_t length : lengths) {
    const double share = axis.Share(static_cast<double>(length));
    if (last >= 0 && share - last < 0.16) continue;
    axis.ticks.emplace_back(static_cast<double>(length), Grouped(length));
    last = share;
  }
  return axis;
}

// Of the tokens that are scored: the prompt's last.
Axis PositionAxis(const EvalCell& cell) {
  const auto length = static_cast<double>(cell.length);
  const auto scored = static_cast<double>(cell.scored_tokens);
  if (scored > 0.9 * length) return LinearAxis("position, tokens", length);
  constexpr int kTicks = 3;
  Axis axis = {"position, tokens", length - scored, length, false, {}};
  for (int i = 0; i <= kTicks; ++i) {
    const double at = axis.low + scored * i / kTicks;
    axis.ticks.emplace_back(at, Grouped(std::llround(at)));
  }
  return axis;
}

// Of what is finite; raises `highest` to the largest.
Curve PositionCurve(const EvalCell& cell, double* highest) {
  Curve curve = {cell.method};
  const auto parts = static_cast<double>(cell.nats_by_part.size());
  const auto scored = static_cast<double>(cell.scored_tokens);
  for (size_t i = 0; i < cell.nats_by_part.size(); ++i) {
    const double perplexity = std::exp(cell.nats_by_part[i]);
    if (!std::isfinite(perplexity)) continue;
    *highest = std::max(*highest, perplexity);
    const double place = (static_cast<double>(i) + 0.5) / parts;
    curve.points.push_back(
        {static_cast<double>(cell.length) - scored + place * scored, perplexity});
  }
  return curve;
}

}  // namespace

std::vector<std::string> HeatMaps(absl::Span<const EvalCell> cells_by_depth) {
  std::vector<std::string> figures;
  for (const std::vector<EvalCell>& cells : Groups(cells_by_depth, [](const EvalCell& cell) {
         return std::pair(cell.task, cell.method);
       })) {
    figures.push_back(MapOf(cells));
  }
  return figures;
}

std::vector<std::string> LengthCurves(absl::Span<const EvalCell> cells_by_length) {
  std::vector<std::string> figures;
  const std::vector<std::string> methods = MethodsOf(cells_by_length);
  const auto by_task = [](const EvalCell& cell) { return cell.task; };
  const auto by_method = [](const EvalCell& cell) { return cell.method; };
  for (const std::vector<EvalCell>& cells : Groups(cells_by_length, by_task)) {
    const Axis lengths = LengthAxis(cells);
    if (cells[0].metric != EvalMetric::kShare || lengths.low == lengths.high) continue;
    std::vector<Curve> curves;
    for (const std::vector<EvalCell>& of_method : Groups(absl::MakeConstSpan(cells), by_method)) {
      Curve& curve = curves.emplace_back();
      curve.name = of_method[0].method;
      curve.style = StyleOf(curve.name, methods);
      for (const EvalCell& cell : of_method) {
        curve.points.push_back({static_cast<double>(cell.length), 100 * cell.score});
        curve.intervals.push_back({100 * cell.interval.low, 100 * cell.interval.high});
      }
    }
    figures.push_back(CurvesOf(cells[0].task, curves, lengths, LinearAxis("score, %", 100)));
  }
  return figures;
}

std::vector<std::string> PositionCurves(absl::Span<const EvalCell> cells_by_length) {
  std::vector<std::string> figures;
  const std::vector<std::string> methods = MethodsOf(cells_by_length);
  for (const std::vector<EvalCell>& cells : Groups(cells_by_length, [](const EvalCell& cell) {
         return std::pair(cell.task, cell.length);
       })) {
    if (cells[0].metric != EvalMetric::kNats) continue;
    std::vector<Curve> curves;
    double highest = 0;
    for (const EvalCell& cell : cells) {
      curves.push_back(PositionCurve(cell, &highest));
      curves.back().style = StyleOf(cell.method, methods);
    }
    figures.push_back(CurvesOf(
        absl::StrCat(cells[0].task, ", ", Grouped(cells[0].length), " tokens"), curves,
        PositionAxis(cells[0]),
        highest > 100 ? LogAxis("perplexity", 1, highest) : LinearAxis("perplexity", highest)));
  }
  return figures;
}

}  // namespace longspan
