#include "launcher/eval_runner.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "eval/position_loss.h"
#include "kernels/base/status_macros.h"
#include "launcher/bootstrap.h"
#include "runtime/chat_prompt.h"
#include "runtime/clock.h"

namespace longspan {
namespace {

struct RunningCase {
  const PendingCase* pending;
  EvalCase asked;
  int64_t prefilled = 0;
};

Request RequestOf(const EvalCase& asked, const Tokenizer& tokenizer) {
  Request request;
  request.prompt = asked.prompt;
  SamplingParams& sampling = request.sampling;
  sampling.temperature = 0;
  sampling.max_tokens = asked.max_tokens;
  if (!asked.stop.empty()) sampling.stop.push_back(asked.stop);
  if (asked.is_chat) sampling.stop_token_ids = EndOfTurnIds(tokenizer);
  if (asked.max_tokens == 0) {
    sampling.echo = true;
    sampling.logprobs = 0;
  }
  return request;
}

EvalResult ResultOf(const RunningCase& running, const std::string& method,
                    const Completion& completion) {
  const EvalCase& asked = running.asked;
  const CaseSource& source = *running.pending->source;
  EvalResult result = {source.label,    method,        running.pending->id, asked.question,
                       completion.text, asked.answers, source.metric};
  result.prompt_tokens = static_cast<int64_t>(asked.prompt.size());
  result.answer_tokens = static_cast<int64_t>(completion.tokens.size());
  if (source.metric == EvalMetric::kShare) {
    result.score = source.score(completion.text, asked);
  } else {
    const auto all = absl::MakeConstSpan(completion.prompt_logprobs);
    const auto scored = all.last(static_cast<size_t>(asked.scored_tokens));
    result.score = MeanLoss(scored);
    result.scored_tokens = asked.scored_tokens;
    result.nats_by_part = LossByPart(scored);
  }
  return result;
}

class CaseRunner {
 public:
  CaseRunner(const std::string& method, Engine& engine, ResultStore* store, EvalProgress* progress)
      : method_(method), engine_(engine), store_(store), progress_(progress) {}

  absl::Status Run(absl::Span<const PendingCase> cases, absl::Status* refusal) {
    auto next = cases.begin();
    while (refusal->ok()) {
      if (engine_.num_waiting() == 0 && next != cases.end()) {
        *refusal = Start(*next++);
      } else if (engine_.HasWork()) {
        LONGSPAN_RETURN_IF_ERROR(Step());
      } else {
        break;
      }
      if (StopRequested()) {
        refusal->Update(absl::CancelledError(
            "stopped by a signal; the same command goes on where this run ended"));
      }
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Start(const PendingCase& pending) {
    LONGSPAN_ASSIGN_OR_RETURN(EvalCase asked, pending.source->make(pending.id));
    LONGSPAN_ASSIGN_OR_RETURN(const int64_t id,
                              engine_.Submit(RequestOf(asked, engine_.tokenizer())));
    running_.emplace(id, RunningCase{&pending, std::move(asked)});
    return absl::OkStatus();
  }

  absl::Status Step() {
    LONGSPAN_ASSIGN_OR_RETURN(const std::vector<RequestUpdate> updates, engine_.Step());
    int64_t prompt_tokens = 0, generated = 0, finished = 0;
    for (const RequestUpdate& update : updates) {
      const auto found = running_.find(update.request);
      prompt_tokens += update.prefilled - found->second.prefilled;
      found->second.prefilled = update.prefilled;
      generated += update.token.has_value() ? 1 : 0;
      if (!update.finished) continue;
      ++finished;
      LONGSPAN_RETURN_IF_ERROR(store_->Add(ResultOf(found->second, method_, update.completion)));
      running_.erase(found);
    }
    progress_->Add(prompt_tokens, generated, finished);
    return absl::OkStatus();
  }

  const std::string& method_;
  Engine& engine_;
  ResultStore* store_;
  EvalProgress* progress_;
  std::map<int64_t, RunningCase> running_;  // by the engine's id
};

// What was done between two states of an engine.
EvalCost CostOf(const MethodRun& run, int64_t length, const EngineStats& before,
                const EngineStats& after) {
  EvalCost cost = {run.method, length};
  cost.prompt_tokens = after.prompt_tokens - before.prompt_tokens;
  cost.generated_tokens = after.generated_tokens - before.generated_tokens;
  cost.seconds = after.prefill_s + after.decode_s - before.prefill_s - before.decode_s;
  cost.ranks = run.ranks;
  cost.attended_keys = after.attended_keys - before.attended_keys;
  cost.dense_keys = after.dense_keys - before.dense_keys;
  return cost;
}

}  // namespace

EvalProgress::EvalProgress(ProgressStyle style, absl::Span<const std::vector<PendingCase>> pending)
    : progress_(style, stderr, MonotonicSeconds()) {
  for (const std::vector<PendingCase>& cases : pending) {
    state_.total += static_cast<int64_t>(cases.size());
    for (const PendingCase& one : cases) work_ += static_cast<double>(one.id.length);
  }
}

void EvalProgress::Add(int64_t prompt_tokens, int64_t generated_tokens, int64_t cases) {
  state_.done += cases;
  state_.prompt_tokens += prompt_tokens;
  state_.generated_tokens += generated_tokens;
  state_.fraction = static_cast<double>(state_.prompt_tokens) / work_;
  progress_.Update(state_, MonotonicSeconds());
}

absl::Status RunCases(std::vector<PendingCase> cases, const MethodRun& run, ResultStore* store,
                      EvalProgress* progress, absl::Status* refusal) {
  std::stable_sort(cases.begin(), cases.end(), [](const PendingCase& a, const PendingCase& b) {
    return a.id.length < b.id.length;
  });
  absl::Span<const PendingCase> rest = cases;
  while (!rest.empty() && refusal->ok()) {
    const int64_t length = rest.front().id.length;
    const auto end = std::find_if(rest.begin(), rest.end(), [&](const PendingCase& pending) {
      return pending.id.length != length;
    });
    const auto group = rest.first(static_cast<size_t>(end - rest.begin()));
    rest.remove_prefix(group.size());
    const EngineStats before = run.engine.stats();
    const size_t cases_before = store->data().results.size();
    if (run.selections != nullptr) run.engine.CountSelections();
    LONGSPAN_RETURN_IF_ERROR(
        CaseRunner(run.method, run.engine, store, progress).Run(group, refusal));
    if (run.selections != nullptr) {
      (*run.selections)[absl::StrCat(length)] =
          nlohmann::ordered_json::parse(run.engine.selection_stats()->ToJson());
    }
    EvalCost cost = CostOf(run, length, before, run.engine.stats());
    cost.cases = static_cast<int64_t>(store->data().results.size() - cases_before);
    if (cost.cases > 0) LONGSPAN_RETURN_IF_ERROR(store->Add(std::move(cost)));
  }
  return absl::OkStatus();
}

}  // namespace longspan
