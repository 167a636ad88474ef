#ifndef LONGSPAN_RUNTIME_JINJA_CASE_H_
#define LONGSPAN_RUNTIME_JINJA_CASE_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Upper and lower case, of ASCII only: there are no tables of Unicode's case mappings here. Text
// with other letters that have case is Unimplemented rather than left as it is.
namespace longspan::jinja {

absl::StatusOr<std::string> Upper(std::string_view text);
absl::StatusOr<std::string> Lower(std::string_view text);
absl::StatusOr<std::string> Capitalize(std::string_view text);   // str.capitalize
absl::StatusOr<std::string> TitleWords(std::string_view text);   // str.title
absl::StatusOr<std::string> TitleFilter(std::string_view text);  // jinja2's, which splits otherwise
absl::StatusOr<std::string> SwapCase(std::string_view text);
// Whether there are letters with case, all of them upper or lower.
absl::StatusOr<bool> IsUpper(std::string_view text);
absl::StatusOr<bool> IsLower(std::string_view text);

}  // namespace longspan::jinja

#endif  // LONGSPAN_RUNTIME_JINJA_CASE_H_
