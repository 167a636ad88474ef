// What is said of a fit, and its files; plan_fit.cc makes it.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "kernels/base/status_macros.h"
#include "launcher/bench_report.h"
#include "launcher/plan_files.h"
#include "launcher/plan_fit.h"
#include "launcher/plan_report.h"
#include "runtime/hardware_profile.h"

namespace longspan {
namespace {

constexpr double kGood = 0.15;

std::string ErrorText(const FitError& error) {
  return absl::StrFormat("%+.1f%%", 100 * error.relative());
}

double Size(const FitError& error) { return std::abs(error.relative()); }

using Errors = std::vector<FitError>;  // the largest first

// Of prompts and tokens, by why they were not fitted; of a fit without points, of its parts.
std::map<std::string, Errors> ErrorsOfReport(const FitReport& report) {
  std::map<std::string, Errors> errors;
  for (const FitCheck& check : report.checks) errors[check.not_fitted].push_back(check.error);
  if (report.checks.empty()) errors[""] = report.parts;
  for (auto& [why, of] : errors) {
    std::sort(of.begin(), of.end(),
              [](const FitError& a, const FitError& b) { return Size(a) > Size(b); });
  }
  return errors;
}

double Median(const Errors& errors) { return Size(errors[(errors.size() - 1) / 2]); }

// "fitted", "held out".
std::string NameOf(const std::string& not_fitted) {
  return not_fitted.empty() ? "fitted" : not_fitted;
}

// "median 4.1%, largest 12.0%, 11 of 12 within 15%".
std::string Summary(const Errors& errors) {
  const auto good = std::count_if(errors.begin(), errors.end(),
                                  [](const FitError& error) { return Size(error) <= kGood; });
  return absl::StrFormat("median %.1f%%, largest %.1f%%, %d of %d within %.0f%%",
                         100 * Median(errors), 100 * Size(errors[0]), good, errors.size(),
                         100 * kGood);
}

std::string ChecksTable(const FitReport& report) {
  std::vector<std::vector<std::string>> lines = {{"whole", "measured", "predicted", "error", ""}};
  for (const FitCheck& check : report.checks) {
    const FitError& error = check.error;
    lines.push_back({error.what, SecondsText(error.measured_s), SecondsText(error.predicted_s),
                     ErrorText(error), check.not_fitted});
  }
  std::string text = AlignCells(lines);
  for (const auto& [why, errors] : ErrorsOfReport(report)) {
    absl::StrAppend(&text, absl::StrFormat("%-12s  ", NameOf(why)), Summary(errors), "\n");
  }
  return text;
}

absl::Status CheckInputs(const std::vector<std::string>& inputs) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    for (size_t k = 0; k < i; ++k) {
      if (!IsSameFile(inputs[i], inputs[k])) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("--fit: ", inputs[i], " is given twice: its points would count twice"));
    }
  }
  return absl::OkStatus();
}

// Models are those of the points.
absl::Status CheckOutput(const FitJob& job, const FitInput& input) {
  for (const ScalePoint& point : input.points) {
    const auto model = point.config.find("model");
    if (model == point.config.end()) continue;
    LONGSPAN_RETURN_IF_ERROR(CheckNotRead(job.output, ModelFiles(model->second)));
  }
  return CheckReportPath(job.output);
}

// What the profile comes from.
std::string Comment(const FitJob& job, const FitInput& input, const FitReport& report) {
  std::set<std::string> machines;
  for (const ScalePoint& point : input.points) {
    machines.insert(absl::StrCat(point.machine.device, " (", point.machine.software, ")"));
  }
  std::vector<std::string> lines = {
      absl::StrCat("Fitted by ", ReportVersion(), " plan --fit, from the profile ", job.hardware),
      absl::StrCat("to ", absl::StrJoin(job.inputs, ", ")),
      absl::StrCat(input.points.size(), " points, ", input.calls.size(), " collectives",
                   machines.empty() ? "" : "; ", absl::StrJoin(machines, ", "))};
  for (const auto& [why, errors] : ErrorsOfReport(report)) {
    lines.push_back(absl::StrCat(NameOf(why), ": ", Summary(errors)));
  }
  std::string text;
  for (const std::string& line : lines) {
    absl::StrAppend(&text, "# ", absl::StrReplaceAll(line, {{"\n", " "}, {"\r", " "}}), "\n");
  }
  return text;
}

}  // namespace

std::string FitTable(const FitReport& report) {
  std::vector<std::vector<std::string>> lines = {{"part", "measured", "fitted", "error"}};
  for (const FitError& part : report.parts) {
    lines.push_back(
        {part.what, SecondsText(part.measured_s), SecondsText(part.predicted_s), ErrorText(part)});
  }
  std::string text = AlignCells(lines);
  if (!report.checks.empty()) absl::StrAppend(&text, "\n", ChecksTable(report));
  return text;
}

std::string FitWarning(const FitReport& report) {
  constexpr size_t kMostNamed = 3;
  std::vector<std::string> texts;
  for (const auto& [why, errors] : ErrorsOfReport(report)) {
    if ((!why.empty() && why != kHeldOut) || Median(errors) <= kGood) continue;
    const Errors worst(errors.begin(), errors.begin() + std::min(errors.size(), kMostNamed));
    texts.push_back(
        absl::StrCat(NameOf(why), ": ", Summary(errors), ", the worst ",
                     absl::StrJoin(worst, "; ", [](std::string* out, const FitError& error) {
                       absl::StrAppend(out, error.what, " (", ErrorText(error), ")");
                     })));
  }
  if (texts.empty()) return "";
  return absl::StrCat(
      "the profile does not describe what was measured: ", absl::StrJoin(texts, ". "),
      ". Were all measured on one machine that did nothing else?");
}

absl::Status FitFiles(const FitJob& job, const HardwareProfile& start) {
  LONGSPAN_RETURN_IF_ERROR(CheckInputs(job.inputs));
  FitInput input;
  for (const std::string& file : job.inputs) LONGSPAN_RETURN_IF_ERROR(ReadFitFile(file, &input));
  for (const std::string& note : input.notes) absl::FPrintF(stderr, "longspan: %s\n", note);
  LONGSPAN_RETURN_IF_ERROR(CheckOutput(job, input));
  LONGSPAN_ASSIGN_OR_RETURN(const FitReport report,
                            FitHardware(start, input, job.holdout, job.model));
  LONGSPAN_RETURN_IF_ERROR(WriteReport(FitTable(report), ""));
  if (const std::string warning = FitWarning(report); !warning.empty()) {
    absl::FPrintF(stderr, "longspan: warning: %s\n", warning);
  }
  if (job.output.empty()) return absl::OkStatus();
  return WriteReport(Comment(job, input, report) + HardwareProfileToYaml(report.profile),
                     job.output);
}

}  // namespace longspan
