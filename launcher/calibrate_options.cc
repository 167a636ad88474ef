#include "launcher/calibrate_options.h"

#include <algorithm>
#include <limits>
#include <string>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"
#include "launcher/flags.h"

ABSL_FLAG(std::string, compare, "",
          "Methods, separated by commas, of which each layer's recall is told instead of writing a "
          "compressor: closed_form, pca, sgd, sgd_mlp (core-hours where keys are 1,024 wide)");
ABSL_FLAG(std::string, dims, "",
          "With --compare or --recall: numbers of compressed dimensions to try, separated by "
          "commas; by default 16 to 256 in powers of two, up to the width of the keys");
ABSL_FLAG(std::optional<double>, recall, std::nullopt,
          "Chooses each layer's compressed dimensions such that the mean recall is this, from 0 to "
          "1, or the best that the budget allows; tells the choice, and writes nothing");
ABSL_FLAG(std::optional<int64_t>, budget_dim, std::nullopt,
          "With --recall: compressed dimensions that layers may have on average; by default "
          "esa.compressed_dim");
ABSL_FLAG(double, sgd_learning_rate, longspan::SgdOptions().learning_rate,
          "Of the fits by gradient descent (Adam)");
ABSL_FLAG(int64_t, sgd_batch, longspan::SgdOptions().batch,
          "Tokens of a batch, whose queries are compared with all of its keys");
ABSL_FLAG(int64_t, sgd_epochs, longspan::SgdOptions().epochs, "Times that each token is used");
ABSL_FLAG(int64_t, sgd_seed, 0, "Of the initial weights and the order of tokens");

namespace longspan {
namespace {

constexpr int64_t kMostDims = 1 << 20;
constexpr int64_t kMostBatch = 4096;  // a step holds its square of dot products twice

absl::StatusOr<SgdOptions> ParseSgd() {
  SgdOptions sgd;
  sgd.learning_rate = absl::GetFlag(FLAGS_sgd_learning_rate);
  if (!(sgd.learning_rate > 0 && sgd.learning_rate <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--sgd_learning_rate must be above 0 and at most 1, not ", sgd.learning_rate));
  }
  LONGSPAN_ASSIGN_OR_RETURN(
      sgd.batch,
      ParseNumber("sgd_batch", absl::StrCat(absl::GetFlag(FLAGS_sgd_batch)), kMostBatch));
  LONGSPAN_ASSIGN_OR_RETURN(
      sgd.epochs,
      ParseNumber("sgd_epochs", absl::StrCat(absl::GetFlag(FLAGS_sgd_epochs)), 1 << 20));
  if (absl::GetFlag(FLAGS_sgd_seed) < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--sgd_seed must not be negative, as ", absl::GetFlag(FLAGS_sgd_seed), " is"));
  }
  sgd.seed = static_cast<uint64_t>(absl::GetFlag(FLAGS_sgd_seed));
  return sgd;
}

absl::StatusOr<std::vector<FitMethod>> ParseFitMethods(absl::string_view flag,
                                                       absl::string_view text) {
  std::vector<FitMethod> methods;
  for (const absl::string_view name : absl::StrSplit(text, ',')) {
    const absl::StatusOr<FitMethod> method = ParseFitMethod(name);
    if (!method.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--", flag, ": ", std::string(method.status().message())));
    }
    if (std::find(methods.begin(), methods.end(), *method) != methods.end()) {
      return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", name, " stands twice"));
    }
    methods.push_back(*method);
  }
  return methods;
}

// What cannot be asked for together.
absl::Status CheckTask(const CalibrateOptions& options) {
  const auto refuse = [](absl::string_view message) { return absl::InvalidArgumentError(message); };
  if (options.compares && options.recall)
    return refuse("--compare and --recall exclude each other");
  if (options.compares && !absl::GetFlag(FLAGS_method).empty()) {
    return refuse("--compare names the methods itself: leave out --method");
  }
  if (!options.compares && options.methods.size() > 1) {
    return refuse("--method takes one method; --compare takes several");
  }
  if (options.recall && !(*options.recall > 0 && *options.recall <= 1)) {
    return refuse("--recall must be above 0 and at most 1");
  }
  if (options.budget_dim && !options.recall) return refuse("--budget_dim needs --recall");
  if (options.sgd != SgdOptions() &&
      std::none_of(options.methods.begin(), options.methods.end(), NeedsRows)) {
    return refuse("--sgd_* flags are of the methods sgd and sgd_mlp, of which none is asked for");
  }
  if (!options.compares && !IsLinear(options.methods[0])) {
    return refuse(
        "--method sgd_mlp: a compressor holds two matrices a layer, and kernels multiply by them; "
        "two-layer maps have no place there. --compare sgd_mlp tells what they would gain");
  }
  if (!options.writes_compressor()) return absl::OkStatus();
  if (!options.dims.empty()) {
    return refuse("--dims needs --compare or --recall; a compressor has esa.compressed_dim");
  }
  if (options.format != ReportFormat::kTable) return refuse("--format needs --compare or --recall");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<CalibrateOptions> ParseCalibrateOptions() {
  CalibrateOptions options;
  const std::string compare = absl::GetFlag(FLAGS_compare);
  const std::string method = absl::GetFlag(FLAGS_method);
  options.compares = !compare.empty();
  LONGSPAN_ASSIGN_OR_RETURN(
      options.methods, options.compares
                           ? ParseFitMethods("compare", compare)
                           : ParseFitMethods("method", method.empty() ? "closed_form" : method));
  if (const std::string dims = absl::GetFlag(FLAGS_dims); !dims.empty()) {
    LONGSPAN_ASSIGN_OR_RETURN(options.dims, ParseNumbers("dims", dims, kMostDims));
    std::sort(options.dims.begin(), options.dims.end());
    options.dims.erase(std::unique(options.dims.begin(), options.dims.end()), options.dims.end());
  }
  options.recall = absl::GetFlag(FLAGS_recall);
  if (const std::optional<int64_t> budget = absl::GetFlag(FLAGS_budget_dim)) {
    LONGSPAN_ASSIGN_OR_RETURN(options.budget_dim,
                              ParseNumber("budget_dim", absl::StrCat(*budget), kMostDims));
  }
  LONGSPAN_ASSIGN_OR_RETURN(options.format, ParseReportFormat(absl::GetFlag(FLAGS_format)));
  LONGSPAN_ASSIGN_OR_RETURN(options.sgd, ParseSgd());
  LONGSPAN_RETURN_IF_ERROR(CheckTask(options));
  return options;
}

absl::StatusOr<std::vector<FitCase>> CasesOf(const CalibrateOptions& options,
                                             int64_t compressed_dim, int64_t width) {
  std::vector<int64_t> dims = options.dims;
  if (options.writes_compressor()) {
    dims = {compressed_dim};
  } else if (dims.empty()) {
    for (const int64_t dim : kUsualDims) {
      if (dim <= width) dims.push_back(dim);
    }
    if (dims.empty()) dims = {width};
  }
  if (dims.back() > width) {
    return absl::InvalidArgumentError(absl::StrCat(
        options.writes_compressor() ? "esa.compressed_dim" : "--dims", " ", dims.back(),
        " must be at most ", width, ", the width of the concatenated keys"));
  }
  std::vector<FitCase> cases;
  for (const FitMethod method : options.methods) {
    for (const int64_t dim : dims) cases.push_back({method, dim});
  }
  return cases;
}

}  // namespace longspan
