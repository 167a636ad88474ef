#include "runtime/server/completions.h"

#include <memory>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "runtime/answer_json.h"
#include "runtime/batch.h"

namespace longspan {
namespace {

using Json = nlohmann::ordered_json;

// Of a request that states none: no two answers should be alike.
uint64_t RandomSeed() {
  thread_local std::mt19937_64 generator{std::random_device{}()};
  return generator();
}

// One answer under way. Made on a worker's thread; from Submit on one of `context.answers` has it.
class Completions : public std::enable_shared_from_this<Completions> {
 public:
  // Whoever drops it last, it is ended, and its call logged, by a thread of answers.
  static std::shared_ptr<Completions> Make(std::shared_ptr<Call> call, bool is_chat) {
    return {new Completions(std::move(call), is_chat), [](Completions* answer) {
              AnswerThreads* const threads = answer->context_.answers;
              threads->Post(AnswerThreads::Order(answer->order_), [answer] { delete answer; });
            }};
  }

  void Start(const std::string& body) {
    BatchRequest request = ParseRequestBody(body, is_chat_);
    if (request.error) return call_->Fail(400, request.error->message, request.error->param);
    call_->SetStream(request.stream);
    if (!request.model.empty() && request.model != context_.model_name) {
      return call_->FailUnknownModel(request.model);
    }
    if (request.sampling.echo && request.sampling.logprobs &&
        (request.stream || request.n > 1 || !request.more_prompts.empty())) {
      return call_->Fail(400, "`echo` with `logprobs` is for one choice, not streamed", "echo");
    }
    stream_ = request.stream;
    include_usage_ = request.include_usage;
    choices_per_prompt_ = request.n;
    std::vector<Generation> generations;
    if (const absl::Status status = Prepare(std::move(request), &generations); !status.ok()) {
      return call_->Fail(status);
    }
    unfinished_ = static_cast<int64_t>(choices_.size());
    Submit(std::move(generations));
  }

 private:
  Completions(std::shared_ptr<Call> call, bool is_chat)
      : call_(std::move(call)),
        context_(call_->context()),
        order_(context_.answers->NewOrder()),
        is_chat_(is_chat) {}

  struct Choice {
    CompletionContext context;
    std::optional<LogprobsBuilder> logprobs;  // of a stream of text
    Completion completion;                    // when finished
    // In characters, if `attended` was asked for; of all choices of the prompt.
    std::shared_ptr<const std::vector<int64_t>> part_begins;
    bool begun = false;  // a part of the answer was streamed
  };

  // Choices and generations of all prompts.
  absl::Status Prepare(BatchRequest request, std::vector<Generation>* generations) {
    std::vector<std::string> more = std::exchange(request.more_prompts, {});
    if (!request.sampling.seed) request.sampling.seed = RandomSeed();
    LONGSPAN_RETURN_IF_ERROR(PreparePrompt(&request, generations));
    for (std::string& text : more) {
      request.prompt_text = std::move(text);
      LONGSPAN_RETURN_IF_ERROR(PreparePrompt(&request, generations));
    }
    return absl::OkStatus();
  }

  // `n` choices, which share their prompt and what goes with it. Takes the prompt out of `request`.
  absl::Status PreparePrompt(BatchRequest* request, std::vector<Generation>* generations) {
    LONGSPAN_RETURN_IF_ERROR(context_.prompts->Make(call_->id(), request));
    const auto shared = std::make_shared<const Request>(
        Request{std::exchange(request->prompt_tokens, {}), request->sampling});
    LONGSPAN_RETURN_IF_ERROR(context_.engine->Check(*shared));
    prompt_tokens_ += static_cast<int64_t>(shared->prompt.size());
    Choice choice;
    choice.context.is_chat = is_chat_;
    choice.context.logprobs = shared->sampling.logprobs.has_value();
    if (shared->sampling.echo) {
      choice.context.echo = std::make_shared<const EchoedPrompt>(
          EchoedPrompt{shared->prompt, std::move(request->prompt_text)});
    }
    if (shared->sampling.attended) {
      choice.part_begins = std::make_shared<const std::vector<int64_t>>(PartBegins(shared->prompt));
    }
    for (int64_t i = 0; i < request->n; ++i) {
      generations->push_back({shared, i});
      choices_.push_back(choice);
      if (choice.context.logprobs && stream_ && !is_chat_) {
        choices_.back().logprobs.emplace(context_.engine->tokenizer());
      }
    }
    return absl::OkStatus();
  }

  // Where the parts of Attended begin in the prompt's text, and where the last one ends.
  std::vector<int64_t> PartBegins(const std::vector<int32_t>& prompt) const {
    const Attended attended = Attended::ForPrompt(static_cast<int64_t>(prompt.size()));
    StreamDecoder decoder(context_.engine->tokenizer(), /*skip_special_tokens=*/true);
    std::vector<int64_t> begins;
    int64_t characters = 0;
    for (size_t i = 0; i < prompt.size(); ++i) {
      if (i % attended.part_tokens == 0) begins.push_back(characters);
      characters += CountCharacters(decoder.Push(prompt[i]));
    }
    begins.push_back(characters + CountCharacters(decoder.Flush()));
    return begins;
  }

  static Json AttendedJson(const Choice& choice, const Attended& attended) {
    Json parts = Json::array();
    const std::vector<int64_t>& begins = *choice.part_begins;
    for (size_t p = 0; p + 1 < begins.size(); ++p) {
      parts.push_back({{"begin", begins[p]},
                       {"end", begins[p + 1]},
                       {"count", attended.counts.empty() ? 0 : attended.counts[p]}});
    }
    return {{"bins", std::move(parts)}};
  }

  void Submit(std::vector<Generation> generations) {
    const auto self = shared_from_this();
    for (size_t c = 0; c < generations.size(); ++c) {
      generations[c].on_update = [self, c](RequestUpdate update) {
        if (update.token) self->call_->NoteToken();
        if (!self->stream_ && !update.finished) return;
        self->Post(
            [self, c, update = std::move(update)]() mutable { self->Take(c, std::move(update)); });
      };
      generations[c].on_error = [self](const absl::Status& status) {
        self->Post([self, status] { self->End(status); });
      };
    }
    // Here, and not behind the answers that are being made.
    const absl::Status submitted =
        context_.loop->Submit(std::move(generations), [&self](std::vector<int64_t> ids) {
          self->Post([self, ids = std::move(ids)]() mutable { self->Accepted(std::move(ids)); });
        });
    if (!submitted.ok()) call_->Fail(submitted);
  }

  // What cannot be made, for want of memory say, is this answer alone.
  template <typename Task>
  void Post(Task task) {
    context_.answers->Post(order_, [self = shared_from_this(), task = std::move(task)]() mutable {
      try {
        task();
      } catch (const std::exception& error) {
        self->End(absl::InternalError(absl::StrCat("the answer cannot be made: ", error.what())));
      }
    });
  }

  // ---- Threads of answers, one at a time ----

  // What is told of the generations comes after this.
  void Accepted(std::vector<int64_t> ids) {
    ids_ = std::move(ids);
    call_->OnDisconnect([loop = context_.loop, ids = ids_] { loop->Cancel(ids); });
    if (stream_) call_->StartEvents();
  }

  void Take(size_t c, RequestUpdate update) {
    if (ended_) return;
    Choice& choice = choices_[c];
    if (stream_) Stream(c, update);
    if (!update.finished) return;
    choice.completion = std::move(update.completion);
    if (--unfinished_ > 0) return;
    int64_t generated = 0;
    for (const Choice& each : choices_) {
      generated += static_cast<int64_t>(each.completion.tokens.size());
    }
    call_->SetTokens(prompt_tokens_, generated);
    if (!stream_) return Respond(generated);
    if (include_usage_) {
      Json chunk = Envelope();
      chunk["choices"] = Json::array();
      chunk["usage"] = Usage(generated);
      call_->Event(chunk);
    }
    call_->FinishEvents();
  }

  // One failed: nobody will read the others.
  void End(const absl::Status& status) {
    if (std::exchange(ended_, true)) return;
    context_.loop->Cancel(ids_);
    if (stream_) {
      call_->FailEvents(status);
    } else {
      call_->Fail(status);
    }
  }

  Json Envelope() {
    const char* object = !is_chat_ ? "text_completion"
                         : stream_ ? "chat.completion.chunk"
                                   : "chat.completion";
    return {{"id", absl::StrCat(is_chat_ ? "chatcmpl-" : "cmpl-", call_->id())},
            {"object", object},
            {"created", created_},
            {"model", context_.model_name}};
  }

  Json Usage(int64_t generated) const {
    int64_t cached = 0;
    for (const Choice& choice : choices_) cached += choice.completion.cached_tokens;
    Json usage = UsageJson(prompt_tokens_, generated);
    // Each prompt counts once, as for prompt_tokens.
    usage["prompt_tokens_details"] = {{"cached_tokens", cached / choices_per_prompt_}};
    return usage;
  }

  void Respond(int64_t generated) {
    Json body = Envelope();
    Json& choices = body["choices"] = Json::array();
    for (size_t c = 0; c < choices_.size(); ++c) {
      const Choice& choice = choices_[c];
      choices.push_back(ChoiceJson(choice.context, choice.completion, context_.engine->tokenizer(),
                                   static_cast<int64_t>(c)));
      if (choice.part_begins) {
        choices.back()["attended"] = AttendedJson(choice, choice.completion.attended);
      }
    }
    body["usage"] = Usage(generated);
    call_->Respond(200, body);
  }

  void Stream(size_t c, const RequestUpdate& update) {
    Choice& choice = choices_[c];
    if (update.prefilled < update.prompt_tokens) {
      return call_->Comment(
          absl::StrCat("prefill ", c, " ", update.prefilled, "/", update.prompt_tokens));
    }
    const bool is_first = !std::exchange(choice.begun, true);
    const bool has_logprobs = choice.context.logprobs && update.token && update.logprobs;
    std::string text = update.text;
    if (is_first && choice.context.echo) {
      text.insert(0, choice.context.echo->text.empty()
                         ? context_.engine->tokenizer().Decode(choice.context.echo->tokens, true)
                         : choice.context.echo->text);
    }
    if (text.empty() && !has_logprobs && !update.finished && !(is_first && is_chat_)) return;
    Json element = {{"index", c}};
    Json logprobs = nullptr;
    if (is_chat_) {
      Json delta = Json::object();
      if (is_first) delta["role"] = "assistant";
      if (is_first || !text.empty()) delta["content"] = std::move(text);
      element["delta"] = std::move(delta);
      if (has_logprobs) {
        logprobs = {{"content", Json::array({ChatTokenLogprobs(*update.token, *update.logprobs,
                                                               context_.engine->tokenizer())})},
                    {"refusal", nullptr}};
      }
    } else {
      element["text"] = std::move(text);
      if (has_logprobs) {
        choice.logprobs->Add(*update.token, &*update.logprobs);
        logprobs = choice.logprobs->Take();
      }
    }
    element["logprobs"] = std::move(logprobs);
    element["finish_reason"] =
        update.finished ? Json(FinishReasonName(update.completion.finish_reason)) : Json(nullptr);
    if (update.finished && choice.part_begins) {
      element["attended"] = AttendedJson(choice, update.completion.attended);
    }
    Json chunk = Envelope();
    chunk["choices"] = Json::array({std::move(element)});
    if (include_usage_) chunk["usage"] = nullptr;
    call_->Event(chunk);
  }

  const std::shared_ptr<Call> call_;
  const ServerContext& context_;
  const AnswerThreads::Order order_;
  const bool is_chat_;
  const int64_t created_ = UnixSeconds();
  bool stream_ = false;
  bool include_usage_ = false;
  bool ended_ = false;
  int64_t choices_per_prompt_ = 1;
  int64_t prompt_tokens_ = 0;
  int64_t unfinished_ = 0;
  std::vector<Choice> choices_;
  std::vector<int64_t> ids_;  // the loop's, of the choices
};

}  // namespace

void AnswerCompletions(std::shared_ptr<Call> call, const std::string& body, bool is_chat) {
  Completions::Make(std::move(call), is_chat)->Start(body);
}

}  // namespace longspan
