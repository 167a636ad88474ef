#ifndef LONGSPAN_EVAL_INTERVAL_H_
#define LONGSPAN_EVAL_INTERVAL_H_

#include <cstdint>

#include "absl/types/span.h"

namespace longspan {

struct Interval {
  double low = 0, high = 1;
};

// The 95% Wilson interval of a share, from the mean of `cases` scores between 0 and 1. Where there
// is partial credit it is too wide and never too narrow: no scores with that mean vary more than
// those that are 0 or 1.
Interval WilsonInterval(double mean, int64_t cases);

// The 95% interval of the mean of any numbers by Student's t; unbounded if there is only one.
Interval StudentInterval(absl::Span<const double> numbers);

}  // namespace longspan

#endif  // LONGSPAN_EVAL_INTERVAL_H_
