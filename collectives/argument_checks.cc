#include "collectives/argument_checks.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

std::vector<int64_t> BytesWithSelf(absl::Span<const Transfer> transfers, int rank) {
  std::vector<int64_t> bytes;
  for (const Transfer& t : transfers) {
    if (t.peer == rank && t.bytes > 0) bytes.push_back(t.bytes);
  }
  return bytes;
}

absl::Status CheckPeers(std::string_view name, absl::Span<const Transfer> transfers, int size) {
  for (const Transfer& t : transfers) {
    if (t.peer < 0 || t.peer >= size) {
      return absl::InvalidArgumentError(
          absl::StrFormat("'%s': there is no rank %d among %d", name, t.peer, size));
    }
    LONGSPAN_RETURN_IF_ERROR(CheckSize(name, t.bytes));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRoot(std::string_view name, int root, int size) {
  if (root >= 0 && root < size) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("'%s': root %d is not among %d ranks", name, root, size));
}

absl::Status CheckSize(std::string_view name, int64_t size) {
  if (size >= 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat("'%s': negative size %d", name, size));
}

absl::Status CheckSizes(std::string_view name, absl::Span<const int64_t> bytes, int size) {
  if (static_cast<int64_t>(bytes.size()) != size) {
    return absl::InvalidArgumentError(
        absl::StrFormat("'%s': %d sizes for %d ranks", name, bytes.size(), size));
  }
  for (const int64_t b : bytes) LONGSPAN_RETURN_IF_ERROR(CheckSize(name, b));
  return absl::OkStatus();
}

absl::Status CheckTransfers(std::string_view name, absl::Span<const Transfer> sends,
                            absl::Span<const Transfer> receives, int rank, int size) {
  LONGSPAN_RETURN_IF_ERROR(CheckPeers(name, sends, size));
  LONGSPAN_RETURN_IF_ERROR(CheckPeers(name, receives, size));
  const std::vector<int64_t> sent = BytesWithSelf(sends, rank);
  const std::vector<int64_t> received = BytesWithSelf(receives, rank);
  if (sent == received) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("'%s': rank %d sends itself [%s] bytes but receives [%s]", name, rank,
                      absl::StrJoin(sent, ", "), absl::StrJoin(received, ", ")));
}

int64_t BytesToOthers(absl::Span<const Transfer> sends, int rank) {
  int64_t bytes = 0;
  for (const Transfer& send : sends) {
    if (send.peer != rank) bytes += send.bytes;
  }
  return bytes;
}

absl::Status UnknownExchangeError(ExchangeId exchange) {
  return absl::InvalidArgumentError(
      absl::StrCat("exchange #", static_cast<int64_t>(exchange), " is not in flight"));
}

}  // namespace longspan
