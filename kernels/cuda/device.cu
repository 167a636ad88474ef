#include <cuda_runtime.h>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/device.h"

namespace longspan::cuda {
namespace {

constexpr int kMinComputeCapability = 80;

}  // namespace

absl::Status ToStatus(int cuda_error, const char* what) {
  const auto error = static_cast<cudaError_t>(cuda_error);
  if (error == cudaSuccess) return absl::OkStatus();
  cudaGetLastError();  // else the next launch would be blamed for it
  const std::string message = absl::StrCat(what, ": ", cudaGetErrorString(error));
  switch (error) {
    case cudaErrorMemoryAllocation:
      return absl::ResourceExhaustedError(message);
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorDevicesUnavailable:
      return absl::UnavailableError(message);
    case cudaErrorNoKernelImageForDevice:
      return absl::UnimplementedError(
          absl::StrCat(message, "; this build has no code for this GPU's architecture"));
    default:
      return absl::InternalError(message);
  }
}

absl::Status CheckLaunch(const char* kernel) { return ToStatus(cudaGetLastError(), kernel); }

int CountDevices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

absl::StatusOr<DeviceInfo> UseDevice(int device) {
  LONGSPAN_RETURN_IF_ERROR(ToStatus(cudaSetDevice(device), "cudaSetDevice"));
  cudaDeviceProp properties;
  LONGSPAN_RETURN_IF_ERROR(
      ToStatus(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties"));
  DeviceInfo info;
  info.name = properties.name;
  info.compute_capability = properties.major * 10 + properties.minor;
  info.multiprocessors = properties.multiProcessorCount;
  info.memory = static_cast<int64_t>(properties.totalGlobalMem);
  info.shared_memory_per_block = static_cast<int64_t>(properties.sharedMemPerBlockOptin);
  info.l2_bytes = properties.l2CacheSize;
  if (info.compute_capability < kMinComputeCapability) {
    return absl::UnimplementedError(
        absl::StrCat("GPU ", device, " (", info.name, ") is of compute capability ",
                     properties.major, ".", properties.minor, "; longspan needs 8.0 or later"));
  }
  return info;
}

absl::StatusOr<Buffer> Buffer::Allocate(int64_t bytes) {
  Buffer buffer;
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t available = 0, total = 0;
    cudaMemGetInfo(&available, &total);
    return absl::ResourceExhaustedError(absl::StrCat(
        "no room for ", bytes, " bytes on the GPU: ", available, " of ", total, " are free"));
  }
  LONGSPAN_RETURN_IF_ERROR(ToStatus(error, "cudaMalloc"));
  buffer.data_ = static_cast<std::byte*>(data);
  buffer.bytes_ = bytes;
  return buffer;
}

Buffer::~Buffer() { cudaFree(data_); }

absl::Status Copy(void* to, const void* from, int64_t bytes, Stream stream) {
  return ToStatus(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream), "cudaMemcpyAsync");
}

absl::Status Fill(void* data, int byte_value, int64_t bytes, Stream stream) {
  return ToStatus(cudaMemsetAsync(data, byte_value, bytes, stream), "cudaMemsetAsync");
}

absl::Status Synchronize(Stream stream) {
  return ToStatus(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

}  // namespace longspan::cuda
