#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/sampling.h"
#include "tests/kernels/cuda_testing.h"
#include "tests/kernels/kernel_testing.h"

namespace longspan::cuda {
namespace {

// As runtime/sampling.cc at temperature 0.
int32_t Likeliest(const float* logits, int64_t vocab) {
  const auto value = [&](int64_t id) { return std::isnan(logits[id]) ? -kInf : logits[id]; };
  int64_t best = 0;
  for (int64_t id = 1; id < vocab; ++id) {
    if (value(id) > value(best)) best = id;
  }
  return static_cast<int32_t>(best);
}

class ArgMaxCudaTest : public CudaTest {
 protected:
  // `shift` floats beyond an aligned address.
  void Check(const std::vector<float>& logits, int64_t rows, int64_t shift = 0) {
    const int64_t vocab = static_cast<int64_t>(logits.size()) / rows;
    SCOPED_TRACE(testing::Message() << rows << " rows of " << vocab << ", shift " << shift);
    // What is beside them would be chosen.
    std::vector<float> in(shift, kInf);
    in.insert(in.end(), logits.begin(), logits.end());
    in.insert(in.end(), 8, kInf);
    const Buffer device_in = Upload(in);
    const Buffer ids = Poisoned((rows + 8) * 4);
    const Buffer workspace = Poisoned(ArgMaxWorkspaceBytes(rows) + 64);
    const absl::Status status = ArgMax({.logits = device_in.as<float>() + shift,
                                        .rows = rows,
                                        .vocab = vocab,
                                        .ids = ids.as<int32_t>(),
                                        .workspace = workspace.data()},
                                       nullptr);
    ASSERT_TRUE(status.ok()) << status;
    const auto actual = Download<int32_t>(ids.data(), rows + 8);
    for (int64_t row = 0; row < rows; ++row) {
      ASSERT_EQ(actual[row], Likeliest(logits.data() + row * vocab, vocab)) << "row " << row;
    }
    for (int64_t i = rows; i < rows + 8; ++i) EXPECT_EQ(actual[i], -1);
    for (const uint8_t byte :
         Download<uint8_t>(workspace.data() + ArgMaxWorkspaceBytes(rows), 64)) {
      EXPECT_EQ(byte, 0xff);
    }
  }
};

TEST_F(ArgMaxCudaTest, EqualsExpectation) {
  Random random(1);
  for (const int64_t vocab :
       {1, 2, 3, 4, 5, 31, 32, 100, 1000, 1024, 8191, 32768, 32769, 128'256}) {
    for (const int64_t rows : {1, 2, 9, 16}) {
      for (const int64_t shift : {0, 1}) {
        Check(random.Reals(rows * vocab), rows, shift);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(ArgMaxCudaTest, TiesGoToTheLowestId) {
  Random random(2);
  const float most = std::numeric_limits<float>::max();
  const std::vector<std::vector<float>> choices = {
      {1.0f},         {-1.0f, -2.0f}, {0.0f, -0.0f},         {kNan},
      {-kInf},        {kNan, -kInf},  {kInf, kNan, 1.0f},    {-0.0f, -1.0f, kNan},
      {-most, -kInf}, {1e-40f, 0.0f}, {-1e-40f, 0.0f, -0.0f}};
  for (const auto& choice : choices) {
    for (const int64_t vocab : {1, 7, 5000, 100'000}) {
      std::vector<float> logits(3 * vocab);
      for (float& logit : logits) {
        logit = choice[random.Integer(0, static_cast<int64_t>(choice.size()) - 1)];
      }
      Check(logits, 3);
      Check(logits, 3, 1);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(ArgMaxCudaTest, OneIsGreaterThanAllOthers) {
  const int64_t vocab = 100'000;
  for (const int64_t id : {0, 1, 3, 4, 255, 256, 1023, 1024, 32767, 32768, 99'998, 99'999}) {
    std::vector<float> logits(vocab, -3.0f);
    logits[id] = -2.5f;
    Check(logits, 1);
    if (HasFatalFailure()) return;
  }
}

TEST_F(ArgMaxCudaTest, ManyRows) {
  Random random(3);
  Check(random.Reals(70'000 * 3), 70'000);
}

TEST_F(ArgMaxCudaTest, RefusesAnEmptyVocabulary) {
  EXPECT_TRUE(absl::IsInvalidArgument(ArgMax({.rows = 1, .vocab = 0}, nullptr)));
  EXPECT_TRUE(ArgMax({.rows = 0, .vocab = 0}, nullptr).ok());
}

}  // namespace
}  // namespace longspan::cuda
