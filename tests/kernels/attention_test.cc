#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/kernel_testing.h"

namespace longspan {
namespace {

constexpr double kTolerance = 1e-5;

// Rows of keys and values at given positions.
struct KeySet {
  std::vector<float> keys, values;  // [positions, kv_heads, head_dim]
  std::vector<int64_t> positions;

  reference::Keys ForReference() const { return {keys.data(), values.data(), positions}; }
};

// `count` of the positions in [begin, end), ascending.
KeySet RandomKeys(Random* random, const AttentionShape& shape, int64_t begin, int64_t end,
                  int64_t count) {
  KeySet set;
  std::vector<int64_t> all(end - begin);
  std::iota(all.begin(), all.end(), begin);
  std::sample(all.begin(), all.end(), std::back_inserter(set.positions), count, random->engine());
  set.keys = random->Reals(count * shape.kv_dim(), -2, 2);
  set.values = random->Reals(count * shape.kv_dim());
  return set;
}

// Tiles of at most `tile_keys` keys; what lies past a tile's count is NaN.
std::vector<KeyTile> Tiles(const AttentionShape& shape, const KeySet& set, int64_t tile_keys) {
  std::vector<KeyTile> tiles;
  const auto total = static_cast<int64_t>(set.positions.size());
  for (int64_t first = 0; first < total; first += tile_keys) {
    KeyTile& tile = tiles.emplace_back(shape);
    std::fill(tile.keys.begin(), tile.keys.end(), kNan);
    std::fill(tile.values.begin(), tile.values.end(), kNan);
    tile.count = std::min(tile_keys, total - first);
    for (int64_t k = 0; k < tile.count; ++k) {
      tile.positions[k] = set.positions[first + k];
      for (int64_t g = 0; g < shape.kv_heads; ++g) {
        for (int64_t d = 0; d < shape.head_dim; ++d) {
          const int64_t from = (first + k) * shape.kv_dim() + g * shape.head_dim + d;
          const int64_t to = (g * kAttentionTile + k) * shape.head_dim + d;
          tile.keys[to] = set.keys[from];
          tile.values[to] = set.values[from];
        }
      }
    }
  }
  return tiles;
}

struct Result {
  std::vector<float> output;  // [count, heads, head_dim]
  std::vector<float> lse;     // [count, heads]
};

struct Queries {
  std::vector<float> near, far;  // [count, heads, head_dim]
  int64_t count;
  int64_t first_position;
};

Queries RandomQueries(Random* random, const AttentionShape& shape, int64_t count, int64_t first) {
  const int64_t size = count * shape.query_dim();
  return {random->Reals(size, -2, 2), random->Reals(size, -2, 2), count, first};
}

Result Attend(BlockAttention* attention, const AttentionShape& shape, const Queries& queries,
              const std::vector<KeyTile>& far, const std::vector<KeyTile>& near) {
  attention->Reset(queries.near.data(), far.empty() ? nullptr : queries.far.data(), queries.count,
                   queries.first_position);
  for (const KeyTile& tile : far) attention->AttendFar(tile);
  for (const KeyTile& tile : near) attention->AttendNear(tile);
  Result result;
  result.output.assign(queries.count * shape.query_dim(), kNan);
  result.lse.assign(queries.count * shape.heads, kNan);
  attention->Finish(result.output.data(), result.lse.data());
  return result;
}

void ExpectAsReference(const AttentionShape& shape, const Queries& queries, const KeySet& far,
                       const KeySet& near, int64_t tile_keys) {
  BlockAttention attention(shape);
  const Result actual = Attend(&attention, shape, queries, Tiles(shape, far, tile_keys),
                               Tiles(shape, near, tile_keys));
  std::vector<double> output(actual.output.size()), lse(actual.lse.size());
  reference::BlockAttention(shape, queries.near.data(), queries.far.data(), queries.count,
                            queries.first_position, near.ForReference(), far.ForReference(),
                            output.data(), lse.data());
  ExpectClose(actual.lse, lse, kTolerance);
  ExpectClose(actual.output, output, kTolerance);
  std::vector<float> without_lse(actual.output.size());
  attention.Finish(without_lse.data(), nullptr);
  ExpectSameBits(without_lse, actual.output);
}

AttentionShape AnyShape(Random* random) {
  const int64_t kv_heads = random->OneOf<int64_t>({1, 2, 3});
  return {kv_heads * random->OneOf<int64_t>({1, 2, 3}), kv_heads,
          random->OneOf<int64_t>({2, 6, 8, 16, 18, 64})};
}

TEST(BlockAttentionTest, EqualsReferenceAtRandomShapes) {
  Random random(1);
  for (int trial = 0; trial < 200; ++trial) {
    const AttentionShape shape = AnyShape(&random);
    const int64_t count = random.OneOf<int64_t>({1, 2, 5, 8, 16, 17, 63, 64, 65, 100});
    const int64_t first = 400;
    const Queries queries = RandomQueries(&random, shape, count, first);
    const KeySet far =
        RandomKeys(&random, shape, 0, 200, random.OneOf<int64_t>({0, 1, 63, 64, 65, 130}));
    const int64_t local = random.OneOf<int64_t>({0, 1, 63, 64, 100});
    const KeySet near =
        RandomKeys(&random, shape, first - local, first + count, random.Integer(0, local + count));
    SCOPED_TRACE(testing::Message() << "trial " << trial << ", " << count << " queries");
    ExpectAsReference(shape, queries, far, near,
                      random.OneOf<int64_t>({1, 7, kAttentionTile, kAttentionTile}));
    if (HasFatalFailure()) return;
  }
}

TEST(BlockAttentionTest, NothingToAttendToGivesZeroAndMinusInfinity) {
  Random random(2);
  const AttentionShape shape = {4, 2, 8};
  for (const int64_t count : {1, 3, 70}) {
    const Queries queries = RandomQueries(&random, shape, count, 10);
    BlockAttention attention(shape);
    KeyTile empty(shape);
    const Result none = Attend(&attention, shape, queries, {empty}, {empty});
    ExpectSameBits(none.output, std::vector<float>(none.output.size(), 0.0f));
    ExpectSameBits(none.lse, std::vector<float>(none.lse.size(), -kInf));
    // Keys behind the first queries: these attend to nothing, the others to something.
    const KeySet later = RandomKeys(&random, shape, 11, 12, 1);
    ExpectAsReference(shape, queries, {}, later, kAttentionTile);
  }
}

TEST(BlockAttentionTest, LaterNearKeysAreMaskedAndFarKeysAreNot) {
  Random random(3);
  const AttentionShape shape = {2, 1, 16};
  const Queries queries = RandomQueries(&random, shape, 65, 100);
  // Near keys in the midst of the queries, whole tiles behind some; far keys behind all of them.
  const KeySet near = RandomKeys(&random, shape, 90, 400, 310);
  const KeySet far = RandomKeys(&random, shape, 1000, 1010, 10);
  ExpectAsReference(shape, queries, far, near, 30);
  ExpectAsReference(shape, queries, {}, near, kAttentionTile);
}

TEST(BlockAttentionTest, PositionsBeyondTwoToThe31) {
  Random random(4);
  const AttentionShape shape = {2, 2, 8};
  const int64_t first = (int64_t{1} << 32) + 5;
  const Queries queries = RandomQueries(&random, shape, 20, first);
  KeySet near = RandomKeys(&random, shape, first - 100, first + 20, 120);
  near.positions[0] = 0;  // farther behind than an int32 can say
  ExpectAsReference(shape, queries, {}, near, kAttentionTile);
}

TEST(BlockAttentionTest, ScoresOfGreatMagnitude) {
  Random random(5);
  const AttentionShape shape = {2, 1, 16};
  Queries queries = RandomQueries(&random, shape, 9, 100);
  for (float& q : queries.near) q *= 20;
  KeySet near = RandomKeys(&random, shape, 0, 109, 109);
  for (float& k : near.keys) k *= 20;
  BlockAttention attention(shape);
  const Result actual = Attend(&attention, shape, queries, {}, Tiles(shape, near, 10));
  std::vector<double> output(actual.output.size()), lse(actual.lse.size());
  reference::BlockAttention(shape, queries.near.data(), nullptr, 9, 100, near.ForReference(), {},
                            output.data(), lse.data());
  ExpectClose(actual.lse, lse, 1e-6);
  // Scores of some thousands are off by 1e-4 or so, and the weights relatively by as much.
  ExpectClose(actual.output, output, 1e-2);
}

TEST(BlockAttentionTest, EqualScoresGiveTheMeanValue) {
  Random random(6);
  const AttentionShape shape = {2, 1, 8};
  Queries queries = RandomQueries(&random, shape, 3, 500);
  KeySet near = RandomKeys(&random, shape, 0, 500, 500);
  std::fill(near.keys.begin(), near.keys.end(), 0.0f);
  for (size_t i = 0; i < near.keys.size(); i += 2) near.keys[i] = -0.0f;
  ExpectAsReference(shape, queries, {}, near, kAttentionTile);
}

TEST(BlockAttentionTest, NanAndInfinityReachTheOutput) {
  Random random(7);
  const AttentionShape shape = {4, 2, 16};
  for (const float bad : {kNan, kInf, -kInf}) {
    for (const int64_t count : {1, 66}) {
      Queries queries = RandomQueries(&random, shape, count, 200);
      const KeySet good = RandomKeys(&random, shape, 0, 200, 150);
      KeySet bad_key = good, bad_value = good;
      bad_key.keys[70 * shape.kv_dim() + 3] = bad;
      bad_value.values[70 * shape.kv_dim() + 3] = bad;
      ExpectAsReference(shape, queries, {}, bad_key, kAttentionTile);
      ExpectAsReference(shape, queries, {}, bad_value, kAttentionTile);
      queries.near[5] = bad;
      ExpectAsReference(shape, queries, {}, good, kAttentionTile);
      if (HasFatalFailure()) return;
    }
  }
}

// A query's bits depend on its own sequence of tiles only.
TEST(BlockAttentionTest, QueryDoesNotDependOnTheRestOfItsBlock) {
  Random random(8);
  for (int trial = 0; trial < 40; ++trial) {
    const AttentionShape shape = AnyShape(&random);
    const int64_t count = random.OneOf<int64_t>({5, 64, 65, 130});
    const int64_t first = 300;
    const Queries queries = RandomQueries(&random, shape, count, first);
    const auto far = Tiles(shape, RandomKeys(&random, shape, 0, 100, 70), kAttentionTile);
    const auto near =
        Tiles(shape, RandomKeys(&random, shape, 200, first + count, 100 + count), kAttentionTile);
    BlockAttention together(shape);
    const Result all = Attend(&together, shape, queries, far, near);
    const int64_t row = shape.query_dim();
    for (const int64_t begin : {int64_t{0}, int64_t{3}, count - 2}) {
      for (const int64_t n : {int64_t{1}, int64_t{2}, count - begin}) {
        Queries some = {
            {queries.near.begin() + begin * row, queries.near.begin() + (begin + n) * row},
            {queries.far.begin() + begin * row, queries.far.begin() + (begin + n) * row},
            n,
            first + begin};
        if (begin + n > count) continue;
        BlockAttention apart(shape);
        const Result part = Attend(&apart, shape, some, far, near);
        const auto output = absl::MakeConstSpan(all.output).subspan(begin * row, n * row);
        const auto lse = absl::MakeConstSpan(all.lse).subspan(begin * shape.heads, n * shape.heads);
        ExpectSameBits(part.output, output);
        ExpectSameBits(part.lse, lse);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(BlockAttentionTest, NothingIsLeftOfTheBlockBefore) {
  Random random(9);
  const AttentionShape shape = {4, 2, 16};
  const KeySet keys = RandomKeys(&random, shape, 0, 300, 300);
  const auto tiles = Tiles(shape, keys, kAttentionTile);
  BlockAttention used(shape);
  Attend(&used, shape, RandomQueries(&random, shape, 100, 300), tiles, tiles);
  for (const int64_t count : {1, 100, 30}) {
    const Queries queries = RandomQueries(&random, shape, count, 300);
    BlockAttention fresh(shape);
    const Result expected = Attend(&fresh, shape, queries, {}, tiles);
    const Result actual = Attend(&used, shape, queries, {}, tiles);
    ExpectSameBits(actual.output, expected.output);
    ExpectSameBits(actual.lse, expected.lse);
  }
}

void ExpectMergeAsReference(MergePartialsArgs args) {
  std::vector<float> actual(args.rows * args.head_dim, kNan);
  std::vector<double> expected(actual.size());
  reference::MergePartials(args, expected.data());
  args.output = actual.data();
  MergePartials(args);
  ExpectClose(actual, expected, kTolerance);
}

TEST(MergePartialsTest, EqualsReferenceAtRandomShapes) {
  Random random(10);
  for (int trial = 0; trial < 200; ++trial) {
    MergePartialsArgs args;
    args.parts = random.Integer(0, 9);
    args.rows = random.Integer(0, 20);
    args.head_dim = random.OneOf<int64_t>({1, 3, 8, 15, 64});
    args.part_stride = args.rows * (args.head_dim + 1) + random.Integer(0, 5);
    std::vector<float> memory = random.Reals(args.parts * args.part_stride + 1);
    args.outputs = memory.data();
    args.lse = memory.data() + args.rows * args.head_dim;
    for (int64_t p = 0; p < args.parts; ++p) {
      for (int64_t row = 0; row < args.rows; ++row) {
        const int64_t at = p * args.part_stride + row;
        float* lse = memory.data() + args.rows * args.head_dim + at;
        *lse = random.OneOf({random.Real(), random.Real(-100, 100), -kInf, 0.0f, 1e30f});
      }
    }
    ExpectMergeAsReference(args);
    if (HasFatalFailure()) return;
  }
}

TEST(MergePartialsTest, EmptyPartialsAddNothingWhateverTheyHold) {
  const float outputs[] = {kNan, 2.0f, kInf, kNan};
  const float lse[] = {-kInf, 7.0f, -kInf, -kInf};
  float merged = kNan;
  MergePartials({outputs, lse, 1, 4, 1, 1, &merged});
  EXPECT_EQ(merged, 2.0f);
  const float none[] = {-kInf, -kInf, -kInf, -kInf};
  MergePartials({outputs, none, 1, 4, 1, 1, &merged});
  EXPECT_EQ(merged, 0.0f);
  MergePartials({outputs, none, 1, 0, 1, 1, &merged});
  EXPECT_EQ(merged, 0.0f);
}

TEST(MergePartialsTest, NanStaysNan) {
  const float outputs[] = {1.0f, 2.0f, 3.0f};
  for (const float other : {4.0f, -kInf}) {
    const float lse[] = {other, kNan, other};
    for (const int64_t first : {0, 1}) {
      for (int64_t parts = 2 - first; first + parts <= 3; ++parts) {
        float merged = 0;
        MergePartials({outputs + first, lse + first, 1, parts, 1, 1, &merged});
        EXPECT_TRUE(std::isnan(merged)) << "parts " << first << " on, " << parts;
      }
    }
  }
}

// Attention in parts, merged, is attention at once.
TEST(MergePartialsTest, PartsOfAnAttentionMakeTheWhole) {
  Random random(11);
  const AttentionShape shape = {4, 2, 16};
  const Queries queries = RandomQueries(&random, shape, 10, 100);
  const KeySet keys = RandomKeys(&random, shape, 0, 110, 110);
  const std::vector<KeyTile> tiles = Tiles(shape, keys, 20);
  BlockAttention attention(shape);
  const Result whole = Attend(&attention, shape, queries, {}, tiles);
  std::vector<float> outputs, lse;
  for (const KeyTile& tile : tiles) {
    const Result part = Attend(&attention, shape, queries, {}, {tile});
    outputs.insert(outputs.end(), part.output.begin(), part.output.end());
    lse.insert(lse.end(), part.lse.begin(), part.lse.end());
  }
  // Both arrays with one stride: the lse of each part padded to the size of its output.
  const auto size = static_cast<int64_t>(whole.output.size());
  const auto parts = static_cast<int64_t>(tiles.size());
  std::vector<float> padded(parts * size, kNan);
  for (int64_t p = 0; p < parts; ++p) {
    std::copy_n(lse.begin() + p * 40, 40, padded.begin() + p * size);
  }
  std::vector<float> merged(size);
  MergePartials({outputs.data(), padded.data(), size, parts, 40, 16, merged.data()});
  ExpectClose(merged, std::vector<double>(whole.output.begin(), whole.output.end()), kTolerance);
}

}  // namespace
}  // namespace longspan
