#include "launcher/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace longspan {
namespace {

constexpr double kQuietSeconds = 2;
constexpr double kBarSeconds = 0.2;
constexpr double kLineSeconds = 10;
constexpr double kRateSeconds = 10;
constexpr int kBarWidth = 24;

std::string Clock(double seconds) {
  const int64_t s = std::llround(std::min(seconds, 1e9));
  return s < 3600 ? absl::StrFormat("%d:%02d", s / 60, s % 60)
                  : absl::StrFormat("%d:%02d:%02d", s / 3600, s / 60 % 60, s % 60);
}

double Rate(int64_t count, double seconds) {
  return seconds > 0 ? static_cast<double>(count) / seconds : 0;
}

}  // namespace

absl::StatusOr<ProgressStyle> ParseProgressStyle(absl::string_view name) {
  if (name == "off") return ProgressStyle::kOff;
  if (name == "lines") return ProgressStyle::kLines;
  if (name == "bar") return ProgressStyle::kBar;
  if (name == "auto") return isatty(STDERR_FILENO) ? ProgressStyle::kBar : ProgressStyle::kLines;
  return absl::InvalidArgumentError("--progress must be auto, bar, lines or off");
}

void Progress::Update(const ProgressState& state, double now) {
  if (style_ == ProgressStyle::kOff) return;
  const double interval = style_ == ProgressStyle::kBar ? kBarSeconds : kLineSeconds;
  if (now - start_ < kQuietSeconds || (drawn_ >= 0 && now - drawn_ < interval)) return;
  drawn_ = now;
  samples_.push_back({now, state});
  while (samples_.size() > 2 && now - samples_[1].time >= kRateSeconds) samples_.pop_front();
  const std::string text = Text(state, now);
  if (style_ == ProgressStyle::kBar) {
    fprintf(stream_, "\r\033[K%s", text.c_str());
    bar_is_visible_ = true;
  } else {
    fprintf(stream_, "%s\n", text.c_str());
  }
  fflush(stream_);
}

std::string Progress::Text(const ProgressState& state, double now) const {
  const double fraction = std::clamp(state.fraction, 0.0, 1.0);
  const int filled = static_cast<int>(fraction * kBarWidth);
  const Sample& first = samples_.front();
  const double seconds = now - first.time;
  const double elapsed = now - start_;
  std::string text =
      absl::StrFormat("[%s%s] ", std::string(filled, '#'), std::string(kBarWidth - filled, '.'));
  if (state.total > 0) {
    absl::StrAppendFormat(&text, "%d/%d %s | ", state.done, state.total,
                          things_.empty() ? "prompts" : things_);
  }
  if (things_.empty()) {
    absl::StrAppendFormat(&text, "%.0f prompt tokens/s | ",
                          Rate(state.prompt_tokens - first.state.prompt_tokens, seconds));
  }
  if (things_.empty() && state.total > 0) {
    absl::StrAppendFormat(&text, "%.1f decoded tokens/s | ",
                          Rate(state.generated_tokens - first.state.generated_tokens, seconds));
  }
  absl::StrAppend(&text, Clock(elapsed));
  if (fraction > 0.01) absl::StrAppend(&text, ", ", Clock(elapsed / fraction - elapsed), " left");
  return text;
}

void Progress::Clear() {
  if (!bar_is_visible_) return;
  fputs("\r\033[K", stream_);
  fflush(stream_);
  bar_is_visible_ = false;
}

std::string SummaryText(const EngineStats& stats, bool ranks_are_processes) {
  // A run that answered nothing attended to nothing.
  const double dense = std::max<double>(1, static_cast<double>(stats.dense_keys));
  const double share = static_cast<double>(stats.attended_keys) / dense;
  std::string text = absl::StrFormat(
      "prompt        %d tokens, %.0f tokens/s\n"
      "decode        %d tokens, %.1f tokens/s\n"
      "attention     %.2f%% of the keys that dense attention reads\n"
      "peak memory  ",
      stats.prompt_tokens, Rate(stats.prompt_tokens, stats.prefill_s), stats.generated_tokens,
      Rate(stats.decoded_tokens, stats.decode_s), 100 * share);
  for (const int64_t bytes : stats.peak_memory_bytes) {
    absl::StrAppend(&text, " ", (bytes + (1 << 19)) >> 20);
    if (!ranks_are_processes) break;
  }
  return text + (ranks_are_processes ? " MiB (each rank)\n" : " MiB (all ranks)\n");
}

}  // namespace longspan
