#include "collectives/agree.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/cord.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

constexpr char kAgreed[] = "longspan/agreed";

struct Record {
  int32_t code = 0;
  int32_t length = 0;
  char message[1016] = {};
};

}  // namespace

absl::Status AgreeOnStatus(Communicator* communicator, const absl::Status& status) {
  Record mine;
  mine.code = static_cast<int32_t>(status.code());
  mine.length = static_cast<int32_t>(std::min(status.message().size(), sizeof(mine.message)));
  std::copy_n(status.message().begin(), mine.length, mine.message);
  std::vector<Record> all(communicator->size());
  LONGSPAN_RETURN_IF_ERROR(
      communicator->AllGather("agree", &mine, all.data(), static_cast<int64_t>(sizeof(Record))));
  for (const Record& record : all) {
    if (record.code != 0) {
      absl::Status agreed(static_cast<absl::StatusCode>(record.code),
                          std::string(record.message, record.length));
      agreed.SetPayload(kAgreed, absl::Cord());
      return agreed;
    }
  }
  return absl::OkStatus();
}

bool IsAgreed(const absl::Status& status) { return status.GetPayload(kAgreed).has_value(); }

}  // namespace longspan
