#include "launcher/child_process.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "launcher/bootstrap.h"

namespace longspan {
namespace {

ChildResult Shell(
    const std::string& script,
    absl::FunctionRef<ChildOrder()> order = [] { return ChildOrder::kRun; }) {
  const absl::StatusOr<ChildResult> result = RunChild({"/bin/sh", "-c", script}, order);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *result : ChildResult();
}

TEST(ChildProcessTest, ReturnsAllOutputAndTheEndOfErrors) {
  const ChildResult result =
      Shell("head -c 300000 /dev/zero; yes error | head -n 9000 >&2; echo last >&2; exit 7");
  EXPECT_EQ(result.exit_code, 7);
  EXPECT_FALSE(result.stopped);
  EXPECT_EQ(result.output.size(), 300000u);
  EXPECT_TRUE(absl::StartsWith(result.errors, "error\n"));
  EXPECT_TRUE(absl::EndsWith(result.errors, "error\nlast\n"));
  EXPECT_LE(result.errors.size(), 16384u);
  EXPECT_EQ(Shell("kill -9 $$").exit_code, 128 + 9);
  EXPECT_EQ(RunChild({"/nowhere/at/all"}, [] { return ChildOrder::kRun; }).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(ChildProcessTest, WaitsForNobodyElse) {
  // Who writes without end is left behind, and ends with SIGPIPE.
  EXPECT_TRUE(absl::StartsWith(Shell("echo done; yes &").output, "done\n"));
  const ChildResult result = Shell("sleep 1000 & echo $!");
  int sleeper = 0;
  ASSERT_TRUE(absl::SimpleAtoi(result.output, &sleeper)) << result.output;
  EXPECT_EQ(kill(sleeper, SIGKILL), 0) << "it had ended before";
}

TEST(ChildProcessTest, ProgramsHaveASessionAndNoTerminal) {
  const ChildResult result = Shell(
      "read -r pid name state parent group session terminal rest "
      "< /proc/$$/stat; echo $((session - $$)) $terminal; "
      "(: < /dev/tty) || echo none");
  EXPECT_EQ(result.output, "0 0\nnone\n");
}

// A file of this test alone, which is not there yet.
std::string FreshFile() {
  const std::string file =
      absl::StrCat(::testing::TempDir(), "/child_process_", getpid(), "_",
                   ::testing::UnitTest::GetInstance()->current_test_info()->name());
  std::filesystem::remove(file);
  return file;
}

constexpr double kForever = 1e9;

// Within a minute, for a test that fails rather than hangs.
bool Becomes(absl::FunctionRef<bool()> is_so) {
  for (int turn = 0; turn < 60000 && !is_so(); ++turn) usleep(1000);
  return is_so();
}

// False for a process that has ended, whoever is to collect it.
bool Runs(pid_t pid) {
  std::string words;
  std::getline(std::ifstream(absl::StrCat("/proc/", pid, "/stat")), words);
  return !words.empty() && !absl::StrContains(words, ") Z ");
}

TEST(ChildProcessTest, StopsAProgramInOrder) {
  const std::string trapped = FreshFile();
  const std::string script = absl::StrCat("trap 'echo told; exit 3' TERM; touch ", trapped,
                                          "; while :; do sleep 0.01; done");
  const absl::StatusOr<ChildResult> result = RunChild(
      {"/bin/sh", "-c", script},
      [&] { return std::filesystem::exists(trapped) ? ChildOrder::kStop : ChildOrder::kRun; },
      kForever);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->stopped);
  EXPECT_EQ(result->exit_code, 3);
  EXPECT_EQ(result->output, "told\n");
}

// Of a program that ignores SIGTERM.
TEST(ChildProcessTest, KillsWhenOrderedOrWhenPatienceEnds) {
  for (const bool is_patient : {true, false}) {
    const std::string trapped = FreshFile();
    const std::string script = absl::StrCat("trap '' TERM; touch ", trapped, "; sleep 1000");
    int asked = 0;
    const auto order = [&] {
      if (!std::filesystem::exists(trapped)) return ChildOrder::kRun;
      return is_patient && ++asked > 2 ? ChildOrder::kKill : ChildOrder::kStop;
    };
    const absl::StatusOr<ChildResult> result =
        RunChild({"/bin/sh", "-c", script}, order, is_patient ? kForever : 0);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_TRUE(result->stopped);
    EXPECT_EQ(result->exit_code, 128 + 9);
  }
}

// A shell that waits for a program and passes no signal on.
TEST(ChildProcessTest, StopsWhatAWrapperStarted) {
  for (const bool is_deaf : {false, true}) {
    const std::string file = FreshFile(), told = file + "_told";
    std::filesystem::remove(told);
    const std::string program = absl::StrCat(
        "trap '", is_deaf ? "" : absl::StrCat("touch ", told, "; exit"), "' TERM; echo $$ > ", file,
        "_new; mv ", file, "_new ", file, "; while :; do sleep 0.01; done");
    const absl::StatusOr<ChildResult> result = RunChild(
        {"/bin/sh", "-c", "/bin/sh -c \"$1\"; true", "wrapper", program},
        [&] { return std::filesystem::exists(file) ? ChildOrder::kStop : ChildOrder::kRun; },
        is_deaf ? 0 : kForever);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_TRUE(result->stopped);
    EXPECT_EQ(std::filesystem::exists(told), !is_deaf);
    pid_t pid = 0;
    ASSERT_TRUE(std::ifstream(file) >> pid);
    EXPECT_TRUE(Becomes([&] { return !Runs(pid); }));
  }
}

// Whoever runs it is killed: the program gets SIGTERM and not what its parent does with it.
TEST(ChildProcessTest, ProgramsDoNotOutliveTheirCaller) {
  const std::string running = FreshFile(), told = running + "_told";
  const std::string script = absl::StrCat("trap 'echo $$ > ", told, "; exit' TERM; touch ", running,
                                          "; while :; do sleep 0.01; done");
  const pid_t caller = fork();
  ASSERT_GE(caller, 0);
  if (caller == 0) {
    signal(SIGTERM, [](int) {});
    (void)RunChild({"/bin/sh", "-c", script}, [] { return ChildOrder::kRun; });
    _exit(0);
  }
  EXPECT_TRUE(Becomes([&] { return std::filesystem::exists(running); }));
  EXPECT_EQ(kill(caller, SIGKILL), 0);
  EXPECT_EQ(waitpid(caller, nullptr, 0), caller);
  EXPECT_TRUE(Becomes([&] { return std::filesystem::exists(told); }));
}

// In a process of its own, as signals are counted from its start.
void ExpectOrders(const std::vector<std::pair<int, ChildOrder>>& orders) {
  EXPECT_EXIT(
      {
        signal(SIGHUP, SIG_DFL);  // whoever runs the tests may ignore it
        CatchAllStopSignals();
        bool good = OrderOfSignals() == ChildOrder::kRun;
        for (const auto& [number, order] : orders) {
          raise(number);
          good = good && OrderOfSignals() == order;
        }
        _exit(good ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST(OrderOfSignalsTest, TheSecondOneKills) {
  ExpectOrders({{SIGTERM, ChildOrder::kStop}, {SIGINT, ChildOrder::kKill}});
  ExpectOrders({{SIGQUIT, ChildOrder::kStop}, {SIGQUIT, ChildOrder::kKill}});
}

// A closed terminal sends SIGHUP twice, and mpirun may pass on SIGUSR1.
TEST(OrderOfSignalsTest, SomeSignalsCountOnce) {
  ExpectOrders({{SIGHUP, ChildOrder::kStop}, {SIGHUP, ChildOrder::kStop}});
  ExpectOrders({{SIGUSR1, ChildOrder::kStop}, {SIGUSR1, ChildOrder::kStop}});
  ExpectOrders({{SIGHUP, ChildOrder::kStop}, {SIGTERM, ChildOrder::kKill}});
}

TEST(ChildProcessTest, FindsPrograms) {
  EXPECT_EQ(FindProgram("/bin/sh").value_or(""), "/bin/sh");
  EXPECT_TRUE(absl::EndsWith(FindProgram("sh").value_or(""), "/sh"));
  EXPECT_FALSE(FindProgram(::testing::TempDir()).ok());
  EXPECT_FALSE(FindProgram("no-such-program").ok());
}

}  // namespace
}  // namespace longspan
