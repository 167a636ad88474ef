#include "runtime/calibration.h"

#include <cblas.h>
#include <lapacke.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "collectives/agree.h"
#include "collectives/hosts.h"
#include "collectives/thread_communicator.h"
#include "kernels/base/convert.h"
#include "kernels/base/status_macros.h"
#include "kernels/score.h"
#include "kernels/select.h"
#include "runtime/model.h"
#include "runtime/selection.h"
#include "sharding/topk_merge.h"

namespace longspan {
namespace {

constexpr double kEigenvalueFloor = 1e-9;  // of the largest
constexpr int64_t kHeldOutEvery = 8;
static_assert(kMinCalibrationWindows > kHeldOutEvery / 2);
constexpr int64_t kRecallKeys = 8192;    // of a rank and layer
constexpr int64_t kRecallQueries = 256;  // of a rank and layer

using Matrix = std::vector<double>;  // [n, n] row-major

// V diag(f(eigenvalue)) V^T of a symmetric matrix given by its upper triangle.
template <typename F>
Matrix OfEigenvalues(const Matrix& vectors, const std::vector<double>& values, int64_t n, F&& f) {
  Matrix scaled(vectors);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) scaled[i * n + j] *= f(values[j]);
  }
  Matrix product(n * n);
  const int size = static_cast<int>(n);
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, size, size, size, 1.0, scaled.data(), size,
              vectors.data(), size, 0.0, product.data(), size);
  return product;
}

struct Roots {
  Matrix root, inverse_root;
};

absl::StatusOr<Roots> SquareRoots(Matrix symmetric, int64_t n) {
  std::vector<double> values(n);
  const auto size = static_cast<lapack_int>(n);
  const lapack_int failed =
      LAPACKE_dsyevd(LAPACK_ROW_MAJOR, 'V', 'U', size, symmetric.data(), size, values.data());
  if (failed != 0) {
    return absl::InternalError(absl::StrCat("eigendecomposition failed (dsyevd: ", failed, ")"));
  }
  // Where nothing varies at all, any floor will do that keeps the factors finite.
  const double floor = std::max(values.back() * kEigenvalueFloor, 1e-30);
  Roots roots;
  const auto root = [&](double v) { return std::sqrt(std::max(v, floor)); };
  roots.root = OfEigenvalues(symmetric, values, n, root);
  roots.inverse_root = OfEigenvalues(symmetric, values, n, [&](double v) { return 1 / root(v); });
  return roots;
}

// Queries and keys of held-out windows of one layer.
struct HeldOut {
  std::vector<float> queries;  // [<= kRecallQueries, width] summed over groups
  std::vector<float> keys;     // [<= kRecallKeys, width]
};

struct Counts {
  double hits = 0;
  double total = 0;
  double keys = 0;
};

// This rank's part of a layer's recall: exact and approximate top-k of the same queries and keys.
Counts CountHits(const HeldOut& held_out, const LayerFactors& factors, int64_t width, int64_t dim,
                 int64_t top_k) {
  Counts counts;
  const auto num_keys = static_cast<int64_t>(held_out.keys.size()) / width;
  const auto num_queries = static_cast<int64_t>(held_out.queries.size()) / width;
  const int64_t k = std::min(top_k, num_keys / 8);
  if (k == 0) return counts;
  const auto compress = [&](const std::vector<float>& rows, int64_t n, const auto& factor) {
    std::vector<float> out(n * dim);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, static_cast<int>(n),
                static_cast<int>(dim), static_cast<int>(width), 1.0f, rows.data(),
                static_cast<int>(width), factor.data(), static_cast<int>(dim), 0.0f, out.data(),
                static_cast<int>(dim));
    return out;
  };
  const std::vector<float> queries = compress(held_out.queries, num_queries, factors.query);
  const std::vector<float> keys = compress(held_out.keys, num_keys, factors.key);
  std::vector<float> scores(num_keys);
  const auto select = [&](const float* query, int64_t d, const float* data) {
    ScoreToken(query, d, {data, DType::kFloat32, num_keys}, scores.data());
    TopK top(k);
    top.Add(scores.data(), num_keys, 0);
    std::vector<Candidate> candidates(k);
    top.Take(candidates.data());
    return MergeTopK(absl::MakeSpan(candidates), k);
  };
  for (int64_t q = 0; q < num_queries; ++q) {
    const auto exact = select(held_out.queries.data() + q * width, width, held_out.keys.data());
    const auto approximate = select(queries.data() + q * dim, dim, keys.data());
    std::vector<int64_t> both;
    std::set_intersection(exact.begin(), exact.end(), approximate.begin(), approximate.end(),
                          std::back_inserter(both));
    counts.hits += static_cast<double>(both.size());
    counts.total += static_cast<double>(k);
  }
  counts.keys = static_cast<double>(num_keys);
  return counts;
}

// What one rank gathers.
class Collector {
 public:
  // Queries are rotated to `far_position`, if there is a rope.
  Collector(const AttentionShape& shape, int64_t layers, Rope* rope, int64_t far_position)
      : shape_(shape),
        rope_(rope),
        far_position_(far_position),
        moments_(layers, LayerMoments(shape.kv_dim())),
        held_out_(layers) {}

  void set_holding_out(bool holding_out) { holding_out_ = holding_out; }

  void Observe(int64_t layer, const float* queries, const float* keys, int64_t rows) {
    std::vector<float> sums = SumGroups(shape_, queries, rows);
    const int64_t width = shape_.kv_dim();
    for (int64_t r = 0; rope_ != nullptr && r < rows; ++r) {
      float* sum = sums.data() + r * width;
      rope_->Rotate(sum, shape_.kv_heads, far_position_, sum);
    }
    if (!holding_out_) {
      moments_[layer].Add(sums.data(), keys, rows, width);
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

 private:
  AttentionShape shape_;
  Rope* rope_;
  int64_t far_position_;
  bool holding_out_ = false;
  std::vector<LayerMoments> moments_;
  std::vector<HeldOut> held_out_;
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
      collector->set_holding_out(window.is_held_out);
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

}  // namespace

int64_t CalibrationWindow(const ModelConfig& model) {
  return std::min<int64_t>(model.max_position_embeddings, 8192);
}

void LayerMoments::Add(const float* queries, const float* keys, int64_t rows, int64_t width) {
  const auto n = static_cast<int>(width);
  const auto add = [&](const float* values, Matrix* sum) {
    const std::vector<double> exact(values, values + rows * width);
    cblas_dsyrk(CblasRowMajor, CblasUpper, CblasTrans, n, static_cast<int>(rows), 1.0, exact.data(),
                n, 1.0, sum->data(), n);
  };
  add(queries, &query);
  add(keys, &key);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < width; ++i) key_sum[i] += keys[r * width + i];
  }
  count += static_cast<double>(rows);
}

absl::StatusOr<LayerFactors> FitFactors(const LayerMoments& moments, int64_t width, int64_t dim) {
  if (dim > width || dim < 1) {
    return absl::InvalidArgumentError(absl::StrCat("esa.compressed_dim ", dim,
                                                   " must be between 1 and ", width,
                                                   ", the width of the concatenated keys"));
  }
  if (moments.count == 0) return absl::InvalidArgumentError("there is no text to calibrate on");
  Matrix query(moments.query), key(moments.key);
  for (int64_t i = 0; i < width; ++i) {
    for (int64_t j = i; j < width; ++j) {
      query[i * width + j] /= moments.count;
      key[i * width + j] =
          key[i * width + j] / moments.count -
          moments.key_sum[i] / moments.count * (moments.key_sum[j] / moments.count);
    }
  }
  LONGSPAN_ASSIGN_OR_RETURN(const Roots q, SquareRoots(std::move(query), width));
  LONGSPAN_ASSIGN_OR_RETURN(const Roots k, SquareRoots(std::move(key), width));
  const auto n = static_cast<int>(width);
  Matrix product(width * width), u(width * width), vt(width * width);
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, n, n, 1.0, q.root.data(), n,
              k.root.data(), n, 0.0, product.data(), n);
  std::vector<double> s(width);
  const lapack_int failed = LAPACKE_dgesdd(LAPACK_ROW_MAJOR, 'A', n, n, product.data(), n, s.data(),
                                           u.data(), n, vt.data(), n);
  if (failed != 0) {
    return absl::InternalError(absl::StrCat("singular values failed (dgesdd: ", failed, ")"));
  }
  LayerFactors factors;
  double kept = 0, all = 0;
  for (int64_t i = 0; i < width; ++i) {
    all += s[i] * s[i];
    if (i < dim) kept += s[i] * s[i];
  }
  factors.explained = all > 0 ? kept / all : 1;
  // Columns i of A and B: Cq^-1/2 u_i sqrt(s_i) and Ck^-1/2 v_i sqrt(s_i).
  const auto factor = [&](const Matrix& inverse_root, auto&& vector_at) {
    std::vector<float> out(width * dim);
    for (int64_t i = 0; i < dim; ++i) {
      for (int64_t r = 0; r < width; ++r) {
        double sum = 0;
        for (int64_t c = 0; c < width; ++c) sum += inverse_root[r * width + c] * vector_at(c, i);
        out[r * dim + i] = static_cast<float>(sum * std::sqrt(s[i]));
      }
    }
    return out;
  };
  factors.query = factor(q.inverse_root, [&](int64_t c, int64_t i) { return u[c * width + i]; });
  factors.key = factor(k.inverse_root, [&](int64_t c, int64_t i) { return vt[i * width + c]; });
  return factors;
}

void FoldRotation(const RopeConfig& rope, int64_t head_dim, int64_t position, int64_t dim,
                  LayerFactors* factors) {
  const std::vector<double> frequencies = InverseFrequencies(rope, head_dim);
  const int64_t half = head_dim / 2;
  const auto heads = static_cast<int64_t>(factors->query.size()) / (head_dim * dim);
  for (int64_t row = 0; row < heads * half; ++row) {
    const double angle = static_cast<double>(position) * frequencies[row % half];
    const double cosine = std::cos(angle), sine = std::sin(angle);
    float* first = factors->query.data() + (row / half * head_dim + row % half) * dim;
    float* second = first + half * dim;
    for (int64_t c = 0; c < dim; ++c) {
      const double a = first[c], b = second[c];
      first[c] = static_cast<float>(a * cosine + b * sine);
      second[c] = static_cast<float>(b * cosine - a * sine);
    }
  }
}

absl::StatusOr<CalibrationReport> Calibrate(const Config& config, Communicator& communicator,
                                            const NextWindow& next_window,
                                            const CalibrationProgress& progress) {
  LONGSPAN_ASSIGN_OR_RETURN(const ModelConfig model_config, LoadModelConfig(config.model));
  const int64_t window = CalibrationWindow(model_config);
  const AttentionShape shape = {model_config.num_heads, model_config.num_kv_heads,
                                model_config.head_dim};
  const int64_t width = shape.kv_dim();
  const int64_t dim = config.esa.compressed_dim;
  const bool is_far = config.esa.target == ScoreTarget::kFar;
  Rope rope(InverseFrequencies(model_config.rope, model_config.head_dim));
  Collector collector(shape, model_config.num_layers, is_far ? &rope : nullptr,
                      config.esa.far_position);
  CalibrationReport report;
  // Ranks without a window wait for those that have one, which takes as long as the model does.
  const UntimedWaits untimed(&communicator);
  const auto run_windows = [&](Communicator& alone) -> absl::Status {
    Config own = AloneWithDenseAttention(config, window);
    LONGSPAN_ASSIGN_OR_RETURN(const std::unique_ptr<Model> loaded,
                              LoadModel(&communicator, &own, WeightsAtOnce::kOneLayer, &alone));
    Model& model = *loaded;
    report.fingerprint = ModelFingerprint(model.config, model.weights);
    model.transformer->set_observer(
        [&](int64_t layer, const float* queries, const float* keys, int64_t rows) {
          collector.Observe(layer, queries, keys, rows);
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
          if (!is_held_out) report.tokens += size;
          tokens += size;
          more = size > 0;
          if (r == communicator.rank() && more) {
            mine.push_back({std::move(windows[r]), is_held_out});
          }
        }
      }
      LONGSPAN_RETURN_IF_ERROR(RunWindows(&model, &collector, &mine, [&](double share) {
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
  LONGSPAN_RETURN_IF_ERROR(status);
  LONGSPAN_RETURN_IF_ERROR(collector.Reduce(communicator));
  for (int64_t layer = 0; layer < model_config.num_layers; ++layer) {
    CalibrationReport::Layer& fit = report.layers.emplace_back();
    LONGSPAN_ASSIGN_OR_RETURN(fit.factors, FitFactors(collector.moments()[layer], width, dim));
    const Counts mine =
        CountHits(collector.held_out()[layer], fit.factors, width, dim, config.esa.top_k);
    double sums[] = {mine.hits, mine.total, mine.keys};
    LONGSPAN_RETURN_IF_ERROR(communicator.AllReduceSum("calibrate.recall", sums, 3));
    fit.recall = sums[1] > 0 ? sums[0] / sums[1] : std::nan("");
    if (is_far) {
      FoldRotation(model_config.rope, shape.head_dim, config.esa.far_position, dim, &fit.factors);
    }
    report.recall_keys = static_cast<int64_t>(sums[2]) / communicator.size();
  }
  report.recall_top_k = std::min(config.esa.top_k, report.recall_keys / 8);
  return report;
}

}  // namespace longspan
