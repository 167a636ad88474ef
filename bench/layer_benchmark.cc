// One layer of the shipped model's shape (random weights, configs/needle.yaml's ESA settings) on
// ranks as threads: a prefill chunk and a decoded token behind a context of several lengths. With
// more ranks than cores the times are those of ranks that share cores.
#include <benchmark/benchmark.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "collectives/thread_communicator.h"
#include "kernels/base/convert.h"
#include "kernels/base/status_macros.h"
#include "runtime/cpu_transformer.h"
#include "runtime/model.h"
#include "tests/reference/random_model.h"

namespace longspan {
namespace {

const RandomModel& NeedleLayer() {
  static const auto* model = [] {
    RandomModelOptions options;
    options.hidden_size = 384;
    options.intermediate_size = 768;
    options.num_layers = 1;
    options.num_heads = 6;
    options.num_kv_heads = 2;
    options.head_dim = 64;
    options.compressed_dim = 32;
    return new RandomModel(MakeRandomModel(options));
  }();
  return *model;
}

Config NeedleConfig(Attention attention, bool deterministic) {
  Config config;
  config.attention = attention;
  config.deterministic = deterministic;
  config.esa.initial_tokens = 32;
  config.esa.local_tokens = 512;
  config.esa.top_k = 256;
  config.esa.selection_block = 256;
  config.esa.compressed_dim = 32;
  return config;
}

// One rank with a cache whose first `context` positions hold noise.
class LayerRank {
 public:
  LayerRank(const Config& config, Communicator* communicator)
      : config_(config),
        rope_(InverseFrequencies(NeedleLayer().config.rope, NeedleLayer().config.head_dim)),
        context_(
            MakeAttentionContext(config, NeedleLayer().config, communicator, &rope_, &counts_)),
        pool_(context_.kv, 1 << 20),
        cache_(&pool_, context_.layout, communicator->rank()) {
    if (context_.selects) context_.factors = MakeScoreFactors(NeedleLayer().compressor);
    transformer_ =
        std::make_unique<CpuTransformer>(NeedleLayer().config, NeedleLayer().weights, context_);
  }

  absl::Status Fill(int64_t context) {
    capacity_ = context + config_.prefill_chunk_tokens;
    LONGSPAN_RETURN_IF_ERROR(cache_.Reserve(capacity_));
    std::minstd_rand generator(1);
    std::uniform_real_distribution<float> noise(-1, 1);
    std::vector<float> row(context_.kv.kv_dim);
    const auto write = [&](int64_t count, std::byte* to) {
      for (int64_t i = 0; i < count; ++i) row[i] = noise(generator);
      ConvertFromFloat(row.data(), count, context_.kv.dtype, to);
    };
    for (int64_t p = 0; p < context; ++p) {
      if (context_.layout.owner(p) == context_.communicator->rank()) {
        write(context_.kv.kv_dim, cache_.Key(0, p));
        write(context_.kv.kv_dim, cache_.Value(0, p));
      }
      if (context_.kv.score_dim == 0) continue;
      for (const int64_t page : cache_.PagesNear(p)) {
        write(context_.kv.score_dim, cache_.ScoreKey(0, page, p));
      }
    }
    return absl::OkStatus();
  }

  absl::Status PrefillChunk(int64_t context) {
    const Range tokens = {context, context + config_.prefill_chunk_tokens};
    const std::vector<int32_t> ids =
        RandomTokens(1, tokens.size(), NeedleLayer().config.vocab_size);
    return transformer_->Prefill(
        PlanChunk(context_, config_.esa.selection_block, &cache_, tokens, capacity_), ids,
        Transformer::Outputs::kAll);
  }

  absl::Status DecodeToken(int64_t context) {
    return transformer_->Decode({{&cache_, context}}, {1});
  }

 private:
  const Config& config_;
  Rope rope_;
  AttentionCounts counts_;
  AttentionContext context_;
  PagePool pool_;
  KvShard cache_;
  std::unique_ptr<Transformer> transformer_;
  int64_t capacity_ = 0;
};

using Step = absl::FunctionRef<absl::Status(LayerRank&)>;

// Rank 0 is the benchmark's thread, and tells the others whether there is one more iteration.
absl::Status Iterate(benchmark::State& state, Communicator& communicator, LayerRank& rank,
                     Step step) {
  const auto more = [&](bool is_more) -> absl::StatusOr<bool> {
    LONGSPAN_RETURN_IF_ERROR(communicator.Broadcast("bench.more", &is_more, sizeof(is_more), 0));
    return is_more;
  };
  if (communicator.rank() == 0) {
    for (auto _ : state) {
      LONGSPAN_RETURN_IF_ERROR(more(true).status());
      LONGSPAN_RETURN_IF_ERROR(step(rank));
    }
    return more(false).status();
  }
  while (true) {
    LONGSPAN_ASSIGN_OR_RETURN(const bool is_more, more(true));
    if (!is_more) return absl::OkStatus();
    LONGSPAN_RETURN_IF_ERROR(step(rank));
  }
}

void RunLayer(benchmark::State& state, Config config, Step step) {
  const auto ranks = static_cast<int>(state.range(0));
  absl::Status status = ResolveConfig(ranks, &config);
  if (status.ok()) {
    status = RunThreadRanks(ranks, [&](Communicator& communicator) -> absl::Status {
      LayerRank rank(config, &communicator);
      LONGSPAN_RETURN_IF_ERROR(rank.Fill(state.range(1)));
      return Iterate(state, communicator, rank, step);
    });
  }
  if (!status.ok()) state.SkipWithError(std::string(status.message()).c_str());
}

void BM_PrefillChunk(benchmark::State& state, Attention attention, bool deterministic) {
  const Config config = NeedleConfig(attention, deterministic);
  RunLayer(state, config, [&](LayerRank& rank) { return rank.PrefillChunk(state.range(1)); });
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(config.prefill_chunk_tokens),
                                                  benchmark::Counter::kIsIterationInvariantRate);
}

void BM_DecodeToken(benchmark::State& state, Attention attention, bool deterministic) {
  RunLayer(state, NeedleConfig(attention, deterministic),
           [&](LayerRank& rank) { return rank.DecodeToken(state.range(1)); });
}

void RanksAndContexts(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"ranks", "context"})->ArgsProduct({{1, 4}, {8192, 32768, 131072}});
  benchmark->UseRealTime();
}

BENCHMARK_CAPTURE(BM_PrefillChunk, esa, Attention::kEsa, false)
    ->Apply(RanksAndContexts)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_PrefillChunk, esa_deterministic, Attention::kEsa, true)
    ->Apply(RanksAndContexts)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_PrefillChunk, dense, Attention::kDense, false)
    ->Apply(RanksAndContexts)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_DecodeToken, esa, Attention::kEsa, false)
    ->Apply(RanksAndContexts)
    ->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(BM_DecodeToken, esa_deterministic, Attention::kEsa, true)
    ->Apply(RanksAndContexts)
    ->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(BM_DecodeToken, dense, Attention::kDense, false)
    ->Apply(RanksAndContexts)
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace longspan
