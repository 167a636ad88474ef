#include <algorithm>
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/linear.h"
#include "kernels/norm.h"
#include "kernels/reference/reference.h"
#include "kernels/rope.h"
#include "tests/kernels/kernel_testing.h"

namespace longspan {
namespace {

constexpr double kTolerance = 1e-5;

TEST(RmsNormTest, EqualsReference) {
  Random random(1);
  for (const int64_t dim : {1, 2, 7, 8, 9, 15, 16, 17, 64, 100, 384}) {
    for (const int64_t rows : {0, 1, 5}) {
      const std::vector<float> weight = random.Reals(dim);
      std::vector<float> x = random.Reals(rows * dim, -3, 3);
      if (rows > 1) std::fill_n(x.begin(), dim, 0.0f);
      std::vector<float> out(rows * dim, kNan);
      std::vector<double> expected(rows * dim);
      reference::RmsNorm(x.data(), weight.data(), rows, dim, 1e-5f, expected.data());
      RmsNorm(x.data(), weight.data(), rows, dim, 1e-5f, out.data());
      ExpectClose(out, expected, kTolerance);
      RmsNorm(x.data(), weight.data(), rows, dim, 1e-5f, x.data());
      ExpectSameBits(x, out);  // in place
    }
  }
}

TEST(RmsNormTest, NanStaysInItsRow) {
  Random random(2);
  const int64_t dim = 20;
  const std::vector<float> weight = random.Reals(dim);
  std::vector<float> x = random.Reals(3 * dim), out(3 * dim);
  x[dim + 17] = kNan;
  std::vector<double> expected(3 * dim);
  reference::RmsNorm(x.data(), weight.data(), 3, dim, 1e-5f, expected.data());
  RmsNorm(x.data(), weight.data(), 3, dim, 1e-5f, out.data());
  ExpectClose(out, expected, kTolerance);
}

TEST(SwiGluTest, EqualsReference) {
  Random random(3);
  for (const int64_t count : {0, 1, 7, 8, 9, 16, 17, 1000}) {
    for (const float range : {1.0f, 30.0f, 200.0f, 1e30f}) {
      std::vector<float> gate = random.Reals(count, -range, range);
      const std::vector<float> up = random.Reals(count);
      std::vector<double> expected(count);
      reference::SwiGlu(gate.data(), up.data(), count, expected.data());
      SwiGlu(gate.data(), up.data(), count);
      ExpectClose(gate, expected, kTolerance);
    }
  }
}

TEST(SwiGluTest, Extremes) {
  const float most = std::numeric_limits<float>::max();
  std::vector<float> gate = {0.0f, -0.0f, kInf, -88.0f, -89.0f, 89.0f, -most, most, kNan, -1e20f};
  const std::vector<float> up(gate.size(), 1.0f);
  const std::vector<double> expected = {0, 0, kInf, 0, 0, 89, 0, most, kNan, 0};
  SwiGlu(gate.data(), up.data(), static_cast<int64_t>(gate.size()));
  ExpectClose(gate, expected, 1e-6);
}

std::vector<double> InverseFrequencies(int64_t head_dim, double theta) {
  std::vector<double> frequencies;
  for (int64_t i = 0; i < head_dim; i += 2) {
    frequencies.push_back(std::pow(theta, -static_cast<double>(i) / static_cast<double>(head_dim)));
  }
  return frequencies;
}

TEST(RopeTest, EqualsReferenceNearAndFar) {
  Random random(4);
  for (const int64_t head_dim : {2, 6, 16, 18, 64}) {
    const std::vector<double> frequencies = InverseFrequencies(head_dim, 10000);
    Rope rope(frequencies);
    // Some twice, and some that share a slot of the table.
    for (const int64_t position : std::vector<int64_t>{0, 1, 16384, 0, 1, 16385, 262143, 1 << 20,
                                                       (int64_t{1} << 31) + 1, int64_t{1} << 32}) {
      for (const int64_t heads : {1, 3}) {
        std::vector<float> x = random.Reals(heads * head_dim), out(heads * head_dim);
        std::vector<double> expected(heads * head_dim);
        reference::Rotate(frequencies, x.data(), heads, position, expected.data());
        rope.Rotate(x.data(), heads, position, out.data());
        ExpectClose(out, expected, 1e-6);
        rope.Rotate(x.data(), heads, position, x.data());
        ExpectSameBits(x, out);  // in place
      }
    }
  }
}

// q(m) . k(n) depends on m - n alone, however far out.
TEST(RopeTest, DotProductDependsOnTheDistanceAlone) {
  Random random(5);
  const int64_t dim = 64;
  Rope rope(InverseFrequencies(dim, 10000));
  const std::vector<float> q = random.Reals(dim), k = random.Reals(dim);
  const auto dot = [&](int64_t query_position, int64_t key_position) {
    std::vector<float> a(dim), b(dim);
    rope.Rotate(q.data(), 1, query_position, a.data());
    rope.Rotate(k.data(), 1, key_position, b.data());
    double sum = 0;
    for (int64_t d = 0; d < dim; ++d) sum += double{a[d]} * b[d];
    return sum;
  };
  for (const int64_t offset : {int64_t{1000}, int64_t{1} << 20, int64_t{1} << 31}) {
    EXPECT_NEAR(dot(77 + offset, 5 + offset), dot(77, 5), 1e-5) << offset;
  }
}

TEST(RopeTest, PositionZeroChangesNothing) {
  Random random(6);
  Rope rope(InverseFrequencies(16, 500000));
  const std::vector<float> x = random.Reals(32);
  std::vector<float> out(32);
  rope.Rotate(x.data(), 2, 0, out.data());
  ExpectSameBits(out, x);
}

struct Product {
  LinearArgs args;
  std::vector<float> x, y;
  Stored weight;

  Product(Random* random, int64_t rows, int64_t in, int64_t out, DType dtype, bool accumulate)
      : x(random->Reals(rows * in)),
        y(accumulate ? random->Reals(rows * out) : std::vector<float>(rows * out, kNan)),
        weight(random->Reals(out * in), dtype) {
    args = {x.data(), rows, in, weight.data(), dtype, out, y.data(), accumulate};
  }
};

TEST(LinearTest, EqualsReference) {
  Random random(7);
  for (int trial = 0; trial < 120; ++trial) {
    const int64_t panel = random.OneOf<int64_t>({0, 1, 4, 16});
    const int64_t rows = panel > 0 ? panel * random.Integer(0, 3) : random.Integer(0, 40);
    const int64_t in = random.OneOf<int64_t>({1, 3, 8, 17, 33, 100});
    const int64_t out = random.OneOf<int64_t>({1, 2, 7, 16, 65});
    const DType dtype = random.OneOf({DType::kFloat32, DType::kBFloat16});
    Product product(&random, rows, in, out, dtype, trial % 3 == 0);
    std::vector<double> expected(rows * out);
    reference::Linear(product.args, expected.data());
    SCOPED_TRACE(testing::Message() << rows << " rows, " << in << " to " << out);
    if (trial % 2 == 0) {
      Linear(product.args, panel);
    } else {
      LinearFewRows(product.args);
    }
    ExpectClose(product.y, expected, kTolerance);
    if (HasFatalFailure()) return;
  }
}

// A weight of more than one strip: conversion goes a strip at a time.
TEST(LinearTest, LargeHalfPrecisionWeightEqualsReference) {
  Random random(8);
  Product product(&random, 4, 1000, 2500, DType::kBFloat16, false);
  std::vector<double> expected(product.y.size());
  reference::Linear(product.args, expected.data());
  Linear(product.args, 2);
  ExpectClose(product.y, expected, 1e-4);
  LinearFewRows(product.args);
  ExpectClose(product.y, expected, 1e-4);
}

TEST(LinearTest, NanStaysInItsRow) {
  Random random(9);
  Product product(&random, 5, 40, 30, DType::kFloat32, false);
  product.x[2 * 40 + 13] = kNan;
  product.x[3 * 40 + 39] = kInf;
  std::vector<double> expected(product.y.size());
  reference::Linear(product.args, expected.data());
  for (const bool few : {false, true}) {
    few ? LinearFewRows(product.args) : Linear(product.args, 0);
    ExpectClose(product.y, expected, kTolerance);
  }
}

std::vector<float> Rows(const std::vector<float>& values, int64_t width, int64_t first,
                        int64_t count) {
  return {values.begin() + first * width, values.begin() + (first + count) * width};
}

TEST(LinearTest, FewRowsDoNotDependOnEachOther) {
  Random random(10);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    for (const int64_t in : {5, 64, 77, 384}) {
      Product product(&random, 9, in, 33, dtype, false);
      LinearFewRows(product.args);
      for (int64_t row = 0; row < 9; ++row) {
        for (const int64_t count : {1, 2, 3}) {
          if (row + count > 9) continue;
          std::vector<float> y(count * 33);
          LinearArgs args = product.args;
          args.x += row * in;
          args.rows = count;
          args.y = y.data();
          LinearFewRows(args);
          ExpectSameBits(y, Rows(product.y, 33, row, count));
        }
      }
    }
  }
}

// The same row at the same place of any panel gives the same bits, whatever the other rows hold
// and however many panels there are.
TEST(LinearTest, PanelRowDependsOnItsPlaceAlone) {
  Random random(11);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    for (const int64_t in : {30, 128, 384}) {
      const int64_t panel = 16, out = 70;
      Product product(&random, 4 * panel, in, out, dtype, false);
      const std::vector<float> row = random.Reals(in);
      for (int64_t p = 0; p < 4; ++p) {
        std::copy(row.begin(), row.end(), product.x.begin() + (p * panel + 5) * in);
      }
      Linear(product.args, panel);
      const std::vector<float> expected = Rows(product.y, out, 5, 1);
      for (int64_t p = 1; p < 4; ++p) {
        ExpectSameBits(Rows(product.y, out, p * panel + 5, 1), expected);
      }
      // One panel of zeros but for the row, at another address.
      std::vector<float> x(panel * in + 1, 0.0f), y(panel * out);
      std::copy(row.begin(), row.end(), x.begin() + 1 + 5 * in);
      LinearArgs args = product.args;
      args.x = x.data() + 1;
      args.rows = panel;
      args.y = y.data();
      Linear(args, panel);
      ExpectSameBits(Rows(y, out, 5, 1), expected);
    }
  }
}

}  // namespace
}  // namespace longspan
