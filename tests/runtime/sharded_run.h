#ifndef LONGSPAN_TESTS_RUNTIME_SHARDED_RUN_H_
#define LONGSPAN_TESTS_RUNTIME_SHARDED_RUN_H_

#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "collectives/communicator.h"
#include "runtime/attention_context.h"
#include "runtime/config.h"
#include "tests/reference/random_model.h"

namespace longspan {

// One sequence of a run: a prompt, and tokens that are then decoded whatever the logits say.
struct TestSequence {
  std::vector<int32_t> prompt;
  std::vector<int32_t> decoded;
};

struct SequenceResult {
  std::vector<float> logits;  // [prompt + decoded tokens, vocab]
  // [(layer, first position of the block)] what was selected
  std::map<std::pair<int64_t, int64_t>, std::vector<int64_t>> selections;
};

// What a run has at hand by default, and a test may set.
struct RunOverrides {
  BufferLimits limits;
  std::optional<Moving> moving;
  bool observe = true;  // what is selected
};

// Runs the sequences on `ranks` ranks as threads: prompts chunk by chunk in turn, with a decode
// step of all that are through between the chunks. `config` need not be resolved.
std::vector<SequenceResult> RunSharded(const RandomModel& model, Config config, int ranks,
                                       const std::vector<TestSequence>& sequences,
                                       const RunOverrides& overrides = {});

// The same for one rank of a job, all ranks of which make the call. Logits of a prompt's positions
// are filled in on their owners, everything else on every rank.
absl::Status RunOnRank(const RandomModel& model, const Config& resolved, Communicator& communicator,
                       const std::vector<TestSequence>& sequences,
                       std::vector<SequenceResult>* results, const RunOverrides& overrides = {});

}  // namespace longspan

#endif  // LONGSPAN_TESTS_RUNTIME_SHARDED_RUN_H_
