#ifndef LONGSPAN_KERNELS_CUDA_DECODE_ATTENTION_MMA_CUH_
#define LONGSPAN_KERNELS_CUDA_DECODE_ATTENTION_MMA_CUH_

#include <cuda_runtime.h>

#include <bit>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/decode_attention_merge.cuh"
#include "kernels/cuda/decode_attention_share.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/rope.cuh"

// Decode attention on tensor cores, of bfloat16 or fp8_e4m3 keys and values. A team is one warp,
// and a step 16 tokens: scores^T [16, 8] = keys [16, head_dim] x queries^T, then output^T
// [head_dim, 8] += values^T [head_dim, 16] x weights^T. Columns 0-3 are four heads' numbers as
// tensor cores cut them, 4-7 the rests, so that sums of the two have almost a float's precision.
//
// A query at position p meets keys at p - d + t as R(d) q . R(t) k. So the queries are turned once
// to the distance d of a part's first token, and keys by their t, as long as that is below
// kRopeFine; where all distances are the same, keys stay as they are. Turned keys are rounded to
// the 11 bits of tf32, eight times as fine as the bfloat16 that they come from.
//
// Numbers of 8 bits are loaded as if two of them were one of 16, and become others in registers. A
// lane then has the neighbours of one row; which dimension goes by which place of a fragment is
// free, as long as both operands, or the sums and those who read them, agree.
namespace longspan::cuda::decode {

constexpr int kMmaStepTokens = 16;
constexpr int kMmaHeads = 4;              // of a tile of columns
constexpr int kMmaStagesBytes = 1 << 14;  // of a warp: enough to be under way at once

template <typename P>
__device__ __forceinline__ void AttendMma(const Job& job, std::byte* memory);

template <typename T, int kHeadDim, int kHeadTiles>
struct MmaTiling {
  static constexpr bool kFp8 = kIsFp8<T>;
  static constexpr int kDim = kHeadDim;
  static constexpr int kHalf = kDim / 2;
  static constexpr int kTiles = kHeadTiles;
  static constexpr int kGroup = kMmaHeads * kTiles;
  static constexpr int kTeams = 4;
  static constexpr int kTeamLanes = kWarp;
  static constexpr int kThreads = kTeams * kWarp;
  // So that two leave registers for the 512 threads of a selection.
  static constexpr int kMinBlocks = kTiles == 1 ? 3 : kBlocksPerMultiprocessor;
  static constexpr int kMergeStride = kDim + 8;  // so that StoreWarp's lanes meet no bank twice

  static constexpr int kStepTokens = kMmaStepTokens;
  static constexpr int kRowBytes = kDim * static_cast<int>(sizeof(T));
  // Eight tokens' pieces of one place lie in different banks, as ldmatrix wants it.
  static __device__ int Piece(int token, int piece) {
    return kRowBytes < 128 ? piece ^ (token / 2 & 3) : piece ^ (token & 7);
  }
  static_assert(kRowBytes >= 64);

  // Of the 8 dimensions of a step of scores a lane has PairDim() + StepDim(step) and the next one.
  static constexpr int kLoadedSteps = kFp8 ? 4 : 2;  // at once
  static __device__ int PairDim() { return static_cast<int>(threadIdx.x % 4) * (kFp8 ? 4 : 2); }
  static __device__ constexpr int StepDim(int step) {
    return kFp8 ? step / 2 * 16 + step % 2 * 2 : step * 8;
  }
  // Of 16 dimensions of outputs a lane has these two.
  static __device__ int OutputDim(bool second) {
    const int row = static_cast<int>(threadIdx.x % kWarp / 4);
    return kFp8 ? 2 * row + (second ? 1 : 0) : row + (second ? 8 : 0);
  }

  static constexpr int kHalfStageBytes = kStepTokens * kRowBytes;
  static constexpr int kStageBytes = 2 * kHalfStageBytes;  // keys, then values
  static constexpr int kStages = kMmaStagesBytes / kStageBytes;
  // Tokens under way, of the next step, and those that one more round of listing may add.
  static constexpr int kRing = std::bit_ceil(unsigned{(kStages + 1) * kStepTokens + kWarp});
  static constexpr int kStagesBytes = kTeams * kMmaStagesBytes;
  // Queries turned to far_position, by columns: [kTiles, 8, kFarStride], so that the lanes of half
  // a warp meet no bank twice.
  static constexpr int kFarStride = kDim + 8;
  static constexpr int kFarBytes = kTiles * 8 * kFarStride * static_cast<int>(sizeof(float));
  // A place for copies that only bring what they read to the first-level cache.
  static constexpr int kUnreadBytes = kThreads * static_cast<int>(sizeof(uint32_t));
  static constexpr int kSharedBytes =
      kStagesBytes + kFarBytes + kTeams * kRing * (8 + 4) + kUnreadBytes;

  static_assert(kTeams * kGroup * (kMergeStride + 2) * 4 <= kStagesBytes);
  static_assert(kMaxSplits * kGroup * 4 <= kStagesBytes);

  static __device__ void Attend(const Job& job, std::byte* memory) {
    AttendMma<MmaTiling>(job, memory);
  }
};

// ---- Fragments ---------------------------------------------------------------------------------

// Of a fragment with 8 rows (or columns) a thread has those of Row(), and in each the columns
// (rows) 2 * Pair() and 2 * Pair() + 1.
__device__ __forceinline__ int Row() { return threadIdx.x % kWarp / 4; }
__device__ __forceinline__ int Pair() { return threadIdx.x % 4; }
__device__ __forceinline__ bool HasRests() { return Pair() >= 2; }

// The address in shared memory of a row's piece. Rows are aligned to their size, a power of 2, so
// that of piece + i, with no bit in both, is found by xor with i * 16.
template <typename P>
__device__ __forceinline__ unsigned PieceAddress(const std::byte* rows, int token, int piece) {
  const auto row = static_cast<unsigned>(__cvta_generic_to_shared(rows));
  return row + token * P::kRowBytes + P::Piece(token, piece) * 16;
}

// Four 8x8 matrices; the lanes give the addresses of their 32 rows.
__device__ __forceinline__ void LoadMatrices(unsigned address, uint32_t (&out)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}

__device__ __forceinline__ void LoadTransposed(unsigned address, uint32_t (&out)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}

__device__ __forceinline__ uint32_t Transpose(uint32_t in) {
  uint32_t out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n" : "=r"(out) : "r"(in));
  return out;
}

// sums [16, 8] += a [16, 8] x b [8, 8] in tf32.
__device__ __forceinline__ void MultiplyTf32(const uint32_t (&a)[4], const uint32_t (&b)[2],
                                             float (&sums)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// a [16, 16] x b [16, 8] in bfloat16.
__device__ __forceinline__ void MultiplyBFloat16(const uint32_t (&a)[4], const uint32_t (&b)[2],
                                                 float (&product)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%10,%10,%10,%10};\n"
      : "=f"(product[0]), "=f"(product[1]), "=f"(product[2]), "=f"(product[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(0.0f));
}

__device__ __forceinline__ float Low(uint32_t two) { return __uint_as_float(two << 16); }
__device__ __forceinline__ float High(uint32_t two) { return __uint_as_float(two & 0xffff0000); }

// The lower half first.
__device__ __forceinline__ uint32_t PackBFloat16(float low, float high) {
  uint32_t two;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(high), "f"(low));
  return two;
}

// What tensor cores leave of a number, as they read it.
constexpr uint32_t kTf32Bits = 0xffffe000;

// The nearest, which NaN and infinities stay.
__device__ __forceinline__ uint32_t RoundToTf32(float x) {
  uint32_t rounded;
#if __CUDA_ARCH__ >= 900
  asm("cvt.rn.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(x));
#else
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(x));
#endif
  return rounded;
}

// ---- Rotations ---------------------------------------------------------------------------------

// Of two pairs, dimensions i and i + half.
__device__ __forceinline__ void Turn(float4 by, float (&low)[2], float (&high)[2]) {
  const float a = low[0], b = low[1];
  low[0] = a * by.x - high[0] * by.y;
  high[0] = high[0] * by.x + a * by.y;
  low[1] = b * by.z - high[1] * by.w;
  high[1] = high[1] * by.z + b * by.w;
}

// Brings what most keys are turned by to the first-level cache, sector by sector, as copies that
// nobody reads: loads whose result is not used are left out. By the whole block.
template <typename P>
__device__ __forceinline__ void TouchTurns(const RopeTable& table, uint32_t* unread) {
  constexpr int kSectorTurns = 32 / sizeof(float2);
  constexpr int kTurns = 2 * P::kStepTokens * P::kHalf;
#pragma unroll
  for (int at = 0; at < kTurns; at += P::kThreads * kSectorTurns) {
    CopyAsyncCached(unread + threadIdx.x, table.fine + at + threadIdx.x * kSectorTurns);
  }
}

// Brings the page table to the first-level cache likewise, for candidates, whose pages are looked
// up while all wait: pages before the newest one's. By all warps with candidates.
template <typename P>
__device__ __forceinline__ void TouchPages(const Job& job, const Share& share, uint32_t* unread) {
  constexpr uint32_t kSectorPages = 32 / sizeof(const std::byte*);
  const uint32_t pages = PlaceOf(job, share.position).page;
  for (uint32_t page = threadIdx.x * kSectorPages; page < pages;
       page += P::kThreads * kSectorPages) {
    CopyAsyncCached(unread + threadIdx.x, share.pages + page);
  }
}

// ---- One step ----------------------------------------------------------------------------------

// What a thread keeps from step to step. Row() is its column of the queries, and the columns
// 2 * Pair() + {0, 1} are those of its scores and outputs: heads 2 * (Pair() % 2) + {0, 1}.
template <typename P>
struct MmaState {
  // Turned to `distance`, or to far_position: the lane's two dimensions of each step, and those
  // plus half.
  uint32_t query_low[P::kTiles][P::kHalf / 8][2], query_high[P::kTiles][P::kHalf / 8][2];
  uint32_t distance;
  float output[P::kTiles][P::kDim / 16][4];  // not yet normalised; columns as scores
  float max[P::kTiles][2];
  float sum[P::kTiles][2];  // of the lane's own tokens
};

// Heads past the group repeat its last one: a condition would keep loads from overlapping.
template <typename P>
__device__ __forceinline__ const float* QueryOf(const Job& job, int head) {
  const int group = job.group();
  const int64_t first = blockIdx.z * job.args.shape.heads + int64_t{blockIdx.x} * group;
  return job.args.queries + (first + min(head, group - 1)) * P::kDim;
}

// A query's pairs at `from`, turned.
template <typename P>
__device__ __forceinline__ void LoadTurned(const float* from, float4 by, float (&low)[2],
                                           float (&high)[2]) {
  const float2 a = __ldg(reinterpret_cast<const float2*>(from));
  const float2 b = __ldg(reinterpret_cast<const float2*>(from + P::kHalf));
  low[0] = a.x;
  low[1] = a.y;
  high[0] = b.x;
  high[1] = b.y;
  Turn(by, low, high);
}

// A number less those of its bits that `cut` has.
__device__ __forceinline__ float Rest(float x, uint32_t cut) {
  return x - __uint_as_float(__float_as_uint(x) & cut);
}

// Of the two lanes with a head's numbers and rests each turns half of the steps, and gives the
// other what that lacks.
template <typename P>
__device__ __forceinline__ void TurnQueries(const Job& job, uint32_t distance, MmaState<P>* state) {
  constexpr int kTurned = P::kHalf / 16;  // steps
  const bool rests = Row() >= kMmaHeads;
  const int first = P::PairDim() + (rests ? P::StepDim(kTurned) : 0);
  const RotationRow rotations = RotationsFrom(job.args.rope, distance, first);
  const auto put = [&](float x, uint32_t* lower, uint32_t* upper) {
    const float rest = Rest(x, kTf32Bits);
    const float kept = rests ? rest : x;
    const float given = __shfl_xor_sync(kAllLanes, rests ? x : rest, kWarp / 2);
    *lower = __float_as_uint(rests ? given : kept);
    *upper = __float_as_uint(rests ? kept : given);
  };
#pragma unroll
  for (int step = 0; step < kTurned; ++step) {
    const float4 by = RotationsAt(rotations, P::StepDim(step));
#pragma unroll
    for (int tile = 0; tile < P::kTiles; ++tile) {
      const float* query = QueryOf<P>(job, tile * kMmaHeads + Row() % kMmaHeads) + first;
      float low[2], high[2];
      LoadTurned<P>(query + P::StepDim(step), by, low, high);
      auto(&lows)[P::kHalf / 8][2] = state->query_low[tile];
      auto(&highs)[P::kHalf / 8][2] = state->query_high[tile];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        put(low[e], &lows[step][e], &lows[step + kTurned][e]);
        put(high[e], &highs[step][e], &highs[step + kTurned][e]);
      }
    }
  }
  state->distance = distance;
}

// Turns all queries to far_position, once for all warps. By the whole block, a warp a head.
template <typename P>
__device__ __forceinline__ void TurnFarQueries(const Job& job, float* far) {
  static_assert(P::kTeams == kMmaHeads);
  const int head = threadIdx.x / kWarp;
  const int pair = threadIdx.x % kWarp * 2;
  if (pair >= P::kHalf) return;
  const auto position = static_cast<uint32_t>(job.args.far_position);
  const float4 by = RotationsAt(RotationsFrom(job.args.rope, position, pair), 0);
#pragma unroll
  for (int tile = 0; tile < P::kTiles; ++tile) {
    float low[2], high[2];
    LoadTurned<P>(QueryOf<P>(job, tile * kMmaHeads + head) + pair, by, low, high);
#pragma unroll
    for (const bool rest : {false, true}) {
      const uint32_t cut = rest ? kTf32Bits : 0;
      const int column = head + (rest ? kMmaHeads : 0);
      float* to = far + (tile * 8 + column) * P::kFarStride + pair;
      *reinterpret_cast<float2*>(to) = {Rest(low[0], cut), Rest(low[1], cut)};
      *reinterpret_cast<float2*>(to + P::kHalf) = {Rest(high[0], cut), Rest(high[1], cut)};
    }
  }
}

template <typename P>
__device__ __forceinline__ void LoadFarQueries(const float* far, MmaState<P>* state) {
#pragma unroll
  for (int tile = 0; tile < P::kTiles; ++tile) {
    const float* from = far + (tile * 8 + Row()) * P::kFarStride + P::PairDim();
#pragma unroll
    for (int step = 0; step < P::kHalf / 8; ++step) {
      const auto* low = reinterpret_cast<const uint2*>(from + P::StepDim(step));
      const auto* high = reinterpret_cast<const uint2*>(from + P::StepDim(step) + P::kHalf);
      state->query_low[tile][step][0] = low->x;
      state->query_low[tile][step][1] = low->y;
      state->query_high[tile][step][0] = high->x;
      state->query_high[tile][step][1] = high->y;
    }
  }
}

// What a step's keys are turned by: nothing, as queries are at far_position; less than kRopeFine;
// any distances, as queries are at 0.
enum class Turns { kNone, kFine, kAny };

// Turns the queries for a step, if they are not as it needs them.
template <typename P>
__device__ __forceinline__ Turns TurnForStep(const Job& job, const TokenList<P>& list,
                                             uint32_t first, uint32_t filled, MmaState<P>* state) {
  const uint32_t token = threadIdx.x % P::kStepTokens;
  const uint32_t distance = list.distances[list.Slot(first) + token];
  const bool present = first + token < filled;
  const auto is_fine = [&](uint32_t from) {
    return __all_sync(kAllLanes, !present || from - distance < uint32_t{kRopeFine}) != 0;
  };
  if (first != 0 && is_fine(state->distance)) return Turns::kFine;
  const uint32_t begin = __shfl_sync(kAllLanes, distance, 0);
  const Turns turns = is_fine(begin) ? Turns::kFine : Turns::kAny;
  TurnQueries<P>(job, turns == Turns::kFine ? begin : 0, state);
  return turns;
}

// Adds products of the thread's tokens, keys[Row() + 8 * i][...], and the queries of one step.
template <bool kTurned>
__device__ __forceinline__ void AddProducts(const float (&keys)[2][2], const uint32_t (&query)[2],
                                            float (&sums)[4]) {
  // The order of the 8 dimensions does not matter: the first four of a fragment are the even ones.
  uint32_t a[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float key = keys[i % 2][i / 2];
    a[i] = kTurned ? RoundToTf32(key) : __float_as_uint(key);
  }
  MultiplyTf32(a, query, sums);
}

// The lane's two numbers of step `step` of what was loaded, of token Row() + 8 * i.
template <typename P>
__device__ __forceinline__ void KeyPair(const uint32_t (&loaded)[4], int step, int i,
                                        float (&pair)[2]) {
  if constexpr (P::kFp8) {
    const uint32_t four = loaded[step / 2 * 2 + i];
    const float2 two = Fp8ToFloats(static_cast<uint16_t>(step % 2 == 0 ? four : four >> 16));
    pair[0] = two.x;
    pair[1] = two.y;
  } else {
    pair[0] = Low(loaded[2 * step + i]);
    pair[1] = High(loaded[2 * step + i]);
  }
}

// scores: of tokens Row(), Row() + 8 by columns. turn_at(i, step) are the RotationsAt that key
// Row() + 8 * i is turned by, if kTurned.
template <typename P, bool kTurned, typename TurnAt>
__device__ __forceinline__ void ScoreKeys(const std::byte* keys, TurnAt&& turn_at,
                                          const MmaState<P>& state, float (&scores)[P::kTiles][4]) {
  const int lane = threadIdx.x % kWarp;
  const unsigned address = PieceAddress<P>(keys, lane % 16, lane / 16);
  float sums[2][P::kTiles][4] = {};
#pragma unroll
  for (int step = 0; step < P::kHalf / 8; step += P::kLoadedSteps) {
    constexpr int kPieceSteps = P::kLoadedSteps / 2;
    uint32_t lows[4], highs[4];
    LoadMatrices(address ^ (step / kPieceSteps * 16), lows);
    LoadMatrices(address ^ ((step + P::kHalf / 8) / kPieceSteps * 16), highs);
#pragma unroll
    for (int s = 0; s < P::kLoadedSteps; ++s) {
      float low[2][2], high[2][2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        KeyPair<P>(lows, s, i, low[i]);
        KeyPair<P>(highs, s, i, high[i]);
        if constexpr (kTurned) Turn(turn_at(i, step + s), low[i], high[i]);
      }
#pragma unroll
      for (int tile = 0; tile < P::kTiles; ++tile) {
        AddProducts<kTurned>(low, state.query_low[tile][step + s], sums[0][tile]);
        AddProducts<kTurned>(high, state.query_high[tile][step + s], sums[1][tile]);
      }
    }
  }
#pragma unroll
  for (int tile = 0; tile < P::kTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[tile][i] = sums[0][tile][i] + sums[1][tile][i];
  }
}

template <typename P>
__device__ __forceinline__ void Score(const Job& job, const TokenList<P>& list, Turns turns,
                                      uint32_t first, const std::byte* keys,
                                      const MmaState<P>& state, float (&scores)[P::kTiles][4]) {
  const uint32_t* distances = list.distances + list.Slot(first) + Row();
  const RopeTable& rope = job.args.rope;
  if (turns == Turns::kNone) {
    ScoreKeys<P, false>(
        keys, [](int, int) { return float4{}; }, state, scores);
  } else if (turns == Turns::kFine) {
    const float2* rows[2];
    for (int i = 0; i < 2; ++i) {
      // Past the end of the list distances are none.
      const uint32_t by = min(state.distance - distances[8 * i], uint32_t{kRopeFine - 1});
      rows[i] = rope.fine + (by * P::kHalf + P::PairDim());
    }
    ScoreKeys<P, true>(
        keys,
        [&](int i, int s) {
          return __ldg(reinterpret_cast<const float4*>(rows[i] + P::StepDim(s)));
        },
        state, scores);
  } else {
    const RotationRow rows[2] = {RotationsFrom(rope, distances[0], P::PairDim()),
                                 RotationsFrom(rope, distances[8], P::PairDim())};
    ScoreKeys<P, true>(
        keys,
        [&](int i, int s) {
          const float4 by = RotationsAt(rows[i], P::StepDim(s));
          return float4{by.x, -by.y, by.z, -by.w};
        },
        state, scores);
  }
}

// Turns scores into weights relative to the new maximum. scale: of what came before.
template <typename P>
__device__ __forceinline__ void UpdateSoftmax(float score_scale, uint32_t first, uint32_t filled,
                                              MmaState<P>* state, float (&scores)[P::kTiles][4],
                                              float (&scale)[P::kTiles][2]) {
#pragma unroll
  for (int tile = 0; tile < P::kTiles; ++tile) {
    float(&own)[4] = scores[tile];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      own[i] += __shfl_xor_sync(kAllLanes, own[i], 2);  // of the queries' other columns
      own[i] *= score_scale;
      if (first + Row() + i / 2 * 8 >= filled) own[i] = -kInfinity;
    }
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float max = fmaxf(state->max[tile][e], fmaxf(own[e], own[2 + e]));
#pragma unroll
      for (int offset = 4; offset < kWarp; offset *= 2) {
        max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, offset));
      }
      scale[tile][e] = Exp2(state->max[tile][e] - Shift(max));
      state->max[tile][e] = max;
      own[e] = Exp2(own[e] - Shift(max));
      own[2 + e] = Exp2(own[2 + e] - Shift(max));
      state->sum[tile][e] = state->sum[tile][e] * scale[tile][e] + (own[e] + own[2 + e]);
    }
  }
}

// The lane's columns of two weights: them, or what bfloat16 leaves of them.
__device__ __forceinline__ uint32_t PackWeights(float first, float second) {
  const uint32_t cut = PackBFloat16(first, second);
  return HasRests() ? PackBFloat16(first - Low(cut), second - High(cut)) : cut;
}

// The fragment of values of the m-th 16 dimensions, of which every second load, of 8-bit numbers,
// has two.
template <typename P>
__device__ __forceinline__ void LoadValues(unsigned address, int m, uint32_t (&loaded)[4],
                                           uint32_t (&a)[4]) {
  if constexpr (P::kFp8) {
    if (m % 2 == 0) LoadTransposed(address ^ (m / 2 * 32), loaded);
#pragma unroll
    for (int tokens = 0; tokens < 2; ++tokens) {
      // Of two tokens the numbers of one dimension, then those of the next.
      const uint32_t four = __byte_perm(loaded[2 * tokens + m % 2], 0, 0x3120);
      a[2 * tokens] = Fp8ToBFloat16(static_cast<uint16_t>(four));
      a[2 * tokens + 1] = Fp8ToBFloat16(static_cast<uint16_t>(four >> 16));
    }
  } else {
    LoadTransposed(address ^ (m * 32), a);
  }
}

// Products are added by the CUDA cores, since tensor cores truncate their sums.
template <typename P>
__device__ __forceinline__ void AddValues(const std::byte* values,
                                          const float (&weights)[P::kTiles][4],
                                          const float (&scale)[P::kTiles][2], MmaState<P>* state) {
  const int lane = threadIdx.x % kWarp;
  const unsigned address = PieceAddress<P>(values, lane % 8 + lane / 16 * 8, lane / 8 % 2);
  uint32_t b[P::kTiles][2];
#pragma unroll
  for (int tile = 0; tile < P::kTiles; ++tile) {
    b[tile][0] = Transpose(PackWeights(weights[tile][0], weights[tile][1]));
    b[tile][1] = Transpose(PackWeights(weights[tile][2], weights[tile][3]));
  }
  uint32_t loaded[4];
#pragma unroll
  for (int m = 0; m < P::kDim / 16; ++m) {
    uint32_t a[4];
    LoadValues<P>(address, m, loaded, a);
#pragma unroll
    for (int tile = 0; tile < P::kTiles; ++tile) {
      float product[4];
      MultiplyBFloat16(a, b[tile], product);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float& output = state->output[tile][m][i];
        output = output * scale[tile][i % 2] + product[i];
      }
    }
  }
}

// ---- The core ----------------------------------------------------------------------------------

template <typename P>
__device__ __forceinline__ void Clear(MmaState<P>* state) {
#pragma unroll
  for (int tile = 0; tile < P::kTiles; ++tile) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      state->max[tile][e] = -kInfinity;
      state->sum[tile][e] = 0;
    }
#pragma unroll
    for (int m = 0; m < P::kDim / 16; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) state->output[tile][m][i] = 0;
    }
  }
}

// Writes what a warp found to the block's memory.
template <typename P>
__device__ __forceinline__ void StoreWarp(int team, MmaState<P>* state,
                                          const MergeMemory<P>& memory) {
#pragma unroll
  for (int tile = 0; tile < P::kTiles; ++tile) {
    const int at = team * P::kGroup + tile * kMmaHeads + Pair() % 2 * 2;  // of the first head
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float sum = state->sum[tile][e];
#pragma unroll
      for (int offset = 4; offset < kWarp; offset *= 2) {
        sum += __shfl_xor_sync(kAllLanes, sum, offset);
      }
      if (Row() == 0 && !HasRests()) memory.statistics[at + e] = {state->max[tile][e], sum};
    }
    float* output = memory.outputs + at * P::kMergeStride + P::OutputDim(HasRests());
#pragma unroll
    for (int m = 0; m < P::kDim / 16; ++m) {
      const float(&own)[4] = state->output[tile][m];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        // Of the two lanes with a head's sums and rests each adds up one of two dimensions.
        const float given = HasRests() ? own[e] : own[2 + e];
        const float kept = HasRests() ? own[2 + e] : own[e];
        output[e * P::kMergeStride + m * 16] = kept + __shfl_xor_sync(kAllLanes, given, 2);
      }
    }
  }
}

// A warp attends to tokens of a part, of which the first are listed and on their way.
template <typename P>
__device__ __forceinline__ void AttendToPart(const Job& job, Part part, bool apart,
                                             const TokenList<P>& list, std::byte* stages,
                                             uint32_t next, uint32_t filled, Share* share,
                                             MmaState<P>* state) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll 1
  for (uint32_t first = 0; first < filled; first += P::kStepTokens) {
    const Turns turns = apart ? Turns::kNone : TurnForStep<P>(job, list, first, filled, state);
    AwaitCopies<P::kStages - 1>();
    __syncwarp();
    std::byte* stage = stages + first / P::kStepTokens % P::kStages * P::kStageBytes;
    float scores[P::kTiles][4], scale[P::kTiles][2];
    Score<P>(job, list, turns, first, stage, *state, scores);
    UpdateSoftmax<P>(job.scale, first, filled, state, scores, scale);
    AddValues<P>(stage + P::kHalfStageBytes, scores, scale, state);
    const uint32_t ahead = first + P::kStages * P::kStepTokens;
    ListTokens<P>(job, blockIdx.z, lane, part, ahead + P::kStepTokens, list, share, &next, &filled);
    __syncwarp();
    CopyStep<P>(job.args, list, ahead, filled, lane, stage);
  }
}

// A warp attends to its share of the row's keys, and waits for the selection when all that is known
// before is done. Keys' copies are under way while the block turns the far queries.
template <typename P>
__device__ __forceinline__ void AttendToShare(const Job& job, const TokenList<P>& list,
                                              Share* share, std::byte* stages, float* far,
                                              uint32_t* unread, MmaState<P>* state) {
  const int lane = threadIdx.x % kWarp;
  const int team = threadIdx.x / kWarp;
  const bool far_is_apart = job.args.far_is_apart && !job.args.dense;
  // Units of one more step than others are of different blocks.
  const uint32_t unit = team * gridDim.y + blockIdx.y;
  if (lane == 0) *share = ShareOf<P::kStepTokens>(job, blockIdx.z, unit);
  __syncwarp();
  Clear<P>(state);
#pragma unroll 1
  for (int p = 0; p < kParts; ++p) {
    const auto part = static_cast<Part>(p);
    const bool apart = part != Part::kNear && far_is_apart;
    uint32_t next = share->of(part).begin, filled = 0;
    if (apart && next < share->of(part).end) LoadFarQueries<P>(far, state);
    if (part == Part::kSelected) {
      if (next < share->of(part).end) TouchPages<P>(job, *share, unread);
      WaitForPredecessors();
    }
    ListTokens<P>(job, blockIdx.z, lane, part, P::kStages * P::kStepTokens, list, share, &next,
                  &filled);
    __syncwarp();
#pragma unroll 1
    for (int s = 0; s < P::kStages; ++s) {
      CopyStep<P>(job.args, list, s * P::kStepTokens, filled, lane, stages + s * P::kStageBytes);
    }
    if (part == Part::kNear && far_is_apart) {
      TurnFarQueries<P>(job, far);
      __syncthreads();
    }
    AttendToPart<P>(job, part, apart, list, stages, next, filled, share, state);
  }
}

// Leaves what the block's warps found in its MergeMemory.
template <typename P>
__device__ __forceinline__ void AttendMma(const Job& job, std::byte* memory) {
  __shared__ Share shares[P::kTeams];
  __shared__ uint32_t filled[P::kTeams];
  const int team = threadIdx.x / kWarp;
  auto* far = reinterpret_cast<float*>(memory + P::kStagesBytes);
  auto* keys = reinterpret_cast<const std::byte**>(memory + P::kStagesBytes + P::kFarBytes);
  auto* distances = reinterpret_cast<uint32_t*>(keys + P::kTeams * P::kRing);
  const TokenList<P> list = {keys + team * P::kRing, distances + team * P::kRing, filled + team};
  uint32_t* unread = distances + P::kTeams * P::kRing;
  TouchTurns<P>(job.args.rope, unread);
  MmaState<P> state;
  AttendToShare<P>(job, list, shares + team, memory + team * kMmaStagesBytes, far, unread, &state);
  AwaitCopies<0>();  // those that nobody reads
  __syncthreads();   // no warp needs its stages any more
  StoreWarp<P>(team, &state, MergeMemory<P>(memory));
  __syncthreads();
}

}  // namespace longspan::cuda::decode

#endif  // LONGSPAN_KERNELS_CUDA_DECODE_ATTENTION_MMA_CUH_
