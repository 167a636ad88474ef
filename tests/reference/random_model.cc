#include "tests/reference/random_model.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <random>
#include <utility>

#include "kernels/base/check.h"

namespace longspan {
namespace {

class Normals {
 public:
  Normals(uint64_t seed, DType dtype) : generator_(seed), dtype_(dtype) {}

  std::vector<float> Draw(int64_t count, double mean, double deviation) {
    std::normal_distribution<double> normal(mean, deviation);
    std::vector<float> values(count);
    for (float& value : values) value = static_cast<float>(normal(generator_));
    return values;
  }

  // Keeps the variance of its input times gain^2.
  Tensor Matrix(int64_t outputs, int64_t inputs, double gain) {
    const double deviation = gain / std::sqrt(static_cast<double>(inputs));
    return MakeTensor(Draw(outputs * inputs, 0, deviation), {outputs, inputs}, dtype_);
  }

  Tensor Bias(int64_t size) { return MakeTensor(Draw(size, 0, 0.3), {size}, dtype_); }
  Tensor NormWeight(int64_t size) { return MakeTensor(Draw(size, 1, 0.1), {size}, dtype_); }

 private:
  std::mt19937_64 generator_;
  DType dtype_;
};

ModelConfig MakeConfig(const RandomModelOptions& options) {
  ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  config.vocab_size = options.vocab_size;
  config.hidden_size = options.hidden_size;
  config.intermediate_size = options.intermediate_size;
  config.num_layers = options.num_layers;
  config.num_heads = options.num_heads;
  config.num_kv_heads = options.num_kv_heads;
  config.head_dim = options.head_dim;
  config.rope.theta = options.rope_theta;
  config.tie_word_embeddings = options.tie_word_embeddings;
  config.max_position_embeddings = options.max_position_embeddings;
  config.dtype = options.dtype;
  config.rope.scaling = options.rope_scaling;
  config.rope.factor = 4;
  config.rope.original_context = 64;
  if (options.rope_scaling == RopeScaling::kYarn) config.rope.attention_factor = 1.1386;
  config.qkv_bias = config.output_bias = options.attention_bias;
  config.qk_norm = options.qk_norm;
  return config;
}

Compressor MakeCompressor(const RandomModelOptions& options) {
  Normals normals(options.seed + 1, DType::kFloat32);
  const int64_t dim = options.compressed_dim;
  const int64_t width = options.num_kv_heads * options.head_dim;
  const double deviation = 1 / std::sqrt(static_cast<double>(dim));
  Compressor compressor;
  compressor.dim = dim;
  compressor.method = "random";
  for (int64_t i = 0; i < options.num_layers; ++i) {
    const std::vector<float> query = normals.Draw(width * dim, 0, deviation);
    std::vector<float> key = normals.Draw(width * dim, 0, 0.2 * deviation);
    for (size_t j = 0; j < key.size(); ++j) key[j] += query[j];
    compressor.layers.push_back({MakeTensor(query, {width, dim}), MakeTensor(key, {width, dim})});
  }
  return compressor;
}

}  // namespace

Tensor MakeTensor(const std::vector<float>& values, std::vector<int64_t> shape, DType dtype) {
  Tensor tensor;
  tensor.dtype = dtype;
  tensor.shape = std::move(shape);
  LONGSPAN_CHECK(tensor.num_elements() == static_cast<int64_t>(values.size()));
  if (dtype == DType::kFloat32) {
    auto buffer = std::make_shared<std::vector<float>>(values);
    tensor.data = buffer->data();
    tensor.owner = std::move(buffer);
  } else {
    LONGSPAN_CHECK(dtype == DType::kBFloat16);
    auto buffer = std::make_shared<std::vector<BFloat16>>(values.size());
    for (size_t i = 0; i < values.size(); ++i) (*buffer)[i] = ToBFloat16(values[i]);
    tensor.data = buffer->data();
    tensor.owner = std::move(buffer);
  }
  return tensor;
}

RandomModel MakeRandomModel(const RandomModelOptions& options) {
  Normals normals(options.seed, options.dtype);
  const int64_t hidden = options.hidden_size;
  const int64_t query_width = options.num_heads * options.head_dim;
  const int64_t key_width = options.num_kv_heads * options.head_dim;
  const double query_gain = std::sqrt(options.attention_std);  // q . k / sqrt(D) of unit inputs
  RandomModel model;
  model.config = MakeConfig(options);
  model.weights.embedding = MakeTensor(normals.Draw(options.vocab_size * hidden, 0, 0.5),
                                       {options.vocab_size, hidden}, options.dtype);
  for (int64_t i = 0; i < options.num_layers; ++i) {
    LayerWeights layer;
    layer.attention_norm = normals.NormWeight(hidden);
    layer.query = normals.Matrix(query_width, hidden, query_gain);
    layer.key = normals.Matrix(key_width, hidden, query_gain);
    layer.value = normals.Matrix(key_width, hidden, 1);
    layer.output = normals.Matrix(hidden, query_width, 2);  // attention averages the values
    layer.mlp_norm = normals.NormWeight(hidden);
    layer.gate = normals.Matrix(options.intermediate_size, hidden, 1);
    layer.up = normals.Matrix(options.intermediate_size, hidden, 1);
    layer.down = normals.Matrix(hidden, options.intermediate_size, 1);
    if (options.attention_bias) {
      layer.query_bias = normals.Bias(query_width);
      layer.key_bias = normals.Bias(key_width);
      layer.value_bias = normals.Bias(key_width);
      layer.output_bias = normals.Bias(hidden);
    }
    if (options.qk_norm) {
      layer.query_norm = normals.NormWeight(options.head_dim);
      layer.key_norm = normals.NormWeight(options.head_dim);
    }
    model.weights.layers.push_back(std::move(layer));
  }
  model.weights.final_norm = normals.NormWeight(hidden);
  model.weights.lm_head = options.tie_word_embeddings
                              ? model.weights.embedding
                              : normals.Matrix(options.vocab_size, hidden, 2);
  if (options.compressed_dim > 0) model.compressor = MakeCompressor(options);
  return model;
}

std::vector<int32_t> RandomTokens(uint64_t seed, int64_t count, int64_t vocab_size) {
  std::mt19937_64 generator(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) {
    token = static_cast<int32_t>(generator() % static_cast<uint64_t>(vocab_size));
  }
  return tokens;
}

std::vector<int32_t> DistinctTokens(uint64_t seed, int64_t count, int64_t vocab_size) {
  LONGSPAN_CHECK(count <= vocab_size);
  std::vector<int32_t> tokens(vocab_size);
  std::iota(tokens.begin(), tokens.end(), 0);
  std::shuffle(tokens.begin(), tokens.end(), std::mt19937_64(seed));
  tokens.resize(count);
  return tokens;
}

}  // namespace longspan
