#ifndef LONGSPAN_KERNELS_CUDA_SHARD_VIEW_H_
#define LONGSPAN_KERNELS_CUDA_SHARD_VIEW_H_

#include <cstddef>
#include <cstdint>
#include <limits>

#ifdef __CUDACC__
#define LONGSPAN_HOST_DEVICE __host__ __device__
#else
#define LONGSPAN_HOST_DEVICE
#endif

// A rank's cache as kernels see it: pages of one stripe each (sharding/sequence_layout.h).
namespace longspan::cuda {

// Rows of score keys are multiples of so many bytes, as they are read so many at a time.
inline constexpr int64_t kScoreRowAlignment = 16;
// Of a sequence on one rank, with halos: they count in 31 bits, beyond the end of the last by some.
inline constexpr int64_t kMaxScoreKeys = std::numeric_limits<int32_t>::max() - 8192;

// One sequence of a decode step. Lives in device memory, so that a step's graph can be replayed.
struct DecodeRow {
  const std::byte* const* pages = nullptr;  // device memory: this rank's pages, ascending
  int64_t position = 0;                     // of the newest token, whose key is stored already
  // Where score keys that are not the keys lie in memory of their own; null: in `pages`.
  const std::byte* const* score_pages = nullptr;
};

// Local index: a rank's own positions count 0, 1, 2, ... through its pages. A range of positions is
// a range of local indices.
struct ShardGeometry {
  int32_t stripe_tokens = 1;
  int32_t num_ranks = 1;
  int32_t rank = 0;

  // Number of own positions below `position`: the local index of the first that is not.
  LONGSPAN_HOST_DEVICE int64_t OwnedBefore(int64_t position) const {
    const int64_t round = int64_t{stripe_tokens} * num_ranks;
    const int64_t rest = position % round - int64_t{rank} * stripe_tokens;
    const int64_t partial = rest < 0 ? 0 : rest < stripe_tokens ? rest : stripe_tokens;
    return position / round * stripe_tokens + partial;
  }
  LONGSPAN_HOST_DEVICE int64_t Position(int64_t local) const {
    const int64_t page = local / stripe_tokens;
    return (page * num_ranks + rank) * stripe_tokens + local % stripe_tokens;
  }
  LONGSPAN_HOST_DEVICE int Owner(int64_t position) const {
    return static_cast<int>(position / stripe_tokens % num_ranks);
  }
};

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_SHARD_VIEW_H_
