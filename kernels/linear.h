#ifndef LONGSPAN_KERNELS_LINEAR_H_
#define LONGSPAN_KERNELS_LINEAR_H_

#include <cstdint>
#include <string>

#include "kernels/base/dtype.h"

namespace longspan {

// y = x W^T, or y += x W^T.
struct LinearArgs {
  const float* x = nullptr;  // [rows, in]
  int64_t rows = 0;
  int64_t in = 0;
  const void* weight = nullptr;  // [out, in], of `dtype`
  DType dtype = DType::kFloat32;
  int64_t out = 0;
  float* y = nullptr;  // [rows, out]
  bool accumulate = false;
};

// Many rows, through OpenBLAS. With panel_rows > 0, rows must be a multiple of it, and each panel
// is one product of fixed shape: its bits then depend on the row's place in its panel alone,
// whereas a library may change kernels with the number of rows.
void Linear(const LinearArgs& args, int64_t panel_rows);

// The library's kernels on this machine, and the vectors of our own: two ranks give equal bits only
// if theirs are the same.
std::string KernelSet();

// The OPENBLAS_CORETYPE that suits this processor, if the library does not know it and has taken
// kernels of 2004 for it; else empty.
std::string MissedCoreType();

// Few rows (decode), bound by reading the weight once. A row's bits do not depend on the others.
void LinearFewRows(const LinearArgs& args);

// y [rows, out] += bias [out] in each row.
void AddBias(const float* bias, int64_t rows, int64_t out, float* y);

}  // namespace longspan

#endif  // LONGSPAN_KERNELS_LINEAR_H_
