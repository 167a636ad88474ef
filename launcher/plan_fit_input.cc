// What is read for a fit; plan_fit.cc makes it.
#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <sstream>
#include <tuple>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"
#include "launcher/flags.h"
#include "launcher/plan_fit.h"
#include "launcher/scale_study.h"
#include "runtime/read_bytes.h"
#include "sharding/topk_merge.h"

namespace longspan {
namespace {

using Json = nlohmann::json;

constexpr char kWhatIsRead[] =
    "expected lines of a study's points.jsonl, or a report of `bench collectives` in CSV or JSON";

absl::Status NoInput(const std::string& path, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", why, "; ", kWhatIsRead));
}

// Rows of one report: the fastest way of each case.
class Calls {
 public:
  // False: the row is no collective.
  bool Add(const std::string& name, const std::string& shape, int64_t ranks, double us) {
    const std::optional<CollectiveCase> of = ParseCollectiveCase(name, shape);
    if (!of.has_value() || ranks < 2 || !(us > 0)) return false;
    const auto [found, is_new] = fastest_.try_emplace(
        {of->name, of->bytes, ranks}, MeasuredCall{*of, static_cast<int>(ranks), us * 1e-6});
    if (!is_new) found->second.seconds = std::min(found->second.seconds, us * 1e-6);
    return true;
  }
  void AppendTo(std::vector<MeasuredCall>* calls) const {
    for (const auto& [key, call] : fastest_) calls->push_back(call);
  }

 private:
  std::map<std::tuple<std::string, int64_t, int64_t>, MeasuredCall> fastest_;
};

// Cells of a line of RFC 4180, as bench_report.cc writes them: no line breaks in them.
std::vector<std::string> CsvCells(absl::string_view line) {
  std::vector<std::string> cells(1);
  bool quoted = false;
  for (size_t i = 0; i < line.size(); ++i) {
    const bool doubled = quoted && i + 1 < line.size() && line[i + 1] == '"';
    if (line[i] == '"' && doubled) {
      cells.back() += line[i++];
    } else if (line[i] == '"') {
      quoted = !quoted;
    } else if (line[i] == ',' && !quoted) {
      cells.emplace_back();
    } else {
      cells.back() += line[i];
    }
  }
  return cells;
}

absl::Status ReadCsv(const std::string& path, absl::string_view text, FitInput* input) {
  constexpr absl::string_view kColumns[] = {"benchmark", "name", "shape", "ranks", "median_us"};
  const std::vector<absl::string_view> lines = absl::StrSplit(text, '\n', absl::SkipEmpty());
  const std::vector<std::string> titles = CsvCells(lines[0]);
  size_t columns[std::size(kColumns)];
  for (size_t c = 0; c < std::size(kColumns); ++c) {
    const auto found = std::find(titles.begin(), titles.end(), kColumns[c]);
    if (found == titles.end()) return NoInput(path, absl::StrCat("has no column ", kColumns[c]));
    columns[c] = found - titles.begin();
  }
  Calls calls;
  for (size_t l = 1; l < lines.size(); ++l) {
    const std::vector<std::string> cells = CsvCells(lines[l]);
    const auto cell = [&](size_t c) { return columns[c] < cells.size() ? cells[columns[c]] : ""; };
    int64_t ranks = 0;
    double us = 0;
    if (cell(0) != "collectives" || !absl::SimpleAtoi(cell(3), &ranks) ||
        !absl::SimpleAtod(cell(4), &us) || !calls.Add(cell(1), cell(2), ranks, us)) {
      return NoInput(path, absl::StrCat("line ", l + 1, " is no collective"));
    }
  }
  calls.AppendTo(&input->calls);
  return absl::OkStatus();
}

absl::Status ReadReport(const std::string& path, const Json& json, FitInput* input) {
  try {
    if (json.at("benchmark") != "collectives") {
      return NoInput(
          path, absl::StrCat("is a report of bench ", json.at("benchmark").get<std::string>()));
    }
    Calls calls;
    for (const Json& row : json.at("rows")) {
      if (!calls.Add(row.at("name"), row.at("shape"), json.at("ranks"), row.at("median_us"))) {
        return NoInput(path, absl::StrCat("its row ", row.dump(), " is no collective"));
      }
    }
    calls.AppendTo(&input->calls);
  } catch (const Json::exception& error) {
    return NoInput(path, error.what());
  }
  return absl::OkStatus();
}

absl::Status ReadPoints(const std::string& path, absl::string_view text, FitInput* input) {
  absl::StatusOr<PointLines> lines = ParsePointLines(text, path);
  if (!lines.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(lines.status().message(), "; ", kWhatIsRead));
  }
  if (lines->points.empty()) return NoInput(path, "has no whole line");
  // A study has a key once; several studies in one file may have it under several configs.
  std::map<std::pair<ScaleKey, std::map<std::string, std::string>>, ScalePoint> last;
  for (ScalePoint& point : lines->points) {
    const std::pair measured(point.key, point.config);
    last.insert_or_assign(measured, std::move(point));
  }
  for (auto& [measured, point] : last) input->points.push_back(std::move(point));
  if (!lines->note.empty()) input->notes.push_back(std::move(lines->note));
  return absl::OkStatus();
}

// Where each point stands in the grid of those that may be fitted, so that every so-manieth is of
// each number of ranks in turn: a row for each job, and from row to row a step that has no divisor
// in common with `every`. 0, which is never held out: its ranks share cores.
std::vector<size_t> IndicesOf(const std::vector<ScalePoint>& points, int64_t every) {
  std::set<ScaleKey> rows;
  std::set<int64_t> columns;
  for (const ScalePoint& point : points) {
    if (point.oversubscribed()) continue;
    rows.insert(point.key.reference());
    columns.insert(point.key.ranks);
  }
  auto step = std::ssize(columns);
  while (every > 0 && std::gcd(step, every) != 1) ++step;
  std::vector<size_t> indices;
  for (const ScalePoint& point : points) {
    const auto row = std::distance(rows.begin(), rows.find(point.key.reference()));
    const auto column = std::distance(columns.begin(), columns.find(point.key.ranks));
    indices.push_back(point.oversubscribed() ? 0 : row * step + column);
  }
  return indices;
}

}  // namespace

absl::Status ReadFitFile(const std::string& path, FitInput* input) {
  std::string text;
  LONGSPAN_RETURN_IF_ERROR(ReadBytes(path, 0, -1, &text));
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == text.npos) return NoInput(path, "is empty");
  if (absl::StartsWith(text, "benchmark,")) return ReadCsv(path, text, input);
  if (text[first] != '{') return NoInput(path, "is neither CSV nor JSON");
  // A report is one object over many lines; points are one a line.
  const Json whole = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (whole.is_object() && whole.contains("benchmark")) return ReadReport(path, whole, input);
  return ReadPoints(path, text, input);
}

bool Holdout::Holds(size_t index, const ScalePoint& point) const {
  if (every > 0 && (static_cast<int64_t>(index) + 1) % every == 0) return true;
  return points.contains({point.key.context, point.key.ranks});
}

absl::StatusOr<std::vector<bool>> HeldOut(const Holdout& holdout,
                                          const std::vector<ScalePoint>& points) {
  const std::vector<size_t> indices = IndicesOf(points, holdout.every);
  std::vector<bool> held;
  std::set<std::pair<int64_t, int64_t>> missing = holdout.points;
  for (size_t i = 0; i < points.size(); ++i) {
    held.push_back(holdout.Holds(indices[i], points[i]));
    missing.erase({points[i].key.context, points[i].key.ranks});
  }
  if (!missing.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--holdout ", missing.begin()->first, "/",
                                                   missing.begin()->second,
                                                   ": the files have no such point"));
  }
  if (holdout.every > 0 && std::count(held.begin(), held.end(), true) == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--holdout ", holdout.every,
                     ": the files have fewer points than that whose ranks have a core each"));
  }
  return held;
}

absl::StatusOr<Holdout> ParseHoldout(absl::string_view text) {
  Holdout holdout;
  if (text.empty()) return holdout;
  if (absl::SimpleAtoi(text, &holdout.every) && holdout.every >= 2) return holdout;
  holdout.every = 0;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    const std::pair<absl::string_view, absl::string_view> sizes =
        absl::StrSplit(part, absl::MaxSplits('/', 1));
    int64_t context = 0, ranks = 0;
    if (!absl::SimpleAtoi(sizes.first, &context) || !absl::SimpleAtoi(sizes.second, &ranks) ||
        context < 1 || ranks < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("--holdout must be a number from 2, to keep every so-manieth point from the "
                       "fit, or points as CONTEXT/RANKS, separated by commas, not `",
                       part, "`"));
    }
    holdout.points.insert({context, ranks});
  }
  return holdout;
}

}  // namespace longspan
