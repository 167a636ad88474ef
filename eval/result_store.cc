#include "eval/result_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"
#include "runtime/answer_json.h"
#include "runtime/json_file.h"
#include "runtime/new_file.h"
#include "runtime/read_bytes.h"

namespace longspan {
namespace {

namespace fs = std::filesystem;

absl::Status ErrorOf(const std::string& path) {
  return absl::InternalError(
      absl::StrCat("--output ", path, ": cannot be written to: ", strerror(errno)));
}

// The first key that differs, in words; empty: none does.
std::string Difference(const nlohmann::ordered_json& there, const nlohmann::ordered_json& here) {
  nlohmann::ordered_json all = here;
  all.update(there);
  for (const auto& [key, unused] : all.items()) {
    const nlohmann::json of_there = there.contains(key) ? there.at(key) : nlohmann::ordered_json();
    const nlohmann::json of_here = here.contains(key) ? here.at(key) : nlohmann::ordered_json();
    if (of_there == of_here) continue;
    return absl::StrCat("`", key, "` is ", of_there.dump(), " there and ", of_here.dump(), " here");
  }
  return "";
}

// Between settings, and between those of methods that both have.
std::string DifferenceOfDescriptions(const nlohmann::ordered_json& there,
                                     const nlohmann::ordered_json& here) {
  std::string difference = Difference(there.at("settings"), here.at("settings"));
  for (const auto& [name, settings] : here.at("methods").items()) {
    if (!difference.empty() || !there.at("methods").contains(name)) continue;
    difference = Difference(there.at("methods").at(name), settings);
    if (!difference.empty()) difference = absl::StrCat("of ", name, " ", difference);
  }
  return difference;
}

absl::StatusOr<nlohmann::ordered_json> ReadDescription(const std::string& path) {
  std::string text;
  LONGSPAN_RETURN_IF_ERROR(ReadBytes(path, 0, -1, &text));
  auto json = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  bool is_one = json.is_object();
  for (const char* part : {"about", "settings", "methods"}) {
    is_one = is_one && json.contains(part) && json.at(part).is_object();
  }
  if (is_one && json.at("settings").value("cases_of_a_method", nlohmann::json()).is_number()) {
    return json;
  }
  return absl::DataLossError(absl::StrCat(path, ": is not an evaluation of this version"));
}

// Without methods that have no case yet, as when one did not fit: they may come with other
// settings.
nlohmann::ordered_json WithCases(nlohmann::ordered_json description,
                                 const std::vector<EvalResult>& results) {
  nlohmann::ordered_json methods = nlohmann::ordered_json::object();
  for (const auto& [name, settings] : description.at("methods").items()) {
    const auto is_of = [&](const EvalResult& result) { return result.method == name; };
    if (std::any_of(results.begin(), results.end(), is_of)) methods[name] = settings;
  }
  description["methods"] = std::move(methods);
  return description;
}

// The complete lines of `path` by `parse`.
template <typename T>
absl::StatusOr<std::vector<T>> ParseLines(absl::string_view text, const std::string& path,
                                          absl::StatusOr<T> (*parse)(const nlohmann::json&)) {
  std::vector<T> parsed;
  int64_t number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    if (line.empty()) continue;
    const absl::StatusOr<nlohmann::json> json = ParseJsonObject({line.data(), line.size()});
    absl::StatusOr<T> one = json.ok() ? parse(*json) : json.status();
    if (!one.ok()) {
      return absl::DataLossError(absl::StrCat(path, ":", number, ": ", one.status().message(),
                                              ": delete this line, and its case is run again"));
    }
    parsed.push_back(*std::move(one));
  }
  return parsed;
}

// None of a file that is not there.
absl::StatusOr<std::string> ReadCompleteLines(const std::string& path) {
  std::string text;
  std::error_code error;
  if (!fs::exists(path, error)) return text;
  LONGSPAN_RETURN_IF_ERROR(ReadBytes(path, 0, -1, &text));
  text.resize(text.rfind('\n') + 1);  // npos + 1 is 0
  return text;
}

// Opens a file of lines for appending, and takes off an incomplete one.
absl::Status OpenLines(const std::string& path, int* descriptor) {
  *descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (*descriptor < 0) return ErrorOf(path);
  LONGSPAN_ASSIGN_OR_RETURN(const std::string text, ReadCompleteLines(path));
  if (ftruncate(*descriptor, static_cast<off_t>(text.size())) != 0) return ErrorOf(path);
  return absl::OkStatus();
}

absl::Status AppendLine(int descriptor, const std::string& path,
                        const nlohmann::ordered_json& json) {
  const std::string line = DumpJson(json) + "\n";
  absl::string_view rest = line;
  while (!rest.empty()) {
    const ssize_t written = write(descriptor, rest.data(), rest.size());
    if (written < 0 && errno != EINTR) return ErrorOf(path);
    rest.remove_prefix(std::max<ssize_t>(written, 0));
  }
  return fsync(descriptor) == 0 ? absl::OkStatus() : ErrorOf(path);
}

std::string CasesIn(const std::string& directory) { return directory + "/cases.jsonl"; }
std::string CostsIn(const std::string& directory) { return directory + "/costs.jsonl"; }
std::string DescriptionIn(const std::string& directory) { return directory + "/eval.json"; }

absl::Status ReadResults(const std::string& directory, EvalData* data) {
  const std::string cases = CasesIn(directory), costs = CostsIn(directory);
  LONGSPAN_ASSIGN_OR_RETURN(const std::string case_lines, ReadCompleteLines(cases));
  LONGSPAN_ASSIGN_OR_RETURN(data->results, ParseLines(case_lines, cases, ParseEvalResult));
  LONGSPAN_ASSIGN_OR_RETURN(const std::string cost_lines, ReadCompleteLines(costs));
  LONGSPAN_ASSIGN_OR_RETURN(data->costs, ParseLines(cost_lines, costs, ParseEvalCost));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ResultStore>> ResultStore::Open(
    const std::string& directory, const nlohmann::ordered_json& description) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) {
    return absl::InternalError(
        absl::StrCat("--output ", directory, ": cannot be made: ", error.message()));
  }
  std::unique_ptr<ResultStore> store(new ResultStore(directory));
  const std::string lock = directory + "/lock";
  store->lock_ = open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (store->lock_ < 0) return ErrorOf(lock);
  if (flock(store->lock_, LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("--output ", directory, ": another process runs this evaluation"));
  }
  EvalData there;
  LONGSPAN_RETURN_IF_ERROR(ReadResults(directory, &there));
  for (EvalResult& result : there.results) store->Keep(std::move(result));
  store->data_.costs = std::move(there.costs);
  LONGSPAN_RETURN_IF_ERROR(store->TakeUp(description));
  LONGSPAN_RETURN_IF_ERROR(OpenLines(CasesIn(directory), &store->cases_));
  LONGSPAN_RETURN_IF_ERROR(OpenLines(CostsIn(directory), &store->costs_));
  return store;
}

absl::StatusOr<EvalData> ResultStore::Read(const std::string& directory) {
  EvalData data;
  LONGSPAN_ASSIGN_OR_RETURN(data.description, ReadDescription(DescriptionIn(directory)));
  LONGSPAN_RETURN_IF_ERROR(ReadResults(directory, &data));
  return data;
}

ResultStore::~ResultStore() {
  for (const int descriptor : {cases_, costs_, lock_}) {
    if (descriptor >= 0) close(descriptor);
  }
}

absl::Status ResultStore::TakeUp(const nlohmann::ordered_json& description) {
  const std::string path = DescriptionIn(directory_);
  data_.description = description;
  if (!data_.results.empty()) {
    const auto there = ReadDescription(path);
    if (!there.ok()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "--output ", directory_, " has cases, and of which evaluation is not known: ",
          there.status().message(), "; give this one a directory of its own"));
    }
    const nlohmann::ordered_json kept = WithCases(*there, data_.results);
    const std::string difference = DifferenceOfDescriptions(kept, description);
    if (!difference.empty()) {
      return absl::FailedPreconditionError(absl::StrCat("--output ", directory_,
                                                        " holds another evaluation: ", difference,
                                                        "; give this one a directory of its own"));
    }
    nlohmann::ordered_json methods = kept.at("methods");
    methods.update(description.at("methods"));
    if (methods == there->at("methods")) {
      data_.description = *there;
      return absl::OkStatus();
    }
    data_.description["methods"] = methods;
  }
  LONGSPAN_ASSIGN_OR_RETURN(NewFile file, NewFile::Create(path));
  LONGSPAN_RETURN_IF_ERROR(file.Write(DumpJson(data_.description, 2) + "\n"));
  return file.Commit();
}

absl::Status ResultStore::Add(EvalResult result) {
  LONGSPAN_RETURN_IF_ERROR(AppendLine(cases_, CasesIn(directory_), ToJson(result)));
  Keep(std::move(result));
  return absl::OkStatus();
}

absl::Status ResultStore::Add(EvalCost cost) {
  LONGSPAN_RETURN_IF_ERROR(AppendLine(costs_, CostsIn(directory_), ToJson(cost)));
  data_.costs.push_back(std::move(cost));
  return absl::OkStatus();
}

void ResultStore::Keep(EvalResult result) {
  if (!keys_.insert(KeyOf(result.task, result.method, result.id)).second) return;
  data_.results.push_back(std::move(result));
}

}  // namespace longspan
