// Requests through the serving loop, over an engine that needs no model.
#include "runtime/server/completions.h"

#include <spdlog/sinks/base_sink.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/server/api.h"
#include "tests/runtime/server/fake_engine.h"

namespace longspan {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using Json = nlohmann::ordered_json;

// What a client gets, and whether the engine's thread brought it.
class FakeExchange final : public HttpExchange {
 public:
  explicit FakeExchange(const FakeEngine& engine, bool has_left = false)
      : engine_(engine), has_left_(has_left) {}
  void Respond(HttpResponse given) override {
    Note();
    response = std::move(given);
    finished = true;
  }
  void StartStream(HttpResponse head) override {
    Note();
    response = std::move(head);
  }
  void Write(std::string piece) override {
    Note();
    written += piece;
  }
  void Finish() override {
    Note();
    finished = true;
  }
  void OnDisconnect(std::function<void()> callback) override {
    if (has_left_) callback();
  }

  HttpResponse response;
  std::string written;
  std::atomic<bool> finished = false;
  std::atomic<bool> by_engine_thread = false;

 private:
  void Note() {
    if (std::this_thread::get_id() == engine_.engine_thread) by_engine_thread = true;
  }
  const FakeEngine& engine_;
  const bool has_left_;
};

// A log that knows who writes it.
class FakeLog final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  std::vector<std::string> lines;
  std::vector<std::thread::id> threads;
  std::atomic<size_t> count = 0;

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    lines.emplace_back(message.payload.begin(), message.payload.end());
    threads.push_back(std::this_thread::get_id());
    ++count;
  }
  void flush_() override {}
};

class CompletionsTest : public ::testing::Test {
 protected:
  CompletionsTest()
      : prompts_(engine_.tokenizer(), nullptr, 1000),
        metrics_("fake"),
        loop_(Limits(), &metrics_),
        log_(std::make_shared<FakeLog>()) {
    context_.model_name = "fake";
    context_.metrics = &metrics_;
    context_.answers = &answers_;
    context_.loop = &loop_;
    context_.engine = &engine_;
    context_.prompts = &prompts_;
    context_.log = std::make_shared<spdlog::logger>("requests", log_);
  }

  static ServingLoop::Limits Limits() {
    ServingLoop::Limits limits;
    limits.max_num_seqs = 16;
    limits.drain_limit = absl::ZeroDuration();
    return limits;
  }

  std::shared_ptr<FakeExchange> Send(const Json& body, bool has_left = false) {
    const HttpRequest request = {"POST", "/v1/completions"};
    auto exchange = std::make_shared<FakeExchange>(engine_, has_left);
    AnswerCompletions(std::make_shared<Call>(context_, request, exchange), body.dump(),
                      /*is_chat=*/false);
    return exchange;
  }

  // Runs the engine until `done`, and stops what runs then.
  void ServeUntil(const std::function<bool()>& done) {
    std::atomic<bool> stop = false;
    std::thread engine([&] {
      engine_.engine_thread = std::this_thread::get_id();
      const absl::Status ran = loop_.Run(engine_, [&] { return stop.load(); });
      EXPECT_TRUE(ran.ok()) << ran;
    });
    while (!done()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    stop = true;
    engine.join();
    answers_.Wait();
  }

  // Answers all, and stops.
  std::vector<std::shared_ptr<FakeExchange>> Answer(const std::vector<Json>& bodies) {
    std::vector<std::shared_ptr<FakeExchange>> exchanges;
    for (const Json& body : bodies) exchanges.push_back(Send(body));
    ServeUntil([&] {
      return std::all_of(exchanges.begin(), exchanges.end(),
                         [](const auto& exchange) { return exchange->finished.load(); });
    });
    return exchanges;
  }

  FakeEngine engine_;
  PromptMaker prompts_;
  Metrics metrics_;
  ServingLoop loop_;
  std::shared_ptr<FakeLog> log_;
  ServerContext context_;
  AnswerThreads answers_{2};
};

TEST_F(CompletionsTest, TheEnginesThreadOnlyMovesData) {
  std::vector<Json> bodies;
  for (const bool stream : {false, true}) {
    for (int i = 0; i < 20; ++i) {
      bodies.push_back({{"prompt", "ab"}, {"max_tokens", 50}, {"logprobs", 2}, {"stream", stream}});
    }
  }
  const auto exchanges = Answer(bodies);
  for (const auto& exchange : exchanges) {
    EXPECT_EQ(exchange->response.status, 200);
    EXPECT_FALSE(exchange->by_engine_thread);
  }
  EXPECT_EQ(engine_.texts_asked_for, 0);
  EXPECT_THAT(log_->threads, SizeIs(bodies.size()));
  for (const std::thread::id thread : log_->threads) EXPECT_NE(thread, engine_.engine_thread);
  const Json whole = Json::parse(exchanges[0]->response.body);
  EXPECT_EQ(whole["choices"][0]["text"].get<std::string>().substr(0, 4), "abab");
  EXPECT_EQ(whole["choices"][0]["logprobs"]["tokens"].size(), 50u);
  EXPECT_THAT(exchanges.back()->written, HasSubstr("data: [DONE]"));
}

TEST_F(CompletionsTest, PiecesOfAStreamKeepTheirOrder) {
  const Json body = {{"prompt", "a"}, {"max_tokens", 500}, {"stream", true}};
  for (const auto& exchange : Answer({body, body, body})) {
    std::string text;
    size_t at = 0;
    while ((at = exchange->written.find("\"text\":\"", at)) != std::string::npos) {
      text += exchange->written[at += 8];
    }
    std::string expected;
    for (int i = 0; i < 500; ++i) expected += i % 2 == 0 ? 'a' : 'b';
    EXPECT_EQ(text, expected);
  }
}

TEST_F(CompletionsTest, ChoicesShareTheirPrompt) {
  const Json body = {{"prompt", {"ab", "ba"}}, {"n", 3}, {"seed", 7}};
  EXPECT_EQ(Answer({body})[0]->response.status, 200);
  ASSERT_THAT(engine_.submitted, SizeIs(6));
  for (size_t i = 0; i < 6; ++i) {
    const auto& [request, choice] = engine_.submitted[i];
    EXPECT_EQ(request, engine_.submitted[i / 3 * 3].first);
    EXPECT_EQ(choice, static_cast<int64_t>(i % 3));
    EXPECT_EQ(request->sampling.seed, 7u);
  }
  EXPECT_THAT(engine_.submitted[0].first->prompt, ElementsAre(0, 1));
  EXPECT_THAT(engine_.submitted[3].first->prompt, ElementsAre(1, 0));
}

TEST_F(CompletionsTest, AChoiceThatFailsEndsTheOthers) {
  engine_.refused = 2;
  const Json body = {{"prompt", "ab"}, {"n", 3}, {"max_tokens", int64_t{1} << 31}};
  const auto exchange = Answer({body})[0];
  EXPECT_EQ(exchange->response.status, 500);
  EXPECT_THAT(exchange->response.body, HasSubstr("refused on purpose"));
  EXPECT_THAT(engine_.cancelled, ElementsAre(0, 1));
}

// Between the arrival of its request and the first step, say. Nothing else ends these.
TEST_F(CompletionsTest, AClientThatHasLeftIsCancelled) {
  std::vector<std::shared_ptr<FakeExchange>> exchanges;
  for (const bool stream : {false, true}) {
    const Json body = {{"prompt", "ab"}, {"max_tokens", int64_t{1} << 31}, {"stream", stream}};
    exchanges.push_back(Send(body, /*has_left=*/true));
  }
  ServeUntil([&] { return log_->count == 2; });
  for (const auto& exchange : exchanges) EXPECT_FALSE(exchange->finished);
}

TEST_F(CompletionsTest, AStopEndsWhatRuns) {
  std::vector<std::shared_ptr<FakeExchange>> exchanges;
  for (const bool stream : {false, true}) {
    exchanges.push_back(
        Send({{"prompt", "ab"}, {"max_tokens", int64_t{1} << 31}, {"stream", stream}}));
  }
  ServeUntil([&] { return engine_.steps > 100; });
  EXPECT_EQ(exchanges[0]->response.status, 503);
  EXPECT_THAT(exchanges[0]->response.body, HasSubstr("the server stopped"));
  EXPECT_THAT(exchanges[1]->written, HasSubstr("the server stopped"));
  for (const auto& exchange : exchanges) EXPECT_TRUE(exchange->finished);
  EXPECT_THAT(engine_.cancelled, ElementsAre(0, 1));
  EXPECT_EQ(log_->count, 2u);
}

TEST_F(CompletionsTest, ReadyTellsLoadingFromStopping) {
  const auto ready = [this](const ServerContext& context) {
    auto exchange = std::make_shared<FakeExchange>(engine_);
    longspan::Answer(context, {"GET", "/ready"}, exchange);
    return std::move(exchange->response);
  };
  ServerContext loading = context_;
  loading.engine = nullptr;
  loading.loop = nullptr;
  EXPECT_EQ(ready(loading).status, 503);
  EXPECT_THAT(ready(loading).body, HasSubstr("the model is still being loaded"));
  EXPECT_EQ(ready(context_).status, 200);
  ServeUntil([] { return true; });
  EXPECT_EQ(ready(context_).status, 503);
  EXPECT_THAT(ready(context_).body, HasSubstr("the server is stopping"));
}

}  // namespace
}  // namespace longspan
