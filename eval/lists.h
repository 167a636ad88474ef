#ifndef LONGSPAN_EVAL_LISTS_H_
#define LONGSPAN_EVAL_LISTS_H_

#include "absl/status/statusor.h"
#include "eval/eval_random.h"
#include "eval/facts.h"
#include "eval/prompt.h"

// Tasks whose prompts are lists as long as there is room for, or facts that refer to each other.
namespace longspan {

// A JSON object of UUIDs, of which the value of one key is asked for ("Lost in the Middle", arXiv
// 2307.03172). The depth is that of the pair in the object.
absl::StatusOr<Draft> DraftKvRetrieval(const PromptMaterial& material, const DraftShape& shape,
                                       EvalRandom& random);

// RULER's variable tracking (arXiv 2404.06654): one variable has a value, each of the others that
// of the one before, at random places in order; which variables have the value is asked.
absl::StatusOr<Draft> DraftVariableTracking(const PromptMaterial& material, const DraftShape& shape,
                                            EvalRandom& random);

// RULER's common words: a list in which some words come 30 times and all others three times; the
// former are asked for. InvalidArgument: there is no room for them.
absl::StatusOr<Draft> DraftCommonWords(const PromptMaterial& material, const DraftShape& shape,
                                       EvalRandom& random);

}  // namespace longspan

#endif  // LONGSPAN_EVAL_LISTS_H_
