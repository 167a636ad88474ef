#include "runtime/calibration.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <utility>

#include "collectives/agree.h"
#include "collectives/hosts.h"
#include "collectives/thread_communicator.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "runtime/model.h"
#include "runtime/score_recall.h"

namespace longspan {
namespace {

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
  WindowUse use;
  std::vector<int32_t> tokens;
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
absl::Status RunWindows(Model* model, CalibrationRows* gathered, std::vector<Window>* windows,
                        const std::function<void(double share)>& progress) {
  Transformer& transformer = *model->transformer;
  std::vector<WindowUse> uses;
  for (const Window& window : *windows) uses.push_back(window.use);
  gathered->Expect(uses);
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
      transformer.set_observer(
          [&](int64_t of_layer, const float* queries, const float* keys, int64_t rows) {
            gathered->Add(window.use, of_layer, queries, keys, rows);
          });
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

bool AnyNeedsRows(absl::Span<const FitCase> cases) {
  return std::any_of(cases.begin(), cases.end(),
                     [](const FitCase& fit_case) { return NeedsRows(fit_case.method); });
}

// Windows that pass the layers together.
struct WindowBatch {
  std::vector<Window> mine;
  int64_t tokens = 0;  // of all ranks
  bool is_last = false;
};

absl::StatusOr<WindowBatch> ReadBatch(Communicator& communicator, const NextWindow& next_window,
                                      int64_t window, int64_t rounds, WindowUses* uses) {
  WindowBatch batch;
  for (int64_t round = 0; !batch.is_last && round < rounds; ++round) {
    LONGSPAN_ASSIGN_OR_RETURN(auto windows, ReadRound(communicator, next_window, window));
    for (int r = 0; r < communicator.size(); ++r) {
      const auto size = static_cast<int64_t>(windows[r].size());
      batch.is_last = size == 0;
      if (batch.is_last) break;
      const WindowUse use = uses->Next(size);
      batch.tokens += size;
      if (r == communicator.rank()) batch.mine.push_back({use, std::move(windows[r]), {}});
    }
  }
  return batch;
}

// All text through the model: fills `rows`, and what the report says of the text.
absl::Status CollectText(const Config& config, Communicator& communicator, int64_t window,
                         const NextWindow& next_window, const CalibrationProgress& progress,
                         CalibrationRows* rows, CalibrationReport* report) {
  const auto run_windows = [&](Communicator& alone) -> absl::Status {
    Config own = AloneWithDenseAttention(config, window);
    LONGSPAN_ASSIGN_OR_RETURN(const std::unique_ptr<Model> loaded,
                              LoadModel(&communicator, &own, WeightsAtOnce::kOneLayer, &alone));
    report->fingerprint = ModelFingerprint(loaded->config, loaded->weights);
    LONGSPAN_ASSIGN_OR_RETURN(const int64_t rounds,
                              AgreeOnRounds(communicator, loaded->config, window));
    WindowUses uses(window);
    int64_t done = 0;  // tokens of all ranks
    for (bool more = true; more;) {
      LONGSPAN_ASSIGN_OR_RETURN(WindowBatch batch,
                                ReadBatch(communicator, next_window, window, rounds, &uses));
      const auto tokens = static_cast<double>(batch.tokens);
      LONGSPAN_RETURN_IF_ERROR(RunWindows(loaded.get(), rows, &batch.mine, [&](double share) {
        if (progress) progress(done + static_cast<int64_t>(share * tokens));
      }));
      done += batch.tokens;
      more = !batch.is_last;
    }
    report->tokens = uses.fitted_tokens();
    report->held_out_windows = uses.held_out();
    return absl::OkStatus();
  };
  absl::Status status;
  LONGSPAN_RETURN_IF_ERROR(RunThreadRanks(1, [&](Communicator& alone) {
    status = run_windows(alone);  // passed by, as an error from within would name the wrong rank
    return absl::OkStatus();
  }));
  return status;
}

// Of each fit the recall of each window that any rank holds out of a layer.
absl::StatusOr<std::vector<std::vector<double>>> ShareRecalls(
    Communicator& communicator, const CalibrationRows& rows, int64_t layer,
    const CalibrationReport& report, int64_t width, absl::Span<const ScoreFit> fits) {
  const int64_t windows = report.recall.top_k > 0 ? report.held_out_windows : 0;
  std::vector<double> all(windows * static_cast<int64_t>(fits.size()));
  for (size_t w = 0; windows > 0 && w < rows.held_out_windows().size(); ++w) {
    const std::vector<double> recalls =
        RecallOf(rows.held_out()[layer][w], width, report.recall.top_k, fits);
    for (size_t f = 0; f < fits.size(); ++f) {
      all[static_cast<int64_t>(f) * windows + rows.held_out_windows()[w]] = recalls[f];
    }
  }
  if (!all.empty()) {
    LONGSPAN_RETURN_IF_ERROR(communicator.AllReduceSum("calibrate.recall", all.data(),
                                                       static_cast<int64_t>(all.size())));
  }
  std::vector<std::vector<double>> of_fits;
  for (auto next = all.begin(); of_fits.size() < fits.size(); next += windows) {
    of_fits.emplace_back(next, next + windows);
  }
  return of_fits;
}

// What is told of one layer with one fit.
CalibrationReport::Layer LayerReport(const ScoreFit& fit, std::vector<double> recalls) {
  CalibrationReport::Layer layer;
  layer.explained = fit.explained;
  layer.recall =
      std::accumulate(recalls.begin(), recalls.end(), 0.0) / static_cast<double>(recalls.size());
  layer.window_recalls = std::move(recalls);
  return layer;
}

absl::StatusOr<std::vector<CalibrationReport>> FitCases(
    const Config& config, Communicator& communicator, const NextWindow& next_window,
    const CalibrationProgress& progress, absl::Span<const FitCase> cases,
    const CalibrationOptions& options, bool keeps_factors) {
  LONGSPAN_ASSIGN_OR_RETURN(const ModelConfig model, LoadModelConfig(config.model));
  const AttentionShape shape = {model.num_heads, model.num_kv_heads, model.head_dim};
  const int64_t width = shape.kv_dim();
  const bool is_far = config.esa.target == ScoreTarget::kFar;
  Rope rope(InverseFrequencies(model.rope, model.head_dim));
  const int64_t window = CalibrationWindow(model);
  CalibrationReport report;
  report.recall = RecallRangesOf(config.esa, window);
  CalibrationRows rows(shape, model.num_layers, AnyNeedsRows(cases), is_far ? &rope : nullptr,
                       config.esa.far_position, report.recall);
  // Ranks without a window or a layer wait for those that have one, for as long as the model takes.
  const UntimedWaits untimed(&communicator);
  LONGSPAN_RETURN_IF_ERROR(
      CollectText(config, communicator, window, next_window, progress, &rows, &report));
  LONGSPAN_RETURN_IF_ERROR(rows.Reduce(communicator));

  std::vector<CalibrationReport> reports(cases.size(), report);
  const LayerFitArgs args = {rows.moments(), &rows.sample(), width,
                             cases,          options.sgd,    options.fit_progress};
  const auto on_layer = [&](int64_t layer, absl::Span<const ScoreFit> fits) -> absl::Status {
    LONGSPAN_ASSIGN_OR_RETURN(std::vector<std::vector<double>> recalls,
                              ShareRecalls(communicator, rows, layer, report, width, fits));
    for (size_t c = 0; c < cases.size(); ++c) {
      CalibrationReport::Layer& of_layer =
          reports[c].layers.emplace_back(LayerReport(fits[c], std::move(recalls[c])));
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

int64_t CalibrationRowBytes(const ModelConfig& model, const EsaConfig& esa,
                            absl::Span<const FitCase> cases, int64_t tokens) {
  const int64_t window = CalibrationWindow(model);
  WindowUses uses(window);
  int64_t rows = 0;  // of queries and keys
  const bool needs_rows = AnyNeedsRows(cases);
  for (int64_t left = tokens; left > 0; left -= window) {
    const WindowUse use = uses.Next(std::min(left, window));
    if (needs_rows) rows += 2 * use.sampled_rows;
  }
  const RecallRanges recall = RecallRangesOf(esa, window);
  rows += uses.held_out() * (recall.queries.size() + recall.keys.size());
  const int64_t width = model.num_kv_heads * model.head_dim;
  return rows * width * model.num_layers * static_cast<int64_t>(sizeof(float));
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
