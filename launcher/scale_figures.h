#ifndef LONGSPAN_LAUNCHER_SCALE_FIGURES_H_
#define LONGSPAN_LAUNCHER_SCALE_FIGURES_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "launcher/scale_study.h"

namespace longspan {

// What is said of points whose ranks share slots, in place of a speed-up.
inline constexpr absl::string_view kCheckOnly = "correctness check, not a scaling curve";

// How a point does beside one rank: with the same context (strong), or with the context that one
// rank has here (weak), where the work is its tokens times the ranks.
struct Scaling {
  double prefill = 0;  // speed-up; over the ranks it is the efficiency
  double decode = 0;
};
// Unset if there is no run on one rank, it was measured in another environment, or ranks of one of
// the two share slots.
std::optional<Scaling> ScalingOf(const StoredStudy& stored, const ScaleKey& key);

// Seconds of each phase, of a stage's step, in the mean over the ranks; NaN: not measured.
PhaseSeconds MeanPhases(const ScalePoint& point, StagePhases RankPhases::*stage);

// Work of one rank in a second: of prompts, and of decoded steps.
struct Rates {
  double bytes_per_s = 0, flops_per_s = 0;
};
Rates PrefillRates(const ScalePoint& point);
Rates DecodeRates(const ScalePoint& point);

// Speed-up of prompts and of decoding over the ranks, with strong scaling; with weak scaling the
// efficiency. None: no point may be plotted.
std::vector<std::string> SpeedupFigures(const StoredStudy& stored);
// A bar a point, of the shares of its phases. None: nothing was measured.
std::vector<std::string> PhaseFigures(const StoredStudy& stored);
// What prompts and decoding reach, below what the machine's copies and matrix products allow.
std::string RooflineFigure(const StoredStudy& stored);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_SCALE_FIGURES_H_
