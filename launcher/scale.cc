#include <algorithm>
#include <cstdio>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "collectives/mpi_communicator.h"
#include "kernels/base/status_macros.h"
#include "launcher/bootstrap.h"
#include "launcher/child_process.h"
#include "launcher/flags.h"
#include "launcher/progress.h"
#include "launcher/scale_check.h"
#include "launcher/scale_flags.h"
#include "launcher/scale_preflight.h"
#include "launcher/scale_report.h"
#include "launcher/scale_slurm.h"
#include "launcher/scale_study.h"
#include "launcher/subcommand.h"
#include "runtime/clock.h"
#include "runtime/new_file.h"
#include "sharding/topk_merge.h"

ABSL_FLAG(std::string, hostfile, "", "mpirun's file of hosts and their slots");
ABSL_FLAG(std::string, mpirun, "",
          "How ranks are started: a program and its arguments, without -n; mpirun if it is not "
          "given, and srun with --slurm");
ABSL_FLAG(bool, reference, true,
          "Adds the runs on one rank that the grid lacks, to compare outputs with");
ABSL_FLAG(std::string, slurm, "",
          "Writes this sbatch script of the study, a task a point, and runs nothing");
ABSL_FLAG(bool, weak, false, "--context is that of one rank: it grows with their number");

namespace longspan {
namespace {

constexpr int64_t kMostRanks = 65536;
constexpr char kSlurmStart[] = "srun --mpi=pmix --kill-on-bad-exit=1";

// One call of `scale`.
struct StudyRun {
  ScaleStudy study;
  std::string directory;
  std::vector<std::string> launch;  // starts ranks
  std::vector<ScaleKey> points;     // in order, those that are there already too
  std::map<ScaleKey, std::string> left_out;
  ProgressStyle progress = ProgressStyle::kOff;
};

// In ascending order: a study is the same in whatever order its grid is given.
absl::StatusOr<std::vector<int64_t>> GridNumbers(absl::string_view flag, const std::string& text,
                                                 int64_t most) {
  LONGSPAN_ASSIGN_OR_RETURN(std::vector<int64_t> numbers, ParseNumbers(flag, text, most));
  std::sort(numbers.begin(), numbers.end());
  const auto twice = std::adjacent_find(numbers.begin(), numbers.end());
  if (twice == numbers.end()) return numbers;
  return absl::InvalidArgumentError(absl::StrCat("--", flag, " names ", *twice, " twice"));
}

absl::StatusOr<ScaleStudy> StudyFromFlags() {
  ScaleStudy study;
  if (absl::GetFlag(FLAGS_ranks).empty()) {
    return absl::InvalidArgumentError("--ranks is needed, as in --ranks 1,2,4");
  }
  LONGSPAN_ASSIGN_OR_RETURN(study.ranks,
                            GridNumbers("ranks", absl::GetFlag(FLAGS_ranks), kMostRanks));
  LONGSPAN_ASSIGN_OR_RETURN(study.contexts,
                            GridNumbers("context", absl::GetFlag(FLAGS_context), kMaxPosition));
  LONGSPAN_ASSIGN_OR_RETURN(study.batches,
                            GridNumbers("batch", absl::GetFlag(FLAGS_batch), kMostScaleRuns));
  if (const std::string methods = absl::GetFlag(FLAGS_method); !methods.empty()) {
    LONGSPAN_ASSIGN_OR_RETURN(study.methods, ParseMethods(methods));
    std::sort(study.methods.begin(), study.methods.end());
  }
  LONGSPAN_ASSIGN_OR_RETURN(study.steps, ScaleSteps());
  LONGSPAN_ASSIGN_OR_RETURN(study.runs, ScaleRuns());
  study.weak = absl::GetFlag(FLAGS_weak);
  study.references = absl::GetFlag(FLAGS_reference);
  study.file = absl::GetFlag(FLAGS_file);
  return study;
}

// Arguments of `longspan` for one point.
std::vector<std::string> PointArguments(const ScaleStudy& study, const ScaleKey& key) {
  std::vector<std::string> arguments = {"scale",      "point",
                                        "--context",  absl::StrCat(key.context),
                                        "--batch",    absl::StrCat(key.batch),
                                        "--decode",   absl::StrCat(study.steps),
                                        "--repeat",   absl::StrCat(study.runs),
                                        "--progress", "off"};
  const auto pass = [&](const char* flag, const std::string& value) {
    if (!value.empty()) arguments.insert(arguments.end(), {flag, value});
  };
  pass("--config", absl::GetFlag(FLAGS_config));
  pass("--model", absl::GetFlag(FLAGS_model));
  pass("--file", study.file);
  pass("--verbosity", absl::GetFlag(FLAGS_verbosity));
  const auto overrides = SetFlags();  // checked before
  for (const ConfigOverride& setting : *overrides) {
    pass("--set", absl::StrCat(setting.key, "=", setting.value));
  }
  pass("--method", key.method);
  return arguments;
}

// Everything that is wrong with the flags or files is found here.
absl::StatusOr<StudyRun> PrepareStudy(ScaleStudy study) {
  StudyRun run;
  const std::string hostfile = absl::GetFlag(FLAGS_hostfile);
  LONGSPAN_RETURN_IF_ERROR(CheckText(study.file));
  LONGSPAN_ASSIGN_OR_RETURN(Config config, ScaleConfig(""));
  if (study.methods.empty()) study.methods = {ConfigValue(config, "attention")};
  config.attention = Config().attention;  // of each point
  study.config = ConfigToYaml(config);
  std::set<ScaleKey> grid = GridOf(study);
  const std::set<ScaleKey> references =
      study.references ? MissingReferences(grid) : std::set<ScaleKey>();
  std::map<int64_t, int64_t> ranks_here;
  const std::string mpirun = absl::GetFlag(FLAGS_mpirun);
  if (!absl::GetFlag(FLAGS_slurm).empty()) {
    // A script runs where programs and hosts are others.
    LONGSPAN_ASSIGN_OR_RETURN(run.launch, LaunchWords(mpirun.empty() ? kSlurmStart : mpirun));
  } else {
    LONGSPAN_ASSIGN_OR_RETURN(run.launch,
                              LaunchCommand(mpirun.empty() ? "mpirun" : mpirun, hostfile));
    std::set<int64_t> ranks(study.ranks.begin(), study.ranks.end());
    if (!references.empty()) ranks.insert(1);
    LONGSPAN_ASSIGN_OR_RETURN(ranks_here, CheckSlots(run.launch, ranks));
  }
  LONGSPAN_ASSIGN_OR_RETURN(run.left_out, CheckPoints(study, grid, references, ranks_here));
  for (const ScaleKey& key : references) {
    if (!run.left_out.contains(key)) grid.insert(key);
  }
  run.points.assign(grid.begin(), grid.end());
  run.study = std::move(study);
  run.directory = absl::GetFlag(FLAGS_output);
  return run;
}

// Runs one point. Cancelled: by a signal. Another error is the point's own, already told.
absl::Status RunPoint(const StudyRun& run, const ScaleKey& key, StudyWriter* writer,
                      Progress* progress, const ProgressState& state) {
  std::vector<std::string> command = run.launch;
  command.insert(command.end(), {"-n", absl::StrCat(key.ranks), OwnProgram()});
  const std::vector<std::string> arguments = PointArguments(run.study, key);
  command.insert(command.end(), arguments.begin(), arguments.end());
  LONGSPAN_ASSIGN_OR_RETURN(const ChildResult child, RunChild(command, [&] {
                              progress->Update(state, MonotonicSeconds());
                              return OrderOfSignals();
                            }));
  progress->Clear();
  if (child.stopped) return absl::CancelledError("stopped by a signal");
  absl::Status added = absl::UnknownError(absl::StrCat("exit code ", child.exit_code));
  if (child.exit_code == 0) added = writer->Add(key, child.output);
  if (!added.ok()) {
    absl::FPrintF(stderr, "%slongspan: %s: failed: %s\n", child.errors, key.ToString(),
                  added.message());
  }
  return added;
}

int Finish(const StudyRun& run, const StudyWriter& writer, int failed) {
  if (const absl::Status written = WriteScaleReport({run.study, writer.points()}, run.directory);
      !written.ok()) {
    return ReportError(written, 0);
  }
  int differ = 0;
  for (const auto& [key, point] : writer.points()) {
    const OutputCheck check = CheckOutputs(point, writer.points());
    if (!check.failed()) continue;
    ++differ;
    absl::FPrintF(stderr, "longspan: %s: outputs differ: %s\n", key.ToString(), check.text);
  }
  absl::FPrintF(stderr, "points        %d of %d, %d with outputs that differ; see %s/report.html\n",
                writer.points().size(), run.points.size(), differ, run.directory);
  if (failed > 0) {
    absl::FPrintF(stderr, "longspan: %d points failed: the same command tries them again\n",
                  failed);
  }
  return failed > 0 || differ > 0 ? kExitFailed : kExitOk;
}

absl::StatusOr<int> RunStudy(const StudyRun& run) {
  LONGSPAN_ASSIGN_OR_RETURN(StudyWriter writer, StudyWriter::Open(run.directory, run.study));
  for (const auto& [key, why] : run.left_out) {
    absl::FPrintF(stderr, "longspan: left out, so nothing is compared with it: %s: %s\n",
                  key.ToString(), why);
  }
  std::vector<ScaleKey> missing;
  for (const ScaleKey& key : run.points) {
    if (!writer.points().contains(key)) missing.push_back(key);
  }
  Progress progress(run.progress, stderr, MonotonicSeconds(), "points");
  ProgressState state;
  state.total = static_cast<int64_t>(missing.size());
  int failed = 0;
  for (const ScaleKey& key : missing) {
    if (StopRequested()) break;  // between two points
    state.fraction = static_cast<double>(state.done) / static_cast<double>(state.total);
    const absl::Status status = RunPoint(run, key, &writer, &progress, state);
    ++state.done;
    if (absl::IsCancelled(status)) {
      absl::FPrintF(stderr,
                    "longspan: stopped by a signal at %s; %d points are kept, and the same command "
                    "goes on with the others\n",
                    key.ToString(), writer.points().size());
      return kExitFailed;
    }
    if (!status.ok()) ++failed;
  }
  progress.Clear();
  if (StopRequested()) ++failed;  // what is missing
  return Finish(run, writer, failed);
}

absl::Status WriteSlurm(const StudyRun& run) {
  const std::string path = absl::GetFlag(FLAGS_slurm);
  LONGSPAN_RETURN_IF_ERROR(CheckScriptPath(path));
  absl::StatusOr<NewFile> file = NewFile::Create(path);
  if (!file.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--slurm ", path, ": ", file.status().message()));
  }
  LONGSPAN_RETURN_IF_ERROR(StudyWriter::Open(run.directory, run.study).status());
  std::vector<SlurmPoint> points;
  for (const ScaleKey& key : run.points) {
    points.push_back({key.ranks, PointArguments(run.study, key)});
  }
  LONGSPAN_RETURN_IF_ERROR(
      file->Write(SlurmScript(run.directory, OwnProgram(), run.launch, points)));
  LONGSPAN_RETURN_IF_ERROR(file->Commit());
  absl::FPrintF(stderr, "points        %d; sbatch %s runs them and makes %s/report.html\n",
                points.size(), path, run.directory);
  return absl::OkStatus();
}

absl::StatusOr<int> Scale(const std::vector<std::string>& positional) {
  if (!positional.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "unexpected argument ", positional[0], "; `scale point` and `scale report` are others"));
  }
  if (absl::GetFlag(FLAGS_output).empty()) {
    return absl::InvalidArgumentError("--output is needed: the study's directory");
  }
  LONGSPAN_ASSIGN_OR_RETURN(const ScaleStudy study, StudyFromFlags());
  LONGSPAN_RETURN_IF_ERROR(SetFlags().status());
  LONGSPAN_ASSIGN_OR_RETURN(const ProgressStyle style,
                            ParseProgressStyle(absl::GetFlag(FLAGS_progress)));
  if (!absl::GetFlag(FLAGS_slurm).empty() && !absl::GetFlag(FLAGS_hostfile).empty()) {
    return absl::InvalidArgumentError("--hostfile does not go with --slurm, which knows its hosts");
  }
  if (LaunchedByMpirun()) {
    return absl::InvalidArgumentError("a study starts mpirun itself: run it without");
  }
  CatchAllStopSignals();
  absl::StatusOr<StudyRun> run = PrepareStudy(study);
  if (StopRequested()) return ReportError(absl::CancelledError("stopped by a signal"), 0);
  if (!run.ok()) return ReportError(run.status(), 0);
  run->progress = style;
  if (!absl::GetFlag(FLAGS_slurm).empty()) {
    const absl::Status written = WriteSlurm(*run);
    return written.ok() ? int{kExitOk} : ReportError(written, 0);
  }
  const absl::StatusOr<int> exit_code = RunStudy(*run);
  return exit_code.ok() ? *exit_code : ReportError(exit_code.status(), 0);
}

absl::StatusOr<int> Report(const std::vector<std::string>& positional) {
  if (positional.size() != 1) {
    return absl::InvalidArgumentError("takes the directory of a study, and nothing else");
  }
  const absl::StatusOr<StoredStudy> stored = ReadStudy(positional[0]);
  if (!stored.ok()) return ReportError(stored.status(), 0);
  if (const absl::Status written = WriteScaleReport(*stored, positional[0]); !written.ok()) {
    return ReportError(written, 0);
  }
  int differ = 0;
  for (const auto& [key, point] : stored->points) {
    differ += CheckOutputs(point, stored->points).failed() ? 1 : 0;
  }
  absl::FPrintF(stderr, "points        %d, %d with outputs that differ; see %s/report.html\n",
                stored->points.size(), differ, positional[0]);
  return differ > 0 ? kExitFailed : kExitOk;
}

}  // namespace

Subcommand ScaleSubcommand() {
  return {
      "scale",
      "[--config FILE] [--model DIR] [--set key=value]... --ranks N,... [--context TOKENS,...] "
      "[--batch N,...]\n          [--method NAME,...] [--weak] [--decode N] [--repeat N] "
      "[--file TEXT] [--hostfile FILE]\n          [--mpirun COMMAND] [--slurm FILE] --output "
      "DIR",
      "Measures a grid of jobs on several numbers of ranks, starting mpirun for each, and "
      "compares what they\n      answer with one rank. Run again, it does what is missing. "
      "Exit code: 0 all was measured and no\n      output differs, 1 not, 2 usage.",
      {"config", "model", "set", "ranks", "context", "batch", "method", "weak", "decode", "repeat",
       "file", "reference", "hostfile", "mpirun", "slurm", "output", "progress", "verbosity"},
      Scale};
}

Subcommand ScaleReportSubcommand() {
  return {"scale report",
          "DIR",
          "Makes points.csv and report.html from what a study has measured so far.",
          {"verbosity"},
          Report};
}

}  // namespace longspan
