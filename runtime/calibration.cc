#include "runtime/calibration.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "collectives/agree.h"
#include "collectives/hosts.h"
#include "collectives/thread_communicator.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "runtime/model.h"
#include "runtime/score_recall.h"
#include "runtime/selection.h"

namespace longspan {
namespace {

constexpr int64_t kHeldOutEvery = 8;
static_assert(kMinCalibrationWindows > kHeldOutEvery / 2);
constexpr int64_t kRecallKeys = 8192;    // of a rank and layer
constexpr int64_t kRecallQueries = 256;  // of a rank and layer

// What one rank gathers.
class Collector {
 public:
  // Queries are rotated to `far_position`, if there is a rope.
  Collector(const AttentionShape& shape, int64_t layers, bool keeps_rows, Rope* rope,
            int64_t far_position)
      : shape_(shape),
        rope_(rope),
        far_position_(far_position),
        moments_(layers, LayerMoments(shape.kv_dim())),
        held_out_(layers) {
    if (keeps_rows) sample_.layers.resize(layers);
  }

  // What becomes of the rows that come: those of a window that is held out tell the recall; of any
  // other all count, and the first `sampled_rows` are kept.
  void set_window(bool is_held_out, int64_t sampled_rows) {
    holding_out_ = is_held_out;
    sampled_rows_ = sampled_rows;
  }

  void Observe(int64_t layer, const float* queries, const float* keys, int64_t rows) {
    std::vector<float> sums = SumGroups(shape_, queries, rows);
    const int64_t width = shape_.kv_dim();
    for (int64_t r = 0; rope_ != nullptr && r < rows; ++r) {
      float* sum = sums.data() + r * width;
      rope_->Rotate(sum, shape_.kv_heads, far_position_, sum);
    }
    if (!holding_out_) {
      moments_[layer].Add(sums.data(), keys, rows, width);
      if (!sample_.layers.empty()) {
        RowSample::Layer& sample = sample_.layers[layer];
        const int64_t values = sampled_rows_ * width;
        sample.queries.insert(sample.queries.end(), sums.begin(), sums.begin() + values);
        sample.keys.insert(sample.keys.end(), keys, keys + values);
      }
      return;
    }
    HeldOut& out = held_out_[layer];
    const auto append = [&](const float* from, int64_t step, int64_t limit,
                            std::vector<float>* to) {
      for (int64_t r = 0; r < rows; r += step) {
        if (static_cast<int64_t>(to->size()) >= limit * width) return;
        to->insert(to->end(), from + r * width, from + (r + 1) * width);
      }
    };
    append(keys, 1, kRecallKeys, &out.keys);
    // Spread over the window: the last queries of a text see most of it.
    append(sums.data(), std::max<int64_t>(1, rows / 64), kRecallQueries, &out.queries);
  }

  // Adds up the moments of all ranks.
  absl::Status Reduce(Communicator& communicator) {
    for (LayerMoments& moments : moments_) {
      for (auto* sums : {&moments.query, &moments.key, &moments.key_sum}) {
        LONGSPAN_RETURN_IF_ERROR(communicator.AllReduceSum("calibrate.moments", sums->data(),
                                                           static_cast<int64_t>(sums->size())));
      }
      LONGSPAN_RETURN_IF_ERROR(communicator.AllReduceSum("calibrate.count", &moments.count, 1));
    }
    return absl::OkStatus();
  }

  const std::vector<LayerMoments>& moments() const { return moments_; }
  const std::vector<HeldOut>& held_out() const { return held_out_; }
  RowSample& sample() { return sample_; }

 private:
  AttentionShape shape_;
  Rope* rope_;
  int64_t far_position_;
  bool holding_out_ = false;
  int64_t sampled_rows_ = 0;
  std::vector<LayerMoments> moments_;
  std::vector<HeldOut> held_out_;
  RowSample sample_;
};

// One window for each rank, read by rank 0. Empty ones at the end of the text.
absl::StatusOr<std::vector<std::vector<int32_t>>> ReadRound(Communicator& communicator,
                                                            const NextWindow& next_window,
                                                            int64_t max_tokens) {
  std::vector<int64_t> sizes(communicator.size(), 0);
  std::vector<int32_t> tokens(communicator.size() * max_tokens);
  absl::Status status;
  if (communicator.rank() == 0) {
    for (int r = 0; r < communicator.size() && status.ok(); ++r) {
      absl::StatusOr<std::vector<int32_t>> window = next_window(max_tokens);
      status = window.status();
      if (!window.ok() || window->empty()) break;
      sizes[r] = static_cast<int64_t>(window->size());
      std::copy(window->begin(), window->end(), tokens.begin() + r * max_tokens);
    }
  }
  LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(&communicator, status));
  LONGSPAN_RETURN_IF_ERROR(communicator.Broadcast(
      "calibrate.sizes", sizes.data(), static_cast<int64_t>(sizes.size() * sizeof(int64_t)), 0));
  LONGSPAN_RETURN_IF_ERROR(communicator.Broadcast(
      "calibrate.tokens", tokens.data(), static_cast<int64_t>(tokens.size() * sizeof(int32_t)), 0));
  std::vector<std::vector<int32_t>> windows;
  for (int r = 0; r < communicator.size(); ++r) {
    const auto first = tokens.begin() + r * max_tokens;
    windows.emplace_back(first, first + sizes[r]);
  }
  return windows;
}

// A rank's own copy of the model, alone: windows are independent.
Config AloneWithDenseAttention(Config config, int64_t window) {
  config.attention = Attention::kDense;
  config.rope = {};
  config.deterministic = false;
  config.esa.selection_block = window;
  config.prefill_chunk_tokens = window;
  config.parallel.stripe_tokens = window;
  config.max_model_len = window;
  config.kv_cache_dtype = "auto";
  config.kv_cache_tier = "device";
  return config;
}

// A window of this rank's on its way through the layers.
struct Window {
  std::vector<int32_t> tokens;
  bool is_held_out = false;
  int64_t sampled_rows = 0;
  std::vector<float> hidden;  // [tokens, hidden_size] what the last layer put out
};

// Calls f(chunk) for the window as one chunk of a sequence of its own.
template <typename F>
absl::Status AsChunk(Model* model, const Window& window, F&& f) {
  const Range range = {0, static_cast<int64_t>(window.tokens.size())};
  KvShard cache(model->pool.get(), model->attention.layout, /*rank=*/0);
  LONGSPAN_RETURN_IF_ERROR(cache.Reserve(range.end));
  return f(
      PlanChunk(model->attention, model->attention.layout.stripe_tokens, &cache, range, range.end));
}

// All windows through one layer after the other: a layer's weights are read once, and given back.
absl::Status RunWindows(Model* model, Collector* collector, std::vector<Window>* windows,
                        const std::function<void(double share)>& progress) {
  Transformer& transformer = *model->transformer;
  for (Window& window : *windows) {
    const absl::Status embedded = AsChunk(model, window, [&](const PrefillChunk& chunk) {
      LONGSPAN_RETURN_IF_ERROR(transformer.EmbedChunk(chunk, window.tokens));
      return transformer.SwapHidden(&window.hidden);
    });
    LONGSPAN_RETURN_IF_ERROR(embedded);
  }
  for (int64_t layer = 0; layer < model->config.num_layers; ++layer) {
    for (size_t w = 0; w < windows->size(); ++w) {
      Window& window = (*windows)[w];
      collector->set_window(window.is_held_out, window.sampled_rows);
      const absl::Status passed = AsChunk(model, window, [&](const PrefillChunk& chunk) {
        LONGSPAN_RETURN_IF_ERROR(transformer.SwapHidden(&window.hidden));
        LONGSPAN_RETURN_IF_ERROR(
            transformer.PrefillLayer(layer, chunk, Transformer::Outputs::kAll));
        return transformer.SwapHidden(&window.hidden);
      });
      LONGSPAN_RETURN_IF_ERROR(passed);
      progress((static_cast<double>(layer) +
                static_cast<double>(w + 1) / static_cast<double>(windows->size())) /
               static_cast<double>(model->config.num_layers));
    }
    DropFromMemory(model->weights.layers[layer]);
  }
  return absl::OkStatus();
}

// Rounds of windows whose hidden states a rank keeps at a time.
int64_t RoundsAtOnce(const ModelConfig& model, int64_t window, int ranks_on_host) {
  constexpr int64_t kHiddenBytes = int64_t{1} << 30;  // of all ranks of a host
  return std::max<int64_t>(1, kHiddenBytes / ranks_on_host / (window * model.hidden_size * 4));
}

// The same on all ranks: of the host with the most of them.
absl::StatusOr<int64_t> AgreeOnRounds(Communicator& communicator, const ModelConfig& model,
                                      int64_t window) {
  LONGSPAN_ASSIGN_OR_RETURN(const int on_host, CountRanksOnHost(communicator));
  auto most = static_cast<float>(on_host);
  LONGSPAN_RETURN_IF_ERROR(communicator.AllReduceMax("calibrate.hosts", &most, 1));
  return RoundsAtOnce(model, window, static_cast<int>(most));
}

// All text through the model: fills the collector and what the report says of the text.
absl::Status CollectText(const Config& config, Communicator& communicator, int64_t window,
                         const NextWindow& next_window, const CalibrationProgress& progress,
                         Collector* collector, CalibrationReport* report) {
  const auto run_windows = [&](Communicator& alone) -> absl::Status {
    Config own = AloneWithDenseAttention(config, window);
    LONGSPAN_ASSIGN_OR_RETURN(const std::unique_ptr<Model> loaded,
                              LoadModel(&communicator, &own, WeightsAtOnce::kOneLayer, &alone));
    Model& model = *loaded;
    report->fingerprint = ModelFingerprint(model.config, model.weights);
    model.transformer->set_observer(
        [&](int64_t layer, const float* queries, const float* keys, int64_t rows) {
          collector->Observe(layer, queries, keys, rows);
        });
    LONGSPAN_ASSIGN_OR_RETURN(const int64_t rounds_at_once,
                              AgreeOnRounds(communicator, model.config, window));
    int64_t index = 0, done = 0;  // windows, tokens of all ranks
    for (bool more = true; more;) {
      std::vector<Window> mine;
      int64_t tokens = 0;
      for (int64_t round = 0; more && round < rounds_at_once; ++round) {
        LONGSPAN_ASSIGN_OR_RETURN(auto windows, ReadRound(communicator, next_window, window));
        for (int r = 0; r < communicator.size(); ++r, ++index) {
          const auto size = static_cast<int64_t>(windows[r].size());
          const bool is_held_out = index % kHeldOutEvery == kHeldOutEvery / 2;
          const int64_t sampled =
              is_held_out ? 0 : std::clamp<int64_t>(kSgdTokens - report->tokens, 0, size);
          if (!is_held_out) report->tokens += size;
          tokens += size;
          more = size > 0;
          if (r != communicator.rank() || !more) continue;
          if (sampled > 0) collector->sample().windows.push_back({index, sampled});
          mine.push_back({std::move(windows[r]), is_held_out, sampled, {}});
        }
      }
      LONGSPAN_RETURN_IF_ERROR(RunWindows(&model, collector, &mine, [&](double share) {
        if (progress) progress(done + static_cast<int64_t>(share * static_cast<double>(tokens)));
      }));
      done += tokens;
    }
    return absl::OkStatus();
  };
  absl::Status status;
  LONGSPAN_RETURN_IF_ERROR(RunThreadRanks(1, [&](Communicator& alone) {
    status = run_windows(alone);  // passed by, as an error from within would name the wrong rank
    return absl::OkStatus();
  }));
  return status;
}

// Of each fit: what share of the exact top k its own top k has, over the held-out rows of all
// ranks. NaN if there are none.
absl::StatusOr<std::vector<double>> RecallOf(Communicator& communicator, const HeldOut& held_out,
                                             int64_t width, int64_t top_k,
                                             absl::Span<const ScoreFit> fits) {
  const auto num_keys = static_cast<int64_t>(held_out.keys.size()) / width;
  const auto num_queries = static_cast<int64_t>(held_out.queries.size()) / width;
  const int64_t k = std::min(top_k, num_keys / 8);
  std::vector<double> counts;  // of all fits, and of what there was to find
  if (k > 0) {
    const TopKeys exact = SelectTopKeys(held_out.queries, held_out.keys, width, k);
    for (const ScoreFit& fit : fits) {
      const TopKeys found =
          SelectTopKeys(Apply(fit.maps.query, held_out.queries.data(), num_queries),
                        Apply(fit.maps.key, held_out.keys.data(), num_keys), fit.maps.key.dim, k);
      counts.push_back(static_cast<double>(CountCommon(exact, found)));
    }
  }
  counts.resize(fits.size());
  counts.push_back(static_cast<double>(k * num_queries));
  LONGSPAN_RETURN_IF_ERROR(communicator.AllReduceSum("calibrate.recall", counts.data(),
                                                     static_cast<int64_t>(counts.size())));
  const double all = counts.back();
  counts.pop_back();
  for (double& count : counts) count = all > 0 ? count / all : std::nan("");
  return counts;
}

absl::StatusOr<std::vector<CalibrationReport>> FitCases(
    const Config& config, Communicator& communicator, const NextWindow& next_window,
    const CalibrationProgress& progress, absl::Span<const FitCase> cases,
    const CalibrationOptions& options, bool keeps_factors) {
  LONGSPAN_ASSIGN_OR_RETURN(const ModelConfig model, LoadModelConfig(config.model));
  const AttentionShape shape = {model.num_heads, model.num_kv_heads, model.head_dim};
  const int64_t width = shape.kv_dim();
  const bool needs_rows = std::any_of(cases.begin(), cases.end(), [](const FitCase& fit_case) {
    return NeedsRows(fit_case.method);
  });
  const bool is_far = config.esa.target == ScoreTarget::kFar;
  Rope rope(InverseFrequencies(model.rope, model.head_dim));
  Collector collector(shape, model.num_layers, needs_rows, is_far ? &rope : nullptr,
                      config.esa.far_position);
  CalibrationReport report;
  // Ranks without a window or a layer wait for those that have one, for as long as the model takes.
  const UntimedWaits untimed(&communicator);
  LONGSPAN_RETURN_IF_ERROR(CollectText(config, communicator, CalibrationWindow(model), next_window,
                                       progress, &collector, &report));
  LONGSPAN_RETURN_IF_ERROR(collector.Reduce(communicator));
  auto keys = static_cast<float>(collector.held_out()[0].keys.size() / width);
  LONGSPAN_RETURN_IF_ERROR(communicator.AllReduceMax("calibrate.keys", &keys, 1));
  report.recall_keys = static_cast<int64_t>(keys);
  report.recall_top_k = std::min(config.esa.top_k, report.recall_keys / 8);

  std::vector<CalibrationReport> reports(cases.size(), report);
  const LayerFitArgs args = {collector.moments(), &collector.sample(), width, cases,
                             options.sgd,         options.fit_progress};
  const auto on_layer = [&](int64_t layer, absl::Span<const ScoreFit> fits) -> absl::Status {
    LONGSPAN_ASSIGN_OR_RETURN(
        const std::vector<double> recalls,
        RecallOf(communicator, collector.held_out()[layer], width, config.esa.top_k, fits));
    for (size_t c = 0; c < cases.size(); ++c) {
      CalibrationReport::Layer& of_layer = reports[c].layers.emplace_back();
      of_layer.recall = recalls[c];
      of_layer.factors.explained = fits[c].explained;
      if (!keeps_factors) continue;
      of_layer.factors.query = fits[c].maps.query.second;
      of_layer.factors.key = fits[c].maps.key.second;
      if (is_far) {
        FoldRotation(model.rope, model.head_dim, config.esa.far_position, cases[c].dim,
                     &of_layer.factors);
      }
    }
    return absl::OkStatus();
  };
  LONGSPAN_RETURN_IF_ERROR(FitLayers(communicator, args, on_layer));
  return reports;
}

}  // namespace

int64_t CalibrationWindow(const ModelConfig& model) {
  return std::min<int64_t>(model.max_position_embeddings, 8192);
}

absl::StatusOr<std::vector<CalibrationReport>> CalibrateEach(const Config& config,
                                                             Communicator& communicator,
                                                             const NextWindow& next_window,
                                                             const CalibrationProgress& progress,
                                                             absl::Span<const FitCase> cases,
                                                             const CalibrationOptions& options) {
  return FitCases(config, communicator, next_window, progress, cases, options,
                  /*keeps_factors=*/false);
}

absl::StatusOr<CalibrationReport> Calibrate(const Config& config, Communicator& communicator,
                                            const NextWindow& next_window,
                                            const CalibrationProgress& progress, FitMethod method,
                                            const CalibrationOptions& options) {
  LONGSPAN_CHECK(IsLinear(method));
  const FitCase fit_case = {method, config.esa.compressed_dim};
  LONGSPAN_ASSIGN_OR_RETURN(std::vector<CalibrationReport> reports,
                            FitCases(config, communicator, next_window, progress, {&fit_case, 1},
                                     options, /*keeps_factors=*/true));
  return std::move(reports[0]);
}

}  // namespace longspan
