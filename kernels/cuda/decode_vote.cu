#include <cuda_runtime.h>

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/decode_row_keys.cuh"
#include "kernels/cuda/decode_vote.h"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/prefill_score_jobs.cuh"
#include "kernels/cuda/prefill_score_problem.cuh"
#include "kernels/cuda/vote_numbers.cuh"
#include "sharding/layer_schedule.h"

// Passes read keys once between them: the products of each voter with each key are kept, a small
// part of the keys' bytes. (Over four heads a KV head, the pass that makes them reads a key twice.)
// A product is one sum in the order of the dimensions, and a vote one in the order of the voters,
// so that neither depends on where a key is.
namespace longspan::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kVotersAtOnce = 4;  // that multiply a chunk of a key while it is at hand
constexpr int kBlocksPerMultiprocessor = 8;
constexpr unsigned kMaxGridRows = 65535;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// One row, and where its products are.
struct VoteRow : selection::DecodeRowKeys {
  const std::byte* const* pages;
  const float* query;
  float* products;  // [voters, product_stride]

  __device__ VoteRow(const DecodeVoteArgs& args, int row)
      : DecodeRowKeys(args.keys, args.keys.sequences[row]),
        pages(args.keys.sequences[row].score_pages != nullptr ? args.keys.sequences[row].score_pages
                                                              : args.keys.sequences[row].pages),
        query(args.keys.queries + row * args.voters.count * args.voters.dim),
        products(args.products + row * args.voters.count * args.product_stride) {}

  // Entries that are scored, for proximity beyond the own ones. Nowhere if there are none.
  __device__ int64_t scored_begin() const { return begin < end ? begin - args.proximity : 0; }
  __device__ int64_t scored_end() const { return begin < end ? end + args.proximity : 0; }
  __device__ bool InMiddle(uint32_t entry) const { return Position(entry) - first < last - first; }
  __device__ bool IsOwn(uint32_t entry) const {
    return InStripe(entry % Stride()) && InMiddle(entry);
  }
  template <typename T>
  __device__ const T* Key(uint32_t entry) const {
    return reinterpret_cast<const T*>(pages[entry / Stride()] + args.score_offset) +
           entry % Stride() * args.dim;
  }
};

// The thread's entries among [from, to), of those that the grid's x has together.
template <typename Use>
__device__ void ForOwnShare(int64_t from, int64_t to, Use&& use) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t entry = from + int64_t{blockIdx.x} * kThreads + threadIdx.x; entry < to;
       entry += step) {
    use(static_cast<uint32_t>(entry));
  }
}

// The products of up to kVotersAtOnce voters with one slice of a key.
template <typename T>
__device__ void MultiplySlice(const float* queries, int voters, const T* key, int dim,
                              float (&sums)[kVotersAtOnce]) {
  constexpr int kChunk = 16 / sizeof(T);
  for (int d = 0; d < dim; d += kChunk) {
    float k[kChunk];
    LoadFloats(key + d, k);
#pragma unroll
    for (int v = 0; v < kVotersAtOnce; ++v) {
      if (v >= voters) break;
#pragma unroll
      for (int e = 0; e < kChunk; e += 4) {
        float q[4];
        LoadFloats(queries + v * dim + d + e, q);
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[v] = __fmaf_rn(q[i], k[e + i], sums[v]);
      }
    }
  }
}

// The grid's y has slices.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    ProductsKernel(const __grid_constant__ DecodeVoteArgs args) {
  const Voters& voters = args.voters;
  const int dim = static_cast<int>(voters.dim), to_a_slice = static_cast<int>(voters.to_a_slice);
  for (int r = blockIdx.z; r < args.keys.rows; r += gridDim.z) {
    const VoteRow row(args, r);
    if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) {
      args.blocks[r] = {r, 1, {row.first, row.last}};
    }
    ForOwnShare(row.scored_begin(), row.scored_end(), [&](uint32_t entry) {
      if (!row.InMiddle(entry)) return;
      const T* const key = row.template Key<T>(entry) + blockIdx.y * dim;
      for (int v = 0; v < to_a_slice; v += kVotersAtOnce) {
        const int64_t first = int64_t{blockIdx.y} * to_a_slice + v;
        const int count = min(kVotersAtOnce, to_a_slice - v);
        float sums[kVotersAtOnce] = {};
        MultiplySlice(row.query + first * dim, count, key, dim, sums);
#pragma unroll
        for (int i = 0; i < kVotersAtOnce; ++i) {
          if (i < count) row.products[(first + i) * args.product_stride + entry] = sums[i];
        }
      }
    });
  }
}

// The grid's y has voters. A warp's largest goes to memory at once.
__global__ void __launch_bounds__(kThreads)
    MaximaKernel(const __grid_constant__ DecodeVoteArgs args, const VoteNorms norms) {
  for (int r = blockIdx.z; r < args.keys.rows; r += gridDim.z) {
    const VoteRow row(args, r);
    const float* const products = row.products + blockIdx.y * args.product_stride;
    float best = -kInfinity;
    ForOwnShare(row.begin, row.end, [&](uint32_t entry) {
      if (row.IsOwn(entry)) best = fmaxf(best, products[entry]);
    });
    const uint32_t bits = __reduce_max_sync(0xffffffffu, scoring::OrderedBits(best));
    best = scoring::FromOrderedBits(bits);
    if (threadIdx.x % 32 == 0 && best > -kInfinity) {
      scoring::AtomicMax(norms.maxima + blockIdx.y * norms.rows + r, best);
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    SumsKernel(const __grid_constant__ DecodeVoteArgs args, const VoteNorms norms) {
  for (int r = blockIdx.z; r < args.keys.rows; r += gridDim.z) {
    const VoteRow row(args, r);
    const float* const products = row.products + blockIdx.y * args.product_stride;
    const int64_t place = blockIdx.y * norms.rows + r;
    const float maximum = norms.maxima[place];
    const float units = VoteUnits(VoteSumBits(int64_t{row.last} - row.first));
    const float scale_log2 = args.voters.scale * kLog2E;
    unsigned long long counted = 0;
    ForOwnShare(row.begin, row.end, [&](uint32_t entry) {
      if (!row.IsOwn(entry)) return;
      counted += InVoteUnits(VoteExponential(products[entry], maximum, scale_log2), units);
    });
#pragma unroll
    for (int width = 16; width >= 1; width /= 2) {
      counted += __shfl_xor_sync(0xffffffffu, counted, width);
    }
    if (threadIdx.x % 32 == 0 && counted > 0) {
      atomicAdd(reinterpret_cast<unsigned long long*>(norms.sums + place * kVoteSumDigits),
                counted);
    }
  }
}

// All voters' say on one key.
__device__ float ScoreOf(const DecodeVoteArgs& args, const VoteNorms& norms, int row,
                         const float* products) {
  float score = args.voters.soft ? 0 : __uint_as_float(0x7fffffff);  // any number wins
  for (int64_t v = 0; v < args.voters.count; ++v) {
    const float product = products[v * args.product_stride];
    if (args.voters.soft) {
      const int64_t place = v * norms.rows + row;
      AddVote(VoteExponential(product, norms.maxima[place], args.voters.scale * kLog2E),
              norms.weights[place], &score);
    } else {
      score = fmaxf(score, product);
    }
  }
  return score;
}

// Scores take the place of the first voter's products.
__global__ void __launch_bounds__(kThreads)
    ScoresKernel(const __grid_constant__ DecodeVoteArgs args, const VoteNorms norms) {
  for (int r = blockIdx.z; r < args.keys.rows; r += gridDim.z) {
    const VoteRow row(args, r);
    ForOwnShare(row.scored_begin(), row.scored_end(), [&](uint32_t entry) {
      if (!row.InMiddle(entry)) return;
      row.products[entry] = ScoreOf(args, norms, r, row.products + entry);
    });
  }
}

// The largest score of the middle around each own position; NaN where all are, or behind it.
__global__ void __launch_bounds__(kThreads)
    SpreadKernel(const __grid_constant__ DecodeVoteArgs args, const DecodeVotesOut out) {
  const ShardGeometry& geometry = args.keys.geometry;
  const int64_t first_local = geometry.OwnedBefore(args.keys.initial_tokens);
  for (int r = blockIdx.z; r < args.keys.rows; r += gridDim.z) {
    const VoteRow row(args, r);
    ForOwnShare(0, out.count, [&](uint32_t i) {
      const int64_t position = geometry.Position(first_local + i);
      float best = __uint_as_float(0x7fffffff);
      if (position < row.last) {
        const float* const at = row.products + row.Entry(first_local + i);
        const int64_t proximity = args.keys.proximity;
        const int64_t from = max(position - proximity, int64_t{row.first}) - position;
        const int64_t to = min(position + proximity, int64_t{row.last} - 1) - position;
        for (int64_t d = from; d <= to; ++d) best = fmaxf(best, at[d]);
      }
      out.scores[r * out.count + i] = best;
    });
  }
}

// ---- Launches ----

absl::Status CheckArgs(const DecodeVoteArgs& args) {
  const DecodeSelectArgs& keys = args.keys;
  const Voters& voters = args.voters;
  const int64_t bytes = voters.dim * SizeOf(keys.dtype);
  if (voters.count < 1 || voters.count > kMaxVoters || voters.to_a_slice < 1 ||
      voters.count % voters.to_a_slice != 0 || voters.dim < 1 || voters.key_dim() != keys.dim ||
      bytes % kScoreRowAlignment != 0 || keys.score_offset % 16 != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "no scores of keys of ", keys.dim, " numbers, ", keys.score_offset,
        " bytes into a page, by ", voters.count, " voters, ", voters.to_a_slice, " to a slice of ",
        voters.dim, " numbers, ", bytes, " bytes: no multiples of ", kScoreRowAlignment));
  }
  const ShardGeometry& geometry = keys.geometry;
  if (geometry.stripe_tokens < 1 || geometry.rank < 0 || geometry.rank >= geometry.num_ranks ||
      keys.proximity < 0 || keys.proximity > keys.halo || keys.initial_tokens < 0 ||
      keys.local_tokens < 0 ||
      args.product_stride < MaxKeys(keys.max_tokens, geometry, keys.halo)) {
    return absl::InvalidArgumentError(
        absl::StrCat("no votes with stripes of ", geometry.stripe_tokens, ", rank ", geometry.rank,
                     " of ", geometry.num_ranks, ", proximity ", keys.proximity, ", a halo of ",
                     keys.halo, ", ", keys.initial_tokens, " initial and ", keys.local_tokens,
                     " local of ", keys.max_tokens, " tokens, and room for ", args.product_stride));
  }
  return absl::OkStatus();
}

// Thread blocks for rows that each are `parts` times `entries`, at most.
dim3 GridOf(int rows, int64_t parts, int64_t entries) {
  const int64_t most = int64_t{scoring::Multiprocessors()} * kBlocksPerMultiprocessor;
  const int64_t wanted = std::max<int64_t>(1, most / (rows * parts));
  return dim3(std::min<unsigned>(BlocksOf(std::max<int64_t>(entries, 1), kThreads),
                                 static_cast<unsigned>(wanted)),
              static_cast<unsigned>(parts), std::min<unsigned>(rows, kMaxGridRows));
}

}  // namespace

absl::Status DecodeVoteProducts(const DecodeVoteArgs& args, Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(CheckArgs(args));
  if (args.keys.rows == 0) return absl::OkStatus();
  const dim3 grid =
      GridOf(args.keys.rows, args.voters.count / args.voters.to_a_slice, args.product_stride);
  return WithCacheType(args.keys.dtype, [&]<typename T>() {
    ProductsKernel<T><<<grid, kThreads, 0, stream>>>(args);
    return CheckLaunch("DecodeVoteProducts");
  });
}

absl::Status DecodeVoteMaxima(const DecodeVoteArgs& args, const VoteNorms& norms, Stream stream) {
  if (args.keys.rows == 0) return absl::OkStatus();
  MaximaKernel<<<GridOf(args.keys.rows, args.voters.count, args.product_stride), kThreads, 0,
                 stream>>>(args, norms);
  return CheckLaunch("DecodeVoteMaxima");
}

absl::Status DecodeVoteSums(const DecodeVoteArgs& args, const VoteNorms& norms, Stream stream) {
  if (args.keys.rows == 0) return absl::OkStatus();
  SumsKernel<<<GridOf(args.keys.rows, args.voters.count, args.product_stride), kThreads, 0,
               stream>>>(args, norms);
  return CheckLaunch("DecodeVoteSums");
}

absl::Status DecodeVoteScores(const DecodeVoteArgs& args, const VoteNorms& norms,
                              const DecodeVotesOut& out, Stream stream) {
  if (args.keys.rows == 0 || out.count <= 0) return absl::OkStatus();
  ScoresKernel<<<GridOf(args.keys.rows, 1, args.product_stride), kThreads, 0, stream>>>(args,
                                                                                        norms);
  LONGSPAN_RETURN_IF_ERROR(CheckLaunch("DecodeVoteScores"));
  SpreadKernel<<<GridOf(args.keys.rows, 1, out.count), kThreads, 0, stream>>>(args, out);
  return CheckLaunch("DecodeVoteScores");
}

}  // namespace longspan::cuda
