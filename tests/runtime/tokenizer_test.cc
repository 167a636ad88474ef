#include "runtime/tokenizer.h"

#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/tokenizer_bpe.h"
#include "runtime/tokenizer_json.h"
#include "runtime/tokenizer_regex.h"
#include "runtime/tokenizer_utf8.h"
#include "runtime/unicode_normalize.h"

namespace longspan {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// tools/make_tokenizer_fixtures.py makes these files and says what is in them.
const std::string kData = LONGSPAN_SOURCE_DIR "/tests/runtime/testdata/tokenizer/";

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  std::ostringstream contents;
  contents << file.rdbuf();
  return contents.str();
}

json Fixture(const std::string& name) { return json::parse(ReadFile(kData + name)); }

json TokenizerJson(const std::string& base) { return Fixture(base + "/tokenizer.json"); }

std::unique_ptr<Tokenizer> MustParse(const json& file) {
  auto tokenizer = Tokenizer::Parse(file.dump());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

std::vector<int32_t> MustEncode(const Tokenizer& tokenizer, std::string_view text,
                                bool add_special_tokens = false) {
  auto ids = tokenizer.Encode(text, add_special_tokens);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.ok() ? *ids : std::vector<int32_t>{-1};
}

std::vector<std::string> Pieces(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<std::string> pieces;
  for (int32_t id : MustEncode(tokenizer, text)) pieces.push_back(tokenizer.IdToPiece(id));
  return pieces;
}

// A byte-level tokenizer.json with one token for each byte; `more` follows from id 256 on.
json ByteTokenizer(const std::vector<std::string>& more = {}, json merges = json::array()) {
  json vocab = json::object();
  for (int b = 0; b < 256; ++b) vocab[ByteLevelCharacter(static_cast<uint8_t>(b))] = b;
  for (size_t i = 0; i < more.size(); ++i) vocab[more[i]] = 256 + i;
  const json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", false},
                           {"use_regex", false}};
  return {{"pre_tokenizer", byte_level},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}}}};
}

// ---- Equality with the library ----

struct Text {
  std::string name;
  std::string bytes;
};

std::vector<Text> Corpus() {
  std::vector<Text> corpus;
  for (const json& entry : Fixture("corpus.json")) {
    Text text{entry["name"], ""};
    if (entry.contains("hex")) {
      text.bytes = absl::HexStringToBytes(entry["hex"].get<std::string>());
    } else if (entry.contains("text")) {
      text.bytes = entry["text"];
    } else {
      for (int i = 0; i < entry["count"]; ++i) text.bytes += entry["unit"].get<std::string>();
    }
    corpus.push_back(text);
  }
  return corpus;
}

constexpr uint64_t kFnvBasis = 0xCBF29CE484222325u;

uint64_t Fnv1a(std::string_view bytes, uint64_t state) {
  for (const char byte : bytes) state = (state ^ static_cast<uint8_t>(byte)) * 0x100000001B3u;
  return state;
}

std::string Digest(const Tokenizer& tokenizer, std::string_view text) {
  uint64_t state = kFnvBasis;
  std::vector<int32_t> ids;
  for (const bool special : {false, true}) {
    ids = MustEncode(tokenizer, text, special);
    for (const int32_t id : ids) {
      const uint32_t u = static_cast<uint32_t>(id);
      for (int shift = 0; shift < 32; shift += 8) state = Fnv1a(std::string(1, u >> shift), state);
    }
  }
  for (const bool skip : {true, false}) state = Fnv1a(tokenizer.Decode(ids, skip), state);
  return absl::StrFormat("%08x", static_cast<uint32_t>(state));
}

TEST(TokenizerFixtures, EqualTheLibraryInEveryVariant) {
  const std::vector<Text> corpus = Corpus();
  const json variants = Fixture("variants.json");
  const json expected = Fixture("expected.json");
  ASSERT_GT(corpus.size(), 150u);
  ASSERT_EQ(variants.size(), expected.size());
  for (const auto& [name, variant] : variants.items()) {
    json file = TokenizerJson(variant["base"]);
    file.merge_patch(variant["patch"]);
    const auto tokenizer = MustParse(file);
    ASSERT_NE(tokenizer, nullptr) << name;
    ASSERT_EQ(expected[name].size(), corpus.size()) << name;
    for (size_t i = 0; i < corpus.size(); ++i) {
      EXPECT_EQ(Digest(*tokenizer, corpus[i].bytes), expected[name][i].get<std::string>())
          << "see tools/make_tokenizer_fixtures.py --ids " << name << " " << corpus[i].name;
    }
  }
}

// What the fixtures' script has as well: Knuth's MMIX, a linear congruential generator.
class Draws {
 public:
  uint64_t Below(uint64_t limit) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return (state_ >> 33) % limit;
  }

 private:
  uint64_t state_ = 1;
};

// 32 texts of 32 KiB and more, of pieces of the corpus; some are cut within a character.
std::vector<std::string> StressTexts() {
  std::vector<Text> pieces = Corpus();
  std::erase_if(pieces, [](const Text& text) { return text.bytes.empty(); });
  const auto within = [](const std::string& bytes, size_t i) { return (bytes[i] & 0xC0) == 0x80; };
  Draws draws;
  std::vector<std::string> texts(32);
  for (std::string& text : texts) {
    while (text.size() < 32768) {
      const std::string& piece = pieces[draws.Below(pieces.size())].bytes;
      size_t begin = draws.Below(piece.size());
      size_t end = std::min(piece.size(), begin + 1 + draws.Below(256));
      if (draws.Below(8) > 0) {
        while (begin > 0 && within(piece, begin)) --begin;
        while (end < piece.size() && within(piece, end)) ++end;
      }
      text += piece.substr(begin, end - begin);
      if (draws.Below(4) == 0) text += ' ';
    }
  }
  return texts;
}

// 8 lists of 2000 ids; half are low, where SentencePiece has its tokens of bytes.
std::vector<std::vector<int32_t>> StressIds(int64_t vocab_size) {
  Draws draws;
  std::vector<std::vector<int32_t>> lists(8, std::vector<int32_t>(2000));
  for (std::vector<int32_t>& list : lists) {
    for (int32_t& id : list) {
      const bool low = draws.Below(2) == 0;
      id = static_cast<int32_t>(draws.Below(low ? 260 : vocab_size));
    }
  }
  return lists;
}

std::string DigestOfDecoded(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  uint64_t state = kFnvBasis;
  for (const bool skip : {true, false}) state = Fnv1a(tokenizer.Decode(ids, skip), state);
  return absl::StrFormat("%08x", static_cast<uint32_t>(state));
}

TEST(TokenizerFixtures, EqualTheLibraryOnAMegabyte) {
  const std::vector<std::string> texts = StressTexts();
  const json stress = Fixture("stress.json");
  const json variants = Fixture("variants.json");
  ASSERT_GE(stress.size(), 4u);
  for (const auto& [name, expected] : stress.items()) {
    const auto tokenizer = MustParse(TokenizerJson(variants[name]["base"]));
    ASSERT_NE(tokenizer, nullptr) << name;
    ASSERT_EQ(expected["texts"].size(), texts.size());
    for (size_t i = 0; i < texts.size(); ++i) {
      EXPECT_EQ(Digest(*tokenizer, texts[i]), expected["texts"][i].get<std::string>())
          << name << ": text " << i << " of stress_texts() in tools/make_tokenizer_fixtures.py";
    }
    const auto lists = StressIds(tokenizer->vocab_size());
    for (size_t i = 0; i < lists.size(); ++i) {
      EXPECT_EQ(DigestOfDecoded(*tokenizer, lists[i]), expected["decoded"][i].get<std::string>())
          << name << ": list " << i << " of stress_ids() in tools/make_tokenizer_fixtures.py";
    }
  }
}

const std::vector<std::string>& Bases() {
  static const std::vector<std::string>* const kBases = new std::vector<std::string>{
      "needle", "gpt2", "llama3", "qwen2", "llama2", "mistral_v03", "crossing"};
  return *kBases;
}

TEST(TokenizerFixtures, StreamedDecodingEqualsWhole) {
  for (const std::string& base : Bases()) {
    const auto tokenizer = MustParse(TokenizerJson(base));
    for (const Text& text : Corpus()) {
      std::vector<int32_t> ids = MustEncode(*tokenizer, text.bytes, true);
      ids.push_back(ids.empty() ? 0 : ids[ids.size() / 2]);  // so that characters are cut as well
      for (const bool skip : {false, true}) {
        StreamDecoder decoder(*tokenizer, skip);
        std::string streamed;
        for (const int32_t id : ids) {
          const std::string part = decoder.Push(id);
          ASSERT_EQ(WellFormedPrefix(part), static_cast<int64_t>(part.size())) << text.name;
          streamed += part;
        }
        streamed += decoder.Flush();
        EXPECT_EQ(streamed, tokenizer->Decode(ids, skip)) << base << " " << text.name;
      }
    }
  }
}

TEST(TokenizerFixtures, WellFormedTextSurvivesTheRoundTrip) {
  for (const char* base : {"gpt2", "llama3"}) {
    const auto tokenizer = MustParse(TokenizerJson(base));
    for (const Text& text : Corpus()) {
      std::string well_formed;
      AppendWellFormed(text.bytes, well_formed);
      EXPECT_EQ(tokenizer->Decode(MustEncode(*tokenizer, text.bytes), false), well_formed);
    }
  }
}

TEST(TokenizerFixtures, LoadReadsTheDirectory) {
  const auto tokenizer = Tokenizer::Load(kData + "needle");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 1204);
  EXPECT_EQ((*tokenizer)->bos_id(), (*tokenizer)->TokenToId("<|begin|>"));
  EXPECT_EQ((*tokenizer)->eos_id(), (*tokenizer)->TokenToId("<|end|>"));
  EXPECT_EQ((*tokenizer)->TokenToId("<|end|>"), 1);
  EXPECT_TRUE((*tokenizer)->IsSpecial(1));
  EXPECT_FALSE((*tokenizer)->IsSpecial(-1));
  EXPECT_EQ((*tokenizer)->TokenToId("no such token"), std::nullopt);

  const auto without_config = Tokenizer::Load(kData + "gpt2");
  ASSERT_TRUE(without_config.ok());
  EXPECT_EQ((*without_config)->bos_id(), std::nullopt);

  const auto missing = Tokenizer::Load(kData + "nowhere");
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("nowhere/tokenizer.json"));
}

// ---- Encoding ----

TEST(Tokenizer, SaysWhatItReplaced) {
  const auto tokenizer = MustParse(ByteTokenizer());
  EncodeNotes notes;
  const auto ids = tokenizer->Encode(
      "a\xE2\x82"
      "b\xFF\xFF",
      false, &notes);
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(tokenizer->Decode(*ids, false), "a\uFFFDb\uFFFD\uFFFD");
  EXPECT_EQ(notes.replaced, 3);
  ASSERT_TRUE(tokenizer->Encode("a\uFFFD", false, &notes).ok());
  EXPECT_EQ(notes.replaced, 0);
}

TEST(Tokenizer, DropsAndCountsBytesWithoutToken) {
  json file = ByteTokenizer({"ac"}, json::array({json::array({"a", "c"})}));
  file["model"]["vocab"].erase("b");
  file["model"]["vocab"]["ac"] = static_cast<int>('b');
  const auto tokenizer = MustParse(file);
  EncodeNotes notes;
  const auto ids = tokenizer->Encode("abc abc", false, &notes);
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(tokenizer->Decode(*ids, false), "ac ac");
  EXPECT_THAT(*ids, ElementsAre('b', ' ', 'b'));  // what is left merges
  EXPECT_EQ(notes.unknown_bytes, 2);
}

TEST(Tokenizer, MergesLowestRankFirstThenLeftmost) {
  const json merges = {"b c", "a b", "a a", "aa aa"};
  const auto tokenizer = MustParse(ByteTokenizer({"bc", "ab", "aa", "aaaa"}, merges));
  EXPECT_THAT(Pieces(*tokenizer, "abc"), ElementsAre("a", "bc"));
  EXPECT_THAT(Pieces(*tokenizer, "aaab"), ElementsAre("aa", "ab"));
  EXPECT_THAT(Pieces(*tokenizer, "aaaaaaa"), ElementsAre("aaaa", "aa", "a"));
}

TEST(Tokenizer, LongRunsAreNotQuadratic) {
  const json merges = {"a a", "aa aa", "aaaa aaaa"};
  const auto tokenizer = MustParse(ByteTokenizer({"aa", "aaaa", "aaaaaaaa"}, merges));
  const std::vector<int32_t> ids = MustEncode(*tokenizer, std::string(1 << 20, 'a'));
  EXPECT_EQ(ids, std::vector<int32_t>(1 << 17, 258));
  const auto gpt2 = MustParse(TokenizerJson("gpt2"));
  for (const char c : {'a', ' ', '\n', '7', '!', '\0'}) {
    const std::string run(1 << 20, c);
    EXPECT_EQ(gpt2->Decode(MustEncode(*gpt2, run), false), run);
  }
}

TEST(Tokenizer, StopsBeyondTheLimitAndNeverWithinIt) {
  for (const std::string& base : Bases()) {
    const auto tokenizer = MustParse(TokenizerJson(base));
    for (const Text& text : Corpus()) {
      for (const bool special : {false, true}) {
        const std::vector<int32_t> ids = MustEncode(*tokenizer, text.bytes, special);
        const auto count = static_cast<int64_t>(ids.size());
        EXPECT_EQ(*tokenizer->Encode(text.bytes, special, nullptr, count), ids);
        for (const int64_t fewer : {count - 1, count / 2, int64_t{0}}) {
          if (fewer < 0 || fewer >= count) continue;
          const auto cut = tokenizer->Encode(text.bytes, special, nullptr, fewer);
          EXPECT_TRUE(absl::IsOutOfRange(cut.status())) << base << " " << text.name;
        }
      }
    }
  }
}

TEST(Tokenizer, KnowsBeforeItMergesThatALongRunIsTooMuch) {
  const json merges = {"a a", "aa aa", "aaaa aaaa"};
  const BpeModel model =
      (*ParseTokenizerJson(ByteTokenizer({"aa", "aaaa", "aaaaaaaa"}, merges).dump()))->bpe;
  std::vector<int32_t> ids;
  EXPECT_FALSE(BpeEncoder(model, 1023).Encode(std::string(1 << 13, 'a'), ids));
  EXPECT_TRUE(ids.empty());
  EXPECT_TRUE(BpeEncoder(model, 1024).Encode(std::string(1 << 13, 'a'), ids));
  EXPECT_EQ(ids.size(), 1024u);
}

TEST(Tokenizer, PiecesAreTextOrBytes) {
  const auto tokenizer = MustParse(ByteTokenizer());
  EXPECT_EQ(tokenizer->IdToPiece(' '), " ");
  EXPECT_EQ(tokenizer->IdToPiece(0xE2), "bytes:\\xe2");
  EXPECT_EQ(tokenizer->IdToBytes(0xE2), "\xE2");
  EXPECT_EQ(tokenizer->IdToBytes(-1), "");
  EXPECT_EQ(tokenizer->IdToBytes(256), "");
  EXPECT_EQ(tokenizer->Decode({'a', -1, 256, 'b', 2147483647}, false), "ab");
}

TEST(StreamDecoder, NeverSplitsACharacter) {
  const auto tokenizer = MustParse(ByteTokenizer());
  StreamDecoder decoder(*tokenizer, false);
  EXPECT_EQ(decoder.Push(0xF0), "");
  EXPECT_EQ(decoder.Push(0x9F), "");
  EXPECT_EQ(decoder.Push(0x98), "");
  EXPECT_EQ(decoder.Push(0x80), "😀");
  EXPECT_EQ(decoder.Push(0xE2), "");
  EXPECT_EQ(decoder.Push('x'), "\uFFFDx");
  EXPECT_EQ(decoder.Push(0xC3), "");
  EXPECT_EQ(decoder.Flush(), "\uFFFD");
  EXPECT_EQ(decoder.Flush(), "");
}

// ---- SentencePiece-style tokenizers ----

TEST(SentencePieceStyle, CutsOnlyWhereNoMergeCrosses) {
  const auto cut_of = [](const json& file) {
    return (*ParseTokenizerJson(file.dump()))->bpe.cut_before;
  };
  EXPECT_EQ(cut_of(TokenizerJson("llama2")), "\u2581");
  EXPECT_EQ(cut_of(TokenizerJson("mistral_v03")), "\u2581");
  EXPECT_EQ(cut_of(TokenizerJson("crossing")), "");
  EXPECT_EQ(cut_of(TokenizerJson("llama3")), "");
  json file = TokenizerJson("llama2");
  file["model"]["byte_fallback"] = false;
  EXPECT_EQ(cut_of(file), "\u2581");  // <unk> is between two spaces
  file["model"].erase("unk_token");
  EXPECT_EQ(cut_of(file), "");  // what is dropped is not
}

TEST(SentencePieceStyle, CuttingChangesNothing) {
  for (const char* base : {"llama2", "mistral_v03"}) {
    const auto parts = *ParseTokenizerJson(TokenizerJson(base).dump());
    BpeModel whole = parts->bpe;
    whole.cut_before.clear();
    for (const std::string& text : StressTexts()) {
      std::string well_formed;
      AppendWellFormed(text, well_formed);
      const std::string word = absl::StrReplaceAll(well_formed, {{" ", "\u2581"}});
      std::vector<int32_t> cut_ids, whole_ids;
      BpeEncoder(parts->bpe).Encode(word, cut_ids);
      BpeEncoder(whole).Encode(word, whole_ids);
      ASSERT_EQ(cut_ids, whole_ids) << base;
    }
  }
}

TEST(Tokenizer, CountsUnknownBytes) {
  json file = TokenizerJson("llama2");
  file["model"]["byte_fallback"] = false;
  const auto tokenizer = MustParse(file);
  EncodeNotes notes;
  const auto ids = tokenizer->Encode("a\u16A0\u16A0 \u16A0", false, &notes);
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(absl::c_count(*ids, 0), 2);  // <unk>, of two in a row one
  EXPECT_EQ(notes.unknown_bytes, 9);
}

TEST(SentencePieceStyle, StreamsAByteRunAsAWhole) {
  const auto tokenizer = MustParse(TokenizerJson("llama2"));
  const auto id = [&](const std::string& token) { return tokenizer->TokenToId(token).value(); };
  StreamDecoder decoder(*tokenizer, true);
  EXPECT_EQ(decoder.Push(id("<s>")), "");
  EXPECT_EQ(decoder.Push(id("\u2581the")), "the");  // the text's first space goes
  EXPECT_EQ(decoder.Push(id("\u2581the")), " the");
  for (const char* byte : {"<0xF0>", "<0x9F>", "<0x98>", "<0x80>"}) {
    EXPECT_EQ(decoder.Push(id(byte)), "");
  }
  EXPECT_EQ(decoder.Push(id("a")), "😀a");
  EXPECT_EQ(decoder.Push(id("<0x41>")), "");
  EXPECT_EQ(decoder.Push(id("<0xFF>")), "");
  EXPECT_EQ(decoder.Push(id("</s>")), "");
  EXPECT_EQ(decoder.Push(id("a")), "\uFFFD\uFFFDa");
  EXPECT_EQ(decoder.Push(id("<0xE2>")), "");
  EXPECT_EQ(decoder.Flush(), "\uFFFD");
}

TEST(SentencePieceStyle, LongTextsAreNotQuadratic) {
  for (const char* base : {"llama2", "crossing"}) {
    const auto tokenizer = MustParse(TokenizerJson(base));
    for (const std::string unit : {"a", " ", "\u2581", "好", "ab ", "\u0301\u0323", "👍"}) {
      std::string text = "x";
      while (text.size() < 1 << 18) text += unit;
      std::string expected = text;
      if (unit == "\u2581") expected.assign(1, 'x').append((text.size() - 1) / unit.size(), ' ');
      EXPECT_EQ(tokenizer->Decode(MustEncode(*tokenizer, text), false), expected);
    }
  }
}

TEST(SentencePieceStyle, TokensStandForTheirBytes) {
  const auto tokenizer = MustParse(TokenizerJson("llama2"));
  EXPECT_EQ(tokenizer->IdToPiece(*tokenizer->TokenToId("\u2581the")), " the");
  EXPECT_EQ(tokenizer->IdToPiece(*tokenizer->TokenToId("<0xE2>")), "bytes:\\xe2");
}

TEST(Tokenizer, TemplatesPutTokensOnBothSides) {
  json file = ByteTokenizer({"<s>", "</s>"});
  file["post_processor"] = json::parse(R"({"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "B", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
               {"SpecialToken": {"id": "E", "type_id": 0}}],
    "special_tokens": {"B": {"id": "B", "ids": [256], "tokens": ["<s>"]},
                       "E": {"id": "E", "ids": [257, 257], "tokens": ["</s>", "</s>"]}}})");
  const auto tokenizer = MustParse(file);
  EXPECT_THAT(MustEncode(*tokenizer, "x", true), ElementsAre(256, 'x', 257, 257));
  EXPECT_THAT(MustEncode(*tokenizer, "", true), ElementsAre(256, 257, 257));
  EXPECT_THAT(MustEncode(*tokenizer, "x", false), ElementsAre('x'));
  EXPECT_THAT(MustEncode(*tokenizer, "", false), IsEmpty());
}

// ---- Files that are refused ----

std::string Refusal(std::string_view contents, std::string_view config = {}) {
  const auto tokenizer = Tokenizer::Parse(contents, config);
  return tokenizer.ok() ? "accepted" : std::string(tokenizer.status().message());
}

TEST(TokenizerRefuses, MalformedJson) {
  EXPECT_THAT(Refusal(""), HasSubstr("tokenizer.json: not valid JSON"));
  EXPECT_THAT(Refusal("{\"model\": "), HasSubstr("not valid JSON"));
  EXPECT_THAT(Refusal("[]"), HasSubstr("expected a JSON object"));
  EXPECT_THAT(Refusal("{\"a\": \"\xFF\"}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(Refusal("{\"a\": \"\\ud800\"}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(Refusal(std::string(1 << 20, '[')), HasSubstr("nested deeper"));
  const std::string deep = std::string(1 << 20, '[') + std::string(1 << 20, ']');
  EXPECT_THAT(Refusal("{\"pre_tokenizer\": " + deep + "}"), HasSubstr("nested deeper"));
  // Every beginning of a file that is in order.
  const std::string good = ByteTokenizer().dump();
  for (size_t length = 0; length < good.size(); length += 7) {
    EXPECT_NE(Refusal(std::string_view(good).substr(0, length)), "accepted");
  }
}

struct Refused {
  const char* path;  // JSON pointer of what is replaced
  const char* value;
  const char* message;
};

TEST(TokenizerRefuses, NamesWhatIsAtFault) {
  const Refused cases[] = {
      {"/model", "null", "model null is not supported; supported: BPE"},
      {"/model/type", "\"Unigram\"", "model Unigram is not supported; supported: BPE"},
      {"/model/type", "7", "model"},
      {"/model/vocab", "[1]", "model.vocab: expected an object"},
      {"/model/vocab", "null", "model.vocab: expected an object"},
      {"/model/vocab/a", "\"97\"", "model.vocab[\"a\"]: expected a token id"},
      {"/model/vocab/a", "-1", "model.vocab[\"a\"]: expected a token id"},
      {"/model/vocab/a", "97.5", "model.vocab[\"a\"]: expected a token id"},
      {"/model/vocab/a", "1e99", "model.vocab[\"a\"]: expected a token id"},
      {"/model/vocab/a", "18446744073709551615", "model.vocab[\"a\"]: expected a token id"},
      {"/model/vocab/a", "2147483647", "id 2147483647 is out of range: there are 256 tokens"},
      {"/model/vocab/a", "256", "ids must be 0 to 255 without gaps"},
      {"/model/vocab/b", "97", "id 97 is also of token \"a\""},
      {"/model/merges", "{}", "model.merges: expected an array"},
      {"/model/merges", "null", "model.merges: expected an array"},
      {"/model/merges", "[\"a b\"]", "model.merges[0]: \"ab\" is not in model.vocab"},
      {"/model/merges", "[[\"a\", \"zz\"]]", "model.merges[0]: \"zz\" is not in model.vocab"},
      {"/model/merges", "[\"ab\"]", "model.merges[0]: expected \"left right\""},
      {"/model/merges", "[\"a b c\"]", "model.merges[0]: expected \"left right\""},
      {"/model/merges", "[[\"a\"]]", "model.merges[0]: expected"},
      {"/model/merges", "[[\"a\", 1]]", "model.merges[0]: expected"},
      {"/model/dropout", "0.1", "model.dropout 0.1 is not supported"},
      {"/model/unk_token", "\"<unk>\"", "model.unk_token: \"<unk>\" is not in model.vocab"},
      {"/model/unk_token", "3", "model.unk_token: expected a string"},
      {"/model/fuse_unk", "3", "model.fuse_unk: expected true or false"},
      {"/model/byte_fallback", "1", "model.byte_fallback: expected true or false"},
      {"/model/ignore_merges", "\"no\"", "model.ignore_merges: expected true or false"},
      {"/model/end_of_word_suffix", "\"</w>\"", "model.end_of_word_suffix \"</w>\" is not"},
      {"/model/continuing_subword_prefix", "\"##\"", "model.continuing_subword_prefix"},
      {"/normalizer", R"({"type": "Lowercase"})",
       "normalizer Lowercase is not supported; supported: Sequence, Prepend, Replace, NFC, NFD"},
      {"/normalizer", "[]", "normalizer [] is not supported"},
      {"/normalizer", R"({"type": "Sequence", "normalizers": [{"type": "Nmt"}]})",
       "normalizer.normalizers[0] Nmt is not supported"},
      {"/normalizer", R"({"type": "Prepend"})", "normalizer.prepend: expected a string"},
      {"/normalizer", R"({"type": "Replace", "pattern": {"String": ""}, "content": ""})",
       "normalizer.pattern is empty"},
      {"/normalizer", R"({"type": "Replace", "pattern": {"Regex": "(x"}, "content": ""})",
       "normalizer.pattern: regular expression \"(x\": missing closing parenthesis"},
      {"/normalizer",
       R"({"type": "Sequence", "normalizers": [
           {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaaaaaaaaaaaa"},
           {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaaaaaaaaaaaa"}]})",
       "more than 256 times longer"},
      {"/decoder",
       R"({"type": "Sequence", "decoders": [
           {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaaaaaaaaaaaa"},
           {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaaaaaaaaaaaa"}]})",
       "more than 256 times longer"},
      {"/decoder", "null", "decoder null is not supported; supported: Sequence, ByteLevel"},
      {"/decoder", R"({"type": "BPEDecoder"})", "decoder BPEDecoder is not supported"},
      {"/decoder", R"({"type": "Strip", "content": " ", "start": 1, "stop": 0})",
       "decoder: Strip is supported only directly after Fuse"},
      {"/decoder",
       R"({"type": "Sequence", "decoders": [{"type": "Fuse"},
           {"type": "Strip", "content": " ", "start": 1, "stop": 1}]})",
       "decoder.decoders[1].stop 1 is not supported; supported: 0"},
      {"/decoder",
       R"({"type": "Sequence", "decoders": [{"type": "Fuse"},
           {"type": "Strip", "content": " ", "start": -1, "stop": 0}]})",
       "decoder.decoders[1].start: expected a count"},
      {"/decoder",
       R"({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]})",
       "decoder.decoders[1]: this order of decoders is not supported"},
      {"/decoder", R"({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteLevel"}]})",
       "decoder.decoders[1]: this order of decoders is not supported"},
      {"/decoder", R"({"type": "Replace", "pattern": {"Regex": "x"}, "content": ""})",
       "decoder.pattern Regex is not supported; supported: String"},
      {"/pre_tokenizer", "[]", "pre_tokenizer [] is not supported; supported: Sequence, Split"},
      {"/pre_tokenizer", R"({"type": "Whitespace"})", "pre_tokenizer Whitespace is not supported"},
      {"/pre_tokenizer", R"({"type": "Metaspace", "replacement": "__"})",
       "pre_tokenizer.replacement: expected one character"},
      {"/pre_tokenizer",
       R"({"type": "Sequence", "pretokenizers": [{"type": "Metaspace", "replacement": "_"},
           {"type": "Metaspace", "replacement": "_"}]})",
       "pre_tokenizer.pretokenizers[1]: a second Metaspace is not supported"},
      {"/pre_tokenizer", R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "last"})",
       "pre_tokenizer.prepend_scheme \"last\" is unknown"},
      {"/pre_tokenizer", R"({"type": "Metaspace", "replacement": "_", "add_prefix_space": false})",
       "pre_tokenizer.add_prefix_space false contradicts prepend_scheme"},
      {"/pre_tokenizer/use_regex", "3", "pre_tokenizer.use_regex: expected true or false"},
      {"/pre_tokenizer", R"({"type": "Sequence", "pretokenizers": 1})",
       "pre_tokenizer.pretokenizers: expected an array"},
      {"/pre_tokenizer",
       R"({"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}, {"type": "Digits"}]})",
       "pre_tokenizer.pretokenizers[1]: a pre-tokenizer after ByteLevel"},
      {"/pre_tokenizer", R"({"type": "Split", "behavior": "Isolated", "pattern": "x"})",
       "pre_tokenizer.pattern: expected {\"Regex\""},
      {"/pre_tokenizer", R"({"type": "Split", "behavior": "Shred", "pattern": {"Regex": "x"}})",
       "pre_tokenizer.behavior \"Shred\" is unknown"},
      {"/pre_tokenizer", R"({"type": "Split", "behavior": "Removed", "pattern": {"Regex": "(x"}})",
       "regular expression \"(x\": missing closing parenthesis"},
      {"/post_processor", "{\"type\": \"BertProcessing\"}",
       "post_processor BertProcessing is not supported; supported: Sequence, TemplateProcessing"},
      {"/post_processor", "{\"type\": \"TemplateProcessing\"}", "post_processor.single: expected"},
      {"/post_processor", R"({"type": "TemplateProcessing", "single": []})", "a Sequence A"},
      {"/post_processor",
       R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "B"}}]})",
       "post_processor.special_tokens[\"B\"]: expected"},
      {"/post_processor",
       R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "B"}}],
           "special_tokens": {"B": {"ids": [256]}}})",
       "256 is out of range, there are 256 tokens"},
      {"/added_tokens", "{}", "added_tokens: expected an array"},
      {"/added_tokens", "[3]", "added_tokens[0]: expected an object"},
      {"/added_tokens", R"([{"id": 256}])", "added_tokens[0].content: expected a string"},
      {"/added_tokens", R"([{"id": -1, "content": "x"}])", "added_tokens[0].id: expected a token"},
      {"/added_tokens", R"([{"id": 256, "content": ""}])", "added_tokens[0].content is empty"},
      {"/added_tokens", R"([{"id": 258, "content": "<s>"}])", "added_tokens[0]: id 258 is out of"},
      {"/added_tokens", R"([{"id": 97, "content": "<s>"}])", "id 97 is also of token \"a\""},
      {"/added_tokens", R"([{"id": 98, "content": "a"}])", "but model.vocab says 97"},
      {"/added_tokens", R"([{"id": 256, "content": "<s>"}, {"id": 256, "content": "<s>"}])",
       "added_tokens[1]: token \"<s>\" is listed twice"},
      {"/added_tokens", R"([{"id": 256, "content": "<s>", "lstrip": 1}])",
       "added_tokens[0].lstrip: expected true or false"},
  };
  for (const Refused& refused : cases) {
    json file = ByteTokenizer();
    file[json::json_pointer(refused.path)] = json::parse(refused.value);
    EXPECT_THAT(Refusal(file.dump()), HasSubstr(refused.message))
        << refused.path << " " << refused.value;
  }
}

TEST(TokenizerRefuses, ByteFallbackWhereBytesAreMissing) {
  json file = ByteTokenizer();
  file["model"]["byte_fallback"] = true;
  EXPECT_EQ(Refusal(file.dump()), "accepted");
  file["model"]["vocab"].erase("b");
  file["model"]["vocab"]["bb"] = static_cast<int>('b');
  EXPECT_THAT(Refusal(file.dump()), HasSubstr("model.byte_fallback true is not supported"));
}

TEST(TokenizerRefuses, FirstOnlyWhereItIsClearWhatComesFirst) {
  json file = ByteTokenizer();
  file["pre_tokenizer"] =
      json::parse(R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "first"})");
  file["normalizer"] = {{"type", "NFC"}};
  EXPECT_EQ(Refusal(file.dump()), "accepted");
  file["normalizer"] = {{"type", "Prepend"}, {"prepend", "_"}};
  EXPECT_THAT(Refusal(file.dump()), HasSubstr("is not supported together with normalizer Prepend"));
}

TEST(TokenizerRefuses, AddedTokensThatTheNormalizerMakesAmbiguous) {
  json file = ByteTokenizer();
  file["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", "x"}}}, {"content", ""}};
  const auto added = [](int id, const char* content, bool normalized) {
    return json{{"id", id}, {"content", content}, {"normalized", normalized}};
  };
  file["added_tokens"] = {added(256, "xx", false), added(257, "<xs>", true)};
  EXPECT_EQ(Refusal(file.dump()), "accepted");
  file["added_tokens"] = {added(256, "xx", true)};
  EXPECT_THAT(Refusal(file.dump()), HasSubstr("\"xx\": the normalizer leaves nothing of it"));
  file["added_tokens"] = {added(256, "<sx>", true), added(257, "<xs>", true)};
  EXPECT_THAT(Refusal(file.dump()), HasSubstr("\"<xs>\": the normalizer makes it equal to"));
}

TEST(TokenizerRefuses, ConfigThatNamesNoToken) {
  const std::string file = ByteTokenizer().dump();
  EXPECT_THAT(Refusal(file, R"({"eos_token": "<none>"})"),
              HasSubstr("tokenizer_config.json: eos_token: \"<none>\" is no token"));
  EXPECT_THAT(Refusal(file, R"({"bos_token": 5})"), HasSubstr("bos_token: expected a string"));
  EXPECT_THAT(Refusal(file, "{"), HasSubstr("tokenizer_config.json: not valid JSON"));
  EXPECT_EQ(Refusal(file, R"({"bos_token": null})"), "accepted");
}

// ---- Regular expressions ----

TEST(TokenizerRegex, RefusesWhatOnigurumaReadsDifferently) {
  for (const char* pattern :
       {"[a[b]]",  "[[:alpha:]]", "[a&&b]",  "a{2}?",    "a{2,3}+",       "a(?i)b",
        R"(\bx)",  R"((a)\1)",    "(?<n>a)", R"(\k<n>)", R"([\W])",       R"(\xff)",
        R"(\p{L)", R"(\p{L&})",   R"(\K)",   R"(\X)",    R"(\Qa\E)",      "(?x: a)",
        "(*FAIL)", "[]a]",        "[a",      "\\",       R"(\p{Letter})", R"(\x{110000})"}) {
    EXPECT_EQ(Regex::Compile(pattern).status().code(), absl::StatusCode::kInvalidArgument)
        << pattern;
  }
  EXPECT_FALSE(Regex::Compile(std::string(100'000, 'a')).ok());
  EXPECT_FALSE(Regex::Compile(std::string(10'000, '(') + std::string(10'000, ')')).ok());
}

TEST(TokenizerRegex, HostilePatternsEndInAnError) {
  for (const char* pattern : {"(?:a*)*b", "(?:a|a)+b", "(?:a?){60}a{60}b|(?:(?:a+)+)+$b"}) {
    json file = ByteTokenizer();
    const json split = {{"type", "Split"},
                        {"behavior", "Isolated"},
                        {"invert", false},
                        {"pattern", {{"Regex", pattern}}}};
    file["pre_tokenizer"] = {{"type", "Sequence"},
                             {"pretokenizers", {split, file["pre_tokenizer"]}}};
    const auto tokenizer = MustParse(file);
    const auto ids = tokenizer->Encode(std::string(2000, 'a') + "cb", false);
    EXPECT_EQ(ids.status().code(), absl::StatusCode::kResourceExhausted) << pattern;
  }
}

// ---- Unicode normalization ----

std::string Normalized(std::string_view text, NormalForm form) {
  std::string out;
  AppendNormalized(text, form, out);
  return out;
}

TEST(UnicodeNormalize, Forms) {
  EXPECT_EQ(Normalized("e\u0301\u0323 ok", NormalForm::kNfc), "\u1EB9\u0301 ok");
  EXPECT_EQ(Normalized("\u1EB9\u0301", NormalForm::kNfd), "e\u0323\u0301");
  EXPECT_EQ(Normalized("\uFB01\u00BD", NormalForm::kNfkc), "fi1\u20442");
  EXPECT_EQ(Normalized("\uAC01", NormalForm::kNfkd), "\u1100\u1161\u11A8");
  EXPECT_EQ(Normalized("\uAC00\u11A7", NormalForm::kNfc), "\uAC00\u11A7");
  // Newer than Unicode 9.
  EXPECT_EQ(Normalized("a\u1DF9\u0316", NormalForm::kNfc), "a\u1DF9\u0316");
  EXPECT_EQ(Normalized("\U00011935\U00011930", NormalForm::kNfc), "\U00011935\U00011930");
}

TEST(UnicodeNormalize, LongRunsOfMarksAreNotQuadratic) {
  std::string mixed = "a", above, below;
  for (int i = 0; i < 1 << 18; ++i) {
    mixed += "\u0310\u0323";
    above += "\u0310";
    below += "\u0323";
  }
  EXPECT_EQ(Normalized(mixed, NormalForm::kNfd), "a" + below + above);
}

// ---- UTF-8 ----

TEST(Utf8, ReplacesMaximalSubparts) {
  const std::map<std::string, std::string> cases = {
      {"\xE2\x82", "\uFFFD"},
      {"\xE2\x28\xA1", "\uFFFD(\uFFFD"},
      {"\xF0\x9F\x98z", "\uFFFDz"},
      {"\xC0\xAF", "\uFFFD\uFFFD"},
      {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},
      {"\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},
      {"12345678\x80"
       "abcdefghi\xE4\xBD\xA0",
       "12345678\uFFFDabcdefghi你"},
  };
  for (const auto& [bytes, text] : cases) {
    std::string out;
    AppendWellFormed(bytes, out);
    EXPECT_EQ(out, text) << absl::BytesToHexString(bytes);
  }
}

TEST(Utf8, ByteAlphabetIsABijection) {
  for (int b = 0; b < 256; ++b) {
    const std::string character = ByteLevelCharacter(static_cast<uint8_t>(b));
    EXPECT_EQ(BytesOfByteLevelToken(character), std::string(1, static_cast<char>(b)));
  }
  EXPECT_EQ(BytesOfByteLevelToken("Ġa"), " a");
  EXPECT_EQ(BytesOfByteLevelToken("a b"), std::nullopt);
  EXPECT_EQ(BytesOfByteLevelToken("你"), std::nullopt);
}

}  // namespace
}  // namespace longspan
