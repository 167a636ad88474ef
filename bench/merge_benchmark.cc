// One merge of candidates by either way (runtime/candidate_merge.h), on ranks as threads: what it
// costs where ranks share cores is no figure for ranks that have their own.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "collectives/thread_communicator.h"
#include "kernels/base/status_macros.h"
#include "runtime/candidate_merge.h"

namespace longspan {
namespace {

constexpr int64_t kTopK = 2048;
constexpr int kMerges = 20;

// top_k candidates of each row, as if the rank had that many times ranks tokens of the middle.
std::vector<Candidate> MakeCandidates(int rank, int ranks, int64_t rows) {
  std::mt19937_64 random(rank);
  std::normal_distribution<float> scores(40, 15);
  std::vector<Candidate> candidates;
  for (int64_t i = 0; i < rows * kTopK; ++i) {
    candidates.push_back(PackCandidate(scores(random), i % kTopK * ranks + rank));
  }
  return candidates;
}

void BM_Merge(benchmark::State& state, MergeWay way) {
  const auto ranks = static_cast<int>(state.range(0));
  const int64_t rows = state.range(1);
  absl::Duration merging;
  double histograms = 0;
  const auto merge = [&](Communicator& communicator) -> absl::Status {
    AttentionContext context;
    context.communicator = &communicator;
    context.layout = {1, ranks};
    context.selects = true;
    context.esa.top_k = kTopK;
    context.merge = way;
    std::vector<Candidate> mine = MakeCandidates(communicator.rank(), ranks, rows);
    LONGSPAN_RETURN_IF_ERROR(communicator.Barrier("begin"));
    const absl::Time begin = absl::Now();
    for (int i = 0; i < kMerges; ++i) {
      LONGSPAN_RETURN_IF_ERROR(MergeCandidates(context, absl::MakeSpan(mine), rows).status());
    }
    LONGSPAN_RETURN_IF_ERROR(communicator.Barrier("end"));
    if (communicator.rank() != 0) return absl::OkStatus();
    merging = (absl::Now() - begin) / kMerges;
    const auto found = communicator.stats().find("select.histograms");
    if (found != communicator.stats().end()) {
      histograms = static_cast<double>(found->second.calls) / kMerges;
    }
    return absl::OkStatus();
  };
  for (auto _ : state) {
    const absl::Status ran = RunThreadRanks(ranks, merge);
    if (!ran.ok()) state.SkipWithError(std::string(ran.message()).c_str());
    state.SetIterationTime(absl::ToDoubleSeconds(merging));
  }
  state.counters["histograms"] = histograms;
}

void RanksAndRows(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"ranks", "rows"})->ArgsProduct({{2, 8}, {1, 8}});
  benchmark->UseManualTime()->Unit(benchmark::kMicrosecond)->Iterations(5);
}

BENCHMARK_CAPTURE(BM_Merge, all_gather, MergeWay::kAllGather)->Apply(RanksAndRows);
BENCHMARK_CAPTURE(BM_Merge, histogram, MergeWay::kHistogram)->Apply(RanksAndRows);

}  // namespace
}  // namespace longspan
