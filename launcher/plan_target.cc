#include "launcher/plan_target.h"

#include <algorithm>
#include <bit>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

bool IsPowerOfTwo(int ranks) { return std::has_single_bit(static_cast<unsigned>(ranks)); }

bool Meets(const PlanTarget& target, const PlanTry& attempt) {
  return attempt.fits && attempt.prompt_s <= target.prompt_s.value_or(attempt.prompt_s) &&
         attempt.token_s <= target.token_s.value_or(attempt.token_s);
}

// The least of one time over what fits; null if nothing does.
const PlanTry* Fastest(const std::vector<PlanTry>& tries, double PlanTry::*time) {
  const PlanTry* best = nullptr;
  for (const PlanTry& attempt : tries) {
    if (attempt.fits && (best == nullptr || attempt.*time < best->*time)) best = &attempt;
  }
  return best;
}

std::string RanksText(int ranks) { return absl::StrCat(ranks, ranks == 1 ? " rank" : " ranks"); }

std::string LimitOf(const PlanTarget& target, const std::vector<PlanTry>& tries) {
  const PlanTry* prompt = Fastest(tries, &PlanTry::prompt_s);
  const PlanTry* token = Fastest(tries, &PlanTry::token_s);
  if (prompt == nullptr) {
    const PlanTry& last = tries.back();
    return absl::StrCat("memory: on ", RanksText(last.ranks), " each still needs ",
                        FormatBytes(last.needed), " and may use ", FormatBytes(last.usable));
  }
  if (prompt->prompt_s > target.prompt_s.value_or(prompt->prompt_s)) {
    return absl::StrFormat("the time to first token: at best %.3g s, on %s", prompt->prompt_s,
                           RanksText(prompt->ranks));
  }
  if (token->token_s > target.token_s.value_or(token->token_s)) {
    return absl::StrFormat("the time of a token: at best %.3g ms, on %s", token->token_s * 1e3,
                           RanksText(token->ranks));
  }
  return absl::StrFormat(
      "both times together: the first token needs more ranks (%.3g s at best, on %s), the others "
      "fewer (%.3g ms at best, on %s)",
      prompt->prompt_s, RanksText(prompt->ranks), token->token_s * 1e3, RanksText(token->ranks));
}

absl::StatusOr<PlanTry> TryChunk(const PlanSubject& subject, const PlanSize& size) {
  LONGSPAN_ASSIGN_OR_RETURN(const JobPlan plan, PlanJob(subject, size));
  return PlanTry{.ranks = size.ranks,
                 .chunk_tokens = plan.config.prefill_chunk_tokens,
                 .fits = plan.memory.fits,
                 .prompt_s = plan.prompt.seconds,
                 .token_s = plan.token.seconds,
                 .needed = plan.memory.needed(),
                 .usable = plan.memory.usable};
}

absl::StatusOr<PlanTry> TryRanks(const PlanSubject& subject, const PlanSize& size) {
  LONGSPAN_ASSIGN_OR_RETURN(const PlanTry own, TryChunk(subject, size));
  const PlanSubject longer = WithBlocksForAll(subject, size.ranks);
  if (longer.config.prefill_chunk_tokens <= own.chunk_tokens) return own;
  LONGSPAN_ASSIGN_OR_RETURN(const PlanTry filled, TryChunk(longer, size));
  if (filled.fits != own.fits) return filled.fits ? filled : own;
  return filled.prompt_s < own.prompt_s ? filled : own;
}

}  // namespace

std::vector<int> RanksToSearch(int64_t ranks_per_host, int most) {
  std::set<int> ranks;
  for (int power = 1; power <= most; power *= 2) ranks.insert(power);
  for (int64_t hosts = ranks_per_host; hosts <= most; hosts += ranks_per_host) {
    ranks.insert(static_cast<int>(hosts));
  }
  return {ranks.begin(), ranks.end()};
}

absl::StatusOr<PlanSearch> SearchRanks(
    const PlanTarget& target, const std::vector<int>& ranks,
    absl::FunctionRef<absl::StatusOr<PlanTry>(int ranks)> attempt) {
  PlanSearch search;
  const auto meets = [&](size_t index) -> absl::StatusOr<bool> {
    LONGSPAN_ASSIGN_OR_RETURN(PlanTry made, attempt(ranks[index]));
    made.meets = Meets(target, made);
    search.tries.push_back(made);
    if (made.meets) search.found = made;
    return made.meets;
  };
  size_t below = 0, good = 0;  // everything before `below` is known not to do
  for (; good < ranks.size(); ++good) {
    if (!IsPowerOfTwo(ranks[good])) continue;
    LONGSPAN_ASSIGN_OR_RETURN(const bool does, meets(good));
    if (does) break;
    below = good + 1;
  }
  if (!search.found.has_value()) {
    search.limit = LimitOf(target, search.tries);
    return search;
  }
  while (below < good) {
    const size_t middle = below + (good - below) / 2;
    LONGSPAN_ASSIGN_OR_RETURN(const bool does, meets(middle));
    does ? good = middle : below = middle + 1;
  }
  return search;
}

absl::StatusOr<PlanSearch> SearchMachine(const PlanSubject& subject, const PlanTarget& target,
                                         int64_t context, int64_t batch,
                                         const PlanProgress& progress) {
  const auto most = static_cast<int>(std::min<int64_t>(kMostSearchedRanks, MostRanks(subject)));
  std::vector<int> ranks = RanksToSearch(subject.hardware.ranks_per_host, most);
  std::string refusal;  // proximity may be longer than the stripes of many ranks
  std::erase_if(ranks, [&](int count) {
    const absl::Status settled = SettleFor(subject, {count, context, batch}).status();
    if (!settled.ok() && refusal.empty()) {
      refusal = absl::StrCat("; ", RanksText(count), " are refused: ", settled.message());
    }
    return !settled.ok();
  });
  const int64_t powers = std::bit_width(static_cast<unsigned>(most));
  int64_t done = 0;
  const auto attempt = [&](int count) -> absl::StatusOr<PlanTry> {
    absl::StatusOr<PlanTry> made = TryRanks(subject, {count, context, batch});
    ++done;
    progress(done, std::max(done, powers));
    return made;
  };
  LONGSPAN_ASSIGN_OR_RETURN(PlanSearch search, SearchRanks(target, ranks, attempt));
  if (!search.found.has_value()) search.limit += refusal;
  return search;
}

}  // namespace longspan
