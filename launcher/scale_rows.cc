#include "launcher/scale_rows.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "launcher/bench_report.h"

namespace longspan {
namespace {

constexpr absl::string_view kVerdicts[] = {"one rank",        "bits equal",      "tokens equal",
                                           "within rounding", "no one-rank run", "DIFFERS"};

// Of all ranks, in all runs.
int64_t BytesSent(const ScalePoint& point, StagePhases RankPhases::*stage) {
  int64_t bytes = 0;
  for (const RankPhases& rank : point.phases) {
    for (const auto& [name, call] : (rank.*stage).calls) bytes += call.bytes_sent;
  }
  return bytes;
}

double BytesAStep(const ScalePoint& point, StagePhases RankPhases::*stage) {
  const int64_t steps = std::max<int64_t>(1, (point.phases[0].*stage).steps);
  return static_cast<double>(BytesSent(point, stage)) / static_cast<double>(steps);
}

int64_t PlannedBytes(const ScalePoint& point) { return point.memory.fixed() + point.cache_bytes; }

int64_t PeakBytes(const ScalePoint& point) {
  return *std::max_element(point.peak_bytes.begin(), point.peak_bytes.end());
}

double Efficiency(const ScaleRow& row, double Scaling::*stage) {
  if (!row.scaling) return kNotMeasured;
  return (*row.scaling).*stage / static_cast<double>(row.point.key.ranks);
}

constexpr ScaleNumber kNumbers[] = {
    {"prefill_s", "prompts, s",
     [](const ScaleRow& row) { return Summarize(row.point.prefill_s).median_s; }},
    {"chunk_s", "", [](const ScaleRow& row) { return Summarize(row.point.chunks_s).median_s; }},
    {"time_to_first_token_s", "first token, s",
     [](const ScaleRow& row) { return Summarize(row.point.first_token_s).median_s; }},
    {"decode_step_s", "decoded step, ms",
     [](const ScaleRow& row) { return Summarize(row.point.decode_s).median_s; }, 1e3},
    {"prompt_tokens_per_s", "prompt tokens/s",
     [](const ScaleRow& row) { return row.point.prompt_tokens_per_s(); }},
    {"tokens_per_s", "decoded tokens/s",
     [](const ScaleRow& row) { return row.point.tokens_per_s(); }},
    {"prefill_speedup", "",
     [](const ScaleRow& row) { return row.scaling ? row.scaling->prefill : kNotMeasured; }},
    {"decode_speedup", "",
     [](const ScaleRow& row) { return row.scaling ? row.scaling->decode : kNotMeasured; }},
    {"prefill_efficiency", "prompt efficiency, %",
     [](const ScaleRow& row) { return Efficiency(row, &Scaling::prefill); }, 100, true},
    {"decode_efficiency", "decode efficiency, %",
     [](const ScaleRow& row) { return Efficiency(row, &Scaling::decode); }, 100, true},
    {"prefill_imbalance", "prompt imbalance",
     [](const ScaleRow& row) { return Imbalance(row.point.phases, &RankPhases::prefill); }},
    {"decode_imbalance", "decode imbalance",
     [](const ScaleRow& row) { return Imbalance(row.point.phases, &RankPhases::decode); }},
    {"prefill_share_of_matmul", "prompts, % of matmul",
     [](const ScaleRow& row) {
       return PrefillRates(row.point).flops_per_s / row.point.machine.matmul_flops_per_s;
     },
     100, true},
    {"decode_share_of_copy", "decoding, % of copy",
     [](const ScaleRow& row) {
       return DecodeRates(row.point).bytes_per_s / row.point.machine.copy_bytes_per_s;
     },
     100, true},
    {"prefill_bytes_sent_a_chunk", "sent a chunk, MB",
     [](const ScaleRow& row) { return BytesAStep(row.point, &RankPhases::prefill); }, 1e-6},
    {"decode_bytes_sent_a_step", "sent a decoded step, MB",
     [](const ScaleRow& row) { return BytesAStep(row.point, &RankPhases::decode); }, 1e-6},
    {"planned_bytes", "planned memory, MB",
     [](const ScaleRow& row) { return static_cast<double>(PlannedBytes(row.point)); }, 1e-6},
    {"peak_bytes", "peak memory, MB",
     [](const ScaleRow& row) { return static_cast<double>(PeakBytes(row.point)); }, 1e-6},
};

}  // namespace

std::map<std::string, std::vector<const ScalePoint*>> ByEnvironment(const StoredStudy& stored) {
  std::map<std::string, std::vector<const ScalePoint*>> points;
  for (const auto& [key, point] : stored.points) points[point.environment()].push_back(&point);
  return points;
}

std::vector<ScaleRow> RowsOf(const StoredStudy& stored) {
  const auto environments = ByEnvironment(stored);
  const auto most = std::max_element(
      environments.begin(), environments.end(),
      [](const auto& a, const auto& b) { return a.second.size() < b.second.size(); });
  std::vector<ScaleRow> rows;
  for (const auto& [key, point] : stored.points) {
    rows.push_back({point, ScalingOf(stored, key), CheckOutputs(point, stored.points),
                    point.environment() != most->first});
  }
  return rows;
}

absl::Span<const ScaleNumber> ScaleNumbers() { return kNumbers; }

bool IsAboveAll(const ScaleNumber& number, const ScaleRow& row) {
  return number.is_share && number.value(row) > 1.005;  // as it is shown
}

absl::string_view VerdictName(const OutputCheck& check) {
  return kVerdicts[static_cast<int>(check.verdict)];
}

std::string NoteOf(const ScaleRow& row) {
  std::vector<absl::string_view> notes;
  if (row.point.oversubscribed()) notes.push_back(kCheckOnly);
  if (row.is_elsewhere) notes.push_back(kElsewhere);
  return absl::StrJoin(notes, "; ");
}

// Ranks that hold no stripe of a prompt. Empty: there are none.
std::string IdleText(const ScalePoint& point) {
  const auto found = point.config.find("parallel.stripe_tokens");
  int64_t stripe = 0;
  if (found == point.config.end() || !absl::SimpleAtoi(found->second, &stripe) || stripe < 1) {
    return "";
  }
  const int64_t stripes = (point.key.context + stripe - 1) / stripe;
  if (stripes >= point.key.ranks) return "";
  return absl::StrCat(point.key.ToString(), ": a prompt has ", stripes,
                      stripes == 1 ? " stripe" : " stripes", " of ", stripe, " tokens, so that ",
                      point.key.ranks - stripes,
                      " of the ranks compute none of it: a smaller "
                      "prefill.chunk_tokens or parallel.stripe_tokens gives all of them a part");
}

}  // namespace longspan
