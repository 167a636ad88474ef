#include <spdlog/spdlog.h>

#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "collectives/mpi_communicator.h"
#include "kernels/base/status_macros.h"
#include "launcher/batch_runner.h"
#include "launcher/bootstrap.h"
#include "launcher/flags.h"
#include "launcher/progress.h"
#include "launcher/report_file.h"
#include "launcher/subcommand.h"
#include "runtime/batch.h"
#include "runtime/chat_prompt.h"
#include "runtime/clock.h"

ABSL_FLAG(
    std::string, selection_stats, "",
    "A file for statistics of what each layer selected, JSON: overlap of steps and of layers, "
    "distances, shares of the ranks, and, on CPUs, recall of the exact selection");

namespace longspan {
namespace {

// What can be told before anything is loaded.
absl::Status CheckSelectionStats(const Config& config) {
  const std::string path = absl::GetFlag(FLAGS_selection_stats);
  if (path.empty()) return absl::OkStatus();
  if (config.attention != Attention::kEsa) {
    return absl::InvalidArgumentError(
        absl::StrCat("--selection_stats: `attention: ", ConfigValue(config, "attention"),
                     "` selects nothing; leave the flag out, or set `attention: esa`"));
  }
  return CheckReportPath(path, "selection_stats",
                         {{"config", absl::GetFlag(FLAGS_config)},
                          {"input", absl::GetFlag(FLAGS_input)},
                          {"output", absl::GetFlag(FLAGS_output)}});
}

void WarnOfGaps(const SelectionStats& stats) {
  if (stats.num_selections() == 0) {
    spdlog::warn(
        "--selection_stats: nothing was counted, as no context had more than esa.top_k tokens to "
        "select from");
  } else if (!stats.no_recall().empty()) {
    spdlog::warn("--selection_stats: recall is null: {}", stats.no_recall());
  }
}

// Rank 0's side of the job.
struct GenerateJob {
  ProgressStyle style = ProgressStyle::kOff;
  std::unique_ptr<BatchInput> input;
  std::unique_ptr<BatchOutput> output;
  std::optional<ChatTemplate> chat_template;  // if a line is a chat

  absl::StatusOr<bool> Prepare(const Config& config) {
    LONGSPAN_RETURN_IF_ERROR(CheckSelectionStats(config));
    LONGSPAN_ASSIGN_OR_RETURN(input, BatchInput::Open(absl::GetFlag(FLAGS_input)));
    LONGSPAN_ASSIGN_OR_RETURN(output, BatchOutput::Open(absl::GetFlag(FLAGS_output), *input));
    bool work = false, chats = false;
    for (const BatchLine& line : input->lines()) {
      if (output->IsAnswered(line.custom_id)) continue;
      work = true;
      chats |= line.is_chat;
    }
    if (chats) {
      LONGSPAN_ASSIGN_OR_RETURN(chat_template, LoadTriedChatTemplate(config.model));
    }
    if (work) return true;
    absl::FPrintF(
        stderr, "requests      %d, nothing left to do: %s answers each custom_id%s\n",
        input->lines().size(), absl::GetFlag(FLAGS_output),
        absl::GetFlag(FLAGS_selection_stats).empty() ? "" : "; no --selection_stats written");
    return false;
  }

  absl::StatusOr<int> Run(Engine& engine) {
    const std::string selection_stats = absl::GetFlag(FLAGS_selection_stats);
    if (!selection_stats.empty()) engine.CountSelections();
    Progress progress(style, stderr, MonotonicSeconds());
    LONGSPAN_ASSIGN_OR_RETURN(const BatchCounts counts,
                              AnswerBatch(*input, chat_template ? &*chat_template : nullptr,
                                          *output, engine, progress, StopRequested));
    progress.Clear();
    LONGSPAN_ASSIGN_OR_RETURN(const EngineStats stats, engine.Shutdown());
    const std::string requests = absl::StrFormat(
        "requests      %d: %d answered, %d with errors, %d answered before\n",
        input->lines().size(), counts.answered, counts.failed, counts.answered_before);
    fputs((requests + SummaryText(stats, LaunchedByMpirun())).c_str(), stderr);
    if (!selection_stats.empty()) {
      const absl::Status written = WriteReport(engine.selection_stats()->ToJson(), selection_stats);
      if (!written.ok()) return ReportError(written, 0);
      WarnOfGaps(*engine.selection_stats());
    }
    if (counts.failed > 0) {
      absl::FPrintF(stderr, "longspan: first of %d errors, which stand in %s: %s\n", counts.failed,
                    absl::GetFlag(FLAGS_output), counts.first_error);
    }
    if (counts.stopped) {
      fputs("longspan: stopped by a signal; the same command goes on where this run ended\n",
            stderr);
      return kExitFailed;
    }
    return counts.failed > 0 ? kExitSomeErrors : kExitOk;
  }
};

absl::StatusOr<int> Generate(const std::vector<std::string>& positional) {
  if (!positional.empty()) {
    return absl::InvalidArgumentError("takes no arguments but flags, not " + positional[0]);
  }
  if (absl::GetFlag(FLAGS_input).empty() || absl::GetFlag(FLAGS_output).empty()) {
    return absl::InvalidArgumentError("--input and --output are needed");
  }
  LONGSPAN_RETURN_IF_ERROR(SetFlags().status());
  GenerateJob job;
  LONGSPAN_ASSIGN_OR_RETURN(job.style, ParseProgressStyle(absl::GetFlag(FLAGS_progress)));
  return RunOnRanks(Job{[&job](const Config& config) { return job.Prepare(config); },
                        [&job](Engine& engine) { return job.Run(engine); }});
}

}  // namespace

Subcommand GenerateSubcommand() {
  return {"generate",
          "--config FILE --input IN.jsonl --output OUT.jsonl [--model DIR] [--set key=value]...\n"
          "    [--selection_stats FILE]",
          "Answers OpenAI batch requests. Run again, it answers what is not answered yet.\n      "
          "Exit code: 0 all answered, 3 some requests have errors, 1 the run failed, 2 usage.",
          {"config", "input", "output", "model", "set", "selection_stats", "progress", "verbosity"},
          Generate};
}

}  // namespace longspan
