// Ranks under mpirun give what one rank alone gives: bit for bit in deterministic mode, within
// rounding otherwise, where prompts repeat no token so that rounding has no ties to break. Each
// rank makes all inputs, and its own expectation, from seeds.
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "tests/mpi_main.h"
#include "tests/runtime/sharded_run.h"

namespace longspan {
namespace {

struct Case {
  const char* name;
  bool deterministic;
  Attention attention;
  Compression compression;
  Positions positions;
  SelectionMerge merge = SelectionMerge::kAuto;
};

// What this rank gets under mpirun is `expected`, as far as it holds it.
void ExpectSame(const RandomModel& model, Config config, const std::vector<TestSequence>& sequences,
                const std::vector<SequenceResult>& expected) {
  Communicator& world = TestWorld();
  ASSERT_TRUE(ResolveConfig(world.size(), &config).ok());  // on all ranks or on none
  std::vector<SequenceResult> actual(sequences.size());
  for (size_t i = 0; i < sequences.size(); ++i) {
    actual[i].logits.assign(expected[i].logits.size(), NAN);
  }
  const absl::Status ran = RunOnRank(model, config, world, sequences, &actual);
  EXPECT_TRUE(ran.ok()) << ran;
  const int64_t vocab = model.config.vocab_size;
  const SequenceLayout layout = {config.parallel.stripe_tokens, world.size()};
  const double tolerance = config.deterministic ? 0 : 1e-4;
  for (size_t i = 0; i < sequences.size(); ++i) {
    EXPECT_EQ(actual[i].selections, expected[i].selections);
    const auto prompt = static_cast<int64_t>(sequences[i].prompt.size());
    for (size_t j = 0; j < expected[i].logits.size(); ++j) {
      const int64_t position = static_cast<int64_t>(j) / vocab;
      const int owner = position < prompt ? layout.owner(position) : 0;
      if (owner != world.rank()) continue;
      EXPECT_NEAR(actual[i].logits[j], expected[i].logits[j], tolerance)
          << "sequence " << i << ", position " << position;
    }
  }
}

class EsaMpiTest : public testing::TestWithParam<Case> {};

TEST_P(EsaMpiTest, EqualsOneRank) {
  RandomModelOptions options;
  options.compressed_dim = 8;
  options.vocab_size = 256;
  const RandomModel model = MakeRandomModel(options);
  Config config;
  config.deterministic = GetParam().deterministic;
  config.attention = GetParam().attention;
  config.esa.compression = GetParam().compression;
  config.esa.positions = GetParam().positions;
  config.parallel.selection_merge = GetParam().merge;
  config.esa.initial_tokens = 4;
  config.esa.local_tokens = 24;
  config.esa.top_k = 12;
  config.esa.selection_block = 16;
  config.esa.compressed_dim = 8;
  config.prefill_chunk_tokens = 64;
  const int64_t vocab = model.config.vocab_size;
  const auto tokens = GetParam().deterministic ? RandomTokens : DistinctTokens;
  std::vector<TestSequence> sequences;
  for (const auto& [prompt, decoded] : {std::pair{203, 12}, {3, 30}}) {
    const std::vector<int32_t> all = tokens(prompt, prompt + decoded, vocab);
    sequences.push_back({{all.begin(), all.begin() + prompt}, {all.begin() + prompt, all.end()}});
  }
  const auto expected = RunSharded(model, config, 1, sequences);

  for (const auto& [chunk, stripe] : {std::pair{64, 0}, {32, 16}, {96, 48}}) {
    SCOPED_TRACE(testing::Message() << "chunk " << chunk << ", stripe " << stripe);
    config.prefill_chunk_tokens = chunk;
    config.parallel.stripe_tokens = stripe;
    ExpectSame(model, config, sequences, expected);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Cases, EsaMpiTest,
    testing::Values(
        Case{"LowRank", true, Attention::kEsa, Compression::kLowRank, Positions::kFar},
        Case{"Histogram", true, Attention::kEsa, Compression::kLowRank, Positions::kFar,
             SelectionMerge::kHistogram},
        Case{"Exact", true, Attention::kEsa, Compression::kExact, Positions::kNative},
        Case{"Dense", true, Attention::kDense, Compression::kExact, Positions::kFar},
        Case{"FastLowRank", false, Attention::kEsa, Compression::kLowRank, Positions::kFar},
        Case{"FastStreaming", false, Attention::kStreaming, Compression::kExact, Positions::kFar},
        Case{"FastDense", false, Attention::kDense, Compression::kExact, Positions::kFar}),
    [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace longspan
