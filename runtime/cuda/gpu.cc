#include "runtime/cuda/gpu.h"

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "collectives/agree.h"
#include "collectives/hosts.h"
#include "collectives/nccl_communicator.h"
#include "collectives/staged_communicator.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

// Ranks of this rank's host: all of them, and those before this one.
struct HostRanks {
  int all = 0;
  int before = 0;
};

absl::StatusOr<HostRanks> CountHostRanks(Communicator& communicator) {
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<std::string> names, HostNames(communicator));
  HostRanks count;
  for (int r = 0; r < communicator.size(); ++r) {
    if (names[r] != names[communicator.rank()]) continue;
    ++count.all;
    if (r < communicator.rank()) ++count.before;
  }
  return count;
}

// Ranks on the same GPU, which each may know by another number.
absl::StatusOr<int> CountSharers(Communicator& communicator, const cuda::DeviceInfo& info) {
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<std::string> hosts, HostNames(communicator));
  char mine[32] = {};
  info.bus_id.copy(mine, sizeof(mine) - 1);
  std::vector<char> all(communicator.size() * sizeof(mine));
  LONGSPAN_RETURN_IF_ERROR(communicator.AllGather("gpu.ids", mine, all.data(), sizeof(mine)));
  int sharers = 0;
  for (int r = 0; r < communicator.size(); ++r) {
    if (hosts[r] != hosts[communicator.rank()]) continue;
    if (std::strcmp(all.data() + r * sizeof(mine), mine) == 0) ++sharers;
  }
  return sharers;
}

absl::StatusOr<std::unique_ptr<Gpu>> Open(HostRanks ranks) {
  LONGSPAN_ASSIGN_OR_RETURN(const int devices, cuda::CountDevices());
  if (devices == 0) return NoGpu();
  auto gpu = std::make_unique<Gpu>();
  gpu->device = ranks.before % devices;
  gpu->ranks_on_host = ranks.all;
  LONGSPAN_ASSIGN_OR_RETURN(gpu->info, cuda::UseDevice(gpu->device));
  LONGSPAN_ASSIGN_OR_RETURN(gpu->stream, cuda::StreamHandle::Create());
  // Urgent, or a message would wait until all of the attention before it has had its turn.
  LONGSPAN_ASSIGN_OR_RETURN(gpu->ring, cuda::StreamHandle::CreateUrgent());
  LONGSPAN_ASSIGN_OR_RETURN(gpu->event, cuda::Event::Create());
  return gpu;
}

template <typename Buffer>
Memory Own(Buffer buffer) {
  auto owner = std::make_shared<Buffer>(std::move(buffer));
  return Memory(owner->data(), [owner](std::byte*) {});
}

}  // namespace

// A wait keeps to what was recorded when it was made, so that one event does for all.
absl::Status Gpu::Order(const cuda::StreamHandle& first, const cuda::StreamHandle& later) {
  LONGSPAN_RETURN_IF_ERROR(event.Record(first.get()));
  return cuda::WaitFor(later.get(), event);
}

absl::Status NoGpu() {
  return absl::UnavailableError(
      "`device: cuda`: there is no NVIDIA GPU, or no driver for it, on this host; see nvidia-smi, "
      "or use `device: cpu`");
}

absl::StatusOr<std::unique_ptr<Gpu>> OpenGpu(const Config& config, Communicator* world,
                                             Communicator* of_model) {
  LONGSPAN_ASSIGN_OR_RETURN(const HostRanks ranks, CountHostRanks(*world));
  absl::StatusOr<std::unique_ptr<Gpu>> gpu = Open(ranks);
  LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(world, gpu.status()));
  LONGSPAN_ASSIGN_OR_RETURN((*gpu)->sharers, CountSharers(*world, (*gpu)->info));
  absl::StatusOr<std::unique_ptr<DeviceCommunicator>> between =
      config.parallel.communicator == CommunicatorKind::kNccl
          ? MakeNcclCommunicator(of_model, (*gpu)->device)
          : MakeStagedCommunicator(of_model);
  LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(world, between.status()));
  (*gpu)->communicator = *std::move(between);
  return gpu;
}

absl::StatusOr<Memory> AllocateDeviceMemory(int64_t bytes) {
  LONGSPAN_ASSIGN_OR_RETURN(cuda::Buffer buffer, cuda::Buffer::Allocate(bytes));
  return Own(std::move(buffer));
}

absl::StatusOr<Memory> AllocatePinnedMemory(int64_t bytes) {
  LONGSPAN_ASSIGN_OR_RETURN(cuda::PinnedBuffer buffer, cuda::PinnedBuffer::Allocate(bytes));
  return Own(std::move(buffer));
}

absl::Status CopyGpuMemory(std::byte* to, const std::byte* from, int64_t bytes) {
  // No other stream waits for the default one.
  LONGSPAN_RETURN_IF_ERROR(cuda::SynchronizeDevice());
  LONGSPAN_RETURN_IF_ERROR(cuda::Copy(to, from, bytes, /*stream=*/nullptr));
  return cuda::Synchronize(/*stream=*/nullptr);
}

}  // namespace longspan
