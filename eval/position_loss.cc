#include "eval/position_loss.h"

#include <algorithm>

namespace longspan {

double MeanLoss(absl::Span<const TokenLogprobs> logprobs) {
  double sum = 0;
  for (const TokenLogprobs& token : logprobs) sum -= token.logprob;
  return logprobs.empty() ? 0 : sum / static_cast<double>(logprobs.size());
}

std::vector<double> LossByPart(absl::Span<const TokenLogprobs> logprobs) {
  const size_t parts = std::min<size_t>(kLossParts, logprobs.size());
  std::vector<double> means;
  for (size_t part = 0; part < parts; ++part) {
    const size_t begin = logprobs.size() * part / parts;
    const size_t end = logprobs.size() * (part + 1) / parts;
    means.push_back(MeanLoss(logprobs.subspan(begin, end - begin)));
  }
  return means;
}

}  // namespace longspan
