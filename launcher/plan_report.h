#ifndef LONGSPAN_LAUNCHER_PLAN_REPORT_H_
#define LONGSPAN_LAUNCHER_PLAN_REPORT_H_

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "launcher/plan_choices.h"
#include "launcher/plan_prediction.h"
#include "launcher/plan_target.h"

// Plans as people and programs read them.
namespace longspan {

// Two lines: on what, and of which model.
std::string PlanHeader(const PlanSubject& subject);

std::string PlanTable(const JobPlan& plan, const PlanChoices& choices);
nlohmann::ordered_json PlanJson(const PlanSubject& subject, const JobPlan& plan,
                                const PlanChoices& choices);

// Seconds by phase, and calls by name.
nlohmann::ordered_json PredictionJson(const Prediction& prediction);

std::string SearchTable(const PlanSearch& search);
nlohmann::ordered_json SearchJson(const PlanSearch& search);

// Lines of equally many cells, in columns: the first to the left, the others to the right.
std::string AlignCells(const std::vector<std::vector<std::string>>& lines);

// "1.23 s", "4.56 ms" or "7.89 us".
std::string SecondsText(double seconds);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_PLAN_REPORT_H_
