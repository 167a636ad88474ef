#ifndef LONGSPAN_KERNELS_CUDA_SELECT_H_
#define LONGSPAN_KERNELS_CUDA_SELECT_H_

#include <cstdint>
#include <limits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/dtype.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/shard_view.h"
#include "sharding/topk_merge.h"

// Exact top-k in the total order of sharding/topk_merge.h, of scores or of a decoded token's score
// keys: one cooperative launch for all rows (select_given.cuh, select_decoded.cuh), for keys behind
// one that scores them (decode_score.cuh). Every block of it must be resident at once, so nothing
// else may hold the multiprocessors for good.
namespace longspan::cuda {

inline constexpr int64_t kMaxSelected = std::numeric_limits<int32_t>::max();  // the largest top_k

// Bytes that DecodeSelect needs in the shared memory of a block, and that a selection has there on
// a device with so much (DeviceInfo).
int64_t DecodeSelectSharedBytes(int64_t dim, int64_t proximity);
int64_t SelectSharedBytes(int64_t shared_memory_per_block);

// What a selection leaves behind for one row: candidates [top_k] ascending by position, of which
// the first counts[row] are valid; the others are zero, which is no candidate.
struct Selected {
  Candidate* candidates = nullptr;  // device [rows, top_k]
  int32_t* counts = nullptr;        // device [rows]
};

// Device memory that one launch at a time may use; zeroed at first, and selections leave behind
// what later ones understand. After an error of a selection it is of no more use.
class SelectWorkspace {
 public:
  // For up to `rows` rows of `max_keys` keys each. `max_blocks`: multiprocessors that this rank may
  // take, if it shares the GPU; 0: all.
  static absl::StatusOr<SelectWorkspace> Create(int rows, int64_t max_keys, int max_blocks = 0);
  // Bytes that Create allocates.
  static int64_t Bytes(int rows, int64_t max_keys, int max_blocks);

  std::byte* data() const { return buffer_.data(); }
  int rows() const { return rows_; }
  int64_t max_keys() const { return max_keys_; }
  int blocks() const { return blocks_; }
  int64_t shared_bytes() const { return shared_bytes_; }  // that a block may take of its own

 private:
  Buffer buffer_;
  int rows_ = 0;
  int64_t max_keys_ = 0;
  int blocks_ = 0;
  int64_t shared_bytes_ = 0;
};

// Top-k of rows of scores; positions count from 0 within a row.
struct TopKArgs {
  const float* scores = nullptr;  // device [rows, row_stride]
  int64_t row_stride = 0;
  int64_t count = 0;  // scores of each row
  int rows = 0;
  int64_t top_k = 0;
  Selected selected;
};
absl::Status TopK(const TopKArgs& args, const SelectWorkspace& workspace, Stream stream);

// One decoded token of each of several sequences: scores this rank's middle keys (ESA, arXiv
// 2502.14477, section 3), spreads them over `proximity` and takes the top-k.
struct DecodeSelectArgs {
  const DecodeRow* sequences = nullptr;  // device [rows]
  int64_t max_tokens = 0;  // that this rank may have of any of them, in replays of a graph too
  int rows = 0;
  const float* queries = nullptr;  // device [rows, dim] float32, compressed or group-summed
  int64_t dim = 0;                 // of a score key; a row of them is a multiple of 16 bytes
  DType dtype = DType::kBFloat16;  // of the score keys, float32, bfloat16 or fp8_e4m3
  ShardGeometry geometry;
  int32_t halo = 0;  // score keys that a page has beside its stripe, either side
  // Bytes from a page's begin to the layer's first score key, a halo's: a multiple of 16.
  int64_t score_offset = 0;
  int64_t initial_tokens = 0, local_tokens = 0;
  int32_t proximity = 0;  // at most `halo`
  int64_t top_k = 0;
  Selected selected;
};
// Keys of the middle, and what `sequences` says, must be written before the step, not by launches
// that this may follow while they run: they are read before those have ended.
// Keys of one sequence that a workspace for it must allow: those of all of its pages.
int64_t MaxKeys(int64_t max_tokens, const ShardGeometry& geometry, int32_t halo);
// InvalidArgument: sizes that fit no cache, or rows of keys that are no multiples of 16 bytes.
// Unimplemented: a proximity that needs more shared memory than there is.
absl::Status DecodeSelect(const DecodeSelectArgs& args, const SelectWorkspace& workspace,
                          Stream stream);

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_SELECT_H_
