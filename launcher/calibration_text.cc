#include "launcher/calibration_text.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

constexpr size_t kPieceBytes = 65536;

}  // namespace

CalibrationText::CalibrationText(const std::string& path, const Tokenizer& tokenizer)
    : path_(path),
      jsonl_(absl::EndsWith(path, ".jsonl")),
      file_(path, std::ios::binary),
      tokenizer_(tokenizer) {}

absl::Status CalibrationText::status() const {
  if (std::filesystem::is_directory(path_)) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": is a directory"));
  }
  if (file_.is_open()) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat(path_, ": cannot be read"));
}

absl::StatusOr<std::vector<int32_t>> CalibrationText::NextWindow(int64_t max_tokens) {
  while (static_cast<int64_t>(tokens_.size()) < max_tokens && file_) {
    LONGSPAN_ASSIGN_OR_RETURN(const std::string piece, NextPiece());
    LONGSPAN_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                              tokenizer_.Encode(piece, /*add_special_tokens=*/false, &notes_));
    tokens_.insert(tokens_.end(), ids.begin(), ids.end());
  }
  const auto end = tokens_.begin() + std::min<int64_t>(max_tokens, tokens_.size());
  std::vector<int32_t> window(tokens_.begin(), end);
  tokens_.erase(tokens_.begin(), end);
  return window;
}

// Some tens of kilobytes, up to the end of a line where one is near, so that words are not cut;
// empty at the end. A text may have no line breaks at all: then only UTF-8 characters are not cut.
// A line of JSON is read whole.
absl::StatusOr<std::string> CalibrationText::NextPiece() {
  if (jsonl_) return NextJsonLine();
  std::string piece(kPieceBytes, '\0');
  file_.read(piece.data(), kPieceBytes);
  piece.resize(file_.gcount());
  for (int c; piece.size() < 2 * kPieceBytes && !piece.empty() && piece.back() != '\n' &&
              (c = file_.get()) != EOF;) {
    piece.push_back(static_cast<char>(c));
  }
  for (int i = 0; i < 3 && (file_.peek() & 0xC0) == 0x80; ++i) {
    piece.push_back(static_cast<char>(file_.get()));
  }
  return piece;
}

absl::StatusOr<std::string> CalibrationText::NextJsonLine() {
  std::string line;
  do {
    if (!std::getline(file_, line)) return std::string();
    ++line_number_;
  } while (line.find_first_not_of(" \t\r") == line.npos);
  LONGSPAN_ASSIGN_OR_RETURN(const std::string text, TextOfLine(line));
  return text + "\n";
}

absl::StatusOr<std::string> CalibrationText::TextOfLine(const std::string& line) const {
  const nlohmann::json parsed = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  const nlohmann::json& body =
      parsed.is_object() && parsed.contains("body") ? parsed["body"] : parsed;
  for (const char* key : {"prompt", "text"}) {
    if (body.is_object() && body.contains(key) && body[key].is_string()) return body[key];
  }
  return absl::InvalidArgumentError(absl::StrCat(
      path_, ":", line_number_, ": expected a JSON object with `prompt` or `text`, a string"));
}

}  // namespace longspan
