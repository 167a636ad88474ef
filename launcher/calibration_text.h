#ifndef LONGSPAN_LAUNCHER_CALIBRATION_TEXT_H_
#define LONGSPAN_LAUNCHER_CALIBRATION_TEXT_H_

#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/tokenizer.h"

namespace longspan {

// The calibration text as token ids, read a piece at a time: lines of a text file, or, of a .jsonl
// file, the `prompt` (also in `body`) or `text` of each line.
class CalibrationText {
 public:
  CalibrationText(const std::string& path, const Tokenizer& tokenizer);

  absl::Status status() const;  // whether it can be read

  // Of what was read so far.
  int64_t replaced_sequences() const { return notes_.replaced; }

  // At most `max_tokens`; empty at the end.
  absl::StatusOr<std::vector<int32_t>> NextWindow(int64_t max_tokens);

 private:
  absl::StatusOr<std::string> NextPiece();
  absl::StatusOr<std::string> NextJsonLine();
  absl::StatusOr<std::string> TextOfLine(const std::string& line) const;

  std::string path_;
  bool jsonl_;
  std::ifstream file_;
  const Tokenizer& tokenizer_;
  int64_t line_number_ = 0;
  std::vector<int32_t> tokens_;
  EncodeNotes notes_;
};

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_CALIBRATION_TEXT_H_
