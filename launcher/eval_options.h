#ifndef LONGSPAN_LAUNCHER_EVAL_OPTIONS_H_
#define LONGSPAN_LAUNCHER_EVAL_OPTIONS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "eval/methods.h"
#include "eval/task.h"
#include "launcher/progress.h"

namespace longspan {

// The command line of `longspan eval`.
struct EvalOptions {
  std::vector<TaskRequest> tasks;
  std::vector<const EvalMethod*> methods;
  std::vector<int64_t> lengths;  // tokens of a prompt, ascending
  std::vector<double> depths;    // 0 to 1, ascending
  int64_t cases = 0;             // of each task, length and depth
  TaskOptions task_options;
  bool chat = false;            // prompts are what a user says to the model's chat template
  int64_t stride = 0;           // tokens, of perplexity's windows; 0: none
  std::string haystack;         // a text file; empty: generated
  std::string prompts;          // a JSON file of benchmarks' prompts; empty: ours
  std::string output;           // directory
  std::string selection_stats;  // a JSON file of what methods selected; empty: none
  ProgressStyle progress = ProgressStyle::kOff;
};

absl::StatusOr<EvalOptions> EvalOptionsFromFlags();

// "4096,131072/32": numbers, and a number over a count for so many numbers at equal steps up to it.
// Sorted. `flag` is named in errors.
absl::StatusOr<std::vector<int64_t>> ParseLengths(absl::string_view flag, absl::string_view text);

// Shares from 0 to 1, separated by commas. Sorted.
absl::StatusOr<std::vector<double>> ParseShares(absl::string_view flag, absl::string_view text);

// The prompts of --prompts by their data sets; none without it. Errors name the file.
absl::StatusOr<std::map<std::string, std::string>> ReadPrompts(const std::string& path);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_EVAL_OPTIONS_H_
