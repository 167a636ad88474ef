#ifndef LONGSPAN_EVAL_PERPLEXITY_H_
#define LONGSPAN_EVAL_PERPLEXITY_H_

#include <string>

#include "absl/status/statusor.h"
#include "eval/eval_case.h"
#include "eval/prompt.h"

namespace longspan {

// A text file, scored as prompts: how well the model predicts each token from all before it. Cases
// are pieces of it, one behind the other, all of whose tokens count: each is computed once. With
// PromptMaterial::stride they are windows that begin so many tokens apart, and as many count, a
// window's last: each has nearly the whole window before it, and is computed length / stride times.
// InvalidArgument: the text ends before the case's.
absl::StatusOr<CaseSource> OpenPerplexity(const std::string& file, const PromptMaterial& material);

}  // namespace longspan

#endif  // LONGSPAN_EVAL_PERPLEXITY_H_
