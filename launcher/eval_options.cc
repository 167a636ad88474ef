#include "launcher/eval_options.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/flags/reflection.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"
#include "launcher/flags.h"
#include "launcher/scale_flags.h"
#include "runtime/json_file.h"
#include "sharding/topk_merge.h"

ABSL_DECLARE_FLAG(std::string, selection_stats);

namespace {

std::string TaskHelp() {
  std::string text = "eval: tasks, separated by commas:";
  for (const longspan::EvalTask& task : longspan::EvalTasks()) {
    absl::StrAppend(&text, "\n        ", task.name, task.open == nullptr ? "" : ":FILE", ": ",
                    task.summary);
  }
  return text;
}

}  // namespace

ABSL_FLAG(int64_t, asked, 0, "eval: facts that are asked for at once; 0: the task's own number");
ABSL_FLAG(int64_t, cases, 5, "eval: prompts of each task, length and depth");
ABSL_FLAG(bool, chat, false, "eval: ask by way of the model's chat template");
ABSL_FLAG(std::string, depth, "0.1,0.3,0.5,0.7,0.9",
          "eval: where in the prompt the fact is that is asked for, from 0, its beginning, to 1; "
          "what is at either end every method sees");
ABSL_FLAG(std::string, haystack, "",
          "eval: a text file that facts are hidden in; by default text is generated");
ABSL_FLAG(std::string, length, "4096",
          "eval: tokens of a prompt, separated by commas; 131072/32 stands for 32 lengths at equal "
          "steps up to 131072");
ABSL_FLAG(int64_t, needles, 0, "eval: facts in a prompt; 0: the task's own number");
ABSL_FLAG(std::string, prompts, "",
          "eval: a JSON object of prompts by data set, such as LongBench's dataset2prompt.json, in "
          "place of our own; {context} and {input} stand for a line's, {question} for its input, "
          "{OPTION_A} to {OPTION_D} for its options");
ABSL_FLAG(int64_t, stride, 0,
          "eval: perplexity of windows of a text that begin so many tokens apart, of each of which "
          "so many are scored, its last; 0: pieces one behind the other, all of which is scored");
ABSL_FLAG(std::string, task, "", TaskHelp());

namespace longspan {
namespace {

constexpr int64_t kMostSteps = 1024;  // of a length
constexpr int64_t kMostCases = 100000;
constexpr size_t kMostPromptBytes = 1 << 20;

absl::StatusOr<std::optional<int64_t>> FactsFlag(absl::string_view flag, int64_t value) {
  if (value == 0) return std::nullopt;
  return ParseNumber(flag, absl::StrCat(value), kMostNeedles);
}

// A flag that some tasks read, and no other.
struct TaskFlag {
  const char* name;
  const char* tasks;
  bool (*reads)(const EvalTask& task);
};

constexpr TaskFlag kTaskFlags[] = {
    {"chat", "tasks that ask", [](const EvalTask& task) { return task.name != "perplexity"; }},
    {"depth", "tasks that hide a fact at a depth",
     [](const EvalTask& task) { return task.sweeps_depth; }},
    {"haystack", "tasks that hide facts in a text",
     [](const EvalTask& task) { return task.draft != nullptr; }},
    {"prompts", "longbench:FILE and infinitebench:FILE",
     [](const EvalTask& task) { return task.open != nullptr && task.name != "perplexity"; }},
    {"stride", "perplexity:FILE", [](const EvalTask& task) { return task.name == "perplexity"; }},
};

// That what is stated is read by one of the tasks at least.
absl::Status CheckTaskFlags(absl::Span<const TaskRequest> tasks) {
  for (const TaskFlag& flag : kTaskFlags) {
    const absl::CommandLineFlag* stated = absl::FindCommandLineFlag(flag.name);
    if (stated->CurrentValue() == stated->DefaultValue()) continue;
    const bool is_read = std::any_of(tasks.begin(), tasks.end(), [&](const TaskRequest& request) {
      return flag.reads(*request.task);
    });
    if (is_read) continue;
    return absl::InvalidArgumentError(absl::StrCat("--", flag.name, " is of ", flag.tasks,
                                                   ", which --task does not name: leave it out"));
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> StrideFlag() {
  const int64_t stride = absl::GetFlag(FLAGS_stride);
  return stride == 0 ? stride : ParseNumber("stride", absl::StrCat(stride), kMaxPosition);
}

template <typename T>
void SortUnique(std::vector<T>* numbers) {
  std::sort(numbers->begin(), numbers->end());
  numbers->erase(std::unique(numbers->begin(), numbers->end()), numbers->end());
}

}  // namespace

absl::StatusOr<std::vector<int64_t>> ParseLengths(absl::string_view flag, absl::string_view text) {
  std::vector<int64_t> lengths;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    const std::pair<absl::string_view, absl::string_view> words =
        absl::StrSplit(part, absl::MaxSplits('/', 1));
    LONGSPAN_ASSIGN_OR_RETURN(const int64_t most, ParseNumber(flag, words.first, kMaxPosition));
    int64_t steps = 1;
    if (absl::StrContains(part, '/')) {
      LONGSPAN_ASSIGN_OR_RETURN(
          steps, ParseNumber(flag, words.second, std::min<int64_t>(most, kMostSteps)));
    }
    for (int64_t step = 1; step <= steps; ++step) lengths.push_back(most * step / steps);
  }
  SortUnique(&lengths);
  return lengths;
}

absl::StatusOr<std::vector<double>> ParseShares(absl::string_view flag, absl::string_view text) {
  std::vector<double> shares;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    double share = 0;
    if (!absl::SimpleAtod(part, &share) || !(share >= 0 && share <= 1)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--", flag, " must be numbers from 0 to 1, separated by commas, not `", part, "`"));
    }
    shares.push_back(share);
  }
  SortUnique(&shares);
  return shares;
}

absl::StatusOr<std::map<std::string, std::string>> ReadPrompts(const std::string& path) {
  std::map<std::string, std::string> prompts;
  if (path.empty()) return prompts;
  LONGSPAN_ASSIGN_OR_RETURN(const nlohmann::json json, ReadJsonObject(path, kMostPromptBytes));
  for (const auto& [name, prompt] : json.items()) {
    if (!prompt.is_string() || !absl::StrContains(prompt.get<std::string>(), "{context}")) {
      return absl::InvalidArgumentError(absl::StrCat("--prompts ", path, ": `", name,
                                                     "` must be a text in which {context} stands"));
    }
    prompts[name] = prompt;
  }
  return prompts;
}

absl::StatusOr<EvalOptions> EvalOptionsFromFlags() {
  EvalOptions options;
  for (const auto& [flag, value] : {std::pair{"task", absl::GetFlag(FLAGS_task)},
                                    std::pair{"method", absl::GetFlag(FLAGS_method)},
                                    std::pair{"output", absl::GetFlag(FLAGS_output)}}) {
    if (value.empty()) return absl::InvalidArgumentError(absl::StrCat("--", flag, " is needed"));
  }
  LONGSPAN_ASSIGN_OR_RETURN(options.tasks, ParseTasks(absl::GetFlag(FLAGS_task)));
  LONGSPAN_RETURN_IF_ERROR(CheckTaskFlags(options.tasks));
  LONGSPAN_ASSIGN_OR_RETURN(options.methods, ParseEvalMethods(absl::GetFlag(FLAGS_method)));
  LONGSPAN_ASSIGN_OR_RETURN(options.lengths, ParseLengths("length", absl::GetFlag(FLAGS_length)));
  LONGSPAN_ASSIGN_OR_RETURN(options.depths, ParseShares("depth", absl::GetFlag(FLAGS_depth)));
  LONGSPAN_ASSIGN_OR_RETURN(
      options.cases, ParseNumber("cases", absl::StrCat(absl::GetFlag(FLAGS_cases)), kMostCases));
  options.task_options.seed = absl::GetFlag(FLAGS_seed);
  if (options.task_options.seed < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--seed must not be negative, as ", options.task_options.seed));
  }
  LONGSPAN_ASSIGN_OR_RETURN(options.task_options.needles,
                            FactsFlag("needles", absl::GetFlag(FLAGS_needles)));
  LONGSPAN_ASSIGN_OR_RETURN(options.task_options.asked,
                            FactsFlag("asked", absl::GetFlag(FLAGS_asked)));
  options.chat = absl::GetFlag(FLAGS_chat);
  LONGSPAN_ASSIGN_OR_RETURN(options.stride, StrideFlag());
  options.haystack = absl::GetFlag(FLAGS_haystack);
  options.prompts = absl::GetFlag(FLAGS_prompts);
  options.output = absl::GetFlag(FLAGS_output);
  options.selection_stats = absl::GetFlag(FLAGS_selection_stats);
  LONGSPAN_ASSIGN_OR_RETURN(options.progress, ParseProgressStyle(absl::GetFlag(FLAGS_progress)));
  return options;
}

}  // namespace longspan
