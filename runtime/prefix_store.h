#ifndef LONGSPAN_RUNTIME_PREFIX_STORE_H_
#define LONGSPAN_RUNTIME_PREFIX_STORE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
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

// The prefix cache of a job, rank 0's, and this rank's pages of it by their nodes.
struct CachedPrefixes {
  PrefixCache cache;
  std::map<int64_t, PageRef> pages;
};

// Keeps the prefix cache in a directory, `kv_cache.prefix_dir`, from one run to the next, which may
// have any number of ranks (docs/ARCHITECTURE.md, "Prefixes on disk"). All calls are collective,
// and every rank returns the same error.
class PrefixStore {
 public:
  // Takes the directory for this job, and makes it if there is none. FailedPrecondition: another
  // job has it, or it holds something else.
  static absl::StatusOr<std::unique_ptr<PrefixStore>> Open(const std::string& directory,
                                                           Communicator* communicator);
  PrefixStore(const PrefixStore&) = delete;
  PrefixStore& operator=(const PrefixStore&) = delete;
  ~PrefixStore();

  // First. What the last Save left, as much as fits. Pages that are damaged are left out, with a
  // warning. FailedPrecondition: of another model or config. DataLoss: a damaged manifest. `model`
  // must outlive this.
  absl::StatusOr<CachedPrefixes> Restore(const Config& config, const Model& model,
                                         const PrefixCache::Shape& shape);
  // Replaces what was saved, once all of it is on disk, unless nothing has changed since. `cache`
  // is rank 0's, others' is null.
  absl::Status Save(const PrefixCache* cache, const std::map<int64_t, PageRef>& pages);

 private:
  explicit PrefixStore(std::string directory, Communicator* communicator)
      : directory_(std::move(directory)), communicator_(communicator) {}
  bool IsFirst() const { return communicator_->rank() == 0; }
  std::string PagesDirectory(int64_t generation) const;
  std::string PagesFile(int64_t generation, int rank) const;

  absl::Status Lock();
  absl::StatusOr<PrefixManifest> ReadManifest();
  absl::Status CheckAllReadTheSame(const std::string& text);
  // The manifest's pages that are found damaged are added to `damaged`.
  absl::Status Load(const PrefixManifest& manifest, const RestorePlan& plan,
                    std::map<int64_t, PageRef>* pages, std::vector<int64_t>* damaged);
  // Nodes of a cache, in ascending order.
  static std::vector<int64_t> NodesOf(const PrefixCache& cache);
  struct SavePlan {
    int64_t generation = 0;                        // 0: there is nothing to do
    std::vector<std::vector<CachedPage>> of_rank;  // in the order in which files have them
  };
  absl::StatusOr<SavePlan> PlanSave(const PrefixCache* cache);
  // Once they are on disk their checksums: of the pages of rank 0, then of rank 1, ...
  absl::StatusOr<std::string> WriteAllPages(const SavePlan& plan,
                                            const std::map<int64_t, PageRef>& pages);
  absl::Status WriteManifest(int64_t generation, const PrefixCache& cache,
                             const std::string& checksums);
  // The numbers of directories of pages, as far as they can be listed.
  std::vector<int64_t> Generations() const;
  void RemovePages(int64_t generation);
  absl::StatusOr<std::vector<int64_t>> GatherAll(const std::vector<int64_t>& mine);

  std::string directory_;
  Communicator* communicator_;
  PrefixIdentity identity_;
  PrefixCache::Shape shape_;
  PagePool* pool_ = nullptr;
  int64_t generation_ = 0;                           // of what is saved; 0: nothing is
  std::optional<std::vector<int64_t>> saved_nodes_;  // rank 0: of the cache when it was last saved
  int lock_ = -1;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_PREFIX_STORE_H_
