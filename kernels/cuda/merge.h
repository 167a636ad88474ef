#ifndef LONGSPAN_KERNELS_CUDA_MERGE_H_
#define LONGSPAN_KERNELS_CUDA_MERGE_H_

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/base/dtype.h"
#include "kernels/cuda/device.h"
#include "sharding/topk_merge.h"

// What ranks have gathered from each other becomes one result, the same on all of them.
namespace longspan::cuda {

inline constexpr int kMaxMergedRanks = 1024;
// The largest top_k: all candidates of a row together count in 32 bits.
constexpr int64_t MaxMergedTopK(int num_ranks) {
  return std::min(int64_t{1} << 30, int64_t{0xffffffff} / num_ranks);
}

// The top_k of all ranks' candidates, as sharding/topk_merge.h's MergeTopK: selected [rows, top_k]
// ascending by position, of which the first counts[row] are valid (fewer than top_k only where
// there are no more).
struct MergeCandidatesArgs {
  const Candidate* candidates = nullptr;  // device [num_ranks, rows, top_k]; zero: none
  int num_ranks = 1;
  int64_t rows = 0;
  int64_t top_k = 0;
  Candidate* selected = nullptr;  // device [rows, top_k]
  int32_t* counts = nullptr;      // device [rows]
  void* workspace = nullptr;      // device, MergeCandidatesWorkspaceBytes
};
int64_t MergeCandidatesWorkspaceBytes(int num_ranks, int64_t rows, int64_t top_k);
absl::Status MergeCandidates(const MergeCandidatesArgs& args, Stream stream);

// Partials of attention over parts of the keys become attention over all, in the order of parts:
// out = sum of exp(lse_p - lse) output_p, lse = log of the sum of exp(lse_p). Where all are -inf
// the output is 0.
struct MergePartialsArgs {
  const float* outputs = nullptr;  // device [parts, rows, heads, head_dim], parts part_stride apart
  const float* lse = nullptr;      // device [parts, rows, heads], parts part_stride apart
  int64_t part_stride = 0;         // in floats, of both
  int parts = 1;
  int64_t rows = 0;
  int64_t heads = 0;
  int64_t head_dim = 0;
  void* output = nullptr;  // device [rows, heads, head_dim] of `output_dtype`
  DType output_dtype = DType::kFloat32;
  float* output_lse = nullptr;  // device [rows, heads], or null
};
absl::Status MergePartials(const MergePartialsArgs& args, Stream stream);

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_MERGE_H_
