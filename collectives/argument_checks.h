#ifndef LONGSPAN_COLLECTIVES_ARGUMENT_CHECKS_H_
#define LONGSPAN_COLLECTIVES_ARGUMENT_CHECKS_H_

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "collectives/communicator.h"

// Checks that every communicator makes of its arguments before it tells the other ranks anything.
namespace longspan {

absl::Status CheckRoot(std::string_view name, int root, int size);
absl::Status CheckSize(std::string_view name, int64_t size);  // bytes or a count
absl::Status CheckSizes(std::string_view name, absl::Span<const int64_t> bytes, int size);
// Peers and sizes, and that what this rank sends to itself is what it receives from itself.
absl::Status CheckTransfers(std::string_view name, absl::Span<const Transfer> sends,
                            absl::Span<const Transfer> receives, int rank, int size);

// The bytes of `sends` that leave the rank.
int64_t BytesToOthers(absl::Span<const Transfer> sends, int rank);

absl::Status UnknownExchangeError(ExchangeId exchange);

}  // namespace longspan

#endif  // LONGSPAN_COLLECTIVES_ARGUMENT_CHECKS_H_
