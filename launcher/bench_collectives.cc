#include "launcher/bench_collectives.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "collectives/agree.h"
#include "kernels/base/status_macros.h"
#include "launcher/bench_gpu.h"
#include "launcher/bench_runs.h"
#include "launcher/bootstrap.h"
#include "launcher/subcommand.h"
#include "runtime/clock.h"
#include "runtime/model_config.h"
#include "sharding/digit_select.h"
#include "sharding/histogram_select.h"
#include "sharding/ring_schedule.h"
#include "sharding/topk_merge.h"

// `bench collectives`: what ranks say to each other in a layer, call by call, and nothing else.
namespace longspan {
namespace {

constexpr int64_t kRuns = 41;
constexpr int64_t kWarmupRuns = 3;

// One call of a case on this rank, in host memory.
absl::Status Call(Communicator& communicator, const CollectiveCase& of, std::byte* memory) {
  std::byte* const received = memory + of.bytes;
  if (of.kind == CollectiveKind::kAllGather) {
    return communicator.AllGather("bench.gather", memory, received, of.bytes);
  }
  if (of.kind == CollectiveKind::kAllReduceMax) {
    return communicator.AllReduceMax("bench.maxima", reinterpret_cast<float*>(memory), of.count());
  }
  if (of.kind == CollectiveKind::kAllReduceSum) {
    return communicator.AllReduceSum("bench.sums", reinterpret_cast<uint32_t*>(memory), of.count());
  }
  const RingStep step = NextRank(of, communicator.rank(), communicator.size(), memory);
  LONGSPAN_ASSIGN_OR_RETURN(
      const ExchangeId exchange,
      communicator.StartExchange("bench.ring", {&step.send, 1}, {&step.receive, 1}));
  return communicator.WaitExchange(exchange);
}

absl::StatusOr<std::vector<BenchRow>> MeasureOnCpu(absl::Span<const CollectiveCase> cases,
                                                   int64_t runs, Communicator& communicator) {
  std::vector<BenchRow> rows;
  for (const CollectiveCase& of : cases) {
    std::vector<std::byte> memory(of.buffer_bytes(communicator.size()));
    std::vector<double> seconds;
    for (int64_t i = 0; i < runs + kWarmupRuns; ++i) {
      LONGSPAN_RETURN_IF_ERROR(communicator.Barrier("bench.start"));
      const double begin = MonotonicSeconds();
      LONGSPAN_RETURN_IF_ERROR(Call(communicator, of, memory.data()));
      const double end = MonotonicSeconds();
      if (i >= kWarmupRuns) seconds.push_back(end - begin);
    }
    rows.push_back(CollectiveRow(of, "", std::move(seconds), communicator.size()));
  }
  return rows;
}

// A rank may be through before another has begun: the slowest one's times count.
absl::Status TakeSlowest(Communicator& communicator, std::vector<BenchRow>* rows) {
  std::vector<float> times;
  for (const BenchRow& row : *rows) {
    times.push_back(static_cast<float>(row.timing.median_s));
    times.push_back(static_cast<float>(row.timing.min_s));
  }
  LONGSPAN_RETURN_IF_ERROR(
      communicator.AllReduceMax("bench.times", times.data(), static_cast<int64_t>(times.size())));
  for (size_t i = 0; i < rows->size(); ++i) {
    (*rows)[i].timing.median_s = times[2 * i];
    (*rows)[i].timing.min_s = times[2 * i + 1];
  }
  return absl::OkStatus();
}

absl::StatusOr<BenchShape> ShapeOf(Config config, int ranks) {
  LONGSPAN_ASSIGN_OR_RETURN(const ModelConfig model, LoadModelConfig(config.model));
  const bool on_gpu = config.device == "cuda";
  if (config.dtype == "auto") config.dtype = on_gpu ? "bfloat16" : "float32";
  return MakeBenchShape(config, model, ranks);
}

absl::StatusOr<int> RunCollectives(const BenchOptions& options, const Config& config,
                                   Communicator& communicator, BenchReport* report) {
  if (communicator.size() == 1) {
    return ReportError(
        absl::InvalidArgumentError("bench collectives needs ranks that talk: mpirun -n 2, or --set "
                                   "parallel.ranks=2"),
        0);
  }
  const absl::StatusOr<BenchShape> shape = ShapeOf(config, communicator.size());
  LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(&communicator, shape.status()));
  const std::vector<CollectiveCase> cases =
      CollectiveCases(*shape, options.batch, config.device == "cuda");
  const int64_t runs = options.repeat.value_or(kRuns);
  return RunOrAbort(communicator, [&]() -> absl::StatusOr<int> {
    LONGSPAN_ASSIGN_OR_RETURN(report->rows,
                              config.device == "cuda"
                                  ? MeasureGpuCollectives(cases, runs, config, communicator)
                                  : MeasureOnCpu(cases, runs, communicator));
    LONGSPAN_RETURN_IF_ERROR(TakeSlowest(communicator, &report->rows));
    if (communicator.rank() != 0) return kExitOk;
    report->benchmark = "collectives";
    report->shape = *shape;
    const absl::Status written = FinishBench(options, *std::move(report));
    return written.ok() ? int{kExitOk} : ReportError(written, 0);
  });
}

}  // namespace

std::string CollectiveCase::ToString() const {
  if (kind == CollectiveKind::kAllGather) return absl::StrCat(bytes, " bytes of each rank");
  if (kind == CollectiveKind::kAllReduceMax) return absl::StrCat(count(), " numbers");
  if (kind == CollectiveKind::kAllReduceSum) return absl::StrCat(count(), " counts");
  return absl::StrCat(bytes, " bytes to the next rank");
}

std::optional<CollectiveCase> ParseCollectiveCase(absl::string_view name, absl::string_view shape) {
  struct Unit {
    absl::string_view text;
    CollectiveKind kind;
    int64_t bytes;
  };
  constexpr Unit kUnits[] = {{"bytes of each rank", CollectiveKind::kAllGather, 1},
                             {"numbers", CollectiveKind::kAllReduceMax, sizeof(float)},
                             {"counts", CollectiveKind::kAllReduceSum, sizeof(uint32_t)},
                             {"bytes to the next rank", CollectiveKind::kExchange, 1}};
  const absl::string_view size = shape.substr(0, shape.find(", "));  // without its way
  const size_t space = size.find(' ');
  int64_t count = 0;
  if (space == size.npos || !absl::SimpleAtoi(size.substr(0, space), &count) || count < 0) {
    return std::nullopt;
  }
  for (const Unit& unit : kUnits) {
    if (size.substr(space + 1) != unit.text) continue;
    return CollectiveCase{std::string(name), unit.kind, count * unit.bytes};
  }
  return std::nullopt;
}

std::vector<CollectiveCase> CollectiveCases(const BenchShape& shape, int64_t batch, bool on_gpu) {
  constexpr auto kFloat = static_cast<int64_t>(sizeof(float));
  const int64_t candidates = shape.top_k * static_cast<int64_t>(sizeof(Candidate));
  const int64_t blocks = (shape.chunk_tokens + shape.block_tokens - 1) / shape.block_tokens;
  const int64_t own_tokens = (shape.chunk_tokens + shape.ranks - 1) / shape.ranks;
  // As they travel: CPU ranks score in float32, GPUs fp8 keys with bfloat16.
  const DType of_gpu =
      shape.score_dtype == DType::kFloat8E4M3 ? DType::kBFloat16 : shape.score_dtype;
  const int64_t score = shape.score_dim * SizeOf(on_gpu ? of_gpu : DType::kFloat32);
  // One of those that a row takes.
  const int64_t histogram = (on_gpu ? DigitSums(0, shape.ranks) : kHistogramBins) *
                            static_cast<int64_t>(sizeof(uint32_t));
  std::vector<CollectiveCase> cases = {{"decode: partials", CollectiveKind::kAllGather,
                                        batch * (shape.query_dim() + shape.heads) * kFloat}};
  if (shape.selects()) {
    cases.insert(cases.begin(),
                 {{"decode: candidates", CollectiveKind::kAllGather, batch * candidates},
                  {"decode: histogram", CollectiveKind::kAllReduceSum, batch * histogram}});
    cases.push_back({"chunk: queries", CollectiveKind::kAllGather, own_tokens * score});
    cases.push_back({"chunk: maxima", CollectiveKind::kAllReduceMax, shape.chunk_tokens * kFloat});
    cases.push_back({"chunk: candidates", CollectiveKind::kAllGather, blocks * candidates});
    cases.push_back({"chunk: histogram", CollectiveKind::kAllReduceSum, blocks * histogram});
  }
  for (const int64_t bytes : {4 << 10, 64 << 10, 1 << 20, 16 << 20}) {
    cases.push_back({"ring step", CollectiveKind::kExchange, bytes});
  }
  return cases;
}

RingStep NextRank(const CollectiveCase& of, int rank, int ranks, std::byte* memory) {
  return {{RingDestination(rank, 1, ranks), memory, of.bytes},
          {RingSource(rank, 1, ranks), memory + of.bytes, of.bytes}};
}

BenchRow CollectiveRow(const CollectiveCase& of, absl::string_view way, std::vector<double> seconds,
                       int ranks) {
  BenchRow row;
  row.name = of.name;
  row.shape = absl::StrCat(of.ToString(), way.empty() ? "" : ", ", way);
  row.timing = Summarize(std::move(seconds));
  row.work.bytes = static_cast<double>(of.sent_bytes(ranks));
  return row;
}

absl::StatusOr<int> BenchCollectives(const BenchOptions& options) {
  BenchReport report;
  const auto prepare = [&](const Config& config) -> absl::StatusOr<bool> {
    LONGSPAN_ASSIGN_OR_RETURN(report.machine,
                              PrepareBench(options, config, /*sequences=*/1, /*longest=*/1));
    return true;
  };
  return RunOnRanks(RankJob{prepare, [&](const Config& config, Communicator& communicator) {
                              return RunCollectives(options, config, communicator, &report);
                            }});
}

}  // namespace longspan
