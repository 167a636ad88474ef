#ifndef LONGSPAN_RUNTIME_SAMPLING_H_
#define LONGSPAN_RUNTIME_SAMPLING_H_

#include <cstdint>

#include "absl/types/span.h"
#include "runtime/request.h"

namespace longspan {

// The next token of a sequence from its logits [vocab]: greedy at temperature 0 (the lowest id
// among equals), otherwise drawn from the smallest set of tokens whose probability reaches top_p
// (nucleus sampling, arXiv 1904.09751), of that of the top_k likeliest. The draw is a function of
// seed and position only, so it does not depend on what else is in the batch.
int32_t SampleToken(absl::Span<const float> logits, const SamplingParams& params, uint64_t seed,
                    int64_t position);

// The same at temperature 0. NaN counts as -inf.
int32_t LikeliestToken(absl::Span<const float> logits);

// Log-probabilities, at temperature 1, of `token` and of the `num_top` likeliest tokens.
TokenLogprobs ComputeLogprobs(absl::Span<const float> logits, int32_t token, int64_t num_top);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_SAMPLING_H_
