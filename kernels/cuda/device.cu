#include <cuda_runtime.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/device.h"

namespace longspan::cuda {
namespace {

constexpr int kMinComputeCapability = 80;

std::string VersionOf(int version) {
  return absl::StrCat(version / 1000, ".", version % 1000 / 10);
}

// The driver's version as the CUDA version that it supports; 0: there is no driver.
int DriverVersion() {
  int version = 0;
  if (cudaDriverGetVersion(&version) != cudaSuccess) cudaGetLastError();
  return version;
}

// What to do where a GPU cannot be used; empty for any other error.
std::string AdviceFor(cudaError_t error) {
  switch (error) {
    case cudaErrorNoDevice:
      return "there is no GPU here: see what nvidia-smi lists, and CUDA_VISIBLE_DEVICES; a "
             "container gets GPUs by --gpus all";
    case cudaErrorInvalidDevice:
      return "there is no such GPU here: see what nvidia-smi lists, and CUDA_VISIBLE_DEVICES";
    case cudaErrorStubLibrary:
      return "the libcuda.so that was found is the toolkit's stub: take its folder out of "
             "LD_LIBRARY_PATH, and install the NVIDIA driver";
    case cudaErrorInsufficientDriver: {
      const int version = DriverVersion();
      const std::string needed = VersionOf(CUDART_VERSION);
      if (version == 0) {
        return absl::StrCat("there is no NVIDIA driver here: install one for CUDA ", needed,
                            " or later; a container gets the host's by --gpus all");
      }
      return absl::StrCat("the NVIDIA driver is one for CUDA ", VersionOf(version),
                          ": install one for CUDA ", needed, " or later");
    }
    case cudaErrorSystemDriverMismatch:
      return "the driver's kernel module and its libraries are of different versions, as after an "
             "update: reboot, or load the new module; restart a container";
    case cudaErrorSystemNotReady:
      return "the GPUs are not ready: on a host with NVSwitch, start nvidia-fabricmanager and see "
             "its log";
    case cudaErrorCompatNotSupportedOnDevice:
      return "the libcuda.so of a cuda-compat package does not support this GPU: take it out of "
             "LD_LIBRARY_PATH, and install a newer NVIDIA driver";
    case cudaErrorDevicesUnavailable:
      return "the GPU is busy or another process has it alone: see nvidia-smi for processes and "
             "the compute mode";
    default:
      return "";
  }
}

}  // namespace

absl::Status ToStatus(int cuda_error, const char* what) {
  const auto error = static_cast<cudaError_t>(cuda_error);
  if (error == cudaSuccess) return absl::OkStatus();
  cudaGetLastError();  // else the next launch would be blamed for it
  const std::string message = absl::StrCat(what, ": ", cudaGetErrorString(error));
  if (const std::string advice = AdviceFor(error); !advice.empty()) {
    return absl::UnavailableError(absl::StrCat(message, "; ", advice));
  }
  switch (error) {
    case cudaErrorMemoryAllocation:
      return absl::ResourceExhaustedError(message);
    case cudaErrorNoKernelImageForDevice:
      return absl::UnimplementedError(
          absl::StrCat(message, "; this build has no code for this GPU's architecture"));
    default:
      return absl::InternalError(message);
  }
}

absl::Status CheckLaunch(const char* kernel) { return ToStatus(cudaGetLastError(), kernel); }

absl::StatusOr<int> CountDevices() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorNoDevice || error == cudaErrorStubLibrary ||
      (error == cudaErrorInsufficientDriver && DriverVersion() == 0)) {
    cudaGetLastError();
    return 0;
  }
  LONGSPAN_RETURN_IF_ERROR(ToStatus(error, "cudaGetDeviceCount"));
  return count;
}

absl::StatusOr<DeviceInfo> UseDevice(int device) {
  const cudaError_t error = cudaSetDevice(device);
  if (error == cudaErrorInvalidDevice) {
    cudaGetLastError();
    LONGSPAN_ASSIGN_OR_RETURN(const int count, CountDevices());
    return absl::UnavailableError(absl::StrCat(
        "there is no GPU ", device, ": this process sees ", count,
        ", counted from 0; CUDA_VISIBLE_DEVICES can hide others, and nvidia-smi lists them all"));
  }
  LONGSPAN_RETURN_IF_ERROR(ToStatus(error, "cudaSetDevice"));
  return CurrentDevice();
}

absl::StatusOr<DeviceInfo> CurrentDevice() {
  int device = 0;
  LONGSPAN_RETURN_IF_ERROR(ToStatus(cudaGetDevice(&device), "cudaGetDevice"));
  cudaDeviceProp properties;
  LONGSPAN_RETURN_IF_ERROR(
      ToStatus(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties"));
  DeviceInfo info;
  info.name = properties.name;
  char bus_id[32] = {};
  LONGSPAN_RETURN_IF_ERROR(
      ToStatus(cudaDeviceGetPCIBusId(bus_id, sizeof(bus_id), device), "cudaDeviceGetPCIBusId"));
  info.bus_id = bus_id;
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

absl::StatusOr<MemoryInfo> FreeMemory() {
  size_t available = 0, total = 0;
  LONGSPAN_RETURN_IF_ERROR(ToStatus(cudaMemGetInfo(&available, &total), "cudaMemGetInfo"));
  return MemoryInfo{static_cast<int64_t>(available), static_cast<int64_t>(total)};
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

Buffer::~Buffer() {
  if (data_ != nullptr) cudaFree(data_);
}

absl::StatusOr<PinnedBuffer> PinnedBuffer::Allocate(int64_t bytes) {
  PinnedBuffer buffer;
  if (bytes == 0) return buffer;
  void* data = nullptr;
  const cudaError_t error = cudaHostAlloc(&data, bytes, cudaHostAllocPortable);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return absl::ResourceExhaustedError(
        absl::StrCat("no room for ", bytes,
                     " bytes of page-locked host memory; see free -h, and "
                     "the memory limit of the container"));
  }
  LONGSPAN_RETURN_IF_ERROR(ToStatus(error, "cudaHostAlloc"));
  buffer.data_.reset(static_cast<std::byte*>(data));
  buffer.bytes_ = bytes;
  return buffer;
}

void PinnedBuffer::Free::operator()(std::byte* data) const { cudaFreeHost(data); }

absl::StatusOr<StreamHandle> StreamHandle::Create() {
  cudaStream_t stream = nullptr;
  LONGSPAN_RETURN_IF_ERROR(ToStatus(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
                                    "cudaStreamCreateWithFlags"));
  StreamHandle handle;
  handle.stream_.reset(stream);
  return handle;
}

absl::StatusOr<StreamHandle> StreamHandle::CreateUrgent() {
  int least = 0, greatest = 0;
  LONGSPAN_RETURN_IF_ERROR(ToStatus(cudaDeviceGetStreamPriorityRange(&least, &greatest),
                                    "cudaDeviceGetStreamPriorityRange"));
  cudaStream_t stream = nullptr;
  LONGSPAN_RETURN_IF_ERROR(
      ToStatus(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest),
               "cudaStreamCreateWithPriority"));
  StreamHandle handle;
  handle.stream_.reset(stream);
  return handle;
}

void StreamHandle::Destroy::operator()(Stream stream) const { cudaStreamDestroy(stream); }

absl::StatusOr<Event> Event::Create() {
  cudaEvent_t created = nullptr;
  LONGSPAN_RETURN_IF_ERROR(ToStatus(cudaEventCreateWithFlags(&created, cudaEventDisableTiming),
                                    "cudaEventCreateWithFlags"));
  Event event;
  event.event_.reset(created);
  return event;
}

absl::Status Event::Record(Stream stream) {
  return ToStatus(cudaEventRecord(event_.get(), stream), "cudaEventRecord");
}

void Event::Destroy::operator()(CUevent_st* event) const { cudaEventDestroy(event); }

absl::Status WaitFor(Stream stream, const Event& event) {
  return ToStatus(cudaStreamWaitEvent(stream, event.event_.get(), 0), "cudaStreamWaitEvent");
}

absl::StatusOr<TimedEvent> TimedEvent::Create() {
  cudaEvent_t created = nullptr;
  LONGSPAN_RETURN_IF_ERROR(ToStatus(cudaEventCreate(&created), "cudaEventCreate"));
  TimedEvent event;
  event.event_.reset(created);
  return event;
}

absl::Status TimedEvent::Record(Stream stream) {
  cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
  LONGSPAN_RETURN_IF_ERROR(
      ToStatus(cudaStreamIsCapturing(stream, &capturing), "cudaStreamIsCapturing"));
  const bool in_graph = capturing != cudaStreamCaptureStatusNone;
  return ToStatus(
      cudaEventRecordWithFlags(event_.get(), stream,
                               in_graph ? cudaEventRecordExternal : cudaEventRecordDefault),
      "cudaEventRecordWithFlags");
}

void TimedEvent::Destroy::operator()(CUevent_st* event) const { cudaEventDestroy(event); }

absl::StatusOr<double> SecondsBetween(const TimedEvent& begin, const TimedEvent& end) {
  float milliseconds = 0;
  LONGSPAN_RETURN_IF_ERROR(
      ToStatus(cudaEventElapsedTime(&milliseconds, begin.event_.get(), end.event_.get()),
               "cudaEventElapsedTime"));
  return milliseconds * 1e-3;
}

absl::StatusOr<Graph> Graph::Capture(Stream stream, absl::FunctionRef<absl::Status()> enqueue) {
  // Other threads may allocate and synchronise meanwhile.
  LONGSPAN_RETURN_IF_ERROR(ToStatus(
      cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture"));
  const absl::Status enqueued = enqueue();
  // In any case, or the stream would stay useless.
  cudaGraph_t captured = nullptr;
  const absl::Status ended =
      ToStatus(cudaStreamEndCapture(stream, &captured), "cudaStreamEndCapture");
  const auto destroy = [](cudaGraph_t graph) { cudaGraphDestroy(graph); };
  const std::unique_ptr<CUgraph_st, decltype(destroy)> owned(captured, destroy);
  LONGSPAN_RETURN_IF_ERROR(enqueued);
  LONGSPAN_RETURN_IF_ERROR(ended);
  cudaGraphExec_t instance = nullptr;
  LONGSPAN_RETURN_IF_ERROR(
      ToStatus(cudaGraphInstantiate(&instance, captured, 0), "cudaGraphInstantiate"));
  Graph graph;
  graph.graph_.reset(instance);
  return graph;
}

absl::Status Graph::Launch(Stream stream) const {
  return ToStatus(cudaGraphLaunch(graph_.get(), stream), "cudaGraphLaunch");
}

void Graph::Destroy::operator()(CUgraphExec_st* graph) const { cudaGraphExecDestroy(graph); }

absl::Status Copy(void* to, const void* from, int64_t bytes, Stream stream) {
  return ToStatus(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream), "cudaMemcpyAsync");
}

absl::Status Fill(void* data, int byte_value, int64_t bytes, Stream stream) {
  return ToStatus(cudaMemsetAsync(data, byte_value, bytes, stream), "cudaMemsetAsync");
}

absl::Status Synchronize(Stream stream) {
  return ToStatus(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

absl::Status SynchronizeDevice() {
  return ToStatus(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

absl::StatusOr<bool> IsDone(Stream stream) {
  const cudaError_t error = cudaStreamQuery(stream);
  if (error == cudaErrorNotReady) {
    cudaGetLastError();  // else the next launch would be blamed for it
    return false;
  }
  LONGSPAN_RETURN_IF_ERROR(ToStatus(error, "cudaStreamQuery"));
  return true;
}

}  // namespace longspan::cuda
