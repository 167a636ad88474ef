#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "launcher/bench_runs.h"
#include "launcher/bootstrap.h"
#include "launcher/engine_runs.h"
#include "launcher/subcommand.h"
#include "runtime/engine.h"
#include "runtime/model_config.h"

// `bench decode` and `bench prefill`: prompts of random tokens through the engine, as generate runs
// them.
namespace longspan {
namespace {

constexpr int64_t kDecodedTokens = 32;
constexpr int64_t kPrompts = 1;
constexpr int64_t kWarmupChunks = 2;

// Rank 0's side of one job. An error is fatal for it; `refusal` is anything else that ends it
// early.
absl::StatusOr<std::vector<BenchRow>> MeasurePrefill(const BenchOptions& options,
                                                     const BenchShape& shape, Engine& engine,
                                                     absl::Status* refusal) {
  const int64_t repeats = options.repeat.value_or(kPrompts);
  const auto warmup = [&](int64_t tokens) {
    return std::min(tokens, kWarmupChunks * shape.chunk_tokens);
  };
  double work = 0;
  for (const int64_t tokens : options.contexts) {
    work += static_cast<double>(tokens * options.batch * repeats + warmup(tokens));
  }
  const auto lengths = static_cast<int64_t>(options.contexts.size());
  EngineRuns runs(engine, options.progress, work, lengths * (options.batch * repeats + 1));
  uint64_t seed = 1;
  std::vector<BenchRow> rows;
  for (const int64_t tokens : options.contexts) {
    const auto run = [&](int64_t prompts, int64_t length) {
      seed += static_cast<uint64_t>(prompts);
      return runs.Run({.prompts = RandomPrompts(seed, prompts, length, engine.vocab_size())});
    };
    LONGSPAN_RETURN_IF_ERROR(run(1, warmup(tokens)).status());
    std::vector<double> seconds;
    for (int64_t i = 0; i < repeats && runs.refusal().ok(); ++i) {
      LONGSPAN_ASSIGN_OR_RETURN(const RunTimes times, run(options.batch, tokens));
      seconds.push_back(times.seconds);
    }
    *refusal = runs.refusal();
    if (!refusal->ok()) break;
    BenchRow& row = rows.emplace_back();
    row.name = "prefill";
    row.shape = absl::StrCat(options.batch, " x ", tokens, " tokens");
    row.batch = options.batch;
    row.context = tokens;
    row.timing = Summarize(std::move(seconds));
    row.work = PromptWork(shape, tokens) * static_cast<double>(options.batch);
    row.tokens = static_cast<double>(tokens * options.batch);
  }
  return rows;
}

absl::StatusOr<std::vector<BenchRow>> MeasureDecode(const BenchOptions& options,
                                                    const BenchShape& shape, Engine& engine,
                                                    absl::Status* refusal) {
  const int64_t steps = options.repeat.value_or(kDecodedTokens);
  double work = 0;
  for (const int64_t context : options.contexts) {
    work += static_cast<double>((context + GeneratedTokens(1, steps, 0)) * options.batch);
  }
  const auto lengths = static_cast<int64_t>(options.contexts.size());
  EngineRuns runs(engine, options.progress, work, lengths * options.batch);
  uint64_t seed = 1;
  std::vector<BenchRow> rows;
  for (const int64_t context : options.contexts) {
    Prompts prompts = RandomPrompts(seed, options.batch, context, engine.vocab_size());
    seed += static_cast<uint64_t>(options.batch);
    LONGSPAN_ASSIGN_OR_RETURN(RunTimes times,
                              runs.Run({.prompts = std::move(prompts), .steps = steps}));
    *refusal = runs.refusal();
    if (!refusal->ok()) break;
    BenchRow& row = rows.emplace_back();
    row.name = "decode";
    row.shape = absl::StrCat(options.batch, " x 1 token behind ", context);
    row.batch = options.batch;
    row.context = context;
    row.timing = Summarize(std::move(times.decodes));
    row.work = DecodeWork(shape, context, options.batch);
    row.tokens = static_cast<double>(options.batch);
  }
  return rows;
}

int64_t Longest(const BenchOptions& options) {
  return *std::max_element(options.contexts.begin(), options.contexts.end());
}

// One of the two on all ranks.
struct EngineJob {
  const BenchOptions& options;
  const char* name;
  absl::StatusOr<std::vector<BenchRow>> (*measure)(const BenchOptions& options,
                                                   const BenchShape& shape, Engine& engine,
                                                   absl::Status* refusal);
  BenchReport report;

  absl::StatusOr<int> Run(const Config& config, Communicator& communicator) {
    LONGSPAN_ASSIGN_OR_RETURN(const auto engine, Engine::Create(config, &communicator));
    CatchStopSignals();
    return RunOrAbort(communicator, [&]() -> absl::StatusOr<int> {
      if (communicator.rank() == 0) return Drive(*engine, communicator.size());
      LONGSPAN_RETURN_IF_ERROR(engine->RunWorker());
      return kExitOk;
    });
  }

  absl::StatusOr<int> Drive(Engine& engine, int ranks) {
    // All ranks have just read it.
    LONGSPAN_ASSIGN_OR_RETURN(const ModelConfig model, LoadModelConfig(engine.config().model));
    report.benchmark = name;
    report.shape = MakeBenchShape(engine.config(), model, ranks);
    absl::Status refusal;
    LONGSPAN_ASSIGN_OR_RETURN(report.rows, measure(options, report.shape, engine, &refusal));
    LONGSPAN_RETURN_IF_ERROR(engine.Shutdown().status());
    if (refusal.ok()) refusal = FinishBench(options, std::move(report));
    return refusal.ok() ? int{kExitOk} : ReportError(refusal, 0);
  }
};

}  // namespace

absl::StatusOr<int> BenchDecode(const BenchOptions& options) {
  EngineJob job = {options, "decode", MeasureDecode, {}};
  const auto prepare = [&](const Config& config) -> absl::StatusOr<bool> {
    const int64_t decoded = options.repeat.value_or(kDecodedTokens);
    LONGSPAN_ASSIGN_OR_RETURN(
        job.report.machine,
        PrepareBench(options, config, options.batch,
                     Longest(options) + GeneratedTokens(options.batch, decoded, 0)));
    return true;
  };
  return RunOnRanks(RankJob{prepare, [&job](const Config& config, Communicator& communicator) {
                              return job.Run(config, communicator);
                            }});
}

absl::StatusOr<int> BenchPrefill(const BenchOptions& options) {
  EngineJob job = {options, "prefill", MeasurePrefill, {}};
  const auto prepare = [&](const Config& config) -> absl::StatusOr<bool> {
    LONGSPAN_ASSIGN_OR_RETURN(job.report.machine,
                              PrepareBench(options, config, /*sequences=*/1, Longest(options)));
    return true;
  };
  return RunOnRanks(RankJob{prepare, [&job](const Config& config, Communicator& communicator) {
                              return job.Run(config, communicator);
                            }});
}

}  // namespace longspan
