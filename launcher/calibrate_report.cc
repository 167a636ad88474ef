#include "launcher/calibrate_report.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace longspan {
namespace {

using Json = nlohmann::ordered_json;

// What all reports have in common.
Json Header(const CalibrationSource& source, const CalibrateOptions& options,
            const CalibrationReport& report) {
  return {{"version", ReportVersion()},
          {"model", source.model},
          {"input", source.input},
          {"tokens", report.tokens},
          {"recall_top_k", report.recall.top_k},
          {"recall_keys", report.recall.keys.size()},
          {"recall_queries", report.recall.queries.size()},
          {"held_out_windows", report.held_out_windows},
          {"sgd",
           {{"learning_rate", options.sgd.learning_rate},
            {"batch", options.sgd.batch},
            {"epochs", options.sgd.epochs},
            {"seed", options.sgd.seed}}}};
}

double Mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double MeanRecall(const CalibrationReport& report) {
  std::vector<double> recalls;
  for (const CalibrationReport::Layer& layer : report.layers) recalls.push_back(layer.recall);
  return Mean(recalls);
}

std::string Caption(const CalibrationReport& report) {
  return absl::StrFormat("%s, fitted on %d tokens\n", RecallText(report), report.tokens);
}

std::string ComparisonTable(absl::Span<const FitCase> cases,
                            absl::Span<const CalibrationReport> reports) {
  std::string text = Caption(reports[0]);
  for (size_t begin = 0, end = 0; begin < cases.size(); begin = end) {
    while (end < cases.size() && cases[end].method == cases[begin].method) ++end;
    absl::StrAppendFormat(&text, "\n%-11s", FitMethodName(cases[begin].method));
    for (size_t c = begin; c < end; ++c) absl::StrAppendFormat(&text, "  d' %4d", cases[c].dim);
    for (size_t layer = 0; layer < reports[0].layers.size(); ++layer) {
      absl::StrAppendFormat(&text, "\n  layer %3d", layer);
      for (size_t c = begin; c < end; ++c) {
        absl::StrAppendFormat(&text, "  %6.1f%%", 100 * reports[c].layers[layer].recall);
      }
    }
    absl::StrAppend(&text, "\n  mean     ");
    for (size_t c = begin; c < end; ++c) {
      absl::StrAppendFormat(&text, "  %6.1f%%", 100 * MeanRecall(reports[c]));
    }
    absl::StrAppend(&text, "\n");
  }
  return text;
}

std::string ComparisonCsv(absl::Span<const FitCase> cases,
                          absl::Span<const CalibrationReport> reports) {
  std::string text = CsvLine({"method", "dim", "layer", "recall", "variance_kept"});
  for (size_t c = 0; c < cases.size(); ++c) {
    for (size_t layer = 0; layer < reports[c].layers.size(); ++layer) {
      const CalibrationReport::Layer& of = reports[c].layers[layer];
      const double kept = of.explained;
      text += CsvLine({std::string(FitMethodName(cases[c].method)), absl::StrCat(cases[c].dim),
                       absl::StrCat(layer), absl::StrFormat("%.6f", of.recall),
                       std::isnan(kept) ? "" : absl::StrFormat("%.6f", kept)});
    }
  }
  return text;
}

std::string ComparisonJson(Json json, absl::Span<const FitCase> cases,
                           absl::Span<const CalibrationReport> reports) {
  json["fits"] = Json::array();
  for (size_t c = 0; c < cases.size(); ++c) {
    Json layers = Json::array();
    for (const CalibrationReport::Layer& of : reports[c].layers) {
      // NaN, of maps that are not linear, becomes null.
      layers.push_back({{"recall", of.recall}, {"variance_kept", of.explained}});
    }
    json["fits"].push_back({{"method", FitMethodName(cases[c].method)},
                            {"dim", cases[c].dim},
                            {"recall", MeanRecall(reports[c])},
                            {"layers", std::move(layers)}});
  }
  return json.dump(2) + "\n";
}

// What --recall tells. Recall of windows by which the dimensions were chosen would flatter them:
// the others tell it, where there are others.
struct Chosen {
  DimChoice choice;
  bool by_others = false;       // the windows that tell are not those that chose
  std::vector<double> recalls;  // [layers]
  // The largest d' within the budget, for all layers alike.
  int64_t uniform_dim = 0;
  double uniform_recall = 0;
};

// [layers] Of every second window, from window `first` on.
std::vector<double> RecallsFrom(size_t first, const CalibrationReport& report) {
  std::vector<double> recalls;
  for (const CalibrationReport::Layer& layer : report.layers) {
    std::vector<double> of_windows;
    for (size_t w = first; w < layer.window_recalls.size(); w += 2) {
      of_windows.push_back(layer.window_recalls[w]);
    }
    recalls.push_back(Mean(of_windows));
  }
  return recalls;
}

Chosen Choose(const DimChoiceGoal& goal, absl::Span<const FitCase> cases,
              absl::Span<const CalibrationReport> reports) {
  Chosen chosen;
  chosen.by_others = reports[0].held_out_windows > 1;
  std::vector<int64_t> dims;
  std::vector<std::vector<double>> choosing, telling;  // [dims][layers]
  for (size_t c = 0; c < cases.size(); ++c) {
    dims.push_back(cases[c].dim);
    choosing.push_back(RecallsFrom(0, reports[c]));
    telling.push_back(RecallsFrom(chosen.by_others ? 1 : 0, reports[c]));
    if (cases[c].dim > goal.budget_dim) continue;
    chosen.uniform_dim = cases[c].dim;
    chosen.uniform_recall = Mean(telling[c]);
  }
  chosen.choice = ChooseDims(dims, choosing, goal.recall, goal.budget_dim);
  for (size_t layer = 0; layer < chosen.choice.indices.size(); ++layer) {
    chosen.recalls.push_back(telling[chosen.choice.indices[layer]][layer]);
  }
  return chosen;
}

std::string ChoiceTable(const Chosen& chosen, const DimChoiceGoal& goal) {
  const DimChoice& choice = chosen.choice;
  std::string text = absl::StrFormat(
      "d' chosen by %s: %.1f%% there %s %.1f%% with %d on average at most\n\nlayer    d'   "
      "recall\n",
      chosen.by_others ? "every second window, recall told by the others"
                       : "the one window that also tells the recall, which flatters it",
      100 * choice.mean_recall, choice.reached ? "reaches" : "misses", 100 * goal.recall,
      goal.budget_dim);
  for (size_t layer = 0; layer < choice.dims.size(); ++layer) {
    absl::StrAppendFormat(&text, "%5d  %4d  %6.1f%%\n", layer, choice.dims[layer],
                          100 * chosen.recalls[layer]);
  }
  const auto lowest = std::min_element(chosen.recalls.begin(), chosen.recalls.end());
  const int64_t numbers = std::accumulate(choice.dims.begin(), choice.dims.end(), int64_t{0});
  absl::StrAppendFormat(&text,
                        " mean  %4.1f  %6.1f%%, %.1f%% in layer %d, the lowest; %d bytes a token\n",
                        choice.mean_dim, 100 * Mean(chosen.recalls), 100 * *lowest,
                        lowest - chosen.recalls.begin(), numbers * goal.number_bytes);
  absl::StrAppendFormat(&text, "  all  %4d  %6.1f%%, with one d' for all layers\n",
                        chosen.uniform_dim, 100 * chosen.uniform_recall);
  return text;
}

std::string ChoiceCsv(const Chosen& chosen) {
  std::string text = CsvLine({"layer", "dim", "recall"});
  for (size_t layer = 0; layer < chosen.recalls.size(); ++layer) {
    text += CsvLine({absl::StrCat(layer), absl::StrCat(chosen.choice.dims[layer]),
                     absl::StrFormat("%.6f", chosen.recalls[layer])});
  }
  return text;
}

std::string ChoiceJson(Json json, const Chosen& chosen, const DimChoiceGoal& goal) {
  const DimChoice& choice = chosen.choice;
  const int64_t numbers = std::accumulate(choice.dims.begin(), choice.dims.end(), int64_t{0});
  json["target"] = goal.recall;
  json["budget_dim"] = goal.budget_dim;
  json["reached"] = choice.reached;
  json["recall_of_choosing"] = choice.mean_recall;
  json["told_by_other_windows"] = chosen.by_others;
  json["mean_dim"] = choice.mean_dim;
  json["bytes_per_token"] = numbers * goal.number_bytes;
  json["recall"] = Mean(chosen.recalls);
  json["dims"] = choice.dims;
  json["recalls"] = chosen.recalls;
  json["uniform"] = {{"dim", chosen.uniform_dim}, {"recall", chosen.uniform_recall}};
  return json.dump(2) + "\n";
}

}  // namespace

std::string RecallText(const CalibrationReport& report) {
  return absl::StrFormat(
      "recall of the exact top %d of %d keys, by %d queries of each of %d held-out windows",
      report.recall.top_k, report.recall.keys.size(), report.recall.queries.size(),
      report.held_out_windows);
}

std::string FormatComparison(const CalibrationSource& source, const CalibrateOptions& options,
                             absl::Span<const FitCase> cases,
                             absl::Span<const CalibrationReport> reports) {
  switch (options.format) {
    case ReportFormat::kTable:
      return ComparisonTable(cases, reports);
    case ReportFormat::kCsv:
      return ComparisonCsv(cases, reports);
    case ReportFormat::kJson:
      return ComparisonJson(Header(source, options, reports[0]), cases, reports);
  }
  return "";
}

std::string FormatDimChoice(const CalibrationSource& source, const CalibrateOptions& options,
                            const DimChoiceGoal& goal, absl::Span<const FitCase> cases,
                            absl::Span<const CalibrationReport> reports) {
  const Chosen chosen = Choose(goal, cases, reports);
  switch (options.format) {
    case ReportFormat::kTable:
      return Caption(reports[0]) + ChoiceTable(chosen, goal);
    case ReportFormat::kCsv:
      return ChoiceCsv(chosen);
    case ReportFormat::kJson: {
      Json json = Header(source, options, reports[0]);
      json["method"] = FitMethodName(cases[0].method);
      return ChoiceJson(std::move(json), chosen, goal);
    }
  }
  return "";
}

}  // namespace longspan
