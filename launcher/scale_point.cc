#include "launcher/scale_point.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "runtime/checksum.h"

namespace longspan {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

// JSON has no NaN: what was not measured is null.
OrderedJson NumberOrNull(double value) {
  return std::isfinite(value) ? OrderedJson(value) : OrderedJson();
}
double NumberOf(const Json& json) { return json.is_null() ? kNotMeasured : json.get<double>(); }

OrderedJson StageJson(const StagePhases& stage) {
  OrderedJson seconds, calls = OrderedJson::object();
  for (int p = 0; p < kNumPhases; ++p) {
    seconds[std::string(PhaseName(static_cast<Phase>(p)))] = NumberOrNull(stage.seconds[p]);
  }
  for (const auto& [name, call] : stage.calls) {
    calls[name] = {{"calls", call.calls},
                   {"bytes_sent", call.bytes_sent},
                   {"seconds_waited", call.seconds_waited}};
  }
  return {
      {"steps", stage.steps}, {"wall_s", stage.wall_s}, {"phases_s", seconds}, {"calls", calls}};
}

StagePhases StageOf(const Json& json) {
  StagePhases stage;
  stage.steps = json.at("steps");
  stage.wall_s = json.at("wall_s");
  for (int p = 0; p < kNumPhases; ++p) {
    stage.seconds[p] =
        NumberOf(json.at("phases_s").at(std::string(PhaseName(static_cast<Phase>(p)))));
  }
  for (const auto& [name, call] : json.at("calls").items()) {
    stage.calls[name] = {call.at("calls"), call.at("bytes_sent"), call.at("seconds_waited")};
  }
  return stage;
}

// A token's log-probability, then those of the likeliest tokens behind their ids.
OrderedJson OutputJson(const ScaleOutput& output) {
  OrderedJson logprobs = OrderedJson::array();
  for (const TokenLogprobs& token : output.logprobs) {
    OrderedJson numbers = {token.logprob};
    for (const auto& [id, logprob] : token.top) {
      numbers.push_back(id);
      numbers.push_back(logprob);
    }
    logprobs.push_back(std::move(numbers));
  }
  return {{"tokens", output.tokens}, {"logprobs", std::move(logprobs)}};
}

ScaleOutput OutputOf(const Json& json) {
  ScaleOutput output;
  output.tokens = json.at("tokens").get<std::vector<int32_t>>();
  for (const Json& numbers : json.at("logprobs")) {
    TokenLogprobs& token = output.logprobs.emplace_back();
    token.logprob = numbers.at(0);
    for (size_t i = 1; i < numbers.size(); i += 2) {
      token.top.emplace_back(numbers.at(i), numbers.at(i + 1));
    }
  }
  return output;
}

OrderedJson WorkJson(const Work& work) { return {{"bytes", work.bytes}, {"flops", work.flops}}; }
Work WorkOf(const Json& json) { return {json.at("bytes"), json.at("flops")}; }

OrderedJson RanksJson(const std::vector<RankPhases>& phases) {
  OrderedJson ranks = OrderedJson::array();
  for (const RankPhases& rank : phases) {
    ranks.push_back({{"prefill", StageJson(rank.prefill)}, {"decode", StageJson(rank.decode)}});
  }
  return ranks;
}

OrderedJson MachineJson(const BenchMachine& machine) {
  return {{"device", machine.device},
          {"software", machine.software},
          {"matmul", machine.matmul},
          {"copy_bytes_per_s", machine.copy_bytes_per_s},
          {"matmul_flops_per_s", machine.matmul_flops_per_s}};
}

OrderedJson MemoryJson(const ScalePoint& point) {
  const MemoryPlan& plan = point.memory;
  return {{"weights", plan.weights},       {"activations", plan.activations},
          {"scores", plan.scores},         {"exchange", plan.exchange},
          {"cache", point.cache_bytes},    {"page", plan.page},
          {"available", plan.available},   {"host_page", plan.host_page},
          {"peak_bytes", point.peak_bytes}};
}

// What a reader wants to see, and ParseScalePoint leaves: it follows from the rest.
OrderedJson SummaryJson(const ScalePoint& point) {
  return {{"time_to_first_token_s", Summarize(point.first_token_s).median_s},
          {"prefill_s", Summarize(point.prefill_s).median_s},
          {"chunk_s", Summarize(point.chunks_s).median_s},
          {"decode_step_s", Summarize(point.decode_s).median_s},
          {"prompt_tokens_per_s", point.prompt_tokens_per_s()},
          {"tokens_per_s", point.tokens_per_s()},
          {"prefill_imbalance", NumberOrNull(Imbalance(point.phases, &RankPhases::prefill))},
          {"decode_imbalance", NumberOrNull(Imbalance(point.phases, &RankPhases::decode))},
          {"oversubscribed", point.oversubscribed()}};
}

void ParseMemory(const Json& memory, ScalePoint* point) {
  MemoryPlan& plan = point->memory;
  plan.weights = memory.at("weights");
  plan.activations = memory.at("activations");
  plan.scores = memory.at("scores");
  plan.exchange = memory.at("exchange");
  plan.page = memory.at("page");
  plan.available = memory.at("available");
  plan.host_page = memory.at("host_page");
  point->cache_bytes = memory.at("cache");
  point->peak_bytes = memory.at("peak_bytes").get<std::vector<int64_t>>();
}

void Parse(const Json& json, ScalePoint* point) {
  point->key = {json.at("method"), json.at("context"), json.at("batch"), json.at("ranks")};
  point->version = json.at("version");
  point->config = json.at("config").get<std::map<std::string, std::string>>();
  point->prompt = json.at("prompt");
  point->hosts = json.at("hosts").get<std::vector<std::string>>();
  point->slots = json.at("slots").get<std::vector<int64_t>>();
  const Json& machine = json.at("machine");
  point->machine = {machine.at("device"), machine.at("software"), machine.at("matmul"),
                    machine.at("copy_bytes_per_s"), machine.at("matmul_flops_per_s")};
  point->runs = json.at("runs");
  point->prefill_s = json.at("prefill_s").get<std::vector<double>>();
  point->chunks_s = json.at("chunks_s").get<std::vector<double>>();
  point->first_token_s = json.at("first_token_s").get<std::vector<double>>();
  point->decode_s = json.at("decode_s").get<std::vector<double>>();
  point->prefill_work = WorkOf(json.at("work").at("prefill"));
  point->decode_work = WorkOf(json.at("work").at("decode"));
  for (const Json& rank : json.at("phases")) {
    point->phases.push_back({StageOf(rank.at("prefill")), StageOf(rank.at("decode"))});
  }
  ParseMemory(json.at("memory"), point);
  for (const Json& output : json.at("outputs")) point->outputs.push_back(OutputOf(output));
  point->digest = json.at("digest");
}

// That vectors have the lengths which the rest relies on.
absl::Status CheckLengths(const ScalePoint& point) {
  const auto ranks = static_cast<size_t>(point.key.ranks);
  const bool complete = point.hosts.size() == ranks && point.slots.size() == ranks &&
                        point.phases.size() == ranks && point.peak_bytes.size() == ranks &&
                        point.outputs.size() == static_cast<size_t>(point.key.batch) &&
                        !point.prefill_s.empty() && !point.chunks_s.empty() &&
                        !point.first_token_s.empty() && !point.decode_s.empty();
  if (complete && point.key.ranks > 0 && point.runs > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("values of a rank, a prompt or a step are missing for ", point.key.ToString()));
}

}  // namespace

std::string ScaleKey::ToString() const {
  return absl::StrCat(ranks, ranks == 1 ? " rank, " : " ranks, ", context, " tokens, batch ", batch,
                      ", ", method);
}

std::string OutputsDigest(const std::vector<ScaleOutput>& outputs) {
  std::string bytes;
  const auto append = [&](const auto& value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
  };
  for (const ScaleOutput& output : outputs) {
    append(static_cast<int64_t>(output.tokens.size()));
    for (const int32_t token : output.tokens) append(token);
    append(static_cast<int64_t>(output.logprobs.size()));
    for (const TokenLogprobs& token : output.logprobs) {
      append(token.logprob);
      for (const auto& [id, logprob] : token.top) append(id), append(logprob);
    }
  }
  return Checksum(bytes);
}

bool ScalePoint::oversubscribed() const {
  for (size_t r = 0; r < hosts.size(); ++r) {
    if (std::count(hosts.begin(), hosts.end(), hosts[r]) > slots[r]) return true;
  }
  return false;
}

bool ScalePoint::deterministic() const {
  const auto found = config.find("deterministic");
  return found != config.end() && found->second == "true";
}

std::string ScalePoint::environment() const {
  return absl::StrCat(machine.device, " (", machine.software, "), ", version);
}

int64_t ScalePoint::num_hosts() const {
  return static_cast<int64_t>(std::set<std::string>(hosts.begin(), hosts.end()).size());
}

double ScalePoint::tokens_per_s() const {
  return static_cast<double>(key.batch) / Summarize(decode_s).median_s;
}

double ScalePoint::prompt_tokens_per_s() const {
  return static_cast<double>(key.batch * key.context) / Summarize(prefill_s).median_s;
}

double Imbalance(const std::vector<RankPhases>& phases, StagePhases RankPhases::*stage) {
  double sum = 0, largest = 0;
  for (const RankPhases& rank : phases) {
    const double seconds = ComputeSeconds(rank.*stage);
    if (std::isnan(seconds)) return kNotMeasured;
    sum += seconds;
    largest = std::max(largest, seconds);
  }
  return sum > 0 ? largest * static_cast<double>(phases.size()) / sum : kNotMeasured;
}

OrderedJson ToJson(const ScalePoint& point) {
  OrderedJson outputs = OrderedJson::array();
  for (const ScaleOutput& output : point.outputs) outputs.push_back(OutputJson(output));
  return {{"ranks", point.key.ranks},
          {"context", point.key.context},
          {"batch", point.key.batch},
          {"method", point.key.method},
          {"summary", SummaryJson(point)},
          {"version", point.version},
          {"config", point.config},
          {"prompt", point.prompt},
          {"hosts", point.hosts},
          {"slots", point.slots},
          {"machine", MachineJson(point.machine)},
          {"runs", point.runs},
          {"prefill_s", point.prefill_s},
          {"chunks_s", point.chunks_s},
          {"first_token_s", point.first_token_s},
          {"decode_s", point.decode_s},
          {"work",
           {{"prefill", WorkJson(point.prefill_work)}, {"decode", WorkJson(point.decode_work)}}},
          {"phases", RanksJson(point.phases)},
          {"memory", MemoryJson(point)},
          {"outputs", std::move(outputs)},
          {"digest", point.digest}};
}

absl::StatusOr<ScalePoint> ParseScalePoint(const Json& json) {
  ScalePoint point;
  try {
    Parse(json, &point);
  } catch (const Json::exception& error) {
    const absl::string_view what = error.what();  // "[json.exception.type_error.302] type must..."
    return absl::InvalidArgumentError(
        absl::StrCat("is no point of a study: ", what.substr(what.find("] ") + 2)));
  }
  if (absl::Status status = CheckLengths(point); !status.ok()) return status;
  return point;
}

}  // namespace longspan
