#include "runtime/scheduler.h"

#include <algorithm>
#include <utility>

#include "kernels/base/check.h"

namespace longspan {

Scheduler::Scheduler(const Limits& limits, PrefixCache cache)
    : limits_(limits), cache_(std::move(cache)) {
  for (int r = 0; r < limits.shape.layout.num_ranks; ++r) {
    used_pages_.push_back(cache_.num_pages(r));
  }
}

void Scheduler::Add(int64_t sequence, absl::Span<const int32_t> prompt, int64_t capacity,
                    bool computes_all) {
  waiting_.push_back({sequence, prompt, capacity, computes_all});
}

Scheduler::Work Scheduler::Next() {
  Work work;
  for (Entry& entry : running_) {
    if (entry.is_prefilled()) Publish(&entry);
  }
  work.publishes = std::exchange(publishes_, {});
  // A look into the cache takes as long as the prompt, so not in every step.
  while (!waiting_.empty() && num_running() < limits_.max_num_seqs && !head_waits_) {
    head_waits_ = !Start(&waiting_.front(), &work);
    if (head_waits_) break;
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
  if (!copied_.empty()) head_waits_ = false;
  cache_.Release(std::exchange(copied_, {}));
  // Behind those that came while its chunk was computed, so that they wait for that one alone.
  for (Entry& entry : running_) {
    if (entry.turn == kHasTheTurn) entry.turn = next_turn_++;
  }
  Entry* prefills = nullptr;
  for (Entry& entry : running_) {
    if (entry.is_prefilled()) {
      work.decodes.push_back(entry.sequence);
    } else if (prefills == nullptr || entry.turn < prefills->turn) {
      prefills = &entry;
    }
  }
  if (prefills == nullptr) return work;
  // Whatever was cached, chunks are those of a prompt of which nothing was.
  const int64_t end =
      std::min(static_cast<int64_t>(prefills->prompt.size()),
               (prefills->prefilled / limits_.chunk_tokens + 1) * limits_.chunk_tokens);
  work.prefill.emplace();
  work.prefill->sequence = prefills->sequence;
  work.prefill->tokens = {prefills->prefilled, end};
  prefills->prefilled = end;
  prefills->turn = kHasTheTurn;
  work.prefill->last = prefills->is_prefilled();
  return work;
}

bool Scheduler::Start(Entry* entry, Work* work) {
  PrefixCache::Hit hit;
  if (limits_.caches_prefixes && !entry->computes_all) hit = cache_.Find(entry->prompt);
  cache_.Use(hit.shared);
  const int ranks = limits_.shape.layout.num_ranks;
  std::vector<int64_t> needed(ranks), missing(ranks);
  for (int r = 0; r < ranks; ++r) {
    needed[r] = limits_.shape.layout.NumPages(r, entry->capacity);
  }
  for (const int64_t node : hit.shared) --needed[cache_.rank(node)];
  for (int r = 0; r < ranks; ++r) missing[r] = used_pages_[r] + needed[r] - limits_.pages;
  // Pages to be copied are given up last, and then to the sequence itself: moved, not copied.
  std::vector<PrefixCache::Evicted> evicted;
  if (!cache_.Evict(missing, hit.copied, &evicted)) {
    cache_.Release(hit.shared);
    return false;
  }
  StepPlan::Open& open = work->opens.emplace_back();
  open.sequence = entry->sequence;
  open.capacity = entry->capacity;
  open.cached_tokens = hit.tokens;
  open.shares = hit.shared;
  for (const int64_t node : hit.copied) open.copies.push_back({node, /*take=*/false});
  for (const auto& [node, rank] : evicted) {
    --used_pages_[rank];
    const auto copy = std::find_if(open.copies.begin(), open.copies.end(),
                                   [&](const StepPlan::Open::Copy& c) { return c.node == node; });
    if (copy == open.copies.end()) {
      work->evicts.push_back(node);
    } else {
      copy->take = true;
    }
  }
  for (const auto& [node, take] : open.copies) {
    if (take) continue;
    cache_.Use({node});
    copied_.push_back(node);
  }
  for (int r = 0; r < ranks; ++r) used_pages_[r] += needed[r];
  entry->prefilled = hit.tokens;
  entry->turn = next_turn_++;
  entry->nodes = std::move(hit.shared);
  return true;
}

void Scheduler::Publish(Entry* entry) {
  if (!limits_.caches_prefixes || std::exchange(entry->published, true)) return;
  for (const auto& [stripe, node] :
       cache_.Publish(entry->prompt.first(entry->prefilled), entry->nodes)) {
    head_waits_ = false;  // it may share the page
    publishes_.push_back({entry->sequence, stripe, node});
    entry->nodes.push_back(node);
  }
}

bool Scheduler::Remove(int64_t sequence) {
  head_waits_ = false;
  const auto is_it = [&](const Entry& entry) { return entry.sequence == sequence; };
  const auto entry = std::find_if(running_.begin(), running_.end(), is_it);
  if (entry == running_.end()) {
    const auto waits = std::find_if(waiting_.begin(), waiting_.end(), is_it);
    LONGSPAN_CHECK(waits != waiting_.end());
    waiting_.erase(waits);
    return false;
  }
  Publish(&*entry);
  for (int r = 0; r < limits_.shape.layout.num_ranks; ++r) {
    used_pages_[r] -= limits_.shape.layout.NumPages(r, entry->capacity);
  }
  for (const int64_t node : entry->nodes) ++used_pages_[cache_.rank(node)];
  cache_.Release(entry->nodes);
  running_.erase(entry);
  return true;
}

std::vector<int64_t> StepPlan::Serialize() const {
  std::vector<int64_t> words = {shutdown,
                                gathers_stats,
                                takes_phases,
                                counts_selections,
                                static_cast<int64_t>(publishes.size()),
                                static_cast<int64_t>(closes.size()),
                                static_cast<int64_t>(evicts.size()),
                                static_cast<int64_t>(opens.size()),
                                prefill.has_value(),
                                static_cast<int64_t>(decodes.size())};
  for (const Publish& publish : publishes) {
    words.insert(words.end(), {publish.sequence, publish.stripe, publish.node});
  }
  words.insert(words.end(), closes.begin(), closes.end());
  words.insert(words.end(), evicts.begin(), evicts.end());
  for (const Open& open : opens) {
    words.insert(words.end(), {open.sequence, open.capacity, open.cached_tokens,
                               static_cast<int64_t>(open.shares.size()),
                               static_cast<int64_t>(open.copies.size())});
    words.insert(words.end(), open.shares.begin(), open.shares.end());
    for (const Open::Copy& copy : open.copies) words.insert(words.end(), {copy.node, copy.take});
  }
  if (prefill) {
    words.insert(words.end(),
                 {prefill->sequence, prefill->tokens.begin, prefill->tokens.end, prefill->last,
                  prefill->logprobs, static_cast<int64_t>(prefill->ids.size())});
    words.insert(words.end(), prefill->ids.begin(), prefill->ids.end());
  }
  for (const Decode& decode : decodes) {
    words.insert(words.end(), {decode.sequence, decode.position, decode.id, decode.observed});
  }
  return words;
}

StepPlan StepPlan::Deserialize(const std::vector<int64_t>& words) {
  size_t at = 0;
  const auto next = [&] { return words.at(at++); };
  StepPlan plan;
  plan.shutdown = next() != 0;
  plan.gathers_stats = next() != 0;
  plan.takes_phases = next() != 0;
  plan.counts_selections = next() != 0;
  plan.publishes.resize(next());
  plan.closes.resize(next());
  plan.evicts.resize(next());
  plan.opens.resize(next());
  const bool has_prefill = next() != 0;
  plan.decodes.resize(next());
  for (Publish& publish : plan.publishes) {
    publish.sequence = next();
    publish.stripe = next();
    publish.node = next();
  }
  for (int64_t& close : plan.closes) close = next();
  for (int64_t& node : plan.evicts) node = next();
  for (Open& open : plan.opens) {
    open.sequence = next();
    open.capacity = next();
    open.cached_tokens = next();
    open.shares.resize(next());
    open.copies.resize(next());
    for (int64_t& node : open.shares) node = next();
    for (Open::Copy& copy : open.copies) {
      copy.node = next();
      copy.take = next() != 0;
    }
  }
  if (has_prefill) {
    Prefill& prefill = plan.prefill.emplace();
    prefill.sequence = next();
    prefill.tokens.begin = next();
    prefill.tokens.end = next();
    prefill.last = next() != 0;
    prefill.logprobs = next();
    prefill.ids.resize(next());
    for (int32_t& id : prefill.ids) id = static_cast<int32_t>(next());
  }
  for (Decode& decode : plan.decodes) {
    decode.sequence = next();
    decode.position = next();
    decode.id = static_cast<int32_t>(next());
    decode.observed = next() != 0;
  }
  return plan;
}

}  // namespace longspan
