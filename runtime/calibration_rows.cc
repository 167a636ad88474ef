#include "runtime/calibration_rows.h"

#include <algorithm>

#include "kernels/base/status_macros.h"
#include "runtime/selection.h"
#include "sharding/attention_ranges.h"

namespace longspan {
namespace {

// One window of each eight, not always the same one: then windows that ranks take in turn leave no
// rank all the work, and text of a period of eight is not all held out or none of it.
bool IsHeldOut(int64_t index) {
  constexpr int64_t kEvery = 8;
  constexpr int64_t kFirst = kMinCalibrationWindows - 1;
  constexpr int64_t kStep = 3;  // no divisor in common with kEvery
  return index % kEvery == (kFirst + kStep * (index / kEvery)) % kEvery;
}

}  // namespace

RecallRanges RecallRangesOf(const EsaConfig& esa, int64_t window_tokens) {
  constexpr int64_t kMostQueries = 64;
  const AttentionSizes sizes = {std::min(esa.initial_tokens, window_tokens / 8),
                                std::min(esa.local_tokens, window_tokens / 2)};
  RecallRanges recall;
  recall.queries = {window_tokens - std::min(kMostQueries, window_tokens / 4), window_tokens};
  recall.keys = RangesOfBlock(sizes, recall.queries).middle;
  recall.top_k = std::min(esa.top_k, recall.keys.size() / 8);
  return recall;
}

WindowUse WindowUses::Next(int64_t tokens) {
  WindowUse use = {.index = windows_++};
  if (IsHeldOut(use.index) && tokens == window_tokens_ &&
      (held_out_ + 1) * window_tokens_ <= kHeldOutTokens) {
    use.held_out = held_out_++;
    return use;
  }
  use.sampled_rows = std::clamp<int64_t>(kSgdTokens - fitted_tokens_, 0, tokens);
  fitted_tokens_ += tokens;
  return use;
}

CalibrationRows::CalibrationRows(const AttentionShape& shape, int64_t layers, bool keeps_rows,
                                 Rope* rope, int64_t far_position, const RecallRanges& recall)
    : shape_(shape),
      keeps_rows_(keeps_rows),
      rope_(rope),
      far_position_(far_position),
      recall_(recall),
      moments_(layers, LayerMoments(shape.kv_dim())),
      held_out_(layers) {
  if (keeps_rows) sample_.layers.resize(layers);
}

void CalibrationRows::Expect(absl::Span<const WindowUse> windows) {
  int64_t rows = 0;
  for (const WindowUse& window : windows) {
    if (window.held_out >= 0) held_out_windows_.push_back(window.held_out);
    if (window.sampled_rows > 0) sample_.windows.push_back({window.index, window.sampled_rows});
    rows += window.sampled_rows;
  }
  for (RowSample::Layer& layer : sample_.layers) {
    for (std::vector<float>* values : {&layer.queries, &layer.keys}) {
      values->reserve(values->size() + rows * shape_.kv_dim());
    }
  }
}

void CalibrationRows::Add(const WindowUse& window, int64_t layer, const float* queries,
                          const float* keys, int64_t rows) {
  std::vector<float> sums = SumGroups(shape_, queries, rows);
  const int64_t width = shape_.kv_dim();
  for (int64_t r = 0; rope_ != nullptr && r < rows; ++r) {
    float* sum = sums.data() + r * width;
    rope_->Rotate(sum, shape_.kv_heads, far_position_, sum);
  }
  const auto append = [width](const float* from, Range range, std::vector<float>* to) {
    to->insert(to->end(), from + range.begin * width, from + range.end * width);
  };
  if (window.held_out >= 0) {
    HeldOut& out = held_out_[layer].emplace_back();
    append(sums.data(), recall_.queries, &out.queries);
    append(keys, recall_.keys, &out.keys);
    return;
  }
  moments_[layer].Add(sums.data(), keys, rows, width);
  if (!keeps_rows_) return;
  append(sums.data(), {0, window.sampled_rows}, &sample_.layers[layer].queries);
  append(keys, {0, window.sampled_rows}, &sample_.layers[layer].keys);
}

absl::Status CalibrationRows::Reduce(Communicator& communicator) {
  for (LayerMoments& moments : moments_) {
    for (auto* sums : {&moments.query, &moments.key, &moments.key_sum}) {
      LONGSPAN_RETURN_IF_ERROR(communicator.AllReduceSum("calibrate.moments", sums->data(),
                                                         static_cast<int64_t>(sums->size())));
    }
    LONGSPAN_RETURN_IF_ERROR(communicator.AllReduceSum("calibrate.count", &moments.count, 1));
  }
  return absl::OkStatus();
}

}  // namespace longspan
