#include "launcher/sse.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace longspan {

void SseParser::Feed(absl::string_view bytes, absl::FunctionRef<void(const SseEvent&)> on_event) {
  while (!bytes.empty()) {
    if (after_cr_) {
      after_cr_ = false;
      if (absl::ConsumePrefix(&bytes, "\n")) continue;
    }
    const size_t end = bytes.find_first_of("\r\n");
    absl::StrAppend(&line_, bytes.substr(0, end));
    if (end == bytes.npos) return;
    after_cr_ = bytes[end] == '\r';
    bytes.remove_prefix(end + 1);
    TakeLine(line_, on_event);
    line_.clear();
  }
}

void SseParser::TakeLine(absl::string_view line,
                         absl::FunctionRef<void(const SseEvent&)> on_event) {
  if (is_first_line_) absl::ConsumePrefix(&line, "\xef\xbb\xbf");  // a byte order mark
  is_first_line_ = false;
  if (line.empty()) {
    if (has_data_) on_event(event_);
    has_data_ = false;
    event_ = {};
    return;
  }
  const size_t colon = line.find(':');
  const absl::string_view field = line.substr(0, colon);  // a comment has an empty one
  absl::string_view value = colon == line.npos ? "" : line.substr(colon + 1);
  absl::ConsumePrefix(&value, " ");
  if (field == "data") {
    absl::StrAppend(&event_.data, has_data_ ? "\n" : "", value);
    has_data_ = true;
  } else if (field == "event") {
    event_.type = std::string(value);
  }
}

}  // namespace longspan
