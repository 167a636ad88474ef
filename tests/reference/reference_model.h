#ifndef LONGSPAN_TESTS_REFERENCE_REFERENCE_MODEL_H_
#define LONGSPAN_TESTS_REFERENCE_REFERENCE_MODEL_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "runtime/compressor.h"
#include "runtime/model_config.h"
#include "runtime/weights.h"

namespace longspan {

// Efficient Selective Attention (arXiv 2502.14477) in plain double precision: one sequence, no
// ranks, chunks or kernels. The judge of the real implementation, with which it shares nothing but
// the structs of configuration and weights.
struct ReferenceOptions {
  enum class Attention { kEsa, kStreaming, kDense };
  enum class Score { kHeadSum, kHeadMax, kSoftVote, kGroupVote };
  Attention attention = Attention::kEsa;
  int64_t initial_tokens = 128;
  int64_t local_tokens = 4096;
  int64_t top_k = 2048;
  int64_t selection_block = 512;
  int64_t far_position = 4096;
  int64_t proximity = 1;
  Score score = Score::kHeadSum;
  int64_t score_groups = 1;            // of kGroupVote
  bool rotates_score_queries = false;  // to far_position, before they score
  int64_t unit_tokens = 1;             // selected together
  int64_t unit_representatives = 1;
  bool native_positions = false;           // false: `positions: far`
  const Compressor* compressor = nullptr;  // null: the exact score; else it outlives the model

  // Replaces what the block that begins at a position attends to in a layer; nullopt keeps the
  // reference's own selection. With another implementation's selections its logits can be compared
  // though some score lay within rounding of the threshold. BlockSelection is not affected.
  std::function<std::optional<std::vector<int64_t>>(int64_t layer, int64_t block_begin)>
      forced_selection;
};

// What one selection block [begin, end) selected in one layer. M = [middle_begin, middle_end) is
// empty where the block attends to all its predecessors; `scores` is also empty without ESA.
struct BlockSelection {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t middle_begin = 0;
  int64_t middle_end = 0;
  std::vector<double> scores;     // F' [|M|]
  std::vector<int64_t> selected;  // ascending positions
};

// Empty if `actual` (ascending) is `expected.selected`, but for positions whose score lies within
// `tolerance` of the top_k-th best; otherwise says what is wrong.
std::string SelectionMismatch(const BlockSelection& expected, absl::Span<const int64_t> actual,
                              double tolerance);

struct ReferenceStep {
  std::vector<double> logits;                           // [tokens, vocab]
  std::vector<std::vector<BlockSelection>> selections;  // [layers][blocks]
};

class ReferenceModel {
 public:
  // The weights are copied.
  ReferenceModel(const ModelConfig& config, const ModelWeights& weights, ReferenceOptions options);

  // The first call: the whole prompt in selection blocks aligned at 0, the last maybe shorter.
  ReferenceStep Prompt(absl::Span<const int32_t> tokens);
  // One more token, a block of its own. Logits [vocab].
  ReferenceStep Decode(int32_t token);

 private:
  struct Matrix {
    int64_t rows = 0;
    int64_t cols = 0;
    std::vector<double> values;  // [rows, cols]
    const double* row(int64_t i) const { return values.data() + i * cols; }
    double* row(int64_t i) { return values.data() + i * cols; }
  };
  struct Layer {
    Matrix attention_norm, query, key, value, output, mlp_norm, gate, up, down;
    // Without rows where the architecture has none.
    Matrix query_bias, key_bias, value_bias, output_bias, query_norm, key_norm;
    Matrix compress_query, compress_key;  // A, B: [kv_heads*head_dim, dim]; empty: exact
  };
  // All positions so far, [positions][kv_heads*head_dim], or [positions][dim] for `score_keys`.
  struct LayerCache {
    std::vector<std::vector<double>> keys;          // before RoPE
    std::vector<std::vector<double>> rotated_keys;  // at their true positions
    std::vector<std::vector<double>> score_keys;
    std::vector<std::vector<double>> values;
  };

  static Matrix ToMatrix(const Tensor& tensor);
  static Matrix Linear(const Matrix& inputs, const Matrix& weight);  // [rows, weight.rows]
  static void AddBias(const Matrix& bias, Matrix* rows);             // if there is one
  static std::vector<double> TransposedTimes(const Matrix& matrix, const double* vector);
  Matrix Norm(const Matrix& inputs, const Matrix& weight) const;
  // Norm of every head, if there is one.
  void NormHeads(const Matrix& weight, Matrix* rows) const;
  std::vector<double> Frequencies() const;  // [head_dim / 2] of RoPE
  std::vector<double> Rotate(const double* heads, int64_t num_heads, int64_t position) const;

  void Block(absl::Span<const int32_t> tokens, bool decode, ReferenceStep* step);
  void Append(int64_t layer, const Matrix& keys, const Matrix& values);
  BlockSelection Select(int64_t layer, const Matrix& queries, bool decode) const;
  // f(m; c) of one query, over the middle.
  std::vector<double> Score(int64_t layer, const double* query, int64_t begin, int64_t end) const;
  // Whole units of the middle, given f of its positions.
  void SelectUnits(int64_t layer, const std::vector<std::vector<double>>& f, bool decode,
                   BlockSelection* result) const;
  // What one voter of several scores: a head, or a group of compressed dimensions.
  std::vector<double> ScoreOfVoter(int64_t layer, const double* query, int64_t first_of_key,
                                   int64_t size, int64_t begin, int64_t end) const;
  Matrix Attend(int64_t layer, const Matrix& queries, const BlockSelection& selection) const;
  Matrix Mlp(const Layer& layer, const Matrix& hidden) const;

  ModelConfig config_;
  ReferenceOptions options_;
  Matrix embedding_, final_norm_, lm_head_;
  std::vector<double> frequencies_;
  std::vector<Layer> layers_;
  std::vector<LayerCache> cache_;
  int64_t length_ = 0;  // positions before the current block
};

// The steps of the selection, on numbers alone.

// The total order of candidates: score descending, then position ascending; -0 equals +0, NaN last.
bool SelectedBefore(double score_a, int64_t position_a, double score_b, int64_t position_b);

// F(m) = max over the queries c of ( f[c][m] - max over m' of f[c][m'] ); without the inner maximum
// if not `subtract_maximum`. Maxima follow the order above: NaN only where everything is NaN.
std::vector<double> BlockScores(const std::vector<std::vector<double>>& f, bool subtract_maximum);

// F'(m) = max of F over the positions within `proximity` of m.
std::vector<double> ProximityScores(const std::vector<double>& scores, int64_t proximity);

// The first `top_k` in the order above, ascending; scores[i] belongs to `first_position` + i.
std::vector<int64_t> SelectTopK(const std::vector<double>& scores, int64_t first_position,
                                int64_t top_k);

}  // namespace longspan

#endif  // LONGSPAN_TESTS_REFERENCE_REFERENCE_MODEL_H_
