#include <cuda_runtime.h>

#include "kernels/cuda/key_list.h"
#include "kernels/cuda/numbers.cuh"

namespace longspan::cuda {
namespace {

constexpr int kThreads = 256;
constexpr unsigned kListBlocks = 32;  // of each selection block

// A block of threads has a selection block. What is dropped stands last, as positions ascend.
__global__ void __launch_bounds__(kThreads) LocateKernel(LocateCandidatesArgs args) {
  const int64_t end = args.blocks[blockIdx.x].middle.end;
  const int64_t first = args.geometry.OwnedBefore(args.hull_begin);
  Candidate* candidates = args.candidates + blockIdx.x * args.top_k;
  const int32_t count = args.counts[blockIdx.x];
  __syncthreads();  // all have read the count
  int kept = 0;
  for (int64_t i0 = 0; i0 < args.top_k; i0 += kThreads) {
    const int64_t i = i0 + threadIdx.x;
    bool keep = false;
    if (i < args.top_k) {
      const int64_t position =
          i < count ? args.geometry.Position(first + PositionOf(candidates[i])) : end;
      keep = position < end;
      candidates[i] =
          keep ? candidates[i] >> 32 << 32 | (0xffffffffu - static_cast<uint32_t>(position)) : 0;
    }
    kept += __syncthreads_count(keep);
  }
  if (threadIdx.x == 0) args.counts[blockIdx.x] = kept;
}

__global__ void __launch_bounds__(kThreads) ListKeysKernel(ListKeysArgs args) {
  const AttentionBlock block = args.blocks[blockIdx.y];
  const KeyRanges ranges = args.ranges[blockIdx.y];
  const int64_t initial = ranges.initial.end - ranges.initial.begin;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
       i < block.far_keys + block.near_keys; i += int64_t{kListBlocks} * kThreads) {
    int64_t position;
    if (i >= block.far_keys) {
      position = ranges.near.begin + i - block.far_keys;
    } else if (i < initial) {
      position = ranges.initial.begin + i;
    } else {
      position = PositionOf(args.selected[ranges.selection * args.selected_stride + i - initial]);
    }
    args.key_rows[block.first_key + i] =
        args.row_of == nullptr ? static_cast<uint32_t>(position) : args.row_of[position];
    args.key_positions[block.first_key + i] = static_cast<uint32_t>(position);
  }
}

}  // namespace

absl::Status LocateCandidates(const LocateCandidatesArgs& args, Stream stream) {
  if (args.num_blocks == 0 || args.top_k == 0) return absl::OkStatus();
  LocateKernel<<<args.num_blocks, kThreads, 0, stream>>>(args);
  return CheckLaunch("LocateCandidates");
}

absl::Status ListKeys(const ListKeysArgs& args, Stream stream) {
  if (args.num_blocks == 0) return absl::OkStatus();
  if (args.num_blocks > kMaxAttentionBlocks) {
    return absl::InvalidArgumentError("ListKeys: too many blocks in a launch");
  }
  const dim3 grid(kListBlocks, args.num_blocks);
  ListKeysKernel<<<grid, kThreads, 0, stream>>>(args);
  return CheckLaunch("ListKeys");
}

}  // namespace longspan::cuda
