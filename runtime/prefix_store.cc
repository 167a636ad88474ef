#include "runtime/prefix_store.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "collectives/agree.h"
#include "kernels/base/status_macros.h"
#include "runtime/checksum.h"
#include "runtime/clock.h"
#include "runtime/memory_plan.h"
#include "runtime/new_file.h"
#include "runtime/read_bytes.h"
#include "runtime/saved_pages.h"

namespace longspan {
namespace {

namespace fs = std::filesystem;

constexpr char kLock[] = "/lock";
constexpr char kManifest[] = "/manifest.json";
constexpr char kBeginAnew[] = "delete the directory to begin without saved prefixes";

// Tells every few seconds how far rank 0 is: the others have as much to do.
class PageProgress {
 public:
  PageProgress(const char* verb, size_t total, bool tells)
      : verb_(verb), total_(total), tells_(tells) {}
  void OneMore() {
    ++done_;
    if (!tells_ || MonotonicSeconds() < next_) return;
    next_ = MonotonicSeconds() + kSeconds;
    spdlog::info("{} cached pages: {} of {}", verb_, done_, total_);
  }

 private:
  static constexpr double kSeconds = 2;
  const char* verb_;
  size_t total_;
  bool tells_;
  size_t done_ = 0;
  double next_ = MonotonicSeconds() + kSeconds;
};

}  // namespace

absl::StatusOr<std::unique_ptr<PrefixStore>> PrefixStore::Open(const std::string& directory,
                                                               Communicator* communicator) {
  const size_t end = directory.find_last_not_of('/');  // "prefixes/" names the same
  std::unique_ptr<PrefixStore> store(
      new PrefixStore(directory.substr(0, end == std::string::npos ? 1 : end + 1), communicator));
  LONGSPAN_RETURN_IF_ERROR(
      AgreeOnStatus(communicator, store->IsFirst() ? store->Lock() : absl::OkStatus()));
  return store;
}

PrefixStore::~PrefixStore() {
  if (lock_ >= 0) close(lock_);
}

absl::Status PrefixStore::Lock() {
  std::error_code error;
  fs::create_directories(fs::path(directory_).parent_path(), error);
  // Nobody else reads what users said.
  if (mkdir(directory_.c_str(), 0700) != 0 && errno != EEXIST) {
    return absl::ErrnoToStatus(errno, "kv_cache.prefix_dir: cannot make " + directory_);
  }
  const std::string path = directory_ + kLock;
  const bool is_other = !fs::exists(path) && !fs::is_empty(directory_, error);
  if (error) {
    return absl::ErrnoToStatus(error.value(), "kv_cache.prefix_dir: cannot read " + directory_);
  }
  if (is_other) {
    return absl::FailedPreconditionError(
        absl::StrCat("kv_cache.prefix_dir: ", directory_,
                     " holds something else: name an empty directory, or one that is not there"));
  }
  lock_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock_ < 0) return absl::ErrnoToStatus(errno, "kv_cache.prefix_dir: cannot open " + path);
  if (flock(lock_, LOCK_EX | LOCK_NB) == 0) return absl::OkStatus();
  if (errno != EWOULDBLOCK) {
    return absl::ErrnoToStatus(errno, "kv_cache.prefix_dir: cannot lock " + path);
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "kv_cache.prefix_dir: another job keeps its prefixes in ", directory_, ": name another"));
}

std::string PrefixStore::PagesDirectory(int64_t generation) const {
  return absl::StrCat(directory_, "/pages-", generation);
}

std::string PrefixStore::PagesFile(int64_t generation, int rank) const {
  return absl::StrCat(PagesDirectory(generation), "/rank-", rank);
}

absl::StatusOr<PrefixManifest> PrefixStore::ReadManifest() {
  const std::string path = directory_ + kManifest;
  std::string text;
  const absl::Status read = ReadBytes(path, 0, -1, &text);
  const bool is_none = absl::IsNotFound(read);
  LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(communicator_, is_none ? absl::OkStatus() : read));
  LONGSPAN_RETURN_IF_ERROR(CheckAllReadTheSame(is_none ? "none" : text));
  if (is_none) return PrefixManifest{identity_};
  absl::StatusOr<PrefixManifest> manifest = ParsePrefixManifest(text);
  if (!manifest.ok()) {
    manifest = absl::DataLossError(
        absl::StrCat(path, " is damaged (", manifest.status().message(), "): ", kBeginAnew));
  } else if (const std::string differences = IdentityDifferences(manifest->identity, identity_);
             !differences.empty()) {
    manifest = absl::FailedPreconditionError(
        absl::StrCat(path, " tells of prefixes of another model or config: ", differences, ". ",
                     "Name another kv_cache.prefix_dir, or ", kBeginAnew));
  } else if (manifest->halo != pool_->shape().halo) {
    manifest = absl::DataLossError(absl::StrCat(path, " is damaged: ", kBeginAnew));
  }
  LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(communicator_, manifest.status()));
  return manifest;
}

absl::Status PrefixStore::CheckAllReadTheSame(const std::string& text) {
  const std::string mine = Checksum(text);
  std::string all(kChecksumBytes * communicator_->size(), ' ');
  LONGSPAN_RETURN_IF_ERROR(
      communicator_->AllGather("prefixes.manifest", mine.data(), all.data(), kChecksumBytes));
  absl::Status status;
  for (int r = 1; r < communicator_->size(); ++r) {
    if (all.compare(r * kChecksumBytes, kChecksumBytes, all, 0, kChecksumBytes) == 0) continue;
    status.Update(absl::FailedPreconditionError(absl::StrCat(
        "rank ", r, " finds another manifest in ", directory_,
        " than rank 0: kv_cache.prefix_dir must be a directory that all hosts share")));
  }
  return AgreeOnStatus(communicator_, status);
}

absl::StatusOr<CachedPrefixes> PrefixStore::Restore(const Config& config, const Model& model,
                                                    const PrefixCache::Shape& shape) {
  const UntimedWaits untimed(communicator_);  // for other ranks' disks
  const double start = MonotonicSeconds();
  pool_ = model.pool.get();
  shape_ = shape;
  LONGSPAN_ASSIGN_OR_RETURN(identity_, MakePrefixIdentity(config, model, communicator_));
  LONGSPAN_ASSIGN_OR_RETURN(const PrefixManifest manifest, ReadManifest());
  generation_ = manifest.generation;
  std::set<int64_t> damaged;
  while (true) {
    RestorePlan plan = PlanRestore(manifest, damaged, shape_, pool_->max_pages());
    std::map<int64_t, PageRef> pages;
    std::vector<int64_t> found;
    LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(communicator_, Load(manifest, plan, &pages, &found)));
    LONGSPAN_ASSIGN_OR_RETURN(found, GatherAll(found));
    damaged.insert(found.begin(), found.end());
    if (!found.empty()) continue;
    if (!IsFirst()) return CachedPrefixes{PrefixCache(shape), std::move(pages)};
    if (damaged.empty()) saved_nodes_ = NodesOf(plan.cache);
    if (!manifest.pages.empty()) {
      const auto count = static_cast<int64_t>(plan.pages.size());
      spdlog::info("{} cached pages ({}) restored from {} in {:.1f} s", count,
                   FormatBytes(count * pool_->shape().page_bytes()), directory_,
                   MonotonicSeconds() - start);
    }
    return CachedPrefixes{std::move(plan.cache), std::move(pages)};
  }
}

absl::Status PrefixStore::Load(const PrefixManifest& manifest, const RestorePlan& plan,
                               std::map<int64_t, PageRef>* pages, std::vector<int64_t>* damaged) {
  const KvShape& shape = pool_->shape();
  SavedPages saved(manifest, shape, [&](int rank) { return PagesFile(manifest.generation, rank); });
  std::string bytes;
  PageProgress progress("restoring", plan.cache.num_pages(communicator_->rank()), IsFirst());
  for (const auto& [node, stripe, path] : plan.pages) {
    if (stripe % shape_.layout.num_ranks != communicator_->rank()) continue;
    bytes.assign(shape.page_bytes(), '\0');
    auto* data = reinterpret_cast<std::byte*>(bytes.data());
    LONGSPAN_ASSIGN_OR_RETURN(
        const int64_t bad,
        saved.CopyTo({&shape, stripe * shape.stripe_tokens, data}, plan.paths[path]));
    if (bad >= 0) {
      damaged->push_back(bad);
      continue;
    }
    LONGSPAN_ASSIGN_OR_RETURN(PageRef restored, pool_->Allocate());
    LONGSPAN_RETURN_IF_ERROR(pool_->Write(data, *restored));
    (*pages)[node] = std::move(restored);
    progress.OneMore();
  }
  return absl::OkStatus();
}

absl::Status PrefixStore::Save(const PrefixCache* cache, const std::map<int64_t, PageRef>& pages) {
  const UntimedWaits untimed(communicator_);
  const double start = MonotonicSeconds();
  LONGSPAN_ASSIGN_OR_RETURN(const SavePlan plan, PlanSave(cache));
  if (plan.generation == 0) return absl::OkStatus();
  absl::Status made;
  const std::string directory = PagesDirectory(plan.generation);
  if (IsFirst() && mkdir(directory.c_str(), 0700) != 0) {
    made = absl::ErrnoToStatus(errno, "cannot make " + directory);
  }
  LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(communicator_, made));
  const absl::StatusOr<std::string> checksums = WriteAllPages(plan, pages);
  if (!checksums.ok()) {
    if (IsFirst()) RemovePages(plan.generation);
    return checksums.status();
  }
  // If this fails, the new manifest may be there all the same: both it and the old one stay whole.
  LONGSPAN_RETURN_IF_ERROR(
      AgreeOnStatus(communicator_, IsFirst() ? WriteManifest(plan.generation, *cache, *checksums)
                                             : absl::OkStatus()));
  if (IsFirst()) {
    for (const int64_t generation : Generations()) {
      if (generation != plan.generation) RemovePages(generation);
    }
    generation_ = plan.generation;
    saved_nodes_ = NodesOf(*cache);
    const auto count = static_cast<int64_t>(saved_nodes_->size());
    spdlog::info("{} cached pages ({}) saved to {} in {:.1f} s", count,
                 FormatBytes(count * pool_->shape().page_bytes()), directory_,
                 MonotonicSeconds() - start);
  }
  return communicator_->Barrier("prefixes.saved");
}

absl::StatusOr<PrefixStore::SavePlan> PrefixStore::PlanSave(const PrefixCache* cache) {
  std::vector<int64_t> words;  // of rank 0 alone: the generation, then three of each page
  if (IsFirst()) {
    int64_t last = generation_;
    for (const int64_t generation : Generations()) last = std::max(last, generation);
    words.push_back(saved_nodes_ == NodesOf(*cache) ? 0 : last + 1);
    for (const PrefixCache::Page& page : cache->pages()) {
      words.insert(words.end(), {page.node, page.stripe, static_cast<int64_t>(page.tokens.size())});
    }
  }
  LONGSPAN_ASSIGN_OR_RETURN(words, GatherAll(words));
  SavePlan plan;
  plan.generation = words[0];
  plan.of_rank.resize(communicator_->size());
  for (size_t w = 1; w < words.size(); w += 3) {
    plan.of_rank[words[w + 1] % communicator_->size()].push_back(
        {words[w], words[w + 1], words[w + 2]});
  }
  return plan;
}

absl::StatusOr<std::string> PrefixStore::WriteAllPages(const SavePlan& plan,
                                                       const std::map<int64_t, PageRef>& pages) {
  const int rank = communicator_->rank();
  PageProgress progress("saving", plan.of_rank[rank].size(), IsFirst());
  const absl::StatusOr<std::string> mine =
      WritePages(PagesFile(plan.generation, rank), *pool_, plan.of_rank[rank], pages,
                 [&progress] { progress.OneMore(); });
  LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(communicator_, mine.status()));
  std::vector<int64_t> bytes;
  int64_t total = 0;
  for (const std::vector<CachedPage>& list : plan.of_rank) {
    bytes.push_back(static_cast<int64_t>(list.size()) * kChecksumBytes);
    total += bytes.back();
  }
  std::string all(total, ' ');
  LONGSPAN_RETURN_IF_ERROR(
      communicator_->AllGatherV("prefixes.checksums", mine->data(), all.data(), bytes));
  return all;
}

absl::Status PrefixStore::WriteManifest(int64_t generation, const PrefixCache& cache,
                                        const std::string& checksums) {
  const KvShape& shape = pool_->shape();
  const int ranks = shape_.layout.num_ranks;
  PrefixManifest manifest{identity_, generation, shape.stripe_tokens, shape.halo, {}};
  std::vector<size_t> first(ranks, 0);  // of a rank's checksums
  for (int r = 1; r < ranks; ++r) first[r] = first[r - 1] + cache.num_pages(r - 1);
  std::vector<int64_t> places(ranks, 0);
  std::map<int64_t, int64_t> indices = {{0, -1}};  // of nodes
  for (const PrefixCache::Page& page : cache.pages()) {
    const int rank = cache.rank(page.node);
    const int64_t place = places[rank]++;
    indices[page.node] = static_cast<int64_t>(manifest.pages.size());
    manifest.pages.push_back(
        {indices.at(page.parent),
         page.stripe,
         page.last_used,
         {page.tokens.begin(), page.tokens.end()},
         rank,
         place,
         checksums.substr((first[rank] + place) * kChecksumBytes, kChecksumBytes)});
  }
  for (int r = 0; r < ranks; ++r) {
    std::error_code error;
    const uintmax_t size = fs::file_size(PagesFile(generation, r), error);
    if (error || size != static_cast<uintmax_t>(places[r] * shape.page_bytes())) {
      return absl::FailedPreconditionError(
          absl::StrCat("rank 0 does not find what rank ", r, " wrote to ", PagesFile(generation, r),
                       ": kv_cache.prefix_dir must be a directory that all hosts share"));
    }
  }
  LONGSPAN_ASSIGN_OR_RETURN(NewFile file, NewFile::Create(directory_ + kManifest, 0600));
  LONGSPAN_RETURN_IF_ERROR(file.Write(WritePrefixManifest(manifest)));
  return file.Commit();
}

std::vector<int64_t> PrefixStore::NodesOf(const PrefixCache& cache) {
  std::vector<int64_t> nodes;
  for (const PrefixCache::Page& page : cache.pages()) nodes.push_back(page.node);
  return nodes;
}

std::vector<int64_t> PrefixStore::Generations() const {
  std::vector<int64_t> generations;
  std::error_code error;
  for (fs::directory_iterator entry(directory_, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename();
    int64_t generation = 0;
    if (absl::SimpleAtoi(name.substr(name.rfind('-') + 1), &generation) && generation > 0 &&
        name == absl::StrCat("pages-", generation)) {
      generations.push_back(generation);
    }
  }
  return generations;
}

void PrefixStore::RemovePages(int64_t generation) {
  const std::string directory = PagesDirectory(generation);
  std::error_code error;
  std::vector<std::string> files;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    if (absl::StartsWith(entry->path().filename().string(), "rank-"))
      files.push_back(entry->path());
  }
  for (const std::string& file : files) unlink(file.c_str());
  rmdir(directory.c_str());  // unless it has what is not ours
}

absl::StatusOr<std::vector<int64_t>> PrefixStore::GatherAll(const std::vector<int64_t>& mine) {
  int64_t bytes = static_cast<int64_t>(mine.size() * sizeof(int64_t));
  std::vector<int64_t> of_rank(communicator_->size());
  LONGSPAN_RETURN_IF_ERROR(
      communicator_->AllGather("prefixes.sizes", &bytes, of_rank.data(), sizeof(bytes)));
  bytes = 0;
  for (const int64_t b : of_rank) bytes += b;
  std::vector<int64_t> all(bytes / sizeof(int64_t));
  LONGSPAN_RETURN_IF_ERROR(
      communicator_->AllGatherV("prefixes.lists", mine.data(), all.data(), of_rank));
  return all;
}

}  // namespace longspan
