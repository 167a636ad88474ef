#ifndef LONGSPAN_LAUNCHER_REPORT_FILE_H_
#define LONGSPAN_LAUNCHER_REPORT_FILE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace longspan {

// To standard output, or to `path` if there is one. NotFound or DataLoss: it cannot be written.
absl::Status WriteReport(const std::string& text, const std::string& path);
// A file that a flag names.
struct NamedPath {
  absl::string_view flag;
  std::string path;
};
// Whether WriteReport could begin, asked before hours of measuring; nothing is made or changed.
// `flag` is the one that names the path. InvalidArgument: the report would replace one of `kept`,
// or weights or a compressor (.safetensors); or the path is `-`.
absl::Status CheckReportPath(const std::string& path, absl::string_view flag = "output",
                             absl::Span<const NamedPath> kept = {});

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_REPORT_FILE_H_
