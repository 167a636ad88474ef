#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "kernels/base/convert.h"
#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/device.h"
#include "sharding/attention_ranges.h"
#include "sharding/topk_merge.h"
#include "tests/kernels/cuda_testing.h"
#include "tests/kernels/kernel_testing.h"

namespace longspan::cuda {
namespace {

constexpr double kTolerance = 1e-5;
constexpr int kMaxRows = 40;  // that workspaces are for
// Of a page: something else lies before the keys, and between keys and values.
constexpr int64_t kKeyOffset = 48;
constexpr int64_t kGap = 16;

struct Row {
  int64_t position;
  std::vector<int64_t> selected;  // ascending
};

struct Problem {
  AttentionShape shape = {8, 2, 32};
  DType dtype = DType::kBFloat16;
  SequenceLayout layout = {64, 1};
  AttentionSizes sizes;
  bool far_is_apart = true;
  int64_t far_position = 0;
  std::vector<Row> rows;
};

// Where tensor cores are used, turned keys are rounded to tf32's 11 bits: relatively by 2^-11 at
// most. Keys and queries of up to 2 then make scores wrong with a standard deviation of 3.3e-4:
// that of a key, 2.2e-4, times a query's size, 1.15, times a score_scale of 1.3, for
// 1/sqrt(head_dim) undoes the sum over head_dim. An lse is off by as much if there is one key, and
// less for more; outputs, of values of up to 1, by less too. Six deviations.
double ToleranceOf(const Problem& problem) {
  const int64_t dim = problem.shape.head_dim;
  const bool rounds =
      problem.dtype != DType::kFloat32 && (dim == 64 || dim == 128) && problem.shape.group() <= 8;
  return rounds ? 2e-3 : kTolerance;
}

// What a row reads, of all ranks.
struct Reads {
  std::vector<int64_t> far, near;
};

Reads ReadsOf(const Problem& problem, const Row& row) {
  const AttentionRanges ranges = RangesOfBlock(problem.sizes, {row.position, row.position + 1});
  Reads reads;
  for (int64_t m = ranges.initial.begin; m < ranges.initial.end; ++m) reads.far.push_back(m);
  if (ranges.selects()) {
    reads.far.insert(reads.far.end(), row.selected.begin(), row.selected.end());
  }
  for (int64_t m = ranges.near.begin; m < ranges.near.end; ++m) reads.near.push_back(m);
  return reads;
}

// Numbers as they are stored, and as they are read.
struct Token {
  std::vector<std::byte> key_bytes, value_bytes;
  std::vector<float> key, value;  // [kv_heads, head_dim]
};

struct Data {
  std::vector<float> queries;                    // [rows, heads, head_dim]
  std::vector<std::map<int64_t, Token>> tokens;  // of each row, those that it reads
};

std::vector<std::byte> Store(std::vector<float>* values, DType dtype) {
  std::vector<std::byte> bytes(values->size() * SizeOf(dtype));
  const auto count = static_cast<int64_t>(values->size());
  ConvertFromFloat(values->data(), count, dtype, bytes.data());
  ConvertToFloat(bytes.data(), dtype, count, values->data());
  return bytes;
}

Data RandomData(Random* random, const Problem& problem) {
  const auto num_rows = static_cast<int64_t>(problem.rows.size());
  Data data;
  data.queries = random->Reals(num_rows * problem.shape.query_dim(), -2, 2);
  for (const Row& row : problem.rows) {
    std::map<int64_t, Token>& tokens = data.tokens.emplace_back();
    const Reads reads = ReadsOf(problem, row);
    for (const auto* positions : {&reads.far, &reads.near}) {
      for (const int64_t position : *positions) {
        Token& token = tokens[position];
        token.key = random->Reals(problem.shape.kv_dim(), -2, 2);
        token.value = random->Reals(problem.shape.kv_dim());
        token.key_bytes = Store(&token.key, problem.dtype);
        token.value_bytes = Store(&token.value, problem.dtype);
      }
    }
  }
  return data;
}

std::vector<double> InverseFrequencies(int64_t head_dim) {
  std::vector<double> frequencies;
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    frequencies.push_back(std::pow(10000.0, -2.0 * static_cast<double>(i) / head_dim));
  }
  return frequencies;
}

// ---- The reference -----------------------------------------------------------------------------

// A head, rotated to a position.
std::vector<double> Rotated(const std::vector<double>& frequencies, const float* x,
                            int64_t position) {
  const size_t half = frequencies.size();
  std::vector<double> out(2 * half);
  for (size_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(position) * frequencies[i];
    const double a = x[i], b = x[i + half];
    out[i] = a * std::cos(angle) - b * std::sin(angle);
    out[i + half] = b * std::cos(angle) + a * std::sin(angle);
  }
  return out;
}

struct Result {
  std::vector<double> output;  // [rows, heads, head_dim]
  std::vector<double> lse;     // [rows, heads]
};

struct Term {
  double score;
  const float* value;
};

void Softmax(const std::vector<Term>& terms, int64_t dim, Result* result) {
  double max = -kInf, sum = 0;
  for (const Term& term : terms) max = std::max(max, term.score);
  for (const Term& term : terms) sum += std::exp(term.score - max);
  std::vector<double> output(dim);
  for (const Term& term : terms) {
    const double weight = std::exp(term.score - max) / sum;
    for (int64_t d = 0; d < dim; ++d) output[d] += weight * term.value[d];
  }
  result->output.insert(result->output.end(), output.begin(), output.end());
  result->lse.push_back(terms.empty() ? -kInf : max + std::log(sum));
}

// The terms of one KV head's group, [group][keys], of the keys of `rank`; -1: of all.
std::vector<std::vector<Term>> TermsOf(const Problem& problem, const Data& data, size_t row,
                                       int64_t kv_head, int rank) {
  const AttentionShape& shape = problem.shape;
  const int64_t dim = shape.head_dim;
  const std::vector<double> frequencies = InverseFrequencies(dim);
  const Reads reads = ReadsOf(problem, problem.rows[row]);
  const float* queries = data.queries.data() + static_cast<int64_t>(row) * shape.query_dim() +
                         kv_head * shape.group() * dim;
  const double scale = shape.score_scale / std::sqrt(static_cast<double>(dim));
  std::vector<std::vector<Term>> terms(shape.group());
  for (const bool far : {true, false}) {
    const bool apart = far && problem.far_is_apart;
    std::vector<std::vector<double>> rotated;
    for (int64_t h = 0; h < shape.group(); ++h) {
      rotated.push_back(Rotated(frequencies, queries + h * dim,
                                apart ? problem.far_position : problem.rows[row].position));
    }
    for (const int64_t position : far ? reads.far : reads.near) {
      if (rank >= 0 && problem.layout.owner(position) != rank) continue;
      const Token& token = data.tokens[row].at(position);
      const std::vector<double> key =
          Rotated(frequencies, token.key.data() + kv_head * dim, apart ? 0 : position);
      for (int64_t h = 0; h < shape.group(); ++h) {
        double score = 0;
        for (int64_t d = 0; d < dim; ++d) score += rotated[h][d] * key[d];
        terms[h].push_back({score * scale, token.value.data() + kv_head * dim});
      }
    }
  }
  return terms;
}

Result Reference(const Problem& problem, const Data& data, int rank) {
  Result result;
  for (size_t row = 0; row < problem.rows.size(); ++row) {
    for (int64_t g = 0; g < problem.shape.kv_heads; ++g) {
      for (const std::vector<Term>& terms : TermsOf(problem, data, row, g, rank)) {
        Softmax(terms, problem.shape.head_dim, &result);
      }
    }
  }
  return result;
}

// ---- On the device -----------------------------------------------------------------------------

int64_t TokenBytes(const Problem& problem) {
  return problem.shape.kv_dim() * SizeOf(problem.dtype);
}
int64_t ValueOffset(const Problem& problem) {
  return kKeyOffset + problem.layout.stripe_tokens * TokenBytes(problem) + kGap;
}

// Only pages of which something is read exist, and all else in them is NaN.
struct Cache {
  Buffer pages;
  std::vector<Buffer> tables;
  std::vector<DecodeRow> rows;
};

Cache MakeCache(const Problem& problem, const Data& data, int rank) {
  const SequenceLayout& layout = problem.layout;
  const int64_t page_bytes = ValueOffset(problem) + layout.stripe_tokens * TokenBytes(problem);
  std::vector<std::map<int64_t, int64_t>> slots(problem.rows.size());  // of a row's pages
  int64_t num_pages = 0;
  for (size_t row = 0; row < slots.size(); ++row) {
    for (const auto& [position, token] : data.tokens[row]) {
      if (layout.owner(position) != rank) continue;
      if (slots[row].emplace(layout.page(position), num_pages).second) ++num_pages;
    }
  }
  std::vector<std::byte> memory(num_pages * page_bytes + 1, std::byte{0xff});
  for (size_t row = 0; row < slots.size(); ++row) {
    for (const auto& [position, token] : data.tokens[row]) {
      if (layout.owner(position) != rank) continue;
      std::byte* page = memory.data() + slots[row].at(layout.page(position)) * page_bytes;
      const int64_t at = position % layout.stripe_tokens * TokenBytes(problem);
      std::memcpy(page + kKeyOffset + at, token.key_bytes.data(), token.key_bytes.size());
      std::memcpy(page + ValueOffset(problem) + at, token.value_bytes.data(),
                  token.value_bytes.size());
    }
  }
  Cache cache;
  cache.pages = Upload(memory);
  for (size_t row = 0; row < slots.size(); ++row) {
    const int64_t length = slots[row].empty() ? 1 : slots[row].rbegin()->first + 1;
    std::vector<const std::byte*> table(length, nullptr);
    for (const auto& [page, slot] : slots[row]) {
      table[page] = cache.pages.data() + slot * page_bytes;
    }
    cache.tables.push_back(Upload(table));
    cache.rows.push_back({slots[row].empty() ? nullptr : cache.tables.back().as<const std::byte*>(),
                          problem.rows[row].position});
  }
  return cache;
}

// [count, head_dim / 2] cosines and sines at 0, step, 2 * step, ...
Buffer UploadRotations(int64_t head_dim, int64_t count, int64_t step) {
  std::vector<float> table;
  const std::vector<double> frequencies = InverseFrequencies(head_dim);
  for (int64_t i = 0; i < count; ++i) {
    for (const double frequency : frequencies) {
      const double angle = static_cast<double>(i * step) * frequency;
      table.push_back(static_cast<float>(std::cos(angle)));
      table.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  return Upload(table);
}

int64_t MaxDistance(const Problem& problem) {
  int64_t distance = problem.far_position;
  for (const Row& row : problem.rows) {
    const Reads reads = ReadsOf(problem, row);
    if (!reads.near.empty()) distance = std::max(distance, row.position - reads.near.front());
    if (!reads.far.empty() && !problem.far_is_apart) {
      distance = std::max(distance, row.position - reads.far.front());
    }
  }
  return distance;
}

// What the RoPE table must have: distances, and what is asked of it whatever the rows.
int64_t MaxRopePosition(const Problem& problem) {
  const AttentionSizes& sizes = problem.sizes;
  return std::max(MaxDistance(problem), sizes.initial_tokens + sizes.local_tokens);
}

// A problem of one rank in device memory, ready to be launched.
struct Device {
  Cache cache;
  Buffer rows, queries, selected, counts, fine, coarse, workspace, output, lse;
  DecodeAttentionArgs args;
};

int64_t SelectedStride(const Problem& problem) {
  size_t stride = 3;
  for (const Row& row : problem.rows) stride = std::max(stride, row.selected.size() + 3);
  return static_cast<int64_t>(stride);
}

// `unused` stands behind each row's candidates.
void UploadSelected(const Problem& problem, int64_t stride, Candidate unused, Device* device) {
  Random random(99);
  std::vector<uint64_t> selected(problem.rows.size() * stride, unused);
  std::vector<int32_t> counts;
  for (size_t row = 0; row < problem.rows.size(); ++row) {
    const std::vector<int64_t>& positions = problem.rows[row].selected;
    for (size_t i = 0; i < positions.size(); ++i) {
      selected[row * stride + i] = PackCandidate(random.Real(-5, 5), positions[i]);
    }
    counts.push_back(static_cast<int32_t>(positions.size()));
  }
  device->selected = Upload(selected);
  device->counts = Upload(counts);
}

int Multiprocessors() {
  const auto info = UseDevice(0);
  EXPECT_TRUE(info.ok()) << info.status();
  return info.ok() ? info->multiprocessors : 1;
}

Device MakeDevice(const Problem& problem, const Data& data, int rank) {
  const AttentionShape& shape = problem.shape;
  const auto num_rows = static_cast<int>(problem.rows.size());
  Device device;
  DecodeAttentionArgs& args = device.args;
  args.shape = shape;
  args.dtype = problem.dtype;
  args.geometry = {static_cast<int32_t>(problem.layout.stripe_tokens), problem.layout.num_ranks,
                   rank};
  args.key_offset = kKeyOffset;
  args.value_offset = ValueOffset(problem);
  device.cache = MakeCache(problem, data, rank);
  device.rows = Upload(device.cache.rows);
  args.rows = device.rows.as<DecodeRow>();
  args.num_rows = num_rows;
  args.max_rows = kMaxRows;
  device.queries = Upload(data.queries);
  args.queries = device.queries.as<float>();
  args.initial_tokens = problem.sizes.initial_tokens;
  args.local_tokens = problem.sizes.local_tokens;
  args.dense = problem.sizes.dense;
  args.far_is_apart = problem.far_is_apart;
  args.far_position = problem.far_position;
  args.selected_stride = SelectedStride(problem);
  UploadSelected(problem, args.selected_stride, 0, &device);
  args.selected = device.selected.as<uint64_t>();
  args.selected_counts = device.counts.as<int32_t>();
  device.fine = UploadRotations(shape.head_dim, kRopeFine, 1);
  const int64_t coarse_count = MaxRopePosition(problem) / kRopeFine + 1;
  device.coarse = UploadRotations(shape.head_dim, coarse_count, kRopeFine);
  args.rope = {device.fine.as<const float2>(), device.coarse.as<const float2>(),
               static_cast<int32_t>(shape.head_dim / 2), coarse_count};
  args.multiprocessors = Multiprocessors();
  const int64_t bytes = DecodeAttentionWorkspaceBytes(shape, kMaxRows, args.multiprocessors);
  device.workspace = Poisoned(bytes);
  EXPECT_TRUE(Fill(device.workspace.data(), 0, bytes, nullptr).ok());
  args.workspace = device.workspace.data();
  args.workspace_bytes = bytes;
  device.output = Poisoned(num_rows * shape.query_dim() * 4);
  device.lse = Poisoned(num_rows * shape.heads * 4);
  args.output = device.output.data();
  args.lse = device.lse.as<float>();
  return device;
}

struct Actual {
  std::vector<float> output, lse;
};

// What the launch left; afterwards both hold NaN, so that the next one must write all of them.
Actual Fetch(const Device& device) {
  const AttentionShape& shape = device.args.shape;
  Actual actual;
  actual.output = Download<float>(device.output.data(), device.args.num_rows * shape.query_dim());
  actual.lse = Download<float>(device.lse.data(), device.args.num_rows * shape.heads);
  EXPECT_TRUE(Fill(device.output.data(), 0xff, device.output.bytes(), nullptr).ok());
  EXPECT_TRUE(Fill(device.lse.data(), 0xff, device.lse.bytes(), nullptr).ok());
  EXPECT_TRUE(Synchronize(nullptr).ok());
  return actual;
}

Actual RunOn(const Device& device) {
  const absl::Status status = DecodeAttention(device.args, nullptr);
  EXPECT_TRUE(status.ok()) << status;
  const absl::Status done = Synchronize(nullptr);
  EXPECT_TRUE(done.ok()) << done;
  return Fetch(device);
}

// Partials of all ranks make the whole.
void ExpectMergesTo(const Problem& problem, const std::vector<Actual>& ranks, const Result& whole) {
  const int64_t dim = problem.shape.head_dim;
  std::vector<float> output, lse;
  for (size_t head = 0; head < whole.lse.size(); ++head) {
    double max = -kInf, sum = 0;
    for (const Actual& rank : ranks) max = std::max<double>(max, rank.lse[head]);
    const double shift = max == -kInf ? 0 : max;
    for (const Actual& rank : ranks) sum += std::exp(rank.lse[head] - shift);
    lse.push_back(static_cast<float>(max + std::log(sum == 0 ? 1 : sum)));
    for (int64_t d = 0; d < dim; ++d) {
      double value = 0;
      for (const Actual& rank : ranks) {
        value += std::exp(rank.lse[head] - shift) / (sum == 0 ? 1 : sum) *
                 rank.output[static_cast<int64_t>(head) * dim + d];
      }
      output.push_back(static_cast<float>(value));
    }
  }
  ExpectClose(lse, whole.lse, ToleranceOf(problem));
  ExpectClose(output, whole.output, ToleranceOf(problem));
}

Actual ExpectRankAsReference(const Problem& problem, const Data& data, int rank) {
  SCOPED_TRACE(testing::Message() << "rank " << rank << " of " << problem.layout.num_ranks);
  const Device device = MakeDevice(problem, data, rank);
  Actual actual = RunOn(device);
  const Result expected = Reference(problem, data, rank);
  ExpectClose(actual.lse, expected.lse, ToleranceOf(problem));
  ExpectClose(actual.output, expected.output, ToleranceOf(problem));
  // The same once more: nothing of the first run is left in the workspace.
  const Actual again = RunOn(device);
  ExpectSameBits(again.output, actual.output);
  ExpectSameBits(again.lse, actual.lse);
  return actual;
}

void ExpectAsReference(const Problem& problem, const Data& data) {
  std::vector<Actual> ranks;
  for (int rank = 0; rank < problem.layout.num_ranks; ++rank) {
    ranks.push_back(ExpectRankAsReference(problem, data, rank));
    if (testing::Test::HasFailure()) return;
  }
  ExpectMergesTo(problem, ranks, Reference(problem, data, -1));
}

// ---- Problems ----------------------------------------------------------------------------------

// `count` of the row's middle, or all of it.
Row RandomRow(Random* random, const Problem& problem, int64_t position, int64_t count) {
  Row row = {position, {}};
  const AttentionRanges ranges = RangesOfBlock(problem.sizes, {position, position + 1});
  count = std::min(count, ranges.middle.size());
  if (count * 4 > ranges.middle.size()) {
    for (int64_t m = ranges.middle.begin; m < ranges.middle.end; ++m) row.selected.push_back(m);
    std::vector<int64_t> some;
    std::sample(row.selected.begin(), row.selected.end(), std::back_inserter(some), count,
                random->engine());
    row.selected = some;
    return row;
  }
  while (static_cast<int64_t>(row.selected.size()) < count) {
    row.selected.push_back(random->Integer(ranges.middle.begin, ranges.middle.end - 1));
    std::sort(row.selected.begin(), row.selected.end());
    row.selected.erase(std::unique(row.selected.begin(), row.selected.end()), row.selected.end());
  }
  return row;
}

// How a row attends.
enum class Mode { kDense, kFarApart, kNative, kStreaming };
constexpr Mode kModes[] = {Mode::kDense, Mode::kFarApart, Mode::kNative, Mode::kStreaming};

// Rows at random positions: the first one may have everything near.
Problem RandomProblem(Random* random, Mode mode, int num_rows) {
  Problem problem;
  const int num_ranks = random->OneOf<int>({1, 3});
  problem.layout = {random->OneOf<int64_t>({16, 48, 64, 256}), num_ranks};
  problem.sizes = {random->Integer(0, 40), random->Integer(0, 300), mode == Mode::kDense};
  problem.far_is_apart = mode != Mode::kNative;
  problem.far_position = random->Integer(0, 3000);
  problem.shape.score_scale = random->OneOf({1.0, 1.3});
  for (int r = 0; r < num_rows; ++r) {
    const int64_t position = r == 0 ? random->Integer(0, 340) : random->Integer(0, 1500);
    const int64_t count = mode == Mode::kStreaming ? 0 : random->Integer(0, 500);
    problem.rows.push_back(RandomRow(random, problem, position, count));
  }
  return problem;
}

using DecodeAttentionCudaTest = CudaTest;

TEST_F(DecodeAttentionCudaTest, EqualsReferenceForEveryKernel) {
  Random random(1);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
    for (const int64_t head_dim : {16, 32, 64, 128, 256}) {
      for (const int64_t group : {1, 2, 3, 4, 7, 8, 12, 16}) {
        Problem problem = RandomProblem(&random, kModes[random.Integer(0, 3)], 2);
        const int64_t kv_heads = random.OneOf<int64_t>({1, 2, 3});
        const double scale = problem.shape.score_scale;
        problem.shape = {kv_heads * group, kv_heads, head_dim, scale};
        problem.dtype = dtype;
        SCOPED_TRACE(testing::Message()
                     << DTypeName(dtype) << ", head_dim " << head_dim << ", group " << group);
        ExpectAsReference(problem, RandomData(&random, problem));
        if (HasFailure()) return;
      }
    }
  }
}

TEST_F(DecodeAttentionCudaTest, EqualsReferenceInEveryMode) {
  Random random(2);
  for (const Mode mode : kModes) {
    for (int trial = 0; trial < 10; ++trial) {
      Problem problem = RandomProblem(&random, mode, static_cast<int>(random.Integer(1, 5)));
      problem.dtype = random.OneOf({DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3});
      SCOPED_TRACE(testing::Message() << "mode " << static_cast<int>(mode) << ", trial " << trial);
      ExpectAsReference(problem, RandomData(&random, problem));
      if (HasFailure()) return;
    }
  }
}

// As many tokens as a real model's layer reads, so that warps take several steps and rounds.
TEST_F(DecodeAttentionCudaTest, EqualsReferenceAtRealSizes) {
  Random random(3);
  for (const bool apart : {true, false}) {
    for (const int num_ranks : {1, 3}) {
      Problem problem;
      problem.shape = {32, 8, 128};
      problem.layout = {256, num_ranks};
      problem.sizes = {128, 4096};
      problem.far_is_apart = apart;
      problem.far_position = 4096;
      problem.rows.push_back(RandomRow(&random, problem, 100'000, 2048));
      ExpectAsReference(problem, RandomData(&random, problem));
      if (HasFailure()) return;
    }
  }
}

// Few blocks and many tokens: lists and stages go round many times.
TEST_F(DecodeAttentionCudaTest, LongDenseContext) {
  Random random(4);
  for (const int64_t group : {1, 4, 8, 16}) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
      Problem problem;
      problem.shape = {group, 1, 64};
      problem.dtype = dtype;
      problem.layout = {256, 1};
      problem.sizes.dense = true;
      problem.rows = {{50'000, {}}};
      const Data data = RandomData(&random, problem);
      Device device = MakeDevice(problem, data, 0);
      device.args.multiprocessors = 1;  // two splits
      const Actual actual = RunOn(device);
      const Result expected = Reference(problem, data, 0);
      ExpectClose(actual.lse, expected.lse, ToleranceOf(problem));
      ExpectClose(actual.output, expected.output, ToleranceOf(problem));
      if (HasFailure()) return;
    }
  }
}

// A long selection of which a rank owns little.
TEST_F(DecodeAttentionCudaTest, SelectionOfOtherRanksIsPassedOver) {
  Random random(5);
  Problem problem;
  problem.layout = {16, 8};
  problem.sizes = {16, 32};
  Row row = {60'000, {}};
  for (int64_t m = 1000; m < 50'000; ++m) {
    const int owner = problem.layout.owner(m);
    if (owner == 3 || (owner == 5 && m % 97 == 0)) row.selected.push_back(m);
  }
  problem.rows = {row};
  const Data data = RandomData(&random, problem);
  for (const int rank : {0, 3, 5}) {
    Device device = MakeDevice(problem, data, rank);
    for (const int multiprocessors : {1, 7, Multiprocessors()}) {
      device.args.multiprocessors = multiprocessors;
      const Actual actual = RunOn(device);
      const Result expected = Reference(problem, data, rank);
      ExpectClose(actual.lse, expected.lse, kTolerance);
      ExpectClose(actual.output, expected.output, kTolerance);
      if (HasFailure()) return;
    }
  }
}

TEST_F(DecodeAttentionCudaTest, EdgesOfPagesAndRanges) {
  Random random(6);
  for (const int num_ranks : {1, 3}) {
    Problem problem;
    problem.layout = {16, num_ranks};
    problem.sizes = {16, 32};
    for (const int64_t position : {0, 1, 14, 15, 16, 17, 31, 32, 47, 48, 49, 50, 63, 64, 65, 95}) {
      problem.rows.push_back(RandomRow(&random, problem, position, 1000));
    }
    ExpectAsReference(problem, RandomData(&random, problem));
    problem.sizes = {0, 0};
    for (Row& row : problem.rows) row.selected.clear();
    ExpectAsReference(problem, RandomData(&random, problem));
    problem.sizes = {0, 16};
    ExpectAsReference(problem, RandomData(&random, problem));
  }
}

TEST_F(DecodeAttentionCudaTest, ARankWithoutKeysGivesZeroAndMinusInfinity) {
  Random random(7);
  Problem problem;
  problem.layout = {64, 3};
  problem.sizes = {4, 16};
  problem.rows = {{0, {}}, {50, {}}, {-1, {}}, {63, {5, 6}}};
  const Data data = RandomData(&random, problem);
  ExpectAsReference(problem, data);
  for (const int rank : {1, 2}) {
    const Actual actual = RunOn(MakeDevice(problem, data, rank));
    ExpectSameBits(actual.output, std::vector<float>(actual.output.size(), 0.0f));
    ExpectSameBits(actual.lse, std::vector<float>(actual.lse.size(), -kInf));
  }
}

TEST_F(DecodeAttentionCudaTest, PositionsBeyondAMillion) {
  Random random(8);
  for (const bool apart : {true, false}) {
    Problem problem;
    problem.layout = {256, 3};
    problem.sizes = {20, 200};
    problem.far_is_apart = apart;
    problem.far_position = 200;
    for (const int64_t position : {1'000'000, 1'234'567, 5'000'001}) {
      problem.rows.push_back(RandomRow(&random, problem, position, 300));
    }
    ExpectAsReference(problem, RandomData(&random, problem));
  }
}

TEST_F(DecodeAttentionCudaTest, PositionsBeyondTwoToThe31) {
  Random random(9);
  Problem problem;
  problem.layout = {4096, 3};
  problem.shape = {2, 1, 16};
  problem.sizes = {20, 200};
  problem.far_position = 200;
  problem.rows = {RandomRow(&random, problem, (int64_t{1} << 31) + 70, 300),
                  RandomRow(&random, problem, kMaxPosition - 1, 300)};
  ExpectAsReference(problem, RandomData(&random, problem));
}

// Of so many ranks that what two neighbouring stripes of a rank lie apart takes 25 bits.
TEST_F(DecodeAttentionCudaTest, PositionsNearTwoToThe32OfManyRanks) {
  Random random(16);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
    Problem problem;
    problem.shape = {4, 1, 64};
    problem.dtype = dtype;
    problem.layout = {512, 60'000};
    problem.sizes = {1100, 1200};
    problem.far_position = 200;
    const int newest = problem.layout.owner(kMaxPosition);
    for (const int64_t position : {kMaxPosition, kMaxPosition - 700}) {
      Row row = RandomRow(&random, problem, position, 300);
      for (const int64_t page : {0, 1, 70, 138}) {
        const int64_t begin = problem.layout.StripeOfPage(newest, page).begin;
        for (const int64_t slot : {0, 5, 511}) row.selected.push_back(begin + slot);
      }
      std::sort(row.selected.begin(), row.selected.end());
      row.selected.erase(std::unique(row.selected.begin(), row.selected.end()), row.selected.end());
      problem.rows.push_back(row);
    }
    const Data data = RandomData(&random, problem);
    for (const int rank : {0, 1, 2, 59'999, newest, newest - 1, newest - 2, newest - 3,
                           problem.layout.owner(problem.rows[0].selected[100])}) {
      ExpectRankAsReference(problem, data, rank);
      if (HasFailure()) return;
    }
  }
}

// Behind a row's candidates, up to the next row's, stand some whose keys are NaN.
TEST_F(DecodeAttentionCudaTest, WhatLiesBetweenRowsOfTheSelectionIsNotRead) {
  Random random(17);
  for (const int64_t head_dim : {32, 64}) {
    Problem problem;
    problem.shape = {8, 2, head_dim};
    problem.sizes = {16, 64};
    problem.far_position = 100;
    problem.rows = {{1000, {100, 102, 300, 500}}, {700, {96}}, {900, {}}, {800, {100, 102, 350}}};
    const Data data = RandomData(&random, problem);
    const Result expected = Reference(problem, data, 0);
    for (const int64_t stride : {4, 5, 37, 1000}) {
      Device device = MakeDevice(problem, data, 0);
      UploadSelected(problem, stride, PackCandidate(9, 101), &device);
      device.args.selected = device.selected.as<uint64_t>();
      device.args.selected_counts = device.counts.as<int32_t>();
      device.args.selected_stride = stride;
      const Actual actual = RunOn(device);
      SCOPED_TRACE(testing::Message() << "head_dim " << head_dim << ", stride " << stride);
      ExpectClose(actual.lse, expected.lse, ToleranceOf(problem));
      ExpectClose(actual.output, expected.output, ToleranceOf(problem));
      if (HasFailure()) return;
    }
  }
}

// It makes all of its KV head's group NaN, of its row alone.
TEST_F(DecodeAttentionCudaTest, ANanInAKeyGivesNan) {
  Random random(18);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
    for (const int64_t head_dim : {16, 64, 128}) {
      for (const int64_t group : {1, 4, 7, 16}) {
        Problem problem;
        problem.shape = {2 * group, 2, head_dim};
        problem.dtype = dtype;
        problem.layout = {64, random.OneOf<int>({1, 3})};
        problem.sizes = {16, 100};
        problem.far_is_apart = random.OneOf({false, true});
        problem.far_position = 300;
        // Initial, selected, near and newest; and the only key there is.
        const int64_t bad[] = {3, 400, 950, 1000, 0};
        for (const int64_t position : {1000, 1000, 1000, 1000, 0, 1000}) {
          problem.rows.push_back({position, {200, 201, 400, 877}});
        }
        Data data = RandomData(&random, problem);
        for (size_t row = 0; row < std::size(bad); ++row) {
          Token& token = data.tokens[row].at(bad[row]);
          token.key[head_dim + random.Integer(0, head_dim - 1)] = kNan;
          token.key_bytes = Store(&token.key, dtype);
        }
        SCOPED_TRACE(testing::Message()
                     << DTypeName(dtype) << ", head_dim " << head_dim << ", group " << group);
        const Result whole = Reference(problem, data, -1);
        const auto nans = std::count_if(whole.lse.begin(), whole.lse.end(),
                                        [](double lse) { return std::isnan(lse); });
        ASSERT_EQ(nans, static_cast<int64_t>(std::size(bad)) * group);
        ExpectAsReference(problem, data);
        if (HasFailure()) return;
      }
    }
  }
}

TEST_F(DecodeAttentionCudaTest, NothingSelectedMayBeNull) {
  Random random(10);
  Problem problem;
  problem.sizes = {16, 64};
  problem.rows = {{1000, {}}};
  const Data data = RandomData(&random, problem);
  Device device = MakeDevice(problem, data, 0);
  const Actual expected = RunOn(device);
  device.args.selected = nullptr;
  device.args.selected_counts = nullptr;
  const Actual actual = RunOn(device);
  ExpectSameBits(actual.output, expected.output);
  ExpectSameBits(actual.lse, expected.lse);
}

// What merges rounds once: the bits are those of the floats, converted.
TEST_F(DecodeAttentionCudaTest, OutputOfBFloat16IsTheFloatsRounded) {
  Random random(20);
  for (const AttentionShape& shape : {AttentionShape{8, 2, 128}, AttentionShape{3, 3, 16}}) {
    Problem problem = RandomProblem(&random, Mode::kFarApart, 4);
    problem.shape = shape;
    Device device = MakeDevice(problem, RandomData(&random, problem), 0);
    const Actual floats = RunOn(device);
    device.args.output_dtype = DType::kBFloat16;
    ASSERT_TRUE(DecodeAttention(device.args, nullptr).ok());
    const auto count = static_cast<int64_t>(floats.output.size());
    std::vector<std::byte> expected(count * 2);
    ConvertFromFloat(floats.output.data(), count, DType::kBFloat16, expected.data());
    EXPECT_EQ(Download<std::byte>(device.output.data(), count * 2), expected);
    // Nothing behind them is written.
    for (const std::byte byte : Download<std::byte>(device.output.data() + count * 2, count * 2)) {
      ASSERT_EQ(byte, std::byte{0xff});
    }
    const auto lse = Download<float>(device.lse.data(), static_cast<int64_t>(floats.lse.size()));
    ExpectSameBits(lse, floats.lse);
  }
}

// Weights of exp(-100) beside others, and maxima that rise from tile to tile.
TEST_F(DecodeAttentionCudaTest, ScoresOfGreatMagnitude) {
  Random random(11);
  Problem problem = RandomProblem(&random, Mode::kFarApart, 3);
  Data data = RandomData(&random, problem);
  for (float& query : data.queries) query *= 50;
  const Actual actual = RunOn(MakeDevice(problem, data, 0));
  const Result expected = Reference(problem, data, 0);
  // Scores of a hundred are off by 1e-5 or so, and the weights relatively by as much.
  ExpectClose(actual.lse, expected.lse, kTolerance);
  ExpectClose(actual.output, expected.output, 1e-3);
}

TEST_F(DecodeAttentionCudaTest, ARowDoesNotDependOnTheOthers) {
  Random random(12);
  for (const Mode mode : kModes) {
    const Problem problem = RandomProblem(&random, mode, 5);
    const Data data = RandomData(&random, problem);
    const Actual together = RunOn(MakeDevice(problem, data, 0));
    const int64_t size = problem.shape.query_dim();
    for (size_t row = 0; row < problem.rows.size(); ++row) {
      Problem alone = problem;
      alone.rows = {problem.rows[row]};
      const auto first = static_cast<int64_t>(row) * size;
      const Data own = {{data.queries.begin() + first, data.queries.begin() + first + size},
                        {data.tokens[row]}};
      const Actual actual = RunOn(MakeDevice(alone, own, 0));
      ExpectSameBits(actual.output, absl::MakeConstSpan(together.output).subspan(first, size));
      ExpectSameBits(actual.lse, absl::MakeConstSpan(together.lse)
                                     .subspan(row * problem.shape.heads, problem.shape.heads));
    }
  }
}

// Workspaces are for any number of rows up to theirs, one after the other.
TEST_F(DecodeAttentionCudaTest, FewerAndMoreRowsWithOneWorkspace) {
  Random random(15);
  const Problem problem = RandomProblem(&random, Mode::kFarApart, 7);
  const Data data = RandomData(&random, problem);
  Device device = MakeDevice(problem, data, 0);
  const Result expected = Reference(problem, data, 0);
  for (const int num_rows : {2, 7, 1, 5, 7}) {
    device.args.num_rows = num_rows;
    const Actual actual = RunOn(device);
    const auto lse = absl::MakeConstSpan(expected.lse);
    ExpectClose(actual.lse, lse.first(num_rows * problem.shape.heads), kTolerance);
    const auto output = absl::MakeConstSpan(expected.output);
    ExpectClose(actual.output, output.first(num_rows * problem.shape.query_dim()), kTolerance);
  }
}

// One capture, and its replay after everything in device memory has changed in place.
TEST_F(DecodeAttentionCudaTest, GraphReplayReadsRowsAnew) {
  Random random(13);
  Problem problem;
  problem.sizes = {16, 100};
  problem.far_position = 3000;
  problem.rows = {RandomRow(&random, problem, 30, 0), RandomRow(&random, problem, 900, 300)};
  Problem later = problem;
  later.rows = {RandomRow(&random, problem, 2500, 300), RandomRow(&random, problem, 901, 200)};
  const Data data = RandomData(&random, problem);
  const Data later_data = RandomData(&random, later);
  Device device = MakeDevice(problem, data, 0);
  const int64_t stride = std::max(SelectedStride(problem), SelectedStride(later));
  UploadSelected(problem, stride, 0, &device);
  device.args.selected = device.selected.as<uint64_t>();
  device.args.selected_counts = device.counts.as<int32_t>();
  device.args.selected_stride = stride;

  RunOn(device);  // loads the kernel
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  EXPECT_TRUE(DecodeAttention(device.args, stream).ok());
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  size_t nodes = 0;
  ASSERT_EQ(cudaGraphGetNodes(graph, nullptr, &nodes), cudaSuccess);
  EXPECT_EQ(nodes, 1u);
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);

  Device other = MakeDevice(later, later_data, 0);
  UploadSelected(later, stride, 0, &other);
  const auto replay = [&](const Problem& which, const Data& with) {
    ASSERT_EQ(cudaGraphLaunch(executable, stream), cudaSuccess);
    ASSERT_TRUE(Synchronize(stream).ok());
    const Actual actual = Fetch(device);
    const Result expected = Reference(which, with, 0);
    ExpectClose(actual.lse, expected.lse, kTolerance);
    ExpectClose(actual.output, expected.output, kTolerance);
  };
  replay(problem, data);
  replay(problem, data);
  const std::pair<const Buffer*, const Buffer*> changes[] = {{&device.rows, &other.rows},
                                                             {&device.queries, &other.queries},
                                                             {&device.selected, &other.selected},
                                                             {&device.counts, &other.counts}};
  for (const auto& [to, from] : changes) {
    ASSERT_EQ(to->bytes(), from->bytes());
    ASSERT_TRUE(Copy(to->data(), from->data(), to->bytes(), stream).ok());
  }
  replay(later, later_data);
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

TEST_F(DecodeAttentionCudaTest, RefusesWhatItCannotDo) {
  Random random(14);
  Problem problem;
  problem.rows = {{10, {}}};
  const Device device = MakeDevice(problem, RandomData(&random, problem), 0);
  const auto code = [&](auto&& change) {
    DecodeAttentionArgs args = device.args;
    change(&args);
    return DecodeAttention(args, nullptr).code();
  };
  using Args = DecodeAttentionArgs*;
  EXPECT_EQ(code([](Args) {}), absl::StatusCode::kOk);
  EXPECT_EQ(code([](Args args) { args->num_rows = 0; }), absl::StatusCode::kOk);
  EXPECT_EQ(code([](Args args) {
              args->shape.head_dim = 48;
              args->rope.half = 24;
              args->workspace_bytes *= 2;
            }),
            absl::StatusCode::kUnimplemented);
  EXPECT_EQ(code([](Args args) { args->shape.heads = 34; }), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(code([](Args args) { args->shape.heads = 7; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](Args args) { args->key_offset = 8; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](Args args) { args->rope.half = 8; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](Args args) { args->geometry.rank = 1; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](Args args) { args->num_rows = -1; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](Args args) { args->max_rows = 0; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](Args args) { args->output_dtype = DType::kFloat16; }),
            absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(Synchronize(nullptr).ok());
}

TEST_F(DecodeAttentionCudaTest, RefusesPositionsThatTheRopeTableLacks) {
  Random random(19);
  Problem problem;
  problem.rows = {{10, {}}};
  const Device device = MakeDevice(problem, RandomData(&random, problem), 0);
  const int64_t end = device.args.rope.max_positions();
  ASSERT_EQ(end, kRopeFine);
  struct Sizes {
    int64_t initial, local, far;
    bool apart = true;
    bool dense = false;
  };
  const auto run = [&](const Sizes& sizes) {
    DecodeAttentionArgs args = device.args;
    args.initial_tokens = sizes.initial;
    args.local_tokens = sizes.local;
    args.far_position = sizes.far;
    args.far_is_apart = sizes.apart;
    args.dense = sizes.dense;
    return DecodeAttention(args, nullptr);
  };
  for (const Sizes& sizes : {Sizes{0, 20, end - 1}, Sizes{0, 20, end, false},
                             Sizes{end, end, end, true, true}, Sizes{24, end - 25, 0}}) {
    const absl::Status status = run(sizes);
    EXPECT_TRUE(status.ok()) << status;
  }
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  const std::pair<Sizes, std::string> refused[] = {
      {{0, 20, end}, "position 1024 "},
      {{0, 20, kMost}, "position 9223372036854775807 "},
      {{0, end, 0}, "position 1024 "},
      {{end + 1, 0, 0}, "position 1025 "},
      {{24, end - 24, 0}, "position 1024 "},
      {{24, end - 23, 0, false}, "position 1025 "},
      {{kMost, kMost, 0}, "position 9223372036854775807 "}};
  for (const auto& [sizes, position] : refused) {
    const absl::Status status = run(sizes);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_TRUE(absl::StrContains(status.message(), position)) << status;
  }
  DecodeAttentionArgs args = device.args;
  args.dense = true;
  args.rope.coarse_count = 0;
  EXPECT_EQ(DecodeAttention(args, nullptr).code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(Synchronize(nullptr).ok());
}

TEST_F(DecodeAttentionCudaTest, RefusesAWorkspaceForLess) {
  Random random(20);
  Problem problem;
  problem.rows = {{10, {}}};
  const Device device = MakeDevice(problem, RandomData(&random, problem), 0);
  const auto code = [&](int max_rows, int multiprocessors, int64_t bytes) {
    DecodeAttentionArgs args = device.args;
    args.max_rows = max_rows;
    args.multiprocessors = multiprocessors;
    args.workspace_bytes = bytes;
    return DecodeAttention(args, nullptr).code();
  };
  const int64_t bytes = DecodeAttentionWorkspaceBytes(problem.shape, kMaxRows, 3);
  EXPECT_EQ(code(kMaxRows, 3, bytes), absl::StatusCode::kOk);
  EXPECT_EQ(code(kMaxRows - 1, 3, bytes), absl::StatusCode::kOk);
  EXPECT_EQ(code(kMaxRows, 2, bytes), absl::StatusCode::kOk);
  EXPECT_EQ(code(kMaxRows, 3, bytes - 1), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(kMaxRows + 1, 3, bytes), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(kMaxRows, 4, bytes), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(Synchronize(nullptr).ok());
}

}  // namespace
}  // namespace longspan::cuda
