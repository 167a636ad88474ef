#ifndef LONGSPAN_SHARDING_PREDICTION_H_
#define LONGSPAN_SHARDING_PREDICTION_H_

#include <array>
#include <cstdint>
#include <map>
#include <string>

#include "absl/types/span.h"
#include "sharding/hardware_profile.h"
#include "sharding/layer_program.h"
#include "sharding/simulator.h"

// What a model on some ranks will take, by simulation of one layer.
namespace longspan {

// Selections that a function of the seed draws: uniformly over the middle, or, the worst there is,
// all from the stripes of one rank, as far as it has any.
SelectionSource DrawUniformly(const JobShape& job, uint64_t seed);
SelectionSource DrawFromRank(const JobShape& job, int rank, uint64_t seed);

// Of a forward pass of the whole model: seconds, those of each phase on average over ranks and on
// the rank with most, and what went through ports.
struct Prediction {
  double seconds = 0;
  std::array<double, kNumPhases> mean = {}, most = {};
  double imbalance = 0;  // see Simulator
  double exchange = 0;
  std::map<std::string, CallTotals> calls;

  void Add(const Prediction& other, double times);
};

// The newest tokens of sequences of so many tokens, themselves included.
Prediction PredictDecode(const HardwareProfile& profile, const JobShape& job,
                         absl::Span<const int64_t> contexts, const SelectionSource& select);

// One chunk; the prompt's last one gives logits. All layers but the last, whose outputs nobody
// reads, are alike.
Prediction PredictChunk(const HardwareProfile& profile, const JobShape& job,
                        const ChunkShape& chunk, bool is_last, const SelectionSource& select);

// All chunks of a prompt: its time to first token. At most `samples` chunks (one, if that
// is less), the denser the earlier, and the last are simulated, and those between are interpolated
// linearly.
Prediction PredictPrompt(const HardwareProfile& profile, const JobShape& job, int64_t tokens,
                         const SelectionSource& select, int64_t samples = 9);

}  // namespace longspan

#endif  // LONGSPAN_SHARDING_PREDICTION_H_
