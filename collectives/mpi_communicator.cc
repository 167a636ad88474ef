#include "collectives/mpi_communicator.h"

#include <mpi.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "collectives/argument_checks.h"
#include "collectives/ordered_float.h"
#include "collectives/watchdog.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

constexpr int kReportTag = 1;
constexpr int kExchangeTags = 32768;         // MPI promises tags up to 32767
constexpr double kListenAfterSeconds = 0.1;  // a wait this long looks for reports of other ranks
constexpr absl::Duration kGrace = absl::Seconds(1);

absl::Status MpiStatus(int code, const char* call) {
  if (code == MPI_SUCCESS) return absl::OkStatus();
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  return absl::InternalError(absl::StrCat(call, ": ", text));
}

#define LONGSPAN_RETURN_IF_MPI_ERROR(call) LONGSPAN_RETURN_IF_ERROR(MpiStatus((call), #call))

[[noreturn]] void PrintAndAbort(absl::string_view message) {
  const std::string line = absl::StrCat("longspan: ", message, "\n");  // one write, never torn
  std::fwrite(line.data(), 1, line.size(), stderr);
  std::fflush(stderr);
  MPI_Abort(MPI_COMM_WORLD, 1);
  std::abort();
}

// Between two polls. Short waits cost a poll, longer ones leave the core to ranks that compute.
class Backoff {
 public:
  explicit Backoff(bool oversubscribed) : spin_seconds_(oversubscribed ? 0 : 20e-6) {}

  void Pause(double waited_seconds) {
    if (waited_seconds < spin_seconds_) return;
    if (waited_seconds < kYieldSeconds) {
      sched_yield();
      return;
    }
    const timespec pause = {0, waited_seconds < 10 * kYieldSeconds ? 20'000 : 100'000};
    nanosleep(&pause, nullptr);
  }

 private:
  static constexpr double kYieldSeconds = 1e-3;
  const double spin_seconds_;
};

// Requests that complete together, and what the messages among them must have brought.
struct Pending {
  CallRecord call;
  std::vector<MPI_Request> requests;
  std::vector<Transfer> messages;  // of the first requests, if they are messages: peer and bytes
  int receives = 0;                // how many of the messages are received
  bool done = false;
};

class MpiCommunicator : public Communicator {
 public:
  static absl::StatusOr<std::unique_ptr<MpiCommunicator>> Create(const CommunicatorOptions& options,
                                                                 bool oversubscribed);
  ~MpiCommunicator() override;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  const CommunicatorStats& stats() const override { return stats_; }

  absl::Status Barrier(std::string_view name) override;
  absl::Status Broadcast(std::string_view name, void* data, int64_t bytes, int root) override;
  absl::Status AllGather(std::string_view name, const void* send, void* receive,
                         int64_t bytes_per_rank) override;
  absl::Status AllGatherV(std::string_view name, const void* send, void* receive,
                          absl::Span<const int64_t> bytes) override;
  absl::Status AllReduceMax(std::string_view name, float* data, int64_t count) override;
  absl::Status AllReduceSum(std::string_view name, double* data, int64_t count) override;
  absl::Status AllReduceSum(std::string_view name, uint32_t* data, int64_t count) override;
  absl::StatusOr<ExchangeId> StartExchange(std::string_view name, absl::Span<const Transfer> sends,
                                           absl::Span<const Transfer> receives) override;
  absl::Status WaitExchange(ExchangeId exchange) override;
  void Progress() override;
  void set_timeout(absl::Duration timeout) override { options_.timeout = timeout; }
  absl::Duration timeout() const override { return options_.timeout; }
  [[noreturn]] void Abort(const absl::Status& error) override;

 private:
  MpiCommunicator(const CommunicatorOptions& options, bool oversubscribed)
      : options_(options), oversubscribed_(oversubscribed) {}

  int64_t others() const { return size_ - 1; }
  // Numbers the call, checks it if asked to, runs `body` and counts it. An error breaks the
  // communicator.
  absl::Status Run(CallRecord call, absl::Span<const int64_t> sizes, int64_t bytes_sent,
                   absl::FunctionRef<absl::Status(const CallRecord&)> body);
  absl::Status CheckAgreement(const CallRecord& call);
  absl::Status CheckExchange(const CallRecord& call, absl::Span<const Transfer> sends,
                             absl::Span<const Transfer> receives);

  // receive: the parts of all ranks in rank order; `send` may be this rank's part of it.
  absl::Status Gather(const CallRecord& call, const void* send, void* receive,
                      absl::Span<const int64_t> bytes);
  absl::Status GatherByMessages(const CallRecord& call, const void* send, void* receive,
                                absl::Span<const int64_t> bytes);
  absl::Status PostMessages(absl::Span<const Transfer> sends, absl::Span<const Transfer> receives,
                            Pending& pending);
  absl::Status PostMessage(const Transfer& transfer, bool is_send, Pending& pending);

  // In place, of integers of four bytes, on which `op` is exact.
  absl::Status ReduceIntegers(const CallRecord& call, void* data, int64_t count, MPI_Datatype type,
                              MPI_Op op);

  absl::Status Poll(Pending& pending);
  absl::Status Wait(Pending& pending);
  absl::Status WaitOne(const CallRecord& call, MPI_Request request);

  // `call` is one that ends only after every rank has entered it.
  void SeeAll(const CallRecord& call) { last_seen_.assign(size_, call); }
  bool AnotherRankTimedOut();
  [[noreturn]] void ReportAndAbort(const CallRecord& call, double seconds);

  CommunicatorOptions options_;
  const bool oversubscribed_;
  MPI_Comm data_ = MPI_COMM_NULL;  // the calls
  MPI_Comm watchdog_ =
      MPI_COMM_NULL;  // agreement checks and reports: never mixed up with the calls
  int rank_ = 0;
  int size_ = 1;
  int64_t sequence_ = 0;
  absl::Status broken_;
  CommunicatorStats stats_;
  std::map<ExchangeId, Pending> exchanges_;
  std::vector<CallRecord> last_seen_;  // [rank] the last call that the rank has surely entered
  std::vector<int32_t> ordered_;       // scratch of AllReduceMax
};

absl::StatusOr<std::unique_ptr<MpiCommunicator>> MpiCommunicator::Create(
    const CommunicatorOptions& options, bool oversubscribed) {
  std::unique_ptr<MpiCommunicator> c(new MpiCommunicator(options, oversubscribed));
  LONGSPAN_RETURN_IF_MPI_ERROR(MPI_Comm_dup(MPI_COMM_WORLD, &c->data_));
  LONGSPAN_RETURN_IF_MPI_ERROR(MPI_Comm_dup(MPI_COMM_WORLD, &c->watchdog_));
  MPI_Comm_set_errhandler(c->data_, MPI_ERRORS_RETURN);
  MPI_Comm_set_errhandler(c->watchdog_, MPI_ERRORS_RETURN);
  MPI_Comm_rank(c->data_, &c->rank_);
  MPI_Comm_size(c->data_, &c->size_);
  c->last_seen_.resize(c->size_);
  return c;
}

MpiCommunicator::~MpiCommunicator() {
  if (data_ != MPI_COMM_NULL) MPI_Comm_free(&data_);
  if (watchdog_ != MPI_COMM_NULL) MPI_Comm_free(&watchdog_);
}

absl::Status MpiCommunicator::Run(CallRecord call, absl::Span<const int64_t> sizes,
                                  int64_t bytes_sent,
                                  absl::FunctionRef<absl::Status(const CallRecord&)> body) {
  LONGSPAN_RETURN_IF_ERROR(broken_);
  const Stopwatch stopwatch;
  call.sequence = ++sequence_;
  SetAgreement(call, sizes);
  last_seen_[rank_] = call;
  absl::Status status = options_.check_agreement ? CheckAgreement(call) : absl::OkStatus();
  if (status.ok()) status = body(call);
  if (!status.ok()) {
    broken_ = status;
    return status;
  }
  AddToStats(stats_, call.name, 1, bytes_sent, stopwatch.Seconds());
  return absl::OkStatus();
}

absl::Status MpiCommunicator::CheckAgreement(const CallRecord& call) {
  struct Entry {
    uint64_t agreement;
    char call[120];
  };
  Entry own = {call.agreement, ""};
  const std::string text = DescribeCall(call);
  std::memcpy(own.call, text.data(), std::min(text.size(), sizeof(own.call) - 1));
  std::vector<Entry> entries(size_);
  MPI_Request request;
  LONGSPAN_RETURN_IF_MPI_ERROR(MPI_Iallgather(&own, sizeof(Entry), MPI_BYTE, entries.data(),
                                              sizeof(Entry), MPI_BYTE, watchdog_, &request));
  LONGSPAN_RETURN_IF_ERROR(WaitOne(call, request));
  const bool agree = std::all_of(entries.begin(), entries.end(), [&](const Entry& entry) {
    return entry.agreement == call.agreement;
  });
  if (agree) return absl::OkStatus();
  std::vector<std::string> calls;
  for (const Entry& entry : entries) calls.emplace_back(entry.call);
  return absl::InternalError(MismatchMessage(calls));
}

absl::Status MpiCommunicator::CheckExchange(const CallRecord& call,
                                            absl::Span<const Transfer> sends,
                                            absl::Span<const Transfer> receives) {
  std::vector<int64_t> sent(size_), expected(size_), arriving(size_);
  for (const Transfer& send : sends) sent[send.peer] += send.bytes;
  for (const Transfer& receive : receives) expected[receive.peer] += receive.bytes;
  MPI_Request request;
  LONGSPAN_RETURN_IF_MPI_ERROR(MPI_Ialltoall(sent.data(), 1, MPI_INT64_T, arriving.data(), 1,
                                             MPI_INT64_T, watchdog_, &request));
  LONGSPAN_RETURN_IF_ERROR(WaitOne(call, request));
  for (int r = 0; r < size_; ++r) {
    if (arriving[r] == expected[r]) continue;
    CallRecord from = call;
    from.peer = r;
    return WrongSizeError(from, arriving[r], expected[r]);
  }
  return absl::OkStatus();
}

absl::Status MpiCommunicator::Barrier(std::string_view name) {
  return Run({.operation = "Barrier", .name = name}, {}, 0, [&](const CallRecord& call) {
    MPI_Request request;
    LONGSPAN_RETURN_IF_MPI_ERROR(MPI_Ibarrier(data_, &request));
    LONGSPAN_RETURN_IF_ERROR(WaitOne(call, request));
    SeeAll(call);
    return absl::OkStatus();
  });
}

absl::Status MpiCommunicator::Broadcast(std::string_view name, void* data, int64_t bytes,
                                        int root) {
  LONGSPAN_RETURN_IF_ERROR(CheckRoot(name, root, size_));
  LONGSPAN_RETURN_IF_ERROR(CheckSize(name, bytes));
  return Run({.operation = "Broadcast", .name = name, .bytes = bytes, .peer = root}, {bytes, root},
             rank_ == root ? bytes * others() : 0, [&](const CallRecord& call) {
               for (int64_t at = 0; at < bytes; at += options_.max_message_bytes) {
                 const int64_t count = std::min(options_.max_message_bytes, bytes - at);
                 MPI_Request request;
                 LONGSPAN_RETURN_IF_MPI_ERROR(MPI_Ibcast(static_cast<char*>(data) + at,
                                                         static_cast<int>(count), MPI_BYTE, root,
                                                         data_, &request));
                 LONGSPAN_RETURN_IF_ERROR(WaitOne(call, request));
               }
               last_seen_[root] = bytes > 0 ? call : last_seen_[root];
               return absl::OkStatus();
             });
}

absl::Status MpiCommunicator::AllGather(std::string_view name, const void* send, void* receive,
                                        int64_t bytes_per_rank) {
  LONGSPAN_RETURN_IF_ERROR(CheckSize(name, bytes_per_rank));
  return Run({.operation = "AllGather", .name = name, .bytes = bytes_per_rank}, {bytes_per_rank},
             bytes_per_rank * others(), [&](const CallRecord& call) {
               return Gather(call, send, receive, std::vector<int64_t>(size_, bytes_per_rank));
             });
}

absl::Status MpiCommunicator::AllGatherV(std::string_view name, const void* send, void* receive,
                                         absl::Span<const int64_t> bytes) {
  LONGSPAN_RETURN_IF_ERROR(CheckSizes(name, bytes, size_));
  return Run({.operation = "AllGatherV", .name = name, .bytes = bytes[rank_]}, bytes,
             bytes[rank_] * others(),
             [&](const CallRecord& call) { return Gather(call, send, receive, bytes); });
}

absl::Status MpiCommunicator::Gather(const CallRecord& call, const void* send, void* receive,
                                     absl::Span<const int64_t> bytes) {
  const int64_t total = std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
  if (total == 0) return absl::OkStatus();
  if (total > options_.max_message_bytes) return GatherByMessages(call, send, receive, bytes);
  std::vector<int> counts(bytes.begin(), bytes.end());
  std::vector<int> offsets(size_);
  std::exclusive_scan(counts.begin(), counts.end(), offsets.begin(), 0);
  const bool in_place = send == static_cast<char*>(receive) + offsets[rank_];
  MPI_Request request;
  LONGSPAN_RETURN_IF_MPI_ERROR(MPI_Iallgatherv(in_place ? MPI_IN_PLACE : send, counts[rank_],
                                               MPI_BYTE, receive, counts.data(), offsets.data(),
                                               MPI_BYTE, data_, &request));
  LONGSPAN_RETURN_IF_ERROR(WaitOne(call, request));
  for (int r = 0; r < size_; ++r) {
    if (bytes[r] > 0) last_seen_[r] = call;
  }
  return absl::OkStatus();
}

absl::Status MpiCommunicator::GatherByMessages(const CallRecord& call, const void* send,
                                               void* receive, absl::Span<const int64_t> bytes) {
  std::vector<Transfer> sends, receives;
  char* to = static_cast<char*>(receive);
  for (int r = 0; r < size_; ++r) {
    sends.push_back({r, const_cast<void*>(send), bytes[rank_]});
    receives.push_back({r, to, bytes[r]});
    to += bytes[r];
  }
  Pending pending;
  pending.call = call;
  LONGSPAN_RETURN_IF_ERROR(PostMessages(sends, receives, pending));
  return Wait(pending);
}

absl::Status MpiCommunicator::ReduceIntegers(const CallRecord& call, void* data, int64_t count,
                                             MPI_Datatype type, MPI_Op op) {
  const int64_t most = std::max<int64_t>(1, options_.max_message_bytes / sizeof(int32_t));
  for (int64_t at = 0; at < count; at += most) {
    MPI_Request request;
    LONGSPAN_RETURN_IF_MPI_ERROR(MPI_Iallreduce(MPI_IN_PLACE, static_cast<int32_t*>(data) + at,
                                                static_cast<int>(std::min(most, count - at)), type,
                                                op, data_, &request));
    LONGSPAN_RETURN_IF_ERROR(WaitOne(call, request));
  }
  if (count > 0) SeeAll(call);
  return absl::OkStatus();
}

absl::Status MpiCommunicator::AllReduceMax(std::string_view name, float* data, int64_t count) {
  LONGSPAN_RETURN_IF_ERROR(CheckSize(name, count));
  const int64_t bytes = count * static_cast<int64_t>(sizeof(float));
  return Run({.operation = "AllReduceMax", .name = name, .bytes = bytes}, {bytes}, bytes * others(),
             [&](const CallRecord& call) {
               ordered_.resize(count);
               std::transform(data, data + count, ordered_.begin(), OrderedFromFloat);
               LONGSPAN_RETURN_IF_ERROR(
                   ReduceIntegers(call, ordered_.data(), count, MPI_INT32_T, MPI_MAX));
               std::transform(ordered_.begin(), ordered_.end(), data, FloatFromOrdered);
               return absl::OkStatus();
             });
}

absl::Status MpiCommunicator::AllReduceSum(std::string_view name, uint32_t* data, int64_t count) {
  LONGSPAN_RETURN_IF_ERROR(CheckSize(name, count));
  const int64_t bytes = count * static_cast<int64_t>(sizeof(uint32_t));
  return Run({.operation = "AllReduceSum", .name = name, .bytes = bytes}, {bytes}, bytes * others(),
             [&](const CallRecord& call) {
               return ReduceIntegers(call, data, count, MPI_UINT32_T, MPI_SUM);
             });
}

// Gathers and adds in rank order, in pieces that keep the scratch memory small.
absl::Status MpiCommunicator::AllReduceSum(std::string_view name, double* data, int64_t count) {
  LONGSPAN_RETURN_IF_ERROR(CheckSize(name, count));
  const int64_t bytes = count * static_cast<int64_t>(sizeof(double));
  constexpr int64_t kMostGathered = int64_t{1} << 20;
  const int64_t most = std::max<int64_t>(1, kMostGathered / size_);
  return Run({.operation = "AllReduceSum", .name = name, .bytes = bytes}, {bytes}, bytes * others(),
             [&](const CallRecord& call) {
               std::vector<double> parts(std::min(most, count) * size_);  // [size, piece]
               for (int64_t at = 0; at < count; at += most) {
                 const int64_t piece = std::min(most, count - at);
                 const std::vector<int64_t> sizes(size_, piece * sizeof(double));
                 LONGSPAN_RETURN_IF_ERROR(Gather(call, data + at, parts.data(), sizes));
                 std::fill_n(data + at, piece, 0.0);
                 for (int r = 0; r < size_; ++r) {
                   for (int64_t i = 0; i < piece; ++i) data[at + i] += parts[r * piece + i];
                 }
               }
               return absl::OkStatus();
             });
}

absl::Status MpiCommunicator::PostMessage(const Transfer& transfer, bool is_send,
                                          Pending& pending) {
  const int tag = static_cast<int>(pending.call.sequence % kExchangeTags);
  for (int64_t at = 0; at < transfer.bytes; at += options_.max_message_bytes) {
    const int count = static_cast<int>(std::min(options_.max_message_bytes, transfer.bytes - at));
    char* data = static_cast<char*>(transfer.data) + at;
    MPI_Request request;
    if (is_send) {
      LONGSPAN_RETURN_IF_MPI_ERROR(
          MPI_Isend(data, count, MPI_BYTE, transfer.peer, tag, data_, &request));
    } else {
      LONGSPAN_RETURN_IF_MPI_ERROR(
          MPI_Irecv(data, count, MPI_BYTE, transfer.peer, tag, data_, &request));
    }
    pending.requests.push_back(request);
    pending.messages.push_back({transfer.peer, data, count});
  }
  return absl::OkStatus();
}

// Receives come first: a message that finds its buffer waiting is not copied twice.
absl::Status MpiCommunicator::PostMessages(absl::Span<const Transfer> sends,
                                           absl::Span<const Transfer> receives, Pending& pending) {
  for (const Transfer& receive : receives) {
    if (receive.peer == rank_) continue;
    LONGSPAN_RETURN_IF_ERROR(PostMessage(receive, /*is_send=*/false, pending));
  }
  pending.receives = static_cast<int>(pending.messages.size());
  for (const Transfer& send : sends) {
    if (send.peer == rank_) continue;
    LONGSPAN_RETURN_IF_ERROR(PostMessage(send, /*is_send=*/true, pending));
  }
  // CheckTransfers has seen to it that the messages to itself pair up.
  auto receive = receives.begin();
  for (const Transfer& send : sends) {
    if (send.peer != rank_ || send.bytes == 0) continue;
    while (receive->peer != rank_ || receive->bytes == 0) ++receive;
    if (receive->data != send.data) std::memcpy(receive->data, send.data, send.bytes);
    ++receive;
  }
  return absl::OkStatus();
}

absl::StatusOr<ExchangeId> MpiCommunicator::StartExchange(std::string_view name,
                                                          absl::Span<const Transfer> sends,
                                                          absl::Span<const Transfer> receives) {
  LONGSPAN_RETURN_IF_ERROR(CheckTransfers(name, sends, receives, rank_, size_));
  const int64_t bytes_sent = BytesToOthers(sends, rank_);
  ExchangeId id{};
  const absl::Status status =
      Run({.operation = "Exchange", .name = name, .bytes = bytes_sent}, {}, bytes_sent,
          [&](const CallRecord& call) {
            if (options_.check_agreement) {
              LONGSPAN_RETURN_IF_ERROR(CheckExchange(call, sends, receives));
            }
            id = ExchangeId{call.sequence};
            Pending& pending = exchanges_[id];
            pending.call = call;
            return PostMessages(sends, receives, pending);
          });
  LONGSPAN_RETURN_IF_ERROR(status);
  return id;
}

absl::Status MpiCommunicator::WaitExchange(ExchangeId exchange) {
  LONGSPAN_RETURN_IF_ERROR(broken_);
  const Stopwatch stopwatch;
  const auto it = exchanges_.find(exchange);
  if (it == exchanges_.end()) return UnknownExchangeError(exchange);
  broken_ = Wait(it->second);
  AddToStats(stats_, it->second.call.name, 0, 0, stopwatch.Seconds());
  exchanges_.erase(it);
  return broken_;
}

void MpiCommunicator::Progress() {
  for (auto& [id, pending] : exchanges_) {
    if (broken_.ok()) broken_ = Poll(pending);
  }
}

absl::Status MpiCommunicator::Poll(Pending& pending) {
  if (pending.done) return absl::OkStatus();
  std::vector<MPI_Status> statuses(pending.requests.size());
  int done = 0;
  const int code = MPI_Testall(static_cast<int>(pending.requests.size()), pending.requests.data(),
                               &done, statuses.data());
  if (code != MPI_SUCCESS) {
    return absl::InternalError(
        absl::StrCat(MpiStatus(code, "MPI_Testall").message(), " in ", DescribeCall(pending.call)));
  }
  if (!done) return absl::OkStatus();
  pending.done = true;
  for (int i = 0; i < pending.receives; ++i) {
    const Transfer& message = pending.messages[i];
    int bytes = 0;
    MPI_Get_count(&statuses[i], MPI_BYTE, &bytes);
    CallRecord from = pending.call;
    from.peer = message.peer;
    if (bytes != message.bytes) return WrongSizeError(from, bytes, message.bytes);
    CallRecord& seen = last_seen_[message.peer];
    if (seen.sequence < pending.call.sequence) seen = pending.call;
  }
  return absl::OkStatus();
}

absl::Status MpiCommunicator::Wait(Pending& pending) {
  const double timeout = absl::ToDoubleSeconds(options_.timeout);
  const Stopwatch stopwatch;
  Backoff backoff(oversubscribed_);
  for (;;) {
    LONGSPAN_RETURN_IF_ERROR(Poll(pending));
    if (pending.done) return absl::OkStatus();
    const double waited = stopwatch.Seconds();
    if (waited > timeout || (waited > kListenAfterSeconds && AnotherRankTimedOut())) {
      for (int i = 0; i < pending.receives; ++i) {
        int arrived = 0;
        MPI_Request_get_status(pending.requests[i], &arrived, MPI_STATUS_IGNORE);
        if (!arrived && pending.call.peer < 0) pending.call.peer = pending.messages[i].peer;
      }
      ReportAndAbort(pending.call, waited);
    }
    backoff.Pause(waited);
  }
}

absl::Status MpiCommunicator::WaitOne(const CallRecord& call, MPI_Request request) {
  Pending pending;
  pending.call = call;
  pending.requests = {request};
  return Wait(pending);
}

bool MpiCommunicator::AnotherRankTimedOut() {
  int arrived = 0;
  MPI_Iprobe(MPI_ANY_SOURCE, kReportTag, watchdog_, &arrived, MPI_STATUS_IGNORE);
  return arrived != 0;
}

// The first rank to time out sends its status to all; those that wait answer with theirs and come
// here too. The lowest of them prints what all have said. Messages, because they need nothing of a
// rank that hangs, and one-sided access would need its progress on most networks.
void MpiCommunicator::ReportAndAbort(const CallRecord& call, double seconds) {
  const RankStatus own = MakeRankStatus(RankStatus::kInCall, call, seconds);
  std::vector<RankStatus> statuses(size_);
  std::vector<MPI_Request> sends(size_, MPI_REQUEST_NULL);
  for (int r = 0; r < size_; ++r) {
    statuses[r] = MakeRankStatus(RankStatus::kNoAnswer, last_seen_[r], 0);
    if (r == rank_) continue;
    MPI_Isend(&own, sizeof(own), MPI_BYTE, r, kReportTag, watchdog_, &sends[r]);
  }
  statuses[rank_] = own;
  const absl::Time end = absl::Now() + kGrace;
  while (absl::Now() < end) {
    int arrived = 0;
    MPI_Status status;
    MPI_Iprobe(MPI_ANY_SOURCE, kReportTag, watchdog_, &arrived, &status);
    if (arrived) {
      MPI_Recv(&statuses[status.MPI_SOURCE], sizeof(RankStatus), MPI_BYTE, status.MPI_SOURCE,
               kReportTag, watchdog_, MPI_STATUS_IGNORE);
    } else {
      absl::SleepFor(absl::Milliseconds(1));
    }
  }
  const bool lowest = std::all_of(statuses.begin(), statuses.begin() + rank_,
                                  [](const auto& s) { return s.state == RankStatus::kNoAnswer; });
  if (!lowest) absl::SleepFor(2 * kGrace);  // the lowest prints and ends this rank meanwhile
  PrintAndAbort(TimeoutMessage(rank_, call, seconds, statuses));
}

void MpiCommunicator::Abort(const absl::Status& error) {
  // When all ranks fail alike, rank 0 says so and the others are gone before they can repeat it.
  if (rank_ != 0) absl::SleepFor(absl::Milliseconds(200));
  PrintAndAbort(absl::StrCat("rank ", rank_, ": ", error.ToString()));
}

}  // namespace

int LaunchedRanks() {
  // An interactive Slurm step also says that it has one task: only more than one means srun.
  struct Source {
    const char* variable;
    int least;
  };
  for (const auto& [variable, least] : {Source{"OMPI_COMM_WORLD_SIZE", 1}, Source{"PMI_SIZE", 1},
                                        Source{"SLURM_STEP_NUM_TASKS", 2}}) {
    const char* text = std::getenv(variable);
    int ranks = 0;
    if (text != nullptr && absl::SimpleAtoi(text, &ranks) && ranks >= least) return ranks;
  }
  return 0;
}

absl::StatusOr<std::unique_ptr<MpiSession>> MpiSession::Start(const MpiOptions& options) {
  // With one connection Open MPI 4.1 sends large messages of two ranks to each other in turns: at
  // half a link's rate. What the environment or mpirun sets comes first.
  setenv("OMPI_MCA_btl_tcp_links", "2", /*replace=*/0);
  int provided = 0;
  LONGSPAN_RETURN_IF_MPI_ERROR(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided));
  int size = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  for (const int expected : {LaunchedRanks(), options.expected_ranks}) {
    if (expected == 0 || expected == size) continue;
    MPI_Finalize();
    return absl::FailedPreconditionError(absl::StrFormat(
        "%d MPI ranks were asked for, but MPI sees a world of %d. If every process is alone in its "
        "world, mpirun (or srun's --mpi plugin) belongs to another MPI than the library of this "
        "program: use the mpirun of the Open MPI that it was built with",
        expected, size));
  }
  std::unique_ptr<MpiSession> session(new MpiSession);
  MPI_Comm node;
  LONGSPAN_RETURN_IF_MPI_ERROR(
      MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node));
  MPI_Comm_rank(node, &session->rank_on_node_);
  MPI_Comm_size(node, &session->ranks_on_node_);
  MPI_Comm_free(&node);
  const bool oversubscribed = session->ranks_on_node_ > sysconf(_SC_NPROCESSORS_ONLN);
  LONGSPAN_ASSIGN_OR_RETURN(session->world_,
                            MpiCommunicator::Create(options.communicator, oversubscribed));
  return session;
}

MpiSession::~MpiSession() {
  if (finished_) return;
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  PrintAndAbort(absl::StrCat("rank ", rank, ": left before the job was finished"));
}

absl::Status MpiSession::Finish() {
  LONGSPAN_RETURN_IF_ERROR(world_->Barrier("finish"));
  world_.reset();
  finished_ = true;
  LONGSPAN_RETURN_IF_MPI_ERROR(MPI_Finalize());
  return absl::OkStatus();
}

}  // namespace longspan
