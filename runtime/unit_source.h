#ifndef LONGSPAN_RUNTIME_UNIT_SOURCE_H_
#define LONGSPAN_RUNTIME_UNIT_SOURCE_H_

#include "runtime/score_source.h"

namespace longspan {

// `esa.unit_tokens` above 1: this rank's units of `middle`, each with the mean of its
// representatives as its key (kernels/representatives.h). Positions are units.
ScoreSource UnitSource(const AttentionContext& context, int64_t layer, KvShard* cache,
                       Range middle);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_UNIT_SOURCE_H_
