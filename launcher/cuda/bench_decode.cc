#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/rope.h"
#include "kernels/cuda/select.h"
#include "launcher/cuda/bench_inputs.h"
#include "launcher/cuda/bench_kernels.h"

namespace longspan {
namespace {

// One layer's attention of the newest token of each sequence: what scores and selects, and what
// attends to that. Every variant is another cache.
class DecodeInputs {
 public:
  static absl::StatusOr<DecodeInputs> Create(const BenchShape& shape, int64_t context, int batch);

  int variants() const { return caches_.variants(); }
  absl::Status Select(int variant, cuda::Stream stream) const;
  // To what Select of the variant left behind.
  absl::Status Attend(int variant, cuda::Stream stream) const;
  absl::Status Both(int variant, cuda::Stream stream) const {
    LONGSPAN_RETURN_IF_ERROR(Select(variant, stream));
    return Attend(variant, stream);
  }

 private:
  DecodeInputs(const BenchShape& shape, int64_t context, int batch)
      : shape_(shape), context_(context), batch_(batch) {}
  absl::Status AllocateOutputs();

  const cuda::DecodeRow* RowsOf(int variant, const cuda::Buffer& rows) const {
    return rows.as<cuda::DecodeRow>() + variant * batch_;
  }
  Candidate* selected(int variant) const {
    return selected_.as<Candidate>() + variant * batch_ * shape_.top_k;
  }
  int32_t* counts(int variant) const { return counts_.as<int32_t>() + variant * batch_; }
  cuda::ShardGeometry geometry() const {
    return {static_cast<int32_t>(shape_.stripe_tokens), 1, 0};
  }

  const BenchShape& shape_;
  int64_t context_;
  int batch_;
  int multiprocessors_ = 0;
  NoiseCaches caches_;
  cuda::Buffer rows_, score_rows_, score_queries_, queries_;
  cuda::Buffer selected_, counts_, output_, lse_, workspace_;
  cuda::SelectWorkspace select_workspace_;
  cuda::RopeAngles angles_;
};

absl::StatusOr<DecodeInputs> DecodeInputs::Create(const BenchShape& shape, int64_t context,
                                                  int batch) {
  DecodeInputs inputs(shape, context, batch);
  LONGSPAN_ASSIGN_OR_RETURN(inputs.caches_, NoiseCaches::Create(shape, context, batch));
  std::vector<cuda::DecodeRow> rows, score_rows;
  for (int v = 0; v < inputs.variants(); ++v) {
    for (int s = 0; s < batch; ++s) {
      rows.push_back({inputs.caches_.kv(v, s), context - 1});
      score_rows.push_back({inputs.caches_.scores(v, s), context - 1});
    }
  }
  LONGSPAN_ASSIGN_OR_RETURN(inputs.rows_, Upload(rows));
  LONGSPAN_ASSIGN_OR_RETURN(inputs.score_rows_, Upload(score_rows));
  LONGSPAN_ASSIGN_OR_RETURN(inputs.score_queries_,
                            RandomNumbers(batch * shape.score_dim, DType::kFloat32));
  LONGSPAN_ASSIGN_OR_RETURN(inputs.queries_,
                            RandomNumbers(batch * shape.query_dim(), DType::kFloat32));
  LONGSPAN_ASSIGN_OR_RETURN(inputs.angles_, MakeAngles(shape, context));
  LONGSPAN_RETURN_IF_ERROR(inputs.AllocateOutputs());
  return inputs;
}

absl::Status DecodeInputs::AllocateOutputs() {
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::DeviceInfo device, cuda::CurrentDevice());
  multiprocessors_ = device.multiprocessors;
  const int64_t rows = int64_t{variants()} * batch_;
  LONGSPAN_ASSIGN_OR_RETURN(selected_, cuda::Buffer::Allocate(rows * shape_.top_k * 8));
  LONGSPAN_ASSIGN_OR_RETURN(counts_, cuda::Buffer::Allocate(rows * 4));
  LONGSPAN_ASSIGN_OR_RETURN(output_, cuda::Buffer::Allocate(batch_ * shape_.query_dim() * 4));
  LONGSPAN_ASSIGN_OR_RETURN(lse_, cuda::Buffer::Allocate(batch_ * shape_.heads * 4));
  LONGSPAN_ASSIGN_OR_RETURN(
      select_workspace_,
      cuda::SelectWorkspace::Create(
          batch_,
          cuda::MaxKeys(context_, geometry(), static_cast<int32_t>(shape_.layer_cache().halo))));
  const int64_t bytes =
      cuda::DecodeAttentionWorkspaceBytes(shape_.attention_shape(), batch_, multiprocessors_);
  LONGSPAN_ASSIGN_OR_RETURN(workspace_, cuda::Buffer::Allocate(bytes));
  return cuda::Fill(workspace_.data(), 0, bytes, nullptr);
}

absl::Status DecodeInputs::Select(int variant, cuda::Stream stream) const {
  const KvShape kv = shape_.layer_cache();
  cuda::DecodeSelectArgs args;
  args.sequences = RowsOf(variant, score_rows_);
  args.max_tokens = context_;
  args.rows = batch_;
  args.queries = score_queries_.as<float>();
  args.dim = kv.score_dim;
  args.dtype = kv.score_dtype;
  args.geometry = geometry();
  args.halo = static_cast<int32_t>(kv.halo);
  args.score_offset = kv.score_offset(0);
  args.initial_tokens = shape_.initial_tokens;
  args.local_tokens = shape_.local_tokens;
  args.proximity = static_cast<int32_t>(shape_.proximity);
  args.top_k = shape_.top_k;
  args.selected = {selected(variant), counts(variant)};
  return cuda::DecodeSelect(args, select_workspace_, stream);
}

absl::Status DecodeInputs::Attend(int variant, cuda::Stream stream) const {
  const KvShape kv = shape_.layer_cache();
  cuda::DecodeAttentionArgs args;
  args.shape = shape_.attention_shape();
  args.dtype = kv.dtype;
  args.geometry = geometry();
  args.key_offset = kv.key_offset(0);
  args.value_offset = kv.value_offset(0);
  args.rows = RowsOf(variant, rows_);
  args.num_rows = batch_;
  args.queries = queries_.as<float>();
  args.initial_tokens = shape_.initial_tokens;
  args.local_tokens = shape_.local_tokens;
  args.far_is_apart = shape_.positions == Positions::kFar;
  args.far_position = shape_.far_position;
  args.selected = selected(variant);
  args.selected_stride = shape_.top_k;
  args.selected_counts = counts(variant);
  args.rope = angles_.table();
  args.workspace = workspace_.data();
  args.workspace_bytes = workspace_.bytes();
  args.max_rows = batch_;
  args.multiprocessors = multiprocessors_;
  args.output = output_.data();
  args.lse = lse_.as<float>();
  return cuda::DecodeAttention(args, stream);
}

// `suffix` of the rows' names says how the shape differs from the run's.
absl::Status BenchContext(KernelBench* bench, const BenchShape& shape, absl::string_view suffix,
                          int64_t context) {
  const auto batch = static_cast<int>(bench->options.batch);
  LONGSPAN_ASSIGN_OR_RETURN(const DecodeInputs inputs, DecodeInputs::Create(shape, context, batch));
  const Work score = DecodeScoreWork(shape, context, batch);
  const Work attend = DecodeAttendWork(shape, context, batch);
  BenchRow row;
  row.batch = batch;
  row.context = context;
  row.shape = absl::StrCat(batch, " x ", context, " tokens");

  row.name = absl::StrCat("decode score and select", suffix);
  row.work = score;
  LONGSPAN_RETURN_IF_ERROR(bench->Add(row, inputs.variants(), [&](int v, cuda::Stream stream) {
    return inputs.Select(v, stream);
  }));
  row.name = absl::StrCat("decode attention", suffix);
  row.work = score + attend;
  LONGSPAN_RETURN_IF_ERROR(bench->Add(
      row, inputs.variants(), [&](int v, cuda::Stream stream) { return inputs.Both(v, stream); }));
  if (!suffix.empty()) return absl::OkStatus();  // attention alone is the same
  row.name = "decode attend";
  row.shape = absl::StrCat(batch, " x ", AttendedKeys(shape, context), " of ", context, " tokens");
  row.work = attend;
  return bench->Add(row, inputs.variants(),
                    [&](int v, cuda::Stream stream) { return inputs.Attend(v, stream); });
}

}  // namespace

absl::Status BenchDecodeAttention(KernelBench* bench) {
  for (const int64_t context : bench->options.contexts) {
    LONGSPAN_RETURN_IF_ERROR(BenchContext(bench, bench->shape, "", context));
    if (bench->shape.score_is_key || bench->shape.score_dtype == DType::kFloat8E4M3) continue;
    BenchShape narrow = bench->shape;
    narrow.score_dtype = DType::kFloat8E4M3;
    LONGSPAN_RETURN_IF_ERROR(BenchContext(bench, narrow, ", fp8 score keys", context));
  }
  return absl::OkStatus();
}

}  // namespace longspan
