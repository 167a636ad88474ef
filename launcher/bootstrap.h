#ifndef LONGSPAN_LAUNCHER_BOOTSTRAP_H_
#define LONGSPAN_LAUNCHER_BOOTSTRAP_H_

#include <functional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "collectives/communicator.h"
#include "runtime/config.h"
#include "runtime/engine.h"

namespace longspan {

// Settings of the process: each rank computes on one thread, as ranks share the host's cores, and
// keeps freed memory for its next step.
void PrepareProcess();

// True except under mpirun on ranks other than 0. Needs no MPI.
bool IsFirstProcess();

// Standard error through spdlog, at --verbosity or $SPDLOG_LEVEL.
absl::Status StartLogging();

// One job on all its ranks.
struct Job {
  // Rank 0, with the resolved config, before anything is loaded. False: nothing is left to do.
  std::function<absl::StatusOr<bool>(const Config&)> prepare;
  // Rank 0 of a loaded engine. Returns the exit code; an error ends the whole job.
  std::function<absl::StatusOr<int>(Engine& engine)> run;
  // Ends the processes as soon as a rank is lost (collectives/heartbeat.h), as clients wait; and
  // caches prefixes, unless the config says otherwise.
  bool is_server = false;
};

// Starts the ranks that the environment and the config ask for: under mpirun MPI, otherwise
// threads. Rank 0 loads and resolves the config of --config, --model and --set, and the other ranks
// get it from there. Then all create an engine; rank 0 runs the job and shuts the engine down, the
// others work for it. Returns the process's exit code. An error that all ranks know of is printed
// once and all exit; any other ends in Communicator::Abort.
int RunOnRanks(const Job& job);

// The same without an engine: `run` is called on every rank, and returns its exit code.
struct RankJob {
  std::function<absl::StatusOr<bool>(const Config&)> prepare;
  std::function<absl::StatusOr<int>(const Config&, Communicator&)> run;
};
int RunOnRanks(const RankJob& job);

// Runs a rank's part of a job on what it has loaded. Of an error or an exception that not all ranks
// know the job ends here (Communicator::Abort), and not only when main has it: what `body` works
// with is still there, and its destructors may wait for ranks that never come.
absl::StatusOr<int> RunOrAbort(Communicator& communicator,
                               absl::FunctionRef<absl::StatusOr<int>()> body);

// For an error that every rank has, or that concerns rank 0 alone: rank 0 prints it. Returns
// kExitFailed.
int ReportError(const absl::Status& status, int rank);

// From now on the first SIGINT or SIGTERM, and every SIGUSR1, which mpirun may pass on to the
// ranks, only makes StopRequested() true; the second of the former ends the process.
void CatchStopSignals();
// For a process that must end others before itself: none of these signals ends it, SIGQUIT is as
// SIGTERM, and SIGHUP, unless it is ignored, as with nohup, is one of them.
void CatchAllStopSignals();
bool StopRequested();
// SIGINTs, SIGTERMs and SIGQUITs that came, or one if SIGHUP did and none of them.
int StopSignals();

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_BOOTSTRAP_H_
