#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "gtest/gtest.h"
#include "kernels/base/convert.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/embed.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/rope.h"
#include "kernels/cuda/split_heads.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/cuda_testing.h"
#include "tests/kernels/kernel_testing.h"

namespace longspan::cuda {
namespace {

constexpr DType kDTypes[] = {DType::kFloat32, DType::kBFloat16, DType::kFloat16};

// Float arithmetic, and one rounding to `out`.
double ToleranceOf(DType out) {
  switch (out) {
    case DType::kBFloat16:
      return 1e-5 + 0x1p-8;
    case DType::kFloat16:
      return 1e-5 + 0x1p-11;
    case DType::kFloat32:
    case DType::kFloat8E4M3:  // of no dense operation
      break;
  }
  return 1e-5;
}

void ExpectOk(const absl::Status& status) { EXPECT_TRUE(status.ok()) << status; }

// The bytes of the numbers as they are stored in `dtype`.
std::vector<std::byte> BytesOf(const std::vector<float>& values, DType dtype) {
  const auto count = static_cast<int64_t>(values.size());
  std::vector<std::byte> bytes(count * SizeOf(dtype));
  if (dtype == DType::kFloat16) {
    for (int64_t i = 0; i < count; ++i) {
      const __half value = __float2half_rn(values[i]);
      std::memcpy(bytes.data() + 2 * i, &value, 2);
    }
  } else {
    ConvertFromFloat(values.data(), count, dtype, bytes.data());
  }
  return bytes;
}

std::vector<float> FloatsOf(const std::vector<std::byte>& bytes, DType dtype) {
  std::vector<float> values(bytes.size() / SizeOf(dtype));
  ConvertToFloat(bytes.data(), dtype, static_cast<int64_t>(values.size()), values.data());
  return values;
}

std::vector<float> Rounded(const std::vector<float>& values, DType dtype) {
  return FloatsOf(BytesOf(values, dtype), dtype);
}

std::vector<float> Part(const std::vector<float>& values, int64_t first, int64_t count) {
  return {values.begin() + first, values.begin() + first + count};
}

// Numbers in device memory, `shift` of them beyond an aligned address, with NaN on both sides.
class Numbers {
 public:
  Numbers(const std::vector<float>& values, DType dtype, int64_t shift = 0)
      : Numbers(static_cast<int64_t>(values.size()), dtype, shift) {
    const std::vector<std::byte> bytes = BytesOf(values, dtype);
    ExpectOk(Copy(data(), bytes.data(), count_ * SizeOf(dtype), nullptr));
    ExpectOk(Synchronize(nullptr));
  }
  // Nothing but NaN.
  Numbers(int64_t count, DType dtype, int64_t shift = 0)
      : count_(count),
        dtype_(dtype),
        shift_(shift),
        buffer_(Poisoned((shift + count + kGuard) * SizeOf(dtype))) {}

  void* data(int64_t first = 0) const { return buffer_.data() + (shift_ + first) * SizeOf(dtype_); }
  const float* floats(int64_t first = 0) const { return static_cast<const float*>(data(first)); }
  float* floats(int64_t first = 0) { return static_cast<float*>(data(first)); }

  // The numbers; nobody may have written beside them.
  std::vector<float> Values() const {
    const int64_t all = shift_ + count_ + kGuard;
    const std::vector<float> values =
        FloatsOf(Download<std::byte>(buffer_.data(), all * SizeOf(dtype_)), dtype_);
    for (int64_t i = 0; i < all; ++i) {
      if (i >= shift_ && i < shift_ + count_) continue;
      EXPECT_TRUE(std::isnan(values[i])) << "written at " << i - shift_ << " of " << count_;
    }
    return Part(values, shift_, count_);
  }

 private:
  static constexpr int64_t kGuard = 64;

  int64_t count_;
  DType dtype_;
  int64_t shift_;
  Buffer buffer_;
};

// ---- RMSNorm ----

class RmsNormCudaTest : public CudaTest {
 protected:
  std::vector<float> Run(const std::vector<float>& x, const std::vector<float>& weight,
                         DType out_dtype, int64_t shift = 0) {
    const auto dim = static_cast<int64_t>(weight.size());
    const Numbers device_x(x, DType::kFloat32, shift);
    const Numbers device_weight(weight, DType::kFloat32, shift);
    const Numbers out(static_cast<int64_t>(x.size()), out_dtype, shift);
    ExpectOk(RmsNorm({.x = device_x.floats(),
                      .weight = device_weight.floats(),
                      .rows = static_cast<int64_t>(x.size()) / dim,
                      .dim = dim,
                      .epsilon = 1e-5f,
                      .out = out.data(),
                      .out_dtype = out_dtype},
                     nullptr));
    return out.Values();
  }
  static std::vector<double> Expected(const std::vector<float>& x,
                                      const std::vector<float>& weight) {
    const auto dim = static_cast<int64_t>(weight.size());
    std::vector<double> expected(x.size());
    reference::RmsNorm(x.data(), weight.data(), static_cast<int64_t>(x.size()) / dim, dim, 1e-5f,
                       expected.data());
    return expected;
  }
};

TEST_F(RmsNormCudaTest, EqualsReference) {
  Random random(1);
  for (const DType dtype : kDTypes) {
    for (const int64_t dim : {1, 3, 31, 64, 100, 128, 255, 256, 257, 260, 1000, 4096, 5001}) {
      for (const int64_t rows : {1, 5, 33}) {
        for (const int64_t shift : {0, 1}) {
          SCOPED_TRACE(testing::Message() << DTypeName(dtype) << ' ' << rows << " x " << dim);
          const std::vector<float> weight = random.Reals(dim);
          std::vector<float> x = random.Reals(rows * dim, -3, 3);
          if (rows > 1) std::fill_n(x.begin(), dim, 0.0f);
          ExpectClose(Run(x, weight, dtype, shift), Expected(x, weight), ToleranceOf(dtype));
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_F(RmsNormCudaTest, InPlace) {
  Random random(2);
  for (const int64_t dim : {7, 128, 4096}) {
    const std::vector<float> weight = random.Reals(dim);
    const std::vector<float> x = random.Reals(9 * dim);
    const Numbers device_weight(weight, DType::kFloat32);
    const Numbers in_place(x, DType::kFloat32);
    ExpectOk(RmsNorm({in_place.floats(), device_weight.floats(), 9, dim, 1e-5f, in_place.data()},
                     nullptr));
    ExpectSameBits(in_place.Values(), Run(x, weight, DType::kFloat32));
  }
}

TEST_F(RmsNormCudaTest, RowsDoNotDependOnEachOther) {
  Random random(3);
  for (const int64_t dim : {20, 128, 300, 4096}) {
    const std::vector<float> weight = random.Reals(dim);
    const std::vector<float> x = random.Reals(13 * dim);
    const std::vector<float> all = Run(x, weight, DType::kFloat32);
    for (int64_t row = 0; row < 13; ++row) {
      ExpectSameBits(Run(Part(x, row * dim, dim), weight, DType::kFloat32),
                     Part(all, row * dim, dim));
    }
  }
}

TEST_F(RmsNormCudaTest, NanAndInfinityStayInTheirRow) {
  Random random(4);
  for (const int64_t dim : {20, 2000}) {
    const std::vector<float> weight = random.Reals(dim);
    std::vector<float> x = random.Reals(4 * dim);
    x[dim + 17] = kNan;
    x[2 * dim + 3] = -kInf;
    for (const DType dtype : kDTypes) {
      ExpectClose(Run(x, weight, dtype), Expected(x, weight), ToleranceOf(dtype));
    }
  }
}

// ---- Elementwise ----

class ElementwiseCudaTest : public CudaTest {
 protected:
  // gate and up as they are in `dtype`.
  std::vector<float> RunSwiGlu(const std::vector<float>& gate, const std::vector<float>& up,
                               DType dtype, DType out_dtype, int64_t shift = 0) {
    const auto count = static_cast<int64_t>(gate.size());
    const Numbers device_gate(gate, dtype, shift);
    const Numbers device_up(up, dtype, shift);
    const Numbers out(count, out_dtype, shift);
    ExpectOk(SwiGlu({device_gate.data(), device_up.data(), dtype, count, out.data(), out_dtype},
                    nullptr));
    return out.Values();
  }
};

TEST_F(ElementwiseCudaTest, SwiGluEqualsReference) {
  Random random(10);
  for (const DType dtype : kDTypes) {
    for (const DType out_dtype : kDTypes) {
      for (const int64_t count : {1, 7, 8, 9, 16, 17, 1000, 100'003}) {
        for (const float range : {1.0f, 30.0f, 200.0f}) {
          for (const int64_t shift : {0, 3}) {
            SCOPED_TRACE(testing::Message() << DTypeName(dtype) << " to " << DTypeName(out_dtype)
                                            << ", " << count << " to " << range);
            const std::vector<float> gate = Rounded(random.Reals(count, -range, range), dtype);
            const std::vector<float> up = Rounded(random.Reals(count), dtype);
            std::vector<double> expected(count);
            reference::SwiGlu(gate.data(), up.data(), count, expected.data());
            ExpectClose(RunSwiGlu(gate, up, dtype, out_dtype, shift), expected,
                        ToleranceOf(out_dtype));
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

TEST_F(ElementwiseCudaTest, SwiGluInPlace) {
  Random random(11);
  for (const DType dtype : kDTypes) {
    const std::vector<float> gate = random.Reals(1003), up = random.Reals(1003);
    const Numbers device_gate(gate, dtype), device_up(up, dtype);
    ExpectOk(SwiGlu({device_gate.data(), device_up.data(), dtype, 1003, device_gate.data(), dtype},
                    nullptr));
    ExpectSameBits(device_gate.Values(), RunSwiGlu(gate, up, dtype, dtype));
  }
}

TEST_F(ElementwiseCudaTest, SwiGluExtremes) {
  const float most = std::numeric_limits<float>::max();
  const std::vector<float> gate = {0.0f,  -0.0f, kInf, -88.0f, -89.0f, 89.0f,
                                   -most, most,  kNan, -kInf,  -1e20f};
  const std::vector<double> expected = {0, 0, kInf, 0, 0, 89, 0, most, kNan, 0, 0};
  const std::vector<float> up(gate.size(), 1.0f);
  ExpectClose(RunSwiGlu(gate, up, DType::kFloat32, DType::kFloat32), expected, 1e-6);
}

TEST_F(ElementwiseCudaTest, AddBiasEqualsExpectation) {
  Random random(12);
  for (const DType dtype : kDTypes) {
    for (const int64_t out : {1, 3, 4, 100, 1023, 4096}) {
      for (const int64_t rows : {1, 6}) {
        for (const int64_t shift : {0, 1}) {
          const std::vector<float> bias = random.Reals(out);
          std::vector<float> values = Rounded(random.Reals(rows * out), dtype);
          values[out / 2] = kNan;
          const Numbers device_bias(bias, DType::kFloat32, shift);
          const Numbers y(values, dtype, shift);
          ExpectOk(AddBias({device_bias.floats(), rows, out, y.data(), dtype}, nullptr));
          std::vector<double> expected(rows * out);
          for (int64_t i = 0; i < rows * out; ++i) expected[i] = double{values[i]} + bias[i % out];
          ExpectClose(y.Values(), expected, ToleranceOf(dtype));
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

// ---- Rotary embedding ----

class RopeCudaTest : public CudaTest {
 protected:
  static std::vector<double> InverseFrequencies(int64_t head_dim, double theta) {
    std::vector<double> frequencies;
    for (int64_t i = 0; i < head_dim; i += 2) {
      frequencies.push_back(
          std::pow(theta, -static_cast<double>(i) / static_cast<double>(head_dim)));
    }
    return frequencies;
  }
  static RopeAngles Angles(const std::vector<double>& frequencies) {
    absl::StatusOr<RopeAngles> angles = RopeAngles::Create(frequencies);
    EXPECT_TRUE(angles.ok()) << angles.status();
    return *std::move(angles);
  }
  static std::vector<double> Expected(const std::vector<double>& frequencies,
                                      const std::vector<float>& x, int64_t heads,
                                      const std::vector<int64_t>& positions) {
    const int64_t width = heads * 2 * static_cast<int64_t>(frequencies.size());
    std::vector<double> expected(x.size());
    for (size_t row = 0; row < positions.size(); ++row) {
      const int64_t first = static_cast<int64_t>(row) * width;
      reference::Rotate(frequencies, x.data() + first, heads, positions[row],
                        expected.data() + first);
    }
    return expected;
  }
};

TEST_F(RopeCudaTest, EqualsReferenceNearAndFar) {
  Random random(20);
  const std::vector<int64_t> positions = {0,
                                          1,
                                          1023,
                                          1024,
                                          16384,
                                          100'000,
                                          262143,
                                          (1 << 20) - 1,
                                          (1 << 20) + 77,
                                          3'333'333,
                                          (1 << 22) - 1,
                                          5};
  const auto rows = static_cast<int64_t>(positions.size());
  const Buffer device_positions = Upload(positions);
  for (const int64_t head_dim : {2, 6, 16, 18, 64, 128, 256}) {
    const std::vector<double> frequencies = InverseFrequencies(head_dim, 500'000);
    const RopeAngles angles = Angles(frequencies);
    for (const DType dtype : kDTypes) {
      for (const DType out_dtype : kDTypes) {
        for (const int64_t heads : {1, 3, 32}) {
          for (const int64_t shift : {0, 1}) {
            SCOPED_TRACE(testing::Message() << DTypeName(dtype) << " to " << DTypeName(out_dtype)
                                            << ", " << heads << " of " << head_dim);
            const std::vector<float> x = Rounded(random.Reals(rows * heads * head_dim), dtype);
            const Numbers device_x(x, dtype, shift);
            const Numbers out(static_cast<int64_t>(x.size()), out_dtype, shift);
            ExpectOk(RotateRows({.table = angles.table(),
                                 .x = device_x.data(),
                                 .dtype = dtype,
                                 .rows = rows,
                                 .heads = heads,
                                 .positions = device_positions.as<int64_t>(),
                                 .out = out.data(),
                                 .out_dtype = out_dtype},
                                nullptr));
            ExpectClose(out.Values(), Expected(frequencies, x, heads, positions),
                        out_dtype == DType::kFloat32 ? 2e-6 : ToleranceOf(out_dtype));
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

TEST_F(RopeCudaTest, ConsecutivePositionsInPlace) {
  Random random(21);
  const std::vector<double> frequencies = InverseFrequencies(128, 10000);
  const RopeAngles angles = Angles(frequencies);
  EXPECT_EQ(angles.max_positions(), 1 << 22);
  const std::vector<float> x = random.Reals(4 * 8 * 128);
  const Numbers in_place(x, DType::kFloat32);
  ExpectOk(RotateRows({.table = angles.table(),
                       .x = in_place.data(),
                       .rows = 4,
                       .heads = 8,
                       .first_position = (1 << 21) - 2,
                       .out = in_place.data()},
                      nullptr));
  const int64_t first = (1 << 21) - 2;
  ExpectClose(in_place.Values(),
              Expected(frequencies, x, 8, {first, first + 1, first + 2, first + 3}), 2e-6);
}

TEST_F(RopeCudaTest, AllRowsAtOnePosition) {
  Random random(23);
  const std::vector<double> frequencies = InverseFrequencies(64, 10000);
  const RopeAngles angles = Angles(frequencies);
  const std::vector<float> x = random.Reals(3 * 2 * 64);
  const Numbers in_place(x, DType::kFloat32);
  RotateRowsArgs args = {.table = angles.table(),
                         .x = in_place.data(),
                         .rows = 3,
                         .heads = 2,
                         .first_position = angles.max_positions() - 1,
                         .position_step = 0,
                         .out = in_place.data()};
  ExpectOk(RotateRows(args, nullptr));
  const int64_t last = angles.max_positions() - 1;
  ExpectClose(in_place.Values(), Expected(frequencies, x, 2, {last, last, last}), 4e-6);
  args.position_step = 1;
  EXPECT_TRUE(absl::IsInvalidArgument(RotateRows(args, nullptr)));
}

TEST_F(RopeCudaTest, PositionZeroChangesNothing) {
  Random random(22);
  const RopeAngles angles = Angles(InverseFrequencies(64, 10000));
  const std::vector<float> x = random.Reals(2 * 64);
  const Numbers in_place(x, DType::kFloat32);
  ExpectOk(RotateRows({.table = angles.table(),
                       .x = in_place.data(),
                       .rows = 1,
                       .heads = 2,
                       .out = in_place.data()},
                      nullptr));
  ExpectSameBits(in_place.Values(), x);
}

// ---- Embedding ----

using EmbedCudaTest = CudaTest;

TEST_F(EmbedCudaTest, TakesRowsOfTheTable) {
  Random random(30);
  for (const DType dtype : kDTypes) {
    for (const int64_t hidden : {1, 5, 64, 1000, 1028, 4096, 5000}) {
      for (const int64_t shift : {0, 1}) {
        const int64_t vocabulary = 50;
        std::vector<float> table = Rounded(random.Reals(vocabulary * hidden), dtype);
        table[7 * hidden] = kNan;
        table[8 * hidden] = kInf;
        const std::vector<int32_t> ids = {0, 49, 7, 8, 7, 21};
        const Buffer device_ids = Upload(ids);
        const Numbers device_table(table, dtype, shift);
        Numbers out(static_cast<int64_t>(ids.size()) * hidden, DType::kFloat32, shift);
        ExpectOk(Embed({device_table.data(), dtype, device_ids.as<int32_t>(),
                        static_cast<int64_t>(ids.size()), hidden, out.floats()},
                       nullptr));
        std::vector<float> expected;
        for (const int32_t id : ids) {
          expected.insert(expected.end(), table.begin() + id * hidden,
                          table.begin() + (id + 1) * hidden);
        }
        ExpectSameBits(out.Values(), expected);
        if (HasFatalFailure()) return;
      }
    }
  }
}

// ---- Linear ----

// A product, in memory of both sides. Sums are of the order of 1, as in models.
struct Product {
  int64_t rows, in, out;
  DType dtype, y_dtype;
  bool accumulate;
  std::vector<float> x, weight, y;

  std::vector<double> Expected() const {
    std::vector<float> sums = y;
    const longspan::LinearArgs args = {x.data(),        rows, in,          weight.data(),
                                       DType::kFloat32, out,  sums.data(), accumulate};
    std::vector<double> expected(rows * out);
    reference::Linear(args, expected.data());
    return expected;
  }
  // Rows [first, first + count); as few rows where there are no plans.
  std::vector<float> Run(LinearPlans* plans, int64_t first, int64_t count,
                         int64_t shift = 0) const {
    const Numbers device_x(x, dtype, shift), device_weight(weight, dtype, shift);
    const Numbers device_y(Part(y, first * out, count * out), y_dtype, shift);
    LinearArgs args;
    args.x = device_x.data(first * in);
    args.rows = count;
    args.in = in;
    args.weight = device_weight.data();
    args.dtype = dtype;
    args.out = out;
    args.y = device_y.data();
    args.y_dtype = y_dtype;
    args.accumulate = accumulate;
    ExpectOk(plans != nullptr ? Linear(args, plans, nullptr) : LinearFewRows(args, nullptr));
    return device_y.Values();
  }
  std::vector<float> Run(LinearPlans* plans, int64_t shift = 0) const {
    return Run(plans, 0, rows, shift);
  }
};

Product MakeProduct(Random* random, int64_t rows, int64_t in, int64_t out, DType dtype,
                    DType y_dtype, bool accumulate) {
  Product product = {rows, in, out, dtype, y_dtype, accumulate};
  const float range = 1 / std::sqrt(static_cast<float>(in));
  product.x = Rounded(random->Reals(rows * in), dtype);
  product.weight = Rounded(random->Reals(out * in, -range, range), dtype);
  product.y = std::vector<float>(rows * out, kNan);
  if (accumulate) product.y = Rounded(random->Reals(rows * out), y_dtype);
  return product;
}

class LinearCudaTest : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    absl::StatusOr<LinearPlans> plans = LinearPlans::Create();
    ASSERT_TRUE(plans.ok()) << plans.status();
    plans_ = std::make_unique<LinearPlans>(*std::move(plans));
  }

  std::unique_ptr<LinearPlans> plans_;
};

TEST_F(LinearCudaTest, EqualsReference) {
  Random random(40);
  for (int trial = 0; trial < 500; ++trial) {
    const int64_t rows = random.OneOf<int64_t>({1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 40, 130});
    const int64_t in = random.OneOf<int64_t>(
        {1, 3, 8, 16, 17, 24, 32, 33, 64, 100, 104, 256, 264, 1000, 2048, 2080, 4096});
    const int64_t out = random.OneOf<int64_t>({1, 2, 7, 8, 16, 65, 300});
    const DType dtype = random.OneOf({DType::kFloat32, DType::kBFloat16, DType::kFloat16});
    const DType y_dtype = random.OneOf({DType::kFloat32, dtype});
    const int64_t shift = random.OneOf<int64_t>({0, 0, 1, 8});
    Product product = MakeProduct(&random, rows, in, out, dtype, y_dtype, trial % 3 == 0);
    SCOPED_TRACE(testing::Message()
                 << rows << " rows, " << in << " to " << out << ", " << DTypeName(dtype) << " to "
                 << DTypeName(y_dtype) << ", shift " << shift);
    LinearPlans* plans = trial % 2 == 0 ? plans_.get() : nullptr;
    // cuBLASLt may round what it adds up once more.
    const double roundings = plans != nullptr && y_dtype != DType::kFloat32 ? 2 : 1;
    ExpectClose(product.Run(plans, shift), product.Expected(), roundings * ToleranceOf(y_dtype));
    if (HasFatalFailure()) return;
  }
}

TEST_F(LinearCudaTest, ShapesOfModelsEqualReference) {
  Random random(41);
  for (const int64_t rows : {1, 8, 64}) {
    for (const int64_t in : {4096, 11008, 14336}) {
      for (const DType dtype : kDTypes) {
        SCOPED_TRACE(testing::Message() << rows << " rows of " << in << ", " << DTypeName(dtype));
        Product product = MakeProduct(&random, rows, in, 250, dtype, DType::kFloat32, true);
        ExpectClose(product.Run(plans_.get()), product.Expected(), 1e-4);
        if (HasFatalFailure()) return;
      }
    }
  }
}

// float32 has all of its bits: TF32 would be off by some 1e-3.
TEST_F(LinearCudaTest, Float32IsNotRounded) {
  Random random(42);
  for (const int64_t rows : {1, 128}) {
    Product product = MakeProduct(&random, rows, 1, 128, DType::kFloat32, DType::kFloat32, false);
    const std::vector<float> y = product.Run(plans_.get());
    for (int64_t i = 0; i < rows * 128; ++i) {
      ASSERT_EQ(y[i], product.x[i / 128] * product.weight[i % 128]);
    }
  }
}

TEST_F(LinearCudaTest, FewRowsDoNotDependOnEachOther) {
  Random random(43);
  for (const DType dtype : kDTypes) {
    for (const int64_t in : {5, 64, 77, 384, 2056, 4096}) {
      for (const bool accumulate : {false, true}) {
        const Product product =
            MakeProduct(&random, 20, in, 33, dtype, DType::kFloat32, accumulate);
        const std::vector<float> all = product.Run(nullptr);
        for (const int64_t count : {1, 2, 3, 5, 8}) {
          for (int64_t row = 0; row + count <= 20; row += 3) {
            SCOPED_TRACE(testing::Message() << DTypeName(dtype) << ", " << in << " inputs, row "
                                            << row << " of " << count);
            const std::vector<float> expected = Part(all, row * 33, count * 33);
            ExpectSameBits(product.Run(nullptr, row, count), expected);
            ExpectSameBits(product.Run(plans_.get(), row, count), expected);
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

TEST_F(LinearCudaTest, NanAndInfinityStayInTheirRowOrColumn) {
  Random random(44);
  for (const DType dtype : kDTypes) {
    for (const int64_t rows : {5, 8, 32}) {
      for (const int64_t in : {40, 77, 1024}) {
        Product product = MakeProduct(&random, rows, in, 30, dtype, DType::kFloat32, false);
        product.x[2 * in + 13] = kNan;
        product.x[3 * in + in - 1] = kInf;
        product.weight[29 * in + 7] = kNan;
        product.weight[28 * in + 8] = -kInf;
        SCOPED_TRACE(testing::Message() << DTypeName(dtype) << ' ' << rows << " x " << in);
        ExpectClose(product.Run(plans_.get()), product.Expected(), 1e-5);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(LinearCudaTest, RunsGiveTheSameBits) {
  Random random(45);
  for (const DType dtype : kDTypes) {
    for (const int64_t rows : {8, 16, 100}) {
      const Product product = MakeProduct(&random, rows, 4096, 96, dtype, dtype, true);
      const std::vector<float> first = product.Run(plans_.get());
      for (int run = 0; run < 5; ++run) ExpectSameBits(product.Run(plans_.get()), first);
    }
  }
}

TEST_F(LinearCudaTest, NoInputsGiveZeros) {
  Numbers y(std::vector<float>(20 * 3, 5.0f), DType::kFloat32);
  LinearArgs args;
  args.rows = 20;
  args.out = 3;
  args.y = y.data();
  args.accumulate = true;
  for (const DType dtype : kDTypes) {
    args.dtype = dtype;
    ExpectOk(Linear(args, plans_.get(), nullptr));
    ExpectSameBits(y.Values(), std::vector<float>(20 * 3, 5.0f));
  }
  args.accumulate = false;
  ExpectOk(Linear(args, plans_.get(), nullptr));
  ExpectSameBits(y.Values(), std::vector<float>(20 * 3, 0.0f));
}

TEST_F(LinearCudaTest, RefusesOtherOutputs) {
  LinearArgs args;
  args.dtype = DType::kBFloat16;
  args.y_dtype = DType::kFloat16;
  EXPECT_TRUE(absl::IsInvalidArgument(Linear(args, plans_.get(), nullptr)));
  EXPECT_TRUE(absl::IsInvalidArgument(LinearFewRows(args, nullptr)));
}

// So many that blocks have several tiles each.
TEST_F(LinearCudaTest, ManyOutputsEqualReference) {
  Random random(46);
  for (const DType dtype : kDTypes) {
    for (const int64_t rows : {1, 8}) {
      for (const int64_t in : {8, 520}) {
        SCOPED_TRACE(testing::Message() << rows << " rows of " << in << ", " << DTypeName(dtype));
        Product product = MakeProduct(&random, rows, in, 40'009, dtype, DType::kFloat32, true);
        ExpectClose(product.Run(nullptr), product.Expected(), 1e-5);
        if (HasFatalFailure()) return;
      }
    }
  }
}

// ---- What products of few rows do on the way ----

// Launches one by one, and the one that stands for them.
class LinearFusionCudaTest : public CudaTest {
 protected:
  static constexpr float kEpsilon = 1e-5f;

  // A product, its arguments on the device but for x and y.
  struct Fused {
    Fused(Random* random, int64_t rows, int64_t in, int64_t out, DType dtype)
        : product(MakeProduct(random, rows, in, out, dtype, DType::kFloat32, false)),
          x(product.x, dtype),
          weight(product.weight, dtype) {
      args.x = x.data();
      args.rows = rows;
      args.in = in;
      args.weight = weight.data();
      args.dtype = dtype;
      args.out = out;
    }
    // The product, the bits of which other tests look at.
    std::vector<float> Plain(const std::vector<float>& y) const {
      const Numbers sums(y, DType::kFloat32);
      LinearArgs plain = args;
      plain.y = sums.data();
      plain.y_dtype = DType::kFloat32;
      ExpectOk(LinearFewRows(plain, nullptr));
      return sums.Values();
    }
    std::vector<float> Plain() const {
      return Plain(std::vector<float>(args.rows * args.out, kNan));
    }

    Product product;
    Numbers x, weight;
    LinearArgs args;
  };
};

TEST_F(LinearFusionCudaTest, NormHasTheBitsOfRmsNorm) {
  Random random(60);
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    for (const int64_t in : {8, 24, 128, 256, 264, 1000, 2048, 2056, 4096, 5000, 6152, 8192}) {
      for (const int64_t rows : {1, 2}) {
        if (rows * in > 8192) continue;
        for (const int64_t out : {1, 7, 300, 20'000}) {
          if (out == 20'000 && in != 264 && in != 4096) continue;  // the host makes the weights
          SCOPED_TRACE(testing::Message()
                       << rows << " rows, " << in << " to " << out << ", " << DTypeName(dtype));
          Fused fused(&random, rows, in, out, dtype);
          std::vector<float> values = random.Reals(rows * in, -3, 3);
          if (rows > 1) std::fill_n(values.begin(), in, 0.0f);
          const Numbers floats(values, DType::kFloat32);
          const Numbers norm(random.Reals(in), DType::kFloat32);
          const Numbers normed(rows * in, dtype);
          ExpectOk(RmsNorm(
              {floats.floats(), norm.floats(), rows, in, kEpsilon, normed.data(), dtype}, nullptr));
          fused.args.x = normed.data();
          fused.args.accumulate = out == 300;
          const std::vector<float> before = random.Reals(rows * out);
          const std::vector<float> expected = fused.Plain(before);
          const Numbers y(before, DType::kFloat32);
          LinearFusion fusion;
          fusion.norm = norm.floats();
          fusion.epsilon = kEpsilon;
          fused.args.x = floats.data();
          fused.args.y = y.data();
          ASSERT_TRUE(LinearFuses(fused.args, fusion));
          ExpectOk(LinearFewRows(fused.args, fusion, nullptr));
          ExpectSameBits(y.Values(), expected);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_F(LinearFusionCudaTest, SwiGluHasTheBitsOfSwiGlu) {
  Random random(61);
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    for (const int64_t rows : {1, 2, 7, 8, 9, 20}) {
      for (const int64_t in : {8, 264, 4096}) {
        for (const int64_t half : {1, 5, 8, 13, 100, 9000}) {
          if (half == 9000 && in == 4096) continue;
          SCOPED_TRACE(testing::Message()
                       << rows << " rows, " << in << " to " << half << ", " << DTypeName(dtype));
          Fused fused(&random, rows, in, 2 * half, dtype);
          const Numbers sums(fused.Plain(), DType::kFloat32);
          const Numbers expected(rows * half, dtype);
          ExpectOk(SwiGlu({sums.data(), sums.data(half), DType::kFloat32, half, expected.data(),
                           dtype, rows, 2 * half},
                          nullptr));
          const Numbers y(rows * half, dtype);
          LinearFusion fusion;
          fusion.swiglu = true;
          fused.args.y = y.data();
          fused.args.y_dtype = dtype;
          ExpectOk(LinearFewRows(fused.args, fusion, nullptr));
          ExpectSameBits(y.Values(), expected.Values());
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_F(LinearFusionCudaTest, OutputsGoWhereSplitHeadsPutsThem) {
  Random random(62);
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    for (const int64_t rows : {1, 2, 5, 11}) {
      for (const AttentionShape& shape :
           {AttentionShape{.heads = 4, .kv_heads = 2, .head_dim = 16},
            AttentionShape{.heads = 3, .kv_heads = 3, .head_dim = 6},
            AttentionShape{.heads = 32, .kv_heads = 8, .head_dim = 128}}) {
        for (const bool biased : {false, true}) {
          const int64_t width = shape.query_dim() + 2 * shape.kv_dim();
          SCOPED_TRACE(testing::Message()
                       << rows << " rows to " << width << (biased ? ", " : ", no ") << "bias, "
                       << DTypeName(dtype));
          Fused fused(&random, rows, 136, width, dtype);
          const Numbers stacked(fused.Plain(), DType::kFloat32);
          const Numbers bias(random.Reals(width), DType::kFloat32);
          const float* given = biased ? bias.floats() : nullptr;
          Numbers expected[3] = {{rows * shape.query_dim(), DType::kFloat32},
                                 {rows * shape.kv_dim(), DType::kFloat32},
                                 {rows * shape.kv_dim(), DType::kFloat32}};
          ExpectOk(SplitHeads({shape, stacked.floats(), rows, given, nullptr, nullptr, kEpsilon,
                               expected[0].floats(), expected[1].floats(), expected[2].floats()},
                              nullptr));
          Numbers actual[3] = {{rows * shape.query_dim(), DType::kFloat32},
                               {rows * shape.kv_dim(), DType::kFloat32},
                               {rows * shape.kv_dim(), DType::kFloat32}};
          LinearFusion fusion;
          fusion.bias = given;
          fusion.kv_dim = shape.kv_dim();
          fusion.keys = actual[1].floats();
          fusion.values = actual[2].floats();
          fused.args.y = actual[0].data();
          ExpectOk(LinearFewRows(fused.args, fusion, nullptr));
          for (int i = 0; i < 3; ++i) ExpectSameBits(actual[i].Values(), expected[i].Values());
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_F(LinearFusionCudaTest, BiasHasTheBitsOfAddBias) {
  Random random(63);
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    for (const int64_t rows : {1, 8, 9}) {
      for (const bool accumulate : {false, true}) {
        const int64_t out = 77;
        Fused fused(&random, rows, 520, out, dtype);
        fused.args.accumulate = accumulate;
        const std::vector<float> before = random.Reals(rows * out);
        const Numbers bias(random.Reals(out), DType::kFloat32);
        const Numbers expected(fused.Plain(before), DType::kFloat32);
        ExpectOk(AddBias({bias.floats(), rows, out, expected.data(), DType::kFloat32}, nullptr));
        const Numbers y(before, DType::kFloat32);
        LinearFusion fusion;
        fusion.bias = bias.floats();
        fused.args.y = y.data();
        ExpectOk(LinearFewRows(fused.args, fusion, nullptr));
        ExpectSameBits(y.Values(), expected.Values());
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(LinearFusionCudaTest, SaysWhatItCannotDo) {
  Random random(64);
  const Numbers norm(random.Reals(16384), DType::kFloat32);
  LinearArgs args;
  args.dtype = DType::kBFloat16;
  args.rows = 2;
  args.in = 4096;
  args.out = 32;
  LinearFusion fusion;
  EXPECT_TRUE(LinearFuses(args, fusion));
  fusion.norm = norm.floats();
  EXPECT_TRUE(LinearFuses(args, fusion));
  const auto refuses = [&](auto&& change) {
    LinearArgs other = args;
    LinearFusion with = fusion;
    change(&other, &with);
    return absl::IsInvalidArgument(LinearFewRows(other, with, nullptr));
  };
  using Args = LinearArgs*;
  using With = LinearFusion*;
  EXPECT_TRUE(refuses([](Args a, With) { a->rows = 3; }));
  EXPECT_TRUE(refuses([](Args a, With) { a->in = 4104; }));
  EXPECT_TRUE(refuses([](Args a, With) { a->in = 4092; }));
  EXPECT_TRUE(refuses([](Args a, With) { a->in = 0; }));
  EXPECT_TRUE(refuses([](Args a, With) { a->dtype = DType::kFloat32; }));
  EXPECT_TRUE(refuses([](Args, With w) { ++w->norm; }));
  EXPECT_TRUE(refuses([](Args, With w) { w->swiglu = true; }));  // to float32
  EXPECT_TRUE(refuses([](Args a, With w) {
    a->y_dtype = a->dtype;
    w->bias = w->norm;
  }));
  EXPECT_TRUE(refuses([](Args a, With w) {
    a->y_dtype = a->dtype;
    a->accumulate = w->swiglu = true;
  }));
  EXPECT_TRUE(refuses([](Args a, With w) {
    a->y_dtype = a->dtype;
    a->out = 33;
    w->swiglu = true;
  }));
  EXPECT_TRUE(refuses([](Args a, With w) {
    a->accumulate = true;
    w->kv_dim = 8;
  }));
  EXPECT_TRUE(refuses([](Args, With w) { w->kv_dim = 17; }));
  // Beyond what the kernel counts in ints.
  EXPECT_TRUE(refuses([](Args a, With w) {
    a->in = int64_t{1} << 31;
    a->out = 8;
    w->norm = nullptr;
  }));
  EXPECT_TRUE(refuses([](Args a, With w) {
    a->in = 8;
    a->out = int64_t{1} << 31;
    w->norm = nullptr;
  }));
  EXPECT_TRUE(refuses([](Args a, With w) {
    a->rows = 1 << 20;
    w->norm = nullptr;
  }));
  args.rows = 0;
  ExpectOk(LinearFewRows(args, fusion, nullptr));
}

TEST_F(LinearCudaTest, NoRowsDoNothing) {
  ExpectOk(RmsNorm({.rows = 0, .dim = 128}, nullptr));
  ExpectOk(SwiGlu({.count = 0}, nullptr));
  ExpectOk(AddBias({.rows = 0, .out = 128}, nullptr));
  ExpectOk(RotateRows({.rows = 0, .heads = 8}, nullptr));
  ExpectOk(Embed({.rows = 0, .hidden = 128}, nullptr));
  ExpectOk(Linear({.rows = 0, .in = 64, .out = 64}, plans_.get(), nullptr));
  ExpectOk(LinearFewRows({.rows = 0, .in = 64, .out = 64}, nullptr));
}

// ---- Chains of kernels, which start while those before them still run ----

struct ChainSizes {
  AttentionShape shape;
  int64_t hidden, intermediate, layers;
};

// The kernels of a decode step, with a norm in place of attention, each by itself or as products of
// few rows do them on the way. All layers use the same buffers, so that a kernel that does not wait
// for the others spoils what they read or write.
class Chain {
 public:
  static constexpr int64_t kVocabulary = 64;

  Chain(const ChainSizes& sizes, DType dtype, int64_t rows, Random* random)
      : sizes_(sizes),
        dtype_(dtype),
        rows_(rows),
        table_(Weights(kVocabulary, sizes.hidden, random)),
        norm_(random->Reals(std::max(sizes.hidden, sizes.shape.query_dim())), DType::kFloat32),
        qkv_(Weights(qkv_dim(), sizes.hidden, random)),
        qkv_bias_(random->Reals(qkv_dim()), DType::kFloat32),
        output_(Weights(sizes.hidden, sizes.shape.query_dim(), random)),
        output_bias_(random->Reals(sizes.hidden), DType::kFloat32),
        gate_up_(Weights(2 * sizes.intermediate, sizes.hidden, random)),
        down_(Weights(sizes.hidden, sizes.intermediate, random)),
        ids_(Poisoned(rows * static_cast<int64_t>(sizeof(int32_t)))),
        x_(rows * sizes.hidden, DType::kFloat32),
        normed_(rows * sizes.hidden, dtype),
        stacked_(rows * qkv_dim(), DType::kFloat32),
        queries_(rows * sizes.shape.query_dim(), DType::kFloat32),
        keys_(rows * sizes.shape.kv_dim(), DType::kFloat32),
        values_(rows * sizes.shape.kv_dim(), DType::kFloat32),
        attended_(rows * sizes.shape.query_dim(), dtype),
        gates_(rows * 2 * sizes.intermediate, DType::kFloat32),
        activated_(rows * sizes.intermediate, dtype) {}

  int32_t* ids() const { return ids_.as<int32_t>(); }
  const Numbers& x() const { return x_; }
  const Numbers& keys() const { return keys_; }

  bool Fuses() const {
    const LinearArgs args = {x_.data(), rows_, sizes_.hidden, qkv_.data(), dtype_, 1};
    return LinearFuses(args, {});
  }

  // `apart`: every kernel has ended before the next one is launched.
  absl::Status Run(Stream stream, bool apart, bool fused) {
    LONGSPAN_RETURN_IF_ERROR(
        Embed({table_.data(), dtype_, ids(), rows_, sizes_.hidden, x_.floats()}, stream));
    if (apart) LONGSPAN_RETURN_IF_ERROR(Synchronize(stream));
    for (int64_t layer = 0; layer < sizes_.layers; ++layer) {
      LONGSPAN_RETURN_IF_ERROR(fused ? RunFused(stream) : RunLayer(stream, apart));
    }
    return absl::OkStatus();
  }

 private:
  static constexpr float kEpsilon = 1e-5f;

  // A layer by as few launches as there can be; none of them is apart.
  absl::Status RunFused(Stream stream) {
    const AttentionShape& shape = sizes_.shape;
    const int64_t hidden = sizes_.hidden, intermediate = sizes_.intermediate;
    const auto multiply_normed = [&](const Numbers& weight, int64_t out, const Numbers& y,
                                     DType y_dtype, LinearFusion fusion) -> absl::Status {
      LinearArgs args = {x_.data(), rows_, hidden, weight.data(), dtype_, out, y.data(), y_dtype};
      fusion.norm = norm_.floats();
      fusion.epsilon = kEpsilon;
      if (!LinearFuses(args, fusion)) {
        LONGSPAN_RETURN_IF_ERROR(RmsNorm(
            {x_.floats(), fusion.norm, rows_, hidden, kEpsilon, normed_.data(), dtype_}, stream));
        args.x = normed_.data();
        fusion.norm = nullptr;
      }
      return LinearFewRows(args, fusion, stream);
    };
    LinearFusion heads, swiglu, biased;
    heads.bias = qkv_bias_.floats();
    heads.kv_dim = shape.kv_dim();
    heads.keys = keys_.floats();
    heads.values = values_.floats();
    LONGSPAN_RETURN_IF_ERROR(multiply_normed(qkv_, qkv_dim(), queries_, DType::kFloat32, heads));
    LONGSPAN_RETURN_IF_ERROR(RmsNorm({queries_.floats(), norm_.floats(), rows_, shape.query_dim(),
                                      kEpsilon, attended_.data(), dtype_},
                                     stream));
    biased.bias = output_bias_.floats();
    LONGSPAN_RETURN_IF_ERROR(
        LinearFewRows({attended_.data(), rows_, shape.query_dim(), output_.data(), dtype_, hidden,
                       x_.data(), DType::kFloat32, true},
                      biased, stream));
    swiglu.swiglu = true;
    LONGSPAN_RETURN_IF_ERROR(
        multiply_normed(gate_up_, 2 * intermediate, activated_, dtype_, swiglu));
    return LinearFewRows({activated_.data(), rows_, intermediate, down_.data(), dtype_, hidden,
                          x_.data(), DType::kFloat32, true},
                         stream);
  }

  absl::Status RunLayer(Stream stream, bool apart) {
    const auto after = [&](const absl::Status& launched) {
      return launched.ok() && apart ? Synchronize(stream) : launched;
    };
    const auto normalize = [&](const Numbers& from, int64_t dim, const Numbers& to) {
      return after(RmsNorm({from.floats(), norm_.floats(), rows_, dim, kEpsilon, to.data(), dtype_},
                           stream));
    };
    const auto multiply = [&](const Numbers& from, int64_t in, const Numbers& weight, int64_t out,
                              const Numbers& to, DType to_dtype, bool accumulate) {
      return after(LinearFewRows(
          {from.data(), rows_, in, weight.data(), dtype_, out, to.data(), to_dtype, accumulate},
          stream));
    };
    const AttentionShape& shape = sizes_.shape;
    const int64_t hidden = sizes_.hidden, intermediate = sizes_.intermediate;
    // Heads that are normed do not come from the product itself.
    const float* head_norm = Fuses() ? nullptr : norm_.floats();
    LONGSPAN_RETURN_IF_ERROR(normalize(x_, hidden, normed_));
    LONGSPAN_RETURN_IF_ERROR(
        multiply(normed_, hidden, qkv_, qkv_dim(), stacked_, DType::kFloat32, false));
    LONGSPAN_RETURN_IF_ERROR(
        after(SplitHeads({shape, stacked_.floats(), rows_, qkv_bias_.floats(), head_norm, head_norm,
                          kEpsilon, queries_.floats(), keys_.floats(), values_.floats()},
                         stream)));
    LONGSPAN_RETURN_IF_ERROR(normalize(queries_, shape.query_dim(), attended_));
    LONGSPAN_RETURN_IF_ERROR(
        multiply(attended_, shape.query_dim(), output_, hidden, x_, DType::kFloat32, true));
    LONGSPAN_RETURN_IF_ERROR(
        after(AddBias({output_bias_.floats(), rows_, hidden, x_.data(), DType::kFloat32}, stream)));
    LONGSPAN_RETURN_IF_ERROR(normalize(x_, hidden, normed_));
    LONGSPAN_RETURN_IF_ERROR(
        multiply(normed_, hidden, gate_up_, 2 * intermediate, gates_, DType::kFloat32, false));
    LONGSPAN_RETURN_IF_ERROR(
        after(SwiGlu({gates_.data(), gates_.data(intermediate), DType::kFloat32, intermediate,
                      activated_.data(), dtype_, rows_, 2 * intermediate},
                     stream)));
    return multiply(activated_, intermediate, down_, hidden, x_, DType::kFloat32, true);
  }

  Numbers Weights(int64_t out, int64_t in, Random* random) const {
    const float range = 1 / std::sqrt(static_cast<float>(in));
    return Numbers(random->Reals(out * in, -range, range), dtype_);
  }
  int64_t qkv_dim() const { return sizes_.shape.query_dim() + 2 * sizes_.shape.kv_dim(); }

  ChainSizes sizes_;
  DType dtype_;
  int64_t rows_;
  Numbers table_, norm_, qkv_, qkv_bias_, output_, output_bias_, gate_up_, down_;
  Buffer ids_;
  Numbers x_, normed_, stacked_, queries_, keys_, values_, attended_, gates_, activated_;
};

class ChainCudaTest : public CudaTest {
 protected:
  static constexpr int64_t kSteps = 20;

  // Steps with other ids each, in a graph or one by one, fused or not, are to give what they give
  // with all of their kernels apart. Nobody waits between them, either.
  void ExpectSameBitsAsApart(const ChainSizes& sizes, DType dtype, int64_t rows, Random* random) {
    absl::StatusOr<StreamHandle> stream = StreamHandle::Create();
    ASSERT_TRUE(stream.ok()) << stream.status();
    Chain chain(sizes, dtype, rows, random);
    std::vector<int32_t> ids(kSteps * rows);
    for (int32_t& id : ids) {
      id = static_cast<int32_t>(random->Integer(0, Chain::kVocabulary - 1));
    }
    const Buffer device_ids = Upload(ids);
    ExpectOk(Synchronize(nullptr));
    const auto run = [&](absl::FunctionRef<absl::Status()> enqueue) {
      const int64_t x_count = rows * sizes.hidden;
      const int64_t count = x_count + rows * sizes.shape.kv_dim();
      const Buffer results = Poisoned(kSteps * count * 4);
      ExpectOk(Synchronize(nullptr));
      for (int64_t step = 0; step < kSteps; ++step) {
        ExpectOk(
            Copy(chain.ids(), device_ids.as<int32_t>() + step * rows, rows * 4, stream->get()));
        ExpectOk(enqueue());
        float* result = results.as<float>() + step * count;
        ExpectOk(Copy(result, chain.x().data(), x_count * 4, stream->get()));
        ExpectOk(Copy(result + x_count, chain.keys().data(), (count - x_count) * 4, stream->get()));
      }
      ExpectOk(Synchronize(stream->get()));
      return Download<float>(results.data(), kSteps * count);
    };
    const std::vector<float> expected = run([&] { return chain.Run(stream->get(), true, false); });
    for (const float value : expected) ASSERT_TRUE(std::isfinite(value));
    for (const bool fused : {false, true}) {
      if (fused && !chain.Fuses()) continue;
      SCOPED_TRACE(fused ? "fused" : "one by one");
      const auto step = [&] { return chain.Run(stream->get(), false, fused); };
      ExpectSameBits(run(step), expected);
      absl::StatusOr<Graph> graph = Graph::Capture(stream->get(), step);
      ASSERT_TRUE(graph.ok()) << graph.status();
      for (int round = 0; round < 3; ++round) {
        ExpectSameBits(run([&] { return graph->Launch(stream->get()); }), expected);
      }
    }
  }
};

TEST_F(ChainCudaTest, ShortKernels) {
  Random random(50);
  for (const DType dtype : kDTypes) {
    for (const int64_t rows : {1, 3, 8, 20}) {
      SCOPED_TRACE(testing::Message() << DTypeName(dtype) << ", " << rows << " rows");
      ExpectSameBitsAsApart({{.heads = 4, .kv_heads = 2, .head_dim = 64}, 256, 520, 40}, dtype,
                            rows, &random);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(ChainCudaTest, KernelsOfManyBlocks) {
  Random random(51);
  for (const DType dtype : kDTypes) {
    for (const int64_t rows : {1, 8}) {
      SCOPED_TRACE(testing::Message() << DTypeName(dtype) << ", " << rows << " rows");
      ExpectSameBitsAsApart({{.heads = 16, .kv_heads = 2, .head_dim = 64}, 1024, 7168, 20}, dtype,
                            rows, &random);
      if (HasFatalFailure()) return;
    }
  }
}

// Rows that are no whole number of vectors.
TEST_F(ChainCudaTest, OddSizes) {
  Random random(52);
  for (const DType dtype : kDTypes) {
    ExpectSameBitsAsApart({{.heads = 3, .kv_heads = 1, .head_dim = 34}, 301, 77, 10}, dtype, 2,
                          &random);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace longspan::cuda
