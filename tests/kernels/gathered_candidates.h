#ifndef LONGSPAN_TESTS_KERNELS_GATHERED_CANDIDATES_H_
#define LONGSPAN_TESTS_KERNELS_GATHERED_CANDIDATES_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "sharding/topk_merge.h"
#include "tests/kernels/kernel_testing.h"

namespace longspan::cuda {

using Score = std::function<float()>;

// Candidates of all ranks, [num_ranks, rows, top_k].
struct Gathered {
  int num_ranks = 1;
  int64_t rows = 1;
  int64_t top_k = 1;
  std::vector<Candidate> words = std::vector<Candidate>(num_ranks * rows * top_k);

  Candidate* List(int rank, int64_t row) { return words.data() + (rank * rows + row) * top_k; }

  // Candidates of one row: sizes[rank] each, at positions from `first` on that are at most `step`
  // apart.
  void Fill(Random* random, int64_t row, const std::vector<int64_t>& sizes, int64_t first,
            int64_t step, const Score& score) {
    std::vector<int> owners;  // of the candidates in order of position
    for (int rank = 0; rank < num_ranks; ++rank) owners.insert(owners.end(), sizes[rank], rank);
    std::shuffle(owners.begin(), owners.end(), random->engine());
    std::vector<int64_t> placed(num_ranks);
    int64_t position = first - 1;
    for (const int rank : owners) {
      position += random->Integer(1, step);
      List(rank, row)[placed[rank]++] = PackCandidate(score(), position);
    }
  }

  // The k first, ascending by position.
  std::vector<Candidate> Expected(int64_t row) {
    std::vector<Candidate> all;
    for (int rank = 0; rank < num_ranks; ++rank) {
      all.insert(all.end(), List(rank, row), List(rank, row) + top_k);
    }
    std::erase(all, Candidate{0});
    std::sort(all.begin(), all.end(), std::greater<>());
    if (static_cast<int64_t>(all.size()) > top_k) all.resize(top_k);
    std::sort(all.begin(), all.end(),
              [](Candidate a, Candidate b) { return PositionOf(a) < PositionOf(b); });
    return all;
  }
};

}  // namespace longspan::cuda

#endif  // LONGSPAN_TESTS_KERNELS_GATHERED_CANDIDATES_H_
