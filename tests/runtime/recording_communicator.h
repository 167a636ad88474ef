#ifndef LONGSPAN_TESTS_RUNTIME_RECORDING_COMMUNICATOR_H_
#define LONGSPAN_TESTS_RUNTIME_RECORDING_COMMUNICATOR_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "collectives/communicator.h"
#include "sharding/layer_schedule.h"

namespace longspan {

// Passes every call on, and notes it as a schedule would say it: of exchanges this rank's own
// messages, without those to itself and empty ones.
class RecordingCommunicator final : public Communicator {
 public:
  explicit RecordingCommunicator(Communicator* communicator) : communicator_(communicator) {}

  const std::vector<Collective>& calls() const { return calls_; }

  int rank() const override { return communicator_->rank(); }
  int size() const override { return communicator_->size(); }
  absl::Status Barrier(std::string_view name) override { return communicator_->Barrier(name); }
  absl::Status Broadcast(std::string_view name, void* data, int64_t bytes, int root) override {
    calls_.push_back({CollectiveKind::kBroadcast, name, {bytes}, {}});
    return communicator_->Broadcast(name, data, bytes, root);
  }
  absl::Status AllGather(std::string_view name, const void* send, void* receive,
                         int64_t bytes_per_rank) override {
    calls_.push_back(
        {CollectiveKind::kAllGather, name, std::vector<int64_t>(size(), bytes_per_rank), {}});
    return communicator_->AllGather(name, send, receive, bytes_per_rank);
  }
  absl::Status AllGatherV(std::string_view name, const void* send, void* receive,
                          absl::Span<const int64_t> bytes) override {
    calls_.push_back({CollectiveKind::kAllGather, name, {bytes.begin(), bytes.end()}, {}});
    return communicator_->AllGatherV(name, send, receive, bytes);
  }
  absl::Status AllReduceMax(std::string_view name, float* data, int64_t count) override {
    calls_.push_back({CollectiveKind::kAllReduceMax, name, {count * 4}, {}});
    return communicator_->AllReduceMax(name, data, count);
  }
  absl::Status AllReduceSum(std::string_view name, double* data, int64_t count) override {
    calls_.push_back({CollectiveKind::kAllReduceSum, name, {count * 8}, {}});
    return communicator_->AllReduceSum(name, data, count);
  }
  absl::Status AllReduceSum(std::string_view name, uint32_t* data, int64_t count) override {
    calls_.push_back({CollectiveKind::kAllReduceSum, name, {count * 4}, {}});
    return communicator_->AllReduceSum(name, data, count);
  }
  absl::StatusOr<ExchangeId> StartExchange(std::string_view name, absl::Span<const Transfer> sends,
                                           absl::Span<const Transfer> receives) override {
    Collective& call = calls_.emplace_back(Collective{CollectiveKind::kExchange, name, {}, {}});
    for (const Transfer& send : sends) Note({rank(), send.peer, send.bytes}, &call);
    for (const Transfer& receive : receives) Note({receive.peer, rank(), receive.bytes}, &call);
    return communicator_->StartExchange(name, sends, receives);
  }
  absl::Status WaitExchange(ExchangeId exchange) override {
    return communicator_->WaitExchange(exchange);
  }
  void Progress() override { communicator_->Progress(); }
  void set_timeout(absl::Duration timeout) override { communicator_->set_timeout(timeout); }
  absl::Duration timeout() const override { return communicator_->timeout(); }
  void Abort(const absl::Status& error) override { communicator_->Abort(error); }
  const CommunicatorStats& stats() const override { return communicator_->stats(); }

 private:
  static void Note(const Message& message, Collective* call) {
    if (message.from != message.to && message.bytes > 0) call->messages.push_back(message);
  }

  Communicator* communicator_;
  std::vector<Collective> calls_;
};

}  // namespace longspan

#endif  // LONGSPAN_TESTS_RUNTIME_RECORDING_COMMUNICATOR_H_
