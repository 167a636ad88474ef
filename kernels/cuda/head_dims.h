#ifndef LONGSPAN_KERNELS_CUDA_HEAD_DIMS_H_
#define LONGSPAN_KERNELS_CUDA_HEAD_DIMS_H_

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace longspan::cuda {

// What attention is compiled for.
inline constexpr int kHeadDims[] = {16, 32, 64, 128, 256};

// The one place where a runtime head_dim becomes a constant: f.template operator()<kDim>().
// Unimplemented: a head_dim that is not one of kHeadDims.
template <typename F>
absl::Status WithHeadDim(int64_t head_dim, F&& f) {
  bool is_one = false;
  absl::Status status;
  const auto try_one = [&]<int kDim>() {
    if (head_dim != kDim) return;
    is_one = true;
    status.Update(f.template operator()<kDim>());
  };
  const auto try_all = [&]<size_t... kIndex>(std::index_sequence<kIndex...>) {
    (try_one.template operator()<kHeadDims[kIndex]>(), ...);
  };
  try_all(std::make_index_sequence<std::size(kHeadDims)>());
  if (is_one) return status;
  return absl::UnimplementedError(absl::StrCat("attention on GPUs supports a head_dim of ",
                                               absl::StrJoin(kHeadDims, ", "), ", not ", head_dim));
}

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_HEAD_DIMS_H_
