#include "launcher/scale_preflight.h"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"
#include "launcher/child_process.h"
#include "launcher/flags.h"
#include "launcher/hostfile.h"
#include "runtime/memory_plan.h"
#include "runtime/model.h"
#include "runtime/model_config.h"
#include "sharding/topk_merge.h"

namespace longspan {
namespace {

bool Oversubscribes(const std::vector<std::string>& words) {
  const char* setting = getenv("OMPI_MCA_rmaps_base_oversubscribe");
  if (setting != nullptr && (absl::string_view(setting) == "1" || setting[0] == 't')) return true;
  return std::any_of(words.begin(), words.end(), [](const std::string& word) {
    return absl::EndsWithIgnoreCase(word, "oversubscribe") &&
           !absl::EndsWithIgnoreCase(word, "nooversubscribe");
  });
}

absl::Status CheckSlots(const std::string& hostfile, int64_t most_ranks, bool oversubscribes) {
  std::optional<int64_t> slots = LocalSlots();
  if (!hostfile.empty()) {
    LONGSPAN_ASSIGN_OR_RETURN(const std::vector<Host> hosts, ReadHostfile(hostfile));
    slots = TotalSlots(hosts);
  }
  if (oversubscribes || !slots || most_ranks <= *slots) return absl::OkStatus();
  const std::string where = hostfile.empty() ? "this machine has" : absl::StrCat(hostfile, " has");
  return absl::InvalidArgumentError(absl::StrCat(
      "--ranks: ", most_ranks, " are more than the ", *slots, *slots == 1 ? " slot" : " slots",
      " that ", where, hostfile.empty() ? ", a core each: name more hosts with --hostfile" : "",
      "; --mpirun \"mpirun --oversubscribe\" runs them all the same, as a check of correctness"));
}

// A model as all points of one method see it.
struct Job {
  Config config;  // not resolved
  ModelConfig model;
  int64_t weight_bytes = 0;
};

absl::StatusOr<Job> LoadJob(const std::string& method) {
  Job job;
  LONGSPAN_ASSIGN_OR_RETURN(job.config, ScaleConfig(method));
  LONGSPAN_ASSIGN_OR_RETURN(job.model, LoadModelConfig(job.config.model));
  LONGSPAN_ASSIGN_OR_RETURN(const ModelWeights weights, MapWeights(job.config, job.model));
  job.weight_bytes = CountWeights(weights).bytes;
  ResolveDType(job.model, &job.config);
  return job;
}

absl::Status CheckFit(const Job& job, const Config& config, const ScaleKey& key, int64_t tokens) {
  const auto ranks = static_cast<int>(key.ranks);
  const MemoryPlan plan = PlanMemory(config, job.model, MakeKvShape(config, job.model), ranks,
                                     /*ranks_on_host=*/ranks, job.weight_bytes);
  const SequenceLayout layout = {config.parallel.stripe_tokens, ranks};
  Config longest = config;
  longest.max_model_len = tokens;
  const int64_t pages = plan.MaxPages(config.kv_cache_memory_fraction);
  LONGSPAN_RETURN_IF_ERROR(FitCache(plan, pages, &longest, layout));
  if (layout.NumPages(0, tokens) * key.batch <= pages) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("the cache does not hold ", key.batch, " sequences of ", tokens,
                   " tokens at once: a rank has memory for ", pages, " pages of ",
                   config.parallel.stripe_tokens, " tokens: use a smaller --batch or --context"));
}

absl::Status CheckPoint(const Job& job, const ScaleKey& key, int64_t steps, bool ranks_are_here) {
  const int64_t tokens = key.context + ScaleTokens(key.batch, steps);
  if (key.batch > job.config.max_num_seqs) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--batch: ", key.batch, " sequences are more than `max_num_seqs` (",
        job.config.max_num_seqs, ") lets run at once: add --set max_num_seqs=", key.batch));
  }
  const int64_t most = job.config.max_model_len;
  if (most != 0 && tokens > most) {
    return absl::InvalidArgumentError(absl::StrCat("--context: a sequence gets ", tokens,
                                                   " tokens, more than `max_model_len` (", most,
                                                   "): add --set max_model_len=", tokens));
  }
  if (tokens > kMaxPosition) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--context: a sequence gets ", tokens, " tokens; there are ", kMaxPosition, " at most"));
  }
  Config config = job.config;
  LONGSPAN_RETURN_IF_ERROR(ResolveConfig(static_cast<int>(key.ranks), &config));
  // What a GPU has free is known where it is.
  if (!ranks_are_here || config.device == "cuda") return absl::OkStatus();
  return CheckFit(job, config, key, tokens);
}

}  // namespace

absl::StatusOr<std::vector<std::string>> LaunchCommand(const std::string& mpirun,
                                                       const std::string& hostfile,
                                                       int64_t most_ranks) {
  std::vector<std::string> words = absl::StrSplit(mpirun, ' ', absl::SkipWhitespace());
  if (words.empty()) return absl::InvalidArgumentError("--mpirun names no program");
  absl::StatusOr<std::string> program = FindProgram(words[0]);
  if (!program.ok()) {
    return absl::NotFoundError(absl::StrCat("--mpirun: ", program.status().message(),
                                            "; install Open MPI, or say where it is"));
  }
  words[0] = *std::move(program);
  LONGSPAN_RETURN_IF_ERROR(CheckSlots(hostfile, most_ranks, Oversubscribes(words)));
  if (!hostfile.empty()) words.insert(words.end(), {"--hostfile", hostfile});
  return words;
}

absl::StatusOr<Config> ScaleConfig(const std::string& method) {
  LONGSPAN_ASSIGN_OR_RETURN(std::vector<ConfigOverride> overrides, SetFlags());
  if (!method.empty()) overrides.push_back({"attention", method});
  return LoadConfig(absl::GetFlag(FLAGS_config), absl::GetFlag(FLAGS_model), overrides);
}

absl::StatusOr<std::map<ScaleKey, std::string>> CheckPoints(const ScaleStudy& study,
                                                            const std::set<ScaleKey>& grid,
                                                            const std::set<ScaleKey>& references,
                                                            bool ranks_are_here) {
  std::map<std::string, Job> jobs;
  for (const std::string& method : study.methods) {
    LONGSPAN_ASSIGN_OR_RETURN(jobs[method], LoadJob(method));
  }
  for (const ScaleKey& key : grid) {
    const absl::Status status = CheckPoint(jobs[key.method], key, study.steps, ranks_are_here);
    if (status.ok()) continue;
    return absl::Status(status.code(), absl::StrCat(status.message(), " (", key.ToString(), ")"));
  }
  std::map<ScaleKey, std::string> left_out;
  for (const ScaleKey& key : references) {
    const absl::Status status = CheckPoint(jobs[key.method], key, study.steps, ranks_are_here);
    if (!status.ok()) left_out[key] = std::string(status.message());
  }
  return left_out;
}

}  // namespace longspan
