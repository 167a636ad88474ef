#include "sharding/profile_fit.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace longspan {
namespace {

// Solves the symmetric system by elimination, [n, n + 1]. False if it has no one solution.
bool Solve(std::vector<std::vector<double>> system, std::vector<double>* x) {
  const size_t n = system.size();
  for (size_t c = 0; c < n; ++c) {
    size_t pivot = c;
    for (size_t r = c + 1; r < n; ++r) {
      if (std::abs(system[r][c]) > std::abs(system[pivot][c])) pivot = r;
    }
    // Columns have unit length: what is left of one that others can express is rounding.
    if (std::abs(system[pivot][c]) < 1e-10) return false;
    std::swap(system[c], system[pivot]);
    for (size_t r = 0; r < n; ++r) {
      if (r == c) continue;
      const double factor = system[r][c] / system[c][c];
      for (size_t k = c; k <= n; ++k) system[r][k] -= factor * system[c][k];
    }
  }
  x->resize(n);
  for (size_t c = 0; c < n; ++c) (*x)[c] = system[c][n] / system[c][c];
  return true;
}

double Residual(absl::Span<const std::vector<double>> rows, const std::vector<double>& x) {
  double sum = 0;
  for (const std::vector<double>& row : rows) {
    double error = -1;
    for (size_t c = 0; c < x.size(); ++c) error += row[c] * x[c];
    sum += error * error;
  }
  return sum;
}

// The least squares of the columns in `subset`; false if they have none, or one is negative.
bool SolveSubset(absl::Span<const std::vector<double>> rows, const std::vector<int>& subset,
                 std::vector<double>* x) {
  const size_t n = subset.size();
  std::vector<std::vector<double>> system(n, std::vector<double>(n + 1));
  for (const std::vector<double>& row : rows) {
    for (size_t i = 0; i < n; ++i) {
      for (size_t k = 0; k < n; ++k) system[i][k] += row[subset[i]] * row[subset[k]];
      system[i][n] += row[subset[i]];
    }
  }
  std::vector<double> solution;
  if (!Solve(std::move(system), &solution)) return false;
  std::fill(x->begin(), x->end(), 0);
  for (size_t i = 0; i < n; ++i) {
    if (!(solution[i] >= 0)) return false;
    (*x)[subset[i]] = solution[i];
  }
  return true;
}

// What one call of the kernel takes in turns, its overhead, and its floor: t = overhead * first +
// second / efficiency.
std::pair<double, double> KernelTerms(const HardwareProfile& profile, const KernelPoint& point) {
  HardwareProfile floors = profile;
  floors.kernels[static_cast<int>(point.kernel)] = {};
  const double floor = KernelSeconds(floors, point.ranks, point.kernel, point.work);
  floors.kernels[static_cast<int>(point.kernel)].overhead_s = 1;
  const double turns = KernelSeconds(floors, point.ranks, point.kernel, point.work) - floor;
  return {turns * point.calls, floor};
}

void FitKernel(Kernel kernel, absl::Span<const KernelPoint> points, HardwareProfile* profile) {
  std::vector<std::vector<double>> rows;
  for (const KernelPoint& point : points) {
    if (point.kernel != kernel || !(point.seconds > 0)) continue;
    const auto [turns, floor] = KernelTerms(*profile, point);
    rows.push_back({turns / point.seconds, floor / point.seconds});
  }
  if (rows.empty()) return;
  std::vector<double> x = NonNegativeLeastSquares(rows, 2);
  // Noise makes overheads, which do harm at other sizes: one must explain most of what is left
  // without it.
  constexpr double kExplained = 0.75;
  std::vector<std::vector<double>> floors;
  for (const std::vector<double>& row : rows) floors.push_back({row[1]});
  const std::vector<double> alone = NonNegativeLeastSquares(floors, 1);
  if (Residual(rows, x) > (1 - kExplained) * Residual(floors, alone)) x = {0, alone[0]};
  constexpr double kMostEfficient = 100;  // where times do not depend on sizes
  profile->kernels[static_cast<int>(kernel)] = {
      .efficiency = x[1] > 1 / kMostEfficient ? 1 / x[1] : kMostEfficient, .overhead_s = x[0]};
}

void FitLinks(absl::Span<const CallPoint> points, HardwareProfile* profile) {
  std::vector<std::vector<double>> rows;
  std::vector<bool> spoken_of(5);
  for (const CallPoint& point : points) {
    if (!(point.seconds > 0)) continue;
    const LinkUse& use = point.use;
    std::vector<double> row = {use.calls, use.steps_within, use.bytes_within, use.steps_between,
                               use.bytes_between};
    for (size_t c = 0; c < row.size(); ++c) {
      if (row[c] > 0) spoken_of[c] = true;
      row[c] /= point.seconds;
    }
    rows.push_back(std::move(row));
  }
  if (rows.empty()) return;
  const std::vector<double> x = NonNegativeLeastSquares(rows, 5);
  constexpr double kFastest = 1e15;  // where times do not depend on bytes
  const auto rate = [&](double seconds_a_byte) {
    return seconds_a_byte > 1 / kFastest ? 1 / seconds_a_byte : kFastest;
  };
  if (spoken_of[0]) profile->call_s = x[0];
  if (spoken_of[1]) profile->within_host.latency_s = x[1];
  if (spoken_of[2]) profile->within_host.bytes_per_s = rate(x[2]);
  if (spoken_of[3]) profile->between_hosts.latency_s = x[3];
  if (spoken_of[4]) profile->between_hosts.bytes_per_s = rate(x[4]);
}

}  // namespace

std::vector<double> NonNegativeLeastSquares(absl::Span<const std::vector<double>> rows,
                                            int columns) {
  // Seconds of a byte and of a call differ by many orders of magnitude.
  std::vector<double> scale(columns, 0);
  for (const std::vector<double>& row : rows) {
    for (int c = 0; c < columns; ++c) scale[c] += row[c] * row[c];
  }
  for (double& s : scale) s = s > 0 ? std::sqrt(s) : 1;
  std::vector<std::vector<double>> scaled(rows.begin(), rows.end());
  for (std::vector<double>& row : scaled) {
    for (int c = 0; c < columns; ++c) row[c] /= scale[c];
  }
  std::vector<double> best(columns, 0), x(columns, 0);
  double least = std::numeric_limits<double>::infinity();
  for (int mask = (1 << columns) - 1; mask > 0; --mask) {
    std::vector<int> subset;
    for (int c = 0; c < columns; ++c) {
      if ((mask >> c & 1) != 0) subset.push_back(c);
    }
    if (!SolveSubset(scaled, subset, &x)) continue;
    const double residual = Residual(scaled, x);
    if (residual >= least) continue;
    least = residual;
    best = x;
  }
  for (int c = 0; c < columns; ++c) best[c] /= scale[c];
  return best;
}

ProfileFit FitProfile(const HardwareProfile& start, absl::Span<const KernelPoint> kernels,
                      absl::Span<const CallPoint> calls) {
  ProfileFit fit;
  fit.profile = start;
  for (int k = 0; k < kNumKernels; ++k) FitKernel(static_cast<Kernel>(k), kernels, &fit.profile);
  FitLinks(calls, &fit.profile);
  fit.errors = ErrorsOf(fit.profile, kernels, calls);
  return fit;
}

std::vector<FitError> ErrorsOf(const HardwareProfile& profile,
                               absl::Span<const KernelPoint> kernels,
                               absl::Span<const CallPoint> calls) {
  std::vector<FitError> errors;
  for (const KernelPoint& point : kernels) {
    const auto [turns, floor] = KernelTerms(profile, point);
    const KernelCost& cost = profile.kernel(point.kernel);
    errors.push_back(
        {point.what, point.seconds, turns * cost.overhead_s + floor / cost.efficiency});
  }
  for (const CallPoint& point : calls) {
    errors.push_back({point.what, point.seconds, LinkSeconds(profile, point.use)});
  }
  return errors;
}

}  // namespace longspan
