#include "tests/mpi_main.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "collectives/mpi_communicator.h"
#include "gtest/gtest.h"

namespace longspan {
namespace {

MpiSession* session = nullptr;

std::string& CommunicatorKind() {
  static auto* kind = new std::string;
  return *kind;
}

// Rank 0 prints as always; the others only what failed. GoogleTest holds its lock while it reports
// a failure: asking it for the current test there would deadlock.
class FailurePrinter : public testing::EmptyTestEventListener {
  void OnTestStart(const testing::TestInfo& test) override {
    test_ = std::string(test.test_suite_name()) + "." + test.name();
  }
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::fprintf(stderr, "rank %d, %s: %s:%d: %s\n", TestWorld().rank(), test_.c_str(),
                 result.file_name() == nullptr ? "" : result.file_name(), result.line_number(),
                 result.message());
  }

  std::string test_;
};

// A rank that left a test early must not run the next one while others are in this one.
class Meeting : public testing::EmptyTestEventListener {
  void OnTestEnd(const testing::TestInfo&) override {
    const absl::Status status = TestWorld().Barrier("end of a test");
    if (!status.ok()) TestWorld().Abort(status);
  }
};

// --ranks=N is required; --max_message_bytes=N makes splits happen in small tests; --communicator
// is for the tests themselves.
bool ParseFlags(int argc, char** argv, MpiOptions& options) {
  options.communicator.timeout = absl::Seconds(60);
  options.communicator.check_agreement = true;
  for (int i = 1; i < argc; ++i) {
    absl::string_view flag = argv[i];
    const bool known = (absl::ConsumePrefix(&flag, "--ranks=") &&
                        absl::SimpleAtoi(flag, &options.expected_ranks)) ||
                       (absl::ConsumePrefix(&flag, "--max_message_bytes=") &&
                        absl::SimpleAtoi(flag, &options.communicator.max_message_bytes)) ||
                       (absl::ConsumePrefix(&flag, "--check_agreement=") &&
                        absl::SimpleAtob(flag, &options.communicator.check_agreement));
    if (known) continue;
    if (!absl::ConsumePrefix(&flag, "--communicator=")) return false;
    CommunicatorKind() = std::string(flag);
  }
  return options.expected_ranks > 0;
}

int RunTests() {
  testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
  if (session->world().rank() != 0) {
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new FailurePrinter);
  }
  listeners.Append(new Meeting);
  float failed = RUN_ALL_TESTS() == 0 ? 0 : 1;
  const absl::Status status = session->world().AllReduceMax("exit code", &failed, 1);
  if (!status.ok()) session->world().Abort(status);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

}  // namespace

Communicator& TestWorld() { return session->world(); }
const std::string& TestCommunicatorKind() { return CommunicatorKind(); }

}  // namespace longspan

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  // An exception must end the rank, and thereby all: its test can't go on alone.
  testing::GTEST_FLAG(catch_exceptions) = false;
  longspan::MpiOptions options;
  if (!longspan::ParseFlags(argc, argv, options)) {
    std::fprintf(stderr,
                 "usage: mpirun -n N %s --ranks=N [--max_message_bytes=BYTES] "
                 "[--check_agreement=BOOL] [--communicator=KIND]\n",
                 argv[0]);
    return EXIT_FAILURE;
  }
  auto session = longspan::MpiSession::Start(options);
  if (!session.ok()) {
    std::fprintf(stderr, "%s\n", session.status().ToString().c_str());
    return EXIT_FAILURE;
  }
  longspan::session = session->get();
  const int code = longspan::RunTests();
  const absl::Status status = (*session)->Finish();
  if (!status.ok()) longspan::session->world().Abort(status);
  return code;
}
