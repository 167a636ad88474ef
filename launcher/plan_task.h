#ifndef LONGSPAN_LAUNCHER_PLAN_TASK_H_
#define LONGSPAN_LAUNCHER_PLAN_TASK_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "launcher/plan_choices.h"
#include "launcher/plan_prediction.h"
#include "launcher/plan_target.h"

// What one call of `longspan plan` predicts, from the subject to the text.
namespace longspan {

// All ranks with all contexts; with a target, the smallest number of ranks for each context.
struct PlanTask {
  std::vector<int64_t> ranks, contexts;
  int64_t batch = 1;
  PlanTarget target;
  bool simulate = false;
  bool json = false;  // else tables
};

struct PlanOutcome {
  std::string text;
  bool good = true;  // everything fits and meets the target
};

// InvalidArgument: what the config does not allow, before the first prediction, as all of them may
// take minutes.
absl::StatusOr<PlanOutcome> RunPlan(const PlanTask& task, const PlanSubject& subject,
                                    const PlanProgress& progress);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_PLAN_TASK_H_
