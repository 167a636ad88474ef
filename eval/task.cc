#include "eval/task.h"

#include <algorithm>
#include <iterator>
#include <tuple>
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
    {"passkey", "one pass key", true, 1, 1, false, Facts<DraftPasskey>},
    {"magic_number", "magic numbers of things, one asked for", true, 8, 1, true,
     Facts<DraftMagicNumbers>},
    {"needlebench", "islands of legendary items, all asked for at once", true, 3, 0, true,
     Facts<DraftNeedleBench>},
    {"counting_stars", "numbers spread over the prompt, all to be collected", false, 32, 0, false,
     Facts<DraftCountingStars>},
    {"kv_retrieval", "the value of one key in a JSON object of UUIDs", true, 1, 1, false,
     DraftKvRetrieval},
    {"key_value", "values of keys in sentences, one asked for", true, 8, 1, true,
     Facts<DraftKeyValues>},
    {"variable_tracking", "variables that have one value, each by way of the other", false, 5, 0,
     false, DraftVariableTracking},
    {"common_words", "the most common words of a list", false, 10, 0, false, DraftCommonWords},
    {"perplexity", "of a text, as a whole and by position", false, 1, 1, false, nullptr,
     OpenPerplexity},
    {"longbench", "a data set of LongBench, in its JSONL form", false, 1, 1, false, nullptr,
     OpenLongBench},
    {"infinitebench", "a data set of InfiniteBench, in its JSONL form", false, 1, 1, false, nullptr,
     OpenInfiniteBench},
};

const EvalTask* FindTask(absl::string_view name) {
  const auto found = std::find_if(std::begin(kTasks), std::end(kTasks),
                                  [&](const EvalTask& task) { return task.name == name; });
  return found == std::end(kTasks) ? nullptr : found;
}

// That --needles and --asked, if they are stated, are what the task has or can have.
absl::Status CheckOptions(const EvalTask& task, const TaskOptions& options) {
  for (const auto& [flag, stated, changes] :
       {std::tuple{"needles", options.needles, task.draft != nullptr && task.needles > 1},
        std::tuple{"asked", options.asked, task.asks_some}}) {
    const bool is_one = task.draft != nullptr && task.needles == 1 && stated == 1;
    if (!stated || changes || is_one) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "--", flag, " ", *stated, ": ",
        task.draft == nullptr ? absl::StrCat(task.name, " hides no facts")
        : task.needles == 1   ? absl::StrCat("a prompt of ", task.name, " has one fact")
                              : absl::StrCat(task.name, " asks for all facts of a prompt"),
        "; evaluate it apart, without --", flag));
  }
  return absl::OkStatus();
}

// The shape of one case but for its depth and room.
absl::StatusOr<DraftShape> ShapeOf(const EvalTask& task, const TaskOptions& options) {
  DraftShape shape;
  shape.needles = task.needles == 1 ? 1 : options.needles.value_or(task.needles);
  shape.asked = task.asked == 0 ? shape.needles : task.asked;
  if (task.asks_some) shape.asked = options.asked.value_or(shape.asked);
  if (shape.asked <= shape.needles) return shape;
  return absl::InvalidArgumentError(absl::StrCat("--asked ", shape.asked, ": a prompt of ",
                                                 task.name, " has only ", shape.needles,
                                                 " facts; use a larger --needles"));
}

// What one case is drawn from.
EvalRandom RandomOf(const EvalTask& task, int64_t seed, const CaseId& id) {
  return EvalRandom(
      absl::StrCat(seed, "/", task.name, "/", id.length, "/", id.depth.value_or(0), "/", id.index));
}

absl::StatusOr<Draft> DraftOf(const EvalTask& task, DraftShape shape,
                              const PromptMaterial& material, const CaseId& id,
                              EvalRandom& random) {
  shape.depth = id.depth.value_or(0);
  shape.length = id.length;
  return task.draft(material, shape, random);
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
  LONGSPAN_RETURN_IF_ERROR(CheckOptions(task, options));
  if (task.open != nullptr) return task.open(request.file, material);
  LONGSPAN_ASSIGN_OR_RETURN(const DraftShape shape, ShapeOf(task, options));
  CaseSource source;
  source.label = std::string(task.name);
  source.score = ShareFound;
  source.sweeps_depth = task.sweeps_depth;
  source.make = [&task, shape, seed = options.seed,
                 &material](const CaseId& id) -> absl::StatusOr<EvalCase> {
    EvalRandom random = RandomOf(task, seed, id);
    LONGSPAN_ASSIGN_OR_RETURN(Draft draft, DraftOf(task, shape, material, id, random));
    return BuildCase(material, std::move(draft), id.length, random);
  };
  source.measure = [&task, shape, seed = options.seed,
                    &material](const CaseId& id) -> absl::StatusOr<int64_t> {
    EvalRandom random = RandomOf(task, seed, id);
    LONGSPAN_ASSIGN_OR_RETURN(const Draft draft, DraftOf(task, shape, material, id, random));
    return MeasureCase(material, draft, id.length);
  };
  return source;
}

}  // namespace longspan
