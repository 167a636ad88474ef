#include "launcher/scale_check.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace longspan {
namespace {

constexpr double kFloatTolerance = 0.01;
constexpr double kShortTolerance = 0.1;  // bfloat16 and fp8

std::string ValueOf(const ScalePoint& point, const std::string& key) {
  const auto found = point.config.find(key);
  return found == point.config.end() ? "auto" : found->second;
}

std::optional<double> LogprobOf(const TokenLogprobs& token, int32_t id) {
  for (const auto& [other, logprob] : token.top) {
    if (other == id) return logprob;
  }
  return std::nullopt;
}

// The largest distance between the same tokens' log-probabilities; an infinite one if NaN meets a
// number.
double Distance(const TokenLogprobs& a, const TokenLogprobs& b) {
  double worst = 0;
  for (const auto& [id, logprob] : a.top) {
    const std::optional<double> other = LogprobOf(b, id);
    if (!other) continue;  // at the end of the list, where others came before it
    const double distance = std::abs(logprob - *other);
    worst =
        std::max(worst, std::isnan(distance) ? std::numeric_limits<double>::infinity() : distance);
  }
  return worst;
}

struct Comparison {
  double worst = 0;        // between log-probabilities
  bool parts = false;      // tokens differ from some on
  bool unseen = false;     // that has no log-probabilities, so nothing says why
  std::string difference;  // beyond the tolerance; empty: none
};

// Where tokens differ the next ones have other texts before them, and cannot be compared.
void Compare(const ScaleOutput& a, const ScaleOutput& b, double tolerance, size_t prompt,
             Comparison* result) {
  if (a.tokens.size() != b.tokens.size() || a.logprobs.size() != b.logprobs.size()) {
    result->difference = absl::StrCat("prompt ", prompt, " has another number of tokens");
    return;
  }
  for (size_t t = 0; t < a.tokens.size(); ++t) {
    const bool same = a.tokens[t] == b.tokens[t];
    if (t < a.logprobs.size()) {
      result->worst = std::max(result->worst, Distance(a.logprobs[t], b.logprobs[t]));
      const std::optional<double> mine = LogprobOf(b.logprobs[t], b.tokens[t]);
      const std::optional<double> others = LogprobOf(b.logprobs[t], a.tokens[t]);
      const bool tie = mine && others && std::abs(*mine - *others) <= 2 * tolerance;
      if ((!same && !tie) || result->worst > tolerance) {
        result->difference = absl::StrFormat(
            "token %d behind prompt %d is %d on one rank and %d here, log-probabilities up to %.2g "
            "apart (at most %g is rounding)",
            t, prompt, b.tokens[t], a.tokens[t], result->worst, tolerance);
        return;
      }
    }
    if (same) continue;
    result->parts = true;
    result->unseen = t >= a.logprobs.size();
    return;
  }
}

OutputCheck CompareAll(const ScalePoint& point, const ScalePoint& reference) {
  const double tolerance = LogprobTolerance(point);
  Comparison result;
  for (size_t i = 0; i < point.outputs.size() && result.difference.empty(); ++i) {
    Compare(point.outputs[i], reference.outputs[i], tolerance, i, &result);
  }
  if (!result.difference.empty()) return {OutputVerdict::kDiffers, result.difference};
  const std::string within =
      absl::StrFormat("log-probabilities within %.2g (%g is allowed)", result.worst, tolerance);
  if (!result.parts) return {OutputVerdict::kTokensEqual, "tokens equal, " + within};
  if (result.unseen) {
    return {OutputVerdict::kWithin,
            "tokens part behind those that have log-probabilities, whose are " + within};
  }
  return {OutputVerdict::kWithin, "tokens part where rounding decides, " + within};
}

}  // namespace

double LogprobTolerance(const ScalePoint& point) {
  const bool computes_short =
      ValueOf(point, "device") == "cuda" && ValueOf(point, "dtype") != "float32";
  const std::string cache = ValueOf(point, "kv_cache.dtype");
  const std::string scores = ValueOf(point, "kv_cache.score_dtype");
  const bool stores_short = (cache != "auto" && cache != "float32") || scores != "auto";
  return computes_short || stores_short ? kShortTolerance : kFloatTolerance;
}

OutputCheck CheckOutputs(const ScalePoint& point, const ScalePoint* reference) {
  if (OutputsDigest(point.outputs) != point.digest) {
    return {OutputVerdict::kDiffers, "the digest is not that of the outputs: the line was changed"};
  }
  if (point.key.ranks == 1) return {OutputVerdict::kReference, "the one-rank run"};
  if (reference == nullptr) return {OutputVerdict::kNoReference, "no one-rank run to compare with"};
  if (OutputsDigest(reference->outputs) == point.digest) {
    return {OutputVerdict::kBitsEqual, "equal to the last bit"};
  }
  if (point.deterministic()) {
    const bool elsewhere = point.environment() != reference->environment();
    return {OutputVerdict::kDiffers,
            absl::StrCat("bits differ from the one-rank run, in spite of `deterministic`",
                         elsewhere ? ", which was measured on another machine or software" : "")};
  }
  return CompareAll(point, *reference);
}

OutputCheck CheckOutputs(const ScalePoint& point, const ScalePoints& all) {
  const auto found = all.find(point.key.reference());
  return CheckOutputs(point, found == all.end() ? nullptr : &found->second);
}

}  // namespace longspan
