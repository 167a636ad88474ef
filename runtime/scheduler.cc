#include "runtime/scheduler.h"

#include <algorithm>

#include "kernels/base/check.h"

namespace longspan {

void Scheduler::Add(int64_t sequence, int64_t prompt_tokens, int64_t capacity) {
  waiting_.push_back({sequence, prompt_tokens, capacity});
}

Scheduler::Work Scheduler::Next() {
  Work work;
  while (!waiting_.empty() && static_cast<int64_t>(running_.size()) < limits_.max_num_seqs &&
         PagesFor(waiting_.front().capacity) <= free_pages_) {
    free_pages_ -= PagesFor(waiting_.front().capacity);
    running_.push_back(waiting_.front());
    running_.back().turn = next_turn_++;
    work.opens.push_back({waiting_.front().sequence, waiting_.front().capacity});
    waiting_.pop_front();
  }
  Entry* prefills = nullptr;
  for (Entry& entry : running_) {
    if (entry.prefilled == entry.prompt_tokens) {
      work.decodes.push_back(entry.sequence);
    } else if (prefills == nullptr || entry.turn < prefills->turn) {
      prefills = &entry;
    }
  }
  if (prefills == nullptr) return work;
  const int64_t end = std::min(prefills->prompt_tokens, prefills->prefilled + limits_.chunk_tokens);
  work.prefill = {prefills->sequence, {prefills->prefilled, end}, end == prefills->prompt_tokens};
  prefills->prefilled = end;
  prefills->turn = next_turn_++;
  return work;
}

bool Scheduler::Remove(int64_t sequence) {
  const auto is_it = [&](const Entry& entry) { return entry.sequence == sequence; };
  const auto entry = std::find_if(running_.begin(), running_.end(), is_it);
  if (entry == running_.end()) {
    const auto waits = std::find_if(waiting_.begin(), waiting_.end(), is_it);
    LONGSPAN_CHECK(waits != waiting_.end());
    waiting_.erase(waits);
    return false;
  }
  free_pages_ += PagesFor(entry->capacity);
  running_.erase(entry);
  return true;
}

std::vector<int64_t> StepPlan::Serialize() const {
  std::vector<int64_t> words = {shutdown, static_cast<int64_t>(closes.size()),
                                static_cast<int64_t>(opens.size()), prefill.has_value(),
                                static_cast<int64_t>(decodes.size())};
  words.insert(words.end(), closes.begin(), closes.end());
  for (const Open& open : opens) words.insert(words.end(), {open.sequence, open.capacity});
  if (prefill) {
    words.insert(words.end(),
                 {prefill->sequence, prefill->tokens.begin, prefill->tokens.end, prefill->last,
                  prefill->logprobs, static_cast<int64_t>(prefill->ids.size())});
    words.insert(words.end(), prefill->ids.begin(), prefill->ids.end());
  }
  for (const Decode& decode : decodes) {
    words.insert(words.end(), {decode.sequence, decode.position, decode.id});
  }
  return words;
}

StepPlan StepPlan::Deserialize(const std::vector<int64_t>& words) {
  size_t at = 0;
  const auto next = [&] { return words.at(at++); };
  StepPlan plan;
  plan.shutdown = next() != 0;
  plan.closes.resize(next());
  plan.opens.resize(next());
  const bool has_prefill = next() != 0;
  plan.decodes.resize(next());
  for (int64_t& close : plan.closes) close = next();
  for (Open& open : plan.opens) {
    open.sequence = next();
    open.capacity = next();
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
  }
  return plan;
}

}  // namespace longspan
