#ifndef LONGSPAN_RUNTIME_JINJA_RENDER_OPTIONS_H_
#define LONGSPAN_RUNTIME_JINJA_RENDER_OPTIONS_H_

#include <cstdint>
#include <ctime>
#include <functional>

namespace longspan::jinja {

// What one rendering may take. A template comes with a model, and messages from anybody.
struct RenderOptions {
  int64_t max_steps = 50'000'000;  // of evaluation, two to five seconds
  int64_t max_bytes = 512 << 20;   // that values and output hold at one time, as they are counted
  int64_t max_output = 64 << 20;   // bytes
  int max_macro_depth = 50;
  std::function<std::tm()> now;  // local time for strftime_now(); unset: the system's
};

}  // namespace longspan::jinja

#endif  // LONGSPAN_RUNTIME_JINJA_RENDER_OPTIONS_H_
