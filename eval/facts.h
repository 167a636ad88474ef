#ifndef LONGSPAN_EVAL_FACTS_H_
#define LONGSPAN_EVAL_FACTS_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "eval/eval_random.h"
#include "eval/prompt.h"

// Tasks that hide sentences of one form, and ask for some of them.
namespace longspan {

// What a draft is to be like.
struct DraftShape {
  double depth = 0;     // of the first fact that is asked for
  int64_t needles = 1;  // facts
  int64_t asked = 1;    // of them, at most all
  int64_t length = 0;   // tokens of the prompt
};

// The asked facts are spread evenly from the depth on to the end, the others anywhere.
Draft DraftPasskey(const DraftShape& shape, EvalRandom& random);       // of one pass key
Draft DraftMagicNumbers(const DraftShape& shape, EvalRandom& random);  // of named things
// Legendary items on islands, after NeedleBench's needles in several places (arXiv 2407.11963).
Draft DraftNeedleBench(const DraftShape& shape, EvalRandom& random);
Draft DraftKeyValues(const DraftShape& shape, EvalRandom& random);  // a sentence a pair

// Counting-Stars (arXiv 2403.11802): numbers spread evenly, all to be collected; the shipped model
// knows fish in place of stars.
Draft DraftCountingStars(const DraftShape& shape, EvalRandom& random);

}  // namespace longspan

#endif  // LONGSPAN_EVAL_FACTS_H_
