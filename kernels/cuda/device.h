#ifndef LONGSPAN_KERNELS_CUDA_DEVICE_H_
#define LONGSPAN_KERNELS_CUDA_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct CUstream_st;

// Devices, their memory and streams. Everything works on the calling thread's current device, and
// no header of this folder needs CUDA's own.
namespace longspan::cuda {

using Stream = CUstream_st*;  // cudaStream_t

struct DeviceInfo {
  std::string name;
  int compute_capability = 0;  // 90: 9.0
  int multiprocessors = 0;
  int64_t memory = 0;                   // bytes
  int64_t shared_memory_per_block = 0;  // bytes, with the opt-in
  int64_t l2_bytes = 0;
};

// 0 where there is no GPU or no driver.
int CountDevices();
// Unavailable: no GPU, no driver or one that is too old. Unimplemented: an architecture before
// sm_80.
absl::StatusOr<DeviceInfo> UseDevice(int device);

// Bytes of device memory. ResourceExhausted: there is no room, and it says how much was free.
class Buffer {
 public:
  Buffer() = default;
  static absl::StatusOr<Buffer> Allocate(int64_t bytes);
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Buffer();

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

// Copies in the order of the stream; from and to pageable host memory they wait for its turn.
absl::Status Copy(void* to, const void* from, int64_t bytes, Stream stream);
absl::Status Fill(void* data, int byte_value, int64_t bytes, Stream stream);
absl::Status Synchronize(Stream stream);

// Turns the error of a call or a launch into a status: `what` failed.
absl::Status ToStatus(int cuda_error, const char* what);
absl::Status CheckLaunch(const char* kernel);

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_DEVICE_H_
