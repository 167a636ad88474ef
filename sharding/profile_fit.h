#ifndef LONGSPAN_SHARDING_PROFILE_FIT_H_
#define LONGSPAN_SHARDING_PROFILE_FIT_H_

#include <string>
#include <vector>

#include "absl/types/span.h"
#include "sharding/cost_model.h"
#include "sharding/hardware_profile.h"
#include "sharding/model_work.h"

// A machine's constants from times that were measured on it.
namespace longspan {

// Calls of one kernel, all alike: their work together, and seconds, on one of so many ranks.
struct KernelPoint {
  std::string what;  // for the table of errors
  Kernel kernel = Kernel::kLinear;
  double calls = 1;
  Work work;
  int ranks = 1;
  double seconds = 0;
};

// Collective calls: what they ask of links (AllGatherUse and so on; sums of them for many).
struct CallPoint {
  std::string what;
  LinkUse use;
  double seconds = 0;
};

struct FitError {
  std::string what;
  double measured_s = 0;
  double predicted_s = 0;

  double relative() const { return predicted_s / measured_s - 1; }
};

struct ProfileFit {
  HardwareProfile profile;
  std::vector<FitError> errors;  // [points] of kernels, then of calls
};

// Fits each kernel's overhead and efficiency, and the cost of a call, latencies and rates of links:
// the numbers that are not negative and make the sum of squared relative errors smallest. What no
// point speaks of stays as in `start`; so do floors and sizes. Points without positive seconds are
// left out of the fit. A kernel gets an overhead only if that explains three quarters of the
// squared errors which its efficiency alone leaves; what was measured at one size, none.
ProfileFit FitProfile(const HardwareProfile& start, absl::Span<const KernelPoint> kernels,
                      absl::Span<const CallPoint> calls);

// What `profile` says of points that were not used for a fit.
std::vector<FitError> ErrorsOf(const HardwareProfile& profile,
                               absl::Span<const KernelPoint> kernels,
                               absl::Span<const CallPoint> calls);

// x >= 0, [columns], for which |rows * x - 1| is smallest. rows: [points, columns]; at most 8
// columns, since every subset of them is tried. Of columns that say the same the later ones count.
std::vector<double> NonNegativeLeastSquares(absl::Span<const std::vector<double>> rows,
                                            int columns);

}  // namespace longspan

#endif  // LONGSPAN_SHARDING_PROFILE_FIT_H_
