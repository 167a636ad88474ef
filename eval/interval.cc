#include "eval/interval.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

namespace longspan {
namespace {

constexpr double kNormal = 1.959963985;  // the 97.5% quantile

// 97.5% quantiles of Student's t by degrees of freedom, from 1.
constexpr double kStudent[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306,
                               2.262,  2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
                               2.110,  2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064,
                               2.060,  2.056, 2.052, 2.048, 2.045, 2.042};

}  // namespace

Interval WilsonInterval(double mean, int64_t cases) {
  if (cases == 0) return {};
  const auto n = static_cast<double>(cases);
  constexpr double kSquare = kNormal * kNormal;
  const double scale = 1 + kSquare / n;
  const double centre = (mean + kSquare / (2 * n)) / scale;
  const double half = kNormal / scale * std::sqrt(mean * (1 - mean) / n + kSquare / (4 * n * n));
  return {std::max(0.0, centre - half), std::min(1.0, centre + half)};
}

Interval StudentInterval(absl::Span<const double> numbers) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (numbers.size() < 2) return {-kInfinity, kInfinity};
  const size_t freedom = numbers.size() - 1;
  double mean = 0, squares = 0;
  for (const double number : numbers) mean += number / static_cast<double>(numbers.size());
  for (const double number : numbers) squares += (number - mean) * (number - mean);
  const double error = std::sqrt(squares / static_cast<double>(freedom * numbers.size()));
  const double quantile = freedom <= std::size(kStudent) ? kStudent[freedom - 1] : kNormal;
  return {mean - quantile * error, mean + quantile * error};
}

}  // namespace longspan
