#ifndef LONGSPAN_COLLECTIVES_WATCHDOG_H_
#define LONGSPAN_COLLECTIVES_WATCHDOG_H_

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "collectives/communicator.h"

// What every call carries and what a rank says about itself when a wait takes too long. Each
// communicator polls in its own way; the records and the report are the same.
namespace longspan {

struct CallRecord {
  int64_t sequence = 0;  // counts the collective calls from 1; 0: none yet
  std::string_view operation = "start";
  std::string_view name;
  int64_t bytes = 0;  // of this rank's part, or all that it sends in an exchange
  int peer = -1;      // the root, or whose message is awaited; -1: all ranks
  uint64_t agreement = 0;
};

// Sets what all ranks must agree on: operation, name, and `sizes` (empty for an exchange).
void SetAgreement(CallRecord& call, absl::Span<const int64_t> sizes);

// "#17 AllGather 'compressed queries' (16384 bytes)".
std::string DescribeCall(const CallRecord& call);

// Where a rank is, in a form that one rank can send to another.
struct RankStatus {
  enum State : int32_t {
    kNoAnswer,   // the call is the last one that it is known to have entered
    kInCall,     // waits in the call
    kComputing,  // left the call and has not entered the next
    kFinished,   // returned after the call
  };
  State state = kNoAnswer;
  int64_t sequence = 0;
  double seconds = 0;  // in this state; unused if there is no answer
  char call[128] = "";
};
static_assert(std::is_trivially_copyable_v<RankStatus>);

RankStatus MakeRankStatus(RankStatus::State state, const CallRecord& call, double seconds);

// Several lines: who waited for what, and where every rank is; ranks[r] is rank r's status.
std::string TimeoutMessage(int rank, const CallRecord& call, double seconds,
                           absl::Span<const RankStatus> ranks);

// Lists the calls that ranks made as their call of one sequence number; calls[r] is rank r's.
std::string MismatchMessage(absl::Span<const std::string> calls);

// A message did not have the size that its receiver expected.
absl::Status WrongSizeError(const CallRecord& call, int64_t sent, int64_t expected);

void AddToStats(CommunicatorStats& stats, std::string_view name, int64_t calls, int64_t bytes_sent,
                double seconds);

class Stopwatch {
 public:
  double Seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace longspan

#endif  // LONGSPAN_COLLECTIVES_WATCHDOG_H_
