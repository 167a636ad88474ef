#ifndef LONGSPAN_LAUNCHER_EVAL_FIGURES_H_
#define LONGSPAN_LAUNCHER_EVAL_FIGURES_H_

#include <string>
#include <vector>

#include "absl/types/span.h"
#include "eval/results.h"

namespace longspan {

// A map of length and depth for each task and method that has depths; colours are shares.
std::vector<std::string> HeatMaps(absl::Span<const EvalCell> cells_by_depth);

// Shares over length with their intervals, a figure a task, a curve a method; of tasks with two
// lengths or more.
std::vector<std::string> LengthCurves(absl::Span<const EvalCell> cells_by_length);

// Perplexity over the position in the prompt, a figure a task and length, a curve a method.
std::vector<std::string> PositionCurves(absl::Span<const EvalCell> cells_by_length);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_EVAL_FIGURES_H_
