#include "launcher/plan_fit.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "runtime/config.h"
#include "runtime/job_shape.h"
#include "runtime/model.h"
#include "runtime/phases.h"
#include "sharding/prediction.h"
#include "sharding/program_totals.h"

namespace longspan {
namespace {

constexpr uint64_t kSeed = 1;  // of selections

// One point and the job that it is of.
struct Measured {
  const ScalePoint* point = nullptr;
  JobShape job;
  std::string not_fitted;  // why

  int ranks() const { return job.ranks(); }
  int64_t chunks() const {
    return (point->key.context + job.model.chunk_tokens - 1) / job.model.chunk_tokens;
  }
  // Of each sequence, halfway through the timed tokens.
  std::vector<int64_t> decoded() const {
    const auto steps = static_cast<int64_t>(point->decode_s.size()) / point->runs;
    return std::vector<int64_t>(point->key.batch, point->key.context + 1 + steps / 2);
  }
};

constexpr char kSharesCores[] = "shares cores";

absl::StatusOr<Measured> MakeMeasured(const ScalePoint& point, const std::string& model) {
  std::string yaml;
  for (const auto& [key, value] : point.config) {
    // Numbers and truth values are plain in YAML; a text, a path for example, is better quoted.
    const bool plain = nlohmann::json::accept(value);
    absl::StrAppend(&yaml, key, ": ", plain ? value : nlohmann::json(value).dump(), "\n");
  }
  const auto named = [&](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat(point.key.ToString(), ": ", status.message()));
  };
  absl::StatusOr<Config> config = ConfigFromYaml(yaml);
  if (!config.ok()) return named(config.status());
  if (!model.empty()) config->model = model;
  const absl::StatusOr<ModelConfig> shape = LoadModelConfig(config->model);
  if (!shape.ok()) return named(shape.status());
  ResolveDType(*shape, &*config);
  Measured measured;
  measured.point = &point;
  measured.job = MakeJobShape(*config, *shape, static_cast<int>(point.key.ranks));
  return measured;
}

absl::Status CheckDevice(const Measured& of, const HardwareProfile& start) {
  const bool on_gpu = of.job.backend == Backend::kGpu;
  if (on_gpu == start.is_gpu) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      of.point->key.ToString(), ": was measured on ", on_gpu ? "GPUs" : "CPUs", " (",
      of.point->machine.device, "), and --hardware is a profile of ",
      start.is_gpu ? "GPUs" : "CPUs", " (", start.name, "): give one of the same device"));
}

// What the layers of all runs asked for, of one stage.
ProgramTotals PrefillTotals(const Measured& of, const HardwareProfile& hosts) {
  const JobShape& job = of.job;
  const SelectionSource select = DrawUniformly(job, kSeed);
  const auto times = static_cast<double>(of.point->runs * of.point->key.batch);
  ProgramTotals totals;
  for (int64_t c = 0; c < of.chunks(); ++c) {
    const int64_t begin = c * job.model.chunk_tokens;
    const Range tokens = {begin, std::min(of.point->key.context, begin + job.model.chunk_tokens)};
    const auto blocks =
        static_cast<int64_t>(SelectionBlocks(tokens, job.model.block_tokens).size());
    const ChunkShape chunk = {tokens, of.point->key.context};
    totals.Add(PrefillProgram(job, chunk, blocks, select), hosts, job.ranks(),
               times * static_cast<double>(job.model.layers - 1));
    totals.Add(PrefillProgram(job, chunk, c + 1 == of.chunks() ? 1 : 0, select), hosts, job.ranks(),
               times);
  }
  return totals;
}

ProgramTotals DecodeTotals(const Measured& of, const HardwareProfile& hosts) {
  std::vector<int64_t> positions = of.decoded();
  for (int64_t& position : positions) --position;
  ProgramTotals totals;
  totals.Add(DecodeProgram(of.job, positions, DrawUniformly(of.job, kSeed)), hosts, of.ranks(),
             static_cast<double>(of.point->phases[0].decode.steps * of.job.model.layers));
  return totals;
}

// Of what the counted steps of a rank took, that which a step takes when nobody counts. On GPUs one
// token in eight has events between its phases, which keep kernels from overlapping: 12% longer.
double ShareUncounted(const Measured& of, StagePhases RankPhases::*stage, size_t rank) {
  const ScalePoint& point = *of.point;
  const StagePhases& counted = point.phases[rank].*stage;
  const bool has_events = of.job.backend == Backend::kGpu && stage == &RankPhases::decode;
  if (!has_events || point.decode_s.empty() || !(counted.wall_s > 0)) return 1;
  std::vector<double> steps = point.decode_s;
  std::nth_element(steps.begin(), steps.begin() + std::ssize(steps) / 2, steps.end());
  const double uncounted = steps[steps.size() / 2] * static_cast<double>(counted.steps);
  return std::min(1.0, uncounted / counted.wall_s);
}

// Seconds of a phase without what passed inside its calls, on average over ranks; NaN: not
// measured.
double WorkSeconds(const Measured& of, StagePhases RankPhases::*stage, Phase phase) {
  const ScalePoint& point = *of.point;
  double seconds = 0;
  for (size_t r = 0; r < point.phases.size(); ++r) {
    const StagePhases& rank = point.phases[r].*stage;
    double work = rank.seconds[static_cast<int>(phase)];
    for (const auto& [name, call] : rank.calls) {
      if (PhaseOfCall(name) == phase) work -= call.seconds_waited;
    }
    seconds += work * ShareUncounted(of, stage, r);
  }
  return seconds / static_cast<double>(point.phases.size());
}

// What the last rank to come waits in a call, which is what the call itself takes.
double CallSeconds(const ScalePoint& point, StagePhases RankPhases::*stage,
                   const std::string& name) {
  double least = 0;
  for (size_t r = 0; r < point.phases.size(); ++r) {
    const CommunicatorStats& calls = (point.phases[r].*stage).calls;
    const auto found = calls.find(name);
    if (found == calls.end()) return 0;
    const double waited = found->second.seconds_waited;
    least = r == 0 ? waited : std::min(least, waited);
  }
  return least;
}

// The points of a fit.
struct FitPoints {
  std::vector<KernelPoint> kernels;
  std::vector<CallPoint> calls;
};

// A phase is of several kernels: each gets the share of its time that `start` gives it.
void AddKernels(const Measured& of, const char* stage_name, StagePhases RankPhases::*stage,
                const ProgramTotals& totals, const HardwareProfile& start, FitPoints* points) {
  std::map<Phase, double> predicted;
  const auto seconds_of = [&](Kernel kernel, const ProgramTotals::Kernels& sum) {
    return sum.calls * KernelSeconds(start, of.ranks(), kernel, sum.work * (1 / sum.calls));
  };
  for (const auto& [key, sum] : totals.kernels) predicted[key.first] += seconds_of(key.second, sum);
  for (const auto& [key, sum] : totals.kernels) {
    const auto [phase, kernel] = key;
    const double measured = WorkSeconds(of, stage, phase);
    if (!(measured > 0)) continue;
    points->kernels.push_back({absl::StrCat(kKernelNames[static_cast<int>(kernel)], ", ",
                                            stage_name, ", ", of.point->key.ToString()),
                               kernel, sum.calls, sum.work, of.ranks(),
                               measured * seconds_of(kernel, sum) / predicted[phase]});
  }
}

void AddCalls(const Measured& of, const char* stage_name, StagePhases RankPhases::*stage,
              const ProgramTotals& totals, FitPoints* points) {
  for (const auto& [name, use] : totals.calls) {
    const double measured = CallSeconds(*of.point, stage, std::string(name));
    if (!(measured > 0)) continue;
    points->calls.push_back(
        {absl::StrCat(std::string(name), ", ", stage_name, ", ", of.point->key.ToString()), use,
         measured});
  }
}

// Forward passes of one stage, over the seconds that all of them took beside layers and logits.
void AddSteps(const Measured& of, StagePhases RankPhases::*stage, const HardwareProfile& profile,
              std::vector<std::vector<double>>* rows) {
  const StagePhases& phases = of.point->phases[0].*stage;
  const bool prefill = stage == &RankPhases::prefill;
  const int64_t batch = of.point->key.batch;
  const auto calls = static_cast<double>(prefill ? of.point->runs * batch : phases.steps);
  const Work logits = LogitsWork(of.job.model, prefill ? 1 : batch);
  const double rest = WorkSeconds(of, stage, Phase::kOtherCompute) -
                      calls * KernelSeconds(profile, of.ranks(), Kernel::kLinearFew, logits);
  if (rest > 0) rows->push_back({static_cast<double>(phases.steps) / rest});
}

// Embeddings, writes to the cache and what else belongs to no kernel: seconds of a forward pass.
double FitSteps(const std::vector<Measured>& all, const HardwareProfile& profile) {
  std::vector<std::vector<double>> rows;
  for (const Measured& of : all) {
    if (!of.not_fitted.empty()) continue;
    AddSteps(of, &RankPhases::prefill, profile, &rows);
    AddSteps(of, &RankPhases::decode, profile, &rows);
  }
  return rows.empty() ? profile.step_s : NonNegativeLeastSquares(rows, 1)[0];
}

void AddPoint(const Measured& of, const HardwareProfile& start, bool with_calls,
              FitPoints* points) {
  const ProgramTotals prefill = PrefillTotals(of, start), decode = DecodeTotals(of, start);
  AddKernels(of, "prompts", &RankPhases::prefill, prefill, start, points);
  AddKernels(of, "tokens", &RankPhases::decode, decode, start, points);
  if (!with_calls || of.ranks() == 1) return;
  AddCalls(of, "prompts", &RankPhases::prefill, prefill, points);
  AddCalls(of, "tokens", &RankPhases::decode, decode, points);
}

LinkUse UseOf(const MeasuredCall& call, const HardwareProfile& hosts) {
  const auto bytes = static_cast<double>(call.of.bytes);
  if (call.of.kind == CollectiveKind::kAllGather) {
    return AllGatherUse(hosts, call.ranks, bytes * call.ranks);
  }
  if (call.of.kind != CollectiveKind::kExchange) return AllReduceUse(hosts, call.ranks, bytes);
  // To the next rank: the slowest of them goes to another host, if there is one.
  const int to = call.ranks > hosts.ranks_per_host ? static_cast<int>(hosts.ranks_per_host) : 1;
  LinkUse use = MessageUse(hosts, to - 1, to, bytes);
  use.calls = 1;
  return use;
}

void AddChecks(const HardwareProfile& profile, const Measured& of, std::vector<FitCheck>* checks) {
  const ScalePoint& point = *of.point;
  const SelectionSource select = DrawUniformly(of.job, kSeed);
  const double prompts = PredictPrompt(profile, of.job, point.key.context, select).seconds *
                         static_cast<double>(point.key.batch);
  const double token = PredictDecode(profile, of.job, of.decoded(), select).seconds;
  checks->push_back({of.not_fitted,
                     {absl::StrCat("prompts, ", point.key.ToString()),
                      Summarize(point.prefill_s).median_s, prompts}});
  checks->push_back({of.not_fitted,
                     {absl::StrCat("a token, ", point.key.ToString()),
                      Summarize(point.decode_s).median_s, token}});
}

}  // namespace

absl::StatusOr<FitReport> FitHardware(const HardwareProfile& start, const FitInput& input,
                                      const Holdout& holdout, const std::string& model) {
  FitReport report;
  FitPoints points;
  for (const MeasuredCall& call : input.calls) {
    points.calls.push_back(
        {absl::StrCat(call.of.name, ", ", call.of.ToString(), ", ", call.ranks, " ranks"),
         UseOf(call, start), call.seconds});
  }
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<bool> held_out, HeldOut(holdout, input.points));
  std::vector<Measured> all;
  for (size_t i = 0; i < input.points.size(); ++i) {
    const ScalePoint& point = input.points[i];
    LONGSPAN_ASSIGN_OR_RETURN(Measured measured, MakeMeasured(point, model));
    LONGSPAN_RETURN_IF_ERROR(CheckDevice(measured, start));
    // Where ranks share cores, a rank's turn may be over before the end of a phase or after it, so
    // that waits and work change places.
    if (point.oversubscribed()) measured.not_fitted = kSharesCores;
    if (held_out[i]) measured.not_fitted = kHeldOut;
    all.push_back(std::move(measured));
    if (!all.back().not_fitted.empty()) continue;
    // What was measured by itself tells more of links than waits within a run do.
    AddPoint(all.back(), start, /*with_calls=*/input.calls.empty(), &points);
  }
  if (points.kernels.empty() && points.calls.empty()) {
    return absl::InvalidArgumentError(
        "--fit: nothing is left to fit: the files have no points whose ranks have a core each, or "
        "all are held out");
  }
  ProfileFit fit = FitProfile(start, points.kernels, points.calls);
  report.profile = std::move(fit.profile);
  report.parts = std::move(fit.errors);
  report.profile.step_s = FitSteps(all, report.profile);
  for (const Measured& measured : all) AddChecks(report.profile, measured, &report.checks);
  return report;
}

}  // namespace longspan
