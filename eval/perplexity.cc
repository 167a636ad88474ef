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
};

absl::StatusOr<EvalCase> MakePiece(const TextIds& text, const CaseId& id) {
  const int64_t tokens = id.length - static_cast<int64_t>(text.beginning.size());
  const int64_t begin = id.index * tokens;
  const auto there = static_cast<int64_t>(text.ids.size());
  if (tokens < 2 || begin + tokens > there) {
    return absl::InvalidArgumentError(
        absl::StrCat(text.file, " has ", there, " tokens, too few for ", id.index + 1,
                     " pieces of ", id.length, "; use fewer --cases or a longer text"));
  }
  EvalCase piece;
  piece.prompt = text.beginning;
  piece.prompt.insert(piece.prompt.end(), text.ids.begin() + begin,
                      text.ids.begin() + begin + tokens);
  return piece;
}

}  // namespace

absl::StatusOr<CaseSource> OpenPerplexity(const std::string& file, const PromptMaterial& material) {
  std::string bytes;
  LONGSPAN_RETURN_IF_ERROR(ReadBytes(file, 0, -1, &bytes));
  auto text = std::make_shared<TextIds>();
  text->file = file;
  LONGSPAN_ASSIGN_OR_RETURN(text->beginning, BeginningOfPrompt(material.tokenizer));
  LONGSPAN_ASSIGN_OR_RETURN(text->ids, EncodeLine(material.tokenizer, bytes));
  CaseSource source;
  source.label = absl::StrCat("perplexity/", std::filesystem::path(file).stem().string());
  source.metric = EvalMetric::kNegative;
  source.make = [text](const CaseId& id) { return MakePiece(*text, id); };
  return source;
}

}  // namespace longspan
