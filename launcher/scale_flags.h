#ifndef LONGSPAN_LAUNCHER_SCALE_FLAGS_H_
#define LONGSPAN_LAUNCHER_SCALE_FLAGS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/flags/declare.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// What `scale` has in common with `scale point` and `plan`.
ABSL_DECLARE_FLAG(int64_t, decode);
ABSL_DECLARE_FLAG(std::string, ranks);

namespace longspan {

inline constexpr int64_t kMostScaleRuns = 1'000'000;

// The values of --decode, --repeat and --file, which cannot be standard input.
absl::StatusOr<int64_t> ScaleSteps();
absl::StatusOr<int64_t> ScaleRuns();
absl::StatusOr<std::string> ScaleFile();

// Names of attention, separated by commas, each once.
absl::StatusOr<std::vector<std::string>> ParseMethods(absl::string_view text);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_SCALE_FLAGS_H_
