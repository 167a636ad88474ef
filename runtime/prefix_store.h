#ifndef LONGSPAN_RUNTIME_PREFIX_STORE_H_
#define LONGSPAN_RUNTIME_PREFIX_STORE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "collectives/communicator.h"
#include "runtime/config.h"
#include "runtime/kv_shard.h"
#include "runtime/model.h"
#include "runtime/prefix_cache.h"
#include "runtime/prefix_manifest.h"
#include "runtime/prefix_plan.h"
#include "runtime/saved_pages.h"

namespace longspan {

// The prefix cache of a job, and this rank's pages of it by their nodes.
struct CachedPrefixes {
  PrefixCache cache;
  std::map<int64_t, PageRef> pages;
};

// Keeps the prefix cache in a directory, `kv_cache.prefix_dir`, from one run to the next, which may
// have any number of ranks (docs/ARCHITECTURE.md, "Prefixes on disk"). All calls are collective,
// and every rank returns the same error.
class PrefixStore {
 public:
  // Makes the directory if there is none. FailedPrecondition: another job has it.
  static absl::StatusOr<std::unique_ptr<PrefixStore>> Open(const Config& config, const Model& model,
                                                           const PrefixCache::Shape& shape,
                                                           Communicator* communicator);
  PrefixStore(const PrefixStore&) = delete;
  PrefixStore& operator=(const PrefixStore&) = delete;
  ~PrefixStore();

  // What the last Save left, as much as fits. Pages that are damaged are left out, with a warning.
  // FailedPrecondition: of another model or config. DataLoss: a damaged manifest.
  absl::StatusOr<CachedPrefixes> Restore();
  // Replaces what was saved, once all of it is on disk. `cache` is rank 0's.
  absl::Status Save(const PrefixCache* cache, const std::map<int64_t, PageRef>& pages);

 private:
  PrefixStore() = default;
  bool IsFirst() const { return communicator_->rank() == 0; }
  std::string PagesDirectory(int64_t generation) const;
  std::string PagesFile(int64_t generation, int rank) const;

  absl::Status Lock();
  absl::StatusOr<PrefixManifest> ReadManifest();
  absl::Status CheckAllReadTheSame(const std::string& text);
  // The manifest's pages that are found damaged are added to `damaged`.
  absl::Status Load(const PrefixManifest& manifest, const RestorePlan& plan,
                    std::map<int64_t, PageRef>* pages, std::vector<int64_t>* damaged);
  absl::Status SaveAs(int64_t generation, const PrefixCache* cache,
                      const std::map<int64_t, PageRef>& pages);
  // [ranks] rank 0's cache: its pages in the order in which files have them.
  absl::StatusOr<std::vector<std::vector<CachedPage>>> ListPages(const PrefixCache* cache);
  // `checksums`: of the pages of rank 0, then of rank 1, ...
  absl::Status WriteManifest(int64_t generation, const PrefixCache& cache,
                             const std::string& checksums);
  void RemovePagesBut(int64_t generation);
  absl::StatusOr<std::vector<int64_t>> GatherAll(const std::vector<int64_t>& mine);

  std::string directory_;
  PrefixIdentity identity_;
  PrefixCache::Shape shape_;
  PagePool* pool_ = nullptr;
  Communicator* communicator_ = nullptr;
  int64_t generation_ = 0;  // of what is saved; 0: nothing is
  int lock_ = -1;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_PREFIX_STORE_H_
