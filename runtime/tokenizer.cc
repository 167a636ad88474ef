#include "runtime/tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"
#include "runtime/mapped_file.h"
#include "runtime/tokenizer_json.h"
#include "runtime/tokenizer_utf8.h"

namespace longspan {
namespace {

constexpr size_t kMaxFileBytes = 256 << 20;

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  LONGSPAN_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  const auto bytes = file.bytes();
  if (bytes.size() > kMaxFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", bytes.size(), " bytes, at most ", kMaxFileBytes));
  }
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

absl::Status Annotate(const absl::Status& status, const std::string& file) {
  return absl::Status(status.code(), absl::StrCat(file, ": ", status.message()));
}

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<const TokenizerParts> parts) : parts_(std::move(parts)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& model_dir) {
  const absl::StatusOr<std::string> tokenizer_json = ReadFile(model_dir + "/tokenizer.json");
  if (absl::IsNotFound(tokenizer_json.status())) {
    return absl::NotFoundError(absl::StrCat(
        tokenizer_json.status().message(),
        "; other formats (tokenizer.model, vocab.json) must be converted to it first"));
  }
  LONGSPAN_RETURN_IF_ERROR(tokenizer_json.status());
  absl::StatusOr<std::string> config_json = ReadFile(model_dir + "/tokenizer_config.json");
  if (absl::IsNotFound(config_json.status())) config_json = "";
  if (!config_json.ok()) return config_json.status();
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Parse(*tokenizer_json, *config_json);
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), model_dir);
  return tokenizer;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Parse(std::string_view tokenizer_json,
                                                            std::string_view config_json) {
  auto parts = ParseTokenizerJson(tokenizer_json);
  if (!parts.ok()) return Annotate(parts.status(), "tokenizer.json");
  if (!config_json.empty()) {
    const absl::Status status = ReadTokenizerConfig(config_json, **parts);
    if (!status.ok()) return Annotate(status, "tokenizer_config.json");
  }
  return std::unique_ptr<Tokenizer>(new Tokenizer(*std::move(parts)));
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text,
                                                       bool add_special_tokens, EncodeNotes* notes,
                                                       int64_t max_tokens) const {
  EncodeNotes counts;
  std::string replaced;
  if (WellFormedPrefix(text) < static_cast<int64_t>(text.size())) {
    counts.replaced = AppendWellFormed(text, replaced);
    text = replaced;
  }
  std::vector<int32_t> ids;
  if (add_special_tokens) ids = parts_->prefix;
  NormalizerRun normalizer(parts_->normalizer);
  PreTokenizerRun pre_tokenizer(parts_->pre_tokenizer);
  const auto suffix = add_special_tokens ? static_cast<int64_t>(parts_->suffix.size()) : 0;
  BpeEncoder bpe(parts_->bpe, max_tokens - suffix);
  const auto status = [&](bool fits) {
    return fits ? absl::OkStatus()
                : absl::OutOfRangeError(absl::StrCat("more than ", max_tokens, " tokens"));
  };
  const auto encode_word = [&](std::string_view word) { return status(bpe.Encode(word, ids)); };
  const auto encode_span = [&](AddedSpan span) -> absl::Status {
    if (span.id < 0) return pre_tokenizer.Split(span.text, span.begins_text, encode_word);
    ids.push_back(span.id);
    return status(static_cast<int64_t>(ids.size()) + suffix <= max_tokens);
  };
  LONGSPAN_RETURN_IF_ERROR(status(static_cast<int64_t>(ids.size()) + suffix <= max_tokens));
  LONGSPAN_RETURN_IF_ERROR(parts_->added->Split(text, normalizer, encode_span));
  if (add_special_tokens) {
    ids.insert(ids.end(), parts_->suffix.begin(), parts_->suffix.end());
  }
  counts.unknown_bytes = bpe.unknown_bytes();
  if (notes != nullptr) *notes = counts;
  return ids;
}

std::string Tokenizer::Decode(absl::Span<const int32_t> ids, bool skip_special_tokens) const {
  StreamDecoder decoder(*this, skip_special_tokens);
  std::string text;
  for (const int32_t id : ids) text += decoder.Push(id);
  return text += decoder.Flush();
}

int64_t Tokenizer::vocab_size() const { return static_cast<int64_t>(parts_->tokens.size()); }
std::optional<int32_t> Tokenizer::bos_id() const { return parts_->bos_id; }
std::optional<int32_t> Tokenizer::eos_id() const { return parts_->eos_id; }

std::optional<int32_t> Tokenizer::TokenToId(std::string_view token) const {
  const auto it = parts_->ids.find(absl::string_view(token.data(), token.size()));
  if (it == parts_->ids.end()) return std::nullopt;
  return it->second;
}

bool Tokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && id < vocab_size() && parts_->tokens[id].special;
}

std::string_view Tokenizer::IdToBytes(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  return parts_->tokens[id].bytes;
}

std::string Tokenizer::IdToPiece(int32_t id) const {
  const std::string_view bytes = IdToBytes(id);
  if (WellFormedPrefix(bytes) == static_cast<int64_t>(bytes.size())) return std::string(bytes);
  std::string piece = "bytes:";
  for (const char byte : bytes)
    absl::StrAppendFormat(&piece, "\\x%02x", static_cast<uint8_t>(byte));
  return piece;
}

std::string StreamDecoder::Push(int32_t id) {
  if (id < 0 || id >= tokenizer_->vocab_size()) return "";
  const TokenizerParts& parts = *tokenizer_->parts_;
  const VocabularyEntry& token = parts.tokens[id];
  if (skip_special_tokens_ && token.skipped) return "";
  const bool is_first = std::exchange(is_first_, false);
  if (parts.decoder.byte_level) {
    std::string text, rest;
    AppendWellFormed(pending_ += token.bytes, text, &rest);
    pending_ = std::move(rest);
    return text;
  }
  const DecodedToken decoded = is_first && parts.decoder.FirstDiffers()
                                   ? DecodeToken(parts.decoder, token.spelling(), true)
                                   : DecodedToken{token.bytes, token.is_byte};
  if (decoded.is_byte) {
    pending_ += decoded.bytes;
    return "";
  }
  return Strip(DecodeByteRun(std::exchange(pending_, {})) + decoded.bytes);
}

std::string StreamDecoder::Flush() {
  std::string pending = std::exchange(pending_, {});
  if (!tokenizer_->parts_->decoder.byte_level) return Strip(DecodeByteRun(pending));
  std::string text;
  AppendWellFormed(pending, text);
  return text;
}

std::string StreamDecoder::Strip(std::string text) {
  const TokenDecoder& decoder = tokenizer_->parts_->decoder;
  std::string_view rest = text;
  while (strips_ && stripped_ < decoder.strip_count && rest.starts_with(decoder.stripped)) {
    rest.remove_prefix(decoder.stripped.size());
    ++stripped_;
  }
  strips_ &= rest.empty();
  return std::string(rest);
}

}  // namespace longspan
