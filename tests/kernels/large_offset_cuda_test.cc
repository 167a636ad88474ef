// Offsets beyond 2^31 elements on a GPU. Where a kernel's result does not depend on where its
// numbers lie, it is compared, to the last bit, with that of the same numbers in little memory.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/base/convert.h"
#include "kernels/cuda/cache_store.h"
#include "kernels/cuda/copy.h"
#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/embed.h"
#include "kernels/cuda/key_list.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/merge.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/prefill_attention.h"
#include "kernels/cuda/prefill_score.h"
#include "kernels/cuda/rope.h"
#include "kernels/cuda/sampling.h"
#include "kernels/cuda/select.h"
#include "kernels/cuda/split_heads.h"
#include "tests/kernels/cuda_testing.h"
#include "tests/kernels/kernel_testing.h"

namespace longspan::cuda {
namespace {

using testing::AnyOf;
using testing::Each;
using testing::ElementsAre;
using LargeOffsetCudaTest = CudaTest;

constexpr int64_t kTwo31 = int64_t{1} << 31;
constexpr int64_t kWidth = 4096;      // of rows, where nothing asks for another
const auto kZero = AnyOf(0, 0x8000);  // bits of bfloat16

// Of the bytes that a test allocates, and what drivers and kernels take beside them.
#define SKIP_WITHOUT_MEMORY(bytes)                                                        \
  if (const absl::StatusOr<MemoryInfo> memory = FreeMemory();                             \
      !memory.ok() || memory->free < (bytes) + (int64_t{1} << 29)) {                      \
    GTEST_SKIP() << "needs " << ((bytes) >> 30) + 1 << " GiB of GPU memory that is free"; \
  }

void ExpectOk(const absl::Status& status) { ASSERT_TRUE(status.ok()) << status; }

template <typename T>
void Put(const std::vector<T>& values, void* to) {
  ExpectOk(Copy(to, values.data(), static_cast<int64_t>(values.size() * sizeof(T)), nullptr));
  ExpectOk(Synchronize(nullptr));
}

std::vector<std::byte> BytesOf(const std::vector<float>& values, DType dtype) {
  const auto count = static_cast<int64_t>(values.size());
  std::vector<std::byte> bytes(count * SizeOf(dtype));
  ConvertFromFloat(values.data(), count, dtype, bytes.data());
  return bytes;
}

// Numbers that every dtype has, and whose sums are exact in any order.
std::vector<float> Whole(Random* random, int64_t count) {
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random->Integer(-8, 8));
  return values;
}

std::vector<double> InverseFrequencies(int64_t head_dim) {
  std::vector<double> frequencies;
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    frequencies.push_back(std::pow(10000.0, -2.0 * static_cast<double>(i) / head_dim));
  }
  return frequencies;
}

// ---- Rows of activations ----

TEST_F(LargeOffsetCudaTest, CopyByKernel) {
  constexpr int64_t kBytes = 2 * kTwo31 + 4096;  // of 16-bit numbers
  SKIP_WITHOUT_MEMORY(2 * kBytes);
  const Buffer from = Filled(kBytes, 0), to = Poisoned(kBytes);
  std::vector<int32_t> tail(1024);
  std::iota(tail.begin(), tail.end(), 1);
  Put(tail, from.data() + 2 * kTwo31);
  ExpectOk(CopyByKernel(to.data(), from.data(), kBytes, nullptr));
  EXPECT_EQ(Download<int32_t>(to.data() + 2 * kTwo31, 1024), tail);
  EXPECT_EQ(Download<int32_t>(to.data() + 2 * kTwo31 - 4, 1)[0], 0);
}

TEST_F(LargeOffsetCudaTest, RmsNorm) {
  constexpr int64_t kRows = kTwo31 / kWidth + 3;
  SKIP_WITHOUT_MEMORY(kRows * kWidth * 6);
  Random random(1);
  const std::vector<float> row = random.Reals(kWidth);
  const Buffer weight = Upload(random.Reals(kWidth));
  const Buffer x = Filled(kRows * kWidth * 4, 0), out = Poisoned(kRows * kWidth * 2);
  const auto run = [&](const float* from, int64_t rows, void* to) {
    ExpectOk(
        RmsNorm({from, weight.as<float>(), rows, kWidth, 1e-5f, to, DType::kBFloat16}, nullptr));
  };
  const Buffer one = Upload(row), expected = Poisoned(kWidth * 2);
  run(one.as<float>(), 1, expected.data());
  for (const int64_t r : {kTwo31 / kWidth, kRows - 1}) Put(row, x.as<float>() + r * kWidth);
  run(x.as<float>(), kRows, out.data());
  const auto bits = Download<uint16_t>(expected.data(), kWidth);
  EXPECT_EQ(Download<uint16_t>(out.data() + kTwo31 * 2, kWidth), bits);
  EXPECT_EQ(Download<uint16_t>(out.data() + (kRows - 1) * kWidth * 2, kWidth), bits);
  EXPECT_THAT(Download<uint16_t>(out.data() + (kRows - 2) * kWidth * 2, kWidth), Each(kZero));
}

TEST_F(LargeOffsetCudaTest, SwiGlu) {
  constexpr int64_t kRows = kTwo31 / kWidth + 3;
  SKIP_WITHOUT_MEMORY(kRows * kWidth * 6);
  Random random(2);
  const std::vector<std::byte> row = BytesOf(random.Reals(2 * kWidth), DType::kBFloat16);
  const Buffer x = Filled(kRows * kWidth * 4, 0), out = Poisoned(kRows * kWidth * 2);
  const auto run = [&](const Buffer& from, int64_t rows, void* to) {
    SwiGluArgs args;
    args.gate = from.data();
    args.up = from.data() + kWidth * 2;
    args.dtype = args.out_dtype = DType::kBFloat16;
    args.count = kWidth;
    args.out = to;
    args.rows = rows;
    args.stride = 2 * kWidth;
    ExpectOk(SwiGlu(args, nullptr));
  };
  const Buffer one = Upload(row), expected = Poisoned(kWidth * 2);
  run(one, 1, expected.data());
  Put(row, x.data() + (kRows - 1) * kWidth * 4);
  run(x, kRows, out.data());
  EXPECT_EQ(Download<uint16_t>(out.data() + (kRows - 1) * kWidth * 2, kWidth),
            Download<uint16_t>(expected.data(), kWidth));
  EXPECT_THAT(Download<uint16_t>(out.data() + kTwo31 * 2, kWidth), Each(0));
}

TEST_F(LargeOffsetCudaTest, AddBias) {
  constexpr int64_t kRows = kTwo31 / kWidth + 3;
  SKIP_WITHOUT_MEMORY(kRows * kWidth * 2);
  Random random(3);
  const std::vector<float> bias = random.Reals(kWidth);
  const Buffer device_bias = Upload(bias);
  const Buffer y = Filled(kRows * kWidth * 2, 0);
  ExpectOk(AddBias({device_bias.as<float>(), kRows, kWidth, y.data(), DType::kBFloat16}, nullptr));
  EXPECT_EQ(Download<std::byte>(y.data() + (kRows - 1) * kWidth * 2, kWidth * 2),
            BytesOf(bias, DType::kBFloat16));
}

TEST_F(LargeOffsetCudaTest, RotateRows) {
  constexpr int64_t kRows = kTwo31 / kWidth + 3, kFirst = 7;
  SKIP_WITHOUT_MEMORY(kRows * kWidth * 2);
  const auto angles = RopeAngles::Create(InverseFrequencies(128));
  ASSERT_TRUE(angles.ok()) << angles.status();
  Random random(4);
  const std::vector<std::byte> row = BytesOf(random.Reals(kWidth), DType::kBFloat16);
  const auto run = [&](std::byte* x, int64_t rows, int64_t first) {
    RotateRowsArgs args;
    args.table = angles->table();
    args.x = args.out = x;
    args.dtype = args.out_dtype = DType::kBFloat16;
    args.rows = rows;
    args.heads = kWidth / 128;
    args.first_position = first;
    ExpectOk(RotateRows(args, nullptr));
  };
  const Buffer expected = Upload(row), x = Filled(kRows * kWidth * 2, 0);
  run(expected.data(), 1, kFirst + kRows - 1);
  Put(row, x.data() + (kRows - 1) * kWidth * 2);
  run(x.data(), kRows, kFirst);
  EXPECT_EQ(Download<uint16_t>(x.data() + (kRows - 1) * kWidth * 2, kWidth),
            Download<uint16_t>(expected.data(), kWidth));
}

// Both the table and what is taken from it.
TEST_F(LargeOffsetCudaTest, Embed) {
  constexpr int64_t kRows = kTwo31 / kWidth + 5;
  SKIP_WITHOUT_MEMORY(kRows * kWidth * 6);
  Random random(5);
  const std::vector<float> row = Whole(&random, kWidth);
  const Buffer table = Poisoned(kRows * kWidth * 2), out = Poisoned(kRows * kWidth * 4);
  Put(std::vector<uint16_t>(kWidth, 0), table.data());
  Put(BytesOf(row, DType::kBFloat16), table.data() + (kRows - 1) * kWidth * 2);
  std::vector<int32_t> ids(kRows, 0);
  ids.back() = static_cast<int32_t>(kRows - 1);
  const Buffer device_ids = Upload(ids);
  ExpectOk(Embed(
      {table.data(), DType::kBFloat16, device_ids.as<int32_t>(), kRows, kWidth, out.as<float>()},
      nullptr));
  EXPECT_EQ(Download<float>(out.as<float>() + (kRows - 1) * kWidth, kWidth), row);
  EXPECT_THAT(Download<float>(out.as<float>() + kTwo31, kWidth), Each(0));
}

TEST_F(LargeOffsetCudaTest, SplitHeads) {
  const AttentionShape shape = {30, 1, 128};
  const int64_t width = shape.query_dim() + 2 * shape.kv_dim();
  const int64_t rows = kTwo31 / shape.query_dim() + 3;
  SKIP_WITHOUT_MEMORY(2 * rows * width * 4);
  Random random(6);
  const std::vector<float> row = random.Reals(width);
  const Buffer stacked = Filled(rows * width * 4, 0);
  const Buffer queries = Poisoned(rows * shape.query_dim() * 4);
  const Buffer keys = Poisoned(rows * shape.kv_dim() * 4);
  const Buffer values = Poisoned(rows * shape.kv_dim() * 4);
  Put(row, stacked.as<float>() + (rows - 1) * width);
  SplitHeadsArgs args;
  args.shape = shape;
  args.stacked = stacked.as<float>();
  args.rows = rows;
  args.queries = queries.as<float>();
  args.keys = keys.as<float>();
  args.values = values.as<float>();
  ExpectOk(SplitHeads(args, nullptr));
  std::vector<float> actual;
  for (const auto& [out, dim] :
       {std::pair(args.queries, shape.query_dim()), std::pair(args.keys, shape.kv_dim()),
        std::pair(args.values, shape.kv_dim())}) {
    const auto part = Download<float>(out + (rows - 1) * dim, dim);
    actual.insert(actual.end(), part.begin(), part.end());
  }
  EXPECT_EQ(actual, row);
}

TEST_F(LargeOffsetCudaTest, ArgMax) {
  constexpr int64_t kVocab = 1 << 17, kRows = kTwo31 / kVocab + 3;
  SKIP_WITHOUT_MEMORY(kRows * kVocab * 4);
  const Buffer logits = Filled(kRows * kVocab * 4, 0);
  Put<float>({1}, logits.as<float>() + kTwo31 + 77);
  Put<float>({1}, logits.as<float>() + kRows * kVocab - 1);
  const Buffer ids = Poisoned(kRows * 4), workspace = Poisoned(ArgMaxWorkspaceBytes(kRows));
  ExpectOk(
      ArgMax({logits.as<float>(), kRows, kVocab, ids.as<int32_t>(), workspace.data()}, nullptr));
  std::vector<int32_t> expected(kRows, 0);
  expected[kTwo31 / kVocab] = 77;
  expected[kRows - 1] = kVocab - 1;
  EXPECT_EQ(Download<int32_t>(ids.data(), kRows), expected);
}

// ---- Products ----

TEST_F(LargeOffsetCudaTest, LinearWithALargeWeight) {
  constexpr int64_t kIn = 1 << 14, kOut = kTwo31 / kIn + 16, kManyRows = 16;
  SKIP_WITHOUT_MEMORY(kIn * kOut * 2 + kManyRows * kOut * 4 + (64 << 20));
  auto plans = LinearPlans::Create();
  ASSERT_TRUE(plans.ok()) << plans.status();
  Random random(7);
  const std::vector<float> x = Whole(&random, kManyRows * kIn), last = Whole(&random, kIn);
  const Buffer weight = Filled(kIn * kOut * 2, 0);
  Put(BytesOf(last, DType::kBFloat16), weight.data() + (kOut - 1) * kIn * 2);
  const Buffer device_x = Upload(BytesOf(x, DType::kBFloat16));
  for (const int64_t rows : {int64_t{1}, kManyRows}) {  // two kernels
    const Buffer y = Poisoned(rows * kOut * 4);
    ExpectOk(Linear({device_x.data(), rows, kIn, weight.data(), DType::kBFloat16, kOut, y.data(),
                     DType::kFloat32, false},
                    &*plans, nullptr));
    const auto sums = Download<float>(y.data(), rows * kOut);
    for (int64_t r = 0; r < rows; ++r) {
      const float sum = std::inner_product(last.begin(), last.end(), x.begin() + r * kIn, 0.0f);
      EXPECT_EQ(sums[(r + 1) * kOut - 1], sum) << "row " << r << " of " << rows;
      EXPECT_EQ(sums[(r + 1) * kOut - 2], 0) << "row " << r << " of " << rows;
    }
  }
}

TEST_F(LargeOffsetCudaTest, LinearWithManyRows) {
  constexpr int64_t kRows = kTwo31 / kWidth + 16;
  SKIP_WITHOUT_MEMORY(kRows * kWidth * 4 + (128 << 20));
  auto plans = LinearPlans::Create();
  ASSERT_TRUE(plans.ok()) << plans.status();
  Random random(8);
  const std::vector<float> weight = Whole(&random, kWidth * kWidth);
  const Buffer device_weight = Upload(BytesOf(weight, DType::kBFloat16));
  const Buffer x = Filled(kRows * kWidth * 2, 0), y = Poisoned(kRows * kWidth * 2);
  Put(BytesOf({1}, DType::kBFloat16), x.data() + ((kRows - 1) * kWidth + 5) * 2);
  ExpectOk(Linear({x.data(), kRows, kWidth, device_weight.data(), DType::kBFloat16, kWidth,
                   y.data(), DType::kBFloat16, false},
                  &*plans, nullptr));
  std::vector<float> column;
  for (int64_t o = 0; o < kWidth; ++o) column.push_back(weight[o * kWidth + 5]);
  const auto bytes =
      Download<std::byte>(y.data() + (kRows - 1) * kWidth * 2, kWidth * SizeOf(DType::kBFloat16));
  std::vector<float> last(kWidth);
  ConvertToFloat(bytes.data(), DType::kBFloat16, kWidth, last.data());
  EXPECT_EQ(last, column);
  EXPECT_THAT(Download<uint16_t>(y.data() + kTwo31 * 2, kWidth), Each(kZero));
}

// In no dimension of a grid are so many blocks of rows.
TEST_F(LargeOffsetCudaTest, LinearFewRowsOfMoreThanAGrid) {
  constexpr int64_t kRows = 65535 * kMaxFewRows + 3, kIn = 16, kOut = 8;
  Random random(18);
  const std::vector<float> x = Whole(&random, kRows * kIn), weight = Whole(&random, kOut * kIn);
  for (const DType dtype : {DType::kBFloat16, DType::kFloat32}) {  // a kernel each
    const Buffer device_x = Upload(BytesOf(x, dtype)), y = Poisoned(kRows * kOut * 4);
    const Buffer device_weight = Upload(BytesOf(weight, dtype));
    ExpectOk(LinearFewRows({device_x.data(), kRows, kIn, device_weight.data(), dtype, kOut,
                            y.data(), DType::kFloat32, false},
                           nullptr));
    const auto sums = Download<float>(y.data(), kRows * kOut);
    for (int64_t i = 0; i < kRows * kOut; ++i) {
      const float* const row = x.data() + i / kOut * kIn;
      ASSERT_EQ(sums[i], std::inner_product(row, row + kIn, weight.data() + i % kOut * kIn, 0.0f))
          << "row " << i / kOut << ", " << DTypeName(dtype);
    }
  }
}

// ---- The cache ----

// Keys, values and score keys of fp8, each more than 2^31 of them in one page. What is stored comes
// from beyond 2^31 floats: rows of one source, from which values come a row later than keys, and
// score keys two.
class LargePage {
 public:
  static constexpr int64_t kDim = 512, kBeyond = kTwo31 / kDim, kRuns = 10;
  static constexpr int64_t kStripe = kBeyond + 64, kHalo = 2;
  static constexpr int64_t kPageBytes = (3 * kStripe + 2 * kHalo) * kDim;
  static constexpr int64_t kSourceBytes = (kBeyond + kRuns + 2) * kDim * 4;

  explicit LargePage(Random* random)
      : page(Poisoned(kPageBytes)),
        source(Poisoned(kSourceBytes)),
        rows(Whole(random, (kRuns + 2) * kDim)) {
    Put(rows, source.as<float>() + kBeyond * kDim);
    table = Upload(std::vector<std::byte*>{page.data()});
    layer.geometry = {static_cast<int32_t>(kStripe), 1, 0};
    layer.dtype = layer.score_dtype = DType::kFloat8E4M3;
    layer.kv_dim = layer.score_dim = kDim;
    layer.value_offset = kStripe * kDim;
    layer.score_offset = 2 * kStripe * kDim;
    layer.halo = kHalo;
  }
  const float* keys() const { return source.as<float>(); }
  const float* values() const { return keys() + kDim; }
  const float* score_keys() const { return keys() + 2 * kDim; }
  // `count` rows of the source from kBeyond + first on, as they are stored.
  std::vector<std::byte> Stored(int64_t first, int64_t count) const {
    return BytesOf({rows.begin() + first * kDim, rows.begin() + (first + count) * kDim},
                   DType::kFloat8E4M3);
  }
  // Whether `count` rows of the source are the stripe's from `slot` on.
  void ExpectAt(int64_t slot, int64_t count) const {
    const auto at = [&](int64_t row) {
      return Download<std::byte>(page.data() + row * kDim, count * kDim);
    };
    EXPECT_EQ(at(slot), Stored(0, count)) << "keys";
    EXPECT_EQ(at(kStripe + slot), Stored(1, count)) << "values";
    EXPECT_EQ(at(2 * kStripe + kHalo + slot), Stored(2, count)) << "score keys";
  }

  Buffer page, source, table;
  std::vector<float> rows;  // of the source, from kBeyond on
  CacheLayer layer;
};

TEST_F(LargeOffsetCudaTest, RunsAndTokensAreStored) {
  using P = LargePage;
  constexpr int64_t kTokens = P::kBeyond + 1;
  SKIP_WITHOUT_MEMORY(P::kPageBytes + P::kSourceBytes + kTokens * 32);
  Random random(9);
  const P large(&random);
  StoreRunsArgs runs;
  runs.layer = large.layer;
  runs.pages = large.table.as<std::byte*>();
  runs.num_pages = 1;
  const Buffer device_runs =
      Upload(std::vector<StoredRun>{{P::kBeyond, P::kRuns, P::kStripe - P::kRuns}});
  runs.runs = device_runs.as<StoredRun>();
  runs.num_runs = 1;
  runs.max_count = P::kRuns;
  runs.keys = large.keys();
  runs.values = large.values();
  runs.score_keys = large.score_keys();
  ExpectOk(StoreRuns(runs, nullptr));
  large.ExpectAt(P::kStripe - P::kRuns, P::kRuns);

  // All tokens but the last are at -1.
  StoreTokensArgs tokens;
  tokens.layer = large.layer;
  const Buffer rows = Poisoned(kTokens * static_cast<int64_t>(sizeof(DecodeRow)));
  const Buffer pages_of = Poisoned(kTokens * 8);
  Put(std::vector<DecodeRow>{{large.table.as<const std::byte*>(), P::kStripe - 20}},
      rows.as<DecodeRow>() + kTokens - 1);
  Put(std::vector<int64_t>{1}, pages_of.as<int64_t>() + kTokens - 1);
  tokens.rows = rows.as<DecodeRow>();
  tokens.pages_of = pages_of.as<int64_t>();
  tokens.num_rows = static_cast<int>(kTokens);
  tokens.keys = large.keys();
  tokens.values = large.values();
  tokens.score_keys = large.score_keys();
  ExpectOk(StoreTokens(tokens, nullptr));
  large.ExpectAt(P::kStripe - 20, 1);
}

TEST_F(LargeOffsetCudaTest, RowsAreGatheredAndScoreRowsCopied) {
  constexpr int64_t kDim = 512, kBeyond = kTwo31 / kDim, kRows = 10;
  constexpr int64_t kStripe = kBeyond + 64, kHalo = 2, kCount = kBeyond / 2 + kRows / 2;
  constexpr int64_t kMessageBytes = kCount * 2 * kDim;
  SKIP_WITHOUT_MEMORY((3 * kStripe + 2 * kHalo) * kDim + kMessageBytes + kCount * 4);
  Random random(10);
  const Buffer page = Poisoned((3 * kStripe + 2 * kHalo) * kDim);
  const Buffer table = Upload(std::vector<std::byte*>{page.data()});
  CacheLayer layer;
  layer.geometry = {static_cast<int32_t>(kStripe), 1, 0};
  layer.dtype = layer.score_dtype = DType::kFloat8E4M3;
  layer.kv_dim = layer.score_dim = kDim;
  layer.value_offset = kStripe * kDim;
  layer.score_offset = 2 * kStripe * kDim;
  layer.halo = kHalo;
  std::vector<std::vector<std::byte>> kinds;  // the last rows of the stripe
  for (const int64_t end : {kStripe, 2 * kStripe, 3 * kStripe + kHalo}) {
    kinds.push_back(BytesOf(Whole(&random, kRows * kDim), DType::kFloat8E4M3));
    Put(kinds.back(), page.data() + (end - kRows) * kDim);
  }
  const Buffer message = Poisoned(kMessageBytes);

  std::vector<uint32_t> indices(kCount, static_cast<uint32_t>(kStripe - kRows));
  indices.back() = static_cast<uint32_t>(kStripe - 1);
  const Buffer device_indices = Upload(indices);
  GatherRowsArgs gather;
  gather.layer = layer;
  gather.pages = table.as<const std::byte*>();
  gather.local_indices = device_indices.as<uint32_t>();
  gather.max_count = kCount;
  gather.message = message.data();
  ExpectOk(GatherRows(gather, nullptr));
  std::vector<std::byte> last(kinds[0].end() - kDim, kinds[0].end());
  last.insert(last.end(), kinds[1].end() - kDim, kinds[1].end());
  EXPECT_EQ(Download<std::byte>(message.data() + kMessageBytes - 2 * kDim, 2 * kDim), last);

  // In pieces of 16 bytes, and byte by byte where the message is not aligned.
  for (const int64_t shift : {0, 1}) {
    const int64_t message_row = kBeyond - shift;
    ExpectOk(Fill(message.data() + kTwo31 - kDim, 0xff, kRows * kDim, nullptr));
    const Buffer runs =
        Upload(std::vector<ScoreRun>{{0, kHalo + kStripe - kRows, kRows, message_row}});
    CopyScoreRowsArgs copy;
    copy.layer = layer;
    copy.pages = table.as<std::byte*>();
    copy.runs = runs.as<ScoreRun>();
    copy.num_runs = 1;
    copy.max_count = kRows;
    copy.message = message.data() + shift;
    ExpectOk(CopyScoreRows(copy, nullptr));
    EXPECT_EQ(Download<std::byte>(copy.message + message_row * kDim, kRows * kDim), kinds[2]);
  }
}

TEST_F(LargeOffsetCudaTest, ConvertAndSumGroups) {
  const AttentionShape shape = {8, 1, 128};
  const int64_t rows = kTwo31 / shape.query_dim() + 3, count = rows * shape.query_dim();
  SKIP_WITHOUT_MEMORY(count * 6);
  Random random(11);
  const std::vector<float> row = Whole(&random, shape.query_dim());
  const Buffer from = Filled(count * 4, 0), to = Poisoned(count * 2);
  Put(row, from.as<float>() + count - shape.query_dim());
  ExpectOk(Convert(from.data(), DType::kFloat32, to.data(), DType::kBFloat16, count, nullptr));
  EXPECT_EQ(Download<std::byte>(to.data() + (count - shape.query_dim()) * 2, shape.query_dim() * 2),
            BytesOf(row, DType::kBFloat16));

  ExpectOk(SumGroups({shape, from.as<float>(), rows, to.data(), DType::kFloat32}, nullptr));
  std::vector<float> sums(shape.kv_dim());
  for (size_t i = 0; i < row.size(); ++i) sums[i % sums.size()] += row[i];
  EXPECT_EQ(Download<float>(to.as<float>() + (rows - 1) * shape.kv_dim(), shape.kv_dim()), sums);
}

// ---- Scores and selections ----

std::vector<Candidate> RunTopK(const float* scores, int64_t stride, int64_t count, int rows,
                               int64_t k) {
  auto workspace = SelectWorkspace::Create(rows, count);
  EXPECT_TRUE(workspace.ok()) << workspace.status();
  const Buffer candidates = Poisoned(rows * k * 8), counts = Poisoned(rows * 4);
  TopKArgs args;
  args.scores = scores;
  args.row_stride = stride;
  args.count = count;
  args.rows = rows;
  args.top_k = k;
  args.selected = {candidates.as<Candidate>(), counts.as<int32_t>()};
  ExpectOk(TopK(args, *workspace, nullptr));
  EXPECT_THAT(Download<int32_t>(counts.data(), rows), Each(k));
  return Download<Candidate>(candidates.data(), rows * k);
}

// The workspace has as many words as there are scores.
TEST_F(LargeOffsetCudaTest, TopKOfOneRow) {
  constexpr int64_t kCount = kTwo31 + 10'000;
  SKIP_WITHOUT_MEMORY(kCount * 8 + (64 << 20));
  const Buffer scores = Filled(kCount * 4, 0);
  for (const int64_t place : {kCount - 1, kTwo31 + 5, int64_t{77}}) {
    Put<float>({1}, scores.as<float>() + place);
  }
  std::vector<int64_t> positions;
  for (const Candidate candidate : RunTopK(scores.as<float>(), kCount, kCount, 1, 10)) {
    positions.push_back(PositionOf(candidate));
  }
  EXPECT_THAT(positions, ElementsAre(0, 1, 2, 3, 4, 5, 6, 77, kTwo31 + 5, kCount - 1));
}

TEST_F(LargeOffsetCudaTest, TopKOfRowsFarApart) {
  constexpr int64_t kStride = kTwo31 + 8, kCount = 50'000, kTopK = 300;
  SKIP_WITHOUT_MEMORY((kStride + kCount) * 4);
  Random random(12);
  const Buffer scores = Poisoned((kStride + kCount) * 4);
  std::vector<Candidate> expected;
  for (const int64_t row : {0, 1}) {
    const std::vector<float> values = random.Reals(kCount);
    Put(values, scores.as<float>() + row * kStride);
    const Buffer alone = Upload(values);
    const auto candidates = RunTopK(alone.as<float>(), kCount, kCount, 1, kTopK);
    expected.insert(expected.end(), candidates.begin(), candidates.end());
  }
  EXPECT_EQ(RunTopK(scores.as<float>(), kStride, kCount, 2, kTopK), expected);
}

// `rows` are the last score keys of a stripe, all that is selected from but some at its begin. What
// comes back counts positions from the first of them.
std::vector<Candidate> SelectAtTheEnd(int64_t stripe, const std::vector<std::byte>& rows,
                                      const std::vector<float>& query, int64_t num_rows) {
  constexpr int64_t kBefore = 100, kTopK = 200;
  const auto dim = static_cast<int64_t>(query.size());
  const Buffer page = Poisoned((stripe + 2) * dim);
  Put(rows, page.data() + (stripe + 1 - num_rows) * dim);
  const Buffer table = Upload(std::vector<const std::byte*>{page.data()});
  const Buffer sequence =
      Upload(std::vector<DecodeRow>{{table.as<const std::byte*>(), stripe - 1}});
  const Buffer device_query = Upload(query);
  const Buffer candidates = Poisoned(kTopK * 8), counts = Poisoned(4);
  DecodeSelectArgs args;
  args.sequences = sequence.as<DecodeRow>();
  args.max_tokens = stripe;
  args.rows = 1;
  args.queries = device_query.as<float>();
  args.dim = dim;
  args.dtype = DType::kFloat8E4M3;
  args.geometry = {static_cast<int32_t>(stripe), 1, 0};
  args.halo = args.proximity = 1;
  args.initial_tokens = stripe - num_rows + kBefore;
  args.local_tokens = 64;
  args.top_k = kTopK;
  args.selected = {candidates.as<Candidate>(), counts.as<int32_t>()};
  auto workspace = SelectWorkspace::Create(1, MaxKeys(stripe, args.geometry, args.halo));
  EXPECT_TRUE(workspace.ok()) << workspace.status();
  ExpectOk(DecodeSelect(args, *workspace, nullptr));
  EXPECT_EQ(Download<int32_t>(counts.data(), 1)[0], kTopK);
  auto selected = Download<Candidate>(candidates.data(), kTopK);
  for (Candidate& candidate : selected) candidate += stripe - num_rows;  // positions are inverted
  return selected;
}

TEST_F(LargeOffsetCudaTest, DecodeSelect) {
  constexpr int64_t kDim = 128, kStripe = kTwo31 / kDim + 64, kRows = 5000;
  SKIP_WITHOUT_MEMORY(kStripe * (kDim + 8));
  Random random(13);
  const std::vector<float> query = random.Reals(kDim);
  const auto rows = BytesOf(random.Reals(kRows * kDim), DType::kFloat8E4M3);
  EXPECT_EQ(SelectAtTheEnd(kStripe, rows, query, kRows), SelectAtTheEnd(kRows, rows, query, kRows));
}

struct Scored {
  std::vector<float> maxima, scores;
};

// Queries from row first_query on against keys at the end of a stripe.
Scored ScoreAtTheEnd(DType dtype, int64_t dim, int64_t stripe, int64_t first_query,
                     const std::vector<float>& keys, const std::vector<float>& queries) {
  const int64_t row_bytes = dim * SizeOf(dtype);
  const DType query_dtype = dtype == DType::kFloat8E4M3 ? DType::kBFloat16 : dtype;
  const auto num_keys = static_cast<int64_t>(keys.size()) / dim;
  const auto num_queries = static_cast<int64_t>(queries.size()) / dim;
  const Range middle = {stripe - num_keys, stripe};
  const Buffer page = Poisoned((stripe + 2) * row_bytes);
  Put(BytesOf(keys, dtype), page.data() + (1 + middle.begin) * row_bytes);
  const Buffer device_queries = Poisoned((first_query + num_queries) * dim * SizeOf(query_dtype));
  Put(BytesOf(queries, query_dtype),
      device_queries.data() + first_query * dim * SizeOf(query_dtype));
  const Buffer table = Upload(std::vector<const std::byte*>{page.data()});
  const Buffer blocks = Upload(std::vector<ScoredBlock>{{first_query, num_queries, middle}});
  PrefillScoreArgs args;
  args.pages = table.as<const std::byte*>();
  args.geometry = {static_cast<int32_t>(stripe), 1, 0};
  args.dtype = dtype;
  args.dim = dim;
  args.halo = 1;
  args.queries = device_queries.data();
  args.blocks = blocks.as<ScoredBlock>();
  args.num_blocks = 1;
  args.max_queries = num_queries;
  args.hull = middle;
  const Buffer maxima = Poisoned((first_query + num_queries) * 4), scores = Poisoned(num_keys * 4);
  const Buffer workspace =
      Poisoned(PrefillScoresWorkspaceBytes(args.geometry, args.halo, 1, num_keys));
  ExpectOk(PrefillMaxima(args, maxima.as<float>(), nullptr));
  ExpectOk(PrefillScores(args, maxima.as<float>(),
                         {scores.as<float>(), num_keys, /*proximity=*/1, workspace.as<float>()},
                         nullptr));
  return {Download<float>(maxima.as<float>() + first_query, num_queries),
          Download<float>(scores.data(), num_keys)};
}

TEST_F(LargeOffsetCudaTest, PrefillScores) {
  constexpr int64_t kKeys = 300, kQueries = 20;
  struct {
    DType dtype;
    int64_t dim;
  } const cases[] = {{DType::kBFloat16, 128},  // a kernel each
                     {DType::kBFloat16, 136},
                     {DType::kFloat8E4M3, 128},
                     {DType::kFloat32, 64}};
  for (const auto& [dtype, dim] : cases) {
    const int64_t beyond = kTwo31 / dim + 64;
    SKIP_WITHOUT_MEMORY(beyond * (2 * dim * std::max<int64_t>(2, SizeOf(dtype)) + 4));
    SCOPED_TRACE(testing::Message() << DTypeName(dtype) << ", " << dim);
    Random random(14);
    const std::vector<float> keys = random.Reals(kKeys * dim);
    const std::vector<float> queries = random.Reals(kQueries * dim);
    const Scored large = ScoreAtTheEnd(dtype, dim, beyond, beyond, keys, queries);
    const Scored small = ScoreAtTheEnd(dtype, dim, kKeys, 0, keys, queries);
    for (const float maximum : small.maxima) ASSERT_TRUE(std::isfinite(maximum));
    for (const float score : small.scores) ASSERT_TRUE(std::isfinite(score));
    ExpectSameBits(large.maxima, small.maxima);
    ExpectSameBits(large.scores, small.scores);
  }
}

// Every block has the same query, so that all rows are the same.
TEST_F(LargeOffsetCudaTest, PrefillScoresOfManyBlocks) {
  constexpr int64_t kDim = 16, kKeys = 1 << 19, kBlocks = kTwo31 / kKeys + 1;
  SKIP_WITHOUT_MEMORY(kBlocks * kKeys * 8 + kKeys * kDim);
  Random random(15);
  const Buffer page = Upload(BytesOf(random.Reals(kKeys * kDim), DType::kFloat8E4M3));
  const Buffer query = Upload(BytesOf(random.Reals(kDim), DType::kBFloat16));
  const Buffer table = Upload(std::vector<const std::byte*>{page.data()});
  const Buffer blocks = Upload(std::vector<ScoredBlock>(kBlocks, {0, 1, {0, kKeys}}));
  PrefillScoreArgs args;
  args.pages = table.as<const std::byte*>();
  args.geometry = {kKeys, 1, 0};
  args.dtype = DType::kFloat8E4M3;
  args.dim = kDim;
  args.queries = query.data();
  args.blocks = blocks.as<ScoredBlock>();
  args.num_blocks = 1;
  args.max_queries = 1;
  args.hull = {0, kKeys};
  const Buffer maxima = Poisoned(4), scores = Poisoned(kBlocks * kKeys * 4);
  ExpectOk(PrefillMaxima(args, maxima.as<float>(), nullptr));
  args.num_blocks = static_cast<int>(kBlocks);
  const Buffer workspace =
      Poisoned(PrefillScoresWorkspaceBytes(args.geometry, args.halo, args.num_blocks, kKeys));
  ExpectOk(PrefillScores(args, maxima.as<float>(),
                         {scores.as<float>(), kKeys, /*proximity=*/0, workspace.as<float>()},
                         nullptr));
  const auto first = Download<float>(scores.data(), kKeys);
  EXPECT_EQ(*std::max_element(first.begin(), first.end()), 0);  // the maximum less itself
  EXPECT_LT(*std::min_element(first.begin(), first.end()), 0);
  ExpectSameBits(Download<float>(scores.as<float>() + kTwo31, kKeys), first);
}

TEST_F(LargeOffsetCudaTest, CandidatesAreLocated) {
  constexpr int64_t kTopK = 1 << 19, kBlocks = kTwo31 / kTopK + 1;
  SKIP_WITHOUT_MEMORY(kBlocks * kTopK * 8);
  const Buffer candidates = Filled(kBlocks * kTopK * 8, 0), counts = Filled(kBlocks * 4, 0);
  const Buffer blocks = Upload(std::vector<ScoredBlock>(kBlocks, {0, 1, {0, 1000}}));
  // Local indices of a rank that has every second stripe of 64; the last lies behind the middle.
  Put<Candidate>({PackCandidate(1, 3), PackCandidate(2, 70), PackCandidate(3, 5000)},
                 candidates.as<Candidate>() + kTwo31);
  Put<int32_t>({3}, counts.as<int32_t>() + kBlocks - 1);
  LocateCandidatesArgs args;
  args.geometry = {64, 2, 1};
  args.blocks = blocks.as<ScoredBlock>();
  args.num_blocks = static_cast<int>(kBlocks);
  args.top_k = kTopK;
  args.candidates = candidates.as<Candidate>();
  args.counts = counts.as<int32_t>();
  ExpectOk(LocateCandidates(args, nullptr));
  EXPECT_THAT(Download<Candidate>(candidates.as<Candidate>() + kTwo31, 3),
              ElementsAre(PackCandidate(1, 64 + 3), PackCandidate(2, 3 * 64 + 6), 0));
  EXPECT_EQ(Download<int32_t>(counts.as<int32_t>() + kBlocks - 1, 1)[0], 2);
}

// On one rank the lists of rows and positions are the same, and so both may be in one place.
TEST_F(LargeOffsetCudaTest, KeysAreListed) {
  SKIP_WITHOUT_MEMORY((kTwo31 + 9) * 4);
  const Buffer list = Poisoned((kTwo31 + 9) * 4);
  const Buffer blocks = Upload(std::vector<AttentionBlock>{{0, 1, 104, kTwo31, 4, 5}});
  const Buffer ranges = Upload(std::vector<KeyRanges>{{{0, 2}, {100, 105}}});
  const Buffer selected =
      Upload(std::vector<Candidate>{PackCandidate(1, 17), PackCandidate(2, 33)});
  ListKeysArgs args;
  args.blocks = blocks.as<AttentionBlock>();
  args.ranges = ranges.as<KeyRanges>();
  args.num_blocks = 1;
  args.selected = selected.as<Candidate>();
  args.selected_stride = 2;
  args.key_rows = args.key_positions = list.as<uint32_t>();
  ExpectOk(ListKeys(args, nullptr));
  EXPECT_THAT(Download<uint32_t>(list.as<uint32_t>() + kTwo31, 9),
              ElementsAre(0, 1, 17, 33, 100, 101, 102, 103, 104));
}

TEST_F(LargeOffsetCudaTest, CandidatesAreMerged) {
  constexpr int64_t kTopK = 2048, kRanks = 1024, kRows = kTwo31 / kTopK / kRanks + 1;
  SKIP_WITHOUT_MEMORY(kRanks * kRows * kTopK * 8 + 2 * kRows * kTopK * 8);
  const Buffer candidates = Filled(kRanks * kRows * kTopK * 8, 0);
  const std::vector<Candidate> first = {PackCandidate(5, 10), PackCandidate(6, 40)};
  const std::vector<Candidate> last = {PackCandidate(3, 5), PackCandidate(9, 20)};
  Put(first, candidates.as<Candidate>() + (kRows - 1) * kTopK);
  Put(last, candidates.as<Candidate>() + (kRanks * kRows - 1) * kTopK);
  const Buffer selected = Poisoned(kRows * kTopK * 8), counts = Poisoned(kRows * 4);
  MergeCandidatesArgs args;
  args.candidates = candidates.as<Candidate>();
  args.num_ranks = static_cast<int>(kRanks);
  args.rows = kRows;
  args.top_k = kTopK;
  args.selected = selected.as<Candidate>();
  args.counts = counts.as<int32_t>();
  ASSERT_EQ(MergeCandidatesWorkspaceBytes(args.num_ranks, kRows, kTopK), 0);
  ExpectOk(MergeCandidates(args, nullptr));
  std::vector<int32_t> expected(kRows, 0);
  expected.back() = 4;
  EXPECT_EQ(Download<int32_t>(counts.data(), kRows), expected);
  EXPECT_THAT(Download<Candidate>(selected.as<Candidate>() + (kRows - 1) * kTopK, 4),
              ElementsAre(last[0], first[0], last[1], first[1]));
}

// ---- Attention ----

TEST_F(LargeOffsetCudaTest, PartialsAreMerged) {
  constexpr int64_t kStride = kTwo31 + 8, kDim = 8, kLse = 16;
  SKIP_WITHOUT_MEMORY((kStride + 32) * 4);
  const Buffer parts = Filled((kStride + 32) * 4, 0);  // the lse of both are 0
  Put(std::vector<float>(kDim, 10), parts.data());
  Put(std::vector<float>(kDim, 30), parts.as<float>() + kStride);
  const Buffer output = Poisoned(kDim * 4);
  MergePartialsArgs args;
  args.outputs = parts.as<float>();
  args.lse = parts.as<float>() + kLse;
  args.part_stride = kStride;
  args.parts = 2;
  args.rows = args.heads = 1;
  args.head_dim = kDim;
  args.output = output.data();
  ExpectOk(MergePartials(args, nullptr));
  EXPECT_THAT(Download<float>(output.data(), kDim), Each(20));
}

struct Attended {
  std::vector<float> output, lse;
};

// Keys and values of the last positions of a page of so many; there is nothing else in it.
struct KeysAtTheEnd {
  KeysAtTheEnd(const AttentionShape& shape, DType dtype, int64_t page_rows,
               const std::vector<float>& keys, const std::vector<float>& values)
      : value_offset(page_rows * shape.kv_dim() * SizeOf(dtype)), page(Poisoned(2 * value_offset)) {
    const std::vector<std::byte> key_bytes = BytesOf(keys, dtype);
    const auto bytes = static_cast<int64_t>(key_bytes.size());
    Put(key_bytes, page.data() + value_offset - bytes);
    Put(BytesOf(values, dtype), page.data() + 2 * value_offset - bytes);
    table = Upload(std::vector<const std::byte*>{page.data()});
  }
  int64_t value_offset;
  Buffer page, table;
};

struct AttentionCase {
  AttentionShape shape;
  DType dtype;
};

// The newest token of a page; positions are relative, so that the page's size changes no bit.
Attended DecodeAtTheEnd(const AttentionCase& c, int64_t page_rows, const std::vector<float>& keys,
                        const std::vector<float>& values, const std::vector<float>& query) {
  const auto count = static_cast<int64_t>(keys.size()) / c.shape.kv_dim();
  const KeysAtTheEnd cache(c.shape, c.dtype, page_rows, keys, values);
  const Buffer rows =
      Upload(std::vector<DecodeRow>{{cache.table.as<const std::byte*>(), page_rows - 1}});
  std::vector<Candidate> candidates;
  for (int64_t i = 0; i < 128; ++i) {
    candidates.push_back(PackCandidate(1, page_rows - count + 3 * i));
  }
  const Buffer selected = Upload(candidates), counts = Upload(std::vector<int32_t>{128});
  const Buffer queries = Upload(query);
  const auto angles = RopeAngles::Create(InverseFrequencies(c.shape.head_dim));
  const auto device = CurrentDevice();
  EXPECT_TRUE(angles.ok() && device.ok());
  DecodeAttentionArgs args;
  args.shape = c.shape;
  args.dtype = c.dtype;
  args.geometry = {static_cast<int32_t>(page_rows), 1, 0};
  args.value_offset = cache.value_offset;
  args.rows = rows.as<DecodeRow>();
  args.num_rows = args.max_rows = 1;
  args.queries = queries.as<float>();
  args.local_tokens = 300;
  args.far_is_apart = true;
  args.far_position = 400;
  args.selected = selected.as<Candidate>();
  args.selected_stride = 128;
  args.selected_counts = counts.as<int32_t>();
  args.rope = angles->table();
  args.multiprocessors = device->multiprocessors;
  args.workspace_bytes = DecodeAttentionWorkspaceBytes(c.shape, 1, device->multiprocessors);
  const Buffer workspace = Filled(args.workspace_bytes, 0);
  args.workspace = workspace.data();
  const Buffer output = Poisoned(c.shape.query_dim() * 4), lse = Poisoned(c.shape.heads * 4);
  args.output = output.as<float>();
  args.lse = lse.as<float>();
  ExpectOk(DecodeAttention(args, nullptr));
  return {Download<float>(output.data(), c.shape.query_dim()),
          Download<float>(lse.data(), c.shape.heads)};
}

void ExpectSame(const Attended& large, const Attended& small) {
  for (const float value : small.output) ASSERT_TRUE(std::isfinite(value));
  ExpectSameBits(large.output, small.output);
  ExpectSameBits(large.lse, small.lse);
}

TEST_F(LargeOffsetCudaTest, DecodeAttention) {
  constexpr int64_t kKeys = 1000;
  const AttentionCase cases[] = {{{32, 8, 128}, DType::kFloat8E4M3},  // a kernel each
                                 {{32, 32, 32}, DType::kBFloat16}};
  for (const AttentionCase& c : cases) {
    const int64_t dim = c.shape.kv_dim(), page_rows = kTwo31 / dim + 64;
    SKIP_WITHOUT_MEMORY(2 * page_rows * dim * SizeOf(c.dtype));
    SCOPED_TRACE(DTypeName(c.dtype));
    Random random(16);
    const auto keys = random.Reals(kKeys * dim), values = random.Reals(kKeys * dim);
    const auto query = random.Reals(c.shape.query_dim());
    ExpectSame(DecodeAtTheEnd(c, page_rows, keys, values, query),
               DecodeAtTheEnd(c, kKeys, keys, values, query));
  }
}

// Queries, and what comes of them, from row first_row on.
Attended PrefillAtTheEnd(const AttentionCase& c, int64_t page_rows, int64_t first_row,
                         const std::vector<float>& keys, const std::vector<float>& values,
                         const std::vector<float>& queries) {
  constexpr int64_t kFar = 300, kFirstNear = 1000;
  const int64_t dim = c.shape.query_dim(), heads = c.shape.heads;
  const auto count = static_cast<int64_t>(keys.size()) / c.shape.kv_dim();
  const auto num_queries = static_cast<int64_t>(queries.size()) / dim;
  const KeysAtTheEnd cache(c.shape, c.dtype, page_rows, keys, values);
  std::vector<uint32_t> rows, positions;
  for (int64_t i = 0; i < count; ++i) {
    rows.push_back(static_cast<uint32_t>(page_rows - count + i));
    positions.push_back(static_cast<uint32_t>(i < kFar ? i : kFirstNear + i - kFar));
  }
  const Buffer key_rows = Upload(rows), key_positions = Upload(positions);
  // The last query is at the last key's position.
  const int64_t first_position = positions.back() + 1 - num_queries;
  const Buffer blocks = Upload(
      std::vector<AttentionBlock>{{first_row, num_queries, first_position, 0, kFar, count - kFar}});
  const auto angles = RopeAngles::Create(InverseFrequencies(c.shape.head_dim));
  EXPECT_TRUE(angles.ok()) << angles.status();
  const Buffer device_queries = Poisoned((first_row + num_queries) * dim * 4);
  Put(queries, device_queries.as<float>() + first_row * dim);
  const Buffer output = Poisoned((first_row + num_queries) * dim * 2);
  const Buffer lse = Poisoned((first_row + num_queries) * heads * 4);
  PrefillAttentionArgs args;
  args.shape = c.shape;
  args.dtype = c.dtype;
  args.rows = {cache.table.as<const std::byte*>(), page_rows, 0, cache.value_offset,
               c.shape.kv_dim() * SizeOf(c.dtype)};
  args.blocks = blocks.as<AttentionBlock>();
  args.num_blocks = 1;
  args.max_queries = num_queries;
  args.key_rows = key_rows.as<uint32_t>();
  args.key_positions = key_positions.as<uint32_t>();
  args.queries = device_queries.as<float>();
  args.far_is_apart = true;
  args.far_position = 400;
  args.rope = angles->table();
  args.output = output.data();
  args.output_dtype = DType::kBFloat16;
  args.lse = lse.as<float>();
  ExpectOk(PrefillAttention(args, nullptr));
  const auto bytes =
      Download<std::byte>(output.data() + first_row * dim * 2, num_queries * dim * 2);
  Attended attended = {std::vector<float>(num_queries * dim),
                       Download<float>(lse.as<float>() + first_row * heads, num_queries * heads)};
  ConvertToFloat(bytes.data(), DType::kBFloat16, num_queries * dim, attended.output.data());
  return attended;
}

TEST_F(LargeOffsetCudaTest, PrefillAttention) {
  constexpr int64_t kKeys = 700, kQueries = 64;
  const AttentionCase cases[] = {{{32, 8, 128}, DType::kFloat8E4M3},  // a kernel each
                                 {{32, 8, 128}, DType::kBFloat16},
                                 {{32, 32, 32}, DType::kFloat8E4M3}};
  for (const AttentionCase& c : cases) {
    const int64_t dim = c.shape.kv_dim(), page_rows = kTwo31 / dim + 64;
    // Keys of fp8 leave room for queries.
    const int64_t first_row = c.dtype == DType::kFloat8E4M3 ? kTwo31 / c.shape.query_dim() : 0;
    SKIP_WITHOUT_MEMORY(2 * page_rows * dim * SizeOf(c.dtype) +
                        first_row * (c.shape.query_dim() * 6 + c.shape.heads * 4));
    SCOPED_TRACE(testing::Message() << DTypeName(c.dtype) << ", " << c.shape.head_dim);
    Random random(17);
    const auto keys = random.Reals(kKeys * dim), values = random.Reals(kKeys * dim);
    const auto queries = random.Reals(kQueries * c.shape.query_dim());
    ExpectSame(PrefillAtTheEnd(c, page_rows, first_row, keys, values, queries),
               PrefillAtTheEnd(c, kKeys, 0, keys, values, queries));
  }
}

}  // namespace
}  // namespace longspan::cuda
