#include "collectives/staged_communicator.h"

#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "collectives/thread_communicator.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/device.h"
#include "tests/collectives/device_communicator_checks.h"
#include "tests/kernels/cuda_testing.h"

namespace longspan {
namespace {

using testing::HasSubstr;

// Ranks that are threads and share GPU 0.
absl::Status RunStaged(int ranks, absl::FunctionRef<absl::Status(DeviceCommunicator&)> body) {
  return RunThreadRanks(ranks, [&](Communicator& host) -> absl::Status {
    LONGSPAN_RETURN_IF_ERROR(cuda::UseDevice(0).status());
    const std::unique_ptr<DeviceCommunicator> communicator = MakeStagedCommunicator(&host);
    return body(*communicator);
  });
}

class StagedCommunicatorTest : public cuda::CudaTest,
                               public testing::WithParamInterface<std::tuple<DeviceCheck, int>> {};

TEST_P(StagedCommunicatorTest, Check) {
  const auto& [check, ranks] = GetParam();
  EXPECT_EQ(RunStaged(ranks, check.run), absl::OkStatus());
}

INSTANTIATE_TEST_SUITE_P(All, StagedCommunicatorTest,
                         testing::Combine(testing::ValuesIn(DeviceChecks()),
                                          testing::Values(1, 2, 3)),
                         [](const auto& param) {
                           return std::get<0>(param.param).name + "On" +
                                  std::to_string(std::get<1>(param.param));
                         });

class StagedFailureTest : public cuda::CudaTest {};

TEST_F(StagedFailureTest, OnlyALoneRankIsStreamOrdered) {
  for (const int ranks : {1, 2}) {
    EXPECT_EQ(RunStaged(ranks,
                        [&](DeviceCommunicator& c) {
                          return c.stream_ordered() == (ranks == 1) ? absl::OkStatus()
                                                                    : absl::InternalError("not");
                        }),
              absl::OkStatus());
  }
}

TEST_F(StagedFailureTest, AnErrorOfTheHostBreaksIt) {
  const absl::Status status = RunStaged(2, [](DeviceCommunicator& c) -> absl::Status {
    LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer data, cuda::Buffer::Allocate(64));
    const absl::Status first =
        c.AllGather(c.rank() == 0 ? "scores" : "keys", data.data(), data.data(), 8, nullptr);
    if (first.ok()) return absl::InternalError("ranks disagreed and it was fine");
    const absl::Status second = c.AllReduceMax("later", data.as<float>(), 1, nullptr);
    return second.ok() ? absl::InternalError("it was broken and went on") : first;
  });
  EXPECT_THAT(std::string(status.message()), HasSubstr("ranks disagree about what comes next"));
}

class DeviceTest : public cuda::CudaTest {};

TEST_F(DeviceTest, SaysWhichDeviceIsMissing) {
  const absl::StatusOr<int> count = cuda::CountDevices();
  ASSERT_TRUE(count.ok()) << count.status();
  const absl::Status status = cuda::UseDevice(*count).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("there is no GPU " + std::to_string(*count) + ": this process sees " +
                        std::to_string(*count)));
  EXPECT_TRUE(cuda::UseDevice(0).ok());
  EXPECT_TRUE(cuda::CheckLaunch("nothing").ok());  // no later launch is blamed
}

TEST_F(DeviceTest, SaysHowMuchMemoryIsFree) {
  constexpr int64_t kBytes = int64_t{1} << 30;
  const auto before = cuda::FreeMemory();
  ASSERT_TRUE(before.ok()) << before.status();
  EXPECT_GT(before->free, 0);
  EXPECT_LE(before->free, before->total);
  const auto none = cuda::Buffer::Allocate(before->total + kBytes);
  EXPECT_EQ(none.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(cuda::CheckLaunch("nothing").ok());
}

TEST_F(DeviceTest, AStreamWaitsForAnEventOfAnother) {
  constexpr int64_t kBytes = int64_t{256} << 20;
  auto first = cuda::StreamHandle::Create(), second = cuda::StreamHandle::Create();
  auto event = cuda::Event::Create();
  auto data = cuda::Buffer::Allocate(kBytes);
  auto pinned = cuda::PinnedBuffer::Allocate(1);
  for (const absl::Status& status :
       {first.status(), second.status(), event.status(), data.status(), pinned.status()}) {
    ASSERT_TRUE(status.ok()) << status;
  }
  for (int value = 1; value <= 5; ++value) {
    for (const int v : {0, value}) {
      ASSERT_TRUE(cuda::Fill(data->data(), v, kBytes, first->get()).ok());
    }
    ASSERT_TRUE(event->Record(first->get()).ok());
    ASSERT_TRUE(cuda::WaitFor(second->get(), *event).ok());
    ASSERT_TRUE(cuda::Copy(pinned->data(), data->data() + kBytes - 1, 1, second->get()).ok());
    ASSERT_TRUE(cuda::Synchronize(second->get()).ok());
    EXPECT_EQ(*pinned->as<char>(), value);
    const absl::StatusOr<bool> done = cuda::IsDone(first->get());
    EXPECT_TRUE(done.ok() && *done);
  }
}

TEST_F(DeviceTest, AStreamIsNotDoneWhileItWorks) {
  constexpr int64_t kBytes = int64_t{1} << 30;
  auto stream = cuda::StreamHandle::Create();
  auto data = cuda::Buffer::Allocate(kBytes);
  ASSERT_TRUE(stream.ok() && data.ok());
  for (int i = 0; i < 64; ++i) {
    ASSERT_TRUE(cuda::Fill(data->data(), i, kBytes, stream->get()).ok());
  }
  const absl::StatusOr<bool> early = cuda::IsDone(stream->get());
  EXPECT_TRUE(early.ok() && !*early);
  EXPECT_TRUE(cuda::CheckLaunch("nothing").ok());  // "not ready" is no error of a launch
  ASSERT_TRUE(cuda::Synchronize(stream->get()).ok());
  const absl::StatusOr<bool> late = cuda::IsDone(stream->get());
  EXPECT_TRUE(late.ok() && *late);
}

}  // namespace
}  // namespace longspan
