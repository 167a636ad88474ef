#ifndef LONGSPAN_KERNELS_CUDA_VOTE_NUMBERS_CUH_
#define LONGSPAN_KERNELS_CUDA_VOTE_NUMBERS_CUH_

#include <cuda_runtime.h>

#include <cstdint>

// The arithmetic of votes (kernels/vote.h), the same instructions wherever a vote is counted.
namespace longspan::cuda {

// Exponentials are powers of two, one instruction, where expf takes eight: there are as many as
// products. Powers below 2^-126 become 0.
constexpr float kLog2E = 1.44269504f;
__device__ __forceinline__ float VoteExponential(float score, float maximum, float scale_log2) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;"
      : "=f"(power)
      : "f"(__fmul_rn(__fsub_rn(score, maximum), scale_log2)));
  return power;
}

// As SumBits of kernels/vote.h.
__device__ __forceinline__ int VoteSumBits(int64_t keys) { return min(44, __clzll(keys) - 2); }

// 2^bits: what an exponential, from 0 to 1, is multiplied by without rounding.
__device__ __forceinline__ float VoteUnits(int bits) {
  return __uint_as_float(static_cast<uint32_t>(127 + bits) << 23);
}

__device__ __forceinline__ unsigned long long InVoteUnits(float exponential, float units) {
  return exponential == exponential
             ? static_cast<unsigned long long>(__float2ll_rn(__fmul_rn(exponential, units)))
             : 0;
}

// *to += add, rounded once.
__device__ __forceinline__ void AddVote(float exponential, float weight, float* to) {
  *to = __fmaf_rn(exponential, weight, *to);
}

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_VOTE_NUMBERS_CUH_
