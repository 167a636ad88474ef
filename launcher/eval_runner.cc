#include "launcher/eval_runner.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "eval/position_loss.h"
#include "kernels/base/status_macros.h"
#include "launcher/bootstrap.h"
#include "runtime/clock.h"

namespace longspan {
namespace {

struct RunningCase {
  const PendingCase* pending;
  EvalCase asked;
  int64_t prefilled = 0;
};

Request RequestOf(const EvalCase& asked, int64_t max_model_len) {
  Request request;
  request.prompt = asked.prompt;
  SamplingParams& sampling = request.sampling;
  sampling.temperature = 0;
  sampling.max_tokens =
      std::min(asked.max_tokens, max_model_len - static_cast<int64_t>(asked.prompt.size()));
  if (!asked.stop.empty()) sampling.stop.push_back(asked.stop);
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
  EvalResult result = {source.label,   method,          running.pending->id,
                       asked.question, completion.text, asked.answers};
  result.prompt_tokens = static_cast<int64_t>(asked.prompt.size());
  result.answer_tokens = static_cast<int64_t>(completion.tokens.size());
  if (source.metric == EvalMetric::kShare) {
    result.score = source.score(completion.text, asked);
  } else {
    result.score = MeanLoss(completion.prompt_logprobs);
    result.nats_by_part = LossByPart(completion.prompt_logprobs);
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
                              engine_.Submit(RequestOf(asked, engine_.config().max_model_len)));
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

  std::string method_;
  Engine& engine_;
  ResultStore* store_;
  EvalProgress* progress_;
  std::map<int64_t, RunningCase> running_;  // by the engine's id
};

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

absl::Status RunCases(absl::Span<const PendingCase> cases, const std::string& method,
                      Engine& engine, ResultStore* store, EvalProgress* progress,
                      absl::Status* refusal) {
  return CaseRunner(method, engine, store, progress).Run(cases, refusal);
}

}  // namespace longspan
