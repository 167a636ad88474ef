#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "launcher/bootstrap.h"
#include "launcher/flags.h"
#include "launcher/subcommand.h"

namespace longspan {
namespace {

std::vector<Subcommand> Subcommands() {
  return {GenerateSubcommand(),   AskSubcommand(),   ServeSubcommand(),
          CalibrateSubcommand(),  EvalSubcommand(),  EvalReportSubcommand(),
          DoctorSubcommand(),     BenchSubcommand(), BenchServeSubcommand(),
          PlanSubcommand(),       ScaleSubcommand(), ScalePointSubcommand(),
          ScaleReportSubcommand()};
}

std::string Overview() {
  std::string text =
      "longspan: questions over documents far longer than a model's context\n\n"
      "  [mpirun -n RANKS] longspan SUBCOMMAND [--flags]\n\n";
  for (const Subcommand& subcommand : Subcommands()) {
    absl::StrAppend(&text, "  longspan ", subcommand.name, " ", subcommand.synopsis, "\n      ",
                    subcommand.summary, "\n");
  }
  return absl::StrCat(text,
                      "  longspan --version\n\n`longspan SUBCOMMAND --help` explains flags.\n");
}

std::string Help(const Subcommand& subcommand) {
  const absl::string_view command = subcommand.name.substr(0, subcommand.name.find(' '));
  return absl::StrCat("longspan ", subcommand.name, " ", subcommand.synopsis, "\n\n",
                      subcommand.summary, "\n\n", DescribeFlags(command, subcommand.flags));
}

// Every rank parses the same command line; one of them speaks.
void Print(FILE* stream, const std::string& text) {
  if (IsFirstProcess()) fputs(text.c_str(), stream);
}

int UsageError(absl::string_view command, absl::string_view message) {
  Print(stderr, absl::StrCat(command, ": ", message, "; see ", command, " --help\n"));
  return kExitUsage;
}

int RunSubcommand(const Subcommand& subcommand, const std::vector<std::string>& arguments) {
  const std::string command = absl::StrCat("longspan ", subcommand.name);
  for (const std::string& argument : arguments) {
    if (argument == "--") break;
    if (argument == "--help" || argument == "-h") return Print(stdout, Help(subcommand)), kExitOk;
  }
  const absl::StatusOr<std::vector<std::string>> positional =
      ParseFlags(arguments, subcommand.flags);
  if (!positional.ok()) return UsageError(command, positional.status().message());
  if (const absl::Status status = StartLogging(); !status.ok()) {
    return UsageError(command, status.message());
  }
  const absl::StatusOr<int> exit_code = subcommand.run(*positional);
  return exit_code.ok() ? *exit_code : UsageError(command, exit_code.status().message());
}

int Main(const std::vector<std::string>& arguments) {
  if (arguments.empty()) return Print(stderr, Overview()), kExitUsage;
  const std::string& first = arguments[0];
  if (first == "--help" || first == "-h" || first == "help") {
    return Print(stdout, Overview()), kExitOk;
  }
  if (first == "--version" || first == "version") return Print(stdout, VersionText()), kExitOk;
  // The longer name first: `bench serve` is not `bench` of something called so.
  for (const size_t words : {2, 1}) {
    if (arguments.size() < words) continue;
    const std::string name = absl::StrJoin(arguments.begin(), arguments.begin() + words, " ");
    for (const Subcommand& subcommand : Subcommands()) {
      if (subcommand.name == name) {
        return RunSubcommand(subcommand, {arguments.begin() + words, arguments.end()});
      }
    }
  }
  return UsageError("longspan", absl::StrCat("unknown subcommand ", first));
}

}  // namespace
}  // namespace longspan

int main(int argc, char** argv) {
  longspan::PrepareProcess();
  return longspan::Main({argv + 1, argv + argc});
}
