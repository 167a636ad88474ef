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

constexpr size_t kMostSettingsBytes = 1 << 20;

absl::Status ErrorOf(const std::string& path) {
  return absl::InternalError(
      absl::StrCat("--output ", path, ": cannot be written to: ", strerror(errno)));
}

// The first key that differs, in words; empty: none does.
std::string Difference(const nlohmann::json& there, const nlohmann::ordered_json& here) {
  for (const auto& [key, value] : here.items()) {
    const nlohmann::json other = there.contains(key) ? there.at(key) : nlohmann::json();
    if (other.dump() == nlohmann::json(value).dump()) continue;
    return absl::StrCat("`", key, "` is ", other.dump(), " there and ", value.dump(), " here");
  }
  return "";
}

}  // namespace

absl::StatusOr<std::unique_ptr<ResultStore>> ResultStore::Open(
    const std::string& directory, const nlohmann::ordered_json& settings) {
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
  LONGSPAN_RETURN_IF_ERROR(store->TakeUp(settings));
  LONGSPAN_RETURN_IF_ERROR(store->ReadCases());
  return store;
}

ResultStore::~ResultStore() {
  if (cases_ >= 0) close(cases_);
  if (lock_ >= 0) close(lock_);
}

absl::Status ResultStore::TakeUp(const nlohmann::ordered_json& settings) {
  const std::string path = directory_ + "/eval.json";
  std::error_code error;
  if (!fs::exists(path, error)) {
    LONGSPAN_ASSIGN_OR_RETURN(NewFile file, NewFile::Create(path));
    LONGSPAN_RETURN_IF_ERROR(file.Write(settings.dump(2) + "\n"));
    return file.Commit();
  }
  LONGSPAN_ASSIGN_OR_RETURN(const nlohmann::json there, ReadJsonObject(path, kMostSettingsBytes));
  const std::string difference = Difference(there, settings);
  if (difference.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("--output ", directory_,
                                                    " holds another evaluation: ", difference,
                                                    "; give this one a directory of its own"));
}

absl::Status ResultStore::ReadCases() {
  const std::string path = directory_ + "/cases.jsonl";
  cases_ = open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (cases_ < 0) return ErrorOf(path);
  std::string text;
  LONGSPAN_RETURN_IF_ERROR(ReadBytes(path, 0, -1, &text));
  text.resize(text.rfind('\n') + 1);  // npos + 1 is 0
  if (ftruncate(cases_, static_cast<off_t>(text.size())) != 0) return ErrorOf(path);
  int64_t number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    if (line.empty()) continue;
    const absl::StatusOr<nlohmann::json> json = ParseJsonObject({line.data(), line.size()});
    absl::StatusOr<EvalResult> result = json.ok() ? ParseEvalResult(*json) : json.status();
    if (!result.ok()) {
      return absl::DataLossError(absl::StrCat(path, ":", number, ": ", result.status().message()));
    }
    Keep(*std::move(result));
  }
  return absl::OkStatus();
}

absl::Status ResultStore::Add(EvalResult result) {
  const std::string line = DumpJson(ToJson(result)) + "\n";
  absl::string_view rest = line;
  while (!rest.empty()) {
    const ssize_t written = write(cases_, rest.data(), rest.size());
    if (written < 0 && errno != EINTR) return ErrorOf(directory_ + "/cases.jsonl");
    rest.remove_prefix(std::max<ssize_t>(written, 0));
  }
  if (fsync(cases_) != 0) return ErrorOf(directory_ + "/cases.jsonl");
  Keep(std::move(result));
  return absl::OkStatus();
}

void ResultStore::Keep(EvalResult result) {
  if (!keys_.insert(KeyOf(result.task, result.method, result.id)).second) return;
  results_.push_back(std::move(result));
}

}  // namespace longspan
