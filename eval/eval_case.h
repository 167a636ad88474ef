#ifndef LONGSPAN_EVAL_EVAL_CASE_H_
#define LONGSPAN_EVAL_EVAL_CASE_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace longspan {

// Which prompt of a task.
struct CaseId {
  int64_t length = 0;           // tokens of the prompt; of a file's prompts, at most
  std::optional<double> depth;  // of the fact that is asked for, 0 to 1; unset: not swept
  int64_t index = 0;            // among those of this length and depth, from 0
};

// One prompt, and what it should be answered with.
struct EvalCase {
  std::vector<int32_t> prompt;  // token ids
  std::string question;         // for people
  std::vector<std::string> answers;
  std::vector<std::string> choices;  // that an answer is one of, where a task has such
  int64_t max_tokens = 0;            // of the answer; 0: the prompt itself is scored
  int64_t scored_tokens = 0;         // of such a prompt: its last; never the first one
  std::string stop;                  // the answer ends before it; empty: it does not
  bool is_chat = false;              // the answer ends with the assistant's turn
};

// From 0, wrong, to 1, right. `expected` is the case that was asked.
using Scorer = double (*)(absl::string_view answer, const EvalCase& expected);

// What a task's cases are measured in.
enum class EvalMetric {
  kShare,  // the mean of Scorer, 0 to 1
  kNats,   // the mean of -log p of the prompt's tokens; its exponential is perplexity
};

// A task with all that it takes to make its cases. Copies share what it refers to, which must
// outlive them.
struct CaseSource {
  std::string label;  // "passkey", "longbench/hotpotqa"
  EvalMetric metric = EvalMetric::kShare;
  Scorer score = nullptr;
  bool sweeps_depth = false;
  int64_t most_cases = 0;  // of a length and depth; 0: any number
  // The same case for the same id, on every machine. InvalidArgument: it cannot be that short.
  std::function<absl::StatusOr<EvalCase>(const CaseId& id)> make;
  // Its max_tokens, or the same error, without the filler text that takes the time.
  std::function<absl::StatusOr<int64_t>(const CaseId& id)> measure;
};

}  // namespace longspan

#endif  // LONGSPAN_EVAL_EVAL_CASE_H_
