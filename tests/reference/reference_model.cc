#include "tests/reference/reference_model.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/dtype.h"

namespace longspan {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

double Dot(const double* a, const double* b, int64_t size) {
  double sum = 0;
  for (int64_t i = 0; i < size; ++i) sum += a[i] * b[i];
  return sum;
}

template <typename T>
std::vector<double> ToDoubles(const void* data, int64_t size) {
  std::vector<double> values(size);
  for (int64_t i = 0; i < size; ++i) values[i] = ToFloat(static_cast<const T*>(data)[i]);
  return values;
}

std::vector<double> ToDoubles(const Tensor& tensor) {
  const int64_t size = tensor.num_elements();
  switch (tensor.dtype) {
    case DType::kFloat32:
      return ToDoubles<float>(tensor.data, size);
    case DType::kBFloat16:
      return ToDoubles<BFloat16>(tensor.data, size);
    case DType::kFloat16:
      return ToDoubles<Float16>(tensor.data, size);
    case DType::kFloat8E4M3:
      return ToDoubles<Float8E4M3>(tensor.data, size);
  }
  LONGSPAN_CHECK(false);
}

void Softmax(std::vector<double>* logits) {
  const double maximum = *std::max_element(logits->begin(), logits->end());
  double sum = 0;
  for (double& logit : *logits) sum += logit = std::exp(logit - maximum);
  for (double& logit : *logits) logit /= sum;
}

}  // namespace

bool SelectedBefore(double score_a, int64_t position_a, double score_b, int64_t position_b) {
  if (std::isnan(score_a) != std::isnan(score_b)) return std::isnan(score_b);
  if (score_a > score_b) return true;
  if (score_a < score_b) return false;
  return position_a < position_b;
}

// std::fmax returns the number where one operand is NaN: NaN, last of the order, is its identity.
std::vector<double> BlockScores(const std::vector<std::vector<double>>& f, bool subtract_maximum) {
  LONGSPAN_CHECK(!f.empty());
  std::vector<double> scores(f[0].size(), kNaN);
  for (const std::vector<double>& row : f) {
    double maximum = kNaN;
    for (const double score : row) maximum = std::fmax(maximum, score);
    for (size_t m = 0; m < scores.size(); ++m) {
      scores[m] = std::fmax(scores[m], subtract_maximum ? row[m] - maximum : row[m]);
    }
  }
  return scores;
}

std::vector<double> ProximityScores(const std::vector<double>& scores, int64_t proximity) {
  const int64_t size = static_cast<int64_t>(scores.size());
  std::vector<double> best(size, kNaN);
  for (int64_t m = 0; m < size; ++m) {
    const int64_t begin = std::max<int64_t>(0, m - proximity);
    const int64_t end = std::min(size, m + proximity + 1);
    for (int64_t i = begin; i < end; ++i) best[m] = std::fmax(best[m], scores[i]);
  }
  return best;
}

std::vector<int64_t> SelectTopK(const std::vector<double>& scores, int64_t first_position,
                                int64_t top_k) {
  std::vector<int64_t> positions(scores.size());
  std::iota(positions.begin(), positions.end(), first_position);
  std::sort(positions.begin(), positions.end(), [&](int64_t a, int64_t b) {
    return SelectedBefore(scores[a - first_position], a, scores[b - first_position], b);
  });
  if (static_cast<int64_t>(positions.size()) > top_k) positions.resize(top_k);
  std::sort(positions.begin(), positions.end());
  return positions;
}

std::string SelectionMismatch(const BlockSelection& expected, absl::Span<const int64_t> actual,
                              double tolerance) {
  const auto block = absl::StrCat("block [", expected.begin, ", ", expected.end, "): ");
  if (actual.size() != expected.selected.size()) {
    return absl::StrCat(block, actual.size(), " selected, expected ", expected.selected.size());
  }
  const auto score = [&](int64_t position) {
    return expected.scores[position - expected.middle_begin];
  };
  for (size_t i = 0; i < actual.size(); ++i) {
    if (i > 0 && actual[i - 1] >= actual[i]) return absl::StrCat(block, "not ascending");
    if (actual[i] < expected.middle_begin || actual[i] >= expected.middle_end) {
      return absl::StrCat(block, actual[i], " is not in the middle");
    }
  }
  std::vector<int64_t> differing;
  std::set_symmetric_difference(actual.begin(), actual.end(), expected.selected.begin(),
                                expected.selected.end(), std::back_inserter(differing));
  if (differing.empty()) return "";
  const int64_t last = *std::min_element(
      expected.selected.begin(), expected.selected.end(),
      [&](int64_t a, int64_t b) { return SelectedBefore(score(b), b, score(a), a); });
  for (const int64_t position : differing) {
    const bool near = score(position) == score(last) ||  // infinities
                      std::abs(score(position) - score(last)) <= tolerance ||
                      (std::isnan(score(position)) && std::isnan(score(last)));
    if (near) continue;
    return absl::StrCat(block, "position ", position, " of score ", score(position),
                        std::binary_search(actual.begin(), actual.end(), position)
                            ? " was selected"
                            : " was not selected",
                        ", the threshold is ", score(last));
  }
  return "";
}

ReferenceModel::Matrix ReferenceModel::ToMatrix(const Tensor& tensor) {
  if (tensor.data == nullptr) return {};
  const int64_t rows = tensor.shape.size() == 2 ? tensor.shape[0] : 1;
  return {rows, tensor.num_elements() / rows, ToDoubles(tensor)};
}

ReferenceModel::Matrix ReferenceModel::Linear(const Matrix& inputs, const Matrix& weight) {
  LONGSPAN_CHECK(inputs.cols == weight.cols);
  Matrix outputs{inputs.rows, weight.rows, {}};
  outputs.values.resize(outputs.rows * outputs.cols);
  for (int64_t i = 0; i < outputs.rows; ++i) {
    for (int64_t j = 0; j < outputs.cols; ++j) {
      outputs.row(i)[j] = Dot(inputs.row(i), weight.row(j), weight.cols);
    }
  }
  return outputs;
}

std::vector<double> ReferenceModel::TransposedTimes(const Matrix& matrix, const double* vector) {
  std::vector<double> product(matrix.cols, 0.0);
  for (int64_t i = 0; i < matrix.rows; ++i) {
    for (int64_t j = 0; j < matrix.cols; ++j) product[j] += matrix.row(i)[j] * vector[i];
  }
  return product;
}

ReferenceModel::Matrix ReferenceModel::Norm(const Matrix& inputs, const Matrix& weight) const {
  Matrix outputs = inputs;
  for (int64_t i = 0; i < inputs.rows; ++i) {
    const double* x = inputs.row(i);
    const double mean_square = Dot(x, x, inputs.cols) / static_cast<double>(inputs.cols);
    const double scale = 1 / std::sqrt(mean_square + config_.rms_norm_eps);
    for (int64_t j = 0; j < inputs.cols; ++j) outputs.row(i)[j] = x[j] * scale * weight.values[j];
  }
  return outputs;
}

void ReferenceModel::AddBias(const Matrix& bias, Matrix* rows) {
  if (bias.rows == 0) return;
  for (int64_t i = 0; i < rows->rows; ++i) {
    for (int64_t j = 0; j < rows->cols; ++j) rows->row(i)[j] += bias.values[j];
  }
}

void ReferenceModel::NormHeads(const Matrix& weight, Matrix* rows) const {
  if (weight.rows == 0) return;
  const int64_t heads = rows->rows * rows->cols / config_.head_dim;
  rows->values = Norm(Matrix{heads, config_.head_dim, rows->values}, weight).values;
}

// As the papers have it, pair by pair: lambda is its wavelength in tokens, r how often it turns in
// the original context.
std::vector<double> ReferenceModel::Frequencies() const {
  const RopeConfig& rope = config_.rope;
  const auto dim = static_cast<double>(config_.head_dim);
  std::vector<double> frequencies;
  for (int64_t i = 0; i < config_.head_dim / 2; ++i) {
    const double theta = std::pow(rope.theta, -2.0 * static_cast<double>(i) / dim);
    const double lambda = 2 * M_PI / theta;
    const double r = static_cast<double>(rope.original_context) / lambda;
    double stretched = 0;  // share
    if (rope.scaling == RopeScaling::kLinear) stretched = 1;
    if (rope.scaling == RopeScaling::kLlama3) {
      stretched = r > rope.high_freq_factor  ? 0
                  : r < rope.low_freq_factor ? 1
                                             : (rope.high_freq_factor - r) /
                                                   (rope.high_freq_factor - rope.low_freq_factor);
    }
    if (rope.scaling == RopeScaling::kYarn) {
      const auto border = [&](double turns) {
        return dim * std::log(static_cast<double>(rope.original_context) / (turns * 2 * M_PI)) /
               (2 * std::log(rope.theta));
      };
      double low = border(rope.beta_fast), high = border(rope.beta_slow);
      if (rope.truncate) low = std::floor(low), high = std::ceil(high);
      low = std::max(low, 0.0);
      high = std::min(high, dim - 1);
      stretched = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    }
    frequencies.push_back((1 - stretched) * theta + stretched * theta / rope.factor);
  }
  return frequencies;
}

std::vector<double> ReferenceModel::Rotate(const double* heads, int64_t num_heads,
                                           int64_t position) const {
  const int64_t head_dim = config_.head_dim;
  const int64_t half = head_dim / 2;
  std::vector<double> rotated(num_heads * head_dim);
  for (int64_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(position) * frequencies_[i];
    const double cosine = std::cos(angle);
    const double sine = std::sin(angle);
    for (int64_t head = 0; head < num_heads; ++head) {
      const double* x = heads + head * head_dim;
      double* y = rotated.data() + head * head_dim;
      y[i] = x[i] * cosine - x[i + half] * sine;
      y[i + half] = x[i + half] * cosine + x[i] * sine;
    }
  }
  return rotated;
}

ReferenceModel::ReferenceModel(const ModelConfig& config, const ModelWeights& weights,
                               ReferenceOptions options)
    : config_(config),
      options_(std::move(options)),
      embedding_(ToMatrix(weights.embedding)),
      final_norm_(ToMatrix(weights.final_norm)),
      lm_head_(ToMatrix(weights.lm_head)),
      frequencies_(Frequencies()),
      cache_(config.num_layers) {
  LONGSPAN_CHECK(static_cast<int64_t>(weights.layers.size()) == config.num_layers);
  for (const LayerWeights& layer : weights.layers) {
    layers_.push_back({ToMatrix(layer.attention_norm),
                       ToMatrix(layer.query),
                       ToMatrix(layer.key),
                       ToMatrix(layer.value),
                       ToMatrix(layer.output),
                       ToMatrix(layer.mlp_norm),
                       ToMatrix(layer.gate),
                       ToMatrix(layer.up),
                       ToMatrix(layer.down),
                       ToMatrix(layer.query_bias),
                       ToMatrix(layer.key_bias),
                       ToMatrix(layer.value_bias),
                       ToMatrix(layer.output_bias),
                       ToMatrix(layer.query_norm),
                       ToMatrix(layer.key_norm),
                       {},
                       {}});
  }
  if (options_.compressor == nullptr) return;
  for (int64_t i = 0; i < config.num_layers; ++i) {
    layers_[i].compress_query = ToMatrix(options_.compressor->layers[i].query);
    layers_[i].compress_key = ToMatrix(options_.compressor->layers[i].key);
  }
}

ReferenceStep ReferenceModel::Prompt(absl::Span<const int32_t> tokens) {
  LONGSPAN_CHECK(length_ == 0);
  ReferenceStep step;
  step.selections.resize(config_.num_layers);
  const int64_t size = static_cast<int64_t>(tokens.size());
  for (int64_t begin = 0; begin < size; begin += options_.selection_block) {
    Block(tokens.subspan(begin, options_.selection_block), /*decode=*/false, &step);
  }
  return step;
}

ReferenceStep ReferenceModel::Decode(int32_t token) {
  ReferenceStep step;
  step.selections.resize(config_.num_layers);
  Block({token}, /*decode=*/true, &step);
  return step;
}

void ReferenceModel::Block(absl::Span<const int32_t> tokens, bool decode, ReferenceStep* step) {
  Matrix hidden{static_cast<int64_t>(tokens.size()), config_.hidden_size, {}};
  for (const int32_t token : tokens) {
    LONGSPAN_CHECK(token >= 0 && token < config_.vocab_size);
    const double* row = embedding_.row(token);
    hidden.values.insert(hidden.values.end(), row, row + embedding_.cols);
  }
  const auto add = [&hidden](const Matrix& residual) {
    for (size_t i = 0; i < hidden.values.size(); ++i) hidden.values[i] += residual.values[i];
  };
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    const Layer& layer = layers_[i];
    const Matrix normed = Norm(hidden, layer.attention_norm);
    Matrix queries = Linear(normed, layer.query);
    Matrix keys = Linear(normed, layer.key);
    Matrix values = Linear(normed, layer.value);
    AddBias(layer.query_bias, &queries);
    AddBias(layer.key_bias, &keys);
    AddBias(layer.value_bias, &values);
    NormHeads(layer.query_norm, &queries);
    NormHeads(layer.key_norm, &keys);
    Append(i, keys, values);
    step->selections[i].push_back(Select(i, queries, decode));
    Matrix attended = Linear(Attend(i, queries, step->selections[i].back()), layer.output);
    AddBias(layer.output_bias, &attended);
    add(attended);
    add(Mlp(layer, Norm(hidden, layer.mlp_norm)));
  }
  const Matrix logits = Linear(Norm(hidden, final_norm_), lm_head_);
  step->logits.insert(step->logits.end(), logits.values.begin(), logits.values.end());
  length_ += hidden.rows;
}

ReferenceModel::Matrix ReferenceModel::Mlp(const Layer& layer, const Matrix& hidden) const {
  Matrix gate = Linear(hidden, layer.gate);
  const Matrix up = Linear(hidden, layer.up);
  for (size_t i = 0; i < gate.values.size(); ++i) {
    gate.values[i] = gate.values[i] / (1 + std::exp(-gate.values[i])) * up.values[i];
  }
  return Linear(gate, layer.down);
}

void ReferenceModel::Append(int64_t layer, const Matrix& keys, const Matrix& values) {
  LayerCache& cache = cache_[layer];
  const Matrix& compress = layers_[layer].compress_key;
  for (int64_t i = 0; i < keys.rows; ++i) {
    const double* key = keys.row(i);
    const double* value = values.row(i);
    cache.keys.emplace_back(key, key + keys.cols);
    cache.rotated_keys.push_back(Rotate(key, config_.num_kv_heads, length_ + i));
    cache.score_keys.push_back(compress.rows == 0 ? cache.keys.back()
                                                  : TransposedTimes(compress, key));
    cache.values.emplace_back(value, value + values.cols);
  }
}

std::vector<double> ReferenceModel::ScoreOfVoter(int64_t layer, const double* query,
                                                 int64_t first_of_key, int64_t size, int64_t begin,
                                                 int64_t end) const {
  std::vector<double> scores;
  for (int64_t m = begin; m < end; ++m) {
    scores.push_back(Dot(query, cache_[layer].score_keys[m].data() + first_of_key, size));
  }
  return scores;
}

std::vector<double> ReferenceModel::Score(int64_t layer, const double* query, int64_t begin,
                                          int64_t end) const {
  using Kind = ReferenceOptions::Score;
  const int64_t group = config_.num_heads / config_.num_kv_heads;
  const int64_t head_dim = config_.head_dim;
  std::vector<double> sum(config_.num_kv_heads * head_dim, 0.0);  // over each group
  for (int64_t head = 0; head < config_.num_heads; ++head) {
    for (int64_t d = 0; d < head_dim; ++d) {
      sum[head / group * head_dim + d] += query[head * head_dim + d];
    }
  }
  const Matrix& compress = layers_[layer].compress_query;
  if (compress.rows > 0) sum = TransposedTimes(compress, sum.data());
  const auto width = static_cast<int64_t>(sum.size());
  if (options_.score == Kind::kHeadSum) {
    return ScoreOfVoter(layer, sum.data(), 0, width, begin, end);
  }

  const bool by_group = options_.score == Kind::kGroupVote;
  const int64_t voters = by_group ? options_.score_groups : config_.num_heads;
  const int64_t size = by_group ? width / voters : head_dim;
  const double longer = config_.rope.attention_factor;
  const double scale = longer * longer / std::sqrt(static_cast<double>(head_dim));
  std::vector<double> result(end - begin, options_.score == Kind::kHeadMax ? kNaN : 0.0);
  for (int64_t v = 0; v < voters; ++v) {
    std::vector<double> scores =
        by_group ? ScoreOfVoter(layer, sum.data() + v * size, v * size, size, begin, end)
                 : ScoreOfVoter(layer, query + v * size, v / group * size, size, begin, end);
    if (options_.score == Kind::kHeadMax) {
      for (size_t m = 0; m < scores.size(); ++m) result[m] = std::fmax(result[m], scores[m]);
      continue;
    }
    for (double& score : scores) score *= scale;
    Softmax(&scores);
    for (size_t m = 0; m < scores.size(); ++m) result[m] += scores[m];
  }
  return result;
}

void ReferenceModel::SelectUnits(int64_t layer, const std::vector<std::vector<double>>& f,
                                 bool decode, BlockSelection* result) const {
  const int64_t begin = result->middle_begin, size = result->middle_end - begin;
  const auto& keys = cache_[layer].score_keys;
  std::vector<std::vector<int64_t>> units;  // of positions, counted from `begin`
  for (int64_t m = 0; m < size; ++m) {
    if (m == 0 || (begin + m) % options_.unit_tokens == 0) units.emplace_back();
    units.back().push_back(m);
  }
  std::vector<std::vector<double>> of_units(f.size());  // [queries][units]
  for (const std::vector<int64_t>& unit : units) {
    std::vector<double> mean(keys[begin].size(), 0.0);
    for (const int64_t m : unit) {
      for (size_t d = 0; d < mean.size(); ++d) {
        mean[d] += keys[begin + m][d] / static_cast<double>(unit.size());
      }
    }
    std::vector<std::pair<double, int64_t>> nearness;  // the farthest first
    for (const int64_t m : unit) {
      double distance = 0;
      for (size_t d = 0; d < mean.size(); ++d)
        distance += std::pow(keys[begin + m][d] - mean[d], 2);
      nearness.emplace_back(-distance, m);
    }
    std::sort(nearness.begin(), nearness.end());
    nearness.resize(std::min(nearness.size(), static_cast<size_t>(options_.unit_representatives)));
    for (size_t c = 0; c < f.size(); ++c) {
      double sum = 0;
      for (const auto& [distance, m] : nearness) sum += f[c][m];
      of_units[c].push_back(sum / static_cast<double>(nearness.size()));
    }
  }
  const std::vector<double> scores = BlockScores(of_units, /*subtract_maximum=*/!decode);
  const std::vector<int64_t> selected =
      SelectTopK(scores, 0, options_.top_k / options_.unit_tokens);
  for (size_t u = 0; u < units.size(); ++u) {
    result->scores.insert(result->scores.end(), units[u].size(), scores[u]);
  }
  for (const int64_t u : selected) {
    for (const int64_t m : units[u]) result->selected.push_back(begin + m);
  }
}

BlockSelection ReferenceModel::Select(int64_t layer, const Matrix& queries, bool decode) const {
  BlockSelection result;
  result.begin = length_;
  result.end = length_ + queries.rows;
  const int64_t local_begin = std::max<int64_t>(0, result.begin - options_.local_tokens);
  if (options_.attention == ReferenceOptions::Attention::kDense) return result;
  if (local_begin <= options_.initial_tokens) return result;
  result.middle_begin = options_.initial_tokens;
  result.middle_end = local_begin;
  if (options_.attention == ReferenceOptions::Attention::kStreaming) return result;

  std::vector<std::vector<double>> f(queries.rows);  // [queries][|M|]
  for (int64_t i = 0; i < queries.rows; ++i) {
    const double* query = queries.row(i);
    std::vector<double> rotated;
    if (options_.rotates_score_queries) {
      rotated = Rotate(query, config_.num_heads, options_.far_position);
      query = rotated.data();
    }
    f[i] = Score(layer, query, result.middle_begin, result.middle_end);
  }
  if (options_.unit_tokens > 1) {
    SelectUnits(layer, f, decode, &result);
    return result;
  }
  const bool soft = options_.score == ReferenceOptions::Score::kSoftVote ||
                    options_.score == ReferenceOptions::Score::kGroupVote;
  result.scores =
      ProximityScores(BlockScores(f, /*subtract_maximum=*/!decode && !soft), options_.proximity);
  result.selected = SelectTopK(result.scores, result.middle_begin, options_.top_k);
  return result;
}

ReferenceModel::Matrix ReferenceModel::Attend(int64_t layer, const Matrix& queries,
                                              const BlockSelection& selection) const {
  // Key positions: `far` may be at one fixed distance, from `near_begin` on they are true.
  std::vector<int64_t> far;
  int64_t near_begin = 0;
  if (selection.middle_end > selection.middle_begin) {
    far.resize(selection.middle_begin);
    std::iota(far.begin(), far.end(), 0);
    std::optional<std::vector<int64_t>> selected;
    if (options_.forced_selection) selected = options_.forced_selection(layer, selection.begin);
    if (!selected.has_value()) selected = selection.selected;
    far.insert(far.end(), selected->begin(), selected->end());
    near_begin = selection.middle_end;
  }

  const LayerCache& cache = cache_[layer];
  const int64_t group = config_.num_heads / config_.num_kv_heads;
  const int64_t head_dim = config_.head_dim;
  const double longer = config_.rope.attention_factor;  // queries and keys, each
  const double scale = longer * longer / std::sqrt(static_cast<double>(head_dim));
  const auto& far_keys = options_.native_positions ? cache.rotated_keys : cache.keys;
  Matrix outputs{queries.rows, queries.cols, std::vector<double>(queries.values.size(), 0.0)};
  for (int64_t i = 0; i < queries.rows; ++i) {
    const int64_t position = selection.begin + i;
    const std::vector<double> near_query = Rotate(queries.row(i), config_.num_heads, position);
    const std::vector<double> far_query =
        Rotate(queries.row(i), config_.num_heads,
               options_.native_positions ? position : options_.far_position);
    std::vector<int64_t> attended = far;
    for (int64_t p = near_begin; p <= position; ++p) attended.push_back(p);

    for (int64_t head = 0; head < config_.num_heads; ++head) {
      const int64_t kv = head / group * head_dim;
      std::vector<double> weights;
      for (size_t j = 0; j < attended.size(); ++j) {
        const bool is_far = j < far.size();
        const double* query = (is_far ? far_query : near_query).data() + head * head_dim;
        const double* key = (is_far ? far_keys : cache.rotated_keys)[attended[j]].data() + kv;
        weights.push_back(scale * Dot(query, key, head_dim));
      }
      Softmax(&weights);
      double* output = outputs.row(i) + head * head_dim;
      for (size_t j = 0; j < attended.size(); ++j) {
        const double* value = cache.values[attended[j]].data() + kv;
        for (int64_t d = 0; d < head_dim; ++d) output[d] += weights[j] * value[d];
      }
    }
  }
  return outputs;
}

}  // namespace longspan
