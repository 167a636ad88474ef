#ifndef LONGSPAN_TESTS_RUNTIME_ESA_CHECKS_H_
#define LONGSPAN_TESTS_RUNTIME_ESA_CHECKS_H_

#include <cstdint>

#include "absl/types/span.h"
#include "runtime/config.h"
#include "tests/reference/random_model.h"
#include "tests/runtime/sharded_run.h"

// What the invariants of docs/ALGORITHM.md are tested with, on any device.
namespace longspan {

RandomModelOptions SmallModel();
// Small sizes, so that short prompts already select.
Config SmallConfig();
TestSequence MakeSequence(uint64_t seed, int64_t prompt, int64_t decoded, int64_t vocab);

// Logits given the run's own selections, and those selections, both against the reference: scores
// within `score_tolerance` (0: ten times `tolerance`) of the threshold may go either way.
void ExpectMatchesReference(const RandomModel& model, const Config& config,
                            const TestSequence& sequence, const SequenceResult& result,
                            double tolerance, double score_tolerance = 0);

// Kinds of attention.
struct Variant {
  const char* name;
  void (*apply)(Config*);
};
absl::Span<const Variant> Variants();
absl::Span<const Variant> ScoreVariants();
absl::Span<const Variant> TargetVariants();
absl::Span<const Variant> UnitVariants();  // of CPU ranks

// With `deterministic`, every number of ranks, chunk, stripe and batch gives the same logits and
// selections to the last bit, those of each sequence alone on one rank.
void ExpectTheSameBitsAllWays(const RandomModel& model, Config config);

// Both ways to merge candidates give the same logits and selections to the last bit, of prompts of
// any tokens, of three, whose scores tie in layer 0, and of one, whose scores are all equal there.
// They decode together.
void ExpectBothMergesSelectTheSame(const RandomModel& model, Config config, int ranks);

// Calls of each name between hosts, on rank 0 of a small model's ranks.
CommunicatorStats StatsOfRun(Config config, int ranks, const TestSequence& sequence);

// What other families add to Llama.
struct Family {
  const char* name;
  void (*apply)(RandomModelOptions*);
};
absl::Span<const Family> Families();

}  // namespace longspan

#endif  // LONGSPAN_TESTS_RUNTIME_ESA_CHECKS_H_
