#include "launcher/bootstrap.h"

#include <cblas.h>
#include <malloc.h>
#include <signal.h>
#include <spdlog/cfg/env.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <initializer_list>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "collectives/agree.h"
#include "collectives/heartbeat.h"
#include "collectives/hosts.h"
#include "collectives/mpi_communicator.h"
#include "collectives/thread_communicator.h"
#include "kernels/base/status_macros.h"
#include "launcher/flags.h"
#include "launcher/subcommand.h"

namespace longspan {
namespace {

std::atomic<bool> stop_requested = false;
std::atomic<int> stop_signals = 0;
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free,
              "set by signal handlers");

void CatchSignals(std::initializer_list<int> signals, int flags) {
  struct sigaction action = {};
  action.sa_handler = [](int signal) {
    stop_requested = true;
    // A closed terminal sends SIGHUP twice, from its shell and as the shell ends.
    if (signal == SIGHUP ? stop_signals == 0 : signal != SIGUSR1) ++stop_signals;
  };
  action.sa_flags = SA_RESTART | flags;
  for (const int signal : signals) sigaction(signal, &action, nullptr);
}

absl::StatusOr<Config> LoadConfigFromFlags() {
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<ConfigOverride> overrides, SetFlags());
  return LoadConfig(absl::GetFlag(FLAGS_config), absl::GetFlag(FLAGS_model), overrides);
}

void LogAsRank(int rank) {
  spdlog::set_pattern(absl::StrCat("[rank ", rank, "] [%l] %v"));
  if (rank != 0 && spdlog::get_level() == spdlog::level::info) {
    spdlog::set_level(spdlog::level::warn);  // what all ranks have to say, one says
  }
}

// Exceptions end here: the libraries below throw std::bad_alloc.
template <typename T, typename F>
absl::StatusOr<T> WithoutExceptions(F&& f) {
  try {
    return f();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory");
  } catch (const std::exception& error) {
    return absl::InternalError(error.what());
  }
}

absl::StatusOr<int> RunRank(const RankJob& job, const Config& config, Communicator& communicator) {
  return WithoutExceptions<int>([&] { return job.run(config, communicator); });
}

absl::StatusOr<bool> Prepare(const RankJob& job, const Config& config) {
  return WithoutExceptions<bool>([&] { return job.prepare(config); });
}

int RunThreads(const RankJob& job, Config config) {
  const int ranks = config.parallel.ranks == 0 ? 1 : static_cast<int>(config.parallel.ranks);
  if (absl::Status status = ResolveConfig(ranks, &config); !status.ok()) {
    return ReportError(status, 0);
  }
  const absl::StatusOr<bool> work = Prepare(job, config);
  if (!work.ok()) return ReportError(work.status(), 0);
  if (!*work) return kExitOk;
  CommunicatorOptions options;
  options.timeout = absl::Seconds(config.parallel.timeout_s);
  absl::StatusOr<int> exit_code = kExitOk;
  const absl::Status status = RunThreadRanks(
      ranks,
      [&](Communicator& communicator) -> absl::Status {
        const absl::StatusOr<int> of_rank = RunRank(job, config, communicator);
        if (communicator.rank() == 0) exit_code = of_rank;
        return IsAgreed(of_rank.status()) ? absl::OkStatus() : of_rank.status();
      },
      options);
  if (!status.ok()) return ReportError(status, 0);
  return exit_code.ok() ? *exit_code : ReportError(exit_code.status(), 0);
}

// What rank 0 of an MPI job tells the others before the job: go on with this config, or leave.
struct Verdict {
  enum Kind : int64_t { kRun, kNothingToDo, kError };
  Kind kind = kError;
  int64_t yaml_bytes = 0;
};

absl::StatusOr<bool> PrepareMpi(const RankJob& job, int ranks, Config* config) {
  LONGSPAN_ASSIGN_OR_RETURN(*config, LoadConfigFromFlags());
  if (config->parallel.communicator == CommunicatorKind::kThreads) {
    return absl::InvalidArgumentError(
        "`parallel.communicator: threads` under mpirun would run the job once in every process: "
        "leave the key out, or mpirun");
  }
  LONGSPAN_RETURN_IF_ERROR(ResolveConfig(ranks, config));
  if (config->parallel.communicator == CommunicatorKind::kAuto) {
    config->parallel.communicator = DefaultUnderMpirun(*config);
  }
  return Prepare(job, *config);
}

// kRun, and the same config everywhere; or the reason why not, printed.
absl::StatusOr<Verdict::Kind> ShareConfig(const RankJob& job, Communicator& world, Config* config) {
  Verdict verdict;
  std::string yaml;
  const UntimedWaits untimed(&world);  // rank 0 may have to read all of its standard input first
  if (world.rank() == 0) {
    const absl::StatusOr<bool> work = PrepareMpi(job, world.size(), config);
    if (!work.ok()) ReportError(work.status(), 0);
    verdict.kind = !work.ok() ? Verdict::kError : *work ? Verdict::kRun : Verdict::kNothingToDo;
    yaml = ConfigToYaml(*config);
    verdict.yaml_bytes = static_cast<int64_t>(yaml.size());
  }
  LONGSPAN_RETURN_IF_ERROR(world.Broadcast("launch.verdict", &verdict, sizeof(verdict), 0));
  if (verdict.kind != Verdict::kRun) return verdict.kind;
  yaml.resize(static_cast<size_t>(verdict.yaml_bytes));
  LONGSPAN_RETURN_IF_ERROR(world.Broadcast("launch.config", yaml.data(), verdict.yaml_bytes, 0));
  if (world.rank() != 0) {
    LONGSPAN_ASSIGN_OR_RETURN(*config, ConfigFromYaml(yaml));
  }
  return Verdict::kRun;
}

int RunMpi(const RankJob& job) {
  absl::StatusOr<std::unique_ptr<MpiSession>> session = MpiSession::Start({});
  if (!session.ok()) return ReportError(session.status(), IsFirstProcess() ? 0 : 1);
  Communicator& world = (*session)->world();
  const int rank = world.rank();
  LogAsRank(rank);
  const absl::StatusOr<int> exit_code = [&]() -> absl::StatusOr<int> {
    Config config;
    LONGSPAN_ASSIGN_OR_RETURN(const Verdict::Kind verdict, ShareConfig(job, world, &config));
    if (verdict != Verdict::kRun) return verdict == Verdict::kError ? kExitFailed : kExitOk;
    world.set_timeout(absl::Seconds(config.parallel.timeout_s));
    return RunRank(job, config, world);
  }();
  if (!exit_code.ok()) {
    if (!IsAgreed(exit_code.status())) world.Abort(exit_code.status());
    // Before the ranks part: mpirun ends those that are left when the first exits with an error.
    ReportError(exit_code.status(), rank);
  }
  if (const absl::Status status = (*session)->Finish(); !status.ok()) {
    return ReportError(status, rank);
  }
  return exit_code.value_or(kExitFailed);
}

// Open MPI's processes give up a host from which no acknowledgement came for minutes, by default.
// Warns of it where the job has several hosts.
absl::Status CheckKeepalive(Communicator& communicator) {
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<std::string> hosts, HostNames(communicator));
  const bool is_one_host = std::count(hosts.begin(), hosts.end(), hosts[0]) == communicator.size();
  if (communicator.rank() == 0 && !is_one_host && getenv("OMPI_COMM_WORLD_SIZE") != nullptr &&
      getenv("OMPI_MCA_oob_tcp_keepalive_time") == nullptr) {
    spdlog::warn(
        "mpirun would wait for a host that it can no longer reach, unless it is given --mca "
        "oob_tcp_keepalive_time 1 --mca oob_tcp_keepalive_intvl 1 --mca oob_tcp_keepalive_probes "
        "3");
  }
  return absl::OkStatus();
}

// Ends the daemon of Open MPI that started this rank, if one did. It cannot reach mpirun, and would
// stay for as long as its kernel tries to deliver what it had to say.
void EndDaemon() {
  const pid_t parent = getppid();
  std::string name;
  std::ifstream(absl::StrCat("/proc/", parent, "/comm")) >> name;
  // It may have ended meanwhile: whoever is the parent then is none of ours.
  if (name == "orted" && getppid() == parent) kill(parent, SIGTERM);
}

// Null, and warned of, if ranks cannot connect to each other.
absl::StatusOr<std::unique_ptr<Heartbeat>> StartHeartbeat(Communicator& communicator) {
  const int rank = communicator.rank();
  LONGSPAN_RETURN_IF_ERROR(CheckKeepalive(communicator));
  HeartbeatOptions options;
  if (rank == 0) {
    // Says who it is while there is time: mpirun may end this rank before the limit. The other
    // ranks say nothing before it, as what they say goes to mpirun, and keepalive rests on a
    // connection as long as something on it waits for an acknowledgement.
    options.on_silent = [silence = options.silence](const std::string& silent) {
      spdlog::warn("not heard of for {}: {}", absl::FormatDuration(silence), silent);
    };
  }
  auto heartbeat = Heartbeat::Start(communicator, options, [rank](const LostRank& lost) {
    fprintf(stderr, "longspan: rank %d ends: %s\n", rank, lost.text.c_str());
    if (!lost.is_reachable) EndDaemon();
    _exit(kExitFailed);  // the rank's own thread may wait for what was lost
  });
  if (heartbeat.ok() || !IsAgreed(heartbeat.status())) return heartbeat;
  if (rank == 0) {
    spdlog::warn("a rank that is lost will be noticed late: {}",
                 std::string(heartbeat.status().message()));
  }
  return nullptr;
}

// A worker has nothing to say about how the job went.
absl::StatusOr<int> RunEngine(const Job& job, const Config& config, Communicator& communicator) {
  Config adapted = config;
  if (adapted.kv_cache_prefix_caching == "auto") {
    adapted.kv_cache_prefix_caching = job.is_server ? "true" : "false";
  }
  LONGSPAN_ASSIGN_OR_RETURN(const auto engine, Engine::Create(adapted, &communicator));
  CatchStopSignals();
  std::unique_ptr<Heartbeat> heartbeat;
  if (job.is_server && LaunchedByMpirun()) {
    LONGSPAN_ASSIGN_OR_RETURN(heartbeat, StartHeartbeat(communicator));
  }
  return RunOrAbort(communicator, [&]() -> absl::StatusOr<int> {
    if (communicator.rank() == 0) return job.run(*engine);
    LONGSPAN_RETURN_IF_ERROR(engine->RunWorker());
    return kExitOk;
  });
}

}  // namespace

void PrepareProcess() {
  openblas_set_num_threads(1);
  // Buffers of a step are as large as those of the last: returning them to the system in between
  // would cost a page fault for every page of every step (a tenth of a prompt's time).
  mallopt(M_MMAP_THRESHOLD, std::numeric_limits<int>::max());
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
}

bool IsFirstProcess() {
  for (const char* name :
       {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID"}) {
    if (const char* rank = getenv(name)) return LaunchedRanks() == 0 || atoi(rank) == 0;
  }
  return true;
}

absl::Status StartLogging() {
  spdlog::set_default_logger(spdlog::stderr_color_mt("longspan"));
  spdlog::set_pattern("[%l] %v");
  spdlog::cfg::load_env_levels();
  const std::string verbosity = absl::GetFlag(FLAGS_verbosity);
  if (verbosity.empty()) return absl::OkStatus();
  const spdlog::level::level_enum level = spdlog::level::from_str(verbosity);
  if (level == spdlog::level::off && verbosity != "off") {
    return absl::InvalidArgumentError("--verbosity must be trace, debug, info, warn, err or off");
  }
  spdlog::set_level(level);
  return absl::OkStatus();
}

int RunOnRanks(const RankJob& job) {
  if (LaunchedByMpirun()) return RunMpi(job);
  absl::StatusOr<Config> config = LoadConfigFromFlags();
  if (!config.ok()) return ReportError(config.status(), 0);
  if (config->parallel.communicator == CommunicatorKind::kMpi ||
      config->parallel.communicator == CommunicatorKind::kNccl) {
    return RunMpi(job);
  }
  return RunThreads(job, *std::move(config));
}

int RunOnRanks(const Job& job) {
  return RunOnRanks(RankJob{job.prepare, [&job](const Config& config, Communicator& communicator) {
                              return RunEngine(job, config, communicator);
                            }});
}

absl::StatusOr<int> RunOrAbort(Communicator& communicator,
                               absl::FunctionRef<absl::StatusOr<int>()> body) {
  absl::StatusOr<int> exit_code = WithoutExceptions<int>(body);
  if (!exit_code.ok() && !IsAgreed(exit_code.status())) communicator.Abort(exit_code.status());
  return exit_code;
}

int ReportError(const absl::Status& status, int rank) {
  if (rank == 0) fprintf(stderr, "longspan: %s\n", std::string(status.message()).c_str());
  return kExitFailed;
}

void CatchStopSignals() {
  CatchSignals({SIGUSR1}, 0);  // may come twice: from who stops the job, and from mpirun
  CatchSignals({SIGINT, SIGTERM}, static_cast<int>(SA_RESETHAND));
}

void CatchAllStopSignals() {
  CatchSignals({SIGUSR1, SIGINT, SIGTERM, SIGQUIT}, 0);
  struct sigaction hangup = {};
  sigaction(SIGHUP, nullptr, &hangup);
  if (hangup.sa_handler != SIG_IGN) CatchSignals({SIGHUP}, 0);
}

bool StopRequested() { return stop_requested; }

int StopSignals() { return stop_signals; }

}  // namespace longspan
