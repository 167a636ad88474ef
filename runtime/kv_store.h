#ifndef LONGSPAN_RUNTIME_KV_STORE_H_
#define LONGSPAN_RUNTIME_KV_STORE_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "runtime/attention_context.h"

namespace longspan {

// What a chunk's stripes and their neighbours keep of each other.
std::vector<HaloMove> HaloMoves(const AttentionContext& context, const PrefillChunk& chunk);

// Stores one layer's keys and values [rows, kv_dim] float32 of this rank's blocks of the chunk, and
// what the score reads of them; sends the latter to the neighbours of each stripe's edges, so that
// proximity later needs no exchange. Collective.
absl::Status StoreChunk(const AttentionContext& context, int64_t layer, const PrefillChunk& chunk,
                        const float* keys, const float* values);

// Stores one token's key and value [kv_dim] on its owner, and what the score reads of it on every
// rank that keeps it (all ranks have computed it).
void StoreToken(const AttentionContext& context, int64_t layer, const DecodeToken& token,
                const float* key, const float* value);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_KV_STORE_H_
