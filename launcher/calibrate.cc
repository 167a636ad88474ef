#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "launcher/bootstrap.h"
#include "launcher/flags.h"
#include "launcher/progress.h"
#include "launcher/subcommand.h"
#include "nlohmann/json.hpp"
#include "runtime/calibration.h"
#include "runtime/clock.h"
#include "runtime/compressor.h"
#include "runtime/safetensors.h"
#include "runtime/tokenizer.h"

namespace longspan {
namespace {

// The calibration text as token ids, read a piece at a time: lines of a text file, or, of a .jsonl
// file, the `prompt` (also in `body`) or `text` of each line.
class CalibrationText {
 public:
  CalibrationText(const std::string& path, const Tokenizer& tokenizer)
      : path_(path),
        jsonl_(absl::EndsWith(path, ".jsonl")),
        file_(path, std::ios::binary),
        tokenizer_(tokenizer) {}

  absl::Status status() const {
    if (std::filesystem::is_directory(path_)) {
      return absl::InvalidArgumentError(absl::StrCat(path_, ": is a directory"));
    }
    if (file_.is_open()) return absl::OkStatus();
    return absl::NotFoundError(absl::StrCat(path_, ": cannot be read"));
  }

  // Of what was read so far.
  int64_t replaced_sequences() const { return notes_.replaced; }

  absl::StatusOr<std::vector<int32_t>> NextWindow(int64_t max_tokens) {
    while (static_cast<int64_t>(tokens_.size()) < max_tokens && file_) {
      LONGSPAN_ASSIGN_OR_RETURN(const std::string piece, NextPiece());
      LONGSPAN_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                                tokenizer_.Encode(piece, /*add_special_tokens=*/false, &notes_));
      tokens_.insert(tokens_.end(), ids.begin(), ids.end());
    }
    const auto end = tokens_.begin() + std::min<int64_t>(max_tokens, tokens_.size());
    std::vector<int32_t> window(tokens_.begin(), end);
    tokens_.erase(tokens_.begin(), end);
    return window;
  }

 private:
  static constexpr size_t kPieceBytes = 65536;

  // Some tens of kilobytes, up to the end of a line where one is near, so that words are not cut;
  // empty at the end. A text may have no line breaks at all: then only UTF-8 characters are not
  // cut. A line of JSON is read whole.
  absl::StatusOr<std::string> NextPiece() {
    if (jsonl_) return NextJsonLine();
    std::string piece(kPieceBytes, '\0');
    file_.read(piece.data(), kPieceBytes);
    piece.resize(file_.gcount());
    for (int c; piece.size() < 2 * kPieceBytes && !piece.empty() && piece.back() != '\n' &&
                (c = file_.get()) != EOF;) {
      piece.push_back(static_cast<char>(c));
    }
    for (int i = 0; i < 3 && (file_.peek() & 0xC0) == 0x80; ++i) {
      piece.push_back(static_cast<char>(file_.get()));
    }
    return piece;
  }

  absl::StatusOr<std::string> NextJsonLine() {
    std::string line;
    do {
      if (!std::getline(file_, line)) return std::string();
      ++line_number_;
    } while (line.find_first_not_of(" \t\r") == line.npos);
    LONGSPAN_ASSIGN_OR_RETURN(const std::string text, TextOfLine(line));
    return text + "\n";
  }

  absl::StatusOr<std::string> TextOfLine(const std::string& line) const {
    const nlohmann::json parsed = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    const nlohmann::json& body =
        parsed.is_object() && parsed.contains("body") ? parsed["body"] : parsed;
    for (const char* key : {"prompt", "text"}) {
      if (body.is_object() && body.contains(key) && body[key].is_string()) return body[key];
    }
    return absl::InvalidArgumentError(absl::StrCat(
        path_, ":", line_number_, ": expected a JSON object with `prompt` or `text`, a string"));
  }

  std::string path_;
  bool jsonl_;
  std::ifstream file_;
  const Tokenizer& tokenizer_;
  int64_t line_number_ = 0;
  std::vector<int32_t> tokens_;
  EncodeNotes notes_;
};

std::string OutputPath(const Config& config) {
  const std::string output = absl::GetFlag(FLAGS_output);
  return output.empty() ? absl::StrCat(config.model, "/compressor.safetensors") : output;
}

absl::Status Save(const Config& config, const CalibrationReport& report) {
  LONGSPAN_ASSIGN_OR_RETURN(const ModelConfig model, LoadModelConfig(config.model));
  std::vector<LayerCompressorData> layers;
  for (const CalibrationReport::Layer& layer : report.layers) {
    layers.push_back({layer.factors.query, layer.factors.key});
  }
  const std::string input = absl::GetFlag(FLAGS_input);
  return SaveCompressor(
      OutputPath(config), model, report.fingerprint, ScoreTargetName(config.esa),
      config.esa.compressed_dim, layers, "closed form",
      absl::StrCat(input.substr(input.rfind('/') + 1), ", ", report.tokens, " tokens"));
}

void PrintReport(const Config& config, const CalibrationReport& report) {
  printf("layer  variance kept  recall of the exact top %lld of %lld\n",
         static_cast<long long>(report.recall_top_k), static_cast<long long>(report.recall_keys));
  for (size_t i = 0; i < report.layers.size(); ++i) {
    const CalibrationReport::Layer& layer = report.layers[i];
    printf("%5zu  %12.1f%%  ", i, 100 * layer.factors.explained);
    printf("%.1f%%\n", 100 * layer.recall);
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
  ProgressStyle style = ProgressStyle::kOff;
  int64_t tokens = 0;  // of the text; known to rank 0

  // What can be told before anything is loaded.
  absl::StatusOr<bool> Prepare(const Config& config) {
    if (IsDummy(config)) {
      return absl::InvalidArgumentError(
          "`load_format: dummy`: random weights have nothing to calibrate; a run makes up a "
          "compressor for them");
    }
    LONGSPAN_RETURN_IF_ERROR(CheckOutput(OutputPath(config)));
    LONGSPAN_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(config.model));
    const std::string input = absl::GetFlag(FLAGS_input);
    CalibrationText text(input, *tokenizer);
    LONGSPAN_RETURN_IF_ERROR(text.status());
    LONGSPAN_ASSIGN_OR_RETURN(const ModelConfig model, LoadModelConfig(config.model));
    const int64_t width = model.num_kv_heads * model.head_dim;
    if (config.esa.compressed_dim > width) {
      return absl::InvalidArgumentError(
          absl::StrCat("esa.compressed_dim ", config.esa.compressed_dim, " must be at most ", width,
                       ", the width of the concatenated keys"));
    }
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
    return true;
  }

  absl::StatusOr<int> Run(const Config& config, Communicator& communicator) const {
    if (communicator.rank() != 0) {
      LONGSPAN_RETURN_IF_ERROR(Calibrate(config, communicator, nullptr, nullptr).status());
      return kExitOk;
    }
    LONGSPAN_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(config.model));
    CalibrationText text(absl::GetFlag(FLAGS_input), *tokenizer);
    Progress progress(style, stderr, MonotonicSeconds());
    const auto show = [&](int64_t done) {
      progress.Update({.fraction = static_cast<double>(done) / static_cast<double>(tokens),
                       .prompt_tokens = done},
                      MonotonicSeconds());
    };
    LONGSPAN_ASSIGN_OR_RETURN(
        const CalibrationReport report,
        Calibrate(
            config, communicator, [&](int64_t n) { return text.NextWindow(n); }, show));
    progress.Clear();
    // The other ranks are through.
    if (const absl::Status saved = Save(config, report); !saved.ok()) return ReportError(saved, 0);
    PrintReport(config, report);
    return kExitOk;
  }
};

absl::StatusOr<int> RunCalibrate(const std::vector<std::string>& positional) {
  if (!positional.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("unexpected argument ", positional[0]));
  }
  if (absl::GetFlag(FLAGS_input).empty()) return absl::InvalidArgumentError("--input is needed");
  LONGSPAN_RETURN_IF_ERROR(SetFlags().status());
  CalibrateJob job;
  LONGSPAN_ASSIGN_OR_RETURN(job.style, ParseProgressStyle(absl::GetFlag(FLAGS_progress)));
  return RunOnRanks(RankJob{[&job](const Config& config) { return job.Prepare(config); },
                            [&job](const Config& config, Communicator& communicator) {
                              return job.Run(config, communicator);
                            }});
}

}  // namespace

Subcommand CalibrateSubcommand() {
  return {"calibrate",
          "--model DIR --input TEXT [--output FILE] [--set esa.compressed_dim=N]",
          "Fits the compressor of a model to a text or a JSONL file of prompts; tells each layer's "
          "recall of the exact selection.",
          {"model", "input", "output", "config", "set", "progress", "verbosity"},
          RunCalibrate};
}

}  // namespace longspan
