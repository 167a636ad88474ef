#include "launcher/scale_prepare.h"

#include <algorithm>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "kernels/linear.h"
#include "launcher/bootstrap.h"
#include "launcher/flags.h"
#include "launcher/scale_flags.h"
#include "launcher/scale_preflight.h"
#include "launcher/scale_slurm.h"
#include "runtime/checksum.h"
#include "runtime/read_bytes.h"
#include "sharding/topk_merge.h"

ABSL_FLAG(std::string, hostfile, "", "mpirun's file of hosts and their slots");
ABSL_FLAG(std::string, mpirun, "",
          "How ranks are started: a program and its arguments, without -n; mpirun if it is not "
          "given, and srun with --slurm");
ABSL_FLAG(bool, reference, true,
          "Adds the runs on one rank that the grid lacks, to compare outputs with; --noreference "
          "does not");
ABSL_FLAG(std::string, slurm, "",
          "Writes this sbatch script of the study, a task a point, and runs nothing");
ABSL_FLAG(bool, weak, false, "--context is that of one rank: it grows with their number");

namespace longspan {
namespace {

constexpr int64_t kMostRanks = 65536;
constexpr char kSlurmStart[] = "srun --mpi=pmix --kill-on-bad-exit=1";

// As CheckSlots says; none are known of an mpirun that does not answer.
absl::StatusOr<std::map<int64_t, int64_t>> RanksHere(const std::vector<std::string>& launch,
                                                     const std::set<int64_t>& ranks,
                                                     std::vector<std::string>* notes) {
  auto here = CheckSlots(launch, ranks);
  if (!absl::IsDeadlineExceeded(here.status())) return here;
  notes->push_back(absl::StrCat(here.status().message(), ": slots and memory are not checked"));
  return std::map<int64_t, int64_t>();
}

// How ranks are started, and how many of each number on this machine, as CheckSlots says.
absl::StatusOr<std::map<int64_t, int64_t>> PrepareLaunch(const std::set<int64_t>& ranks,
                                                         bool on_cpus, ScaleStudy* study,
                                                         StudyRun* run) {
  const std::string mpirun = absl::GetFlag(FLAGS_mpirun), hostfile = absl::GetFlag(FLAGS_hostfile);
  std::map<int64_t, int64_t> ranks_here;
  if (const std::string script = absl::GetFlag(FLAGS_slurm); !script.empty()) {
    LONGSPAN_RETURN_IF_ERROR(CheckSlurmPath(script));
    // A script runs where programs and hosts are others.
    LONGSPAN_ASSIGN_OR_RETURN(run->launch, LaunchWords(mpirun.empty() ? kSlurmStart : mpirun));
  } else {
    LONGSPAN_ASSIGN_OR_RETURN(run->launch,
                              LaunchCommand(mpirun.empty() ? "mpirun" : mpirun, hostfile));
    LONGSPAN_ASSIGN_OR_RETURN(ranks_here, RanksHere(run->launch, ranks, &run->notes));
    if (const std::string type = MissedCoreType(); !type.empty() && on_cpus) {
      run->notes.push_back(
          absl::StrCat("OpenBLAS does not know this processor: OPENBLAS_CORETYPE=", type,
                       " in the environment of all ranks makes prompts several times as fast"));
    }
  }
  study->launch = absl::StrJoin(run->launch, " ");
  if (!hostfile.empty()) LONGSPAN_RETURN_IF_ERROR(ReadBytes(hostfile, 0, -1, &study->hostfile));
  return ranks_here;
}

// In ascending order: a study is the same in whatever order its grid is given.
absl::StatusOr<std::vector<int64_t>> GridNumbers(absl::string_view flag, const std::string& text,
                                                 int64_t most) {
  LONGSPAN_ASSIGN_OR_RETURN(std::vector<int64_t> numbers, ParseNumbers(flag, text, most));
  std::sort(numbers.begin(), numbers.end());
  const auto twice = std::adjacent_find(numbers.begin(), numbers.end());
  if (twice == numbers.end()) return numbers;
  return absl::InvalidArgumentError(absl::StrCat("--", flag, " names ", *twice, " twice"));
}

}  // namespace

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
  LONGSPAN_ASSIGN_OR_RETURN(study.file, ScaleFile());
  return study;
}

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

absl::StatusOr<StudyRun> PrepareStudy(ScaleStudy study) {
  StudyRun run;
  LONGSPAN_ASSIGN_OR_RETURN(Config config, ScaleConfig(""));
  if (study.methods.empty()) study.methods = {ConfigValue(config, "attention")};
  config.attention = Config().attention;  // of each point
  study.config = ConfigToYaml(config);
  std::set<ScaleKey> grid = GridOf(study);
  const std::set<ScaleKey> references = ReferencesOf(study);
  std::set<int64_t> ranks(study.ranks.begin(), study.ranks.end());
  if (!references.empty()) ranks.insert(1);
  LONGSPAN_ASSIGN_OR_RETURN(std::string note, CheckPromptFile(study));
  if (!note.empty()) run.notes.push_back(std::move(note));
  if (!study.file.empty()) {
    std::string text;
    LONGSPAN_RETURN_IF_ERROR(ReadBytes(study.file, 0, -1, &text));
    study.text = Checksum(text);
  }
  CatchAllStopSignals();  // until here one ends the process, however long the text is
  LONGSPAN_ASSIGN_OR_RETURN(const auto ranks_here,
                            PrepareLaunch(ranks, config.device != "cuda", &study, &run));
  LONGSPAN_ASSIGN_OR_RETURN(const auto left_out, CheckPoints(study, grid, references, ranks_here));
  for (const auto& [key, why] : left_out) {
    run.notes.push_back(
        absl::StrCat("left out, so nothing is compared with it: ", key.ToString(), ": ", why));
  }
  for (const ScaleKey& key : references) {
    if (!left_out.contains(key)) grid.insert(key);
  }
  run.points.assign(grid.begin(), grid.end());
  run.study = std::move(study);
  run.directory = absl::GetFlag(FLAGS_output);
  return run;
}

}  // namespace longspan
