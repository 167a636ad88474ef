#include "launcher/batch_runner.h"

#include <utility>

#include "absl/container/flat_hash_map.h"
#include "kernels/base/status_macros.h"
#include "runtime/chat_prompt.h"
#include "runtime/clock.h"

namespace longspan {
namespace {

class BatchRunner {
 public:
  BatchRunner(const BatchInput& input, const ChatTemplate* chat_template, BatchOutput& output,
              Engine& engine, Progress& progress)
      : input_(input),
        output_(output),
        engine_(engine),
        progress_(progress),
        prompts_(engine.tokenizer(), chat_template, engine.config().max_model_len) {}

  absl::StatusOr<BatchCounts> Run(const std::function<bool()>& stop) {
    auto line = input_.lines().begin();
    while (!(counts_.stopped = stop())) {
      const bool has_place = engine_.num_waiting() == 0;
      if (has_place && line != input_.lines().end()) {
        LONGSPAN_RETURN_IF_ERROR(Start(*line++));
      } else if (engine_.HasWork()) {
        LONGSPAN_ASSIGN_OR_RETURN(std::vector<RequestUpdate> updates, engine_.Step());
        for (RequestUpdate& update : updates) LONGSPAN_RETURN_IF_ERROR(Take(std::move(update)));
        ShowProgress();
      } else {
        break;
      }
    }
    return counts_;
  }

 private:
  struct Running {
    std::string custom_id;
    CompletionContext context;
    int64_t max_tokens = 0;
    int64_t prefilled = 0;
    int64_t generated = 0;
  };

  absl::Status Start(const BatchLine& line) {
    if (output_.IsAnswered(line.custom_id)) {
      ++counts_.answered_before;
      return absl::OkStatus();
    }
    LONGSPAN_ASSIGN_OR_RETURN(BatchRequest request, input_.Read(line));
    if (request.error) return Refuse(line, *request.error);
    if (const absl::Status status = prompts_.Make(line.custom_id, &request); !status.ok()) {
      return Refuse(line, {std::string(status.message()), request.chat ? "messages" : "prompt"});
    }
    Running running{line.custom_id, Context(request)};
    running.max_tokens = request.sampling.max_tokens;
    const absl::StatusOr<int64_t> id =
        engine_.Submit({std::move(request.prompt_tokens), std::move(request.sampling)});
    if (absl::IsInvalidArgument(id.status())) {
      return Refuse(line, {std::string(id.status().message()), ""});
    }
    LONGSPAN_RETURN_IF_ERROR(id.status());
    running_.emplace(*id, std::move(running));
    return absl::OkStatus();
  }

  CompletionContext Context(BatchRequest& request) const {
    CompletionContext context;
    context.model = request.model.empty() ? ModelName(engine_.config()) : request.model;
    context.prompt_tokens = static_cast<int64_t>(request.prompt_tokens.size());
    context.logprobs = request.sampling.logprobs.has_value();
    context.is_chat = request.chat.has_value();
    if (request.sampling.echo) {
      context.echo = std::make_shared<const EchoedPrompt>(
          EchoedPrompt{request.prompt_tokens, std::move(request.prompt_text)});
    }
    return context;
  }

  absl::Status Refuse(const BatchLine& line, const BatchError& error) {
    if (counts_.failed++ == 0) {
      counts_.first_error = line.custom_id.empty()
                                ? error.message
                                : absl::StrCat(line.custom_id, ": ", error.message);
    }
    return output_.Append(ErrorLine(line.custom_id, error));
  }

  absl::Status Take(RequestUpdate update) {
    const auto found = running_.find(update.request);
    Running& running = found->second;
    prompt_tokens_ += update.prefilled - running.prefilled;
    running.prefilled = update.prefilled;
    if (update.prefilled == update.prompt_tokens) {  // a step decodes one
      ++running.generated;
      ++generated_tokens_;
    }
    if (!update.finished) return absl::OkStatus();
    ++counts_.answered;
    const std::string body =
        CompletionBody(running.context, update.completion, engine_.tokenizer());
    const absl::Status status = output_.Append(AnswerLine(running.custom_id, body));
    running_.erase(found);
    return status;
  }

  void ShowProgress() {
    ProgressState state;
    state.done = counts_.answered_before + counts_.answered + counts_.failed;
    state.total = static_cast<int64_t>(input_.lines().size());
    double units = static_cast<double>(state.done);
    for (const auto& [id, running] : running_) {
      units += static_cast<double>(running.prefilled + running.generated) /
               static_cast<double>(running.context.prompt_tokens + running.max_tokens);
    }
    state.fraction = units / static_cast<double>(state.total);
    state.prompt_tokens = prompt_tokens_;
    state.generated_tokens = generated_tokens_;
    progress_.Update(state, MonotonicSeconds());
  }

  const BatchInput& input_;
  BatchOutput& output_;
  Engine& engine_;
  Progress& progress_;
  absl::flat_hash_map<int64_t, Running> running_;  // by the engine's id
  PromptMaker prompts_;
  BatchCounts counts_;
  int64_t prompt_tokens_ = 0;
  int64_t generated_tokens_ = 0;
};

}  // namespace

absl::StatusOr<BatchCounts> AnswerBatch(const BatchInput& input, const ChatTemplate* chat_template,
                                        BatchOutput& output, Engine& engine, Progress& progress,
                                        const std::function<bool()>& stop) {
  return BatchRunner(input, chat_template, output, engine, progress).Run(stop);
}

}  // namespace longspan
