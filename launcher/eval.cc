#include <array>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "eval/result_store.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "launcher/bootstrap.h"
#include "launcher/eval_options.h"
#include "launcher/eval_plan.h"
#include "launcher/eval_report.h"
#include "launcher/flags.h"
#include "launcher/report_file.h"
#include "launcher/subcommand.h"
#include "runtime/answer_json.h"

// `longspan eval`: the cases of several tasks, by several methods one after the other.
namespace longspan {
namespace {

// What rank 0 tells the others.
struct Agenda {
  int64_t max_model_len = 0, trained_context = 0;
  int64_t count = 0;
  std::array<int64_t, 32> methods = {};  // `count` of them: indices into EvalOptions::methods
};

// An evaluation on all its ranks.
class EvalJob {
 public:
  explicit EvalJob(const EvalOptions& options) : options_(options), plan_(options) {}

  absl::StatusOr<bool> Prepare(const Config& config) { return plan_.Prepare(config); }

  absl::StatusOr<int> Run(const Config& config, Communicator& communicator) {
    LONGSPAN_ASSIGN_OR_RETURN(const Agenda agenda, ShareAgenda(communicator));
    const auto load = [&](int64_t i) {
      return LoadMethod(config, agenda, agenda.methods[i], communicator);
    };
    // What does not load or fit is told before the first case. The first method's engine stays.
    std::unique_ptr<Engine> engine;
    for (int64_t i = agenda.count - 1; i >= 0; --i) {
      engine.reset();
      LONGSPAN_ASSIGN_OR_RETURN(engine, load(i));
    }
    CatchStopSignals();
    absl::Status refusal;
    for (int64_t i = 0; i < agenda.count; ++i) {
      if (i > 0) {
        auto loaded = load(i);
        if (!loaded.ok()) return ReportFirst(loaded.status(), communicator);
        engine = *std::move(loaded);
      }
      LONGSPAN_RETURN_IF_ERROR(
          RunMethod(agenda.methods[i], communicator, *engine, &refusal).status());
      engine.reset();
      bool goes_on = refusal.ok();
      LONGSPAN_RETURN_IF_ERROR(
          communicator.Broadcast("eval.goes_on", &goes_on, sizeof(goes_on), 0));
      if (!goes_on) break;
    }
    if (communicator.rank() != 0) return kExitOk;
    refusal.Update(plan_.Report());
    return refusal.ok() ? int{kExitOk} : ReportError(refusal, 0);
  }

 private:
  absl::StatusOr<Agenda> ShareAgenda(Communicator& communicator) {
    Agenda agenda;
    if (communicator.rank() == 0) {
      const std::vector<int64_t> methods = plan_.PendingMethods();
      LONGSPAN_CHECK(methods.size() <= agenda.methods.size());
      agenda = {plan_.max_model_len(), plan_.trained_context(),
                static_cast<int64_t>(methods.size())};
      std::copy(methods.begin(), methods.end(), agenda.methods.begin());
    }
    LONGSPAN_RETURN_IF_ERROR(communicator.Broadcast("eval.agenda", &agenda, sizeof(agenda), 0));
    return agenda;
  }

  absl::StatusOr<std::unique_ptr<Engine>> LoadMethod(const Config& config, const Agenda& agenda,
                                                     int64_t method, Communicator& communicator) {
    LONGSPAN_ASSIGN_OR_RETURN(Config changed,
                              MethodConfig(config, *options_.methods[method], agenda.max_model_len,
                                           agenda.trained_context));
    changed.kv_cache_prefix_caching = "false";  // no two cases begin alike
    return Engine::Create(changed, &communicator);
  }

  absl::StatusOr<int> RunMethod(int64_t method, Communicator& communicator, Engine& engine,
                                absl::Status* refusal) {
    return RunOrAbort(communicator, [&]() -> absl::StatusOr<int> {
      LONGSPAN_RETURN_IF_ERROR(communicator.rank() == 0
                                   ? plan_.RunMethod(method, communicator.size(), engine, refusal)
                                   : engine.RunWorker());
      return kExitOk;
    });
  }

  // An error that all ranks have, once there is something to report.
  absl::Status ReportFirst(const absl::Status& status, Communicator& communicator) {
    if (communicator.rank() != 0) return status;
    if (const absl::Status written = plan_.Report(); !written.ok()) ReportError(written, 0);
    return status;
  }

  const EvalOptions& options_;
  EvalPlan plan_;  // of rank 0
};

absl::StatusOr<int> Eval(const std::vector<std::string>& positional) {
  if (!positional.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("unexpected argument ", positional[0], "; `eval report` is another"));
  }
  LONGSPAN_RETURN_IF_ERROR(SetFlags().status());
  LONGSPAN_ASSIGN_OR_RETURN(const EvalOptions options, EvalOptionsFromFlags());
  EvalJob job(options);
  return RunOnRanks(RankJob{[&job](const Config& config) { return job.Prepare(config); },
                            [&job](const Config& config, Communicator& communicator) {
                              return job.Run(config, communicator);
                            }});
}

absl::StatusOr<int> Report(const std::vector<std::string>& positional) {
  if (positional.size() != 1) {
    return absl::InvalidArgumentError("takes the directory of an evaluation, and nothing else");
  }
  const std::string format = absl::GetFlag(FLAGS_format);
  if (format != "table" && format != "markdown" && format != "json") {
    return absl::InvalidArgumentError("--format must be table, markdown or json");
  }
  const absl::StatusOr<EvalData> data = ResultStore::Read(positional[0]);
  if (!data.ok()) return ReportError(data.status(), 0);
  if (const absl::Status written = WriteEvalReport(*data, positional[0]); !written.ok()) {
    return ReportError(written, 0);
  }
  const std::string text = format == "json"       ? DumpJson(SummaryJson(*data), 2) + "\n"
                           : format == "markdown" ? EvalMarkdown(*data)
                                                  : EvalTable(*data);
  if (const absl::Status written = WriteReport(text, ""); !written.ok()) {
    return ReportError(written, 0);
  }
  return kExitOk;
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
  return {
      "eval",
      "--config FILE --task NAMES --method NAMES --output DIR [--length TOKENS] [--depth "
      "SHARES] [--cases N]\n          [--haystack TEXT] [--prompts JSON] [--chat] [--stride "
      "TOKENS] [--needles N] [--asked N] [--seed N]\n          [--selection_stats FILE] [--model "
      "DIR] [--set key=value]...",
      *summary,
      {"config", "model", "set", "task", "method", "length", "depth", "cases", "needles", "asked",
       "haystack", "prompts", "chat", "stride", "seed", "output", "selection_stats", "progress",
       "verbosity"},
      Eval};
}

Subcommand EvalReportSubcommand() {
  return {"eval report",
          "DIR [--format table|markdown|json]",
          "Prints the tables of an evaluation, and makes its summary.json and report.html anew.",
          {"format", "verbosity"},
          Report};
}

}  // namespace longspan
