#ifndef LONGSPAN_RUNTIME_CUDA_CUDA_BUFFERS_H_
#define LONGSPAN_RUNTIME_CUDA_CUDA_BUFFERS_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "kernels/attention.h"
#include "kernels/base/dtype.h"
#include "kernels/cuda/digit_select.h"
#include "kernels/cuda/prefill_score.h"
#include "kernels/vote.h"
#include "runtime/attention_context.h"
#include "runtime/config.h"
#include "runtime/cuda/arena.h"
#include "runtime/kv_shard.h"
#include "runtime/model_config.h"
#include "sharding/merge_choice.h"
#include "sharding/topk_merge.h"

namespace longspan {

// Groups of a chunk's blocks, at most: the keys of one are brought while the one before attends.
inline constexpr int64_t kRingGroups = 4;

// The largest that one forward pass on one rank may meet; from the run's config alone.
struct CudaSizes {
  DType dtype = DType::kFloat32;  // of weights and of what products read
  int64_t hidden = 0, intermediate = 0, vocab = 0;
  AttentionShape shape;
  KvShape kv;
  int ranks = 1;
  int sharers = 1;          // ranks on this GPU
  int multiprocessors = 0;  // that this rank may hold
  bool on_host = false;     // the keys and values are

  int64_t rows = 0;        // of a prefill chunk on one rank, padded to whole panels
  int64_t blocks = 0;      // of a chunk, all ranks
  int64_t own_blocks = 0;  // of a chunk, one rank
  int64_t sequences = 0;   // that decode together
  int64_t max_tokens = 0;  // positions of a sequence
  int64_t own_tokens = 0;  // of them, of one rank: whole pages
  int64_t own_keys = 0;    // the same with halos
  int64_t top_k = 0;
  Voters voters;                  // of the score
  bool votes = false;             // they score apart; else the head sum is the score
  std::optional<MergeWay> merge;  // of candidates; empty: what is cheaper
  int64_t listed_keys = 0;        // that a block attends to
  int64_t rope_coarse = 0;        // multiples of kRopeFine in the RoPE table

  static CudaSizes Of(const Config& config, const ModelConfig& model,
                      const AttentionContext& context, int sharers, int multiprocessors);

  int64_t qkv() const { return shape.query_dim() + 2 * shape.kv_dim(); }
  int64_t selections() const { return blocks > sequences ? blocks : sequences; }
  // How so many rows are merged, and the most that are merged in this way.
  MergeWay WayToMerge(int64_t num_rows) const {
    return merge.value_or(CheaperMerge(Backend::kGpu, ranks, num_rows, top_k));
  }
  int64_t MostMerged(MergeWay way) const {
    return MostRowsMerged(way, merge, Backend::kGpu, ranks, selections(), top_k);
  }
  // Of queries that meet score keys: numbers of 8 bits are for caches only.
  DType score_query_dtype() const {
    return kv.score_dtype == DType::kFloat8E4M3 ? DType::kBFloat16 : kv.score_dtype;
  }
  bool low_rank() const { return kv.score_dim > 0 && !kv.score_is_key; }
  // Numbers of what a query to score is made from.
  int64_t score_input_dim() const { return low_rank() ? shape.kv_dim() : voters.query_dim(); }
  // Those by which voters' scores of a query are made comparable: its maximum, or each voter's.
  int64_t maxima_of_query() const { return voters.soft ? voters.count : 1; }
  // Prefill attention finds keys and values in pages of the GPU's own memory; else they are
  // brought.
  bool reads_pages() const { return ranks == 1 && !on_host; }
  // Tokens that are brought to a rank for a chunk; those of them that are one rank's, this one's
  // for example; and those that it sends to others.
  int64_t arriving_keys() const;
  int64_t keys_of_rank() const;
  int64_t sent_keys() const;
  // Of messages to and from each rank, group by group.
  int64_t num_ring_ends() const { return 2 * kRingGroups * ranks; }
};

// Rows of logits that are computed at a time.
inline constexpr int64_t kLogitRows = 16;

// Device memory of a forward pass.
struct CudaBuffers {
  int32_t* ids = nullptr;           // [rows]
  std::byte* parameters = nullptr;  // page tables, blocks and ranges of a launch
  int64_t parameter_bytes = 0;
  std::byte* step = nullptr;  // what changes from one decode step to the next
  int64_t step_bytes = 0;
  float* x = nullptr;              // [rows, hidden] the residual stream
  std::byte* normed = nullptr;     // [rows, hidden] compute dtype
  float* stacked = nullptr;        // [rows, qkv]
  float* queries = nullptr;        // [rows, heads, head_dim]
  float* keys = nullptr;           // [rows, kv_dim]
  float* values = nullptr;         // [rows, kv_dim]
  std::byte* attended = nullptr;   // [rows, heads, head_dim] compute dtype
  std::byte* gate_up = nullptr;    // [rows, 2*intermediate] compute dtype
  std::byte* activated = nullptr;  // [rows, intermediate] compute dtype
  float* logits = nullptr;         // [kLogitRows, vocab]
  int32_t* likeliest = nullptr;    // [kLogitRows] tokens
  std::byte* arg_max = nullptr;    // workspace of ArgMax

  // Selection.
  // [rows, score_input_dim()] group sums, heads or keys
  std::byte* score_input = nullptr;
  std::byte* score_queries = nullptr;     // [rows, score_dim] score_query_dtype
  std::byte* gathered_queries = nullptr;  // [ranks, rows, voters.query_dim()] the same
  float* token_queries = nullptr;         // [sequences, voters.query_dim()]
  float* score_keys = nullptr;            // [rows, score_dim]
  float* maxima = nullptr;                // [maxima_of_query(), ranks*rows]
  float* scores = nullptr;                // [blocks, own_tokens]; voters: of selections()
  float* spread = nullptr;                // workspace of PrefillScores
  Candidate* candidates = nullptr;        // [selections, top_k] of this rank
  Candidate* selected = nullptr;          // [selections, top_k]
  int32_t* counts = nullptr;              // [selections]
  int32_t* own_counts = nullptr;          // [selections]
  // Of voters: what makes soft ones comparable, and what decoded tokens are scored by.
  uint32_t* vote_sums = nullptr;             // [voters, ranks*rows, kVoteSumDigits]
  float* vote_weights = nullptr;             // [voters, ranks*rows]
  float* vote_products = nullptr;            // [sequences, voters, own_keys]
  cuda::ScoredBlock* vote_blocks = nullptr;  // [sequences]
  // Of the candidates of as many rows as are gathered, and as are merged by histogram.
  Candidate* gathered = nullptr;           // [ranks, rows, top_k]
  std::byte* merge = nullptr;              // workspace of MergeCandidates
  cuda::DigitBracket* brackets = nullptr;  // [rows]
  uint32_t* digit_sums = nullptr;          // [rows, DigitSums] of a digit
  uint32_t* last_sums = nullptr;           // [rows, DigitSums] of the last digit
  uint32_t* winners = nullptr;             // [rows, top_k]
  std::byte* halos = nullptr;              // score rows on their way out, then those coming in
  int64_t halo_bytes = 0;

  // Attention.
  uint32_t* key_rows = nullptr;       // [own_blocks, listed_keys]
  uint32_t* key_positions = nullptr;  // [own_blocks, listed_keys]
  float* decode_lse = nullptr;        // [sequences, heads]
  std::byte* decode_workspace = nullptr;
  int64_t decode_workspace_bytes = 0;
  float* partial = nullptr;      // of this rank: [sequences, query_dim], then [sequences, heads]
  float* partials = nullptr;     // of all ranks
  std::byte* outputs = nullptr;  // [ranks, sequences, heads, head_dim] compute dtype

  // The ring of one layer: no group of blocks writes to memory of a group before.
  uint32_t* sent_keys = nullptr;     // [sent_keys] their local indices
  uint32_t* own_arriving = nullptr;  // [arriving_keys] the same, of this rank's
  uint32_t* row_of = nullptr;        // [max_tokens] row in `arrived`
  uint32_t* ring_ends = nullptr;     // [num_ring_ends] where messages end
  std::byte* ring_workspace = nullptr;
  std::byte* sent = nullptr;     // [sent_keys, key row, value row]
  std::byte* arrived = nullptr;  // [arriving_keys, key row, value row]

  // `shared`: memory that the communicator gave, for what ranks gather (AllocateShared); a rank
  // that is alone takes nothing of it.
  void Lay(const CudaSizes& sizes, Arena* arena, Arena* shared);
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_CUDA_CUDA_BUFFERS_H_
