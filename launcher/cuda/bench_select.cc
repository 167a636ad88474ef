#include <algorithm>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/merge.h"
#include "kernels/cuda/select.h"
#include "launcher/cuda/bench_inputs.h"
#include "launcher/cuda/bench_kernels.h"

namespace longspan {
namespace {

constexpr int64_t kScoreBytes = int64_t{256} << 20;  // of all variants

struct TopKCase {
  int rows;
  int64_t count;
};
constexpr TopKCase kTopKCases[] = {{1, 262'144}, {1, 1'048'576}, {16, 262'144}};
constexpr int kMergedRanks = 8;
constexpr int kMergeRuns = 16;  // of a graph, whose launch takes time too

absl::Status BenchTopKCase(KernelBench* bench, const TopKCase& c) {
  const int64_t scores_each = c.rows * c.count;
  const int64_t top_k = bench->shape.top_k;
  const int variants = CountVariants(kScoreBytes, scores_each * 4, /*most=*/256);
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer scores,
                            RandomNumbers(variants * scores_each, DType::kFloat32));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer candidates,
                            cuda::Buffer::Allocate(c.rows * top_k * 8));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer counts, cuda::Buffer::Allocate(c.rows * 4));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::SelectWorkspace workspace,
                            cuda::SelectWorkspace::Create(c.rows, c.count));
  BenchRow row;
  row.name = "top-k";
  row.shape = absl::StrCat(top_k, " of ", c.rows, " x ", c.count);
  row.batch = c.rows;
  row.context = c.count;
  row.work.bytes = 4.0 * static_cast<double>(scores_each);
  return bench->Add(std::move(row), variants, [&](int variant, cuda::Stream stream) {
    cuda::TopKArgs args;
    args.scores = scores.as<float>() + variant * scores_each;
    args.row_stride = args.count = c.count;
    args.rows = c.rows;
    args.top_k = top_k;
    args.selected = {candidates.as<Candidate>(), counts.as<int32_t>()};
    return cuda::TopK(args, workspace, stream);
  });
}

// [ranks, rows, top_k], ascending by position and no position twice in a row.
std::vector<Candidate> RandomCandidates(int64_t ranks, int64_t rows, int64_t top_k) {
  std::mt19937 generator(3);
  std::normal_distribution<float> normal;
  std::vector<Candidate> candidates;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = 0; i < top_k; ++i) {
        candidates.push_back(PackCandidate(normal(generator), i * ranks + rank));
      }
    }
  }
  return candidates;
}

}  // namespace

absl::Status BenchTopK(KernelBench* bench) {
  for (const TopKCase& c : kTopKCases) LONGSPAN_RETURN_IF_ERROR(BenchTopKCase(bench, c));
  return absl::OkStatus();
}

absl::Status BenchMerge(KernelBench* bench) {
  const int64_t rows = bench->options.batch;
  const int64_t top_k = bench->shape.top_k;
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer candidates,
                            Upload(RandomCandidates(kMergedRanks, rows, top_k)));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer selected, cuda::Buffer::Allocate(rows * top_k * 8));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer counts, cuda::Buffer::Allocate(rows * 4));
  LONGSPAN_ASSIGN_OR_RETURN(
      const cuda::Buffer workspace,
      cuda::Buffer::Allocate(cuda::MergeCandidatesWorkspaceBytes(kMergedRanks, rows, top_k)));
  BenchRow row;
  row.name = "merge candidates";
  row.shape = absl::StrCat(rows, " x ", kMergedRanks, " ranks x ", top_k);
  row.batch = rows;
  row.work.bytes = 8.0 * static_cast<double>((kMergedRanks + 1) * rows * top_k);
  // All of the same candidates: what ranks have just gathered is in the L2 cache.
  return bench->Add(std::move(row), kMergeRuns, [&](int, cuda::Stream stream) {
    cuda::MergeCandidatesArgs args;
    args.candidates = candidates.as<Candidate>();
    args.num_ranks = kMergedRanks;
    args.rows = rows;
    args.top_k = top_k;
    args.selected = selected.as<Candidate>();
    args.counts = counts.as<int32_t>();
    args.workspace = workspace.data();
    return cuda::MergeCandidates(args, stream);
  });
}

}  // namespace longspan
