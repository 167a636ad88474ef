#ifndef LONGSPAN_LAUNCHER_SCALE_CHECK_H_
#define LONGSPAN_LAUNCHER_SCALE_CHECK_H_

#include <string>

#include "launcher/scale_point.h"
#include "launcher/scale_study.h"

namespace longspan {

enum class OutputVerdict {
  kReference,    // it is the one-rank run
  kBitsEqual,    // tokens and log-probabilities, to the last bit
  kTokensEqual,  // and log-probabilities within the tolerance
  kWithin,       // tokens part where two were equally likely, within the tolerance, or behind the
                 // tokens whose log-probabilities are compared
  kNoReference,  // there is no one-rank run to compare with
  kDiffers,
};

struct OutputCheck {
  OutputVerdict verdict = OutputVerdict::kNoReference;
  std::string text;  // what was found, in words

  bool failed() const { return verdict == OutputVerdict::kDiffers; }
};

// Between natural logarithms of probabilities that were computed in another order: 0.01 in float32,
// 0.1 where something is rounded to fewer bits.
double LogprobTolerance(const ScalePoint& point);

// Compares outputs with those of the same job on one rank, which may be null: with `deterministic`
// bit for bit, otherwise token by token. A point whose digest is not that of its outputs differs in
// any case.
OutputCheck CheckOutputs(const ScalePoint& point, const ScalePoint* reference);
OutputCheck CheckOutputs(const ScalePoint& point, const ScalePoints& all);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_SCALE_CHECK_H_
