#include "runtime/weights.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "runtime/json_file.h"

namespace longspan {
namespace {

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";
constexpr size_t kMaxIndexBytes = 100'000'000;

using Shape = std::vector<int64_t>;

// Endings of tensors that only quantised checkpoints have (GPTQ, AWQ, FP8, compressed-tensors,
// bitsandbytes).
constexpr absl::string_view kQuantisedEndings[] = {
    ".qweight",          ".qzeros",      ".scales",        ".g_idx",        ".weight_scale",
    ".weight_scale_inv", ".input_scale", ".weight_packed", ".weight_shape", ".SCB",
    ".absmax",           ".quant_map",
};

struct LayerTensor {
  absl::string_view role;
  Tensor LayerWeights::*tensor;
  absl::string_view TensorNames::*name;
  Shape (*shape)(const ModelConfig&);
  bool ModelConfig::*has;  // null: every model has it
};

Shape NormShape(const ModelConfig& c) { return {c.hidden_size}; }
Shape QueryShape(const ModelConfig& c) { return {c.num_heads * c.head_dim, c.hidden_size}; }
Shape KeyShape(const ModelConfig& c) { return {c.num_kv_heads * c.head_dim, c.hidden_size}; }
Shape OutputShape(const ModelConfig& c) { return {c.hidden_size, c.num_heads * c.head_dim}; }
Shape UpShape(const ModelConfig& c) { return {c.intermediate_size, c.hidden_size}; }
Shape DownShape(const ModelConfig& c) { return {c.hidden_size, c.intermediate_size}; }
Shape QueryBiasShape(const ModelConfig& c) { return {c.num_heads * c.head_dim}; }
Shape KeyBiasShape(const ModelConfig& c) { return {c.num_kv_heads * c.head_dim}; }
Shape HeadShape(const ModelConfig& c) { return {c.head_dim}; }
Shape EmbeddingShape(const ModelConfig& c) { return {c.vocab_size, c.hidden_size}; }

constexpr LayerTensor kLayerTensors[] = {
    {"attention_norm", &LayerWeights::attention_norm, &TensorNames::attention_norm, NormShape,
     nullptr},
    {"query", &LayerWeights::query, &TensorNames::query, QueryShape, nullptr},
    {"key", &LayerWeights::key, &TensorNames::key, KeyShape, nullptr},
    {"value", &LayerWeights::value, &TensorNames::value, KeyShape, nullptr},
    {"output", &LayerWeights::output, &TensorNames::output, OutputShape, nullptr},
    {"mlp_norm", &LayerWeights::mlp_norm, &TensorNames::mlp_norm, NormShape, nullptr},
    {"gate", &LayerWeights::gate, &TensorNames::gate, UpShape, nullptr},
    {"up", &LayerWeights::up, &TensorNames::up, UpShape, nullptr},
    {"down", &LayerWeights::down, &TensorNames::down, DownShape, nullptr},
    {"query_bias", &LayerWeights::query_bias, &TensorNames::query_bias, QueryBiasShape,
     &ModelConfig::qkv_bias},
    {"key_bias", &LayerWeights::key_bias, &TensorNames::key_bias, KeyBiasShape,
     &ModelConfig::qkv_bias},
    {"value_bias", &LayerWeights::value_bias, &TensorNames::value_bias, KeyBiasShape,
     &ModelConfig::qkv_bias},
    {"output_bias", &LayerWeights::output_bias, &TensorNames::output_bias, NormShape,
     &ModelConfig::output_bias},
    {"query_norm", &LayerWeights::query_norm, &TensorNames::query_norm, HeadShape,
     &ModelConfig::qk_norm},
    {"key_norm", &LayerWeights::key_norm, &TensorNames::key_norm, HeadShape, &ModelConfig::qk_norm},
};

// A shard is a file of the model directory itself; the index must not lead anywhere else.
bool IsPlainFileName(absl::string_view name) {
  return !name.empty() && name.front() != '.' &&
         name.find_first_of(absl::string_view("/\\\0", 3)) == absl::string_view::npos;
}

// The tensors of a model directory by name, in one file or in several. Shards are mapped when a
// tensor of theirs is asked for.
class Checkpoint {
 public:
  static absl::StatusOr<Checkpoint> Open(const std::string& model_dir);

  // Checks the shape.
  absl::StatusOr<Tensor> Find(const std::string& name, const Shape& shape);
  // Refuses tensors of quantised checkpoints.
  absl::Status CheckNotQuantised() const;
  // Refuses layers beyond the last and biases that were not asked for: without them the results
  // would be others.
  absl::Status CheckNothingLeft(absl::string_view layer_prefix, int64_t num_layers) const;

 private:
  explicit Checkpoint(std::string model_dir) : model_dir_(std::move(model_dir)) {}
  absl::Status ReadIndex();
  absl::StatusOr<const SafetensorsFile*> OpenShard(const std::string& shard);

  std::string model_dir_;
  std::string listing_;  // the path of the file that lists the tensors
  absl::btree_map<std::string, std::string> shard_of_;  // tensor -> file name
  std::map<std::string, SafetensorsFile> shards_;
  absl::flat_hash_set<std::string> found_;
};

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& model_dir) {
  Checkpoint checkpoint(model_dir);
  checkpoint.listing_ = absl::StrCat(model_dir, "/", kSingleFile);
  absl::StatusOr<SafetensorsFile> single = SafetensorsFile::Open(checkpoint.listing_);
  if (absl::IsNotFound(single.status())) {
    LONGSPAN_RETURN_IF_ERROR(checkpoint.ReadIndex());
    return checkpoint;
  }
  LONGSPAN_RETURN_IF_ERROR(single.status());
  for (std::string& name : single->names()) {
    checkpoint.shard_of_.emplace(std::move(name), kSingleFile);
  }
  checkpoint.shards_.emplace(kSingleFile, *std::move(single));
  return checkpoint;
}

absl::Status Checkpoint::ReadIndex() {
  listing_ = absl::StrCat(model_dir_, "/", kIndexFile);
  absl::StatusOr<nlohmann::json> index = ReadJsonObject(listing_, kMaxIndexBytes);
  if (absl::IsNotFound(index.status())) {
    return absl::NotFoundError(
        absl::StrCat(model_dir_, " has neither ", kSingleFile, " nor ", kIndexFile,
                     "; other weight formats must be converted to safetensors first"));
  }
  LONGSPAN_RETURN_IF_ERROR(index.status());
  const auto weight_map = index->find("weight_map");
  if (weight_map == index->end() || !weight_map->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(listing_, ": weight_map is not an object"));
  }
  for (const auto& [name, shard] : weight_map->items()) {
    if (!shard.is_string() || !IsPlainFileName(shard.get_ref<const std::string&>())) {
      return absl::InvalidArgumentError(
          absl::StrCat(listing_, ": the shard of '", absl::Utf8SafeCEscape(name),
                       "' is not the name of a file of the model directory"));
    }
    shard_of_.emplace(name, shard.get<std::string>());
  }
  return absl::OkStatus();
}

absl::StatusOr<const SafetensorsFile*> Checkpoint::OpenShard(const std::string& shard) {
  auto found = shards_.find(shard);
  if (found == shards_.end()) {
    absl::StatusOr<SafetensorsFile> file =
        SafetensorsFile::Open(absl::StrCat(model_dir_, "/", shard));
    if (!file.ok()) {
      return absl::Status(file.status().code(),
                          absl::StrCat("shard named by ", listing_, ": ", file.status().message()));
    }
    found = shards_.emplace(shard, *std::move(file)).first;
  }
  return &found->second;
}

absl::StatusOr<Tensor> Checkpoint::Find(const std::string& name, const Shape& shape) {
  const auto shard = shard_of_.find(name);
  if (shard == shard_of_.end()) {
    return absl::NotFoundError(absl::StrCat(listing_, " has no tensor '", name, "'"));
  }
  LONGSPAN_ASSIGN_OR_RETURN(const SafetensorsFile* file, OpenShard(shard->second));
  if (!file->contains(name)) {
    return absl::NotFoundError(absl::StrCat(file->path(), " has no tensor '", name, "', which ",
                                            listing_, " places there"));
  }
  LONGSPAN_ASSIGN_OR_RETURN(Tensor tensor, file->Find(name));
  if (tensor.shape != shape) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor '", name, "' of ", file->path(), " has shape [", absl::StrJoin(tensor.shape, ", "),
        "]; by config.json it is [", absl::StrJoin(shape, ", "), "]"));
  }
  found_.insert(name);
  return tensor;
}

absl::Status Checkpoint::CheckNotQuantised() const {
  for (const auto& item : shard_of_) {
    for (const absl::string_view ending : kQuantisedEndings) {
      if (!absl::EndsWith(item.first, ending)) continue;
      return absl::UnimplementedError(
          absl::StrCat(listing_, " has the tensor '", absl::Utf8SafeCEscape(item.first),
                       "' of a quantised checkpoint; float32, bfloat16 and float16 weights are "
                       "supported"));
    }
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::CheckNothingLeft(absl::string_view layer_prefix,
                                          int64_t num_layers) const {
  for (const auto& item : shard_of_) {
    const std::string& name = item.first;
    absl::string_view rest = name;
    if (found_.contains(name) || !absl::ConsumePrefix(&rest, layer_prefix)) continue;
    int64_t layer = 0;
    if (absl::SimpleAtoi(rest.substr(0, rest.find('.')), &layer) && layer >= num_layers) {
      return absl::InvalidArgumentError(
          absl::StrCat(listing_, " has the tensor '", absl::Utf8SafeCEscape(name),
                       "', but config.json says num_hidden_layers ", num_layers));
    }
    if (!absl::EndsWith(name, ".bias")) continue;
    return absl::UnimplementedError(
        absl::StrCat(listing_, " has the tensor '", absl::Utf8SafeCEscape(name),
                     "', a bias that the architecture and config.json know nothing of"));
  }
  return absl::OkStatus();
}

// 128-bit FNV-1a.
class Hash {
 public:
  void Add(const void* data, size_t size) {
    const auto* bytes = static_cast<const unsigned char*>(data);
    for (size_t i = 0; i < size; ++i) {
      state_ ^= bytes[i];
      state_ *= kPrime;
    }
  }
  void Add(int64_t value) { Add(&value, sizeof(value)); }
  // Length first, so that neighbours cannot run into one another.
  void Add(absl::string_view text) {
    Add(static_cast<int64_t>(text.size()));
    Add(text.data(), text.size());
  }
  std::string Hex() const {
    return absl::StrFormat("%016x%016x", static_cast<uint64_t>(state_ >> 64),
                           static_cast<uint64_t>(state_));
  }

 private:
  using State = unsigned __int128;
  static constexpr State kPrime = (State{1} << 88) + 0x13b;
  State state_ = (State{0x6c62272e07bb0142} << 64) + 0x62b821756295c58d;
};

void AddTensor(absl::string_view role, const Tensor& tensor, Hash* hash) {
  constexpr int64_t kPlaces = 16;
  constexpr int64_t kPlaceBytes = 64;
  hash->Add(role);
  hash->Add(static_cast<int64_t>(tensor.dtype));
  hash->Add(static_cast<int64_t>(tensor.shape.size()));
  for (const int64_t extent : tensor.shape) hash->Add(extent);
  const auto* bytes = static_cast<const std::byte*>(tensor.data);
  const int64_t size = tensor.num_bytes();
  if (size <= kPlaces * kPlaceBytes) {
    hash->Add(bytes, static_cast<size_t>(size));
    return;
  }
  for (int64_t place = 0; place < kPlaces; ++place) {
    hash->Add(bytes + (size - kPlaceBytes) * place / (kPlaces - 1), kPlaceBytes);
  }
}

// Nothing where there is none, so that older fingerprints hold.
void AddScaling(const RopeConfig& rope, Hash* hash) {
  if (rope.scaling == RopeScaling::kNone) return;
  hash->Add(static_cast<int64_t>(rope.scaling));
  hash->Add(rope.original_context);
  hash->Add(static_cast<int64_t>(rope.truncate));
  for (const double value : {rope.factor, rope.high_freq_factor, rope.low_freq_factor,
                             rope.beta_fast, rope.beta_slow, rope.attention_factor}) {
    hash->Add(std::bit_cast<int64_t>(value));
  }
}

}  // namespace

absl::StatusOr<ModelWeights> AssembleWeights(const ModelConfig& config, FindTensor find) {
  const Architecture* architecture = FindArchitecture(config.architecture);
  LONGSPAN_CHECK(architecture != nullptr);
  const TensorNames& names = architecture->tensors;
  ModelWeights weights;
  LONGSPAN_ASSIGN_OR_RETURN(weights.embedding, find(names.embedding, EmbeddingShape(config)));
  LONGSPAN_ASSIGN_OR_RETURN(weights.final_norm, find(names.final_norm, NormShape(config)));
  weights.lm_head = weights.embedding;
  if (!config.tie_word_embeddings) {
    LONGSPAN_ASSIGN_OR_RETURN(weights.lm_head, find(names.lm_head, EmbeddingShape(config)));
  }
  weights.layers.resize(static_cast<size_t>(config.num_layers));
  for (int64_t i = 0; i < config.num_layers; ++i) {
    for (const LayerTensor& kind : kLayerTensors) {
      if (kind.has != nullptr && !(config.*kind.has)) continue;
      const std::string name = absl::StrCat(names.layer_prefix, i, ".", names.*kind.name);
      LONGSPAN_ASSIGN_OR_RETURN(weights.layers[i].*kind.tensor, find(name, kind.shape(config)));
    }
  }
  return weights;
}

absl::StatusOr<ModelWeights> LoadWeights(const std::string& model_dir, const ModelConfig& config) {
  LONGSPAN_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::Open(model_dir));
  LONGSPAN_RETURN_IF_ERROR(checkpoint.CheckNotQuantised());
  LONGSPAN_ASSIGN_OR_RETURN(
      ModelWeights weights,
      AssembleWeights(config, [&](absl::string_view name, const std::vector<int64_t>& shape) {
        return checkpoint.Find(std::string(name), shape);
      }));
  const absl::string_view prefix = FindArchitecture(config.architecture)->tensors.layer_prefix;
  LONGSPAN_RETURN_IF_ERROR(checkpoint.CheckNothingLeft(prefix, config.num_layers));
  return weights;
}

std::vector<Tensor> AllTensors(const ModelWeights& weights) {
  std::vector<Tensor> tensors;
  const auto add = [&tensors](const Tensor& tensor) {
    if (!tensor.empty()) tensors.push_back(tensor);
  };
  add(weights.embedding);
  add(weights.final_norm);
  if (weights.lm_head.data != weights.embedding.data) add(weights.lm_head);
  for (const LayerWeights& layer : weights.layers) {
    for (const LayerTensor& kind : kLayerTensors) add(layer.*kind.tensor);
  }
  return tensors;
}

WeightCounts CountWeights(const ModelWeights& weights) {
  WeightCounts counts;
  for (const Tensor& tensor : AllTensors(weights)) {
    counts.parameters += tensor.num_elements();
    counts.bytes += tensor.num_bytes();
  }
  return counts;
}

void DropFromMemory(const LayerWeights& layer) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  for (const LayerTensor& kind : kLayerTensors) {
    const Tensor& tensor = layer.*kind.tensor;
    if (tensor.data == nullptr) continue;
    // Whole pages only: its neighbours may be in use.
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(tensor.data) + page - 1) / page * page;
    const uintptr_t end =
        (reinterpret_cast<uintptr_t>(tensor.data) + tensor.num_bytes()) / page * page;
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
  }
}

std::string ModelFingerprint(const ModelConfig& config, const ModelWeights& weights) {
  Hash hash;
  hash.Add("longspan model 1");
  hash.Add(config.architecture);
  for (const int64_t size :
       {config.vocab_size, config.hidden_size, config.intermediate_size, config.num_layers,
        config.num_heads, config.num_kv_heads, config.head_dim,
        std::bit_cast<int64_t>(config.rms_norm_eps), std::bit_cast<int64_t>(config.rope.theta)}) {
    hash.Add(size);
  }
  AddScaling(config.rope, &hash);
  AddTensor("embedding", weights.embedding, &hash);
  AddTensor("final_norm", weights.final_norm, &hash);
  AddTensor("lm_head", weights.lm_head, &hash);
  for (const LayerWeights& layer : weights.layers) {
    for (const LayerTensor& kind : kLayerTensors) {
      if ((layer.*kind.tensor).data != nullptr) AddTensor(kind.role, layer.*kind.tensor, &hash);
    }
  }
  return hash.Hex();
}

}  // namespace longspan
