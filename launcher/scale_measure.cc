#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "collectives/hosts.h"
#include "kernels/base/status_macros.h"
#include "launcher/bench_runs.h"
#include "launcher/bootstrap.h"
#include "launcher/engine_runs.h"
#include "launcher/flags.h"
#include "launcher/scale_flags.h"
#include "launcher/scale_point.h"
#include "launcher/subcommand.h"
#include "runtime/chat_prompt.h"
#include "runtime/engine.h"
#include "runtime/gpu_model.h"
#include "runtime/job_shape.h"
#include "runtime/model_config.h"
#include "runtime/read_bytes.h"
#include "sharding/sequence_layout.h"
#include "sharding/topk_merge.h"

// `scale point`: one point of a study, on the ranks that it is started on.
namespace longspan {
namespace {

constexpr uint64_t kSeed = 1;
constexpr int64_t kWarmupChunks = 2;

struct PointOptions {
  ScaleKey key;
  int64_t steps = 1;  // decoded tokens that are timed
  int64_t runs = 1;
  std::string file;  // whose text the prompts are; empty: random tokens
  BenchOptions bench;

  int64_t generated() const { return ScaleTokens(key.batch, steps); }
};

// The text's tokens, again and again, cut into prompts.
absl::StatusOr<Prompts> TextPrompts(const Engine& engine, const PointOptions& options,
                                    const std::string& text) {
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                            EncodePrompt(engine.tokenizer(), text, options.file));
  if (ids.empty()) return absl::InvalidArgumentError(absl::StrCat(options.file, ": has no text"));
  Prompts prompts;
  size_t next = 0;
  for (int64_t b = 0; b < options.key.batch; ++b) {
    std::vector<int32_t>& prompt = prompts.emplace_back();
    for (int64_t t = 0; t < options.key.context; ++t) prompt.push_back(ids[next++ % ids.size()]);
  }
  return prompts;
}

// The first of the threads of a core.
int FirstThread(int cpu) {
  std::ifstream file(
      absl::StrCat("/sys/devices/system/cpu/cpu", cpu, "/topology/thread_siblings_list"));
  int first = cpu;
  return file >> first ? first : cpu;
}

// Cores that the ranks of each rank's host share: whatever one of them may run on. Collective.
absl::StatusOr<std::vector<int64_t>> SharedCores(Communicator& communicator,
                                                 const std::vector<std::string>& hosts) {
  cpu_set_t threads, mine;
  CPU_ZERO(&threads);
  CPU_ZERO(&mine);
  if (sched_getaffinity(0, sizeof(threads), &threads) != 0) {
    return absl::UnavailableError(
        absl::StrCat("the cores of this rank cannot be told: ", strerror(errno)));
  }
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &threads)) CPU_SET(FirstThread(cpu), &mine);
  }
  std::vector<cpu_set_t> all(communicator.size());
  LONGSPAN_RETURN_IF_ERROR(communicator.AllGather("host.cores", &mine, all.data(), sizeof(mine)));
  std::vector<int64_t> cores;
  for (size_t r = 0; r < hosts.size(); ++r) {
    cpu_set_t shared;
    CPU_ZERO(&shared);
    for (size_t other = 0; other < hosts.size(); ++other) {
      if (hosts[other] == hosts[r]) CPU_OR(&shared, &shared, &all[other]);
    }
    cores.push_back(CPU_COUNT(&shared));
  }
  return cores;
}

// What differs from the defaults.
std::map<std::string, std::string> Settings(const Config& config) {
  std::map<std::string, std::string> settings;
  const std::string yaml = ConfigToYaml(config);
  for (const absl::string_view line : absl::StrSplit(yaml, '\n', absl::SkipEmpty())) {
    std::pair<std::string, std::string> setting = absl::StrSplit(line, absl::MaxSplits(": ", 1));
    // YAML quotes a string as JSON does.
    const auto text = nlohmann::json::parse(setting.second, nullptr, /*allow_exceptions=*/false);
    if (text.is_string()) setting.second = text;
    settings.insert(std::move(setting));
  }
  return settings;
}

// One point, on all ranks.
class PointJob {
 public:
  explicit PointJob(const PointOptions& options) : options_(options) {}

  absl::StatusOr<bool> Prepare(const Config& config) {
    if (!options_.file.empty()) {
      LONGSPAN_RETURN_IF_ERROR(ReadBytes(options_.file, 0, -1, &text_));
    }
    LONGSPAN_ASSIGN_OR_RETURN(point_.machine,
                              PrepareBench(options_.bench, config, options_.key.batch,
                                           options_.key.context + options_.generated()));
    return true;
  }

  absl::StatusOr<int> Run(const Config& config, Communicator& communicator) {
    LONGSPAN_ASSIGN_OR_RETURN(point_.hosts, HostNames(communicator));
    LONGSPAN_ASSIGN_OR_RETURN(point_.slots, SharedCores(communicator, point_.hosts));
    Config adapted = config;
    adapted.kv_cache_prefix_caching = "false";  // a second run is to compute its prompts too
    LONGSPAN_ASSIGN_OR_RETURN(const auto engine, Engine::Create(adapted, &communicator));
    CatchStopSignals();
    return RunOrAbort(communicator, [&]() -> absl::StatusOr<int> {
      if (communicator.rank() == 0) return Drive(*engine, communicator.size());
      LONGSPAN_RETURN_IF_ERROR(engine->RunWorker());
      return kExitOk;
    });
  }

 private:
  absl::StatusOr<int> Drive(Engine& engine, int ranks) {
    point_.key = options_.key;
    point_.key.ranks = ranks;
    absl::Status refusal;
    if (const absl::StatusOr<Prompts> prompts = MakePrompts(engine); prompts.ok()) {
      LONGSPAN_RETURN_IF_ERROR(Measure(engine, *prompts, &refusal));
    } else {
      refusal = prompts.status();
    }
    if (refusal.ok()) LONGSPAN_RETURN_IF_ERROR(Describe(engine));
    LONGSPAN_ASSIGN_OR_RETURN(const EngineStats stats, engine.Shutdown());
    point_.peak_bytes = stats.peak_memory_bytes;
    if (refusal.ok()) {
      refusal = WriteReport(
          ToJson(point_).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n",
          options_.bench.output);
    }
    return refusal.ok() ? int{kExitOk} : ReportError(refusal, 0);
  }

  absl::StatusOr<Prompts> MakePrompts(const Engine& engine) {
    point_.prompt = options_.file.empty() ? "random" : options_.file;
    if (!options_.file.empty()) return TextPrompts(engine, options_, text_);
    return RandomPrompts(kSeed, options_.key.batch, options_.key.context, engine.vocab_size());
  }

  // A prompt to warm up with, then the runs that count.
  absl::Status Measure(Engine& engine, const Prompts& prompts, absl::Status* refusal) {
    const int64_t warmup =
        std::min(options_.key.context, kWarmupChunks * engine.config().prefill_chunk_tokens);
    const double of_run =
        static_cast<double>((options_.key.context + options_.generated()) * options_.key.batch);
    EngineRuns runs(engine, options_.bench.progress,
                    static_cast<double>(warmup) + of_run * static_cast<double>(options_.runs),
                    1 + options_.key.batch * options_.runs);
    const std::vector<int32_t> beginning(prompts[0].begin(), prompts[0].begin() + warmup);
    LONGSPAN_RETURN_IF_ERROR(runs.Run({.prompts = {beginning}}).status());
    LONGSPAN_RETURN_IF_ERROR(engine.TakePhases().status());
    for (int64_t i = 0; i < options_.runs && runs.refusal().ok(); ++i) {
      LONGSPAN_ASSIGN_OR_RETURN(RunTimes times, runs.Run({.prompts = prompts,
                                                          .steps = options_.steps,
                                                          .logprobs = kComparedTokens,
                                                          .top_logprobs = kComparedAlternatives}));
      if (runs.refusal().ok()) Keep(std::move(times));
    }
    *refusal = runs.refusal();
    LONGSPAN_ASSIGN_OR_RETURN(point_.phases, engine.TakePhases());
    return absl::OkStatus();
  }

  void Keep(RunTimes times) {
    double prefill = 0;
    for (const double chunk : times.chunks) prefill += chunk;
    point_.prefill_s.push_back(prefill);
    const auto append = [](const std::vector<double>& more, std::vector<double>* all) {
      all->insert(all->end(), more.begin(), more.end());
    };
    append(times.chunks, &point_.chunks_s);
    append(times.first_tokens, &point_.first_token_s);
    append(times.decodes, &point_.decode_s);
    point_.outputs.clear();
    for (Completion& completion : times.completions) {
      point_.outputs.push_back({std::move(completion.tokens), std::move(completion.logprobs)});
    }
  }

  absl::Status Describe(const Engine& engine) {
    const Config& config = engine.config();
    // All ranks have just read it.
    LONGSPAN_ASSIGN_OR_RETURN(const ModelConfig model, LoadModelConfig(config.model));
    if (config.device == "cuda") {
      LONGSPAN_ASSIGN_OR_RETURN(const std::vector<std::string> gpus, DescribeGpus());
      point_.slots.assign(point_.slots.size(), static_cast<int64_t>(gpus.size()));
    }
    const ModelShape shape = MakeModelShape(config, model, static_cast<int>(point_.key.ranks));
    const auto batch = static_cast<double>(options_.key.batch);
    point_.runs = options_.runs;
    point_.prefill_work = PromptWork(shape, options_.key.context) * batch;
    point_.decode_work = DecodeWork(shape, options_.key.context, options_.key.batch);
    point_.memory = engine.memory_plan();
    const SequenceLayout layout = {config.parallel.stripe_tokens,
                                   static_cast<int>(point_.key.ranks)};
    point_.cache_bytes = options_.key.batch * point_.memory.page *
                         layout.NumPages(0, options_.key.context + options_.generated());
    point_.version = ReportVersion();
    point_.config = Settings(config);
    point_.key.method = ConfigValue(config, "attention");
    point_.digest = OutputsDigest(point_.outputs);
    return absl::OkStatus();
  }

  PointOptions options_;
  std::string text_;
  ScalePoint point_;
};

absl::StatusOr<PointOptions> OptionsFromFlags() {
  PointOptions options;
  LONGSPAN_ASSIGN_OR_RETURN(options.key.context,
                            ParseNumber("context", absl::GetFlag(FLAGS_context), kMaxPosition));
  LONGSPAN_ASSIGN_OR_RETURN(options.key.batch,
                            ParseNumber("batch", absl::GetFlag(FLAGS_batch), kMostScaleRuns));
  LONGSPAN_ASSIGN_OR_RETURN(options.steps, ScaleSteps());
  LONGSPAN_ASSIGN_OR_RETURN(options.runs, ScaleRuns());
  if (const std::string methods = absl::GetFlag(FLAGS_method); !methods.empty()) {
    LONGSPAN_ASSIGN_OR_RETURN(const std::vector<std::string> names, ParseMethods(methods));
    if (names.size() > 1) return absl::InvalidArgumentError("--method must be one, of one point");
    absl::SetFlag(&FLAGS_set, absl::StrCat("attention=", names[0]));
  }
  LONGSPAN_RETURN_IF_ERROR(SetFlags().status());
  LONGSPAN_ASSIGN_OR_RETURN(options.file, ScaleFile());
  options.bench.output = absl::GetFlag(FLAGS_output);
  if (options.bench.output == "-") options.bench.output.clear();
  LONGSPAN_ASSIGN_OR_RETURN(options.bench.progress,
                            ParseProgressStyle(absl::GetFlag(FLAGS_progress)));
  return options;
}

absl::StatusOr<int> MeasurePoint(const std::vector<std::string>& positional) {
  if (!positional.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("unexpected argument ", positional[0]));
  }
  LONGSPAN_ASSIGN_OR_RETURN(const PointOptions options, OptionsFromFlags());
  PointJob job(options);
  return RunOnRanks(RankJob{[&job](const Config& config) { return job.Prepare(config); },
                            [&job](const Config& config, Communicator& communicator) {
                              return job.Run(config, communicator);
                            }});
}

}  // namespace

Subcommand ScalePointSubcommand() {
  return {"scale point",
          "[--config FILE] [--model DIR] [--set key=value]... [--context TOKENS] [--batch N] "
          "[--method NAME]\n          [--decode N] [--repeat N] [--file TEXT] [--output FILE]",
          "Measures one point of a scaling study on the ranks that it is started on: prompts, then "
          "tokens behind\n      them. One line of JSON goes to standard output, or to --output.",
          {"config", "model", "set", "context", "batch", "method", "decode", "repeat", "file",
           "output", "progress", "verbosity"},
          MeasurePoint};
}

}  // namespace longspan
