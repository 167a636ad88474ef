#ifndef LONGSPAN_RUNTIME_UNICODE_NORMALIZE_H_
#define LONGSPAN_RUNTIME_UNICODE_NORMALIZE_H_

#include <string>
#include <string_view>

namespace longspan {

// The normalization forms of Unicode Standard Annex 15.
enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

// Appends `text` (well-formed UTF-8) in `form` to `out`. Characters that are newer than the Unicode
// version of the `tokenizers` library stay as they are, as they do there. O(bytes) but for the
// logarithm of the longest run of combining marks.
void AppendNormalized(std::string_view text, NormalForm form, std::string& out);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_UNICODE_NORMALIZE_H_
