#ifndef LONGSPAN_RUNTIME_BATCH_H_
#define LONGSPAN_RUNTIME_BATCH_H_

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "runtime/request.h"
#include "runtime/tokenizer.h"

// The files of OpenAI's batch API, one JSON object a line, for /v1/completions and
// /v1/chat/completions.
namespace longspan {

// Why one line gets no answer; it says nothing about the other lines.
struct BatchError {
  std::string message;
  std::string param;  // the key of `body` at fault; empty: none
  std::string code = "invalid_request";
};

// What the model's chat template turns into a prompt.
struct ChatInput {
  nlohmann::ordered_json messages;  // objects with `role`; `content` is text or null
  nlohmann::ordered_json tools;     // null: none
  nlohmann::ordered_json template_kwargs = nlohmann::ordered_json::object();
  bool add_generation_prompt = true;
};

// An input line. Keys beside custom_id, method, url and body are ignored, so that a data set may
// carry its expected answers; keys of `body` that are not known are an error, since they would
// change the answer.
struct BatchRequest {
  std::string custom_id;  // empty: none that could be read
  std::string model;      // as stated; echoed in the answer
  std::string prompt_text;
  std::vector<int32_t> prompt_tokens;  // instead of the text, if is_tokenized
  bool is_tokenized = false;
  std::optional<ChatInput> chat;  // of /v1/chat/completions, instead of a prompt
  bool states_max_tokens = false;
  SamplingParams sampling;
  // Of ParseRequestBody alone.
  std::vector<std::string> more_prompts;  // texts behind prompt_text, each with its own choices
  int64_t n = 1;                          // choices of each prompt
  bool stream = false;
  bool include_usage = false;  // a stream ends with the usage
  std::optional<BatchError> error;
};

// Never fails: what is wrong with the line is in `error`. Strict JSON, UTF-8, at most 32 deep.
BatchRequest ParseBatchLine(absl::string_view line);
// The body of an HTTP request to /v1/completions or /v1/chat/completions, with the same limits.
BatchRequest ParseRequestBody(absl::string_view body, bool is_chat);

// Where a line of the input is. Blank lines have none.
struct BatchLine {
  int64_t number = 0;  // from 1
  int64_t offset = 0;  // bytes
  int64_t bytes = 0;   // without the newline
  std::string custom_id;
  bool is_chat = false;
};

// The input file, read twice: Open keeps where lines are and what they are called, Read parses one
// line. Memory is that of one line.
class BatchInput {
 public:
  static constexpr int64_t kMaxLineBytes = int64_t{256} << 20;

  // "-" is standard input, spooled to a file in $TMPDIR that has no name. InvalidArgument if two
  // lines have the same custom_id. A line longer than `max_line_bytes` is one that Read refuses.
  static absl::StatusOr<std::unique_ptr<BatchInput>> Open(const std::string& path,
                                                          int64_t max_line_bytes = kMaxLineBytes);
  ~BatchInput();
  BatchInput(const BatchInput&) = delete;
  BatchInput& operator=(const BatchInput&) = delete;

  absl::Span<const BatchLine> lines() const { return lines_; }
  int file_descriptor() const { return fd_; }

  // An error is one of reading the file: fatal for the run.
  absl::StatusOr<BatchRequest> Read(const BatchLine& line) const;

 private:
  BatchInput(std::string path, int fd, int64_t max_line_bytes)
      : path_(std::move(path)), fd_(fd), max_line_bytes_(max_line_bytes) {}
  absl::Status Index();

  std::string path_;
  int fd_;
  int64_t max_line_bytes_;
  std::vector<BatchLine> lines_;
};

// The output file. Every Append is on disk when it returns, so that a killed run loses nothing that
// it had answered. The next run keeps the answers, byte for byte; drops a torn last line and the
// errors, which it tries again; and appends. One run at a time: the file is locked.
class BatchOutput {
 public:
  // "-" is standard output; it, and anything else that is no regular file, is only written to.
  // Errors of lines that are not in `input` stay. FailedPrecondition, and the file is as it was, if
  // it holds anything but lines of this kind, if another run has it, or if it is the input.
  static absl::StatusOr<std::unique_ptr<BatchOutput>> Open(const std::string& path,
                                                           const BatchInput& input);
  ~BatchOutput();
  BatchOutput(const BatchOutput&) = delete;
  BatchOutput& operator=(const BatchOutput&) = delete;

  bool IsAnswered(absl::string_view custom_id) const { return answered_.contains(custom_id); }

  // `line` has no newline in it.
  absl::Status Append(absl::string_view line);

 private:
  BatchOutput(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  absl::Status Resume(const BatchInput& input);

  std::string path_;
  int fd_;
  int replaced_fd_ = -1;  // the file that the resumed one replaced: its lock keeps others waiting
  bool is_regular_ = false;
  absl::flat_hash_set<std::string> answered_;
};

// The prompt as an answer with `echo` shows it.
struct EchoedPrompt {
  std::vector<int32_t> tokens;
  std::string text;  // empty: the decoding of the tokens
};

// What an answer needs beside the Completion.
struct CompletionContext {
  std::string model;
  int64_t prompt_tokens = 0;
  std::shared_ptr<const EchoedPrompt> echo;  // which choices share; null: not asked for
  bool logprobs = false;
  bool is_chat = false;
};

// An element of an answer's `choices`.
nlohmann::ordered_json ChoiceJson(const CompletionContext& context, const Completion& completion,
                                  const Tokenizer& tokenizer, int64_t index);

// A `text_completion` object of the OpenAI API, or a `chat.completion` one, as JSON. Beside its
// keys, `metrics` has seconds.
std::string CompletionBody(const CompletionContext& context, const Completion& completion,
                           const Tokenizer& tokenizer);

// Output lines. An empty custom_id is written as null.
std::string AnswerLine(absl::string_view custom_id, absl::string_view body);
std::string ErrorLine(absl::string_view custom_id, const BatchError& error);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_BATCH_H_
