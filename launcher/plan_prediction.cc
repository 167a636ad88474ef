#include "launcher/plan_prediction.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "runtime/dummy_model.h"
#include "runtime/gpu_memory.h"
#include "runtime/job_shape.h"
#include "runtime/model.h"
#include "sharding/merge_choice.h"
#include "sharding/sequence_layout.h"

namespace longspan {
namespace {

constexpr uint64_t kSeed = 1;  // of selections

absl::Status CheckAllowed(const Config& config, const PlanSize& size) {
  if (config.max_model_len != 0 && size.context > config.max_model_len) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--context: ", size.context, " tokens are more than `max_model_len` (",
        config.max_model_len, ") lets a sequence have: add --set max_model_len=", size.context));
  }
  if (size.batch > config.max_num_seqs) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--batch: ", size.batch, " sequences are more than `max_num_seqs` (", config.max_num_seqs,
        ") lets run at once: add --set max_num_seqs=", size.batch));
  }
  return absl::OkStatus();
}

// Ranks beyond a host's processors share the memory of those that there are.
int64_t MemoryOfRank(const HardwareProfile& hardware, int64_t on_host) {
  const int64_t processors = hardware.processors_per_host;
  if (processors == 0 || on_host <= processors) return hardware.memory_bytes;
  return static_cast<int64_t>(static_cast<double>(hardware.memory_bytes) *
                              static_cast<double>(processors) / static_cast<double>(on_host));
}

// Many long sequences have more bytes than an int64 counts; what adds to them still fits.
int64_t Bytes(int64_t pages, int64_t of_page) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max() / 2;
  return of_page > 0 && pages > kMost / of_page ? kMost : pages * of_page;
}

// Chunks of a prompt to simulate: a second or two of them.
int64_t SamplesOf(const ModelShape& model) {
  constexpr int64_t kFew = 3, kMany = 9, kBlocks = 4096;
  return std::clamp(kBlocks * model.block_tokens / model.chunk_tokens, kFew, kMany);
}

}  // namespace

absl::StatusOr<PlanSubject> MakePlanSubject(Config config, const HardwareProfile& hardware) {
  PlanSubject subject;
  LONGSPAN_ASSIGN_OR_RETURN(subject.model, LoadModelConfig(config.model));
  // Of tensors without memory: nothing is read or allocated.
  LONGSPAN_ASSIGN_OR_RETURN(const ModelWeights weights,
                            MakeDummyWeights(subject.model, /*fill=*/false));
  subject.weights = CountWeights(weights);
  subject.config = std::move(config);
  subject.config.device = hardware.is_gpu ? "cuda" : "cpu";
  subject.hardware = hardware;
  return subject;
}

int64_t MostRanks(const PlanSubject& subject) {
  const Config& config = subject.config;
  const bool gathers = config.attention == Attention::kEsa && config.esa.top_k > 0 &&
                       config.parallel.selection_merge == SelectionMerge::kAllGather;
  return subject.hardware.is_gpu && gathers ? kMostGatheringGpus : kMostPlannedRanks;
}

PlanSubject WithBlocksForAll(PlanSubject subject, int ranks) {
  int64_t& chunk = subject.config.prefill_chunk_tokens;
  chunk = std::max(chunk, subject.config.esa.selection_block * ranks);
  return subject;
}

absl::StatusOr<Config> SettleFor(const PlanSubject& subject, const PlanSize& size) {
  Config config = subject.config;
  config.parallel.ranks = 0;  // --ranks wins
  LONGSPAN_RETURN_IF_ERROR(SettleConfig(size.ranks, &config));
  ResolveDType(subject.model, &config);
  LONGSPAN_RETURN_IF_ERROR(CheckAllowed(config, size));
  return config;
}

JobShape ShapeOf(const PlanSubject& subject, const Config& settled, int ranks) {
  JobShape job = MakeJobShape(settled, subject.model, ranks);
  if (subject.moving.has_value()) job.layer.moving = subject.moving;
  return job;
}

PlanMemoryUse MemoryOf(const PlanSubject& subject, const Config& settled, const PlanSize& size) {
  const auto on_host =
      static_cast<int>(std::min<int64_t>(size.ranks, subject.hardware.ranks_per_host));
  const SequenceLayout layout = {settled.parallel.stripe_tokens, size.ranks};
  const double fraction = settled.kv_cache_memory_fraction;
  const auto estimate = [&](int64_t tokens) {
    return EstimateGpuMemory(settled, subject.model, size.ranks, subject.weights.parameters,
                             tokens);
  };
  PlanMemoryUse use;
  MemoryPlan& plan = use.plan;
  plan = subject.hardware.is_gpu
             ? estimate(std::max(size.context, settled.max_model_len))
             : PlanMemory(settled, subject.model, MakeKvShape(settled, subject.model), size.ranks,
                          on_host, subject.weights.bytes);
  plan.available = MemoryOfRank(subject.hardware, on_host);
  plan.host_available = std::numeric_limits<int64_t>::max();
  use.usable = static_cast<int64_t>(static_cast<double>(plan.available) * fraction);
  const int64_t pages = size.batch * layout.NumPages(0, size.context);
  use.cache = Bytes(pages, plan.page);
  use.host_cache = Bytes(pages, plan.host_page);
  use.fits = pages <= plan.MaxPages(fraction);
  // A page of every sequence at a time.
  MemoryPlan together = plan;
  together.page *= size.batch;
  if (subject.hardware.is_gpu) together.scores = together.exchange = 0;
  use.longest = LongestRequest(together, fraction, layout, [&](int64_t tokens) {
    if (!subject.hardware.is_gpu) return plan.activations;
    const MemoryPlan longer = estimate(tokens);
    return longer.activations + longer.scores + longer.exchange;
  });
  return use;
}

absl::StatusOr<JobPlan> PlanJob(const PlanSubject& subject, const PlanSize& size) {
  JobPlan plan;
  plan.size = size;
  LONGSPAN_ASSIGN_OR_RETURN(plan.config, SettleFor(subject, size));
  plan.memory = MemoryOf(subject, plan.config, size);
  const JobShape job = ShapeOf(subject, plan.config, size.ranks);
  const SelectionSource select = DrawUniformly(job, kSeed);
  plan.prompt = PredictPrompt(subject.hardware, job, size.context, select, SamplesOf(job.model));
  const std::vector<int64_t> contexts(size.batch, size.context);
  plan.token = PredictDecode(subject.hardware, job, contexts, select);
  return plan;
}

}  // namespace longspan
