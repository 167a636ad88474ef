#ifndef LONGSPAN_RUNTIME_MEMORY_PLAN_H_
#define LONGSPAN_RUNTIME_MEMORY_PLAN_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/config.h"
#include "runtime/kv_shard.h"
#include "runtime/model_config.h"

namespace longspan {

// Bytes of one rank, by part. On the CPU nothing but the pages grows with the context; on a GPU
// activations do too.
struct MemoryPlan {
  int64_t weights = 0;         // this rank's share of the files that all ranks of a host map
  int64_t activations = 0;     // of one chunk
  int64_t scores = 0;          // gathered queries, maxima and candidates of one chunk
  int64_t exchange = 0;        // messages of the ring, and what they bring
  int64_t page = 0;            // of the cache: one stripe of one sequence
  int64_t available = 0;       // to this rank
  int64_t host_page = 0;       // `kv_cache.tier: host`: the part of a page that is in host memory,
  int64_t host_available = 0;  // and what a GPU's rank may use there, whether it does or not
  // Where activations grow with the context: tokens of the longest request that fits with them.
  std::optional<int64_t> longest;

  int64_t fixed() const { return weights + activations + scores + exchange; }
  // Cache pages that fit in `fraction` of what is available.
  int64_t MaxPages(double fraction) const;
  std::string ToString() const;
};

MemoryPlan PlanMemory(const Config& config, const ModelConfig& model, const KvShape& kv,
                      int num_ranks, int ranks_on_host, int64_t weight_bytes);

// Tokens, at most kMaxPosition, of the longest request whose pages fit in `fraction` of what is
// available beside the activations that it needs; 0: none fits. `activations` gives bytes for
// tokens, and never less for more. Those of `plan` do not count.
int64_t LongestRequest(MemoryPlan plan, double fraction, const SequenceLayout& layout,
                       absl::FunctionRef<int64_t(int64_t tokens)> activations);

// ResourceExhausted, with the bytes that are needed and that there are and with what would help, if
// `pages` of every rank do not hold a request of max_model_len; a max_model_len of 0 becomes the
// longest that fits.
absl::Status FitCache(const MemoryPlan& plan, int64_t pages, Config* config,
                      const SequenceLayout& layout);

// Memory that new allocations of this process can use: what the host and its control group leave.
int64_t AvailableMemory();
// Peak resident set of this process.
int64_t PeakMemory();

// The parts of 1,234,567 bytes as people read them: "1.2 MB".
std::string FormatBytes(int64_t bytes);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_MEMORY_PLAN_H_
