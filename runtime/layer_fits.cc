#include "runtime/layer_fits.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "collectives/agree.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

constexpr absl::string_view kNames[] = {"closed_form", "pca", "sgd", "sgd_mlp"};

using Fits = std::vector<ScoreFit>;

RowMap LinearMap(int64_t width, std::vector<float> matrix) {
  const int64_t dim = static_cast<int64_t>(matrix.size()) / width;
  return {width, 0, dim, {}, {}, std::move(matrix)};
}

// All cases of one layer, on one rank.
class LayerFitter {
 public:
  LayerFitter(const LayerFitArgs& args, int64_t layer)
      : args_(args), moments_(args.moments[layer]), variance_(args.moments[layer], args.width) {}

  absl::StatusOr<Fits> Fit(const RowSample::Layer& rows,
                           const std::function<void(double share)>& progress) {
    Fits fits;
    for (const FitCase& fit_case : args_.cases) {
      const auto of_case = [&, done = static_cast<double>(fits.size())](double share) {
        if (progress) progress((done + share) / static_cast<double>(args_.cases.size()));
      };
      LONGSPAN_ASSIGN_OR_RETURN(ScoreMaps maps, FitCaseOf(fit_case, rows, of_case));
      ScoreFit& fit = fits.emplace_back();
      fit.explained = IsLinear(fit_case.method)
                          ? variance_.Explained({maps.query.second, maps.key.second}, fit_case.dim)
                          : std::nan("");
      fit.maps = std::move(maps);
      of_case(1);
    }
    return fits;
  }

 private:
  absl::StatusOr<ScoreMaps> FitCaseOf(const FitCase& fit_case, const RowSample::Layer& rows,
                                      const std::function<void(double share)>& progress) {
    const int64_t width = args_.width;
    if (NeedsRows(fit_case.method)) {
      const int64_t hidden = IsLinear(fit_case.method) ? 0 : width;
      const auto count = static_cast<int64_t>(rows.keys.size()) / width;
      return FitBySgd(rows.queries.data(), rows.keys.data(), count, width, hidden, fit_case.dim,
                      args_.sgd, progress);
    }
    LONGSPAN_ASSIGN_OR_RETURN(const LayerFactors* widest, WidestOf(fit_case.method));
    LayerFactors factors = FirstColumns(*widest, width, fit_case.dim);
    return ScoreMaps{LinearMap(width, std::move(factors.query)),
                     LinearMap(width, std::move(factors.key))};
  }

  // The fit of the case with the most dimensions, whose first columns are those of the others.
  absl::StatusOr<const LayerFactors*> WidestOf(FitMethod method) {
    const auto found = widest_.find(method);
    if (found != widest_.end()) return &found->second;
    int64_t dim = 0;
    for (const FitCase& other : args_.cases) {
      if (other.method == method) dim = std::max(dim, other.dim);
    }
    LONGSPAN_ASSIGN_OR_RETURN(LayerFactors factors, method == FitMethod::kPca
                                                        ? FitPca(moments_, args_.width, dim)
                                                        : FitFactors(moments_, args_.width, dim));
    return &widest_.emplace(method, std::move(factors)).first->second;
  }

  const LayerFitArgs& args_;
  const LayerMoments& moments_;
  ScoreVariance variance_;
  std::map<FitMethod, LayerFactors> widest_;
};

// Copies the windows' rows, which come rank after rank, in the order of the text.
std::vector<float> InOrderOfText(const std::vector<RowSample::Window>& windows,
                                 const std::vector<float>& rows, int64_t width) {
  std::vector<std::pair<RowSample::Window, const float*>> parts;
  const float* next = rows.data();
  for (const RowSample::Window& window : windows) {
    parts.emplace_back(window, next);
    next += window.rows * width;
  }
  std::sort(parts.begin(), parts.end(),
            [](const auto& a, const auto& b) { return a.first.index < b.first.index; });
  std::vector<float> ordered;
  ordered.reserve(rows.size());
  for (const auto& [window, from] : parts) {
    ordered.insert(ordered.end(), from, from + window.rows * width);
  }
  return ordered;
}

// The windows of each rank.
absl::StatusOr<std::vector<std::vector<RowSample::Window>>> ShareWindows(
    Communicator& communicator, const std::vector<RowSample::Window>& mine) {
  constexpr auto kBytes = static_cast<int64_t>(sizeof(RowSample::Window));
  const auto count = static_cast<int64_t>(mine.size());
  std::vector<int64_t> counts(communicator.size());
  LONGSPAN_RETURN_IF_ERROR(
      communicator.AllGather("calibrate.windows", &count, counts.data(), sizeof(count)));
  std::vector<int64_t> bytes;
  int64_t total = 0;
  for (const int64_t c : counts) {
    bytes.push_back(c * kBytes);
    total += c;
  }
  std::vector<RowSample::Window> all(total);
  LONGSPAN_RETURN_IF_ERROR(
      communicator.AllGatherV("calibrate.windows", mine.data(), all.data(), bytes));
  std::vector<std::vector<RowSample::Window>> of_ranks;
  auto next = all.begin();
  for (const int64_t c : counts) {
    of_ranks.emplace_back(next, next + c);
    next += c;
  }
  return of_ranks;
}

// Collects the rows of layer `first` + r on rank r. Returns those of this rank's layer.
class RowGatherer {
 public:
  static absl::StatusOr<RowGatherer> Create(Communicator& communicator, RowSample* sample,
                                            int64_t width) {
    LONGSPAN_ASSIGN_OR_RETURN(auto windows, ShareWindows(communicator, sample->windows));
    return RowGatherer(communicator, sample, width, std::move(windows));
  }

  absl::StatusOr<RowSample::Layer> Gather(int64_t first, int64_t layers) {
    RowSample::Layer gathered;
    if (sample_->layers.empty()) return gathered;
    for (auto part : {&RowSample::Layer::queries, &RowSample::Layer::keys}) {
      LONGSPAN_ASSIGN_OR_RETURN(gathered.*part, GatherPart(first, layers, part));
    }
    return gathered;
  }

 private:
  RowGatherer(Communicator& communicator, RowSample* sample, int64_t width,
              std::vector<std::vector<RowSample::Window>> windows)
      : communicator_(communicator), sample_(sample), width_(width), windows_(std::move(windows)) {
    for (const auto& of_rank : windows_) {
      int64_t rows = 0;
      for (const RowSample::Window& window : of_rank) rows += window.rows;
      values_.push_back(rows * width);
    }
  }

  absl::StatusOr<std::vector<float>> GatherPart(int64_t first, int64_t layers,
                                                std::vector<float> RowSample::Layer::*part) {
    const int rank = communicator_.rank();
    std::vector<Transfer> sends, receives;
    for (int r = 0; r < layers; ++r) {
      sends.push_back({r, (sample_->layers[first + r].*part).data(), Bytes(rank)});
    }
    std::vector<float> rows;
    std::vector<RowSample::Window> order;
    if (rank < layers) {
      for (const int64_t count : values_) rows.resize(rows.size() + count);
      float* next = rows.data();
      for (int r = 0; r < communicator_.size(); ++r) {
        receives.push_back({r, next, Bytes(r)});
        next += values_[r];
        order.insert(order.end(), windows_[r].begin(), windows_[r].end());
      }
    }
    LONGSPAN_ASSIGN_OR_RETURN(const ExchangeId exchange,
                              communicator_.StartExchange("calibrate.rows", sends, receives));
    LONGSPAN_RETURN_IF_ERROR(communicator_.WaitExchange(exchange));
    for (int r = 0; r < layers; ++r) (sample_->layers[first + r].*part) = {};
    return InOrderOfText(order, rows, width_);
  }

  int64_t Bytes(int rank) const { return values_[rank] * static_cast<int64_t>(sizeof(float)); }

  Communicator& communicator_;
  RowSample* sample_;
  int64_t width_;
  std::vector<std::vector<RowSample::Window>> windows_;  // [ranks]
  std::vector<int64_t> values_;                          // [ranks] of a layer's queries, or keys
};

// What `root` has fitted to one layer goes to all.
absl::Status BroadcastFits(Communicator& communicator, const LayerFitArgs& args, int root,
                           Fits* fits) {
  fits->resize(args.cases.size());
  for (size_t c = 0; c < args.cases.size(); ++c) {
    const int64_t dim = args.cases[c].dim;
    const int64_t hidden = IsLinear(args.cases[c].method) ? 0 : args.width;
    ScoreFit& fit = (*fits)[c];
    LONGSPAN_RETURN_IF_ERROR(
        communicator.Broadcast("calibrate.fits", &fit.explained, sizeof(fit.explained), root));
    for (RowMap* map : {&fit.maps.query, &fit.maps.key}) {
      map->width = args.width;
      map->hidden = hidden;
      map->dim = dim;
      map->first.resize(args.width * hidden);
      map->bias.resize(hidden);
      map->second.resize((hidden > 0 ? hidden : args.width) * dim);
      for (std::vector<float>* part : {&map->first, &map->bias, &map->second}) {
        LONGSPAN_RETURN_IF_ERROR(
            communicator.Broadcast("calibrate.fits", part->data(),
                                   static_cast<int64_t>(part->size() * sizeof(float)), root));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::string_view FitMethodName(FitMethod method) { return kNames[static_cast<int>(method)]; }

absl::StatusOr<FitMethod> ParseFitMethod(absl::string_view name) {
  const auto found = std::find(std::begin(kNames), std::end(kNames), name);
  if (found != std::end(kNames)) return static_cast<FitMethod>(found - std::begin(kNames));
  return absl::InvalidArgumentError(
      absl::StrCat("there is no method `", name, "`; there are ", absl::StrJoin(kNames, ", ")));
}

absl::Status FitLayers(Communicator& communicator, const LayerFitArgs& args,
                       const OnLayerFits& on_layer) {
  const auto num_layers = static_cast<int64_t>(args.moments.size());
  const int ranks = communicator.size();
  LONGSPAN_ASSIGN_OR_RETURN(RowGatherer gatherer,
                            RowGatherer::Create(communicator, args.sample, args.width));
  for (int64_t first = 0; first < num_layers; first += ranks) {
    const int64_t layers = std::min<int64_t>(ranks, num_layers - first);
    LONGSPAN_ASSIGN_OR_RETURN(const RowSample::Layer rows, gatherer.Gather(first, layers));
    absl::StatusOr<Fits> mine = Fits();
    if (communicator.rank() < layers) {
      LayerFitter fitter(args, first + communicator.rank());
      mine = fitter.Fit(rows, [&](double share) {
        if (!args.progress) return;
        args.progress((static_cast<double>(first) + share * static_cast<double>(layers)) /
                      static_cast<double>(num_layers));
      });
    }
    LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(&communicator, mine.status()));
    for (int r = 0; r < layers; ++r) {
      Fits others;
      Fits& fits = r == communicator.rank() ? *mine : others;
      LONGSPAN_RETURN_IF_ERROR(BroadcastFits(communicator, args, r, &fits));
      LONGSPAN_RETURN_IF_ERROR(on_layer(first + r, fits));
    }
  }
  return absl::OkStatus();
}

}  // namespace longspan
