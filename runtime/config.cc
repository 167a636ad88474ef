#include "runtime/config.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "runtime/edit_distance.h"
#include "runtime/method_checks.h"
#include "sharding/topk_merge.h"

namespace longspan {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxFileBytes = 1 << 20;
constexpr int64_t kMaxTokens = int64_t{1} << 40;
constexpr int64_t kMaxChunk = 1 << 24;

// Where a value lives in a Config; its type is the key's type.
using Field =
    std::variant<int64_t*, double*, bool*, std::string*, Attention*, Compression*, Positions*,
                 CommunicatorKind*, SelectionMerge*, RopeStretch*, Score*, ScoreTarget*>;

using FieldOf = Field (*)(Config&);

struct Key {
  absl::string_view name;
  FieldOf field;
  int64_t min = 0;  // of numbers; 0 itself is no fraction
  int64_t max = 0;
  std::vector<absl::string_view> choices = {};  // of enums, in their order, and of strings
};

Key Plain(absl::string_view name, FieldOf field) { return {name, field}; }

Key Integer(absl::string_view name, FieldOf field, int64_t min, int64_t max) {
  return {name, field, min, max};
}

Key Real(absl::string_view name, FieldOf field, int64_t min, int64_t max) {
  return {name, field, min, max};
}

Key Choice(absl::string_view name, FieldOf field, std::vector<absl::string_view> choices) {
  return {name, field, 0, 0, std::move(choices)};
}

#define FIELD(member) [](Config& c) -> Field { return &c.member; }

const std::vector<Key>& Keys() {
  static const auto* keys = new std::vector<Key>{
      Plain("model", FIELD(model)),
      Choice("device", FIELD(device), {"cpu", "cuda"}),
      Choice("load_format", FIELD(load_format), {"auto", "dummy"}),
      Choice("dtype", FIELD(dtype), {"auto", "float32", "bfloat16"}),
      Integer("max_model_len", FIELD(max_model_len), 1, kMaxTokens),
      Choice("attention", FIELD(attention), {"esa", "streaming", "dense"}),
      Integer("esa.initial_tokens", FIELD(esa.initial_tokens), 0, kMaxTokens),
      Integer("esa.local_tokens", FIELD(esa.local_tokens), 1, kMaxTokens),
      Integer("esa.top_k", FIELD(esa.top_k), 1, kMaxTokens),
      Integer("esa.compressed_dim", FIELD(esa.compressed_dim), 1, 1 << 20),
      Choice("esa.compression", FIELD(esa.compression), {"low_rank", "exact"}),
      Plain("esa.compressor", FIELD(esa.compressor)),
      Integer("esa.proximity", FIELD(esa.proximity), 0, kMaxTokens),
      Integer("esa.selection_block", FIELD(esa.selection_block), 1, kMaxChunk),
      Choice("esa.positions", FIELD(esa.positions), {"far", "native"}),
      Integer("esa.far_position", FIELD(esa.far_position), 1, kMaxTokens),
      Choice("esa.score", FIELD(esa.score), {"head_sum", "head_max", "soft_vote", "group_vote"}),
      Integer("esa.score_groups", FIELD(esa.score_groups), 1, 1 << 20),
      Choice("esa.target", FIELD(esa.target), {"dot", "far"}),
      Integer("esa.unit_tokens", FIELD(esa.unit_tokens), 1, kMaxChunk),
      Integer("esa.unit_representatives", FIELD(esa.unit_representatives), 1, kMaxChunk),
      Choice("rope.scaling", FIELD(rope.scaling), {"none", "ntk", "yarn"}),
      Real("rope.factor", FIELD(rope.factor), 1, 1 << 20),
      Integer("parallel.stripe_tokens", FIELD(parallel.stripe_tokens), 1, kMaxTokens),
      Choice("parallel.communicator", FIELD(parallel.communicator),
             {"auto", "threads", "mpi", "nccl"}),
      Choice("parallel.selection_merge", FIELD(parallel.selection_merge),
             {"auto", "all_gather", "histogram"}),
      Integer("parallel.timeout_s", FIELD(parallel.timeout_s), 1, 1 << 30),
      Integer("parallel.ranks", FIELD(parallel.ranks), 1, 1 << 16),
      Integer("prefill.chunk_tokens", FIELD(prefill_chunk_tokens), 1, kMaxChunk),
      Integer("max_num_seqs", FIELD(max_num_seqs), 1, 1 << 16),
      Plain("deterministic", FIELD(deterministic)),
      Plain("ask.prompt_template", FIELD(ask.prompt_template)),
      Plain("ask.stop", FIELD(ask.stop)),
      Plain("server.host", FIELD(server.host)),
      Integer("server.port", FIELD(server.port), 0, 65535),
      Plain("server.model_name", FIELD(server.model_name)),
      Plain("server.api_key_file", FIELD(server.api_key_file)),
      Integer("server.default_max_tokens", FIELD(server.default_max_tokens), 1, kMaxTokens),
      Integer("server.max_waiting", FIELD(server.max_waiting), 1, 1 << 20),
      Integer("server.max_body_bytes", FIELD(server.max_body_bytes), 1 << 10, int64_t{1} << 32),
      Integer("server.max_connections", FIELD(server.max_connections), 1, 1 << 20),
      Integer("server.body_timeout_s", FIELD(server.body_timeout_s), 1, 86400),
      Integer("server.request_timeout_s", FIELD(server.request_timeout_s), 1, 30 * 86400),
      Integer("server.drain_timeout_s", FIELD(server.drain_timeout_s), 0, 86400),
      Choice("kv_cache.dtype", FIELD(kv_cache_dtype), {"auto", "float32", "bfloat16", "fp8_e4m3"}),
      Choice("kv_cache.score_dtype", FIELD(kv_cache_score_dtype), {"auto", "fp8_e4m3"}),
      Choice("kv_cache.tier", FIELD(kv_cache_tier), {"device", "host"}),
      Choice("kv_cache.prefix_caching", FIELD(kv_cache_prefix_caching), {"auto", "true", "false"}),
      Plain("kv_cache.prefix_dir", FIELD(kv_cache_prefix_dir)),
      Real("kv_cache.memory_fraction", FIELD(kv_cache_memory_fraction), 0, 1),
  };
  return *keys;
}

#undef FIELD

const Key* FindKey(absl::string_view name) {
  for (const Key& key : Keys()) {
    if (key.name == name) return &key;
  }
  return nullptr;
}

bool IsSection(absl::string_view name) {
  return std::any_of(Keys().begin(), Keys().end(), [name](const Key& key) {
    return absl::StartsWith(key.name, name) && key.name.size() > name.size() &&
           key.name[name.size()] == '.';
  });
}

// " (did you mean `x`?)", or nothing when no key is close. A key in the wrong section is close.
std::string Suggestion(absl::string_view unknown) {
  constexpr int64_t kClose = 3;
  if (unknown.size() > 64) return "";
  const absl::string_view leaf = unknown.substr(unknown.rfind('.') + 1);
  const Key* nearest = nullptr;
  int64_t nearest_distance = kClose + 1;
  for (const Key& key : Keys()) {
    const absl::string_view key_leaf = key.name.substr(key.name.rfind('.') + 1);
    const int64_t distance =
        std::min(EditDistance(unknown, key.name), EditDistance(leaf, key_leaf));
    if (distance < nearest_distance && distance < static_cast<int64_t>(leaf.size())) {
      nearest = &key;
      nearest_distance = distance;
    }
  }
  return nearest == nullptr ? "" : absl::StrCat(" (did you mean `", nearest->name, "`?)");
}

// One `key: value` and where it was said.
struct Setting {
  std::string key;
  std::string value;
  bool quoted = false;
  std::string where;  // "run.yaml:12" or "--set"
};

absl::Status SettingError(const Setting& setting, absl::string_view expected) {
  constexpr size_t kShown = 80;
  std::string shown = setting.value.substr(0, kShown);
  if (setting.value.size() > kShown) shown += "...";
  return absl::InvalidArgumentError(absl::StrFormat("%s: `%s` must be %s, not `%s`", setting.where,
                                                    setting.key, expected, shown));
}

template <typename T>
absl::Status SetChoice(const Key& key, const Setting& setting, T* field) {
  const auto choice = std::find(key.choices.begin(), key.choices.end(), setting.value);
  if (choice == key.choices.end()) {
    return SettingError(setting, absl::StrCat("one of ", absl::StrJoin(key.choices, ", ")));
  }
  if constexpr (std::is_enum_v<T>) {
    *field = static_cast<T>(choice - key.choices.begin());
  } else {
    *field = setting.value;
  }
  return absl::OkStatus();
}

absl::Status SetField(const Key& key, const Setting& setting, int64_t* field) {
  int64_t value;
  if (setting.quoted || !absl::SimpleAtoi(setting.value, &value) || value < key.min ||
      value > key.max) {
    return SettingError(setting, absl::StrFormat("an integer from %d to %d", key.min, key.max));
  }
  *field = value;
  return absl::OkStatus();
}

absl::Status SetField(const Key& key, const Setting& setting, double* field) {
  double value;
  if (setting.quoted || !absl::SimpleAtod(setting.value, &value) ||
      !(key.min == 0 ? value > 0 : value >= static_cast<double>(key.min)) ||
      value > static_cast<double>(key.max)) {
    return SettingError(setting,
                        absl::StrFormat("a number %s %d and at most %d",
                                        key.min == 0 ? "above" : "of at least", key.min, key.max));
  }
  *field = value;
  return absl::OkStatus();
}

absl::Status SetField(const Key&, const Setting& setting, bool* field) {
  if (setting.quoted || (setting.value != "true" && setting.value != "false")) {
    return SettingError(setting, "true or false");
  }
  *field = setting.value == "true";
  return absl::OkStatus();
}

absl::Status SetField(const Key& key, const Setting& setting, std::string* field) {
  if (!key.choices.empty()) return SetChoice(key, setting, field);
  if (setting.value.find('\0') != std::string::npos) {
    return SettingError(setting, "text without NUL characters");
  }
  *field = setting.value;
  return absl::OkStatus();
}

template <typename Enum>
absl::Status SetField(const Key& key, const Setting& setting, Enum* field) {
  return SetChoice(key, setting, field);
}

absl::Status Apply(const Setting& setting, Config* config) {
  const Key* key = FindKey(setting.key);
  if (key == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(setting.where, ": unknown key `", setting.key, "`", Suggestion(setting.key)));
  }
  return std::visit([&](auto* field) { return SetField(*key, setting, field); },
                    key->field(*config));
}

absl::Status Flatten(const YAML::Node& node, const std::string& file, const std::string& prefix,
                     std::vector<Setting>* settings) {
  for (const auto& entry : node) {
    const std::string where = absl::StrCat(file, ":", entry.first.Mark().line + 1);
    if (!entry.first.IsScalar()) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": a key must be a plain word"));
    }
    const std::string key = absl::StrCat(prefix, entry.first.Scalar());
    const YAML::Node& value = entry.second;
    if (prefix.empty() && IsSection(key)) {
      if (value.IsNull()) continue;
      if (!value.IsMap()) {
        return absl::InvalidArgumentError(
            absl::StrCat(where, ": `", key, "` must be a mapping of keys to values"));
      }
      LONGSPAN_RETURN_IF_ERROR(Flatten(value, file, key + ".", settings));
      continue;
    }
    if (FindKey(key) == nullptr) return Apply({key, "", false, where}, nullptr);
    if (!value.IsScalar()) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": `", key,
                                                     "` must be a single value, not ",
                                                     value.IsNull()  ? "nothing"
                                                     : value.IsMap() ? "a mapping"
                                                                     : "a list"));
    }
    settings->push_back({key, value.Scalar(), value.Tag() == "!", where});
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Setting>> ParseSettings(absl::string_view yaml,
                                                   const std::string& file) {
  std::vector<Setting> settings;
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(std::string(yaml));
    if (documents.size() > 1) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": holds more than one YAML document"));
    }
    if (documents.empty() || documents[0].IsNull()) return settings;
    if (!documents[0].IsMap()) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ":1: must be a mapping of keys to values"));
    }
    LONGSPAN_RETURN_IF_ERROR(Flatten(documents[0], file, "", &settings));
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ":", error.mark.line + 1, ": not valid YAML: ", error.msg));
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": not valid YAML: ", error.what()));
  }
  std::set<absl::string_view> seen;
  for (const Setting& setting : settings) {
    if (!seen.insert(setting.key).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(setting.where, ": `", setting.key, "` is stated twice"));
    }
  }
  return settings;
}

absl::StatusOr<std::vector<Setting>> ReadSettings(const std::string& path) {
  std::error_code error;
  if (fs::is_directory(path, error)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is a directory, not a config"));
  }
  if (!fs::is_regular_file(path, error)) {
    return absl::NotFoundError(absl::StrCat(path, ": no such file"));
  }
  std::ifstream file(path, std::ios::binary);
  std::string text(kMaxFileBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file.is_open() || file.bad()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": cannot be read"));
  }
  if (file.gcount() > kMaxFileBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is over 1 MiB, not a config"));
  }
  text.resize(static_cast<size_t>(file.gcount()));
  return ParseSettings(text, path);
}

bool IsPath(const Setting& setting) {
  return setting.key == "model" || setting.key == "esa.compressor";
}

// A path that does not exist from the current directory may be beside the file that states it.
void LocatePaths(const fs::path& directory, std::vector<Setting>* settings) {
  std::error_code error;
  for (Setting& setting : *settings) {
    if (!IsPath(setting) || setting.value.empty() || fs::exists(setting.value, error)) continue;
    const fs::path beside = directory / setting.value;
    if (fs::exists(beside, error)) setting.value = beside.string();
  }
}

// A model's own settings: how it attends and is asked, and nothing about the run. Paths are beside
// the file.
absl::StatusOr<std::vector<Setting>> ReadModelSettings(const fs::path& model_dir) {
  const fs::path file = model_dir / "longspan.yaml";
  std::error_code error;
  if (!fs::exists(file, error)) return std::vector<Setting>();
  LONGSPAN_ASSIGN_OR_RETURN(std::vector<Setting> settings, ReadSettings(file.string()));
  for (Setting& setting : settings) {
    if (setting.key != "attention" && !absl::StartsWith(setting.key, "esa.") &&
        !absl::StartsWith(setting.key, "ask.")) {
      return absl::InvalidArgumentError(
          absl::StrCat(setting.where,
                       ": a model's longspan.yaml may set `attention`, `esa` and `ask` only, not `",
                       setting.key, "`: put it in the run's config"));
    }
    if (IsPath(setting)) setting.value = (model_dir / setting.value).string();
  }
  return settings;
}

std::string FieldToYaml(const Key& key, const Field& field) {
  return std::visit(
      [&key](auto* value) -> std::string {
        using T = std::remove_pointer_t<decltype(value)>;
        if constexpr (std::is_enum_v<T>) {
          return std::string(key.choices[static_cast<size_t>(*value)]);
        } else if constexpr (std::is_same_v<T, std::string>) {
          YAML::Emitter quoted;
          quoted << YAML::DoubleQuoted << *value;
          return quoted.c_str();
        } else if constexpr (std::is_same_v<T, bool>) {
          return *value ? "true" : "false";
        } else if constexpr (std::is_same_v<T, double>) {
          return absl::StrFormat("%.17g", *value);
        } else {
          return absl::StrCat(*value);
        }
      },
      field);
}

absl::Status CheckBuild(const Config& config) {
#ifndef LONGSPAN_CUDA
  if (config.device == "cuda") {
    return absl::InvalidArgumentError(
        "`device: cuda`: this build has no CUDA; build the preset `cuda`, or use `device: cpu`");
  }
#endif
#ifndef LONGSPAN_NCCL
  if (config.parallel.communicator == CommunicatorKind::kNccl) {
    return absl::InvalidArgumentError(
        "`parallel.communicator: nccl`: this build has no NCCL; use mpi or threads");
  }
#endif
  return absl::OkStatus();
}

// Settings that ranks of this device do not have.
absl::Status CheckDevice(const Config& config) {
  if (config.device == "cpu" && config.parallel.communicator == CommunicatorKind::kNccl) {
    return absl::InvalidArgumentError(
        "`parallel.communicator: nccl` is between GPUs: use mpi, or `device: cuda`");
  }
  if (config.device == "cpu" && config.dtype == "bfloat16") {
    return absl::InvalidArgumentError(
        "`dtype: bfloat16` needs `device: cuda`: the CPU computes in float32 (a bfloat16 "
        "checkpoint is read as it is)");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Config> LoadConfig(const std::string& path, const std::string& model_override,
                                  absl::Span<const ConfigOverride> overrides) {
  std::vector<Setting> run;
  if (!path.empty()) {
    LONGSPAN_ASSIGN_OR_RETURN(run, ReadSettings(path));
    LocatePaths(fs::path(path).parent_path(), &run);
  }
  if (!model_override.empty()) run.push_back({"model", model_override, false, "--model"});
  for (const ConfigOverride& override : overrides) {
    run.push_back({override.key, override.value, false, "--set"});
  }

  Config probe;  // finds errors of the run's own settings, and the model
  for (const Setting& setting : run) LONGSPAN_RETURN_IF_ERROR(Apply(setting, &probe));
  if (probe.model.empty()) {
    return absl::InvalidArgumentError(
        "no model is given: set `model` in the config or pass --model DIR");
  }
  std::error_code error;
  if (!fs::is_directory(probe.model, error)) {
    return absl::NotFoundError(
        absl::StrCat("`model`: ", probe.model, " is not a directory that can be read"));
  }

  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<Setting> model_settings,
                            ReadModelSettings(probe.model));
  Config config;
  for (const Setting& setting : model_settings) {
    LONGSPAN_RETURN_IF_ERROR(Apply(setting, &config));
  }
  for (const Setting& setting : run) LONGSPAN_RETURN_IF_ERROR(Apply(setting, &config));
  return config;
}

absl::Status ResolveConfig(int num_ranks, Config* config) {
  LONGSPAN_RETURN_IF_ERROR(CheckBuild(*config));
  return SettleConfig(num_ranks, config);
}

absl::Status SettleConfig(int num_ranks, Config* config) {
  LONGSPAN_RETURN_IF_ERROR(CheckDevice(*config));
  LONGSPAN_RETURN_IF_ERROR(CheckMethod(*config));
  EsaConfig& esa = config->esa;
  ParallelConfig& parallel = config->parallel;
  if (parallel.ranks != 0 && parallel.ranks != num_ranks) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "`parallel.ranks` is %d but the job has %d rank(s): start that many with mpirun -n, or "
        "leave the key out",
        parallel.ranks, num_ranks));
  }
  const int64_t block = esa.selection_block;
  if (config->prefill_chunk_tokens % block != 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "`prefill.chunk_tokens` (%d) must be a multiple of `esa.selection_block` "
        "(%d): try %d",
        config->prefill_chunk_tokens, block, (config->prefill_chunk_tokens / block + 1) * block));
  }
  if (parallel.stripe_tokens == 0) {
    const int64_t blocks = config->prefill_chunk_tokens / block;
    parallel.stripe_tokens = (blocks + num_ranks - 1) / num_ranks * block;
  }
  if (parallel.stripe_tokens % block != 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "`parallel.stripe_tokens` (%d) must be a multiple of "
        "`esa.selection_block` (%d): try %d",
        parallel.stripe_tokens, block, (parallel.stripe_tokens / block + 1) * block));
  }
  if (config->kv_cache_score_dtype != "auto" && esa.compression == Compression::kExact) {
    return absl::InvalidArgumentError(
        "`kv_cache.score_dtype` is that of compressed keys: exact scores read the keys themselves, "
        "of `kv_cache.dtype`");
  }
  if (config->kv_cache_tier == "host" && config->device == "cuda" &&
      config->attention == Attention::kEsa && esa.compression == Compression::kExact) {
    return absl::InvalidArgumentError(
        "`kv_cache.tier: host` keeps only compressed keys on the GPU: it needs `esa.compression: "
        "low_rank`");
  }
  if (!config->kv_cache_prefix_dir.empty() && config->kv_cache_prefix_caching == "false") {
    return absl::InvalidArgumentError(
        "`kv_cache.prefix_dir` keeps what `kv_cache.prefix_caching` caches: it must not be false");
  }
  if (esa.proximity > parallel.stripe_tokens) {
    return absl::InvalidArgumentError(
        absl::StrFormat("`esa.proximity` (%d) must be at most `parallel.stripe_tokens` (%d)",
                        esa.proximity, parallel.stripe_tokens));
  }
  if (config->max_model_len > kMaxPosition) {
    return absl::InvalidArgumentError(absl::StrFormat("`max_model_len` (%d) must be at most %d",
                                                      config->max_model_len, kMaxPosition));
  }
  if (esa.far_position == 0) esa.far_position = esa.local_tokens;
  return absl::OkStatus();
}

std::string ConfigToYaml(const Config& config) {
  Config copy = config;
  Config defaults;
  std::string yaml;
  for (const Key& key : Keys()) {
    const std::string value = FieldToYaml(key, key.field(copy));
    if (value == FieldToYaml(key, key.field(defaults))) continue;
    absl::StrAppend(&yaml, key.name, ": ", value, "\n");
  }
  return yaml;
}

std::string ConfigValue(const Config& config, absl::string_view key) {
  Config copy = config;
  const Key* known = FindKey(key);
  LONGSPAN_CHECK(known != nullptr);
  return FieldToYaml(*known, known->field(copy));
}

absl::StatusOr<Config> ConfigFromYaml(absl::string_view yaml) {
  LONGSPAN_ASSIGN_OR_RETURN(std::vector<Setting> settings, ParseSettings(yaml, "config"));
  Config config;
  for (const Setting& setting : settings) LONGSPAN_RETURN_IF_ERROR(Apply(setting, &config));
  return config;
}

std::string ScoreTargetName(const EsaConfig& esa) {
  return esa.target == ScoreTarget::kDot ? "dot" : absl::StrCat("far ", esa.far_position);
}

std::string CompressorPath(const Config& config) {
  return config.esa.compressor.empty() ? absl::StrCat(config.model, "/compressor.safetensors")
                                       : config.esa.compressor;
}

CommunicatorKind DefaultUnderMpirun(const Config& config) {
#ifdef LONGSPAN_NCCL
  if (config.device == "cuda") return CommunicatorKind::kNccl;
#else
  static_cast<void>(config);
#endif
  return CommunicatorKind::kMpi;
}

DType KvCacheDType(const Config& config) {
  const std::string& dtype = config.kv_cache_dtype == "auto" ? config.dtype : config.kv_cache_dtype;
  return dtype == "fp8_e4m3"   ? DType::kFloat8E4M3
         : dtype == "bfloat16" ? DType::kBFloat16
                               : DType::kFloat32;
}

DType ScoreKeyDType(const Config& config) {
  return config.kv_cache_score_dtype == "fp8_e4m3" ? DType::kFloat8E4M3 : KvCacheDType(config);
}

std::string ModelName(const Config& config) {
  const fs::path path(config.model);
  return (path.has_filename() ? path.filename() : path.parent_path().filename()).string();
}

}  // namespace longspan
