#ifndef LONGSPAN_LAUNCHER_SUBCOMMAND_H_
#define LONGSPAN_LAUNCHER_SUBCOMMAND_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace longspan {

enum ExitCode : int {
  kExitOk = 0,
  kExitFailed = 1,      // the run failed, or was interrupted
  kExitUsage = 2,       // the command line is wrong
  kExitSomeErrors = 3,  // it ran to its end, and some requests have errors
};

struct Subcommand {
  absl::string_view name;      // a word, or two
  absl::string_view synopsis;  // what follows the name
  absl::string_view summary;
  std::vector<absl::string_view> flags;
  // Runs with its flags set; every rank calls it. An error is one of the command line.
  absl::StatusOr<int> (*run)(const std::vector<std::string>& positional);
};

Subcommand GenerateSubcommand();
Subcommand AskSubcommand();
Subcommand CalibrateSubcommand();
Subcommand DoctorSubcommand();
Subcommand EvalSubcommand();
Subcommand EvalReportSubcommand();
Subcommand BenchSubcommand();
Subcommand BenchServeSubcommand();
Subcommand PlanSubcommand();
Subcommand ScaleSubcommand();
Subcommand ScalePointSubcommand();
Subcommand ScaleReportSubcommand();
Subcommand ServeSubcommand();

// What was built in, as `--version` prints it.
std::string VersionText();

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_SUBCOMMAND_H_
