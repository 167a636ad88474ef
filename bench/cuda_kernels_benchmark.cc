// Kernels of one decoded token on one GPU, at the shape of Llama 3 8B. Times are medians over graph
// replays that rotate over buffers larger than the L2 cache.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <vector>

#include "kernels/attention.h"
#include "kernels/base/convert.h"
#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/rope.h"
#include "kernels/cuda/select.h"

namespace longspan::cuda {
namespace {

void Check(const absl::Status& status) {
  if (status.ok()) return;
  fprintf(stderr, "%s\n", status.ToString().c_str());
  exit(1);
}
void Check(cudaError_t error) { Check(ToStatus(error, "benchmark")); }

Buffer Allocate(int64_t bytes) {
  absl::StatusOr<Buffer> buffer = Buffer::Allocate(bytes);
  Check(buffer.status());
  return *std::move(buffer);
}

using Launch = std::function<absl::Status(int variant, Stream stream)>;

// Median seconds of one launch, of `variants` that are captured in one graph.
double MedianSeconds(int variants, const Launch& launch) {
  constexpr int kReplays = 41;
  cudaStream_t stream;
  Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  Check(launch(0, stream));
  Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int v = 0; v < variants; ++v) Check(launch(v, stream));
  cudaGraph_t graph;
  Check(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t replay;
  Check(cudaGraphInstantiate(&replay, graph, 0));
  cudaEvent_t begin, end;
  Check(cudaEventCreate(&begin));
  Check(cudaEventCreate(&end));
  std::vector<double> seconds;
  for (int i = 0; i < kReplays + 2; ++i) {
    Check(cudaEventRecord(begin, stream));
    Check(cudaGraphLaunch(replay, stream));
    Check(cudaEventRecord(end, stream));
    Check(cudaEventSynchronize(end));
    float milliseconds = 0;
    Check(cudaEventElapsedTime(&milliseconds, begin, end));
    if (i >= 2) seconds.push_back(milliseconds * 1e-3 / variants);
  }
  cudaGraphExecDestroy(replay);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  std::nth_element(seconds.begin(), seconds.begin() + kReplays / 2, seconds.end());
  return seconds[kReplays / 2];
}

void Report(const char* name, double seconds, double bytes) {
  printf("%-40s %9.2f us  %6.2f TB/s\n", name, seconds * 1e6, bytes / seconds * 1e-12);
  fflush(stdout);
}

// Enough random numbers, repeated through the buffer.
Buffer RandomNumbers(int64_t count, DType dtype) {
  constexpr int64_t kBlock = 1 << 22;
  static std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  Buffer buffer = Allocate(count * SizeOf(dtype));
  std::vector<float> values(std::min(count, kBlock));
  std::vector<std::byte> stored(values.size() * SizeOf(dtype));
  for (float& value : values) value = normal(generator);
  ConvertFromFloat(values.data(), static_cast<int64_t>(values.size()), dtype, stored.data());
  for (int64_t i = 0; i < count; i += kBlock) {
    // Another order each time, so that scores differ.
    std::rotate(stored.begin(), stored.begin() + (i / kBlock % 977) * 256 % stored.size(),
                stored.end());
    Check(Copy(buffer.data() + i * SizeOf(dtype), stored.data(),
               std::min<int64_t>(kBlock, count - i) * SizeOf(dtype), nullptr));
    Check(Synchronize(nullptr));
  }
  return buffer;
}

void BenchCopy() {
  const int64_t bytes = int64_t{2} << 30;
  const Buffer from = RandomNumbers(bytes / 4, DType::kFloat32);
  const Buffer to = Allocate(bytes);
  const double seconds = MedianSeconds(
      1, [&](int, Stream stream) { return Copy(to.data(), from.data(), bytes, stream); });
  Report("copy of 2 GiB", seconds, 2.0 * static_cast<double>(bytes));
}

void BenchTopK(const char* name, int rows, int64_t count, int64_t k) {
  const int variants =
      static_cast<int>(std::clamp<int64_t>((int64_t{256} << 20) / (rows * count * 4), 2, 256));
  const Buffer scores = RandomNumbers(variants * rows * count, DType::kFloat32);
  const Buffer candidates = Allocate(rows * k * 8);
  const Buffer counts = Allocate(rows * 4);
  absl::StatusOr<SelectWorkspace> workspace = SelectWorkspace::Create(rows, count);
  Check(workspace.status());
  const double seconds = MedianSeconds(variants, [&](int variant, Stream stream) {
    TopKArgs args;
    args.scores = scores.as<float>() + variant * rows * count;
    args.row_stride = args.count = count;
    args.rows = rows;
    args.top_k = k;
    args.selected = {candidates.as<Candidate>(), counts.as<int32_t>()};
    return TopK(args, *workspace, stream);
  });
  Report(name, seconds, 4.0 * static_cast<double>(rows * count));
}

// One layer of one decoded token: what scores and selects, and what attends to that.
class Layer {
 public:
  explicit Layer(int64_t tokens) : tokens_(tokens), pages_(tokens / kStripe) {
    variants_ =
        static_cast<int>(std::clamp<int64_t>((int64_t{8} << 30) / (pages_ * kPageBytes), 2, 8));
    cache_ = RandomNumbers(variants_ * pages_ * kPageBytes / 2, DType::kBFloat16);
    queries_ = RandomNumbers(kShape.query_dim(), DType::kFloat32);
    std::vector<const std::byte*> table;
    for (int64_t page = 0; page < variants_ * pages_; ++page) {
      table.push_back(cache_.data() + page * kPageBytes);
    }
    tables_ = Upload(table);
    std::vector<DecodeRow> sequences;
    for (int v = 0; v < variants_; ++v) {
      sequences.push_back({tables_.as<const std::byte*>() + v * pages_, tokens - 1});
    }
    sequences_ = Upload(sequences);
    absl::StatusOr<SelectWorkspace> workspace =
        SelectWorkspace::Create(1, pages_ * (kStripe + 2 * kHalo));
    Check(workspace.status());
    select_workspace_ = *std::move(workspace);
    std::vector<double> frequencies;
    for (int i = 0; i < kShape.head_dim / 2; ++i) {
      frequencies.push_back(std::pow(500000.0, -2.0 * i / static_cast<double>(kShape.head_dim)));
    }
    absl::StatusOr<RopeAngles> rope = RopeAngles::Create(frequencies, 16);
    Check(rope.status());
    rope_ = *std::move(rope);
    cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, 0);
    const int64_t bytes = DecodeAttentionWorkspaceBytes(kShape, 1, multiprocessors_);
    attention_workspace_ = Allocate(bytes);
    Check(Fill(attention_workspace_.data(), 0, bytes, nullptr));
  }

  void Bench(const char* name, int32_t proximity) {
    const double score_bytes = static_cast<double>(pages_ * kScoreBytes);
    const double gathered_bytes = 2.0 * (kInitial + kTopK + kLocal) * kRowBytes;
    printf("%s, proximity %d\n", name, proximity);
    Report("  score and select",
           MedianSeconds(variants_, [&](int v, Stream s) { return Select(v, proximity, s); }),
           score_bytes);
    Report("  attend to what is selected",
           MedianSeconds(variants_, [&](int v, Stream s) { return Attend(v, s); }), gathered_bytes);
    Report("  both",
           MedianSeconds(variants_,
                         [&](int v, Stream s) {
                           const absl::Status status = Select(v, proximity, s);
                           return status.ok() ? Attend(v, s) : status;
                         }),
           score_bytes + gathered_bytes);
  }

 private:
  static constexpr AttentionShape kShape = {32, 8, 128};
  static constexpr int64_t kScoreDim = 128, kInitial = 128, kLocal = 4096, kTopK = 2048;
  static constexpr int32_t kStripe = 4096, kHalo = 1;
  static constexpr int64_t kRowBytes = 8 * 128 * 2;
  static constexpr int64_t kScoreBytes = (kStripe + 2 * kHalo) * kScoreDim * 2;
  static constexpr int64_t kPageBytes = 2 * kStripe * kRowBytes + kScoreBytes;

  template <typename T>
  static Buffer Upload(const std::vector<T>& values) {
    Buffer buffer = Allocate(static_cast<int64_t>(values.size() * sizeof(T)));
    Check(Copy(buffer.data(), values.data(), buffer.bytes(), nullptr));
    return buffer;
  }

  absl::Status Select(int variant, int32_t proximity, Stream stream) {
    DecodeSelectArgs args;
    args.sequences = sequences_.as<DecodeRow>() + variant;
    args.max_tokens = tokens_;
    args.rows = 1;
    args.queries = queries_.as<float>();
    args.dim = kScoreDim;
    args.geometry = {kStripe, 1, 0};
    args.halo = kHalo;
    args.score_offset = 2 * kStripe * kRowBytes;
    args.initial_tokens = kInitial;
    args.local_tokens = kLocal;
    args.proximity = proximity;
    args.top_k = kTopK;
    args.selected = {candidates_.as<Candidate>() + variant * kTopK,
                     counts_.as<int32_t>() + variant};
    return DecodeSelect(args, select_workspace_, stream);
  }

  absl::Status Attend(int variant, Stream stream) {
    DecodeAttentionArgs args;
    args.shape = kShape;
    args.geometry = {kStripe, 1, 0};
    args.value_offset = kStripe * kRowBytes;
    args.rows = sequences_.as<DecodeRow>() + variant;
    args.num_rows = 1;
    args.queries = queries_.as<float>();
    args.initial_tokens = kInitial;
    args.local_tokens = kLocal;
    args.far_is_apart = true;
    args.far_position = kLocal;
    args.selected = candidates_.as<uint64_t>() + variant * kTopK;
    args.selected_stride = kTopK;
    args.selected_counts = counts_.as<int32_t>() + variant;
    args.rope = rope_.table();
    args.workspace = attention_workspace_.data();
    args.workspace_bytes = attention_workspace_.bytes();
    args.max_rows = 1;
    args.multiprocessors = multiprocessors_;
    args.output = output_.as<float>();
    args.lse = lse_.as<float>();
    return DecodeAttention(args, stream);
  }

  int64_t tokens_, pages_;
  int variants_ = 0, multiprocessors_ = 0;
  Buffer cache_, queries_, tables_, sequences_, attention_workspace_;
  Buffer candidates_ = Allocate(8 * kTopK * 8), counts_ = Allocate(8 * 4);
  Buffer output_ = Allocate(kShape.query_dim() * 4), lse_ = Allocate(kShape.heads * 4);
  SelectWorkspace select_workspace_;
  RopeAngles rope_;
};

// A linear layer in bfloat16; few rows are bound by reading the weight, many by multiplying.
void BenchLinear(int64_t rows, int64_t in, int64_t out) {
  const int variants =
      static_cast<int>(std::clamp<int64_t>((int64_t{512} << 20) / (in * out * 2), 1, 16));
  const Buffer x = RandomNumbers(rows * in, DType::kBFloat16);
  const Buffer weights = RandomNumbers(variants * in * out, DType::kBFloat16);
  const Buffer y = Allocate(rows * out * 4);
  absl::StatusOr<LinearPlans> plans = LinearPlans::Create();
  Check(plans.status());
  const double seconds = MedianSeconds(variants, [&](int variant, Stream stream) {
    LinearArgs args;
    args.x = x.data();
    args.rows = rows;
    args.in = in;
    args.weight = weights.data() + variant * in * out * 2;
    args.dtype = DType::kBFloat16;
    args.out = out;
    args.y = y.data();
    args.y_dtype = DType::kFloat32;
    return Linear(args, &*plans, stream);
  });
  printf("linear, %5d rows, %5d to %6d            %9.2f us  %6.2f TB/s  %6.1f TFLOP/s\n",
         static_cast<int>(rows), static_cast<int>(in), static_cast<int>(out), seconds * 1e6,
         2.0 * static_cast<double>(in * out) / seconds * 1e-12,
         2.0 * static_cast<double>(rows * in * out) / seconds * 1e-12);
}

}  // namespace
}  // namespace longspan::cuda

int main() {
  using namespace longspan::cuda;
  const auto device = UseDevice(0);
  Check(device.status());
  printf("%s, %d multiprocessors\n", device->name.c_str(), device->multiprocessors);
  BenchCopy();
  BenchTopK("top-256 of 1,024", 1, 1024, 256);
  BenchTopK("top-2,048 of 8,192", 1, 8192, 2048);
  BenchTopK("top-2,048 of 262,144", 1, 262'144, 2048);
  BenchTopK("top-2,048 of 1,048,576", 1, 1'048'576, 2048);
  BenchTopK("top-2,048 of 16 x 262,144", 16, 262'144, 2048);
  for (const int64_t rows : {1, 4, 8}) {
    BenchLinear(rows, 4096, 4096);
    BenchLinear(rows, 4096, 1024);
    BenchLinear(rows, 4096, 14336);
    BenchLinear(rows, 14336, 4096);
    BenchLinear(rows, 4096, 128256);
  }
  BenchLinear(4096, 4096, 14336);
  Layer short_layer(262'144);
  short_layer.Bench("decode, one layer, 256k tokens, bf16", 1);
  short_layer.Bench("decode, one layer, 256k tokens, bf16", 0);
  Layer(1'048'576).Bench("decode, one layer, 1M tokens, bf16", 1);
  return 0;
}
