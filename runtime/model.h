#ifndef LONGSPAN_RUNTIME_MODEL_H_
#define LONGSPAN_RUNTIME_MODEL_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "collectives/communicator.h"
#include "runtime/attention_context.h"
#include "runtime/compressor.h"
#include "runtime/config.h"
#include "runtime/memory_plan.h"
#include "runtime/model_config.h"
#include "runtime/tokenizer.h"
#include "runtime/transformer.h"
#include "runtime/weights.h"

namespace longspan {

struct Gpu;  // cuda/gpu.h

// A model loaded on one rank, with everything that its forward pass refers to.
struct Model {
  ModelConfig config;
  ModelWeights weights;
  std::shared_ptr<Gpu> gpu;  // `device: cuda`
  std::string kernels;       // on what bits depend: a set of CPU kernels, or a kind of GPU
  std::unique_ptr<Rope> rope;
  AttentionCounts counts;
  AttentionContext attention;
  std::unique_ptr<Transformer> transformer;
  std::unique_ptr<PagePool> pool;
  MemoryPlan memory;
};

// What of the weights a run holds in memory at a time.
enum class WeightsAtOnce { kAll, kOneLayer };

// Loads the model directory for this rank and plans its memory; refuses what does not fit before
// reading any weight. Collective: every rank returns the same error. `config` is resolved; a
// max_model_len of 0 becomes the longest that the cache can hold. If each rank is to run a model of
// its own, `alone` is a communicator of this rank; hosts and GPUs are shared all the same.
absl::StatusOr<std::unique_ptr<Model>> LoadModel(Communicator* communicator, Config* config,
                                                 WeightsAtOnce at_once = WeightsAtOnce::kAll,
                                                 Communicator* alone = nullptr);

// Mapped files, or of a dummy model memory that is not filled yet. No weight is read.
absl::StatusOr<ModelWeights> MapWeights(const Config& config, const ModelConfig& model);

// The model directory's, or a stand-in for a dummy model that has none.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const Config& config);

// Who scores, and what they read (`esa.score`).
Voters MakeVoters(const Config& config, const ModelConfig& model);
// Cache shape and attention context of a model without its weights, for tests and calibration.
KvShape MakeKvShape(const Config& config, const ModelConfig& model);
AttentionContext MakeAttentionContext(const Config& config, const ModelConfig& model,
                                      int num_ranks);
AttentionContext MakeAttentionContext(const Config& config, const ModelConfig& model,
                                      Communicator* communicator, Rope* rope,
                                      AttentionCounts* counts);
// Applies `rope.scaling` to what config.json says; max_position_embeddings becomes what the model
// is stretched to. FailedPrecondition for a model that has a scaling of its own.
absl::Status StretchRope(const Config& config, ModelConfig* model);
// Settles `dtype: auto`: a GPU computes in what the checkpoint is in, the CPU in float32.
void ResolveDType(const ModelConfig& model, Config* config);
std::vector<ScoreFactors> MakeScoreFactors(const Compressor& compressor);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_MODEL_H_
