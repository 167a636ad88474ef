#ifndef LONGSPAN_RUNTIME_SERVER_PAGE_H_
#define LONGSPAN_RUNTIME_SERVER_PAGE_H_

#include "absl/strings/string_view.h"

namespace longspan {

// The page at `/`: files of page/, as cmake/EmbedPage.cmake puts them into the program.
struct PageFile {
  absl::string_view content_type;
  absl::string_view text;
};
extern const PageFile kPageHtml, kPageCss, kPageJs;

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_SERVER_PAGE_H_
