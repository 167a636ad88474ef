#ifndef LONGSPAN_KERNELS_CUDA_DECODE_GUESS_CUH_
#define LONGSPAN_KERNELS_CUDA_DECODE_GUESS_CUH_

#include <cuda_runtime.h>

#include <bit>
#include <cstdint>
#include <cuda/atomic>
#include <limits>
#include <type_traits>

#include "kernels/cuda/select_entries.cuh"
#include "kernels/cuda/select_problem.cuh"

// Which scores of a decoded row to list, guessed while they are computed: warps post maxima of the
// first half of their (first piece of) scores, and a warp of the first block that is done takes
// from those of all blocks a score that probably somewhat more than top_k entries reach.
namespace longspan::cuda::selection {

// Of so many neighbouring scores one window counts, of those that proximity looks at for an entry.
constexpr int kWindowStride = 16;

// In shared memory.
struct DecodeGuess {
  uint32_t lowest;  // from which bits on entries are listed; kNoGuess: there is none
  uint32_t shift;   // as in DecodeHeader
  uint32_t row;     // its number
};
constexpr uint32_t kNoGuess = std::numeric_limits<uint32_t>::max();
constexpr DecodeGuess kListsAllGuess = {1, 21, 0};  // all but what is no score
constexpr DecodeGuess kNothingGuess = {kNoGuess, 0, 0};

// What is the same for all blocks, in shared memory.
struct SamplePlan {
  bool guesses;              // not if everything is listed, or nothing
  int expected;              // samples
  int tiles;                 // of a warp whose windows are in a sample
  float windows;             // in a sample, of all who post it
  float entries_per_wanted;  // entries that the lists should hold
};

// What a warp of a block of kBlockWarps posts.
template <int kBlockWarps>
struct DecodeSampling {
  int posts;       // that the warp has still to make
  int next;        // sample
  int tiles_left;  // of this one
  float best = -std::numeric_limits<float>::infinity();

  // For warps that have `warp_tiles` tiles of `tile_windows` windows each; writes the plan.
  __device__ DecodeSampling(const Problem& problem, int64_t entries, int warp_tiles,
                            int tile_windows, int proximity, SamplePlan* plan) {
    const int members = problem.teams.size, member = problem.teams.Member();
    const int sampled = max(1, warp_tiles / 2);
    const int most = kDecodeSamples / (kBlockWarps * members);
    const bool shares = most == 0;  // the warps of a block share a sample
    const int warp_posts = min(max(most, 1), sampled);
    posts = shares && member >= kDecodeSamples ? 0 : warp_posts;
    next = shares ? member : (member * kBlockWarps + static_cast<int>(threadIdx.x / 32)) * posts;
    tiles_left = sampled / warp_posts;
    if (threadIdx.x > 0) return;
    // Where proximity looks farther than a window, an entry is as good as several of them.
    const float reach = min(1.0f, __fdividef(kWindowStride, 2.0f * proximity + 1.0f));
    const int tiles = tiles_left * (shares ? kBlockWarps : 1);
    const float wanted = 1.7f * static_cast<float>(problem.top_k) + 128.0f;
    *plan = {entries > problem.top_k && problem.HasDecodeLists(),
             shares ? min(members, kDecodeSamples) : members * kBlockWarps * warp_posts, tiles_left,
             reach * static_cast<float>(tiles * tile_windows),
             __fdividef(static_cast<float>(entries), wanted)};
  }

  // After each tile, while there are posts to make. best_of_tile: of the lane's windows.
  __device__ void Add(float best_of_tile, const SamplePlan& plan, uint32_t* samples) {
    best = fmaxf(best, best_of_tile);
    if (--tiles_left > 0) return;
    const uint32_t bits = __reduce_max_sync(0xffffffffu, BitsOf(best));
    if (threadIdx.x % 32 == 0) atomicMax(samples + next, bits);
    best = -std::numeric_limits<float>::infinity();
    tiles_left = plan.tiles;
    ++next;
    --posts;
  }
};

// Of the samples of a warp the greatest bits that at least `rank` are not below, to as many bits as
// such a guess is worth.
template <int kRounds>
__device__ uint32_t BitsOfRank(const uint32_t (&samples)[kRounds], int rank) {
  constexpr uint32_t kLastBit = 1u << 11;
  uint32_t highest = 0, least = kNoGuess;
#pragma unroll
  for (const uint32_t sample : samples) {
    highest = max(highest, sample);
    if (sample != 0) least = min(least, sample);
  }
  highest = __reduce_max_sync(0xffffffffu, highest);
  least = __reduce_min_sync(0xffffffffu, least);
  // All begin with the same bits.
  const int differing = 32 - __clz(static_cast<int>(highest ^ least));
  uint32_t bits = differing == 32 ? 0 : highest >> differing << differing;
#pragma unroll 1
  for (uint32_t bit = differing > 0 ? 1u << (differing - 1) : 0; bit >= kLastBit; bit >>= 1) {
    int not_below = 0;
#pragma unroll
    for (const uint32_t sample : samples) not_below += sample >= (bits | bit);
    if (static_cast<int>(__reduce_add_sync(0xffffffffu, not_below)) >= rank) bits |= bit;
  }
  return max(bits, 1u);
}

// From which bits on `rank` of the samples are, in bins of which a quarter lies below a quarter of
// these: some may be far higher.
template <int kRounds>
__device__ DecodeGuess GuessFrom(const uint32_t (&samples)[kRounds], int rank) {
  uint32_t bits[2];
#pragma unroll 1
  for (int i = 0; i < 2; ++i) bits[i] = BitsOfRank(samples, i == 0 ? rank : (rank + 3) / 4);
  constexpr int kQuarterBits = std::bit_width(unsigned{kBins}) - 3;
  const int shift = 32 - __clz(static_cast<int>(bits[1] - bits[0])) - kQuarterBits;
  return {bits[0], static_cast<uint32_t>(max(0, shift)), 0};
}

// What the first warp to ask made of the samples, the same for all blocks if enough are there; by
// one warp. Of `present` maxima over `windows` entries each, where `reached` of all entries reach
// some bits, about present * (1 - exp(-windows * reached / entries)) do.
inline __device__ void Guess(const SamplePlan& plan, DecodeState& state, DecodeGuess* guess) {
  constexpr int kRounds = kDecodeSamples / 32;
  constexpr int kTries = 4;  // samples of short rows may still be on their way
  const auto load = [](auto& word) {
    using Word =
        ::cuda::atomic_ref<std::remove_reference_t<decltype(word)>, ::cuda::thread_scope_device>;
    return Word(word).load(::cuda::memory_order_relaxed);
  };
  const int lane = threadIdx.x % 32;
  const int enough = plan.expected - plan.expected / 4;
  uint32_t values[kRounds];
  int present = 0;
  unsigned long long made = 0;
#pragma unroll 1
  for (int attempt = 0; made == 0 && present < enough && attempt < kTries; ++attempt) {
    made = __shfl_sync(0xffffffffu, load(state.guess), 0);
    int own = 0;
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
      const int at = i * 32 + lane;
      values[i] = at < plan.expected ? load(state.samples[at]) : 0;
      own += values[i] != 0;
    }
    present = static_cast<int>(__reduce_add_sync(0xffffffffu, own));
  }
  if (made == 0 && present >= enough) {
    const float share = 1.0f - __expf(-__fdividef(plan.windows, plan.entries_per_wanted));
    const int rank = min(static_cast<int>(static_cast<float>(present) * share) + 1, present);
    const DecodeGuess own = GuessFrom(values, rank);
    made = static_cast<unsigned long long>(own.lowest) << 32 | own.shift;
    if (lane == 0) {
      const unsigned long long other = atomicCAS(&state.guess, 0ull, made);
      if (other != 0) made = other;
    }
  }
  if (lane > 0) return;
  guess->lowest = made == 0 ? kNoGuess : static_cast<uint32_t>(made >> 32);
  guess->shift = static_cast<uint32_t>(made);
}

}  // namespace longspan::cuda::selection

#endif  // LONGSPAN_KERNELS_CUDA_DECODE_GUESS_CUH_
