#ifndef LONGSPAN_EVAL_POSITION_LOSS_H_
#define LONGSPAN_EVAL_POSITION_LOSS_H_

#include <vector>

#include "absl/types/span.h"
#include "runtime/request.h"

// How well a text is predicted, in nats: -log p of each token given those before it.
namespace longspan {

inline constexpr int kLossParts = 32;

// Of all tokens; 0 if there are none.
double MeanLoss(absl::Span<const TokenLogprobs> logprobs);

// The means of kLossParts parts in order, as equal as whole tokens allow; fewer parts where there
// are fewer tokens.
std::vector<double> LossByPart(absl::Span<const TokenLogprobs> logprobs);

}  // namespace longspan

#endif  // LONGSPAN_EVAL_POSITION_LOSS_H_
