#include "runtime/tokenizer_bpe.h"

#include <algorithm>
#include <utility>

#include "absl/strings/string_view.h"
#include "runtime/tokenizer_utf8.h"

namespace longspan {
namespace {

constexpr size_t kMaxCachedBytes = 64;
constexpr size_t kMaxCachedParts = 1 << 16;

}  // namespace

bool BpeEncoder::Encode(std::string_view word, std::vector<int32_t>& ids) {
  if (!model_.whole_words.empty()) {
    const auto it = model_.whole_words.find(absl::string_view(word.data(), word.size()));
    if (it != model_.whole_words.end()) {
      ids.push_back(it->second);
      return Fits(ids, 0);
    }
  }
  const std::string_view cut = model_.cut_before;
  while (!cut.empty() && !word.empty()) {
    // A run of the character stays together: merges may be within it.
    size_t end = 0;
    while (word.substr(end).starts_with(cut)) end += cut.size();
    end = std::min(word.find(cut, end), word.size());
    if (!EncodePart(word.substr(0, end), ids)) return false;
    word.remove_prefix(end);
  }
  return word.empty() || EncodePart(word, ids);
}

bool BpeEncoder::EncodePart(std::string_view part, std::vector<int32_t>& ids) {
  const absl::string_view key(part.data(), part.size());
  if (const auto it = cache_.find(key); it != cache_.end()) {
    const auto begin = cached_ids_.begin() + it->second.begin;
    ids.insert(ids.end(), begin, begin + it->second.count);
    return Fits(ids, 0);
  }
  const size_t old_size = ids.size();
  const int64_t old_unknown = unknown_bytes_;
  if (!Merge(part, ids)) return false;
  // A part that loses bytes is not kept, so that each occurrence is counted.
  if (part.size() > kMaxCachedBytes || cache_.size() >= kMaxCachedParts ||
      unknown_bytes_ != old_unknown) {
    return true;
  }
  cache_.emplace(part, CachedPart{static_cast<int64_t>(cached_ids_.size()),
                                  static_cast<int64_t>(ids.size() - old_size)});
  cached_ids_.insert(cached_ids_.end(), ids.begin() + old_size, ids.end());
  return true;
}

int32_t BpeEncoder::FindCharacter(std::string_view character) const {
  const uint8_t first = static_cast<uint8_t>(character[0]);
  if (character.size() == 1) return model_.byte_ids[first];
  const auto it = model_.character_ids.find(CodePoint(character));
  return it == model_.character_ids.end() ? -1 : it->second;
}

bool BpeEncoder::AddFallback(std::string_view character) {
  const auto has_token = [&](char c) { return model_.fallback_ids[static_cast<uint8_t>(c)] >= 0; };
  if (!std::all_of(character.begin(), character.end(), has_token)) return false;
  for (const char c : character) AddSymbol(model_.fallback_ids[static_cast<uint8_t>(c)]);
  return true;
}

void BpeEncoder::AddSymbol(int32_t id) {
  const int64_t i = static_cast<int64_t>(symbols_.size());
  symbols_.push_back({id, i - 1, i + 1});
}

void BpeEncoder::AddSymbols(std::string_view part) {
  bool pending = false;  // an unknown token is yet to be added
  const auto add_pending = [&] {
    if (std::exchange(pending, false)) AddSymbol(model_.unknown_id);
  };
  while (!part.empty()) {
    const std::string_view character =
        part.substr(0, model_.byte_level ? 1 : NextUtf8(part).length);
    part.remove_prefix(character.size());
    if (const int32_t id = FindCharacter(character); id >= 0) {
      add_pending();
      AddSymbol(id);
      continue;
    }
    // Like in the library, bytes go before an unknown token that is still pending.
    if (AddFallback(character)) continue;
    unknown_bytes_ += static_cast<int64_t>(character.size());
    if (model_.unknown_id < 0) continue;
    if (!model_.fuse_unknown) add_pending();
    pending = true;
  }
  add_pending();
}

bool BpeEncoder::Merge(std::string_view part, std::vector<int32_t>& ids) {
  symbols_.clear();
  AddSymbols(part);
  if (symbols_.empty()) return true;
  // A token takes in only so many symbols, since its name is theirs.
  const auto symbols = static_cast<int64_t>(symbols_.size());
  if (!Fits(ids, (symbols - 1) / model_.longest_token + 1)) return false;
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
  return Fits(ids, 0);
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
