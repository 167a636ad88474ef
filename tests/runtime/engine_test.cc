// Whole requests through the engine, over ranks as threads; built a second time for ranks that
// share a GPU.
#include "runtime/engine.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "collectives/thread_communicator.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/base/status_macros.h"
#ifdef LONGSPAN_TEST_ON_GPU
#include "kernels/cuda/device.h"
#endif
#include "runtime/compressor.h"
#include "runtime/score_fit.h"
#include "runtime/weights.h"
#include "sharding/sequence_layout.h"
#include "sharding/step_schedule.h"
#include "tests/reference/random_model.h"
#include "tests/runtime/file_testing.h"
#include "tests/runtime/recording_communicator.h"

namespace longspan {
namespace {

using ::longspan::testing::Fails;
using ::longspan::testing::IsOk;
using ::longspan::testing::TempDir;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A tiny random model with a tokenizer of bytes.
class EngineTest : public ::testing::Test {
 protected:
  EngineTest() {
    const std::string tests = std::string(LONGSPAN_SOURCE_DIR) + "/tests";
    for (const char* file : {"config.json", "model.safetensors"}) {
      std::filesystem::copy(tests + "/runtime/testdata/models/llama_f16/" + file,
                            directory_ / file);
    }
    std::filesystem::copy(tests + "/launcher/testdata/byte_tokenizer.json",
                          directory_ / "tokenizer.json");
    config_.model = directory_.path();
    config_.deterministic = true;
    config_.max_model_len = 1024;
    config_.prefill_chunk_tokens = 64;
    config_.esa.initial_tokens = 4;
    config_.esa.local_tokens = 24;
    config_.esa.top_k = 12;
    config_.esa.selection_block = 16;
    config_.esa.compression = Compression::kExact;
  }

  void SetUp() override {
#ifdef LONGSPAN_TEST_ON_GPU
    const absl::StatusOr<int> devices = cuda::CountDevices();
    ASSERT_TRUE(devices.ok()) << devices.status();
    if (*devices == 0) GTEST_SKIP() << "no GPU";
    config_.device = "cuda";
    config_.dtype = "float32";
#endif
  }

  // Runs all requests and gives their completions, in order of submission.
  std::vector<Completion> Run(int ranks, int64_t max_num_seqs,
                              const std::vector<Request>& requests) {
    Config config = config_;
    config.max_num_seqs = max_num_seqs;
    config.parallel.stripe_tokens = 0;
    EXPECT_TRUE(ResolveConfig(ranks, &config).ok());
    std::vector<Completion> completions(requests.size());
    const absl::Status ran = RunThreadRanks(ranks, [&](Communicator& communicator) -> absl::Status {
      LONGSPAN_ASSIGN_OR_RETURN(const auto engine, Engine::Create(config, &communicator));
      if (communicator.rank() != 0) return engine->RunWorker();
      for (const Request& request : requests) {
        LONGSPAN_RETURN_IF_ERROR(engine->Submit(request).status());
      }
      if (counts_selections_) engine->CountSelections();
      std::map<int64_t, std::string> streamed;
      while (engine->HasWork()) {
        LONGSPAN_ASSIGN_OR_RETURN(const auto updates, engine->Step());
        for (const RequestUpdate& update : updates) {
          streamed[update.request] += update.text;
          if (!update.finished) continue;
          completions[update.request] = update.completion;
          EXPECT_EQ(streamed[update.request], update.completion.text);
        }
      }
      if (counts_selections_) {
        const SelectionStats& stats = *engine->selection_stats();
        for (const auto stage : {SelectionStats::kPrefill, SelectionStats::kDecode}) {
          selections_[stage] = stats.counts(stage);
        }
        no_recall_ = stats.no_recall();
      }
      LONGSPAN_ASSIGN_OR_RETURN(stats_, engine->Shutdown());
      return absl::OkStatus();
    });
    EXPECT_TRUE(ran.ok()) << ran;
    return completions;
  }

  static Request MakeRequest(uint64_t seed, int64_t prompt, int64_t max_tokens) {
    std::mt19937 generator(seed);
    Request request;
    for (int64_t i = 0; i < prompt; ++i) request.prompt.push_back(generator() % 250);
    request.sampling.max_tokens = max_tokens;
    request.sampling.temperature = 0;
    request.sampling.ignore_eos = true;
    return request;
  }

  static std::vector<Request> Mix() {
    std::vector<Request> requests = {MakeRequest(1, 203, 20), MakeRequest(2, 3, 60),
                                     MakeRequest(3, 64, 1), MakeRequest(4, 129, 12),
                                     MakeRequest(5, 1, 5)};
    requests[1].sampling.temperature = 0.8;
    requests[1].sampling.seed = 7;
    requests[3].sampling.temperature = 1.2;
    requests[3].sampling.top_p = 0.7;
    requests[3].sampling.logprobs = 3;
    requests[3].sampling.echo = true;
    return requests;
  }

  TempDir directory_;
  Config config_;
  EngineStats stats_;
  bool counts_selections_ = false;
  std::vector<SelectionCounts> selections_[2];  // [stages][layers]
  std::string no_recall_;
};

// What the simulator counts of a step outside its layers.
TEST_F(EngineTest, PlansAndLogitsGoAsTheScheduleSays) {
  constexpr int kRanks = 3;
  constexpr int64_t kOpen = 5, kClose = 1;  // words of a plan in which a sequence begins, or ends
  config_.prefill_chunk_tokens = 144;
  ASSERT_TRUE(ResolveConfig(kRanks, &config_).ok());
  std::vector<std::vector<Collective>> calls(kRanks);
  const absl::Status ran = RunThreadRanks(kRanks, [&](Communicator& communicator) -> absl::Status {
    RecordingCommunicator recorder(&communicator);
    LONGSPAN_ASSIGN_OR_RETURN(const auto engine, Engine::Create(config_, &recorder));
    if (communicator.rank() != 0) {
      LONGSPAN_RETURN_IF_ERROR(engine->RunWorker());
    } else {
      LONGSPAN_RETURN_IF_ERROR(engine->Submit(MakeRequest(1, 250, 2)).status());
      while (engine->HasWork()) LONGSPAN_RETURN_IF_ERROR(engine->Step().status());
      LONGSPAN_RETURN_IF_ERROR(engine->Shutdown().status());
    }
    for (const Collective& call : recorder.calls()) {
      const bool is_of_step = call.name.starts_with("step.") || call.name == "prefill.logits";
      if (is_of_step) calls[communicator.rank()].push_back(call);
    }
    return absl::OkStatus();
  });
  ASSERT_TRUE(ran.ok()) << ran;
  const SequenceLayout layout = {config_.parallel.stripe_tokens, kRanks};
  const int owner = layout.owner(249);
  ASSERT_NE(owner, 0);
  std::vector<Collective> expected;
  const auto expect_plan = [&](int64_t words) {
    for (Collective& call : BroadcastPlan(words)) expected.push_back(std::move(call));
  };
  expect_plan(PlanWords(144, 0) + kOpen);
  expect_plan(PlanWords(106, 0));
  expected.push_back(SendLastLogits(owner, 259));
  expect_plan(PlanWords(0, 1));
  expect_plan(PlanWords(0, 0) + kClose);
  expect_plan(PlanWords(0, 0));  // the end
  for (int r = 0; r < kRanks; ++r) {
    std::vector<Collective> of_rank = expected;
    if (r != 0 && r != owner) {
      for (Collective& call : of_rank) call.messages.clear();
    }
    EXPECT_EQ(calls[r], of_rank) << "rank " << r;
  }
}

TEST_F(EngineTest, TokensAndLogprobsDependNeitherOnRanksNorOnTheBatch) {
  const std::vector<Request> requests = Mix();
  const auto alone = Run(1, 1, requests);
  for (size_t i = 0; i < requests.size(); ++i) {
    ASSERT_EQ(alone[i].tokens.size(), requests[i].sampling.max_tokens);
  }
  for (const auto& [ranks, max_num_seqs] :
       std::vector<std::pair<int, int64_t>>{{1, 5}, {2, 2}, {3, 5}, {4, 3}, {8, 5}}) {
    const auto together = Run(ranks, max_num_seqs, requests);
    for (size_t i = 0; i < requests.size(); ++i) {
      SCOPED_TRACE(::testing::Message() << "request " << i << ", ranks " << ranks);
      EXPECT_EQ(together[i].tokens, alone[i].tokens);
      EXPECT_EQ(together[i].logprobs, alone[i].logprobs);
      EXPECT_EQ(together[i].prompt_logprobs, alone[i].prompt_logprobs);
    }
  }
}

TEST_F(EngineTest, FastModeGivesTheSameTokensHere) {
  // No two logits of this run lie within rounding of one another, and no two scores: prompts repeat
  // no token.
  std::vector<Request> requests = Mix();
  for (Request& request : requests) {
    request.prompt = DistinctTokens(request.prompt[0], static_cast<int64_t>(request.prompt.size()),
                                    /*vocab_size=*/250);
  }
  const auto expected = Run(1, 5, requests);
  config_.deterministic = false;
  for (const int ranks : {1, 2, 4}) {
    const auto actual = Run(ranks, 5, requests);
    for (size_t i = 0; i < requests.size(); ++i) EXPECT_EQ(actual[i].tokens, expected[i].tokens);
  }
}

TEST_F(EngineTest, PromptLogprobsAreThoseOfDecodingTheSameTokens) {
  // Every token of the greedy continuation, given again as a prompt, has the same log-probability
  // within rounding, unless blocks select differently: dense attention does not.
  config_.attention = Attention::kDense;
  Request request = MakeRequest(9, 40, 12);
  request.sampling.logprobs = 2;
  const Completion decoded = Run(2, 1, {request})[0];
  Request whole = request;
  whole.prompt.insert(whole.prompt.end(), decoded.tokens.begin(), decoded.tokens.end());
  whole.sampling.echo = true;
  whole.sampling.max_tokens = 1;
  const Completion echoed = Run(3, 1, {whole})[0];
  ASSERT_EQ(echoed.prompt_logprobs.size(), whole.prompt.size() - 1);
  for (size_t i = 0; i < decoded.tokens.size(); ++i) {
    const TokenLogprobs& prompt = echoed.prompt_logprobs[request.prompt.size() - 1 + i];
    EXPECT_NEAR(prompt.logprob, decoded.logprobs[i].logprob, 1e-4);
    EXPECT_EQ(prompt.top[0].first, decoded.tokens[i]);
    EXPECT_LT(prompt.logprob, 0);
  }
}

TEST_F(EngineTest, ScoresAPromptWithoutDecoding) {
  Request request = MakeRequest(9, 150, 1);
  request.sampling.logprobs = 2;
  request.sampling.echo = true;
  const Completion decoded = Run(1, 1, {request})[0];
  request.sampling.max_tokens = 0;
  // Beside one that goes on: the scheduler must not wait for tokens of the first.
  const auto completions = Run(2, 2, {request, MakeRequest(1, 100, 3)});
  EXPECT_EQ(completions[0].prompt_logprobs, decoded.prompt_logprobs);
  EXPECT_EQ(completions[0].prompt_logprobs.size(), 149);
  EXPECT_TRUE(completions[0].tokens.empty());
  EXPECT_EQ(completions[0].finish_reason, FinishReason::kLength);
  EXPECT_EQ(completions[1].tokens.size(), 3);
  EXPECT_EQ(stats_.generated_tokens, 3);
}

TEST_F(EngineTest, CountsWhatWasAttendedTo) {
  config_.attention = Attention::kDense;
  Run(2, 1, {MakeRequest(1, 100, 3)});
  EXPECT_EQ(stats_.attended_keys, stats_.dense_keys);
  EXPECT_EQ(stats_.prompt_tokens, 100);
  EXPECT_EQ(stats_.generated_tokens, 3);
  EXPECT_EQ(stats_.peak_memory_bytes.size(), 2);
  config_.attention = Attention::kEsa;
  Run(2, 1, {MakeRequest(1, 600, 3)});
  EXPECT_LT(stats_.attended_keys, stats_.dense_keys / 2);
  EXPECT_GT(stats_.attended_keys, 0);
}

TEST_F(EngineTest, CountsWhatARequestAttendedTo) {
  std::vector<Request> requests = Mix();
  for (Request& request : requests) {
    request.prompt = DistinctTokens(request.prompt[0], static_cast<int64_t>(request.prompt.size()),
                                    /*vocab_size=*/250);
  }
  for (const bool deterministic : {true, false}) {
    config_.deterministic = deterministic;
    requests[0].sampling.attended = false;
    const std::vector<Completion> plain = Run(2, 5, requests);
    EXPECT_TRUE(plain[0].attended.counts.empty());
    requests[0].sampling.attended = true;
    const std::vector<Completion> observed = Run(2, 5, requests);
    for (size_t i = 0; i < requests.size(); ++i) EXPECT_EQ(observed[i].tokens, plain[i].tokens);
    int64_t selected = 0;
    for (const int64_t count : observed[0].attended.counts) selected += count;
    // 19 tokens are decoded with something to select from, by two layers.
    EXPECT_GE(selected, 19 * 2 * config_.esa.top_k);
    EXPECT_TRUE(observed[1].attended.counts.empty());
  }
}

TEST_F(EngineTest, SelectionsAreTheSameOnEveryNumberOfRanks) {
  const std::vector<Request> requests = Mix();
  const std::vector<Completion> plain = Run(1, 5, requests);
  counts_selections_ = true;
  std::vector<SelectionCounts> of_one[2];
  for (const int ranks : {1, 3}) {
    const std::vector<Completion> counted = Run(ranks, 5, requests);
    for (size_t i = 0; i < requests.size(); ++i) EXPECT_EQ(counted[i].tokens, plain[i].tokens);
    for (const auto stage : {SelectionStats::kPrefill, SelectionStats::kDecode}) {
      if (ranks == 1) of_one[stage] = selections_[stage];
      for (size_t layer = 0; layer < selections_[stage].size(); ++layer) {
        const SelectionCounts& counts = selections_[stage][layer];
        EXPECT_GT(counts.selections, 0);
        EXPECT_EQ(counts.tokens, counts.selections * config_.esa.top_k);
        EXPECT_EQ(counts.distances, of_one[stage][layer].distances);
        EXPECT_GT(counts.overlap_of_steps.count, 0);
        EXPECT_EQ(counts.overlap_of_steps.sum, of_one[stage][layer].overlap_of_steps.sum);
        EXPECT_EQ(counts.overlap_of_layers.count, layer == 0 ? 0 : counts.selections);
        EXPECT_EQ(counts.overlap_of_layers.sum, of_one[stage][layer].overlap_of_layers.sum);
        EXPECT_EQ(counts.of_rank.size(), static_cast<size_t>(ranks));
        EXPECT_EQ(std::accumulate(counts.of_rank.begin(), counts.of_rank.end(), int64_t{0}),
                  counts.tokens);
        EXPECT_EQ(counts.recall.sum, of_one[stage][layer].recall.sum);
        EXPECT_EQ(counts.recall.count, of_one[stage][layer].recall.count);
      }
    }
  }
  // Decoded tokens that have more than 12 to select from, which begins at position 41: 19 of the
  // first request, 11 of the fourth, and of the second the last 21 of 59. Of their numbers in the
  // answer 8 divides 0, 8 and 16; 0 and 8; and 40, 48 and 56.
  EXPECT_EQ(selections_[SelectionStats::kDecode][1].selections, 19 + 11 + 21);
  EXPECT_EQ(selections_[SelectionStats::kDecode][1].recall.count, config_.device == "cpu" ? 8 : 0);
}

#ifndef LONGSPAN_TEST_ON_GPU
TEST_F(EngineTest, ExactHeadSumsHaveFullRecall) {
  counts_selections_ = true;
  for (const ScoreTarget target : {ScoreTarget::kDot, ScoreTarget::kFar}) {
    for (const int64_t unit_tokens : {1, 4}) {
      config_.esa.target = target;
      config_.esa.unit_tokens = unit_tokens;
      for (const int ranks : {1, 3}) {
        Run(ranks, 5, Mix());
        for (const SelectionCounts& counts : selections_[SelectionStats::kDecode]) {
          EXPECT_GT(counts.recall.count, 0);
          EXPECT_EQ(counts.recall.sum, static_cast<double>(counts.recall.count))
              << ScoreTargetName(config_.esa) << ", units of " << unit_tokens << ", " << ranks;
        }
      }
    }
  }
}

// A is B, the first columns of the identity: all of them keep the scores, one loses most.
TEST_F(EngineTest, CompressedScoresHaveTheRecallThatTheirDimensionsLeave) {
  counts_selections_ = true;
  config_.esa.compression = Compression::kLowRank;
  const ModelConfig model = *LoadModelConfig(directory_.path());
  const int64_t width = model.num_kv_heads * model.head_dim;
  const std::string fingerprint = ModelFingerprint(model, *LoadWeights(directory_.path(), model));
  for (const ScoreTarget target : {ScoreTarget::kDot, ScoreTarget::kFar}) {
    for (const int64_t unit_tokens : {1, 4}) {
      for (const int64_t dim : {width, int64_t{1}}) {
        config_.esa.target = target;
        config_.esa.far_position = 24;
        config_.esa.unit_tokens = unit_tokens;
        config_.esa.compressed_dim = dim;
        LayerFactors factors;
        factors.query.resize(width * dim);
        for (int64_t i = 0; i < dim; ++i) factors.query[i * dim + i] = 1;
        factors.key = factors.query;
        if (target == ScoreTarget::kFar) {
          FoldRotation(model.rope, model.head_dim, config_.esa.far_position, dim, &factors);
        }
        const std::vector<LayerCompressorData> layers(model.num_layers,
                                                      {factors.query, factors.key});
        ASSERT_TRUE(SaveCompressor(directory_ / "compressor.safetensors", model, fingerprint,
                                   ScoreTargetName(config_.esa), dim, layers, "test", "none")
                        .ok());
        Run(2, 5, Mix());
        for (const SelectionCounts& counts : selections_[SelectionStats::kDecode]) {
          SCOPED_TRACE(
              absl::StrCat(ScoreTargetName(config_.esa), ", units of ", unit_tokens, ", d' ", dim));
          ASSERT_GT(counts.recall.count, 0);
          const double recall = counts.recall.sum / static_cast<double>(counts.recall.count);
          // Scores that differ by rounding alone may swap places.
          EXPECT_GT(recall, dim == width ? 0.97 : 0);
          EXPECT_LE(recall, dim == width ? 1 : 0.9);
        }
      }
    }
  }
}

TEST_F(EngineTest, VotesHaveNoRecallAndSaySo) {
  counts_selections_ = true;
  for (const Score score : {Score::kHeadMax, Score::kSoftVote}) {
    config_.esa.score = score;
    Run(2, 5, Mix());
    EXPECT_THAT(no_recall_, HasSubstr("each selection is the exact one"));
    for (const SelectionCounts& counts : selections_[SelectionStats::kDecode]) {
      EXPECT_GT(counts.selections, 0);
      EXPECT_EQ(counts.recall.count, 0);
    }
  }
}
#endif

TEST_F(EngineTest, TellsWhatRanksWaitFor) {
  for (const bool deterministic : {false, true}) {
    config_.deterministic = deterministic;
    Config config = config_;
    ASSERT_TRUE(ResolveConfig(3, &config).ok());
    const absl::Status ran = RunThreadRanks(3, [&](Communicator& communicator) -> absl::Status {
      LONGSPAN_ASSIGN_OR_RETURN(const auto engine, Engine::Create(config, &communicator));
      if (communicator.rank() != 0) return engine->RunWorker();
      EXPECT_TRUE(engine->rank_stats().empty());
      LONGSPAN_RETURN_IF_ERROR(engine->Submit(MakeRequest(1, 60, 3)).status());
      LONGSPAN_RETURN_IF_ERROR(engine->Step().status());
      EXPECT_EQ(engine->rank_stats().size(), 3u);
      for (const RankStats& stats : engine->rank_stats()) {
        EXPECT_GT(stats.ring_s, 0);
        EXPECT_GT(stats.merge_s, 0);
      }
      while (engine->HasWork()) LONGSPAN_RETURN_IF_ERROR(engine->Step().status());
      return engine->Shutdown().status();
    });
    EXPECT_TRUE(ran.ok()) << ran;
  }
}

TEST_F(EngineTest, TellsWhatEachRankSpendsItsTimeOn) {
#ifdef LONGSPAN_TEST_ON_GPU
  constexpr int64_t kDecodeSteps = 2;  // one in eight, without the first
#else
  constexpr int64_t kDecodeSteps = 17;  // the first token comes with the prompt
#endif
  Config config = config_;
  ASSERT_TRUE(ResolveConfig(3, &config).ok());
  std::vector<RankPhases> counted, none;
  const absl::Status ran = RunThreadRanks(3, [&](Communicator& communicator) -> absl::Status {
    LONGSPAN_ASSIGN_OR_RETURN(const auto engine, Engine::Create(config, &communicator));
    if (communicator.rank() != 0) return engine->RunWorker();
    const auto answer = [&]() -> absl::Status {
      LONGSPAN_RETURN_IF_ERROR(engine->Submit(MakeRequest(1, 60, 18)).status());
      while (engine->HasWork()) LONGSPAN_RETURN_IF_ERROR(engine->Step().status());
      return absl::OkStatus();
    };
    LONGSPAN_RETURN_IF_ERROR(answer());
    LONGSPAN_ASSIGN_OR_RETURN(none, engine->TakePhases());  // from here on they are counted
    LONGSPAN_RETURN_IF_ERROR(answer());
    LONGSPAN_ASSIGN_OR_RETURN(counted, engine->TakePhases());
    return engine->Shutdown().status();
  });
  ASSERT_TRUE(ran.ok()) << ran;
  ASSERT_EQ(none.size(), 3u);
  ASSERT_EQ(counted.size(), 3u);
  const int64_t chunks = (60 + config.prefill_chunk_tokens - 1) / config.prefill_chunk_tokens;
  double attending[2] = {};  // of all ranks: on GPUs those that own no query do not attend
  for (int r = 0; r < 3; ++r) {
    attending[0] += counted[r].prefill.seconds[static_cast<int>(Phase::kAttend)];
    attending[1] += counted[r].decode.seconds[static_cast<int>(Phase::kAttend)];
    EXPECT_EQ(none[r].prefill.steps + none[r].decode.steps, 0);
    EXPECT_EQ(counted[r].prefill.steps, chunks);
    EXPECT_EQ(counted[r].decode.steps, kDecodeSteps);
    for (const StagePhases* stage : {&counted[r].prefill, &counted[r].decode}) {
      EXPECT_NEAR(ComputeSeconds(*stage) + ExchangeSeconds(*stage), stage->wall_s, 1e-9);
      EXPECT_GT(stage->seconds[static_cast<int>(Phase::kLinear)], 0);
      EXPECT_GT(stage->seconds[static_cast<int>(Phase::kScore)], 0);
      EXPECT_GT(stage->calls.at("select.candidates").bytes_sent, 0);
    }
  }
  for (const double seconds : attending) EXPECT_GT(seconds, 0);
}

TEST_F(EngineTest, KeepsLogprobsOfTheFirstTokensAlone) {
  Request all = MakeRequest(1, 60, 5);
  all.sampling.logprobs = 2;
  Request first = all;
  first.sampling.logprobs_limit = 3;
  const std::vector<Completion> completions = Run(1, 1, {all, first});
  EXPECT_EQ(completions[1].tokens, completions[0].tokens);
  ASSERT_EQ(completions[0].logprobs.size(), 5u);
  ASSERT_EQ(completions[1].logprobs.size(), 3u);
  EXPECT_EQ(completions[1].logprobs[2], completions[0].logprobs[2]);
}

TEST_F(EngineTest, CancelsWhereverARequestStands) {
  config_.max_num_seqs = 2;
  ASSERT_TRUE(ResolveConfig(2, &config_).ok());
  const Completion alone = Run(2, 1, {MakeRequest(3, 90, 8)})[0];
  const absl::Status ran = RunThreadRanks(2, [&](Communicator& communicator) -> absl::Status {
    LONGSPAN_ASSIGN_OR_RETURN(const auto engine, Engine::Create(config_, &communicator));
    if (communicator.rank() != 0) return engine->RunWorker();
    LONGSPAN_ASSIGN_OR_RETURN(const int64_t decodes, engine->Submit(MakeRequest(1, 5, 100)));
    LONGSPAN_ASSIGN_OR_RETURN(const int64_t prefills, engine->Submit(MakeRequest(2, 500, 1)));
    LONGSPAN_ASSIGN_OR_RETURN(const int64_t waits, engine->Submit(MakeRequest(4, 10, 1)));
    LONGSPAN_ASSIGN_OR_RETURN(const int64_t goes_on, engine->Submit(MakeRequest(3, 90, 8)));
    for (int step = 0; step < 3; ++step) LONGSPAN_RETURN_IF_ERROR(engine->Step().status());
    EXPECT_EQ(engine->load().running, 2);
    EXPECT_EQ(engine->load().waiting, 2);
    EXPECT_EQ(engine->stats().prompt_tokens, 5 + 2 * 64);
    for (const int64_t id : {waits, prefills, decodes, decodes, int64_t{1000}}) engine->Cancel(id);
    EXPECT_EQ(engine->load().running, 0);
    EXPECT_EQ(engine->load().waiting, 1);
    EXPECT_EQ(engine->load().used_pages, 0);
    Completion completion;
    while (completion.tokens.empty() && engine->HasWork()) {
      LONGSPAN_ASSIGN_OR_RETURN(const auto updates, engine->Step());
      for (const RequestUpdate& update : updates) {
        EXPECT_EQ(update.request, goes_on);
        if (update.finished) completion = update.completion;
      }
    }
    EXPECT_EQ(completion.tokens, alone.tokens);
    EXPECT_TRUE(engine->HasWork()) << "ranks still hold its cache";
    LONGSPAN_ASSIGN_OR_RETURN(const auto updates, engine->Step());
    EXPECT_TRUE(updates.empty());
    EXPECT_FALSE(engine->HasWork());
    engine->Cancel(goes_on);
    EXPECT_FALSE(engine->HasWork());
    return engine->Shutdown().status();
  });
  EXPECT_TRUE(ran.ok()) << ran;
}

// How the cache lies, and what is scored.
struct CacheCase {
  const char* name;
  int64_t stripe;
  int64_t proximity;
  Compression compression;
  Attention attention = Attention::kEsa;
};

class PrefixCacheEngineTest : public EngineTest,
                              public ::testing::WithParamInterface<std::tuple<CacheCase, int>> {
 protected:
  PrefixCacheEngineTest() {
    const CacheCase& param = std::get<0>(GetParam());
    config_.load_format = "dummy";  // which has a compressor of any size
    config_.attention = param.attention;
    config_.parallel.stripe_tokens = param.stripe;
    config_.esa.proximity = param.proximity;
    config_.esa.compression = param.compression;
    config_.esa.compressed_dim = 8;
    config_.max_num_seqs = 3;
    EXPECT_TRUE(ResolveConfig(ranks_, &config_).ok());
  }

  static Request WithLogprobs(Request request) {
    request.sampling.logprobs = 2;
    return request;
  }

  // The first `same` tokens of `request`, then others.
  static Request Diverging(Request request, int64_t same, int64_t prompt) {
    const std::vector<int32_t> other = MakeRequest(77 + same, prompt, 0).prompt;
    request.prompt.resize(std::min<int64_t>(same, prompt));
    request.prompt.insert(request.prompt.end(), other.begin() + request.prompt.size(), other.end());
    if (same < prompt) request.prompt[same] = other[same] == 3 ? 4 : 3;
    return request;
  }

  // Rank 0 does `drive` and then what work is left; completions by ids.
  template <typename Drive>
  std::vector<Completion> Serve(bool prefix_caching, Drive&& drive) {
    Config config = config_;
    config.kv_cache_prefix_caching = prefix_caching ? "true" : "false";
    completions_.assign(100, {});
    const absl::Status ran =
        RunThreadRanks(ranks_, [&](Communicator& communicator) -> absl::Status {
          LONGSPAN_ASSIGN_OR_RETURN(const auto engine, Engine::Create(config, &communicator));
          if (communicator.rank() != 0) return engine->RunWorker();
          LONGSPAN_RETURN_IF_ERROR(drive(*engine));
          LONGSPAN_RETURN_IF_ERROR(Finish(*engine));
          load_ = engine->load();
          LONGSPAN_ASSIGN_OR_RETURN(stats_, engine->Shutdown());
          return absl::OkStatus();
        });
    EXPECT_TRUE(ran.ok()) << ran;
    return completions_;
  }

  absl::Status Steps(Engine& engine, int64_t count) {
    for (; count > 0 && engine.HasWork(); --count) {
      LONGSPAN_ASSIGN_OR_RETURN(const auto updates, engine.Step());
      for (const RequestUpdate& update : updates) {
        EXPECT_GE(update.prefilled, update.cached_tokens);
        if (update.finished) completions_[update.request] = update.completion;
      }
    }
    return absl::OkStatus();
  }
  absl::Status Finish(Engine& engine) { return Steps(engine, 100000); }

  // All of them, one after the other.
  std::vector<Completion> InTurn(bool prefix_caching, const std::vector<Request>& requests) {
    return Serve(prefix_caching, [&](Engine& engine) -> absl::Status {
      for (const Request& request : requests) {
        LONGSPAN_RETURN_IF_ERROR(engine.Submit(request).status());
        LONGSPAN_RETURN_IF_ERROR(Finish(engine));
      }
      return absl::OkStatus();
    });
  }

  static void ExpectSame(const Completion& actual, const Completion& expected) {
    EXPECT_EQ(actual.tokens, expected.tokens);
    EXPECT_EQ(actual.logprobs, expected.logprobs);
    EXPECT_EQ(actual.prompt_logprobs, expected.prompt_logprobs);
  }

  int ranks_ = std::get<1>(GetParam());
  std::vector<Completion> completions_;
  EngineLoad load_;
};

TEST_P(PrefixCacheEngineTest, HitEqualsAColdRun) {
  const Request first = WithLogprobs(MakeRequest(21, 203, 6));
  std::vector<Request> requests = {first};
  for (const int64_t same : {100, 77, 80, 95, 96, 97, 192, 193, 3, 150}) {
    requests.push_back(Diverging(first, same, same == 80 ? 81 : 230));
  }
  requests.push_back(first);
  requests.push_back(Diverging(first, 203, 330));  // goes on with it
  requests.push_back(Diverging(requests.back(), 330, 400));
  for (const int64_t shorter : {192, 96, 65, 48, 16, 15, 1}) {
    requests.push_back(Diverging(first, shorter, shorter));
  }
  requests.push_back(first);
  requests.back().sampling.max_tokens = 0;
  requests.push_back(first);
  requests.back().sampling.echo = true;
  const std::vector<Completion> cold = InTurn(false, requests);
  EXPECT_EQ(load_.cached_pages, 0);
  EXPECT_EQ(stats_.prefix_query_tokens, 0);
  const std::vector<Completion> warm = InTurn(true, requests);
  EXPECT_EQ(load_.used_pages, load_.cached_pages);
  EXPECT_GT(load_.cached_pages, 0);
  int64_t hits = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    SCOPED_TRACE(::testing::Message() << "request " << i);
    ExpectSame(warm[i], cold[i]);
    EXPECT_EQ(cold[i].cached_tokens, 0);
    const std::vector<int32_t>& prompt = requests[i].prompt;
    int64_t most = 0;
    for (size_t earlier = 0; earlier < i && !requests[i].sampling.echo; ++earlier) {
      const std::vector<int32_t>& other = requests[earlier].prompt;
      const auto differs =
          std::mismatch(prompt.begin(), prompt.end(), other.begin(), other.end()).first;
      most = std::max<int64_t>(most, differs - prompt.begin());
    }
    most = std::min(most, static_cast<int64_t>(prompt.size()) - 1) / 16 * 16;
    EXPECT_EQ(warm[i].cached_tokens, most);
    hits += most;
  }
  EXPECT_EQ(stats_.prefix_hit_tokens, hits);
  EXPECT_GT(stats_.prefix_query_tokens, hits);
}

TEST_P(PrefixCacheEngineTest, SeveralShareWhileTheFirstIsDecoding) {
  const Request first = WithLogprobs(MakeRequest(22, 203, 60));
  const std::vector<Request> requests = {first, Diverging(first, 203, 240),
                                         Diverging(first, 160, 333)};
  const std::vector<Completion> cold = InTurn(false, requests);
  const std::vector<Completion> warm = Serve(true, [&](Engine& engine) -> absl::Status {
    LONGSPAN_RETURN_IF_ERROR(engine.Submit(requests[0]).status());
    LONGSPAN_RETURN_IF_ERROR(Steps(engine, 10));
    LONGSPAN_RETURN_IF_ERROR(engine.Submit(requests[1]).status());
    return engine.Submit(requests[2]).status();
  });
  for (size_t i = 0; i < requests.size(); ++i) ExpectSame(warm[i], cold[i]);
  EXPECT_EQ(warm[1].cached_tokens, 192);
  EXPECT_EQ(warm[2].cached_tokens, 160);
}

TEST_P(PrefixCacheEngineTest, CancelledPromptsLeaveWhatWasDone) {
  const Request first = WithLogprobs(MakeRequest(23, 300, 5));
  const Completion cold = InTurn(false, {first})[0];
  const std::vector<Completion> warm = Serve(true, [&](Engine& engine) -> absl::Status {
    LONGSPAN_ASSIGN_OR_RETURN(const int64_t id, engine.Submit(first));
    LONGSPAN_RETURN_IF_ERROR(Steps(engine, 2));
    engine.Cancel(id);
    LONGSPAN_RETURN_IF_ERROR(engine.Submit(first).status());
    LONGSPAN_RETURN_IF_ERROR(Steps(engine, 1));
    engine.Cancel(id + 1);
    return engine.Submit(first).status();
  });
  ExpectSame(warm[2], cold);
  EXPECT_EQ(warm[2].cached_tokens, 192);
  EXPECT_EQ(stats_.prompt_tokens, 300);
}

TEST_P(PrefixCacheEngineTest, FastModeGivesTheSameTokensHere) {
  config_.deterministic = false;
  Request first = MakeRequest(24, 0, 12);
  first.prompt = DistinctTokens(5, 220, /*vocab_size=*/250);
  Request second = first;
  std::reverse(second.prompt.begin() + 150, second.prompt.end());
  Request third = second;
  third.sampling.attended = true;
  const std::vector<Completion> cold = InTurn(false, {first, second, third});
  const std::vector<Completion> warm = InTurn(true, {first, second, third});
  for (size_t i = 0; i < warm.size(); ++i) EXPECT_EQ(warm[i].tokens, cold[i].tokens);
  EXPECT_EQ(warm[1].cached_tokens, 144);
  EXPECT_EQ(warm[2].cached_tokens, 208);
}

TEST_P(PrefixCacheEngineTest, RestartsAnswerAgainOnAnyNumberOfRanks) {
  const Request first = WithLogprobs(MakeRequest(25, 300, 5));
  const std::vector<Request> requests = {first, Diverging(first, 150, 230), MakeRequest(26, 90, 3),
                                         Diverging(first, 300, 420)};
  const std::vector<Completion> cold = InTurn(false, requests);
  const TempDir directory;
  config_.kv_cache_prefix_dir = directory.path();
  InTurn(true, {requests[0], requests[1], requests[2]});
  const CacheCase& param = std::get<0>(GetParam());
  // Each run takes over what the one before has saved.
  for (const auto& [ranks, stripe] : std::vector<std::pair<int, int64_t>>{
           {ranks_, param.stripe}, {3, 32}, {1, 64}, {2, 0}, {4, 48}, {ranks_, param.stripe}}) {
    SCOPED_TRACE(::testing::Message() << ranks << " ranks, stripes of " << stripe);
    ranks_ = ranks;
    config_.parallel.stripe_tokens = stripe;
    ASSERT_TRUE(ResolveConfig(ranks, &config_).ok());
    const std::vector<Completion> warm = InTurn(true, requests);
    for (size_t i = 0; i < requests.size(); ++i) ExpectSame(warm[i], cold[i]);
    EXPECT_EQ(warm[0].cached_tokens, 288);
    EXPECT_EQ(warm[1].cached_tokens, 224);
    EXPECT_EQ(warm[2].cached_tokens, 80);
    EXPECT_GE(warm[3].cached_tokens, 288);
  }
}

// Prefixes of a job of two ranks in a directory, and what may have become of them.
class SavedPrefixesTest : public EngineTest {
 protected:
  SavedPrefixesTest() {
    config_.kv_cache_prefix_caching = "true";
    config_.kv_cache_prefix_dir = saved_.path() + "/prefixes";
    config_.parallel.stripe_tokens = 32;
    EXPECT_TRUE(ResolveConfig(2, &config_).ok());
  }

  // Answers them one after the other; gives how much of each was cached, or the job's error.
  absl::StatusOr<std::vector<int64_t>> Serve(const std::vector<Request>& requests) {
    std::vector<int64_t> cached;
    const absl::Status ran = RunThreadRanks(2, [&](Communicator& communicator) -> absl::Status {
      LONGSPAN_ASSIGN_OR_RETURN(const auto engine, Engine::Create(config_, &communicator));
      if (communicator.rank() != 0) return engine->RunWorker();
      restored_ = engine->load();
      for (const Request& request : requests) {
        LONGSPAN_RETURN_IF_ERROR(engine->Submit(request).status());
        while (engine->HasWork()) {
          LONGSPAN_ASSIGN_OR_RETURN(const auto updates, engine->Step());
          for (const RequestUpdate& update : updates) {
            if (update.finished) cached.push_back(update.completion.cached_tokens);
          }
        }
      }
      return engine->Shutdown().status();
    });
    if (!ran.ok()) return ran;
    return cached;
  }

  std::vector<int64_t> Cached(const std::vector<Request>& requests) {
    const absl::StatusOr<std::vector<int64_t>> cached = Serve(requests);
    EXPECT_THAT(cached, IsOk());
    return cached.value_or(std::vector<int64_t>());
  }

  std::string Manifest() const { return config_.kv_cache_prefix_dir + "/manifest.json"; }
  std::string Pages(int64_t generation, int rank) const {
    return absl::StrCat(config_.kv_cache_prefix_dir, "/pages-", generation, "/rank-", rank);
  }
  static void FlipByte(const std::string& path, int64_t at) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(at);
    const auto byte = static_cast<char>(file.get() ^ 1);
    file.seekp(at);
    file.put(byte);
    ASSERT_TRUE(file.good()) << path;
  }

  // One that ModelFingerprint does not look at; and back again.
  void ChangeAWeight() {
    const std::string path = directory_ / "model.safetensors";
    FlipByte(path, static_cast<int64_t>(std::filesystem::file_size(path)) - 1000);
  }

  const Request request_ = MakeRequest(31, 200, 4);  // six stripes and a quarter
  TempDir saved_;
  EngineLoad restored_;
};

TEST_F(SavedPrefixesTest, ReplaceThoseOfTheRunBefore) {
  EXPECT_THAT(Cached({request_}), ElementsAre(0));
  EXPECT_THAT(Cached({request_}), ElementsAre(192));
  EXPECT_EQ(restored_.cached_pages, 3);
  EXPECT_EQ(restored_.used_pages, 3);
  EXPECT_TRUE(std::filesystem::exists(Pages(1, 0))) << "nothing has changed";
  EXPECT_THAT(Cached({MakeRequest(32, 100, 1), request_}), ElementsAre(0, 192));
  EXPECT_FALSE(std::filesystem::exists(Pages(1, 0)));
  EXPECT_THAT(Cached({MakeRequest(32, 100, 1), request_}), ElementsAre(96, 192));
  using std::filesystem::perms;
  EXPECT_EQ(std::filesystem::status(config_.kv_cache_prefix_dir).permissions(), perms::owner_all);
  for (const std::string& file : {Manifest(), Pages(2, 1)}) {
    EXPECT_EQ(std::filesystem::status(file).permissions(), perms::owner_read | perms::owner_write);
  }
}

TEST_F(SavedPrefixesTest, AreThoseOfRequestsUnderWayToo) {
  const absl::Status ran = RunThreadRanks(2, [&](Communicator& communicator) -> absl::Status {
    LONGSPAN_ASSIGN_OR_RETURN(const auto engine, Engine::Create(config_, &communicator));
    if (communicator.rank() != 0) return engine->RunWorker();
    LONGSPAN_RETURN_IF_ERROR(engine->Submit(request_).status());
    for (int step = 0; step < 2; ++step) LONGSPAN_RETURN_IF_ERROR(engine->Step().status());
    return engine->Shutdown().status();
  });
  EXPECT_TRUE(ran.ok()) << ran;
  EXPECT_THAT(Cached({request_}), ElementsAre(128));
}

TEST_F(SavedPrefixesTest, DamagedPagesAreLeftOutWithWhatStandsOnThem) {
  ASSERT_THAT(Serve({request_, MakeRequest(32, 100, 1)}), IsOk());
  const auto size = static_cast<int64_t>(std::filesystem::file_size(Pages(1, 1)));
  const int64_t page = size / 5;  // rank 1 has stripes 1, 3, 5 and 1, 3
  FlipByte(Pages(1, 1), page + page / 2);
  EXPECT_THAT(Cached({request_, MakeRequest(32, 100, 1)}), ElementsAre(96, 96));
  // A file that is too short, and none.
  std::filesystem::resize_file(Pages(2, 0), 3 * page);
  EXPECT_THAT(Cached({MakeRequest(32, 100, 1)}), ElementsAre(0));
  ASSERT_THAT(Serve({request_}), IsOk());
  std::filesystem::remove(Pages(4, 0));
  EXPECT_THAT(Cached({request_}), ElementsAre(0));
}

TEST_F(SavedPrefixesTest, OfAnotherModelOrConfigAreRefusedAndKept) {
  ASSERT_THAT(Serve({request_}), IsOk());
  const Config config = config_;
  config_.esa.top_k = 13;
  EXPECT_THAT(Serve({request_}), Fails(absl::StatusCode::kFailedPrecondition,
                                       "esa.top_k is 12 there and 13 here. Name another"));
  config_ = config;
  config_.prefill_chunk_tokens = 128;  // changes no bit
  EXPECT_THAT(Cached({request_}), ElementsAre(192));
  config_ = config;
  config_.load_format = "dummy";
  EXPECT_THAT(Serve({request_}), Fails(absl::StatusCode::kFailedPrecondition, "the model is "));
  config_ = config;
  ChangeAWeight();
  EXPECT_THAT(Serve({request_}),
              Fails(absl::StatusCode::kFailedPrecondition, "json tells of prefixes of another "));
  ChangeAWeight();
  config_ = config;
  EXPECT_THAT(Cached({request_}), ElementsAre(192));
}

TEST_F(SavedPrefixesTest, ADamagedManifestIsRefused) {
  ASSERT_THAT(Serve({request_}), IsOk());
  FlipByte(Manifest(), static_cast<int64_t>(std::filesystem::file_size(Manifest())) / 2);
  EXPECT_THAT(Serve({request_}), Fails(absl::StatusCode::kDataLoss, "manifest.json is damaged"));
  FlipByte(Manifest(), static_cast<int64_t>(std::filesystem::file_size(Manifest())) / 2);
  EXPECT_THAT(Cached({request_}), ElementsAre(192)) << "nothing was touched";
  std::filesystem::resize_file(Manifest(), 0);
  EXPECT_THAT(Serve({request_}), Fails(absl::StatusCode::kDataLoss, "manifest.json is damaged"));
  std::filesystem::remove(Manifest());
  EXPECT_THAT(Cached({request_}), ElementsAre(0));
}

TEST_F(SavedPrefixesTest, AreOfOneJobAtATime) {
  const absl::Status ran = RunThreadRanks(1, [&](Communicator& communicator) -> absl::Status {
    LONGSPAN_ASSIGN_OR_RETURN(const auto engine, Engine::Create(config_, &communicator));
    EXPECT_THAT(Serve({request_}),
                Fails(absl::StatusCode::kFailedPrecondition, "another job keeps its prefixes in"));
    return engine->Shutdown().status();
  });
  EXPECT_TRUE(ran.ok()) << ran;
  EXPECT_THAT(Serve({request_}), IsOk());
}

TEST_F(SavedPrefixesTest, ASaveThatFailsLeavesTheOneBefore) {
  ASSERT_THAT(Serve({request_}), IsOk());
  const auto temporary = [](const std::string& path) {
    return absl::StrCat(path, ".tmp.", getpid());
  };
  // Where a file is to be written there is a directory.
  std::filesystem::create_directory(temporary(Manifest()));
  EXPECT_THAT(Cached({MakeRequest(32, 100, 1)}), ElementsAre(0));
  std::filesystem::remove(temporary(Manifest()));
  EXPECT_THAT(Cached({request_, MakeRequest(32, 100, 1)}), ElementsAre(192, 0));
  EXPECT_THAT(Cached({request_, MakeRequest(32, 100, 1)}), ElementsAre(192, 96));
}

TEST_F(SavedPrefixesTest, ADirectoryOfSomethingElseIsRefusedAndKept) {
  std::filesystem::create_directories(config_.kv_cache_prefix_dir + "/pages-1");
  EXPECT_THAT(Serve({request_}),
              Fails(absl::StatusCode::kFailedPrecondition, "holds something else"));
  EXPECT_TRUE(std::filesystem::exists(config_.kv_cache_prefix_dir + "/pages-1"));
}

TEST_F(SavedPrefixesTest, ASaveThatMeetsADirectoryOfItsOwnNameLeavesTheOneBefore) {
  config_.kv_cache_prefix_dir += "/";  // names the same
  ASSERT_THAT(Serve({request_}), IsOk());
  ASSERT_THAT(Serve({MakeRequest(32, 100, 1)}), IsOk());
  EXPECT_THAT(Cached({request_, MakeRequest(32, 100, 1)}), ElementsAre(192, 96));
  EXPECT_FALSE(std::filesystem::exists(Pages(1, 0)));
  // One cut short: the next number is taken.
  std::filesystem::create_directory(config_.kv_cache_prefix_dir + "pages-3");
  ASSERT_THAT(Serve({MakeRequest(33, 100, 1)}), IsOk());
  EXPECT_TRUE(std::filesystem::exists(Pages(4, 0)));
  EXPECT_THAT(Cached({request_, MakeRequest(33, 100, 1)}), ElementsAre(192, 96));
}

TEST_F(SavedPrefixesTest, KeepWhatIsNotTheirs) {
  ASSERT_THAT(Serve({request_}), IsOk());
  const std::string mine = config_.kv_cache_prefix_dir + "/pages-1/notes";
  longspan::testing::WriteFile(mine, "x");
  std::filesystem::create_directory(config_.kv_cache_prefix_dir + "/pages-007");
  ASSERT_THAT(Serve({MakeRequest(32, 100, 1)}), IsOk());
  EXPECT_FALSE(std::filesystem::exists(Pages(1, 0)));
  EXPECT_TRUE(std::filesystem::exists(mine));
  EXPECT_TRUE(std::filesystem::exists(config_.kv_cache_prefix_dir + "/pages-007"));
}

TEST_F(SavedPrefixesTest, NeedThatPrefixesAreCached) {
  config_.kv_cache_prefix_caching = "false";
  EXPECT_THAT(ResolveConfig(2, &config_),
              Fails(absl::StatusCode::kInvalidArgument, "kv_cache.prefix_dir"));
}

constexpr CacheCase kCacheCases[] = {
    {"Exact", 16, 0, Compression::kExact},
    {"ExactNear", 16, 1, Compression::kExact},
    {"ExactFar", 48, 21, Compression::kExact},
    {"ExactWholeStripe", 32, 32, Compression::kExact},
    {"LowRank", 48, 0, Compression::kLowRank},
    {"LowRankNear", 48, 1, Compression::kLowRank},
    {"LowRankFar", 32, 20, Compression::kLowRank},
    {"LowRankAnyStripe", 0, 3, Compression::kLowRank},
    {"Dense", 48, 1, Compression::kExact, Attention::kDense},
    {"Streaming", 16, 1, Compression::kExact, Attention::kStreaming},
};

INSTANTIATE_TEST_SUITE_P(Cases, PrefixCacheEngineTest,
                         ::testing::Combine(::testing::ValuesIn(kCacheCases),
                                            ::testing::Values(1, 2, 4)),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param).name) +
                                  std::to_string(std::get<1>(test.param));
                         });

TEST_F(EngineTest, RefusesRequestsThatCannotRun) {
  config_.max_model_len = 50;
  ASSERT_TRUE(ResolveConfig(1, &config_).ok());
  const absl::Status ran = RunThreadRanks(1, [&](Communicator& communicator) -> absl::Status {
    LONGSPAN_ASSIGN_OR_RETURN(const auto engine, Engine::Create(config_, &communicator));
    const auto invalid = absl::StatusCode::kInvalidArgument;
    EXPECT_THAT(engine->Submit(MakeRequest(1, 40, 11)), Fails(invalid, "exceeds max_model_len 50"));
    EXPECT_THAT(engine->Submit(MakeRequest(1, 0, 1)), Fails(invalid, "no tokens"));
    EXPECT_THAT(engine->Submit(MakeRequest(1, 3, -1)), Fails(invalid, "max_tokens"));
    Request outside = MakeRequest(1, 3, 1);
    outside.prompt[1] = 259;
    EXPECT_THAT(engine->Submit(outside), Fails(invalid, "token id 259"));
    outside.prompt[1] = -1;
    EXPECT_THAT(engine->Submit(outside), Fails(invalid, "token id -1"));
    EXPECT_TRUE(engine->Submit(MakeRequest(1, 40, 10)).ok());
    while (engine->HasWork()) LONGSPAN_RETURN_IF_ERROR(engine->Step().status());
    return engine->Shutdown().status();
  });
  EXPECT_TRUE(ran.ok()) << ran;
}

TEST_F(EngineTest, RefusesACacheThatDoesNotFit) {
  config_.max_model_len = 4'000'000'000;
  ASSERT_TRUE(ResolveConfig(2, &config_).ok());
  const absl::Status ran = RunThreadRanks(2, [&](Communicator& communicator) {
    return Engine::Create(config_, &communicator).status();
  });
  EXPECT_THAT(ran, Fails(absl::StatusCode::kResourceExhausted, "a rank needs"));
}

TEST_F(EngineTest, EveryRankTellsOfAMissingModel) {
  config_.model += "/nowhere";
  ASSERT_TRUE(ResolveConfig(3, &config_).ok());
  std::vector<absl::Status> statuses(3);
  const absl::Status ran = RunThreadRanks(3, [&](Communicator& communicator) {
    statuses[communicator.rank()] = Engine::Create(config_, &communicator).status();
    return absl::OkStatus();
  });
  EXPECT_TRUE(ran.ok()) << ran;
  for (const absl::Status& status : statuses) {
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(status, statuses[0]);
  }
}

}  // namespace
}  // namespace longspan
