#include <algorithm>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <iterator>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "collectives/mpi_communicator.h"
#include "eval/haystack.h"
#include "eval/prompt.h"
#include "eval/result_store.h"
#include "kernels/base/status_macros.h"
#include "launcher/bootstrap.h"
#include "launcher/eval_options.h"
#include "launcher/eval_report.h"
#include "launcher/eval_runner.h"
#include "launcher/flags.h"
#include "launcher/subcommand.h"
#include "runtime/model.h"

// `longspan eval`: the cases of several tasks, by several methods one after the other.
namespace longspan {
namespace {

std::vector<CaseId> GridOf(const CaseSource& source, const EvalOptions& options) {
  std::vector<std::optional<double>> depths = {std::nullopt};
  if (source.sweeps_depth) depths.assign(options.depths.begin(), options.depths.end());
  const int64_t cases =
      source.most_cases == 0 ? options.cases : std::min(options.cases, source.most_cases);
  std::vector<CaseId> grid;
  for (const int64_t length : options.lengths) {
    for (const std::optional<double>& depth : depths) {
      for (int64_t i = 0; i < cases; ++i) grid.push_back({length, depth, i});
    }
  }
  return grid;
}

// Rank 0's side: what is to be run, and where results go.
class EvalPlan {
 public:
  explicit EvalPlan(const EvalOptions& options) : options_(options) {}

  // What can be told before anything is loaded. False: all cases have been run.
  absl::StatusOr<bool> Prepare(const Config& config);

  // The next method with pending cases; -1: there is none.
  int64_t NextMethod() const {
    const auto found = std::find_if(pending_.begin(), pending_.end(),
                                    [](const auto& cases) { return !cases.empty(); });
    return found == pending_.end() ? -1 : found - pending_.begin();
  }
  int64_t max_model_len() const { return max_model_len_; }

  absl::StatusOr<int> RunMethod(int64_t method, Engine& engine, absl::Status* refusal);
  absl::Status Report();

 private:
  absl::Status OpenSources(const Config& config);
  // That the shortest prompts hold their facts, and the longest fit with their answers.
  absl::Status CheckLengths(const Config& config);
  absl::Status CheckMethods(const Config& config) const;

  const EvalOptions& options_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::optional<Haystack> haystack_;
  std::optional<PromptMaterial> material_;
  std::deque<CaseSource> sources_;
  int64_t max_model_len_ = 0;
  nlohmann::ordered_json settings_;
  std::unique_ptr<ResultStore> store_;
  std::vector<std::vector<PendingCase>> pending_;  // [methods]
  std::optional<EvalProgress> progress_;
};

absl::StatusOr<bool> EvalPlan::Prepare(const Config& config) {
  LONGSPAN_ASSIGN_OR_RETURN(tokenizer_, LoadTokenizer(config));
  LONGSPAN_RETURN_IF_ERROR(OpenSources(config));
  LONGSPAN_RETURN_IF_ERROR(CheckLengths(config));
  LONGSPAN_RETURN_IF_ERROR(CheckMethods(config));
  LONGSPAN_ASSIGN_OR_RETURN(settings_, EvalSettings(options_, config));
  LONGSPAN_ASSIGN_OR_RETURN(store_, ResultStore::Open(options_.output, settings_));
  for (const EvalMethod* method : options_.methods) {
    std::vector<PendingCase>& pending = pending_.emplace_back();
    for (const CaseSource& source : sources_) {
      for (const CaseId& id : GridOf(source, options_)) {
        if (store_->Has(source.label, std::string(method->name), id)) continue;
        pending.push_back({&source, id});
      }
    }
  }
  progress_.emplace(options_.progress, pending_);
  if (NextMethod() >= 0) return true;
  LONGSPAN_RETURN_IF_ERROR(Report());
  return false;
}

absl::Status EvalPlan::OpenSources(const Config& config) {
  LONGSPAN_ASSIGN_OR_RETURN(haystack_, Haystack::Load(options_.haystack, *tokenizer_));
  LONGSPAN_RETURN_IF_ERROR(haystack_->CheckHolds(options_.lengths.back()));
  LONGSPAN_ASSIGN_OR_RETURN(PromptForm form,
                            MakePromptForm(config.ask.prompt_template, config.ask.stop));
  LONGSPAN_ASSIGN_OR_RETURN(auto prompts, ReadPrompts(options_.prompts));
  material_.emplace(PromptMaterial{*tokenizer_, *haystack_, std::move(form), std::move(prompts)});
  for (const TaskRequest& request : options_.tasks) {
    LONGSPAN_ASSIGN_OR_RETURN(CaseSource source,
                              OpenTask(request, options_.task_options, *material_));
    for (const CaseSource& other : sources_) {
      if (other.label != source.label) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("--task: two files are of ", source.label, "; evaluate them apart"));
    }
    sources_.push_back(std::move(source));
  }
  return absl::OkStatus();
}

absl::Status EvalPlan::CheckLengths(const Config& config) {
  for (const CaseSource& source : sources_) {
    const std::vector<CaseId> grid = GridOf(source, options_);
    for (const CaseId& id : {grid.front(), grid.back()}) {
      const absl::StatusOr<EvalCase> made = source.make(id);
      if (!made.ok()) {
        return absl::Status(made.status().code(),
                            absl::StrCat("--length ", id.length, ": ", source.label, ": ",
                                         made.status().message()));
      }
      const int64_t needed = id.length + made->max_tokens;
      max_model_len_ = std::max(max_model_len_, needed);
      if (config.max_model_len == 0 || needed <= config.max_model_len) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("--length ", id.length, ": with ", made->max_tokens,
                       " tokens for an answer of ", source.label, " it exceeds `max_model_len` ",
                       config.max_model_len, "; use a smaller length, or a larger max_model_len"));
    }
  }
  return absl::OkStatus();
}

absl::Status EvalPlan::CheckMethods(const Config& config) const {
  for (const EvalMethod* method : options_.methods) {
    LONGSPAN_ASSIGN_OR_RETURN(const Config changed, MethodConfig(config, *method, max_model_len_));
    std::error_code ignored;
    if (changed.attention != Attention::kEsa || changed.esa.compression != Compression::kLowRank ||
        IsDummy(changed) || std::filesystem::exists(CompressorPath(changed), ignored)) {
      continue;
    }
    return absl::NotFoundError(absl::StrCat("--method ", method->name, ": there is no ",
                                            CompressorPath(changed),
                                            "; `longspan calibrate` makes one"));
  }
  return absl::OkStatus();
}

absl::StatusOr<int> EvalPlan::RunMethod(int64_t method, Engine& engine, absl::Status* refusal) {
  const std::string name(options_.methods[method]->name);
  LONGSPAN_RETURN_IF_ERROR(
      RunCases(pending_[method], name, engine, store_.get(), &*progress_, refusal));
  pending_[method].clear();
  if (!refusal->ok()) pending_.clear();
  progress_->Clear();
  LONGSPAN_ASSIGN_OR_RETURN(const EngineStats stats, engine.Shutdown());
  absl::FPrintF(stderr, "method        %s\n%s", name, SummaryText(stats, LaunchedByMpirun()));
  return kExitOk;
}

absl::Status EvalPlan::Report() {
  LONGSPAN_RETURN_IF_ERROR(WriteEvalReport(settings_, store_->results(), options_.output));
  fputs(EvalTable(store_->results()).c_str(), stdout);
  return absl::OkStatus();
}

// What rank 0 tells the others before each method.
struct NextRun {
  int64_t method = -1;  // of EvalOptions::methods; -1: that was all
  int64_t max_model_len = 0;
};

// An evaluation on all its ranks.
class EvalJob {
 public:
  explicit EvalJob(const EvalOptions& options) : options_(options), plan_(options) {}

  absl::StatusOr<bool> Prepare(const Config& config) { return plan_.Prepare(config); }

  absl::StatusOr<int> Run(const Config& config, Communicator& communicator) {
    const bool is_first = communicator.rank() == 0;
    absl::Status refusal;
    for (bool is_ready = false;; is_ready = true) {
      NextRun next;
      if (is_first) next = {plan_.NextMethod(), plan_.max_model_len()};
      LONGSPAN_RETURN_IF_ERROR(communicator.Broadcast("eval.method", &next, sizeof(next), 0));
      if (next.method < 0) break;
      LONGSPAN_ASSIGN_OR_RETURN(
          Config changed, MethodConfig(config, *options_.methods[next.method], next.max_model_len));
      changed.kv_cache_prefix_caching = "false";  // no two cases begin alike
      LONGSPAN_ASSIGN_OR_RETURN(const auto engine, Engine::Create(changed, &communicator));
      if (!is_ready) CatchStopSignals();
      const absl::StatusOr<int> ended = RunOrAbort(communicator, [&]() -> absl::StatusOr<int> {
        if (is_first) return plan_.RunMethod(next.method, *engine, &refusal);
        LONGSPAN_RETURN_IF_ERROR(engine->RunWorker());
        return kExitOk;
      });
      LONGSPAN_RETURN_IF_ERROR(ended.status());
    }
    if (!is_first) return kExitOk;
    refusal.Update(plan_.Report());
    return refusal.ok() ? int{kExitOk} : ReportError(refusal, 0);
  }

 private:
  const EvalOptions& options_;
  EvalPlan plan_;  // of rank 0
};

absl::StatusOr<int> Eval(const std::vector<std::string>& positional) {
  if (!positional.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("unexpected argument ", positional[0]));
  }
  LONGSPAN_RETURN_IF_ERROR(SetFlags().status());
  LONGSPAN_ASSIGN_OR_RETURN(const EvalOptions options, EvalOptionsFromFlags());
  EvalJob job(options);
  return RunOnRanks(RankJob{[&job](const Config& config) { return job.Prepare(config); },
                            [&job](const Config& config, Communicator& communicator) {
                              return job.Run(config, communicator);
                            }});
}

std::string Summary() {
  const auto name = [](std::string* out, const auto& named) { absl::StrAppend(out, named.name); };
  return absl::StrCat(
      "Asks a model what it must find in long prompts, by several methods of attention side by "
      "side: ",
      absl::StrJoin(EvalMethods(), ", ", name),
      ".\n      DIR gets cases.jsonl, summary.json and report.html. Run again, it goes on where it "
      "stopped.\n      Exit code: 0 all cases were run, 1 the run failed or was interrupted, 2 "
      "usage.");
}

}  // namespace

Subcommand EvalSubcommand() {
  static const auto* summary = new std::string(Summary());
  return {"eval",
          "--config FILE --task NAMES --method NAMES --output DIR [--length TOKENS] [--depth "
          "SHARES] [--cases N]\n          [--haystack TEXT] [--prompts JSON] [--needles N] "
          "[--asked N] [--seed N] "
          "[--model DIR] [--set key=value]...",
          *summary,
          {"config", "model", "set", "task", "method", "length", "depth", "cases", "needles",
           "asked", "haystack", "prompts", "seed", "output", "progress", "verbosity"},
          Eval};
}

}  // namespace longspan
