#include "sharding/layer_program.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "sharding/digit_select.h"
#include "sharding/histogram_select.h"
#include "sharding/topk_merge.h"
#include "sharding/units.h"

namespace longspan {
namespace {

constexpr auto kFloat = static_cast<int64_t>(sizeof(float));
constexpr auto kCount = static_cast<int64_t>(sizeof(uint32_t));
constexpr auto kCandidate = static_cast<int64_t>(sizeof(Candidate));

Work BytesOnly(int64_t bytes) { return {static_cast<double>(bytes), 0}; }

// One selection block, or one decoded token.
struct Block {
  Range tokens;
  int rank = 0;  // owner of its queries
  AttentionRanges ranges;
  std::vector<int64_t> selected;
};

// Builds a program op by op.
class Builder {
 public:
  explicit Builder(const JobShape& job) : job_(job) {}

  LayerProgram Take() { return std::move(program_); }

  void Add(Phase phase, decltype(LayerOp::what) what) {
    program_.push_back({phase, std::move(what)});
  }
  // The same work on all ranks.
  void AddEverywhere(Phase phase, Kernel kernel, const Work& work) {
    Add(phase, Compute{kernel, std::vector<Work>(job_.ranks(), work)});
  }
  template <typename F>
  void AddCompute(Phase phase, Kernel kernel, F&& work_of_rank) {
    Compute compute = {kernel, std::vector<Work>(job_.ranks())};
    for (int r = 0; r < job_.ranks(); ++r) compute.work[r] = work_of_rank(r);
    Add(phase, std::move(compute));
  }

  // Products for the tokens that each rank owns.
  void AddProducts(absl::Span<const Block> blocks, Work (*work)(const ModelShape&, int64_t)) {
    std::vector<int64_t> rows(job_.ranks(), 0);
    for (const Block& block : blocks) rows[block.rank] += block.tokens.size();
    AddCompute(Phase::kLinear, Kernel::kLinear,
               [&](int r) { return rows[r] > 0 ? work(job_.model, rows[r]) : Work{}; });
  }

  void AddHalos(const ChunkShape& chunk) {
    const LayerShape& layer = job_.layer;
    if (layer.score_row_bytes == 0 || layer.halo == 0) return;
    // A GPU that is alone has stored its own halos, but not those of cached tokens.
    if (job_.backend == Backend::kGpu && job_.ranks() == 1 && !chunk.behind_cached) return;
    const std::vector<HaloMove> moves =
        HaloMoves(layer.layout, layer.halo, chunk.tokens, chunk.capacity, chunk.behind_cached);
    Add(Phase::kOtherExchange, ExchangeHalos(layer, moves));
  }

  void AddSelection(absl::Span<const Block> blocks) {
    if (job_.layer.top_k == 0) return;
    if (job_.backend == Backend::kGpu) return AddSelectionOnGpu(blocks);
    std::vector<Block> selecting;
    for (const Block& block : blocks) {
      if (block.ranges.middle.size() > job_.layer.top_k) selecting.push_back(block);
    }
    if (selecting.empty()) return;
    std::vector<SelectingBlock> sizes;
    for (const Block& block : selecting) {
      sizes.push_back({block.rank, block.tokens.size(), UnitsOf(block)});
    }
    Add(Phase::kQueryGather, GatherQueries(job_.layer, sizes));
    if (job_.layer.voters > 0) {
      AddVotes(Kernel::kScore, selecting, CountLanes(job_.layer, sizes), /*has_maxima=*/true);
      return AddMerge(selecting);
    }
    AddUnits(selecting);
    absl::Span<const Block> rest = selecting;
    for (const MaximaGroup& group : GroupMaxima(job_.layer, sizes)) {
      const absl::Span<const Block> of_group = rest.first(group.tile_keys.size());
      rest.remove_prefix(of_group.size());
      AddScores(Kernel::kScore, of_group);
      Add(Phase::kMaxima, ReduceMaxima(group));
      Add(Phase::kMaxima, ReduceThresholds(group));
      AddLocalTopK(of_group);
    }
    AddMerge(selecting);
  }

  // Each rank makes the keys of its units, of the longest middle: a mean, and distances from it.
  void AddUnits(absl::Span<const Block> blocks) {
    if (job_.layer.unit_tokens == 1) return;
    AddCompute(Phase::kScore, Kernel::kScore, [&](int r) {
      return ScoreWork(job_.model, job_.layer.layout.CountOwned(r, blocks.back().ranges.middle), 2);
    });
  }

  // One pass over the keys of each rank.
  void AddScores(Kernel kernel, absl::Span<const Block> blocks) {
    AddCompute(Phase::kScore, kernel, [&](int r) {
      Work work;
      for (const Block& block : blocks) work = work + ScoresOf(block, r);
      return work;
    });
  }

  // A pass for each thing that voters must agree on, and one for the scores. GPUs keep a decoded
  // token's products with the keys, and read those instead.
  void AddVotes(Kernel kernel, absl::Span<const Block> blocks, int64_t queries, bool has_maxima) {
    const bool on_gpu = job_.backend == Backend::kGpu;
    const auto pass = [&] { on_gpu ? AddVoteProducts(blocks) : AddScores(kernel, blocks); };
    if (on_gpu) AddScores(kernel, blocks);
    if (has_maxima) {
      pass();
      AddAgreement(ReduceVoterMaxima(job_.layer, queries));
    }
    if (job_.layer.soft_votes) {
      pass();
      AddAgreement(ReduceVoterSums(job_.layer, queries));
    }
    pass();
    AddLocalTopK(blocks);
  }

  // Candidates become the selection that all ranks know.
  void AddMerge(absl::Span<const Block> blocks) {
    const auto rows = static_cast<int64_t>(blocks.size());
    const int64_t of_rank = rows * job_.layer.picks() * kCandidate;
    if (MergeOf(job_, rows) == MergeWay::kAllGather) {
      Add(Phase::kCandidateMerge, GatherCandidates(job_.layer, rows));
      return AddEverywhere(Phase::kCandidateMerge, Kernel::kMerge,
                           BytesOnly(of_rank * job_.ranks()));
    }
    if (job_.backend == Backend::kGpu) return AddHistogramOnGpu(rows);
    Add(Phase::kCandidateMerge,
        Collective{CollectiveKind::kAllReduceMax, "select.ranges", {rows * 2 * kFloat}, {}});
    for (int i = 0; i < job_.histogram.histograms; ++i) {
      AddEverywhere(Phase::kCandidateMerge, Kernel::kMerge, BytesOnly(of_rank));
      AddMergeSum("select.histograms", rows * kHistogramBins * kCount);
    }
    AddMergeSum("select.counts", rows * job_.ranks() * kCount);
    const int64_t winners = rows * (job_.layer.picks() + job_.histogram.excess) * kCandidate;
    AddMergeSum("select.winners", winners);
    AddEverywhere(Phase::kCandidateMerge, Kernel::kMerge, BytesOnly(winners));
  }

  // What each rank's own top-k reads: the scores of its keys.
  void AddLocalTopK(absl::Span<const Block> blocks) {
    AddCompute(Phase::kScore, Kernel::kSelect, [&](int r) {
      int64_t scores = 0;
      for (const Block& block : blocks) {
        scores += OwnedUnits(block, r);
      }
      return BytesOnly(scores * kFloat);
    });
  }

  void AddAttention(absl::Span<const Block> blocks) {
    std::vector<BlockKeys> keys;
    for (const Block& block : blocks) {
      keys.push_back(ReadsOf(block.tokens, block.rank, block.ranges, block.selected));
    }
    const LayerShape& layer = job_.layer;
    if (job_.backend == Backend::kGpu) return AddKeyGroups(keys);
    if (ChooseMoving(layer, keys) == Moving::kKeys) return AddKeyRing(keys, kPromptRingSteps);
    constexpr int64_t kAll = std::numeric_limits<int64_t>::max();
    RingOfQueries ring = {QueriesByRank(job_.ranks(), keys), {}, layer.token, CostOfAttention()};
    std::vector<RingTraffic> rounds = TrafficOfRing(layer.layout, keys, kAll);
    if (!rounds.empty()) ring.reads = std::move(rounds[0]);
    Add(Phase::kRingWait, std::move(ring));
  }

  void AddKeyRing(absl::Span<const BlockKeys> keys, int64_t min_steps) {
    const LayerShape& layer = job_.layer;
    Add(Phase::kRingWait,
        RingOfKeys{TrafficOfRing(layer.layout, keys, layer.limits.ring_round_tokens, min_steps),
                   layer.token.key_value, layer.deterministic, CostOfAttention(),
                   ListedKeys(keys)});
  }

  void AddKeyGroups(absl::Span<const BlockKeys> keys) {
    GroupsOfKeys ring;
    std::vector<int> owners;
    for (const BlockKeys& block : keys) owners.push_back(block.rank);
    std::vector<std::vector<Range>> brought;
    for (const std::vector<size_t>& members : RingGroups(owners, job_.ranks(), job_.ring_groups)) {
      GroupsOfKeys::Group& group = ring.groups.emplace_back();
      group.exchange = {CollectiveKind::kExchange, "ring.keys", {}, {}};
      group.attend.resize(job_.ranks());
      std::vector<BlockKeys> reads;
      for (const size_t b : members) {
        reads.push_back(keys[b]);
        ring.listed_keys += static_cast<int64_t>(keys[b].far.size());
        group.attend[keys[b].rank] = group.attend[keys[b].rank] + AttentionOf(keys[b]);
      }
      for (const RingShare& share : TrafficOfGroup(job_.layer.layout, reads, &brought).shares) {
        if (share.reader == share.owner) continue;
        group.exchange.messages.push_back(
            {share.owner, share.reader, share.tokens * job_.layer.token.key_value});
      }
    }
    // Alone with its pages on the device, a GPU reads them where they are.
    if (job_.ranks() == 1) {
      for (const GroupsOfKeys::Group& group : ring.groups) {
        Add(Phase::kAttend, Compute{Kernel::kAttend, group.attend});
      }
      return;
    }
    Add(Phase::kRingWait, std::move(ring));
  }

  void AddOwnAttention(absl::Span<const Block> tokens) {
    std::vector<Work> work(job_.ranks());
    for (const Block& token : tokens) {
      const BlockKeys keys = ReadsOf(token.tokens, 0, token.ranges, token.selected);
      std::vector<int64_t> own(job_.ranks(), 0);
      const auto runs = RunsByReader(1, {&keys, 1});
      for (const Range& run : runs[0]) {
        ForEachOwner(job_.layer.layout, run, [&](int rank, int64_t count) { own[rank] += count; });
      }
      for (int r = 0; r < job_.ranks(); ++r) {
        const auto count = static_cast<double>(own[r]);
        work[r] = work[r] + AttendWork(job_.model, count, count);
      }
    }
    Add(Phase::kAttend, Compute{Kernel::kAttendToken, std::move(work)});
  }

  // Of `block`, on `rank`.
  Work ScoresOf(const Block& block, int rank) const {
    return ScoreWork(job_.model, OwnedUnits(block, rank), block.tokens.size());
  }

 private:
  // Of the block's middle.
  Range UnitsOf(const Block& block) const {
    return longspan::UnitsOf(block.ranges.middle, job_.layer.unit_tokens);
  }
  int64_t OwnedUnits(const Block& block, int rank) const {
    return LayoutOfUnits(job_.layer.layout, job_.layer.unit_tokens)
        .CountOwned(rank, UnitsOf(block));
  }

  // A GPU that is alone has nobody to agree with.
  void AddAgreement(Collective reduction) {
    if (job_.backend == Backend::kGpu && job_.ranks() == 1) return;
    Add(Phase::kMaxima, std::move(reduction));
  }

  // One pass over the products that voters have made of each rank's keys; of none without voters.
  void AddVoteProducts(absl::Span<const Block> tokens) {
    if (job_.layer.voters == 0) return;
    AddCompute(Phase::kScore, Kernel::kSelect, [&](int r) {
      int64_t keys = 0;
      for (const Block& token : tokens) keys += OwnedUnits(token, r);
      return BytesOnly(keys * job_.layer.voters * kFloat);
    });
  }

  void AddMergeSum(std::string_view name, int64_t bytes) {
    Add(Phase::kCandidateMerge, Collective{CollectiveKind::kAllReduceSum, name, {bytes}, {}});
  }

  void AddHistogramOnGpu(int64_t rows) {
    const int64_t candidates = rows * job_.layer.top_k;
    // Reads all candidates and the sums of the digit before, and writes counts or places.
    const auto look = [&](int64_t read, int64_t written) {
      AddEverywhere(Phase::kCandidateMerge, Kernel::kMerge,
                    BytesOnly(candidates * kCandidate + read + written));
    };
    int64_t counted = 0;
    for (int digit = 0; digit < kDigits; ++digit) {
      const int64_t counts = rows * DigitSums(digit, job_.ranks()) * kCount;
      look(counted, counts);
      AddMergeSum("select.histograms", counts);
      counted = counts;
    }
    look(counted, candidates * kCount);
    AddMergeSum("select.winners", candidates * kCount);
    AddEverywhere(Phase::kCandidateMerge, Kernel::kMerge, BytesOnly(candidates * kCount));
  }

  void AddSelectionOnGpu(absl::Span<const Block> blocks) {
    std::vector<int64_t> rows(job_.ranks(), 0);
    Range hull;  // of all middles
    for (const Block& block : blocks) {
      rows[block.rank] +=
          (block.tokens.size() + job_.panel_rows - 1) / job_.panel_rows * job_.panel_rows;
      const Range middle = block.ranges.middle;
      if (middle.empty()) continue;
      hull = hull.empty()
                 ? middle
                 : Range{std::min(hull.begin, middle.begin), std::max(hull.end, middle.end)};
    }
    if (hull.empty()) return;
    const int64_t most = *std::max_element(rows.begin(), rows.end());
    if (job_.ranks() > 1) {
      const int64_t bytes = most * job_.layer.query_row_bytes;
      Add(Phase::kQueryGather, Collective{CollectiveKind::kAllGather,
                                          "select.queries",
                                          std::vector<int64_t>(job_.ranks(), bytes),
                                          {}});
    }
    const auto pass = [&](int r) {
      Work work;
      for (const Block& block : blocks) work.flops += ScoresOf(block, r).flops;
      work.bytes = ScoreWork(job_.model, job_.layer.layout.CountOwned(r, hull), 1).bytes;
      return work;
    };
    const int64_t queries = job_.ranks() * most;
    AddCompute(Phase::kScore, Kernel::kScore, pass);
    AddAgreement(ReduceVoterMaxima(job_.layer, queries));
    if (job_.layer.soft_votes) {
      AddCompute(Phase::kScore, Kernel::kScore, pass);
      AddAgreement(ReduceVoterSums(job_.layer, queries));
    }
    AddCompute(Phase::kScore, Kernel::kScore, pass);
    AddLocalTopK(blocks);
    if (job_.ranks() > 1) AddMerge(blocks);
  }

  static int64_t ListedKeys(absl::Span<const BlockKeys> blocks) {
    int64_t keys = 0;
    for (const BlockKeys& block : blocks) {
      keys += static_cast<int64_t>(block.far.size()) + block.near.size();
    }
    return keys;
  }

  AttentionCost CostOfAttention() const {
    return {AttendWork(job_.model, 1, 0), AttendWork(job_.model, 0, 1)};
  }

  Work AttentionOf(const BlockKeys& block) const {
    const auto reads = static_cast<double>(ListedKeys({&block, 1}));
    const double pairs = PairsWith(block, block.near) +
                         static_cast<double>(block.queries) * static_cast<double>(block.far.size());
    return AttendWork(job_.model, reads, pairs);
  }

  const JobShape& job_;
  LayerProgram program_;
};

Block MakeBlock(const JobShape& job, Range tokens, const SelectionSource& select) {
  Block block = {
      tokens, job.layer.layout.owner(tokens.begin), RangesOfBlock(job.layer.sizes, tokens), {}};
  if (job.layer.top_k > 0 && !block.ranges.middle.empty()) {
    block.selected = select(tokens, block.ranges.middle);
  }
  return block;
}

}  // namespace

MergeWay MergeOf(const JobShape& job, int64_t rows) {
  return job.merge.value_or(CheaperMerge(job.backend, job.ranks(), rows, job.layer.picks()));
}

LayerProgram PrefillProgram(const JobShape& job, const ChunkShape& chunk, int64_t blocks_out,
                            const SelectionSource& select) {
  Builder builder(job);
  const std::vector<Range> ranges = SelectionBlocks(chunk.tokens, job.model.block_tokens);
  const size_t first_out = ranges.size() - blocks_out;
  std::vector<Block> blocks, out;
  for (size_t b = 0; b < ranges.size(); ++b) {
    blocks.push_back({ranges[b], job.layer.layout.owner(ranges[b].begin), {}, {}});
    if (b >= first_out) out.push_back(MakeBlock(job, ranges[b], select));
  }
  builder.AddProducts(blocks, KeyValueWork);
  builder.AddHalos(chunk);
  if (out.empty()) return builder.Take();
  builder.AddSelection(out);
  builder.AddAttention(out);
  builder.AddProducts(out, OtherLinearWork);
  return builder.Take();
}

LayerProgram DecodeProgram(const JobShape& job, absl::Span<const int64_t> positions,
                           const SelectionSource& select) {
  Builder builder(job);
  const auto rows = static_cast<int64_t>(positions.size());
  std::vector<Block> tokens, selecting;
  for (const int64_t position : positions) {
    tokens.push_back(MakeBlock(job, {position, position + 1}, select));
    // GPUs make the same calls for tokens of all lengths.
    if (job.layer.top_k > 0 &&
        (job.backend == Backend::kGpu || tokens.back().ranges.middle.size() > job.layer.top_k)) {
      selecting.push_back(tokens.back());
    }
  }
  builder.AddEverywhere(Phase::kLinear, Kernel::kLinearFew, LayerLinearWork(job.model, rows));
  if (!selecting.empty()) {
    for (const Block& token : selecting) builder.AddUnits({&token, 1});
    // A decoded token's one maximum changes no order.
    builder.AddVotes(Kernel::kScoreToken, selecting, static_cast<int64_t>(selecting.size()),
                     /*has_maxima=*/job.layer.soft_votes);
    if (job.backend == Backend::kCpu || job.ranks() > 1) builder.AddMerge(selecting);
  }
  const bool gpu = job.backend == Backend::kGpu;
  if (!job.layer.deterministic) {
    builder.AddOwnAttention(tokens);
    if (gpu && job.ranks() == 1) return builder.Take();
    Collective partials = GatherPartials(job.layer, rows);
    if (gpu) partials.name = "attend.partials";
    const Work combine = BytesOnly(partials.TotalBytes());
    builder.Add(Phase::kPartialMerge, std::move(partials));
    builder.AddEverywhere(Phase::kPartialMerge, Kernel::kCombine, combine);
    return builder.Take();
  }
  for (const Block& token : tokens) {
    BlockKeys keys = ReadsOf(token.tokens, token.rank, token.ranges, token.selected);
    if (gpu) {
      builder.AddKeyGroups({&keys, 1});
      continue;
    }
    std::vector<BlockKeys> copies(job.ranks(), keys);
    for (int r = 0; r < job.ranks(); ++r) copies[r].rank = r;
    builder.AddKeyRing(copies, /*min_steps=*/1);
  }
  if (gpu && job.ranks() > 1) {
    const std::vector<int64_t> bytes(job.ranks(), rows * job.output_row_bytes);
    builder.Add(Phase::kPartialMerge,
                Collective{CollectiveKind::kAllGather, "attend.outputs", bytes, {}});
  }
  return builder.Take();
}

}  // namespace longspan
