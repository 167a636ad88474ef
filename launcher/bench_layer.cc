#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "collectives/agree.h"
#include "kernels/base/convert.h"
#include "kernels/base/status_macros.h"
#include "launcher/bench_gpu.h"
#include "launcher/bench_runs.h"
#include "launcher/bootstrap.h"
#include "launcher/subcommand.h"
#include "runtime/clock.h"
#include "runtime/model.h"

// `bench layer`: the transformer without engine, prompt and logits. The cache holds noise; what is
// timed is all layers at once, divided by their number, so that a layer's share of the embedding is
// in it.
namespace longspan {
namespace {

constexpr int64_t kRuns = 11;
constexpr int kWarmupRuns = 2;
constexpr int64_t kNoise = int64_t{1} << 22;  // numbers

int64_t Longest(const BenchOptions& options) {
  return *std::max_element(options.contexts.begin(), options.contexts.end());
}

// Normal numbers as a cache stores them.
std::vector<std::byte> MakeNoise(DType dtype) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(kNoise);
  for (float& value : values) value = normal(generator);
  std::vector<std::byte> noise(kNoise * SizeOf(dtype));
  ConvertFromFloat(values.data(), kNoise, dtype, noise.data());
  return noise;
}

// One rank.
class LayerBench {
 public:
  static absl::StatusOr<LayerBench> Load(const BenchOptions& options, Config config,
                                         Communicator& communicator) {
    LayerBench bench(options, communicator);
    LONGSPAN_ASSIGN_OR_RETURN(bench.model_, LoadModel(&communicator, &config));
    bench.shape_ = MakeBenchShape(config, bench.model_->config, communicator.size());
    bench.noise_ = MakeNoise(bench.model_->attention.kv.dtype);
    bench.on_gpu_ = config.device == "cuda";
    return bench;
  }

  const BenchShape& shape() const { return shape_; }

  // Rows of one context. Collective.
  absl::StatusOr<std::vector<BenchRow>> Measure(int64_t context) {
    LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(&communicator_, Fill(context)));
    std::vector<BenchRow> rows;
    LONGSPAN_ASSIGN_OR_RETURN(rows.emplace_back(), MeasureDecode(context));
    LONGSPAN_ASSIGN_OR_RETURN(rows.emplace_back(), MeasurePrefill(context));
    return rows;
  }

 private:
  LayerBench(const BenchOptions& options, Communicator& communicator)
      : options_(options), communicator_(communicator) {}

  absl::Status Fill(int64_t context) {
    caches_.clear();
    const AttentionContext& attention = model_->attention;
    for (int64_t i = 0; i < options_.batch; ++i) {
      caches_.push_back(
          std::make_unique<KvShard>(model_->pool.get(), attention.layout, communicator_.rank()));
      LONGSPAN_RETURN_IF_ERROR(caches_.back()->Reserve(context));
      for (const PageRef& page : caches_.back()->pages()) {
        LONGSPAN_RETURN_IF_ERROR(FillMemory(page->kv.get(), attention.kv.kv_bytes()));
        if (page->scores == nullptr) continue;
        LONGSPAN_RETURN_IF_ERROR(FillMemory(page->scores.get(), attention.kv.score_bytes()));
      }
    }
    return absl::OkStatus();
  }

  // From another place each time, so that pages differ.
  absl::Status FillMemory(std::byte* memory, int64_t bytes) {
    const auto half = static_cast<int64_t>(noise_.size() / 2);
    for (int64_t done = 0; done < bytes; done += half) {
      const int64_t begin = 16 * (places_++ * 977 % (half / 16));
      const int64_t count = std::min(half, bytes - done);
      if (on_gpu_) {
        LONGSPAN_RETURN_IF_ERROR(CopyToGpu(memory + done, noise_.data() + begin, count));
      } else {
        std::memcpy(memory + done, noise_.data() + begin, count);
      }
    }
    return absl::OkStatus();
  }

  template <typename F>
  absl::StatusOr<Timing> TimePerLayer(F&& run) {
    const int64_t runs = options_.repeat.value_or(kRuns);
    std::vector<double> seconds;
    for (int64_t i = 0; i < runs + kWarmupRuns; ++i) {
      LONGSPAN_RETURN_IF_ERROR(communicator_.Barrier("bench.layer"));
      const double begin = MonotonicSeconds();
      LONGSPAN_RETURN_IF_ERROR(run());
      const double end = MonotonicSeconds();
      if (i >= kWarmupRuns) {
        seconds.push_back((end - begin) / static_cast<double>(shape_.layers));
      }
    }
    return Summarize(std::move(seconds));
  }

  absl::StatusOr<BenchRow> MeasureDecode(int64_t context) {
    std::vector<DecodeToken> tokens;
    for (const auto& cache : caches_) tokens.push_back({cache.get(), context - 1});
    const std::vector<int32_t> ids(tokens.size(), 1);
    BenchRow row;
    row.name = "decode, a layer";
    row.shape = absl::StrCat(options_.batch, " x 1 token of ", context);
    row.batch = options_.batch;
    row.context = context;
    row.work = DecodeLayerWork(shape_, context, options_.batch);
    LONGSPAN_ASSIGN_OR_RETURN(
        row.timing, TimePerLayer([&] { return model_->transformer->Decode(tokens, ids); }));
    return row;
  }

  absl::StatusOr<BenchRow> MeasurePrefill(int64_t context) {
    const Range tokens = shape_.last_chunk(context);
    const PrefillChunk chunk =
        PlanChunk(model_->attention, shape_.block_tokens, caches_[0].get(), tokens, context);
    std::vector<int32_t> ids(tokens.size());
    std::mt19937 generator(2);
    for (int32_t& id : ids) id = static_cast<int32_t>(generator() % shape_.vocab);
    BenchRow row;
    row.name = "prefill, a layer";
    row.shape = absl::StrCat("chunk of ", tokens.size(), " to ", context);
    row.context = context;
    row.work = PrefillLayerWork(shape_, tokens);
    LONGSPAN_ASSIGN_OR_RETURN(row.timing, TimePerLayer([&] {
                                return model_->transformer->Prefill(chunk, ids,
                                                                    Transformer::Outputs::kAll);
                              }));
    return row;
  }

  const BenchOptions& options_;
  Communicator& communicator_;
  std::unique_ptr<Model> model_;
  BenchShape shape_;
  bool on_gpu_ = false;
  std::vector<std::byte> noise_;
  int64_t places_ = 0;
  std::vector<std::unique_ptr<KvShard>> caches_;  // before the model goes
};

absl::StatusOr<int> MeasureLayer(const BenchOptions& options, int rank, LayerBench& bench,
                                 BenchReport* report) {
  std::vector<BenchRow> rows;
  for (const int64_t context : options.contexts) {
    LONGSPAN_ASSIGN_OR_RETURN(const std::vector<BenchRow> more, bench.Measure(context));
    rows.insert(rows.end(), more.begin(), more.end());
  }
  if (rank != 0) return kExitOk;
  report->benchmark = "layer";
  report->shape = bench.shape();
  report->rows = std::move(rows);
  // Of rank 0 alone, and the others are through.
  const absl::Status written = FinishBench(options, *std::move(report));
  return written.ok() ? int{kExitOk} : ReportError(written, 0);
}

absl::StatusOr<int> RunLayerBench(const BenchOptions& options, const Config& config,
                                  Communicator& communicator, BenchReport* report) {
  LONGSPAN_ASSIGN_OR_RETURN(LayerBench bench, LayerBench::Load(options, config, communicator));
  return RunOrAbort(communicator,
                    [&] { return MeasureLayer(options, communicator.rank(), bench, report); });
}

}  // namespace

absl::StatusOr<int> BenchLayer(const BenchOptions& options) {
  BenchReport report;
  const auto prepare = [&](const Config& config) -> absl::StatusOr<bool> {
    LONGSPAN_ASSIGN_OR_RETURN(report.machine,
                              PrepareBench(options, config, options.batch, Longest(options)));
    return true;
  };
  return RunOnRanks(RankJob{prepare, [&](const Config& config, Communicator& communicator) {
                              return RunLayerBench(options, config, communicator, &report);
                            }});
}

}  // namespace longspan
