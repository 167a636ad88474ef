#include "launcher/calibrate_report.h"

#include <cmath>
#include <nlohmann/json.hpp>
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
          {"recall_top_k", report.recall_top_k},
          {"recall_keys", report.recall_keys},
          {"sgd",
           {{"learning_rate", options.sgd.learning_rate},
            {"batch", options.sgd.batch},
            {"epochs", options.sgd.epochs},
            {"seed", options.sgd.seed}}}};
}

std::string Caption(const CalibrationReport& report) {
  return absl::StrFormat("recall of the exact top %d of %d held-out keys, fitted on %d tokens\n",
                         report.recall_top_k, report.recall_keys, report.tokens);
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
      const double kept = of.factors.explained;
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
      layers.push_back({{"recall", of.recall}, {"variance_kept", of.factors.explained}});
    }
    json["fits"].push_back({{"method", FitMethodName(cases[c].method)},
                            {"dim", cases[c].dim},
                            {"recall", MeanRecall(reports[c])},
                            {"layers", std::move(layers)}});
  }
  return json.dump(2) + "\n";
}

// What --recall tells.
struct Chosen {
  DimChoice choice;
  bool reached = false;  // the recall asked for
  // The largest d' within the budget, for all layers alike.
  int64_t uniform_dim = 0;
  double uniform_recall = 0;
};

Chosen Choose(double target, int64_t budget_dim, absl::Span<const FitCase> cases,
              absl::Span<const CalibrationReport> reports) {
  Chosen chosen;
  std::vector<int64_t> dims;
  std::vector<std::vector<double>> recalls;
  for (size_t c = 0; c < cases.size(); ++c) {
    dims.push_back(cases[c].dim);
    std::vector<double>& of_layers = recalls.emplace_back();
    for (const CalibrationReport::Layer& layer : reports[c].layers) {
      of_layers.push_back(layer.recall);
    }
    if (cases[c].dim > budget_dim) continue;
    chosen.uniform_dim = cases[c].dim;
    chosen.uniform_recall = MeanRecall(reports[c]);
  }
  chosen.choice = ChooseDims(dims, recalls, target, budget_dim);
  chosen.reached = chosen.choice.mean_recall >= target;
  return chosen;
}

std::string ChoiceTable(const Chosen& chosen, double target, int64_t budget_dim) {
  const DimChoice& choice = chosen.choice;
  std::string text = "\nlayer    d'   recall\n";
  for (size_t layer = 0; layer < choice.dims.size(); ++layer) {
    absl::StrAppendFormat(&text, "%5d  %4d  %6.1f%%\n", layer, choice.dims[layer],
                          100 * choice.recalls[layer]);
  }
  absl::StrAppendFormat(&text, " mean  %4.1f  %6.1f%%, %s %.1f%% with %d on average at most\n",
                        choice.mean_dim, 100 * choice.mean_recall,
                        chosen.reached ? "reaches" : "misses", 100 * target, budget_dim);
  absl::StrAppendFormat(&text, "  all  %4d  %6.1f%%, with one d' for all layers\n",
                        chosen.uniform_dim, 100 * chosen.uniform_recall);
  return text;
}

std::string ChoiceCsv(const DimChoice& choice) {
  std::string text = CsvLine({"layer", "dim", "recall"});
  for (size_t layer = 0; layer < choice.dims.size(); ++layer) {
    text += CsvLine({absl::StrCat(layer), absl::StrCat(choice.dims[layer]),
                     absl::StrFormat("%.6f", choice.recalls[layer])});
  }
  return text;
}

std::string ChoiceJson(Json json, const Chosen& chosen, double target, int64_t budget_dim) {
  json["target"] = target;
  json["budget_dim"] = budget_dim;
  json["reached"] = chosen.reached;
  json["mean_dim"] = chosen.choice.mean_dim;
  json["recall"] = chosen.choice.mean_recall;
  json["dims"] = chosen.choice.dims;
  json["recalls"] = chosen.choice.recalls;
  json["uniform"] = {{"dim", chosen.uniform_dim}, {"recall", chosen.uniform_recall}};
  return json.dump(2) + "\n";
}

}  // namespace

double MeanRecall(const CalibrationReport& report) {
  double sum = 0;
  for (const CalibrationReport::Layer& layer : report.layers) sum += layer.recall;
  return sum / static_cast<double>(report.layers.size());
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
                            int64_t budget_dim, absl::Span<const FitCase> cases,
                            absl::Span<const CalibrationReport> reports) {
  const double target = *options.recall;
  const Chosen chosen = Choose(target, budget_dim, cases, reports);
  switch (options.format) {
    case ReportFormat::kTable:
      return Caption(reports[0]) + ChoiceTable(chosen, target, budget_dim);
    case ReportFormat::kCsv:
      return ChoiceCsv(chosen.choice);
    case ReportFormat::kJson: {
      Json json = Header(source, options, reports[0]);
      json["method"] = FitMethodName(cases[0].method);
      return ChoiceJson(std::move(json), chosen, target, budget_dim);
    }
  }
  return "";
}

}  // namespace longspan
