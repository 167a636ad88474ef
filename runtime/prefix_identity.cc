#include "runtime/prefix_identity.h"

#include <cstdint>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "kernels/base/status_macros.h"
#include "runtime/checksum.h"
#include "runtime/weights.h"

namespace longspan {
namespace {

// Of how pages lie in files, and of what their numbers mean.
constexpr char kFormat[] = "1";

// ModelFingerprint reads samples, which is enough for a compressor, but not for numbers that pass
// for the model's own.
absl::StatusOr<std::string> ChecksumOf(const ModelWeights& weights, Communicator* communicator) {
  const std::vector<Tensor> tensors = AllTensors(weights);
  std::string mine;
  std::vector<int64_t> bytes(communicator->size(), 0);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const int rank = static_cast<int>(i) % communicator->size();
    bytes[rank] += kChecksumBytes;
    if (rank != communicator->rank()) continue;
    absl::StrAppend(&mine, Checksum({static_cast<const char*>(tensors[i].data),
                                     static_cast<size_t>(tensors[i].num_bytes())}));
  }
  std::string all(tensors.size() * kChecksumBytes, ' ');
  LONGSPAN_RETURN_IF_ERROR(
      communicator->AllGatherV("prefixes.weights", mine.data(), all.data(), bytes));
  // In the order of tensors: whatever the number of ranks.
  std::vector<size_t> next(communicator->size(), 0);
  for (int r = 1; r < communicator->size(); ++r) next[r] = next[r - 1] + bytes[r - 1];
  std::string ordered;
  for (size_t i = 0; i < tensors.size(); ++i) {
    size_t& at = next[i % communicator->size()];
    ordered += all.substr(at, kChecksumBytes);
    at += kChecksumBytes;
  }
  return Checksum(ordered);
}

std::string ChecksumOf(const std::vector<ScoreFactors>& factors) {
  const auto bytes = [](const std::vector<float>& matrix) {
    return absl::string_view(reinterpret_cast<const char*>(matrix.data()),
                             matrix.size() * sizeof(float));
  };
  std::string all;
  for (const ScoreFactors& layer : factors) {
    absl::StrAppend(&all, Checksum(bytes(layer.query)), Checksum(bytes(layer.key)));
  }
  return Checksum(all);
}

// Those that change what a prompt's keys and values are.
std::vector<absl::string_view> KeysOfAttention(const Config& config) {
  if (config.attention == Attention::kDense) return {};
  std::vector<absl::string_view> keys = {"esa.initial_tokens", "esa.local_tokens",
                                         "esa.selection_block", "esa.positions",
                                         "esa.far_position"};
  if (config.attention == Attention::kStreaming) return keys;
  keys.insert(keys.end(), {"esa.top_k", "esa.compression", "esa.proximity", "esa.score",
                           "esa.target", "esa.unit_tokens"});
  if (config.esa.compression == Compression::kLowRank) keys.push_back("esa.compressed_dim");
  if (config.esa.unit_tokens > 1) keys.push_back("esa.unit_representatives");
  if (config.esa.score == Score::kGroupVote) keys.push_back("esa.score_groups");
  return keys;
}

}  // namespace

absl::StatusOr<PrefixIdentity> MakePrefixIdentity(const Config& config, const Model& model,
                                                  Communicator* communicator) {
  PrefixIdentity identity = {
      {"format", kFormat},
      {"longspan", LONGSPAN_VERSION},
      {"the model", ModelFingerprint(model.config, model.weights)},
      {"the compressor", ChecksumOf(model.attention.factors)},
      {"kv_cache.dtype", std::string(DTypeName(model.attention.kv.dtype))},
      {"kv_cache.score_dtype", std::string(DTypeName(model.attention.kv.score_dtype))},
  };
  LONGSPAN_ASSIGN_OR_RETURN(identity["the weights"], ChecksumOf(model.weights, communicator));
  for (const absl::string_view key : {"device", "dtype", "attention", "deterministic"}) {
    identity[std::string(key)] = ConfigValue(config, key);
  }
  for (const absl::string_view key : KeysOfAttention(config)) {
    identity[std::string(key)] = ConfigValue(config, key);
  }
  if (config.deterministic) identity["kernels"] = model.kernels;
  return identity;
}

std::string IdentityDifferences(const PrefixIdentity& there, const PrefixIdentity& here) {
  PrefixIdentity all = there;
  all.insert(here.begin(), here.end());
  const auto value = [](const PrefixIdentity& identity, const std::string& name) {
    const auto found = identity.find(name);
    return found == identity.end() ? "unknown" : found->second;
  };
  std::vector<std::string> differences;
  for (const auto& [name, unused] : all) {
    if (value(there, name) == value(here, name)) continue;
    differences.push_back(
        absl::StrCat(name, " is ", value(there, name), " there and ", value(here, name), " here"));
  }
  return absl::StrJoin(differences, "; ");
}

}  // namespace longspan
