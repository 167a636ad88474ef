#include <cstdio>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "collectives/mpi_communicator.h"
#include "kernels/base/status_macros.h"
#include "launcher/bench_report.h"
#include "launcher/bootstrap.h"
#include "launcher/flags.h"
#include "launcher/plan_files.h"
#include "launcher/plan_fit.h"
#include "launcher/plan_hardware.h"
#include "launcher/plan_prediction.h"
#include "launcher/plan_target.h"
#include "launcher/plan_task.h"
#include "launcher/progress.h"
#include "launcher/scale_flags.h"
#include "launcher/subcommand.h"
#include "runtime/clock.h"
#include "sharding/topk_merge.h"

ABSL_FLAG(bool, fit, false,
          "Fits the profile of --hardware to measurements: a study's points.jsonl, and reports of "
          "`bench collectives` in CSV or JSON");
ABSL_FLAG(std::string, gpus, "", "The same as --ranks, for machines that are counted in GPUs");
ABSL_FLAG(std::string, hardware, "",
          "A profile of configs/hardware, by its name, or a file like them");
ABSL_FLAG(std::string, holdout, "",
          "--fit: which points only judge the fit: every so-manieth, as in 3, or CONTEXT/RANKS, "
          "separated by commas");
ABSL_FLAG(bool, simulate, false,
          "A table over --ranks, to thousands of them, of what a token and a chunk take by phase, "
          "and bytes by collective, with either merge of candidates");
ABSL_FLAG(std::optional<double>, target_tpot, std::nullopt,
          "Milliseconds of a decoded token, at most: looks for the smallest number of ranks");
ABSL_FLAG(std::optional<double>, target_ttft, std::nullopt,
          "Seconds to the first token, at most: looks for the smallest number of ranks");

namespace longspan {
namespace {

struct PlanOptions {
  std::string hardware;  // file
  PlanTask task;
  Holdout holdout;
  std::string output;
  ProgressStyle progress = ProgressStyle::kOff;
};

absl::StatusOr<std::vector<int64_t>> RanksFromFlags() {
  const std::string ranks = absl::GetFlag(FLAGS_ranks), gpus = absl::GetFlag(FLAGS_gpus);
  if (!ranks.empty() && !gpus.empty()) {
    return absl::InvalidArgumentError("--ranks and --gpus mean the same: give one of them");
  }
  const char* flag = gpus.empty() ? "ranks" : "gpus";
  return ParseNumbers(flag, gpus.empty() ? ranks : gpus, kMostPlannedRanks);
}

absl::StatusOr<PlanTarget> TargetFromFlags() {
  PlanTarget target = {absl::GetFlag(FLAGS_target_ttft), absl::GetFlag(FLAGS_target_tpot)};
  for (const auto& [flag, value] :
       {std::pair("target_ttft", target.prompt_s), std::pair("target_tpot", target.token_s)}) {
    if (value.has_value() && !(*value > 0)) {
      return absl::InvalidArgumentError(absl::StrCat("--", flag, " must be above 0"));
    }
  }
  if (target.token_s.has_value()) *target.token_s *= 1e-3;
  return target;
}

// What may be said together: one of four tasks.
absl::Status CheckTask(const PlanTarget& target, const std::vector<std::string>& files) {
  const bool fit = absl::GetFlag(FLAGS_fit), simulate = absl::GetFlag(FLAGS_simulate);
  if (static_cast<int>(fit) + static_cast<int>(simulate) + static_cast<int>(target.asks()) > 1) {
    return absl::InvalidArgumentError("--fit, --simulate and targets do not go together");
  }
  if (!fit && !files.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("unexpected argument ", files[0], "; files are for --fit"));
  }
  if (fit && files.empty()) {
    return absl::InvalidArgumentError(
        "--fit takes files: a study's points.jsonl, or reports of "
        "`bench collectives`");
  }
  if (!fit && !absl::GetFlag(FLAGS_holdout).empty()) {
    return absl::InvalidArgumentError("--holdout goes with --fit");
  }
  const bool sized = !absl::GetFlag(FLAGS_ranks).empty() || !absl::GetFlag(FLAGS_gpus).empty();
  if (!fit && sized == target.asks()) {
    return absl::InvalidArgumentError(
        sized ? "a target looks for the number of ranks itself: leave --ranks and --gpus out"
              : "--ranks or --gpus is needed, as in --gpus 8, or a target");
  }
  return absl::OkStatus();
}

absl::StatusOr<PlanTask> TaskFromFlags(const std::vector<std::string>& files) {
  PlanTask task;
  LONGSPAN_ASSIGN_OR_RETURN(task.target, TargetFromFlags());
  LONGSPAN_RETURN_IF_ERROR(CheckTask(task.target, files));
  task.simulate = absl::GetFlag(FLAGS_simulate);
  if (!absl::GetFlag(FLAGS_fit) && !task.target.asks()) {
    LONGSPAN_ASSIGN_OR_RETURN(task.ranks, RanksFromFlags());
  }
  LONGSPAN_ASSIGN_OR_RETURN(task.contexts,
                            ParseNumbers("context", absl::GetFlag(FLAGS_context), kMaxPosition));
  constexpr int64_t kMostBatch = 65536;
  LONGSPAN_ASSIGN_OR_RETURN(task.batch,
                            ParseNumber("batch", absl::GetFlag(FLAGS_batch), kMostBatch));
  LONGSPAN_ASSIGN_OR_RETURN(const ReportFormat format,
                            ParseReportFormat(absl::GetFlag(FLAGS_format)));
  if (format == ReportFormat::kCsv) {
    return absl::InvalidArgumentError("--format of plan must be table or json, not csv");
  }
  task.json = format == ReportFormat::kJson;
  return task;
}

absl::StatusOr<PlanOptions> OptionsFromFlags(const std::vector<std::string>& files) {
  PlanOptions options;
  LONGSPAN_ASSIGN_OR_RETURN(options.task, TaskFromFlags(files));
  LONGSPAN_ASSIGN_OR_RETURN(options.holdout, ParseHoldout(absl::GetFlag(FLAGS_holdout)));
  LONGSPAN_ASSIGN_OR_RETURN(options.progress, ParseProgressStyle(absl::GetFlag(FLAGS_progress)));
  LONGSPAN_RETURN_IF_ERROR(SetFlags().status());
  options.output = absl::GetFlag(FLAGS_output);
  LONGSPAN_ASSIGN_OR_RETURN(options.hardware,
                            FindHardware(absl::GetFlag(FLAGS_hardware), HardwareDirectories()));
  return options;
}

absl::StatusOr<PlanSubject> SubjectFromFlags(const std::string& hardware) {
  const std::string path = absl::GetFlag(FLAGS_config), model = absl::GetFlag(FLAGS_model);
  if (path.empty() && model.empty()) {
    return absl::InvalidArgumentError("--config or --model is needed: what is to run");
  }
  LONGSPAN_ASSIGN_OR_RETURN(const HardwareProfile profile, LoadHardware(hardware));
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<ConfigOverride> overrides, SetFlags());
  LONGSPAN_ASSIGN_OR_RETURN(Config config, LoadConfig(path, model, overrides));
  return MakePlanSubject(std::move(config), profile);
}

// Whatever the task is.
std::vector<std::string> FilesRead(const PlanOptions& options, std::vector<std::string> files) {
  const std::string config = absl::GetFlag(FLAGS_config), model = absl::GetFlag(FLAGS_model);
  files.push_back(config);
  const absl::StatusOr<std::vector<ConfigOverride>> overrides = SetFlags();  // checked before
  const absl::StatusOr<Config> loaded = LoadConfig(config, model, *overrides);
  for (const auto& more : {HardwareFiles(options.hardware),
                           // What keeps it from being loaded is told by who needs it.
                           ModelFiles(loaded.ok() ? loaded->model : model)}) {
    files.insert(files.end(), more.begin(), more.end());
  }
  return files;
}

absl::Status Fit(const PlanOptions& options, const std::vector<std::string>& files) {
  LONGSPAN_ASSIGN_OR_RETURN(const HardwareProfile start, LoadHardware(options.hardware));
  return FitFiles({.hardware = options.hardware,
                   .inputs = files,
                   .output = options.output,
                   .holdout = options.holdout,
                   .model = absl::GetFlag(FLAGS_model)},
                  start);
}

absl::StatusOr<PlanOutcome> RunTask(const PlanOptions& options) {
  LONGSPAN_RETURN_IF_ERROR(CheckReportPath(options.output));
  LONGSPAN_ASSIGN_OR_RETURN(const PlanSubject subject, SubjectFromFlags(options.hardware));
  Progress progress(options.progress, stderr, MonotonicSeconds(), "predictions");
  return RunPlan(options.task, subject, [&](int64_t done, int64_t total) {
    ProgressState state;
    state.done = done;
    state.total = total;
    state.fraction = static_cast<double>(done) / static_cast<double>(total);
    progress.Update(state, MonotonicSeconds());
  });
}

absl::StatusOr<int> Plan(const std::vector<std::string>& files) {
  if (LaunchedByMpirun()) {
    return absl::InvalidArgumentError("nothing is run: one process plans, without mpirun");
  }
  LONGSPAN_ASSIGN_OR_RETURN(const PlanOptions options, OptionsFromFlags(files));
  LONGSPAN_RETURN_IF_ERROR(CheckNotRead(options.output, FilesRead(options, files)));
  if (absl::GetFlag(FLAGS_fit)) {
    const absl::Status status = Fit(options, files);
    return status.ok() ? int{kExitOk} : ReportError(status, 0);
  }
  const absl::StatusOr<PlanOutcome> outcome = RunTask(options);
  if (!outcome.ok()) return ReportError(outcome.status(), 0);
  if (const absl::Status written = WriteReport(outcome->text, options.output); !written.ok()) {
    return ReportError(written, 0);
  }
  return outcome->good ? kExitOk : kExitFailed;
}

}  // namespace

Subcommand PlanSubcommand() {
  return {
      "plan",
      "[--config FILE] [--model DIR] [--set key=value]... --hardware NAME|FILE\n          "
      "--gpus N,...|--ranks N,...|--target_ttft SECONDS|--target_tpot MS [--context "
      "TOKENS,...] [--batch N]\n          [--simulate] [--format table|json] [--output FILE]\n"
      "  longspan plan --fit FILE... --hardware NAME|FILE [--holdout N|CONTEXT/RANKS,...] "
      "[--model DIR] [--output FILE]",
      "Predicts, without weights and without running anything, memory, time to first token "
      "and tokens/s of a\n      job, and which settings would be faster; or finds the smallest "
      "number of ranks that meets a target;\n      or fits a hardware profile to measurements. "
      "Exit code: 0 it fits and meets the target, 1 not, 2 usage.",
      {"config", "model", "set", "hardware", "gpus", "ranks", "context", "batch", "target_ttft",
       "target_tpot", "simulate", "fit", "holdout", "format", "output", "progress", "verbosity"},
      Plan};
}

}  // namespace longspan
