#include "collectives/agree.h"

#include <algorithm>
#include <string>
#include <vector>

#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

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
      return {static_cast<absl::StatusCode>(record.code),
              std::string(record.message, record.length)};
    }
  }
  return absl::OkStatus();
}

}  // namespace longspan
