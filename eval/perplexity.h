#ifndef LONGSPAN_EVAL_PERPLEXITY_H_
#define LONGSPAN_EVAL_PERPLEXITY_H_

#include <string>

#include "absl/status/statusor.h"
#include "eval/eval_case.h"
#include "eval/prompt.h"

namespace longspan {

// Pieces of a text file, one behind the other, each of which is scored as a prompt: how well the
// model predicts each token from all before it. A case whose piece would go beyond the end is
// refused.
absl::StatusOr<CaseSource> OpenPerplexity(const std::string& file, const PromptMaterial& material);

}  // namespace longspan

#endif  // LONGSPAN_EVAL_PERPLEXITY_H_
