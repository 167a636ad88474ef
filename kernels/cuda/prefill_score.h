#ifndef LONGSPAN_KERNELS_CUDA_PREFILL_SCORE_H_
#define LONGSPAN_KERNELS_CUDA_PREFILL_SCORE_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/base/dtype.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/shard_view.h"
#include "sharding/sequence_layout.h"

// Scores of the selection blocks of a prefill chunk against this rank's score keys (ESA, arXiv
// 2502.14477, section 3; docs/ALGORITHM.md). With f(m; c) = query c . key m, a block's score of a
// middle position m is F(m) = max over its queries c of f(m; c) - maximum(c). Products are made in
// tiles that never leave the chip.
namespace longspan::cuda {

// One selection block. Lives in device memory.
struct ScoredBlock {
  int64_t first_query = 0;  // row of its first query
  int64_t queries = 0;      // tokens; may be zero
  Range middle;             // positions to select from, a part of PrefillScoreArgs::hull
};

struct PrefillScoreArgs {
  const std::byte* const* pages = nullptr;  // device: this rank's pages of the sequence, ascending
  ShardGeometry geometry;
  DType dtype = DType::kBFloat16;  // of score keys: float32, bfloat16 or fp8_e4m3
  int64_t dim = 0;                 // of a score key; a row of them is a multiple of 16 bytes
  int32_t halo = 0;                // score keys that a page has beside its stripe, either side
  // Bytes from a page's begin to the layer's first score key, a halo's: a multiple of 16.
  int64_t score_offset = 0;

  // Device [rows, dim] of `dtype`, or bfloat16 for fp8_e4m3 keys; compressed or group-summed.
  const void* queries = nullptr;
  const ScoredBlock* blocks = nullptr;  // device [num_blocks]
  int num_blocks = 0;
  int64_t max_queries = 0;  // of any block
  Range hull;               // positions, not empty: holds every block's middle
};

// Pass one. maxima[first_query + c] = the largest f(m; c) over this rank's own positions m of the
// block's middle, -inf where it owns none; a NaN counts as -inf. Other rows stay as they are.
absl::Status PrefillMaxima(const PrefillScoreArgs& args, float* maxima, Stream stream);

// Pass two. `maxima` are those over all ranks. scores[b][i] is block b's score, spread over
// `proximity` (at most halo): the largest F of the middle's positions at most `proximity` away, for
// the own position of local index OwnedBefore(hull.begin) + i. Behind the middle it is NaN, so that
// in the order of the selection those positions come after all of the middle.
struct PrefillScoresOut {
  float* scores = nullptr;  // device [num_blocks, row_stride]
  int64_t row_stride = 0;   // at least the own positions of the hull
  int32_t proximity = 0;
  float* workspace = nullptr;  // device, PrefillScoresWorkspaceBytes
};
int64_t PrefillScoresWorkspaceBytes(const ShardGeometry& geometry, int32_t halo, int num_blocks,
                                    int64_t hull_tokens);
absl::Status PrefillScores(const PrefillScoreArgs& args, const float* maxima,
                           const PrefillScoresOut& out, Stream stream);

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_PREFILL_SCORE_H_
