#ifndef LONGSPAN_RUNTIME_SEQUENCE_H_
#define LONGSPAN_RUNTIME_SEQUENCE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "runtime/engine.h"
#include "runtime/request.h"
#include "runtime/tokenizer.h"

namespace longspan {

// One request on rank 0, from submission to completion: its tokens, its text, and when it ends.
class Sequence {
 public:
  // `choice`: of several answers to the request.
  Sequence(int64_t id, std::shared_ptr<const Request> request, int64_t choice,
           const Tokenizer& tokenizer, double now);

  const Request& request() const { return *request_; }
  uint64_t seed() const {
    return request().sampling.seed.value_or(0) + static_cast<uint64_t>(choice_);
  }
  // Alternatives per prompt token if their log-probabilities were asked for, else -1.
  int64_t wanted_prompt_logprobs() const;

  // Whether log-probabilities of the next token were asked for.
  bool wants_logprobs() const {
    const SamplingParams& params = request().sampling;
    return params.logprobs && static_cast<int64_t>(completion_.tokens.size()) <
                                  params.logprobs_limit.value_or(params.max_tokens);
  }

  int64_t next_position() const {
    return static_cast<int64_t>(request().prompt.size() + completion_.tokens.size());
  }
  // The newest token, not yet in the cache.
  int64_t last_position() const { return next_position() - 1; }
  int32_t last_token() const { return completion_.tokens.back(); }

  // So many prompt tokens are in the cache from the start.
  void Cached(int64_t tokens) { completion_.cached_tokens = prefilled_ = tokens; }
  void PrefillStarts(double now);
  void Prefilled(int64_t tokens, std::vector<TokenLogprobs> prompt_logprobs);
  // Positions, each as often as it was selected.
  void Selected(absl::Span<const int64_t> positions);
  // The end of a request for no tokens: what was wanted is the prompt's log-probabilities.
  RequestUpdate FinishPrompt(double now);
  // Takes the next token: may finish the sequence.
  RequestUpdate Append(int32_t token, std::optional<TokenLogprobs> logprobs,
                       absl::Span<const int32_t> eos_token_ids, double now);
  // Where it stands, without new text.
  RequestUpdate Update() const;

 private:
  // Cuts `text_` at the first stop string; true if there is one.
  bool CutAtStop();
  // The part of the new text that no stop string can begin in any more.
  std::string TakePrintable(bool finished);

  int64_t id_;
  std::shared_ptr<const Request> request_;
  int64_t choice_;
  StreamDecoder decoder_;
  std::string text_;
  size_t printed_ = 0;  // bytes of text_ handed out
  int64_t prefilled_ = 0;
  Completion completion_;
  double submitted_;
  std::optional<double> started_, first_token_;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_SEQUENCE_H_
