// Megabytes a second of Encode and Decode on a mebibyte of text, with the small tokenizers of the
// tests: more and shorter tokens than those of a large vocabulary, so that these figures are low.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "runtime/tokenizer.h"

namespace longspan {
namespace {

constexpr size_t kTextBytes = 1 << 20;
const std::string kRoot = LONGSPAN_SOURCE_DIR;

// The project's own documentation, over and over: most words are known from before.
std::string Documentation() {
  std::string text;
  for (const char* name : {"README.md", "docs/ALGORITHM.md", "docs/ARCHITECTURE.md",
                           "docs/CONFIGURATION.md", "docs/PERFORMANCE.md", "docs/QUALITY.md"}) {
    std::ifstream file(kRoot + "/" + name);
    text.append(std::istreambuf_iterator<char>(file), {});
  }
  const size_t once = text.size();
  while (!text.empty() && text.size() < kTextBytes) text += text.substr(0, once);
  return text;
}

// 30,000 words of English syllables with Zipf's distribution: as many rare words as a book has.
std::string Words(const std::string& space) {
  constexpr const char* kSyllables[] = {"the", "in", "er", "ment", "con", "ly",  "re", "tion",
                                        "st",  "a",  "ou", "ble",  "pre", "ing", "o",  "ack",
                                        "dis", "un", "al", "ity",  "sp",  "ee",  "qu", "ght"};
  std::mt19937_64 generator(1);
  const auto below = [&](uint64_t limit) { return generator() % limit; };
  std::vector<std::string> words(30'000);
  for (std::string& word : words) {
    for (uint64_t i = 1 + below(4); i > 0; --i) word += kSyllables[below(std::size(kSyllables))];
  }
  std::string text;
  while (text.size() < kTextBytes) {
    const double uniform = static_cast<double>(below(1 << 30)) / (1 << 30);
    const auto rank = static_cast<size_t>(std::pow(static_cast<double>(words.size()), uniform));
    text += words[rank - 1] + (below(12) == 0 ? "." : "") + space;
  }
  return text;
}

std::unique_ptr<Tokenizer> LoadFixture(benchmark::State& state, const std::string& name) {
  auto tokenizer = Tokenizer::Load(kRoot + "/tests/runtime/testdata/tokenizer/" + name);
  if (tokenizer.ok()) return *std::move(tokenizer);
  state.SkipWithError(tokenizer.status().ToString().c_str());
  return nullptr;
}

void BM_Encode(benchmark::State& state, const std::string& name, const std::string& text) {
  const auto tokenizer = LoadFixture(state, name);
  if (tokenizer == nullptr) return;
  size_t tokens = 0;
  for (auto _ : state) {
    const auto ids = tokenizer->Encode(text, /*add_special_tokens=*/true);
    if (!ids.ok()) return state.SkipWithError(ids.status().ToString().c_str());
    tokens = ids->size();
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * text.size()));
  state.counters["bytes/token"] = static_cast<double>(text.size()) / static_cast<double>(tokens);
}

void BM_Decode(benchmark::State& state, const std::string& name, const std::string& text) {
  const auto tokenizer = LoadFixture(state, name);
  if (tokenizer == nullptr) return;
  const auto ids = tokenizer->Encode(text, /*add_special_tokens=*/false);
  if (!ids.ok()) return state.SkipWithError(ids.status().ToString().c_str());
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer->Decode(*ids, false));
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * text.size()));
}

[[maybe_unused]] const bool kRegistered = [] {
  const std::pair<const char*, std::string> texts[] = {
      {"documentation", Documentation()}, {"words", Words(" ")}, {"one_word", Words("")}};
  for (const char* name : {"gpt2", "llama3", "qwen2", "llama2", "mistral_v03", "crossing"}) {
    for (const auto& [kind, text] : texts) {
      const std::string of = std::string("/") + name + "/" + kind;
      benchmark::RegisterBenchmark(("BM_Encode" + of).c_str(), BM_Encode, name, text)
          ->Unit(benchmark::kMillisecond);
      benchmark::RegisterBenchmark(("BM_Decode" + of).c_str(), BM_Decode, name, text)
          ->Unit(benchmark::kMillisecond);
    }
  }
  return true;
}();

}  // namespace
}  // namespace longspan
