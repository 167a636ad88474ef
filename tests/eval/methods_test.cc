#include "eval/methods.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/runtime/file_testing.h"

namespace longspan {
namespace {

using ::longspan::testing::Fails;
using ::longspan::testing::IsOk;

Config Resolved() {
  Config config;
  config.model = LONGSPAN_SOURCE_DIR "/models/needle";
  config.esa = {.initial_tokens = 32, .local_tokens = 512, .top_k = 256, .selection_block = 256};
  EXPECT_THAT(ResolveConfig(1, &config), IsOk());
  return config;
}

TEST(MethodsTest, AttendToTheSameNumberOfTokens) {
  const Config config = Resolved();
  for (const EvalMethod& method : EvalMethods()) {
    const auto changed = MethodConfig(config, method, 5000, 2048);
    ASSERT_THAT(changed, IsOk());
    EXPECT_EQ(changed->max_model_len, 5000);
    if (changed->attention == Attention::kDense) continue;
    const EsaConfig& esa = changed->esa;
    const int64_t selected = changed->attention == Attention::kEsa ? esa.top_k : 0;
    EXPECT_EQ(esa.initial_tokens + esa.local_tokens + selected, 32 + 512 + 256) << method.name;
    EXPECT_GE(esa.far_position, esa.local_tokens);
    EXPECT_EQ(esa.unit_tokens, method.name == "block" ? 32 : 1);
  }
}

TEST(MethodsTest, RopeIsStretchedToTheLongestCase) {
  Config config = Resolved();
  const auto factor = [&](const char* name) {
    return MethodConfig(config, *(*ParseEvalMethods(name))[0], 5120, 2048)->rope.factor;
  };
  EXPECT_EQ(factor("dense_yarn"), 2.5);
  EXPECT_EQ(factor("dense_ntk"), 2.5);
  EXPECT_EQ(MethodConfig(config, *(*ParseEvalMethods("dense_ntk"))[0], 100, 2048)->rope.factor, 1);
  // A config's own factor is of the methods that stretch alone.
  config.attention = Attention::kDense;
  config.rope = {RopeStretch::kYarn, 8};
  EXPECT_EQ(factor("dense_yarn"), 8);
  EXPECT_EQ(factor("dense"), 0);
  EXPECT_EQ(factor("esa_exact"), 0);
}

TEST(MethodsTest, SettingsSayWhatAMethodIs) {
  const Config config = Resolved();
  const auto settings = [&](const char* name) {
    const EvalMethod& method = *(*ParseEvalMethods(name))[0];
    return MethodSettings(method, *MethodConfig(config, method, 5120, 2048));
  };
  EXPECT_EQ(settings("dense_yarn")["rope.factor"], 2.5);
  EXPECT_FALSE(settings("dense").contains("esa.top_k"));
  EXPECT_EQ(settings("streaming")["esa.local_tokens"], 512 + 256);
  EXPECT_FALSE(settings("streaming").contains("esa.top_k"));
  EXPECT_EQ(settings("esa_low_rank")["esa.compressed_dim"], config.esa.compressed_dim);
  EXPECT_FALSE(settings("esa_exact").contains("esa.compressed_dim"));
  EXPECT_EQ(settings("soft_vote")["esa.score"], "soft_vote");
  EXPECT_EQ(settings("block")["esa.unit_tokens"], 32);
  EXPECT_EQ(settings("block")["attends_to"],
            "blocks of tokens, selected by keys that represent them");
}

TEST(MethodsTest, BadOnesAreRefused) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(ParseEvalMethods("dense,sparse"),
              Fails(kInvalid, "there is no method `sparse`; there are dense, dense_ntk"));
  EXPECT_THAT(ParseEvalMethods("dense,dense"), Fails(kInvalid, "names dense twice"));
  Config config;
  config.kv_cache_score_dtype = "fp8_e4m3";
  ASSERT_THAT(ResolveConfig(1, &config), IsOk());
  EXPECT_THAT(MethodConfig(config, **ParseEvalMethods("esa_exact")->begin(), 100, 2048),
              Fails(kInvalid, "--method esa_exact: `kv_cache.score_dtype`"));

  config = Resolved();
  config.esa.initial_tokens = 24;
  EXPECT_THAT(MethodConfig(config, **ParseEvalMethods("block")->begin(), 100, 2048),
              Fails(kInvalid, "are all multiples of 8 tokens and of no more"));
}

}  // namespace
}  // namespace longspan
