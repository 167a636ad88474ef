#include "launcher/scale_preflight.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"
#include "kernels/base/status_macros.h"
#include "launcher/flags.h"
#include "launcher/hostfile.h"
#include "launcher/rank_placement.h"
#include "runtime/chat_prompt.h"
#include "runtime/memory_plan.h"
#include "runtime/model.h"
#include "runtime/model_config.h"
#include "runtime/read_bytes.h"
#include "sharding/topk_merge.h"

namespace longspan {
namespace {

absl::Status TooFewSlots(int64_t ranks, const RankPlacement& placement) {
  const int64_t slots = *placement.slots;
  const size_t hosts = placement.hosts.size();
  return absl::InvalidArgumentError(absl::StrCat(
      "--ranks: ", ranks, " are more than the ", slots, slots == 1 ? " slot" : " slots",
      " that mpirun has on ", hosts == 1 ? placement.hosts[0] : absl::StrCat(hosts, " hosts"),
      ": name more with --hostfile; --mpirun \"mpirun --oversubscribe\" runs them all the same, as "
      "a check of correctness"));
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

absl::Status CheckFit(const Job& job, const Config& config, const ScaleKey& key, int64_t tokens,
                      int64_t ranks_here) {
  const auto ranks = static_cast<int>(key.ranks);
  const MemoryPlan plan = PlanMemory(config, job.model, MakeKvShape(config, job.model), ranks,
                                     static_cast<int>(ranks_here), job.weight_bytes);
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

absl::Status CheckPoint(const Job& job, const ScaleKey& key, int64_t steps, int64_t ranks_here) {
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
  // What a GPU has free is known where it is, and so is the memory of other machines.
  if (ranks_here == 0 || config.device == "cuda") return absl::OkStatus();
  return CheckFit(job, config, key, tokens, ranks_here);
}

using Words = absl::Span<const absl::string_view>;

// What starts ranks, and its flags for how many.
struct Launcher {
  absl::string_view name;  // mpirun.openmpi is an mpirun
  Words counts;
};
constexpr absl::string_view kMpiCounts[] = {"-n", "--n", "-np", "--np", "-c"};
constexpr absl::string_view kSlurmCounts[] = {"-n", "--ntasks"};
constexpr Launcher kLaunchers[] = {{"mpirun", kMpiCounts},
                                   {"mpiexec", kMpiCounts},
                                   {"orterun", kMpiCounts},
                                   {"prterun", kMpiCounts},
                                   {"srun", kSlurmCounts}};

// None: the program is no launcher.
Words CountFlags(absl::string_view program) {
  const absl::string_view name = program.substr(program.rfind('/') + 1);  // npos + 1 is 0
  for (const Launcher& launcher : kLaunchers) {
    absl::string_view rest = name;
    if (absl::ConsumePrefix(&rest, launcher.name) && (rest.empty() || rest[0] == '.')) {
      return launcher.counts;
    }
  }
  return {};
}

// `-n 2`, `-n2` or `--ntasks=2`, if words[at] is that; -n alone may be another flag's value.
bool StatesCount(absl::string_view flag, const std::vector<std::string>& words, size_t at) {
  absl::string_view value = words[at];
  if (!absl::ConsumePrefix(&value, flag)) return false;
  if (value.empty()) {
    if (at + 1 == words.size()) return true;
    value = words[at + 1];
  } else {
    absl::ConsumePrefix(&value, "=");
  }
  int64_t count = 0;
  return absl::SimpleAtoi(value, &count);
}

}  // namespace

absl::StatusOr<std::vector<std::string>> LaunchWords(absl::string_view mpirun) {
  const std::vector<std::string> words = absl::StrSplit(mpirun, ' ', absl::SkipWhitespace());
  if (words.empty()) return absl::InvalidArgumentError("--mpirun names no program");
  Words flags;  // words before a launcher are of another program, as in nice -n 5
  for (size_t w = 0; w < words.size(); ++w) {
    for (const absl::string_view flag : flags) {
      if (!StatesCount(flag, words, w)) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "--mpirun: leave ", flag, " out: each point starts as many ranks as --ranks says"));
    }
    if (flags.empty()) flags = CountFlags(words[w]);
  }
  return words;
}

absl::StatusOr<std::vector<std::string>> LaunchCommand(absl::string_view mpirun,
                                                       const std::string& hostfile) {
  LONGSPAN_ASSIGN_OR_RETURN(std::vector<std::string> words, LaunchWords(mpirun));
  absl::StatusOr<std::string> program = FindProgram(words[0]);
  if (!program.ok()) {
    return absl::NotFoundError(absl::StrCat("--mpirun: ", program.status().message(),
                                            "; install Open MPI, or say where it is"));
  }
  words[0] = *std::move(program);
  if (hostfile.empty()) return words;
  LONGSPAN_RETURN_IF_ERROR(CheckHostfile(hostfile));
  words.insert(words.end(), {"--hostfile", hostfile});
  return words;
}

absl::StatusOr<std::map<int64_t, int64_t>> CheckSlots(const std::vector<std::string>& launch,
                                                      const std::set<int64_t>& ranks) {
  std::map<int64_t, int64_t> here;
  LONGSPAN_ASSIGN_OR_RETURN(const bool is_open_mpi, IsOpenMpi(launch));
  if (!is_open_mpi) return here;
  // The most first: what does not run is found at once, and who does not answer is asked once.
  for (auto number = ranks.rbegin(); number != ranks.rend(); ++number) {
    LONGSPAN_ASSIGN_OR_RETURN(const std::optional<RankPlacement> placement,
                              AskPlacement(launch, *number));
    if (!placement) break;
    if (placement->is_refused) return TooFewSlots(*number, *placement);
    if (placement->ranks_here) here[*number] = *placement->ranks_here;
  }
  return here;
}

absl::Status TryLaunch(const std::vector<std::string>& launch, int64_t ranks,
                       absl::FunctionRef<ChildOrder()> order) {
  std::vector<std::string> command = launch;
  command.insert(command.end(), {"-n", absl::StrCat(ranks), OwnProgram(), "--version"});
  LONGSPAN_ASSIGN_OR_RETURN(const ChildResult child, RunChild(command, order));
  if (child.stopped) return absl::CancelledError("stopped by a signal");
  if (child.exit_code == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "--mpirun: ranks cannot be started, so no point is begun: `", absl::StrJoin(command, " "),
      "` ended with exit code ", child.exit_code, child.errors.empty() ? "" : " and said\n",
      absl::StripTrailingAsciiWhitespace(child.errors)));
}

absl::StatusOr<std::string> CheckPromptFile(const ScaleStudy& study) {
  if (study.file.empty()) return "";
  std::string text;
  if (const absl::Status read = ReadBytes(study.file, 0, -1, &text); !read.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--file: ", read.message()));
  }
  LONGSPAN_ASSIGN_OR_RETURN(const Config config, ScaleConfig(""));
  LONGSPAN_ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizer(config));
  int64_t most = 0;
  for (const ScaleKey& key : GridOf(study)) most = std::max(most, key.context * key.batch);
  const absl::StatusOr<std::vector<int32_t>> ids =
      EncodePrompt(*tokenizer, text, study.file, /*add_special_tokens=*/true, most);
  if (absl::IsOutOfRange(ids.status())) return "";  // it has more
  LONGSPAN_RETURN_IF_ERROR(ids.status());
  if (ids->empty())
    return absl::InvalidArgumentError(absl::StrCat("--file: ", study.file, " has no text"));
  if (std::ssize(*ids) == most) return "";
  return absl::StrCat(study.file, " has ", ids->size(),
                      " tokens, and the prompts of a point up to ", most, ": they repeat it");
}

absl::StatusOr<Config> ScaleConfig(const std::string& method) {
  LONGSPAN_ASSIGN_OR_RETURN(std::vector<ConfigOverride> overrides, SetFlags());
  if (!method.empty()) overrides.push_back({"attention", method});
  return LoadConfig(absl::GetFlag(FLAGS_config), absl::GetFlag(FLAGS_model), overrides);
}

absl::StatusOr<std::map<ScaleKey, std::string>> CheckPoints(
    const ScaleStudy& study, const std::set<ScaleKey>& grid, const std::set<ScaleKey>& references,
    const std::map<int64_t, int64_t>& here) {
  const auto ranks_here = [&](const ScaleKey& key) {
    const auto found = here.find(key.ranks);
    return found == here.end() ? 0 : found->second;
  };
  std::map<std::string, Job> jobs;
  for (const std::string& method : study.methods) {
    LONGSPAN_ASSIGN_OR_RETURN(jobs[method], LoadJob(method));
  }
  for (const ScaleKey& key : grid) {
    const absl::Status status = CheckPoint(jobs[key.method], key, study.steps, ranks_here(key));
    if (status.ok()) continue;
    return absl::Status(status.code(), absl::StrCat(status.message(), " (", key.ToString(), ")"));
  }
  std::map<ScaleKey, std::string> left_out;
  for (const ScaleKey& key : references) {
    const absl::Status status = CheckPoint(jobs[key.method], key, study.steps, ranks_here(key));
    if (!status.ok()) left_out[key] = std::string(status.message());
  }
  return left_out;
}

}  // namespace longspan
