#include "runtime/saved_pages.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/base/status_macros.h"
#include "runtime/checksum.h"
#include "runtime/new_file.h"

namespace longspan {
namespace {

absl::string_view AsText(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// What a page of a prefix holds: of its stripe and halo `tokens`, and of the halo in front.
Range RowsOfPrefix(const KvShape& shape, int64_t begin, int64_t tokens) {
  return {std::max<int64_t>(0, begin - shape.halo), begin + tokens};
}

}  // namespace

SavedPages::SavedPages(const PrefixManifest& manifest, const KvShape& shape,
                       FileOfRank file_of_rank)
    : manifest_(manifest), shape_(shape), file_of_rank_(std::move(file_of_rank)) {
  shape_.stripe_tokens = manifest.stripe_tokens;
  bytes_.resize(shape_.page_bytes());
}

int64_t SavedPages::CopyTo(const HostPage& page, const std::vector<int64_t>& path) {
  const int64_t stripe_tokens = shape_.stripe_tokens;
  const int64_t last = std::min<int64_t>(
      path.size() - 1, (page.begin + page.shape->stripe_tokens - 1) / stripe_tokens);
  for (int64_t s = page.begin / stripe_tokens; s <= last; ++s) {
    if (!Read(path[s])) return path[s];
    const int64_t begin = s * stripe_tokens;
    const auto tokens = static_cast<int64_t>(manifest_.pages[path[s]].tokens.size());
    CopyRows({&shape_, begin, bytes_.data()}, RowsOfPrefix(shape_, begin, tokens), page);
  }
  return -1;
}

bool SavedPages::Read(int64_t page) {
  if (page == held_) return true;
  if (bad_.contains(page)) return false;
  held_ = -1;
  const PrefixManifest::Page& saved = manifest_.pages[page];
  const std::string path = file_of_rank_(saved.rank);
  std::ifstream file(path, std::ios::binary);
  file.seekg(saved.place * static_cast<std::streamoff>(bytes_.size()));
  file.read(reinterpret_cast<char*>(bytes_.data()), static_cast<std::streamsize>(bytes_.size()));
  if (file && Checksum(AsText(bytes_)) == saved.checksum) {
    held_ = page;
    return true;
  }
  if (bad_files_.insert(path).second) {
    spdlog::warn("page {} of {} {}: left out, with what stands on it, as others may be",
                 saved.place, path, file ? "is damaged" : "cannot be read");
  }
  bad_.insert(page);
  return false;
}

absl::StatusOr<std::string> WritePages(const std::string& path, const PagePool& pool,
                                       const std::vector<CachedPage>& list,
                                       const std::map<int64_t, PageRef>& pages,
                                       const std::function<void()>& after_each) {
  LONGSPAN_ASSIGN_OR_RETURN(NewFile file, NewFile::Create(path));
  const KvShape& shape = pool.shape();
  std::vector<std::byte> raw(shape.page_bytes()), clean;
  std::string checksums;
  for (const auto& [node, stripe, tokens] : list) {
    LONGSPAN_RETURN_IF_ERROR(pool.Read(*pages.at(node), raw.data()));
    // Rows that no token of the prefix has are of other requests, or of anything.
    clean.assign(raw.size(), std::byte{0});
    const int64_t begin = stripe * shape.stripe_tokens;
    CopyRows({&shape, begin, raw.data()}, RowsOfPrefix(shape, begin, tokens),
             {&shape, begin, clean.data()});
    absl::StrAppend(&checksums, Checksum(AsText(clean)));
    LONGSPAN_RETURN_IF_ERROR(file.Write(AsText(clean)));
    after_each();
  }
  LONGSPAN_RETURN_IF_ERROR(file.Commit());
  return checksums;
}

}  // namespace longspan
