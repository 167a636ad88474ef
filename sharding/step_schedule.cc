#include "sharding/step_schedule.h"

namespace longspan {
namespace {

constexpr int64_t kWord = 8;

}  // namespace

std::vector<Collective> BroadcastPlan(int64_t words) {
  std::vector<Collective> calls = {
      {CollectiveKind::kBroadcast, "step.plan", {kFirstPlanWords * kWord}, {}}};
  const int64_t rest = words - (kFirstPlanWords - 1);
  if (rest > 0) calls.push_back({CollectiveKind::kBroadcast, "step.plan.rest", {rest * kWord}, {}});
  return calls;
}

int64_t PlanWords(int64_t prompt_tokens, int64_t decoded_tokens) {
  return 10 + (prompt_tokens > 0 ? 6 + prompt_tokens : 0) + 4 * decoded_tokens;
}

Collective SendLastLogits(int from, int64_t vocab) {
  Collective call = {CollectiveKind::kExchange, "prefill.logits", {}, {}};
  if (from != 0) call.messages.push_back({from, 0, vocab * 4});
  return call;
}

}  // namespace longspan
