// The whole job through runtime/engine.h: one random prompt of the shipped model, and 64 decoded
// tokens, on ranks as threads. The time includes loading.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "collectives/thread_communicator.h"
#include "kernels/base/status_macros.h"
#include "runtime/config.h"
#include "runtime/engine.h"

namespace longspan {
namespace {

constexpr int64_t kDecoded = 64;

Request RandomRequest(int64_t prompt_tokens, int64_t vocab_size) {
  std::mt19937_64 generator(1);
  Request request;
  for (int64_t i = 0; i < prompt_tokens; ++i) {
    request.prompt.push_back(static_cast<int32_t>(generator() % static_cast<uint64_t>(vocab_size)));
  }
  request.sampling.max_tokens = kDecoded;
  request.sampling.temperature = 0;
  request.sampling.ignore_eos = true;
  return request;
}

absl::Status RunJob(const Config& config, int64_t prompt_tokens, Communicator& communicator,
                    EngineStats* stats) {
  LONGSPAN_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine,
                            Engine::Create(config, &communicator));
  if (communicator.rank() != 0) return engine->RunWorker();
  LONGSPAN_RETURN_IF_ERROR(
      engine->Submit(RandomRequest(prompt_tokens, engine->vocab_size())).status());
  while (engine->HasWork()) LONGSPAN_RETURN_IF_ERROR(engine->Step().status());
  LONGSPAN_ASSIGN_OR_RETURN(*stats, engine->Shutdown());
  return absl::OkStatus();
}

absl::StatusOr<Config> NeedleConfig(int ranks, absl::string_view attention) {
  const std::string root = LONGSPAN_SOURCE_DIR;
  LONGSPAN_ASSIGN_OR_RETURN(Config config,
                            LoadConfig(root + "/configs/needle.yaml", root + "/models/needle",
                                       {{"attention", std::string(attention)}}));
  LONGSPAN_RETURN_IF_ERROR(ResolveConfig(ranks, &config));
  return config;
}

void BM_Job(benchmark::State& state, absl::string_view attention) {
  const auto ranks = static_cast<int>(state.range(0));
  const int64_t prompt_tokens = state.range(1);
  const absl::StatusOr<Config> config = NeedleConfig(ranks, attention);
  absl::Status status = config.status();
  EngineStats stats;
  for (auto _ : state) {
    if (!status.ok()) continue;
    status = RunThreadRanks(ranks, [&](Communicator& communicator) {
      return RunJob(*config, prompt_tokens, communicator, &stats);
    });
  }
  if (!status.ok()) return state.SkipWithError(std::string(status.message()).c_str());
  state.counters["prompt_tokens/s"] = static_cast<double>(stats.prompt_tokens) / stats.prefill_s;
  state.counters["decode_tokens/s"] = static_cast<double>(stats.decoded_tokens) / stats.decode_s;
  state.counters["attended_share"] =
      static_cast<double>(stats.attended_keys) / static_cast<double>(stats.dense_keys);
}

void RanksAndPrompts(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"ranks", "prompt"})->ArgsProduct({{1, 4}, {8192, 32768, 131072}});
  benchmark->UseRealTime()->Unit(benchmark::kSecond)->Iterations(1);
}

BENCHMARK_CAPTURE(BM_Job, esa, "esa")->Apply(RanksAndPrompts);
BENCHMARK_CAPTURE(BM_Job, streaming, "streaming")->Apply(RanksAndPrompts);
BENCHMARK_CAPTURE(BM_Job, dense, "dense")
    ->ArgNames({"ranks", "prompt"})
    ->ArgsProduct({{1, 4}, {8192}})
    ->UseRealTime()
    ->Unit(benchmark::kSecond)
    ->Iterations(1);

}  // namespace
}  // namespace longspan
