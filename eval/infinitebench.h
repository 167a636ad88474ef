#ifndef LONGSPAN_EVAL_INFINITEBENCH_H_
#define LONGSPAN_EVAL_INFINITEBENCH_H_

#include <string>

#include "absl/status/statusor.h"
#include "eval/eval_case.h"
#include "eval/prompt.h"

namespace longspan {

// A file of InfiniteBench (arXiv 2402.13718), called after its data set as published
// (`longbook_qa_eng.jsonl`): lines with `context`, `input`, `answer`, and `options` where one of
// four is right. With the benchmark's metrics and lengths of answers. InvalidArgument: lines are
// not of this form, or the file's name is no data set.
absl::StatusOr<CaseSource> OpenInfiniteBench(const std::string& file,
                                             const PromptMaterial& material);

}  // namespace longspan

#endif  // LONGSPAN_EVAL_INFINITEBENCH_H_
