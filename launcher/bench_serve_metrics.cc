#include "launcher/bench_serve_metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace longspan {
namespace {

using Json = nlohmann::json;

const Json* Find(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

bool HasText(const Json& object, const char* key) {
  const Json* value = Find(object, key);
  return value != nullptr && value->is_string() && !value->get_ref<const std::string&>().empty();
}

// Not so for the chunk that only names the role, nor for one that only says why the answer ends.
bool HasContent(const Json& chunk) {
  const Json* choices = Find(chunk, "choices");
  if (choices == nullptr || !choices->is_array()) return false;
  return std::any_of(choices->begin(), choices->end(), [](const Json& choice) {
    if (HasText(choice, "text")) return true;
    const Json* delta = Find(choice, "delta");
    return delta != nullptr &&
           (HasText(*delta, "content") || HasText(*delta, "reasoning_content") ||
            HasText(*delta, "reasoning") || Find(*delta, "tool_calls") != nullptr);
  });
}

int64_t Count(const Json& usage, const char* key) {
  const Json* value = Find(usage, key);
  return value != nullptr && value->is_number_integer() ? value->get<int64_t>() : 0;
}

// In one line, so that it can stand in a table.
std::string Shorten(absl::string_view text) {
  size_t bytes = std::min<size_t>(text.size(), 300);
  const bool is_cut = bytes < text.size();
  while (is_cut && bytes > 0 && (text[bytes] & 0xc0) == 0x80) --bytes;  // between two characters
  std::string line(text.substr(0, bytes));
  for (char& c : line) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) c = ' ';
  }
  absl::RemoveExtraAsciiWhitespace(&line);
  return is_cut ? line + "..." : line;
}

std::string MessageOf(const Json& json, absl::string_view otherwise) {
  if (json.is_string()) return Shorten(json.get_ref<const std::string&>());
  for (const char* key : {"error", "message", "detail"}) {
    if (const Json* value = Find(json, key)) return MessageOf(*value, value->dump());
  }
  return Shorten(otherwise);
}

bool IsError(const Json& chunk) {
  if (Find(chunk, "error") != nullptr) return true;
  const Json* object = Find(chunk, "object");
  return object != nullptr && *object == "error";
}

}  // namespace

bool AnswerStream::Feed(absl::string_view bytes, double now) {
  parser_.Feed(bytes, [&](const SseEvent& event) {
    if (!is_done_ && error_.empty()) Take(event, now);
  });
  return !is_done_ && error_.empty();
}

void AnswerStream::Take(const SseEvent& event, double now) {
  if (event.data == "[DONE]") {
    is_done_ = true;
    return;
  }
  if (event.data.empty()) return;  // a sign of life
  const Json chunk = Json::parse(event.data, nullptr, /*allow_exceptions=*/false);
  if (chunk.is_discarded() || event.type == "error" || IsError(chunk)) {
    error_ = chunk.is_discarded() ? absl::StrCat("not JSON: ", Shorten(event.data))
                                  : MessageOf(chunk, event.data);
    if (error_.empty()) error_ = "without a message";
    return;
  }
  if (HasContent(chunk)) content_times_.push_back(now);
  if (const Json* usage = Find(chunk, "usage")) {  // the last counts: some send it with each chunk
    has_usage_ = true;
    prompt_tokens_ = Count(*usage, "prompt_tokens");
    completion_tokens_ = Count(*usage, "completion_tokens");
  }
}

std::string ServerMessage(absl::string_view body) {
  const Json json = Json::parse(body, nullptr, /*allow_exceptions=*/false);
  return json.is_discarded() ? Shorten(body) : MessageOf(json, body);
}

double Percentile(const std::vector<double>& sorted, double percent) {
  const double place = percent / 100 * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return std::lerp(sorted[below], sorted[above], place - std::floor(place));
}

Distribution Distribute(std::vector<double> samples) {
  if (samples.empty()) {
    constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
    return {kNone, kNone, kNone, kNone, kNone, kNone};
  }
  std::sort(samples.begin(), samples.end());
  double sum = 0;
  for (const double sample : samples) sum += sample;
  return {sum / static_cast<double>(samples.size()),
          Percentile(samples, 50),
          Percentile(samples, 90),
          Percentile(samples, 95),
          Percentile(samples, 99),
          samples.back()};
}

double TimeToFirstToken(const ServeRecord& record) {
  return record.content_s.empty() ? -1 : record.content_s.front() - record.start_s;
}

double TimePerOutputToken(const ServeRecord& record) {
  if (record.content_s.empty() || record.output_tokens < 2) return -1;
  return (record.content_s.back() - record.content_s.front()) /
         static_cast<double>(record.output_tokens - 1);
}

ServeSummary SummarizeServe(const std::vector<ServeRecord>& records, double duration_s) {
  ServeSummary summary;
  summary.duration_s = duration_s;
  std::vector<double> ttft, tpot, itl, e2el;  // ms
  for (const ServeRecord& record : records) {
    if (!record.is_finished) {
      ++summary.unfinished;
      continue;
    }
    summary.answered += record.is_answered;
    if (!record.succeeded()) {
      ++summary.failed;
      auto same = std::find_if(summary.failures.begin(), summary.failures.end(),
                               [&](const FailureCount& f) { return f.reason == record.failure; });
      if (same == summary.failures.end()) {
        same = summary.failures.insert(same, {record.failure, 0, record.message});
      }
      ++same->count;
      continue;
    }
    ++summary.completed;
    summary.without_usage += !record.has_usage;
    summary.total_input_tokens += record.input_tokens;
    summary.total_output_tokens += record.output_tokens;
    if (const double s = TimeToFirstToken(record); s >= 0) ttft.push_back(1e3 * s);
    if (const double s = TimePerOutputToken(record); s >= 0) tpot.push_back(1e3 * s);
    for (size_t i = 1; i < record.content_s.size(); ++i) {
      itl.push_back(1e3 * (record.content_s[i] - record.content_s[i - 1]));
    }
    e2el.push_back(1e3 * (record.end_s - record.start_s));
  }
  std::stable_sort(summary.failures.begin(), summary.failures.end(),
                   [](const FailureCount& a, const FailureCount& b) { return a.count > b.count; });
  summary.ttft_ms = Distribute(std::move(ttft));
  summary.tpot_ms = Distribute(std::move(tpot));
  summary.itl_ms = Distribute(std::move(itl));
  summary.e2el_ms = Distribute(std::move(e2el));
  return summary;
}

}  // namespace longspan
