#ifndef LONGSPAN_LAUNCHER_REPORT_PAGE_H_
#define LONGSPAN_LAUNCHER_REPORT_PAGE_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

// Pieces of a report: one HTML page that needs nothing else, for screens of any width and paper.
// Texts are escaped but where they are markup.
namespace longspan {

// "16,384".
std::string Grouped(int64_t number);

// From the doctype to the head's end, with the style of all that follows.
std::string PageHead(absl::string_view title);

// An element with a text in it; an empty class: none.
std::string Element(absl::string_view tag, absl::string_view style_class, absl::string_view text);
std::string Paragraph(absl::string_view style_class, absl::string_view text);

// Terms and what they are.
std::string Terms(const std::vector<std::pair<std::string, std::string>>& terms);

// SVG figures side by side as far as there is room.
std::string Figures(const std::vector<std::string>& figures);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_REPORT_PAGE_H_
