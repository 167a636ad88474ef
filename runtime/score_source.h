#ifndef LONGSPAN_RUNTIME_SCORE_SOURCE_H_
#define LONGSPAN_RUNTIME_SCORE_SOURCE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/base/lane_gemm.h"
#include "kernels/score.h"
#include "kernels/select.h"
#include "runtime/attention_context.h"

// What the ways of scoring (head_sum_scores.h, vote_scores.h) have in common.
namespace longspan {

// What a rank scores of one sequence in one layer.
struct ScoreSource {
  SequenceLayout layout;
  int rank = 0;
  int64_t top_k = 0;
  int64_t proximity = 0;
  // Score keys of `range`, within a stripe's `run` of positions and its halo.
  std::function<ScoreKeys(Range run, Range range)> keys;

  std::vector<Range> Runs(Range middle) const { return layout.OwnedRuns(rank, middle); }
};

// A block that has more to select from than it may take.
struct ScoredBlock {
  size_t index = 0;  // among all blocks
  Range middle;
  int64_t count = 0;          // queries
  std::vector<float> panels;  // [voters, panels] for the kernels

  int64_t num_panels() const { return NumPanels(count); }
  int64_t lanes() const { return num_panels() * kPanelLanes; }
};

// A decoded token that has.
struct ScoredToken {
  size_t index = 0;  // among all tokens
  Range middle;
  ScoreSource source;
  const float* query = nullptr;  // what the score reads of it
};

// This rank's top-k of one middle, in no order, zeros where there are fewer: step 4's local part.
// `score(run, range, out)` writes F of the positions of `range`, a run of one stripe and its halo.
template <typename Score>
void LocalTopK(const ScoreSource& source, Range middle, Score&& score, Candidate* out) {
  TopK top(source.top_k);
  std::vector<float> scores, spread;
  for (const Range& run : source.Runs(middle)) {
    const Range range =
        Intersect({run.begin - source.proximity, run.end + source.proximity}, middle);
    scores.resize(range.size());
    spread.resize(run.size());
    score(run, range, scores.data());
    Proximity(scores.data(), range.size(), source.proximity, run.begin - range.begin,
              run.end - range.begin, spread.data());
    top.Add(spread.data(), run.size(), run.begin);
  }
  top.Take(out);
}

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_SCORE_SOURCE_H_
