#include "runtime/score_fit.h"

#include <cblas.h>
#include <lapacke.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

constexpr double kEigenvalueFloor = 1e-9;  // of the largest

using Matrix = std::vector<double>;  // [n, n] row-major

// V diag(f(eigenvalue)) V^T of a symmetric matrix given by its upper triangle.
template <typename F>
Matrix OfEigenvalues(const Matrix& vectors, const std::vector<double>& values, int64_t n, F&& f) {
  Matrix scaled(vectors);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) scaled[i * n + j] *= f(values[j]);
  }
  Matrix product(n * n);
  const int size = static_cast<int>(n);
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, size, size, size, 1.0, scaled.data(), size,
              vectors.data(), size, 0.0, product.data(), size);
  return product;
}

struct Roots {
  Matrix root, inverse_root;
};

struct Covariances {
  Matrix query, key;  // upper triangles: E qq^T, and of the keys about their mean
};

Covariances CovariancesOf(const LayerMoments& moments, int64_t width) {
  Covariances of = {moments.query, moments.key};
  for (int64_t i = 0; i < width; ++i) {
    for (int64_t j = i; j < width; ++j) {
      of.query[i * width + j] /= moments.count;
      of.key[i * width + j] =
          of.key[i * width + j] / moments.count -
          moments.key_sum[i] / moments.count * (moments.key_sum[j] / moments.count);
    }
  }
  return of;
}

// Checks what every fit needs.
absl::StatusOr<Covariances> CovariancesToFit(const LayerMoments& moments, int64_t width,
                                             int64_t dim) {
  if (dim > width || dim < 1) {
    return absl::InvalidArgumentError(absl::StrCat("esa.compressed_dim ", dim,
                                                   " must be between 1 and ", width,
                                                   ", the width of the concatenated keys"));
  }
  if (moments.count == 0) return absl::InvalidArgumentError("there is no text to calibrate on");
  return CovariancesOf(moments, width);
}

// Ascending eigenvalues of a symmetric matrix given by its upper triangle, which its eigenvectors
// replace, as columns.
absl::StatusOr<std::vector<double>> Eigenvalues(Matrix* symmetric, int64_t n) {
  std::vector<double> values(n);
  const auto size = static_cast<lapack_int>(n);
  const lapack_int failed =
      LAPACKE_dsyevd(LAPACK_ROW_MAJOR, 'V', 'U', size, symmetric->data(), size, values.data());
  if (failed != 0) {
    return absl::InternalError(absl::StrCat("eigendecomposition failed (dsyevd: ", failed, ")"));
  }
  return values;
}

absl::StatusOr<Roots> SquareRoots(Matrix symmetric, int64_t n) {
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<double> values, Eigenvalues(&symmetric, n));
  // Where nothing varies at all, any floor will do that keeps the factors finite.
  const double floor = std::max(values.back() * kEigenvalueFloor, 1e-30);
  Roots roots;
  const auto root = [&](double v) { return std::sqrt(std::max(v, floor)); };
  roots.root = OfEigenvalues(symmetric, values, n, root);
  roots.inverse_root = OfEigenvalues(symmetric, values, n, [&](double v) { return 1 / root(v); });
  return roots;
}

// [n, n] x [n, n].
Matrix Times(const Matrix& a, const Matrix& b, int64_t n) {
  Matrix product(n * n);
  const int size = static_cast<int>(n);
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, size, size, size, 1.0, a.data(), size,
              b.data(), size, 0.0, product.data(), size);
  return product;
}

void FillLowerTriangle(Matrix* symmetric, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < i; ++j) (*symmetric)[i * n + j] = (*symmetric)[j * n + i];
  }
}

double Trace(const Matrix& a, const Matrix& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

// m^T [dim, n] times s [n, n].
Matrix TransposedTimes(const Matrix& m, const Matrix& s, int64_t n, int64_t dim) {
  Matrix product(dim * n);
  const auto rows = static_cast<int>(dim), size = static_cast<int>(n);
  cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, rows, size, size, 1.0, m.data(), rows,
              s.data(), size, 0.0, product.data(), size);
  return product;
}

// a [dim, n] times m [n, dim].
Matrix TimesFactor(const Matrix& a, const Matrix& m, int64_t n, int64_t dim) {
  Matrix product(dim * dim);
  const auto rows = static_cast<int>(dim), size = static_cast<int>(n);
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, rows, size, 1.0, a.data(), size,
              m.data(), rows, 0.0, product.data(), rows);
  return product;
}

}  // namespace

void LayerMoments::Add(const float* queries, const float* keys, int64_t rows, int64_t width) {
  const auto n = static_cast<int>(width);
  const auto add = [&](const float* values, Matrix* sum) {
    const std::vector<double> exact(values, values + rows * width);
    cblas_dsyrk(CblasRowMajor, CblasUpper, CblasTrans, n, static_cast<int>(rows), 1.0, exact.data(),
                n, 1.0, sum->data(), n);
  };
  add(queries, &query);
  add(keys, &key);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < width; ++i) key_sum[i] += keys[r * width + i];
  }
  count += static_cast<double>(rows);
}

absl::StatusOr<LayerFactors> FitFactors(const LayerMoments& moments, int64_t width, int64_t dim) {
  LONGSPAN_ASSIGN_OR_RETURN(Covariances covariances, CovariancesToFit(moments, width, dim));
  LONGSPAN_ASSIGN_OR_RETURN(const Roots q, SquareRoots(std::move(covariances.query), width));
  LONGSPAN_ASSIGN_OR_RETURN(const Roots k, SquareRoots(std::move(covariances.key), width));
  const auto n = static_cast<int>(width);
  Matrix product = Times(q.root, k.root, width);
  Matrix u(width * width), vt(width * width);
  std::vector<double> s(width);
  const lapack_int failed = LAPACKE_dgesdd(LAPACK_ROW_MAJOR, 'A', n, n, product.data(), n, s.data(),
                                           u.data(), n, vt.data(), n);
  if (failed != 0) {
    return absl::InternalError(absl::StrCat("singular values failed (dgesdd: ", failed, ")"));
  }
  LayerFactors factors;
  // Columns i of A and B: Cq^-1/2 u_i sqrt(s_i) and Ck^-1/2 v_i sqrt(s_i).
  const auto factor = [&](const Matrix& inverse_root, auto&& vector_at) {
    std::vector<float> out(width * dim);
    for (int64_t i = 0; i < dim; ++i) {
      for (int64_t r = 0; r < width; ++r) {
        double sum = 0;
        for (int64_t c = 0; c < width; ++c) sum += inverse_root[r * width + c] * vector_at(c, i);
        out[r * dim + i] = static_cast<float>(sum * std::sqrt(s[i]));
      }
    }
    return out;
  };
  factors.query = factor(q.inverse_root, [&](int64_t c, int64_t i) { return u[c * width + i]; });
  factors.key = factor(k.inverse_root, [&](int64_t c, int64_t i) { return vt[i * width + c]; });
  return factors;
}

absl::StatusOr<LayerFactors> FitPca(const LayerMoments& moments, int64_t width, int64_t dim) {
  LONGSPAN_ASSIGN_OR_RETURN(Covariances covariances, CovariancesToFit(moments, width, dim));
  Matrix& vectors = covariances.key;
  LONGSPAN_RETURN_IF_ERROR(Eigenvalues(&vectors, width).status());
  LayerFactors factors;
  factors.key.resize(width * dim);
  for (int64_t r = 0; r < width; ++r) {
    for (int64_t i = 0; i < dim; ++i) {
      factors.key[r * dim + i] = static_cast<float>(vectors[r * width + width - 1 - i]);
    }
  }
  factors.query = factors.key;
  return factors;
}

ScoreVariance::ScoreVariance(const LayerMoments& moments, int64_t width) : width_(width) {
  Covariances of = CovariancesOf(moments, width);
  FillLowerTriangle(&of.query, width);
  FillLowerTriangle(&of.key, width);
  query_ = std::move(of.query);
  key_ = std::move(of.key);
  all_ = Trace(query_, key_);
}

// E_q Var_k( q . M k ) = tr(Cq M Ck M^T), of which I - A B^T loses
// tr(Cq Ck) - 2 tr(B^T Ck Cq A) + tr(A^T Cq A B^T Ck B).
double ScoreVariance::Explained(const LayerFactors& factors, int64_t dim) const {
  if (!(all_ > 0)) return 1;
  const Matrix a(factors.query.begin(), factors.query.end());
  const Matrix b(factors.key.begin(), factors.key.end());
  const Matrix of_query = TransposedTimes(a, query_, width_, dim);  // A^T Cq
  const Matrix of_key = TransposedTimes(b, key_, width_, dim);      // B^T Ck
  const Matrix query_part = TimesFactor(of_query, a, width_, dim);
  const Matrix key_part = TimesFactor(of_key, b, width_, dim);
  return (2 * Trace(of_key, of_query) - Trace(query_part, key_part)) / all_;
}

LayerFactors FirstColumns(const LayerFactors& factors, int64_t width, int64_t count) {
  const int64_t dim = static_cast<int64_t>(factors.query.size()) / width;
  LayerFactors first = {std::vector<float>(width * count), std::vector<float>(width * count)};
  for (int64_t r = 0; r < width; ++r) {
    std::copy_n(factors.query.data() + r * dim, count, first.query.data() + r * count);
    std::copy_n(factors.key.data() + r * dim, count, first.key.data() + r * count);
  }
  return first;
}

void FoldRotation(const RopeConfig& rope, int64_t head_dim, int64_t position, int64_t dim,
                  LayerFactors* factors) {
  const std::vector<double> frequencies = InverseFrequencies(rope, head_dim);
  const int64_t half = head_dim / 2;
  const auto heads = static_cast<int64_t>(factors->query.size()) / (head_dim * dim);
  for (int64_t row = 0; row < heads * half; ++row) {
    const double angle = static_cast<double>(position) * frequencies[row % half];
    const double cosine = std::cos(angle), sine = std::sin(angle);
    float* first = factors->query.data() + (row / half * head_dim + row % half) * dim;
    float* second = first + half * dim;
    for (int64_t c = 0; c < dim; ++c) {
      const double a = first[c], b = second[c];
      first[c] = static_cast<float>(a * cosine + b * sine);
      second[c] = static_cast<float>(b * cosine - a * sine);
    }
  }
}

}  // namespace longspan
