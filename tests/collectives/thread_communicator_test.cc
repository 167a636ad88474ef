#include "collectives/thread_communicator.h"

#include <atomic>
#include <future>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/base/status_macros.h"
#include "tests/collectives/communicator_checks.h"

namespace longspan {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

class ThreadCommunicatorTest : public testing::TestWithParam<std::tuple<CommunicatorCheck, int>> {};

TEST_P(ThreadCommunicatorTest, Check) {
  const auto& [check, ranks] = GetParam();
  EXPECT_EQ(RunThreadRanks(ranks, check.run), absl::OkStatus());
}

INSTANTIATE_TEST_SUITE_P(All, ThreadCommunicatorTest,
                         testing::Combine(testing::ValuesIn(CommunicatorChecks()),
                                          testing::Values(1, 2, 3, 4, 8)),
                         [](const auto& param) {
                           return std::get<0>(param.param).name + "On" +
                                  std::to_string(std::get<1>(param.param));
                         });

TEST(RunThreadRanksTest, RunsEveryRankOnce) {
  std::vector<std::atomic<int>> runs(5);
  const absl::Status status = RunThreadRanks(5, [&](Communicator& c) {
    ++runs[c.rank()];
    return c.size() == 5 ? absl::OkStatus() : absl::InternalError("size");
  });
  EXPECT_EQ(status, absl::OkStatus());
  for (const auto& n : runs) EXPECT_EQ(n, 1);
  EXPECT_FALSE(RunThreadRanks(0, [](Communicator&) { return absl::OkStatus(); }).ok());
}

// Rank 2 fails in `fail`; the others must get its error out of whatever they wait in.
template <typename Fail>
void ExpectAllFail(Fail fail, const std::string& expected) {
  std::atomic<int> errors = 0;
  const absl::Status status = RunThreadRanks(4, [&](Communicator& c) -> absl::Status {
    LONGSPAN_RETURN_IF_ERROR(c.Barrier("start"));
    if (c.rank() == 2) return fail(c);
    char byte = 0;
    absl::Status waited;
    if (c.rank() == 0) {
      const auto id = c.StartExchange("from 2", {}, {Transfer{2, &byte, 1}});
      waited = id.ok() ? c.WaitExchange(*id) : id.status();
    } else {
      std::vector<char> all(4);
      const auto id = c.StartExchange("from 2", {}, {});
      waited = id.ok() ? c.AllGather("never", &byte, all.data(), 1) : id.status();
    }
    if (Message(waited).find(expected) != std::string::npos) ++errors;
    if (!c.Barrier("later").ok()) ++errors;  // a broken group stays broken
    return waited;
  });
  EXPECT_THAT(Message(status), HasSubstr(expected));
  EXPECT_EQ(errors, 6);
}

TEST(ThreadFailureTest, AnErrorReachesAllRanks) {
  ExpectAllFail([](Communicator&) { return absl::DataLossError("torn file"); },
                "rank 2: torn file");
}

TEST(ThreadFailureTest, AnExceptionReachesAllRanks) {
  ExpectAllFail([](Communicator&) -> absl::Status { throw std::runtime_error("out of luck"); },
                "rank 2: exception: out of luck");
}

TEST(ThreadFailureTest, AbortReachesAllRanks) {
  ExpectAllFail(
      [](Communicator& c) {
        c.Abort(absl::CancelledError("stop"));
        return absl::OkStatus();
      },
      "rank 2: stop");
}

TEST(ThreadFailureTest, ReturningWhileOthersWaitIsAnError) {
  ExpectAllFail([](Communicator&) { return absl::OkStatus(); },
                "a rank returned while others wait for it");
}

TEST(ThreadFailureTest, KeepsTheCode) {
  const absl::Status status = RunThreadRanks(2, [](Communicator& c) {
    return c.rank() == 1 ? absl::DataLossError("x") : c.Barrier("wait");
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
}

TEST(ThreadMismatchTest, NamesBothCalls) {
  const absl::Status status = RunThreadRanks(2, [](Communicator& c) {
    char parts[2] = {};
    return c.rank() == 0 ? c.AllGather("scores", parts, parts, 1) : c.Barrier("layers");
  });
  EXPECT_THAT(Message(status), AllOf(HasSubstr("rank 0: #1 AllGather 'scores' (1 bytes)"),
                                     HasSubstr("rank 1: #1 Barrier 'layers'")));
}

TEST(ThreadMismatchTest, NameBytesAndRootMustAgree) {
  const auto run = [](auto call) { return RunThreadRanks(3, call).ok(); };
  char data[64] = {};
  EXPECT_FALSE(run([](Communicator& c) { return c.Barrier(c.rank() == 2 ? "a" : "b"); }));
  EXPECT_FALSE(run([&](Communicator& c) {
    return c.Broadcast("x", data + 16 * c.rank(), c.rank() == 1 ? 1 : 2, 0);
  }));
  EXPECT_FALSE(run([&](Communicator& c) {
    return c.Broadcast("x", data + 16 * c.rank(), 1, c.rank() == 1 ? 1 : 0);
  }));
  EXPECT_FALSE(run([](Communicator& c) {
    char all[6] = {};
    const std::vector<int64_t> sizes = {1, c.rank() == 1 ? 2 : 3, c.rank() == 1 ? 3 : 2};
    return c.AllGatherV("x", all, all, sizes);
  }));
}

TEST(ThreadMismatchTest, MessagesMustAgreeInBytes) {
  const absl::Status status = RunThreadRanks(2, [](Communicator& c) -> absl::Status {
    char data[8] = {};
    LONGSPAN_ASSIGN_OR_RETURN(const ExchangeId id,
                              c.rank() == 0 ? c.StartExchange("keys", {Transfer{1, data, 8}}, {})
                                            : c.StartExchange("keys", {}, {Transfer{0, data, 7}}));
    return c.WaitExchange(id);
  });
  EXPECT_THAT(Message(status), HasSubstr("rank 0 sent 8 bytes where 7 were expected"));
}

TEST(ThreadMismatchTest, AMessageThatNobodyReceivesIsAnError) {
  const absl::Status status = RunThreadRanks(2, [](Communicator& c) -> absl::Status {
    char data[8] = {};
    std::vector<Transfer> sends;
    if (c.rank() == 0) sends.push_back({1, data, 8});
    LONGSPAN_ASSIGN_OR_RETURN(const ExchangeId id, c.StartExchange("keys", sends, {}));
    return c.WaitExchange(id);
  });
  EXPECT_THAT(Message(status), HasSubstr("rank 1 did not receive 8 bytes that rank 0 sent"));
}

TEST(ThreadMismatchTest, SelfMessagesMustPairUp) {
  char data[8] = {};
  const absl::Status status = RunThreadRanks(1, [&](Communicator& c) {
    return c.StartExchange("self", {Transfer{0, data, 4}}, {Transfer{0, data + 4, 3}}).status();
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
}

// Rank 1 computes until rank 0 has given up.
TEST(ThreadTimeoutTest, SaysWhereEveryRankIs) {
  std::promise<void> gave_up;
  CommunicatorOptions options;
  options.timeout = absl::Milliseconds(50);
  const absl::Status status = RunThreadRanks(
      3,
      [&](Communicator& c) -> absl::Status {
        LONGSPAN_RETURN_IF_ERROR(c.Barrier("start"));
        if (c.rank() == 1) {
          gave_up.get_future().wait();
          return c.Barrier("too late");
        }
        const absl::Status late = c.Barrier("layer");
        if (c.rank() == 0) gave_up.set_value();
        return late;
      },
      options);
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(Message(status),
              AllOf(HasSubstr("in #2 Barrier 'layer'"), HasSubstr("rank 1: computing for "),
                    HasSubstr(" since #1 Barrier 'start'")));
}

TEST(ThreadTimeoutTest, NamesThePeerOfAMessage) {
  std::promise<void> gave_up;
  CommunicatorOptions options;
  options.timeout = absl::Milliseconds(50);
  const absl::Status status = RunThreadRanks(
      2,
      [&](Communicator& c) -> absl::Status {
        if (c.rank() == 1) {
          gave_up.get_future().wait();
          return c.Barrier("too late");
        }
        char data[8];
        LONGSPAN_ASSIGN_OR_RETURN(const ExchangeId id,
                                  c.StartExchange("ring", {}, {Transfer{1, data, 8}}));
        const absl::Status late = c.WaitExchange(id);
        gave_up.set_value();
        return late;
      },
      options);
  EXPECT_THAT(Message(status), AllOf(HasSubstr("#1 Exchange 'ring' (0 bytes, peer 1)"),
                                     HasSubstr("since no call yet")));
}

TEST(ThreadTimeoutTest, AnInfiniteTimeoutIsAllowed) {
  CommunicatorOptions options;
  options.timeout = absl::InfiniteDuration();
  EXPECT_EQ(RunThreadRanks(
                2, [](Communicator& c) { return c.Barrier("b"); }, options),
            absl::OkStatus());
}

}  // namespace
}  // namespace longspan
