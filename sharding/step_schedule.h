#ifndef LONGSPAN_SHARDING_STEP_SCHEDULE_H_
#define LONGSPAN_SHARDING_STEP_SCHEDULE_H_

#include <cstdint>
#include <vector>

#include "sharding/layer_schedule.h"

// What ranks say to each other in a step, but in its layers.
namespace longspan {

// The plan of a step, 64-bit words from rank 0 to all: a message that begins with their number and
// has as many of them as it holds, and another of the rest, if there is one.
inline constexpr int64_t kFirstPlanWords = 128;
std::vector<Collective> BroadcastPlan(int64_t words);

// Words of a plan of some prompt tokens and decoded tokens, in which no sequence begins or ends.
int64_t PlanWords(int64_t prompt_tokens, int64_t decoded_tokens);

// The float32 logits of a prompt's last token, from the rank that has them to rank 0.
Collective SendLastLogits(int from, int64_t vocab);

}  // namespace longspan

#endif  // LONGSPAN_SHARDING_STEP_SCHEDULE_H_
