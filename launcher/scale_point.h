#ifndef LONGSPAN_LAUNCHER_SCALE_POINT_H_
#define LONGSPAN_LAUNCHER_SCALE_POINT_H_

#include <compare>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "launcher/bench_report.h"
#include "launcher/bench_shape.h"
#include "launcher/engine_runs.h"
#include "runtime/memory_plan.h"
#include "runtime/phases.h"
#include "runtime/request.h"

// One point of a scaling study, as `longspan scale point` measures it and as one line of JSON.
namespace longspan {

struct ScaleKey {
  std::string method;   // esa, dense or streaming: the config's `attention`
  int64_t context = 0;  // tokens of each prompt
  int64_t batch = 1;    // prompts that run together
  int64_t ranks = 1;

  auto operator<=>(const ScaleKey&) const = default;
  // The same job on one rank: what the outputs must equal.
  ScaleKey reference() const { return {method, context, batch, 1}; }
  std::string ToString() const;  // "4 ranks, 65536 tokens, batch 1, esa"
};

// Tokens behind each prompt whose log-probabilities are kept, with those of so many alternatives:
// enough to see a difference, and few beside what is decoded for its time.
inline constexpr int64_t kComparedTokens = 8;
inline constexpr int64_t kComparedAlternatives = 8;

// Tokens that a prompt of a point gets at most, if `steps` of them are timed.
inline int64_t ScaleTokens(int64_t batch, int64_t steps) {
  return GeneratedTokens(batch, steps, kComparedTokens);
}

// What one prompt was answered with.
struct ScaleOutput {
  std::vector<int32_t> tokens;          // all that were generated
  std::vector<TokenLogprobs> logprobs;  // of the first of them

  friend bool operator==(const ScaleOutput&, const ScaleOutput&) = default;
};

// 32 hex digits over tokens and the bits of log-probabilities.
std::string OutputsDigest(const std::vector<ScaleOutput>& outputs);

struct ScalePoint {
  ScaleKey key;
  std::string version;                        // "longspan 0.1.0"
  std::map<std::string, std::string> config;  // resolved; keys that differ from the defaults
  std::string prompt;                         // "random" or the file whose text it is
  std::vector<std::string> hosts;             // [ranks]
  std::vector<int64_t> slots;  // [ranks] cores, or GPUs, that the ranks of its host share
  BenchMachine machine;

  int64_t runs = 1;                   // that all times are of
  std::vector<double> prefill_s;      // [runs] of all chunks of all prompts
  std::vector<double> chunks_s;       // of each chunk
  std::vector<double> first_token_s;  // [runs * batch]
  std::vector<double> decode_s;       // [runs * steps] of a token of every sequence
  Work prefill_work;                  // of one rank: all prompts, and
  Work decode_work;                   // one step, with every sequence behind its prompt
  std::vector<RankPhases> phases;     // [ranks] sums over all steps of all runs

  MemoryPlan memory;                // of rank 0
  int64_t cache_bytes = 0;          // that the sequences take on rank 0
  std::vector<int64_t> peak_bytes;  // [ranks] resident set

  std::vector<ScaleOutput> outputs;  // [batch]
  std::string digest;                // OutputsDigest, as the line has it

  // More ranks on a host than it has slots: times say nothing about scaling.
  bool oversubscribed() const;
  bool deterministic() const;
  // Processor or GPU of rank 0, its kernels or driver, and this program: points whose differ are
  // not to be compared.
  std::string environment() const;
  int64_t num_hosts() const;
  double tokens_per_s() const;         // decoded, of all sequences
  double prompt_tokens_per_s() const;  // of all prompts
};

// The largest over the mean of a stage's compute over the ranks; NaN: not measured.
double Imbalance(const std::vector<RankPhases>& phases, StagePhases RankPhases::*stage);

nlohmann::ordered_json ToJson(const ScalePoint& point);
// InvalidArgument: not what ToJson makes, and where it differs.
absl::StatusOr<ScalePoint> ParseScalePoint(const nlohmann::json& json);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_SCALE_POINT_H_
