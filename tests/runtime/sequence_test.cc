#include "runtime/sequence.h"

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace longspan {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;

class SequenceTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto tokenizer =
        Tokenizer::Load(LONGSPAN_SOURCE_DIR "/tests/runtime/testdata/tokenizer/needle");
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = tokenizer->release();
    bytes_.assign(256, -1);
    for (int32_t id = 0; id < tokenizer_->vocab_size(); ++id) {
      const std::string_view bytes = tokenizer_->IdToBytes(id);
      if (bytes.size() == 1 && !tokenizer_->IsSpecial(id)) {
        bytes_[static_cast<unsigned char>(bytes[0])] = id;
      }
    }
  }
  static void TearDownTestSuite() { delete tokenizer_; }

  // One token a byte.
  static std::vector<int32_t> Spelt(const std::string& text) {
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(bytes_[static_cast<unsigned char>(c)]);
    return ids;
  }

  static Sequence Make(SamplingParams sampling, int64_t prompt_tokens = 3) {
    Request request;
    request.prompt.assign(prompt_tokens, 5);
    request.sampling = std::move(sampling);
    Sequence sequence(7, std::make_shared<const Request>(std::move(request)), /*choice=*/0,
                      *tokenizer_, 10.0);
    sequence.PrefillStarts(11.0);
    return sequence;
  }

  struct Outcome {
    std::vector<std::string> pieces;  // of each update
    bool finished = false;
    Completion completion;

    std::string Streamed() const {
      std::string all;
      for (const std::string& piece : pieces) all += piece;
      return all;
    }
  };
  // Appends tokens until the sequence finishes.
  static Outcome Feed(Sequence sequence, const std::vector<int32_t>& tokens,
                      const std::vector<int32_t>& eos = {1}) {
    Outcome outcome;
    for (const int32_t token : tokens) {
      RequestUpdate update = sequence.Append(token, std::nullopt, eos, 12.0);
      outcome.pieces.push_back(update.text);
      if (!update.finished) continue;
      outcome.finished = true;
      outcome.completion = std::move(update.completion);
      break;
    }
    return outcome;
  }

  static SamplingParams Params(int64_t max_tokens, std::vector<std::string> stop = {}) {
    SamplingParams params;
    params.max_tokens = max_tokens;
    params.stop = std::move(stop);
    return params;
  }

  static const Tokenizer* tokenizer_;
  static std::vector<int32_t> bytes_;  // [256] the token of each single byte
};

const Tokenizer* SequenceTest::tokenizer_ = nullptr;
std::vector<int32_t> SequenceTest::bytes_;

TEST_F(SequenceTest, EndsAtAStopTokenAsAtTheModelsOwn) {
  SamplingParams sampling;
  sampling.stop_token_ids = {9, 4};
  const std::vector<int32_t> tokens = {7, 8, 4, 7};
  const Outcome ended = Feed(Make(sampling), tokens);
  EXPECT_TRUE(ended.finished);
  EXPECT_THAT(ended.completion.tokens, ElementsAre(7, 8));
  EXPECT_EQ(ended.completion.finish_reason, FinishReason::kStop);
  sampling.ignore_eos = true;
  EXPECT_FALSE(Feed(Make(sampling), tokens).finished);
}

TEST_F(SequenceTest, EndsAtMaxTokens) {
  const Outcome outcome = Feed(Make(Params(3)), Spelt("abcdef"));
  ASSERT_TRUE(outcome.finished);
  EXPECT_EQ(outcome.completion.text, "abc");
  EXPECT_EQ(outcome.completion.tokens, Spelt("abc"));
  EXPECT_EQ(outcome.completion.finish_reason, FinishReason::kLength);
  EXPECT_THAT(outcome.pieces, ElementsAre("a", "b", "c"));
}

TEST_F(SequenceTest, EndsAtAnyEndOfSequenceToken) {
  for (const int32_t eos : {1, 0}) {
    std::vector<int32_t> tokens = Spelt("ab");
    tokens.push_back(eos);
    const Outcome outcome = Feed(Make(Params(9)), tokens, {0, 1});
    ASSERT_TRUE(outcome.finished);
    EXPECT_EQ(outcome.completion.text, "ab");
    EXPECT_EQ(outcome.completion.tokens, Spelt("ab"));
    EXPECT_EQ(outcome.completion.finish_reason, FinishReason::kStop);
  }
}

TEST_F(SequenceTest, EndOfSequenceMayComeFirst) {
  const Outcome outcome = Feed(Make(Params(9)), {1});
  ASSERT_TRUE(outcome.finished);
  EXPECT_EQ(outcome.completion.text, "");
  EXPECT_THAT(outcome.completion.tokens, SizeIs(0));
  EXPECT_EQ(outcome.completion.finish_reason, FinishReason::kStop);
}

TEST_F(SequenceTest, IgnoreEosGoesOn) {
  SamplingParams params = Params(4);
  params.ignore_eos = true;
  const std::vector<int32_t> a = Spelt("a");
  const Outcome outcome = Feed(Make(params), {a[0], 1, a[0], 1, a[0]});
  ASSERT_TRUE(outcome.finished);
  EXPECT_THAT(outcome.completion.tokens, ElementsAre(a[0], 1, a[0], 1));
  EXPECT_EQ(outcome.completion.text, "aa");
  EXPECT_EQ(outcome.completion.finish_reason, FinishReason::kLength);
}

TEST_F(SequenceTest, StopStringAcrossTokensIsCutAndNeverStreamed) {
  const Outcome outcome = Feed(Make(Params(99, {"STOP"})), Spelt("go STOP on"));
  ASSERT_TRUE(outcome.finished);
  EXPECT_EQ(outcome.completion.text, "go ");
  EXPECT_EQ(outcome.Streamed(), "go ");
  EXPECT_EQ(outcome.completion.tokens, Spelt("go STOP"));
  EXPECT_EQ(outcome.completion.finish_reason, FinishReason::kStop);
}

TEST_F(SequenceTest, TextIsHeldBackOnlyWhileItMayBeAStopString) {
  const Outcome outcome = Feed(Make(Params(8, {"abac", "zz"})), Spelt("ababzyab"));
  EXPECT_THAT(outcome.pieces, ElementsAre("", "", "", "ab", "ab", "zy", "", "ab"));
  ASSERT_TRUE(outcome.finished);  // the held-back end comes with the last update
  EXPECT_EQ(outcome.completion.text, "ababzyab");
  EXPECT_EQ(outcome.completion.finish_reason, FinishReason::kLength);
}

TEST_F(SequenceTest, FirstStopStringInTheTextCounts) {
  const Outcome outcome = Feed(Make(Params(99, {"", "zz", "\n\n", "\n"})), Spelt("one\n\ntwo"));
  EXPECT_EQ(outcome.completion.text, "one");
  EXPECT_EQ(Feed(Make(Params(99, {"one"})), Spelt("one")).completion.text, "");
}

TEST_F(SequenceTest, StopStringThatEndsAtTheLastTokenIsAStop) {
  const Outcome outcome = Feed(Make(Params(4, {"cd"})), Spelt("abcd"));
  EXPECT_EQ(outcome.completion.text, "ab");
  EXPECT_EQ(outcome.completion.finish_reason, FinishReason::kStop);
}

TEST_F(SequenceTest, CharactersAreStreamedWhole) {
  const std::string text = "é—🐧";  // two, three and four bytes
  const Outcome outcome = Feed(Make(Params(9)), Spelt(text));
  EXPECT_THAT(outcome.pieces, ElementsAre("", "é", "", "", "—", "", "", "", "🐧"));
  EXPECT_EQ(outcome.completion.text, text);
}

TEST_F(SequenceTest, CutCharacterBecomesTheReplacementCharacter) {
  const Outcome at_length = Feed(Make(Params(3)), Spelt("a🐧"));
  EXPECT_EQ(at_length.completion.text, "a\xef\xbf\xbd");
  EXPECT_EQ(at_length.Streamed(), at_length.completion.text);
  std::vector<int32_t> tokens = Spelt("a🐧");
  tokens[2] = 1;
  EXPECT_EQ(Feed(Make(Params(9)), tokens).completion.text, "a\xef\xbf\xbd");
}

TEST_F(SequenceTest, StopStringOfManyBytesAcrossTokens) {
  const Outcome outcome = Feed(Make(Params(99, {"—🐧"})), Spelt("a—b—🐧c"));
  EXPECT_EQ(outcome.completion.text, "a—b");
  EXPECT_EQ(outcome.Streamed(), "a—b");
}

TEST_F(SequenceTest, PositionsCountPromptAndCompletion) {
  Sequence sequence = Make(Params(9), /*prompt_tokens=*/20);
  EXPECT_EQ(sequence.next_position(), 20);
  const std::vector<int32_t> tokens = Spelt("ab");
  sequence.Append(tokens[0], std::nullopt, {}, 12);
  sequence.Append(tokens[1], std::nullopt, {}, 12);
  EXPECT_EQ(sequence.next_position(), 22);
  EXPECT_EQ(sequence.last_position(), 21);
  EXPECT_EQ(sequence.last_token(), tokens[1]);
  sequence.Prefilled(20, {});
  EXPECT_EQ(sequence.Update().request, 7);
  EXPECT_EQ(sequence.Update().prefilled, 20);
  EXPECT_EQ(sequence.Update().prompt_tokens, 20);
}

TEST_F(SequenceTest, LogprobsOfEveryToken) {
  SamplingParams params = Params(2);
  params.logprobs = 3;
  EXPECT_EQ(Make(params).wanted_prompt_logprobs(), -1);
  params.echo = true;
  Sequence sequence = Make(params);
  EXPECT_EQ(sequence.wanted_prompt_logprobs(), 3);
  sequence.Prefilled(2, {TokenLogprobs{-1, {}}});
  sequence.Prefilled(3, {TokenLogprobs{-2, {}}});
  const int32_t token = Spelt("a")[0];
  sequence.Append(token, TokenLogprobs{-3, {}}, {}, 12);
  const RequestUpdate last = sequence.Append(token, TokenLogprobs{-4, {}}, {}, 13);
  ASSERT_TRUE(last.finished);
  ASSERT_THAT(last.completion.logprobs, SizeIs(2));
  EXPECT_EQ(last.completion.logprobs[1].logprob, -4);
  ASSERT_THAT(last.completion.prompt_logprobs, SizeIs(2));
  EXPECT_EQ(last.completion.prompt_logprobs[1].logprob, -2);
}

TEST_F(SequenceTest, TimesAreThoseOfItsStages) {
  Sequence sequence = Make(Params(2));  // submitted at 10, started at 11
  sequence.PrefillStarts(50);           // only the first chunk counts
  sequence.Append(Spelt("a")[0], std::nullopt, {}, 14);
  const RequestUpdate last = sequence.Append(Spelt("b")[0], std::nullopt, {}, 19);
  EXPECT_EQ(last.completion.timings.queue_s, 1);
  EXPECT_EQ(last.completion.timings.prefill_s, 3);
  EXPECT_EQ(last.completion.timings.decode_s, 5);
}

// Random tokens, among them parts of characters, and random stop strings, against the definition:
// after each token the text so far is searched from its beginning.
TEST_F(SequenceTest, RandomTokensAndStopStringsFollowTheDefinition) {
  std::mt19937_64 random(3);
  const auto integer = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  const std::vector<std::string> letters = {"a", "b", "é", "🐧"};
  const auto string_of = [&](int64_t length) {
    std::string text;
    for (int64_t i = 0; i < length; ++i) text += letters[integer(0, 3)];
    return text;
  };
  int stopped = 0;
  for (int trial = 0; trial < 2000; ++trial) {
    std::vector<int32_t> tokens;
    while (tokens.size() < 60) {
      if (integer(0, 9) == 0) {
        tokens.push_back(static_cast<int32_t>(integer(2, tokenizer_->vocab_size() - 1)));
      }
      for (const int32_t id : Spelt(string_of(1))) tokens.push_back(id);
      if (integer(0, 9) == 0) tokens.pop_back();
    }
    SamplingParams params = Params(integer(1, 50));
    for (int64_t i = integer(0, 3); i > 0; --i) params.stop.push_back(string_of(integer(1, 5)));

    StreamDecoder decoder(*tokenizer_, true);
    std::string text;
    size_t cut = std::string::npos;
    const auto search = [&] {
      for (const std::string& stop : params.stop) cut = std::min(cut, text.find(stop));
      return cut != std::string::npos;
    };
    for (int64_t i = 0; i < params.max_tokens; ++i) {
      text += decoder.Push(tokens[i]);
      if (search()) break;
      if (i + 1 == params.max_tokens) text += decoder.Flush();
    }
    search();
    const Outcome outcome = Feed(Make(params), tokens);
    ASSERT_TRUE(outcome.finished);
    ASSERT_EQ(outcome.completion.text, text.substr(0, cut));
    ASSERT_EQ(outcome.Streamed(), outcome.completion.text);
    ASSERT_EQ(outcome.completion.finish_reason,
              cut == std::string::npos ? FinishReason::kLength : FinishReason::kStop);
    stopped += cut != std::string::npos;
    for (const std::string& piece : outcome.pieces) {
      // No piece begins in the middle of a character.
      ASSERT_TRUE(piece.empty() || (static_cast<unsigned char>(piece[0]) & 0xc0) != 0x80);
    }
  }
  EXPECT_GT(stopped, 200);
  EXPECT_LT(stopped, 1800);
}

}  // namespace
}  // namespace longspan
