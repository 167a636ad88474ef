#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <functional>
#include <iterator>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "collectives/mpi_communicator.h"
#include "kernels/base/status_macros.h"
#include "launcher/bootstrap.h"
#include "launcher/calibrate_options.h"
#include "launcher/calibrate_report.h"
#include "launcher/calibration_text.h"
#include "launcher/flags.h"
#include "launcher/progress.h"
#include "launcher/report_file.h"
#include "launcher/subcommand.h"
#include "runtime/calibration.h"
#include "runtime/clock.h"
#include "runtime/compressor.h"
#include "runtime/memory_plan.h"
#include "runtime/safetensors.h"
#include "runtime/tokenizer.h"

namespace longspan {
namespace {

std::string OutputPath(const Config& config) {
  const std::string output = absl::GetFlag(FLAGS_output);
  return output.empty() ? absl::StrCat(config.model, "/compressor.safetensors") : output;
}

absl::Status Save(const Config& config, FitMethod method, const CalibrationReport& report) {
  LONGSPAN_ASSIGN_OR_RETURN(const ModelConfig model, LoadModelConfig(config.model));
  std::vector<LayerCompressorData> layers;
  for (const CalibrationReport::Layer& layer : report.layers) {
    layers.push_back({layer.factors.query, layer.factors.key});
  }
  const std::string input = absl::GetFlag(FLAGS_input);
  return SaveCompressor(
      OutputPath(config), model, report.fingerprint, ScoreTargetName(config.esa),
      config.esa.compressed_dim, layers, FitMethodName(method),
      absl::StrCat(input.substr(input.rfind('/') + 1), ", ", report.tokens, " tokens"));
}

void PrintReport(const Config& config, const CalibrationReport& report) {
  printf("%s\nlayer  variance kept  recall\n", RecallText(report).c_str());
  for (size_t i = 0; i < report.layers.size(); ++i) {
    const CalibrationReport::Layer& layer = report.layers[i];
    printf("%5zu  %12.1f%%  %.1f%%\n", i, 100 * layer.explained, 100 * layer.recall);
  }
  printf("%s: %zu layers, %lld dimensions, fitted on %lld tokens\n", OutputPath(config).c_str(),
         report.layers.size(), static_cast<long long>(config.esa.compressed_dim),
         static_cast<long long>(report.tokens));
}

// An existing file is replaced only if it is a compressor.
absl::Status CheckOutput(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::path directory = fs::absolute(path, error).parent_path();
  if (!fs::is_directory(directory, error)) {
    return absl::NotFoundError(
        absl::StrCat("--output: there is no directory ", directory.string()));
  }
  if (access(directory.c_str(), W_OK) != 0) {
    return absl::PermissionDeniedError(
        absl::StrCat("--output: ", directory.string(), " cannot be written to"));
  }
  if (!fs::exists(path, error)) return absl::OkStatus();
  const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(path);
  if (file.ok() && file->contains("layers.0.query") && file->contains("layers.0.key")) {
    return absl::OkStatus();
  }
  return absl::AlreadyExistsError(
      absl::StrCat(path, ": exists and is no compressor; give another --output, or remove it"));
}

struct CalibrateJob {
  CalibrateOptions options;
  ProgressStyle style = ProgressStyle::kOff;
  int64_t tokens = 0;          // of the text; known to rank 0
  std::vector<FitCase> cases;  // known to rank 0

  // What can be told before anything is loaded.
  absl::StatusOr<bool> Prepare(const Config& config) {
    if (IsDummy(config)) {
      return absl::InvalidArgumentError(
          "`load_format: dummy`: random weights have nothing to calibrate; a run makes up a "
          "compressor for them");
    }
    LONGSPAN_RETURN_IF_ERROR(options.writes_compressor()
                                 ? CheckOutput(OutputPath(config))
                                 : CheckReportPath(absl::GetFlag(FLAGS_output), "output",
                                                   {{"input", absl::GetFlag(FLAGS_input)}}));
    LONGSPAN_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(config.model));
    const std::string input = absl::GetFlag(FLAGS_input);
    CalibrationText text(input, *tokenizer);
    LONGSPAN_RETURN_IF_ERROR(text.status());
    LONGSPAN_ASSIGN_OR_RETURN(const ModelConfig model, LoadModelConfig(config.model));
    LONGSPAN_ASSIGN_OR_RETURN(
        cases, CasesOf(options, config.esa.compressed_dim, model.num_kv_heads * model.head_dim));
    LONGSPAN_RETURN_IF_ERROR(CheckChoice(config, model));
    // All of the text: what is wrong with its last line must not cost a fit.
    const int64_t window = CalibrationWindow(model);
    while (true) {
      LONGSPAN_ASSIGN_OR_RETURN(const auto ids, text.NextWindow(window));
      if (ids.empty()) break;
      tokens += static_cast<int64_t>(ids.size());
    }
    if (text.replaced_sequences() > 0) {
      spdlog::warn("{}: {} ill-formed UTF-8 sequences were replaced by U+FFFD", input,
                   text.replaced_sequences());
    }
    if (tokens < kMinCalibrationWindows * window) {
      return absl::InvalidArgumentError(absl::StrCat(
          input, ": has ", tokens, " tokens, which are too few: ", kMinCalibrationWindows * window,
          " are needed, 50,000 or more are better"));
    }
    LONGSPAN_RETURN_IF_ERROR(CheckMemory(config, model));
    return true;
  }

  absl::StatusOr<int> Run(const Config& config, Communicator& communicator) const {
    if (communicator.rank() != 0) {
      LONGSPAN_RETURN_IF_ERROR(Fit(config, communicator, nullptr, nullptr, {}).status());
      return kExitOk;
    }
    LONGSPAN_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(config.model));
    CalibrationText text(absl::GetFlag(FLAGS_input), *tokenizer);
    Progress reading(style, stderr, MonotonicSeconds());
    const auto show_reading = [&](int64_t done) {
      reading.Update({.fraction = static_cast<double>(done) / static_cast<double>(tokens),
                      .prompt_tokens = done},
                     MonotonicSeconds());
    };
    std::optional<Progress> fitting;
    const auto show_fitting = [&](double share) {
      constexpr int64_t kParts = 100;
      if (!fitting) {
        reading.Clear();
        fitting.emplace(style, stderr, MonotonicSeconds(), "% of the fits");
      }
      fitting->Update(
          {.done = static_cast<int64_t>(share * kParts), .total = kParts, .fraction = share},
          MonotonicSeconds());
    };
    LONGSPAN_ASSIGN_OR_RETURN(
        const std::vector<CalibrationReport> reports,
        Fit(
            config, communicator, [&](int64_t n) { return text.NextWindow(n); }, show_reading,
            show_fitting));
    reading.Clear();
    fitting.reset();
    // The other ranks are through.
    const absl::Status told = Tell(config, reports);
    return told.ok() ? kExitOk : ReportError(told, 0);
  }

 private:
  absl::Status CheckChoice(const Config& config, const ModelConfig& model) const {
    if (!options.recall) return absl::OkStatus();
    if (Budget(config) < cases[0].dim) {
      return absl::InvalidArgumentError(
          absl::StrCat("--budget_dim ", Budget(config), " is less than ", cases[0].dim,
                       ", the fewest dimensions to try: raise it, or give smaller --dims"));
    }
    if (RecallRangesOf(config.esa, CalibrationWindow(model)).top_k == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("--recall: a trained context of ", model.max_position_embeddings,
                       " tokens leaves no top k to find; leave the flag out"));
    }
    return absl::OkStatus();
  }

  // Hours before the memory would run out.
  absl::Status CheckMemory(const Config& config, const ModelConfig& model) const {
    constexpr double kGigabyte = 1e9;
    const int64_t bytes = CalibrationRowBytes(model, config.esa, cases, tokens);
    const int64_t available = AvailableMemory();
    const std::string told = absl::StrFormat(
        "rows of the text that are kept for the fits and their recall take %.1f GB over all ranks; "
        "%.1f GB are available here",
        static_cast<double>(bytes) / kGigabyte, static_cast<double>(available) / kGigabyte);
    if (bytes > available && !LaunchedByMpirun()) {
      return absl::ResourceExhaustedError(
          absl::StrCat(told, ": use more hosts under mpirun, or the method closed_form"));
    }
    if (bytes > available / 2) spdlog::warn("{}", told);
    return absl::OkStatus();
  }

  int64_t Budget(const Config& config) const {
    return options.budget_dim.value_or(config.esa.compressed_dim);
  }

  // One report of what is to be written, or one a case.
  absl::StatusOr<std::vector<CalibrationReport>> Fit(
      const Config& config, Communicator& communicator, const NextWindow& next_window,
      const CalibrationProgress& progress,
      const std::function<void(double share)>& fit_progress) const {
    const CalibrationOptions calibration = {options.sgd, fit_progress};
    if (!options.writes_compressor()) {
      // Only rank 0 has prepared.
      LONGSPAN_ASSIGN_OR_RETURN(const ModelConfig model, LoadModelConfig(config.model));
      LONGSPAN_ASSIGN_OR_RETURN(
          const std::vector<FitCase> to_fit,
          CasesOf(options, config.esa.compressed_dim, model.num_kv_heads * model.head_dim));
      return CalibrateEach(config, communicator, next_window, progress, to_fit, calibration);
    }
    LONGSPAN_ASSIGN_OR_RETURN(
        CalibrationReport report,
        Calibrate(config, communicator, next_window, progress, options.methods[0], calibration));
    std::vector<CalibrationReport> reports;
    reports.push_back(std::move(report));
    return reports;
  }

  absl::Status Tell(const Config& config, const std::vector<CalibrationReport>& reports) const {
    if (options.writes_compressor()) {
      LONGSPAN_RETURN_IF_ERROR(Save(config, options.methods[0], reports[0]));
      PrintReport(config, reports[0]);
      return absl::OkStatus();
    }
    const CalibrationSource source = {config.model, absl::GetFlag(FLAGS_input)};
    const std::string output = absl::GetFlag(FLAGS_output);
    if (options.compares) {
      return WriteReport(FormatComparison(source, options, cases, reports), output);
    }
    const DimChoiceGoal goal = {*options.recall, Budget(config), SizeOf(ScoreKeyDType(config))};
    LONGSPAN_RETURN_IF_ERROR(
        WriteReport(FormatDimChoice(source, options, goal, cases, reports), output));
    fputs(
        "longspan: no compressor is written: the cache has one esa.compressed_dim for all layers\n",
        stderr);
    return absl::OkStatus();
  }
};

absl::StatusOr<int> RunCalibrate(const std::vector<std::string>& positional) {
  if (!positional.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("unexpected argument ", positional[0]));
  }
  if (absl::GetFlag(FLAGS_input).empty()) return absl::InvalidArgumentError("--input is needed");
  LONGSPAN_RETURN_IF_ERROR(SetFlags().status());
  CalibrateJob job;
  LONGSPAN_ASSIGN_OR_RETURN(job.options, ParseCalibrateOptions());
  LONGSPAN_ASSIGN_OR_RETURN(job.style, ParseProgressStyle(absl::GetFlag(FLAGS_progress)));
  return RunOnRanks(RankJob{[&job](const Config& config) { return job.Prepare(config); },
                            [&job](const Config& config, Communicator& communicator) {
                              return job.Run(config, communicator);
                            }});
}

}  // namespace

Subcommand CalibrateSubcommand() {
  std::vector<absl::string_view> flags = {"model", "input",    "output",   "config",
                                          "set",   "progress", "verbosity"};
  flags.insert(flags.end(), std::begin(kCalibrateFlags), std::end(kCalibrateFlags));
  return {"calibrate",
          "--model DIR --input TEXT [--output FILE] [--set esa.compressed_dim=N]\n"
          "    [--method M | --compare M,... [--dims N,...] | --recall R [--budget_dim N]]",
          "Fits the compressor of a model to a text or a JSONL file of prompts; tells each layer's "
          "recall of the exact selection.",
          std::move(flags), RunCalibrate};
}

}  // namespace longspan
