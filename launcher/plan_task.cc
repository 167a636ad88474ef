#include "launcher/plan_task.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "launcher/plan_report.h"
#include "launcher/plan_simulate.h"

namespace longspan {
namespace {

using OrderedJson = nlohmann::ordered_json;

std::string JsonText(const OrderedJson& json) {
  return json.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

// Of part `index` of `parts`, which take about as long.
PlanProgress PartOf(const PlanProgress& progress, size_t index, size_t parts) {
  return [&progress, index, parts](int64_t done, int64_t total) {
    progress(static_cast<int64_t>(index) * total + done, static_cast<int64_t>(parts) * total);
  };
}

absl::Status CheckSizes(const PlanTask& task, const PlanSubject& subject) {
  // A search leaves out what the config is not for, but one rank.
  const std::vector<int64_t> ranks = task.target.asks() ? std::vector<int64_t>{1} : task.ranks;
  for (const int64_t number : ranks) {
    const auto count = static_cast<int>(number);
    if (!task.simulate && number > MostRanks(subject)) {
      return absl::InvalidArgumentError(
          absl::StrCat("`parallel.selection_merge: all_gather` is for at most ", MostRanks(subject),
                       " GPUs, not ", number, ": use auto or histogram; --simulate looks beyond"));
    }
    const PlanSubject checked = task.simulate ? WithBlocksForAll(subject, count) : subject;
    for (const int64_t context : task.contexts) {
      LONGSPAN_RETURN_IF_ERROR(SettleFor(checked, {count, context, task.batch}).status());
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<PlanOutcome> Predict(const PlanTask& task, const PlanSubject& subject,
                                    const PlanProgress& progress) {
  PlanOutcome outcome = {task.json ? "" : PlanHeader(subject)};
  OrderedJson all = OrderedJson::array();
  const size_t parts = task.ranks.size() * task.contexts.size();
  size_t part = 0;
  for (const int64_t ranks : task.ranks) {
    for (const int64_t context : task.contexts) {
      const PlanSize size = {static_cast<int>(ranks), context, task.batch};
      LONGSPAN_ASSIGN_OR_RETURN(const JobPlan plan, PlanJob(subject, size));
      LONGSPAN_ASSIGN_OR_RETURN(const PlanChoices choices,
                                ChoosePlan(subject, size, PartOf(progress, part++, parts)));
      outcome.good &= plan.memory.fits;
      if (task.json) {
        all.push_back(PlanJson(subject, plan, choices));
      } else {
        absl::StrAppend(&outcome.text, PlanTable(plan, choices));
      }
    }
  }
  if (task.json) outcome.text = JsonText(all);
  return outcome;
}

absl::StatusOr<PlanOutcome> Search(const PlanTask& task, const PlanSubject& subject,
                                   const PlanProgress& progress) {
  PlanOutcome outcome = {task.json ? "" : PlanHeader(subject)};
  OrderedJson all = OrderedJson::array();
  for (size_t c = 0; c < task.contexts.size(); ++c) {
    const int64_t context = task.contexts[c];
    LONGSPAN_ASSIGN_OR_RETURN(const PlanSearch search,
                              SearchMachine(subject, task.target, context, task.batch,
                                            PartOf(progress, c, task.contexts.size())));
    outcome.good &= search.found.has_value();
    all.push_back(SearchJson(search));
    all.back()["context"] = context;
    if (!task.json) {
      absl::StrAppend(&outcome.text, "\n", context, " tokens, batch ", task.batch,
                      SearchTable(search));
    }
  }
  if (task.json) outcome.text = JsonText(all);
  return outcome;
}

absl::StatusOr<PlanOutcome> Simulate(const PlanTask& task, const PlanSubject& subject,
                                     const PlanProgress& progress) {
  PlanOutcome outcome = {task.json ? "" : PlanHeader(subject)};
  OrderedJson all = OrderedJson::array();
  for (size_t c = 0; c < task.contexts.size(); ++c) {
    const int64_t context = task.contexts[c];
    LONGSPAN_ASSIGN_OR_RETURN(const std::vector<SimulatedRanks> rows,
                              SimulateRanks(subject, task.ranks, context, task.batch,
                                            PartOf(progress, c, task.contexts.size())));
    all.push_back({{"context", context}, {"batch", task.batch}, {"rows", SimulationJson(rows)}});
    if (!task.json) {
      absl::StrAppend(&outcome.text, "\n", context, " tokens, batch ", task.batch,
                      SimulationTable(rows));
    }
  }
  if (task.json) outcome.text = JsonText(all);
  return outcome;
}

}  // namespace

absl::StatusOr<PlanOutcome> RunPlan(const PlanTask& task, const PlanSubject& subject,
                                    const PlanProgress& progress) {
  LONGSPAN_RETURN_IF_ERROR(CheckSizes(task, subject));
  if (task.target.asks()) return Search(task, subject, progress);
  return (task.simulate ? Simulate : Predict)(task, subject, progress);
}

}  // namespace longspan
