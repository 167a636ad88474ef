#ifndef LONGSPAN_EVAL_LONGBENCH_H_
#define LONGSPAN_EVAL_LONGBENCH_H_

#include <string>

#include "absl/status/statusor.h"
#include "eval/eval_case.h"
#include "eval/prompt.h"

namespace longspan {

// A file of LongBench (arXiv 2308.14508), of one data set: lines with `input`, `context`,
// `answers`, `dataset`, and `all_classes` where answers are classes. With the benchmark's metrics
// and lengths of answers; LongBench-E's data sets too. Three of those in Chinese count words, which
// need a segmenter that this build has not: InvalidArgument, as for lines that are not of this
// form.
absl::StatusOr<CaseSource> OpenLongBench(const std::string& file, const PromptMaterial& material);

}  // namespace longspan

#endif  // LONGSPAN_EVAL_LONGBENCH_H_
