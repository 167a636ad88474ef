#include "eval/results.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace longspan {
namespace {

using OrderedJson = nlohmann::ordered_json;

OrderedJson DepthJson(const std::optional<double>& depth) {
  return depth ? OrderedJson(*depth) : OrderedJson();
}

// JSON has no infinity.
OrderedJson NumberOrNull(double number) {
  return std::isfinite(number) ? OrderedJson(number) : OrderedJson();
}

// Where a name first came.
class Order {
 public:
  int64_t Of(const std::string& name) {
    return places_.emplace(name, static_cast<int64_t>(places_.size())).first->second;
  }

 private:
  std::map<std::string, int64_t> places_;
};

EvalCell CellOf(const std::vector<const EvalResult*>& results) {
  const EvalResult& first = *results[0];
  EvalCell cell = {first.task, first.method, first.id.length};
  cell.metric = first.nats_by_part.empty() ? EvalMetric::kShare : EvalMetric::kNegative;
  cell.cases = static_cast<int64_t>(results.size());
  const auto n = static_cast<double>(cell.cases);
  std::vector<double> scores;
  cell.nats_by_part.resize(first.nats_by_part.size());
  for (const EvalResult* result : results) {
    scores.push_back(result->score);
    cell.score += result->score / n;
    for (size_t i = 0; i < cell.nats_by_part.size(); ++i) {
      cell.nats_by_part[i] += result->nats_by_part.at(i) / n;
    }
  }
  cell.interval = cell.metric == EvalMetric::kShare ? WilsonInterval(cell.score, cell.cases)
                                                    : StudentInterval(scores);
  return cell;
}

std::vector<EvalCell> Cells(absl::Span<const EvalResult> results, bool by_depth) {
  Order tasks, methods;
  std::map<std::tuple<int64_t, int64_t, int64_t, double>, std::vector<const EvalResult*>> groups;
  for (const EvalResult& result : results) {
    if (by_depth && !result.id.depth) continue;
    groups[{tasks.Of(result.task), methods.Of(result.method), result.id.length,
            by_depth ? *result.id.depth : 0}]
        .push_back(&result);
  }
  std::vector<EvalCell> cells;
  for (const auto& [key, group] : groups) {
    cells.push_back(CellOf(group));
    if (by_depth) cells.back().depth = group[0]->id.depth;
  }
  return cells;
}

OrderedJson CellJson(const EvalCell& cell) {
  OrderedJson json = {{"task", cell.task},
                      {"method", cell.method},
                      {"length", cell.length},
                      {"depth", DepthJson(cell.depth)},
                      {"cases", cell.cases},
                      {"score", cell.score},
                      {"low", NumberOrNull(cell.interval.low)},
                      {"high", NumberOrNull(cell.interval.high)}};
  if (cell.metric == EvalMetric::kNegative) {
    json["perplexity"] = std::exp(cell.score);
    json["nats_by_part"] = cell.nats_by_part;
  }
  return json;
}

std::string ValueText(const EvalCell& cell, double value) {
  return cell.metric == EvalMetric::kShare ? absl::StrFormat("%.1f%%", 100 * value)
                                           : absl::StrFormat("%.2f", std::exp(value));
}

}  // namespace

OrderedJson ToJson(const EvalResult& result) {
  OrderedJson json = {{"task", result.task},
                      {"method", result.method},
                      {"length", result.id.length},
                      {"depth", DepthJson(result.id.depth)},
                      {"index", result.id.index},
                      {"question", result.question},
                      {"expected", result.expected},
                      {"answer", result.answer},
                      {"score", result.score},
                      {"prompt_tokens", result.prompt_tokens},
                      {"answer_tokens", result.answer_tokens}};
  if (!result.nats_by_part.empty()) json["nats_by_part"] = result.nats_by_part;
  return json;
}

absl::StatusOr<EvalResult> ParseEvalResult(const nlohmann::json& json) {
  EvalResult result;
  try {
    result.task = json.at("task");
    result.method = json.at("method");
    result.id.length = json.at("length");
    if (!json.at("depth").is_null()) result.id.depth = json.at("depth").get<double>();
    result.id.index = json.at("index");
    result.question = json.at("question");
    result.expected = json.at("expected").get<std::vector<std::string>>();
    result.answer = json.at("answer");
    result.score = json.at("score");
    result.prompt_tokens = json.at("prompt_tokens");
    result.answer_tokens = json.at("answer_tokens");
    if (json.contains("nats_by_part")) {
      result.nats_by_part = json.at("nats_by_part").get<std::vector<double>>();
    }
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("is no case: ", error.what()));
  }
  return result;
}

std::vector<EvalCell> CellsByLength(absl::Span<const EvalResult> results) {
  return Cells(results, /*by_depth=*/false);
}

std::vector<EvalCell> CellsByDepth(absl::Span<const EvalResult> results) {
  return Cells(results, /*by_depth=*/true);
}

std::string ScoreText(const EvalCell& cell) { return ValueText(cell, cell.score); }

std::string IntervalText(const EvalCell& cell) {
  if (!std::isfinite(cell.interval.low)) return "unknown";
  return absl::StrCat(ValueText(cell, cell.interval.low), " to ",
                      ValueText(cell, cell.interval.high));
}

OrderedJson SummaryJson(const OrderedJson& settings, absl::Span<const EvalResult> results) {
  OrderedJson cells = OrderedJson::array();
  for (const EvalCell& cell : CellsByLength(results)) cells.push_back(CellJson(cell));
  OrderedJson by_depth = OrderedJson::array();
  for (const EvalCell& cell : CellsByDepth(results)) by_depth.push_back(CellJson(cell));
  return {{"settings", settings}, {"cells", cells}, {"cells_by_depth", by_depth}};
}

}  // namespace longspan
