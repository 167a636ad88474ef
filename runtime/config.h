#ifndef LONGSPAN_RUNTIME_CONFIG_H_
#define LONGSPAN_RUNTIME_CONFIG_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/base/dtype.h"

namespace longspan {

// The enumerators' order is that of the names in config.cc.
enum class Attention { kEsa, kStreaming, kDense };
enum class Compression { kLowRank, kExact };
enum class Positions { kFar, kNative };
enum class CommunicatorKind { kAuto, kThreads, kMpi, kNccl };
enum class SelectionMerge { kAuto, kAllGather, kHistogram };
enum class RopeStretch { kNone, kNtk, kYarn };
enum class Score { kHeadSum, kHeadMax, kSoftVote, kGroupVote };
enum class ScoreTarget { kDot, kFar };

// Efficient Selective Attention (arXiv 2502.14477). All counts are in tokens.
struct EsaConfig {
  int64_t initial_tokens = 128;
  int64_t local_tokens = 4096;
  int64_t top_k = 2048;
  int64_t selection_block = 512;
  int64_t compressed_dim = 128;
  Compression compression = Compression::kLowRank;
  std::string compressor;  // file; empty: compressor.safetensors of the model directory
  int64_t proximity = 1;
  Positions positions = Positions::kFar;
  int64_t far_position = 0;  // 0 until ResolveConfig: then local_tokens
  Score score = Score::kHeadSum;
  int64_t score_groups = 8;  // of the compressed dimensions; of Score::kGroupVote
  ScoreTarget target = ScoreTarget::kDot;
  int64_t unit_tokens = 1;  // selected together, by the score of their representatives
  int64_t unit_representatives = 4;

  int64_t picks() const { return top_k / unit_tokens; }  // units that top_k tokens are
};

// Dense attention beyond the trained context.
struct RopeStretchConfig {
  RopeStretch scaling = RopeStretch::kNone;  // what config.json says
  double factor = 0;                         // 0: max_model_len over the trained context
};

struct ParallelConfig {
  int64_t stripe_tokens = 0;  // 0 until ResolveConfig
  CommunicatorKind communicator = CommunicatorKind::kAuto;
  SelectionMerge selection_merge = SelectionMerge::kAuto;
  int64_t timeout_s = 300;  // of a wait for other ranks, until the job is ended
  int64_t ranks = 0;        // ranks as threads; under mpirun the world's size; 0: not stated
};

// How `longspan ask` asks: part of how a model was trained, so its directory may say it.
struct AskConfig {
  std::string prompt_template = "{document}\n{question}";
  std::string stop;  // the answer ends before it; empty: at an end-of-sequence token only
};

// `longspan serve`.
struct ServerConfig {
  std::string host = "127.0.0.1";
  int64_t port = 8000;
  std::string model_name;    // as clients name the model; empty: ModelName
  std::string api_key_file;  // one key a line; empty: $LONGSPAN_API_KEY, or no key is asked for
  int64_t default_max_tokens = 4096;  // of a chat that states none: a sequence reserves its length
  int64_t max_waiting = 256;          // sequences that wait for a place
  int64_t max_body_bytes = int64_t{64} << 20;  // of an HTTP request
  int64_t max_connections = 4096;
  int64_t body_timeout_s = 60;       // for a request's body to arrive
  int64_t request_timeout_s = 3600;  // from a request to its last token
  int64_t drain_timeout_s = 30;      // for what runs when the server is told to stop
};

// One run. Keys of the YAML file are the members' names, nested as here: `esa.top_k` is
// `esa: {top_k: 256}` in the file and `--set esa.top_k=256` on the command line.
struct Config {
  std::string model;                 // directory
  std::string device = "cpu";        // cpu | cuda
  std::string load_format = "auto";  // auto | dummy (a config.json alone, random weights)
  std::string dtype = "auto";        // auto | float32 | bfloat16 (GPUs only)
  int64_t max_model_len = 0;  // prompt + generated tokens of one request; 0: what the cache holds
  Attention attention = Attention::kEsa;
  EsaConfig esa;
  RopeStretchConfig rope;
  ParallelConfig parallel;
  AskConfig ask;
  ServerConfig server;
  int64_t prefill_chunk_tokens = 4096;  // prefill.chunk_tokens
  int64_t max_num_seqs = 8;
  bool deterministic = false;
  std::string kv_cache_dtype = "auto";  // kv_cache.dtype: auto | float32 | bfloat16 | fp8_e4m3
  std::string kv_cache_score_dtype = "auto";  // kv_cache.score_dtype: auto (the above) | fp8_e4m3
  std::string kv_cache_tier = "device";  // kv_cache.tier: of a GPU's keys and values; device | host
  std::string kv_cache_prefix_caching =
      "auto";                       // kv_cache.prefix_caching: auto (a server's) | true | false
  std::string kv_cache_prefix_dir;  // kv_cache.prefix_dir: from one run to the next
  double kv_cache_memory_fraction = 0.9;  // of the memory this rank may use
};

struct ConfigOverride {
  std::string key;    // dotted: "esa.top_k"
  std::string value;  // as a plain YAML scalar
};

// Reads defaults, then the model directory's longspan.yaml (`attention`, `esa` and `ask` only),
// then `path` (empty: none), then `overrides`, each winning over those before. `model_override`
// (--model, may be empty) wins over the file's `model`. A relative `model` or `esa.compressor` of
// `path` is looked up in the current directory, then beside `path`; in longspan.yaml, beside that
// file. Unknown and duplicate keys, wrong types and values out of range: InvalidArgument naming
// file, line and key. The model directory must exist; nothing in it but longspan.yaml is read.
absl::StatusOr<Config> LoadConfig(const std::string& path, const std::string& model_override,
                                  absl::Span<const ConfigOverride> overrides);

// Fills in what depends on the number of ranks (stripe_tokens, far_position) and refuses
// combinations that cannot work, with what to change.
absl::Status ResolveConfig(int num_ranks, Config* config);

// The same for a plan of a run elsewhere, whatever this build and machine have.
absl::Status SettleConfig(int num_ranks, Config* config);

// What differs from the defaults as YAML, one dotted key a line, and its inverse: how rank 0 tells
// the other ranks.
std::string ConfigToYaml(const Config& config);
absl::StatusOr<Config> ConfigFromYaml(absl::string_view yaml);

inline bool IsDummy(const Config& config) { return config.load_format == "dummy"; }

// What `key` ("esa.top_k") is, as a plain YAML scalar.
std::string ConfigValue(const Config& config, absl::string_view key);

// The last part of the model directory's path.
std::string ModelName(const Config& config);

// What `parallel.communicator: auto` means under mpirun: NCCL between GPUs, if it was built in.
CommunicatorKind DefaultUnderMpirun(const Config& config);

// What scores approximate, as a compressor's file says it: "dot", or "far 4096" with the resolved
// far_position.
std::string ScoreTargetName(const EsaConfig& esa);

// Where the compressor is.
std::string CompressorPath(const Config& config);

// Dtype of the cached keys, values and compressed keys; `auto` is that of the computation, which
// loading the model has settled.
DType KvCacheDType(const Config& config);
DType ScoreKeyDType(const Config& config);  // of compressed keys

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_CONFIG_H_
