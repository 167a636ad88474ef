#include <cuda_runtime.h>

#include <algorithm>
#include <string>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/cache_store.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/sum_across.cuh"

namespace longspan::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int64_t kMaxGridY = 65535;

// As LoadFloats, of any number that is a power of two: 16 bytes at a time.
template <int kCount>
__device__ void LoadManyFloats(const float* from, float (&out)[kCount]) {
  constexpr int kPart = kCount < 4 ? kCount : 4;
#pragma unroll
  for (int i = 0; i < kCount; i += kPart) {
    float part[kPart];
    LoadFloats(from + i, part);
#pragma unroll
    for (int j = 0; j < kPart; ++j) out[i + j] = part[j];
  }
}

// ---- Storing ----

// One kind of rows on its way into the pages.
struct StoredKind {
  const float* from;  // [rows, dim]
  int64_t dim;
  int64_t offset;  // bytes from a page's begin to its stripe's first row
  int32_t halo;    // rows beside the stripe
};
constexpr int kMaxKinds = 3;
constexpr int kScoreKind = 2;  // score keys that are not the keys
struct StoredKinds {
  StoredKind kinds[kMaxKinds] = {};
  int count = 0;
  int64_t max_dim = 0;

  void Add(const StoredKind& kind) {
    kinds[count++] = kind;
    max_dim = std::max(max_dim, kind.dim);
  }
};

absl::Status CheckLayer(const CacheLayer& layer) {
  if (layer.geometry.stripe_tokens < 1 || layer.geometry.num_ranks < 1 || layer.geometry.rank < 0 ||
      layer.geometry.rank >= layer.geometry.num_ranks || layer.halo < 0 ||
      layer.halo > layer.geometry.stripe_tokens || layer.kv_dim < 1 || layer.score_dim < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "no cache has stripes of ", layer.geometry.stripe_tokens, ", rank ", layer.geometry.rank,
        " of ", layer.geometry.num_ranks, ", a halo of ", layer.halo, ", ", layer.kv_dim,
        " numbers of a key and ", layer.score_dim, " of a score key"));
  }
  return absl::OkStatus();
}

StoredKind ScoreKind(const CacheLayer& layer, const float* from) {
  const int64_t halo_bytes = layer.halo * layer.score_dim * SizeOf(layer.score_dtype);
  return {from, layer.score_dim, layer.score_offset + halo_bytes, layer.halo};
}

// What is to be stored where. Exact scores read the keys, which then have the halo.
absl::StatusOr<StoredKinds> KindsOf(const CacheLayer& layer, const float* keys, const float* values,
                                    const float* score_keys) {
  LONGSPAN_RETURN_IF_ERROR(CheckLayer(layer));
  const StoredKind scores = ScoreKind(layer, score_keys);
  const bool scores_keys = layer.score_dim > 0 && score_keys == nullptr;
  if (scores_keys && (layer.score_dim != layer.kv_dim || layer.score_dtype != layer.dtype ||
                      scores.offset != layer.key_offset)) {
    return absl::InvalidArgumentError("no score keys to store, though they are not the keys");
  }
  StoredKinds kinds;
  kinds.Add({keys, layer.kv_dim, layer.key_offset, scores_keys ? layer.halo : 0});
  kinds.Add({values, layer.kv_dim, layer.value_offset, 0});
  if (layer.score_dim > 0 && score_keys != nullptr) kinds.Add(scores);
  return kinds;
}

// Numbers that a thread stores at a time.
template <typename T, bool kVectors>
constexpr int kStored = kVectors ? 16 / static_cast<int>(sizeof(T)) : 1;

template <typename T, typename ScoreT>
bool AreVectors(const StoredKinds& kinds) {
  for (int k = 0; k < kinds.count; ++k) {
    const StoredKind& kind = kinds.kinds[k];
    const int vector = k == kScoreKind ? kStored<ScoreT, true> : kStored<T, true>;
    if (kind.dim % vector != 0 || kind.offset % 16 != 0 || !IsAligned(kind.from, 16)) return false;
  }
  return true;
}

absl::Status UnsupportedScores(const CacheLayer& layer) {
  return absl::UnimplementedError(
      absl::StrCat("score keys of ", std::string(DTypeName(layer.score_dtype)), " beside keys of ",
                   std::string(DTypeName(layer.dtype))));
}

// f<T, ScoreT, whether threads store 16 bytes at a time>(), the types of keys and score keys.
template <typename F>
absl::Status WithVectors(const CacheLayer& layer, const StoredKinds& kinds, F&& f) {
  const auto with_types = [&]<typename T, typename ScoreT>() {
    if (AreVectors<T, ScoreT>(kinds)) {
      f.template operator()<T, ScoreT, true>();
    } else {
      f.template operator()<T, ScoreT, false>();
    }
    return absl::OkStatus();
  };
  return WithCacheType(layer.dtype, [&]<typename T>() -> absl::Status {
    if (kinds.count <= kScoreKind || layer.score_dtype == layer.dtype) {
      return with_types.template operator()<T, T>();
    }
    if (layer.score_dtype == DType::kFloat8E4M3) {
      return with_types.template operator()<T, __nv_fp8_e4m3>();
    }
    return UnsupportedScores(layer);
  });
}

// Where number `i` of rows is that begin with the stripe's.
template <typename T>
__device__ T* NumberAt(std::byte* page, const StoredKind& kind, int64_t i) {
  return reinterpret_cast<T*>(page + kind.offset) + i;
}

// A run's rows follow one another in its page as they do in the source.
template <typename T, int kVector>
__device__ __forceinline__ void StoreRunsOf(const StoreRunsArgs& args, const StoredKind& kind) {
  const ShardGeometry& geometry = args.layer.geometry;
  const int64_t stripe = geometry.stripe_tokens;
  // A stripe's neighbours are on the same rank only if there is no other.
  const int64_t halo = geometry.num_ranks == 1 ? kind.halo : 0;
  std::byte* const* const pages =
      blockIdx.z == kScoreKind && args.score_pages != nullptr ? args.score_pages : args.pages;
  for (int r = blockIdx.y; r < args.num_runs; r += gridDim.y) {
    const StoredRun run = args.runs[r];
    const int64_t page = run.first_position / stripe / geometry.num_ranks;
    const int64_t first = run.first_position % stripe;
    const float* const from = kind.from + run.first_row * kind.dim;
    std::byte* const own = pages[page];
    for (int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kVector;
         i < run.count * kind.dim; i += int64_t{gridDim.x} * kThreads * kVector) {
      float numbers[kVector];
      LoadManyFloats(from + i, numbers);
      const int64_t at = first * kind.dim + i;
      StoreFloats(numbers, NumberAt<T>(own, kind, at));
      if (halo == 0) continue;
      const int64_t shift = stripe * kind.dim;  // to the same row of the next page
      if (at < halo * kind.dim && page > 0) {
        StoreFloats(numbers, NumberAt<T>(pages[page - 1], kind, at + shift));
      }
      if (at >= (stripe - halo) * kind.dim && page + 1 < args.num_pages) {
        StoreFloats(numbers, NumberAt<T>(pages[page + 1], kind, at - shift));
      }
    }
  }
}

// Block (x, run, kind).
template <typename T, typename ScoreT, bool kVectors>
__global__ void __launch_bounds__(kThreads)
    StoreRunsKernel(const StoreRunsArgs args, const __grid_constant__ StoredKinds kinds) {
  const StoredKind kind = kinds.kinds[blockIdx.z];
  if constexpr (!std::is_same_v<T, ScoreT>) {
    if (blockIdx.z == kScoreKind) return StoreRunsOf<ScoreT, kStored<ScoreT, kVectors>>(args, kind);
  }
  StoreRunsOf<T, kStored<T, kVectors>>(args, kind);
}

// put(page, row from its stripe's first) for every page of this rank that has a row of this kind
// for the newest token of sequence `index`.
template <typename F>
__device__ __forceinline__ void ForPlacesOf(const StoreTokensArgs& args, const StoredKind& kind,
                                            bool is_score, int64_t index, F&& put) {
  const ShardGeometry& geometry = args.layer.geometry;
  const DecodeRow row = args.rows[index];
  if (row.position < 0) return;
  const int64_t stripe = geometry.stripe_tokens;
  const int64_t own = row.position / stripe;
  // The halo is at most a stripe, so only the neighbouring stripes can be near.
  for (int64_t s = max(int64_t{0}, own - 1); s <= own + 1; ++s) {
    if (s % geometry.num_ranks != geometry.rank) continue;
    const int64_t to = row.position - s * stripe;  // row of the page, from its stripe's first
    if (to < -kind.halo || to >= stripe + kind.halo) continue;
    const int64_t page = s / geometry.num_ranks;
    if (page >= args.pages_of[index]) {
      if (s == own) __trap();
      continue;
    }
    // The table is the cache's: kernels that only read it see it as constant.
    const bool apart = is_score && row.score_pages != nullptr;
    put(const_cast<std::byte*>(apart ? row.score_pages[page] : row.pages[page]), to);
  }
}

template <typename T, int kVector>
__device__ __forceinline__ void StoreToken(const StoreTokensArgs& args, const StoredKind& kind,
                                           bool is_score, int64_t index) {
  const float* const from = kind.from + index * kind.dim;
  ForPlacesOf(args, kind, is_score, index, [&](std::byte* page, int64_t row) {
    for (int64_t i = threadIdx.x * kVector; i < kind.dim; i += kThreads * kVector) {
      float numbers[kVector];
      LoadManyFloats(from + i, numbers);
      StoreFloats(numbers, NumberAt<T>(page, kind, row * kind.dim + i));
    }
  });
}

// Block (row, kind).
template <typename T, typename ScoreT, bool kVectors>
__global__ void __launch_bounds__(kThreads)
    StoreTokensKernel(const StoreTokensArgs args, const __grid_constant__ StoredKinds kinds) {
  LetSuccessorsStart();
  WaitForPredecessors();
  const StoredKind kind = kinds.kinds[blockIdx.y];
  const bool is_score = blockIdx.y == kScoreKind;
  if constexpr (!std::is_same_v<T, ScoreT>) {
    if (is_score) {
      return StoreToken<ScoreT, kStored<ScoreT, kVectors>>(args, kind, true, blockIdx.x);
    }
  }
  StoreToken<T, kStored<T, kVectors>>(args, kind, is_score, blockIdx.x);
}

// ---- Moving rows as they are ----

// Block (x, run). Unit: what a thread copies at a time.
template <typename Unit>
__global__ void __launch_bounds__(kThreads)
    CopyScoreRowsKernel(const CopyScoreRowsArgs args, const int64_t row_units) {
  for (int r = blockIdx.y; r < args.num_runs; r += gridDim.y) {
    const ScoreRun run = args.runs[r];
    Unit* const rows = reinterpret_cast<Unit*>(args.pages[run.page] + args.layer.score_offset) +
                       run.first_row * row_units;
    Unit* const message = reinterpret_cast<Unit*>(args.message) + run.message_row * row_units;
    const Unit* const from = args.to_pages ? message : rows;
    Unit* const to = args.to_pages ? rows : message;
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < run.count * row_units;
         i += int64_t{gridDim.x} * kThreads) {
      to[i] = from[i];
    }
  }
}

// A block has a row at a time.
template <typename Unit>
__global__ void __launch_bounds__(kThreads)
    GatherRowsKernel(const GatherRowsArgs args, const int64_t row_units) {
  const int64_t count = args.count != nullptr ? min(*args.count, args.max_count) : args.max_count;
  const auto stripe = static_cast<uint32_t>(args.layer.geometry.stripe_tokens);
  for (int64_t row = blockIdx.x; row < count; row += gridDim.x) {
    const uint32_t local = args.local_indices[row];
    const std::byte* const page = args.pages[local / stripe];
    const int64_t first = local % stripe * row_units;
    const Unit* const key = reinterpret_cast<const Unit*>(page + args.layer.key_offset) + first;
    const Unit* const value = reinterpret_cast<const Unit*>(page + args.layer.value_offset) + first;
    Unit* const to = reinterpret_cast<Unit*>(args.message) + row * 2 * row_units;
    for (int64_t i = threadIdx.x; i < 2 * row_units; i += kThreads) {
      to[i] = i < row_units ? key[i] : value[i - row_units];
    }
  }
}

// ---- Queries and keys for the score ----

// A thread has kVector numbers of a row's sums.
template <typename Out, int kVector>
__global__ void __launch_bounds__(kThreads) SumGroupsKernel(const SumGroupsArgs args) {
  const int64_t dim = args.shape.head_dim, kv_dim = args.shape.kv_heads * dim;
  const int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kVector;
  if (i >= args.rows * kv_dim) return;
  const int64_t group = args.shape.heads / args.shape.kv_heads;
  const int64_t d = i % dim;
  const float* const queries = args.queries + i / dim * group * dim + d;
  float sums[kVector] = {};
#pragma unroll 4
  for (int64_t h = 0; h < group; ++h) {
    float query[kVector];
    LoadFloats(queries + h * dim, query);
#pragma unroll
    for (int v = 0; v < kVector; ++v) sums[v] += query[v];
  }
  StoreFloats(sums, static_cast<Out*>(args.sums) + i);
}

// A thread has kVector numbers; the last one has those that are left, one by one.
template <typename T, typename Out, int kVector>
__global__ void __launch_bounds__(kThreads)
    ConvertKernel(const T* from, Out* to, const int64_t count) {
  LetSuccessorsStart();
  WaitForPredecessors();
  const int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kVector;
  if (i + kVector <= count) {
    float numbers[kVector];
    LoadFloats(from + i, numbers);
    StoreFloats(numbers, to + i);
  } else {
    for (int64_t j = i; j < count; ++j) to[j] = FromFloat<Out>(ToFloat(from[j]));
  }
}

template <typename T, typename Out>
void LaunchConvert(const void* from, void* to, int64_t count, Stream stream) {
  constexpr int kVector = 16 / std::max(sizeof(T), sizeof(Out));
  const T* const source = static_cast<const T*>(from);
  Out* const target = static_cast<Out*>(to);
  if (IsAligned(from, kVector * sizeof(T)) && IsAligned(to, kVector * sizeof(Out))) {
    LaunchAfter(ConvertKernel<T, Out, kVector>, BlocksOf(count, kThreads * kVector), dim3(kThreads),
                0, stream, source, target, count);
  } else {
    LaunchAfter(ConvertKernel<T, Out, 1>, BlocksOf(count, kThreads), dim3(kThreads), 0, stream,
                source, target, count);
  }
}

// ---- Compression ----

constexpr int kCompressWarps = kThreads / kWarp;
constexpr int kColumns = 1024;  // that a block has of its rows at a time: 4 a thread
constexpr int kMaxCompressRows = 8;
static_assert(kColumns == 4 * kThreads);

// Four numbers from column `column` on of what a factor multiplies: a key, or a query's group sums.
template <bool kIsQuery>
__device__ float4 FourColumns(const CompressTokensArgs& args, int64_t row, int64_t column) {
  if constexpr (!kIsQuery) {
    return *(reinterpret_cast<const float4*>(
        args.keys + row * args.shape.kv_heads * args.shape.head_dim + column));
  } else {
    const auto dim = static_cast<uint32_t>(args.shape.head_dim);
    const auto group = static_cast<uint32_t>(args.shape.heads / args.shape.kv_heads);
    const uint32_t kv_head = static_cast<uint32_t>(column) / dim;
    const uint32_t d = static_cast<uint32_t>(column) % dim;
    const float* const queries =
        args.queries + row * args.shape.heads * dim + kv_head * group * dim + d;
    float4 sum = {0, 0, 0, 0};
#pragma unroll 4
    for (uint32_t h = 0; h < group; ++h) {
      const float4 query = *reinterpret_cast<const float4*>(queries + h * dim);
      sum.x += query.x;
      sum.y += query.y;
      sum.z += query.z;
      sum.w += query.w;
    }
    return sum;
  }
}

// What a block multiplies with its rows of a factor: of each of their vectors of 16 bytes the first
// four columns, then of each the next four, so that lanes read neighbours.
template <typename T, int kRows>
struct SharedColumns {
  static constexpr int kVector = 16 / sizeof(T);
  static constexpr int kQuads = kVector / 4;
  static constexpr int kVectors = kColumns / kVector;

  float4 numbers[kRows][kQuads][kVectors];
};

// Where keys, values and compressed keys go.
struct CompressedStore {
  StoreTokensArgs args;
  StoredKind kinds[2];  // keys and values
  StoredKind scores;
  bool vectors = false;  // threads store keys and values 16 bytes at a time
};

// One number of a compressed key.
__device__ __forceinline__ void StoreScoreNumber(const CompressedStore& store, int64_t index,
                                                 int64_t i, float value) {
  const StoredKind& kind = store.scores;
  const float number[1] = {value};
  ForPlacesOf(store.args, kind, true, index, [&](std::byte* page, int64_t row) {
    const int64_t at = row * kind.dim + i;
    switch (store.args.layer.score_dtype) {
      case DType::kFloat32:
        return StoreFloats(number, NumberAt<float>(page, kind, at));
      case DType::kBFloat16:
        return StoreFloats(number, NumberAt<__nv_bfloat16>(page, kind, at));
      case DType::kFloat8E4M3:
        return StoreFloats(number, NumberAt<__nv_fp8_e4m3>(page, kind, at));
      case DType::kFloat16:
        return;  // refused by the launch
    }
  });
}

template <typename T>
__device__ __forceinline__ void StoreRowOf(const CompressedStore& store, const StoredKind& kind,
                                           int64_t index) {
  if (store.vectors) {
    StoreToken<T, kStored<T, true>>(store.args, kind, false, index);
  } else {
    StoreToken<T, 1>(store.args, kind, false, index);
  }
}

// A block's share of the keys or values of `count` rows.
__device__ __forceinline__ void StoreRowsOf(const CompressedStore& store, const StoredKind& kind,
                                            int64_t first, int64_t count) {
  for (int64_t index = first + blockIdx.x; index < first + count; index += gridDim.x) {
    switch (store.args.layer.dtype) {
      case DType::kFloat32:
        StoreRowOf<float>(store, kind, index);
        break;
      case DType::kBFloat16:
        StoreRowOf<__nv_bfloat16>(store, kind, index);
        break;
      case DType::kFloat8E4M3:
        StoreRowOf<__nv_fp8_e4m3>(store, kind, index);
        break;
      case DType::kFloat16:
        break;  // refused by the launch
    }
  }
}

// A warp has a row of the factor, and multiplies kRows rows with it.
template <bool kIsQuery, typename T, int kRows>
__device__ void Compress(const CompressTokensArgs& args, const CompressedStore& store,
                         SharedColumns<T, kRows>& columns) {
  constexpr int kVector = SharedColumns<T, kRows>::kVector;
  constexpr int kQuads = SharedColumns<T, kRows>::kQuads;
  constexpr int kLaneVectors = SharedColumns<T, kRows>::kVectors / kWarp;
  const int lane = threadIdx.x % kWarp;
  const int64_t kv_dim = args.shape.kv_heads * args.shape.head_dim;
  const int64_t first_row = int64_t{blockIdx.z} * kRows;
  const int rows = static_cast<int>(min(int64_t{kRows}, args.rows - first_row));
  const int64_t output = int64_t{blockIdx.x} * kCompressWarps + threadIdx.x / kWarp;
  const T* const factor = static_cast<const T*>(kIsQuery ? args.query_factor : args.key_factor) +
                          min(output, args.dim - 1) * kv_dim;
  float sums[kRows] = {};
  for (int64_t begin = 0; begin < kv_dim; begin += kColumns) {
    const int count = static_cast<int>(min(int64_t{kColumns}, kv_dim - begin));
    uint4 raw[kLaneVectors];
#pragma unroll
    for (int v = 0; v < kLaneVectors; ++v) {
      const int i = (v * kWarp + lane) * kVector;
      raw[v] =
          i < count ? __ldg(reinterpret_cast<const uint4*>(factor + begin + i)) : uint4{0, 0, 0, 0};
    }
    WaitForPredecessors();  // factors are on their way meanwhile
    if (begin > 0) __syncthreads();
    if (const int i = threadIdx.x * 4; i < count) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r < rows) {
          columns.numbers[r][i % kVector / 4][i / kVector] =
              FourColumns<kIsQuery>(args, first_row + r, begin + i);
        }
      }
    }
    __syncthreads();
#pragma unroll
    for (int v = 0; v < kLaneVectors; ++v) {
      const int i = v * kWarp + lane;
      if (i * kVector >= count) break;
      float numbers[kVector];
      LoadFloats(reinterpret_cast<const T*>(&raw[v]), numbers);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r >= rows) break;
#pragma unroll
        for (int q = 0; q < kQuads; ++q) {
          const float4 x = columns.numbers[r][q][i];
          sums[r] = fmaf(numbers[4 * q], x.x, sums[r]);
          sums[r] = fmaf(numbers[4 * q + 1], x.y, sums[r]);
          sums[r] = fmaf(numbers[4 * q + 2], x.z, sums[r]);
          sums[r] = fmaf(numbers[4 * q + 3], x.w, sums[r]);
        }
      }
    }
  }
  SumAcross<kRows, kWarp>(sums);
  const int row = lane * kRows / kWarp;
  if (lane % (kWarp / kRows) != 0 || row >= rows || output >= args.dim) return;
  if constexpr (kIsQuery) {
    args.compressed_queries[(first_row + row) * args.dim + output] = sums[0];
  } else {
    StoreScoreNumber(store, first_row + row, output, sums[0]);
  }
}

// Block (outputs, matrix, rows); beyond the two matrices (row, keys or values, rows).
template <typename T, int kRows>
__global__ void __launch_bounds__(kThreads)
    CompressAndStoreTokensKernel(const CompressTokensArgs args,
                                 const __grid_constant__ CompressedStore store) {
  __shared__ SharedColumns<T, kRows> columns;
  LetSuccessorsStart();
  if (blockIdx.y == 0) {
    Compress<true>(args, store, columns);
  } else if (blockIdx.y == 1) {
    Compress<false>(args, store, columns);
  } else {
    WaitForPredecessors();
    const int64_t first = int64_t{blockIdx.z} * kRows;
    StoreRowsOf(store, store.kinds[blockIdx.y - 2], first, min(int64_t{kRows}, args.rows - first));
  }
}

absl::Status CheckCompress(const CompressTokensArgs& args) {
  const int64_t bytes = args.shape.kv_dim() * SizeOf(args.dtype);
  if (bytes == 0 || bytes % 16 != 0 || args.shape.head_dim % 4 != 0 ||
      !IsAligned(args.queries, 16) || !IsAligned(args.keys, 16) ||
      !IsAligned(args.query_factor, 16) || !IsAligned(args.key_factor, 16)) {
    return absl::InvalidArgumentError(absl::StrCat("cannot compress ", args.shape.kv_heads,
                                                   " heads of ", args.shape.head_dim,
                                                   " numbers: no multiples of 16 bytes"));
  }
  if (args.dtype != DType::kFloat32 && args.dtype != DType::kBFloat16) {
    return absl::UnimplementedError(absl::StrCat("factors of ", std::string(DTypeName(args.dtype)),
                                                 ": they are float32 or bfloat16"));
  }
  return absl::OkStatus();
}

absl::Status LaunchCompress(const CompressTokensArgs& args, const CompressedStore& store,
                            Stream stream) {
  const auto launch = [&]<typename T, int kRows>() {
    const dim3 grid(BlocksOf(args.dim, kCompressWarps), 4, BlocksOf(args.rows, kRows));
    LaunchAfter(CompressAndStoreTokensKernel<T, kRows>, grid, dim3(kThreads), 0, stream, args,
                store);
  };
  const auto launch_rows = [&]<typename T>() {
    if (args.rows == 1) {
      launch.template operator()<T, 1>();
    } else if (args.rows == 2) {
      launch.template operator()<T, 2>();
    } else if (args.rows <= 4) {
      launch.template operator()<T, 4>();
    } else {
      launch.template operator()<T, kMaxCompressRows>();
    }
  };
  if (args.dtype == DType::kFloat32) {
    launch_rows.template operator()<float>();
  } else {
    launch_rows.template operator()<__nv_bfloat16>();
  }
  return CheckLaunch("CompressAndStoreTokens");
}

absl::StatusOr<CompressedStore> CompressedStoreOf(const StoreTokensArgs& args) {
  const CacheLayer& layer = args.layer;
  LONGSPAN_RETURN_IF_ERROR(CheckLayer(layer));
  if (layer.score_dtype != layer.dtype && layer.score_dtype != DType::kFloat8E4M3) {
    return UnsupportedScores(layer);
  }
  StoredKinds rows;
  rows.Add({args.keys, layer.kv_dim, layer.key_offset, 0});
  rows.Add({args.values, layer.kv_dim, layer.value_offset, 0});
  CompressedStore store;
  store.args = args;
  store.kinds[0] = rows.kinds[0];
  store.kinds[1] = rows.kinds[1];
  store.scores = ScoreKind(layer, nullptr);
  LONGSPAN_RETURN_IF_ERROR(WithCacheType(layer.dtype, [&]<typename T>() {
    store.vectors = AreVectors<T, T>(rows);
    return absl::OkStatus();
  }));
  return store;
}

}  // namespace

absl::Status StoreRuns(const StoreRunsArgs& args, Stream stream) {
  if (args.num_runs == 0 || args.max_count == 0) return absl::OkStatus();
  LONGSPAN_ASSIGN_OR_RETURN(const StoredKinds kinds,
                            KindsOf(args.layer, args.keys, args.values, args.score_keys));
  const auto launch = [&]<typename T, typename ScoreT, bool kVectors>() {
    const dim3 grid(BlocksOf(args.max_count * kinds.max_dim, kThreads * kStored<T, kVectors>),
                    static_cast<unsigned>(std::min<int64_t>(args.num_runs, kMaxGridY)),
                    kinds.count);
    StoreRunsKernel<T, ScoreT, kVectors><<<grid, kThreads, 0, stream>>>(args, kinds);
  };
  LONGSPAN_RETURN_IF_ERROR(WithVectors(args.layer, kinds, launch));
  return CheckLaunch("StoreRuns");
}

absl::Status StoreTokens(const StoreTokensArgs& args, Stream stream) {
  if (args.num_rows == 0) return absl::OkStatus();
  LONGSPAN_ASSIGN_OR_RETURN(const StoredKinds kinds,
                            KindsOf(args.layer, args.keys, args.values, args.score_keys));
  const auto launch = [&]<typename T, typename ScoreT, bool kVectors>() {
    const dim3 grid(args.num_rows, kinds.count);
    LaunchAfter(StoreTokensKernel<T, ScoreT, kVectors>, grid, dim3(kThreads), 0, stream, args,
                kinds);
  };
  LONGSPAN_RETURN_IF_ERROR(WithVectors(args.layer, kinds, launch));
  return CheckLaunch("StoreTokens");
}

absl::Status CopyScoreRows(const CopyScoreRowsArgs& args, Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(CheckLayer(args.layer));
  const int64_t bytes = args.layer.score_dim * SizeOf(args.layer.score_dtype);
  if (args.num_runs == 0 || args.max_count == 0 || bytes == 0) return absl::OkStatus();
  const auto launch = [&]<typename Unit>() {
    const int64_t row_units = bytes / static_cast<int64_t>(sizeof(Unit));
    const dim3 grid(BlocksOf(args.max_count * row_units, kThreads),
                    static_cast<unsigned>(std::min<int64_t>(args.num_runs, kMaxGridY)));
    CopyScoreRowsKernel<Unit><<<grid, kThreads, 0, stream>>>(args, row_units);
  };
  if (bytes % 16 == 0 && args.layer.score_offset % 16 == 0 && IsAligned(args.message, 16)) {
    launch.template operator()<uint4>();
  } else if (args.layer.score_dtype == DType::kFloat8E4M3) {
    launch.template operator()<uint8_t>();
  } else {
    launch.template operator()<uint16_t>();
  }
  return CheckLaunch("CopyScoreRows");
}

absl::Status GatherRows(const GatherRowsArgs& args, Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(CheckLayer(args.layer));
  if (args.max_count == 0) return absl::OkStatus();
  const int64_t bytes = args.layer.kv_dim * SizeOf(args.layer.dtype);
  const auto launch = [&]<typename Unit>() {
    const auto blocks = static_cast<unsigned>(std::min<int64_t>(args.max_count, kMaxGridY));
    GatherRowsKernel<Unit>
        <<<blocks, kThreads, 0, stream>>>(args, bytes / static_cast<int64_t>(sizeof(Unit)));
  };
  if (bytes % 16 == 0 && args.layer.key_offset % 16 == 0 && args.layer.value_offset % 16 == 0 &&
      IsAligned(args.message, 16)) {
    launch.template operator()<uint4>();
  } else if (args.layer.dtype == DType::kFloat8E4M3) {
    launch.template operator()<uint8_t>();
  } else {
    launch.template operator()<uint16_t>();
  }
  return CheckLaunch("GatherRows");
}

absl::Status SumGroups(const SumGroupsArgs& args, Stream stream) {
  const int64_t count = args.rows * args.shape.kv_dim();
  if (count == 0) return absl::OkStatus();
  return WithType(args.dtype, [&]<typename Out>() {
    constexpr int kVector = 4;
    if (args.shape.head_dim % kVector == 0 && IsAligned(args.queries, kVector * sizeof(float)) &&
        IsAligned(args.sums, kVector * sizeof(Out))) {
      SumGroupsKernel<Out, kVector>
          <<<BlocksOf(count, kThreads * kVector), kThreads, 0, stream>>>(args);
    } else {
      SumGroupsKernel<Out, 1><<<BlocksOf(count, kThreads), kThreads, 0, stream>>>(args);
    }
    return CheckLaunch("SumGroups");
  });
}

absl::Status Convert(const void* from, DType from_dtype, void* to, DType to_dtype, int64_t count,
                     Stream stream) {
  if (count == 0) return absl::OkStatus();
  if (from_dtype == to_dtype) return Copy(to, from, count * SizeOf(to_dtype), stream);
  return WithType(from_dtype, [&]<typename T>() {
    return WithType(to_dtype, [&]<typename Out>() {
      LaunchConvert<T, Out>(from, to, count, stream);
      return CheckLaunch("Convert");
    });
  });
}

absl::Status CompressAndStoreTokens(const CompressTokensArgs& compress,
                                    const StoreTokensArgs& store, Stream stream) {
  if (compress.rows != store.num_rows || compress.dim != store.layer.score_dim ||
      compress.dim < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot store ", store.num_rows, " score keys of ", store.layer.score_dim,
                     " numbers from ", compress.rows, " compressed to ", compress.dim));
  }
  if (compress.rows == 0) return absl::OkStatus();
  LONGSPAN_RETURN_IF_ERROR(CheckCompress(compress));
  LONGSPAN_ASSIGN_OR_RETURN(const CompressedStore stored, CompressedStoreOf(store));
  return LaunchCompress(compress, stored, stream);
}

}  // namespace longspan::cuda
