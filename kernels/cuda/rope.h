#ifndef LONGSPAN_KERNELS_CUDA_ROPE_H_
#define LONGSPAN_KERNELS_CUDA_ROPE_H_

#include <vector_types.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/base/dtype.h"
#include "kernels/cuda/device.h"

// Rotary position embedding as in kernels/rope.h: dimension i is paired with i + half.
namespace longspan::cuda {

// Positions that share an entry of RopeTable::coarse.
inline constexpr int64_t kRopeFine = 1024;

// Cosines and sines (x, y) on the device. The angle of a position is that of its multiple of
// kRopeFine plus that of the rest, so two small tables give any position with a float's precision,
// whereas its own cosines and sines would take as much memory as keys. rope.cuh reads it.
struct RopeTable {
  const float2* fine = nullptr;    // [kRopeFine, half] of positions 0, 1, ...
  const float2* coarse = nullptr;  // [coarse_count, half] of positions 0, kRopeFine, ...
  int32_t half = 0;                // head_dim / 2
  int64_t coarse_count = 0;

  // The table has positions [0, max_positions()).
  int64_t max_positions() const { return coarse_count * kRopeFine; }
};

// InvalidArgument: the table does not have the position that `kernel` needs.
absl::Status CheckPosition(const RopeTable& table, int64_t position, const char* kernel);

// Owns a table. Angles are products in double precision.
class RopeAngles {
 public:
  // 4M positions: 2 MiB with a half of 64.
  static constexpr int64_t kCoarseCount = 4096;

  // inverse_frequencies: [half], radians per token, of the host. The table has positions
  // [0, coarse_count * kRopeFine). ResourceExhausted: no room on the GPU.
  static absl::StatusOr<RopeAngles> Create(absl::Span<const double> inverse_frequencies,
                                           int64_t coarse_count = kCoarseCount);
  // Bytes that Create allocates.
  static int64_t Bytes(int64_t half, int64_t coarse_count) {
    return (kRopeFine + coarse_count) * half * static_cast<int64_t>(sizeof(float2));
  }

  RopeTable table() const;
  int64_t max_positions() const { return table().max_positions(); }

 private:
  Buffer buffer_;  // fine, then coarse
  int32_t half_ = 0;
  int64_t coarse_count_ = 0;
};

// out = x rotated, row by row; out may be x if the dtypes are the same.
struct RotateRowsArgs {
  RopeTable table;
  const void* x = nullptr;  // [rows, heads, 2 * half], of `dtype`
  DType dtype = DType::kFloat32;
  int64_t rows = 0;
  int64_t heads = 0;
  // Positions, all of the table: [rows] on the device, or where there are none first_position,
  // first_position + position_step, ...
  const int64_t* positions = nullptr;
  int64_t first_position = 0;
  int64_t position_step = 1;  // 0: all rows are at the same
  void* out = nullptr;        // [rows, heads, 2 * half], of `out_dtype`
  DType out_dtype = DType::kFloat32;
};
// InvalidArgument: positions from first_position on that the table does not have. Those on the
// device are not looked at.
absl::Status RotateRows(const RotateRowsArgs& args, Stream stream);

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_ROPE_H_
