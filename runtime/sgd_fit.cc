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

// Rows to their hidden units before and behind the nonlinearity, and to what the map makes of them.
struct Forward {
  Floats before, active;  // [count, hidden]
  Floats out;             // [count, dim]
};

// x: [count, width].
Forward Run(const RowMap& map, const Floats& x, int64_t count) {
  Forward run;
  if (map.hidden == 0) {
    run.out = Multiply(x, CblasNoTrans, map.second, CblasNoTrans, count, map.dim, map.width);
    return run;
  }
  run.before = Multiply(x, CblasNoTrans, map.first, CblasNoTrans, count, map.hidden, map.width);
  run.active.resize(run.before.size());
  for (int64_t r = 0; r < count; ++r) {
    float* before = run.before.data() + r * map.hidden;
    float* active = run.active.data() + r * map.hidden;
    for (int64_t h = 0; h < map.hidden; ++h) {
      before[h] += map.bias[h];
      active[h] = before[h] / (1 + std::exp(-before[h]));
    }
  }
  run.out =
      Multiply(run.active, CblasNoTrans, map.second, CblasNoTrans, count, map.dim, map.hidden);
  return run;
}

// Of the parameters, as a map of the same shape. of_out: with respect to run.out.
RowMap GradientOf(const RowMap& map, const Floats& x, const Forward& run, const Floats& of_out,
                  int64_t count) {
  RowMap gradient = {map.width, map.hidden, map.dim};
  if (map.hidden == 0) {
    gradient.second = Multiply(x, CblasTrans, of_out, CblasNoTrans, map.width, map.dim, count);
    return gradient;
  }
  gradient.second =
      Multiply(run.active, CblasTrans, of_out, CblasNoTrans, map.hidden, map.dim, count);
  Floats of_before =
      Multiply(of_out, CblasNoTrans, map.second, CblasTrans, count, map.hidden, map.dim);
  gradient.bias.assign(map.hidden, 0.0f);
  for (int64_t r = 0; r < count; ++r) {
    const float* before = run.before.data() + r * map.hidden;
    float* of_row = of_before.data() + r * map.hidden;
    for (int64_t h = 0; h < map.hidden; ++h) {
      const float sigmoid = 1 / (1 + std::exp(-before[h]));
      of_row[h] *= sigmoid * (1 + before[h] * (1 - sigmoid));
      gradient.bias[h] += of_row[h];
    }
  }
  gradient.first = Multiply(x, CblasTrans, of_before, CblasNoTrans, map.width, map.hidden, count);
  return gradient;
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

// Those of a map, which outlives them.
class MapParameters {
 public:
  explicit MapParameters(RowMap* map)
      : first_(&map->first), bias_(&map->bias), second_(&map->second) {}

  void Step(const RowMap& gradient, double rate, int64_t step) {
    first_.Step(gradient.first, rate, step);
    bias_.Step(gradient.bias, rate, step);
    second_.Step(gradient.second, rate, step);
  }

 private:
  Parameters first_, bias_, second_;
};

// Of variance 1 / inputs, so that a map keeps the size of what it maps.
Floats Uniform(int64_t count, int64_t inputs, std::mt19937_64* random) {
  Floats values(count);
  const double bound = std::sqrt(3.0 / static_cast<double>(inputs));
  for (float& value : values) {
    const double unit = static_cast<double>((*random)() >> 11) * 0x1p-53;
    value = static_cast<float>((2 * unit - 1) * bound);
  }
  return values;
}

RowMap RandomMap(int64_t width, int64_t hidden, int64_t dim, std::mt19937_64* random) {
  RowMap map = {width, hidden, dim};
  const int64_t inner = hidden > 0 ? hidden : width;
  map.first = Uniform(width * hidden, width, random);
  map.bias.assign(hidden, 0.0f);
  map.second = Uniform(inner * dim, inner, random);
  return map;
}

// The map of rows that were multiplied by `scale` in training, times `scale_out`.
RowMap Scaled(RowMap map, float scale, float scale_out) {
  for (float& value : map.first) value *= scale;
  for (float& value : map.second) value *= map.hidden > 0 ? scale_out : scale * scale_out;
  return map;
}

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

}  // namespace

Floats Apply(const RowMap& map, const float* rows, int64_t count) {
  return Run(map, {rows, rows + count * map.width}, count).out;
}

ScoreMaps GradientOfLoss(const ScoreMaps& maps, const Floats& queries, const Floats& keys,
                         int64_t batch) {
  const int64_t width = maps.query.width, dim = maps.query.dim;
  const Floats exact = Multiply(queries, CblasNoTrans, keys, CblasTrans, batch, batch, width);
  const Forward q = Run(maps.query, queries, batch);
  const Forward k = Run(maps.key, keys, batch);
  Floats error = Multiply(q.out, CblasNoTrans, k.out, CblasTrans, batch, batch, dim);
  const float scale = 2.0f / static_cast<float>(batch * batch);
  for (size_t i = 0; i < error.size(); ++i) error[i] = scale * (error[i] - exact[i]);
  const Floats of_queries = Multiply(error, CblasNoTrans, k.out, CblasNoTrans, batch, dim, batch);
  const Floats of_keys = Multiply(error, CblasTrans, q.out, CblasNoTrans, batch, dim, batch);
  return {GradientOf(maps.query, queries, q, of_queries, batch),
          GradientOf(maps.key, keys, k, of_keys, batch)};
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
  ScoreMaps maps;
  maps.query = RandomMap(width, hidden, dim, &random);
  maps.key = RandomMap(width, hidden, dim, &random);
  MapParameters of_query(&maps.query), of_key(&maps.key);
  const int64_t batch = std::min(options.batch, rows);
  const int64_t steps = rows / batch;  // of an epoch
  std::vector<int64_t> order(rows);
  std::iota(order.begin(), order.end(), 0);
  for (int64_t epoch = 0, step = 0; epoch < options.epochs; ++epoch) {
    Shuffle(&random, &order);
    for (int64_t s = 0; s < steps; ++s) {
      const auto indices = absl::MakeConstSpan(order).subspan(s * batch, batch);
      const ScoreMaps gradient = GradientOfLoss(maps, Gather(queries, indices, width, query_scale),
                                                Gather(keys, indices, width, key_scale), batch);
      ++step;
      of_query.Step(gradient.query, options.learning_rate, step);
      of_key.Step(gradient.key, options.learning_rate, step);
      if (progress) {
        progress(static_cast<double>(step) / static_cast<double>(steps * options.epochs));
      }
    }
  }
  return {Scaled(std::move(maps.query), query_scale, 1 / query_scale),
          Scaled(std::move(maps.key), key_scale, 1 / key_scale)};
}

}  // namespace longspan
