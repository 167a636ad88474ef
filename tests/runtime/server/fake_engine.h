#ifndef LONGSPAN_TESTS_RUNTIME_SERVER_FAKE_ENGINE_H_
#define LONGSPAN_TESTS_RUNTIME_SERVER_FAKE_ENGINE_H_

#include <atomic>
#include <map>
#include <memory>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/engine.h"

namespace longspan {

// Answers `a` and `b` in turn, all sequences at once, and tells who asks for its tokenizer.
class FakeEngine final : public Engine {
 public:
  FakeEngine() {
    auto tokenizer = Tokenizer::Parse(R"({"version": "1.0", "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "post_processor": null, "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}})");
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
    config_.max_model_len = 1000;
  }

  const Config& config() const override { return config_; }
  const Tokenizer& tokenizer() const override {
    if (std::this_thread::get_id() == engine_thread) ++texts_asked_for;
    return *tokenizer_;
  }
  int64_t vocab_size() const override { return 2; }
  absl::Status Check(const Request&) const override { return absl::OkStatus(); }
  absl::StatusOr<int64_t> SubmitChoice(std::shared_ptr<const Request> request,
                                       int64_t choice) override {
    submitted.emplace_back(request, choice);
    if (submitted.size() == refused) return absl::InternalError("refused on purpose");
    running_.emplace(next_, Running{std::move(request)});
    return next_++;
  }
  void Cancel(int64_t request) override {
    if (running_.erase(request) > 0) cancelled.insert(request);
  }
  bool HasWork() const override { return !running_.empty(); }
  int64_t num_waiting() const override { return 0; }

  absl::StatusOr<std::vector<RequestUpdate>> Step() override {
    ++steps;
    std::vector<RequestUpdate> updates;
    for (auto& [id, running] : running_) updates.push_back(Next(id, &running));
    for (const RequestUpdate& update : updates) {
      if (update.finished) running_.erase(update.request);
    }
    return updates;
  }
  EngineLoad load() const override { return {0, 0, 0, 0, 0, 1}; }
  const EngineStats& stats() const override { return stats_; }
  const std::vector<RankStats>& rank_stats() const override { return rank_stats_; }
  absl::StatusOr<std::vector<RankPhases>> TakePhases() override {
    return std::vector<RankPhases>();
  }
  const MemoryPlan& memory_plan() const override { return memory_plan_; }
  absl::StatusOr<EngineStats> Shutdown() override { return stats_; }
  absl::Status RunWorker() override { return absl::OkStatus(); }
  void CountSelections() override {}
  const SelectionStats* selection_stats() const override { return nullptr; }

  std::atomic<std::thread::id> engine_thread{};
  mutable std::atomic<int64_t> texts_asked_for = 0;  // by the engine's thread
  std::atomic<int64_t> steps = 0;
  size_t refused = 0;  // the number of the choice that is, from 1
  std::vector<std::pair<std::shared_ptr<const Request>, int64_t>> submitted;
  std::set<int64_t> cancelled;

 private:
  struct Running {
    std::shared_ptr<const Request> request;
    Completion completion;
  };

  static RequestUpdate Next(int64_t id, Running* running) {
    Completion& completion = running->completion;
    const auto token = static_cast<int32_t>(completion.tokens.size() % 2);
    const TokenLogprobs logprobs = {-0.5, {{0, -0.5}, {1, -1.0}}};
    completion.tokens.push_back(token);
    completion.logprobs.push_back(logprobs);
    completion.text += token == 0 ? "a" : "b";
    RequestUpdate update;
    update.request = id;
    update.prefilled = update.prompt_tokens = static_cast<int64_t>(running->request->prompt.size());
    update.text = completion.text.back();
    update.token = token;
    update.logprobs = logprobs;
    update.finished =
        static_cast<int64_t>(completion.tokens.size()) == running->request->sampling.max_tokens;
    if (update.finished) update.completion = completion;
    return update;
  }

  Config config_;
  EngineStats stats_;
  MemoryPlan memory_plan_;
  std::vector<RankStats> rank_stats_;
  std::unique_ptr<Tokenizer> tokenizer_;
  int64_t next_ = 0;
  std::map<int64_t, Running> running_;
};

}  // namespace longspan

#endif  // LONGSPAN_TESTS_RUNTIME_SERVER_FAKE_ENGINE_H_
