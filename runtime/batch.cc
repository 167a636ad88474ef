#include "runtime/batch.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "runtime/batch_json.h"

namespace longspan {
namespace {

constexpr int64_t kReadBytes = 1 << 20;
constexpr int64_t kMaxOutputLineBytes = int64_t{4} << 30;

absl::Status IoError(absl::string_view path, absl::string_view action) {
  return absl::UnavailableError(absl::StrCat(path, ": cannot ", action, ": ", strerror(errno)));
}

// Reads up to `bytes` at `offset`; less only at the end of the file.
absl::StatusOr<int64_t> ReadAt(int fd, absl::string_view path, int64_t offset, char* data,
                               int64_t bytes) {
  int64_t done = 0;
  while (done < bytes) {
    const ssize_t n = pread(fd, data + done, static_cast<size_t>(bytes - done), offset + done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return IoError(path, "read");
    if (n == 0) break;
    done += n;
  }
  return done;
}

absl::Status WriteAll(int fd, absl::string_view path, absl::string_view data) {
  while (!data.empty()) {
    const ssize_t n = write(fd, data.data(), data.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return IoError(path, "write");
    data.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::Status CopyRange(int from, int to, absl::string_view path, int64_t offset, int64_t bytes) {
  std::string buffer(static_cast<size_t>(std::min(bytes, kReadBytes)), '\0');
  while (bytes > 0) {
    LONGSPAN_ASSIGN_OR_RETURN(
        const int64_t n, ReadAt(from, path, offset, buffer.data(), std::min(bytes, kReadBytes)));
    if (n == 0) return absl::UnavailableError(absl::StrCat(path, ": became shorter while read"));
    LONGSPAN_RETURN_IF_ERROR(
        WriteAll(to, path, absl::string_view(buffer.data(), static_cast<size_t>(n))));
    offset += n;
    bytes -= n;
  }
  return absl::OkStatus();
}

struct Line {
  int64_t offset = 0;
  int64_t bytes = 0;       // without the newline
  absl::string_view text;  // empty if the line is longer than asked for
  bool has_newline = false;
};

// Calls `visit` for every line of the file, in order, with at most one of them in memory.
absl::Status ForEachLine(int fd, absl::string_view path, int64_t max_line_bytes,
                         absl::FunctionRef<absl::Status(const Line&)> visit) {
  std::string buffer(kReadBytes, '\0');
  std::string text;
  Line line;
  const auto append = [&](absl::string_view part) {
    line.bytes += static_cast<int64_t>(part.size());
    if (line.bytes <= max_line_bytes) {
      text.append(part.data(), part.size());
    } else {
      std::string().swap(text);
    }
  };
  const auto finish = [&](bool has_newline) {
    line.text = text;
    line.has_newline = has_newline;
    const absl::Status status = visit(line);
    line = {line.offset + line.bytes + 1};
    text.clear();
    return status;
  };
  for (int64_t offset = 0;;) {
    LONGSPAN_ASSIGN_OR_RETURN(const int64_t n, ReadAt(fd, path, offset, buffer.data(), kReadBytes));
    if (n == 0) break;
    offset += n;
    absl::string_view rest(buffer.data(), static_cast<size_t>(n));
    for (size_t end; (end = rest.find('\n')) != rest.npos; rest.remove_prefix(end + 1)) {
      append(rest.substr(0, end));
      LONGSPAN_RETURN_IF_ERROR(finish(/*has_newline=*/true));
    }
    append(rest);
  }
  return line.bytes > 0 ? finish(/*has_newline=*/false) : absl::OkStatus();
}

absl::StatusOr<int> SpoolStandardInput() {
  const char* directory = getenv("TMPDIR");
  std::string path = absl::StrCat(directory == nullptr || *directory == '\0' ? "/tmp" : directory,
                                  "/longspan-XXXXXX");
  const int fd = mkostemp(path.data(), O_CLOEXEC);
  if (fd < 0) return IoError(path, "create");
  unlink(path.c_str());
  std::string buffer(kReadBytes, '\0');
  for (;;) {
    const ssize_t n = read(STDIN_FILENO, buffer.data(), buffer.size());
    if (n == 0) return fd;
    if (n < 0 && errno == EINTR) continue;
    absl::Status status =
        n < 0 ? IoError("standard input", "read")
              : WriteAll(fd, path, absl::string_view(buffer.data(), static_cast<size_t>(n)));
    if (!status.ok()) {
      close(fd);
      return status;
    }
  }
}

bool IsSameFile(int fd, const struct stat& other) {
  struct stat own;
  return fstat(fd, &own) == 0 && own.st_dev == other.st_dev && own.st_ino == other.st_ino;
}

// Opens and locks. A run that resumes renames a new file into place, so that the file that was
// opened may have lost its name by the time it is locked: then again.
absl::StatusOr<int> OpenLocked(const std::string& path) {
  for (;;) {
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0) return IoError(path, "open");
    if (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      close(fd);
      return absl::FailedPreconditionError(
          absl::StrCat(path, ": another run is writing it; wait for it or use another --output"));
    }
    struct stat named;
    if (stat(path.c_str(), &named) == 0 && IsSameFile(fd, named)) return fd;
    close(fd);
  }
}

absl::Status SyncDirectory(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string directory = slash == path.npos ? "." : path.substr(0, slash + 1);
  const int fd = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return IoError(directory, "open");
  fsync(fd);  // some file systems cannot, and need not
  close(fd);
  return absl::OkStatus();
}

// The lines of an output file that stay, as byte ranges; adjacent ones are one.
struct KeptLines {
  struct Range {
    int64_t offset;
    int64_t bytes;
  };
  std::vector<Range> ranges;
  bool dropped = false;  // a line between them or after them does not stay

  void Keep(const Line& line) {
    if (!ranges.empty() && ranges.back().offset + ranges.back().bytes == line.offset) {
      ranges.back().bytes += line.bytes + 1;
    } else {
      ranges.push_back({line.offset, line.bytes + 1});
    }
  }
};

// Copies what stays to a new file and gives it the old one's name. A kill leaves either of the two.
// Returns the new file, locked.
absl::StatusOr<int> Rewrite(int old_fd, const std::string& path, const KeptLines& kept) {
  const std::string temporary = absl::StrCat(path, ".longspan-tmp");
  struct stat old_stat;
  if (fstat(old_fd, &old_stat) != 0) return IoError(path, "stat");
  const int fd = open(temporary.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC,
                      old_stat.st_mode & 0777);
  if (fd < 0) return IoError(temporary, "create");
  const absl::Status status = [&]() -> absl::Status {
    flock(fd, LOCK_EX | LOCK_NB);  // nobody else opens it under this name
    for (const KeptLines::Range& range : kept.ranges) {
      LONGSPAN_RETURN_IF_ERROR(CopyRange(old_fd, fd, temporary, range.offset, range.bytes));
    }
    if (fsync(fd) != 0) return IoError(temporary, "write");
    if (rename(temporary.c_str(), path.c_str()) != 0) return IoError(path, "replace");
    return SyncDirectory(path);
  }();
  if (status.ok()) return fd;
  close(fd);
  unlink(temporary.c_str());
  return status;
}

}  // namespace

absl::StatusOr<std::unique_ptr<BatchInput>> BatchInput::Open(const std::string& path,
                                                             int64_t max_line_bytes) {
  int fd;
  if (path == "-") {
    LONGSPAN_ASSIGN_OR_RETURN(fd, SpoolStandardInput());
  } else {
    fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return IoError(path, "open");
  }
  std::unique_ptr<BatchInput> input(
      new BatchInput(path == "-" ? "standard input" : path, fd, max_line_bytes));
  struct stat file;
  if (fstat(fd, &file) != 0) return IoError(path, "stat");
  if (!S_ISREG(file.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path,
                     ": is not a regular file, and a batch is read twice; use `-` to read "
                     "standard input"));
  }
  LONGSPAN_RETURN_IF_ERROR(input->Index());
  return input;
}

BatchInput::~BatchInput() { close(fd_); }

absl::Status BatchInput::Index() {
  absl::flat_hash_map<std::string, int64_t> line_of;
  int64_t number = 0;
  return ForEachLine(fd_, path_, max_line_bytes_, [&](const Line& line) -> absl::Status {
    ++number;
    const bool too_long = line.bytes > max_line_bytes_;
    if (!too_long && absl::StripAsciiWhitespace(line.text).empty()) return absl::OkStatus();
    BatchRequest request = too_long ? BatchRequest() : ParseBatchLine(line.text);
    std::string custom_id = std::move(request.custom_id);
    if (!custom_id.empty()) {
      const auto [first, is_new] = line_of.try_emplace(custom_id, number);
      if (!is_new) {
        return absl::InvalidArgumentError(absl::StrCat(path_, ":", number, ": custom_id \"",
                                                       custom_id, "\" is that of line ",
                                                       first->second, "; ids must differ"));
      }
    }
    lines_.push_back(
        {number, line.offset, line.bytes, std::move(custom_id), request.chat.has_value()});
    return absl::OkStatus();
  });
}

uint64_t StableHash(absl::string_view text) {  // FNV-1a
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

absl::StatusOr<BatchRequest> BatchInput::Read(const BatchLine& line) const {
  BatchRequest request;
  if (line.bytes > max_line_bytes_) {
    request.error = BatchError{
        absl::StrCat("line ", line.number, " is longer than ", max_line_bytes_, " bytes")};
    return request;
  }
  std::string text(static_cast<size_t>(line.bytes), '\0');
  LONGSPAN_ASSIGN_OR_RETURN(const int64_t bytes,
                            ReadAt(fd_, path_, line.offset, text.data(), line.bytes));
  if (bytes == line.bytes) request = ParseBatchLine(text);
  if (bytes != line.bytes || request.custom_id != line.custom_id) {
    return absl::FailedPreconditionError(
        absl::StrCat(path_, ":", line.number, ": the input changed while it was being answered"));
  }
  // Neither the line's number nor its neighbours may change an answer, so that a rerun gives the
  // same.
  if (!request.sampling.seed) request.sampling.seed = StableHash(line.custom_id);
  if (request.error) {
    request.error->message = absl::StrCat("line ", line.number, ": ", request.error->message);
  }
  return request;
}

absl::StatusOr<std::unique_ptr<BatchOutput>> BatchOutput::Open(const std::string& path,
                                                               const BatchInput& input) {
  if (path == "-") {
    const int fd = dup(STDOUT_FILENO);
    if (fd < 0) return IoError("standard output", "open");
    return std::unique_ptr<BatchOutput>(new BatchOutput("standard output", fd));
  }
  struct stat file;
  if (stat(path.c_str(), &file) == 0 && !S_ISREG(file.st_mode)) {
    const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0) return IoError(path, "open");
    return std::unique_ptr<BatchOutput>(new BatchOutput(path, fd));
  }
  LONGSPAN_ASSIGN_OR_RETURN(const int fd, OpenLocked(path));
  char* resolved = realpath(path.c_str(), nullptr);  // a link stays one when its file is replaced
  std::unique_ptr<BatchOutput> output(new BatchOutput(resolved == nullptr ? path : resolved, fd));
  free(resolved);
  output->is_regular_ = true;
  if (fstat(input.file_descriptor(), &file) == 0 && IsSameFile(fd, file)) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": is the input"));
  }
  LONGSPAN_RETURN_IF_ERROR(output->Resume(input));
  return output;
}

BatchOutput::~BatchOutput() {
  close(fd_);
  if (replaced_fd_ >= 0) close(replaced_fd_);
}

absl::Status BatchOutput::Resume(const BatchInput& input) {
  absl::flat_hash_set<absl::string_view> asked;
  for (const BatchLine& line : input.lines()) asked.insert(line.custom_id);  // "" of bad lines too
  KeptLines kept;
  int64_t number = 0;
  const auto visit = [&](const Line& line) -> absl::Status {
    ++number;
    const bool is_torn = !line.has_newline;
    std::optional<BatchOutputLine> parsed;
    if (!is_torn) parsed = ParseBatchOutputLine(line.text);
    const absl::string_view start = line.text.substr(0, kBatchLineStart.size());
    const bool is_ours = is_torn ? absl::StartsWith(kBatchLineStart, start) : parsed.has_value();
    if (!is_ours || line.bytes > kMaxOutputLineBytes) {
      return absl::FailedPreconditionError(
          absl::StrCat(path_, ":", number,
                       ": is no line of a batch output; the file is left as it is, use another "
                       "--output"));
    }
    if (!is_torn &&
        (parsed->is_answer || (!parsed->custom_id.empty() && !asked.contains(parsed->custom_id)))) {
      kept.Keep(line);
      if (parsed->is_answer) answered_.insert(std::move(parsed->custom_id));
    } else {
      kept.dropped = true;
    }
    return absl::OkStatus();
  };
  LONGSPAN_RETURN_IF_ERROR(ForEachLine(fd_, path_, kMaxOutputLineBytes, visit));
  if (!kept.dropped) return absl::OkStatus();
  LONGSPAN_ASSIGN_OR_RETURN(const int new_fd, Rewrite(fd_, path_, kept));
  replaced_fd_ = std::exchange(fd_, new_fd);
  return absl::OkStatus();
}

absl::Status BatchOutput::Append(absl::string_view line) {
  LONGSPAN_RETURN_IF_ERROR(WriteAll(fd_, path_, absl::StrCat(line, "\n")));
  if (is_regular_ && fdatasync(fd_) != 0) return IoError(path_, "write");
  return absl::OkStatus();
}

}  // namespace longspan
