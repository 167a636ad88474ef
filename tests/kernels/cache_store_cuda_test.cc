#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/base/convert.h"
#include "kernels/cuda/cache_store.h"
#include "sharding/sequence_layout.h"
#include "tests/kernels/cuda_testing.h"
#include "tests/kernels/kernel_testing.h"

namespace longspan::cuda {
namespace {

using Bytes = std::vector<std::byte>;

constexpr std::byte kPoison{0xff};

void ExpectOk(const absl::Status& status) { EXPECT_TRUE(status.ok()) << status; }

Bytes Stored(const float* values, int64_t count, DType dtype) {
  Bytes bytes(count * SizeOf(dtype));
  ConvertFromFloat(values, count, dtype, bytes.data());
  return bytes;
}

// A copy of the values, `shift` numbers beyond an aligned address.
struct Floats {
  explicit Floats(std::vector<float> v, int64_t begin = 0) : values(std::move(v)), shift(begin) {
    std::vector<float> shifted(shift, kNan);
    shifted.insert(shifted.end(), values.begin(), values.end());
    buffer = Upload(shifted);
  }
  const float* device() const { return buffer.as<float>() + shift; }

  std::vector<float> values;
  int64_t shift;
  Buffer buffer;
};

// ---- A rank's pages, and what should be in them ----

struct Case {
  DType dtype = DType::kBFloat16;
  int64_t kv_dim = 64;
  int64_t score_dim = 16;
  bool exact = false;  // the keys are the score keys
  int32_t stripe = 8;
  int ranks = 1;
  int32_t halo = 3;
  int64_t shift = 0;  // of the floats that are stored
  bool fp8_scores = false;

  DType score_dtype() const { return fp8_scores ? DType::kFloat8E4M3 : dtype; }
};

std::string Describe(const Case& c) {
  return testing::PrintToString(std::vector<int64_t>{c.kv_dim, c.score_dim, c.exact, c.stripe,
                                                     c.ranks, c.halo, c.shift}) +
         " " + std::string(DTypeName(c.dtype)) + ", scores " +
         std::string(DTypeName(c.score_dtype()));
}

class Cache {
 public:
  Cache(const Case& c, int rank, int64_t num_pages) : case_(c), rank_(rank) {
    constexpr int64_t kBegin = 48, kEnd = 32;  // bytes of nobody
    const int64_t key_row = c.kv_dim * SizeOf(c.dtype);
    const int64_t score_row = c.score_dim * SizeOf(c.score_dtype());
    layer.geometry = {c.stripe, c.ranks, rank};
    layer.dtype = c.dtype;
    layer.score_dtype = c.score_dtype();
    layer.kv_dim = c.kv_dim;
    layer.score_dim = c.score_dim;
    layer.halo = c.halo;
    const int64_t halo_rows = c.exact ? c.halo : 0;
    layer.key_offset = kBegin + halo_rows * key_row;
    layer.value_offset = kBegin + (c.stripe + 2 * halo_rows) * key_row;
    const int64_t values_end = layer.value_offset + c.stripe * key_row;
    layer.score_offset = c.exact ? kBegin : values_end;
    const int64_t score_rows = c.exact || c.score_dim == 0 ? 0 : c.stripe + 2 * c.halo;
    const int64_t bytes = values_end + score_rows * score_row + kEnd;
    for (int64_t page = 0; page < num_pages; ++page) {
      expected.emplace_back(bytes, kPoison);
      buffers_.push_back(Poisoned(bytes));
      pointers_.push_back(buffers_.back().data());
    }
    table = Upload(pointers_);
  }

  SequenceLayout layout() const { return {case_.stripe, case_.ranks}; }
  int64_t num_pages() const { return static_cast<int64_t>(expected.size()); }
  std::byte* const* pages() const { return table.as<std::byte*>(); }

  std::byte* Key(int64_t position) { return Row(layer.key_offset, position); }
  std::byte* Value(int64_t position) { return Row(layer.value_offset, position); }
  std::byte* ScoreRow(int64_t page, int64_t row) {
    return expected[page].data() + layer.score_offset +
           row * case_.score_dim * SizeOf(case_.score_dtype());
  }

  // What a token's rows should become on this rank.
  void Store(int64_t position, const float* key, const float* value, const float* score) {
    if (layout().owner(position) == rank_) {
      ConvertFromFloat(key, case_.kv_dim, case_.dtype, Key(position));
      ConvertFromFloat(value, case_.kv_dim, case_.dtype, Value(position));
    }
    if (case_.score_dim == 0) return;
    for (int64_t page = 0; page < num_pages(); ++page) {
      const int64_t row = position - layout().StripeOfPage(rank_, page).begin + case_.halo;
      if (row < 0 || row >= case_.stripe + 2 * case_.halo) continue;
      ConvertFromFloat(case_.exact ? key : score, case_.score_dim, case_.score_dtype(),
                       ScoreRow(page, row));
    }
  }

  // Fills the pages with something, on both sides.
  void Randomize(Random* random) {
    for (int64_t page = 0; page < num_pages(); ++page) {
      for (std::byte& byte : expected[page]) {
        byte = static_cast<std::byte>(random->Integer(0, 255));
      }
      ExpectOk(Copy(buffers_[page].data(), expected[page].data(), buffers_[page].bytes(), nullptr));
    }
    ExpectOk(Synchronize(nullptr));
  }

  void Check() const {
    for (int64_t page = 0; page < num_pages(); ++page) {
      const Bytes actual = Download<std::byte>(buffers_[page].data(), buffers_[page].bytes());
      for (size_t i = 0; i < actual.size(); ++i) {
        ASSERT_EQ(actual[i], expected[page][i]) << "byte " << i << " of page " << page;
      }
    }
  }

  CacheLayer layer;
  std::vector<Bytes> expected;  // of each page
  Buffer table;

 private:
  std::byte* Row(int64_t offset, int64_t position) {
    return expected[layout().page(position)].data() + offset +
           position % case_.stripe * case_.kv_dim * SizeOf(case_.dtype);
  }

  Case case_;
  int rank_;
  std::vector<Buffer> buffers_;
  std::vector<std::byte*> pointers_;
};

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
    for (const int ranks : {1, 2, 3}) {
      for (const int32_t halo : {0, 1, 3, 8}) {
        // Whole vectors, no vectors, vectors of the keys alone.
        for (const auto& [kv_dim, score_dim] :
             {std::pair<int64_t, int64_t>{64, 16}, {6, 5}, {1024, 128}, {24, 7}}) {
          cases.push_back({dtype, kv_dim, score_dim, false, 8, ranks, halo, 0});
          if (dtype == DType::kFloat8E4M3) continue;
          cases.push_back(cases.back());
          cases.back().fp8_scores = true;
        }
        cases.push_back({dtype, 64, 16, false, 8, ranks, halo, 1});
        cases.push_back({dtype, 64, 64, true, 8, ranks, halo, 0});
        cases.push_back({dtype, 5, 5, true, 8, ranks, halo, 0});
      }
      cases.push_back({dtype, 64, 0, false, 8, ranks, 0, 0});
      cases.push_back({dtype, 64, 0, false, 8, ranks, 2, 0});
    }
  }
  return cases;
}

// What CompressAndStoreTokens makes of keys, [rows, dim], in a page of float32 with a row for each.
std::vector<float> CompressedKeys(const CompressTokensArgs& compress) {
  constexpr int64_t kGuard = 16;  // numbers before and behind that stay as they were
  const int64_t keys_bytes = compress.rows * compress.shape.kv_dim() * 4;
  const int64_t count = compress.rows * compress.dim;
  StoreTokensArgs store;
  store.layer.geometry = {static_cast<int32_t>(compress.rows), 1, 0};
  store.layer.dtype = store.layer.score_dtype = DType::kFloat32;
  store.layer.kv_dim = compress.shape.kv_dim();
  store.layer.value_offset = keys_bytes;
  store.layer.score_dim = compress.dim;
  store.layer.score_offset = 2 * keys_bytes + kGuard * 4;
  const Buffer page = Poisoned(2 * keys_bytes + (count + 2 * kGuard) * 4);
  const Buffer pages = Upload(std::vector<const std::byte*>{page.data()});
  std::vector<DecodeRow> rows;
  for (int64_t row = 0; row < compress.rows; ++row) {
    rows.push_back({pages.as<const std::byte*>(), row});
  }
  const Buffer device_rows = Upload(rows);
  const Buffer pages_of = Upload(std::vector<int64_t>(compress.rows, 1));
  store.rows = device_rows.as<DecodeRow>();
  store.pages_of = pages_of.as<int64_t>();
  store.num_rows = static_cast<int>(compress.rows);
  store.keys = store.values = compress.keys;
  ExpectOk(CompressAndStoreTokens(compress, store, nullptr));
  const auto all = Download<float>(page.data() + 2 * keys_bytes, count + 2 * kGuard);
  const auto begin = all.begin() + kGuard, end = begin + count;
  const auto is_nan = [](float value) { return std::isnan(value); };
  EXPECT_TRUE(std::all_of(all.begin(), begin, is_nan) && std::all_of(end, all.end(), is_nan));
  return {begin, end};
}

class CacheStoreCudaTest : public CudaTest {
 protected:
  // Rows of keys, values and score keys.
  struct Rows {
    // Some of them too large for fp8_e4m3.
    static std::vector<float> Numbers(Random* random, int64_t count) {
      std::vector<float> numbers = random->Reals(count);
      for (int64_t i = 0; i < count; i += 7) numbers[i] *= 1000;
      return numbers;
    }
    Rows(Random* random, const Case& c, int64_t count)
        : keys(Numbers(random, count * c.kv_dim), c.shift),
          values(Numbers(random, count * c.kv_dim), c.shift),
          scores(Numbers(random, count * c.score_dim), c.shift),
          has_scores(!c.exact && c.score_dim > 0) {}
    const float* device_scores() const { return has_scores ? scores.device() : nullptr; }
    void Expect(const Case& c, int64_t row, int64_t position, Cache* cache) const {
      cache->Store(position, keys.values.data() + row * c.kv_dim,
                   values.values.data() + row * c.kv_dim, scores.values.data() + row * c.score_dim);
    }

    Floats keys, values, scores;
    bool has_scores;
  };

  // Stores tokens [begin, end) of a sequence with room for `capacity`, on all ranks, in runs of at
  // most max_run.
  void CheckRuns(const Case& c, Range tokens, int64_t capacity, int64_t max_run, uint64_t seed) {
    SCOPED_TRACE(testing::Message() << Describe(c) << ", tokens " << tokens.begin << " to "
                                    << tokens.end << " of " << capacity);
    Random random(seed);
    for (int rank = 0; rank < c.ranks; ++rank) {
      const SequenceLayout layout = {c.stripe, c.ranks};
      Cache cache(c, rank, layout.NumPages(rank, capacity));
      const Rows rows(&random, c, tokens.size() + 2);
      std::vector<StoredRun> runs;
      StoreRunsArgs args;
      int64_t row = 1;
      for (const Range own : layout.OwnedRuns(rank, tokens)) {
        for (int64_t first = own.begin; first < own.end; first += max_run) {
          const int64_t count = std::min(max_run, own.end - first);
          runs.push_back({row, count, first});
          args.max_count = std::max(args.max_count, count);
          for (int64_t i = 0; i < count; ++i) rows.Expect(c, row++, first + i, &cache);
        }
      }
      if (runs.empty()) continue;
      runs.push_back({0, 0, runs[0].first_position});  // an empty one
      const Buffer device_runs = Upload(runs);
      args.layer = cache.layer;
      args.pages = cache.pages();
      args.num_pages = cache.num_pages();
      args.runs = device_runs.as<StoredRun>();
      args.num_runs = static_cast<int>(runs.size());
      args.keys = rows.keys.device();
      args.values = rows.values.device();
      args.score_keys = rows.device_scores();
      ExpectOk(StoreRuns(args, nullptr));
      cache.Check();
      if (HasFatalFailure()) return;
    }
  }

  // What makes score keys of keys, and queries that are compressed beside them.
  struct Compression {
    Compression(Random* random, const Case& c, const Floats& keys, int64_t rows)
        : queries(random->Reals(2 * rows * c.kv_dim)),
          compressed(Poisoned(2 * rows * c.score_dim * 4)) {
      args.dtype = c.dtype == DType::kFloat32 ? DType::kFloat32 : DType::kBFloat16;
      const int64_t count = c.score_dim * c.kv_dim;
      query_factor = Upload(Stored(random->Reals(count).data(), count, args.dtype));
      key_factor = Upload(Stored(random->Reals(count).data(), count, args.dtype));
      args.shape = {c.kv_dim / 4, c.kv_dim / 8, 8};
      args.queries = queries.device();
      args.keys = keys.device();
      args.rows = rows;
      args.query_factor = query_factor.data();
      args.key_factor = key_factor.data();
      args.dim = c.score_dim;
      args.compressed_queries = compressed.as<float>();
    }
    // The queries that come with them are what later ones, in another place, should be.
    std::vector<float> Keys() {
      std::vector<float> keys = CompressedKeys(args);
      args.compressed_queries = compressed.as<float>() + args.rows * args.dim;
      return keys;
    }
    void ExpectSameQueries() const {
      const int64_t count = args.rows * args.dim;
      ExpectSameBits(Download<float>(args.compressed_queries, count),
                     Download<float>(compressed.data(), count));
    }

    Floats queries;
    Buffer query_factor, key_factor, compressed;
    CompressTokensArgs args;
  };

  // Stores a token of each of several sequences, whose caches have room for `capacity` tokens.
  // `compresses`: score keys are compressed keys, in the same launch.
  void CheckTokens(const Case& c, const std::vector<int64_t>& positions, int64_t capacity, int rank,
                   uint64_t seed, bool compresses = false) {
    SCOPED_TRACE(testing::Message() << Describe(c) << ", rank " << rank);
    Random random(seed);
    const auto count = static_cast<int>(positions.size());
    const int64_t num_pages = SequenceLayout{c.stripe, c.ranks}.NumPages(rank, capacity);
    Rows rows(&random, c, count);
    Compression compression(&random, c, rows.keys, count);
    if (compresses) rows.scores = Floats(compression.Keys());
    std::vector<Cache> caches;
    std::vector<DecodeRow> sequences;
    for (int row = 0; row < count; ++row) {
      caches.emplace_back(c, rank, std::max<int64_t>(1, num_pages));
      sequences.push_back({caches.back().pages(), positions[row]});
    }
    const std::vector<int64_t> pages_of(count, num_pages);
    for (int row = 0; row < count; ++row) {
      Cache& cache = caches[row];
      // A page that the table does not have.
      const std::vector<Bytes> before = cache.expected;
      if (positions[row] >= 0) rows.Expect(c, row, positions[row], &cache);
      if (num_pages == 0) cache.expected = before;
    }
    const Buffer device_rows = Upload(sequences), device_pages_of = Upload(pages_of);
    StoreTokensArgs args;
    args.layer = caches[0].layer;
    args.rows = device_rows.as<DecodeRow>();
    args.pages_of = device_pages_of.as<int64_t>();
    args.num_rows = count;
    args.keys = rows.keys.device();
    args.values = rows.values.device();
    if (compresses) {
      ExpectOk(CompressAndStoreTokens(compression.args, args, nullptr));
      compression.ExpectSameQueries();
    } else {
      args.score_keys = rows.device_scores();
      ExpectOk(StoreTokens(args, nullptr));
    }
    for (int row = 0; row < count; ++row) {
      SCOPED_TRACE(testing::Message() << "position " << positions[row]);
      caches[row].Check();
      if (HasFatalFailure()) return;
    }
  }
};

TEST_F(CacheStoreCudaTest, RunsGoToTheirPages) {
  uint64_t seed = 1;
  for (const Case& c : Cases()) {
    CheckRuns(c, {0, 100}, 100, 8, ++seed);
    CheckRuns(c, {29, 71}, 100, 4, ++seed);   // whole stripes and parts, in parts
    CheckRuns(c, {16, 24}, 24, 8, ++seed);    // the last stripe
    CheckRuns(c, {0, 3}, 8, 1, ++seed);       // the only one
    CheckRuns(c, {45, 46}, 1000, 8, ++seed);  // one token
    if (HasFatalFailure()) return;
  }
}

TEST_F(CacheStoreCudaTest, LongRuns) {
  for (const int ranks : {1, 2}) {
    for (const bool exact : {false, true}) {
      Case c = {.kv_dim = 256, .score_dim = 128, .stripe = 512, .ranks = ranks, .halo = 64};
      c.exact = exact;
      if (exact) c.score_dim = c.kv_dim;
      CheckRuns(c, {300, 3000}, 4000, 512, 5);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(CacheStoreCudaTest, TokensGoToTheirPages) {
  uint64_t seed = 1000;
  for (const Case& c : Cases()) {
    for (int rank = 0; rank < c.ranks; ++rank) {
      CheckTokens(c, {0, 7, 8, -1, 10, 15, 16, 50, 95}, 96, rank, ++seed);
      CheckTokens(c, {7}, 8, rank, ++seed);
      CheckTokens(c, {-1}, 8, rank, ++seed);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(CacheStoreCudaTest, CompressedTokensGoToTheirPages) {
  uint64_t seed = 1500;
  for (const Case& c : Cases()) {
    if (c.exact || c.score_dim == 0 || c.kv_dim % 8 != 0 || c.shift != 0) continue;
    for (int rank = 0; rank < c.ranks; ++rank) {
      CheckTokens(c, {0, 7, 8, -1, 10, 15, 16, 50, 95}, 96, rank, ++seed, true);
      CheckTokens(c, {0, 95, 16}, 96, rank, ++seed, true);
      CheckTokens(c, {15, 7}, 16, rank, ++seed, true);
      CheckTokens(c, {7}, 8, rank, ++seed, true);
      CheckTokens(c, {-1}, 8, rank, ++seed, true);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(CacheStoreCudaTest, LastPositions) {
  const int ranks = 1 << 20;
  for (const bool exact : {false, true}) {
    const Case c = {
        .score_dim = exact ? 64 : 16, .exact = exact, .stripe = 64, .ranks = ranks, .halo = 64};
    const int64_t last = 0xfffffffe;
    // The last stripe's rank, its neighbour's, and the first, whose page would be one more.
    for (const int rank : {ranks - 1, ranks - 2, 0}) {
      CheckTokens(c, {last, last - 63, last - 62}, last + 1, rank, 77);
      if (HasFatalFailure()) return;
    }
  }
}

// Every page's halos and stripe, out and back into other pages.
TEST_F(CacheStoreCudaTest, ScoreRowsMoveBothWays) {
  Random random(2000);
  for (const Case& c : Cases()) {
    if (c.score_dim == 0) continue;
    SCOPED_TRACE(Describe(c));
    const int64_t bytes = c.score_dim * SizeOf(c.score_dtype());
    const int64_t all_rows = c.stripe + 2 * c.halo;
    Cache cache(c, 0, 5);
    cache.Randomize(&random);
    std::vector<ScoreRun> runs;
    int64_t row = 2;
    for (const int64_t page : {3, 0, 4}) {
      const int64_t first = random.Integer(0, all_rows - 1);
      const int64_t count = random.Integer(0, all_rows - first);
      runs.push_back({page, first, count, row});
      row += count + 1;
    }
    runs.push_back({1, 0, all_rows, row});
    row += all_rows + 2;
    Bytes message(row * bytes + c.shift * 2, kPoison);
    for (const ScoreRun& run : runs) {
      std::memcpy(message.data() + run.message_row * bytes, cache.ScoreRow(run.page, run.first_row),
                  run.count * bytes);
    }
    const Buffer device_runs = Upload(runs);
    const Buffer buffer = Poisoned((row + 1) * bytes);
    CopyScoreRowsArgs args = {.layer = cache.layer,
                              .pages = cache.pages(),
                              .runs = device_runs.as<ScoreRun>(),
                              .num_runs = static_cast<int>(runs.size()),
                              .max_count = all_rows,
                              .message = buffer.data() + c.shift * 2};
    ExpectOk(CopyScoreRows(args, nullptr));
    const Bytes actual = Download<std::byte>(args.message, row * bytes);
    message.resize(row * bytes);
    ASSERT_EQ(actual, message);
    cache.Check();

    Cache other(c, 0, 5);
    other.Randomize(&random);
    for (const ScoreRun& run : runs) {
      std::memcpy(other.ScoreRow(run.page, run.first_row), message.data() + run.message_row * bytes,
                  run.count * bytes);
    }
    args.pages = other.pages();
    args.to_pages = true;
    ExpectOk(CopyScoreRows(args, nullptr));
    other.Check();
    EXPECT_EQ(Download<std::byte>(args.message, row * bytes), message);
    if (HasFatalFailure()) return;
  }
}

TEST_F(CacheStoreCudaTest, RowsAreGathered) {
  Random random(3000);
  for (const Case& c : Cases()) {
    SCOPED_TRACE(Describe(c));
    const int rank = c.ranks - 1;
    const int64_t bytes = c.kv_dim * SizeOf(c.dtype);
    Cache cache(c, rank, 6);
    cache.Randomize(&random);
    for (const int64_t count : {1, 7, 40}) {
      for (const int64_t given : {int64_t{-1}, int64_t{0}, count / 2, count, count + 5}) {
        std::vector<uint32_t> indices(count);
        for (uint32_t& index : indices) {
          index = static_cast<uint32_t>(random.Integer(0, 6 * c.stripe - 1));
        }
        const int64_t valid = given < 0 ? count : std::min(given, count);
        Bytes expected((count + 1) * 2 * bytes, kPoison);
        for (int64_t i = 0; i < valid; ++i) {
          const int64_t position = cache.layer.geometry.Position(indices[i]);
          std::memcpy(expected.data() + i * 2 * bytes, cache.Key(position), bytes);
          std::memcpy(expected.data() + (2 * i + 1) * bytes, cache.Value(position), bytes);
        }
        const Buffer device_indices = Upload(indices);
        const Buffer device_count = Upload(std::vector<int64_t>{given});
        const Buffer message = Poisoned((count + 1) * 2 * bytes + c.shift * 2);
        ExpectOk(GatherRows({.layer = cache.layer,
                             .pages = cache.pages(),
                             .local_indices = device_indices.as<uint32_t>(),
                             .max_count = count,
                             .count = given < 0 ? nullptr : device_count.as<int64_t>(),
                             .message = message.data() + c.shift * 2},
                            nullptr));
        ASSERT_EQ(Download<std::byte>(message.data() + c.shift * 2,
                                      static_cast<int64_t>(expected.size())),
                  expected);
      }
    }
    cache.Check();
    if (HasFatalFailure()) return;
  }
}

TEST_F(CacheStoreCudaTest, RefusesWhatFitsNoCache) {
  const Case c;
  Cache cache(c, 0, 1);
  StoreTokensArgs args;
  args.num_rows = 1;
  args.layer = cache.layer;  // without score keys, though they are not the keys
  EXPECT_TRUE(absl::IsInvalidArgument(StoreTokens(args, nullptr)));
  args.layer.halo = c.stripe + 1;
  args.score_keys = reinterpret_cast<const float*>(cache.table.data());
  EXPECT_TRUE(absl::IsInvalidArgument(StoreTokens(args, nullptr)));
  args.layer = cache.layer;
  args.layer.dtype = DType::kFloat16;
  EXPECT_TRUE(absl::IsUnimplemented(StoreTokens(args, nullptr)));
  args.layer = cache.layer;
  args.layer.score_dtype = DType::kFloat32;
  EXPECT_TRUE(absl::IsUnimplemented(StoreTokens(args, nullptr)));
}

// ---- Queries and keys for the score ----

std::vector<float> SumsOf(const AttentionShape& shape, const std::vector<float>& queries,
                          int64_t rows) {
  std::vector<float> sums(rows * shape.kv_dim());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t h = 0; h < shape.heads; ++h) {
      for (int64_t d = 0; d < shape.head_dim; ++d) {
        sums[r * shape.kv_dim() + h / shape.group() * shape.head_dim + d] +=
            queries[(r * shape.heads + h) * shape.head_dim + d];
      }
    }
  }
  return sums;
}

TEST_F(CacheStoreCudaTest, SumsOfGroups) {
  Random random(4000);
  for (const AttentionShape& shape :
       {AttentionShape{32, 8, 128}, AttentionShape{4, 4, 16}, AttentionShape{6, 2, 5},
        AttentionShape{7, 1, 64}, AttentionShape{1, 1, 1}}) {
    for (const int64_t rows : {1, 3, 50}) {
      for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
        for (const int64_t shift : {0, 1}) {
          SCOPED_TRACE(testing::Message() << shape.heads << " heads, " << rows << " rows, shift "
                                          << shift << ' ' << DTypeName(dtype));
          const Floats queries(random.Reals(rows * shape.query_dim()), shift);
          const int64_t count = rows * shape.kv_dim();
          const Buffer sums = Poisoned((shift + count + 16) * SizeOf(dtype));
          ExpectOk(SumGroups({.shape = shape,
                              .queries = queries.device(),
                              .rows = rows,
                              .sums = sums.data() + shift * SizeOf(dtype),
                              .dtype = dtype},
                             nullptr));
          const std::vector<float> values = SumsOf(shape, queries.values, rows);
          Bytes expected(sums.bytes(), kPoison);
          ConvertFromFloat(values.data(), count, dtype, expected.data() + shift * SizeOf(dtype));
          ASSERT_EQ(Download<std::byte>(sums.data(), sums.bytes()), expected);
        }
      }
    }
  }
  ExpectOk(SumGroups({.shape = {4, 2, 16}, .rows = 0}, nullptr));
}

TEST_F(CacheStoreCudaTest, Conversions) {
  Random random(5000);
  for (const DType from : {DType::kFloat32, DType::kBFloat16}) {
    for (const DType to : {DType::kFloat32, DType::kBFloat16}) {
      for (const int64_t count : {1, 3, 4, 7, 8, 9, 1000, 100'003}) {
        for (const int64_t shift : {0, 1}) {
          std::vector<float> values = random.Reals(count, -100, 100);
          values[0] = kNan;
          if (count > 4) {
            values[1] = -kInf;
            values[2] = -0.0f;
            values[3] = 1e-40f;
            values[4] = std::numeric_limits<float>::max();  // infinite, as bfloat16
          }
          const Bytes in = Stored(values.data(), count, from);
          const Buffer source = Poisoned((shift + count) * SizeOf(from));
          ExpectOk(Copy(source.data() + shift * SizeOf(from), in.data(),
                        static_cast<int64_t>(in.size()), nullptr));
          const Buffer target = Poisoned((shift + count + 16) * SizeOf(to));
          ExpectOk(Convert(source.data() + shift * SizeOf(from), from,
                           target.data() + shift * SizeOf(to), to, count, nullptr));
          const Bytes out = Download<std::byte>(target.data(), target.bytes());
          std::vector<float> actual(shift + count + 16);
          ConvertToFloat(out.data(), to, static_cast<int64_t>(actual.size()), actual.data());
          std::vector<float> expected(shift + count + 16, kNan);
          ConvertToFloat(in.data(), from, count, expected.data() + shift);
          const Bytes rounded = Stored(expected.data() + shift, count, to);
          ConvertToFloat(rounded.data(), to, count, expected.data() + shift);
          ExpectSameBits(actual, expected);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
  ExpectOk(Convert(nullptr, DType::kFloat32, nullptr, DType::kBFloat16, 0, nullptr));
}

// ---- Compression ----

class CompressTokensCudaTest : public CudaTest {
 protected:
  struct Compressed {
    std::vector<float> queries, keys;
  };

  // Rows [first, first + count).
  static Compressed Run(const AttentionShape& shape, int64_t dim, DType dtype,
                        const std::vector<float>& queries, const std::vector<float>& keys,
                        const std::vector<float>& query_factor,
                        const std::vector<float>& key_factor, int64_t first, int64_t count) {
    const Floats device_queries(queries), device_keys(keys);
    const Buffer a = Upload(Stored(query_factor.data(), dim * shape.kv_dim(), dtype));
    const Buffer b = Upload(Stored(key_factor.data(), dim * shape.kv_dim(), dtype));
    constexpr int64_t kGuard = 16;
    const Buffer out = Poisoned((count * dim + kGuard) * 4);
    Compressed compressed;
    compressed.keys =
        CompressedKeys({.shape = shape,
                        .queries = device_queries.device() + first * shape.query_dim(),
                        .keys = device_keys.device() + first * shape.kv_dim(),
                        .rows = count,
                        .query_factor = a.data(),
                        .key_factor = b.data(),
                        .dtype = dtype,
                        .dim = dim,
                        .compressed_queries = out.as<float>()});
    compressed.queries = Download<float>(out.data(), count * dim + kGuard);
    EXPECT_TRUE(std::all_of(compressed.queries.end() - kGuard, compressed.queries.end(),
                            [](float value) { return std::isnan(value); }));
    compressed.queries.resize(count * dim);
    return compressed;
  }

  static std::vector<double> Product(const std::vector<float>& rows, const Bytes& factor,
                                     DType dtype, int64_t dim, int64_t kv_dim) {
    std::vector<float> numbers(dim * kv_dim);
    ConvertToFloat(factor.data(), dtype, dim * kv_dim, numbers.data());
    std::vector<double> out;
    for (size_t r = 0; r < rows.size() / kv_dim; ++r) {
      for (int64_t i = 0; i < dim; ++i) {
        double sum = 0;
        for (int64_t c = 0; c < kv_dim; ++c) {
          sum += double{rows[r * kv_dim + c]} * numbers[i * kv_dim + c];
        }
        out.push_back(sum);
      }
    }
    return out;
  }
};

TEST_F(CompressTokensCudaTest, EqualsExpectation) {
  Random random(6000);
  for (const AttentionShape& shape :
       {AttentionShape{32, 8, 128}, AttentionShape{4, 2, 16}, AttentionShape{6, 3, 8},
        AttentionShape{16, 16, 128}, AttentionShape{10, 10, 104}, AttentionShape{2, 1, 8}}) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      for (const int64_t rows : {1, 2, 3, 4, 5, 8, 9, 17}) {
        for (const int64_t dim : {1, 8, 13, 128}) {
          SCOPED_TRACE(testing::Message()
                       << shape.heads << " heads, " << shape.kv_heads << " of " << shape.head_dim
                       << ", " << rows << " rows to " << dim << ' ' << DTypeName(dtype));
          const int64_t kv_dim = shape.kv_dim();
          const float range = 1 / std::sqrt(static_cast<float>(kv_dim));
          const std::vector<float> queries = random.Reals(rows * shape.query_dim());
          const std::vector<float> keys = random.Reals(rows * kv_dim);
          const std::vector<float> a = random.Reals(dim * kv_dim, -range, range);
          const std::vector<float> b = random.Reals(dim * kv_dim, -range, range);
          const Compressed actual = Run(shape, dim, dtype, queries, keys, a, b, 0, rows);
          ExpectClose(actual.queries,
                      Product(SumsOf(shape, queries, rows), Stored(a.data(), dim * kv_dim, dtype),
                              dtype, dim, kv_dim),
                      2e-5);
          ExpectClose(actual.keys,
                      Product(keys, Stored(b.data(), dim * kv_dim, dtype), dtype, dim, kv_dim),
                      2e-5);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_F(CompressTokensCudaTest, RowsDoNotDependOnEachOther) {
  Random random(6001);
  const AttentionShape shape = {32, 8, 128};
  const int64_t dim = 40, kv_dim = shape.kv_dim();
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    std::vector<float> queries = random.Reals(12 * shape.query_dim());
    std::vector<float> keys = random.Reals(12 * kv_dim);
    queries[3 * shape.query_dim() + 5] = kNan;
    keys[4 * kv_dim + 1000] = kInf;
    const std::vector<float> a = random.Reals(dim * kv_dim), b = random.Reals(dim * kv_dim);
    const Compressed all = Run(shape, dim, dtype, queries, keys, a, b, 0, 12);
    for (const int64_t count : {1, 2, 3, 6, 8}) {
      for (int64_t first = 0; first + count <= 12; ++first) {
        const Compressed some = Run(shape, dim, dtype, queries, keys, a, b, first, count);
        const auto part = [&](const std::vector<float>& values) {
          return absl::Span<const float>(values).subspan(first * dim, count * dim);
        };
        ExpectSameBits(some.queries, part(all.queries));
        ExpectSameBits(some.keys, part(all.keys));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(CompressTokensCudaTest, RefusesToStoreWhatIsNotCompressed) {
  CompressTokensArgs compress;
  compress.shape = {8, 4, 8};
  compress.rows = 1;
  compress.dim = 4;
  StoreTokensArgs store;
  store.layer.kv_dim = 32;
  store.layer.score_dim = 4;
  EXPECT_TRUE(absl::IsInvalidArgument(CompressAndStoreTokens(compress, store, nullptr)));
  store.num_rows = 1;
  store.layer.score_dim = 5;
  EXPECT_TRUE(absl::IsInvalidArgument(CompressAndStoreTokens(compress, store, nullptr)));
  store.layer.score_dim = 4;
  store.layer.score_dtype = DType::kFloat32;
  EXPECT_TRUE(absl::IsUnimplemented(CompressAndStoreTokens(compress, store, nullptr)));
  store.layer.score_dtype = store.layer.dtype = DType::kFloat16;
  EXPECT_TRUE(absl::IsUnimplemented(CompressAndStoreTokens(compress, store, nullptr)));
  compress.rows = store.num_rows = 0;
  ExpectOk(CompressAndStoreTokens(compress, store, nullptr));
}

TEST_F(CompressTokensCudaTest, RefusesRowsThatAreNoMultipleOf16Bytes) {
  CompressTokensArgs args;
  args.shape = {2, 1, 4};
  args.rows = 1;
  args.dim = 4;
  args.dtype = DType::kBFloat16;
  StoreTokensArgs store;
  store.layer.kv_dim = 4;
  store.layer.score_dim = 4;
  store.num_rows = 1;
  EXPECT_TRUE(absl::IsInvalidArgument(CompressAndStoreTokens(args, store, nullptr)));
  args.shape = {8, 4, 6};
  store.layer.kv_dim = 24;
  EXPECT_TRUE(absl::IsInvalidArgument(CompressAndStoreTokens(args, store, nullptr)));
}

}  // namespace
}  // namespace longspan::cuda
