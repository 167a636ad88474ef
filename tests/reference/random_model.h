#ifndef LONGSPAN_TESTS_REFERENCE_RANDOM_MODEL_H_
#define LONGSPAN_TESTS_REFERENCE_RANDOM_MODEL_H_

#include <cstdint>
#include <vector>

#include "kernels/base/dtype.h"
#include "runtime/compressor.h"
#include "runtime/model_config.h"
#include "runtime/weights.h"

namespace longspan {

struct RandomModelOptions {
  uint64_t seed = 1;
  int64_t vocab_size = 97;
  int64_t hidden_size = 64;
  int64_t intermediate_size = 96;
  int64_t num_layers = 2;
  int64_t num_heads = 4;
  int64_t num_kv_heads = 2;
  int64_t head_dim = 16;
  bool tie_word_embeddings = false;
  DType dtype = DType::kFloat32;  // or kBFloat16
  double rope_theta = 10000;
  RopeScaling rope_scaling = RopeScaling::kNone;  // else by 4, from 64 tokens
  bool attention_bias = false;                    // of queries, keys, values and the output
  bool qk_norm = false;
  int64_t max_position_embeddings = 512;
  int64_t compressed_dim = 0;  // 0: no compressor
  double attention_std = 1.5;  // of the logits that enter the softmax
};

// A model in memory; the tensors own their data, so copies may outlive it. Layer 0's keys depend on
// the token alone: a token that occurs twice gives two equal scores there.
struct RandomModel {
  ModelConfig config;
  ModelWeights weights;
  Compressor
      compressor;  // float32; B is A and 20% noise, so that scores stay related; may be empty
};

// A function of the options alone.
RandomModel MakeRandomModel(const RandomModelOptions& options);

// Uniform over the vocabulary.
std::vector<int32_t> RandomTokens(uint64_t seed, int64_t count, int64_t vocab_size);

// No token twice; count is at most vocab_size. Without repetitions no two keys are equal but for
// rounding, which BLAS libraries may do differently from row to row of one product.
std::vector<int32_t> DistinctTokens(uint64_t seed, int64_t count, int64_t vocab_size);

// Tensor of float32 or bfloat16 (to which `values` are rounded), row-major.
Tensor MakeTensor(const std::vector<float>& values, std::vector<int64_t> shape,
                  DType dtype = DType::kFloat32);

}  // namespace longspan

#endif  // LONGSPAN_TESTS_REFERENCE_RANDOM_MODEL_H_
