#ifndef LONGSPAN_RUNTIME_SAVED_PAGES_H_
#define LONGSPAN_RUNTIME_SAVED_PAGES_H_

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/kv_shard.h"
#include "runtime/page_rows.h"
#include "runtime/prefix_manifest.h"

namespace longspan {

// Reads what a manifest names.
class SavedPages {
 public:
  using FileOfRank = std::function<std::string(int rank)>;
  // `shape` is this run's, `manifest` must outlive this.
  SavedPages(const PrefixManifest& manifest, const KvShape& shape, FileOfRank file_of_rank);

  // Fills a page of this run from the saved ones that make up its prompt, each read whole and
  // compared with its checksum first. Gives the first of those that is damaged (its index in the
  // manifest), or -1; warns of every file that has any. A file that is there but cannot be read is
  // an error: it may be again.
  absl::StatusOr<int64_t> CopyTo(const HostPage& page, const std::vector<int64_t>& path);

 private:
  // False: it is damaged.
  absl::StatusOr<bool> Read(int64_t page);

  const PrefixManifest& manifest_;
  KvShape shape_;
  FileOfRank file_of_rank_;
  std::string bytes_;
  int64_t held_ = -1;  // whose bytes they are: this run's next page often begins in the same
  std::set<int64_t> bad_;
  std::set<std::string> bad_files_;
};

struct CachedPage {
  int64_t node;
  int64_t stripe;
  int64_t tokens;  // of the stripe and the halo behind it
};

// Writes them to a file, one after the other, and gives their checksums, likewise.
absl::StatusOr<std::string> WritePages(const std::string& path, const PagePool& pool,
                                       const std::vector<CachedPage>& list,
                                       const std::map<int64_t, PageRef>& pages,
                                       const std::function<void()>& after_each);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_SAVED_PAGES_H_
