#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/base/convert.h"
#include "kernels/reference/reference.h"

namespace longspan::reference {

std::vector<double> Scores(const float* queries, int64_t num_queries, int64_t dim,
                           const ScoreKeys& keys) {
  std::vector<double> scores(num_queries * keys.count, 0.0);
  std::vector<float> key(dim);
  const int64_t stride = keys.stride == 0 ? dim : keys.stride;
  for (int64_t m = 0; m < keys.count; ++m) {
    const auto* source = static_cast<const std::byte*>(keys.data);
    ConvertToFloat(source + m * stride * SizeOf(keys.dtype), keys.dtype, dim, key.data());
    for (int64_t c = 0; c < num_queries; ++c) {
      double& score = scores[c * keys.count + m];
      for (int64_t d = 0; d < dim; ++d) score += double{queries[c * dim + d]} * key[d];
    }
  }
  return scores;
}

void ScoreMaxima(const float* queries, int64_t num_queries, int64_t dim, const ScoreKeys& keys,
                 double* maxima) {
  const std::vector<double> scores = Scores(queries, num_queries, dim, keys);
  for (int64_t c = 0; c < num_queries; ++c) {
    for (int64_t m = 0; m < keys.count; ++m) {
      const double score = scores[c * keys.count + m];
      if (score > maxima[c]) maxima[c] = score;
    }
  }
}

void ScoreBlock(const float* queries, int64_t num_queries, int64_t dim, const ScoreKeys& keys,
                const float* maxima, double* scores) {
  const std::vector<double> all = Scores(queries, num_queries, dim, keys);
  for (int64_t m = 0; m < keys.count; ++m) {
    scores[m] = std::nan("");
    for (int64_t c = 0; c < num_queries; ++c) {
      const double excess = all[c * keys.count + m] - maxima[c];
      if (std::isnan(excess)) continue;
      if (std::isnan(scores[m]) || excess > scores[m]) scores[m] = excess;
    }
  }
}

void ScoreToken(const float* query, int64_t dim, const ScoreKeys& keys, double* scores) {
  const std::vector<double> all = Scores(query, 1, dim, keys);
  std::copy(all.begin(), all.end(), scores);
}

void Proximity(const float* scores, int64_t count, int64_t proximity, int64_t begin, int64_t end,
               float* out) {
  for (int64_t i = begin; i < end; ++i) {
    float best = std::numeric_limits<float>::quiet_NaN();
    for (int64_t j = 0; j < count; ++j) {
      if (j < i - proximity || j > i + proximity || std::isnan(scores[j])) continue;
      if (std::isnan(best) || scores[j] > best) best = scores[j];
    }
    out[i - begin] = best;
  }
}

bool Before(const Scored& a, const Scored& b) {
  const bool nan_a = std::isnan(a.score);
  const bool nan_b = std::isnan(b.score);
  if (nan_a != nan_b) return nan_b;
  if (!nan_a && a.score != b.score) return a.score > b.score;
  return a.position < b.position;
}

std::vector<int64_t> TopK(absl::Span<const float> scores, int64_t first_position, int64_t k) {
  std::vector<Scored> scored;
  for (const float score : scores) {
    scored.push_back({score, first_position + static_cast<int64_t>(scored.size())});
  }
  std::sort(scored.begin(), scored.end(), Before);
  scored.resize(std::min<size_t>(scored.size(), k));
  std::vector<int64_t> positions;
  for (const Scored& s : scored) positions.push_back(s.position);
  return positions;
}

}  // namespace longspan::reference
