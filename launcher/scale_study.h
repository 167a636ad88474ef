#ifndef LONGSPAN_LAUNCHER_SCALE_STUDY_H_
#define LONGSPAN_LAUNCHER_SCALE_STUDY_H_

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "launcher/scale_point.h"

// A study on disk: DIR/study.json says which it is, DIR/points.jsonl has a line for each point that
// has ended. A point of a Slurm array writes a file of its own, DIR/point-*.json, which is taken
// into points.jsonl by the next that opens the study.
namespace longspan {

// What a study measures, and how. It is the same study whatever starts its ranks, and goes on with
// a grid that has grown, or with one-rank runs beside it.
struct ScaleStudy {
  std::string config;  // ConfigToYaml before anything was resolved, without `attention`
  std::vector<int64_t> ranks, contexts, batches;
  std::vector<std::string> methods;
  bool weak = false;       // contexts are those of one rank
  bool references = true;  // one-rank runs are added where the grid has none
  int64_t steps = 0;       // --decode
  int64_t runs = 0;        // --repeat
  std::string file;        // of the prompts' text; empty: random tokens
  std::string text;        // checksum of the text; empty: of a study begun by an earlier version

  std::string launch;    // words that start ranks, without -n
  std::string hostfile;  // its text
};

nlohmann::ordered_json ToJson(const ScaleStudy& study);
absl::StatusOr<ScaleStudy> ParseScaleStudy(const nlohmann::json& json);

// The points of the grid, in the order in which they are run: one rank before several.
std::set<ScaleKey> GridOf(const ScaleStudy& study);
// The one-rank runs that the grid lacks and the study adds.
std::set<ScaleKey> ReferencesOf(const ScaleStudy& study);

// The file of a point of a Slurm array, in the study's directory.
std::string PointFile(const ScaleKey& key);

using ScalePoints = std::map<ScaleKey, ScalePoint>;

// The text of points.jsonl, line by line: what is measured again is another line.
struct PointLines {
  std::vector<ScalePoint> points;
  std::string note;  // that a last line was left out, for it breaks off, as a crash leaves it
};
// InvalidArgument: which line is no point, and why. `path` is for messages.
absl::StatusOr<PointLines> ParsePointLines(absl::string_view text, const std::string& path);

// What is in the directory. NotFound: no study. DataLoss: a file is damaged, where, and what to do.
struct StoredStudy {
  ScaleStudy study;
  ScalePoints points;
  std::string note;  // of PointLines
};
absl::StatusOr<StoredStudy> ReadStudy(const std::string& directory);

// A directory that this process alone adds points to.
class StudyWriter {
 public:
  // Makes the directory, or reads what is there. FailedPrecondition: it is of another study or of
  // nobody knows which, and is left as it is, or another process adds to it. Without Begin, a
  // directory that was made here is removed again.
  static absl::StatusOr<StudyWriter> Open(const std::string& directory, const ScaleStudy& study);
  StudyWriter(StudyWriter&& other) noexcept;
  StudyWriter& operator=(StudyWriter&&) = delete;
  ~StudyWriter();

  // Writes study.json, and takes points of a Slurm array into points.jsonl.
  absl::Status Begin();

  const ScaleStudy& begun() const { return begun_; }  // as it was when its directory was made
  const ScalePoints& points() const { return points_; }
  const std::string& note() const { return note_; }  // of PointLines, when it was opened
  // The line is on disk when this returns. `line`: the point `key` as `scale point` writes it.
  absl::Status Add(const ScaleKey& key, const std::string& line);

 private:
  StudyWriter() = default;
  absl::Status Lock();
  absl::Status TakeUp(const ScaleStudy& study);

  std::string directory_;
  int lock_ = -1;
  bool is_made_ = false;             // the directory, and study.json is not there yet
  std::optional<ScaleStudy> write_;  // what study.json is to say, if it does not
  ScaleStudy begun_;
  std::map<ScaleKey, std::string> apart_;  // lines of points that points.jsonl lacks
  ScalePoints points_;
  std::string note_;
};

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_SCALE_STUDY_H_
