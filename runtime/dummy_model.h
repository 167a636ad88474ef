#ifndef LONGSPAN_RUNTIME_DUMMY_MODEL_H_
#define LONGSPAN_RUNTIME_DUMMY_MODEL_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "runtime/compressor.h"
#include "runtime/model_config.h"
#include "runtime/tokenizer.h"
#include "runtime/weights.h"

// `load_format: dummy`: what a run needs beside a config.json, made up, for studies of speed
// without a download. The same on every rank and in every run.
namespace longspan {

// Weights in float32 if config.json states that, else in bfloat16, in this process's memory: norms
// of 1, the rest random with mean 0 and standard deviation 0.02, as models are initialised. Without
// `fill` they are mapped but not written, which costs no memory. ResourceExhausted: there is no
// room.
absl::StatusOr<ModelWeights> MakeDummyWeights(const ModelConfig& config, bool fill);

// Random factors of `dim` columns.
Compressor MakeDummyCompressor(const ModelConfig& config, int64_t dim);

// A token a byte; ids from 256 on are written <|id|>.
absl::StatusOr<std::unique_ptr<Tokenizer>> MakeDummyTokenizer(int64_t vocab_size);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_DUMMY_MODEL_H_
