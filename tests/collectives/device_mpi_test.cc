#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "collectives/agree.h"
#include "collectives/hosts.h"
#include "collectives/nccl_communicator.h"
#include "collectives/staged_communicator.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/device.h"
#include "tests/collectives/device_communicator_checks.h"
#include "tests/mpi_main.h"

// Device communicators between MPI ranks, of the kind that --communicator names: staged or nccl.
namespace longspan {
namespace {

using testing::AllOf;
using testing::HasSubstr;

bool UsesNccl() { return TestCommunicatorKind() == "nccl"; }

// What this rank runs on; every rank comes to the same conclusion.
struct Place {
  int device = 0;
  std::string skip;  // why not to run at all
  bool shared_gpus = false;
};

absl::StatusOr<Place> FindPlace() {
  Communicator& world = TestWorld();
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<std::string> hosts, HostNames(world));
  int ranks_on_host = 0, rank_on_host = 0;
  for (int r = 0; r < world.size(); ++r) {
    if (hosts[r] != hosts[world.rank()]) continue;
    ++ranks_on_host;
    if (r < world.rank()) ++rank_on_host;
  }
  const absl::StatusOr<int> devices = cuda::CountDevices();
  LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(&world, devices.status()));
  const char* may_share = std::getenv("NCCL_MULTI_RANK_GPU_ENABLE");
  enum { kNoGpu, kSharesGpu, kMayNotShare, kFacts };
  float facts[kFacts] = {};
  facts[kNoGpu] = *devices == 0;
  facts[kSharesGpu] = ranks_on_host > *devices;
  facts[kMayNotShare] = may_share == nullptr || std::string(may_share) != "1";
  LONGSPAN_RETURN_IF_ERROR(world.AllReduceMax("places", facts, kFacts));
  Place place;
  place.shared_gpus = facts[kSharesGpu] != 0;
  if (UsesNccl() && NcclVersion().empty()) {
    place.skip = "this build has no NCCL";
  } else if (facts[kNoGpu] != 0) {
    place.skip = "no GPU";
  } else if (UsesNccl() && place.shared_gpus && facts[kMayNotShare] != 0) {
    place.skip =
        "fewer GPUs than ranks: for NCCL, set NCCL_MULTI_RANK_GPU_ENABLE=1 (2.30 or later)";
  }
  if (*devices > 0) place.device = rank_on_host % *devices;
  return place;
}

const absl::StatusOr<Place>& OwnPlace() {
  static const auto* place = new absl::StatusOr<Place>(FindPlace());
  return *place;
}

absl::StatusOr<std::unique_ptr<DeviceCommunicator>> Make() {
  Communicator& world = TestWorld();
  if (UsesNccl()) return MakeNcclCommunicator(&world, OwnPlace()->device);
  LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(&world, cuda::UseDevice(OwnPlace()->device).status()));
  return MakeStagedCommunicator(&world);
}

class DeviceMpiTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(TestCommunicatorKind() == "staged" || TestCommunicatorKind() == "nccl")
        << "--communicator=staged or nccl";
    ASSERT_TRUE(OwnPlace().ok()) << OwnPlace().status();
    if (!OwnPlace()->skip.empty()) GTEST_SKIP() << OwnPlace()->skip;
  }
};

// All checks use one communicator, as a job does.
class DeviceMpiCheckTest : public DeviceMpiTest, public testing::WithParamInterface<DeviceCheck> {
 protected:
  static void TearDownTestSuite() { communicator_.reset(); }

  void SetUp() override {
    DeviceMpiTest::SetUp();
    if (IsSkipped() || HasFatalFailure() || communicator_ != nullptr) return;
    ASSERT_FALSE(tried_) << "it could not be made";
    tried_ = true;
    auto made = Make();
    ASSERT_TRUE(made.ok()) << made.status();
    communicator_ = *std::move(made);
  }

  static std::unique_ptr<DeviceCommunicator> communicator_;
  static bool tried_;
};
std::unique_ptr<DeviceCommunicator> DeviceMpiCheckTest::communicator_;
bool DeviceMpiCheckTest::tried_ = false;

TEST_P(DeviceMpiCheckTest, Check) { EXPECT_EQ(GetParam().run(*communicator_), absl::OkStatus()); }

INSTANTIATE_TEST_SUITE_P(All, DeviceMpiCheckTest, testing::ValuesIn(DeviceChecks()),
                         [](const auto& param) { return param.param.name; });

class NcclMpiTest : public DeviceMpiTest {
 protected:
  void SetUp() override {
    DeviceMpiTest::SetUp();
    if (!IsSkipped() && !UsesNccl()) GTEST_SKIP() << "not about NCCL";
  }
};

// Known before NCCL starts, so it needs neither a second GPU nor an NCCL that allows it.
TEST(NcclMpiRefusalTest, SaysWhatToDoAboutASharedGpu) {
  if (!UsesNccl() || NcclVersion().empty()) GTEST_SKIP() << "not about NCCL";
  ASSERT_TRUE(OwnPlace().ok()) << OwnPlace().status();
  if (OwnPlace()->skip == "no GPU") GTEST_SKIP() << OwnPlace()->skip;
  if (TestWorld().size() == 1) GTEST_SKIP() << "one rank shares with nobody";
  if (std::getenv("NCCL_MULTI_RANK_GPU_ENABLE") != nullptr) GTEST_SKIP() << "allowed to share";
  if (std::getenv("NCCL_HOSTID") != nullptr) GTEST_SKIP() << "set apart";
  const absl::Status status = MakeNcclCommunicator(&TestWorld(), 0).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_TRUE(IsAgreed(status));
  EXPECT_THAT(
      std::string(status.message()),
      AllOf(HasSubstr("ranks 0 and 1 are both on"), HasSubstr("one rank a GPU"),
            HasSubstr("NCCL_MULTI_RANK_GPU_ENABLE=1"), HasSubstr("`parallel.communicator: mpi`")));
}

TEST_F(NcclMpiTest, AllRanksRefuseWhatOneCannotDo) {
  const int device = TestWorld().rank() == TestWorld().size() - 1 ? 1000 : OwnPlace()->device;
  const absl::Status status = MakeNcclCommunicator(&TestWorld(), device).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_TRUE(IsAgreed(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("there is no GPU 1000"));
}

// Rank 0 gathers alone.
TEST_F(NcclMpiTest, ATimeoutNamesTheLastCall) {
  Communicator& world = TestWorld();
  if (world.size() == 1) GTEST_SKIP() << "one rank waits for nobody";
  auto communicator = Make();
  ASSERT_TRUE(communicator.ok()) << communicator.status();
  const absl::Duration timeout = world.timeout();
  const absl::Cleanup restore = [&] { world.set_timeout(timeout); };
  world.set_timeout(absl::Seconds(3));
  if (world.rank() == 0) {
    auto stream = cuda::StreamHandle::Create();
    auto data = cuda::Buffer::Allocate(64 * world.size());
    ASSERT_TRUE(stream.ok() && data.ok());
    // A gather that nobody joins is late in the stream or already when it connects.
    absl::Status late =
        (*communicator)->AllGather("nobody comes", data->data(), data->data(), 64, stream->get());
    if (late.ok()) late = (*communicator)->Synchronize(stream->get());
    EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded) << late;
    EXPECT_THAT(std::string(late.message()),
                AllOf(HasSubstr("#2 AllGather 'nobody comes' (64 bytes)"),
                      HasSubstr("parallel.timeout_s"), HasSubstr("NCCL_DEBUG=INFO")));
    EXPECT_EQ((*communicator)->Synchronize(stream->get()), late);
  }
  // The others stay until rank 0 has given up.
  world.set_timeout(timeout);
  EXPECT_EQ(world.Barrier("gave up"), absl::OkStatus());
  world.set_timeout(absl::Seconds(3));
  communicator->reset();
}

}  // namespace
}  // namespace longspan
