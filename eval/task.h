#ifndef LONGSPAN_EVAL_TASK_H_
#define LONGSPAN_EVAL_TASK_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "eval/eval_case.h"
#include "eval/facts.h"
#include "eval/prompt.h"

namespace longspan {

// What a user may say of generated tasks.
struct TaskOptions {
  int64_t seed = 0;
  std::optional<int64_t> needles, asked;  // in place of a task's own; at most kMostNeedles
};

inline constexpr int64_t kMostNeedles = 500;

// A task of `longspan eval`.
struct EvalTask {
  absl::string_view name;
  absl::string_view summary;
  bool sweeps_depth = false;
  int64_t needles = 1;     // facts of a prompt
  int64_t asked = 1;       // of them; 0: all
  bool asks_some = false;  // of them, as --asked says
  // Of generated tasks.
  absl::StatusOr<Draft> (*draft)(const PromptMaterial& material, const DraftShape& shape,
                                 EvalRandom& random) = nullptr;
  // Of tasks whose cases are in a file: `name:FILE`.
  absl::StatusOr<CaseSource> (*open)(const std::string& file,
                                     const PromptMaterial& material) = nullptr;
};

absl::Span<const EvalTask> EvalTasks();

struct TaskRequest {
  const EvalTask* task = nullptr;
  std::string file;  // of tasks that have one
};

// `name` or `name:FILE`, separated by commas. InvalidArgument: there is no such task, it has no
// file where it needs one, or it is named twice.
absl::StatusOr<std::vector<TaskRequest>> ParseTasks(absl::string_view text);

// `material` must outlive the source. InvalidArgument: the file is not of its form, and where; more
// facts are asked for than a prompt has; or the options have what the task has not.
absl::StatusOr<CaseSource> OpenTask(const TaskRequest& request, const TaskOptions& options,
                                    const PromptMaterial& material);

}  // namespace longspan

#endif  // LONGSPAN_EVAL_TASK_H_
