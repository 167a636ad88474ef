#ifndef LONGSPAN_LAUNCHER_BATCH_RUNNER_H_
#define LONGSPAN_LAUNCHER_BATCH_RUNNER_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "launcher/progress.h"
#include "runtime/batch.h"
#include "runtime/chat_template.h"
#include "runtime/engine.h"

namespace longspan {

struct BatchCounts {
  int64_t answered_before = 0;  // by earlier runs
  int64_t answered = 0;
  int64_t failed = 0;       // ended in an error line
  std::string first_error;  // of them, with its custom_id
  bool stopped = false;
};

// Answers every line of `input` that `output` does not answer yet. A line is read when a place
// among the running requests is free, so that no more prompts are in memory than run. What is wrong
// with one request becomes its error line; an error of this function is one of the engine or the
// files. `stop` is asked between steps: true leaves the running requests unanswered.
// `chat_template` may be null if no line is a chat.
absl::StatusOr<BatchCounts> AnswerBatch(const BatchInput& input, const ChatTemplate* chat_template,
                                        BatchOutput& output, Engine& engine, Progress& progress,
                                        const std::function<bool()>& stop);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_BATCH_RUNNER_H_
