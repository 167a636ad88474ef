// Fails in the way that its argument names, on the last rank; expect_failure.sh looks at what
// mpirun makes of it.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "collectives/mpi_communicator.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

absl::Status FailOnLastRank(const std::string& how, Communicator& world) {
  if (how == "hang") absl::SleepFor(absl::InfiniteDuration());
  if (how == "kill") std::raise(SIGKILL);
  if (how == "throw") throw std::runtime_error("thrown on purpose");
  if (how == "exit") std::exit(0);
  if (how == "abort") world.Abort(absl::DataLossError("aborted on purpose"));
  if (how == "mismatch") return world.Barrier("another way");
  return absl::InvalidArgumentError("unknown way to fail: " + how);
}

absl::Status Run(const std::string& how, Communicator& world) {
  LONGSPAN_RETURN_IF_ERROR(world.Barrier("start"));
  const int last = world.size() - 1;
  if (world.rank() == last && how != "hang_message") return FailOnLastRank(how, world);
  std::vector<char> data(world.size());
  if (how == "hang_message") {
    if (world.rank() == last) absl::SleepFor(absl::InfiniteDuration());
    LONGSPAN_ASSIGN_OR_RETURN(const ExchangeId id,
                              world.StartExchange("keys", {}, {Transfer{last, data.data(), 1}}));
    return world.WaitExchange(id);
  }
  return world.AllGather("scores", data.data() + world.rank(), data.data(), 1);
}

}  // namespace
}  // namespace longspan

int main(int argc, char** argv) {
  const std::string how = argc > 1 ? argv[1] : "";
  longspan::MpiOptions options;
  options.communicator.timeout = absl::Seconds(2);
  options.communicator.check_agreement = how == "mismatch";
  auto session = longspan::MpiSession::Start(options);
  if (!session.ok()) {
    std::fprintf(stderr, "%s\n", session.status().ToString().c_str());
    return EXIT_FAILURE;
  }
  if (how == "leave" && (*session)->world().rank() == 1) return EXIT_SUCCESS;
  const absl::Status status = longspan::Run(how, (*session)->world());
  if (!status.ok()) (*session)->world().Abort(status);
  return (*session)->Finish().ok() ? EXIT_SUCCESS : EXIT_FAILURE;
}
