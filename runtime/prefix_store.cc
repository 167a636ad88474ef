#include "runtime/prefix_store.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
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
#include "runtime/saved_pages.h"

namespace longspan {
namespace {

namespace fs = std::filesystem;

constexpr char kManifest[] = "/manifest.json";
constexpr size_t kChecksumBytes = 32;

std::string ChecksumOf(const std::vector<ScoreFactors>& factors) {
  const auto bytes = [](const std::vector<float>& matrix) {
    return absl::string_view(reinterpret_cast<const char*>(matrix.data()),
                             matrix.size() * sizeof(float));
  };
  std::string all;
  for (const ScoreFactors& layer : factors) {
    absl::StrAppend(&all, Checksum(bytes(layer.query)), Checksum(bytes(layer.key)));
  }
  return Checksum(all);
}

PrefixIdentity IdentityOf(const Config& config, const Model& model) {
  PrefixIdentity identity = {
      {"longspan", LONGSPAN_VERSION},
      {"the model", ModelFingerprint(model.config, model.weights)},
      {"the compressor", ChecksumOf(model.attention.factors)},
      {"kv_cache.dtype", std::string(DTypeName(model.attention.kv.dtype))},
      {"kv_cache.score_dtype", std::string(DTypeName(model.attention.kv.score_dtype))},
  };
  for (const char* key :
       {"device", "dtype", "attention", "esa.initial_tokens", "esa.local_tokens", "esa.top_k",
        "esa.selection_block", "esa.compressed_dim", "esa.compression", "esa.proximity",
        "esa.positions", "esa.far_position", "prefill.chunk_tokens", "deterministic"}) {
    identity[key] = ConfigValue(config, key);
  }
  if (config.deterministic) identity["kernels"] = model.kernels;
  return identity;
}

// Nothing if there is no such file.
absl::StatusOr<std::string> ReadText(const std::string& path) {
  std::error_code error;
  if (!fs::exists(path, error) && !error) return "";
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) return absl::ErrnoToStatus(errno, "cannot read " + path);
  return text.str();
}

absl::Status MakeDirectory(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);  // of a save that was cut short
  fs::create_directory(path, error);
  return error ? absl::ErrnoToStatus(error.value(), "cannot make " + path) : absl::OkStatus();
}

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

absl::StatusOr<std::unique_ptr<PrefixStore>> PrefixStore::Open(const Config& config,
                                                               const Model& model,
                                                               const PrefixCache::Shape& shape,
                                                               Communicator* communicator) {
  std::unique_ptr<PrefixStore> store(new PrefixStore);
  store->directory_ = config.kv_cache_prefix_dir;
  store->identity_ = IdentityOf(config, model);
  store->shape_ = shape;
  store->pool_ = model.pool.get();
  store->communicator_ = communicator;
  LONGSPAN_RETURN_IF_ERROR(
      AgreeOnStatus(communicator, store->IsFirst() ? store->Lock() : absl::OkStatus()));
  return store;
}

PrefixStore::~PrefixStore() {
  if (lock_ >= 0) close(lock_);
}

absl::Status PrefixStore::Lock() {
  std::error_code error;
  if (fs::create_directories(directory_, error)) {
    fs::permissions(directory_, fs::perms::owner_all, error);  // it will hold what users said
  }
  const std::string path = directory_ + "/lock";
  lock_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock_ < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("kv_cache.prefix_dir: cannot open ", path));
  }
  if (flock(lock_, LOCK_EX | LOCK_NB) == 0) return absl::OkStatus();
  if (errno != EWOULDBLOCK) return absl::ErrnoToStatus(errno, "cannot lock " + path);
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
  const absl::StatusOr<std::string> text = ReadText(directory_ + kManifest);
  LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(communicator_, text.status()));
  LONGSPAN_RETURN_IF_ERROR(CheckAllReadTheSame(*text));
  if (text->empty()) return PrefixManifest{identity_};
  const std::string path = directory_ + kManifest;
  absl::StatusOr<PrefixManifest> manifest = ParsePrefixManifest(*text);
  absl::Status status = manifest.status();
  if (!status.ok()) {
    status = absl::DataLossError(absl::StrCat(path, " is damaged (", status.message(),
                                              "): delete it to begin without saved prefixes"));
  } else if (const std::string differences = IdentityDifferences(manifest->identity, identity_);
             !differences.empty()) {
    status = absl::FailedPreconditionError(absl::StrCat(
        path, " tells of prefixes of another model or config: ", differences,
        ". Name another kv_cache.prefix_dir, or delete it to begin without saved prefixes"));
  }
  LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(communicator_, status));
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

absl::StatusOr<CachedPrefixes> PrefixStore::Restore() {
  const UntimedWaits untimed(communicator_);  // for other ranks' disks
  const double start = MonotonicSeconds();
  LONGSPAN_ASSIGN_OR_RETURN(const PrefixManifest manifest, ReadManifest());
  generation_ = manifest.generation;
  std::set<int64_t> damaged;
  while (true) {
    RestorePlan plan = PlanRestore(manifest, damaged, shape_, pool_->max_pages());
    std::map<int64_t, PageRef> pages;
    std::vector<int64_t> found;
    LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(communicator_, Load(manifest, plan, &pages, &found)));
    LONGSPAN_ASSIGN_OR_RETURN(const std::vector<int64_t> all, GatherAll(found));
    if (all.empty()) {
      if (IsFirst() && !manifest.pages.empty()) {
        spdlog::info(
            "{} saved pages of prefixes, {} of them damaged: {} pages ({}) restored in "
            "{:.1f} s",
            manifest.pages.size(), damaged.size(), plan.pages.size(),
            FormatBytes(static_cast<int64_t>(plan.pages.size()) * pool_->shape().page_bytes()),
            MonotonicSeconds() - start);
      }
      return CachedPrefixes{std::move(plan.cache), std::move(pages)};
    }
    damaged.insert(all.begin(), all.end());
  }
}

absl::Status PrefixStore::Load(const PrefixManifest& manifest, const RestorePlan& plan,
                               std::map<int64_t, PageRef>* pages, std::vector<int64_t>* damaged) {
  const KvShape& shape = pool_->shape();
  SavedPages saved(manifest, shape, [&](int rank) { return PagesFile(manifest.generation, rank); });
  std::vector<std::byte> bytes;
  PageProgress progress("restoring", plan.cache.num_pages(communicator_->rank()), IsFirst());
  for (const auto& [node, stripe, path] : plan.pages) {
    if (stripe % shape_.layout.num_ranks != communicator_->rank()) continue;
    bytes.assign(shape.page_bytes(), std::byte{0});
    const HostPage page{&shape, stripe * shape.stripe_tokens, bytes.data()};
    if (const int64_t bad = saved.CopyTo(page, plan.paths[path]); bad >= 0) {
      damaged->push_back(bad);
      continue;
    }
    LONGSPAN_ASSIGN_OR_RETURN(PageRef restored, pool_->Allocate());
    LONGSPAN_RETURN_IF_ERROR(pool_->Write(bytes.data(), *restored));
    (*pages)[node] = std::move(restored);
    progress.OneMore();
  }
  return absl::OkStatus();
}

absl::Status PrefixStore::Save(const PrefixCache* cache, const std::map<int64_t, PageRef>& pages) {
  const UntimedWaits untimed(communicator_);
  const int64_t generation = generation_ + 1;
  const absl::Status saved = SaveAs(generation, cache, pages);
  if (saved.ok()) generation_ = generation;
  if (IsFirst()) RemovePagesBut(generation_);
  return saved;
}

absl::Status PrefixStore::SaveAs(int64_t generation, const PrefixCache* cache,
                                 const std::map<int64_t, PageRef>& pages) {
  const double start = MonotonicSeconds();
  LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(
      communicator_, IsFirst() ? MakeDirectory(PagesDirectory(generation)) : absl::OkStatus()));
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<std::vector<CachedPage>> of_rank, ListPages(cache));
  const std::vector<CachedPage>& mine = of_rank[communicator_->rank()];
  PageProgress progress("saving", mine.size(), IsFirst());
  const absl::StatusOr<std::string> checksums =
      WritePages(PagesFile(generation, communicator_->rank()), *pool_, mine, pages,
                 [&progress] { progress.OneMore(); });
  LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(communicator_, checksums.status()));
  std::vector<int64_t> bytes;
  int64_t count = 0;
  for (const std::vector<CachedPage>& list : of_rank) {
    bytes.push_back(static_cast<int64_t>(list.size() * kChecksumBytes));
    count += static_cast<int64_t>(list.size());
  }
  std::string all(count * kChecksumBytes, ' ');
  LONGSPAN_RETURN_IF_ERROR(
      communicator_->AllGatherV("prefixes.checksums", checksums->data(), all.data(), bytes));
  LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(
      communicator_, IsFirst() ? WriteManifest(generation, *cache, all) : absl::OkStatus()));
  if (IsFirst()) {
    spdlog::info("{} cached pages ({}) saved to {} in {:.1f} s", count,
                 FormatBytes(count * pool_->shape().page_bytes()), directory_,
                 MonotonicSeconds() - start);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::vector<CachedPage>>> PrefixStore::ListPages(
    const PrefixCache* cache) {
  std::vector<int64_t> words;  // of rank 0 alone
  if (IsFirst()) {
    for (const PrefixCache::Page& page : cache->pages()) {
      words.insert(words.end(), {page.node, page.stripe, static_cast<int64_t>(page.tokens.size())});
    }
  }
  LONGSPAN_ASSIGN_OR_RETURN(words, GatherAll(words));
  std::vector<std::vector<CachedPage>> of_rank(communicator_->size());
  for (size_t w = 0; w < words.size(); w += 3) {
    of_rank[words[w + 1] % communicator_->size()].push_back({words[w], words[w + 1], words[w + 2]});
  }
  return of_rank;
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
  LONGSPAN_ASSIGN_OR_RETURN(NewFile file, NewFile::Create(directory_ + kManifest));
  LONGSPAN_RETURN_IF_ERROR(file.Write(WritePrefixManifest(manifest)));
  return file.Commit();
}

void PrefixStore::RemovePagesBut(int64_t generation) {
  std::error_code error;
  std::vector<fs::path> old;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory_, error)) {
    const std::string name = entry.path().filename();
    int64_t number = 0;
    const bool is_pages =
        absl::StartsWith(name, "pages-") && absl::SimpleAtoi(name.substr(6), &number);
    if (is_pages && number != generation) old.push_back(entry.path());
  }
  for (const fs::path& path : old) fs::remove_all(path, error);
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
