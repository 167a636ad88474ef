#include "launcher/eval_settings.h"

#include <cstdio>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "runtime/checksum.h"
#include "runtime/clock.h"
#include "runtime/read_bytes.h"

namespace longspan {
namespace {

using OrderedJson = nlohmann::ordered_json;

// Keys of the config that answers depend on, beside those of methods.
constexpr absl::string_view kAnswerKeys[] = {"device",         "load_format",         "dtype",
                                             "deterministic",  "ask.prompt_template", "ask.stop",
                                             "kv_cache.dtype", "kv_cache.score_dtype"};

// Empty: there is no file.
absl::StatusOr<std::string> FileChecksum(const std::string& path) {
  if (path.empty()) return "";
  std::string bytes;
  LONGSPAN_RETURN_IF_ERROR(ReadBytes(path, 0, -1, &bytes));
  return Checksum(bytes);
}

std::string WeightsChecksum(const ModelWeights& weights, ProgressStyle style) {
  Progress progress(style, stderr, MonotonicSeconds(), "tensors of the model compared");
  const std::vector<Tensor> tensors = AllTensors(weights);
  ProgressState state;
  state.total = static_cast<int64_t>(tensors.size());
  std::string all;
  for (const Tensor& tensor : tensors) {
    absl::StrAppend(&all, Checksum({static_cast<const char*>(tensor.data),
                                    static_cast<size_t>(tensor.num_bytes())}));
    ++state.done;
    state.fraction = static_cast<double>(state.done) / static_cast<double>(state.total);
    progress.Update(state, MonotonicSeconds());
  }
  return Checksum(all);
}

// Files of a model that prompts and answers depend on, beside its weights.
constexpr const char* kModelFiles[] = {"config.json", "tokenizer.json", "tokenizer_config.json",
                                       "chat_template.jinja", "generation_config.json"};

// By what is compared.
absl::StatusOr<OrderedJson> ModelChecksums(const EvalOptions& options, const EvalSubject& subject) {
  const std::string& directory = subject.config.model;
  OrderedJson checksums;
  for (const char* name : kModelFiles) {
    const std::string path = absl::StrCat(directory, "/", name);
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored)) continue;
    LONGSPAN_ASSIGN_OR_RETURN(checksums[name], FileChecksum(path));
  }
  if (!IsDummy(subject.config)) {
    checksums["weights"] = WeightsChecksum(subject.weights, options.progress);
  }
  return checksums;
}

absl::StatusOr<OrderedJson> MethodsOf(const EvalOptions& options, const EvalSubject& subject) {
  OrderedJson methods = OrderedJson::object();
  for (size_t i = 0; i < subject.methods.size(); ++i) {
    const EvalMethod& method = *options.methods[i];
    const Config& config = subject.methods[i];
    OrderedJson& settings = methods[std::string(method.name)] = MethodSettings(method, config);
    if (NeedsCompressor(config)) {
      LONGSPAN_ASSIGN_OR_RETURN(settings["compressor"], FileChecksum(CompressorPath(config)));
    }
  }
  return methods;
}

}  // namespace

bool NeedsCompressor(const Config& config) {
  return config.attention == Attention::kEsa && config.esa.compression == Compression::kLowRank &&
         !(IsDummy(config) && config.esa.compressor.empty());
}

absl::StatusOr<OrderedJson> DescribeEval(const EvalOptions& options, const EvalSubject& subject) {
  OrderedJson settings = {{"longspan", LONGSPAN_VERSION},
                          {"task", subject.tasks},
                          {"length", options.lengths},
                          {"depth", options.depths},
                          {"cases", options.cases},
                          {"needles", options.task_options.needles.value_or(0)},
                          {"asked", options.task_options.asked.value_or(0)},
                          {"seed", options.task_options.seed},
                          {"stride", options.stride},
                          {"chat", options.chat}};
  for (const absl::string_view key : kAnswerKeys) {
    settings[std::string(key)] = ConfigJson(subject.config, key);
  }
  LONGSPAN_ASSIGN_OR_RETURN(settings["haystack"], FileChecksum(options.haystack));
  LONGSPAN_ASSIGN_OR_RETURN(settings["prompts"], FileChecksum(options.prompts));
  settings["files"] = OrderedJson::object();
  for (size_t i = 0; i < subject.tasks.size(); ++i) {
    if (subject.files[i].empty()) continue;
    LONGSPAN_ASSIGN_OR_RETURN(settings["files"][subject.tasks[i]], FileChecksum(subject.files[i]));
  }
  settings["cases_of_a_method"] = subject.cases_of_a_method;
  LONGSPAN_ASSIGN_OR_RETURN(settings["model"], ModelChecksums(options, subject));
  LONGSPAN_ASSIGN_OR_RETURN(OrderedJson methods, MethodsOf(options, subject));
  return OrderedJson{{"about",
                      {{"model", ModelName(subject.config)},
                       {"haystack", options.haystack},
                       {"prompts", options.prompts},
                       {"trained_context", subject.model.max_position_embeddings}}},
                     {"settings", std::move(settings)},
                     {"methods", std::move(methods)}};
}

}  // namespace longspan
