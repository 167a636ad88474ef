#include "eval/results.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>
#include <utility>

#include "absl/strings/numbers.h"
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

// For what is read again.
OrderedJson NumberOrName(double number) {
  return std::isfinite(number) ? OrderedJson(number) : OrderedJson(absl::StrCat(number));
}

double NumberOf(const nlohmann::json& json) {
  double number = 0;
  if (json.is_string() && absl::SimpleAtod(json.get<std::string>(), &number)) return number;
  return json.get<double>();
}

OrderedJson NumbersOrNull(const std::vector<double>& numbers) {
  OrderedJson json = OrderedJson::array();
  for (const double number : numbers) json.push_back(NumberOrNull(number));
  return json;
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
  cell.metric = first.metric;
  cell.scored_tokens = first.scored_tokens;
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
                      {"score", NumberOrNull(cell.score)},
                      {"low", NumberOrNull(cell.interval.low)},
                      {"high", NumberOrNull(cell.interval.high)}};
  if (cell.metric == EvalMetric::kNats) {
    json["perplexity"] = NumberOrNull(std::exp(cell.score));
    json["scored_tokens"] = cell.scored_tokens;
    json["nats_by_part"] = NumbersOrNull(cell.nats_by_part);
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
                      {"metric", result.metric == EvalMetric::kShare ? "share" : "nats"},
                      {"score", NumberOrName(result.score)},
                      {"prompt_tokens", result.prompt_tokens},
                      {"answer_tokens", result.answer_tokens}};
  if (result.metric == EvalMetric::kShare) return json;
  json["scored_tokens"] = result.scored_tokens;
  json["nats_by_part"] = OrderedJson::array();
  for (const double nats : result.nats_by_part) json["nats_by_part"].push_back(NumberOrName(nats));
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
    result.metric = json.at("metric") == "share" ? EvalMetric::kShare : EvalMetric::kNats;
    result.score = NumberOf(json.at("score"));
    result.prompt_tokens = json.at("prompt_tokens");
    result.answer_tokens = json.at("answer_tokens");
    if (result.metric == EvalMetric::kNats) {
      result.scored_tokens = json.at("scored_tokens");
      for (const nlohmann::json& nats : json.at("nats_by_part")) {
        result.nats_by_part.push_back(NumberOf(nats));
      }
    }
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("is no case: ", error.what()));
  }
  return result;
}

OrderedJson ToJson(const EvalCost& cost) {
  return {{"method", cost.method},
          {"length", cost.length},
          {"cases", cost.cases},
          {"prompt_tokens", cost.prompt_tokens},
          {"generated_tokens", cost.generated_tokens},
          {"seconds", cost.seconds},
          {"ranks", cost.ranks},
          {"attended_keys", cost.attended_keys},
          {"dense_keys", cost.dense_keys}};
}

absl::StatusOr<EvalCost> ParseEvalCost(const nlohmann::json& json) {
  try {
    return EvalCost{json.at("method"),        json.at("length"),           json.at("cases"),
                    json.at("prompt_tokens"), json.at("generated_tokens"), json.at("seconds"),
                    json.at("ranks"),         json.at("attended_keys"),    json.at("dense_keys")};
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("is no cost: ", error.what()));
  }
}

std::vector<EvalCost> AddedUp(absl::Span<const EvalCost> costs) {
  std::vector<EvalCost> sums;
  for (const EvalCost& cost : costs) {
    auto sum = std::find_if(sums.begin(), sums.end(), [&](const EvalCost& other) {
      return other.method == cost.method && other.length == cost.length;
    });
    if (sum == sums.end()) sum = sums.insert(sum, EvalCost{cost.method, cost.length});
    sum->cases += cost.cases;
    sum->prompt_tokens += cost.prompt_tokens;
    sum->generated_tokens += cost.generated_tokens;
    sum->seconds += cost.seconds;
    sum->ranks = cost.ranks;
    sum->attended_keys += cost.attended_keys;
    sum->dense_keys += cost.dense_keys;
  }
  return sums;
}

std::vector<EvalCell> CellsByLength(absl::Span<const EvalResult> results) {
  return Cells(results, /*by_depth=*/false);
}

std::vector<EvalCell> CellsByDepth(absl::Span<const EvalResult> results) {
  return Cells(results, /*by_depth=*/true);
}

int64_t EvalData::expected_cases() const {
  const int64_t of_a_method = description.at("settings").at("cases_of_a_method");
  return of_a_method * static_cast<int64_t>(description.at("methods").size());
}

std::string ScoreText(const EvalCell& cell) { return ValueText(cell, cell.score); }

std::string IntervalText(const EvalCell& cell) {
  if (!std::isfinite(cell.interval.low) || !std::isfinite(cell.interval.high)) return "unknown";
  return absl::StrCat(ValueText(cell, cell.interval.low), " to ",
                      ValueText(cell, cell.interval.high));
}

OrderedJson SummaryJson(const EvalData& data) {
  OrderedJson summary = data.description;
  summary["cases"] = data.results.size();
  summary["expected_cases"] = data.expected_cases();
  summary["cells"] = summary["cells_by_depth"] = summary["costs"] = OrderedJson::array();
  for (const EvalCell& cell : CellsByLength(data.results)) {
    summary["cells"].push_back(CellJson(cell));
  }
  for (const EvalCell& cell : CellsByDepth(data.results)) {
    summary["cells_by_depth"].push_back(CellJson(cell));
  }
  for (const EvalCost& cost : AddedUp(data.costs)) summary["costs"].push_back(ToJson(cost));
  return summary;
}

}  // namespace longspan
