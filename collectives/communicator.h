#ifndef LONGSPAN_COLLECTIVES_COMMUNICATOR_H_
#define LONGSPAN_COLLECTIVES_COMMUNICATOR_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

// What ranks say to each other, whatever carries it: threads of one process (thread_communicator.h)
// or MPI processes (mpi_communicator.h).
namespace longspan {

struct CommunicatorOptions {
  // A wait longer than this is a failure of the whole job: a rank died, hangs, or took another
  // path.
  absl::Duration timeout = absl::Seconds(300);
  // Compare operation, name and bytes of every call across ranks before it starts, so that a
  // mismatch is an error at once and not a timeout. Costs a small all-gather a call over MPI;
  // threads always check.
  bool check_agreement = false;
  // MPI counts in 32 bits: larger messages are split, larger gathers become messages. Tests lower
  // it.
  int64_t max_message_bytes = int64_t{1} << 30;
};

// One message of a grouped exchange. A send does not modify its data.
struct Transfer {
  int peer = 0;
  void* data = nullptr;
  int64_t bytes = 0;
};

enum class ExchangeId : int64_t {};

// Totals of the calls with one name, on this rank.
struct CallStats {
  int64_t calls = 0;
  int64_t bytes_sent = 0;  // payload for other ranks, counted once for each rank that receives it
  double seconds_waited =
      0;  // inside the call; of an exchange, inside StartExchange and WaitExchange
};
using CommunicatorStats = std::map<std::string, CallStats, std::less<>>;

// Every call but WaitExchange, Progress, Abort and the accessors is collective: all ranks make the
// same calls in the same order, with the same name. `name` must outlive the communicator (a string
// literal); errors and statistics show it. Sizes are in bytes unless they say otherwise, of any
// magnitude (beyond 2 GiB too); a size of zero is allowed and its pointer may be null.
//
// After an error the communicator is broken: every later call fails. The caller's duty is to
// return the error up to main, which calls Abort.
// Not thread-safe: one thread per rank makes all the calls.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  virtual absl::Status Barrier(std::string_view name) = 0;
  // `data` of `root` replaces that of the others.
  virtual absl::Status Broadcast(std::string_view name, void* data, int64_t bytes, int root) = 0;
  // receive: [size(), bytes_per_rank], in rank order. `send` may be this rank's own part of it.
  virtual absl::Status AllGather(std::string_view name, const void* send, void* receive,
                                 int64_t bytes_per_rank) = 0;
  // The same with bytes[r] from rank r; receive has the parts one after the other in rank order.
  virtual absl::Status AllGatherV(std::string_view name, const void* send, void* receive,
                                  absl::Span<const int64_t> bytes) = 0;
  // In place, elementwise, the same bits on every rank and for every order of ranks. A NaN counts
  // as -inf, and +0 is above -0.
  virtual absl::Status AllReduceMax(std::string_view name, float* data, int64_t count) = 0;
  // In place, elementwise, summed in rank order: the same bits on every rank.
  virtual absl::Status AllReduceSum(std::string_view name, double* data, int64_t count) = 0;
  // In place, elementwise, modulo 2^32: exact, and so in any order of ranks the same.
  virtual absl::Status AllReduceSum(std::string_view name, uint32_t* data, int64_t count) = 0;

  // Starts all sends and receives at once, so that no pattern can deadlock. Messages between two
  // ranks match in the order they are listed, and must agree in bytes. A rank may send to itself;
  // transfers of zero bytes are skipped (leave them in or out on either side). All buffers must
  // stay alive and untouched until WaitExchange returns. Several exchanges may be in flight, and be
  // waited for in any order, each once; other calls may come in between.
  virtual absl::StatusOr<ExchangeId> StartExchange(std::string_view name,
                                                   absl::Span<const Transfer> sends,
                                                   absl::Span<const Transfer> receives) = 0;
  virtual absl::Status WaitExchange(ExchangeId exchange) = 0;
  // Moves large messages forward while this rank computes; a cheap hint, never needed for
  // correctness.
  virtual void Progress() = 0;

  // How long a wait of this rank may take from now on, until it counts as a failure. Infinite where
  // the others may rightly take any time, as when rank 0 waits for a user (see UntimedWaits).
  virtual void set_timeout(absl::Duration timeout) = 0;
  virtual absl::Duration timeout() const = 0;

  // Ends the whole job with this error. Over MPI it prints the error, ends every rank with a
  // non-zero code and does not return. Among threads it makes every blocked and later call of every
  // rank fail with the error, and returns.
  virtual void Abort(const absl::Status& error) = 0;

  virtual const CommunicatorStats& stats() const = 0;
};

// While it lives, waits of this rank have no time limit: it is waiting for orders.
class UntimedWaits {
 public:
  explicit UntimedWaits(Communicator* communicator)
      : communicator_(communicator), timeout_(communicator->timeout()) {
    communicator_->set_timeout(absl::InfiniteDuration());
  }
  ~UntimedWaits() { communicator_->set_timeout(timeout_); }
  UntimedWaits(const UntimedWaits&) = delete;
  UntimedWaits& operator=(const UntimedWaits&) = delete;

 private:
  Communicator* communicator_;
  absl::Duration timeout_;
};

}  // namespace longspan

#endif  // LONGSPAN_COLLECTIVES_COMMUNICATOR_H_
