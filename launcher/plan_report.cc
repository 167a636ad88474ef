#include "launcher/plan_report.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "launcher/bench_report.h"
#include "runtime/memory_plan.h"

namespace longspan {
namespace {

using Cells = std::vector<std::string>;
using OrderedJson = nlohmann::ordered_json;

std::string RanksText(int ranks) { return absl::StrCat(ranks, ranks == 1 ? " rank" : " ranks"); }

std::string MemoryText(const JobPlan& plan) {
  const PlanMemoryUse& use = plan.memory;
  const MemoryPlan& parts = use.plan;
  std::string text = absl::StrCat(
      "memory of a rank     ", FormatBytes(use.needed()), " of ", FormatBytes(use.usable),
      use.fits ? ", fits" : ", DOES NOT FIT", plan.config.device == "cuda" ? " (estimated)" : "",
      ": weights ", FormatBytes(parts.weights), ", activations ", FormatBytes(parts.activations),
      ", scores ", FormatBytes(parts.scores), ", exchange ", FormatBytes(parts.exchange),
      ", cache ", FormatBytes(use.cache));
  if (parts.host_page > 0) {
    absl::StrAppend(&text, "; of its host, for keys and values, ", FormatBytes(use.host_cache));
  }
  const std::string longest = use.longest > 0 ? absl::StrCat(use.longest, " tokens") : "none";
  return absl::StrCat(text, "\nlongest that fits    ", longest, "\n");
}

std::string PhaseTable(const JobPlan& plan) {
  std::vector<Cells> lines = {{"phase, of the mean rank", "prompt", "", "token", ""}};
  const auto cells = [](double seconds, double all) {
    return std::pair(SecondsText(seconds), absl::StrFormat("%.0f%%", 100 * seconds / all));
  };
  for (int p = 0; p < kNumPhases; ++p) {
    const auto prompt = cells(plan.prompt.mean[p], plan.prompt.seconds);
    const auto token = cells(plan.token.mean[p], plan.token.seconds);
    lines.push_back(
        {std::string(kPhaseNames[p]), prompt.first, prompt.second, token.first, token.second});
  }
  return AlignCells(lines);
}

// What the best of a choice saves.
std::string SavingText(double now, double best) {
  if (std::abs(now - best) < 5e-4 * now) return "-";
  return absl::StrFormat("%s (%.0f%%)", SecondsText(now - best), 100 * (now - best) / now);
}

Cells ChoiceCells(const PlanOption& now, absl::string_view what, absl::string_view current,
                  const PlanOption& best) {
  return {std::string(what),
          std::string(current),
          best.value,
          SecondsText(best.prompt_s),
          SavingText(now.prompt_s, best.prompt_s),
          SecondsText(best.token_s),
          SavingText(now.token_s, best.token_s)};
}

std::string ChoiceTable(const PlanChoices& choices) {
  std::vector<Cells> lines = {{"setting", "now", "best", "first token", "saves", "token", "saves"}};
  std::string notes;
  for (const PlanChoice& choice : choices.choices) {
    lines.push_back(ChoiceCells(choices.now, choice.what, choice.now, choice.options[choice.best]));
    if (!choice.note.empty()) absl::StrAppend(&notes, choice.what, ": ", choice.note, "\n");
  }
  lines.push_back(ChoiceCells(choices.now, "all that the config can say", "", choices.together));
  lines.back()[2].clear();
  return AlignCells(lines) + notes;
}

OrderedJson MemoryJson(const JobPlan& plan) {
  const PlanMemoryUse& use = plan.memory;
  return {{"weights", use.plan.weights},
          {"activations", use.plan.activations},
          {"scores", use.plan.scores},
          {"exchange", use.plan.exchange},
          {"cache", use.cache},
          {"needed", use.needed()},
          {"usable", use.usable},
          {"estimated", plan.config.device == "cuda"},
          {"fits", use.fits},
          {"longest_context", use.longest}};
}

OrderedJson OptionJson(const PlanOption& option) {
  return {{"value", option.value},
          {"time_to_first_token_s", option.prompt_s},
          {"token_s", option.token_s},
          {"fits", option.fits}};
}

OrderedJson ChoicesJson(const PlanChoices& choices) {
  OrderedJson list = OrderedJson::array();
  for (const PlanChoice& choice : choices.choices) {
    OrderedJson options = OrderedJson::array();
    for (const PlanOption& option : choice.options) {
      if (option.prompt_s > 0) options.push_back(OptionJson(option));
    }
    list.push_back({{"what", choice.what},
                    {"now", choice.now},
                    {"best", choice.options[choice.best].value},
                    {"note", choice.note},
                    {"options", std::move(options)}});
  }
  return {{"now", OptionJson(choices.now)},
          {"settings", std::move(list)},
          {"together", OptionJson(choices.together)}};
}

}  // namespace

std::string SecondsText(double seconds) {
  if (std::abs(seconds) >= 1) return absl::StrFormat("%.3g s", seconds);
  if (std::abs(seconds) >= 1e-3) return absl::StrFormat("%.3g ms", seconds * 1e3);
  return absl::StrFormat("%.3g us", seconds * 1e6);
}

std::string AlignCells(const std::vector<Cells>& lines) {
  std::vector<size_t> widths(lines[0].size(), 0);
  for (const Cells& cells : lines) {
    for (size_t c = 0; c < cells.size(); ++c) widths[c] = std::max(widths[c], cells[c].size());
  }
  std::string text;
  for (const Cells& cells : lines) {
    std::string line;
    for (size_t c = 0; c < cells.size(); ++c) {
      const std::string space(widths[c] - cells[c].size(), ' ');
      absl::StrAppend(&line, c == 0 ? "" : "  ", c == 0 ? cells[c] + space : space + cells[c]);
    }
    absl::StrAppend(&text, line.substr(0, line.find_last_not_of(' ') + 1), "\n");
  }
  return text;
}

OrderedJson PredictionJson(const Prediction& prediction) {
  OrderedJson mean, most, calls = OrderedJson::object();
  for (int p = 0; p < kNumPhases; ++p) {
    mean[std::string(kPhaseNames[p])] = prediction.mean[p];
    most[std::string(kPhaseNames[p])] = prediction.most[p];
  }
  for (const auto& [name, call] : prediction.calls) {
    calls[name] = {{"calls", std::llround(call.calls)}, {"bytes_of_rank", call.bytes}};
  }
  return {{"seconds", prediction.seconds},          {"phases_s", std::move(mean)},
          {"phases_of_slowest_s", std::move(most)}, {"imbalance_s", prediction.imbalance},
          {"exchange_s", prediction.exchange},      {"calls", std::move(calls)}};
}

std::string PlanHeader(const PlanSubject& subject) {
  const ModelConfig& model = subject.model;
  return absl::StrFormat(
      "%s plan; hardware %s, device %s; predicted, nothing was run\n%s, %d layers of %d, %d heads "
      "and %d of keys and values, of %d, %.4g million parameters; attention %s\n",
      ReportVersion(), subject.hardware.name, subject.config.device, ModelName(subject.config),
      model.num_layers, model.hidden_size, model.num_heads, model.num_kv_heads, model.head_dim,
      static_cast<double>(subject.weights.parameters) * 1e-6,
      ConfigValue(subject.config, "attention"));
}

std::string PlanTable(const JobPlan& plan, const PlanChoices& choices) {
  const auto prompt_rate = static_cast<double>(plan.size.context) / plan.prompt.seconds;
  return absl::StrFormat(
      "\n%s, %d tokens, batch %d; chunk %d, stripe %d\n\n%stime to first token  %s, %.0f prompt "
      "tokens/s\na token              %s, %.4g tokens/s\n\n%s\n%s",
      RanksText(plan.size.ranks), plan.size.context, plan.size.batch,
      plan.config.prefill_chunk_tokens, plan.config.parallel.stripe_tokens, MemoryText(plan),
      SecondsText(plan.prompt.seconds), prompt_rate, SecondsText(plan.token.seconds),
      plan.tokens_per_s(), PhaseTable(plan), ChoiceTable(choices));
}

OrderedJson PlanJson(const PlanSubject& subject, const JobPlan& plan, const PlanChoices& choices) {
  return {{"version", ReportVersion()},
          {"hardware", subject.hardware.name},
          {"device", subject.config.device},
          {"model", ModelName(subject.config)},
          {"attention", ConfigValue(plan.config, "attention")},
          {"ranks", plan.size.ranks},
          {"context", plan.size.context},
          {"batch", plan.size.batch},
          {"chunk_tokens", plan.config.prefill_chunk_tokens},
          {"stripe_tokens", plan.config.parallel.stripe_tokens},
          {"memory", MemoryJson(plan)},
          {"time_to_first_token_s", plan.prompt.seconds},
          {"token_s", plan.token.seconds},
          {"tokens_per_s", plan.tokens_per_s()},
          {"prompt", PredictionJson(plan.prompt)},
          {"token", PredictionJson(plan.token)},
          {"choices", ChoicesJson(choices)}};
}

std::string SearchTable(const PlanSearch& search) {
  std::vector<PlanTry> tries = search.tries;
  std::sort(tries.begin(), tries.end(),
            [](const PlanTry& a, const PlanTry& b) { return a.ranks < b.ranks; });
  std::vector<Cells> lines = {{"ranks", "chunk", "first token", "token", "memory of a rank", ""}};
  for (const PlanTry& made : tries) {
    lines.push_back({absl::StrCat(made.ranks), absl::StrCat(made.chunk_tokens),
                     SecondsText(made.prompt_s), SecondsText(made.token_s),
                     absl::StrCat(FormatBytes(made.needed), " of ", FormatBytes(made.usable)),
                     !made.fits    ? "does not fit"
                     : !made.meets ? "misses the target"
                                   : ""});
  }
  const std::string verdict =
      search.found.has_value()
          ? absl::StrCat("smallest that meets the target: ", RanksText(search.found->ranks),
                         " with prefill.chunk_tokens ", search.found->chunk_tokens)
          : absl::StrCat("none up to ", RanksText(tries.back().ranks),
                         " meets the target; what binds is ", search.limit);
  return absl::StrCat("\n", AlignCells(lines), verdict, "\n");
}

OrderedJson SearchJson(const PlanSearch& search) {
  const auto json_of = [](const PlanTry& made) -> OrderedJson {
    return {{"ranks", made.ranks},
            {"chunk_tokens", made.chunk_tokens},
            {"fits", made.fits},
            {"meets", made.meets},
            {"time_to_first_token_s", made.prompt_s},
            {"token_s", made.token_s},
            {"needed", made.needed},
            {"usable", made.usable}};
  };
  OrderedJson tries = OrderedJson::array();
  for (const PlanTry& made : search.tries) tries.push_back(json_of(made));
  return {{"found", search.found.has_value() ? json_of(*search.found) : OrderedJson()},
          {"limit", search.limit},
          {"tries", std::move(tries)}};
}

}  // namespace longspan
