#include "launcher/plan_choices.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

constexpr int64_t kBlocksOfRank = 4;

// A setting before its options are predicted.
struct Knob {
  PlanChoice choice;
  std::vector<std::function<void(PlanSubject*)>> apply;  // [options]

  void Add(std::string value, std::function<void(PlanSubject*)> change) {
    choice.options.push_back({std::move(value)});
    apply.push_back(std::move(change));
  }
};

// block, 2 * block, ... up to `most`, and `now`.
std::vector<int64_t> PowersOfTwo(int64_t block, int64_t most, int64_t now) {
  std::vector<int64_t> values = {now};
  for (int64_t value = block; value <= most; value *= 2) {
    if (value != now) values.push_back(value);
  }
  std::sort(values.begin(), values.end());
  return values;
}

Knob ChunkKnob(const Config& settled, const PlanSize& size) {
  const int64_t block = settled.esa.selection_block;
  const int64_t blocks = (size.context + block - 1) / block;
  const int64_t most = block * std::min(blocks, kBlocksOfRank * size.ranks);
  Knob knob;
  knob.choice.what = "prefill.chunk_tokens";
  knob.choice.now = absl::StrCat(settled.prefill_chunk_tokens);
  for (const int64_t tokens : PowersOfTwo(block, most, settled.prefill_chunk_tokens)) {
    knob.Add(absl::StrCat(tokens),
             [tokens](PlanSubject* subject) { subject->config.prefill_chunk_tokens = tokens; });
  }
  return knob;
}

Knob StripeKnob(const Config& settled) {
  Knob knob;
  knob.choice.what = "parallel.stripe_tokens";
  knob.choice.now = absl::StrCat(settled.parallel.stripe_tokens);
  for (const int64_t tokens : PowersOfTwo(settled.esa.selection_block, settled.prefill_chunk_tokens,
                                          settled.parallel.stripe_tokens)) {
    knob.Add(absl::StrCat(tokens),
             [tokens](PlanSubject* subject) { subject->config.parallel.stripe_tokens = tokens; });
  }
  return knob;
}

Knob MovingKnob() {
  Knob knob;
  knob.choice.what = "moves in the ring";
  knob.choice.now = "auto";
  knob.choice.note = "each chunk moves what has fewer bytes on the busiest rank";
  knob.Add("auto", [](PlanSubject*) {});
  knob.Add("keys", [](PlanSubject* subject) { subject->moving = Moving::kKeys; });
  knob.Add("queries", [](PlanSubject* subject) { subject->moving = Moving::kQueries; });
  return knob;
}

Knob MergeKnob(const Config& settled) {
  Knob knob;
  knob.choice.what = "parallel.selection_merge";
  knob.choice.now = ConfigValue(settled, knob.choice.what);
  const auto merge_by = [](SelectionMerge merge) {
    return [merge](PlanSubject* s) { s->config.parallel.selection_merge = merge; };
  };
  knob.Add("auto", merge_by(SelectionMerge::kAuto));
  knob.Add("all_gather", merge_by(SelectionMerge::kAllGather));
  knob.Add("histogram", merge_by(SelectionMerge::kHistogram));
  return knob;
}

std::vector<Knob> KnobsOf(const PlanSubject& subject, const Config& settled, const PlanSize& size) {
  const bool selects = settled.attention == Attention::kEsa && settled.esa.top_k > 0;
  std::vector<Knob> knobs = {ChunkKnob(settled, size)};
  if (size.ranks == 1) return knobs;
  knobs.push_back(StripeKnob(settled));
  if (!subject.hardware.is_gpu && !settled.deterministic) knobs.push_back(MovingKnob());
  if (selects) knobs.push_back(MergeKnob(settled));
  return knobs;
}

absl::Status Predict(const PlanSubject& subject, const PlanSize& size, PlanOption* option) {
  LONGSPAN_ASSIGN_OR_RETURN(const JobPlan plan, PlanJob(subject, size));
  option->prompt_s = plan.prompt.seconds;
  option->token_s = plan.token.seconds;
  option->fits = plan.memory.fits;
  return absl::OkStatus();
}

size_t BestOf(const std::vector<PlanOption>& options, const std::string& current,
              const PlanOption& now) {
  const auto cost = [&](const PlanOption& option) {
    if (!option.fits) return std::numeric_limits<double>::infinity();
    return option.prompt_s / now.prompt_s + option.token_s / now.token_s;
  };
  size_t best = 0;
  while (best + 1 < options.size() && options[best].value != current) ++best;
  for (size_t i = 0; i < options.size(); ++i) {
    // What changes nothing is no better.
    if (cost(options[i]) < cost(options[best]) - 1e-9) best = i;
  }
  return best;
}

}  // namespace

absl::StatusOr<PlanChoices> ChoosePlan(const PlanSubject& subject, const PlanSize& size,
                                       const PlanProgress& progress) {
  LONGSPAN_ASSIGN_OR_RETURN(const Config settled, SettleFor(subject, size));
  std::vector<Knob> knobs = KnobsOf(subject, settled, size);
  int64_t done = 0, total = 2;
  for (const Knob& knob : knobs) total += static_cast<int64_t>(knob.apply.size());
  PlanChoices result;
  result.now.value = "as configured";
  LONGSPAN_RETURN_IF_ERROR(Predict(subject, size, &result.now));
  progress(++done, total);
  PlanSubject all = subject;
  for (Knob& knob : knobs) {
    for (size_t i = 0; i < knob.apply.size(); ++i) {
      PlanSubject changed = subject;
      knob.apply[i](&changed);
      // A stripe that is stated may not suit every chunk, nor proximity every stripe; and not all
      // merges are for so many ranks.
      if (size.ranks <= MostRanks(changed) && SettleFor(changed, size).ok()) {
        LONGSPAN_RETURN_IF_ERROR(Predict(changed, size, &knob.choice.options[i]));
      }
      progress(++done, total);
    }
    PlanChoice& choice = knob.choice;
    choice.best = BestOf(choice.options, choice.now, result.now);
    // A stripe that is not stated goes with the chunk, so what stays is not stated either.
    const bool changes = choice.options[choice.best].value != choice.now;
    if (changes && choice.note.empty()) knob.apply[choice.best](&all);
    result.choices.push_back(std::move(choice));
  }
  result.together.value = "all of these";
  LONGSPAN_RETURN_IF_ERROR(Predict(all, size, &result.together));
  progress(++done, total);
  return result;
}

}  // namespace longspan
