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
    svg.Text({corner.x + width / 2, corner.y + kMapRow * 0.65},
             absl::StrFormat("%.0f", 100 * cell.score), Svg::Anchor::kMiddle);
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
  return svg.Finish(bottom + kBelowPlot);
}

struct Curve {
  std::string name;
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
    const absl::string_view colour = kCurveColours[c % std::size(kCurveColours)];
    const int form = static_cast<int>(c);
    std::vector<Point> places;
    for (size_t i = 0; i < curves[c].points.size(); ++i) {
      const Point& point = curves[c].points[i];
      places.push_back({kLeft + kPlotWidth * x.Share(point.x), height(point.y)});
      if (curves[c].intervals.empty()) continue;
      // Beside each other, as intervals of several methods at one length overlap.
      const double at =
          places[i].x + 2.0 * (static_cast<double>(c) - static_cast<double>(curves.size() - 1) / 2);
      const Interval& interval = curves[c].intervals[i];
      svg.Path({{at, height(interval.low)}, {at, height(interval.high)}}, colour, "");
    }
    svg.Path(places, colour, "");
    for (size_t i = 0; i < places.size() && !curves[c].intervals.empty(); ++i) {
      svg.Marker(
          places[i], form, colour, true,
          absl::StrFormat("%s, %s tokens: %.1f%%", curves[c].name,
                          Grouped(std::llround(curves[c].points[i].x)), curves[c].points[i].y));
    }
    svg.Marker({kLeft + 6, legend - 4}, form, colour, true, "");
    svg.Text({kLeft + 18, legend}, curves[c].name);
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
  double last = -1;
  for (const int64_t length : lengths) {
    const double share = axis.Share(static_cast<double>(length));
    if (last >= 0 && share - last < 0.16) continue;
    axis.ticks.emplace_back(static_cast<double>(length), Grouped(length));
    last = share;
  }
  return axis;
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
  const auto by_task = [](const EvalCell& cell) { return cell.task; };
  const auto by_method = [](const EvalCell& cell) { return cell.method; };
  for (const std::vector<EvalCell>& cells : Groups(cells_by_length, by_task)) {
    if (cells[0].metric != EvalMetric::kShare || cells.front().length == cells.back().length) {
      continue;
    }
    std::vector<Curve> curves;
    for (const std::vector<EvalCell>& of_method : Groups(absl::MakeConstSpan(cells), by_method)) {
      Curve& curve = curves.emplace_back();
      curve.name = of_method[0].method;
      for (const EvalCell& cell : of_method) {
        curve.points.push_back({static_cast<double>(cell.length), 100 * cell.score});
        curve.intervals.push_back({100 * cell.interval.low, 100 * cell.interval.high});
      }
    }
    figures.push_back(
        CurvesOf(cells[0].task, curves, LengthAxis(cells), LinearAxis("score, %", 100)));
  }
  return figures;
}

std::vector<std::string> PositionCurves(absl::Span<const EvalCell> cells_by_length) {
  std::vector<std::string> figures;
  for (const std::vector<EvalCell>& cells : Groups(cells_by_length, [](const EvalCell& cell) {
         return std::pair(cell.task, cell.length);
       })) {
    if (cells[0].metric != EvalMetric::kNegative) continue;
    std::vector<Curve> curves;
    double highest = 0;
    for (const EvalCell& cell : cells) {
      Curve& curve = curves.emplace_back();
      curve.name = cell.method;
      const auto parts = static_cast<double>(cell.nats_by_part.size());
      for (size_t i = 0; i < cell.nats_by_part.size(); ++i) {
        const double perplexity = std::exp(cell.nats_by_part[i]);
        highest = std::max(highest, perplexity);
        curve.points.push_back(
            {(static_cast<double>(i) + 0.5) / parts * static_cast<double>(cell.length),
             perplexity});
      }
    }
    figures.push_back(CurvesOf(
        absl::StrCat(cells[0].task, ", ", Grouped(cells[0].length), " tokens"), curves,
        LinearAxis("position, tokens", static_cast<double>(cells[0].length)),
        highest > 100 ? LogAxis("perplexity", 1, highest) : LinearAxis("perplexity", highest)));
  }
  return figures;
}

}  // namespace longspan
