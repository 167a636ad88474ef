#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/reference/reference.h"

namespace longspan::reference {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// A key that a query may attend to: its score and its value [head_dim].
struct Term {
  double score;
  const float* value;
};

// Appends the terms of the keys at positions up to `last`.
void AppendTerms(const AttentionShape& shape, const float* query, int64_t kv_head, const Keys& keys,
                 int64_t last, std::vector<Term>* terms) {
  for (size_t m = 0; m < keys.positions.size(); ++m) {
    if (keys.positions[m] > last) continue;
    const auto row = static_cast<int64_t>(m) * shape.kv_dim() + kv_head * shape.head_dim;
    double score = 0;
    for (int64_t d = 0; d < shape.head_dim; ++d) score += double{query[d]} * keys.keys[row + d];
    terms->push_back({score / std::sqrt(static_cast<double>(shape.head_dim)), keys.values + row});
  }
}

// Writes the softmax-weighted mean of the values; returns the log-sum-exp of the scores.
double Softmax(const std::vector<Term>& terms, int64_t dim, double* output) {
  std::fill_n(output, dim, 0.0);
  double max = -kInfinity;
  for (const Term& term : terms) max = std::max(max, term.score);
  double sum = 0;
  for (const Term& term : terms) sum += std::exp(term.score - max);
  for (const Term& term : terms) {
    const double weight = std::exp(term.score - max) / sum;
    for (int64_t d = 0; d < dim; ++d) output[d] += weight * term.value[d];
  }
  return terms.empty() ? -kInfinity : max + std::log(sum);
}

}  // namespace

void BlockAttention(const AttentionShape& shape, const float* near, const float* far, int64_t count,
                    int64_t first_position, const Keys& near_keys, const Keys& far_keys,
                    double* output, double* lse) {
  for (int64_t c = 0; c < count; ++c) {
    for (int64_t h = 0; h < shape.heads; ++h) {
      const int64_t row = c * shape.heads + h;
      const int64_t kv_head = h / shape.group();
      std::vector<Term> terms;
      AppendTerms(shape, near + row * shape.head_dim, kv_head, near_keys, first_position + c,
                  &terms);
      if (far != nullptr) {
        AppendTerms(shape, far + row * shape.head_dim, kv_head, far_keys,
                    std::numeric_limits<int64_t>::max(), &terms);
      }
      lse[row] = Softmax(terms, shape.head_dim, output + row * shape.head_dim);
    }
  }
}

void MergePartials(const MergePartialsArgs& args, double* output) {
  for (int64_t row = 0; row < args.rows; ++row) {
    double max = -kInfinity;
    for (int64_t p = 0; p < args.parts; ++p) {
      max = std::max<double>(max, args.lse[p * args.part_stride + row]);
    }
    double* out = output + row * args.head_dim;
    std::fill_n(out, args.head_dim, 0.0);
    double total = 0;
    for (int64_t p = 0; p < args.parts; ++p) {
      const double lse = args.lse[p * args.part_stride + row];
      if (lse == -kInfinity) continue;
      const float* in = args.outputs + p * args.part_stride + row * args.head_dim;
      for (int64_t d = 0; d < args.head_dim; ++d) out[d] += std::exp(lse - max) * in[d];
      total += std::exp(lse - max);
    }
    for (int64_t d = 0; d < args.head_dim && total != 0; ++d) out[d] /= total;
  }
}

}  // namespace longspan::reference
