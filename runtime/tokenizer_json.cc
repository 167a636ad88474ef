#include "runtime/tokenizer_json.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "kernels/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "runtime/tokenizer_utf8.h"

namespace longspan {
namespace {

using nlohmann::json;

constexpr int kMaxNesting = 100;
// GPT-2's words: contractions, letters, numbers, other signs, each with the space before it.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// ---- JSON ----

template <typename... Args>
absl::Status Invalid(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat(args...));
}

// A short, printable form of a value for messages.
std::string Show(const json& value) {
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

int Nesting(std::string_view text) {
  int depth = 0, deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"') {
      in_string = !in_string;
    } else if (in_string) {
      if (c == '\\') ++i;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

absl::StatusOr<json> ParseObject(std::string_view text) {
  if (Nesting(text) > kMaxNesting) return Invalid("JSON nested deeper than ", kMaxNesting);
  try {
    json value = json::parse(text);
    if (!value.is_object()) return Invalid("expected a JSON object, found ", value.type_name());
    return value;
  } catch (const json::exception& e) {
    return Invalid("malformed JSON: ", e.what());
  }
}

// The value of `key`, null where it is absent.
const json& Get(const json& object, const char* key) {
  static const json* const kNull = new json();
  const auto it = object.find(key);
  return it == object.end() ? *kNull : *it;
}

absl::Status WrongType(const std::string& where, const char* expected, const json& found) {
  return Invalid(where, ": expected ", expected, ", found ", Show(found));
}

absl::StatusOr<bool> GetBool(const json& object, const std::string& where, const char* key,
                             bool default_value) {
  const json& value = Get(object, key);
  if (value.is_null()) return default_value;
  if (!value.is_boolean()) return WrongType(absl::StrCat(where, ".", key), "true or false", value);
  return value.get<bool>();
}

absl::StatusOr<std::string> GetString(const json& object, const std::string& where,
                                      const char* key) {
  const json& value = Get(object, key);
  if (!value.is_string()) return WrongType(absl::StrCat(where, ".", key), "a string", value);
  return value.get<std::string>();
}

absl::StatusOr<const json*> GetArray(const json& object, const std::string& where,
                                     const char* key) {
  const json& value = Get(object, key);
  if (!value.is_array()) return WrongType(absl::StrCat(where, ".", key), "an array", value);
  return &value;
}

absl::StatusOr<int32_t> ToId(const json& value, const std::string& where) {
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  const bool good = value.is_number_unsigned() && value.get<uint64_t>() <= kMax;
  if (!good) return WrongType(where, "a token id, an integer from 0", value);
  return value.get<int32_t>();
}

// ---- Tables of components ----

// How to read a component whose `type` is `name` into a Spec.
template <typename Spec>
struct Component {
  const char* name;
  absl::Status (*parse)(const json& component, const std::string& where, Spec& spec);
};

std::string NameOf(const json& component) {
  if (component.is_null()) return "null";
  const json* type = component.is_object() ? &Get(component, "type") : nullptr;
  return type != nullptr && type->is_string() ? type->get<std::string>() : Show(component);
}

template <typename Spec>
absl::Status ParseComponent(const json& component, const std::string& where,
                            absl::Span<const Component<Spec>> table, Spec& spec) {
  const std::string name = NameOf(component);
  std::string supported;
  for (const Component<Spec>& known : table) {
    if (component.is_object() && name == known.name) return known.parse(component, where, spec);
    absl::StrAppend(&supported, supported.empty() ? "" : ", ", known.name);
  }
  return absl::UnimplementedError(
      absl::StrCat(where, " ", name, " is not supported; supported: ", supported));
}

// ---- Pre-tokenizers ----

struct PreTokenizerSpec {
  std::vector<PreTokenizerStage> stages;
  bool byte_level = false;  // what follows would see bytes, not text
};
absl::Status ParsePreTokenizer(const json& component, const std::string& where,
                               PreTokenizerSpec& spec);

absl::Status ParseSequence(const json& component, const std::string& where,
                           PreTokenizerSpec& spec) {
  LONGSPAN_ASSIGN_OR_RETURN(const json* list, GetArray(component, where, "pretokenizers"));
  for (size_t i = 0; i < list->size(); ++i) {
    const std::string at = absl::StrCat(where, ".pretokenizers[", i, "]");
    if (spec.byte_level) {
      return absl::UnimplementedError(
          absl::StrCat(at, ": a pre-tokenizer after ByteLevel is not supported"));
    }
    LONGSPAN_RETURN_IF_ERROR(ParsePreTokenizer((*list)[i], at, spec));
  }
  return absl::OkStatus();
}

absl::StatusOr<SplitBehavior> ParseBehavior(const std::string& name, const std::string& where) {
  constexpr std::pair<std::string_view, SplitBehavior> kBehaviors[] = {
      {"Removed", SplitBehavior::kRemoved},
      {"Isolated", SplitBehavior::kIsolated},
      {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
      {"MergedWithNext", SplitBehavior::kMergedWithNext},
      {"Contiguous", SplitBehavior::kContiguous},
  };
  for (const auto& [known, behavior] : kBehaviors) {
    if (name == known) return behavior;
  }
  return Invalid(where, ".behavior \"", name, "\" is unknown");
}

absl::Status ParseSplit(const json& component, const std::string& where, PreTokenizerSpec& spec) {
  LONGSPAN_ASSIGN_OR_RETURN(const std::string name, GetString(component, where, "behavior"));
  LONGSPAN_ASSIGN_OR_RETURN(const SplitBehavior behavior, ParseBehavior(name, where));
  LONGSPAN_ASSIGN_OR_RETURN(const bool invert, GetBool(component, where, "invert", false));
  const json& pattern = Get(component, "pattern");
  const std::string at = absl::StrCat(where, ".pattern");
  const bool one = pattern.is_object() && pattern.size() == 1;
  if (!one || !pattern.begin()->is_string() ||
      (pattern.begin().key() != "Regex" && pattern.begin().key() != "String")) {
    return WrongType(at, "{\"Regex\": \"...\"} or {\"String\": \"...\"}", pattern);
  }
  const std::string& text = pattern.begin()->get_ref<const std::string&>();
  absl::StatusOr<Regex> regex =
      pattern.begin().key() == "Regex" ? Regex::Compile(text) : Regex::Literal(text);
  if (!regex.ok()) return Invalid(at, ": ", regex.status().message());
  spec.stages.push_back(SplitStage{*std::move(regex), behavior, invert});
  return absl::OkStatus();
}

absl::Status ParseDigits(const json& component, const std::string& where, PreTokenizerSpec& spec) {
  LONGSPAN_ASSIGN_OR_RETURN(const bool individual,
                            GetBool(component, where, "individual_digits", false));
  LONGSPAN_ASSIGN_OR_RETURN(Regex regex, Regex::Compile(individual ? R"(\p{N})" : R"(\p{N}+)"));
  spec.stages.push_back(SplitStage{std::move(regex)});
  return absl::OkStatus();
}

absl::Status ParseByteLevel(const json& component, const std::string& where,
                            PreTokenizerSpec& spec) {
  LONGSPAN_ASSIGN_OR_RETURN(const bool prefix_space,
                            GetBool(component, where, "add_prefix_space", true));
  LONGSPAN_ASSIGN_OR_RETURN(const bool use_regex, GetBool(component, where, "use_regex", true));
  // `trim_offsets` concerns offsets only, which nobody asks for here.
  LONGSPAN_RETURN_IF_ERROR(GetBool(component, where, "trim_offsets", true).status());
  if (prefix_space) spec.stages.push_back(PrefixSpaceStage{});
  if (use_regex) {
    LONGSPAN_ASSIGN_OR_RETURN(Regex regex, Regex::Compile(kGpt2Pattern));
    spec.stages.push_back(SplitStage{std::move(regex)});
  }
  spec.byte_level = true;
  return absl::OkStatus();
}

constexpr Component<PreTokenizerSpec> kPreTokenizers[] = {
    {"Sequence", ParseSequence},
    {"Split", ParseSplit},
    {"Digits", ParseDigits},
    {"ByteLevel", ParseByteLevel},
};

absl::Status ParsePreTokenizer(const json& component, const std::string& where,
                               PreTokenizerSpec& spec) {
  return ParseComponent<PreTokenizerSpec>(component, where, kPreTokenizers, spec);
}

absl::Status ReadPreTokenizer(const json& component, TokenizerParts& parts) {
  PreTokenizerSpec spec;
  LONGSPAN_RETURN_IF_ERROR(ParsePreTokenizer(component, "pre_tokenizer", spec));
  if (!spec.byte_level) {
    return absl::UnimplementedError(
        "pre_tokenizer without ByteLevel is not supported: the vocabulary must be of bytes");
  }
  parts.pre_tokenizer = std::move(spec.stages);
  return absl::OkStatus();
}

// ---- Post-processors ----

absl::Status ParsePostProcessor(const json& component, const std::string& where,
                                TokenizerParts& parts);

absl::Status ParsePostSequence(const json& component, const std::string& where,
                               TokenizerParts& parts) {
  LONGSPAN_ASSIGN_OR_RETURN(const json* list, GetArray(component, where, "processors"));
  for (size_t i = 0; i < list->size(); ++i) {
    LONGSPAN_RETURN_IF_ERROR(
        ParsePostProcessor((*list)[i], absl::StrCat(where, ".processors[", i, "]"), parts));
  }
  return absl::OkStatus();
}

// Changes offsets only.
absl::Status ParsePostByteLevel(const json&, const std::string&, TokenizerParts&) {
  return absl::OkStatus();
}

// The ids that a template's special token `name` stands for, appended to `ids`.
absl::Status AppendTemplateToken(const json& component, const std::string& where,
                                 const std::string& name, const TokenizerParts& parts,
                                 std::vector<int32_t>& ids) {
  const std::string at = absl::StrCat(where, ".special_tokens[", Show(name), "]");
  const json& table = Get(component, "special_tokens");
  const json& entry = table.is_object() ? Get(table, name.c_str()) : table;
  if (!entry.is_object()) return WrongType(at, "an object with ids", entry);
  LONGSPAN_ASSIGN_OR_RETURN(const json* list, GetArray(entry, at, "ids"));
  for (const json& value : *list) {
    LONGSPAN_ASSIGN_OR_RETURN(const int32_t id, ToId(value, absl::StrCat(at, ".ids")));
    if (id >= static_cast<int64_t>(parts.tokens.size())) {
      return Invalid(at, ".ids: ", id, " is out of range, there are ", parts.tokens.size(),
                     " tokens");
    }
    ids.push_back(id);
  }
  return absl::OkStatus();
}

absl::Status ParseTemplate(const json& component, const std::string& where, TokenizerParts& parts) {
  LONGSPAN_ASSIGN_OR_RETURN(const json* pieces, GetArray(component, where, "single"));
  std::vector<int32_t> before, after;
  bool seen_text = false;
  for (size_t i = 0; i < pieces->size(); ++i) {
    const json& piece = (*pieces)[i];
    const std::string at = absl::StrCat(where, ".single[", i, "]");
    const bool one = piece.is_object() && piece.size() == 1 && piece.begin()->is_object();
    if (!one) return WrongType(at, "{\"SpecialToken\": {...}} or {\"Sequence\": {...}}", piece);
    LONGSPAN_ASSIGN_OR_RETURN(const std::string id, GetString(*piece.begin(), at, "id"));
    const std::string kind = piece.begin().key();
    if (kind == "SpecialToken") {
      LONGSPAN_RETURN_IF_ERROR(
          AppendTemplateToken(component, where, id, parts, seen_text ? after : before));
    } else if (kind == "Sequence" && id == "A" && !seen_text) {
      seen_text = true;
    } else {
      return WrongType(at, "special tokens around one Sequence A", piece);
    }
  }
  if (!seen_text) return Invalid(where, ".single: expected a Sequence A");
  parts.prefix.insert(parts.prefix.begin(), before.begin(), before.end());
  parts.suffix.insert(parts.suffix.end(), after.begin(), after.end());
  return absl::OkStatus();
}

constexpr Component<TokenizerParts> kPostProcessors[] = {
    {"Sequence", ParsePostSequence},
    {"TemplateProcessing", ParseTemplate},
    {"ByteLevel", ParsePostByteLevel},
};

absl::Status ParsePostProcessor(const json& component, const std::string& where,
                                TokenizerParts& parts) {
  return ParseComponent<TokenizerParts>(component, where, kPostProcessors, parts);
}

// ---- Decoders ----

absl::Status ParseByteLevelDecoder(const json&, const std::string&, TokenizerParts& parts) {
  for (VocabularyEntry& token : parts.tokens) {
    token.bytes = BytesOfByteLevelToken(token.text).value_or(token.text);
  }
  return absl::OkStatus();
}

constexpr Component<TokenizerParts> kDecoders[] = {{"ByteLevel", ParseByteLevelDecoder}};

// ---- Vocabulary ----

absl::Status AddToken(const std::string& text, int32_t id, const std::string& where,
                      TokenizerParts& parts) {
  const int64_t total = static_cast<int64_t>(parts.tokens.size());
  if (id >= total) {
    return Invalid(where, ": id ", id, " is out of range: there are ", total,
                   " tokens, so that ids must be 0 to ", total - 1, " without gaps");
  }
  if (parts.ids.contains(parts.tokens[id].text) && parts.ids[parts.tokens[id].text] == id) {
    return Invalid(where, ": id ", id, " is also of token ", Show(parts.tokens[id].text));
  }
  parts.tokens[id].text = text;
  parts.ids[text] = id;
  return absl::OkStatus();
}

// `added` lists tokens beyond `vocab` and may repeat some of it, to say how they are matched.
absl::StatusOr<std::vector<AddedToken>> ReadAddedTokens(const json& list) {
  std::vector<AddedToken> tokens;
  if (list.is_null()) return tokens;
  if (!list.is_array()) return WrongType("added_tokens", "an array", list);
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string where = absl::StrCat("added_tokens[", i, "]");
    if (!list[i].is_object()) return WrongType(where, "an object", list[i]);
    AddedToken token;
    LONGSPAN_ASSIGN_OR_RETURN(token.content, GetString(list[i], where, "content"));
    LONGSPAN_ASSIGN_OR_RETURN(token.id, ToId(Get(list[i], "id"), where + ".id"));
    LONGSPAN_ASSIGN_OR_RETURN(token.special, GetBool(list[i], where, "special", false));
    LONGSPAN_ASSIGN_OR_RETURN(token.normalized,
                              GetBool(list[i], where, "normalized", !token.special));
    LONGSPAN_ASSIGN_OR_RETURN(token.single_word, GetBool(list[i], where, "single_word", false));
    LONGSPAN_ASSIGN_OR_RETURN(token.lstrip, GetBool(list[i], where, "lstrip", false));
    LONGSPAN_ASSIGN_OR_RETURN(token.rstrip, GetBool(list[i], where, "rstrip", false));
    if (token.content.empty()) return Invalid(where, ".content is empty");
    tokens.push_back(std::move(token));
  }
  return tokens;
}

absl::Status ReadVocabulary(const json& vocab, std::vector<AddedToken> added,
                            TokenizerParts& parts) {
  if (!vocab.is_object()) return WrongType("model.vocab", "an object", vocab);
  const auto is_new = [&](const AddedToken& token) { return !vocab.contains(token.content); };
  parts.tokens.resize(vocab.size() + std::count_if(added.begin(), added.end(), is_new));
  for (const auto& [text, value] : vocab.items()) {
    const std::string where = absl::StrCat("model.vocab[", Show(text), "]");
    LONGSPAN_ASSIGN_OR_RETURN(const int32_t id, ToId(value, where));
    LONGSPAN_RETURN_IF_ERROR(AddToken(text, id, where, parts));
  }
  for (size_t i = 0; i < added.size(); ++i) {
    const AddedToken& token = added[i];
    const std::string where = absl::StrCat("added_tokens[", i, "]");
    const auto it = parts.ids.find(token.content);
    if (it == parts.ids.end()) {
      LONGSPAN_RETURN_IF_ERROR(AddToken(token.content, token.id, where, parts));
    } else if (!is_new(token) && it->second != token.id) {
      return Invalid(where, ": token ", Show(token.content), " has id ", token.id,
                     ", but model.vocab says ", it->second);
    } else if (is_new(token)) {
      return Invalid(where, ": token ", Show(token.content), " is listed twice");
    }
    parts.tokens[token.id].special |= token.special;
  }
  LONGSPAN_ASSIGN_OR_RETURN(parts.added, AddedTokenMatcher::Create(std::move(added)));
  return absl::OkStatus();
}

// ---- Models ----

// Options that change what BPE does and are not supported unless they have their neutral value.
absl::Status CheckBpeOptions(const json& model, const BpeModel& bpe) {
  for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
    const json& value = Get(model, key);
    const bool neutral = value.is_null() || value == "" || (value.is_number() && value == 0);
    if (!neutral) {
      return absl::UnimplementedError(
          absl::StrCat("model.", key, " ", Show(value), " is not supported; supported: null"));
    }
  }
  LONGSPAN_ASSIGN_OR_RETURN(const bool fallback, GetBool(model, "model", "byte_fallback", false));
  if (fallback) return absl::UnimplementedError("model.byte_fallback true is not supported");
  // With a token for every byte nothing is ever unknown.
  const json& unknown = Get(model, "unk_token");
  const bool complete =
      std::none_of(bpe.byte_ids.begin(), bpe.byte_ids.end(), [](int32_t id) { return id < 0; });
  if (!unknown.is_null() && !complete) {
    return absl::UnimplementedError(
        absl::StrCat("model.unk_token ", Show(unknown),
                     " is not supported in a vocabulary that lacks bytes; supported: null"));
  }
  return absl::OkStatus();
}

// A merge is written "left right" or ["left", "right"].
absl::StatusOr<std::pair<std::string, std::string>> SplitMerge(const json& merge,
                                                               const std::string& where) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return std::make_pair(merge[0].get<std::string>(), merge[1].get<std::string>());
  }
  if (merge.is_string()) {
    const std::string& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space != text.npos && text.find(' ', space + 1) == text.npos) {
      return std::make_pair(text.substr(0, space), text.substr(space + 1));
    }
  }
  return WrongType(where, "\"left right\" or [\"left\", \"right\"]", merge);
}

absl::Status ReadMerges(const json& model, TokenizerParts& parts) {
  LONGSPAN_ASSIGN_OR_RETURN(const json* merges, GetArray(model, "model", "merges"));
  parts.bpe.merges.reserve(merges->size());
  int32_t rank = 0;
  for (const json& merge : *merges) {
    const std::string where = absl::StrCat("model.merges[", rank, "]");
    ++rank;
    // The first line of the merges.txt that older files were made of.
    if (merge.is_string() && merge.get_ref<const std::string&>().starts_with("#version")) {
      continue;
    }
    LONGSPAN_ASSIGN_OR_RETURN(const auto pair, SplitMerge(merge, where));
    int32_t ids[3];
    const std::string names[3] = {pair.first, pair.second, pair.first + pair.second};
    for (int i = 0; i < 3; ++i) {
      if (!Get(model, "vocab").contains(names[i])) {
        return Invalid(where, ": ", Show(names[i]), " is not in model.vocab");
      }
      ids[i] = parts.ids[names[i]];
    }
    parts.bpe.merges.insert_or_assign(BpeModel::PairKey(ids[0], ids[1]),
                                      BpeModel::Merge{rank, ids[2]});
  }
  return absl::OkStatus();
}

absl::Status ParseBpe(const json& model, const std::string&, TokenizerParts& parts) {
  const json& vocab = Get(model, "vocab");
  for (int byte = 0; byte < 256; ++byte) {
    const auto it = vocab.find(ByteLevelCharacter(static_cast<uint8_t>(byte)));
    parts.bpe.byte_ids[byte] = it == vocab.end() ? -1 : it->get<int32_t>();
  }
  LONGSPAN_RETURN_IF_ERROR(CheckBpeOptions(model, parts.bpe));
  LONGSPAN_RETURN_IF_ERROR(ReadMerges(model, parts));
  LONGSPAN_ASSIGN_OR_RETURN(const bool whole, GetBool(model, "model", "ignore_merges", false));
  if (!whole) return absl::OkStatus();
  for (const auto& [text, id] : vocab.items()) {
    if (std::optional<std::string> bytes = BytesOfByteLevelToken(text)) {
      parts.bpe.whole_words[*std::move(bytes)] = id.get<int32_t>();
    }
  }
  return absl::OkStatus();
}

constexpr Component<TokenizerParts> kModels[] = {{"BPE", ParseBpe}};

absl::StatusOr<std::optional<int32_t>> ConfiguredToken(const json& config, const char* key,
                                                       const TokenizerParts& parts) {
  const json& value = Get(config, key);
  const json& name = value.is_object() ? Get(value, "content") : value;
  if (name.is_null()) return std::nullopt;
  if (!name.is_string()) return WrongType(key, "a string", name);
  const auto it = parts.ids.find(name.get_ref<const std::string&>());
  if (it == parts.ids.end()) return Invalid(key, ": ", Show(name), " is no token");
  return it->second;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TokenizerParts>> ParseTokenizerJson(
    std::string_view tokenizer_json) {
  LONGSPAN_ASSIGN_OR_RETURN(json file, ParseObject(tokenizer_json));
  if (const json& normalizer = Get(file, "normalizer"); !normalizer.is_null()) {
    return absl::UnimplementedError(
        absl::StrCat("normalizer ", NameOf(normalizer), " is not supported; supported: null"));
  }
  const json& model = Get(file, "model");
  // Files from before there were other models do not name the type.
  if (model.is_object() && !model.contains("type") && model.contains("merges")) {
    file["model"]["type"] = "BPE";
  }
  auto parts = std::make_unique<TokenizerParts>();
  LONGSPAN_RETURN_IF_ERROR(ReadPreTokenizer(Get(file, "pre_tokenizer"), *parts));
  if (NameOf(model) == "BPE") {
    LONGSPAN_ASSIGN_OR_RETURN(std::vector<AddedToken> added,
                              ReadAddedTokens(Get(file, "added_tokens")));
    LONGSPAN_RETURN_IF_ERROR(ReadVocabulary(Get(model, "vocab"), std::move(added), *parts));
  }
  LONGSPAN_RETURN_IF_ERROR(ParseComponent<TokenizerParts>(model, "model", kModels, *parts));
  LONGSPAN_RETURN_IF_ERROR(
      ParseComponent<TokenizerParts>(Get(file, "decoder"), "decoder", kDecoders, *parts));
  if (const json& post = Get(file, "post_processor"); !post.is_null()) {
    LONGSPAN_RETURN_IF_ERROR(ParsePostProcessor(post, "post_processor", *parts));
  }
  return parts;
}

absl::Status ReadTokenizerConfig(std::string_view config_json, TokenizerParts& parts) {
  LONGSPAN_ASSIGN_OR_RETURN(const json config, ParseObject(config_json));
  LONGSPAN_ASSIGN_OR_RETURN(parts.bos_id, ConfiguredToken(config, "bos_token", parts));
  LONGSPAN_ASSIGN_OR_RETURN(parts.eos_id, ConfiguredToken(config, "eos_token", parts));
  return absl::OkStatus();
}

}  // namespace longspan
