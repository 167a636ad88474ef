#ifndef LONGSPAN_LAUNCHER_PLAN_PREDICTION_H_
#define LONGSPAN_LAUNCHER_PLAN_PREDICTION_H_

#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "runtime/config.h"
#include "runtime/memory_plan.h"
#include "runtime/model_config.h"
#include "runtime/weights.h"
#include "sharding/hardware_profile.h"
#include "sharding/layer_program.h"
#include "sharding/prediction.h"

// What `longspan plan` says of one job, from its config, config.json and a hardware profile alone.
namespace longspan {

// What runs, and on what.
struct PlanSubject {
  Config config;  // not resolved; its device is the hardware's
  ModelConfig model;
  WeightCounts weights;  // of the whole model, as it is stored
  HardwareProfile hardware;
  std::optional<Moving> moving;  // in a prompt's ring, which no config says
};

struct PlanSize {
  int ranks = 1;
  int64_t context = 1;  // tokens of each prompt
  int64_t batch = 1;    // sequences that decode together
};

// Memory of one rank, and what of it the job takes.
struct PlanMemoryUse {
  MemoryPlan plan;
  int64_t usable = 0;      // kv_cache.memory_fraction of what there is
  int64_t cache = 0;       // pages of all sequences
  int64_t host_cache = 0;  // `kv_cache.tier: host`: their part in host memory
  int64_t longest = 0;     // tokens of the longest context of which `batch` fit; 0: none
  bool fits = false;

  int64_t needed() const { return plan.fixed() + cache; }
};

struct JobPlan {
  PlanSize size;
  Config config;  // settled for the ranks
  PlanMemoryUse memory;
  Prediction prompt;  // one prompt alone: its seconds are the time to first token
  Prediction token;   // one more token of every sequence, each of `context` tokens

  double tokens_per_s() const { return static_cast<double>(size.batch) / token.seconds; }
};

// Reads config.json of the config's model directory, and nothing else of it. The device becomes the
// hardware's, whatever the config says.
absl::StatusOr<PlanSubject> MakePlanSubject(Config config, const HardwareProfile& hardware);

// With a chunk that has a block for every rank at least, or else some of them idle.
PlanSubject WithBlocksForAll(PlanSubject subject, int ranks);

// The config as a job of so many ranks resolves it, in this build or another, and with a dtype.
// InvalidArgument: the config's own fault, or a context or batch that it does not allow.
absl::StatusOr<Config> SettleFor(const PlanSubject& subject, const PlanSize& size);

// What predictions of a settled config follow from.
JobShape ShapeOf(const PlanSubject& subject, const Config& settled, int ranks);

// What a rank needs and has. Of a GPU it is an estimate (runtime/gpu_memory.h), and what its host
// has for `kv_cache.tier: host` is not looked at.
PlanMemoryUse MemoryOf(const PlanSubject& subject, const Config& settled, const PlanSize& size);

// All of the above, and times; the time of a prompt is interpolated between a few of its chunks,
// the fewer the larger they are. Selections are drawn uniformly, from a fixed seed.
absl::StatusOr<JobPlan> PlanJob(const PlanSubject& subject, const PlanSize& size);

// Ranks that the runtime takes at most, as far as plans go.
inline constexpr int64_t kMostPlannedRanks = 65536;
int64_t MostRanks(const PlanSubject& subject);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_PLAN_PREDICTION_H_
