#ifndef LONGSPAN_LAUNCHER_SSE_H_
#define LONGSPAN_LAUNCHER_SSE_H_

#include <string>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"

namespace longspan {

struct SseEvent {
  std::string type;  // empty: "message"
  std::string data;  // its lines, with \n between them
};

// Server-sent events (the HTML standard, "9.2.6 Interpreting an event stream"), from bytes that may
// be split anywhere.
class SseParser {
 public:
  // Calls `on_event` for each event that these bytes complete. What is never followed by an empty
  // line is no event.
  void Feed(absl::string_view bytes, absl::FunctionRef<void(const SseEvent&)> on_event);

 private:
  void TakeLine(absl::string_view line, absl::FunctionRef<void(const SseEvent&)> on_event);

  std::string line_;       // that has not ended
  bool after_cr_ = false;  // a \n would belong to the \r before it
  bool is_first_line_ = true;
  bool has_data_ = false;
  SseEvent event_;
};

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_SSE_H_
