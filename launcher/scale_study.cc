#include "launcher/scale_study.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"
#include "runtime/json_file.h"
#include "runtime/new_file.h"
#include "runtime/read_bytes.h"

namespace longspan {
namespace {

namespace fs = std::filesystem;

std::string StudyPath(const std::string& directory) { return directory + "/study.json"; }
std::string PointsPath(const std::string& directory) { return directory + "/points.jsonl"; }

absl::Status ErrorOf(const std::string& path, absl::string_view action) {
  return absl::InternalError(absl::StrCat(path, ": cannot be ", action, ": ", strerror(errno)));
}

absl::Status Damaged(const std::string& where, const absl::Status& why) {
  return absl::DataLossError(absl::StrCat(where, ": ", why.message()));
}

absl::StatusOr<ScalePoint> ParseLine(absl::string_view line, const std::string& where) {
  const absl::StatusOr<nlohmann::json> json = ParseJsonObject({line.data(), line.size()});
  if (!json.ok()) return Damaged(where, json.status());
  absl::StatusOr<ScalePoint> point = ParseScalePoint(*json);
  return point.ok() ? std::move(point) : Damaged(where, point.status());
}

absl::Status AddLine(absl::string_view line, const std::string& where, ScalePoints* points) {
  LONGSPAN_ASSIGN_OR_RETURN(ScalePoint point, ParseLine(line, where));
  const ScaleKey key = point.key;
  points->insert_or_assign(key, std::move(point));
  return absl::OkStatus();
}

absl::StatusOr<ScalePoints> ReadPoints(const std::string& directory) {
  ScalePoints points;
  const std::string path = PointsPath(directory);
  std::string text;
  if (const absl::Status read = ReadBytes(path, 0, -1, &text);
      !read.ok() && !absl::IsNotFound(read)) {
    return read;
  }
  text.resize(text.rfind('\n') + 1);  // npos + 1 is 0
  int64_t number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    if (line.empty()) continue;
    LONGSPAN_RETURN_IF_ERROR(AddLine(line, absl::StrCat(path, ":", number), &points));
  }
  std::error_code error;
  std::set<std::string> files;
  for (auto entry = fs::directory_iterator(directory, error);
       !error && entry != fs::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename();
    if (absl::StartsWith(name, "point-") && absl::EndsWith(name, ".json")) {
      files.insert(entry->path());
    }
  }
  if (error) {
    return absl::DataLossError(absl::StrCat(directory, ": cannot be read: ", error.message()));
  }
  for (const std::string& file : files) {
    LONGSPAN_RETURN_IF_ERROR(ReadBytes(file, 0, -1, &text));
    if (!absl::EndsWith(text, "\n")) continue;  // still being written
    LONGSPAN_RETURN_IF_ERROR(AddLine(text, file, &points));
  }
  return points;
}

// The first key that differs, in words; empty: none does.
std::string Difference(const nlohmann::ordered_json& there, const nlohmann::ordered_json& here) {
  for (const auto& [key, value] : here.items()) {
    if (there.at(key) == value) continue;
    return absl::StrCat("`", key, "` is ", there.at(key).dump(), " there and ", value.dump(),
                        " here");
  }
  return "";
}

absl::Status Write(int file, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(file, bytes.data(), bytes.size());
    if (written < 0 && errno != EINTR) return absl::InternalError(strerror(errno));
    bytes.remove_prefix(std::max<ssize_t>(written, 0));
  }
  return fsync(file) == 0 ? absl::OkStatus() : absl::InternalError(strerror(errno));
}

}  // namespace

nlohmann::ordered_json ToJson(const ScaleStudy& study) {
  return {{"config", study.config},        {"ranks", study.ranks},
          {"context", study.contexts},     {"batch", study.batches},
          {"method", study.methods},       {"weak", study.weak},
          {"reference", study.references}, {"decode", study.steps},
          {"repeat", study.runs},          {"file", study.file}};
}

absl::StatusOr<ScaleStudy> ParseScaleStudy(const nlohmann::json& json) {
  ScaleStudy study;
  try {
    study.config = json.at("config");
    study.ranks = json.at("ranks").get<std::vector<int64_t>>();
    study.contexts = json.at("context").get<std::vector<int64_t>>();
    study.batches = json.at("batch").get<std::vector<int64_t>>();
    study.methods = json.at("method").get<std::vector<std::string>>();
    study.weak = json.at("weak");
    study.references = json.at("reference");
    study.steps = json.at("decode");
    study.runs = json.at("repeat");
    study.file = json.at("file");
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("is no study: ", error.what()));
  }
  return study;
}

std::set<ScaleKey> GridOf(const ScaleStudy& study) {
  std::set<ScaleKey> grid;
  for (const std::string& method : study.methods) {
    for (const int64_t context : study.contexts) {
      for (const int64_t batch : study.batches) {
        for (const int64_t ranks : study.ranks) {
          grid.insert({method, study.weak ? context * ranks : context, batch, ranks});
        }
      }
    }
  }
  return grid;
}

std::set<ScaleKey> MissingReferences(const std::set<ScaleKey>& grid) {
  std::set<ScaleKey> missing;
  for (const ScaleKey& key : grid) {
    if (!grid.contains(key.reference())) missing.insert(key.reference());
  }
  return missing;
}

absl::StatusOr<StoredStudy> ReadStudy(const std::string& directory) {
  constexpr size_t kMostBytes = 1 << 20;
  const std::string path = StudyPath(directory);
  std::error_code error;
  if (!fs::exists(path, error)) {
    return absl::NotFoundError(absl::StrCat(directory, ": holds no study: there is no study.json"));
  }
  LONGSPAN_ASSIGN_OR_RETURN(const nlohmann::json json, ReadJsonObject(path, kMostBytes));
  StoredStudy stored;
  absl::StatusOr<ScaleStudy> study = ParseScaleStudy(json);
  if (!study.ok()) return Damaged(path, study.status());
  stored.study = *std::move(study);
  LONGSPAN_ASSIGN_OR_RETURN(stored.points, ReadPoints(directory));
  return stored;
}

absl::StatusOr<StudyWriter> StudyWriter::Open(const std::string& directory,
                                              const ScaleStudy& study) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) {
    return absl::InternalError(
        absl::StrCat("--output ", directory, ": cannot be made: ", error.message()));
  }
  StudyWriter writer;
  writer.directory_ = directory;
  const std::string lock = directory + "/lock";
  writer.lock_ = open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (writer.lock_ < 0) return ErrorOf("--output " + lock, "written to");
  if (flock(writer.lock_, LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("--output ", directory, ": another process runs this study"));
  }
  absl::StatusOr<StoredStudy> stored = ReadStudy(directory);
  if (absl::IsNotFound(stored.status())) {
    LONGSPAN_ASSIGN_OR_RETURN(NewFile file, NewFile::Create(StudyPath(directory)));
    LONGSPAN_RETURN_IF_ERROR(file.Write(ToJson(study).dump(2) + "\n"));
    LONGSPAN_RETURN_IF_ERROR(file.Commit());
    return writer;
  }
  LONGSPAN_RETURN_IF_ERROR(stored.status());
  if (const std::string difference = Difference(ToJson(stored->study), ToJson(study));
      !difference.empty()) {
    return absl::FailedPreconditionError(absl::StrCat("--output ", directory,
                                                      " holds another study: ", difference,
                                                      "; give this one a directory of its own"));
  }
  writer.points_ = std::move(stored->points);
  return writer;
}

StudyWriter::StudyWriter(StudyWriter&& other) noexcept
    : directory_(std::move(other.directory_)),
      lock_(std::exchange(other.lock_, -1)),
      points_(std::move(other.points_)) {}

StudyWriter::~StudyWriter() {
  if (lock_ >= 0) close(lock_);
}

absl::Status StudyWriter::Add(const ScaleKey& key, const std::string& line) {
  const std::string path = PointsPath(directory_);
  LONGSPAN_ASSIGN_OR_RETURN(ScalePoint point,
                            ParseLine(line, "the output of what --mpirun starts"));
  if (point.key != key) {
    return absl::InternalError(absl::StrCat("what was measured is ", point.key.ToString()));
  }
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (file < 0) return ErrorOf(path, "written to");
  std::string text;
  absl::Status status = ReadBytes(path, 0, -1, &text);
  const auto whole_lines = static_cast<off_t>(text.rfind('\n') + 1);
  if (status.ok() && (ftruncate(file, whole_lines) != 0 || lseek(file, 0, SEEK_END) < 0)) {
    status = ErrorOf(path, "written to");
  }
  if (status.ok()) status = Write(file, line);
  close(file);
  if (status.ok()) points_.insert_or_assign(key, std::move(point));
  return status;
}

}  // namespace longspan
