#ifndef LONGSPAN_LAUNCHER_FLAGS_H_
#define LONGSPAN_LAUNCHER_FLAGS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/flags/declare.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "runtime/config.h"

// Flags of all subcommands; each subcommand names those that it takes (see main.cc).
ABSL_DECLARE_FLAG(std::string, batch);
ABSL_DECLARE_FLAG(std::string, config);
ABSL_DECLARE_FLAG(std::string, context);
ABSL_DECLARE_FLAG(std::string, file);
ABSL_DECLARE_FLAG(std::string, format);
ABSL_DECLARE_FLAG(std::string, host);
ABSL_DECLARE_FLAG(std::string, input);
ABSL_DECLARE_FLAG(int64_t, max_tokens);
ABSL_DECLARE_FLAG(std::string, method);
ABSL_DECLARE_FLAG(std::string, model);
ABSL_DECLARE_FLAG(std::string, output);
ABSL_DECLARE_FLAG(std::optional<int64_t>, port);
ABSL_DECLARE_FLAG(std::string, progress);
ABSL_DECLARE_FLAG(std::string, prompt_template);
ABSL_DECLARE_FLAG(std::optional<int64_t>, repeat);
ABSL_DECLARE_FLAG(int64_t, seed);
ABSL_DECLARE_FLAG(std::string, set);
ABSL_DECLARE_FLAG(std::string, verbosity);

namespace longspan {

// Sets flags from `--name=value`, `--name value`, `--name` and `--noname` (the last two: booleans),
// up to `--`; a hyphen in a name is as good as an underscore. Only flags in `allowed` are known.
// Returns the other arguments. Unlike absl::ParseCommandLine it returns errors: under mpirun one
// rank alone must tell them.
absl::StatusOr<std::vector<std::string>> ParseFlags(absl::Span<const std::string> arguments,
                                                    absl::Span<const absl::string_view> allowed);

// Every `--set key=value`, in order.
absl::StatusOr<std::vector<ConfigOverride>> SetFlags();

// The value of a flag that takes numbers from 1 to `most`, separated by commas.
absl::StatusOr<std::vector<int64_t>> ParseNumbers(absl::string_view flag, absl::string_view text,
                                                  int64_t most);
// Of one that takes one such number.
absl::StatusOr<int64_t> ParseNumber(absl::string_view flag, absl::string_view text, int64_t most);

// What a flag's help says of one command: of "All. bench: this. plan and scale: that. And that" it
// is "All. that. And that" for plan. The whole, if it says nothing of it.
std::string TextFor(absl::string_view command, absl::string_view help);

// One paragraph a flag, as `--help` of a command (its first word) shows it.
std::string DescribeFlags(absl::string_view command, absl::Span<const absl::string_view> names);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_FLAGS_H_
