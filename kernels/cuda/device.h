#ifndef LONGSPAN_KERNELS_CUDA_DEVICE_H_
#define LONGSPAN_KERNELS_CUDA_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct CUevent_st;
struct CUgraphExec_st;
struct CUstream_st;

// Devices, their memory, streams, events and graphs. Everything works on the calling thread's
// current device, and no header of this folder needs CUDA's own.
namespace longspan::cuda {

using Stream = CUstream_st*;  // cudaStream_t

struct DeviceInfo {
  std::string name;
  std::string bus_id;          // "0000:0f:00.0", of the host
  int compute_capability = 0;  // 90: 9.0
  int multiprocessors = 0;
  int64_t memory = 0;                   // bytes
  int64_t shared_memory_per_block = 0;  // bytes, with the opt-in
  int64_t l2_bytes = 0;
};

// 0 where there is no GPU or no driver at all. A driver that is there and does not work is an
// error, so that nothing passes for want of a GPU where there is one.
absl::StatusOr<int> CountDevices();
// Makes it the calling thread's device. Unavailable: no such GPU, or no driver that works with it;
// the error says what to do. Unimplemented: an architecture before sm_80.
absl::StatusOr<DeviceInfo> UseDevice(int device);

// The calling thread's device.
absl::StatusOr<DeviceInfo> CurrentDevice();

struct MemoryInfo {
  int64_t free = 0;  // bytes
  int64_t total = 0;
};
absl::StatusOr<MemoryInfo> FreeMemory();

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

// Page-locked host memory, which copies to and from any device use without another copy.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  static absl::StatusOr<PinnedBuffer> Allocate(int64_t bytes);
  PinnedBuffer(PinnedBuffer&& other) noexcept
      : data_(std::move(other.data_)), bytes_(std::exchange(other.bytes_, 0)) {}
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    data_ = std::move(other.data_);
    bytes_ = std::exchange(other.bytes_, 0);
    return *this;
  }

  std::byte* data() const { return data_.get(); }
  int64_t bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_.get());
  }

 private:
  struct Free {
    void operator()(std::byte* data) const;
  };
  std::unique_ptr<std::byte, Free> data_;
  int64_t bytes_ = 0;
};

// A stream that does not wait for the default stream, nor that for it.
class StreamHandle {
 public:
  StreamHandle() = default;
  static absl::StatusOr<StreamHandle> Create();
  // Its kernels come first wherever a multiprocessor has room.
  static absl::StatusOr<StreamHandle> CreateUrgent();
  Stream get() const { return stream_.get(); }

 private:
  struct Destroy {
    void operator()(Stream stream) const;
  };
  std::unique_ptr<CUstream_st, Destroy> stream_;
};

// A point in a stream that another stream can wait for.
class Event {
 public:
  Event() = default;
  static absl::StatusOr<Event> Create();
  absl::Status Record(Stream stream);

 private:
  struct Destroy {
    void operator()(CUevent_st* event) const;
  };
  friend absl::Status WaitFor(Stream stream, const Event& event);
  std::unique_ptr<CUevent_st, Destroy> event_;
};
// Work behind it in `stream` starts after what was in the other stream at the last Record.
absl::Status WaitFor(Stream stream, const Event& event);

// A point in a stream whose time can be told. Recorded while a graph is captured it is part of the
// graph, and has the time of the last launch.
class TimedEvent {
 public:
  TimedEvent() = default;
  static absl::StatusOr<TimedEvent> Create();
  absl::Status Record(Stream stream);

 private:
  struct Destroy {
    void operator()(CUevent_st* event) const;
  };
  friend absl::StatusOr<double> SecondsBetween(const TimedEvent& begin, const TimedEvent& end);
  std::unique_ptr<CUevent_st, Destroy> event_;
};
// The streams must have passed both.
absl::StatusOr<double> SecondsBetween(const TimedEvent& begin, const TimedEvent& end);

// Work that is recorded once and launched as a whole, often.
class Graph {
 public:
  Graph() = default;
  // Records what `enqueue` puts in the stream, without running it; an error of `enqueue` is the
  // error. The stream must not be the default one, and all calls of `enqueue` must only enqueue.
  static absl::StatusOr<Graph> Capture(Stream stream, absl::FunctionRef<absl::Status()> enqueue);
  absl::Status Launch(Stream stream) const;

 private:
  struct Destroy {
    void operator()(CUgraphExec_st* graph) const;
  };
  std::unique_ptr<CUgraphExec_st, Destroy> graph_;
};

// Copies in the order of the stream; from and to pageable host memory they wait for its turn.
absl::Status Copy(void* to, const void* from, int64_t bytes, Stream stream);
absl::Status Fill(void* data, int byte_value, int64_t bytes, Stream stream);
absl::Status Synchronize(Stream stream);
absl::Status SynchronizeDevice();  // all streams
// Whether all work in the stream has ended; its error, if it failed.
absl::StatusOr<bool> IsDone(Stream stream);

// Turns the error of a call or a launch into a status: `what` failed.
absl::Status ToStatus(int cuda_error, const char* what);
absl::Status CheckLaunch(const char* kernel);

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_DEVICE_H_
