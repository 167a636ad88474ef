#ifndef LONGSPAN_KERNELS_CUDA_LAUNCH_CUH_
#define LONGSPAN_KERNELS_CUDA_LAUNCH_CUH_

#include <cuda_runtime.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/cuda/device.h"

// Kernels that start while those before them in the stream still run: programmatic dependent
// launch, from sm_90 on. Around kernels that are launched otherwise, nothing changes. The contract:
// - Every thread calls WaitForPredecessors(), whether or not it has work. After that all that is
//   earlier in the stream has ended and is visible, for each kernel waited for the one before it.
// - Before that, no write, and no read but of what does not change while kernels are in the stream:
//   weights, once they are there. Whoever writes those synchronizes before the first launch. Within
//   a decode step rows, page tables and the keys of earlier steps do not change either.
// - After that, no __ldg, nor a __restrict__ pointer to const, for what earlier kernels write: it
//   may have changed since this kernel started.
// - LetSuccessorsStart() says nothing about data, and so comes first. The selection of
//   a decoded token is the exception: behind its wait, so that decode attention may read, before
//   its own, all that there was before the scores. A successor's blocks start when all blocks have
//   called it or have ended, so that they never take the place of one.
namespace longspan::cuda {

__device__ __forceinline__ void WaitForPredecessors() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void LetSuccessorsStart() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Whether the current device runs code that waits, and not, like a later one without machine code
// of its own, code that was compiled for sm_80. The same for all kernels, which are compiled for
// the same architectures; and so one of them is asked, once for each device.
inline bool KernelsWait(const void* kernel) {
  enum Answer : int8_t { kUnknown, kNo, kYes };
  constexpr int kDevices = 64;
  static std::atomic<Answer> answers[kDevices];
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device >= kDevices) return false;
  Answer answer = answers[device].load(std::memory_order_relaxed);
  if (answer == kUnknown) {
    cudaFuncAttributes attributes;
    if (cudaFuncGetAttributes(&attributes, kernel) != cudaSuccess) return false;
    answer = attributes.ptxVersion >= 90 ? kYes : kNo;
    answers[device].store(answer, std::memory_order_relaxed);
  }
  return answer == kYes;
}

// Launches a kernel that keeps to the above; if `together`, all of its blocks are resident at once.
// CheckLaunch has the error. All have the same part of a multiprocessor's memory as shared memory,
// the most there can be: kernels that want other parts are not on it at the same time.
template <typename... Parameters, typename... Arguments>
void LaunchAfterAs(bool together, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                   size_t shared_bytes, Stream stream, Arguments&&... arguments) {
  cudaLaunchAttribute attributes[2] = {};
  int num_attributes = 0;
  if (KernelsWait(reinterpret_cast<const void*>(kernel))) {
    cudaLaunchAttribute& early = attributes[num_attributes++];
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
  }
  if (together) {
    cudaLaunchAttribute& cooperative = attributes[num_attributes++];
    cooperative.id = cudaLaunchAttributeCooperative;
    cooperative.val.cooperative = 1;
  }
  cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                       cudaSharedmemCarveoutMaxShared);
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = num_attributes;
  cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

template <typename... Parameters, typename... Arguments>
void LaunchAfter(void (*kernel)(Parameters...), Arguments&&... arguments) {
  LaunchAfterAs(false, kernel, std::forward<Arguments>(arguments)...);
}

template <typename... Parameters, typename... Arguments>
void LaunchTogetherAfter(void (*kernel)(Parameters...), Arguments&&... arguments) {
  LaunchAfterAs(true, kernel, std::forward<Arguments>(arguments)...);
}

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_LAUNCH_CUH_
