#include "runtime/scheduler.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/kv_shard.h"
#include "runtime/sequence_caches.h"
#include "sharding/step_schedule.h"

namespace longspan {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// The pages of all ranks. In place of keys stands a hash of the tokens that they depend on.
class Pages {
 public:
  explicit Pages(const Scheduler::Limits& limits) : layout_(limits.shape.layout) {
    shape_.layers = 2;
    shape_.kv_dim = shape_.score_dim = 2;  // of float32: as many bytes as a hash
    shape_.stripe_tokens = layout_.stripe_tokens;
    shape_.halo = limits.shape.halo;
    for (int r = 0; r < layout_.num_ranks; ++r) {
      pools_.push_back(std::make_unique<PagePool>(shape_, limits.pages));
      caches_.push_back(std::make_unique<SequenceCaches>(pools_[r].get(), layout_, r));
    }
  }

  // As all ranks do, but for the forward pass.
  void Update(const StepPlan& plan) {
    for (const auto& caches : caches_) {
      const absl::Status updated = caches->Update(plan);
      ASSERT_TRUE(updated.ok()) << updated;
    }
    for (const int64_t sequence : plan.closes) written_.erase(sequence);
    evicted += plan.evicts.size();
    for (const StepPlan::Open& open : plan.opens) {
      written_[open.sequence];
      shared += open.shares.size();
      for (const auto& [node, take] : open.copies) ++(take ? taken : copied);
    }
  }

  void Write(int64_t sequence, Range positions, const std::vector<int32_t>& tokens) {
    written_[sequence] = {positions.end, Hashes(tokens)};
    for (const auto& caches : caches_) {
      const SequenceCaches::Sequence& state = caches->at(sequence);
      for (int64_t page = 0; page < static_cast<int64_t>(state.cache->pages().size()); ++page) {
        Range halo = Intersect(WithHalo(*state.cache, page), positions);
        // The first new stripe is told of the cached tokens before it.
        const int64_t begin = layout_.StripeOfPage(state.cache->rank(), page).begin;
        if (positions.begin == state.cached_tokens && begin >= positions.begin) {
          halo.begin = std::max<int64_t>(0, begin - shape_.halo);
        }
        ForRows(sequence, *state.cache, page, halo,
                [](std::byte* row, uint64_t hash) { std::memcpy(row, &hash, sizeof(hash)); });
      }
    }
  }

  // Nothing that a sequence reads was written by another, unless it was the same.
  void Check() const {
    int64_t wrong = 0;
    const auto check = [&](const std::byte* row, uint64_t hash) {
      wrong += std::memcmp(row, &hash, sizeof(hash)) != 0;
    };
    for (const auto& [sequence, written] : written_) {
      for (const auto& caches : caches_) {
        KvShard& cache = *caches->at(sequence).cache;
        for (int64_t page = 0; page < static_cast<int64_t>(cache.pages().size()); ++page) {
          ForRows(sequence, cache, page, Intersect(WithHalo(cache, page), {0, written.first}),
                  check);
        }
      }
    }
    ASSERT_EQ(wrong, 0);
  }

  int64_t shared = 0, copied = 0, taken = 0, evicted = 0;

 private:
  static std::vector<uint64_t> Hashes(const std::vector<int32_t>& tokens) {
    std::vector<uint64_t> hashes;
    uint64_t hash = 1;
    for (const int32_t token : tokens) hashes.push_back(hash = (hash + token) * 0x9e3779b97f4a7c15);
    return hashes;
  }

  Range WithHalo(const KvShard& cache, int64_t page) const {
    const Range stripe = layout_.StripeOfPage(cache.rank(), page);
    return {std::max<int64_t>(0, stripe.begin - shape_.halo), stripe.end + shape_.halo};
  }

  template <typename F>
  void ForRows(int64_t sequence, KvShard& cache, int64_t page, Range positions, F&& f) const {
    const std::vector<uint64_t>& hashes = written_.at(sequence).second;
    for (int64_t layer = 0; layer < shape_.layers; ++layer) {
      for (int64_t p = positions.begin; p < positions.end; ++p) {
        f(cache.ScoreKey(layer, page, p), hashes[p]);
        if (!layout_.StripeOfPage(cache.rank(), page).contains(p)) continue;
        f(cache.Key(layer, p), hashes[p] + 1);
        f(cache.Value(layer, p), hashes[p] + 2);
      }
    }
  }

  SequenceLayout layout_;
  KvShape shape_;
  std::vector<std::unique_ptr<PagePool>> pools_;
  std::vector<std::unique_ptr<SequenceCaches>> caches_;
  std::map<int64_t, std::pair<int64_t, std::vector<uint64_t>>> written_;  // tokens, their hashes
};

// Sequences with random lengths that arrive at random times, and what each is expected to do.
class Simulation {
 public:
  Simulation(const Scheduler::Limits& limits, uint64_t seed)
      : limits_(limits), scheduler_(limits), pages_(limits), random_(seed) {}

  // Runs until all of `count` sequences have finished; checks every step.
  void Run(int64_t count) {
    int64_t submitted = 0;
    while (submitted < count || !scheduler_.idle()) {
      while (submitted < count && Integer(0, 3) == 0) Submit(submitted++);
      Step();
      if (testing::Test::HasFatalFailure()) return;
      ASSERT_LT(++steps_, 1000 * count) << "the work does not end";
    }
    EXPECT_TRUE(all_.empty());
  }

  const Pages& pages() const { return pages_; }

 private:
  struct Entry {
    int64_t prompt = 0;
    std::vector<int32_t> prompt_tokens;
    std::vector<int32_t> tokens;  // with those decoded
    int64_t capacity = 0;
    int64_t to_generate = 0;  // may be less than the capacity has room for
    int64_t prefilled = 0;
    int64_t turn = 0;  // when it began to run, or got its last chunk
    bool running = false;
  };

  int64_t Integer(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }

  // At most as many tokens as all the pages hold.
  void Submit(int64_t id) {
    int64_t most = 1;
    while (layout().NumPages(0, most + 1) <= limits_.pages && most < 200) ++most;
    Entry entry;
    entry.capacity = Integer(2, std::max<int64_t>(2, most));
    entry.prompt = Integer(1, entry.capacity - 1);
    entry.to_generate = Integer(1, entry.capacity - entry.prompt);
    // Often as another sequence, up to some place.
    if (!earlier_.empty() && Integer(0, 3) > 0) {
      entry.prompt_tokens = earlier_[Integer(0, static_cast<int64_t>(earlier_.size()) - 1)];
      if (Integer(0, 1) == 0) entry.prompt_tokens.resize(Integer(0, entry.prompt));
    }
    while (static_cast<int64_t>(entry.prompt_tokens.size()) < entry.prompt) {
      entry.prompt_tokens.push_back(static_cast<int32_t>(Integer(0, 1)));
    }
    entry.prompt_tokens.resize(entry.prompt);
    entry.tokens = entry.prompt_tokens;
    earlier_.push_back(entry.prompt_tokens);
    all_[id] = std::move(entry);
    const bool computes_all = Integer(0, 9) == 0;
    if (computes_all) computing_all_.insert(id);
    scheduler_.Add(id, all_[id].prompt_tokens, all_[id].capacity, computes_all);
  }

  const SequenceLayout& layout() const { return limits_.shape.layout; }

  std::vector<int64_t> Waiting() const {
    std::vector<int64_t> waiting;
    for (const auto& [id, entry] : all_) {
      if (!entry.running) waiting.push_back(id);
    }
    return waiting;
  }

  void CheckLimits() const {
    int64_t places = 0, pages = 0;
    for (const auto& [id, entry] : all_) {
      if (!entry.running) continue;
      ++places;
      pages += layout().NumPages(0, entry.capacity);
    }
    ASSERT_LE(places, limits_.max_num_seqs);
    for (int r = 0; r < layout().num_ranks; ++r) {
      ASSERT_LE(scheduler_.used_pages(r), limits_.pages);
      ASSERT_LE(scheduler_.cached_pages(r), scheduler_.used_pages(r));
      ASSERT_LE(scheduler_.evictable_pages(r), scheduler_.cached_pages(r));
    }
    // The first that waits could not run: nothing idles.
    const std::vector<int64_t> waiting = Waiting();
    ASSERT_EQ(scheduler_.num_waiting(), static_cast<int64_t>(waiting.size()));
    if (waiting.empty()) return;
    const int64_t needs = layout().NumPages(0, all_.at(waiting[0]).capacity);
    if (limits_.caches_prefixes) {
      ASSERT_GT(places, 0);
    } else {
      ASSERT_TRUE(places == limits_.max_num_seqs || pages + needs > limits_.pages);
    }
  }

  // The next step's work by a scheduler that looks anew whether what waits can start.
  Scheduler::Work AsIfAllHadChanged() const {
    Scheduler scheduler = scheduler_;
    const int32_t token = 0;
    scheduler.Add(-1, absl::MakeConstSpan(&token, 1), 1);
    scheduler.Remove(-1);
    return scheduler.Next();
  }

  void Step() {
    std::vector<int64_t> must_decode;
    for (const auto& [id, entry] : all_) {
      if (entry.running && entry.prefilled == entry.prompt) must_decode.push_back(id);
    }
    const std::vector<int64_t> waiting = Waiting();
    const Scheduler::Work expected = AsIfAllHadChanged();
    const Scheduler::Work work = scheduler_.Next();
    ASSERT_EQ(work.evicts, expected.evicts);
    ASSERT_EQ(work.opens.size(), expected.opens.size());
    ASSERT_LE(work.opens.size(), waiting.size());
    for (size_t i = 0; i < work.opens.size(); ++i) {
      ASSERT_EQ(work.opens[i].sequence, waiting[i]) << "not first come, first served";
      Entry& entry = all_.at(waiting[i]);
      ASSERT_EQ(work.opens[i].capacity, entry.capacity);
      entry.running = true;
      entry.turn = next_turn_++;
      entry.prefilled = work.opens[i].cached_tokens;
      ASSERT_LT(entry.prefilled, entry.prompt);
      ASSERT_EQ(entry.prefilled % limits_.shape.block, 0);
      ASSERT_TRUE(entry.prefilled == 0 || !computing_all_.contains(waiting[i]));
    }
    // It is back in the queue when its chunk is done.
    if (const auto last = all_.find(last_prefill_); last != all_.end()) {
      last->second.turn = next_turn_++;
    }
    last_prefill_ = -1;
    StepPlan plan;
    plan.publishes = work.publishes;
    plan.closes = std::exchange(closes_, {});
    plan.evicts = work.evicts;
    plan.opens = work.opens;
    pages_.Update(plan);
    if (testing::Test::HasFatalFailure()) return;
    CheckLimits();
    ASSERT_EQ(work.decodes, must_decode) << "a prompt delays a decoding sequence";
    CheckPrefill(work);
    Deliver(work);
    if (!all_.empty() && Integer(0, 9) == 0) Cancel();
  }

  // Of the running whose prompt is not done, the one that has waited longest gets the chunk.
  void CheckPrefill(const Scheduler::Work& work) {
    auto first = all_.end();
    for (auto item = all_.begin(); item != all_.end(); ++item) {
      if (!item->second.running || item->second.prefilled == item->second.prompt) continue;
      if (first == all_.end() || item->second.turn < first->second.turn) first = item;
    }
    ASSERT_EQ(work.prefill.has_value(), first != all_.end());
    if (!work.prefill) return;
    Entry& entry = first->second;
    last_prefill_ = first->first;
    ASSERT_EQ(work.prefill->sequence, first->first);
    ASSERT_EQ(work.prefill->tokens.begin, entry.prefilled);
    const int64_t cold = entry.prefilled / limits_.chunk_tokens * limits_.chunk_tokens;
    ASSERT_EQ(work.prefill->tokens.end, std::min(entry.prompt, cold + limits_.chunk_tokens));
    pages_.Write(first->first, work.prefill->tokens, entry.tokens);
    entry.prefilled = work.prefill->tokens.end;
    ASSERT_EQ(work.prefill->last, entry.prefilled == entry.prompt);
  }

  // Each decode gives a token, and so does the end of a prompt.
  void Deliver(const Scheduler::Work& work) {
    for (const int64_t id : work.decodes) {
      std::vector<int32_t>& tokens = all_.at(id).tokens;
      tokens.push_back(static_cast<int32_t>(Integer(0, 1)));
      const auto length = static_cast<int64_t>(tokens.size());
      pages_.Write(id, {length - 1, length}, tokens);
    }
    pages_.Check();
    std::vector<int64_t> given = work.decodes;
    if (work.prefill && work.prefill->last) given.push_back(work.prefill->sequence);
    for (const int64_t id : given) {
      if (--all_.at(id).to_generate > 0) continue;
      ASSERT_TRUE(scheduler_.Remove(id));
      closes_.push_back(id);
      all_.erase(id);
    }
  }

  void Cancel() {
    const auto any = std::next(all_.begin(), Integer(0, static_cast<int64_t>(all_.size()) - 1));
    ASSERT_EQ(scheduler_.Remove(any->first), any->second.running);
    if (any->second.running) closes_.push_back(any->first);
    all_.erase(any);
  }

  Scheduler::Limits limits_;
  Scheduler scheduler_;
  Pages pages_;
  std::mt19937_64 random_;
  std::map<int64_t, Entry> all_;  // unfinished, in order of submission
  int64_t steps_ = 0;
  int64_t next_turn_ = 0;
  int64_t last_prefill_ = -1;  // sequence that the last step had a chunk of
  std::vector<int64_t> closes_;
  std::set<int64_t> computing_all_;
  std::vector<std::vector<int32_t>> earlier_;  // prompts
};

TEST(SchedulerTest, RandomArrivalsAreServedInOrderWithinLimits) {
  std::mt19937_64 random(1);
  const auto integer = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  int64_t shared = 0, copied = 0, taken = 0, evicted = 0;
  for (int trial = 0; trial < 400; ++trial) {
    Scheduler::Limits limits;
    limits.max_num_seqs = integer(1, 6);
    limits.shape.block = integer(1, 4);
    limits.chunk_tokens = limits.shape.block * integer(1, 12);
    limits.shape.layout = {limits.shape.block * integer(1, 4), static_cast<int>(integer(1, 4))};
    limits.pages = integer(limits.shape.layout.stripe_tokens > 1 ? 1 : 2, 20);
    limits.shape.halo = integer(0, 2) * integer(0, limits.shape.layout.stripe_tokens / 2);
    limits.caches_prefixes = trial % 4 > 0;
    SCOPED_TRACE(testing::Message() << "trial " << trial);
    Simulation simulation(limits, trial);
    simulation.Run(40);
    if (HasFatalFailure()) return;
    const Pages& pages = simulation.pages();
    EXPECT_TRUE(limits.caches_prefixes || pages.shared + pages.copied + pages.taken == 0);
    shared += pages.shared;
    copied += pages.copied;
    taken += pages.taken;
    evicted += pages.evicted;
  }
  EXPECT_GT(shared, 1000);
  EXPECT_GT(copied, 1000);
  EXPECT_GT(taken, 100);
  EXPECT_GT(evicted, 1000);
}

// That outlive all.
absl::Span<const int32_t> Tokens(int64_t count) {
  static const auto* tokens = new std::vector<int32_t>(2000, 7);
  return absl::MakeConstSpan(*tokens).first(count);
}

TEST(SchedulerTest, LongPromptStandsBehindNobodysDecode) {
  Scheduler scheduler({4, 10, 1000, {{8, 1}}});
  scheduler.Add(1, Tokens(10), 100);
  scheduler.Add(2, Tokens(1000), 1100);
  EXPECT_EQ(scheduler.Next().prefill->sequence, 1);
  for (int step = 0; step < 50; ++step) {
    const Scheduler::Work work = scheduler.Next();
    EXPECT_THAT(work.decodes, ElementsAre(1));
    ASSERT_TRUE(work.prefill.has_value());
    EXPECT_EQ(work.prefill->sequence, 2);
  }
}

TEST(SchedulerTest, ShortPromptBehindLongOnesWaitsForAChunkOfEachBeforeIt) {
  Scheduler scheduler({4, 10, 1000, {{8, 1}}});
  scheduler.Add(1, Tokens(1000), 1001);
  scheduler.Add(2, Tokens(1000), 1001);
  for (int step = 0; step < 7; ++step) EXPECT_EQ(scheduler.Next().prefill->sequence, 1 + step % 2);
  scheduler.Add(3, Tokens(5), 6);
  scheduler.Add(4, Tokens(15), 16);
  for (const int64_t next : {2, 3, 4, 1, 2, 4, 1, 2, 1, 2}) {
    EXPECT_EQ(scheduler.Next().prefill->sequence, next);
  }
}

TEST(SchedulerTest, LongPromptGoesOnBehindAStreamOfShortOnes) {
  Scheduler scheduler({8, 10, 1000, {{8, 1}}});
  scheduler.Add(0, Tokens(1000), 1001);
  scheduler.Next();
  int64_t of_long = 0;
  for (int64_t step = 1; step <= 40; ++step) {
    scheduler.Add(step, Tokens(5), 6);
    const int64_t sequence = scheduler.Next().prefill->sequence;
    if (sequence == 0) {
      ++of_long;
    } else {
      scheduler.Remove(sequence);
    }
  }
  EXPECT_GE(of_long, 5);
}

TEST(SchedulerTest, BeginsWithACacheThatIsThere) {
  Scheduler::Limits limits;
  limits.max_num_seqs = 2;
  limits.chunk_tokens = 16;
  limits.pages = 4;
  limits.shape = {{8, 1}, /*halo=*/0, /*block=*/4};
  limits.caches_prefixes = true;
  PrefixCache cache(limits.shape);
  const std::vector<int32_t> known(24, 5), other(24, 6);
  for (const auto& [stripe, node] : cache.Publish(known, {})) cache.Release({node});
  Scheduler scheduler(limits, std::move(cache));
  EXPECT_EQ(scheduler.used_pages(0), 3);
  scheduler.Add(1, known, 25);
  Scheduler::Work work = scheduler.Next();
  ASSERT_EQ(work.opens.size(), 1);
  EXPECT_EQ(work.opens[0].cached_tokens, 20);
  EXPECT_EQ(scheduler.used_pages(0), 4);
  scheduler.Remove(1);
  // Three pages for it: two of what was there must go.
  scheduler.Add(2, other, 24);
  work = scheduler.Next();
  ASSERT_EQ(work.opens.size(), 1);
  EXPECT_EQ(work.evicts.size(), 2);
  EXPECT_EQ(scheduler.used_pages(0), 4);
  EXPECT_EQ(scheduler.cached_pages(0), 1);
  scheduler.Remove(2);
  EXPECT_EQ(scheduler.used_pages(0), scheduler.cached_pages(0));
}

TEST(SchedulerTest, CountsPagesThatANewSequenceCouldHave) {
  Scheduler::Limits limits = {2, 32, 10, {{8, 1}}};
  limits.shape.block = 8;
  limits.caches_prefixes = true;
  Scheduler scheduler(limits);
  const auto kept = [&] { return scheduler.used_pages(0) - scheduler.evictable_pages(0); };
  scheduler.Add(1, Tokens(32), 40);  // five pages
  scheduler.Next();
  EXPECT_EQ(kept(), 5);
  scheduler.Next();  // publishes four
  EXPECT_EQ(scheduler.cached_pages(0), 4);
  EXPECT_EQ(kept(), 5) << "cached, and the sequence's all the same";
  scheduler.Add(2, Tokens(33), 48);  // shares these, and has two of its own
  scheduler.Next();
  EXPECT_EQ(kept(), 7);
  scheduler.Remove(1);
  EXPECT_EQ(kept(), 6) << "the other still shares four";
  scheduler.Remove(2);
  EXPECT_EQ(kept(), 0);
  EXPECT_EQ(scheduler.used_pages(0), 4);
}

TEST(SchedulerTest, IdleHasNoWork) {
  Scheduler scheduler({4, 10, 1000, {{8, 1}}});
  const Scheduler::Work work = scheduler.Next();
  EXPECT_TRUE(scheduler.idle());
  EXPECT_THAT(work.opens, IsEmpty());
  EXPECT_THAT(work.decodes, IsEmpty());
  EXPECT_FALSE(work.prefill.has_value());
}

void ExpectEqual(const StepPlan& a, const StepPlan& b) {
  EXPECT_EQ(a.shutdown, b.shutdown);
  EXPECT_EQ(a.gathers_stats, b.gathers_stats);
  EXPECT_EQ(a.takes_phases, b.takes_phases);
  EXPECT_EQ(a.counts_selections, b.counts_selections);
  ASSERT_EQ(a.publishes.size(), b.publishes.size());
  for (size_t i = 0; i < a.publishes.size(); ++i) {
    EXPECT_EQ(a.publishes[i].sequence, b.publishes[i].sequence);
    EXPECT_EQ(a.publishes[i].stripe, b.publishes[i].stripe);
    EXPECT_EQ(a.publishes[i].node, b.publishes[i].node);
  }
  EXPECT_EQ(a.closes, b.closes);
  EXPECT_EQ(a.evicts, b.evicts);
  ASSERT_EQ(a.opens.size(), b.opens.size());
  for (size_t i = 0; i < a.opens.size(); ++i) {
    EXPECT_EQ(a.opens[i].sequence, b.opens[i].sequence);
    EXPECT_EQ(a.opens[i].capacity, b.opens[i].capacity);
    EXPECT_EQ(a.opens[i].cached_tokens, b.opens[i].cached_tokens);
    EXPECT_EQ(a.opens[i].shares, b.opens[i].shares);
    ASSERT_EQ(a.opens[i].copies.size(), b.opens[i].copies.size());
    for (size_t c = 0; c < a.opens[i].copies.size(); ++c) {
      EXPECT_EQ(a.opens[i].copies[c].node, b.opens[i].copies[c].node);
      EXPECT_EQ(a.opens[i].copies[c].take, b.opens[i].copies[c].take);
    }
  }
  ASSERT_EQ(a.prefill.has_value(), b.prefill.has_value());
  if (a.prefill) {
    EXPECT_EQ(a.prefill->sequence, b.prefill->sequence);
    EXPECT_EQ(a.prefill->tokens, b.prefill->tokens);
    EXPECT_EQ(a.prefill->last, b.prefill->last);
    EXPECT_EQ(a.prefill->logprobs, b.prefill->logprobs);
    EXPECT_EQ(a.prefill->ids, b.prefill->ids);
  }
  ASSERT_EQ(a.decodes.size(), b.decodes.size());
  for (size_t i = 0; i < a.decodes.size(); ++i) {
    EXPECT_EQ(a.decodes[i].sequence, b.decodes[i].sequence);
    EXPECT_EQ(a.decodes[i].position, b.decodes[i].position);
    EXPECT_EQ(a.decodes[i].id, b.decodes[i].id);
    EXPECT_EQ(a.decodes[i].observed, b.decodes[i].observed);
  }
}

TEST(StepPlanTest, SurvivesSerialisation) {
  std::mt19937_64 random(2);
  const auto integer = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  const auto large = [&] { return integer(0, int64_t{1} << 60); };
  const auto id = [&] { return static_cast<int32_t>(integer(0, 0x7fffffff)); };
  for (int trial = 0; trial < 300; ++trial) {
    StepPlan plan;
    plan.shutdown = integer(0, 1) == 1;
    plan.gathers_stats = integer(0, 1) == 1;
    plan.takes_phases = integer(0, 1) == 1;
    plan.counts_selections = integer(0, 1) == 1;
    for (int64_t i = integer(0, 3); i > 0; --i) plan.closes.push_back(large());
    for (int64_t i = integer(0, 3); i > 0; --i) {
      plan.publishes.push_back({large(), large(), large()});
    }
    for (int64_t i = integer(0, 3); i > 0; --i) plan.evicts.push_back(large());
    for (int64_t i = integer(0, 3); i > 0; --i) {
      StepPlan::Open& open = plan.opens.emplace_back();
      open.sequence = large();
      open.capacity = large();
      open.cached_tokens = large();
      for (int64_t n = integer(0, 3); n > 0; --n) open.shares.push_back(large());
      for (int64_t n = integer(0, 2); n > 0; --n) {
        open.copies.push_back({large(), integer(0, 1) == 1});
      }
    }
    if (integer(0, 1) == 1) {
      const int64_t begin = large();
      plan.prefill = {large(), {begin, begin + 9}, integer(0, 1) == 1, integer(-1, 5), {}};
      for (int64_t i = integer(0, 20); i > 0; --i) plan.prefill->ids.push_back(id());
    }
    for (int64_t i = integer(0, 5); i > 0; --i) {
      plan.decodes.push_back({large(), large(), id(), integer(0, 1) == 1});
    }
    ExpectEqual(StepPlan::Deserialize(plan.Serialize()), plan);
  }
}

TEST(StepPlanTest, HasAsManyWordsAsPredictionsTakeItToHave) {
  StepPlan plan;
  EXPECT_EQ(static_cast<int64_t>(plan.Serialize().size()), PlanWords(0, 0));
  plan.decodes.resize(3);
  EXPECT_EQ(static_cast<int64_t>(plan.Serialize().size()), PlanWords(0, 3));
  plan.prefill.emplace().ids.resize(200);
  EXPECT_EQ(static_cast<int64_t>(plan.Serialize().size()), PlanWords(200, 3));
}

}  // namespace
}  // namespace longspan
