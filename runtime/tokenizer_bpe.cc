#include "runtime/tokenizer_bpe.h"

#include <algorithm>

#include "absl/strings/string_view.h"

namespace longspan {
namespace {

constexpr size_t kMaxCachedWordBytes = 64;
constexpr size_t kMaxCachedWords = 1 << 16;

}  // namespace

void BpeEncoder::Encode(std::string_view word, std::vector<int32_t>& ids) {
  const absl::string_view key(word.data(), word.size());
  if (const auto it = cache_.find(key); it != cache_.end()) {
    const auto begin = cached_ids_.begin() + it->second.begin;
    ids.insert(ids.end(), begin, begin + it->second.count);
    return;
  }
  if (const auto it = model_.whole_words.find(key); it != model_.whole_words.end()) {
    ids.push_back(it->second);
    return;
  }
  const size_t old_size = ids.size();
  const int64_t old_dropped = dropped_bytes_;
  Merge(word, ids);
  // A word that lost bytes is not kept, so that each occurrence is counted.
  if (word.size() > kMaxCachedWordBytes || cache_.size() >= kMaxCachedWords ||
      dropped_bytes_ != old_dropped) {
    return;
  }
  cache_.emplace(word, CachedWord{static_cast<int64_t>(cached_ids_.size()),
                                  static_cast<int64_t>(ids.size() - old_size)});
  cached_ids_.insert(cached_ids_.end(), ids.begin() + old_size, ids.end());
}

void BpeEncoder::Merge(std::string_view word, std::vector<int32_t>& ids) {
  symbols_.clear();
  for (const char c : word) {
    const int32_t id = model_.byte_ids[static_cast<uint8_t>(c)];
    if (id < 0) {
      ++dropped_bytes_;
      continue;
    }
    const int64_t i = static_cast<int64_t>(symbols_.size());
    symbols_.push_back({id, i - 1, i + 1});
  }
  if (symbols_.empty()) return;
  symbols_.back().next = -1;

  heap_.clear();
  for (size_t i = 0; i < symbols_.size(); ++i) {
    if (const BpeModel::Merge* merge = FindMerge(i)) {
      heap_.push_back({merge->rank, merge->id, static_cast<int64_t>(i)});
    }
  }
  std::make_heap(heap_.begin(), heap_.end());
  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end());
    const Candidate best = heap_.back();
    heap_.pop_back();
    MergeOnce(best);
  }
  for (int64_t i = 0; i >= 0; i = symbols_[i].next) ids.push_back(symbols_[i].id);
}

void BpeEncoder::MergeOnce(const Candidate& best) {
  Symbol& left = symbols_[best.left];
  if (left.id < 0) return;
  // A candidate whose symbols have changed is void. Like the library, that is told by the id that
  // the pair makes now, not by its rank: two pairs can make the same token.
  const BpeModel::Merge* merge = FindMerge(best.left);
  if (merge == nullptr || merge->id != best.id) return;
  Symbol& right = symbols_[left.next];
  left.id = best.id;
  left.next = right.next;
  right.id = -1;
  if (left.next >= 0) symbols_[left.next].previous = best.left;
  if (left.previous >= 0) PushCandidate(left.previous);
  PushCandidate(best.left);
}

const BpeModel::Merge* BpeEncoder::FindMerge(int64_t left) const {
  const Symbol& symbol = symbols_[left];
  if (symbol.next < 0) return nullptr;
  const auto it = model_.merges.find(BpeModel::PairKey(symbol.id, symbols_[symbol.next].id));
  return it == model_.merges.end() ? nullptr : &it->second;
}

void BpeEncoder::PushCandidate(int64_t left) {
  if (const BpeModel::Merge* merge = FindMerge(left)) {
    heap_.push_back({merge->rank, merge->id, left});
    std::push_heap(heap_.begin(), heap_.end());
  }
}

}  // namespace longspan
