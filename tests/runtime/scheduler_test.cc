#include "runtime/scheduler.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace longspan {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Sequences with random lengths that arrive at random times, and what each is expected to do.
class Simulation {
 public:
  Simulation(const Scheduler::Limits& limits, uint64_t seed)
      : limits_(limits), scheduler_(limits), random_(seed) {}

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

 private:
  struct Entry {
    int64_t prompt = 0;
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
    while (limits_.layout.NumPages(0, most + 1) <= limits_.pages && most < 200) ++most;
    Entry entry;
    entry.capacity = Integer(2, std::max<int64_t>(2, most));
    entry.prompt = Integer(1, entry.capacity - 1);
    entry.to_generate = Integer(1, entry.capacity - entry.prompt);
    all_[id] = entry;
    scheduler_.Add(id, entry.prompt, entry.capacity);
  }

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
      pages += limits_.layout.NumPages(0, entry.capacity);
    }
    ASSERT_LE(places, limits_.max_num_seqs);
    ASSERT_LE(pages, limits_.pages);
    // The first that waits could not run: nothing idles.
    const std::vector<int64_t> waiting = Waiting();
    ASSERT_EQ(scheduler_.num_waiting(), static_cast<int64_t>(waiting.size()));
    if (waiting.empty()) return;
    const int64_t needs = limits_.layout.NumPages(0, all_.at(waiting[0]).capacity);
    ASSERT_TRUE(places == limits_.max_num_seqs || pages + needs > limits_.pages);
  }

  void Step() {
    std::vector<int64_t> must_decode;
    for (const auto& [id, entry] : all_) {
      if (entry.running && entry.prefilled == entry.prompt) must_decode.push_back(id);
    }
    const std::vector<int64_t> waiting = Waiting();
    const Scheduler::Work work = scheduler_.Next();
    ASSERT_LE(work.opens.size(), waiting.size());
    for (size_t i = 0; i < work.opens.size(); ++i) {
      ASSERT_EQ(work.opens[i].sequence, waiting[i]) << "not first come, first served";
      Entry& entry = all_.at(waiting[i]);
      ASSERT_EQ(work.opens[i].capacity, entry.capacity);
      entry.running = true;
      entry.turn = next_turn_++;
    }
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
    entry.turn = next_turn_++;
    ASSERT_EQ(work.prefill->sequence, first->first);
    ASSERT_EQ(work.prefill->tokens.begin, entry.prefilled);
    ASSERT_EQ(work.prefill->tokens.size(),
              std::min(limits_.chunk_tokens, entry.prompt - entry.prefilled));
    entry.prefilled = work.prefill->tokens.end;
    ASSERT_EQ(work.prefill->last, entry.prefilled == entry.prompt);
  }

  // Each decode gives a token, and so does the end of a prompt.
  void Deliver(const Scheduler::Work& work) {
    std::vector<int64_t> given = work.decodes;
    if (work.prefill && work.prefill->last) given.push_back(work.prefill->sequence);
    for (const int64_t id : given) {
      if (--all_.at(id).to_generate > 0) continue;
      ASSERT_TRUE(scheduler_.Remove(id));
      all_.erase(id);
    }
  }

  void Cancel() {
    const auto any = std::next(all_.begin(), Integer(0, static_cast<int64_t>(all_.size()) - 1));
    ASSERT_EQ(scheduler_.Remove(any->first), any->second.running);
    all_.erase(any);
  }

  Scheduler::Limits limits_;
  Scheduler scheduler_;
  std::mt19937_64 random_;
  std::map<int64_t, Entry> all_;  // unfinished, in order of submission
  int64_t steps_ = 0;
  int64_t next_turn_ = 0;
};

TEST(SchedulerTest, RandomArrivalsAreServedInOrderWithinLimits) {
  std::mt19937_64 random(1);
  const auto integer = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  for (int trial = 0; trial < 200; ++trial) {
    Scheduler::Limits limits;
    limits.max_num_seqs = integer(1, 6);
    limits.chunk_tokens = integer(1, 50);
    limits.pages = integer(1, 20);
    limits.layout = {integer(2, 16), static_cast<int>(integer(1, 4))};
    SCOPED_TRACE(testing::Message() << "trial " << trial);
    Simulation(limits, trial).Run(40);
    if (HasFatalFailure()) return;
  }
}

TEST(SchedulerTest, LongPromptStandsBehindNobodysDecode) {
  Scheduler scheduler({4, 10, 1000, {8, 1}});
  scheduler.Add(1, 10, 100);
  scheduler.Add(2, 1000, 1100);
  EXPECT_EQ(scheduler.Next().prefill->sequence, 1);
  for (int step = 0; step < 50; ++step) {
    const Scheduler::Work work = scheduler.Next();
    EXPECT_THAT(work.decodes, ElementsAre(1));
    ASSERT_TRUE(work.prefill.has_value());
    EXPECT_EQ(work.prefill->sequence, 2);
  }
}

TEST(SchedulerTest, ShortPromptBehindLongOnesWaitsForAChunkOfEach) {
  Scheduler scheduler({4, 10, 1000, {8, 1}});
  scheduler.Add(1, 1000, 1001);
  scheduler.Add(2, 1000, 1001);
  for (int step = 0; step < 7; ++step) EXPECT_EQ(scheduler.Next().prefill->sequence, 1 + step % 2);
  scheduler.Add(3, 5, 6);
  scheduler.Add(4, 15, 16);
  for (const int64_t next : {2, 1, 3, 4, 2, 1, 4, 2, 1, 2}) {
    EXPECT_EQ(scheduler.Next().prefill->sequence, next);
  }
}

TEST(SchedulerTest, IdleHasNoWork) {
  Scheduler scheduler({4, 10, 1000, {8, 1}});
  const Scheduler::Work work = scheduler.Next();
  EXPECT_TRUE(scheduler.idle());
  EXPECT_THAT(work.opens, IsEmpty());
  EXPECT_THAT(work.decodes, IsEmpty());
  EXPECT_FALSE(work.prefill.has_value());
}

void ExpectEqual(const StepPlan& a, const StepPlan& b) {
  EXPECT_EQ(a.shutdown, b.shutdown);
  EXPECT_EQ(a.closes, b.closes);
  ASSERT_EQ(a.opens.size(), b.opens.size());
  for (size_t i = 0; i < a.opens.size(); ++i) {
    EXPECT_EQ(a.opens[i].sequence, b.opens[i].sequence);
    EXPECT_EQ(a.opens[i].capacity, b.opens[i].capacity);
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
    for (int64_t i = integer(0, 3); i > 0; --i) plan.closes.push_back(large());
    for (int64_t i = integer(0, 3); i > 0; --i) plan.opens.push_back({large(), large()});
    if (integer(0, 1) == 1) {
      const int64_t begin = large();
      plan.prefill = {large(), {begin, begin + 9}, integer(0, 1) == 1, integer(-1, 5), {}};
      for (int64_t i = integer(0, 20); i > 0; --i) plan.prefill->ids.push_back(id());
    }
    for (int64_t i = integer(0, 5); i > 0; --i) plan.decodes.push_back({large(), large(), id()});
    ExpectEqual(StepPlan::Deserialize(plan.Serialize()), plan);
  }
}

}  // namespace
}  // namespace longspan
