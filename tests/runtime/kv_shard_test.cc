#include "runtime/kv_shard.h"

#include <cstring>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace longspan {
namespace {

using ::testing::HasSubstr;

class KvShardTest : public testing::Test {
 protected:
  int64_t Integer(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }

  // Kind 0: compressed scores, 1: exact scores, 2: nothing is scored.
  KvShape AnyShape(int kind) {
    KvShape shape;
    shape.layers = Integer(1, 3);
    shape.kv_dim = 2 * Integer(1, 5);
    shape.score_is_key = kind == 1;
    shape.score_dim = kind == 0 ? Integer(1, 7) : kind == 1 ? shape.kv_dim : 0;
    shape.stripe_tokens = Integer(1, 9);
    shape.halo = kind == 2 ? 0 : Integer(0, shape.stripe_tokens);
    shape.dtype = Integer(0, 1) == 0 ? DType::kFloat32 : DType::kBFloat16;
    shape.score_dtype = kind == 0 && Integer(0, 1) == 0 ? DType::kFloat8E4M3 : shape.dtype;
    return shape;
  }

  std::mt19937_64 random_{1};
};

// A row of the cache, and the pattern that is written into it.
struct Row {
  std::byte* data;
  int64_t bytes;
  std::vector<std::byte> pattern;
};

void FillAll(std::vector<Row>* rows, std::mt19937_64* random) {
  for (Row& row : *rows) {
    for (int64_t i = 0; i < row.bytes; ++i) row.pattern.push_back(std::byte((*random)() & 0xff));
    std::memcpy(row.data, row.pattern.data(), row.bytes);
  }
}

// Every row that the cache has for positions [0, tokens), but no row twice.
std::vector<Row> AllRows(KvShard* shard, const KvShape& shape, int64_t tokens) {
  std::vector<Row> rows;
  const SequenceLayout& layout = shard->layout();
  for (int64_t layer = 0; layer < shape.layers; ++layer) {
    for (int64_t page = 0; page < layout.NumPages(shard->rank(), tokens); ++page) {
      const Range stripe = layout.StripeOfPage(shard->rank(), page);
      for (int64_t p = stripe.begin; p < stripe.end; ++p) {
        rows.push_back({shard->Key(layer, p), shape.row_bytes(), {}});
        rows.push_back({shard->Value(layer, p), shape.row_bytes(), {}});
      }
      if (shape.score_dim == 0) continue;
      for (int64_t p = stripe.begin - shape.halo; p < stripe.end + shape.halo; ++p) {
        if (shape.score_is_key && stripe.contains(p)) continue;
        rows.push_back({shard->ScoreKey(layer, page, p), shape.score_row_bytes(), {}});
      }
    }
  }
  return rows;
}

TEST_F(KvShardTest, RowsDoNotOverlapAndFillThePages) {
  for (int trial = 0; trial < 150; ++trial) {
    const KvShape shape = AnyShape(trial % 3);
    const SequenceLayout layout = {shape.stripe_tokens, static_cast<int>(Integer(1, 4))};
    const int rank = static_cast<int>(Integer(0, layout.num_ranks - 1));
    const int64_t tokens = Integer(0, 60);
    PagePool pool(shape, 1000);
    KvShard shard(&pool, layout, rank);
    ASSERT_TRUE(shard.Reserve(tokens).ok());
    std::vector<Row> rows = AllRows(&shard, shape, tokens);
    FillAll(&rows, &random_);
    int64_t bytes = 0;
    for (const Row& row : rows) {
      ASSERT_EQ(std::memcmp(row.data, row.pattern.data(), row.bytes), 0) << "trial " << trial;
      bytes += row.bytes;
    }
    ASSERT_EQ(bytes, layout.NumPages(rank, tokens) * shape.page_bytes());
  }
}

TEST_F(KvShardTest, RowsOfAStripeAreContiguous) {
  for (int kind = 0; kind < 3; ++kind) {
    const KvShape shape = AnyShape(kind);
    const SequenceLayout layout = {shape.stripe_tokens, 2};
    PagePool pool(shape, 10);
    KvShard shard(&pool, layout, 1);
    ASSERT_TRUE(shard.Reserve(4 * shape.stripe_tokens).ok());
    const Range stripe = layout.StripeOfPage(1, 1);
    const int64_t layer = shape.layers - 1;
    for (int64_t p = stripe.begin; p + 1 < stripe.end; ++p) {
      EXPECT_EQ(shard.Key(layer, p + 1) - shard.Key(layer, p), shape.row_bytes());
      EXPECT_EQ(shard.Value(layer, p + 1) - shard.Value(layer, p), shape.row_bytes());
    }
    if (shape.score_dim == 0) continue;
    for (int64_t p = stripe.begin - shape.halo; p + 1 < stripe.end + shape.halo; ++p) {
      EXPECT_EQ(shard.ScoreKey(layer, 1, p + 1) - shard.ScoreKey(layer, 1, p),
                shape.score_row_bytes());
    }
  }
}

TEST_F(KvShardTest, ExactScoresReadTheKeys) {
  const KvShape shape = AnyShape(1);
  const SequenceLayout layout = {shape.stripe_tokens, 3};
  PagePool pool(shape, 10);
  KvShard shard(&pool, layout, 2);
  ASSERT_TRUE(shard.Reserve(6 * shape.stripe_tokens).ok());
  for (int64_t page = 0; page < 2; ++page) {
    const Range stripe = layout.StripeOfPage(2, page);
    for (int64_t p = stripe.begin; p < stripe.end; ++p) {
      EXPECT_EQ(shard.ScoreKey(0, page, p), shard.Key(0, p));
    }
  }
}

TEST_F(KvShardTest, PagesNearAreThoseWhoseStripeOrHaloHoldsThePosition) {
  for (int trial = 0; trial < 200; ++trial) {
    const KvShape shape = AnyShape(0);
    const SequenceLayout layout = {shape.stripe_tokens, static_cast<int>(Integer(1, 4))};
    const int64_t tokens = Integer(0, 60);
    for (int rank = 0; rank < layout.num_ranks; ++rank) {
      PagePool pool(shape, 1000);
      KvShard shard(&pool, layout, rank);
      ASSERT_TRUE(shard.Reserve(tokens).ok());
      for (int64_t p = 0; p < tokens; ++p) {
        std::vector<int64_t> expected;
        for (int64_t page = 0; page < layout.NumPages(rank, tokens); ++page) {
          const Range stripe = layout.StripeOfPage(rank, page);
          if (p >= stripe.begin - shape.halo && p < stripe.end + shape.halo) {
            expected.push_back(page);
          }
        }
        ASSERT_EQ(shard.PagesNear(p), expected);
      }
    }
  }
}

TEST_F(KvShardTest, GrowingKeepsWhatIsThere) {
  KvShape shape = AnyShape(0);
  shape.stripe_tokens = 4;
  shape.halo = 2;
  const SequenceLayout layout = {4, 2};
  PagePool pool(shape, 100);
  KvShard shard(&pool, layout, 0);
  ASSERT_TRUE(shard.Reserve(5).ok());
  std::vector<Row> rows = AllRows(&shard, shape, 5);
  FillAll(&rows, &random_);
  ASSERT_TRUE(shard.Reserve(200).ok());
  ASSERT_TRUE(shard.Reserve(3).ok());  // never shrinks
  const std::vector<Row> after = AllRows(&shard, shape, 5);
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(std::memcmp(after[i].data, rows[i].pattern.data(), rows[i].bytes), 0);
  }
}

TEST_F(KvShardTest, PoolIsBoundedAndTakesPagesBack) {
  const KvShape shape = AnyShape(0);
  const SequenceLayout layout = {shape.stripe_tokens, 1};
  PagePool pool(shape, 3);
  auto first = std::make_unique<KvShard>(&pool, layout, 0);
  ASSERT_TRUE(first->Reserve(2 * shape.stripe_tokens).ok());
  KvShard second(&pool, layout, 0);
  const absl::Status full = second.Reserve(2 * shape.stripe_tokens);
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(full.message()), HasSubstr("all 3 cache pages"));
  first.reset();
  EXPECT_TRUE(second.Reserve(3 * shape.stripe_tokens).ok());
  EXPECT_FALSE(second.Reserve(3 * shape.stripe_tokens + 1).ok());
}

TEST_F(KvShardTest, SharedPagesGoBackWithTheLast) {
  const KvShape shape = AnyShape(0);
  const SequenceLayout layout = {shape.stripe_tokens, 1};
  PagePool pool(shape, 2);
  auto first = std::make_unique<KvShard>(&pool, layout, 0);
  ASSERT_TRUE(first->Reserve(1).ok());
  auto second = std::make_unique<KvShard>(&pool, layout, 0);
  second->Share(first->pages()[0]);
  ASSERT_TRUE(second->Reserve(2 * shape.stripe_tokens).ok());
  EXPECT_EQ(second->Key(0, 0), first->Key(0, 0));
  first.reset();
  KvShard third(&pool, layout, 0);
  EXPECT_FALSE(third.Reserve(1).ok());
  second.reset();
  EXPECT_TRUE(third.Reserve(2 * shape.stripe_tokens).ok());
}

TEST_F(KvShardTest, CopiesHoldTheSameRows) {
  for (int kind = 0; kind < 3; ++kind) {
    const KvShape shape = AnyShape(kind);
    const SequenceLayout layout = {shape.stripe_tokens, 2};
    PagePool pool(shape, 3);
    KvShard shard(&pool, layout, 1), copy(&pool, layout, 1);
    ASSERT_TRUE(shard.Reserve(2 * shape.stripe_tokens).ok());
    std::vector<Row> rows = AllRows(&shard, shape, 2 * shape.stripe_tokens);
    FillAll(&rows, &random_);
    ASSERT_TRUE(copy.Copy(*shard.pages()[0]).ok());
    std::vector<Row> copies = AllRows(&copy, shape, 2 * shape.stripe_tokens);
    ASSERT_EQ(copies.size(), rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_NE(copies[i].data, rows[i].data);
      EXPECT_EQ(std::memcmp(copies[i].data, rows[i].pattern.data(), rows[i].bytes), 0);
    }
    FillAll(&copies, &random_);
    for (const Row& row : rows) {
      EXPECT_EQ(std::memcmp(row.data, row.pattern.data(), row.bytes), 0);
    }
    ASSERT_TRUE(copy.Reserve(4 * shape.stripe_tokens).ok());
    EXPECT_FALSE(copy.Copy(*shard.pages()[0]).ok()) << "the pool is empty";
  }
}

}  // namespace
}  // namespace longspan
