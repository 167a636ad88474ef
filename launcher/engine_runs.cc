#include "launcher/engine_runs.h"

#include <algorithm>
#include <cstdio>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "launcher/bootstrap.h"
#include "runtime/clock.h"

namespace longspan {
namespace {

constexpr int64_t kWarmupTokens = 2;  // the first steps choose algorithms and record graphs

int64_t WarmupSteps(int64_t logprobs) {
  return kWarmupTokens + std::max<int64_t>(logprobs - 1, 0);  // the prompt brings the first
}

// Of a sequence before `others`: prompts take turns, so that each ends one step after the other.
int64_t TokensBefore(int64_t others, int64_t steps, int64_t logprobs) {
  return steps == 0 ? 0 : 1 + others + WarmupSteps(logprobs) + steps;
}

}  // namespace

Prompts RandomPrompts(uint64_t seed, int64_t count, int64_t tokens, int64_t vocab) {
  std::uniform_int_distribution<int32_t> any(0, static_cast<int32_t>(vocab) - 1);
  Prompts prompts;
  for (int64_t i = 0; i < count; ++i) {
    std::mt19937_64 generator(seed + static_cast<uint64_t>(i));
    std::vector<int32_t>& prompt = prompts.emplace_back(tokens);
    for (int32_t& id : prompt) id = any(generator);
  }
  return prompts;
}

int64_t GeneratedTokens(int64_t prompts, int64_t steps, int64_t logprobs) {
  return TokensBefore(prompts - 1, steps, logprobs);
}

EngineRuns::EngineRuns(Engine& engine, ProgressStyle progress, double work, int64_t prompts)
    : engine_(engine), progress_(progress, stderr, MonotonicSeconds()), work_(work) {
  state_.total = prompts;
}

bool EngineRuns::goes_on() {
  if (refusal_.ok() && StopRequested()) {
    refusal_ = absl::CancelledError("stopped by a signal before all was measured");
  }
  return refusal_.ok();
}

void EngineRuns::Submit(const EngineRun& run) {
  index_.clear();
  tokens_done_.clear();
  prefilled_ = 0;
  const auto count = static_cast<int64_t>(run.prompts.size());
  for (int64_t i = 0; i < count && refusal_.ok(); ++i) {
    Request request;
    request.prompt = run.prompts[i];
    request.sampling.max_tokens = TokensBefore(count - 1 - i, run.steps, run.logprobs);
    request.sampling.temperature = 0;
    request.sampling.ignore_eos = true;
    if (run.logprobs > 0) request.sampling.logprobs = run.top_logprobs;
    request.sampling.logprobs_limit = run.logprobs;
    const absl::StatusOr<int64_t> id = engine_.Submit(std::move(request));
    refusal_.Update(id.status());
    if (id.ok()) index_.emplace(*id, i);
  }
}

absl::Status EngineRuns::TimedStep(RunTimes* times) {
  const bool decodes = prefilled_ == index_.size();
  const EngineStats before = engine_.stats();
  const double begin = MonotonicSeconds();
  LONGSPAN_ASSIGN_OR_RETURN(std::vector<RequestUpdate> updates, engine_.Step());
  const double end = MonotonicSeconds();
  const EngineStats& after = engine_.stats();
  times->seconds += end - begin;
  if (after.prompt_tokens > before.prompt_tokens) {
    times->chunks.push_back(end - begin - (after.decode_s - before.decode_s));
  }
  if (decodes && updates.size() == index_.size()) times->decodes.push_back(end - begin);
  for (RequestUpdate& update : updates) {
    const size_t index = index_.at(update.request);
    int64_t& done = tokens_done_[update.request];
    if (update.prefilled == update.prompt_tokens && done < update.prefilled) {
      times->first_tokens[index] = times->seconds;
      ++prefilled_;
      ++state_.done;
    }
    done = update.prefilled;
    if (update.finished) times->completions[index] = std::move(update.completion);
  }
  state_.prompt_tokens += after.prompt_tokens - before.prompt_tokens;
  state_.generated_tokens += after.decoded_tokens - before.decoded_tokens;
  state_.fraction = static_cast<double>(state_.prompt_tokens + state_.generated_tokens) / work_;
  progress_.Update(state_, end);
  return absl::OkStatus();
}

absl::StatusOr<RunTimes> EngineRuns::Run(const EngineRun& run) {
  RunTimes times;
  times.first_tokens.resize(run.prompts.size());
  times.completions.resize(run.prompts.size());
  Submit(run);
  while (engine_.HasWork() && goes_on()) {
    LONGSPAN_RETURN_IF_ERROR(TimedStep(&times));
    if (run.steps == 0 || engine_.num_waiting() == 0) continue;
    refusal_ = absl::ResourceExhaustedError(
        absl::StrCat("the cache does not hold ", run.prompts.size(), " sequences of ",
                     run.prompts[0].size(), " tokens at once: use a smaller --batch or --context"));
  }
  if (!goes_on() || run.steps == 0) return times;
  const int64_t warmup = WarmupSteps(run.logprobs);
  LONGSPAN_CHECK(static_cast<int64_t>(times.decodes.size()) == warmup + run.steps);
  times.decodes.erase(times.decodes.begin(), times.decodes.begin() + warmup);
  return times;
}

}  // namespace longspan
