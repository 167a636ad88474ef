#ifndef LONGSPAN_RUNTIME_CALIBRATION_ROWS_H_
#define LONGSPAN_RUNTIME_CALIBRATION_ROWS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "collectives/communicator.h"
#include "kernels/attention.h"
#include "kernels/rope.h"
#include "runtime/config.h"
#include "runtime/layer_fits.h"
#include "runtime/score_fit.h"
#include "runtime/score_recall.h"
#include "sharding/sequence_layout.h"

namespace longspan {

// Where recall is told in a window that is held out, all windows alike: its last tokens are the
// queries, as one selection block, and the keys those of its middle. A window may be shorter than
// the ranges of the run: local tokens are at most half of it, initial ones an eighth.
struct RecallRanges {
  Range queries;
  Range keys;
  int64_t top_k = 0;  // esa.top_k, at most an eighth of the keys; 0: too few
};
RecallRanges RecallRangesOf(const EsaConfig& esa, int64_t window_tokens);

// A window of the text, and what becomes of its rows: those of one that is held out tell the
// recall; of any other all count in the moments, and the first `sampled_rows` are kept.
struct WindowUse {
  int64_t index = 0;      // in the text
  int64_t held_out = -1;  // which of those held out it is; -1: none
  int64_t sampled_rows = 0;
};

// Says what becomes of the text's windows, one after the other. One in eight is held out, until
// `kHeldOutTokens` are; the rows of the first kSgdTokens others are kept.
class WindowUses {
 public:
  explicit WindowUses(int64_t window_tokens) : window_tokens_(window_tokens) {}

  // Of a window of so many tokens; a shorter one than the others is never held out, so that all of
  // those select from as many keys.
  WindowUse Next(int64_t tokens);

  int64_t held_out() const { return held_out_; }  // windows
  int64_t fitted_tokens() const { return fitted_tokens_; }

 private:
  int64_t window_tokens_;
  int64_t windows_ = 0;
  int64_t held_out_ = 0;
  int64_t fitted_tokens_ = 0;
};
inline constexpr int64_t kHeldOutTokens = 32768;
// Fewer would hold none out.
inline constexpr int64_t kMinCalibrationWindows = 5;

// What one rank gathers of the windows that pass through it.
class CalibrationRows {
 public:
  // Queries are rotated to `far_position`, if there is a rope.
  CalibrationRows(const AttentionShape& shape, int64_t layers, bool keeps_rows, Rope* rope,
                  int64_t far_position, const RecallRanges& recall);

  // Makes room for the rows that windows which come next will leave.
  void Expect(absl::Span<const WindowUse> windows);
  // queries: [rows, heads, head_dim] before RoPE, keys: [rows, kv_heads, head_dim]. Of each layer
  // the windows come in the order of Expect.
  void Add(const WindowUse& window, int64_t layer, const float* queries, const float* keys,
           int64_t rows);
  // Adds up the moments of all ranks. Collective.
  absl::Status Reduce(Communicator& communicator);

  const std::vector<LayerMoments>& moments() const { return moments_; }
  RowSample& sample() { return sample_; }
  // Of each layer this rank's windows that are held out, and which they are.
  const std::vector<std::vector<HeldOut>>& held_out() const { return held_out_; }
  const std::vector<int64_t>& held_out_windows() const { return held_out_windows_; }

 private:
  AttentionShape shape_;
  bool keeps_rows_;
  Rope* rope_;
  int64_t far_position_;
  RecallRanges recall_;
  std::vector<LayerMoments> moments_;
  RowSample sample_;
  std::vector<std::vector<HeldOut>> held_out_;  // [layers]
  std::vector<int64_t> held_out_windows_;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_CALIBRATION_ROWS_H_
