#ifndef LONGSPAN_KERNELS_CUDA_DIVISOR_CUH_
#define LONGSPAN_KERNELS_CUDA_DIVISOR_CUH_

#include <cuda_runtime.h>

#include <cstdint>
#include <limits>

namespace longspan::cuda {

// Divides as `/` does, for any 32-bit numbers, in a fraction of the time.
struct Divisor {
  uint32_t value = 1;
  uint64_t reciprocal = 0;  // times 2^64, rounded up; unused for 1

  Divisor() = default;
  explicit Divisor(uint32_t divisor)
      : value(divisor), reciprocal(std::numeric_limits<uint64_t>::max() / divisor + 1) {}
};

__device__ __forceinline__ uint32_t operator/(uint32_t number, const Divisor& by) {
  return by.value == 1 ? number : static_cast<uint32_t>(__umul64hi(by.reciprocal, number));
}

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_DIVISOR_CUH_
