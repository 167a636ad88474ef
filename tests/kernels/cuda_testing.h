#ifndef LONGSPAN_TESTS_KERNELS_CUDA_TESTING_H_
#define LONGSPAN_TESTS_KERNELS_CUDA_TESTING_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/device.h"

namespace longspan::cuda {

// Skips its tests where there is no GPU; a driver that does not work fails them.
class CudaTest : public testing::Test {
 protected:
  void SetUp() override {
    const absl::StatusOr<int> devices = CountDevices();
    ASSERT_TRUE(devices.ok()) << devices.status();
    if (*devices == 0) GTEST_SKIP() << "no GPU";
    const absl::StatusOr<DeviceInfo> device = UseDevice(0);
    ASSERT_TRUE(device.ok()) << device.status();
  }
};

// Device memory with a copy of `values`.
template <typename T>
Buffer Upload(const std::vector<T>& values) {
  const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
  absl::StatusOr<Buffer> buffer = Buffer::Allocate(bytes);
  EXPECT_TRUE(buffer.ok()) << buffer.status();
  if (!buffer.ok()) return Buffer();
  EXPECT_TRUE(Copy(buffer->data(), values.data(), bytes, nullptr).ok());
  return *std::move(buffer);
}

template <typename T>
std::vector<T> Download(const void* data, int64_t count) {
  std::vector<T> values(count);
  EXPECT_TRUE(Copy(values.data(), data, count * static_cast<int64_t>(sizeof(T)), nullptr).ok());
  EXPECT_TRUE(Synchronize(nullptr).ok());
  return values;
}

// Device memory in which every byte is `byte`.
inline Buffer Filled(int64_t bytes, int byte) {
  absl::StatusOr<Buffer> buffer = Buffer::Allocate(bytes);
  EXPECT_TRUE(buffer.ok()) << buffer.status();
  if (!buffer.ok()) return Buffer();
  EXPECT_TRUE(Fill(buffer->data(), byte, bytes, nullptr).ok());
  return *std::move(buffer);
}

// NaN, or indices far out of range.
inline Buffer Poisoned(int64_t bytes) { return Filled(bytes, 0xff); }

}  // namespace longspan::cuda

#endif  // LONGSPAN_TESTS_KERNELS_CUDA_TESTING_H_
