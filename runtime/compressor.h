#ifndef LONGSPAN_RUNTIME_COMPRESSOR_H_
#define LONGSPAN_RUNTIME_COMPRESSOR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "runtime/model_config.h"
#include "runtime/safetensors.h"

namespace longspan {

// The score's low-rank factors (ESA, section 3.2): q . k ~ (A^T q) . (B^T k), with q the
// queries summed over each group and k the keys, both before RoPE, heads concatenated.
struct LayerCompressor {
  Tensor query;  // A: [kv_heads*head_dim, dim] float32, contiguous
  Tensor key;    // B: [kv_heads*head_dim, dim] float32, contiguous
};

struct Compressor {
  int64_t dim = 0;
  std::vector<LayerCompressor> layers;
  std::string target;       // what its scores approximate (ScoreTargetName)
  std::string method;       // how it was fitted
  std::string calibration;  // on what text
};

// Reads `layers.{i}.query` and `layers.{i}.key` of a safetensors file. If the file has more than
// `compressed_dim` columns the first ones are copied: they are ordered by singular value. Fewer
// are refused; so are a part of what gradient descent fitted (method "sgd"), a file whose
// fingerprint is not `fingerprint` (see ModelFingerprint), and one whose target is not `target`;
// files that state none have "dot".
absl::StatusOr<Compressor> LoadCompressor(const std::string& path, const ModelConfig& config,
                                          absl::string_view fingerprint, absl::string_view target,
                                          int64_t compressed_dim);

// A and B of one layer, each [kv_heads*head_dim, compressed_dim] row-major.
struct LayerCompressorData {
  absl::Span<const float> query;
  absl::Span<const float> key;
};

// Writes what LoadCompressor reads, atomically. `method` and `calibration` are free text.
absl::Status SaveCompressor(const std::string& path, const ModelConfig& config,
                            absl::string_view fingerprint, absl::string_view target,
                            int64_t compressed_dim, absl::Span<const LayerCompressorData> layers,
                            absl::string_view method, absl::string_view calibration);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_COMPRESSOR_H_
