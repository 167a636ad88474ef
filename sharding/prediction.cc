#include "sharding/prediction.h"

#include <algorithm>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "sharding/step_schedule.h"

namespace longspan {
namespace {

Prediction ResultOf(const Simulator& simulator) {
  Prediction result;
  result.seconds = simulator.seconds();
  for (int p = 0; p < kNumPhases; ++p) {
    result.mean[p] = simulator.MeanSeconds(static_cast<Phase>(p));
    result.most[p] = simulator.MostSeconds(static_cast<Phase>(p));
  }
  result.imbalance = simulator.mean_imbalance();
  result.exchange = simulator.mean_exchange();
  for (const auto& [name, totals] : simulator.calls()) result.calls[std::string(name)] = totals;
  return result;
}

// One layer among others of its kind: the second of two, since ranks enter it as they left the one
// before.
Prediction PredictLayer(const HardwareProfile& profile, int ranks, const LayerProgram& program) {
  Simulator simulator(profile, ranks);
  simulator.Run(program);
  const Prediction first = ResultOf(simulator);
  simulator.Run(program);
  Prediction second = ResultOf(simulator);
  second.Add(first, -1);
  return second;
}

// Which of `count` chunks to simulate: denser at the beginning, where blocks do not have all that
// they may attend to yet.
std::vector<int64_t> SampleChunks(int64_t count, int64_t samples) {
  if (samples == 1) return {count / 2};
  std::vector<int64_t> sampled;
  for (int64_t s = 0; s < samples; ++s) {
    sampled.push_back(std::max(s, s * s * (count - 1) / ((samples - 1) * (samples - 1))));
  }
  return sampled;
}

// A forward pass but its layers.
struct Step {
  int64_t prompt_tokens = 0, decoded_tokens = 0;
  int64_t logits = 0;
  int logits_rank = 0;  // that makes them; rank 0 needs them
};

Prediction PredictStep(const HardwareProfile& profile, const JobShape& job, const Step& step) {
  Simulator simulator(profile, job.ranks());
  for (Collective& call : BroadcastPlan(PlanWords(step.prompt_tokens, step.decoded_tokens))) {
    simulator.Run({Phase::kOtherExchange, std::move(call)});
  }
  if (step.logits > 0) {
    Compute compute = {Kernel::kLinearFew, std::vector<Work>(job.ranks())};
    compute.work[step.logits_rank] = LogitsWork(job.model, step.logits);
    simulator.Run({Phase::kOtherCompute, compute});
    if (step.prompt_tokens > 0) {
      simulator.Run({Phase::kOtherExchange, SendLastLogits(step.logits_rank, job.model.vocab)});
    }
  }
  Prediction result = ResultOf(simulator);
  const int phase = static_cast<int>(Phase::kOtherCompute);
  result.seconds += profile.step_s;
  result.mean[phase] += profile.step_s;
  result.most[phase] += profile.step_s;
  return result;
}

// Draws that do not depend on the library's distributions.
class Draws {
 public:
  explicit Draws(uint64_t seed) : random_(seed) {}

  // `count` different numbers below `size`, ascending.
  std::vector<int64_t> Take(int64_t count, int64_t size) {
    count = std::min(count, size);
    if (count <= size / 2) return TakeFew(count, size);
    // Those that are left are fewer, and soon found.
    const std::vector<int64_t> left = TakeFew(size - count, size);
    std::vector<int64_t> taken;
    auto next = left.begin();
    for (int64_t number = 0; number < size; ++number) {
      if (next != left.end() && *next == number) {
        ++next;
      } else {
        taken.push_back(number);
      }
    }
    return taken;
  }

 private:
  std::vector<int64_t> TakeFew(int64_t count, int64_t size) {
    std::vector<int64_t> taken;
    while (static_cast<int64_t>(taken.size()) < count) {
      for (auto i = static_cast<int64_t>(taken.size()); i < count; ++i) {
        taken.push_back(static_cast<int64_t>(random_() % static_cast<uint64_t>(size)));
      }
      std::sort(taken.begin(), taken.end());
      taken.erase(std::unique(taken.begin(), taken.end()), taken.end());
    }
    return taken;
  }

  std::mt19937_64 random_;
};

}  // namespace

SelectionSource DrawUniformly(const JobShape& job, uint64_t seed) {
  return [k = job.layer.top_k, draws = std::make_shared<Draws>(seed)](Range, Range middle) {
    std::vector<int64_t> positions = draws->Take(k, middle.size());
    for (int64_t& position : positions) position += middle.begin;
    return positions;
  };
}

SelectionSource DrawFromRank(const JobShape& job, int rank, uint64_t seed) {
  return [k = job.layer.top_k, layout = job.layer.layout, rank,
          draws = std::make_shared<Draws>(seed)](Range, Range middle) {
    std::vector<int64_t> positions;
    const std::vector<Range> runs = layout.OwnedRuns(rank, middle);
    int64_t before = 0;  // owned positions of earlier runs
    auto run = runs.begin();
    for (const int64_t index : draws->Take(k, CountTokens(runs))) {
      while (index - before >= run->size()) before += (run++)->size();
      positions.push_back(run->begin + index - before);
    }
    return positions;
  };
}

void Prediction::Add(const Prediction& other, double times) {
  seconds += other.seconds * times;
  for (int p = 0; p < kNumPhases; ++p) {
    mean[p] += other.mean[p] * times;
    most[p] += other.most[p] * times;
  }
  imbalance += other.imbalance * times;
  exchange += other.exchange * times;
  for (const auto& [name, totals] : other.calls) {
    CallTotals& sum = calls[name];
    sum.calls += totals.calls * times;
    sum.bytes += totals.bytes * times;
  }
}

Prediction PredictDecode(const HardwareProfile& profile, const JobShape& job,
                         absl::Span<const int64_t> contexts, const SelectionSource& select) {
  std::vector<int64_t> positions;
  for (const int64_t context : contexts) positions.push_back(context - 1);
  const auto tokens = static_cast<int64_t>(contexts.size());
  Prediction result = PredictStep(profile, job, {.decoded_tokens = tokens, .logits = tokens});
  result.Add(PredictLayer(profile, job.ranks(), DecodeProgram(job, positions, select)),
             static_cast<double>(job.model.layers));
  return result;
}

Prediction PredictChunk(const HardwareProfile& profile, const JobShape& job,
                        const ChunkShape& chunk, bool is_last, const SelectionSource& select) {
  const auto blocks =
      static_cast<int64_t>(SelectionBlocks(chunk.tokens, job.model.block_tokens).size());
  Prediction result = PredictStep(profile, job,
                                  {.prompt_tokens = chunk.tokens.size(),
                                   .logits = is_last ? 1 : 0,
                                   .logits_rank = job.layer.layout.owner(chunk.tokens.end - 1)});
  result.Add(PredictLayer(profile, job.ranks(), PrefillProgram(job, chunk, blocks, select)),
             static_cast<double>(job.model.layers - 1));
  result.Add(
      PredictLayer(profile, job.ranks(), PrefillProgram(job, chunk, is_last ? 1 : 0, select)), 1);
  return result;
}

Prediction PredictPrompt(const HardwareProfile& profile, const JobShape& job, int64_t tokens,
                         const SelectionSource& select, int64_t samples) {
  const int64_t chunk = job.model.chunk_tokens;
  const int64_t chunks = (tokens + chunk - 1) / chunk;
  const auto predict = [&](int64_t index) {
    const Range range = {index * chunk, std::min(tokens, (index + 1) * chunk)};
    return PredictChunk(profile, job, {range, tokens}, index + 1 == chunks, select);
  };
  // The last chunk may be shorter, and gives logits: it is always simulated.
  Prediction result = predict(chunks - 1);
  const int64_t others = chunks - 1;
  const std::vector<int64_t> sampled =
      SampleChunks(others, std::min(std::max<int64_t>(samples, 1), others));
  for (size_t s = 0; s < sampled.size(); ++s) {
    // A chunk between two samples is half of each, on average; one outside is as the nearest.
    const int64_t at = sampled[s];
    const double before =
        s == 0 ? static_cast<double>(at) : static_cast<double>(at - sampled[s - 1] - 1) / 2;
    const double behind = s + 1 == sampled.size()
                              ? static_cast<double>(others - at - 1)
                              : static_cast<double>(sampled[s + 1] - at - 1) / 2;
    result.Add(predict(at), before + 1 + behind);
  }
  return result;
}

}  // namespace longspan
