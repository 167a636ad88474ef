#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "collectives/mpi_communicator.h"
#include "kernels/base/status_macros.h"
#include "launcher/bootstrap.h"
#include "launcher/flags.h"
#include "launcher/progress.h"
#include "launcher/subcommand.h"
#include "runtime/chat_prompt.h"
#include "runtime/clock.h"

namespace longspan {
namespace {

absl::StatusOr<std::string> ReadDocument(const std::string& path) {
  if (path == "-") return std::string(std::istreambuf_iterator<char>(std::cin), {});
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is a directory"));
  }
  std::ifstream file(path, std::ios::binary);
  if (!file.is_open()) return absl::NotFoundError(absl::StrCat(path, ": cannot be read"));
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// Rank 0's side of the job.
struct AskJob {
  ProgressStyle style = ProgressStyle::kOff;
  std::string question;
  std::string prompt;

  // --prompt_template wins over the config's.
  static absl::StatusOr<std::string> PromptTemplate(const Config& config) {
    std::string text = config.ask.prompt_template;
    const std::string flag = absl::GetFlag(FLAGS_prompt_template);
    std::string error;
    if (!flag.empty() && !absl::CUnescape(flag, &text, &error)) {
      return absl::InvalidArgumentError("--prompt_template: " + error);
    }
    for (const absl::string_view part : {"{document}", "{question}"}) {
      if (!absl::StrContains(text, part)) {
        return absl::InvalidArgumentError(absl::StrCat("the prompt template has no ", part));
      }
    }
    return text;
  }

  absl::StatusOr<bool> Prepare(const Config& config) {
    LONGSPAN_ASSIGN_OR_RETURN(const std::string text, PromptTemplate(config));
    const std::string path = absl::GetFlag(FLAGS_file);
    LONGSPAN_ASSIGN_OR_RETURN(const std::string document, ReadDocument(path));
    if (document.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": has no text"));
    prompt = absl::StrReplaceAll(text, {{"{document}", document}, {"{question}", question}});
    return true;
  }

  absl::StatusOr<int> Run(Engine& engine) {
    if (const absl::Status submitted = Submit(engine); !submitted.ok()) {
      LONGSPAN_RETURN_IF_ERROR(engine.Shutdown().status());
      return ReportError(submitted, 0);
    }
    LONGSPAN_RETURN_IF_ERROR(Stream(engine));
    LONGSPAN_ASSIGN_OR_RETURN(const EngineStats stats, engine.Shutdown());
    fputs(SummaryText(stats, LaunchedByMpirun()).c_str(), stderr);
    if (!StopRequested()) return kExitOk;
    fputs("longspan: stopped by a signal before the answer was complete\n", stderr);
    return kExitFailed;
  }

  absl::Status Submit(Engine& engine) {
    Request request;
    LONGSPAN_ASSIGN_OR_RETURN(request.prompt,
                              EncodePrompt(engine.tokenizer(), prompt, "the prompt"));
    std::string().swap(prompt);
    request.sampling.max_tokens = absl::GetFlag(FLAGS_max_tokens);
    request.sampling.temperature = 0;
    const std::string& stop = engine.config().ask.stop;
    if (!stop.empty()) request.sampling.stop.push_back(stop);
    return engine.Submit(std::move(request)).status();
  }

  absl::Status Stream(Engine& engine) {
    Progress progress(style, stderr, MonotonicSeconds());
    ProgressState state;  // of no total: one prompt
    while (engine.HasWork() && !StopRequested()) {
      LONGSPAN_ASSIGN_OR_RETURN(const std::vector<RequestUpdate> updates, engine.Step());
      for (const RequestUpdate& update : updates) {
        if (update.prefilled < update.prompt_tokens) {
          state.prompt_tokens = update.prefilled;
          state.fraction =
              static_cast<double>(update.prefilled) / static_cast<double>(update.prompt_tokens);
          progress.Update(state, MonotonicSeconds());
        } else {
          progress.Clear();
          fwrite(update.text.data(), 1, update.text.size(), stdout);
          fflush(stdout);
        }
      }
    }
    progress.Clear();
    fputs("\n", stdout);
    if (fflush(stdout) != 0 || ferror(stdout)) {
      return absl::DataLossError("the answer could not be written to standard output");
    }
    return absl::OkStatus();
  }
};

absl::StatusOr<int> Ask(const std::vector<std::string>& positional) {
  AskJob job;
  if (positional.size() != 1) {
    return absl::InvalidArgumentError("takes one question, in quotes");
  }
  job.question = positional[0];
  if (absl::GetFlag(FLAGS_file).empty()) return absl::InvalidArgumentError("--file is needed");
  if (absl::GetFlag(FLAGS_max_tokens) < 1) {
    return absl::InvalidArgumentError("--max_tokens must be at least 1");
  }
  LONGSPAN_RETURN_IF_ERROR(SetFlags().status());
  LONGSPAN_ASSIGN_OR_RETURN(job.style, ParseProgressStyle(absl::GetFlag(FLAGS_progress)));
  return RunOnRanks(Job{[&job](const Config& config) { return job.Prepare(config); },
                        [&job](Engine& engine) { return job.Run(engine); }});
}

}  // namespace

Subcommand AskSubcommand() {
  return {
      "ask",
      "--model DIR --file BOOK.txt \"QUESTION\" [--config FILE] [--set key=value]...",
      "Answers one question about a text, as it is decoded, without sampling.",
      {"model", "file", "config", "set", "max_tokens", "prompt_template", "progress", "verbosity"},
      Ask};
}

}  // namespace longspan
