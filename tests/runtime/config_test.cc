#include "runtime/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"

namespace longspan {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

class ConfigTest : public ::testing::Test {
 protected:
  ConfigTest() {
    directory_ = fs::path(::testing::TempDir()) /
                 absl::StrCat("config_test_",
                              ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(directory_);
    fs::create_directories(directory_ / "model");
  }
  ~ConfigTest() override { fs::remove_all(directory_); }

  std::string Path(const std::string& name) const { return (directory_ / name).string(); }

  std::string Write(const std::string& name, const std::string& text) const {
    std::ofstream(Path(name), std::ios::binary) << text;
    return Path(name);
  }

  absl::StatusOr<Config> Load(const std::string& yaml,
                              const std::vector<ConfigOverride>& overrides = {}) const {
    return LoadConfig(Write("run.yaml", yaml), Path("model"), overrides);
  }

  std::string Error(const std::string& yaml,
                    const std::vector<ConfigOverride>& overrides = {}) const {
    const absl::StatusOr<Config> config = Load(yaml, overrides);
    EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << config.status();
    return std::string(config.status().message());
  }

  fs::path directory_;
};

TEST_F(ConfigTest, DefaultsAreThoseOfTheDesign) {
  const absl::StatusOr<Config> config = LoadConfig("", Path("model"), {});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->model, Path("model"));
  EXPECT_EQ(config->attention, Attention::kEsa);
  EXPECT_EQ(config->esa.initial_tokens, 128);
  EXPECT_EQ(config->esa.local_tokens, 4096);
  EXPECT_EQ(config->esa.top_k, 2048);
  EXPECT_EQ(config->esa.compressed_dim, 128);
  EXPECT_EQ(config->esa.proximity, 1);
  EXPECT_EQ(config->esa.selection_block, 512);
  EXPECT_EQ(KvCacheDType(*config), DType::kFloat32);
}

TEST_F(ConfigTest, ReadsEveryKey) {
  const absl::StatusOr<Config> config = Load(R"(
device: cuda
dtype: float32
max_model_len: 262144
attention: streaming
esa:
  initial_tokens: 0
  local_tokens: 512
  top_k: 256
  compressed_dim: 32
  compression: exact
  compressor: "fitted.safetensors"
  proximity: 0
  selection_block: 256
  positions: native
  far_position: 511
  score: soft_vote
  score_groups: 3
  target: far
  unit_tokens: 16
  unit_representatives: 2
parallel: {stripe_tokens: 1024, communicator: mpi, ranks: 4, selection_merge: histogram}
rope: {scaling: yarn, factor: 2.5}
prefill:
  chunk_tokens: 2048
max_num_seqs: 3
deterministic: true
kv_cache: {dtype: bfloat16, prefix_caching: true, memory_fraction: 0.5}
)");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->device, "cuda");
  EXPECT_EQ(config->dtype, "float32");
  EXPECT_EQ(config->max_model_len, 262144);
  EXPECT_EQ(config->attention, Attention::kStreaming);
  EXPECT_EQ(config->esa.initial_tokens, 0);
  EXPECT_EQ(config->esa.local_tokens, 512);
  EXPECT_EQ(config->esa.top_k, 256);
  EXPECT_EQ(config->esa.compressed_dim, 32);
  EXPECT_EQ(config->esa.compression, Compression::kExact);
  EXPECT_EQ(config->esa.compressor, "fitted.safetensors");
  EXPECT_EQ(config->esa.proximity, 0);
  EXPECT_EQ(config->esa.selection_block, 256);
  EXPECT_EQ(config->esa.positions, Positions::kNative);
  EXPECT_EQ(config->esa.far_position, 511);
  EXPECT_EQ(config->esa.score, Score::kSoftVote);
  EXPECT_EQ(config->esa.score_groups, 3);
  EXPECT_EQ(config->esa.target, ScoreTarget::kFar);
  EXPECT_EQ(config->esa.unit_tokens, 16);
  EXPECT_EQ(config->esa.unit_representatives, 2);
  EXPECT_EQ(config->rope.scaling, RopeStretch::kYarn);
  EXPECT_EQ(config->rope.factor, 2.5);
  EXPECT_EQ(config->parallel.stripe_tokens, 1024);
  EXPECT_EQ(config->parallel.communicator, CommunicatorKind::kMpi);
  EXPECT_EQ(config->parallel.selection_merge, SelectionMerge::kHistogram);
  EXPECT_EQ(config->parallel.ranks, 4);
  EXPECT_EQ(config->prefill_chunk_tokens, 2048);
  EXPECT_EQ(config->max_num_seqs, 3);
  EXPECT_TRUE(config->deterministic);
  EXPECT_EQ(KvCacheDType(*config), DType::kBFloat16);
  EXPECT_EQ(config->kv_cache_prefix_caching, "true");
  EXPECT_EQ(config->kv_cache_memory_fraction, 0.5);

  // The way to the other ranks loses nothing.
  const absl::StatusOr<Config> copy = ConfigFromYaml(ConfigToYaml(*config));
  ASSERT_TRUE(copy.ok()) << copy.status();
  EXPECT_EQ(ConfigToYaml(*copy), ConfigToYaml(*config));
  EXPECT_EQ(copy->esa.far_position, 511);
  EXPECT_EQ(copy->parallel.communicator, CommunicatorKind::kMpi);
  EXPECT_EQ(copy->parallel.selection_merge, SelectionMerge::kHistogram);
  EXPECT_EQ(copy->kv_cache_prefix_caching, "true");
  EXPECT_EQ(copy->kv_cache_memory_fraction, 0.5);
}

TEST_F(ConfigTest, YamlOfAConfigKeepsStrangePaths) {
  Config config;
  config.model = "a b: \"c\"\n# \\ true";
  const absl::StatusOr<Config> copy = ConfigFromYaml(ConfigToYaml(config));
  ASSERT_TRUE(copy.ok()) << copy.status();
  EXPECT_EQ(copy->model, config.model);
}

TEST_F(ConfigTest, LaterSourcesWin) {
  Write("model/longspan.yaml", "attention: streaming\nesa: {top_k: 10, local_tokens: 20}\n");
  const absl::StatusOr<Config> config =
      Load("esa:\n  local_tokens: 30\n  initial_tokens: 7\n",
           {{"esa.initial_tokens", "8"}, {"max_num_seqs", "1"}, {"max_num_seqs", "2"}});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->attention, Attention::kStreaming);
  EXPECT_EQ(config->esa.top_k, 10);
  EXPECT_EQ(config->esa.local_tokens, 30);
  EXPECT_EQ(config->esa.initial_tokens, 8);
  EXPECT_EQ(config->max_num_seqs, 2);
}

TEST_F(ConfigTest, ModelsOwnFileSetsOnlyAttention) {
  Write("model/longspan.yaml", "esa: {top_k: 10}\nmax_num_seqs: 3\n");
  EXPECT_THAT(Error(""), AllOf(HasSubstr("longspan.yaml:2"), HasSubstr("`max_num_seqs`")));
}

TEST_F(ConfigTest, PathsAreFoundBesideTheFileThatStatesThem) {
  Write("model/longspan.yaml", "esa: {compressor: own.safetensors}\n");
  const absl::StatusOr<Config> config = LoadConfig(Write("run.yaml", "model: model\n"), "", {});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(fs::path(config->model), directory_ / "model");
  EXPECT_EQ(fs::path(config->esa.compressor), directory_ / "model" / "own.safetensors");
}

TEST_F(ConfigTest, ModelMustBeADirectory) {
  EXPECT_THAT(LoadConfig("", "", {}).status().message(), HasSubstr("--model DIR"));
  EXPECT_THAT(LoadConfig("", Path("absent"), {}).status().message(), HasSubstr("absent"));
  EXPECT_THAT(LoadConfig(Path("absent.yaml"), Path("model"), {}).status().message(),
              HasSubstr("absent.yaml: no such file"));
  EXPECT_THAT(LoadConfig(Path("model"), Path("model"), {}).status().message(),
              HasSubstr("is a directory, not a config"));
}

TEST_F(ConfigTest, UnknownKeysGetASuggestion) {
  EXPECT_THAT(Error("\nesa:\n  topk: 5\n"),
              AllOf(HasSubstr("run.yaml:3"), HasSubstr("`esa.topk`"), HasSubstr("`esa.top_k`")));
  EXPECT_THAT(Error("top_k: 5\n"), HasSubstr("did you mean `esa.top_k`?"));
  EXPECT_THAT(Error("esa: {stripe_tokens: 5}\n"), HasSubstr("`parallel.stripe_tokens`"));
  EXPECT_THAT(Error("quantum: 5\n"),
              AllOf(HasSubstr("unknown key `quantum`"), ::testing::Not(HasSubstr("did you mean"))));
  EXPECT_THAT(Error("max_num_seqs: {x: 1}\n"), HasSubstr("must be a single value"));
  EXPECT_THAT(Error("", {{"esa.topk", "5"}}), AllOf(HasSubstr("--set"), HasSubstr("`esa.top_k`")));
}

TEST_F(ConfigTest, WrongTypesAndRangesAreRefused) {
  const std::pair<std::string, std::string> cases[] = {
      {"esa: {top_k: many}", "`esa.top_k` must be an integer"},
      {"esa: {top_k: \"5\"}", "`esa.top_k` must be an integer"},
      {"esa: {top_k: 5.5}", "`esa.top_k` must be an integer"},
      {"esa: {top_k: 1e3}", "`esa.top_k` must be an integer"},
      {"esa: {top_k: 0}", "`esa.top_k` must be an integer from 1"},
      {"esa: {top_k: -1}", "`esa.top_k` must be an integer from 1"},
      {"esa: {top_k: 99999999999999999999}", "`esa.top_k` must be an integer from 1"},
      {"esa: {top_k: [5]}", "must be a single value, not a list"},
      {"esa: {top_k: {a: 5}}", "must be a single value, not a mapping"},
      {"esa: {top_k: }", "must be a single value, not nothing"},
      {"esa: 5", "`esa` must be a mapping"},
      {"esa: [top_k]", "`esa` must be a mapping"},
      {"esa: {[a]: 5}", "a key must be a plain word"},
      {"deterministic: 1", "must be true or false"},
      {"deterministic: yes", "must be true or false"},
      {"deterministic: \"true\"", "must be true or false"},
      {"attention: Dense", "must be one of esa, streaming, dense"},
      {"dtype: float16", "must be one of auto, float32"},
      {"parallel: {communicator: tcp}", "must be one of auto, threads, mpi, nccl"},
      {"parallel: {selection_merge: ring}", "must be one of auto, all_gather, histogram"},
      {"kv_cache: {memory_fraction: 0}", "above 0 and at most 1"},
      {"kv_cache: {memory_fraction: 1.5}", "above 0 and at most 1"},
      {"kv_cache: {memory_fraction: .nan}", "above 0 and at most 1"},
      {"kv_cache: {memory_fraction: nan}", "above 0 and at most 1"},
      {"model: \"a\\0b\"", "NUL"},
  };
  for (const auto& [yaml, expected] : cases) {
    EXPECT_THAT(Error(yaml), AllOf(HasSubstr("run.yaml:1: "), HasSubstr(expected))) << yaml;
  }
}

TEST_F(ConfigTest, DuplicatesAreRefused) {
  EXPECT_THAT(Error("max_num_seqs: 1\nmax_num_seqs: 1\n"),
              AllOf(HasSubstr("run.yaml:2"), HasSubstr("`max_num_seqs` is stated twice")));
  EXPECT_THAT(Error("esa: {top_k: 1}\nesa: {top_k: 1}\n"), HasSubstr("stated twice"));
  EXPECT_THAT(Error("esa: {top_k: 1}\nesa.top_k: 1\n"), HasSubstr("stated twice"));
}

TEST_F(ConfigTest, HostileYamlIsAnError) {
  std::string bomb = "a0: &a0 [x, x]\n";
  for (int i = 1; i < 60; ++i) {
    absl::StrAppend(&bomb, "a", i, ": &a", i, " [*a", i - 1, ", *a", i - 1, "]\n");
  }
  const std::string cases[] = {
      bomb,
      std::string(500000, '['),
      std::string(500000, '{'),
      std::string(500000, '-'),
      std::string(500000, '!'),
      std::string(500000, '*'),
      std::string(500000, '\''),
      std::string(500000, '?'),
      std::string(500000, '\0'),
      std::string(500000, '\xff'),
      "esa:\n\ttop_k: 5\n",
      "max_num_seqs: *nowhere\n",
      "&a max_num_seqs: *a\n",
      "<<: {max_num_seqs: 1}\n",
      "max_num_seqs: !!python/object:os.system x\n",
      "- max_num_seqs\n",
      "max_num_seqs\n",
      "max_num_seqs: 1\n---\nmax_num_seqs: 2\n",
      "esa: &a {top_k: *a}\n",
      "\"unterminated",
      "max_num_seqs: \"\\q\"\n",
  };
  for (const std::string& yaml : cases) {
    EXPECT_FALSE(Load(yaml).ok()) << yaml.substr(0, 60);
  }
  EXPECT_THAT(Error(std::string((1 << 20) + 1, ' ')), HasSubstr("over 1 MiB"));
  EXPECT_TRUE(Load(std::string(1 << 20, '\n')).ok());
}

TEST_F(ConfigTest, ParserStopsAtDeepNestingBeforeTheStackEnds) {
  std::string deep = "esa:\n";
  for (int i = 0; i < 100000; ++i) deep += "- ";
  EXPECT_FALSE(Load(deep).ok());
  std::string blocks;
  for (int i = 0; i < 1000; ++i) absl::StrAppend(&blocks, std::string(i, ' '), "a:\n");
  EXPECT_FALSE(Load(blocks).ok());
}

TEST(ResolveConfig, FillsInWhatDependsOnTheRanks) {
  const struct {
    int ranks;
    int64_t stripe;
  } cases[] = {{1, 4096}, {2, 2048}, {3, 1536}, {4, 1024}, {7, 1024}, {8, 512}, {100, 512}};
  for (const auto& expected : cases) {
    Config config;
    ASSERT_TRUE(ResolveConfig(expected.ranks, &config).ok());
    EXPECT_EQ(config.parallel.stripe_tokens, expected.stripe) << expected.ranks;
    EXPECT_EQ(config.esa.far_position, config.esa.local_tokens);
  }
}

TEST(ResolveConfig, KeepsWhatIsStated) {
  Config config;
  config.parallel.stripe_tokens = 512;
  config.parallel.ranks = 2;
  config.esa.far_position = 17;
  ASSERT_TRUE(ResolveConfig(2, &config).ok());
  EXPECT_EQ(config.parallel.stripe_tokens, 512);
  EXPECT_EQ(config.esa.far_position, 17);
}

TEST(ResolveConfig, StretchesRopeOfDenseAttentionToAStatedLength) {
  Config config;
  config.attention = Attention::kDense;
  config.rope.scaling = RopeStretch::kNtk;
  config.max_model_len = 65536;
  EXPECT_TRUE(ResolveConfig(2, &config).ok());
  config.max_model_len = 0;
  config.rope.factor = 1.5;
  EXPECT_TRUE(ResolveConfig(2, &config).ok());
}

TEST(ResolveConfig, RefusesImpossibleCombinations) {
  const struct {
    void (*change)(Config&);
    std::string expected;
  } cases[] = {
      {[](Config& c) { c.parallel.ranks = 3; }, "`parallel.ranks` is 3 but the job has 2"},
      {[](Config& c) { c.prefill_chunk_tokens = 700; }, "multiple of `esa.selection_block`"},
      {[](Config& c) { c.prefill_chunk_tokens = 256; }, "try 512"},
      {[](Config& c) { c.parallel.stripe_tokens = 513; }, "try 1024"},
      {[](Config& c) { c.esa.proximity = 2049; }, "`esa.proximity` (2049) must be at most"},
      {[](Config& c) { c.parallel.communicator = CommunicatorKind::kNccl; },
       "`parallel.communicator: nccl`"},
      {[](Config& c) { c.dtype = "bfloat16"; }, "needs `device: cuda`"},
      {[](Config& c) { c.esa.score = Score::kHeadMax; },
       "`esa.score: head_max` reads the keys of each head"},
      {[](Config& c) { c.esa.score = Score::kSoftVote; }, "set `esa.compression: exact`"},
      {[](Config& c) {
         c.esa.score = Score::kGroupVote;
         c.esa.compression = Compression::kExact;
       },
       "set `esa.compression: low_rank`"},
      {[](Config& c) {
         c.esa.score = Score::kGroupVote;
         c.esa.score_groups = 7;
       },
       "must be a multiple of `esa.score_groups` (7)"},
      {[](Config& c) {
         c.esa.target = ScoreTarget::kFar;
         c.esa.positions = Positions::kNative;
       },
       "it needs `esa.positions: far`"},
      {[](Config& c) { c.esa.unit_tokens = 96; },
       "`esa.initial_tokens` (128) must be a multiple of `esa.unit_tokens` (96)"},
      {[](Config& c) {
         c.esa.unit_tokens = 4;
         c.esa.unit_representatives = 5;
       },
       "`esa.unit_representatives` (5) must be at most"},
      {[](Config& c) {
         c.esa.unit_tokens = 64;
         c.esa.score = Score::kGroupVote;
       },
       "needs `esa.score: head_sum`"},
      {[](Config& c) { c.rope.scaling = RopeStretch::kYarn; }, "set `attention: dense`"},
      {[](Config& c) {
         c.attention = Attention::kDense;
         c.rope.scaling = RopeStretch::kYarn;
       },
       "state that, or `rope.factor`"},
      {[](Config& c) { c.rope.factor = 2; }, "`rope.factor` is that of `rope.scaling`"},
#ifdef LONGSPAN_CUDA
      {[](Config& c) {
         c.device = "cuda";
         c.esa.unit_tokens = 64;
       },
       "`esa.unit_tokens` above 1 is of CPU ranks"},
      {[](Config& c) {
         c.device = "cuda";
         c.kv_cache_tier = "host";
         c.esa.compression = Compression::kExact;
       },
       "it needs `esa.compression: low_rank`"},
#else
      {[](Config& c) { c.device = "cuda"; }, "has no CUDA"},
#endif
  };
  for (const auto& refused : cases) {
    Config config;
    refused.change(config);
    const absl::Status status = ResolveConfig(2, &config);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << refused.expected;
    EXPECT_THAT(status.message(), HasSubstr(refused.expected));
  }
}

TEST(ShippedConfigs, AreValid) {
  for (const std::string name : {"needle.yaml", "llama3-8b-256k.yaml"}) {
    std::ifstream file(absl::StrCat(LONGSPAN_SOURCE_DIR, "/configs/", name));
    const std::string yaml{std::istreambuf_iterator<char>(file), {}};
    ASSERT_FALSE(yaml.empty()) << name;
    absl::StatusOr<Config> config = ConfigFromYaml(yaml);
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_TRUE(ResolveConfig(4, &*config).ok()) << name;
  }
}

}  // namespace
}  // namespace longspan
