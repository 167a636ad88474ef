#include "launcher/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iterator>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"
#include "launcher/bootstrap.h"
#include "runtime/clock.h"

namespace longspan {
namespace {

constexpr int kPollMs = 100;
constexpr size_t kErrorBytes = 8192;

absl::Status SystemError(absl::string_view what, int error) {
  return absl::InternalError(absl::StrCat(what, ": ", strerror(error)));
}

struct Pipe {
  int read = -1, write = -1;

  Pipe() = default;
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  ~Pipe() { Close(&read), Close(&write); }

  absl::Status Open() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return SystemError("pipe", errno);
    read = ends[0];
    write = ends[1];
    return absl::OkStatus();
  }
  static void Close(int* end) {
    if (*end >= 0) close(*end);
    *end = -1;
  }
};

// The forked child until it is another program: nothing here may allocate or lock. All signals are
// blocked, so that none finds the parent's handlers; `mask` is what was blocked before.
[[noreturn]] void Execute(char* const* argv, const char* file, pid_t parent, const sigset_t& mask,
                          int output, int errors, int failure) {
  for (int number = 1; number < NSIG; ++number) {
    struct sigaction action;
    if (sigaction(number, nullptr, &action) != 0 || action.sa_handler == SIG_IGN) continue;
    signal(number, SIG_DFL);
  }
  setsid();  // also without a terminal: an ssh that wants a password fails and says so
  // A parent that was killed just before sends nothing.
  if (prctl(PR_SET_PDEATHSIG, SIGTERM) == 0 && getppid() == parent) {
    const int input = open("/dev/null", O_RDONLY);
    dup2(input, STDIN_FILENO);
    if (input > STDERR_FILENO) close(input);
    dup2(output, STDOUT_FILENO);
    dup2(errors, STDERR_FILENO);
    sigprocmask(SIG_SETMASK, &mask, nullptr);
    execv(file, argv);
  }
  const int error = errno;
  [[maybe_unused]] const ssize_t told = write(failure, &error, sizeof(error));
  _exit(127);
}

absl::StatusOr<pid_t> Spawn(const std::vector<std::string>& arguments, int output, int errors) {
  LONGSPAN_ASSIGN_OR_RETURN(const std::string file, FindProgram(arguments[0]));
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  Pipe failure;  // closed without a word by a successful exec
  LONGSPAN_RETURN_IF_ERROR(failure.Open());
  const pid_t parent = getpid();
  sigset_t all, mask;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &mask);
  const pid_t child = fork();
  if (child == 0) Execute(argv.data(), file.c_str(), parent, mask, output, errors, failure.write);
  const int fork_error = errno;
  pthread_sigmask(SIG_SETMASK, &mask, nullptr);
  if (child < 0) return SystemError("fork", fork_error);
  Pipe::Close(&failure.write);
  int error = 0;
  ssize_t bytes = 0;
  while ((bytes = read(failure.read, &error, sizeof(error))) < 0 && errno == EINTR) continue;
  if (bytes <= 0) return child;
  waitpid(child, nullptr, 0);
  return absl::NotFoundError(absl::StrCat(arguments[0], ": cannot be run: ", strerror(error)));
}

// Reads what there is; closes the end when there will be no more.
void ReadSome(int* end, std::string* text) {
  std::array<char, 65536> buffer;
  const ssize_t bytes = read(*end, buffer.data(), buffer.size());
  if (bytes > 0) text->append(buffer.data(), bytes);
  if (bytes == 0 || (bytes < 0 && errno != EINTR)) Pipe::Close(end);
}

// Reads what a pipe holds, and no more than it can hold: somebody may write to it without end.
void ReadRest(int end, std::string* text) {
  if (end < 0) return;
  fcntl(end, F_SETFL, O_NONBLOCK);
  std::string rest(std::max(fcntl(end, F_GETPIPE_SZ), 65536), '\0');
  size_t size = 0;
  while (size < rest.size()) {
    const ssize_t bytes = read(end, rest.data() + size, rest.size() - size);
    if (bytes <= 0) break;
    size += bytes;
  }
  text->append(rest, 0, size);
}

void KeepEnd(std::string* text) {
  if (text->size() <= 2 * kErrorBytes) return;
  const size_t line = text->find('\n', text->size() - kErrorBytes);
  text->erase(0, line == text->npos ? text->size() - kErrorBytes : line + 1);
}

// Programs that a stopped one left in its group: a shell, say, passes no signal on. `listen` waits.
void EndGroup(pid_t group, double patience_s, absl::FunctionRef<ChildOrder()> order,
              absl::FunctionRef<void()> listen) {
  const double told = MonotonicSeconds();
  kill(-group, SIGTERM);
  while (kill(-group, 0) == 0) {
    if (order() == ChildOrder::kKill || MonotonicSeconds() - told > patience_s) {
      kill(-group, SIGKILL);
      return;
    }
    listen();
  }
}

}  // namespace

ChildOrder OrderOfSignals() {
  if (!StopRequested()) return ChildOrder::kRun;
  return StopSignals() < 2 ? ChildOrder::kStop : ChildOrder::kKill;
}

absl::StatusOr<ChildResult> RunChild(const std::vector<std::string>& arguments,
                                     absl::FunctionRef<ChildOrder()> order, double patience_s) {
  Pipe output, errors;
  LONGSPAN_RETURN_IF_ERROR(output.Open());
  LONGSPAN_RETURN_IF_ERROR(errors.Open());
  LONGSPAN_ASSIGN_OR_RETURN(const pid_t child, Spawn(arguments, output.write, errors.write));
  Pipe::Close(&output.write);
  Pipe::Close(&errors.write);
  // Wakes poll when it has ended. Kernels before 5.3 have none: the next turn sees it.
  const int end = static_cast<int>(syscall(SYS_pidfd_open, child, 0));
  const absl::Cleanup close_end = [end] {
    if (end >= 0) close(end);
  };
  ChildResult result;
  double told = 0;
  int status = 0;
  const auto listen = [&](int ending) {
    pollfd ends[] = {{output.read, POLLIN, 0}, {errors.read, POLLIN, 0}, {ending, POLLIN, 0}};
    if (poll(ends, std::size(ends), kPollMs) <= 0) return;
    if (ends[0].revents != 0) ReadSome(&output.read, &result.output);
    if (ends[1].revents != 0) ReadSome(&errors.read, &result.errors);
    KeepEnd(&result.errors);
  };
  // Its own children may keep the pipes open: it has ended when it has ended.
  pid_t ended = 0;
  while ((ended = waitpid(child, &status, WNOHANG)) == 0) {
    const ChildOrder ordered = order();
    if (ordered != ChildOrder::kRun && !result.stopped) {
      result.stopped = true;
      told = MonotonicSeconds();
      kill(child, SIGTERM);
    }
    const bool waited = result.stopped && MonotonicSeconds() - told > patience_s;
    if (ordered == ChildOrder::kKill || waited) kill(-child, SIGKILL);
    listen(end);
  }
  if (ended < 0) {  // SIGCHLD is ignored, say
    return absl::InternalError(
        absl::StrCat("how ", arguments[0], " ended cannot be told: ", strerror(errno)));
  }
  if (result.stopped) EndGroup(child, patience_s, order, [&] { listen(-1); });
  ReadRest(output.read, &result.output);
  ReadRest(errors.read, &result.errors);
  KeepEnd(&result.errors);
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

absl::StatusOr<std::string> FindProgram(const std::string& name) {
  const char* path = getenv("PATH");
  std::vector<std::string> places = absl::StrSplit(path == nullptr ? "" : path, ':');
  if (absl::StrContains(name, '/')) places = {""};
  for (const std::string& place : places) {
    const std::string file = place.empty() ? name : absl::StrCat(place, "/", name);
    std::error_code ignored;
    if (access(file.c_str(), X_OK) == 0 && std::filesystem::is_regular_file(file, ignored)) {
      return file;
    }
  }
  return absl::NotFoundError(
      absl::StrCat(name, ": there is no such program", places[0].empty() ? "" : " in $PATH"));
}

std::string OwnProgram() {
  std::error_code error;
  const std::filesystem::path path = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? "longspan" : path.string();
}

}  // namespace longspan
