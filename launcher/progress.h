#ifndef LONGSPAN_LAUNCHER_PROGRESS_H_
#define LONGSPAN_LAUNCHER_PROGRESS_H_

#include <cstdint>
#include <cstdio>
#include <deque>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/engine.h"

namespace longspan {

enum class ProgressStyle { kOff, kLines, kBar };

// The value of --progress; "auto" depends on whether standard error is a terminal.
absl::StatusOr<ProgressStyle> ParseProgressStyle(absl::string_view name);

// Where a run stands.
struct ProgressState {
  int64_t done = 0;              // prompts, or what else is counted
  int64_t total = 0;             // of them; 0: there are none, only text that is read
  double fraction = 0;           // of the work, within prompts too, 0 to 1
  int64_t prompt_tokens = 0;     // of this run, so far
  int64_t generated_tokens = 0;  // of this run, so far
};

// A bar that redraws itself, or now and then a line, for runs of more than two seconds. The rates
// are of the last ten seconds, in tokens of wall time. Times are in seconds, from any origin.
class Progress {
 public:
  Progress(ProgressStyle style, FILE* stream, double now) : Progress(style, stream, now, "") {}
  // Counts `things` in place of prompts, and no tokens.
  Progress(ProgressStyle style, FILE* stream, double now, absl::string_view things)
      : style_(style), stream_(stream), things_(things), start_(now), samples_{{now, {}}} {}
  ~Progress() { Clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void Update(const ProgressState& state, double now);
  // Wipes the bar, to write something else where it is.
  void Clear();

 private:
  struct Sample {
    double time;
    ProgressState state;
  };
  std::string Text(const ProgressState& state, double now) const;

  ProgressStyle style_;
  FILE* stream_;
  std::string things_;  // empty: prompts, whose tokens count too
  double start_;
  double drawn_ = -1;  // when; -1: never
  bool bar_is_visible_ = false;
  std::deque<Sample> samples_;  // what the rates are computed from
};

// Speeds, memory and attention of a finished job, a line each. Ranks that are threads have one
// peak in common.
std::string SummaryText(const EngineStats& stats, bool ranks_are_processes);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_PROGRESS_H_
