// The calls of real ranks are those of the schedule, one by one.
#include <algorithm>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "collectives/thread_communicator.h"
#include "gtest/gtest.h"
#include "kernels/base/status_macros.h"
#include "runtime/cpu_transformer.h"
#include "runtime/job_shape.h"
#include "runtime/model.h"
#include "runtime/transformer.h"
#include "sharding/histogram_select.h"
#include "sharding/layer_program.h"
#include "sharding/rank_calls.h"
#include "tests/reference/random_model.h"
#include "tests/runtime/recording_communicator.h"

namespace longspan {
namespace {

// What was selected, in the order in which it was; no empty ones.
using Selected = std::vector<std::vector<int64_t>>;

struct Job {
  std::string name;
  Config config;
  BufferLimits limits;
  std::optional<Moving> moving;
  std::vector<int64_t> prompts;  // tokens of each sequence; all then decode together
};

constexpr int64_t kDecoded = 4;

// One rank of a job: a prompt, of which only the last block's output is wanted, and tokens behind
// it.
class RankRun {
 public:
  RankRun(const RandomModel& model, const Job& job, const Config& config,
          Communicator* communicator)
      : model_(model),
        config_(config),
        recorder_(communicator),
        rope_(InverseFrequencies(model.config.rope, model.config.head_dim)) {
    context_ = MakeAttentionContext(config, model.config, &recorder_, &rope_, &counts_);
    context_.limits = job.limits;
    context_.moving = job.moving;
    if (context_.selects && config.esa.compression == Compression::kLowRank) {
      context_.factors = MakeScoreFactors(model.compressor);
    }
    context_.on_selection = [this](int64_t, Range, absl::Span<const int64_t> chosen) {
      if (!chosen.empty()) selected_.emplace_back(chosen.begin(), chosen.end());
    };
  }

  absl::Status Run(const Job& job) {
    PagePool pool(context_.kv, 1 << 20);
    CpuTransformer transformer(model_.config, model_.weights, context_);
    std::vector<std::unique_ptr<KvShard>> caches;
    for (const int64_t prompt : job.prompts) {
      caches.push_back(std::make_unique<KvShard>(&pool, context_.layout, recorder_.rank()));
      LONGSPAN_RETURN_IF_ERROR(caches.back()->Reserve(prompt + kDecoded));
      LONGSPAN_RETURN_IF_ERROR(Prefill(prompt, caches.back().get(), &transformer));
    }
    for (int64_t i = 0; i < kDecoded; ++i) {
      std::vector<DecodeToken> tokens;
      for (size_t s = 0; s < caches.size(); ++s) {
        tokens.push_back({caches[s].get(), job.prompts[s] + i});
      }
      const std::vector<int32_t> ids(tokens.size(), static_cast<int32_t>(i));
      LONGSPAN_RETURN_IF_ERROR(transformer.Decode(tokens, ids));
    }
    return absl::OkStatus();
  }

  const std::vector<Collective>& calls() const { return recorder_.calls(); }
  const Selected& selected() const { return selected_; }

 private:
  absl::Status Prefill(int64_t prompt, KvShard* cache, Transformer* transformer) {
    const std::vector<int32_t> tokens = RandomTokens(1, prompt, model_.config.vocab_size);
    for (int64_t begin = 0; begin < prompt; begin += config_.prefill_chunk_tokens) {
      const Range range = {begin, std::min(prompt, begin + config_.prefill_chunk_tokens)};
      const PrefillChunk chunk =
          PlanChunk(context_, config_.esa.selection_block, cache, range, prompt + kDecoded);
      LONGSPAN_RETURN_IF_ERROR(transformer->Prefill(
          chunk, absl::MakeConstSpan(tokens).subspan(range.begin, range.size()),
          range.end == prompt ? Transformer::Outputs::kLastBlock : Transformer::Outputs::kNone));
    }
    return absl::OkStatus();
  }

  const RandomModel& model_;
  const Config& config_;
  RecordingCommunicator recorder_;
  Rope rope_;
  AttentionCounts counts_;
  AttentionContext context_;
  Selected selected_;
};

// The programs of the whole job, layer after layer, given what was selected.
std::vector<LayerProgram> ProgramsOf(const Job& job, const JobShape& shape,
                                     const Selected& selected) {
  std::vector<LayerProgram> programs;
  auto next = selected.begin();
  const auto select = [&](Range, Range) { return *next++; };
  const int64_t layers = shape.model.layers;
  for (const int64_t prompt : job.prompts) {
    for (int64_t begin = 0; begin < prompt; begin += shape.model.chunk_tokens) {
      const Range range = {begin, std::min(prompt, begin + shape.model.chunk_tokens)};
      const ChunkShape chunk = {range, prompt + kDecoded};
      const auto all =
          static_cast<int64_t>(SelectionBlocks(range, shape.model.block_tokens).size());
      const int64_t last = range.end == prompt ? 1 : 0;
      for (int64_t layer = 0; layer < layers; ++layer) {
        programs.push_back(PrefillProgram(shape, chunk, layer + 1 < layers ? all : last, select));
      }
    }
  }
  for (int64_t i = 0; i < kDecoded; ++i) {
    std::vector<int64_t> positions;
    for (const int64_t prompt : job.prompts) positions.push_back(prompt + i);
    for (int64_t layer = 0; layer < layers; ++layer) {
      programs.push_back(DecodeProgram(shape, positions, select));
    }
  }
  EXPECT_EQ(next, selected.end());
  return programs;
}

std::string Show(const Collective& call) {
  std::string text(call.name);
  for (const int64_t bytes : call.bytes) text += " " + std::to_string(bytes);
  for (const Message& m : call.messages) {
    text +=
        " " + std::to_string(m.from) + ">" + std::to_string(m.to) + ":" + std::to_string(m.bytes);
  }
  return text;
}

Config SmallConfig() {
  Config config;
  config.prefill_chunk_tokens = 64;
  config.esa.initial_tokens = 4;
  config.esa.local_tokens = 24;
  config.esa.top_k = 12;
  config.esa.selection_block = 16;
  config.esa.compressed_dim = 8;
  config.esa.proximity = 2;
  return config;
}

// How many histograms a merge takes, and how many candidates come with the winners, follows from
// the scores: what a plan says of that.
std::vector<Collective> WithoutScores(const std::vector<Collective>& real) {
  constexpr int64_t kCandidate = 8;
  std::vector<Collective> calls;
  for (const Collective& call : real) {
    if (call.name == "select.histograms" && calls.back().name == call.name) {
      EXPECT_LE(call.bytes[0], calls.back().bytes[0]) << "rows that are settled are left out";
      continue;
    }
    calls.push_back(call);
    if (call.name != "select.winners") continue;
    const Collective& histograms = calls[calls.size() - 3];
    const int64_t rows = histograms.bytes[0] / (kHistogramBins * 4);
    const int64_t least = rows * SmallConfig().esa.top_k * kCandidate;
    EXPECT_GE(call.bytes[0], least);
    EXPECT_LE(call.bytes[0], least + rows * kMostExcess * kCandidate);
    calls.back().bytes[0] = least;
  }
  return calls;
}

void ExpectSameCalls(const std::vector<Collective>& real, std::vector<Collective> planned) {
  ASSERT_EQ(real.size(), planned.size());
  for (size_t i = 0; i < real.size(); ++i) {
    // Messages of one call all start at once: their order says nothing.
    Collective call = real[i];
    for (Collective* c : {&call, &planned[i]}) {
      std::sort(c->messages.begin(), c->messages.end(), [](const Message& a, const Message& b) {
        return std::tie(a.from, a.to) < std::tie(b.from, b.to);
      });
    }
    ASSERT_EQ(call, planned[i]) << "call " << i << ": " << Show(call) << "\nnot "
                                << Show(planned[i]);
  }
}

std::vector<Job> Jobs() {
  std::vector<Job> jobs;
  const auto add = [&](std::string name) -> Job& {
    return jobs.emplace_back(Job{std::move(name), SmallConfig(), {}, {}, {219, 130}});
  };
  add("Cheapest");
  add("Keys").moving = Moving::kKeys;
  add("Queries").moving = Moving::kQueries;
  add("Deterministic").config.deterministic = true;
  add("Exact").config.esa.compression = Compression::kExact;
  for (const Score score : {Score::kHeadMax, Score::kSoftVote}) {
    Job& heads = add(score == Score::kHeadMax ? "HeadMax" : "SoftVote");
    heads.config.esa.compression = Compression::kExact;
    heads.config.esa.score = score;
  }
  Job& groups = add("GroupVote");
  groups.config.esa.score = Score::kGroupVote;
  groups.config.esa.score_groups = 2;
  Job& units = add("Units");
  units.config.esa.unit_tokens = 4;
  units.config.esa.unit_representatives = 2;
  add("Histogram").config.parallel.selection_merge = SelectionMerge::kHistogram;
  add("NoProximity").config.esa.proximity = 0;
  add("Streaming").config.attention = Attention::kStreaming;
  add("Dense").config.attention = Attention::kDense;
  Job& halves = add("Bfloat16");
  halves.config.kv_cache_dtype = "bfloat16";
  Job& stripes = add("OtherStripes");
  stripes.config.parallel.stripe_tokens = 48;
  stripes.prompts = {192};
  Job& parts = add("SmallBuffers");
  parts.limits = {.ring_round_tokens = 40, .tile_maxima_bytes = 4096, .tile_group_bytes = 10000};
  Job& steps = add("SmallBuffersDeterministic");
  steps.limits = parts.limits;
  steps.config.deterministic = true;
  return jobs;
}

class LayerCallsTest : public testing::TestWithParam<std::tuple<int, Job>> {};

TEST_P(LayerCallsTest, AreThoseOfTheProgram) {
  const auto& [ranks, job] = GetParam();
  const RandomModel model = MakeRandomModel({.compressed_dim = 8});
  Config config = job.config;
  ASSERT_TRUE(ResolveConfig(ranks, &config).ok());
  JobShape shape = MakeJobShape(config, model.config, ranks);
  shape.layer.limits = job.limits;
  shape.histogram.excess = 0;
  shape.layer.moving = job.moving;
  std::vector<std::vector<Collective>> calls(ranks);
  std::vector<Selected> selected(ranks);
  const absl::Status ran = RunThreadRanks(ranks, [&](Communicator& communicator) {
    RankRun run(model, job, config, &communicator);
    const absl::Status status = run.Run(job);
    calls[communicator.rank()] = run.calls();
    selected[communicator.rank()] = run.selected();
    return status;
  });
  ASSERT_TRUE(ran.ok()) << ran;
  const std::vector<LayerProgram> programs = ProgramsOf(job, shape, selected[0]);
  for (int r = 0; r < ranks; ++r) {
    SCOPED_TRACE(r);
    std::vector<Collective> planned;
    for (const LayerProgram& program : programs) {
      for (Collective& call : CallsOfRank(program, ranks, r)) planned.push_back(std::move(call));
    }
    ExpectSameCalls(WithoutScores(calls[r]), std::move(planned));
  }
}

std::string NameOf(const testing::TestParamInfo<std::tuple<int, Job>>& param) {
  return std::get<1>(param.param).name + std::to_string(std::get<0>(param.param));
}

INSTANTIATE_TEST_SUITE_P(Jobs, LayerCallsTest,
                         testing::Combine(testing::Values(1, 2, 3, 5), testing::ValuesIn(Jobs())),
                         NameOf);

}  // namespace
}  // namespace longspan
