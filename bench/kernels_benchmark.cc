// One kernel on one core, at the shapes of one layer. FLOP/s count two for a multiply and add.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <random>
#include <vector>

#include "kernels/attention.h"
#include "kernels/base/lane_gemm.h"
#include "kernels/linear.h"
#include "kernels/score.h"
#include "kernels/select.h"
#include "sharding/topk_merge.h"

namespace longspan {
namespace {

struct Shape {
  AttentionShape attention;
  int64_t hidden, intermediate;
  int64_t score_dim;
  int64_t block;  // esa.selection_block
  int64_t initial, local, top_k;
};

// The shipped model with configs/needle.yaml, and Llama 3 8B with the default ESA settings.
constexpr Shape kNeedle = {{6, 2, 64}, 384, 768, 32, 256, 32, 512, 256};
constexpr Shape kLlama8B = {{32, 8, 128}, 4096, 14336, 128, 512, 128, 4096, 2048};

std::vector<float> RandomFloats(int64_t count) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

void CountFlops(benchmark::State& state, double flops) {
  state.counters["FLOP/s"] =
      benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

void CountKeys(benchmark::State& state, int64_t keys) {
  state.counters["keys/s"] =
      benchmark::Counter(static_cast<double>(keys), benchmark::Counter::kIsIterationInvariantRate);
}

// A block of queries and `keys` keys of one rank.
struct ScoreData {
  ScoreData(const Shape& shape, int64_t num_keys)
      : panels(NumPanels(shape.block) * shape.score_dim * kPanelLanes),
        keys(RandomFloats(num_keys * shape.score_dim)),
        maxima(NumPanels(shape.block) * kPanelLanes, 0.0f),
        scores(num_keys) {
    const std::vector<float> rows = RandomFloats(shape.block * shape.score_dim);
    PackQueries(rows.data(), shape.block, shape.score_dim, shape.score_dim, panels.data());
  }

  std::vector<float> panels, keys, maxima, scores;
};

// With the maxima of tiles, as the runtime asks for them.
void BM_ScoreMaxima(benchmark::State& state, const Shape& shape) {
  const int64_t keys = state.range(0);
  ScoreData data(shape, keys);
  ScoreMaximaArgs args;
  args.queries = data.panels.data();
  args.num_panels = NumPanels(shape.block);
  args.dim = shape.score_dim;
  args.keys = {data.keys.data(), DType::kFloat32, keys};
  args.maxima = data.maxima.data();
  std::vector<float> tile_maxima(NumTiles(keys, args.tile_keys) * data.maxima.size());
  args.tile_maxima = tile_maxima.data();
  for (auto _ : state) {
    ScoreMaxima(args);
    benchmark::ClobberMemory();
  }
  CountFlops(state, 2.0 * shape.block * keys * shape.score_dim);
}

void BM_ScoreBlock(benchmark::State& state, const Shape& shape) {
  const int64_t keys = state.range(0);
  ScoreData data(shape, keys);
  ScoreBlockArgs args;
  args.queries = data.panels.data();
  args.num_queries = shape.block;
  args.dim = shape.score_dim;
  args.keys = {data.keys.data(), DType::kFloat32, keys};
  args.maxima = data.maxima.data();
  args.scores = data.scores.data();
  for (auto _ : state) {
    ScoreBlock(args);
    benchmark::ClobberMemory();
  }
  CountFlops(state, 2.0 * shape.block * keys * shape.score_dim);
}

// Bound by reading the keys.
void BM_ScoreToken(benchmark::State& state, const Shape& shape) {
  const int64_t keys = state.range(0);
  ScoreData data(shape, keys);
  const std::vector<float> query = RandomFloats(shape.score_dim);
  for (auto _ : state) {
    ScoreToken(query.data(), shape.score_dim, {data.keys.data(), DType::kFloat32, keys},
               data.scores.data());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * keys * shape.score_dim * 4);
}

// Proximity and the local top-k of one block.
void BM_Select(benchmark::State& state, const Shape& shape) {
  const int64_t keys = state.range(0);
  const std::vector<float> scores = RandomFloats(keys);
  std::vector<float> spread(keys);
  std::vector<Candidate> candidates(shape.top_k);
  TopK top(shape.top_k);
  for (auto _ : state) {
    Proximity(scores.data(), keys, /*proximity=*/1, 0, keys, spread.data());
    top.Add(spread.data(), keys, 0);
    top.Take(candidates.data());
    benchmark::ClobberMemory();
  }
  CountKeys(state, keys);
}

// The merge of what `ranks` ranks propose for one block.
void BM_MergeTopK(benchmark::State& state, const Shape& shape) {
  const std::vector<float> scores = RandomFloats(state.range(0) * shape.top_k);
  std::vector<Candidate> candidates(scores.size());
  for (size_t i = 0; i < scores.size(); ++i) {
    candidates[i] = PackCandidate(scores[i], static_cast<int64_t>(i));
  }
  std::vector<Candidate> work(candidates.size());
  for (auto _ : state) {
    std::copy(candidates.begin(), candidates.end(), work.begin());
    benchmark::DoNotOptimize(MergeTopK(absl::MakeSpan(work), shape.top_k));
  }
  CountKeys(state, static_cast<int64_t>(candidates.size()));
}

// `queries` consecutive queries over the initial, selected and local keys. Every tile has the same
// keys: what is measured is the arithmetic.
void Attend(benchmark::State& state, const Shape& shape, int64_t queries) {
  const AttentionShape& attention = shape.attention;
  constexpr int64_t kPosition = int64_t{1} << 20;
  KeyTile tile(attention);
  tile.keys = RandomFloats(attention.kv_dim() * kAttentionTile);
  tile.values = RandomFloats(attention.kv_dim() * kAttentionTile);
  tile.count = kAttentionTile;
  const std::vector<float> rows = RandomFloats(queries * attention.query_dim());
  std::vector<float> output(rows.size());
  const int64_t far = shape.initial + shape.top_k;
  BlockAttention block(attention);
  for (auto _ : state) {
    block.Reset(rows.data(), rows.data(), queries, kPosition);
    for (int64_t k = 0; k < far; k += kAttentionTile) block.AttendFar(tile);
    for (int64_t k = kPosition - shape.local; k < kPosition + queries; k += kAttentionTile) {
      for (int64_t i = 0; i < kAttentionTile; ++i) tile.positions[i] = k + i;
      block.AttendNear(tile);
    }
    block.Finish(output.data(), nullptr);
    benchmark::ClobberMemory();
  }
  const double keys = static_cast<double>(far + shape.local) + 0.5 * static_cast<double>(queries);
  CountFlops(state, 4.0 * static_cast<double>(queries * attention.query_dim()) * keys);
}

void BM_AttentionBlock(benchmark::State& state, const Shape& shape) {
  Attend(state, shape, shape.block);
}

void BM_AttentionToken(benchmark::State& state, const Shape& shape) { Attend(state, shape, 1); }

LinearArgs MlpUp(const Shape& shape, const std::vector<float>& x, const std::vector<float>& weight,
                 int64_t rows, std::vector<float>* y) {
  y->resize(rows * shape.intermediate);
  LinearArgs args;
  args.x = x.data();
  args.rows = rows;
  args.in = shape.hidden;
  args.weight = weight.data();
  args.out = shape.intermediate;
  args.y = y->data();
  return args;
}

// The MLP's up projection of so many rows; the second argument is panel_rows (0: not
// deterministic).
void BM_Linear(benchmark::State& state, const Shape& shape) {
  const int64_t rows = state.range(0);
  const std::vector<float> x = RandomFloats(rows * shape.hidden);
  const std::vector<float> weight = RandomFloats(shape.hidden * shape.intermediate);
  std::vector<float> y;
  const LinearArgs args = MlpUp(shape, x, weight, rows, &y);
  for (auto _ : state) {
    Linear(args, state.range(1));
    benchmark::ClobberMemory();
  }
  CountFlops(state, 2.0 * static_cast<double>(rows * shape.hidden * shape.intermediate));
}

// Bound by reading the weight.
void BM_LinearFewRows(benchmark::State& state, const Shape& shape) {
  const int64_t rows = state.range(0);
  const std::vector<float> x = RandomFloats(rows * shape.hidden);
  const std::vector<float> weight = RandomFloats(shape.hidden * shape.intermediate);
  std::vector<float> y;
  const LinearArgs args = MlpUp(shape, x, weight, rows, &y);
  for (auto _ : state) {
    LinearFewRows(args);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * shape.hidden * shape.intermediate * 4);
}

#define LONGSPAN_BENCHMARK(function)                                           \
  BENCHMARK_CAPTURE(function, needle, kNeedle)->Unit(benchmark::kMicrosecond); \
  BENCHMARK_CAPTURE(function, llama_8b, kLlama8B)->Unit(benchmark::kMicrosecond)
#define LONGSPAN_BENCHMARK_ARGS(function, ...)                                              \
  BENCHMARK_CAPTURE(function, needle, kNeedle)->Unit(benchmark::kMicrosecond)->__VA_ARGS__; \
  BENCHMARK_CAPTURE(function, llama_8b, kLlama8B)->Unit(benchmark::kMicrosecond)->__VA_ARGS__

LONGSPAN_BENCHMARK_ARGS(BM_ScoreMaxima, Arg(8192));
LONGSPAN_BENCHMARK_ARGS(BM_ScoreBlock, Arg(8192));
LONGSPAN_BENCHMARK_ARGS(BM_ScoreToken, Arg(8192)->Arg(65536));
LONGSPAN_BENCHMARK_ARGS(BM_Select, Arg(8192)->Arg(65536));
LONGSPAN_BENCHMARK_ARGS(BM_MergeTopK, ArgName("ranks")->Arg(4)->Arg(16));
LONGSPAN_BENCHMARK(BM_AttentionBlock);
LONGSPAN_BENCHMARK(BM_AttentionToken);
LONGSPAN_BENCHMARK_ARGS(BM_Linear, ArgNames({"rows", "panel"})->Args({1024, 0})->Args({1024, 64}));
LONGSPAN_BENCHMARK_ARGS(BM_LinearFewRows, ArgName("rows")->Arg(1)->Arg(8));

}  // namespace
}  // namespace longspan
