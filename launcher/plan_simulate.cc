#include "launcher/plan_simulate.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"
#include "launcher/plan_report.h"
#include "runtime/memory_plan.h"

namespace longspan {
namespace {

constexpr uint64_t kSeed = 1;  // of selections

using Cells = std::vector<std::string>;
using OrderedJson = nlohmann::ordered_json;

const char* MergeName(MergeWay merge) {
  return merge == MergeWay::kAllGather ? "all_gather" : "histogram";
}

// Whether candidates of these blocks are merged, and in this way, whose prediction is given: blocks
// without far tokens merge nothing.
bool MergesBy(MergeWay merge, const JobShape& job, const std::vector<Range>& blocks,
              const Prediction& predicted) {
  const char* call = merge == MergeWay::kAllGather ? "select.candidates" : "select.winners";
  if (job.ranks() == 1 || !predicted.calls.contains(call)) return false;
  // GPUs make the same calls for blocks that have no more than they may take.
  const auto merged = std::count_if(blocks.begin(), blocks.end(), [&](const Range& block) {
    return job.backend == Backend::kGpu ||
           RangesOfBlock(job.layer.sizes, block).middle.size() > job.layer.top_k;
  });
  return MergeOf(job, merged) == merge;
}

absl::StatusOr<SimulatedRanks> Simulate(const PlanSubject& subject, MergeWay merge,
                                        const PlanSize& size) {
  SimulatedRanks row = {size.ranks, merge};
  const PlanSubject filled = WithBlocksForAll(subject, size.ranks);
  LONGSPAN_ASSIGN_OR_RETURN(const Config settled, SettleFor(filled, size));
  row.chunk_tokens = settled.prefill_chunk_tokens;
  const Range last = {(size.context - 1) / row.chunk_tokens * row.chunk_tokens, size.context};
  // A whole one, so that its time divides by its tokens, if there is one.
  const Range tokens = {std::max<int64_t>(0, last.begin - row.chunk_tokens),
                        last.begin > 0 ? last.begin : last.end};
  const JobShape asked = ShapeOf(filled, settled, size.ranks);
  JobShape job = asked;
  row.can_run = merge == MergeWay::kHistogram || job.backend == Backend::kCpu ||
                size.ranks <= kMostGatheringGpus;
  job.merge = merge;
  const SelectionSource select = DrawUniformly(job, kSeed);
  row.token =
      PredictDecode(subject.hardware, job, std::vector<int64_t>(size.batch, size.context), select);
  row.chunk =
      PredictChunk(subject.hardware, job, {tokens, size.context}, /*is_last=*/false, select);
  const Range newest = {size.context - 1, size.context};
  row.token_runs =
      row.can_run && MergesBy(merge, asked, std::vector(size.batch, newest), row.token);
  row.chunk_runs =
      row.can_run &&
      MergesBy(merge, asked, SelectionBlocks(tokens, job.model.block_tokens), row.chunk);
  return row;
}

const char* RunsText(const SimulatedRanks& row, bool runs) {
  return !row.can_run ? "cannot" : runs ? "yes" : "no";
}

// Columns for the phases that any row spends time on.
std::string PhaseTable(const std::vector<SimulatedRanks>& rows, Prediction SimulatedRanks::*what) {
  const bool of_chunk = what == &SimulatedRanks::chunk;
  std::vector<Cells> lines(1 + rows.size());
  lines[0] = {"ranks", "merge", "runs", of_chunk ? "chunk" : "token", "seconds"};
  for (size_t r = 0; r < rows.size(); ++r) {
    lines[r + 1] = {absl::StrCat(rows[r].ranks), MergeName(rows[r].merge),
                    RunsText(rows[r], of_chunk ? rows[r].chunk_runs : rows[r].token_runs),
                    of_chunk ? absl::StrCat(rows[r].chunk_tokens) : "1",
                    absl::StrFormat("%.4g", (rows[r].*what).seconds)};
  }
  for (int p = 0; p < kNumPhases; ++p) {
    const auto spends = [&](const SimulatedRanks& row) { return (row.*what).mean[p] > 0; };
    if (!std::any_of(rows.begin(), rows.end(), spends)) continue;
    lines[0].emplace_back(kPhaseNames[p]);
    for (size_t r = 0; r < rows.size(); ++r) {
      lines[r + 1].push_back(absl::StrFormat("%.3g", (rows[r].*what).mean[p]));
    }
  }
  return AlignCells(lines);
}

// Columns for all collectives: bytes through a rank's port, one way.
std::string BytesTable(const std::vector<SimulatedRanks>& rows, Prediction SimulatedRanks::*what) {
  std::set<std::string> names;
  for (const SimulatedRanks& row : rows) {
    for (const auto& [name, call] : (row.*what).calls) names.insert(name);
  }
  std::vector<Cells> lines = {{"ranks", "merge"}};
  lines[0].insert(lines[0].end(), names.begin(), names.end());
  for (const SimulatedRanks& row : rows) {
    Cells& cells = lines.emplace_back(Cells{absl::StrCat(row.ranks), MergeName(row.merge)});
    for (const std::string& name : names) {
      const auto found = (row.*what).calls.find(name);
      cells.push_back(found == (row.*what).calls.end()
                          ? ""
                          : FormatBytes(static_cast<int64_t>(found->second.bytes)));
    }
  }
  return AlignCells(lines);
}

}  // namespace

absl::StatusOr<std::vector<SimulatedRanks>> SimulateRanks(const PlanSubject& subject,
                                                          const std::vector<int64_t>& ranks,
                                                          int64_t context, int64_t batch,
                                                          const PlanProgress& progress) {
  std::vector<SimulatedRanks> rows;
  const auto total = static_cast<int64_t>(2 * ranks.size());
  for (const int64_t count : ranks) {
    for (const MergeWay merge : {MergeWay::kAllGather, MergeWay::kHistogram}) {
      LONGSPAN_ASSIGN_OR_RETURN(
          SimulatedRanks row, Simulate(subject, merge, {static_cast<int>(count), context, batch}));
      rows.push_back(std::move(row));
      progress(static_cast<int64_t>(rows.size()), total);
    }
  }
  return rows;
}

std::string SimulationTable(const std::vector<SimulatedRanks>& rows) {
  std::string note = "\nruns: whether the config comes to this merge of candidates";
  const auto cannot = [](const SimulatedRanks& row) { return !row.can_run; };
  if (std::any_of(rows.begin(), rows.end(), cannot)) {
    absl::StrAppend(&note, "\ncannot: no kernel merges what more than ", kMostGatheringGpus,
                    " GPUs gather; only the histogram runs there");
  }
  return absl::StrCat("\nSIMULATED. Seconds of a token, and of the mean rank by phase\n",
                      PhaseTable(rows, &SimulatedRanks::token),
                      "\nSeconds of a chunk, and of the mean rank by phase\n",
                      PhaseTable(rows, &SimulatedRanks::chunk),
                      "\nBytes of a token through a rank's port, one way\n",
                      BytesTable(rows, &SimulatedRanks::token),
                      "\nBytes of a chunk through a rank's port, one way\n",
                      BytesTable(rows, &SimulatedRanks::chunk), note, "\n");
}

OrderedJson SimulationJson(const std::vector<SimulatedRanks>& rows) {
  OrderedJson json = OrderedJson::array();
  for (const SimulatedRanks& row : rows) {
    json.push_back({{"ranks", row.ranks},
                    {"merge", MergeName(row.merge)},
                    {"can_run", row.can_run},
                    {"token_runs", row.token_runs},
                    {"chunk_runs", row.chunk_runs},
                    {"chunk_tokens", row.chunk_tokens},
                    {"token", PredictionJson(row.token)},
                    {"chunk", PredictionJson(row.chunk)}});
  }
  return json;
}

}  // namespace longspan
