#include "eval/task.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "eval/infinitebench.h"
#include "eval/lists.h"
#include "eval/longbench.h"
#include "eval/perplexity.h"
#include "eval/scorers.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

// Of sentences: they need not know how much room there is.
template <Draft (*kDraft)(const DraftShape&, EvalRandom&)>
absl::StatusOr<Draft> Facts(const PromptMaterial&, const DraftShape& shape, EvalRandom& random) {
  return kDraft(shape, random);
}

constexpr EvalTask kTasks[] = {
    {"passkey", "one pass key", true, 1, 1, Facts<DraftPasskey>},
    {"magic_number", "magic numbers of things, one asked for", true, 8, 1,
     Facts<DraftMagicNumbers>},
    {"needlebench", "islands of legendary items, all asked for at once", true, 3, 0,
     Facts<DraftNeedleBench>},
    {"counting_stars", "numbers spread over the prompt, all to be collected", false, 32, 0,
     Facts<DraftCountingStars>},
    {"kv_retrieval", "the value of one key in a JSON object of UUIDs", true, 1, 1,
     DraftKvRetrieval},
    {"key_value", "values of keys in sentences, one asked for", true, 8, 1, Facts<DraftKeyValues>},
    {"variable_tracking", "variables that have one value, each by way of the other", false, 5, 0,
     DraftVariableTracking},
    {"common_words", "the most common words of a list", false, 10, 0, DraftCommonWords},
    {"perplexity", "of a text, as a whole and by position", false, 1, 1, nullptr, OpenPerplexity},
    {"longbench", "a data set of LongBench, in its JSONL form", false, 1, 1, nullptr,
     OpenLongBench},
    {"infinitebench", "a data set of InfiniteBench, in its JSONL form", false, 1, 1, nullptr,
     OpenInfiniteBench},
};

const EvalTask* FindTask(absl::string_view name) {
  const auto found = std::find_if(std::begin(kTasks), std::end(kTasks),
                                  [&](const EvalTask& task) { return task.name == name; });
  return found == std::end(kTasks) ? nullptr : found;
}

// The shape of one case but for its depth and room.
absl::StatusOr<DraftShape> ShapeOf(const EvalTask& task, const TaskOptions& options) {
  DraftShape shape;
  shape.needles = task.needles == 1 ? 1 : options.needles.value_or(task.needles);
  shape.asked = task.asked == 0 ? shape.needles : task.asked;
  if (task.needles > 1) shape.asked = options.asked.value_or(shape.asked);
  if (shape.asked <= shape.needles) return shape;
  return absl::InvalidArgumentError(absl::StrCat("--asked ", shape.asked, ": a prompt of ",
                                                 task.name, " has only ", shape.needles,
                                                 " facts; use a larger --needles"));
}

absl::StatusOr<EvalCase> MakeCase(const EvalTask& task, DraftShape shape, int64_t seed,
                                  const PromptMaterial& material, const CaseId& id) {
  EvalRandom random(
      absl::StrCat(seed, "/", task.name, "/", id.length, "/", id.depth.value_or(0), "/", id.index));
  shape.depth = id.depth.value_or(0);
  shape.length = id.length;
  LONGSPAN_ASSIGN_OR_RETURN(Draft draft, task.draft(material, shape, random));
  return BuildCase(material, std::move(draft), id.length, random);
}

}  // namespace

absl::Span<const EvalTask> EvalTasks() { return kTasks; }

absl::StatusOr<std::vector<TaskRequest>> ParseTasks(absl::string_view text) {
  std::vector<TaskRequest> requests;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    const std::pair<absl::string_view, absl::string_view> words =
        absl::StrSplit(part, absl::MaxSplits(':', 1));
    const EvalTask* task = FindTask(words.first);
    if (task == nullptr) {
      const auto append = [](std::string* out, const EvalTask& known) {
        absl::StrAppend(out, known.name, known.open == nullptr ? "" : ":FILE");
      };
      return absl::InvalidArgumentError(absl::StrCat("--task: there is no task `", words.first,
                                                     "`; there are ",
                                                     absl::StrJoin(kTasks, ", ", append)));
    }
    if ((task->open != nullptr) == words.second.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--task ", part, task->open == nullptr ? ": takes no file" : ": needs a file, as in ",
          task->open == nullptr ? "" : absl::StrCat(task->name, ":FILE")));
    }
    for (const TaskRequest& other : requests) {
      if (other.task == task && other.file == words.second) {
        return absl::InvalidArgumentError(absl::StrCat("--task names ", part, " twice"));
      }
    }
    requests.push_back({task, std::string(words.second)});
  }
  return requests;
}

absl::StatusOr<CaseSource> OpenTask(const TaskRequest& request, const TaskOptions& options,
                                    const PromptMaterial& material) {
  const EvalTask& task = *request.task;
  if (task.open != nullptr) return task.open(request.file, material);
  LONGSPAN_ASSIGN_OR_RETURN(const DraftShape shape, ShapeOf(task, options));
  CaseSource source;
  source.label = std::string(task.name);
  source.score = ShareFound;
  source.sweeps_depth = task.sweeps_depth;
  source.make = [&task, shape, seed = options.seed, &material](const CaseId& id) {
    return MakeCase(task, shape, seed, material, id);
  };
  return source;
}

}  // namespace longspan
