#include "launcher/eval_plan.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "collectives/mpi_communicator.h"
#include "kernels/base/status_macros.h"
#include "launcher/bench_report.h"
#include "launcher/eval_report.h"
#include "launcher/eval_settings.h"
#include "launcher/flags.h"
#include "launcher/report_file.h"
#include "runtime/answer_json.h"
#include "runtime/chat_prompt.h"
#include "runtime/clock.h"
#include "runtime/compressor.h"
#include "runtime/model.h"
#include "runtime/read_bytes.h"

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

// Of an evaluation's directory.
constexpr const char* kEvalFiles[] = {"cases.jsonl", "costs.jsonl", "eval.json",
                                      "lock",        "report.html", "summary.json"};

// Those of earlier runs, which stay. `path` may be empty.
absl::StatusOr<nlohmann::ordered_json> ReadSelections(const EvalOptions& options) {
  const std::string& path = options.selection_stats;
  std::vector<NamedPath> kept = {{"config", absl::GetFlag(FLAGS_config)},
                                 {"haystack", options.haystack},
                                 {"prompts", options.prompts}};
  for (const TaskRequest& request : options.tasks) kept.push_back({"task", request.file});
  for (const char* name : kEvalFiles) {
    kept.push_back({"output", absl::StrCat(options.output, "/", name)});
  }
  LONGSPAN_RETURN_IF_ERROR(CheckReportPath(path, "selection_stats", kept));
  std::error_code error;
  if (path.empty() || !std::filesystem::is_regular_file(path, error)) {
    return nlohmann::ordered_json();
  }
  std::string text;
  LONGSPAN_RETURN_IF_ERROR(ReadBytes(path, 0, -1, &text));
  auto json = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_object()) return json;
  return absl::InvalidArgumentError(absl::StrCat(
      "--selection_stats ", path, ": is there, and no statistics: name a new file, or delete it"));
}

}  // namespace

absl::StatusOr<bool> EvalPlan::Prepare(const Config& config) {
  LONGSPAN_ASSIGN_OR_RETURN(selections_, ReadSelections(options_));
  LONGSPAN_ASSIGN_OR_RETURN(tokenizer_, LoadTokenizer(config));
  LONGSPAN_ASSIGN_OR_RETURN(model_, LoadModelConfig(config.model));
  LONGSPAN_RETURN_IF_ERROR(OpenSources(config));
  LONGSPAN_RETURN_IF_ERROR(CheckLengths(config));
  LONGSPAN_RETURN_IF_ERROR(OpenStore(config));
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
  if (!PendingMethods().empty()) return true;
  if (!options_.selection_stats.empty()) {
    absl::FPrintF(stderr, "longspan: nothing was left to do: no --selection_stats are added\n");
  }
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
  material_->stride = options_.stride;
  if (options_.chat) {
    LONGSPAN_ASSIGN_OR_RETURN(const ChatTemplate chat, LoadTriedChatTemplate(config.model));
    LONGSPAN_ASSIGN_OR_RETURN(material_->chat, MakeChatFrame(chat));
  }
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
  Progress progress(options_.progress, stderr, MonotonicSeconds(), "tasks checked");
  ProgressState state;
  state.total = static_cast<int64_t>(sources_.size());
  for (const CaseSource& source : sources_) {
    const std::vector<CaseId> grid = GridOf(source, options_);
    for (size_t i = 0; i < grid.size(); ++i) {
      const absl::StatusOr<int64_t> answer = source.measure(grid[i]);
      if (!answer.ok()) {
        return absl::Status(answer.status().code(),
                            absl::StrCat("--length ", grid[i].length, ": ", source.label, ": ",
                                         answer.status().message()));
      }
      const int64_t needed = grid[i].length + *answer;
      max_model_len_ = std::max(max_model_len_, needed);
      if (config.max_model_len != 0 && needed > config.max_model_len) {
        return absl::InvalidArgumentError(absl::StrCat(
            "--length ", grid[i].length, ": with ", *answer, " tokens for an answer of ",
            source.label, " it exceeds `max_model_len` ", config.max_model_len,
            "; use a smaller length, or a larger max_model_len"));
      }
      const double share = static_cast<double>(i) / static_cast<double>(grid.size());
      state.fraction = (static_cast<double>(state.done) + share) / static_cast<double>(state.total);
      progress.Update(state, MonotonicSeconds());
    }
    ++state.done;
  }
  return absl::OkStatus();
}

absl::StatusOr<Config> EvalPlan::CheckMethod(const Config& config, const EvalMethod& method) const {
  LONGSPAN_ASSIGN_OR_RETURN(Config changed,
                            MethodConfig(config, method, max_model_len_, trained_context()));
  ModelConfig stretched = model_;
  absl::Status status = StretchRope(changed, &stretched);
  std::error_code ignored;
  if (NeedsCompressor(changed) && !std::filesystem::exists(CompressorPath(changed), ignored)) {
    status.Update(absl::NotFoundError(
        absl::StrCat("there is no ", CompressorPath(changed), "; `longspan calibrate` makes one")));
  }
  if (status.ok()) return changed;
  return absl::Status(status.code(),
                      absl::StrCat("--method ", method.name, ": ", status.message()));
}

absl::Status EvalPlan::OpenStore(const Config& config) {
  EvalSubject subject = {config, model_};
  for (const EvalMethod* method : options_.methods) {
    LONGSPAN_ASSIGN_OR_RETURN(subject.methods.emplace_back(), CheckMethod(config, *method));
  }
  const bool selects =
      std::any_of(subject.methods.begin(), subject.methods.end(),
                  [](const Config& changed) { return changed.attention == Attention::kEsa; });
  if (!options_.selection_stats.empty() && !selects) {
    return absl::InvalidArgumentError(
        "--selection_stats: no method of --method selects; leave the flag out");
  }
  LONGSPAN_ASSIGN_OR_RETURN(subject.weights, MapWeights(config, model_));
  const std::string fingerprint = ModelFingerprint(model_, subject.weights);
  for (const Config& changed : subject.methods) {
    if (!NeedsCompressor(changed)) continue;
    LONGSPAN_RETURN_IF_ERROR(LoadCompressor(CompressorPath(changed), model_, fingerprint,
                                            ScoreTargetName(changed.esa),
                                            changed.esa.compressed_dim)
                                 .status());
  }
  for (size_t i = 0; i < sources_.size(); ++i) {
    subject.tasks.push_back(sources_[i].label);
    subject.files.push_back(options_.tasks[i].file);
    subject.cases_of_a_method += static_cast<int64_t>(GridOf(sources_[i], options_).size());
  }
  LONGSPAN_ASSIGN_OR_RETURN(const auto description, DescribeEval(options_, subject));
  LONGSPAN_ASSIGN_OR_RETURN(store_, ResultStore::Open(options_.output, description));
  return absl::OkStatus();
}

std::vector<int64_t> EvalPlan::PendingMethods() const {
  std::vector<int64_t> methods;
  for (size_t i = 0; i < pending_.size(); ++i) {
    if (!pending_[i].empty()) methods.push_back(static_cast<int64_t>(i));
  }
  return methods;
}

absl::Status EvalPlan::RunMethod(int64_t method, int64_t ranks, Engine& engine,
                                 absl::Status* refusal) {
  MethodRun run = {std::string(options_.methods[method]->name), engine, ranks};
  const bool selects = engine.config().attention == Attention::kEsa;
  if (selects && !options_.selection_stats.empty()) run.selections = &selections_[run.method];
  absl::Status status = RunCases(pending_[method], run, store_.get(), &*progress_, refusal);
  progress_->Clear();
  if (!status.ok()) {
    if (const absl::Status written = Report(); !written.ok()) {
      absl::FPrintF(stderr, "longspan: %s\n", written.message());
    }
    return status;
  }
  LONGSPAN_ASSIGN_OR_RETURN(const EngineStats stats, engine.Shutdown());
  absl::FPrintF(stderr, "method        %s\n%s", run.method, SummaryText(stats, LaunchedByMpirun()));
  return absl::OkStatus();
}

absl::Status EvalPlan::Report() {
  LONGSPAN_RETURN_IF_ERROR(WriteEvalReport(store_->data(), options_.output));
  if (!selections_.empty()) {
    LONGSPAN_RETURN_IF_ERROR(
        WriteReport(DumpJson(selections_, 2) + "\n", options_.selection_stats));
  }
  return WriteReport(EvalTable(store_->data()), "");
}

}  // namespace longspan
