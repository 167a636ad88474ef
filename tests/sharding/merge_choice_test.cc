#include "sharding/merge_choice.h"

#include "gtest/gtest.h"

namespace longspan {
namespace {

MergeWay OnCpus(int ranks, int64_t rows, int64_t top_k) {
  return CheaperMerge(Backend::kCpu, ranks, rows, top_k);
}
MergeWay OnGpus(int ranks, int64_t rows, int64_t top_k) {
  return CheaperMerge(Backend::kGpu, ranks, rows, top_k);
}

TEST(MergeChoiceTest, FewRanksGatherAndManyCount) {
  EXPECT_EQ(OnCpus(1, 1, 2048), MergeWay::kAllGather);
  EXPECT_EQ(OnCpus(2, 1, 2048), MergeWay::kAllGather);
  EXPECT_EQ(OnCpus(4096, 1, 2048), MergeWay::kHistogram);
  // More rows pay for the messages of a histogram with fewer ranks; few candidates never do.
  EXPECT_EQ(OnCpus(16, 1, 2048), MergeWay::kAllGather);
  EXPECT_EQ(OnCpus(16, 8, 2048), MergeWay::kHistogram);
  EXPECT_EQ(OnCpus(4096, 1, 1), MergeWay::kAllGather);
}

TEST(MergeChoiceTest, GpusGatherLongerButNotBeyondWhatTheyMerge) {
  EXPECT_EQ(OnGpus(8, 8, 2048), MergeWay::kAllGather);
  EXPECT_EQ(OnGpus(1024, 1, 2048), MergeWay::kAllGather);
  EXPECT_EQ(OnGpus(1024, 8, 2048), MergeWay::kHistogram);
  EXPECT_EQ(OnGpus(128, 128, 2048), MergeWay::kHistogram);
  EXPECT_EQ(OnGpus(1024, 1, 1), MergeWay::kAllGather);
  EXPECT_EQ(OnGpus(1025, 1, 1), MergeWay::kHistogram);
}

TEST(MergeChoiceTest, RatesDecide) {
  MergeRates slow_network = RatesOf(Backend::kCpu);
  slow_network.step_s = 1;
  EXPECT_EQ(CheaperMerge(Backend::kCpu, 4096, 1, 2048, slow_network), MergeWay::kAllGather);
  MergeRates narrow_network = RatesOf(Backend::kCpu);
  narrow_network.byte_s = 1e-6;
  EXPECT_EQ(CheaperMerge(Backend::kCpu, 16, 1, 2048, narrow_network), MergeWay::kHistogram);
}

// By hand, at 1 s a step and nothing else, then at 1 s a byte, then at 1 s a candidate.
TEST(MergeChoiceTest, CountsStepsBytesAndCandidates) {
  const MergeRates steps = {1, 0, 0}, bytes = {0, 1, 0}, candidates = {0, 0, 1};
  for (const Backend backend : {Backend::kCpu, Backend::kGpu}) {
    const auto gather = [&](const MergeRates& rates) {
      return MergeSeconds(backend, MergeWay::kAllGather, 5, 2, 100, rates);
    };
    EXPECT_EQ(gather(steps), 3);
    EXPECT_EQ(gather(bytes), 5 * 2 * 100 * 8);
    EXPECT_EQ(gather(candidates), 5 * 2 * 100);
  }
  const auto histogram = [](Backend backend, const MergeRates& rates) {
    return MergeSeconds(backend, MergeWay::kHistogram, 5, 2, 100, rates);
  };
  EXPECT_EQ(histogram(Backend::kCpu, steps), 4 * 2 * 3);
  EXPECT_EQ(histogram(Backend::kCpu, bytes), 2 * 3 * 2 * (8 + 4096 + 5 * 4 + (100 + 512) * 8));
  EXPECT_EQ(histogram(Backend::kCpu, candidates), 2 * 100 + 2 * 100 + 2 * (100 + 512));
  EXPECT_EQ(histogram(Backend::kGpu, steps), 6 * 2 * 3);
  EXPECT_EQ(histogram(Backend::kGpu, bytes), 2 * 2 * 4 * (4 * 8192 + 4096 + 5 + 100));
  EXPECT_EQ(histogram(Backend::kGpu, candidates), 2 * (7 * 100 + 4 * 8192 + 4096 + 5));
}

TEST(MergeChoiceTest, KnowsTheMostRowsOfEachWay) {
  const auto most = [](MergeWay way, std::optional<MergeWay> asked, int ranks) {
    return MostRowsMerged(way, asked, Backend::kGpu, ranks, 64, 2048);
  };
  EXPECT_EQ(most(MergeWay::kAllGather, MergeWay::kAllGather, 512), 64);
  EXPECT_EQ(most(MergeWay::kHistogram, MergeWay::kAllGather, 512), 0);
  EXPECT_EQ(most(MergeWay::kHistogram, MergeWay::kHistogram, 2), 64);
  EXPECT_EQ(most(MergeWay::kHistogram, std::nullopt, 2), 0);
  EXPECT_EQ(most(MergeWay::kHistogram, std::nullopt, 512), 64);
  const int64_t gathered = most(MergeWay::kAllGather, std::nullopt, 512);
  EXPECT_EQ(OnGpus(512, gathered, 2048), MergeWay::kAllGather);
  EXPECT_EQ(OnGpus(512, gathered + 1, 2048), MergeWay::kHistogram);
  EXPECT_EQ(most(MergeWay::kAllGather, std::nullopt, 1025), 0);
}

}  // namespace
}  // namespace longspan
