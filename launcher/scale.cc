#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "collectives/mpi_communicator.h"
#include "kernels/base/status_macros.h"
#include "launcher/bootstrap.h"
#include "launcher/child_process.h"
#include "launcher/flags.h"
#include "launcher/progress.h"
#include "launcher/scale_check.h"
#include "launcher/scale_difference.h"
#include "launcher/scale_preflight.h"
#include "launcher/scale_prepare.h"
#include "launcher/scale_report.h"
#include "launcher/scale_slurm.h"
#include "launcher/scale_study.h"
#include "launcher/subcommand.h"
#include "runtime/clock.h"
#include "runtime/new_file.h"

namespace longspan {
namespace {

std::string PointsText(size_t points) {
  return absl::StrCat(points, points == 1 ? " point" : " points");
}

// Runs one point. Cancelled: a signal ended it. Another error is the point's own, already told.
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
  if (child.stopped && child.exit_code != 0) return absl::CancelledError("stopped by a signal");
  absl::Status added = absl::UnknownError(absl::StrCat("exit code ", child.exit_code));
  if (child.exit_code == 0) added = writer->Add(key, child.output);
  if (!added.ok()) {
    absl::FPrintF(stderr, "%slongspan: %s: failed: %s\n", child.errors, key.ToString(),
                  added.message());
  }
  return added;
}

std::vector<ScaleKey> MissingPoints(const std::vector<ScaleKey>& points, const ScalePoints& there) {
  std::vector<ScaleKey> missing;
  for (const ScaleKey& key : points) {
    if (!there.contains(key)) missing.push_back(key);
  }
  return missing;
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
  const size_t missing = MissingPoints(run.points, writer.points()).size();
  absl::FPrintF(stderr, "points        %d of %d, %d with outputs that differ; see %s/report.html\n",
                run.points.size() - missing, run.points.size(), differ, run.directory);
  if (failed > 0) {
    absl::FPrintF(stderr, "longspan: %s failed: the same command tries again\n",
                  PointsText(failed));
  }
  return failed > 0 || differ > 0 ? kExitFailed : kExitOk;
}

void Warn(absl::string_view text) { absl::FPrintF(stderr, "longspan: %s\n", text); }

absl::StatusOr<StudyWriter> OpenStudy(const StudyRun& run) {
  LONGSPAN_ASSIGN_OR_RETURN(StudyWriter writer, StudyWriter::Open(run.directory, run.study));
  for (const std::string& note : run.notes) Warn(note);
  if (!writer.note().empty()) Warn(writer.note());
  if (const std::string difference = LaunchDifference(writer.begun(), run.study);
      !difference.empty() && !writer.points().empty()) {
    Warn(absl::StrCat("warning: ranks are started ", difference,
                      ": times may not be comparable with those that are there"));
  }
  return writer;
}

// Of a point that has just been measured.
void WarnOfEnvironment(const ScaleKey& key, const ScalePoints& points) {
  const std::string mine = points.at(key).environment();
  for (const auto& [other, point] : points) {
    if (point.environment() == mine) continue;
    return Warn(absl::StrCat("warning: ", key.ToString(), " was measured on ", mine, ", and ",
                             other.ToString(), " on ", point.environment(),
                             ": no speed-up is given between them; a directory of its own keeps "
                             "studies apart"));
  }
}

// That ranks can be started, before anything is written. A host that does not answer takes a while.
absl::Status CheckLaunch(const StudyRun& run, const std::vector<ScaleKey>& missing,
                         ProgressStyle style) {
  if (missing.empty()) return absl::OkStatus();
  int64_t ranks = 0;
  for (const ScaleKey& key : missing) ranks = std::max(ranks, key.ranks);
  Progress progress(style, stderr, MonotonicSeconds(), "points");
  ProgressState state;
  state.total = static_cast<int64_t>(missing.size());
  const absl::Status status = TryLaunch(run.launch, ranks, [&] {
    progress.Update(state, MonotonicSeconds());
    return OrderOfSignals();
  });
  progress.Clear();
  return status;
}

absl::StatusOr<int> RunStudy(const StudyRun& run, ProgressStyle style) {
  LONGSPAN_ASSIGN_OR_RETURN(StudyWriter writer, OpenStudy(run));
  const std::vector<ScaleKey> missing = MissingPoints(run.points, writer.points());
  LONGSPAN_RETURN_IF_ERROR(CheckLaunch(run, missing, style));
  LONGSPAN_RETURN_IF_ERROR(writer.Begin());
  Progress progress(style, stderr, MonotonicSeconds(), "points");
  ProgressState state;
  state.total = static_cast<int64_t>(missing.size());
  int failed = 0;
  size_t next = 0;
  for (; next < missing.size() && !StopRequested(); ++next) {
    const ScaleKey& key = missing[next];
    state.fraction = static_cast<double>(state.done) / static_cast<double>(state.total);
    const absl::Status status = RunPoint(run, key, &writer, &progress, state);
    if (absl::IsCancelled(status)) break;
    if (!status.ok()) ++failed;
    if (status.ok() && state.done == failed) WarnOfEnvironment(key, writer.points());
    ++state.done;
  }
  progress.Clear();
  if (next < missing.size()) {
    Warn(absl::StrCat("stopped by a signal at ", missing[next].ToString(),
                      "; kept: ", PointsText(writer.points().size()),
                      "; the same command goes on with the others"));
    return kExitFailed;
  }
  return Finish(run, writer, failed);
}

absl::Status WriteSlurm(const StudyRun& run) {
  const std::string path = absl::GetFlag(FLAGS_slurm);
  absl::StatusOr<NewFile> file = NewFile::Create(path);
  if (!file.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--slurm ", path, ": ", file.status().message()));
  }
  LONGSPAN_ASSIGN_OR_RETURN(StudyWriter writer, OpenStudy(run));
  LONGSPAN_RETURN_IF_ERROR(writer.Begin());
  std::vector<SlurmPoint> points;
  for (const ScaleKey& key : MissingPoints(run.points, writer.points())) {
    points.push_back({PointFile(key), key.ranks, PointArguments(run.study, key)});
  }
  if (points.empty()) {
    Warn(absl::StrCat("all ", run.points.size(), " points are there: no script is written"));
    return absl::OkStatus();
  }
  std::error_code error;
  const std::string folder = std::filesystem::current_path(error).string();
  if (error) return absl::InternalError(absl::StrCat("working directory: ", error.message()));
  LONGSPAN_RETURN_IF_ERROR(
      file->Write(SlurmScript(folder, run.directory, OwnProgram(), run.launch, points)));
  LONGSPAN_RETURN_IF_ERROR(file->Commit());
  absl::FPrintF(stderr, "points        %d of %d; sbatch %s runs them and makes %s/report.html\n",
                points.size(), run.points.size(), path, run.directory);
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
  absl::StatusOr<StudyRun> run = PrepareStudy(study);
  if (StopRequested()) return ReportError(absl::CancelledError("stopped by a signal"), 0);
  if (!run.ok()) return ReportError(run.status(), 0);
  if (!absl::GetFlag(FLAGS_slurm).empty()) {
    const absl::Status written = WriteSlurm(*run);
    return written.ok() ? int{kExitOk} : ReportError(written, 0);
  }
  const absl::StatusOr<int> exit_code = RunStudy(*run, style);
  return exit_code.ok() ? *exit_code : ReportError(exit_code.status(), 0);
}

// What is there. Points of a Slurm array are taken into points.jsonl, unless a study runs, which
// has done it.
absl::StatusOr<StoredStudy> TakeUpStudy(const std::string& directory) {
  LONGSPAN_ASSIGN_OR_RETURN(StoredStudy stored, ReadStudy(directory));
  if (!stored.note.empty()) Warn(stored.note);
  absl::StatusOr<StudyWriter> writer = StudyWriter::Open(directory, stored.study);
  if (absl::IsFailedPrecondition(writer.status())) return stored;
  LONGSPAN_RETURN_IF_ERROR(writer.status());
  LONGSPAN_RETURN_IF_ERROR(writer->Begin());
  return stored;
}

// "; missing: 2 ranks, 64 tokens, batch 1, esa and 3 more", or nothing.
std::string MissingText(const std::set<ScaleKey>& grid, const ScalePoints& there) {
  const std::vector<ScaleKey> missing = MissingPoints({grid.begin(), grid.end()}, there);
  if (missing.empty()) return "";
  const std::string others = absl::StrCat(" and ", missing.size() - 1, " more");
  return absl::StrCat("; missing: ", missing[0].ToString(), missing.size() == 1 ? "" : others);
}

absl::StatusOr<int> Report(const std::vector<std::string>& positional) {
  if (positional.size() != 1) {
    return absl::InvalidArgumentError("takes the directory of a study, and nothing else");
  }
  const absl::StatusOr<StoredStudy> stored = TakeUpStudy(positional[0]);
  if (!stored.ok()) return ReportError(stored.status(), 0);
  if (const absl::Status written = WriteScaleReport(*stored, positional[0]); !written.ok()) {
    return ReportError(written, 0);
  }
  int differ = 0;
  for (const auto& [key, point] : stored->points) {
    differ += CheckOutputs(point, stored->points).failed() ? 1 : 0;
  }
  std::set<ScaleKey> grid = GridOf(stored->study);
  grid.merge(ReferencesOf(stored->study));
  absl::FPrintF(
      stderr, "points        %d of %d, %d with outputs that differ; see %s/report.html%s\n",
      stored->points.size(), grid.size(), differ, positional[0], MissingText(grid, stored->points));
  return differ > 0 ? kExitFailed : kExitOk;
}

}  // namespace

Subcommand ScaleSubcommand() {
  return {
      "scale",
      "[--config FILE] [--model DIR] [--set key=value]... --ranks N,... [--context TOKENS,...] "
      "[--batch N,...]\n          [--method NAME,...] [--weak] [--decode N] [--repeat N] "
      "[--file TEXT] [--noreference]\n          [--hostfile FILE] [--mpirun COMMAND] [--slurm "
      "FILE] "
      "--output DIR",
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
          "Makes points.csv and report.html from what a study has measured so far, and takes the "
          "points "
          "of a Slurm\n      array into points.jsonl.",
          {"verbosity"},
          Report};
}

}  // namespace longspan
