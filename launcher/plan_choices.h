#ifndef LONGSPAN_LAUNCHER_PLAN_CHOICES_H_
#define LONGSPAN_LAUNCHER_PLAN_CHOICES_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "launcher/plan_prediction.h"

// Which settings of a job would be faster.
namespace longspan {

struct PlanOption {
  std::string value;
  double prompt_s = 0;  // time to first token
  double token_s = 0;
  bool fits = false;
};

// One setting, all else being as it is.
struct PlanChoice {
  std::string what;  // the config's key, where it has one
  std::string now;   // as configured
  std::string note;  // why it is not up to the config
  std::vector<PlanOption> options;
  size_t best = 0;  // of options: of those that fit the one with the smallest sum of both
                    // times, each as a share of what it is now
};

struct PlanChoices {
  PlanOption now;
  std::vector<PlanChoice> choices;
  PlanOption together;  // with the best of all that is up to the config
};

// Told after every prediction: how many there are, and are to be.
using PlanProgress = std::function<void(int64_t done, int64_t total)>;

// Chunks of 1, 2, 4, ... selection blocks, up to four for every rank; stripes likewise, up to a
// chunk; keys or queries in the ring; both merges of candidates. What there is nothing to choose of
// is left out.
absl::StatusOr<PlanChoices> ChoosePlan(const PlanSubject& subject, const PlanSize& size,
                                       const PlanProgress& progress);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_PLAN_CHOICES_H_
