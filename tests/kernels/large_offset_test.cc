// Offsets beyond 2^31 elements, in memory that is mapped but, where it was never written, not
// there: it reads as zeros.
#include <sys/mman.h>

#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "absl/base/dynamic_annotations.h"
#include "gtest/gtest.h"
#include "kernels/attention.h"
#include "kernels/base/lane_gemm.h"
#include "kernels/linear.h"
#include "kernels/score.h"
#include "tests/kernels/kernel_testing.h"

namespace longspan {
namespace {

constexpr int64_t kTwo31 = int64_t{1} << 31;

int64_t AvailableBytes() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  int64_t kilobytes = 0;
  while (file >> key >> kilobytes) {
    if (key == "MemAvailable:") return kilobytes * 1024;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return 0;
}

// Zeros of which only the pages that are written take memory.
template <typename T>
class Sparse {
 public:
  explicit Sparse(int64_t count) : bytes_(count * static_cast<int64_t>(sizeof(T))) {
    memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    // One shared page of zeros for each 2 MiB that is read, where the system has such pages.
    if (memory_ != MAP_FAILED) madvise(memory_, bytes_, MADV_HUGEPAGE);
  }
  ~Sparse() {
    if (memory_ != MAP_FAILED) munmap(memory_, bytes_);
  }
  Sparse(const Sparse&) = delete;
  Sparse& operator=(const Sparse&) = delete;

  bool ok() const { return memory_ != MAP_FAILED; }
  T* data() { return static_cast<T*>(memory_); }

 private:
  int64_t bytes_;
  void* memory_;
};

// Room for the page tables, the zero pages of kernels that keep none, and the results.
#define SKIP_WITHOUT_MEMORY(sparse)                                                         \
  if (!(sparse).ok() || AvailableBytes() < int64_t{1'500'000'000}) {                        \
    GTEST_SKIP() << "needs address space for 2^31 elements and 1.5 GB of available memory"; \
  }

// For each byte that is read ThreadSanitizer would write 4 (GCC 12) of its own, up to 64 GiB in one
// test. The kernels run on this thread alone, so that it could find nothing: it looks away.
class LargeOffsetTest : public testing::Test {
 protected:
  LargeOffsetTest() { ABSL_ANNOTATE_IGNORE_READS_AND_WRITES_BEGIN(); }
  ~LargeOffsetTest() override { ABSL_ANNOTATE_IGNORE_READS_AND_WRITES_END(); }
};

TEST_F(LargeOffsetTest, ScoreToken) {
  const int64_t dim = 32;
  const int64_t count = kTwo31 / dim + 100;
  Sparse<BFloat16> keys(count * dim);
  SKIP_WITHOUT_MEMORY(keys);
  const std::vector<int64_t> marked = {0, kTwo31 / dim - 1, kTwo31 / dim, count - 1};
  for (size_t i = 0; i < marked.size(); ++i) {
    keys.data()[marked[i] * dim + 7] = ToBFloat16(1.0f + static_cast<float>(i));
  }
  std::vector<float> query(dim, 2.0f), scores(count, kNan);
  ScoreToken(query.data(), dim, {keys.data(), DType::kBFloat16, count}, scores.data());
  for (size_t i = 0; i < marked.size(); ++i) {
    EXPECT_EQ(scores[marked[i]], 2.0f * (1.0f + static_cast<float>(i)));
    scores[marked[i]] = 0;
  }
  for (int64_t m = 0; m < count; ++m) ASSERT_EQ(scores[m], 0.0f) << m;
}

// The panels, 64 lanes wide, pass 2^31 floats with few keys; the second panel lies beyond.
TEST_F(LargeOffsetTest, ScoreMaximaAndScoreBlock) {
  const int64_t dim = kTwo31 / kPanelLanes + 16;
  Sparse<float> panels(2 * dim * kPanelLanes);
  SKIP_WITHOUT_MEMORY(panels);
  Sparse<float> keys(dim);
  panels.data()[(dim - 1) * kPanelLanes] = 5;      // of query 0
  panels.data()[(2 * dim - 1) * kPanelLanes] = 7;  // of query 64
  keys.data()[dim - 1] = 2;
  std::vector<float> maxima(2 * kPanelLanes, -kInf);
  ScoreMaxima({panels.data(), 2, dim, {keys.data(), DType::kFloat32, 1}, maxima.data()});
  EXPECT_EQ(maxima[0], 10);
  EXPECT_EQ(maxima[64], 14);
  maxima.assign(2 * kPanelLanes, kInf);
  maxima[64] = 11;
  float score = kNan;
  ScoreBlock({panels.data(), 65, dim, {keys.data(), DType::kFloat32, 1}, maxima.data(), &score});
  EXPECT_EQ(score, 3);
}

TEST_F(LargeOffsetTest, PackQueriesWithAWideStride) {
  const int64_t stride = kTwo31 + 3;
  Sparse<float> rows(2 * stride);
  SKIP_WITHOUT_MEMORY(rows);
  rows.data()[1] = 5;
  rows.data()[stride + 2] = 7;
  std::vector<float> panel(4 * kPanelLanes, kNan);
  PackQueries(rows.data(), 2, 4, stride, panel.data());
  EXPECT_EQ(panel[1 * kPanelLanes], 5);
  EXPECT_EQ(panel[2 * kPanelLanes + 1], 7);
  EXPECT_EQ(panel[3 * kPanelLanes + 1], 0);
}

TEST_F(LargeOffsetTest, MergePartialsWithAWideStride) {
  const int64_t stride = kTwo31 + 5;
  Sparse<float> outputs(2 * stride), lse(2 * stride);
  SKIP_WITHOUT_MEMORY(outputs);
  SKIP_WITHOUT_MEMORY(lse);
  outputs.data()[3] = 10;
  outputs.data()[stride + 3] = 30;
  std::vector<float> merged(4);
  MergePartials({outputs.data(), lse.data(), stride, 2, 1, 4, merged.data()});
  ExpectSameBits(merged, {0, 0, 0, 20});
}

TEST_F(LargeOffsetTest, LinearFewRows) {
  const int64_t in = int64_t{1} << 14;
  const int64_t out = kTwo31 / in + 9;
  Sparse<BFloat16> weight(in * out);
  SKIP_WITHOUT_MEMORY(weight);
  weight.data()[(out - 1) * in + 77] = ToBFloat16(3.0f);
  std::vector<float> x(in, 2.0f), y(out, kNan);
  LinearFewRows({x.data(), 1, in, weight.data(), DType::kBFloat16, out, y.data(), false});
  EXPECT_EQ(y[out - 1], 6.0f);
  for (int64_t o = 0; o + 1 < out; ++o) ASSERT_EQ(y[o], 0.0f) << o;
}

TEST_F(LargeOffsetTest, LinearOfOneRow) {
  const int64_t in = int64_t{1} << 14;
  const int64_t out = kTwo31 / in + 9;
  Sparse<BFloat16> weight(in * out);
  SKIP_WITHOUT_MEMORY(weight);
  weight.data()[(out - 1) * in + 77] = ToBFloat16(3.0f);
  std::vector<float> x(in, 2.0f), y(out, kNan);
  Linear({x.data(), 1, in, weight.data(), DType::kBFloat16, out, y.data(), false}, 1);
  EXPECT_EQ(y[out - 1], 6.0f);
  for (int64_t o = 0; o + 1 < out; ++o) ASSERT_EQ(y[o], 0.0f) << o;
}

}  // namespace
}  // namespace longspan
