#include "runtime/vote_scores.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/base/status_macros.h"
#include "kernels/vote.h"
#include "runtime/layer_collectives.h"

namespace longspan {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// What all ranks agree on, of blocks or tokens one after the other. Hard votes have no weights, and
// one maximum for all voters. [blocks][voters, lanes], or [tokens][voters]
struct Agreed {
  std::vector<float> maxima;
  std::vector<float> weights;
};

const float* Panels(const Voters& voters, const ScoredBlock& block, int64_t voter) {
  return block.panels.data() + voter * block.lanes() * voters.dim;
}

int64_t CountLanes(absl::Span<const ScoredBlock> blocks) {
  int64_t lanes = 0;
  for (const ScoredBlock& block : blocks) lanes += block.lanes();
  return lanes;
}

absl::Status AgreeOnMaxima(const AttentionContext& context, const ScoreSource& source,
                           absl::Span<const ScoredBlock> blocks, std::vector<float>* maxima) {
  const Voters& voters = context.voters;
  const Collective reduction = ReduceVoterMaxima(LayerShapeOf(context), CountLanes(blocks));
  maxima->assign(CountLanes(blocks) * (voters.soft ? voters.count : 1), -kInfinity);
  float* next = maxima->data();
  for (const ScoredBlock& block : blocks) {
    const int64_t of_voter = voters.soft ? block.lanes() : 0;
    for (const Range& run : source.Runs(block.middle)) {
      for (int64_t v = 0; v < voters.count; ++v) {
        ScoreMaximaArgs args;
        args.queries = Panels(voters, block, v);
        args.num_panels = block.num_panels();
        args.dim = voters.dim;
        args.keys = SliceOf(voters, v, source.keys(run, run));
        args.maxima = next + v * of_voter;
        ScoreMaxima(args);
      }
    }
    next += voters.soft ? voters.count * block.lanes() : block.lanes();
    context.communicator->Progress();
  }
  return AllReduceMax(context.communicator, reduction, maxima);
}

absl::Status AgreeOnWeights(const AttentionContext& context, const ScoreSource& source,
                            absl::Span<const ScoredBlock> blocks, Agreed* agreed) {
  const Voters& voters = context.voters;
  std::vector<int64_t> sums(agreed->maxima.size(), 0);
  size_t at = 0;
  for (const ScoredBlock& block : blocks) {
    for (const Range& run : source.Runs(block.middle)) {
      for (int64_t v = 0; v < voters.count; ++v) {
        VoteSumsArgs args;
        args.queries = Panels(voters, block, v);
        args.num_panels = block.num_panels();
        args.dim = voters.dim;
        args.keys = SliceOf(voters, v, source.keys(run, run));
        args.maxima = agreed->maxima.data() + at + v * block.lanes();
        args.scale = voters.scale;
        args.bits = SumBits(block.middle.size());
        args.sums = sums.data() + at + v * block.lanes();
        VoteSums(args);
      }
    }
    at += voters.count * block.lanes();
    context.communicator->Progress();
  }
  LONGSPAN_RETURN_IF_ERROR(AllReduceSum(
      context.communicator, ReduceVoterSums(LayerShapeOf(context), CountLanes(blocks)), &sums));
  agreed->weights.assign(sums.size(), std::nanf(""));  // of lanes without a query
  at = 0;
  for (const ScoredBlock& block : blocks) {
    const int bits = SumBits(block.middle.size());
    for (int64_t v = 0; v < voters.count; ++v, at += block.lanes()) {
      for (int64_t c = 0; c < block.count; ++c) {
        agreed->weights[at + c] = VoteWeight(sums[at + c], bits);
      }
    }
  }
  return absl::OkStatus();
}

// F of keys by the largest of the heads' scores.
void ScoreByMaximum(const Voters& voters, const ScoredBlock& block, const ScoreKeys& keys,
                    const float* maxima, float* out) {
  std::vector<float> of_voter(keys.count);
  for (int64_t v = 0; v < voters.count; ++v) {
    ScoreBlockArgs args;
    args.queries = Panels(voters, block, v);
    args.num_queries = block.count;
    args.dim = voters.dim;
    args.keys = SliceOf(voters, v, keys);
    args.maxima = maxima;
    args.scores = v == 0 ? out : of_voter.data();
    ScoreBlock(args);
    if (v == 0) continue;
    for (int64_t m = 0; m < keys.count; ++m) out[m] = MaxScore(out[m], of_voter[m]);
  }
}

// Calls f(voter, scores) with what each voter scores of this rank's part of the middle, run by run.
template <typename F>
void ForEachVote(const Voters& voters, const ScoredToken& token, F&& f) {
  std::vector<float> scores;
  for (const Range& run : token.source.Runs(token.middle)) {
    scores.resize(run.size());
    for (int64_t v = 0; v < voters.count; ++v) {
      ScoreToken(token.query + v * voters.dim, voters.dim,
                 SliceOf(voters, v, token.source.keys(run, run)), scores.data());
      f(v, scores);
    }
  }
}

absl::Status AgreeOnVotes(const AttentionContext& context, absl::Span<const ScoredToken> tokens,
                          Agreed* agreed) {
  const Voters& voters = context.voters;
  const auto rows = static_cast<int64_t>(tokens.size());
  const LayerShape shape = LayerShapeOf(context);
  agreed->maxima.assign(rows * voters.count, -kInfinity);
  for (int64_t t = 0; t < rows; ++t) {
    ForEachVote(voters, tokens[t], [&](int64_t v, const std::vector<float>& scores) {
      float& best = agreed->maxima[t * voters.count + v];
      for (const float score : scores) best = score > best ? score : best;
    });
  }
  LONGSPAN_RETURN_IF_ERROR(
      AllReduceMax(context.communicator, ReduceVoterMaxima(shape, rows), &agreed->maxima));
  std::vector<int64_t> sums(agreed->maxima.size(), 0);
  for (int64_t t = 0; t < rows; ++t) {
    const int bits = SumBits(tokens[t].middle.size());
    ForEachVote(voters, tokens[t], [&](int64_t v, const std::vector<float>& scores) {
      const int64_t i = t * voters.count + v;
      sums[i] += VoteSum(scores.data(), static_cast<int64_t>(scores.size()), agreed->maxima[i],
                         voters.scale, bits);
    });
  }
  LONGSPAN_RETURN_IF_ERROR(AllReduceSum(context.communicator, ReduceVoterSums(shape, rows), &sums));
  for (size_t i = 0; i < sums.size(); ++i) {
    agreed->weights.push_back(VoteWeight(sums[i], SumBits(tokens[i / voters.count].middle.size())));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ScoreBlocksByVotes(const AttentionContext& context, const ScoreSource& source,
                                absl::Span<const ScoredBlock> blocks, Candidate* candidates) {
  const Voters& voters = context.voters;
  Agreed agreed;
  LONGSPAN_RETURN_IF_ERROR(AgreeOnMaxima(context, source, blocks, &agreed.maxima));
  if (voters.soft) LONGSPAN_RETURN_IF_ERROR(AgreeOnWeights(context, source, blocks, &agreed));
  int64_t at = 0;
  for (const ScoredBlock& block : blocks) {
    float* maxima = agreed.maxima.data() + at;
    const auto vote = [&](Range run, Range range, float* out) {
      VoteBlock({voters, block.panels.data(), block.num_panels(), source.keys(run, range), maxima,
                 agreed.weights.data() + at, out});
    };
    const auto largest = [&](Range run, Range range, float* out) {
      ScoreByMaximum(voters, block, source.keys(run, range), maxima, out);
    };
    if (voters.soft) {
      LocalTopK(source, block.middle, vote, candidates);
    } else {
      std::fill(maxima + block.count, maxima + block.lanes(), kInfinity);
      LocalTopK(source, block.middle, largest, candidates);
    }
    at += voters.soft ? voters.count * block.lanes() : block.lanes();
    candidates += source.top_k;
    context.communicator->Progress();
  }
  return absl::OkStatus();
}

absl::Status ScoreTokensByVotes(const AttentionContext& context,
                                absl::Span<const ScoredToken> tokens, Candidate* candidates) {
  const Voters& voters = context.voters;
  Agreed agreed;
  if (voters.soft) LONGSPAN_RETURN_IF_ERROR(AgreeOnVotes(context, tokens, &agreed));
  std::vector<float> of_voter;
  for (size_t t = 0; t < tokens.size(); ++t) {
    const ScoredToken& token = tokens[t];
    const auto score = [&](Range run, Range range, float* out) {
      const ScoreKeys keys = token.source.keys(run, range);
      of_voter.resize(keys.count);
      std::fill_n(out, keys.count, voters.soft ? 0.0f : std::nanf(""));
      for (int64_t v = 0; v < voters.count; ++v) {
        ScoreToken(token.query + v * voters.dim, voters.dim, SliceOf(voters, v, keys),
                   of_voter.data());
        const size_t i = t * voters.count + v;
        if (voters.soft) {
          AddVotes(of_voter.data(), keys.count, agreed.maxima[i], voters.scale, agreed.weights[i],
                   out);
          continue;
        }
        for (int64_t m = 0; m < keys.count; ++m) out[m] = MaxScore(out[m], of_voter[m]);
      }
    };
    LocalTopK(token.source, token.middle, score, candidates + t * token.source.top_k);
  }
  return absl::OkStatus();
}

}  // namespace longspan
