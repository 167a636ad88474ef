#include "runtime/saved_pages.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "runtime/checksum.h"
#include "runtime/new_file.h"
#include "runtime/read_bytes.h"

namespace longspan {
namespace {

std::byte* BytesOf(std::string& text) { return reinterpret_cast<std::byte*>(text.data()); }

// What a page of a prefix holds: of its stripe and halo `tokens`, and of the halo in front.
Range RowsOfPrefix(const KvShape& shape, int64_t begin, int64_t tokens) {
  return {std::max<int64_t>(0, begin - shape.halo), begin + tokens};
}

}  // namespace

SavedPages::SavedPages(const PrefixManifest& manifest, const KvShape& shape,
                       FileOfRank file_of_rank)
    : manifest_(manifest), shape_(shape), file_of_rank_(std::move(file_of_rank)) {
  shape_.stripe_tokens = manifest.stripe_tokens;
}

absl::StatusOr<int64_t> SavedPages::CopyTo(const HostPage& page, const std::vector<int64_t>& path) {
  const int64_t stripe_tokens = shape_.stripe_tokens;
  const int64_t last = std::min<int64_t>(
      path.size() - 1, (page.begin + page.shape->stripe_tokens - 1) / stripe_tokens);
  for (int64_t s = page.begin / stripe_tokens; s <= last; ++s) {
    LONGSPAN_ASSIGN_OR_RETURN(const bool whole, Read(path[s]));
    if (!whole) return path[s];
    const int64_t begin = s * stripe_tokens;
    const auto tokens = static_cast<int64_t>(manifest_.pages[path[s]].tokens.size());
    CopyRows({&shape_, begin, BytesOf(bytes_)}, RowsOfPrefix(shape_, begin, tokens), page);
  }
  return -1;
}

absl::StatusOr<bool> SavedPages::Read(int64_t page) {
  if (page == held_) return true;
  if (bad_.contains(page)) return false;
  held_ = -1;
  const PrefixManifest::Page& saved = manifest_.pages[page];
  const std::string path = file_of_rank_(saved.rank);
  const int64_t bytes = shape_.page_bytes();
  absl::Status status = ReadBytes(path, saved.place * bytes, bytes, &bytes_);
  if (status.ok() && Checksum(bytes_) != saved.checksum) {
    status = absl::DataLossError(absl::StrCat("page ", saved.place, " of ", path, " is damaged"));
  }
  if (status.ok()) {
    held_ = page;
    return true;
  }
  if (!absl::IsDataLoss(status) && !absl::IsOutOfRange(status) && !absl::IsNotFound(status)) {
    return status;
  }
  if (bad_files_.insert(path).second) {
    spdlog::warn("{}: left out, with what stands on it, as other pages of it may be",
                 std::string(status.message()));
  }
  bad_.insert(page);
  return false;
}

absl::StatusOr<std::string> WritePages(const std::string& path, const PagePool& pool,
                                       const std::vector<CachedPage>& list,
                                       const std::map<int64_t, PageRef>& pages,
                                       const std::function<void()>& after_each) {
  LONGSPAN_ASSIGN_OR_RETURN(NewFile file, NewFile::Create(path, 0600));
  const KvShape& shape = pool.shape();
  std::string raw(shape.page_bytes(), '\0'), clean;
  std::string checksums;
  for (const auto& [node, stripe, tokens] : list) {
    LONGSPAN_RETURN_IF_ERROR(pool.Read(*pages.at(node), BytesOf(raw)));
    // Rows that no token of the prefix has are of other requests, or of anything.
    clean.assign(raw.size(), '\0');
    const int64_t begin = stripe * shape.stripe_tokens;
    CopyRows({&shape, begin, BytesOf(raw)}, RowsOfPrefix(shape, begin, tokens),
             {&shape, begin, BytesOf(clean)});
    absl::StrAppend(&checksums, Checksum(clean));
    LONGSPAN_RETURN_IF_ERROR(file.Write(clean));
    after_each();
  }
  LONGSPAN_RETURN_IF_ERROR(file.Commit());
  return checksums;
}

}  // namespace longspan
