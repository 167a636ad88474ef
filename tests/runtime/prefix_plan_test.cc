#include "runtime/prefix_plan.h"

#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace longspan {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

using Tokens = std::vector<int32_t>;

Tokens Prompt(int32_t first, int64_t count) {
  Tokens tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>(first + i));
  return tokens;
}

// Stripes of 8 tokens on that many ranks, blocks of 4, a halo of 2.
PrefixCache::Shape ShapeWith(int64_t stripe_tokens, int ranks) {
  return {{stripe_tokens, ranks}, /*halo=*/2, /*block=*/4};
}

// What a cache of stripes of 8 tokens would leave.
PrefixManifest Manifest(const std::vector<Tokens>& prompts) {
  PrefixCache cache(ShapeWith(8, 2));
  for (const Tokens& prompt : prompts) {
    for (const auto& [stripe, node] : cache.Publish(prompt, {})) cache.Release({node});
  }
  PrefixManifest manifest;
  manifest.stripe_tokens = 8;
  manifest.halo = 2;
  manifest.generation = 1;
  for (const PrefixCache::Page& page : cache.pages()) {
    // Nodes are 1, 2, ...: none has been evicted.
    manifest.pages.push_back({page.parent - 1,
                              page.stripe,
                              page.last_used,
                              {page.tokens.begin(), page.tokens.end()},
                              0,
                              0,
                              ""});
  }
  return manifest;
}

// How much of the prompt, and a token more, a plan's cache has.
int64_t Hit(const RestorePlan& plan, Tokens prompt) {
  prompt.push_back(-1);
  return plan.cache.Find(prompt).tokens;
}

TEST(PlanRestoreTest, KeepsPromptsWhateverTheLayout) {
  const std::vector<Tokens> prompts = {Prompt(0, 44), Prompt(100, 16), Prompt(200, 4)};
  const PrefixManifest manifest = Manifest(prompts);
  for (const int64_t stripe : {4, 8, 12, 32, 64}) {
    for (const int ranks : {1, 2, 3, 7}) {
      SCOPED_TRACE(::testing::Message() << "stripes of " << stripe << " on " << ranks);
      const RestorePlan plan = PlanRestore(manifest, {}, ShapeWith(stripe, ranks), 1000);
      for (const Tokens& prompt : prompts) {
        EXPECT_EQ(Hit(plan, prompt), static_cast<int64_t>(prompt.size()));
      }
      int64_t pages = 0;
      for (const Tokens& prompt : prompts) pages += (prompt.size() + stripe - 1) / stripe;
      EXPECT_EQ(plan.pages.size(), pages);
      for (const RestorePlan::Page& page : plan.pages) {
        const std::vector<int64_t>& path = plan.paths[page.path];
        EXPECT_LT(page.stripe * stripe, static_cast<int64_t>(path.size()) * 8);
        for (size_t s = 0; s < path.size(); ++s) EXPECT_EQ(manifest.pages[path[s]].stripe, s);
      }
    }
  }
}

TEST(PlanRestoreTest, SharesWhatPromptsShare) {
  Tokens other = Prompt(0, 24);
  other.resize(40, 7);
  const RestorePlan plan = PlanRestore(Manifest({Prompt(0, 40), other}), {}, ShapeWith(8, 2), 1000);
  EXPECT_EQ(Hit(plan, other), 40);
  // Stripe 2 is the same, but not the halo behind it: both are kept.
  EXPECT_EQ(plan.pages.size(), 5 + 3);
}

TEST(PlanRestoreTest, LeavesOutWhatIsDamagedAndStandsOnIt) {
  const PrefixManifest manifest = Manifest({Prompt(0, 40), Prompt(100, 16)});
  RestorePlan plan = PlanRestore(manifest, {2}, ShapeWith(8, 2), 1000);
  EXPECT_EQ(Hit(plan, Prompt(0, 40)), 16);
  EXPECT_EQ(Hit(plan, Prompt(100, 16)), 16);
  plan = PlanRestore(manifest, {0, 6}, ShapeWith(16, 3), 1000);
  EXPECT_EQ(Hit(plan, Prompt(0, 40)), 0);
  EXPECT_EQ(Hit(plan, Prompt(100, 16)), 8);
}

TEST(PlanRestoreTest, KeepsWhatWasUsedLastIfThereIsNoRoom) {
  PrefixManifest manifest = Manifest({Prompt(0, 40), Prompt(100, 40)});
  const auto lengths = [&](int64_t max_pages) {
    const RestorePlan plan = PlanRestore(manifest, {}, ShapeWith(8, 2), max_pages);
    EXPECT_LE(plan.cache.num_pages(0), max_pages);
    EXPECT_EQ(plan.cache.num_pages(0) + plan.cache.num_pages(1),
              static_cast<int64_t>(plan.pages.size()));
    return std::vector<int64_t>{Hit(plan, Prompt(0, 40)), Hit(plan, Prompt(100, 40))};
  };
  EXPECT_THAT(lengths(6), ElementsAre(40, 40));
  EXPECT_THAT(lengths(4), ElementsAre(16, 40));
  EXPECT_THAT(lengths(3), ElementsAre(0, 40));
  EXPECT_THAT(lengths(1), ElementsAre(0, 16));
  for (PrefixManifest::Page& page : manifest.pages) page.last_used *= -1;
  EXPECT_THAT(lengths(3), ElementsAre(40, 0));
}

TEST(PlanRestoreTest, NothingFromNothing) {
  const RestorePlan plan = PlanRestore(Manifest({}), {}, ShapeWith(8, 2), 10);
  EXPECT_THAT(plan.pages, IsEmpty());
  EXPECT_THAT(plan.cache.pages(), IsEmpty());
}

TEST(PrefixManifestTest, IsReadAsItWasWritten) {
  PrefixManifest manifest = Manifest({Prompt(0, 40), Prompt(0, 20)});
  manifest.identity = {{"the model", "abc"}, {"esa.top_k", "\"\xc3\xa9"}};
  manifest.generation = 12;
  manifest.pages[1].rank = 1;
  manifest.pages[1].place = 3;
  manifest.pages[1].checksum = "00ff";
  const std::string text = WritePrefixManifest(manifest);
  const absl::StatusOr<PrefixManifest> read = ParsePrefixManifest(text);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(WritePrefixManifest(*read), text);
  EXPECT_EQ(read->generation, 12);
  EXPECT_EQ(read->pages[1].place, 3);
  EXPECT_EQ(read->pages[4].tokens, manifest.pages[4].tokens);
}

TEST(PrefixManifestTest, RefusesEveryDamage) {
  const std::string text = WritePrefixManifest(Manifest({Prompt(0, 12)}));
  for (size_t i = 0; i < text.size(); ++i) {
    std::string damaged = text;
    damaged[i] = static_cast<char>(damaged[i] ^ 1);
    const absl::StatusOr<PrefixManifest> read = ParsePrefixManifest(damaged);
    EXPECT_EQ(read.status().code(), absl::StatusCode::kDataLoss) << "byte " << i;
    EXPECT_FALSE(ParsePrefixManifest(text.substr(0, i)).ok()) << "cut at " << i;
  }
}

TEST(PrefixManifestTest, RefusesWhatIsNoTreeOfPrefixes) {
  using Page = PrefixManifest::Page;
  const std::vector<void (*)(std::vector<Page>&)> ways = {
      [](std::vector<Page>& pages) { pages[1].parent = 1; },
      [](std::vector<Page>& pages) { pages[1].parent = -2; },
      [](std::vector<Page>& pages) { pages[1].parent = 7; },
      [](std::vector<Page>& pages) { pages[1].stripe = 2; },
      [](std::vector<Page>& pages) { pages[0].stripe = -1; },
      [](std::vector<Page>& pages) { pages[0].tokens.resize(7); },
      [](std::vector<Page>& pages) { pages[1].tokens.clear(); },
      [](std::vector<Page>& pages) { pages[1].tokens.resize(11); },
      [](std::vector<Page>& pages) { pages[0].tokens[9] = 77; },  // not what the next begins with
      [](std::vector<Page>& pages) { pages[1].rank = -1; },
      [](std::vector<Page>& pages) { pages[1].place = -1; },
  };
  for (size_t way = 0; way < ways.size(); ++way) {
    PrefixManifest manifest = Manifest({Prompt(0, 40)});
    ways[way](manifest.pages);
    const absl::StatusOr<PrefixManifest> read = ParsePrefixManifest(WritePrefixManifest(manifest));
    EXPECT_EQ(read.status().code(), absl::StatusCode::kDataLoss) << "way " << way;
  }
}

TEST(PrefixManifestTest, TellsWhatDiffers) {
  EXPECT_EQ(IdentityDifferences({{"a", "1"}, {"b", "2"}}, {{"a", "1"}, {"b", "2"}}), "");
  EXPECT_EQ(IdentityDifferences({{"a", "1"}, {"b", "2"}}, {{"a", "1"}, {"b", "3"}, {"c", "4"}}),
            "b is 2 there and 3 here; c is unknown there and 4 here");
}

}  // namespace
}  // namespace longspan
