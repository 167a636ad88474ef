#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/rope.cuh"
#include "kernels/cuda/rope.h"

namespace longspan::cuda {
namespace {

constexpr int kThreads = 256;

// A block has a row. A thread turns kVector neighbouring pairs at a time; it has read what it
// overwrites, and nobody else reads it, so that out may be x.
template <typename T, typename Out, int kVector>
__global__ void __launch_bounds__(kThreads) RotateRowsKernel(RotateRowsArgs args) {
  const int64_t row = blockIdx.x;
  const int64_t position = args.positions != nullptr
                               ? args.positions[row]
                               : args.first_position + row * args.position_step;
  const int half = args.table.half;
  const int row_pairs = static_cast<int>(args.heads) * half;
  const T* x = static_cast<const T*>(args.x) + row * 2 * row_pairs;
  Out* out = static_cast<Out*>(args.out) + row * 2 * row_pairs;
  for (int pair = threadIdx.x * kVector; pair < row_pairs; pair += kThreads * kVector) {
    const int head = pair / half;
    const int i = pair - head * half;
    const int at = head * 2 * half + i;
    float first[kVector], second[kVector];
    LoadFloats(x + at, first);
    LoadFloats(x + at + half, second);
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      const float2 rotation = Rotation(args.table, position, i + v);
      const float a = first[v];
      const float b = second[v];
      first[v] = a * rotation.x - b * rotation.y;
      second[v] = b * rotation.x + a * rotation.y;
    }
    StoreFloats(first, out + at);
    StoreFloats(second, out + at + half);
  }
}

template <typename T, typename Out>
void LaunchRotateRows(const RotateRowsArgs& args, Stream stream) {
  constexpr int kVector = 16 / std::max(sizeof(T), sizeof(Out));
  const auto blocks = static_cast<unsigned>(args.rows);
  if (args.table.half % kVector == 0 && IsAligned(args.x, kVector * sizeof(T)) &&
      IsAligned(args.out, kVector * sizeof(Out))) {
    RotateRowsKernel<T, Out, kVector><<<blocks, kThreads, 0, stream>>>(args);
  } else {
    RotateRowsKernel<T, Out, 1><<<blocks, kThreads, 0, stream>>>(args);
  }
}

// Appends cosines and sines of positions 0, step, 2 * step, ...
void AppendAngles(absl::Span<const double> inverse_frequencies, int64_t count, int64_t step,
                  std::vector<float2>* angles) {
  for (int64_t p = 0; p < count; ++p) {
    for (const double inverse_frequency : inverse_frequencies) {
      const double angle = static_cast<double>(p * step) * inverse_frequency;
      angles->push_back({static_cast<float>(std::cos(angle)), static_cast<float>(std::sin(angle))});
    }
  }
}

}  // namespace

absl::StatusOr<RopeAngles> RopeAngles::Create(absl::Span<const double> inverse_frequencies,
                                              int64_t coarse_count) {
  std::vector<float2> angles;
  AppendAngles(inverse_frequencies, kRopeFine, 1, &angles);
  AppendAngles(inverse_frequencies, coarse_count, kRopeFine, &angles);
  RopeAngles rope;
  rope.half_ = static_cast<int32_t>(inverse_frequencies.size());
  rope.coarse_count_ = coarse_count;
  const int64_t bytes = Bytes(rope.half_, coarse_count);
  LONGSPAN_ASSIGN_OR_RETURN(rope.buffer_, Buffer::Allocate(bytes));
  LONGSPAN_RETURN_IF_ERROR(Copy(rope.buffer_.data(), angles.data(), bytes, nullptr));
  // Before the vector goes, and for any stream.
  LONGSPAN_RETURN_IF_ERROR(Synchronize(nullptr));
  return rope;
}

RopeTable RopeAngles::table() const {
  const float2* fine = buffer_.as<float2>();
  return {fine, fine + kRopeFine * half_, half_, coarse_count_};
}

absl::Status CheckPosition(const RopeTable& table, int64_t position, const char* kernel) {
  if (position >= 0 && position < table.max_positions()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(kernel, ": position ", position,
                                                 " is not in a RoPE table of ",
                                                 table.max_positions(), " positions"));
}

absl::Status RotateRows(const RotateRowsArgs& args, Stream stream) {
  if (args.rows == 0 || args.heads == 0 || args.table.half == 0) return absl::OkStatus();
  if (args.positions == nullptr) {
    LONGSPAN_RETURN_IF_ERROR(CheckPosition(args.table, args.first_position, "RotateRows"));
    LONGSPAN_RETURN_IF_ERROR(CheckPosition(
        args.table, args.first_position + (args.rows - 1) * args.position_step, "RotateRows"));
  }
  return WithType(args.dtype, [&]<typename T>() {
    return WithType(args.out_dtype, [&]<typename Out>() {
      LaunchRotateRows<T, Out>(args, stream);
      return CheckLaunch("RotateRows");
    });
  });
}

}  // namespace longspan::cuda
