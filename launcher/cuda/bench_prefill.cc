#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/key_list.h"
#include "kernels/cuda/prefill_attention.h"
#include "kernels/cuda/prefill_score.h"
#include "kernels/cuda/ring_plan.h"
#include "kernels/cuda/rope.h"
#include "kernels/cuda/select.h"
#include "launcher/cuda/bench_inputs.h"
#include "launcher/cuda/bench_kernels.h"

namespace longspan {
namespace {

// Ranks and groups of blocks that the ring is planned for, as the first of them.
constexpr int kRingRanks = 8;
constexpr int kRingGroups = 4;

// One layer's attention of the last chunk of a prompt on one rank, as runtime/cuda calls it.
class PrefillInputs {
 public:
  static absl::StatusOr<PrefillInputs> Create(const BenchShape& shape, int64_t context);

  int variants() const { return caches_.variants(); }
  Range chunk() const { return chunk_; }
  int num_blocks() const { return num_blocks_; }
  int64_t scored() const { return hull_.size(); }
  int64_t listed() const { return listed_; }

  // In this order each works on what the one before left behind.
  absl::Status Maxima(int variant, cuda::Stream stream) const {
    return cuda::PrefillMaxima(ScoreArgs(variant), maxima_.as<float>(), stream);
  }
  absl::Status Scores(int variant, cuda::Stream stream) const;
  absl::Status Select(int variant, cuda::Stream stream) const;
  absl::Status List(int variant, cuda::Stream stream) const;
  absl::Status PlanRing(int variant, cuda::Stream stream) const;
  absl::Status Attend(int variant, cuda::Stream stream) const;
  absl::Status All(int variant, cuda::Stream stream) const;

 private:
  PrefillInputs(const BenchShape& shape, int64_t context)
      : shape_(shape), context_(context), chunk_(shape.last_chunk(context)) {}
  absl::Status UploadBlocks();
  absl::Status AllocateOutputs();
  cuda::PrefillScoreArgs ScoreArgs(int variant) const;
  cuda::ShardGeometry geometry() const {
    return {static_cast<int32_t>(shape_.stripe_tokens), 1, 0};
  }
  cuda::ShardGeometry ring_geometry() const {
    return {static_cast<int32_t>(shape_.block_tokens), kRingRanks, 0};
  }
  int32_t halo() const { return static_cast<int32_t>(shape_.layer_cache().halo); }

  const BenchShape& shape_;
  int64_t context_;
  Range chunk_, hull_;
  int num_blocks_ = 0;
  int64_t listed_ = 0;  // keys of all blocks
  NoiseCaches caches_;
  cuda::Buffer scored_blocks_, attention_blocks_, ranges_, score_queries_, queries_;
  cuda::Buffer maxima_, scores_, spread_, selected_, counts_, key_rows_, key_positions_, output_;
  cuda::Buffer ring_blocks_, ring_workspace_, ring_keys_, ring_ends_;
  cuda::SelectWorkspace select_workspace_;
  cuda::RopeAngles angles_;
};

absl::StatusOr<PrefillInputs> PrefillInputs::Create(const BenchShape& shape, int64_t context) {
  PrefillInputs inputs(shape, context);
  LONGSPAN_ASSIGN_OR_RETURN(inputs.caches_, NoiseCaches::Create(shape, context, 1));
  const int64_t rows = inputs.chunk_.size();
  LONGSPAN_ASSIGN_OR_RETURN(
      inputs.score_queries_,
      RandomNumbers(rows * shape.score_dim, shape.score_dtype == DType::kFloat8E4M3
                                                ? DType::kBFloat16
                                                : shape.score_dtype));
  LONGSPAN_ASSIGN_OR_RETURN(inputs.queries_,
                            RandomNumbers(rows * shape.query_dim(), DType::kFloat32));
  LONGSPAN_ASSIGN_OR_RETURN(inputs.angles_, MakeAngles(shape, context));
  LONGSPAN_RETURN_IF_ERROR(inputs.UploadBlocks());
  LONGSPAN_RETURN_IF_ERROR(inputs.AllocateOutputs());
  return inputs;
}

absl::Status PrefillInputs::UploadBlocks() {
  std::vector<cuda::ScoredBlock> scored;
  std::vector<cuda::AttentionBlock> lists;
  std::vector<cuda::KeyRanges> key_ranges;
  std::vector<cuda::RingBlock> ring_blocks;
  for (const Range& block : SelectionBlocks(chunk_, shape_.block_tokens)) {
    const AttentionRanges ranges = RangesOfBlock(shape_.sizes(), block);
    const int64_t row = block.begin - chunk_.begin;
    scored.push_back({row, block.size(), ranges.middle});
    const int64_t keys = ListedKeys(shape_, block);
    lists.push_back(
        {row, block.size(), block.begin, listed_, keys - ranges.near.size(), ranges.near.size()});
    key_ranges.push_back({ranges.initial, ranges.near, std::ssize(key_ranges)});
    const int64_t selected = keys - ranges.near.size() - ranges.initial.size();
    ring_blocks.push_back({key_ranges.back(), selected, ring_geometry().Owner(block.begin),
                           static_cast<int32_t>(row * kRingGroups / chunk_.size())});
    listed_ += keys;
    hull_ = {ranges.middle.begin, std::max(hull_.end, ranges.middle.end)};
  }
  num_blocks_ = static_cast<int>(scored.size());
  LONGSPAN_ASSIGN_OR_RETURN(scored_blocks_, Upload(scored));
  LONGSPAN_ASSIGN_OR_RETURN(attention_blocks_, Upload(lists));
  LONGSPAN_ASSIGN_OR_RETURN(ranges_, Upload(key_ranges));
  LONGSPAN_ASSIGN_OR_RETURN(ring_blocks_, Upload(ring_blocks));
  return absl::OkStatus();
}

absl::Status PrefillInputs::AllocateOutputs() {
  LONGSPAN_ASSIGN_OR_RETURN(maxima_, cuda::Buffer::Allocate(chunk_.size() * 4));
  LONGSPAN_ASSIGN_OR_RETURN(scores_, cuda::Buffer::Allocate(num_blocks_ * hull_.size() * 4));
  LONGSPAN_ASSIGN_OR_RETURN(spread_, cuda::Buffer::Allocate(cuda::PrefillScoresWorkspaceBytes(
                                         geometry(), halo(), num_blocks_, hull_.size())));
  LONGSPAN_ASSIGN_OR_RETURN(selected_, cuda::Buffer::Allocate(num_blocks_ * shape_.top_k * 8));
  LONGSPAN_ASSIGN_OR_RETURN(counts_, cuda::Buffer::Allocate(num_blocks_ * 4));
  LONGSPAN_ASSIGN_OR_RETURN(key_rows_, cuda::Buffer::Allocate(listed_ * 4));
  LONGSPAN_ASSIGN_OR_RETURN(key_positions_, cuda::Buffer::Allocate(listed_ * 4));
  LONGSPAN_ASSIGN_OR_RETURN(output_, cuda::Buffer::Allocate(chunk_.size() * shape_.query_dim() *
                                                            SizeOf(shape_.weight_dtype)));
  LONGSPAN_ASSIGN_OR_RETURN(ring_workspace_, cuda::Buffer::Allocate(cuda::RingPlanWorkspaceBytes(
                                                 ring_geometry(), kRingGroups, context_)));
  // What each other rank is sent of this one's tokens, what arrives, and a row of each position.
  const int64_t own = ring_geometry().OwnedBefore(context_);
  LONGSPAN_ASSIGN_OR_RETURN(ring_keys_,
                            cuda::Buffer::Allocate(((kRingRanks - 1) * own + 2 * context_) * 4));
  LONGSPAN_ASSIGN_OR_RETURN(ring_ends_, cuda::Buffer::Allocate(2 * kRingGroups * kRingRanks * 4));
  LONGSPAN_ASSIGN_OR_RETURN(select_workspace_,
                            cuda::SelectWorkspace::Create(num_blocks_, hull_.size()));
  return absl::OkStatus();
}

cuda::PrefillScoreArgs PrefillInputs::ScoreArgs(int variant) const {
  const KvShape kv = shape_.layer_cache();
  cuda::PrefillScoreArgs args;
  args.pages = caches_.scores(variant, 0);
  args.geometry = geometry();
  args.dtype = kv.score_dtype;
  args.dim = kv.score_dim;
  args.halo = halo();
  args.score_offset = kv.score_offset(0);
  args.queries = score_queries_.data();
  args.blocks = scored_blocks_.as<cuda::ScoredBlock>();
  args.num_blocks = num_blocks_;
  args.max_queries = std::min(shape_.block_tokens, chunk_.size());
  args.hull = hull_;
  return args;
}

absl::Status PrefillInputs::Scores(int variant, cuda::Stream stream) const {
  cuda::PrefillScoresOut out;
  out.scores = scores_.as<float>();
  out.row_stride = hull_.size();
  out.proximity = static_cast<int32_t>(shape_.proximity);
  out.workspace = spread_.as<float>();
  return cuda::PrefillScores(ScoreArgs(variant), maxima_.as<float>(), out, stream);
}

absl::Status PrefillInputs::Select(int, cuda::Stream stream) const {
  cuda::TopKArgs top;
  top.scores = scores_.as<float>();
  top.row_stride = top.count = hull_.size();
  top.rows = num_blocks_;
  top.top_k = shape_.top_k;
  top.selected = {selected_.as<Candidate>(), counts_.as<int32_t>()};
  LONGSPAN_RETURN_IF_ERROR(cuda::TopK(top, select_workspace_, stream));
  cuda::LocateCandidatesArgs locate;
  locate.geometry = geometry();
  locate.blocks = scored_blocks_.as<cuda::ScoredBlock>();
  locate.num_blocks = num_blocks_;
  locate.hull_begin = hull_.begin;
  locate.top_k = shape_.top_k;
  locate.candidates = selected_.as<Candidate>();
  locate.counts = counts_.as<int32_t>();
  return cuda::LocateCandidates(locate, stream);
}

absl::Status PrefillInputs::List(int, cuda::Stream stream) const {
  cuda::ListKeysArgs args;
  args.blocks = attention_blocks_.as<cuda::AttentionBlock>();
  args.ranges = ranges_.as<cuda::KeyRanges>();
  args.num_blocks = num_blocks_;
  args.selected = selected_.as<Candidate>();
  args.selected_stride = shape_.top_k;
  args.key_rows = key_rows_.as<uint32_t>();
  args.key_positions = key_positions_.as<uint32_t>();
  return cuda::ListKeys(args, stream);
}

absl::Status PrefillInputs::PlanRing(int, cuda::Stream stream) const {
  cuda::RingPlanArgs args;
  args.geometry = ring_geometry();
  args.blocks = ring_blocks_.as<cuda::RingBlock>();
  args.num_blocks = num_blocks_;
  args.num_groups = kRingGroups;
  args.selected = selected_.as<Candidate>();
  args.selected_stride = shape_.top_k;
  args.positions = context_;
  args.workspace = ring_workspace_.data();
  args.own = ring_keys_.as<uint32_t>();
  args.row_of = args.own + context_;
  args.sent = args.row_of + context_;
  args.ends = ring_ends_.as<uint32_t>();
  return cuda::PlanRing(args, stream);
}

absl::Status PrefillInputs::Attend(int variant, cuda::Stream stream) const {
  const KvShape kv = shape_.layer_cache();
  cuda::PrefillAttentionArgs args;
  args.shape = shape_.attention_shape();
  args.dtype = kv.dtype;
  args.rows = {caches_.kv(variant, 0), kv.stripe_tokens, kv.key_offset(0), kv.value_offset(0),
               kv.row_bytes()};
  args.blocks = attention_blocks_.as<cuda::AttentionBlock>();
  args.num_blocks = num_blocks_;
  args.max_queries = std::min(shape_.block_tokens, chunk_.size());
  args.key_rows = key_rows_.as<uint32_t>();
  args.key_positions = key_positions_.as<uint32_t>();
  args.queries = queries_.as<float>();
  args.far_is_apart = shape_.positions == Positions::kFar;
  args.far_position = shape_.far_position;
  args.rope = angles_.table();
  args.output = output_.data();
  args.output_dtype = shape_.weight_dtype;
  return cuda::PrefillAttention(args, stream);
}

using Step = absl::Status (PrefillInputs::*)(int variant, cuda::Stream stream) const;

absl::Status PrefillInputs::All(int variant, cuda::Stream stream) const {
  for (const Step step : {&PrefillInputs::Maxima, &PrefillInputs::Scores, &PrefillInputs::Select,
                          &PrefillInputs::List, &PrefillInputs::Attend}) {
    LONGSPAN_RETURN_IF_ERROR((this->*step)(variant, stream));
  }
  return absl::OkStatus();
}

absl::Status BenchContext(KernelBench* bench, int64_t context) {
  const BenchShape& shape = bench->shape;
  LONGSPAN_ASSIGN_OR_RETURN(const PrefillInputs inputs, PrefillInputs::Create(shape, context));
  const double scores = static_cast<double>(inputs.num_blocks() * inputs.scored());
  const Work score = PrefillScoreWork(shape, inputs.chunk());
  const Work attend = PrefillAttendWork(shape, inputs.chunk());
  const struct {
    const char* name;
    Step step;
    Work work;
  } cases[] = {
      {"prefill maxima", &PrefillInputs::Maxima, score},
      {"prefill scores", &PrefillInputs::Scores, score + Work{4 * scores, 0}},
      {"prefill top-k", &PrefillInputs::Select, {4 * scores, 0}},
      {"prefill list keys", &PrefillInputs::List, {8.0 * static_cast<double>(inputs.listed()), 0}},
      {"prefill ring plan",
       &PrefillInputs::PlanRing,
       {8.0 * static_cast<double>(inputs.num_blocks() * shape.top_k), 0}},
      {"prefill attend", &PrefillInputs::Attend, attend},
      // The scores that lie between may stay in the L2 cache.
      {"prefill attention", &PrefillInputs::All, score * 2 + attend},
  };
  for (const auto& c : cases) {
    BenchRow row;
    row.name = c.name;
    row.shape = absl::StrCat(inputs.chunk().size(), " in blocks of ", shape.block_tokens, ", ",
                             context, " tokens");
    row.context = context;
    row.work = c.work;
    const auto launch = [&](int v, cuda::Stream stream) { return (inputs.*c.step)(v, stream); };
    LONGSPAN_RETURN_IF_ERROR(bench->Add(std::move(row), inputs.variants(), launch));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchPrefillAttention(KernelBench* bench) {
  for (const int64_t context : bench->options.contexts) {
    LONGSPAN_RETURN_IF_ERROR(BenchContext(bench, context));
  }
  return absl::OkStatus();
}

}  // namespace longspan
