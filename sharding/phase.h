#ifndef LONGSPAN_SHARDING_PHASE_H_
#define LONGSPAN_SHARDING_PHASE_H_

#include <array>

namespace longspan {

// What a rank spends its time on, measured or predicted. Work on the rank itself comes first, then
// exchange with others: transferring, and waiting for whoever is late.
enum class Phase {
  kLinear,          // projections and MLP, with the norms around them
  kScore,           // compression, scores, local top-k
  kAttend,          // attention to the keys that there are
  kOtherCompute,    // embeddings, cache writes, logits
  kQueryGather,     // compressed queries to all ranks
  kMaxima,          // maxima of scores, and thresholds
  kCandidateMerge,  // candidates to all ranks, and their merge
  kRingWait,        // keys and values, or queries, that had not arrived when they were needed
  kPartialMerge,    // partials to where their queries are, and their merge
  kOtherExchange,   // plans, margins of stripes, logits
};
inline constexpr int kNumPhases = 10;
inline constexpr int kNumComputePhases = 4;  // of them, the first

inline constexpr std::array<const char*, kNumPhases> kPhaseNames = {
    "linear", "score",           "attend",    "other_compute", "query_gather",
    "maxima", "candidate_merge", "ring_wait", "partial_merge", "other_exchange"};
constexpr const char* PhaseName(Phase phase) { return kPhaseNames[static_cast<int>(phase)]; }

}  // namespace longspan

#endif  // LONGSPAN_SHARDING_PHASE_H_
