#include "runtime/sgd_fit.h"

#include <cblas.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <utility>

#include "absl/types/span.h"
#include "kernels/base/check.h"

namespace longspan {
namespace {

using Floats = std::vector<float>;

// c [m, n] = a b, a [m, k] or, transposed, stored as [k, m]; likewise b.
Floats Multiply(const Floats& a, CBLAS_TRANSPOSE trans_a, const Floats& b, CBLAS_TRANSPOSE trans_b,
                int64_t m, int64_t n, int64_t k) {
  Floats c(m * n);
  const auto lda = static_cast<int>(trans_a == CblasNoTrans ? k : m);
  const auto ldb = static_cast<int>(trans_b == CblasNoTrans ? n : k);
  cblas_sgemm(CblasRowMajor, trans_a, trans_b, static_cast<int>(m), static_cast<int>(n),
              static_cast<int>(k), 1.0f, a.data(), lda, b.data(), ldb, 0.0f, c.data(),
              static_cast<int>(n));
  return c;
}

// One vector of parameters and Adam's moments of its gradient.
class Parameters {
 public:
  explicit Parameters(Floats* values)
      : values_(values), mean_(values->size()), square_(values->size()) {}

  void Step(const Floats& gradient, double rate, int64_t step) {
    constexpr float kMeanDecay = 0.9f, kSquareDecay = 0.999f, kEpsilon = 1e-8f;
    const auto of_mean =
        static_cast<float>(rate / (1 - std::pow(kMeanDecay, static_cast<double>(step))));
    const auto of_square =
        static_cast<float>(1 / (1 - std::pow(kSquareDecay, static_cast<double>(step))));
    for (size_t i = 0; i < gradient.size(); ++i) {
      mean_[i] = kMeanDecay * mean_[i] + (1 - kMeanDecay) * gradient[i];
      square_[i] = kSquareDecay * square_[i] + (1 - kSquareDecay) * gradient[i] * gradient[i];
      (*values_)[i] -= of_mean * mean_[i] / (std::sqrt(square_[i] * of_square) + kEpsilon);
    }
  }

 private:
  Floats* values_;
  Floats mean_, square_;
};

// A map in training: what the backward pass needs of the forward pass.
class TrainedMap {
 public:
  TrainedMap(int64_t width, int64_t hidden, int64_t dim, std::mt19937_64* random)
      : map_{width,
             hidden,
             dim,
             Uniform(width * hidden, width, random),
             Floats(hidden, 0.0f),
             Uniform((hidden > 0 ? hidden : width) * dim, hidden > 0 ? hidden : width, random)},
        first_(&map_.first),
        bias_(&map_.bias),
        second_(&map_.second) {}
  TrainedMap(const TrainedMap&) = delete;
  TrainedMap& operator=(const TrainedMap&) = delete;

  // x: [count, width]. Returns [count, dim].
  const Floats& Forward(Floats x, int64_t count) {
    x_ = std::move(x);
    if (map_.hidden > 0) {
      before_ =
          Multiply(x_, CblasNoTrans, map_.first, CblasNoTrans, count, map_.hidden, map_.width);
      active_.resize(before_.size());
      for (size_t i = 0; i < before_.size(); ++i) {
        before_[i] += map_.bias[i % map_.hidden];
        active_[i] = before_[i] / (1 + std::exp(-before_[i]));
      }
    }
    out_ = Multiply(Inner(), CblasNoTrans, map_.second, CblasNoTrans, count, map_.dim, inner());
    return out_;
  }

  // gradient: of the loss with respect to what Forward returned, [count, dim].
  void Backward(const Floats& gradient, int64_t count, double rate, int64_t step) {
    const Floats of_second =
        Multiply(Inner(), CblasTrans, gradient, CblasNoTrans, inner(), map_.dim, count);
    if (map_.hidden > 0) {
      Floats of_before =
          Multiply(gradient, CblasNoTrans, map_.second, CblasTrans, count, map_.hidden, map_.dim);
      Floats of_bias(map_.hidden, 0.0f);
      for (size_t i = 0; i < of_before.size(); ++i) {
        const float sigmoid = 1 / (1 + std::exp(-before_[i]));
        of_before[i] *= sigmoid * (1 + before_[i] * (1 - sigmoid));
        of_bias[i % map_.hidden] += of_before[i];
      }
      first_.Step(Multiply(x_, CblasTrans, of_before, CblasNoTrans, map_.width, map_.hidden, count),
                  rate, step);
      bias_.Step(of_bias, rate, step);
    }
    second_.Step(of_second, rate, step);
  }

  // The map of rows that were multiplied by `scale` in training, times `scale_out`.
  RowMap Scaled(float scale, float scale_out) const {
    RowMap map = map_;
    for (float& value : map.first) value *= scale;
    for (float& value : map.second) value *= map.hidden > 0 ? scale_out : scale * scale_out;
    return map;
  }

 private:
  // Of variance 1 / inputs, so that a map keeps the size of what it maps.
  static Floats Uniform(int64_t count, int64_t inputs, std::mt19937_64* random) {
    Floats values(count);
    const double bound = std::sqrt(3.0 / static_cast<double>(inputs));
    for (float& value : values) {
      const double unit = static_cast<double>((*random)() >> 11) * 0x1p-53;
      value = static_cast<float>((2 * unit - 1) * bound);
    }
    return values;
  }
  int64_t inner() const { return map_.hidden > 0 ? map_.hidden : map_.width; }
  const Floats& Inner() const { return map_.hidden > 0 ? active_ : x_; }

  RowMap map_;
  Parameters first_, bias_, second_;
  Floats x_, before_, active_, out_;
};

// What brings the mean square of the values to `target`; 1 where all are 0.
float ScaleTo(double target, const float* values, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(values[i]) * values[i];
  return sum > 0 ? static_cast<float>(std::sqrt(target * static_cast<double>(count) / sum)) : 1.0f;
}

Floats Gather(const float* rows, absl::Span<const int64_t> indices, int64_t width, float scale) {
  Floats out;
  out.reserve(indices.size() * width);
  for (const int64_t index : indices) {
    for (int64_t i = 0; i < width; ++i) out.push_back(scale * rows[index * width + i]);
  }
  return out;
}

// Fisher and Yates; std::shuffle may differ between libraries.
void Shuffle(std::mt19937_64* random, std::vector<int64_t>* values) {
  for (size_t i = values->size(); i > 1; --i)
    std::swap((*values)[i - 1], (*values)[(*random)() % i]);
}

// One step: all queries of the batch against all of its keys, both [batch, width].
void Step(Floats queries, Floats keys, int64_t batch, int64_t width, double rate, int64_t step,
          TrainedMap* query_map, TrainedMap* key_map) {
  const Floats exact = Multiply(queries, CblasNoTrans, keys, CblasTrans, batch, batch, width);
  const Floats& q = query_map->Forward(std::move(queries), batch);
  const Floats& k = key_map->Forward(std::move(keys), batch);
  const auto dim = static_cast<int64_t>(q.size()) / batch;
  Floats error = Multiply(q, CblasNoTrans, k, CblasTrans, batch, batch, dim);
  const float scale = 2.0f / static_cast<float>(batch * batch);
  for (size_t i = 0; i < error.size(); ++i) error[i] = scale * (error[i] - exact[i]);
  const Floats of_queries = Multiply(error, CblasNoTrans, k, CblasNoTrans, batch, dim, batch);
  const Floats of_keys = Multiply(error, CblasTrans, q, CblasNoTrans, batch, dim, batch);
  query_map->Backward(of_queries, batch, rate, step);
  key_map->Backward(of_keys, batch, rate, step);
}

}  // namespace

Floats Apply(const RowMap& map, const float* rows, int64_t count) {
  Floats x(rows, rows + count * map.width);
  if (map.hidden == 0) {
    return Multiply(x, CblasNoTrans, map.second, CblasNoTrans, count, map.dim, map.width);
  }
  Floats hidden = Multiply(x, CblasNoTrans, map.first, CblasNoTrans, count, map.hidden, map.width);
  for (size_t i = 0; i < hidden.size(); ++i) {
    hidden[i] += map.bias[i % map.hidden];
    hidden[i] /= 1 + std::exp(-hidden[i]);
  }
  return Multiply(hidden, CblasNoTrans, map.second, CblasNoTrans, count, map.dim, map.hidden);
}

ScoreMaps FitBySgd(const float* queries, const float* keys, int64_t rows, int64_t width,
                   int64_t hidden, int64_t dim, const SgdOptions& options,
                   const std::function<void(double share)>& progress) {
  LONGSPAN_CHECK(rows > 0);
  // Dot products of independent rows then have a variance of 1.
  const double mean_square = 1 / std::sqrt(static_cast<double>(width));
  const float query_scale = ScaleTo(mean_square, queries, rows * width);
  const float key_scale = ScaleTo(mean_square, keys, rows * width);
  std::mt19937_64 random(options.seed);
  TrainedMap query_map(width, hidden, dim, &random), key_map(width, hidden, dim, &random);
  const int64_t batch = std::min(options.batch, rows);
  const int64_t steps = rows / batch;  // of an epoch
  std::vector<int64_t> order(rows);
  std::iota(order.begin(), order.end(), 0);
  for (int64_t epoch = 0, step = 0; epoch < options.epochs; ++epoch) {
    Shuffle(&random, &order);
    for (int64_t s = 0; s < steps; ++s) {
      const auto indices = absl::MakeConstSpan(order).subspan(s * batch, batch);
      Step(Gather(queries, indices, width, query_scale), Gather(keys, indices, width, key_scale),
           batch, width, options.learning_rate, ++step, &query_map, &key_map);
      if (progress) {
        progress(static_cast<double>(step) / static_cast<double>(steps * options.epochs));
      }
    }
  }
  return {query_map.Scaled(query_scale, 1 / query_scale), key_map.Scaled(key_scale, 1 / key_scale)};
}

}  // namespace longspan
