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
#include "launcher/scale_difference.h"
#include "runtime/json_file.h"
#include "runtime/new_file.h"
#include "runtime/read_bytes.h"

namespace longspan {
namespace {

namespace fs = std::filesystem;

std::string StudyPath(const std::string& directory) { return directory + "/study.json"; }
std::string LockPath(const std::string& directory) { return directory + "/lock"; }
std::string PointsPath(const std::string& directory) { return directory + "/points.jsonl"; }

absl::Status ErrorOf(const std::string& path, absl::string_view action) {
  return absl::InternalError(absl::StrCat(path, ": cannot be ", action, ": ", strerror(errno)));
}

absl::Status Damaged(const std::string& where, const absl::Status& why) {
  return absl::DataLossError(absl::StrCat(where, ": ", why.message()));
}

// `where` is for messages.
absl::StatusOr<ScalePoint> ParseLine(absl::string_view line, const std::string& where) {
  const absl::StatusOr<nlohmann::json> json = ParseJsonObject({line.data(), line.size()});
  const absl::StatusOr<ScalePoint> point =
      json.ok() ? ParseScalePoint(*json) : absl::StatusOr<ScalePoint>(json.status());
  if (point.ok()) return point;
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", point.status().message()));
}

// A line of which a part was written is no JSON.
bool IsWhole(absl::string_view line) { return ParseJsonObject({line.data(), line.size()}).ok(); }

// The points of a directory.
struct PointsOnDisk {
  ScalePoints points;
  std::string note;                       // of PointLines
  std::map<ScaleKey, std::string> apart;  // lines of those that points.jsonl lacks
};

absl::Status ReadLines(const std::string& path, PointsOnDisk* read) {
  std::string text;
  const absl::Status status = ReadBytes(path, 0, -1, &text);
  if (!status.ok()) return absl::IsNotFound(status) ? absl::OkStatus() : status;
  absl::StatusOr<PointLines> lines = ParsePointLines(text, path);
  if (!lines.ok()) {
    return absl::DataLossError(
        absl::StrCat(lines.status().message(),
                     ": delete this line, and the command of the study measures the point again"));
  }
  for (ScalePoint& point : lines->points) {
    const ScaleKey key = point.key;
    read->points.insert_or_assign(key, std::move(point));
  }
  read->note = std::move(lines->note);
  return absl::OkStatus();
}

// Of a Slurm array. What points.jsonl has is newer, or the same.
absl::Status ReadPointFile(const std::string& path, PointsOnDisk* read) {
  std::string text;
  LONGSPAN_RETURN_IF_ERROR(ReadBytes(path, 0, -1, &text));
  if (!absl::EndsWith(text, "\n")) return absl::OkStatus();  // still being written
  absl::StatusOr<ScalePoint> point = ParseLine(text, path);
  if (!point.ok()) {
    return absl::DataLossError(absl::StrCat(
        point.status().message(), ": delete this file, and its task measures the point again"));
  }
  const ScaleKey key = point->key;
  if (read->points.try_emplace(key, *std::move(point)).second) read->apart[key] = text;
  return absl::OkStatus();
}

// Names of files of points in the directory.
absl::StatusOr<std::set<std::string>> PointFiles(const std::string& directory) {
  std::error_code error;
  std::set<std::string> names;
  for (auto entry = fs::directory_iterator(directory, error);
       !error && entry != fs::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename();
    if (absl::StartsWith(name, "point-") && absl::EndsWith(name, ".json")) names.insert(name);
  }
  if (!error) return names;
  return absl::DataLossError(absl::StrCat(directory, ": cannot be read: ", error.message()));
}

absl::StatusOr<PointsOnDisk> ReadAllPoints(const std::string& directory) {
  PointsOnDisk read;
  LONGSPAN_RETURN_IF_ERROR(ReadLines(PointsPath(directory), &read));
  LONGSPAN_ASSIGN_OR_RETURN(const std::set<std::string> files, PointFiles(directory));
  for (const std::string& file : files) {
    LONGSPAN_RETURN_IF_ERROR(ReadPointFile(absl::StrCat(directory, "/", file), &read));
  }
  return read;
}

// Files of a study whose study.json is lost, or of somebody else, that would be taken for this
// one's or replaced.
absl::Status CheckDirectory(const std::string& directory) {
  std::error_code error;
  if (fs::exists(StudyPath(directory), error) || !fs::is_directory(directory, error)) {
    return absl::OkStatus();
  }
  LONGSPAN_ASSIGN_OR_RETURN(std::set<std::string> files, PointFiles(directory));
  for (const char* name : {"points.jsonl", "points.csv", "report.html"}) {
    if (fs::exists(absl::StrCat(directory, "/", name), error)) files.insert(name);
  }
  if (files.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "--output ", directory, ": holds ", *files.begin(),
      ", and no study.json that says of which study it is: put that back, or give this "
      "study a directory of its own"));
}

absl::StatusOr<ScaleStudy> ReadStudyFile(const std::string& directory) {
  constexpr size_t kMostBytes = 16 << 20;  // a hostfile may be long
  const std::string path = StudyPath(directory);
  std::error_code error;
  if (!fs::exists(path, error)) {
    return absl::NotFoundError(absl::StrCat(directory, ": holds no study: there is no study.json"));
  }
  LONGSPAN_ASSIGN_OR_RETURN(const nlohmann::json json, ReadJsonObject(path, kMostBytes));
  absl::StatusOr<ScaleStudy> study = ParseScaleStudy(json);
  return study.ok() ? std::move(study) : Damaged(path, study.status());
}

absl::Status WriteStudy(const std::string& directory, const ScaleStudy& study) {
  LONGSPAN_ASSIGN_OR_RETURN(NewFile file, NewFile::Create(StudyPath(directory)));
  LONGSPAN_RETURN_IF_ERROR(file.Write(ToJson(study).dump(2) + "\n"));
  return file.Commit();
}

absl::Status Write(int file, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(file, bytes.data(), bytes.size());
    if (written < 0 && errno != EINTR) return absl::InternalError(strerror(errno));
    bytes.remove_prefix(std::max<ssize_t>(written, 0));
  }
  return fsync(file) == 0 ? absl::OkStatus() : absl::InternalError(strerror(errno));
}

// Goes to the end of a file of lines, behind a line's end: a last one that breaks off is cut.
absl::Status EndLastLine(int file, const std::string& path) {
  std::string text;
  LONGSPAN_RETURN_IF_ERROR(ReadBytes(path, 0, -1, &text));
  const size_t last = text.rfind('\n') + 1;  // npos + 1 is 0
  const bool lacks_end = IsWhole(absl::string_view(text).substr(last));
  if (!lacks_end && ftruncate(file, static_cast<off_t>(last)) != 0) {
    return ErrorOf(path, "written to");
  }
  if (lseek(file, 0, SEEK_END) < 0) return ErrorOf(path, "written to");
  return lacks_end ? Write(file, "\n") : absl::OkStatus();
}

}  // namespace

absl::StatusOr<PointLines> ParsePointLines(absl::string_view text, const std::string& path) {
  PointLines lines;
  int64_t number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::string where = absl::StrCat(path, ":", ++number);
    const size_t end = line.data() + line.size() - text.data();
    if (end == text.size() && !line.empty() && !IsWhole(line)) {
      lines.note = absl::StrCat(where, ": the last line breaks off and is left out");
      break;
    }
    if (line.empty()) continue;
    LONGSPAN_ASSIGN_OR_RETURN(lines.points.emplace_back(), ParseLine(line, where));
  }
  return lines;
}

nlohmann::ordered_json ToJson(const ScaleStudy& study) {
  return {{"config", study.config},
          {"ranks", study.ranks},
          {"context", study.contexts},
          {"batch", study.batches},
          {"method", study.methods},
          {"weak", study.weak},
          {"reference", study.references},
          {"decode", study.steps},
          {"repeat", study.runs},
          {"file", study.file},
          {"text", study.text},
          {"launch", study.launch},
          {"hostfile", study.hostfile}};
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
    study.text = json.value("text", "");
    study.launch = json.value("launch", "");
    study.hostfile = json.value("hostfile", "");
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

std::set<ScaleKey> ReferencesOf(const ScaleStudy& study) {
  std::set<ScaleKey> missing;
  if (!study.references) return missing;
  const std::set<ScaleKey> grid = GridOf(study);
  for (const ScaleKey& key : grid) {
    if (!grid.contains(key.reference())) missing.insert(key.reference());
  }
  return missing;
}

std::string PointFile(const ScaleKey& key) {
  return absl::StrCat("point-", key.method, "-", key.context, "-", key.batch, "-", key.ranks,
                      ".json");
}

absl::StatusOr<StoredStudy> ReadStudy(const std::string& directory) {
  StoredStudy stored;
  LONGSPAN_ASSIGN_OR_RETURN(stored.study, ReadStudyFile(directory));
  LONGSPAN_ASSIGN_OR_RETURN(PointsOnDisk read, ReadAllPoints(directory));
  stored.points = std::move(read.points);
  stored.note = std::move(read.note);
  return stored;
}

absl::StatusOr<StudyWriter> StudyWriter::Open(const std::string& directory,
                                              const ScaleStudy& study) {
  LONGSPAN_RETURN_IF_ERROR(CheckDirectory(directory));
  std::error_code error;
  const bool is_made = fs::create_directories(directory, error);
  if (error) {
    return absl::InternalError(
        absl::StrCat("--output ", directory, ": cannot be made: ", error.message()));
  }
  StudyWriter writer;
  writer.directory_ = directory;
  writer.begun_ = study;
  LONGSPAN_RETURN_IF_ERROR(writer.Lock());
  writer.is_made_ = is_made;
  if (fs::exists(StudyPath(directory), error)) {
    LONGSPAN_RETURN_IF_ERROR(writer.TakeUp(study));
  } else {
    writer.write_ = study;
  }
  return writer;
}

absl::Status StudyWriter::Begin() {
  if (write_.has_value()) LONGSPAN_RETURN_IF_ERROR(WriteStudy(directory_, *write_));
  write_.reset();
  is_made_ = false;
  for (const auto& [key, line] : std::exchange(apart_, {})) {
    LONGSPAN_RETURN_IF_ERROR(Add(key, line));
  }
  return absl::OkStatus();
}

absl::Status StudyWriter::Lock() {
  const std::string lock = LockPath(directory_);
  lock_ = open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (lock_ < 0) return ErrorOf("--output " + lock, "written to");
  if (flock(lock_, LOCK_EX | LOCK_NB) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("--output ", directory_, ": another process runs this study"));
}

absl::Status StudyWriter::TakeUp(const ScaleStudy& study) {
  LONGSPAN_ASSIGN_OR_RETURN(begun_, ReadStudyFile(directory_));
  if (const std::string difference = StudyDifference(begun_, study); !difference.empty()) {
    return absl::FailedPreconditionError(absl::StrCat("--output ", directory_,
                                                      " holds another study: ", difference,
                                                      "; give this one a directory of its own"));
  }
  ScaleStudy grown = study;
  grown.references |= begun_.references;
  grown.launch = begun_.launch;
  grown.hostfile = begun_.hostfile;
  if (ToJson(grown) != ToJson(begun_)) write_ = grown;
  LONGSPAN_ASSIGN_OR_RETURN(PointsOnDisk read, ReadAllPoints(directory_));
  points_ = std::move(read.points);
  note_ = std::move(read.note);
  apart_ = std::move(read.apart);
  return absl::OkStatus();
}

StudyWriter::StudyWriter(StudyWriter&& other) noexcept
    : directory_(std::move(other.directory_)),
      lock_(std::exchange(other.lock_, -1)),
      is_made_(std::exchange(other.is_made_, false)),
      write_(std::move(other.write_)),
      begun_(std::move(other.begun_)),
      apart_(std::move(other.apart_)),
      points_(std::move(other.points_)),
      note_(std::move(other.note_)) {}

StudyWriter::~StudyWriter() {
  std::error_code error;  // somebody else's files keep the directory
  if (is_made_) fs::remove(LockPath(directory_), error), fs::remove(directory_, error);
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
  absl::Status status = EndLastLine(file, path);
  if (status.ok()) status = Write(file, line);
  close(file);
  if (status.ok()) points_.insert_or_assign(key, std::move(point));
  return status;
}

}  // namespace longspan
