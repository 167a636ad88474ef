#include "sharding/profile_fit.h"

#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace longspan {
namespace {

HardwareProfile TrueProfile() {
  HardwareProfile profile;
  profile.bytes_per_s = 1e11;
  profile.flops_per_s = 1e12;
  profile.ranks_per_host = 4;
  profile.within_host = {.latency_s = 2e-6, .bytes_per_s = 5e9};
  profile.between_hosts = {.latency_s = 3e-5, .bytes_per_s = 1e9};
  profile.call_s = 4e-6;
  profile.kernels[static_cast<int>(Kernel::kScore)] = {.efficiency = 0.6, .overhead_s = 1e-5};
  profile.kernels[static_cast<int>(Kernel::kLinear)] = {.efficiency = 0.9, .overhead_s = 0};
  return profile;
}

// What `profile` says that kernels of several sizes take, times `noise()`.
template <typename Noise>
std::vector<KernelPoint> KernelPoints(const HardwareProfile& profile, Noise&& noise) {
  std::vector<KernelPoint> points;
  for (const Kernel kernel : {Kernel::kScore, Kernel::kLinear}) {
    for (double bytes = 1e4; bytes < 1e9; bytes *= 3) {
      const Work work = {.bytes = bytes, .flops = bytes * 20};
      points.push_back(
          {"", kernel, 3, work * 3, 1, 3 * KernelSeconds(profile, 1, kernel, work) * noise()});
    }
  }
  return points;
}

template <typename Noise>
std::vector<CallPoint> CallPoints(const HardwareProfile& profile, Noise&& noise) {
  std::vector<CallPoint> points;
  for (const int ranks : {2, 3, 4, 8, 16}) {
    for (double bytes = 8; bytes < 1e8; bytes *= 10) {
      for (const LinkUse& use :
           {AllGatherUse(profile, ranks, bytes), AllReduceUse(profile, ranks, bytes)}) {
        points.push_back({"", use, LinkSeconds(profile, use) * noise()});
      }
    }
  }
  return points;
}

TEST(ProfileFitTest, FindsTheConstantsOfExactTimes) {
  const HardwareProfile truth = TrueProfile();
  const auto exact = [] { return 1.0; };
  HardwareProfile start = truth;
  start.within_host = start.between_hosts = {};
  start.call_s = 0;
  start.kernels = {};
  start.kernels[static_cast<int>(Kernel::kAttend)] = {.efficiency = 0.123, .overhead_s = 5};
  const ProfileFit fit = FitProfile(start, KernelPoints(truth, exact), CallPoints(truth, exact));
  for (const Kernel kernel : {Kernel::kScore, Kernel::kLinear}) {
    EXPECT_NEAR(fit.profile.kernel(kernel).efficiency, truth.kernel(kernel).efficiency, 1e-9);
    EXPECT_NEAR(fit.profile.kernel(kernel).overhead_s, truth.kernel(kernel).overhead_s, 1e-13);
  }
  EXPECT_EQ(fit.profile.kernel(Kernel::kAttend).efficiency, 0.123) << "nothing says otherwise";
  EXPECT_NEAR(fit.profile.call_s, truth.call_s, 1e-12);
  EXPECT_NEAR(fit.profile.within_host.latency_s, truth.within_host.latency_s, 1e-12);
  EXPECT_NEAR(fit.profile.between_hosts.latency_s, truth.between_hosts.latency_s, 1e-12);
  EXPECT_NEAR(fit.profile.within_host.bytes_per_s / truth.within_host.bytes_per_s, 1, 1e-6);
  EXPECT_NEAR(fit.profile.between_hosts.bytes_per_s / truth.between_hosts.bytes_per_s, 1, 1e-6);
  for (const FitError& error : fit.errors) EXPECT_NEAR(error.relative(), 0, 1e-9);
}

TEST(ProfileFitTest, PredictsOtherPointsOfNoisyTimes) {
  const HardwareProfile truth = TrueProfile();
  std::mt19937_64 random(1);
  const auto noise = [&] { return std::uniform_real_distribution<double>(0.9, 1.1)(random); };
  const auto exact = [] { return 1.0; };
  const ProfileFit fit = FitProfile(truth, KernelPoints(truth, noise), CallPoints(truth, noise));
  double largest = 0;
  for (const FitError& error : fit.errors) largest = std::max(largest, std::abs(error.relative()));
  EXPECT_GT(largest, 0.01) << "the noise is there";
  EXPECT_LT(largest, 0.15);
  for (const FitError& error :
       ErrorsOf(fit.profile, KernelPoints(truth, exact), CallPoints(truth, exact))) {
    EXPECT_NEAR(error.relative(), 0, 0.06);
  }
}

TEST(ProfileFitTest, NoiseIsNoOverhead) {
  HardwareProfile truth = TrueProfile();
  truth.kernels[static_cast<int>(Kernel::kScore)] = {.efficiency = 0.5};
  std::vector<KernelPoint> points;
  for (const auto& [bytes, noise] : {std::pair(1e6, 1.2), {1e6, 1.0}, {4e6, 0.9}, {4e6, 1.0}}) {
    const Work work = {.bytes = bytes};
    points.push_back(
        {"", Kernel::kScore, 1, work, 1, noise * KernelSeconds(truth, 1, Kernel::kScore, work)});
  }
  const ProfileFit fit = FitProfile(TrueProfile(), points, {});
  EXPECT_EQ(fit.profile.kernel(Kernel::kScore).overhead_s, 0);
  EXPECT_NEAR(fit.profile.kernel(Kernel::kScore).efficiency, 0.5, 0.03);
}

TEST(ProfileFitTest, NoConstantIsNegative) {
  // Larger calls that take less time than a rate would say: the overhead would be below 0.
  HardwareProfile start = TrueProfile();
  const std::vector<KernelPoint> points = {
      {"small", Kernel::kScore, 1, {.bytes = 1e6}, 1, 1e-5},
      {"large", Kernel::kScore, 1, {.bytes = 1e7}, 1, 3e-4},
  };
  const ProfileFit fit = FitProfile(start, points, {});
  EXPECT_EQ(fit.profile.kernel(Kernel::kScore).overhead_s, 0);
  EXPECT_GT(fit.profile.kernel(Kernel::kScore).efficiency, 0);
  ASSERT_EQ(fit.errors.size(), 2u);
  EXPECT_EQ(fit.errors[0].what, "small");
  EXPECT_EQ(fit.errors[0].measured_s, 1e-5);
}

TEST(ProfileFitTest, TimesThatDoNotDependOnSizesAreOverhead) {
  const std::vector<KernelPoint> points = {
      {"", Kernel::kScore, 1, {.bytes = 1}, 1, 2e-5},
      {"", Kernel::kScore, 1, {.bytes = 1e3}, 1, 2e-5},
      {"", Kernel::kScore, 2, {.bytes = 2e3}, 1, 4e-5},
      {"broken", Kernel::kScore, 1, {.bytes = 1e3}, 1, 0},
  };
  const ProfileFit fit = FitProfile(TrueProfile(), points, {});
  EXPECT_NEAR(fit.profile.kernel(Kernel::kScore).overhead_s, 2e-5, 1e-9);
}

TEST(ProfileFitTest, OneSizeGoesIntoTheEfficiency) {
  const std::vector<KernelPoint> points = {{"", Kernel::kScore, 1, {.bytes = 1e8}, 1, 2e-3}};
  const ProfileFit fit = FitProfile(TrueProfile(), points, {});
  EXPECT_DOUBLE_EQ(fit.profile.kernel(Kernel::kScore).efficiency, 0.5);
  EXPECT_EQ(fit.profile.kernel(Kernel::kScore).overhead_s, 0);
}

TEST(ProfileFitTest, RanksThatShareProcessorsAreKnown) {
  HardwareProfile truth = TrueProfile();
  truth.processors_per_host = 2;
  std::vector<KernelPoint> points;
  for (const int ranks : {1, 4}) {
    for (const double bytes : {1e5, 1e7}) {
      const Work work = {.bytes = bytes};
      points.push_back(
          {"", Kernel::kScore, 1, work, ranks, KernelSeconds(truth, ranks, Kernel::kScore, work)});
    }
  }
  HardwareProfile start = truth;
  start.kernels = {};
  const ProfileFit fit = FitProfile(start, points, {});
  EXPECT_NEAR(fit.profile.kernel(Kernel::kScore).efficiency, 0.6, 1e-9);
  EXPECT_NEAR(fit.profile.kernel(Kernel::kScore).overhead_s, 1e-5, 1e-13);
}

}  // namespace
}  // namespace longspan
