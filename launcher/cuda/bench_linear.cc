#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/copy.h"
#include "kernels/cuda/linear.h"
#include "launcher/cuda/bench_inputs.h"
#include "launcher/cuda/bench_kernels.h"

namespace longspan {
namespace {

constexpr int64_t kCopyBytes = int64_t{2} << 30;
constexpr int64_t kMatmulSize = 8192;
constexpr int64_t kWeightBytes = int64_t{512} << 20;  // of all variants

struct Product {
  const char* name;
  int64_t rows = 0, in = 0, out = 0;
  DType y_dtype = DType::kFloat32;
  bool norms = false;  // x, on the way
  bool swiglu = false;
};

absl::Status BenchProduct(KernelBench* bench, const Product& product) {
  const DType dtype = bench->shape.weight_dtype;
  const int64_t weight_bytes = product.in * product.out * SizeOf(dtype);
  const int variants = CountVariants(kWeightBytes, weight_bytes, /*most=*/16);
  LONGSPAN_ASSIGN_OR_RETURN(
      const cuda::Buffer x,
      RandomNumbers(product.rows * product.in, product.norms ? DType::kFloat32 : dtype));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer norm, RandomNumbers(product.in, DType::kFloat32));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer weights,
                            RandomNumbers(variants * product.in * product.out, dtype));
  LONGSPAN_ASSIGN_OR_RETURN(
      const cuda::Buffer y,
      cuda::Buffer::Allocate(product.rows * product.out * SizeOf(product.y_dtype)));
  LONGSPAN_ASSIGN_OR_RETURN(cuda::LinearPlans plans, cuda::LinearPlans::Create());
  BenchRow row;
  row.name = product.name;
  row.shape = absl::StrCat(product.rows, " x ", product.in, " to ", product.out, ", ",
                           std::string(DTypeName(dtype)));
  row.batch = product.rows;
  row.work = LinearWork(bench->shape, product.rows, product.in, product.out);
  return bench->Add(std::move(row), variants, [&](int variant, cuda::Stream stream) {
    cuda::LinearArgs args;
    args.x = x.data();
    args.rows = product.rows;
    args.in = product.in;
    args.weight = weights.data() + variant * weight_bytes;
    args.dtype = dtype;
    args.out = product.out;
    args.y = y.data();
    args.y_dtype = product.y_dtype;
    if (!product.norms && !product.swiglu) return cuda::Linear(args, &plans, stream);
    cuda::LinearFusion fusion;
    if (product.norms) fusion.norm = norm.as<float>();
    fusion.epsilon = 1e-5f;
    fusion.swiglu = product.swiglu;
    return cuda::LinearFewRows(args, fusion, stream);
  });
}

absl::Status BenchCopy(KernelBench* bench) {
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer from,
                            RandomNumbers(kCopyBytes / 4, DType::kFloat32));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer to, cuda::Buffer::Allocate(kCopyBytes));
  BenchRow row;
  row.name = "copy";
  row.shape = absl::StrCat(kCopyBytes >> 20, " MiB");
  row.work.bytes = 2.0 * static_cast<double>(kCopyBytes);
  return bench->Add(std::move(row), /*variants=*/1, [&](int, cuda::Stream stream) {
    return cuda::CopyByKernel(to.data(), from.data(), kCopyBytes, stream);
  });
}

}  // namespace

absl::Status BenchCopyAndMatmul(KernelBench* bench) {
  LONGSPAN_RETURN_IF_ERROR(BenchCopy(bench));
  return BenchProduct(bench,
                      {"matmul", kMatmulSize, kMatmulSize, kMatmulSize, bench->shape.weight_dtype});
}

namespace {

// One row, as a decode step has its products: with what is around them on the way.
absl::Status BenchFused(KernelBench* bench) {
  const BenchShape& shape = bench->shape;
  const Product products[] = {
      {"linear, norm and qkv", 1, shape.hidden, shape.query_dim() + 2 * shape.kv_dim(),
       DType::kFloat32, /*norms=*/true},
      {"linear, norm, gate and up, swiglu", 1, shape.hidden, 2 * shape.intermediate,
       shape.weight_dtype, /*norms=*/true, /*swiglu=*/true},
      {"linear, norm and vocabulary", 1, shape.hidden, shape.vocab, DType::kFloat32,
       /*norms=*/true}};
  for (const Product& product : products) {
    cuda::LinearArgs args;
    args.dtype = shape.weight_dtype;
    args.rows = 1;
    args.in = product.in;
    args.out = product.out;
    cuda::LinearFusion fusion;
    alignas(16) static constexpr float kAnyNorm[1] = {};
    fusion.norm = kAnyNorm;
    if (!cuda::LinearFuses(args, fusion)) continue;
    LONGSPAN_RETURN_IF_ERROR(BenchProduct(bench, product));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchLinear(KernelBench* bench) {
  const BenchShape& shape = bench->shape;
  // Rows of a decode step, then those of a prefill chunk.
  const int64_t rows[] = {1, 4, 8, shape.chunk_tokens};
  for (const int64_t count : rows) {
    const Product products[] = {
        {"linear, qkv", count, shape.hidden, shape.query_dim() + 2 * shape.kv_dim()},
        {"linear, output", count, shape.query_dim(), shape.hidden},
        {"linear, gate and up", count, shape.hidden, 2 * shape.intermediate, shape.weight_dtype},
        {"linear, down", count, shape.intermediate, shape.hidden},
        {"linear, vocabulary", count, shape.hidden, shape.vocab},
    };
    for (const Product& product : products) {
      const bool never = count > cuda::kMaxFewRows && product.out == shape.vocab;
      if (!never) LONGSPAN_RETURN_IF_ERROR(BenchProduct(bench, product));
    }
  }
  return BenchFused(bench);
}

}  // namespace longspan
