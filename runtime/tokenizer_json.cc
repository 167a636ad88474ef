#include "runtime/tokenizer_json.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "kernels/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "runtime/json_file.h"
#include "runtime/tokenizer_utf8.h"

namespace longspan {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxCount = 1 << 20;
// SentencePiece's spelling of a space.
constexpr std::string_view kLowerBlock = "\u2581";
// GPT-2's words: contractions, letters, numbers, other signs, each with the space before it.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// ---- JSON ----

template <typename... Args>
absl::Status Invalid(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat(args...));
}

// How much longer a chain of replacements may make a text: real ones write three bytes for a space,
// and a hostile one would turn a letter into gigabytes.
constexpr double kMaxGrowth = 256;

// `growth` times that of one replacement.
absl::Status Grow(size_t pattern_bytes, size_t content_bytes, const std::string& where,
                  double& growth) {
  growth *= std::max(1.0, static_cast<double>(content_bytes) / static_cast<double>(pattern_bytes));
  if (growth <= kMaxGrowth) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(where, ": replacements that make a text more than ",
                                               kMaxGrowth, " times longer are not supported"));
}

// A short, printable form of a value for messages.
std::string Show(const json& value) {
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
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

absl::StatusOr<int64_t> GetCount(const json& object, const std::string& where, const char* key) {
  const json& value = Get(object, key);
  const bool good = value.is_number_unsigned() && value.get<uint64_t>() <= kMaxCount;
  if (!good) return WrongType(absl::StrCat(where, ".", key), "a count", value);
  return value.get<int64_t>();
}

// A string of one character.
absl::StatusOr<std::string> GetCharacter(const json& object, const std::string& where,
                                         const char* key) {
  LONGSPAN_ASSIGN_OR_RETURN(const std::string text, GetString(object, where, key));
  if (text.empty() || NextUtf8(text).length != static_cast<int>(text.size())) {
    return WrongType(absl::StrCat(where, ".", key), "one character", Get(object, key));
  }
  return text;
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

// The value that `names` has for the string at `key`; without the key `default_value`.
template <typename Value>
absl::StatusOr<Value> ParseChoice(const json& object, const std::string& where, const char* key,
                                  absl::Span<const std::pair<const char*, Value>> names,
                                  std::optional<Value> default_value) {
  if (default_value && Get(object, key).is_null()) return *default_value;
  LONGSPAN_ASSIGN_OR_RETURN(const std::string name, GetString(object, where, key));
  for (const auto& [known, value] : names) {
    if (name == known) return value;
  }
  return Invalid(where, ".", key, " ", Show(name), " is unknown");
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

// ---- Patterns ----

// {"String": "..."} or {"Regex": "..."}, of a Split and of a Replace.
struct Pattern {
  std::string text;
  bool is_regex;
};

absl::StatusOr<Pattern> ParsePattern(const json& component, const std::string& where) {
  const json& pattern = Get(component, "pattern");
  const bool one = pattern.is_object() && pattern.size() == 1 && pattern.begin()->is_string();
  const std::string kind = one ? pattern.begin().key() : "";
  if (kind != "Regex" && kind != "String") {
    return WrongType(absl::StrCat(where, ".pattern"),
                     "{\"Regex\": \"...\"} or {\"String\": \"...\"}", pattern);
  }
  return Pattern{pattern.begin()->get<std::string>(), kind == "Regex"};
}

absl::StatusOr<Regex> CompilePattern(const Pattern& pattern, const std::string& where) {
  absl::StatusOr<Regex> regex =
      pattern.is_regex ? Regex::Compile(pattern.text) : Regex::Literal(pattern.text);
  if (!regex.ok()) return Invalid(where, ".pattern: ", regex.status().message());
  return regex;
}

// ---- Normalizers ----

using NormalizerSteps = std::vector<NormalizerStep>;
absl::Status ParseNormalizer(const json& component, const std::string& where,
                             NormalizerSteps& steps);

absl::Status ParseNormalizerSequence(const json& component, const std::string& where,
                                     NormalizerSteps& steps) {
  LONGSPAN_ASSIGN_OR_RETURN(const json* list, GetArray(component, where, "normalizers"));
  for (size_t i = 0; i < list->size(); ++i) {
    LONGSPAN_RETURN_IF_ERROR(
        ParseNormalizer((*list)[i], absl::StrCat(where, ".normalizers[", i, "]"), steps));
  }
  return absl::OkStatus();
}

absl::Status ParsePrepend(const json& component, const std::string& where, NormalizerSteps& steps) {
  LONGSPAN_ASSIGN_OR_RETURN(std::string text, GetString(component, where, "prepend"));
  steps.push_back(PrependStep{std::move(text)});
  return absl::OkStatus();
}

absl::Status ParseReplace(const json& component, const std::string& where, NormalizerSteps& steps) {
  ReplaceStep step;
  LONGSPAN_ASSIGN_OR_RETURN(const Pattern pattern, ParsePattern(component, where));
  LONGSPAN_ASSIGN_OR_RETURN(step.content, GetString(component, where, "content"));
  if (pattern.text.empty()) return Invalid(where, ".pattern is empty");
  if (pattern.is_regex) {
    LONGSPAN_ASSIGN_OR_RETURN(step.regex, CompilePattern(pattern, where));
  } else {
    step.literal = pattern.text;
  }
  steps.push_back(std::move(step));
  return absl::OkStatus();
}

template <NormalForm form>
absl::Status ParseNormalForm(const json&, const std::string&, NormalizerSteps& steps) {
  steps.push_back(form);
  return absl::OkStatus();
}

constexpr Component<NormalizerSteps> kNormalizers[] = {
    {"Sequence", ParseNormalizerSequence},
    {"Prepend", ParsePrepend},
    {"Replace", ParseReplace},
    {"NFC", ParseNormalForm<NormalForm::kNfc>},
    {"NFD", ParseNormalForm<NormalForm::kNfd>},
    {"NFKC", ParseNormalForm<NormalForm::kNfkc>},
    {"NFKD", ParseNormalForm<NormalForm::kNfkd>},
};

absl::Status ParseNormalizer(const json& component, const std::string& where,
                             NormalizerSteps& steps) {
  return ParseComponent<NormalizerSteps>(component, where, kNormalizers, steps);
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

absl::Status ParseSplit(const json& component, const std::string& where, PreTokenizerSpec& spec) {
  constexpr std::pair<const char*, SplitBehavior> kBehaviors[] = {
      {"Removed", SplitBehavior::kRemoved},
      {"Isolated", SplitBehavior::kIsolated},
      {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
      {"MergedWithNext", SplitBehavior::kMergedWithNext},
      {"Contiguous", SplitBehavior::kContiguous},
  };
  LONGSPAN_ASSIGN_OR_RETURN(
      const SplitBehavior behavior,
      ParseChoice<SplitBehavior>(component, where, "behavior", kBehaviors, std::nullopt));
  LONGSPAN_ASSIGN_OR_RETURN(const bool invert, GetBool(component, where, "invert", false));
  LONGSPAN_ASSIGN_OR_RETURN(const Pattern pattern, ParsePattern(component, where));
  LONGSPAN_ASSIGN_OR_RETURN(Regex regex, CompilePattern(pattern, where));
  spec.stages.push_back(SplitStage{std::move(regex), behavior, invert});
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

absl::Status ParseMetaspace(const json& component, const std::string& where,
                            PreTokenizerSpec& spec) {
  constexpr std::pair<const char*, MetaspaceStage::Prepend> kSchemes[] = {
      {"always", MetaspaceStage::Prepend::kAlways},
      {"first", MetaspaceStage::Prepend::kFirst},
      {"never", MetaspaceStage::Prepend::kNever},
  };
  // What the first of two puts before the text would be part of what the second one sees.
  if (absl::c_any_of(spec.stages, [](const PreTokenizerStage& stage) {
        return std::holds_alternative<MetaspaceStage>(stage);
      })) {
    return absl::UnimplementedError(absl::StrCat(where, ": a second Metaspace is not supported"));
  }
  MetaspaceStage stage;
  LONGSPAN_ASSIGN_OR_RETURN(stage.replacement, GetCharacter(component, where, "replacement"));
  LONGSPAN_ASSIGN_OR_RETURN(stage.split, GetBool(component, where, "split", true));
  LONGSPAN_ASSIGN_OR_RETURN(stage.prepend, ParseChoice<MetaspaceStage::Prepend>(
                                               component, where, "prepend_scheme", kSchemes,
                                               MetaspaceStage::Prepend::kAlways));
  // The older spelling of "never", which files may still repeat.
  LONGSPAN_ASSIGN_OR_RETURN(const bool prefix, GetBool(component, where, "add_prefix_space", true));
  if (!prefix && stage.prepend != MetaspaceStage::Prepend::kNever) {
    return Invalid(where, ".add_prefix_space false contradicts prepend_scheme");
  }
  spec.stages.push_back(std::move(stage));
  return absl::OkStatus();
}

constexpr Component<PreTokenizerSpec> kPreTokenizers[] = {
    {"Sequence", ParseSequence},   {"Split", ParseSplit},         {"Digits", ParseDigits},
    {"ByteLevel", ParseByteLevel}, {"Metaspace", ParseMetaspace},
};

absl::Status ParsePreTokenizer(const json& component, const std::string& where,
                               PreTokenizerSpec& spec) {
  return ParseComponent<PreTokenizerSpec>(component, where, kPreTokenizers, spec);
}

// With prepend_scheme "first" a piece must know whether it begins the text as it was before
// normalization; that is clear as long as each character comes from where it was.
absl::Status CheckPrependFirst(const TokenizerParts& parts) {
  const auto is_first = [](const PreTokenizerStage& stage) {
    const auto* metaspace = std::get_if<MetaspaceStage>(&stage);
    return metaspace != nullptr && metaspace->prepend == MetaspaceStage::Prepend::kFirst;
  };
  const auto moves = [](const NormalizerStep& step) {
    return !std::holds_alternative<NormalForm>(step);
  };
  if (absl::c_any_of(parts.pre_tokenizer, is_first) && absl::c_any_of(parts.normalizer, moves)) {
    return absl::UnimplementedError(
        "pre_tokenizer Metaspace with prepend_scheme \"first\" is not supported together with "
        "normalizer Prepend or Replace");
  }
  return absl::OkStatus();
}

absl::Status ReadPreTokenizer(const json& component, TokenizerParts& parts) {
  if (component.is_null()) return absl::OkStatus();
  PreTokenizerSpec spec;
  LONGSPAN_RETURN_IF_ERROR(ParsePreTokenizer(component, "pre_tokenizer", spec));
  parts.pre_tokenizer = std::move(spec.stages);
  parts.bpe.byte_level = spec.byte_level;
  return CheckPrependFirst(parts);
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

// The parts of a decoder in the order in which they may come.
enum class DecoderPhase { kTokens, kBytes, kFused, kStripped, kByteLevel };
struct DecoderSpec {
  TokenDecoder decoder;
  DecoderPhase phase = DecoderPhase::kTokens;  // of the last part
};

absl::Status EnterPhase(DecoderPhase phase, const std::string& where, DecoderSpec& spec) {
  const bool repeats = phase == spec.phase && phase != DecoderPhase::kTokens;
  if (phase < spec.phase || repeats) {
    return absl::UnimplementedError(
        absl::StrCat(where,
                     ": this order of decoders is not supported; supported: Replace or "
                     "Metaspace, ByteFallback, Fuse, Strip; or ByteLevel alone"));
  }
  spec.phase = phase;
  return absl::OkStatus();
}

absl::Status ParseDecoder(const json& component, const std::string& where, DecoderSpec& spec);

absl::Status ParseDecoderSequence(const json& component, const std::string& where,
                                  DecoderSpec& spec) {
  LONGSPAN_ASSIGN_OR_RETURN(const json* list, GetArray(component, where, "decoders"));
  for (size_t i = 0; i < list->size(); ++i) {
    LONGSPAN_RETURN_IF_ERROR(
        ParseDecoder((*list)[i], absl::StrCat(where, ".decoders[", i, "]"), spec));
  }
  return absl::OkStatus();
}

absl::Status ParseByteLevelDecoder(const json&, const std::string& where, DecoderSpec& spec) {
  const bool alone = spec.phase == DecoderPhase::kTokens && spec.decoder.replacements.empty();
  if (!alone) spec.phase = DecoderPhase::kByteLevel;
  LONGSPAN_RETURN_IF_ERROR(EnterPhase(DecoderPhase::kByteLevel, where, spec));
  spec.decoder.byte_level = true;
  return absl::OkStatus();
}

absl::Status ParseReplaceDecoder(const json& component, const std::string& where,
                                 DecoderSpec& spec) {
  LONGSPAN_RETURN_IF_ERROR(EnterPhase(DecoderPhase::kTokens, where, spec));
  TokenDecoder::Replacement replacement;
  LONGSPAN_ASSIGN_OR_RETURN(const Pattern pattern, ParsePattern(component, where));
  LONGSPAN_ASSIGN_OR_RETURN(replacement.content, GetString(component, where, "content"));
  if (pattern.is_regex) {
    return absl::UnimplementedError(
        absl::StrCat(where, ".pattern Regex is not supported; supported: String"));
  }
  if (pattern.text.empty()) return Invalid(where, ".pattern is empty");
  replacement.pattern = pattern.text;
  spec.decoder.replacements.push_back(std::move(replacement));
  double growth = 1;
  for (const TokenDecoder::Replacement& r : spec.decoder.replacements) {
    LONGSPAN_RETURN_IF_ERROR(Grow(r.pattern.size(), r.content.size(), where, growth));
  }
  return absl::OkStatus();
}

absl::Status ParseMetaspaceDecoder(const json& component, const std::string& where,
                                   DecoderSpec& spec) {
  LONGSPAN_RETURN_IF_ERROR(EnterPhase(DecoderPhase::kTokens, where, spec));
  PreTokenizerSpec metaspace;  // of the same form as the pre-tokenizer
  LONGSPAN_RETURN_IF_ERROR(ParseMetaspace(component, where, metaspace));
  const auto& stage = std::get<MetaspaceStage>(metaspace.stages[0]);
  const bool drops = stage.prepend != MetaspaceStage::Prepend::kNever;
  spec.decoder.replacements.push_back({stage.replacement, " ", drops});
  return absl::OkStatus();
}

absl::Status ParseByteFallback(const json&, const std::string& where, DecoderSpec& spec) {
  LONGSPAN_RETURN_IF_ERROR(EnterPhase(DecoderPhase::kBytes, where, spec));
  spec.decoder.byte_fallback = true;
  return absl::OkStatus();
}

absl::Status ParseFuse(const json&, const std::string& where, DecoderSpec& spec) {
  return EnterPhase(DecoderPhase::kFused, where, spec);
}

absl::Status ParseStrip(const json& component, const std::string& where, DecoderSpec& spec) {
  if (spec.phase != DecoderPhase::kFused) {
    return absl::UnimplementedError(
        absl::StrCat(where, ": Strip is supported only directly after Fuse"));
  }
  spec.phase = DecoderPhase::kStripped;
  LONGSPAN_ASSIGN_OR_RETURN(spec.decoder.stripped, GetCharacter(component, where, "content"));
  LONGSPAN_ASSIGN_OR_RETURN(spec.decoder.strip_count, GetCount(component, where, "start"));
  LONGSPAN_ASSIGN_OR_RETURN(const int64_t stop, GetCount(component, where, "stop"));
  if (stop == 0) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat(where, ".stop ", stop, " is not supported; supported: 0"));
}

constexpr Component<DecoderSpec> kDecoders[] = {
    {"Sequence", ParseDecoderSequence},
    {"ByteLevel", ParseByteLevelDecoder},
    {"Replace", ParseReplaceDecoder},
    {"Metaspace", ParseMetaspaceDecoder},
    {"ByteFallback", ParseByteFallback},
    {"Fuse", ParseFuse},
    {"Strip", ParseStrip},
};

absl::Status ParseDecoder(const json& component, const std::string& where, DecoderSpec& spec) {
  return ParseComponent<DecoderSpec>(component, where, kDecoders, spec);
}

absl::Status ReadDecoder(const json& component, TokenizerParts& parts) {
  DecoderSpec spec;
  LONGSPAN_RETURN_IF_ERROR(ParseDecoder(component, "decoder", spec));
  parts.decoder = std::move(spec.decoder);
  for (VocabularyEntry& token : parts.tokens) {
    DecodedToken decoded = DecodeToken(parts.decoder, token.spelling(), /*is_first=*/false);
    token.bytes = std::move(decoded.bytes);
    token.is_byte = decoded.is_byte;
  }
  return absl::OkStatus();
}

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

// Normalizes what is looked for in normalized text. Like in the library, decoding such a token
// gives its normalized spelling, and skip_special_tokens leaves out what is spelt like a special
// token: <s> no longer is if the normalizer makes it something else.
absl::Status NormalizeAddedTokens(TokenizerParts& parts, std::vector<AddedToken>& added) {
  NormalizerRun normalizer(parts.normalizer);
  absl::flat_hash_set<std::string> patterns, specials;
  for (size_t i = 0; i < added.size(); ++i) {
    AddedToken& token = added[i];
    token.pattern = token.content;
    if (token.special) specials.insert(token.content);
    if (!token.normalized) continue;
    LONGSPAN_ASSIGN_OR_RETURN(const std::string_view pattern, normalizer.Normalize(token.content));
    token.pattern = std::string(pattern);
    const std::string where = absl::StrCat("added_tokens[", i, "].content ", Show(token.content));
    if (token.pattern.empty()) return Invalid(where, ": the normalizer leaves nothing of it");
    if (!patterns.insert(token.pattern).second) {
      return Invalid(where, ": the normalizer makes it equal to another added token");
    }
    if (token.pattern != token.content) parts.tokens[token.id].normalized = token.pattern;
  }
  for (VocabularyEntry& token : parts.tokens) token.skipped = specials.contains(token.spelling());
  return absl::OkStatus();
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
  absl::flat_hash_set<std::string> contents;
  for (size_t i = 0; i < added.size(); ++i) {
    const AddedToken& token = added[i];
    const std::string where = absl::StrCat("added_tokens[", i, "]");
    const auto it = parts.ids.find(token.content);
    if (it == parts.ids.end()) {
      LONGSPAN_RETURN_IF_ERROR(AddToken(token.content, token.id, where, parts));
    } else if (!is_new(token) && it->second != token.id) {
      return Invalid(where, ": token ", Show(token.content), " has id ", token.id,
                     ", but model.vocab says ", it->second);
    }
    if (!contents.insert(token.content).second) {
      return Invalid(where, ": token ", Show(token.content), " is listed twice");
    }
    parts.tokens[token.id].special |= token.special;
  }
  LONGSPAN_RETURN_IF_ERROR(NormalizeAddedTokens(parts, added));
  LONGSPAN_ASSIGN_OR_RETURN(parts.added, AddedTokenMatcher::Create(std::move(added)));
  return absl::OkStatus();
}

// ---- Models ----

// Options that change what BPE does and are not supported unless they have their neutral value.
absl::Status CheckBpeOptions(const json& model) {
  for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
    const json& value = Get(model, key);
    const bool neutral = value.is_null() || value == "" || (value.is_number() && value == 0);
    if (!neutral) {
      return absl::UnimplementedError(
          absl::StrCat("model.", key, " ", Show(value), " is not supported; supported: null"));
    }
  }
  return absl::OkStatus();
}

// What stands for characters that are not in the vocabulary.
absl::Status ReadUnknown(const json& model, const TokenizerParts& parts, BpeModel& bpe) {
  LONGSPAN_ASSIGN_OR_RETURN(const bool fallback, GetBool(model, "model", "byte_fallback", false));
  const bool complete = absl::c_none_of(bpe.byte_ids, [](int32_t id) { return id < 0; });
  if (fallback && bpe.byte_level && !complete) {
    return absl::UnimplementedError(
        "model.byte_fallback true is not supported for a byte-level vocabulary that lacks bytes");
  }
  LONGSPAN_ASSIGN_OR_RETURN(bpe.fuse_unknown, GetBool(model, "model", "fuse_unk", false));
  const json& vocab = Get(model, "vocab");
  for (int byte = 0; byte < 256; ++byte) {
    const auto it = vocab.find(absl::StrFormat("<0x%02X>", byte));
    bpe.fallback_ids[byte] = fallback && it != vocab.end() ? it->get<int32_t>() : -1;
  }
  if (Get(model, "unk_token").is_null()) return absl::OkStatus();
  LONGSPAN_ASSIGN_OR_RETURN(const std::string unknown, GetString(model, "model", "unk_token"));
  if (!vocab.contains(unknown)) {
    return Invalid("model.unk_token: ", Show(unknown), " is not in model.vocab");
  }
  bpe.unknown_id = parts.ids.at(unknown);
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

// SentencePiece's tokens have a space only at their beginning or are runs of it. Then no merge
// crosses the place between something else and a space: the token on the right would begin with a
// space, the one on the left end with something else.
void FindCut(TokenizerParts& parts) {
  BpeModel& bpe = parts.bpe;
  if (bpe.byte_level || !bpe.character_ids.contains(CodePoint(kLowerBlock))) return;
  // Between two spaces a character that is dropped would hide that they are neighbours.
  const bool drops = absl::c_any_of(bpe.fallback_ids, [](int32_t id) { return id < 0; });
  if (bpe.unknown_id < 0 && drops) return;
  const auto text = [&](int32_t id) -> const std::string& { return parts.tokens[id].text; };
  if (bpe.unknown_id >= 0 && text(bpe.unknown_id).ends_with(kLowerBlock)) return;
  for (const auto& [pair, merge] : bpe.merges) {
    const auto [left, right] = BpeModel::PairOf(pair);
    if (text(right).starts_with(kLowerBlock) && !text(left).ends_with(kLowerBlock)) return;
  }
  bpe.cut_before = kLowerBlock;
}

void ReadCharacters(const json& vocab, BpeModel& bpe) {
  for (int byte = 0; byte < 256; ++byte) {
    const bool ascii = byte < 0x80;
    const std::string character = bpe.byte_level ? ByteLevelCharacter(static_cast<uint8_t>(byte))
                                                 : std::string(ascii, static_cast<char>(byte));
    const auto it = vocab.find(character);
    bpe.byte_ids[byte] = character.empty() || it == vocab.end() ? -1 : it->get<int32_t>();
  }
  if (bpe.byte_level) return;
  for (const auto& [text, id] : vocab.items()) {
    const int size = static_cast<int>(text.size());
    if (size > 1 && size <= 4 && NextUtf8(text).length == size) {
      bpe.character_ids[CodePoint(text)] = id.get<int32_t>();
    }
  }
}

absl::Status ParseBpe(const json& model, const std::string&, TokenizerParts& parts) {
  BpeModel& bpe = parts.bpe;
  const json& vocab = Get(model, "vocab");
  ReadCharacters(vocab, bpe);
  LONGSPAN_RETURN_IF_ERROR(CheckBpeOptions(model));
  LONGSPAN_RETURN_IF_ERROR(ReadUnknown(model, parts, bpe));
  LONGSPAN_RETURN_IF_ERROR(ReadMerges(model, parts));
  FindCut(parts);
  for (const auto& [text, id] : vocab.items()) {
    bpe.longest_token = std::max(bpe.longest_token, static_cast<int64_t>(text.size()));
  }
  LONGSPAN_ASSIGN_OR_RETURN(const bool whole, GetBool(model, "model", "ignore_merges", false));
  if (!whole) return absl::OkStatus();
  for (const auto& [text, id] : vocab.items()) {
    std::optional<std::string> word = bpe.byte_level ? BytesOfByteLevelToken(text) : text;
    if (word) bpe.whole_words[*std::move(word)] = id.get<int32_t>();
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
  LONGSPAN_ASSIGN_OR_RETURN(json file, ParseJsonObject(tokenizer_json));
  auto parts = std::make_unique<TokenizerParts>();
  if (const json& normalizer = Get(file, "normalizer"); !normalizer.is_null()) {
    LONGSPAN_RETURN_IF_ERROR(ParseNormalizer(normalizer, "normalizer", parts->normalizer));
    double growth = 1;
    for (const NormalizerStep& step : parts->normalizer) {
      const auto* replace = std::get_if<ReplaceStep>(&step);
      if (replace == nullptr) continue;
      // A pattern may match nothing, between all characters.
      const size_t matched = replace->regex.has_value() ? 1 : replace->literal.size();
      LONGSPAN_RETURN_IF_ERROR(Grow(matched, replace->content.size(), "normalizer", growth));
    }
  }
  const json& model = Get(file, "model");
  // Files from before there were other models do not name the type.
  if (model.is_object() && !model.contains("type") && model.contains("merges")) {
    file["model"]["type"] = "BPE";
  }
  LONGSPAN_RETURN_IF_ERROR(ReadPreTokenizer(Get(file, "pre_tokenizer"), *parts));
  if (NameOf(model) == "BPE") {
    LONGSPAN_ASSIGN_OR_RETURN(std::vector<AddedToken> added,
                              ReadAddedTokens(Get(file, "added_tokens")));
    LONGSPAN_RETURN_IF_ERROR(ReadVocabulary(Get(model, "vocab"), std::move(added), *parts));
  }
  LONGSPAN_RETURN_IF_ERROR(ParseComponent<TokenizerParts>(model, "model", kModels, *parts));
  LONGSPAN_RETURN_IF_ERROR(ReadDecoder(Get(file, "decoder"), *parts));
  if (const json& post = Get(file, "post_processor"); !post.is_null()) {
    LONGSPAN_RETURN_IF_ERROR(ParsePostProcessor(post, "post_processor", *parts));
  }
  return parts;
}

absl::Status ReadTokenizerConfig(std::string_view config_json, TokenizerParts& parts) {
  LONGSPAN_ASSIGN_OR_RETURN(const json config, ParseJsonObject(config_json));
  LONGSPAN_ASSIGN_OR_RETURN(parts.bos_id, ConfiguredToken(config, "bos_token", parts));
  LONGSPAN_ASSIGN_OR_RETURN(parts.eos_id, ConfiguredToken(config, "eos_token", parts));
  return absl::OkStatus();
}

}  // namespace longspan
