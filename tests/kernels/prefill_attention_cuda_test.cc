#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <numeric>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/base/convert.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/prefill_attention.h"
#include "tests/kernels/cuda_testing.h"
#include "tests/kernels/kernel_testing.h"

namespace longspan::cuda {
namespace {

constexpr double kTolerance = 1e-5;
// Queries, rotated keys and weights have 8 bits on tensor cores, as has an output of bfloat16.
constexpr double kRoughTolerance = 2e-2;
// Of a page: something else lies before the keys, and between keys and values.
constexpr int64_t kKeyOffset = 48;
constexpr int64_t kGap = 16;

struct Block {
  int64_t queries = 0;
  int64_t first_position = 0;
  std::vector<int64_t> far, near;  // positions
};

struct Problem {
  AttentionShape shape = {8, 2, 64};
  DType dtype = DType::kBFloat16;
  DType output_dtype = DType::kFloat32;
  bool far_is_apart = true;
  int64_t far_position = 1000;
  // Keys and values row by row in one place, as a message brings them, or on pages.
  bool message = false;
  int64_t page_rows = 16;
  int64_t rows_between = 1;  // of no block, before each block and after the last one
  std::vector<Block> blocks;
};

// [rows of queries] of all blocks and between them.
int64_t NumRows(const Problem& problem) {
  int64_t rows = problem.rows_between;
  for (const Block& block : problem.blocks) rows += block.queries + problem.rows_between;
  return rows;
}

double ToleranceOf(const Problem& problem) {
  const bool tensor = problem.dtype != DType::kFloat32 &&
                      (problem.shape.head_dim == 64 || problem.shape.head_dim == 128);
  return tensor || problem.output_dtype == DType::kBFloat16 ? kRoughTolerance : kTolerance;
}

// A block's inputs: keys and values [far and near keys, kv_heads, head_dim], as they are read.
struct BlockData {
  std::vector<float> queries;  // [queries, heads, head_dim]
  std::vector<float> keys, values;
};

std::vector<float> Rounded(std::vector<float> values, DType dtype) {
  const auto count = static_cast<int64_t>(values.size());
  std::vector<std::byte> bytes(count * SizeOf(dtype));
  ConvertFromFloat(values.data(), count, dtype, bytes.data());
  ConvertToFloat(bytes.data(), dtype, count, values.data());
  return values;
}

std::vector<BlockData> RandomData(Random* random, const Problem& problem) {
  std::vector<BlockData> data;
  for (const Block& block : problem.blocks) {
    const auto keys = static_cast<int64_t>(block.far.size() + block.near.size());
    BlockData& of = data.emplace_back();
    of.queries = random->Reals(block.queries * problem.shape.query_dim(), -2, 2);
    of.keys = Rounded(random->Reals(keys * problem.shape.kv_dim(), -2, 2), problem.dtype);
    of.values = Rounded(random->Reals(keys * problem.shape.kv_dim()), problem.dtype);
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
void AppendRotated(const std::vector<double>& frequencies, const float* x, int64_t position,
                   std::vector<double>* out) {
  const size_t half = frequencies.size();
  const size_t first = out->size();
  out->resize(first + 2 * half);
  for (size_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(position) * frequencies[i];
    const double a = x[i], b = x[i + half];
    (*out)[first + i] = a * std::cos(angle) - b * std::sin(angle);
    (*out)[first + i + half] = b * std::cos(angle) + a * std::sin(angle);
  }
}

struct Result {
  std::vector<double> output;  // [rows, heads, head_dim]
  std::vector<double> lse;     // [rows, heads]
};

double Dot(const double* a, const double* b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

// scores: of the block's first keys; the others are not seen.
double Softmax(const std::vector<double>& scores, const float* values, int64_t stride, int64_t dim,
               double* output) {
  double max = -kInf, sum = 0;
  for (const double score : scores) max = std::max(max, score);
  for (const double score : scores) sum += std::exp(score - max);
  std::fill_n(output, dim, 0.0);
  for (size_t k = 0; k < scores.size(); ++k) {
    const double weight = std::exp(scores[k] - max) / sum;
    for (int64_t d = 0; d < dim; ++d) {
      output[d] += weight * values[static_cast<int64_t>(k) * stride + d];
    }
  }
  return scores.empty() ? -kInf : max + std::log(sum);
}

// Into the rows from first_row on.
void ComputeBlock(const Problem& problem, const Block& block, const BlockData& data,
                  int64_t first_row, Result* result) {
  const AttentionShape& shape = problem.shape;
  const int64_t dim = shape.head_dim;
  const std::vector<double> frequencies = InverseFrequencies(dim);
  const double scale = shape.score_scale / std::sqrt(static_cast<double>(dim));
  const auto far = static_cast<int64_t>(block.far.size());
  for (int64_t g = 0; g < shape.kv_heads; ++g) {
    std::vector<double> keys;
    for (int64_t k = 0; k < far; ++k) {
      AppendRotated(frequencies, data.keys.data() + k * shape.kv_dim() + g * dim,
                    problem.far_is_apart ? 0 : block.far[k], &keys);
    }
    for (size_t k = 0; k < block.near.size(); ++k) {
      const auto row = far + static_cast<int64_t>(k);
      AppendRotated(frequencies, data.keys.data() + row * shape.kv_dim() + g * dim, block.near[k],
                    &keys);
    }
    for (int64_t c = 0; c < block.queries; ++c) {
      const int64_t position = block.first_position + c;
      for (int64_t h = g * shape.group(); h < (g + 1) * shape.group(); ++h) {
        const float* query = data.queries.data() + (c * shape.heads + h) * dim;
        std::vector<double> near_query, far_query, scores;
        AppendRotated(frequencies, query, position, &near_query);
        AppendRotated(frequencies, query, problem.far_is_apart ? problem.far_position : position,
                      &far_query);
        for (int64_t k = 0; k < far; ++k) {
          scores.push_back(scale * Dot(far_query.data(), keys.data() + k * dim, dim));
        }
        for (size_t k = 0; k < block.near.size() && block.near[k] <= position; ++k) {
          const auto row = far + static_cast<int64_t>(k);
          scores.push_back(scale * Dot(near_query.data(), keys.data() + row * dim, dim));
        }
        const int64_t at = (first_row + c) * shape.heads + h;
        result->lse[at] = Softmax(scores, data.values.data() + g * dim, shape.kv_dim(), dim,
                                  result->output.data() + at * dim);
      }
    }
  }
}

// NaN, as it was, in rows of no block.
Result Reference(const Problem& problem, const std::vector<BlockData>& data) {
  const int64_t rows = NumRows(problem);
  Result result = {std::vector<double>(rows * problem.shape.query_dim(), kNan),
                   std::vector<double>(rows * problem.shape.heads, kNan)};
  int64_t first_row = problem.rows_between;
  for (size_t b = 0; b < data.size(); ++b) {
    ComputeBlock(problem, problem.blocks[b], data[b], first_row, &result);
    first_row += problem.blocks[b].queries + problem.rows_between;
  }
  return result;
}

// ---- On the device -----------------------------------------------------------------------------

// A problem in device memory, ready to be launched.
struct Device {
  Buffer memory, pages, blocks, rows, positions, queries, fine, coarse, output, lse;
  PrefillAttentionArgs args;
  int64_t num_rows = 0;
};

// Keys and values at random rows of memory in which all else is NaN.
void UploadKeys(const Problem& problem, const std::vector<BlockData>& data, Random* random,
                Device* device) {
  const int64_t row_bytes = problem.shape.kv_dim() * SizeOf(problem.dtype);
  int64_t count = 0;
  for (const Block& block : problem.blocks) {
    count += static_cast<int64_t>(block.far.size() + block.near.size());
  }
  const int64_t num_rows = 2 * count + 3;
  const int64_t page_rows = problem.message ? num_rows : problem.page_rows;
  KeyRows& where = device->args.rows;
  where.page_rows = page_rows;
  where.key_offset = problem.message ? 0 : kKeyOffset;
  where.value_offset = problem.message ? row_bytes : kKeyOffset + page_rows * row_bytes + kGap;
  where.row_stride = problem.message ? 2 * row_bytes : row_bytes;
  const int64_t page_bytes =
      problem.message ? num_rows * 2 * row_bytes : where.value_offset + page_rows * row_bytes;
  const int64_t num_pages = (num_rows + page_rows - 1) / page_rows;
  std::vector<int64_t> slots(num_pages);
  std::iota(slots.begin(), slots.end(), 0);
  std::shuffle(slots.begin(), slots.end(), random->engine());
  std::vector<uint32_t> rows(num_rows);
  std::iota(rows.begin(), rows.end(), 0u);
  std::shuffle(rows.begin(), rows.end(), random->engine());
  rows.resize(count);

  std::vector<std::byte> memory(num_pages * page_bytes, std::byte{0xff});
  const int64_t dim = problem.shape.kv_dim();
  size_t next = 0;
  std::vector<uint32_t> positions;
  for (size_t b = 0; b < data.size(); ++b) {
    for (const auto* list : {&problem.blocks[b].far, &problem.blocks[b].near}) {
      positions.insert(positions.end(), list->begin(), list->end());
    }
    for (int64_t k = 0; k * dim < static_cast<int64_t>(data[b].keys.size()); ++k) {
      const int64_t row = rows[next++];
      std::byte* to =
          memory.data() + slots[row / page_rows] * page_bytes + row % page_rows * where.row_stride;
      ConvertFromFloat(data[b].keys.data() + k * dim, dim, problem.dtype, to + where.key_offset);
      ConvertFromFloat(data[b].values.data() + k * dim, dim, problem.dtype,
                       to + where.value_offset);
    }
  }
  device->memory = Upload(memory);
  std::vector<const std::byte*> pages;
  for (const int64_t slot : slots) pages.push_back(device->memory.data() + slot * page_bytes);
  device->pages = Upload(pages);
  where.pages = device->pages.as<const std::byte*>();
  rows.push_back(0xffffffff);  // an empty list has an address, too
  positions.push_back(0xffffffff);
  device->rows = Upload(rows);
  device->positions = Upload(positions);
  device->args.key_rows = device->rows.as<uint32_t>();
  device->args.key_positions = device->positions.as<uint32_t>();
}

void UploadBlocks(const Problem& problem, const std::vector<BlockData>& data, Device* device) {
  const int64_t query_dim = problem.shape.query_dim();
  std::vector<AttentionBlock> blocks;
  std::vector<float> queries(problem.rows_between * query_dim, kNan);
  int64_t first_key = 0, max_queries = 0;
  for (size_t b = 0; b < data.size(); ++b) {
    const Block& block = problem.blocks[b];
    AttentionBlock& out = blocks.emplace_back();
    out.first_row = static_cast<int64_t>(queries.size()) / query_dim;
    out.queries = block.queries;
    out.first_position = block.first_position;
    out.first_key = first_key;
    out.far_keys = static_cast<int64_t>(block.far.size());
    out.near_keys = static_cast<int64_t>(block.near.size());
    first_key += out.far_keys + out.near_keys;
    max_queries = std::max(max_queries, block.queries);
    queries.insert(queries.end(), data[b].queries.begin(), data[b].queries.end());
    queries.insert(queries.end(), problem.rows_between * query_dim, kNan);
  }
  device->blocks = Upload(blocks);
  device->queries = Upload(queries);
  device->args.blocks = device->blocks.as<AttentionBlock>();
  device->args.num_blocks = static_cast<int>(blocks.size());
  device->args.max_queries = max_queries;
  device->args.queries = device->queries.as<float>();
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

void UploadRope(const Problem& problem, Device* device) {
  int64_t last = problem.far_position;
  for (const Block& block : problem.blocks) {
    last = std::max(last, block.first_position + block.queries);
    for (const auto* list : {&block.far, &block.near}) {
      for (const int64_t position : *list) last = std::max(last, position);
    }
  }
  const int64_t dim = problem.shape.head_dim;
  device->fine = UploadRotations(dim, kRopeFine, 1);
  device->coarse = UploadRotations(dim, last / kRopeFine + 1, kRopeFine);
  device->args.rope.fine = device->fine.as<const float2>();
  device->args.rope.coarse = device->coarse.as<const float2>();
  device->args.rope.half = static_cast<int32_t>(dim / 2);
}

Device MakeDevice(const Problem& problem, const std::vector<BlockData>& data, uint64_t seed = 99) {
  Random random(seed);
  Device device;
  device.num_rows = NumRows(problem);
  PrefillAttentionArgs& args = device.args;
  args.shape = problem.shape;
  args.dtype = problem.dtype;
  args.far_is_apart = problem.far_is_apart;
  args.far_position = problem.far_position;
  args.output_dtype = problem.output_dtype;
  UploadKeys(problem, data, &random, &device);
  UploadBlocks(problem, data, &device);
  UploadRope(problem, &device);
  device.output =
      Poisoned(device.num_rows * problem.shape.query_dim() * SizeOf(problem.output_dtype));
  device.lse = Poisoned(device.num_rows * problem.shape.heads * 4);
  args.output = device.output.data();
  args.lse = device.lse.as<float>();
  return device;
}

struct Actual {
  std::vector<float> output, lse;
};

Actual RunOn(const Device& device) {
  const absl::Status status = PrefillAttention(device.args, nullptr);
  EXPECT_TRUE(status.ok()) << status;
  const absl::Status done = Synchronize(nullptr);
  EXPECT_TRUE(done.ok()) << done;
  const AttentionShape& shape = device.args.shape;
  const int64_t count = device.num_rows * shape.query_dim();
  const DType dtype = device.args.output_dtype;
  Actual actual;
  const auto bytes = Download<std::byte>(device.output.data(), count * SizeOf(dtype));
  actual.output.resize(count);
  ConvertToFloat(bytes.data(), dtype, count, actual.output.data());
  actual.lse = Download<float>(device.lse.data(), device.num_rows * shape.heads);
  return actual;
}

void ExpectAsReference(const Problem& problem, const std::vector<BlockData>& data) {
  const Actual actual = RunOn(MakeDevice(problem, data));
  const Result expected = Reference(problem, data);
  const double tolerance = ToleranceOf(problem);
  ExpectClose(actual.lse, expected.lse, tolerance);
  ExpectClose(actual.output, expected.output, tolerance);
}

// ---- Problems ----------------------------------------------------------------------------------

std::vector<int64_t> Positions(int64_t begin, int64_t end) {
  std::vector<int64_t> positions(std::max<int64_t>(end - begin, 0));
  std::iota(positions.begin(), positions.end(), begin);
  return positions;
}

// `count` of [begin, end), ascending.
std::vector<int64_t> Some(Random* random, int64_t begin, int64_t end, int64_t count) {
  std::vector<int64_t> some;
  const std::vector<int64_t> all = Positions(begin, end);
  std::sample(all.begin(), all.end(), std::back_inserter(some), count, random->engine());
  return some;
}

// `far` scattered keys, and `near` ones before the first query beside those of the queries.
Block MakeBlock(Random* random, int64_t queries, int64_t first_position, int64_t far,
                int64_t near) {
  const int64_t lo = std::max<int64_t>(0, first_position - near);
  return {queries, first_position, Some(random, std::max<int64_t>(0, lo - 4 * far), lo, far),
          Positions(lo, first_position + queries)};
}

using PrefillAttentionCudaTest = CudaTest;

TEST_F(PrefillAttentionCudaTest, EqualsReferenceForEveryKernel) {
  Random random(1);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
    for (const int64_t head_dim : {16, 32, 64, 128, 256}) {
      for (const int64_t group : {1, 2, 4, 7, 8, 16}) {
        Problem problem;
        const int64_t kv_heads = random.OneOf<int64_t>({1, 2, 3});
        problem.shape = {kv_heads * group, kv_heads, head_dim, random.OneOf({1.0, 1.3})};
        problem.dtype = dtype;
        problem.far_is_apart = random.Integer(0, 1) == 0;
        problem.far_position = random.Integer(0, 3000);
        problem.page_rows = random.OneOf<int64_t>({1, 16, 48, 64});
        for (const int64_t queries : {1, 5, 64}) {
          problem.blocks.push_back(MakeBlock(&random, queries, random.Integer(0, 2000),
                                             random.Integer(0, 150), random.Integer(0, 150)));
        }
        SCOPED_TRACE(testing::Message()
                     << DTypeName(dtype) << ", head_dim " << head_dim << ", group " << group);
        ExpectAsReference(problem, RandomData(&random, problem));
        if (HasFailure()) return;
      }
    }
  }
}

// With each of far and near keys there or not, alone and beside other blocks.
TEST_F(PrefillAttentionCudaTest, FarAndNearKeysOrNone) {
  Random random(2);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
    for (const bool apart : {true, false}) {
      Problem problem;
      problem.dtype = dtype;
      problem.far_is_apart = apart;
      const int64_t counts[] = {0, 1, 63, 64, 65, 130};
      for (const int64_t far : counts) {
        for (const int64_t near : counts) {
          Block block = MakeBlock(&random, 3, 1000, far, near);
          block.near.resize(near);
          problem.blocks.push_back(block);
        }
      }
      problem.blocks.push_back({});
      ExpectAsReference(problem, RandomData(&random, problem));
    }
  }
}

// As many queries and keys as a real model's, of few heads.
TEST_F(PrefillAttentionCudaTest, EqualsReferenceAtRealSizes) {
  Random random(3);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
    for (const bool apart : {true, false}) {
      Problem problem;
      problem.shape = {4, 1, 128};
      problem.dtype = dtype;
      problem.far_is_apart = apart;
      problem.far_position = 4096;
      problem.page_rows = 256;
      problem.blocks = {MakeBlock(&random, 512, 20'480, 1000, 1024),
                        MakeBlock(&random, 100, 20'992, 700, 300)};
      ExpectAsReference(problem, RandomData(&random, problem));
      if (HasFailure()) return;
    }
  }
}

// Queries before their first near key have none, lists go on beyond the last query, have gaps, and
// end beside the ends of tiles.
TEST_F(PrefillAttentionCudaTest, CausalEdges) {
  Random random(4);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
    for (const int64_t head_dim : {32, 64, 128}) {
      Problem problem;
      problem.shape = {4, 2, head_dim};
      problem.dtype = dtype;
      for (const int64_t queries : {1, 63, 64, 65, 200}) {
        problem.blocks.push_back({queries, 500, {}, Positions(500, 500 + queries)});
        problem.blocks.push_back({queries, 500, {3}, Positions(503, 800)});
        problem.blocks.push_back({queries, 500, {}, Positions(900, 1000)});
        problem.blocks.push_back({queries, 500, {3}, Some(&random, 300, 900, 300)});
        problem.blocks.push_back({queries, 0, {}, Positions(0, 300)});
      }
      ExpectAsReference(problem, RandomData(&random, problem));
      if (HasFailure()) return;
    }
  }
}

// Ranks own every other stripe, so that a message's near keys jump.
TEST_F(PrefillAttentionCudaTest, MessagesHaveValuesBehindKeys) {
  Random random(5);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
    for (const int64_t head_dim : {16, 64, 128}) {
      Problem problem;
      problem.shape = {8, 2, head_dim};
      problem.dtype = dtype;
      problem.message = true;
      problem.blocks = {MakeBlock(&random, 70, 1000, 100, 500),
                        MakeBlock(&random, 33, 1500, 100, 500)};
      for (Block& block : problem.blocks) {
        std::erase_if(block.near, [](int64_t position) { return position / 20 % 2 == 1; });
      }
      const std::vector<BlockData> data = RandomData(&random, problem);
      ExpectAsReference(problem, data);
      // A page with more rows than row numbers can count.
      Device device = MakeDevice(problem, data);
      const Actual expected = RunOn(device);
      device.args.rows.page_rows = int64_t{1} << 33;
      const Actual actual = RunOn(device);
      ExpectSameBits(actual.output, expected.output);
      ExpectSameBits(actual.lse, expected.lse);
    }
  }
}

TEST_F(PrefillAttentionCudaTest, PositionsBeyondAMillion) {
  Random random(6);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
    for (const bool apart : {true, false}) {
      Problem problem;
      problem.dtype = dtype;
      problem.far_is_apart = apart;
      problem.blocks = {MakeBlock(&random, 64, 1'048'550, 100, 200),
                        MakeBlock(&random, 64, 5'000'001, 100, 200)};
      problem.blocks[1].far[0] = 7;
      ExpectAsReference(problem, RandomData(&random, problem));
    }
  }
}

TEST_F(PrefillAttentionCudaTest, BFloat16OutputAndNoLse) {
  Random random(7);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
    Problem problem;
    problem.dtype = dtype;
    problem.output_dtype = DType::kBFloat16;
    problem.blocks = {MakeBlock(&random, 40, 600, 100, 100)};
    const std::vector<BlockData> data = RandomData(&random, problem);
    ExpectAsReference(problem, data);
    Device device = MakeDevice(problem, data);
    const Actual expected = RunOn(device);
    ASSERT_TRUE(Fill(device.output.data(), 0xff, device.output.bytes(), nullptr).ok());
    ASSERT_TRUE(Fill(device.lse.data(), 0xff, device.lse.bytes(), nullptr).ok());
    device.args.lse = nullptr;
    const Actual actual = RunOn(device);
    ExpectSameBits(actual.output, expected.output);
    ExpectSameBits(actual.lse, std::vector<float>(actual.lse.size(), kNan));
    // The same in float32, rounded.
    problem.output_dtype = DType::kFloat32;
    ExpectSameBits(actual.output,
                   Rounded(RunOn(MakeDevice(problem, data)).output, DType::kBFloat16));
  }
}

// Weights of exp(-100) beside others, and maxima that rise from tile to tile.
TEST_F(PrefillAttentionCudaTest, ScoresOfGreatMagnitude) {
  Random random(8);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
    Problem problem;
    problem.dtype = dtype;
    problem.blocks = {MakeBlock(&random, 70, 600, 200, 200)};
    std::vector<BlockData> data = RandomData(&random, problem);
    for (float& query : data[0].queries) query *= 50;
    const Actual actual = RunOn(MakeDevice(problem, data));
    const Result expected = Reference(problem, data);
    ExpectClose(actual.lse, expected.lse, ToleranceOf(problem));
    if (dtype == DType::kFloat32) {
      ExpectClose(actual.output, expected.output, 1e-3);
      continue;
    }
    // Scores of a hundred are off by some tenths; the mean of values is still one.
    for (const float value :
         absl::MakeConstSpan(actual.output)
             .subspan(problem.shape.query_dim(), 70 * problem.shape.query_dim())) {
      ASSERT_LE(std::abs(value), 1.01f);
    }
  }
}

// It makes NaN of the queries that see it, and of no others.
TEST_F(PrefillAttentionCudaTest, NaNInKeys) {
  Random random(9);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
    for (const int64_t head_dim : {32, 64, 128}) {
      Problem problem;
      problem.shape = {4, 2, head_dim};
      problem.dtype = dtype;
      problem.blocks = {MakeBlock(&random, 70, 600, 100, 100),
                        MakeBlock(&random, 70, 600, 100, 100)};
      std::vector<BlockData> data = RandomData(&random, problem);
      const int64_t near = 100 + 100 + 30;  // the key of query 30
      data[0].keys[near * problem.shape.kv_dim() + head_dim + 3] = kNan;
      data[1].keys[17 * problem.shape.kv_dim() + 5] = kNan;
      ExpectAsReference(problem, data);
    }
  }
}

TEST_F(PrefillAttentionCudaTest, ABlockDoesNotDependOnTheOthers) {
  Random random(10);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
    for (const int64_t head_dim : {32, 64, 128}) {
      for (const int64_t group : {4, 7}) {
        Problem problem;
        problem.shape = {2 * group, 2, head_dim};
        problem.dtype = dtype;
        for (const int64_t queries : {64, 1, 130, 5}) {
          problem.blocks.push_back(MakeBlock(&random, queries, random.Integer(0, 2000),
                                             random.Integer(0, 150), random.Integer(0, 150)));
        }
        const std::vector<BlockData> data = RandomData(&random, problem);
        const Actual together = RunOn(MakeDevice(problem, data));
        int64_t row = problem.rows_between;
        for (size_t b = 0; b < data.size(); ++b) {
          Problem alone = problem;
          alone.blocks = {problem.blocks[b]};
          alone.rows_between = 0;
          alone.message = true;
          const Actual actual = RunOn(MakeDevice(alone, {data[b]}, 5));
          const int64_t dim = problem.shape.query_dim(), heads = problem.shape.heads;
          const int64_t queries = problem.blocks[b].queries;
          ExpectSameBits(actual.output,
                         absl::MakeConstSpan(together.output).subspan(row * dim, queries * dim));
          ExpectSameBits(actual.lse,
                         absl::MakeConstSpan(together.lse).subspan(row * heads, queries * heads));
          row += queries + problem.rows_between;
        }
        if (HasFailure()) return;
      }
    }
  }
}

TEST_F(PrefillAttentionCudaTest, RefusesWhatItCannotDo) {
  Random random(11);
  Problem problem;
  problem.blocks = {MakeBlock(&random, 5, 100, 10, 20)};
  const Device device = MakeDevice(problem, RandomData(&random, problem));
  const auto code = [&](auto&& change) {
    PrefillAttentionArgs args = device.args;
    change(&args);
    return PrefillAttention(args, nullptr).code();
  };
  using Args = PrefillAttentionArgs*;
  EXPECT_EQ(code([](Args) {}), absl::StatusCode::kOk);
  EXPECT_EQ(code([](Args args) { args->num_blocks = 0; }), absl::StatusCode::kOk);
  EXPECT_EQ(code([](Args args) { args->max_queries = 0; }), absl::StatusCode::kOk);
  EXPECT_EQ(code([](Args args) {
              args->shape.head_dim = 48;
              args->rope.half = 24;
            }),
            absl::StatusCode::kUnimplemented);
  EXPECT_EQ(code([](Args args) { args->dtype = DType::kFloat16; }),
            absl::StatusCode::kUnimplemented);
  const auto refused = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code([](Args args) { args->shape.heads = 7; }), refused);
  EXPECT_EQ(code([](Args args) { args->rope.half = 8; }), refused);
  EXPECT_EQ(code([](Args args) { args->num_blocks = -1; }), refused);
  EXPECT_EQ(code([](Args args) { args->max_queries = -1; }), refused);
  EXPECT_EQ(code([](Args args) { args->far_position = -1; }), refused);
  EXPECT_EQ(code([](Args args) { args->rows.page_rows = 0; }), refused);
  EXPECT_EQ(code([](Args args) { args->rows.key_offset = 8; }), refused);
  EXPECT_EQ(code([](Args args) { args->rows.row_stride += 4; }), refused);
  EXPECT_EQ(code([](Args args) { args->output_dtype = DType::kFloat16; }), refused);
  EXPECT_EQ(code([](Args args) { args->queries = nullptr; }), refused);
  EXPECT_EQ(code([](Args args) { ++args->queries; }), refused);
  ASSERT_TRUE(Synchronize(nullptr).ok());
}

}  // namespace
}  // namespace longspan::cuda
