#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/score_tiles.h"
#include "kernels/vote.h"

namespace longspan {
namespace {

typedef double Double __attribute__((vector_size(simd::kWidth * sizeof(double))));

simd::Float Exponential(simd::Float score, simd::Float maximum, float scale) {
  return simd::Exp((score - maximum) * simd::Broadcast(scale));
}

constexpr int kMostBits = 44;
// As many numbers from 0 to 1, all multiples of 2^-kMostBits, have an exact sum in double.
static_assert(kKeyTile <= int64_t{1} << (53 - kMostBits));

// Added and taken away again, it leaves a number from 0 to 1 rounded to a multiple of 2^-bits (as
// in Demmel and Nguyen, Fast Reproducible Floating-Point Summation, ARITH 2013).
double Rounder(int bits) { return std::ldexp(1.5, 52 - bits); }

void AddRounded(simd::Float exponential, double rounder, Double* sum) {
  const simd::Float number = exponential == exponential ? exponential : simd::Float{};
  *sum += (__builtin_convertvector(number, Double) + rounder) - rounder;
}

int64_t InUnits(double sum, int bits) { return static_cast<int64_t>(std::ldexp(sum, bits)); }

// votes[m] += weight * exponential, of the queries of one register tile.
void TileVotes(const FloatKeys& keys, int64_t dim, const float* queries, const float* maxima,
               const float* weights, float scale, simd::Float (*votes)[kTileVectors]) {
  ForEachRowTile(keys.count, [&]<int kRows>(int64_t first) {
    const auto tile = Scores<kRows>(keys, first, dim, queries);
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kTileVectors; ++v) {
        const int64_t lane = v * simd::kWidth;
        const simd::Float e = Exponential(tile.sum[r][v], simd::Load(maxima + lane), scale);
        simd::Float& vote = votes[first + r][v];
        vote = simd::MultiplyAdd(e, simd::Load(weights + lane), vote);
      }
    }
  });
}

// Calls f(scores, first, count) for vectors of scores; of the last, -inf where there are no more.
template <typename F>
void ForEachVector(const float* scores, int64_t count, F&& f) {
  for (int64_t m = 0; m < count; m += simd::kWidth) {
    float padded[simd::kWidth];
    const int64_t n = std::min<int64_t>(simd::kWidth, count - m);
    std::fill_n(padded, simd::kWidth, -std::numeric_limits<float>::infinity());
    std::copy_n(scores + m, n, padded);
    f(simd::Load(padded), m, n);
  }
}

}  // namespace

ScoreKeys SliceOf(const Voters& voters, int64_t voter, const ScoreKeys& keys) {
  ScoreKeys slice = keys;
  slice.stride = voters.key_dim();
  slice.data = static_cast<const std::byte*>(keys.data) +
               voter / voters.to_a_slice * voters.dim * SizeOf(keys.dtype);
  return slice;
}

int SumBits(int64_t keys) {
  return std::min(kMostBits, 62 - static_cast<int>(std::bit_width(static_cast<uint64_t>(keys))));
}

float VoteWeight(int64_t sum, int bits) {
  return sum == 0 ? 0 : static_cast<float>(1 / std::ldexp(static_cast<double>(sum), -bits));
}

void VoteSums(const VoteSumsArgs& args) {
  const double rounder = Rounder(args.bits);
  ForEachKeyTile(args.keys, args.dim, [&](const FloatKeys& keys) {
    for (int64_t lane = 0; lane < args.num_panels * kPanelLanes; lane += kTileLanes) {
      const float* queries =
          args.queries + lane / kPanelLanes * args.dim * kPanelLanes + lane % kPanelLanes;
      Double sums[kTileVectors] = {};
      ForEachRowTile(keys.count, [&]<int kRows>(int64_t first) {
        const auto tile = Scores<kRows>(keys, first, args.dim, queries);
        for (int r = 0; r < kRows; ++r) {
          for (int v = 0; v < kTileVectors; ++v) {
            const simd::Float maximum = simd::Load(args.maxima + lane + v * simd::kWidth);
            AddRounded(Exponential(tile.sum[r][v], maximum, args.scale), rounder, &sums[v]);
          }
        }
      });
      for (int i = 0; i < kTileLanes; ++i) {
        args.sums[lane + i] += InUnits(sums[i / simd::kWidth][i % simd::kWidth], args.bits);
      }
    }
  });
}

void VoteBlock(const VoteBlockArgs& args) {
  const Voters& voters = args.voters;
  const int64_t lanes = args.num_panels * kPanelLanes;
  ForEachKeyTile(args.keys, voters.key_dim(), [&](const FloatKeys& keys) {
    simd::Float best[kKeyTile];
    std::fill_n(best, keys.count, simd::Broadcast(-std::numeric_limits<float>::infinity()));
    for (int64_t lane = 0; lane < lanes; lane += kTileLanes) {
      simd::Float votes[kKeyTile][kTileVectors] = {};
      for (int64_t v = 0; v < voters.count; ++v) {
        FloatKeys slice = keys;
        slice.data += v / voters.to_a_slice * voters.dim;
        const float* queries = args.queries + v * lanes * voters.dim +
                               lane / kPanelLanes * voters.dim * kPanelLanes + lane % kPanelLanes;
        TileVotes(slice, voters.dim, queries, args.maxima + v * lanes + lane,
                  args.weights + v * lanes + lane, voters.scale, votes);
      }
      for (int64_t m = 0; m < keys.count; ++m) {
        for (const simd::Float& vote : votes[m]) best[m] = simd::Max(vote, best[m]);
      }
    }
    for (int64_t m = 0; m < keys.count; ++m) {
      const float score = HorizontalMax(best[m]);
      args.scores[keys.first + m] = score < 0 ? NAN : score;  // votes are not negative
    }
  });
}

int64_t VoteSum(const float* scores, int64_t count, float maximum, float scale, int bits) {
  const double rounder = Rounder(bits);
  int64_t total = 0;
  for (int64_t first = 0; first < count; first += kKeyTile) {
    Double sum = {};
    const auto add = [&](simd::Float score, int64_t, int64_t) {
      AddRounded(Exponential(score, simd::Broadcast(maximum), scale), rounder, &sum);
    };
    ForEachVector(scores + first, std::min(kKeyTile, count - first), add);
    for (int i = 0; i < simd::kWidth; ++i) total += InUnits(sum[i], bits);
  }
  return total;
}

void AddVotes(const float* scores, int64_t count, float maximum, float scale, float weight,
              float* votes) {
  ForEachVector(scores, count, [&](simd::Float score, int64_t m, int64_t n) {
    const simd::Float e = Exponential(score, simd::Broadcast(maximum), scale);
    float added[simd::kWidth];
    simd::Store(added, e);
    for (int i = 0; i < n; ++i) votes[m + i] = std::fma(added[i], weight, votes[m + i]);
  });
}

}  // namespace longspan
