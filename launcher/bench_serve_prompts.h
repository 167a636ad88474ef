#ifndef LONGSPAN_LAUNCHER_BENCH_SERVE_PROMPTS_H_
#define LONGSPAN_LAUNCHER_BENCH_SERVE_PROMPTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace longspan {

// One request that `longspan bench serve` sends.
struct ServeRequest {
  std::string body;             // JSON, without spaces
  int64_t expected_tokens = 0;  // of the answer; 0: nobody knows
};

constexpr int64_t kDefaultOutputLen = 128;  // of the answers to random prompts

struct ServePrompts {
  bool is_chat = false;
  std::string model;             // empty: bodies that have none stay so
  bool overrides_model = false;  // also those that have one
  std::optional<int64_t> num_prompts;
  std::optional<int64_t> output_len;
  bool ignore_eos = false;
  uint64_t seed = 0;
  // Of random prompts, in words that most tokenizers have as one token each.
  int64_t input_len = 1024;
  int64_t shared_prefix_len = 0;  // of input_len
  std::string dataset;            // a file in place of random prompts
};

// A dataset's lines: bodies of requests, `{"prompt": ...}`, or lines of a batch file.
// InvalidArgument names the first line that is none.
absl::StatusOr<std::vector<std::string>> ReadDataset(const std::string& path, bool is_chat);

// `lines` of ReadDataset, as often as it takes; empty: random prompts. Answers are streamed, with
// their usage.
std::vector<ServeRequest> MakeServeRequests(const ServePrompts& prompts,
                                            const std::vector<std::string>& lines);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_BENCH_SERVE_PROMPTS_H_
