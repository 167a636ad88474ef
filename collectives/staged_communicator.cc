#include "collectives/staged_communicator.h"

#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "collectives/argument_checks.h"
#include "collectives/device_steps.h"
#include "collectives/watchdog.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

// Copies of the GPU are fastest from and to such addresses.
constexpr int64_t kAlignment = 256;
// The memory grows in such steps, as pinning and unpinning it is slow.
constexpr int64_t kGranularity = int64_t{2} << 20;

int64_t RoundUp(int64_t bytes, int64_t step) { return (bytes + step - 1) / step * step; }

class StagedCommunicator : public DeviceCommunicator {
 public:
  explicit StagedCommunicator(Communicator* communicator) : host_(communicator) {}

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  bool stream_ordered() const override { return size() == 1; }
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
  // Runs `body` and counts it. An error breaks the communicator.
  absl::Status Run(std::string_view name, int64_t bytes_sent,
                   absl::FunctionRef<absl::Status()> body);
  // `reduce` combines what of all ranks is in buffer_, in place.
  absl::Status StageReduction(void* data, int64_t bytes, cuda::Stream stream,
                              absl::FunctionRef<absl::Status()> reduce);
  // Makes room for that much in buffer_, whose contents are lost.
  absl::Status Reserve(int64_t bytes);
  absl::Status StageExchange(std::string_view name, absl::Span<const Transfer> sends,
                             absl::Span<const Transfer> receives, cuda::Stream stream);

  Communicator* host_;
  absl::Status broken_;
  CommunicatorStats stats_;
  cuda::PinnedBuffer buffer_;
  std::vector<cuda::Buffer> shared_;
};

absl::Status StagedCommunicator::Run(std::string_view name, int64_t bytes_sent,
                                     absl::FunctionRef<absl::Status()> body) {
  LONGSPAN_RETURN_IF_ERROR(broken_);
  const Stopwatch stopwatch;
  broken_ = body();
  LONGSPAN_RETURN_IF_ERROR(broken_);
  AddToStats(stats_, name, 1, bytes_sent, stopwatch.Seconds());
  return absl::OkStatus();
}

absl::Status StagedCommunicator::Reserve(int64_t bytes) {
  if (bytes <= buffer_.bytes()) return absl::OkStatus();
  buffer_ = cuda::PinnedBuffer();  // first, so that there are never two
  LONGSPAN_ASSIGN_OR_RETURN(buffer_, cuda::PinnedBuffer::Allocate(RoundUp(bytes, kGranularity)));
  return absl::OkStatus();
}

absl::Status StagedCommunicator::StageReduction(void* data, int64_t bytes, cuda::Stream stream,
                                                absl::FunctionRef<absl::Status()> reduce) {
  LONGSPAN_RETURN_IF_ERROR(Reserve(bytes));
  if (bytes > 0) LONGSPAN_RETURN_IF_ERROR(cuda::Copy(buffer_.data(), data, bytes, stream));
  LONGSPAN_RETURN_IF_ERROR(cuda::Synchronize(stream));
  LONGSPAN_RETURN_IF_ERROR(reduce());
  if (bytes == 0) return absl::OkStatus();
  LONGSPAN_RETURN_IF_ERROR(cuda::Copy(data, buffer_.data(), bytes, stream));
  return cuda::Synchronize(stream);
}

absl::Status StagedCommunicator::AllGather(std::string_view name, const void* send, void* receive,
                                           int64_t bytes_per_rank, cuda::Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(CheckSize(name, bytes_per_rank));
  return Run(name, bytes_per_rank * (size() - 1), [&]() -> absl::Status {
    if (size() == 1) {
      if (bytes_per_rank == 0 || send == receive) return absl::OkStatus();
      return cuda::Copy(receive, send, bytes_per_rank, stream);
    }
    const int64_t total = bytes_per_rank * size();
    LONGSPAN_RETURN_IF_ERROR(Reserve(total));
    std::byte* own = buffer_.data() + bytes_per_rank * rank();
    if (total > 0) LONGSPAN_RETURN_IF_ERROR(cuda::Copy(own, send, bytes_per_rank, stream));
    LONGSPAN_RETURN_IF_ERROR(cuda::Synchronize(stream));
    LONGSPAN_RETURN_IF_ERROR(host_->AllGather(name, own, buffer_.data(), bytes_per_rank));
    if (total == 0) return absl::OkStatus();
    LONGSPAN_RETURN_IF_ERROR(cuda::Copy(receive, buffer_.data(), total, stream));
    return cuda::Synchronize(stream);  // the next call, in any stream, writes the buffer
  });
}

absl::Status StagedCommunicator::AllReduceMax(std::string_view name, float* data, int64_t count,
                                              cuda::Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(CheckSize(name, count));
  const int64_t bytes = count * static_cast<int64_t>(sizeof(float));
  return Run(name, bytes * (size() - 1), [&]() -> absl::Status {
    if (size() == 1) {  // there and back, which leaves no NaN
      LONGSPAN_RETURN_IF_ERROR(OrderedFromFloats(data, count, stream));
      return FloatsFromOrdered(data, count, stream);
    }
    return StageReduction(data, bytes, stream,
                          [&] { return host_->AllReduceMax(name, buffer_.as<float>(), count); });
  });
}

absl::Status StagedCommunicator::AllReduceSum(std::string_view name, uint32_t* data, int64_t count,
                                              cuda::Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(CheckSize(name, count));
  const int64_t bytes = count * static_cast<int64_t>(sizeof(uint32_t));
  return Run(name, bytes * (size() - 1), [&]() -> absl::Status {
    if (size() == 1) return absl::OkStatus();
    return StageReduction(data, bytes, stream,
                          [&] { return host_->AllReduceSum(name, buffer_.as<uint32_t>(), count); });
  });
}

absl::Status StagedCommunicator::Exchange(std::string_view name, absl::Span<const Transfer> sends,
                                          absl::Span<const Transfer> receives,
                                          cuda::Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(CheckTransfers(name, sends, receives, rank(), size()));
  return Run(name, BytesToOthers(sends, rank()), [&]() -> absl::Status {
    LONGSPAN_RETURN_IF_ERROR(CopyToSelf(sends, receives, rank(), stream));
    return size() == 1 ? absl::OkStatus() : StageExchange(name, sends, receives, stream);
  });
}

absl::Status StagedCommunicator::StageExchange(std::string_view name,
                                               absl::Span<const Transfer> sends,
                                               absl::Span<const Transfer> receives,
                                               cuda::Stream stream) {
  int64_t total = 0;
  for (const absl::Span<const Transfer> transfers : {sends, receives}) {
    for (const Transfer& t : transfers) {
      if (t.peer != rank()) total += RoundUp(t.bytes, kAlignment);
    }
  }
  LONGSPAN_RETURN_IF_ERROR(Reserve(total));
  std::byte* at = buffer_.data();
  const auto stage = [&](const Transfer& transfer, std::vector<Transfer>& staged) {
    staged.push_back({transfer.peer, at, transfer.bytes});
    at += RoundUp(transfer.bytes, kAlignment);
  };
  std::vector<Transfer> staged_sends, staged_receives;
  for (const Transfer& send : sends) {
    if (send.peer == rank() || send.bytes == 0) continue;
    stage(send, staged_sends);
    LONGSPAN_RETURN_IF_ERROR(cuda::Copy(staged_sends.back().data, send.data, send.bytes, stream));
  }
  for (const Transfer& receive : receives) {
    if (receive.peer != rank() && receive.bytes > 0) stage(receive, staged_receives);
  }
  LONGSPAN_RETURN_IF_ERROR(cuda::Synchronize(stream));
  LONGSPAN_ASSIGN_OR_RETURN(const ExchangeId exchange,
                            host_->StartExchange(name, staged_sends, staged_receives));
  LONGSPAN_RETURN_IF_ERROR(host_->WaitExchange(exchange));
  auto staged = staged_receives.begin();
  for (const Transfer& receive : receives) {
    if (receive.peer == rank() || receive.bytes == 0) continue;
    LONGSPAN_RETURN_IF_ERROR(cuda::Copy(receive.data, staged->data, receive.bytes, stream));
    ++staged;
  }
  return cuda::Synchronize(stream);
}

absl::StatusOr<std::byte*> StagedCommunicator::AllocateShared(int64_t bytes) {
  LONGSPAN_RETURN_IF_ERROR(CheckSize("shared memory", bytes));
  LONGSPAN_RETURN_IF_ERROR(broken_);
  LONGSPAN_ASSIGN_OR_RETURN(cuda::Buffer buffer, cuda::Buffer::Allocate(bytes));
  shared_.push_back(std::move(buffer));
  return shared_.back().data();
}

absl::Status StagedCommunicator::Synchronize(cuda::Stream stream) {
  return Run("synchronize", 0, [&] { return cuda::Synchronize(stream); });
}

}  // namespace

std::unique_ptr<DeviceCommunicator> MakeStagedCommunicator(Communicator* communicator) {
  return std::make_unique<StagedCommunicator>(communicator);
}

}  // namespace longspan
