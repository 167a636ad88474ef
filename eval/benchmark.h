#ifndef LONGSPAN_EVAL_BENCHMARK_H_
#define LONGSPAN_EVAL_BENCHMARK_H_

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "eval/eval_case.h"
#include "eval/prompt.h"

// What files of benchmarks have in common: a JSON object a line, a prompt form of each data set.
namespace longspan {

// The score of the reference that suits the answer best.
template <double (*kMetric)(absl::string_view answer, absl::string_view reference)>
double Best(absl::string_view answer, const EvalCase& expected) {
  double best = 0;
  for (const std::string& reference : expected.answers) {
    best = std::max(best, kMetric(answer, reference));
  }
  return best;
}

// A data set of a benchmark.
struct BenchmarkForm {
  absl::string_view name;
  int64_t max_tokens;        // of an answer
  absl::string_view prompt;  // with {context}, {input} and what else its records have
  Scorer score;
  bool is_continued = false;  // a text to go on with: no chat
};

// One line.
struct BenchmarkRecord {
  std::vector<std::pair<std::string, std::string>> parts;  // "{context}" and what it stands for
  std::string question;                                    // for people
  std::vector<std::string> answers, choices;
};

struct JsonLine {
  int64_t number = 0;  // from 1
  nlohmann::json object;
};

// The objects of a file; blank lines are none. InvalidArgument: a line is no JSON object, and
// which; or there is none.
absl::StatusOr<std::vector<JsonLine>> ReadJsonLines(const std::string& path);

// "FILE:LINE: `key` ...; expected ...".
absl::Status BadLine(const std::string& path, int64_t number, absl::string_view key,
                     absl::string_view expected);
// A text of a line, by its key.
absl::StatusOr<std::string> TextOf(const JsonLine& line, const std::string& path,
                                   const std::string& key);
// A text, a number, or a list of them; a list of lists stands for its first.
absl::StatusOr<std::vector<std::string>> TextsOf(const JsonLine& line, const std::string& path,
                                                 const std::string& key);

// The form of that name. InvalidArgument: there is none, and which there are.
absl::StatusOr<const BenchmarkForm*> FindForm(absl::Span<const BenchmarkForm> forms,
                                              absl::string_view name, const std::string& path);

// Cases that are the records in order, with the prompt that --prompts has for the form's name, if
// any, in place of its own. In a prompt `{name}` stands for a part of the record, `{{` and `}}` for
// one bracket each, as in Python's str.format. Prompts of more than CaseId::length tokens lose
// their middle, as in the benchmarks. InvalidArgument: the prompt has a name that a record has no
// part for.
absl::StatusOr<CaseSource> RecordCases(absl::string_view benchmark, const BenchmarkForm& form,
                                       const std::string& file,
                                       std::vector<BenchmarkRecord> records,
                                       const PromptMaterial& material);

}  // namespace longspan

#endif  // LONGSPAN_EVAL_BENCHMARK_H_
