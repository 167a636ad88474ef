#include "launcher/scale_figures.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "launcher/report_page.h"
#include "launcher/svg.h"

namespace longspan {
namespace {

constexpr double kWidth = 380;
constexpr double kLeft = 46, kTop = 26, kPlotWidth = kWidth - kLeft - 12, kPlotHeight = 200;
constexpr double kLegendLine = 16;
constexpr double kBelowPlot = 38;  // ticks and the label of the axis

// Okabe and Ito's colours, which those who do not tell red from green see too.
constexpr absl::string_view kSeriesColours[] = {"#0072b2", "#d55e00", "#009e73",
                                                "#cc79a7", "#e69f00", "#56b4e9"};
// Work is cool, exchange is warm.
constexpr absl::string_view kPhaseColours[kNumPhases] = {"#0072b2", "#56b4e9", "#009e73", "#9fb4c0",
                                                         "#f0e442", "#e69f00", "#d55e00", "#cc79a7",
                                                         "#8c3a6b", "#c9b79c"};

std::string SecondsText(double seconds) {
  if (seconds < 1e-3) return absl::StrFormat("%.3g us", seconds * 1e6);
  return seconds < 1 ? absl::StrFormat("%.3g ms", seconds * 1e3)
                     : absl::StrFormat("%.3g s", seconds);
}

std::string SeriesName(bool weak, const ScaleKey& key) {
  return absl::StrCat(key.method, ", ", Grouped(key.context), weak ? " tokens a rank" : " tokens",
                      key.batch == 1 ? "" : absl::StrCat(", batch ", key.batch));
}

std::string PointName(const ScalePoint& point) {
  return absl::StrCat(point.key.method, ", ", Grouped(point.key.context), " tokens",
                      point.key.batch == 1 ? "" : absl::StrCat(", batch ", point.key.batch), ", ",
                      point.key.ranks, point.key.ranks == 1 ? " rank" : " ranks",
                      point.oversubscribed() ? " *" : "");
}

// "candidate merge".
std::string PhaseTitle(int phase) {
  return absl::StrReplaceAll(PhaseName(static_cast<Phase>(phase)), {{"_", " "}});
}

// Points of one curve.
struct Series {
  std::string name;
  std::vector<Point> points;  // ranks, and what is plotted
};

// Every plotted point, by what does not change along a curve.
std::vector<Series> CurvesOf(const StoredStudy& stored, double Scaling::*stage) {
  const bool weak = stored.study.weak;
  std::map<ScaleKey, Series> curves;
  for (const ScaleKey& key : GridOf(stored.study)) {
    const std::optional<Scaling> scaling = ScalingOf(stored, key);
    if (!scaling) continue;
    const ScaleKey curve = {key.method, weak ? key.context / key.ranks : key.context, key.batch, 1};
    Series& series = curves[curve];
    series.name = SeriesName(weak, curve);
    const auto ranks = static_cast<double>(key.ranks);
    const double speedup = (*scaling).*stage;
    series.points.push_back({ranks, weak ? 100 * speedup / ranks : speedup});
  }
  std::vector<Series> all;
  for (auto& [key, series] : curves) all.push_back(std::move(series));
  return all;
}

Axis RanksAxis(const std::set<double>& ranks) {
  Axis axis;
  axis.label = "ranks";
  axis.logarithmic = true;
  axis.low = *ranks.begin();
  axis.high = std::max(*ranks.rbegin(), axis.low * 2);
  for (const double rank : ranks) axis.ticks.emplace_back(rank, absl::StrFormat("%g", rank));
  return axis;
}

// Speed-ups that double from tick to tick, as ranks do: the ideal is a straight line.
Axis SpeedupAxis(std::string label, double least, double most) {
  Axis axis;
  axis.label = std::move(label);
  axis.logarithmic = true;
  axis.low = std::exp2(std::floor(std::log2(least)));
  axis.high = std::max(2 * axis.low, std::exp2(std::ceil(std::log2(most))));
  for (double value = axis.low; value <= axis.high; value *= 2) {
    axis.ticks.emplace_back(value, absl::StrFormat("%g", value));
  }
  return axis;
}

std::string CurvesFigure(const std::string& title, const std::string& label, bool weak,
                         const std::vector<Series>& curves) {
  std::set<double> ranks;
  double least = 1, most = weak ? 100 : 1;
  for (const Series& curve : curves) {
    for (const Point& point : curve.points) {
      ranks.insert(point.x);
      least = std::min(least, point.y);
      most = std::max(most, point.y);
    }
  }
  const Axis x = RanksAxis(ranks);
  const Axis y = weak ? LinearAxis(label, most) : SpeedupAxis(label, least, std::max(most, x.high));
  const auto at = [&](const Point& point) {
    return Point{kLeft + kPlotWidth * x.Share(point.x),
                 kTop + kPlotHeight * (1 - y.Share(point.y))};
  };
  Svg svg(kWidth, title);
  svg.Axes({kLeft, kTop}, kPlotWidth, kPlotHeight, x, y);
  svg.Line(at({x.low, weak ? 100 : x.low}), at({x.high, weak ? 100 : x.high}), "ideal");
  double legend = kTop + kPlotHeight + kBelowPlot + kLegendLine;
  for (size_t c = 0; c < curves.size(); ++c) {
    const absl::string_view colour = kSeriesColours[c % std::size(kSeriesColours)];
    const absl::string_view dashes = c < std::size(kSeriesColours) ? "" : "6 3";
    std::vector<Point> path;
    for (const Point& point : curves[c].points) path.push_back(at(point));
    svg.Path(path, colour, dashes);
    for (size_t i = 0; i < path.size(); ++i) {
      const Point& point = curves[c].points[i];
      svg.Marker(path[i], static_cast<int>(c), colour, true,
                 absl::StrFormat("%s, %g ranks: %.3g%s", curves[c].name, point.x, point.y,
                                 weak ? "%" : ""));
    }
    svg.Path({{kLeft, legend - 4}, {kLeft + 20, legend - 4}}, colour, dashes);
    svg.Marker({kLeft + 10, legend - 4}, static_cast<int>(c), colour, true, curves[c].name);
    svg.Text({kLeft + 28, legend}, curves[c].name);
    legend += kLegendLine;
  }
  svg.Line({kLeft, legend - 4}, {kLeft + 20, legend - 4}, "ideal");
  svg.Text({kLeft + 28, legend}, "ideal");
  return svg.Finish(legend + 8);
}

// Labels and colours of the phases; returns where the next line would be.
double PhaseLegend(double top, Svg* svg) {
  for (int p = 0; p < kNumPhases; ++p) {
    const Point at = {p % 2 == 0 ? 4.0 : kWidth / 2, top + kLegendLine * (p / 2)};
    const std::string name = PhaseTitle(p);
    svg->Rectangle({at.x, at.y - 9}, 10, 10, kPhaseColours[p], name);
    svg->Text({at.x + 15, at.y}, name);
  }
  return top + kLegendLine * ((kNumPhases + 1) / 2);
}

std::string PhaseFigure(const StoredStudy& stored, absl::string_view what,
                        StagePhases RankPhases::*stage) {
  constexpr double kRow = 34, kBar = 12, kBarWidth = kWidth - 8;
  Svg svg(kWidth, absl::StrCat("Phases of a ", what));
  svg.Text({4, 14}, absl::StrCat("Share of the time of a ", what, ", mean over ranks"),
           Svg::Anchor::kStart, "bold");
  double top = PhaseLegend(34, &svg) + 2;
  bool any = false;
  for (const auto& [key, point] : stored.points) {
    const PhaseSeconds seconds = MeanPhases(point, stage);
    double total = 0;
    for (const double phase : seconds) total += phase;
    if (!(total > 0)) continue;  // NaN too
    any = true;
    svg.Text({4, top + 10}, PointName(point));
    svg.Text(
        {kWidth - 4, top + 10},
        absl::StrFormat("%s, imbalance %.2f", SecondsText(total), Imbalance(point.phases, stage)),
        Svg::Anchor::kEnd);
    double left = 4;
    for (int p = 0; p < kNumPhases; ++p) {
      const double width = kBarWidth * seconds[p] / total;
      svg.Rectangle({left, top + 14}, width, kBar, kPhaseColours[p],
                    absl::StrFormat("%s: %s, %.1f%%", PhaseTitle(p), SecondsText(seconds[p]),
                                    100 * seconds[p] / total));
      left += width;
    }
    top += kRow;
  }
  return any ? svg.Finish(top + 4) : "";
}

double RatioOf(double numerator, double denominator) {
  return denominator > 0 ? numerator / denominator : 0;
}

// One mark of the roofline.
struct RooflinePoint {
  Point at;  // FLOP/byte, FLOP/s
  int form = 0;
  absl::string_view colour;
  bool filled = true;
  std::string tip;
};

std::vector<RooflinePoint> RooflinePoints(const StoredStudy& stored) {
  std::vector<RooflinePoint> marks;
  std::map<std::string, size_t> methods;
  for (const std::string& method : stored.study.methods) methods.emplace(method, methods.size());
  for (const auto& [key, point] : stored.points) {
    const size_t method = methods.emplace(key.method, methods.size()).first->second;
    const Rates prefill = PrefillRates(point), decode = DecodeRates(point);
    for (const auto& [rates, form, stage] :
         {std::tuple{prefill, 0, "prompt"}, std::tuple{decode, 1, "decode"}}) {
      if (!(rates.bytes_per_s > 0 && rates.flops_per_s > 0)) continue;
      marks.push_back({{rates.flops_per_s / rates.bytes_per_s, rates.flops_per_s},
                       form,
                       kSeriesColours[method % std::size(kSeriesColours)],
                       !point.oversubscribed(),
                       absl::StrFormat("%s, %s: %.3g GB/s, %.3g GFLOP/s", PointName(point), stage,
                                       rates.bytes_per_s * 1e-9, rates.flops_per_s * 1e-9)});
    }
  }
  return marks;
}

// What each form and colour stands for.
double RooflineLegend(const StoredStudy& stored, double top, Svg* svg) {
  const absl::string_view grey = "#5a6068";
  const auto line = [&](int form, absl::string_view colour, bool filled, absl::string_view text) {
    svg->Marker({kLeft + 6, top - 4}, form, colour, filled, text);
    svg->Text({kLeft + 18, top}, text);
    top += kLegendLine;
  };
  line(0, grey, true, "prompts");
  line(1, grey, true, "decoded tokens");
  for (size_t m = 0; m < stored.study.methods.size(); ++m) {
    line(0, kSeriesColours[m % std::size(kSeriesColours)], true, stored.study.methods[m]);
  }
  line(0, grey, false, absl::StrCat("ranks share slots: ", kCheckOnly));
  return top;
}

}  // namespace

std::optional<Scaling> ScalingOf(const StoredStudy& stored, const ScaleKey& key) {
  const bool weak = stored.study.weak;
  const auto of_one =
      stored.points.find({key.method, weak ? key.context / key.ranks : key.context, key.batch, 1});
  const auto found = stored.points.find(key);
  if (of_one == stored.points.end() || found == stored.points.end()) return std::nullopt;
  const ScalePoint& one = of_one->second;
  const ScalePoint& point = found->second;
  if (one.oversubscribed() || point.oversubscribed()) return std::nullopt;
  if (one.environment() != point.environment()) return std::nullopt;
  const double more = weak ? static_cast<double>(key.ranks) : 1;  // work than of one rank
  return Scaling{point.prompt_tokens_per_s() / one.prompt_tokens_per_s(),
                 more * point.tokens_per_s() / one.tokens_per_s()};
}

PhaseSeconds MeanPhases(const ScalePoint& point, StagePhases RankPhases::*stage) {
  PhaseSeconds mean{};
  for (const RankPhases& rank : point.phases) {
    const StagePhases& phases = rank.*stage;
    const double parts = static_cast<double>(std::max<int64_t>(1, phases.steps)) *
                         static_cast<double>(point.phases.size());
    for (int p = 0; p < kNumPhases; ++p) mean[p] += phases.seconds[p] / parts;
  }
  return mean;
}

Rates PrefillRates(const ScalePoint& point) {
  const double seconds = Summarize(point.prefill_s).median_s;
  return {RatioOf(point.prefill_work.bytes, seconds), RatioOf(point.prefill_work.flops, seconds)};
}

Rates DecodeRates(const ScalePoint& point) {
  const double seconds = Summarize(point.decode_s).median_s;
  return {RatioOf(point.decode_work.bytes, seconds), RatioOf(point.decode_work.flops, seconds)};
}

std::vector<std::string> SpeedupFigures(const StoredStudy& stored) {
  const bool weak = stored.study.weak;
  const char* label =
      weak ? "efficiency, % of one rank (weak scaling)" : "speed-up over one rank (strong scaling)";
  std::vector<std::string> figures;
  for (const auto& [title, stage] :
       {std::pair{"Prompts", &Scaling::prefill}, std::pair{"Decoding", &Scaling::decode}}) {
    const std::vector<Series> curves = CurvesOf(stored, stage);
    const bool any = std::any_of(curves.begin(), curves.end(),
                                 [](const Series& curve) { return curve.points.size() > 1; });
    if (any) figures.push_back(CurvesFigure(title, absl::StrCat(title, ": ", label), weak, curves));
  }
  return figures;
}

std::vector<std::string> PhaseFigures(const StoredStudy& stored) {
  std::vector<std::string> figures = {PhaseFigure(stored, "prompt's chunk", &RankPhases::prefill),
                                      PhaseFigure(stored, "decoded step", &RankPhases::decode)};
  std::erase(figures, "");
  return figures;
}

std::string RooflineFigure(const StoredStudy& stored) {
  const std::vector<RooflinePoint> marks = RooflinePoints(stored);
  if (marks.empty()) return "";
  BenchMachine machine;  // the best of all points: what else runs makes a machine slower
  for (const auto& [key, point] : stored.points) {
    machine.copy_bytes_per_s = std::max(machine.copy_bytes_per_s, point.machine.copy_bytes_per_s);
    machine.matmul_flops_per_s =
        std::max(machine.matmul_flops_per_s, point.machine.matmul_flops_per_s);
  }
  const double ridge = machine.matmul_flops_per_s / machine.copy_bytes_per_s;
  Point low = {ridge / 10, machine.matmul_flops_per_s / 10}, high = {ridge * 10, 0};
  high.y = machine.matmul_flops_per_s * 1.5;
  for (const RooflinePoint& mark : marks) {
    low = {std::min(low.x, mark.at.x), std::min(low.y, mark.at.y)};
    high = {std::max(high.x, mark.at.x), std::max(high.y, mark.at.y)};
  }
  const Axis x = LogAxis("FLOP per byte that one rank must at least move", low.x, high.x);
  const Axis y = LogAxis("FLOP/s of one rank", low.y, high.y);
  const auto at = [&](double intensity, double flops) {
    return Point{kLeft + kPlotWidth * x.Share(intensity),
                 kTop + kPlotHeight * (1 - y.Share(flops))};
  };
  Svg svg(kWidth, "Roofline");
  svg.Axes({kLeft, kTop}, kPlotWidth, kPlotHeight, x, y);
  const double from = std::max(x.low, y.low / machine.copy_bytes_per_s);
  svg.Path({at(from, from * machine.copy_bytes_per_s), at(ridge, machine.matmul_flops_per_s),
            at(x.high, machine.matmul_flops_per_s)},
           "#5a6068", "");
  svg.Text({kLeft + 6, kTop + 12},
           absl::StrFormat("slope: copies at %.3g GB/s", machine.copy_bytes_per_s * 1e-9));
  svg.Text({kLeft + 6, kTop + 26}, absl::StrFormat("top: matrix products at %.3g GFLOP/s",
                                                   machine.matmul_flops_per_s * 1e-9));
  for (const RooflinePoint& mark : marks) {
    svg.Marker(at(mark.at.x, mark.at.y), mark.form, mark.colour, mark.filled, mark.tip);
  }
  const double bottom = RooflineLegend(stored, kTop + kPlotHeight + kBelowPlot + kLegendLine, &svg);
  return svg.Finish(bottom);
}

}  // namespace longspan
