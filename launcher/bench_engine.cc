#include <algorithm>
#include <cstdio>
#include <map>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "launcher/bench_runs.h"
#include "launcher/bootstrap.h"
#include "launcher/progress.h"
#include "launcher/subcommand.h"
#include "runtime/clock.h"
#include "runtime/engine.h"
#include "runtime/model_config.h"

// `bench decode` and `bench prefill`: prompts of random tokens through the engine, as generate runs
// them.
namespace longspan {
namespace {

constexpr int64_t kWarmupTokens = 2;  // the first steps choose algorithms and record graphs
constexpr int64_t kDecodedTokens = 32;
constexpr int64_t kPrompts = 1;
constexpr int64_t kWarmupChunks = 2;

// Of a sequence before `others`: prompts take turns, so that each ends one step after the other.
int64_t DecodedTokens(int64_t others, int64_t steps) { return 1 + others + kWarmupTokens + steps; }

// Rank 0's side of one job.
class EngineBench {
 public:
  EngineBench(const BenchOptions& options, Engine& engine)
      : options_(options),
        engine_(engine),
        progress_(options.progress, stderr, MonotonicSeconds()) {}

  // An error is fatal for the job. Anything else that ends a benchmark early is in refusal().
  absl::StatusOr<std::vector<BenchRow>> Prefill(const BenchShape& shape);
  absl::StatusOr<std::vector<BenchRow>> Decode(const BenchShape& shape);
  const absl::Status& refusal() const { return refusal_; }

 private:
  bool goes_on() {
    if (refusal_.ok() && StopRequested()) {
      refusal_ = absl::CancelledError("stopped by a signal before all was measured");
    }
    return refusal_.ok();
  }
  bool all_are_prefilled() const { return prefilled_ == open_; }

  void Submit(int64_t tokens, int64_t decoded);
  absl::StatusOr<double> TimedStep(size_t* updates);
  absl::StatusOr<double> PromptSeconds(int64_t tokens, int64_t prompts);
  absl::StatusOr<std::vector<double>> DecodeSeconds(int64_t context, int64_t steps);

  const BenchOptions& options_;
  Engine& engine_;
  Progress progress_;
  ProgressState state_;
  double work_ = 0;                         // tokens of all that there is to do
  std::map<int64_t, int64_t> tokens_done_;  // of the prompt of each open request
  size_t open_ = 0, prefilled_ = 0;         // requests
  uint64_t seed_ = 1;
  absl::Status refusal_;
};

void EngineBench::Submit(int64_t tokens, int64_t decoded) {
  if (!refusal_.ok()) return;
  std::mt19937_64 generator(seed_++);
  std::uniform_int_distribution<int32_t> any(0, static_cast<int32_t>(engine_.vocab_size()) - 1);
  Request request;
  request.prompt.resize(tokens);
  for (int32_t& id : request.prompt) id = any(generator);
  request.sampling.max_tokens = decoded;
  request.sampling.temperature = 0;
  request.sampling.ignore_eos = true;
  const absl::StatusOr<int64_t> id = engine_.Submit(std::move(request));
  refusal_.Update(id.status());
  if (id.ok()) ++open_;
}

absl::StatusOr<double> EngineBench::TimedStep(size_t* num_updates) {
  const double begin = MonotonicSeconds();
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<RequestUpdate> updates, engine_.Step());
  const double end = MonotonicSeconds();
  *num_updates = updates.size();
  for (const RequestUpdate& update : updates) {
    int64_t& done = tokens_done_[update.request];
    state_.prompt_tokens += update.prefilled - done;
    if (update.prefilled == update.prompt_tokens) {
      done == update.prompt_tokens ? ++state_.generated_tokens : (++prefilled_, ++state_.done);
    }
    done = update.prefilled;
  }
  state_.fraction = static_cast<double>(state_.prompt_tokens + state_.generated_tokens) / work_;
  progress_.Update(state_, end);
  return end - begin;
}

// Of so many prompts, one after the other.
absl::StatusOr<double> EngineBench::PromptSeconds(int64_t tokens, int64_t prompts) {
  tokens_done_.clear();
  open_ = prefilled_ = 0;
  for (int64_t i = 0; i < prompts; ++i) Submit(tokens, /*decoded=*/0);
  double seconds = 0;
  size_t updates = 0;
  while (engine_.HasWork() && goes_on()) {
    LONGSPAN_ASSIGN_OR_RETURN(const double step, TimedStep(&updates));
    seconds += step;
  }
  return seconds;
}

absl::StatusOr<std::vector<BenchRow>> EngineBench::Prefill(const BenchShape& shape) {
  const int64_t repeats = options_.repeat.value_or(kPrompts);
  for (const int64_t tokens : options_.contexts) {
    work_ += static_cast<double>(tokens * options_.batch * repeats);
    state_.total += options_.batch * repeats;
  }
  std::vector<BenchRow> rows;
  for (const int64_t tokens : options_.contexts) {
    const int64_t warmup = std::min(tokens, kWarmupChunks * shape.chunk_tokens);
    work_ += static_cast<double>(warmup);
    ++state_.total;
    LONGSPAN_RETURN_IF_ERROR(PromptSeconds(warmup, /*prompts=*/1).status());
    std::vector<double> seconds;
    for (int64_t i = 0; i < repeats && goes_on(); ++i) {
      LONGSPAN_ASSIGN_OR_RETURN(const double run, PromptSeconds(tokens, options_.batch));
      seconds.push_back(run);
    }
    if (!goes_on()) break;
    BenchRow& row = rows.emplace_back();
    row.name = "prefill";
    row.shape = absl::StrCat(options_.batch, " x ", tokens, " tokens");
    row.batch = options_.batch;
    row.context = tokens;
    row.timing = Summarize(std::move(seconds));
    row.work = PromptWork(shape, tokens) * static_cast<double>(options_.batch);
    row.tokens = static_cast<double>(tokens * options_.batch);
  }
  return rows;
}

// Of steps in which every sequence is behind its prompt.
absl::StatusOr<std::vector<double>> EngineBench::DecodeSeconds(int64_t context, int64_t steps) {
  tokens_done_.clear();
  open_ = prefilled_ = 0;
  for (int64_t i = 0; i < options_.batch; ++i) {
    Submit(context, DecodedTokens(options_.batch - 1 - i, steps));
  }
  std::vector<double> seconds;
  while (engine_.HasWork() && goes_on()) {
    const bool decodes = all_are_prefilled();
    size_t updates = 0;
    LONGSPAN_ASSIGN_OR_RETURN(const double step, TimedStep(&updates));
    if (decodes && updates == open_) seconds.push_back(step);
    if (engine_.num_waiting() == 0) continue;
    refusal_ = absl::ResourceExhaustedError(
        absl::StrCat("the cache does not hold ", options_.batch, " sequences of ", context,
                     " tokens at once: use a smaller --batch or --context"));
  }
  if (!goes_on()) return seconds;
  LONGSPAN_CHECK(static_cast<int64_t>(seconds.size()) == kWarmupTokens + steps);
  seconds.erase(seconds.begin(), seconds.begin() + kWarmupTokens);
  return seconds;
}

absl::StatusOr<std::vector<BenchRow>> EngineBench::Decode(const BenchShape& shape) {
  const int64_t steps = options_.repeat.value_or(kDecodedTokens);
  for (const int64_t context : options_.contexts) {
    work_ += static_cast<double>((context + kWarmupTokens + steps) * options_.batch);
    state_.total += options_.batch;
  }
  std::vector<BenchRow> rows;
  for (const int64_t context : options_.contexts) {
    LONGSPAN_ASSIGN_OR_RETURN(std::vector<double> seconds, DecodeSeconds(context, steps));
    if (!goes_on()) break;
    BenchRow& row = rows.emplace_back();
    row.name = "decode";
    row.shape = absl::StrCat(options_.batch, " x 1 token behind ", context);
    row.batch = options_.batch;
    row.context = context;
    row.timing = Summarize(std::move(seconds));
    row.work = DecodeWork(shape, context, options_.batch);
    row.tokens = static_cast<double>(options_.batch);
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
  absl::StatusOr<std::vector<BenchRow>> (EngineBench::*measure)(const BenchShape& shape);
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
    {
      EngineBench bench(options, engine);  // its progress bar goes before anything is printed
      LONGSPAN_ASSIGN_OR_RETURN(report.rows, (bench.*measure)(report.shape));
      refusal = bench.refusal();
    }
    LONGSPAN_RETURN_IF_ERROR(engine.Shutdown().status());
    if (refusal.ok()) refusal = FinishBench(options, std::move(report));
    return refusal.ok() ? int{kExitOk} : ReportError(refusal, 0);
  }
};

}  // namespace

absl::StatusOr<int> BenchDecode(const BenchOptions& options) {
  EngineJob job = {options, "decode", &EngineBench::Decode, {}};
  const auto prepare = [&](const Config& config) -> absl::StatusOr<bool> {
    const int64_t decoded = options.repeat.value_or(kDecodedTokens);
    LONGSPAN_ASSIGN_OR_RETURN(
        job.report.machine,
        PrepareBench(options, config, options.batch,
                     Longest(options) + DecodedTokens(options.batch - 1, decoded)));
    return true;
  };
  return RunOnRanks(RankJob{prepare, [&job](const Config& config, Communicator& communicator) {
                              return job.Run(config, communicator);
                            }});
}

absl::StatusOr<int> BenchPrefill(const BenchOptions& options) {
  EngineJob job = {options, "prefill", &EngineBench::Prefill, {}};
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
