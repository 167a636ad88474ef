#include "launcher/child_process.h"

#include <string>

#include "absl/strings/match.h"
#include "gtest/gtest.h"

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

// Who is left behind ends with SIGPIPE, or by itself.
TEST(ChildProcessTest, WaitsForNobodyElse) {
  EXPECT_TRUE(absl::StartsWith(Shell("echo done; yes &").output, "done\n"));
  EXPECT_EQ(Shell("echo done; sleep 20 &").output, "done\n");
}

TEST(ChildProcessTest, StopsAProgramInOrder) {
  const ChildResult result = Shell("trap 'echo told; exit 3' TERM; while :; do sleep 0.05; done",
                                   [] { return ChildOrder::kStop; });
  EXPECT_TRUE(result.stopped);
  // A signal before the trap is set ends it too.
  EXPECT_TRUE((result.exit_code == 3 && result.output == "told\n") || result.exit_code == 128 + 15);
}

// The second order does not wait for the patience that the first one has.
TEST(ChildProcessTest, KillsAtOnceWhoDoesNotStop) {
  int asked = 0;
  const ChildResult result = Shell("trap '' TERM; sleep 300", [&] {
    ++asked;
    return asked < 5 ? ChildOrder::kRun : asked < 8 ? ChildOrder::kStop : ChildOrder::kKill;
  });
  EXPECT_TRUE(result.stopped);
  EXPECT_EQ(result.exit_code, 128 + 9);
  EXPECT_LT(asked, 50);  // ten times a second
}

TEST(ChildProcessTest, FindsPrograms) {
  EXPECT_EQ(FindProgram("/bin/sh").value_or(""), "/bin/sh");
  EXPECT_TRUE(absl::EndsWith(FindProgram("sh").value_or(""), "/sh"));
  EXPECT_FALSE(FindProgram("/tmp").ok());
  EXPECT_FALSE(FindProgram("no-such-program").ok());
}

}  // namespace
}  // namespace longspan
