#include "launcher/bench_serve_report.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"

namespace longspan {
namespace {

using OrderedJson = nlohmann::ordered_json;

// One number of the summary.
struct Field {
  absl::string_view key;    // in CSV and JSON
  absl::string_view title;  // in a table; empty: not there
  double (*value)(const ServeSummary&);
  int digits;  // behind the point; 0: a count
};

double PerSecond(double count, const ServeSummary& summary) {
  return summary.duration_s > 0 ? count / summary.duration_s : 0;
}

constexpr Field kFields[] = {
    {"completed", "successful requests",
     [](const ServeSummary& s) { return static_cast<double>(s.completed); }, 0},
    {"failed", "failed requests",
     [](const ServeSummary& s) { return static_cast<double>(s.failed); }, 0},
    {"unfinished", "", [](const ServeSummary& s) { return static_cast<double>(s.unfinished); }, 0},
    {"without_usage", "",
     [](const ServeSummary& s) { return static_cast<double>(s.without_usage); }, 0},
    {"duration", "benchmark duration (s)", [](const ServeSummary& s) { return s.duration_s; }, 2},
    {"total_input_tokens", "total input tokens",
     [](const ServeSummary& s) { return static_cast<double>(s.total_input_tokens); }, 0},
    {"total_output_tokens", "total output tokens",
     [](const ServeSummary& s) { return static_cast<double>(s.total_output_tokens); }, 0},
    {"request_throughput", "request throughput (req/s)",
     [](const ServeSummary& s) { return PerSecond(static_cast<double>(s.completed), s); }, 2},
    {"input_throughput", "input token throughput (tok/s)",
     [](const ServeSummary& s) { return PerSecond(static_cast<double>(s.total_input_tokens), s); },
     2},
    {"output_throughput", "output token throughput (tok/s)",
     [](const ServeSummary& s) { return PerSecond(static_cast<double>(s.total_output_tokens), s); },
     2},
    {"total_token_throughput", "total token throughput (tok/s)",
     [](const ServeSummary& s) {
       return PerSecond(static_cast<double>(s.total_input_tokens + s.total_output_tokens), s);
     },
     2},
    {"max_concurrent_requests", "peak concurrent requests",
     [](const ServeSummary& s) { return static_cast<double>(s.max_concurrent_requests); }, 0},
};

struct Metric {
  absl::string_view key;
  absl::string_view title;
  Distribution ServeSummary::*of;
};
constexpr Metric kMetrics[] = {{"ttft", "time to first token", &ServeSummary::ttft_ms},
                               {"tpot", "time per output token", &ServeSummary::tpot_ms},
                               {"itl", "inter-token latency", &ServeSummary::itl_ms},
                               {"e2el", "end-to-end latency", &ServeSummary::e2el_ms}};

struct Statistic {
  absl::string_view name;
  double Distribution::*of;
};
constexpr Statistic kStatistics[] = {
    {"mean", &Distribution::mean}, {"median", &Distribution::median}, {"p90", &Distribution::p90},
    {"p95", &Distribution::p95},   {"p99", &Distribution::p99},       {"max", &Distribution::max}};

std::string RateText(double rate) {
  return std::isfinite(rate) ? absl::StrFormat("%.10g", rate) : "inf";
}

// All numbers by their keys, in order. One that is not finite is one that there is not.
std::vector<std::pair<std::string, double>> Numbers(const ServeSummary& summary) {
  std::vector<std::pair<std::string, double>> numbers;
  for (const Field& field : kFields) {
    numbers.emplace_back(std::string(field.key), field.value(summary));
  }
  for (const Metric& metric : kMetrics) {
    for (const Statistic& statistic : kStatistics) {
      numbers.emplace_back(absl::StrCat(statistic.name, "_", metric.key, "_ms"),
                           (summary.*metric.of).*statistic.of);
    }
  }
  return numbers;
}

// What the run was asked for, as JSON and CSV have it; null where it does not apply.
std::vector<std::pair<std::string, OrderedJson>> Settings(const ServeReport& report) {
  const ServePrompts& prompts = report.prompts;
  const bool is_random = prompts.dataset.empty();
  const auto given = [](bool applies, OrderedJson value) {
    return applies ? std::move(value) : OrderedJson(nullptr);
  };
  return {{"url", report.url},
          {"model_id", prompts.model},
          {"num_prompts", report.num_prompts},
          {"request_rate",
           std::isfinite(report.request_rate) ? OrderedJson(report.request_rate) : "inf"},
          {"max_concurrency", given(report.max_concurrency > 0, report.max_concurrency)},
          {"dataset", given(!is_random, prompts.dataset)},
          {"input_len", given(is_random, prompts.input_len)},
          {"shared_prefix_len", given(is_random, prompts.shared_prefix_len)},
          {"output_len", given(prompts.output_len.has_value(), prompts.output_len.value_or(0))},
          {"ignore_eos", prompts.ignore_eos},
          {"seed", prompts.seed}};
}

std::string PromptsText(const ServePrompts& prompts) {
  const std::string answers =
      prompts.output_len ? absl::StrCat(", answers of at most ", *prompts.output_len, " tokens")
                         : "";
  if (!prompts.dataset.empty()) return absl::StrCat("prompts of ", prompts.dataset, answers);
  return absl::StrCat("prompts of ", prompts.input_len, " random words, ",
                      prompts.shared_prefix_len, " of them shared", answers);
}

std::string Table(const ServeReport& report) {
  const ServeSummary& summary = report.summary;
  std::string text =
      absl::StrCat(ReportVersion(), " bench serve; ", report.url, "; model ", report.prompts.model,
                   "\n", report.num_prompts, " requests; ", PromptsText(report.prompts),
                   "; request rate ", RateText(report.request_rate), "; max concurrency ",
                   report.max_concurrency > 0 ? absl::StrCat(report.max_concurrency) : "none",
                   "; seed ", report.prompts.seed, "\n\n");
  for (const Field& field : kFields) {
    if (field.title.empty()) continue;
    absl::StrAppendFormat(&text, "%-32s %12.*f\n", field.title, field.digits, field.value(summary));
  }
  absl::StrAppendFormat(&text, "\n%-22s", "ms");
  for (const Statistic& statistic : kStatistics) {
    absl::StrAppendFormat(&text, " %10s", statistic.name);
  }
  for (const Metric& metric : kMetrics) {
    absl::StrAppendFormat(&text, "\n%-22s", metric.title);
    for (const Statistic& statistic : kStatistics) {
      const double ms = (summary.*metric.of).*statistic.of;
      absl::StrAppendFormat(&text, " %10s", std::isfinite(ms) ? absl::StrFormat("%.2f", ms) : "-");
    }
  }
  absl::StrAppend(&text, "\n");
  if (summary.without_usage > 0) {
    absl::StrAppend(&text, "\n", summary.without_usage,
                    " answers came without usage: their output tokens are events, and their input "
                    "tokens are missing\n");
  }
  if (summary.unfinished > 0) {
    absl::StrAppend(&text, "\n", summary.unfinished, " requests were not finished\n");
  }
  if (summary.failed > 0) absl::StrAppend(&text, "\nfailed: ", FailureText(summary), "\n");
  return text;
}

// One line, which says how it came about, so that files can be put together.
std::string Csv(const ServeReport& report) {
  std::vector<std::string> titles = {"benchmark"};
  std::vector<std::string> cells = {"serve"};
  for (const auto& [key, number] : Numbers(report.summary)) {
    titles.push_back(key);
    cells.push_back(std::isfinite(number) ? absl::StrFormat("%.10g", number) : "");
  }
  titles.emplace_back("failures");
  cells.push_back(report.summary.failed > 0 ? FailureText(report.summary) : "");
  for (const auto& [key, value] : Settings(report)) {
    titles.push_back(key);
    cells.push_back(value.is_null()     ? ""
                    : value.is_string() ? value.get<std::string>()
                                        : value.dump());
  }
  titles.emplace_back("version");
  cells.push_back(ReportVersion());
  return CsvLine(titles) + CsvLine(cells);
}

OrderedJson OrNull(double number) {
  if (!std::isfinite(number)) return nullptr;
  const bool is_whole = number == std::floor(number) && std::abs(number) < 1e15;
  return is_whole ? OrderedJson(static_cast<int64_t>(number)) : OrderedJson(number);
}

OrderedJson RequestJson(const ServeRecord& record) {
  const auto ms = [](double s) { return s < 0 ? OrderedJson(nullptr) : OrderedJson(1e3 * s); };
  OrderedJson itls = OrderedJson::array();
  for (size_t i = 1; i < record.content_s.size(); ++i) {
    itls.push_back(1e3 * (record.content_s[i] - record.content_s[i - 1]));
  }
  OrderedJson json = {{"start_s", record.start_s},
                      {"input_tokens", record.input_tokens},
                      {"output_tokens", record.output_tokens},
                      {"ttft_ms", ms(TimeToFirstToken(record))},
                      {"tpot_ms", ms(TimePerOutputToken(record))},
                      {"e2el_ms", 1e3 * (record.end_s - record.start_s)},
                      {"itl_ms", std::move(itls)},
                      {"error", nullptr}};
  if (!record.failure.empty()) {
    json["error"] = {{"reason", record.failure}, {"message", record.message}};
  }
  return json;
}

std::string Json(const ServeReport& report) {
  OrderedJson json = {{"version", ReportVersion()}, {"benchmark", "serve"}};
  for (const auto& [key, value] : Settings(report)) json[key] = value;
  for (const auto& [key, number] : Numbers(report.summary)) json[key] = OrNull(number);
  json["failures"] = OrderedJson::array();
  for (const FailureCount& failure : report.summary.failures) {
    json["failures"].push_back(
        {{"reason", failure.reason}, {"count", failure.count}, {"message", failure.message}});
  }
  if (!report.records.empty()) {
    json["requests"] = OrderedJson::array();
    for (const ServeRecord& record : report.records) {
      if (record.is_finished) json["requests"].push_back(RequestJson(record));
    }
  }
  // A server may say any bytes.
  return json.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

}  // namespace

std::string FailureText(const ServeSummary& summary) {
  constexpr size_t kMost = 5;
  std::string text;
  for (size_t i = 0; i < std::min(kMost, summary.failures.size()); ++i) {
    const FailureCount& failure = summary.failures[i];
    absl::StrAppend(&text, i == 0 ? "" : ", ", failure.count, " ", failure.reason);
    if (!failure.message.empty()) absl::StrAppend(&text, " (", failure.message, ")");
  }
  int64_t more = 0;
  for (size_t i = kMost; i < summary.failures.size(); ++i) more += summary.failures[i].count;
  return more == 0 ? text : absl::StrCat(text, ", and ", more, " of other reasons");
}

std::string FormatServeReport(const ServeReport& report, ReportFormat format) {
  switch (format) {
    case ReportFormat::kCsv:
      return Csv(report);
    case ReportFormat::kJson:
      return Json(report);
    case ReportFormat::kTable:
      break;
  }
  return Table(report);
}

}  // namespace longspan
