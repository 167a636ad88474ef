#include "collectives/nccl_communicator.h"

#include <cuda_runtime.h>
#include <dlfcn.h>
#include <nccl.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <list>
#include <memory>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "collectives/agree.h"
#include "collectives/argument_checks.h"
#include "collectives/device_steps.h"
#include "collectives/hosts.h"
#include "collectives/watchdog.h"
#include "kernels/base/status_macros.h"

#if NCCL_VERSION_CODE < NCCL_VERSION(2, 19, 0)
#error "longspan needs NCCL 2.19 or later"
#endif

namespace longspan {
namespace {

constexpr int kOldestNccl = NCCL_VERSION(2, 19, 0);
constexpr int kWindowsNccl = NCCL_VERSION(2, 28, 9);    // memory that ranks share by windows
constexpr int kSharedGpuNccl = NCCL_VERSION(2, 30, 0);  // several ranks may use one GPU

#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 28, 9)
using Window = ncclWindow_t;
constexpr int64_t kWindowAlignment = NCCL_WIN_REQUIRED_ALIGNMENT;
constexpr int kSymmetric = NCCL_WIN_COLL_SYMMETRIC;
#else
using Window = void*;
constexpr int64_t kWindowAlignment = 4096;
constexpr int kSymmetric = 1;
#endif
// Found by name: the program must start with a library without them too.
struct WindowFunctions {
  ncclResult_t (*add)(ncclComm_t, void*, size_t, Window*, int) = nullptr;
  ncclResult_t (*remove)(ncclComm_t, Window) = nullptr;
};

WindowFunctions FindWindowFunctions(int version) {
  WindowFunctions found;
  if (NCCL_VERSION_CODE < kWindowsNccl || version < kWindowsNccl) return found;
  found.add = reinterpret_cast<decltype(found.add)>(dlsym(RTLD_DEFAULT, "ncclCommWindowRegister"));
  found.remove =
      reinterpret_cast<decltype(found.remove)>(dlsym(RTLD_DEFAULT, "ncclCommWindowDeregister"));
  return found.remove == nullptr ? WindowFunctions() : found;
}

// How long the end of a communicator may take; then it is left behind.
constexpr absl::Duration kAbortPatience = absl::Seconds(10);
constexpr absl::Duration kFinalizePatience = absl::Seconds(60);

std::string VersionText(int version) {
  return absl::StrCat(version / 10000, ".", version % 10000 / 100, ".", version % 100);
}

// What to change where a call of NCCL fails.
absl::string_view AdviceFor(ncclResult_t result) {
  switch (result) {
    case ncclUnhandledCudaError:
      return "a CUDA call of NCCL failed: see nvidia-smi and dmesg for the GPU's errors, and "
             "whether its memory is full; NCCL_DEBUG=WARN names the call";
    case ncclSystemError:
      return "see that ranks reach each other over the network interface of NCCL_SOCKET_IFNAME, "
             "and that /dev/shm has room (docker: --shm-size=1g or --ipc=host); NCCL_DEBUG=INFO "
             "says more";
    case ncclRemoteError:
      return "another rank died or left, or the network between them failed: look for the first "
             "error of the other ranks";
    default:
      return "NCCL_DEBUG=INFO says more; without NCCL, use `parallel.communicator: mpi`";
  }
}

absl::Status NcclError(ncclResult_t result, absl::string_view call) {
  std::string text = absl::StrCat(call, ": ", ncclGetErrorString(result));
  const char* last = ncclGetLastError(nullptr);
  const absl::string_view detail = last == nullptr ? "" : last;
  if (!detail.empty()) absl::StrAppend(&text, " (", detail, ")");
  if (absl::StrContains(detail, "Duplicate GPU") || absl::StrContains(detail, "Multiple Ranks")) {
    return absl::FailedPreconditionError(absl::StrCat(
        text,
        "; start one rank a GPU, or set NCCL_MULTI_RANK_GPU_ENABLE=1 with NCCL 2.30 or later, or "
        "use `parallel.communicator: mpi`"));
  }
  return absl::InternalError(absl::StrCat(text, "; ", AdviceFor(result)));
}

// Between two looks at what the GPU or NCCL does. The first milliseconds are those of a decoded
// token; ranks that compute get the core even then.
void Pause(double waited_seconds) {
  if (waited_seconds < 5e-3) {
    sched_yield();
  } else {
    absl::SleepFor(absl::Microseconds(waited_seconds < 0.1 ? 20 : 100));
  }
}

// What all ranks join NCCL with, if `status` is OK on all of them.
absl::StatusOr<ncclUniqueId> AgreeOnId(Communicator* host, absl::Status status) {
  ncclUniqueId id = {};
  if (status.ok() && host->rank() == 0) {
    const ncclResult_t result = ncclGetUniqueId(&id);
    if (result != ncclSuccess) status = NcclError(result, "ncclGetUniqueId");
  }
  LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(host, status));
  LONGSPAN_RETURN_IF_ERROR(host->Broadcast("nccl id", &id, sizeof(id), 0));
  return id;
}

// What the first gather of a start works with.
struct FirstGather {
  cuda::StreamHandle stream;
  cuda::Buffer buffer;  // [ranks, kBytes]

  static constexpr int64_t kBytes = 1024;

  static absl::StatusOr<FirstGather> Create(int ranks) {
    FirstGather first;
    LONGSPAN_ASSIGN_OR_RETURN(first.stream, cuda::StreamHandle::Create());
    LONGSPAN_ASSIGN_OR_RETURN(first.buffer, cuda::Buffer::Allocate(kBytes * ranks));
    LONGSPAN_RETURN_IF_ERROR(
        cuda::Fill(first.buffer.data(), 0, first.buffer.bytes(), first.stream.get()));
    return first;
  }
};

class NcclCommunicator : public DeviceCommunicator {
 public:
  // `windows`: none if this NCCL has none, the same on all ranks.
  NcclCommunicator(Communicator* host, WindowFunctions windows, FirstGather first)
      : host_(host), windows_(windows), memory_(new Memory{std::move(first), {}}) {}
  ~NcclCommunicator() override;
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  // Joins the others, unless `ready` is an error on one of them. Collective; all ranks return the
  // same error, and so does every call after it.
  absl::Status Start(const absl::Status& ready);

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  bool stream_ordered() const override { return true; }
  const CommunicatorStats& stats() const override { return stats_; }

  absl::Status AllGather(std::string_view name, const void* send, void* receive,
                         int64_t bytes_per_rank, cuda::Stream stream) override;
  absl::Status AllReduceMax(std::string_view name, float* data, int64_t count,
                            cuda::Stream stream) override;
  absl::Status AllReduceSum(std::string_view name, uint32_t* data, int64_t count,
                            cuda::Stream stream) override;
  absl::Status Exchange(std::string_view name, absl::Span<const Transfer> sends,
                        absl::Span<const Transfer> receives, cuda::Stream stream) override;
  absl::StatusOr<std::byte*> AllocateShared(int64_t bytes) override;
  absl::Status Synchronize(cuda::Stream stream) override;

 private:
  struct Shared {
    void* data = nullptr;     // of ncclMemAlloc, with
    Window window = nullptr;  // null where NCCL finds that the GPUs cannot share it
    cuda::Buffer plain;       // or without windows
  };
  struct Memory {
    FirstGather first;
    std::list<Shared> shared;  // a list: NCCL writes to a window's handle from its own thread
  };

  // Until all ranks have joined.
  absl::Status Join(const ncclUniqueId& id);
  // A first gather, which connects the ranks and shows whether they reach each other.
  absl::Status Try();
  // Leaves without the others.
  void Abort();
  // Waits for it. False: NCCL may still use all memory that it was given.
  bool Ended() const {
    return ended_ == nullptr || ended_->WaitForNotificationWithTimeout(kAbortPatience);
  }
  // Numbers the call, runs `body` and counts it. An error ends the communicator.
  absl::Status Run(CallRecord call, int64_t bytes_sent, absl::FunctionRef<absl::Status()> body);
  // Waits until NCCL has done what `call`, which returned `result`, has begun on its own thread.
  absl::Status Finish(ncclResult_t result, absl::string_view call, absl::Duration most);
  absl::Status Finish(ncclResult_t result, absl::string_view call) {
    return Finish(result, call, timeout());
  }
  // From what NCCL does behind the calls.
  absl::Status AsyncError();
  absl::Status TimeoutError(absl::string_view what, double seconds) const;
  // The error, with where it came up; from now on every call returns it.
  absl::Status Break(const absl::Status& error);
  // A rank that fails to start waits for the others to agree on it: they must not be late.
  absl::Duration timeout() const { return host_->timeout() / (starting_ ? 2 : 1); }
  // All ranks return the same error.
  absl::Status AllocateWindow(int64_t bytes, Shared& shared);
  absl::Status RestartWithoutWindows();

  Communicator* host_;
  WindowFunctions windows_;
  bool starting_ = false;
  ncclComm_t comm_ = nullptr;
  std::shared_ptr<absl::Notification> ended_;  // of Abort: until then NCCL's memory must stay
  CallRecord last_call_;
  absl::Status broken_;
  CommunicatorStats stats_;
  std::unique_ptr<Memory> memory_;
};

absl::Status NcclCommunicator::Start(const absl::Status& ready) {
  const absl::StatusOr<ncclUniqueId> id = AgreeOnId(host_, ready);
  absl::Status status = id.status();
  starting_ = true;
  if (status.ok()) status = AgreeOnStatus(host_, Join(*id));
  if (status.ok()) status = AgreeOnStatus(host_, Try());
  starting_ = false;
  if (!status.ok()) {
    Abort();
    broken_ = status;
  }
  return status;
}

absl::Status NcclCommunicator::Join(const ncclUniqueId& id) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  const ncclResult_t result = ncclCommInitRankConfig(&comm_, size(), id, rank(), &config);
  const absl::Status status = Finish(result, "ncclCommInitRankConfig");
  return status.ok() ? status : Break(status);
}

absl::Status NcclCommunicator::Try() {
  const FirstGather& first = memory_->first;
  std::byte* const all = first.buffer.data();
  LONGSPAN_RETURN_IF_ERROR(AllGather("first gather", all + FirstGather::kBytes * rank(), all,
                                     FirstGather::kBytes, first.stream.get()));
  return Synchronize(first.stream.get());
}

NcclCommunicator::~NcclCommunicator() {
  const absl::Duration patience = std::min(host_->timeout(), kFinalizePatience);
  if (comm_ != nullptr) {
    absl::Status status;
    for (Shared& shared : memory_->shared) {
      if (shared.window == nullptr || !status.ok()) continue;
      status = Finish(windows_.remove(comm_, shared.window), "ncclCommWindowDeregister", patience);
    }
    if (status.ok()) status = Finish(ncclCommFinalize(comm_), "ncclCommFinalize", patience);
    if (status.ok()) {
      ncclCommDestroy(comm_);
    } else {
      Abort();
    }
  }
  if (!Ended()) {
    // A kernel may still run here and other GPUs may write here, plain memory too, which NCCL maps
    // where it likes: so this stays until the process ends.
    static_cast<void>(memory_.release());
    return;
  }
  for (Shared& shared : memory_->shared) {
    if (shared.data != nullptr) ncclMemFree(shared.data);
  }
}

// NCCL's own end of an error waits for the GPU and for graphs that captured its calls, which this
// rank can only destroy once it has the error: so only the destructor waits for it.
void NcclCommunicator::Abort() {
  if (comm_ == nullptr) return;
  ended_ = std::make_shared<absl::Notification>();
  std::thread([ended = ended_, comm = std::exchange(comm_, nullptr)] {
    ncclCommAbort(comm);
    ended->Notify();
  }).detach();
}

absl::Status NcclCommunicator::Break(const absl::Status& error) {
  Abort();
  broken_ =
      absl::Status(error.code(), absl::StrCat("rank ", rank(), ", last call over NCCL: ",
                                              DescribeCall(last_call_), ": ", error.message()));
  return broken_;
}

absl::Status NcclCommunicator::TimeoutError(absl::string_view what, double seconds) const {
  return absl::DeadlineExceededError(absl::StrFormat(
      "waited %.1f s for %s. Another rank died, hangs, took another path or still computes (then "
      "raise `parallel.timeout_s`); if it never worked, NCCL_DEBUG=INFO shows how ranks connect",
      seconds, what));
}

absl::Status NcclCommunicator::AsyncError() {
  ncclResult_t state = ncclSuccess;
  const ncclResult_t result = ncclCommGetAsyncError(comm_, &state);
  if (result != ncclSuccess) return NcclError(result, "ncclCommGetAsyncError");
  if (state != ncclSuccess && state != ncclInProgress) return NcclError(state, "NCCL");
  return absl::OkStatus();
}

absl::Status NcclCommunicator::Finish(ncclResult_t result, absl::string_view call,
                                      absl::Duration most) {
  if (result != ncclSuccess && result != ncclInProgress) return NcclError(result, call);
  const Stopwatch stopwatch;
  for (;;) {
    ncclResult_t state = ncclSuccess;
    result = ncclCommGetAsyncError(comm_, &state);
    if (result != ncclSuccess) return NcclError(result, "ncclCommGetAsyncError");
    if (state == ncclSuccess) return absl::OkStatus();
    if (state != ncclInProgress) return NcclError(state, call);
    const double waited = stopwatch.Seconds();
    if (absl::Seconds(waited) > most) return TimeoutError(call, waited);
    Pause(waited);
  }
}

absl::Status NcclCommunicator::Run(CallRecord call, int64_t bytes_sent,
                                   absl::FunctionRef<absl::Status()> body) {
  LONGSPAN_RETURN_IF_ERROR(broken_);
  const Stopwatch stopwatch;
  call.sequence = last_call_.sequence + 1;
  last_call_ = call;
  const absl::Status status = body();
  if (!status.ok()) return Break(status);
  AddToStats(stats_, call.name, 1, bytes_sent, stopwatch.Seconds());
  return absl::OkStatus();
}

absl::Status NcclCommunicator::AllGather(std::string_view name, const void* send, void* receive,
                                         int64_t bytes_per_rank, cuda::Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(CheckSize(name, bytes_per_rank));
  return Run({.operation = "AllGather", .name = name, .bytes = bytes_per_rank},
             bytes_per_rank * (size() - 1), [&] {
               if (bytes_per_rank == 0) return absl::OkStatus();
               return Finish(ncclAllGather(send, receive, bytes_per_rank, ncclUint8, comm_, stream),
                             "ncclAllGather");
             });
}

absl::Status NcclCommunicator::AllReduceMax(std::string_view name, float* data, int64_t count,
                                            cuda::Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(CheckSize(name, count));
  const int64_t bytes = count * static_cast<int64_t>(sizeof(float));
  return Run(
      {.operation = "AllReduceMax", .name = name, .bytes = bytes}, bytes * (size() - 1),
      [&]() -> absl::Status {
        if (count == 0) return absl::OkStatus();
        LONGSPAN_RETURN_IF_ERROR(OrderedFromFloats(data, count, stream));
        LONGSPAN_RETURN_IF_ERROR(Finish(
            ncclAllReduce(data, data, count, ncclInt32, ncclMax, comm_, stream), "ncclAllReduce"));
        return FloatsFromOrdered(data, count, stream);
      });
}

absl::Status NcclCommunicator::AllReduceSum(std::string_view name, uint32_t* data, int64_t count,
                                            cuda::Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(CheckSize(name, count));
  const int64_t bytes = count * static_cast<int64_t>(sizeof(uint32_t));
  return Run({.operation = "AllReduceSum", .name = name, .bytes = bytes}, bytes * (size() - 1),
             [&]() -> absl::Status {
               if (count == 0) return absl::OkStatus();
               return Finish(ncclAllReduce(data, data, count, ncclUint32, ncclSum, comm_, stream),
                             "ncclAllReduce");
             });
}

absl::Status NcclCommunicator::Exchange(std::string_view name, absl::Span<const Transfer> sends,
                                        absl::Span<const Transfer> receives, cuda::Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(CheckTransfers(name, sends, receives, rank(), size()));
  const int64_t bytes_sent = BytesToOthers(sends, rank());
  return Run({.operation = "Exchange", .name = name, .bytes = bytes_sent}, bytes_sent,
             [&]() -> absl::Status {
               LONGSPAN_RETURN_IF_ERROR(CopyToSelf(sends, receives, rank(), stream));
               if (bytes_sent + BytesToOthers(receives, rank()) == 0) return absl::OkStatus();
               ncclResult_t result = ncclGroupStart();
               if (result != ncclSuccess) return NcclError(result, "ncclGroupStart");
               const auto fine = [&] { return result == ncclSuccess || result == ncclInProgress; };
               for (const Transfer& send : sends) {
                 if (send.peer == rank() || send.bytes == 0 || !fine()) continue;
                 result = ncclSend(send.data, send.bytes, ncclUint8, send.peer, comm_, stream);
               }
               for (const Transfer& receive : receives) {
                 if (receive.peer == rank() || receive.bytes == 0 || !fine()) continue;
                 result =
                     ncclRecv(receive.data, receive.bytes, ncclUint8, receive.peer, comm_, stream);
               }
               const ncclResult_t ended = ncclGroupEnd();  // in any case: it is the thread's
               if (!fine()) return NcclError(result, "ncclSend and ncclRecv");
               return Finish(ended, "ncclGroupEnd");
             });
}

absl::StatusOr<std::byte*> NcclCommunicator::AllocateShared(int64_t bytes) {
  LONGSPAN_RETURN_IF_ERROR(CheckSize("shared memory", bytes));
  LONGSPAN_RETURN_IF_ERROR(broken_);
  // Windows must be of one size.
  std::vector<int64_t> all(size());
  LONGSPAN_RETURN_IF_ERROR(host_->AllGather("shared memory", &bytes, all.data(), sizeof(bytes)));
  bytes = *std::max_element(all.begin(), all.end());
  if (bytes == 0) return nullptr;
  bytes = (bytes + kWindowAlignment - 1) / kWindowAlignment * kWindowAlignment;
  Shared& shared = memory_->shared.emplace_back();
  if (windows_.add != nullptr && size() > 1) {
    if (AllocateWindow(bytes, shared).ok()) return static_cast<std::byte*>(shared.data);
    LONGSPAN_RETURN_IF_ERROR(RestartWithoutWindows());
  }
  absl::StatusOr<cuda::Buffer> plain = cuda::Buffer::Allocate(bytes);
  LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(host_, plain.status()));
  shared.plain = *std::move(plain);
  return shared.plain.data();
}

absl::Status NcclCommunicator::AllocateWindow(int64_t bytes, Shared& shared) {
  absl::Status status;
  if (const ncclResult_t result = ncclMemAlloc(&shared.data, bytes); result != ncclSuccess) {
    shared.data = nullptr;
    status = NcclError(result, "ncclMemAlloc");
  }
  // Agreed, as registering would wait for a rank that has no memory.
  LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(host_, status));
  status = Finish(windows_.add(comm_, shared.data, bytes, &shared.window, kSymmetric),
                  "ncclCommWindowRegister", host_->timeout() / 2);
  return AgreeOnStatus(host_, status);
}

// NCCL goes no further after an error, and there may be one on another rank only.
absl::Status NcclCommunicator::RestartWithoutWindows() {
  Abort();
  // It ends here, for no graphs have captured its calls yet.
  if (!Ended()) return Start(absl::InternalError("NCCL does not end after an error"));
  ended_ = nullptr;
  windows_ = {};
  for (Shared& shared : memory_->shared) shared.window = nullptr;
  if (void*& last = memory_->shared.back().data; last != nullptr) {
    ncclMemFree(std::exchange(last, nullptr));
  }
  return Start(absl::OkStatus());
}

absl::Status NcclCommunicator::Synchronize(cuda::Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(broken_);
  const Stopwatch stopwatch;
  for (;;) {
    const absl::StatusOr<bool> done = cuda::IsDone(stream);
    if (!done.ok()) return Break(done.status());
    if (const absl::Status status = AsyncError(); !status.ok()) return Break(status);
    const double waited = stopwatch.Seconds();
    if (*done) {
      AddToStats(stats_, "synchronize", 1, 0, waited);
      return absl::OkStatus();
    }
    if (absl::Seconds(waited) > timeout()) {
      return Break(TimeoutError("the GPU's work up to that call", waited));
    }
    Pause(waited);
  }
}

// Where a rank is and what it runs; the ranks compare them before NCCL does.
struct RankGpu {
  int32_t version = 0;
  int32_t may_share = 0;
  char gpu[248] = "";
};

// What NCCL takes for a host: this variable can join containers, or set ranks of one host apart.
std::string HostOf(const std::string& name) {
  const char* given = std::getenv("NCCL_HOSTID");
  return given == nullptr || *given == '\0' ? name : given;
}

absl::StatusOr<RankGpu> FindRankGpu(int device, const std::string& host_name) {
  RankGpu found;
  if (const ncclResult_t result = ncclGetVersion(&found.version); result != ncclSuccess) {
    return NcclError(result, "ncclGetVersion");
  }
  if (found.version < kOldestNccl) {
    return absl::FailedPreconditionError(
        absl::StrCat("the NCCL library here is ", VersionText(found.version), ": install ",
                     VersionText(kOldestNccl),
                     " or later (see LD_LIBRARY_PATH for where it was found), or use "
                     "`parallel.communicator: mpi`"));
  }
  LONGSPAN_RETURN_IF_ERROR(cuda::UseDevice(device).status());
  char bus[32] = "";
  LONGSPAN_RETURN_IF_ERROR(
      cuda::ToStatus(cudaDeviceGetPCIBusId(bus, sizeof(bus), device), "cudaDeviceGetPCIBusId"));
  std::string gpu = absl::StrCat("GPU ", bus, " of ", host_name);
  if (found.version >= kSharedGpuNccl) {  // tells the partitions of a GPU apart
    cudaDeviceProp properties;
    LONGSPAN_RETURN_IF_ERROR(
        cuda::ToStatus(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties"));
    gpu += " (";
    for (const char byte : properties.uuid.bytes) {
      absl::StrAppendFormat(&gpu, "%02x", static_cast<unsigned char>(byte));
    }
    gpu += ")";
  }
  std::memcpy(found.gpu, gpu.data(), std::min(gpu.size(), sizeof(found.gpu) - 1));
  const char* share = std::getenv("NCCL_MULTI_RANK_GPU_ENABLE");
  found.may_share = share != nullptr && std::atoi(share) != 0;
  return found;
}

// The same on every rank.
absl::Status CheckRankGpus(const std::vector<RankGpu>& ranks) {
  for (size_t r = 1; r < ranks.size(); ++r) {
    if (ranks[r].version != ranks[0].version) {
      return absl::FailedPreconditionError(
          absl::StrCat("rank 0 has NCCL ", VersionText(ranks[0].version), " and rank ", r, " has ",
                       VersionText(ranks[r].version), ": install one version on all hosts"));
    }
  }
  for (size_t b = 1; b < ranks.size(); ++b) {
    for (size_t a = 0; a < b; ++a) {
      if (std::string_view(ranks[a].gpu) != std::string_view(ranks[b].gpu)) continue;
      if (ranks[a].may_share && ranks[b].may_share && ranks[0].version >= kSharedGpuNccl) continue;
      return absl::FailedPreconditionError(absl::StrCat(
          "ranks ", a, " and ", b, " are both on ", ranks[a].gpu,
          ", and NCCL gives each rank a GPU of its own: start one rank a GPU; or set "
          "NCCL_MULTI_RANK_GPU_ENABLE=1 on all ranks, with NCCL 2.30 or later (this is ",
          VersionText(ranks[0].version), "); or use `parallel.communicator: mpi`"));
    }
  }
  return absl::OkStatus();
}

bool ShareGpus(const std::vector<RankGpu>& ranks) {
  for (size_t b = 1; b < ranks.size(); ++b) {
    for (size_t a = 0; a < b; ++a) {
      if (std::string_view(ranks[a].gpu) == std::string_view(ranks[b].gpu)) return true;
    }
  }
  return false;
}

}  // namespace

std::string NcclVersion() {
  int version = 0;
  return ncclGetVersion(&version) == ncclSuccess ? VersionText(version) : "";
}

absl::StatusOr<std::unique_ptr<DeviceCommunicator>> MakeNcclCommunicator(Communicator* host,
                                                                         int device) {
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<std::string> hosts, HostNames(*host));
  const absl::StatusOr<RankGpu> own = FindRankGpu(device, HostOf(hosts[host->rank()]));
  LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(host, own.status()));
  std::vector<RankGpu> ranks(host->size());
  LONGSPAN_RETURN_IF_ERROR(host->AllGather("gpus of ranks", &*own, ranks.data(), sizeof(RankGpu)));
  LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(host, CheckRankGpus(ranks)));

  // Windows are between GPUs: ranks that share one do without.
  const WindowFunctions windows =
      ShareGpus(ranks) ? WindowFunctions() : FindWindowFunctions(own->version);
  // All that a rank can fail at by itself comes before they join.
  absl::StatusOr<FirstGather> first = FirstGather::Create(host->size());
  const absl::Status ready = first.status();
  auto communicator = std::make_unique<NcclCommunicator>(
      host, windows, ready.ok() ? *std::move(first) : FirstGather());
  LONGSPAN_RETURN_IF_ERROR(communicator->Start(ready));
  return communicator;
}

}  // namespace longspan
