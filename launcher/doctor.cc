#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "collectives/hosts.h"
#include "collectives/mpi_communicator.h"
#include "kernels/base/status_macros.h"
#include "kernels/linear.h"
#include "launcher/bootstrap.h"
#include "launcher/flags.h"
#include "launcher/subcommand.h"
#include "runtime/chat_prompt.h"
#include "runtime/compressor.h"
#include "runtime/config.h"
#include "runtime/dummy_model.h"
#include "runtime/gpu_model.h"
#include "runtime/memory_plan.h"
#include "runtime/model.h"
#include "runtime/tokenizer.h"

namespace longspan {
namespace {

// Findings, a line each, as they are made.
class Report {
 public:
  void Good(absl::string_view topic, absl::string_view text) { Print("ok", topic, text); }
  void Bad(absl::string_view topic, absl::string_view text) {
    Print("!!", topic, text);
    all_good_ = false;
  }
  void Bad(absl::string_view topic, const absl::Status& status) { Bad(topic, status.message()); }
  bool all_good() const { return all_good_; }

 private:
  static void Print(absl::string_view mark, absl::string_view topic, absl::string_view text) {
    absl::PrintF("%s  %-11s %s\n", mark, topic, text);
  }
  bool all_good_ = true;
};

struct World {
  int ranks = 1;
  int ranks_on_host = 1;
  int64_t available = AvailableMemory();  // to the rank that has least
};

// Memory of the rank that has least of it. Collective.
absl::StatusOr<int64_t> LeastAvailable(Communicator& communicator, int ranks_on_host) {
  const int64_t mine = AvailableMemory() / ranks_on_host;
  std::vector<int64_t> all(communicator.size());
  LONGSPAN_RETURN_IF_ERROR(
      communicator.AllGather("doctor.memory", &mine, all.data(), sizeof(mine)));
  return *std::min_element(all.begin(), all.end());
}

void ReportRanks(Communicator& communicator, const std::vector<std::string>& hosts,
                 Report* report) {
  const std::set<std::string> names(hosts.begin(), hosts.end());
  report->Good("ranks", absl::StrCat(communicator.size(), " under mpirun, on ", names.size(),
                                     names.size() == 1 ? " host: " : " hosts: ",
                                     absl::StrJoin(names, ", ")));
}

void CheckHost(const World& world, Report* report) {
  cpu_set_t set;
  CPU_ZERO(&set);
  const int cores = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 0;
  std::string text = absl::StrCat(cores == 0 ? "unknown" : absl::StrCat(cores),
                                  cores == 1 ? " core" : " cores", ", ", KernelSet());
  if (const std::string type = MissedCoreType(); !type.empty()) {
    absl::StrAppend(&text, "; OpenBLAS does not know them: set OPENBLAS_CORETYPE=", type);
  }
  if (cores > 0 && world.ranks_on_host > cores) {
    report->Good("cores", absl::StrCat(text, "; ", world.ranks_on_host,
                                       " ranks share them: a rank computes on one thread"));
  } else {
    report->Good("cores", text);
  }
  const int64_t total =
      static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<int64_t>(sysconf(_SC_PAGESIZE));
  report->Good("memory",
               absl::StrCat(FormatBytes(AvailableMemory()), " available of ", FormatBytes(total)));
}

// Of the first line that begins with `key`.
std::string ValueIn(const std::filesystem::path& path, absl::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    absl::string_view rest = line;
    if (absl::ConsumePrefix(&rest, key)) {
      return std::string(absl::StripLeadingAsciiWhitespace(rest));
    }
  }
  return "unknown";
}

void CheckGpus(Report* report) {
  std::vector<std::string> models;
  std::error_code error;
  const std::filesystem::directory_iterator gpus("/proc/driver/nvidia/gpus", error);
  for (const auto& gpu : gpus) models.push_back(ValueIn(gpu.path() / "information", "Model:"));
  if (models.empty()) return report->Good("GPUs", "none");
#ifdef LONGSPAN_CUDA
  const auto gpus_in_use = DescribeGpus();
  if (!gpus_in_use.ok()) return report->Bad("GPUs", gpus_in_use.status());
  if (!gpus_in_use->empty()) return report->Good("GPUs", absl::StrJoin(*gpus_in_use, "; "));
  report->Bad("GPUs", absl::UnavailableError(absl::StrCat(absl::StrJoin(models, ", "),
                                                          ", but CUDA sees none: see nvidia-smi")));
#else
  report->Good("GPUs",
               absl::StrCat(absl::StrJoin(models, ", "), "; not used: this build has no CUDA"));
#endif
}

std::string Describe(const ModelConfig& model, const WeightCounts& counts) {
  return absl::StrCat(model.architecture, " (", FindArchitecture(model.architecture)->models, "), ",
                      absl::StrFormat("%.1f", static_cast<double>(counts.parameters) / 1e6),
                      " million parameters, ", FormatBytes(counts.bytes), "; ", model.num_layers,
                      model.num_layers == 1 ? " layer of " : " layers of ", model.hidden_size, ", ",
                      model.num_heads, " heads and ", model.num_kv_heads,
                      " of keys and values, of ", model.head_dim, ", trained on ",
                      model.max_position_embeddings, " tokens");
}

void CheckTokenizer(const Config& config, const ModelConfig& model, Report* report) {
  const auto tokenizer = LoadTokenizer(config);
  if (!tokenizer.ok()) return report->Bad("tokenizer", tokenizer.status());
  const std::string text = absl::StrCat((*tokenizer)->vocab_size(), " tokens");
  if ((*tokenizer)->vocab_size() > model.vocab_size) {
    return report->Good("tokenizer", absl::StrCat(text, ", but the model knows ", model.vocab_size,
                                                  ": prompts that need others are refused"));
  }
  if (model.eos_token_ids.empty()) {
    return report->Good("tokenizer", absl::StrCat(text, "; the model states no end of sequence"));
  }
  std::vector<std::string> ends;
  for (const int32_t id : model.eos_token_ids) ends.push_back((*tokenizer)->IdToPiece(id));
  report->Good("tokenizer",
               absl::StrCat(text, "; a sequence ends with ", absl::StrJoin(ends, ", ")));
}

void CheckChatTemplate(const std::string& directory, Report* report) {
  const absl::StatusOr<ChatTemplate> chat_template = LoadTriedChatTemplate(directory);
  if (absl::IsNotFound(chat_template.status())) return report->Good("chats", "no chat template");
  if (!chat_template.ok()) return report->Bad("chats", chat_template.status());
  const absl::StatusOr<std::string> text = RenderHello(*chat_template);
  if (text.ok() && !text->empty()) {
    return report->Good("chats", "the chat template is supported");
  }
  report->Good("chats",
               absl::StrCat("the chat template is supported, but refuses a user's \"Hello\": ",
                            text.ok() ? "it makes nothing" : std::string(text.status().message())));
}

void CheckCompressor(const Config& config, const ModelConfig& model, const ModelWeights& weights,
                     Report* report) {
  if (config.attention != Attention::kEsa || config.esa.compression != Compression::kLowRank) {
    return;
  }
  if (IsDummy(config) && config.esa.compressor.empty()) {
    return report->Good("compressor", "made up, as the weights are");
  }
  const auto compressor =
      LoadCompressor(CompressorPath(config), model, ModelFingerprint(model, weights),
                     ScoreTargetName(config.esa), config.esa.compressed_dim);
  if (!compressor.ok()) return report->Bad("compressor", compressor.status());
  const std::string target =
      compressor->target == "dot" ? "" : absl::StrCat(", for esa.target ", compressor->target);
  report->Good("compressor", absl::StrCat(compressor->dim, " dimensions, ", compressor->method,
                                          ", fitted on ", compressor->calibration, target));
}

absl::StatusOr<MemoryPlan> PlanOf(const Config& config, const ModelConfig& model,
                                  const ModelWeights& weights, const World& world) {
  if (config.device == "cuda") {
    LONGSPAN_ASSIGN_OR_RETURN(const int ranks_on_gpu, UseFirstGpu(world.ranks_on_host));
    AttentionContext context = MakeAttentionContext(config, model, world.ranks);
    if (context.selects && config.esa.compression == Compression::kLowRank) {
      context.factors = MakeScoreFactors(MakeDummyCompressor(model, config.esa.compressed_dim));
    }
    return PlanGpuMemory(config, model, weights, context, ranks_on_gpu, world.ranks_on_host);
  }
  MemoryPlan plan = PlanMemory(config, model, MakeKvShape(config, model), world.ranks,
                               world.ranks_on_host, CountWeights(weights).bytes);
  plan.available = std::min(plan.available, world.available);
  return plan;
}

// What a rank needs, by part, and has.
void CheckFit(Config config, const ModelConfig& model, const ModelWeights& weights,
              const World& world, Report* report) {
  ResolveDType(model, &config);
  const absl::StatusOr<MemoryPlan> planned = PlanOf(config, model, weights, world);
  if (!planned.ok()) return report->Bad("fit", planned.status());
  const MemoryPlan& plan = *planned;
  const SequenceLayout layout = {config.parallel.stripe_tokens, world.ranks};
  const int64_t stated = config.max_model_len;
  const absl::Status fits =
      FitCache(plan, plan.MaxPages(config.kv_cache_memory_fraction), &config, layout);
  if (!fits.ok()) return report->Bad("fit", fits);
  const int64_t pages = layout.NumPages(0, config.max_model_len);
  const int64_t cache = pages * plan.page;
  const std::string on_host =
      plan.host_page == 0
          ? ""
          : absl::StrCat(" and ", FormatBytes(pages * plan.host_page), " of the host");
  report->Good(
      "fit",
      absl::StrCat("a request of ", config.max_model_len, " tokens",
                   stated == 0 ? " (the longest that fits)" : "", " on ", world.ranks,
                   world.ranks == 1 ? " rank needs " : " ranks needs, of each, ",
                   FormatBytes(plan.fixed() + cache), ": weights ", FormatBytes(plan.weights),
                   ", activations ", FormatBytes(plan.activations), ", scores ",
                   FormatBytes(plan.scores), ", exchange ", FormatBytes(plan.exchange), ", cache ",
                   FormatBytes(cache), on_host, "; a rank may use ",
                   FormatBytes(static_cast<int64_t>(static_cast<double>(plan.available) *
                                                    config.kv_cache_memory_fraction))));
}

void CheckModel(const Config& config, const World& world, bool config_is_good, Report* report) {
  const auto model = LoadModelConfig(config.model);
  if (!model.ok()) return report->Bad("model", model.status());
  ModelConfig stretched = *model;
  if (const absl::Status status = StretchRope(config, &stretched); !status.ok()) {
    report->Bad("model", status);
  }
  const auto weights = MapWeights(config, *model);
  const WeightCounts counts = weights.ok() ? CountWeights(*weights) : WeightCounts();
  weights.ok() ? report->Good("model", Describe(*model, counts))
               : report->Bad("model", weights.status());
  CheckTokenizer(config, *model, report);
  CheckChatTemplate(config.model, report);
  if (!weights.ok()) return;
  CheckCompressor(config, *model, *weights, report);
  if (config_is_good) CheckFit(config, *model, *weights, world, report);
}

// The configuration, and the model if it names one.
void CheckConfig(World world, Report* report) {
  const std::string path = absl::GetFlag(FLAGS_config);
  const std::string model = absl::GetFlag(FLAGS_model);
  const auto overrides = SetFlags();  // checked before
  if (path.empty() && model.empty()) {
    if (!overrides->empty()) report->Bad("config", "--set needs --config or --model");
    return;
  }
  auto config = LoadConfig(path, model, *overrides);
  if (!config.ok()) {
    report->Bad("config", config.status());
    Config defaults;
    defaults.model = model;
    std::error_code ignored;
    // An absent one has been said.
    if (std::filesystem::is_directory(model, ignored)) {
      CheckModel(defaults, world, /*config_is_good=*/false, report);
    }
    return;
  }
  if (!LaunchedByMpirun() && config->parallel.ranks > 0) {
    world.ranks = world.ranks_on_host = static_cast<int>(config->parallel.ranks);
  }
  const absl::Status resolved = ResolveConfig(world.ranks, &*config);
  if (resolved.ok()) {
    report->Good("config", absl::StrCat(path.empty() ? "defaults" : path, ": no errors"));
  } else {
    report->Bad("config", resolved);
  }
  CheckModel(*config, world, resolved.ok(), report);
}

int Examine(const World& world, Report* report) {
  CheckHost(world, report);
  CheckGpus(report);
  CheckConfig(world, report);
  return report->all_good() ? kExitOk : kExitFailed;
}

absl::StatusOr<int> ExamineUnderMpi() {
  Report report;
  absl::StatusOr<std::unique_ptr<MpiSession>> session = MpiSession::Start({});
  if (!session.ok()) {
    if (!IsFirstProcess()) return kExitFailed;
    report.Bad("ranks", session.status());
    return Examine({}, &report);
  }
  Communicator& world = (*session)->world();
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<std::string> hosts, HostNames(world));
  World ranks = {world.size(),
                 static_cast<int>(std::count(hosts.begin(), hosts.end(), hosts[world.rank()]))};
  LONGSPAN_ASSIGN_OR_RETURN(ranks.available, LeastAvailable(world, ranks.ranks_on_host));
  int exit_code = kExitOk;
  if (world.rank() == 0) {
    ReportRanks(world, hosts, &report);
    exit_code = Examine(ranks, &report);
  }
  fflush(stdout);
  LONGSPAN_RETURN_IF_ERROR((*session)->Finish());
  return exit_code;
}

absl::StatusOr<int> RunDoctor(const std::vector<std::string>& positional) {
  if (!positional.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("unexpected argument ", positional[0]));
  }
  LONGSPAN_RETURN_IF_ERROR(SetFlags().status());
  if (IsFirstProcess()) fputs(VersionText().c_str(), stdout);
  if (LaunchedByMpirun()) return ExamineUnderMpi();
  Report report;
  report.Good("ranks", "threads of this process; no mpirun");
  return Examine({}, &report);
}

}  // namespace

Subcommand DoctorSubcommand() {
  return {"doctor",
          "[--config FILE] [--model DIR] [--set key=value]...",
          "Says what was built in, what the machine has, what of a model is supported, and whether "
          "the config fits.\n      Exit code: 0 all is well, 1 something is not.",
          {"config", "model", "set", "verbosity"},
          RunDoctor};
}

}  // namespace longspan
