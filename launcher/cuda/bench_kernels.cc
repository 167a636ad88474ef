#include "launcher/cuda/bench_kernels.h"

#include <cuda_runtime.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/device.h"
#include "launcher/bench_gpu.h"

namespace longspan {
namespace {

constexpr int64_t kReplays = 41;

struct Group {
  absl::string_view name;
  absl::Status (*run)(KernelBench* bench);
};
constexpr Group kGroups[] = {{"copy", BenchCopyAndMatmul},
                             {"linear", BenchLinear},
                             {"topk", BenchTopK},
                             {"merge", BenchMerge},
                             {"decode", BenchDecodeAttention},
                             {"prefill", BenchPrefillAttention}};

// "580.65.06" of the kernel module; containers may not see it.
std::string DriverVersion() {
  std::ifstream file("/proc/driver/nvidia/version");
  std::string line;
  std::getline(file, line);
  for (const absl::string_view word : absl::StrSplit(line, ' ', absl::SkipEmpty())) {
    if (absl::ascii_isdigit(word[0]) && absl::StrContains(word, '.')) return std::string(word);
  }
  return "unknown";
}

std::string CudaVersion(int version) {
  return absl::StrFormat("%d.%d", version / 1000, version % 1000 / 10);
}

std::string SoftwareText() {
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  return absl::StrCat("driver ", DriverVersion(), " (of CUDA ", CudaVersion(driver), "), CUDA ",
                      CudaVersion(runtime));
}

absl::Status CheckGroups(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    if (std::any_of(std::begin(kGroups), std::end(kGroups),
                    [&](const Group& group) { return group.name == name; })) {
      continue;
    }
    return absl::NotFoundError(
        absl::StrCat("no kernels are called ", name, "; there are ",
                     absl::StrJoin(kGroups, ", ", [](std::string* out, const Group& group) {
                       absl::StrAppend(out, group.name);
                     })));
  }
  return absl::OkStatus();
}

// Shorter ones have nothing to select from, or no whole chunk.
absl::Status CheckContexts(const BenchShape& shape, const std::vector<int64_t>& contexts) {
  const int64_t least = shape.initial_tokens + shape.local_tokens + shape.chunk_tokens + 1;
  for (const int64_t context : contexts) {
    if (context >= least) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("--context ", context, ": kernels of this shape need ", least, " at least"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status KernelBench::Add(BenchRow row, int variants, Launch launch) {
  spdlog::info("measuring {}, {}", row.name, row.shape);
  LONGSPAN_ASSIGN_OR_RETURN(row.timing,
                            TimeLaunches(variants, options.repeat.value_or(kReplays), launch));
  rows.push_back(std::move(row));
  return absl::OkStatus();
}

absl::StatusOr<BenchMachine> MeasureGpu() {
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::DeviceInfo device, cuda::UseDevice(0));
  const BenchShape shape;
  const BenchOptions options;
  KernelBench bench = {shape, options, {}};
  LONGSPAN_RETURN_IF_ERROR(BenchCopyAndMatmul(&bench));
  const BenchRow& copy = bench.rows[0];
  const BenchRow& matmul = bench.rows[1];
  BenchMachine machine;
  machine.device = device.name;
  machine.software = SoftwareText();
  machine.copy_bytes_per_s = copy.work.bytes / copy.timing.median_s;
  machine.matmul_flops_per_s = matmul.work.flops / matmul.timing.median_s;
  machine.matmul = matmul.shape;
  return machine;
}

absl::StatusOr<std::vector<BenchRow>> MeasureGpuKernels(const BenchShape& shape,
                                                        const BenchOptions& options) {
  LONGSPAN_RETURN_IF_ERROR(CheckGroups(options.groups));
  LONGSPAN_RETURN_IF_ERROR(CheckContexts(shape, options.contexts));
  KernelBench bench = {shape, options, {}};
  for (const Group& group : kGroups) {
    const bool wanted =
        options.groups.empty() ||
        std::find(options.groups.begin(), options.groups.end(), group.name) != options.groups.end();
    if (wanted) LONGSPAN_RETURN_IF_ERROR(group.run(&bench));
  }
  return std::move(bench.rows);
}

absl::Status CopyToGpu(void* to, const void* from, int64_t bytes) {
  LONGSPAN_RETURN_IF_ERROR(cuda::Copy(to, from, bytes, nullptr));
  return cuda::Synchronize(nullptr);
}

}  // namespace longspan
