#include "runtime/sequence.h"

#include <algorithm>
#include <utility>

namespace longspan {

Sequence::Sequence(int64_t id, std::shared_ptr<const Request> request, int64_t choice,
                   const Tokenizer& tokenizer, double now)
    : id_(id),
      request_(std::move(request)),
      choice_(choice),
      decoder_(tokenizer, /*skip_special_tokens=*/true),
      submitted_(now) {}

int64_t Sequence::wanted_prompt_logprobs() const {
  return request_->sampling.echo ? request_->sampling.logprobs.value_or(-1) : -1;
}

void Sequence::PrefillStarts(double now) {
  if (started_) return;
  started_ = now;
  completion_.timings.queue_s = now - submitted_;
}

void Sequence::Prefilled(int64_t tokens, std::vector<TokenLogprobs> prompt_logprobs) {
  prefilled_ = tokens;
  std::move(prompt_logprobs.begin(), prompt_logprobs.end(),
            std::back_inserter(completion_.prompt_logprobs));
}

void Sequence::Selected(absl::Span<const int64_t> positions) {
  Attended& attended = completion_.attended;
  const auto prompt = static_cast<int64_t>(request_->prompt.size());
  if (attended.counts.empty()) attended = Attended::ForPrompt(prompt);
  for (const int64_t position : positions) {
    if (position < prompt) ++attended.counts[position / attended.part_tokens];
  }
}

RequestUpdate Sequence::FinishPrompt(double now) {
  completion_.timings.prefill_s = now - *started_;
  RequestUpdate update = Update();
  update.finished = true;
  update.completion = std::move(completion_);
  return update;
}

RequestUpdate Sequence::Append(int32_t token, std::optional<TokenLogprobs> logprobs,
                               absl::Span<const int32_t> eos_token_ids, double now) {
  if (!first_token_) {
    first_token_ = now;
    completion_.timings.prefill_s = now - *started_;
  }
  completion_.timings.decode_s = now - *first_token_;
  const auto in = [token](absl::Span<const int32_t> ids) {
    return std::find(ids.begin(), ids.end(), token) != ids.end();
  };
  const bool eos = !request_->sampling.ignore_eos &&
                   (in(eos_token_ids) || in(request_->sampling.stop_token_ids));
  if (!eos) {
    completion_.tokens.push_back(token);
    if (logprobs) completion_.logprobs.push_back(*logprobs);
    text_ += decoder_.Push(token);
  }
  bool stopped = CutAtStop();
  const bool full =
      static_cast<int64_t>(completion_.tokens.size()) == request_->sampling.max_tokens;
  if (!stopped && (eos || full)) {
    text_ += decoder_.Flush();
    stopped = CutAtStop();
  }
  const bool finished = stopped || eos || full;
  completion_.finish_reason = stopped || eos ? FinishReason::kStop : FinishReason::kLength;
  RequestUpdate update = Update();
  if (!eos) {
    update.token = token;
    update.logprobs = std::move(logprobs);
  }
  update.text = TakePrintable(finished);
  update.finished = finished;
  if (finished) {
    completion_.text = std::move(text_);
    update.completion = std::move(completion_);
  }
  return update;
}

RequestUpdate Sequence::Update() const {
  RequestUpdate update;
  update.request = id_;
  update.prefilled = prefilled_;
  update.prompt_tokens = static_cast<int64_t>(request_->prompt.size());
  update.cached_tokens = completion_.cached_tokens;
  return update;
}

bool Sequence::CutAtStop() {
  size_t cut = std::string::npos;
  for (const std::string& stop : request_->sampling.stop) {
    if (stop.empty()) continue;
    // A stop string cannot begin in what was handed out.
    cut = std::min(cut, text_.find(stop, printed_));
  }
  if (cut == std::string::npos) return false;
  text_.resize(cut);
  return true;
}

std::string Sequence::TakePrintable(bool finished) {
  size_t end = text_.size();
  if (!finished) {
    for (const std::string& stop : request_->sampling.stop) {
      // The longest end of the text that the stop string begins with must wait.
      for (size_t n = std::min(stop.size(), text_.size() - printed_); n > 0; --n) {
        if (text_.compare(text_.size() - n, n, stop, 0, n) == 0) {
          end = std::min(end, text_.size() - n);
          break;
        }
      }
    }
  }
  std::string printable = text_.substr(printed_, end - printed_);
  printed_ = end;
  return printable;
}

}  // namespace longspan
