#ifndef LONGSPAN_TESTS_SHARDING_SMALL_JOB_H_
#define LONGSPAN_TESTS_SHARDING_SMALL_JOB_H_

#include "sharding/layer_program.h"

namespace longspan {

// Three layers, with blocks of 16 tokens and a block of each chunk for every rank.
inline JobShape SmallJob(int ranks) {
  JobShape job;
  job.model.layers = 3;
  job.model.hidden = job.model.intermediate = 64;
  job.model.vocab = 100;
  job.model.heads = job.model.kv_heads = 2;
  job.model.head_dim = 16;
  job.model.sizes = job.layer.sizes = {4, 32, false};
  job.model.top_k = job.layer.top_k = 24;
  job.model.score_dim = 8;
  job.model.block_tokens = 16;
  job.model.chunk_tokens = 16 * ranks;
  job.model.ranks = ranks;
  job.layer.layout = {16, ranks};
  job.layer.halo = 1;
  job.layer.score_row_bytes = 16;
  job.layer.query_row_bytes = 16;
  job.layer.token = {.key_value = 128, .query = 128, .partial = 136};
  return job;
}

}  // namespace longspan

#endif  // LONGSPAN_TESTS_SHARDING_SMALL_JOB_H_
