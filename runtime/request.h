#ifndef LONGSPAN_RUNTIME_REQUEST_H_
#define LONGSPAN_RUNTIME_REQUEST_H_

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace longspan {

// Sampling of one request; names and meanings are those of the OpenAI completions API.
struct SamplingParams {
  int64_t max_tokens = 16;   // 0: for the prompt's log-probabilities alone
  double temperature = 1.0;  // 0: greedy
  double top_p = 1.0;
  int64_t top_k = 0;             // of the likeliest tokens so many may be drawn; 0 or -1: all
  std::optional<uint64_t> seed;  // unset: 0
  std::vector<std::string> stop;
  bool ignore_eos = false;
  std::vector<int32_t> stop_token_ids;    // end a sequence as the model's own do
  bool echo = false;                      // with logprobs: of the prompt's tokens too
  std::optional<int64_t> logprobs;        // number of alternatives per token
  std::optional<int64_t> logprobs_limit;  // of so many generated tokens, the first; unset: of all
  // Count what of the prompt is selected while decoding. On GPUs a step with such a sequence is no
  // graph, and slower for all.
  bool attended = false;
};

struct Request {
  std::vector<int32_t> prompt;  // token ids
  SamplingParams sampling;
};

struct TokenLogprobs {
  double logprob = 0;                           // of the token itself, natural log
  std::vector<std::pair<int32_t, double>> top;  // descending

  friend bool operator==(const TokenLogprobs&, const TokenLogprobs&) = default;
};

// How often the tokens of a prompt's parts were selected, over layers and decoded tokens.
struct Attended {
  int64_t part_tokens = 0;      // of each part but perhaps the last
  std::vector<int64_t> counts;  // of each part; empty: not asked for

  static Attended ForPrompt(int64_t tokens) {
    constexpr int64_t kMostParts = 1024, kLeastTokens = 16;
    Attended attended;
    attended.part_tokens = std::max(kLeastTokens, (tokens + kMostParts - 1) / kMostParts);
    attended.counts.resize((tokens + attended.part_tokens - 1) / attended.part_tokens);
    return attended;
  }
};

enum class FinishReason { kStop, kLength };

struct RequestTimings {
  double queue_s = 0;    // from submission to the first prefill chunk
  double prefill_s = 0;  // from the first prefill chunk to the first sampled token, if any
  double decode_s = 0;   // from the first sampled token to the last
};

struct Completion {
  std::vector<int32_t> tokens;  // generated, without the end-of-sequence token
  std::string text;             // of `tokens`, cut before a stop string
  FinishReason finish_reason = FinishReason::kLength;
  int64_t cached_tokens = 0;                   // of the prompt, that were in the prefix cache
  std::vector<TokenLogprobs> logprobs;         // of each generated token, when asked for
  std::vector<TokenLogprobs> prompt_logprobs;  // echo and logprobs: of prompt tokens 1 on
  Attended attended;
  RequestTimings timings;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_REQUEST_H_
