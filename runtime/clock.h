#ifndef LONGSPAN_RUNTIME_CLOCK_H_
#define LONGSPAN_RUNTIME_CLOCK_H_

#include <chrono>

namespace longspan {

// Seconds of a clock that never jumps, from any origin.
inline double MonotonicSeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_CLOCK_H_
