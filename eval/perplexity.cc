#include "eval/perplexity.h"

#include <filesystem>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "eval/haystack.h"
#include "kernels/base/status_macros.h"
#include "runtime/read_bytes.h"

namespace longspan {
namespace {

struct TextIds {
  std::string file;
  std::vector<int32_t> beginning;  // of every prompt
  std::vector<int32_t> ids;
  int64_t stride = 0;  // 0: cases are as far apart as they are long
};

// Where a case's tokens are in the text.
struct Piece {
  int64_t begin = 0, tokens = 0;
};

absl::StatusOr<Piece> PieceOf(const TextIds& text, const CaseId& id) {
  Piece piece = {0, id.length - static_cast<int64_t>(text.beginning.size())};
  if (text.stride >= id.length) {
    return absl::InvalidArgumentError(absl::StrCat("--stride ", text.stride,
                                                   ": must be below --length, as the first token "
                                                   "of a window is not predicted"));
  }
  piece.begin = id.index * (text.stride > 0 ? text.stride : piece.tokens);
  const auto there = static_cast<int64_t>(text.ids.size());
  if (piece.tokens >= 2 && piece.begin + piece.tokens <= there) return piece;
  return absl::InvalidArgumentError(
      absl::StrCat(text.file, " has ", there, " tokens, too few for ", id.index + 1,
                   text.stride > 0 ? " windows of " : " pieces of ", id.length,
                   "; use fewer --cases or a longer text"));
}

absl::StatusOr<EvalCase> MakePiece(const TextIds& text, const CaseId& id) {
  LONGSPAN_ASSIGN_OR_RETURN(const Piece place, PieceOf(text, id));
  EvalCase piece;
  piece.prompt = text.beginning;
  const auto begin = text.ids.begin() + place.begin;
  piece.prompt.insert(piece.prompt.end(), begin, begin + place.tokens);
  piece.scored_tokens = text.stride > 0 ? text.stride : id.length - 1;
  return piece;
}

}  // namespace

absl::StatusOr<CaseSource> OpenPerplexity(const std::string& file, const PromptMaterial& material) {
  std::string bytes;
  LONGSPAN_RETURN_IF_ERROR(ReadBytes(file, 0, -1, &bytes));
  auto text = std::make_shared<TextIds>();
  text->file = file;
  text->stride = material.stride;
  LONGSPAN_ASSIGN_OR_RETURN(text->beginning, BeginningOfPrompt(material.tokenizer));
  LONGSPAN_ASSIGN_OR_RETURN(text->ids, EncodeLine(material.tokenizer, bytes));
  CaseSource source;
  source.label = absl::StrCat("perplexity/", std::filesystem::path(file).stem().string());
  source.metric = EvalMetric::kNats;
  source.make = [text](const CaseId& id) { return MakePiece(*text, id); };
  source.measure = [text](const CaseId& id) -> absl::StatusOr<int64_t> {
    LONGSPAN_RETURN_IF_ERROR(PieceOf(*text, id).status());
    return 0;
  };
  return source;
}

}  // namespace longspan
