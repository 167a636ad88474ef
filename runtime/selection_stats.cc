#include "runtime/selection_stats.h"

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <utility>

#include "kernels/base/check.h"
#include "runtime/score_recall.h"

namespace longspan {
namespace {

using Json = nlohmann::ordered_json;

void AddOverlap(absl::Span<const int64_t> a, absl::Span<const int64_t> b,
                SelectionCounts::Mean* mean) {
  const int64_t common = CountCommon(a, b);
  const auto all = static_cast<int64_t>(a.size() + b.size()) - common;
  mean->sum += static_cast<double>(common) / static_cast<double>(all);
  ++mean->count;
}

Json MeanJson(const SelectionCounts::Mean& mean) {
  if (mean.count == 0) return nullptr;
  return mean.sum / static_cast<double>(mean.count);
}

Json CountsJson(const SelectionCounts& counts, SelectionStats::Stage stage) {
  Json json = {{"selections", counts.selections},
               {"tokens", counts.tokens},
               {"overlap_of_steps", MeanJson(counts.overlap_of_steps)},
               {"overlap_of_layers", MeanJson(counts.overlap_of_layers)}};
  if (stage == SelectionStats::kDecode) {
    json["recall"] = MeanJson(counts.recall);
    json["recall_selections"] = counts.recall.count;
  }
  json["distances"] = Json::array();
  for (size_t i = 0; i < counts.distances.size(); ++i) {
    if (counts.distances[i] == 0) continue;
    json["distances"].push_back({{"at_least", int64_t{1} << i}, {"tokens", counts.distances[i]}});
  }
  json["share_of_rank"] = Json::array();
  for (const int64_t tokens : counts.of_rank) {
    json["share_of_rank"].push_back(counts.tokens == 0 ? Json(nullptr)
                                                       : Json(static_cast<double>(tokens) /
                                                              static_cast<double>(counts.tokens)));
  }
  return json;
}

}  // namespace

SelectionStats::SelectionStats(int64_t layers, const SequenceLayout& layout, std::string no_recall)
    : layout_(layout), no_recall_(std::move(no_recall)) {
  SelectionCounts none;
  none.of_rank.resize(layout.num_ranks);
  for (std::vector<SelectionCounts>& counts : counts_) counts.assign(layers, none);
}

void SelectionStats::BeginStep() {
  for (auto& [sequence, recent] : recent_) {
    for (std::vector<Selection>& of_layer : recent) {
      if (of_layer.size() > 1) of_layer.erase(of_layer.begin(), of_layer.end() - 1);
    }
  }
}

void SelectionStats::Add(Stage stage, int64_t sequence, int64_t layer, Range block,
                         absl::Span<const int64_t> selected) {
  LONGSPAN_CHECK(!selected.empty());
  SelectionCounts& counts = counts_[stage][layer];
  ++counts.selections;
  counts.tokens += static_cast<int64_t>(selected.size());
  for (const int64_t position : selected) {
    const auto distance = static_cast<uint64_t>(block.begin - position);
    const auto power = static_cast<size_t>(std::bit_width(distance) - 1);
    if (counts.distances.size() <= power) counts.distances.resize(power + 1);
    ++counts.distances[power];
    ++counts.of_rank[layout_.owner(position)];
  }
  Recent& recent = recent_[{sequence, stage}];
  recent.resize(counts_[stage].size());
  if (!recent[layer].empty() && recent[layer].back().block.end == block.begin) {
    AddOverlap(selected, recent[layer].back().positions, &counts.overlap_of_steps);
  }
  if (layer > 0) {
    for (const Selection& before : recent[layer - 1]) {
      if (before.block == block) AddOverlap(selected, before.positions, &counts.overlap_of_layers);
    }
  }
  recent[layer].push_back({block, {selected.begin(), selected.end()}});
}

void SelectionStats::AddRecall(int64_t layer, absl::Span<const int64_t> selected,
                               absl::Span<const int64_t> exact) {
  SelectionCounts::Mean& recall = counts_[kDecode][layer].recall;
  recall.sum +=
      static_cast<double>(CountCommon(selected, exact)) / static_cast<double>(exact.size());
  ++recall.count;
}

void SelectionStats::Forget(int64_t sequence) {
  for (const Stage stage : {kPrefill, kDecode}) recent_.erase({sequence, stage});
}

int64_t SelectionStats::num_selections() const {
  int64_t selections = 0;
  for (const std::vector<SelectionCounts>& layers : counts_) {
    for (const SelectionCounts& counts : layers) selections += counts.selections;
  }
  return selections;
}

std::string SelectionStats::ToJson() const {
  Json json = {{"ranks", layout_.num_ranks}};
  if (!no_recall_.empty()) json["no_recall"] = no_recall_;
  for (const auto& [stage, name] : {std::pair(kPrefill, "prefill"), std::pair(kDecode, "decode")}) {
    Json layers = Json::array();
    for (const SelectionCounts& counts : counts_[stage]) {
      layers.push_back(CountsJson(counts, stage));
    }
    json[name] = {{"layers", std::move(layers)}};
  }
  return json.dump(2) + "\n";
}

}  // namespace longspan
