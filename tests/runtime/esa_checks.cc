#include "tests/runtime/esa_checks.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "collectives/thread_communicator.h"
#include "gtest/gtest.h"
#include "tests/reference/reference_model.h"

namespace longspan {
namespace {

ReferenceOptions OptionsOf(const Config& config, const RandomModel& model) {
  ReferenceOptions options;
  using Kind = ReferenceOptions::Attention;
  options.attention = config.attention == Attention::kDense       ? Kind::kDense
                      : config.attention == Attention::kStreaming ? Kind::kStreaming
                                                                  : Kind::kEsa;
  options.initial_tokens = config.esa.initial_tokens;
  options.local_tokens = config.esa.local_tokens;
  options.top_k = config.esa.top_k;
  options.selection_block = config.esa.selection_block;
  options.far_position =
      config.esa.far_position > 0 ? config.esa.far_position : config.esa.local_tokens;
  options.proximity = config.esa.proximity;
  options.native_positions = config.esa.positions == Positions::kNative;
  options.score = static_cast<ReferenceOptions::Score>(config.esa.score);  // of the same order
  options.score_groups = config.esa.score_groups;
  options.rotates_score_queries = config.esa.target == ScoreTarget::kFar;
  options.unit_tokens = config.esa.unit_tokens;
  options.unit_representatives = config.esa.unit_representatives;
  if (config.esa.compression == Compression::kLowRank) options.compressor = &model.compressor;
  return options;
}

// Relative to the largest logit of the position.
void ExpectLogitsNear(const std::vector<double>& expected, const float* actual, int64_t vocab,
                      double tolerance, const std::string& where) {
  double scale = 0;
  for (int64_t v = 0; v < vocab; ++v) scale = std::max(scale, std::fabs(expected[v]));
  for (int64_t v = 0; v < vocab; ++v) {
    ASSERT_NEAR(expected[v], actual[v], tolerance * scale) << where << ", token " << v;
  }
}

const Variant kVariants[] = {
    {"LowRank", [](Config*) {}},
    {"Exact", [](Config* c) { c->esa.compression = Compression::kExact; }},
    {"Native", [](Config* c) { c->esa.positions = Positions::kNative; }},
    {"Streaming", [](Config* c) { c->attention = Attention::kStreaming; }},
    {"Dense", [](Config* c) { c->attention = Attention::kDense; }},
    {"WideProximity", [](Config* c) { c->esa.proximity = 13; }},
    {"NoProximity", [](Config* c) { c->esa.proximity = 0; }},
    {"NoInitial", [](Config* c) { c->esa.initial_tokens = 0; }},
    {"FarPosition", [](Config* c) { c->esa.far_position = 100; }},
    {"OddSizes",
     [](Config* c) {
       c->esa.initial_tokens = 3;
       c->esa.local_tokens = 21;
       c->esa.selection_block = 7;
       c->esa.top_k = 5;
       c->prefill_chunk_tokens = 35;
       c->parallel.stripe_tokens = 14;
     }},
};

// Other scores than the paper's, over sizes of all kinds.
const Variant kScoreVariants[] = {
    {"HeadMax",
     [](Config* c) {
       c->esa.compression = Compression::kExact;
       c->esa.score = Score::kHeadMax;
     }},
    {"SoftVote",
     [](Config* c) {
       c->esa.compression = Compression::kExact;
       c->esa.score = Score::kSoftVote;
     }},
    {"SoftVoteOddSizes",
     [](Config* c) {
       c->esa.compression = Compression::kExact;
       c->esa.score = Score::kSoftVote;
       c->esa.initial_tokens = 3;
       c->esa.local_tokens = 21;
       c->esa.selection_block = 7;
       c->esa.top_k = 5;
       c->esa.proximity = 0;
       c->prefill_chunk_tokens = 35;
       c->parallel.stripe_tokens = 14;
     }},
    {"GroupVote",
     [](Config* c) {
       c->esa.score = Score::kGroupVote;
       c->esa.score_groups = 4;
     }},
};

void SelectUnits(Config* c) {
  c->esa.initial_tokens = 8;
  c->esa.unit_tokens = 4;
  c->esa.unit_representatives = 2;
}
const Variant kUnitVariants[] = {
    {"Units", SelectUnits},
    {"UnitsExact",
     [](Config* c) {
       SelectUnits(c);
       c->esa.compression = Compression::kExact;
     }},
    {"UnitsByTheirMean",
     [](Config* c) {
       SelectUnits(c);
       c->esa.unit_tokens = c->esa.unit_representatives = 2;
       c->esa.initial_tokens = 0;
     }},
};

const Variant kTargetVariants[] = {
    {"FarTarget",
     [](Config* c) {
       c->esa.compression = Compression::kExact;
       c->esa.target = ScoreTarget::kFar;
     }},
    {"FarTargetSoftVote",
     [](Config* c) {
       c->esa.compression = Compression::kExact;
       c->esa.target = ScoreTarget::kFar;
       c->esa.score = Score::kSoftVote;
       c->esa.far_position = 100;
     }},
};

// Ways to run that must not change a bit.
struct Way {
  int ranks;
  int64_t chunk, stripe;
};
const Way kWays[] = {{1, 64, 64}, {1, 16, 16},  {1, 128, 48}, {2, 64, 32},
                     {2, 96, 16}, {3, 48, 16},  {3, 64, 32},  {4, 64, 16},
                     {4, 16, 16}, {4, 256, 64}, {8, 64, 16},  {8, 128, 16}};

const Family kFamilies[] = {
    {"Bias", [](RandomModelOptions* o) { o->attention_bias = true; }},
    {"QkNorm", [](RandomModelOptions* o) { o->qk_norm = true; }},
    {"Linear", [](RandomModelOptions* o) { o->rope_scaling = RopeScaling::kLinear; }},
    {"Llama3", [](RandomModelOptions* o) { o->rope_scaling = RopeScaling::kLlama3; }},
    {"Yarn",
     [](RandomModelOptions* o) {
       o->rope_scaling = RopeScaling::kYarn;
       o->head_dim = 32;
     }},
};

}  // namespace

RandomModelOptions SmallModel() {
  RandomModelOptions options;
  options.num_layers = 3;
  options.compressed_dim = 8;
  return options;
}

Config SmallConfig() {
  Config config;
  config.esa.initial_tokens = 4;
  config.esa.local_tokens = 24;
  config.esa.top_k = 12;
  config.esa.selection_block = 16;
  config.esa.compressed_dim = 8;
  config.prefill_chunk_tokens = 64;
  return config;
}

TestSequence MakeSequence(uint64_t seed, int64_t prompt, int64_t decoded, int64_t vocab) {
  return {RandomTokens(seed, prompt, vocab), RandomTokens(seed + 1000, decoded, vocab)};
}

void ExpectMatchesReference(const RandomModel& model, const Config& config,
                            const TestSequence& sequence, const SequenceResult& result,
                            double tolerance, double score_tolerance) {
  if (score_tolerance == 0) score_tolerance = 10 * tolerance;
  ReferenceOptions options = OptionsOf(config, model);
  options.forced_selection = [&](int64_t layer,
                                 int64_t block) -> std::optional<std::vector<int64_t>> {
    const auto found = result.selections.find({layer, block});
    EXPECT_NE(found, result.selections.end()) << "layer " << layer << ", block " << block;
    return found == result.selections.end() ? std::vector<int64_t>() : found->second;
  };
  ReferenceModel reference(model.config, model.weights, options);
  const int64_t vocab = model.config.vocab_size;
  const auto check = [&](const ReferenceStep& step, int64_t first_position) {
    for (size_t layer = 0; layer < step.selections.size(); ++layer) {
      for (const BlockSelection& block : step.selections[layer]) {
        const auto& actual = result.selections.at({static_cast<int64_t>(layer), block.begin});
        EXPECT_EQ(SelectionMismatch(block, actual, score_tolerance), "")
            << "layer " << layer << ", block at " << block.begin;
      }
    }
    for (size_t i = 0; i < step.logits.size() / vocab; ++i) {
      const std::vector<double> row(step.logits.begin() + i * vocab,
                                    step.logits.begin() + (i + 1) * vocab);
      const int64_t position = first_position + static_cast<int64_t>(i);
      ExpectLogitsNear(row, result.logits.data() + position * vocab, vocab, tolerance,
                       "position " + std::to_string(position));
    }
  };
  check(reference.Prompt(sequence.prompt), 0);
  for (size_t i = 0; i < sequence.decoded.size(); ++i) {
    check(reference.Decode(sequence.decoded[i]), static_cast<int64_t>(sequence.prompt.size() + i));
  }
}

void ExpectTheSameBitsAllWays(const RandomModel& model, Config config) {
  config.esa.selection_block = 16;
  config.deterministic = true;
  // Ends mid-block; shorter than a block and than eight ranks; one that only just selects; a block.
  const int64_t vocab = model.config.vocab_size;
  const std::vector<TestSequence> sequences = {
      MakeSequence(1, 203, 12, vocab), MakeSequence(2, 5, 40, vocab), MakeSequence(3, 49, 3, vocab),
      MakeSequence(4, 16, 0, vocab)};
  std::vector<SequenceResult> alone;
  config.prefill_chunk_tokens = 32;
  config.parallel.stripe_tokens = 32;
  for (const TestSequence& sequence : sequences) {
    alone.push_back(RunSharded(model, config, 1, {sequence})[0]);
  }
  for (const Way& way : kWays) {
    config.prefill_chunk_tokens = way.chunk;
    config.parallel.stripe_tokens = way.stripe;
    if (config.esa.proximity > way.stripe) continue;
    const auto together = RunSharded(model, config, way.ranks, sequences);
    for (size_t i = 0; i < sequences.size(); ++i) {
      SCOPED_TRACE(testing::Message() << "sequence " << i << ", ranks " << way.ranks << ", chunk "
                                      << way.chunk << ", stripe " << way.stripe);
      EXPECT_EQ(together[i].selections, alone[i].selections);
      EXPECT_EQ(together[i].logits, alone[i].logits);
    }
  }
}

void ExpectBothMergesSelectTheSame(const RandomModel& model, Config config, int ranks) {
  std::vector<TestSequence> sequences = {MakeSequence(16, 203, 9, model.config.vocab_size)};
  for (const int tokens : {3, 1}) {
    TestSequence& sequence = sequences.emplace_back();
    for (int i = 0; i < 150; ++i) sequence.prompt.push_back(i % tokens);
    sequence.decoded.assign(5, 0);
  }
  config.parallel.selection_merge = SelectionMerge::kAllGather;
  const auto expected = RunSharded(model, config, ranks, sequences);
  config.parallel.selection_merge = SelectionMerge::kHistogram;
  const auto actual = RunSharded(model, config, ranks, sequences);
  for (size_t i = 0; i < sequences.size(); ++i) {
    EXPECT_EQ(actual[i].selections, expected[i].selections) << i;
    EXPECT_EQ(actual[i].logits, expected[i].logits) << i;
  }
}

CommunicatorStats StatsOfRun(Config config, int ranks, const TestSequence& sequence) {
  const RandomModel model = MakeRandomModel(SmallModel());
  EXPECT_TRUE(ResolveConfig(ranks, &config).ok());
  CommunicatorStats stats;
  const absl::Status ran = RunThreadRanks(ranks, [&](Communicator& communicator) -> absl::Status {
    std::vector<SequenceResult> results(1);
    results[0].logits.resize((sequence.prompt.size() + sequence.decoded.size()) *
                             model.config.vocab_size);
    const absl::Status status = RunOnRank(model, config, communicator, {sequence}, &results);
    if (communicator.rank() == 0) stats = communicator.stats();
    return status;
  });
  EXPECT_TRUE(ran.ok()) << ran;
  return stats;
}

absl::Span<const Variant> Variants() { return kVariants; }
absl::Span<const Variant> ScoreVariants() { return kScoreVariants; }
absl::Span<const Variant> TargetVariants() { return kTargetVariants; }
absl::Span<const Variant> UnitVariants() { return kUnitVariants; }
absl::Span<const Family> Families() { return kFamilies; }

}  // namespace longspan
