#include <algorithm>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "collectives/mpi_communicator.h"
#include "kernels/base/status_macros.h"
#include "launcher/bench_gpu.h"
#include "launcher/bench_report.h"
#include "launcher/bench_runs.h"
#include "launcher/bootstrap.h"
#include "launcher/flags.h"
#include "launcher/subcommand.h"
#include "runtime/config.h"
#include "runtime/model_config.h"
#include "sharding/topk_merge.h"

namespace longspan {
namespace {

// `longspan bench NAME`.
struct Benchmark {
  absl::string_view name;
  bool takes_groups;
  absl::StatusOr<int> (*run)(const BenchOptions& options);
};
constexpr Benchmark kBenchmarks[] = {{"kernels", true, BenchKernels},
                                     {"collectives", false, BenchCollectives},
                                     {"layer", false, BenchLayer},
                                     {"decode", false, BenchDecode},
                                     {"prefill", false, BenchPrefill}};

// `bench serve` has flags of its own, so it is a subcommand of its own.
std::string Names() {
  return absl::StrJoin(kBenchmarks, ", ",
                       [](std::string* out, const Benchmark& benchmark) {
                         absl::StrAppend(out, benchmark.name);
                       }) +
         ", serve";
}

absl::StatusOr<const Benchmark*> FindBenchmark(const std::vector<std::string>& positional) {
  if (positional.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("takes what to measure: ", Names()));
  }
  if (positional[0] == "serve") {
    return absl::InvalidArgumentError("`bench serve` takes its flags behind both words");
  }
  const auto* benchmark = std::find_if(std::begin(kBenchmarks), std::end(kBenchmarks),
                                       [&](const Benchmark& b) { return b.name == positional[0]; });
  if (benchmark == std::end(kBenchmarks)) {
    return absl::InvalidArgumentError(
        absl::StrCat("unknown benchmark ", positional[0], "; there are ", Names()));
  }
  if (positional.size() > 1 && !benchmark->takes_groups) {
    return absl::InvalidArgumentError(absl::StrCat("unexpected argument ", positional[1]));
  }
  return benchmark;
}

constexpr int64_t kMostRuns = 1'000'000;

absl::StatusOr<BenchOptions> OptionsFromFlags() {
  BenchOptions options;
  LONGSPAN_ASSIGN_OR_RETURN(options.contexts,
                            ParseNumbers("context", absl::GetFlag(FLAGS_context), kMaxPosition));
  LONGSPAN_ASSIGN_OR_RETURN(options.batch,
                            ParseNumber("batch", absl::GetFlag(FLAGS_batch), kMostRuns));
  options.repeat = absl::GetFlag(FLAGS_repeat);
  LONGSPAN_RETURN_IF_ERROR(
      ParseNumber("repeat", absl::StrCat(options.repeat.value_or(1)), kMostRuns).status());
  LONGSPAN_ASSIGN_OR_RETURN(options.format, ParseReportFormat(absl::GetFlag(FLAGS_format)));
  LONGSPAN_ASSIGN_OR_RETURN(options.progress, ParseProgressStyle(absl::GetFlag(FLAGS_progress)));
  LONGSPAN_RETURN_IF_ERROR(SetFlags().status());
  options.output = absl::GetFlag(FLAGS_output);
  return options;
}

absl::StatusOr<int> Bench(const std::vector<std::string>& positional) {
  LONGSPAN_ASSIGN_OR_RETURN(const Benchmark* benchmark, FindBenchmark(positional));
  LONGSPAN_ASSIGN_OR_RETURN(BenchOptions options, OptionsFromFlags());
  options.groups.assign(positional.begin() + 1, positional.end());
  return benchmark->run(options);
}

// The default shape, or that of the model that --config or --model names.
absl::StatusOr<BenchShape> KernelShape() {
  const std::string path = absl::GetFlag(FLAGS_config);
  const std::string directory = absl::GetFlag(FLAGS_model);
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<ConfigOverride> overrides, SetFlags());
  if (path.empty() && directory.empty()) {
    if (overrides.empty()) return BenchShape();
    return absl::InvalidArgumentError("--set needs --config or --model");
  }
  LONGSPAN_ASSIGN_OR_RETURN(Config config, LoadConfig(path, directory, overrides));
  LONGSPAN_RETURN_IF_ERROR(ResolveConfig(/*num_ranks=*/1, &config));
  LONGSPAN_ASSIGN_OR_RETURN(const ModelConfig model, LoadModelConfig(config.model));
  config.device = "cuda";
  if (config.dtype == "auto") config.dtype = "bfloat16";
  const BenchShape shape = MakeBenchShape(config, model, /*ranks=*/1);
  if (shape.selects()) return shape;
  return absl::InvalidArgumentError(
      "bench kernels is about selections: it needs `attention: esa` with an `esa.top_k` above 0");
}

absl::Status MeasureKernels(const BenchOptions& options) {
  LONGSPAN_RETURN_IF_ERROR(CheckReportPath(options.output));
  BenchReport report;
  report.benchmark = "kernels";
  LONGSPAN_ASSIGN_OR_RETURN(report.shape, KernelShape());
  LONGSPAN_ASSIGN_OR_RETURN(report.machine, MeasureGpu());
  LONGSPAN_ASSIGN_OR_RETURN(report.rows, MeasureGpuKernels(report.shape, options));
  return FinishBench(options, std::move(report));
}

}  // namespace

absl::StatusOr<int> BenchKernels(const BenchOptions& options) {
  if (LaunchedByMpirun()) {
    return absl::InvalidArgumentError("kernels are measured on one GPU, without mpirun");
  }
  const absl::Status status = MeasureKernels(options);
  return status.ok() ? int{kExitOk} : ReportError(status, 0);
}

Subcommand BenchSubcommand() {
  return {"bench",
          "kernels|collectives|layer|decode|prefill [--model DIR] [--config FILE] [--set "
          "key=value]...\n      "
          "    [--context TOKENS,...] [--batch N] [--repeat N] [--format table|csv|json] "
          "[--output FILE]",
          "Measures, beside the rates of copies and matrix products on the same device: kernels of "
          "the GPU\n      (of Llama 3 8B if no model is named; groups of them by name: "
          "bench kernels decode), what ranks\n      say to each other, one layer, a decoded token, "
          "or a prompt of random tokens. Results go to\n      standard output, or to --output.",
          {"model", "config", "set", "context", "batch", "repeat", "format", "output", "progress",
           "verbosity"},
          Bench};
}

}  // namespace longspan
