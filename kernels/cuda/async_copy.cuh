#ifndef LONGSPAN_KERNELS_CUDA_ASYNC_COPY_CUH_
#define LONGSPAN_KERNELS_CUDA_ASYNC_COPY_CUH_

#include <cuda_runtime.h>

// A thread's copies to shared memory that it does not wait for: groups of them, in order.
namespace longspan::cuda {

// 16 bytes, or zeros without a look at `from`; `to` is an address in shared memory.
__device__ __forceinline__ void CopyAsync(unsigned to, const void* from, bool present) {
  const int bytes = present ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void CopyAsync(void* to, const void* from, bool present) {
  CopyAsync(static_cast<unsigned>(__cvta_generic_to_shared(to)), from, present);
}

// 4 bytes, by way of the first-level cache, where what is around them stays.
__device__ __forceinline__ void CopyAsyncCached(void* to, const void* from) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\n" ::"r"(address), "l"(from) : "memory");
}

// Ends a group, which may be empty.
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}

// All of the thread's groups but the last kPending have arrived, and reads stay behind this.
template <int kPending>
__device__ __forceinline__ void AwaitCopies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_ASYNC_COPY_CUH_
