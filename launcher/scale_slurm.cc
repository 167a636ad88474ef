#include "launcher/scale_slurm.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "runtime/read_bytes.h"

namespace longspan {
namespace {

// A word of a shell's command line.
std::string Quoted(absl::string_view word) {
  const bool plain = !word.empty() && std::all_of(word.begin(), word.end(), [](char c) {
    return absl::ascii_isalnum(c) || absl::StrContains("-_./=:,+%@", absl::string_view(&c, 1));
  });
  if (plain) return std::string(word);
  return absl::StrCat("'", absl::StrReplaceAll(word, {{"'", "'\\''"}}), "'");
}

std::string QuotedLine(const std::vector<std::string>& words) {
  return absl::StrJoin(words, " ", [](std::string* out, const std::string& word) {
    absl::StrAppend(out, Quoted(word));
  });
}

constexpr absl::string_view kBeginning = "#!/bin/bash\n# A scaling study of longspan: ";
constexpr absl::string_view kHead =
    R"sh($POINTS points, a task each. Submit it again after an interruption:
# points whose files are there are not measured again. Every task is given what the largest needs; add
# --nodes, --partition or --gres as your cluster wants it.
#SBATCH --job-name=longspan-scale
#SBATCH --array=0-$LAST
#SBATCH --ntasks=$MOST
#SBATCH --cpus-per-task=1
#SBATCH --time=12:00:00
#SBATCH --output=longspan-scale-%A-%a.log
set -euo pipefail
cd $FOLDER

directory=$DIRECTORY
longspan=$PROGRAM
task=${SLURM_ARRAY_TASK_ID:?"submit this file with sbatch"}
report=$(printf '%q scale report %q' "$longspan" "$directory")
# The report is made when all tasks have ended, well or not. A cluster may refuse jobs of a job.
if [ "$task" = "${SLURM_ARRAY_TASK_MIN:-0}" ]; then
  sbatch --ntasks=1 --job-name=longspan-report --dependency="afterany:$SLURM_ARRAY_JOB_ID" \
    ${SLURM_JOB_ACCOUNT:+--account="$SLURM_JOB_ACCOUNT"} \
    ${SLURM_JOB_PARTITION:+--partition="$SLURM_JOB_PARTITION"} --wrap "$report" ||
    echo "no job makes the report: run \`$report\` when all tasks have ended" >&2
fi
measure() {  # FILE RANKS ARGUMENTS...
  local point=$directory/$1 ranks=$2
  shift 2
  if [ -s "$point" ]; then exit 0; fi
  $START "$longspan" "$@" --output "$point.part"
  mv "$point.part" "$point"
}
case $task in
)sh";

}  // namespace

absl::Status CheckSlurmPath(const std::string& path) {
  std::string text;
  const absl::Status read = ReadBytes(path, 0, std::ssize(kBeginning), &text);
  if (absl::IsNotFound(read) || (read.ok() && text == kBeginning)) return absl::OkStatus();
  if (!read.ok() && !absl::IsOutOfRange(read)) {
    return absl::InvalidArgumentError(absl::StrCat("--slurm ", path, ": ", read.message()));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--slurm ", path,
                   ": is there, and no script of a study: name a new file, or delete this one"));
}

std::string SlurmScript(const std::string& folder, const std::string& directory,
                        const std::string& program, const std::vector<std::string>& launch,
                        const std::vector<SlurmPoint>& points) {
  int64_t most = 1;
  for (const SlurmPoint& point : points) most = std::max(most, point.ranks);
  std::string text = absl::StrCat(
      kBeginning, absl::StrReplaceAll(kHead, {{"$POINTS", absl::StrCat(points.size())},
                                              {"$LAST", absl::StrCat(points.size() - 1)},
                                              {"$MOST", absl::StrCat(most)},
                                              {"$FOLDER", Quoted(folder)},
                                              {"$DIRECTORY", Quoted(directory)},
                                              {"$PROGRAM", Quoted(program)},
                                              {"$START", QuotedLine(launch) + " -n \"$ranks\""}}));
  for (size_t i = 0; i < points.size(); ++i) {
    absl::StrAppend(&text, "  ", i, ") measure ", points[i].file, " ", points[i].ranks, " ",
                    QuotedLine(points[i].arguments), " ;;\n");
  }
  return text + "esac\n";
}

}  // namespace longspan
