#include "runtime/memory_plan.h"

#include <sys/resource.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "runtime/attention_context.h"
#include "runtime/candidate_merge.h"
#include "runtime/model.h"
#include "sharding/topk_merge.h"

namespace longspan {
namespace {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

// The number in a file of one word ("max" and missing files are no limit).
int64_t NumberIn(const char* path) {
  std::ifstream file(path);
  std::string word;
  int64_t value = 0;
  return file >> word && absl::SimpleAtoi(word, &value) ? value : kNoLimit;
}

int64_t MemInfoAvailable() {
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  int64_t kilobytes = 0;
  while (file >> key >> kilobytes) {
    if (key == "MemAvailable:") return kilobytes * 1024;
    std::getline(file, unit);
  }
  return kNoLimit;
}

// Reclaimable page cache counts as used in a control group, though it is there for the taking:
// weights that other ranks have mapped, say.
int64_t InactiveFile(const std::string& directory, absl::string_view key) {
  std::ifstream file(directory + "/memory.stat");
  std::string name;
  int64_t value = 0;
  while (file >> name >> value) {
    if (name == key) return value;
  }
  return 0;
}

struct ControlGroupFiles {
  const char* root;
  const char* limit;
  const char* used;
  const char* reclaimable;  // in memory.stat
};
constexpr ControlGroupFiles kVersion2 = {"/sys/fs/cgroup", "memory.max", "memory.current",
                                         "inactive_file"};
constexpr ControlGroupFiles kVersion1 = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                         "memory.usage_in_bytes", "total_inactive_file"};

// What the group at `path` and all groups around it leave.
int64_t GroupAvailable(const ControlGroupFiles& files, std::string path) {
  int64_t available = kNoLimit;
  while (true) {
    const std::string directory = files.root + path;
    const int64_t limit = NumberIn(absl::StrCat(directory, "/", files.limit).c_str());
    const int64_t used = NumberIn(absl::StrCat(directory, "/", files.used).c_str());
    if (limit != kNoLimit && used != kNoLimit) {
      const int64_t reclaimable = InactiveFile(directory, files.reclaimable);
      available = std::min(available, std::max<int64_t>(0, limit - used + reclaimable));
    }
    if (path.empty()) return available;
    path.resize(path.find_last_of('/'));
  }
}

// Of the groups that this process is in: lines "hierarchy:controllers:/path".
int64_t ControlGroupAvailable() {
  std::ifstream file("/proc/self/cgroup");
  int64_t available = kNoLimit;
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    const bool version2 = parts[1].empty();
    if (!version2 && parts[1] != "memory") continue;
    const std::string path = parts[2] == "/" ? "" : parts[2];
    available = std::min(available, GroupAvailable(version2 ? kVersion2 : kVersion1, path));
  }
  return available;
}

int64_t Part(int64_t bytes, double fraction) {
  return fraction == 1 ? bytes : static_cast<int64_t>(static_cast<double>(bytes) * fraction);
}

// Pages that fit in `fraction` of so many bytes, of which some are taken.
int64_t PagesIn(int64_t bytes, double fraction, int64_t taken, int64_t of_page) {
  const int64_t room = Part(bytes, fraction) - taken;
  if (room <= 0) return 0;
  return of_page == 0 ? kNoLimit : room / of_page;
}

// Whether the host's memory is what holds fewer pages than the GPU's.
bool HostLimits(const MemoryPlan& plan, double fraction) {
  return plan.host_page > 0 && PagesIn(plan.host_available, fraction, 0, plan.host_page) <
                                   PagesIn(plan.available, fraction, plan.fixed(), plan.page);
}

// What `pages` take of the memory that limits them, and what there is.
std::string Shortage(const MemoryPlan& plan, int64_t pages, const Config& config) {
  const double fraction = config.kv_cache_memory_fraction;
  const bool on_host = HostLimits(plan, fraction);
  const int64_t available = on_host ? plan.host_available : plan.available;
  return absl::StrCat(
      "a rank needs ", on_host ? pages * plan.host_page : plan.fixed() + pages * plan.page,
      " bytes of ", on_host || config.device == "cpu" ? "its host's" : "its GPU's",
      " memory and may use ", Part(available, fraction), " (kv_cache.memory_fraction ", fraction,
      " of ", available, ": ", plan.ToString(), ")");
}

// Settings that make a page smaller where it does not fit, or move it to where there is more room.
std::vector<std::string> SmallerPages(const MemoryPlan& plan, const Config& config) {
  const double fraction = config.kv_cache_memory_fraction;
  std::vector<std::string> advice;
  const DType dtype = KvCacheDType(config);
  if (dtype == DType::kFloat32) {
    advice.push_back("`kv_cache.dtype: bfloat16` or `fp8_e4m3`");
  } else if (dtype != DType::kFloat8E4M3) {
    advice.push_back("`kv_cache.dtype: fp8_e4m3`");
  }
  const bool may_move =
      config.device == "cuda" && config.kv_cache_tier == "device" &&
      !(config.attention == Attention::kEsa && config.esa.compression == Compression::kExact);
  if (may_move && PagesIn(plan.host_available, fraction, 0, plan.page) > plan.MaxPages(fraction)) {
    advice.push_back("`kv_cache.tier: host`");
  }
  return advice;
}

// What to change so that a request fits, of which `longest` tokens do.
std::string Advice(const MemoryPlan& plan, int64_t longest, const Config& config) {
  const double fraction = config.kv_cache_memory_fraction;
  const bool on_gpu = config.device == "cuda" && !HostLimits(plan, fraction);
  const bool only_pages = plan.fixed() < Part(plan.available, fraction);
  std::vector<std::string> advice;
  if (longest > 0) {
    advice.push_back(absl::StrCat("a max_model_len of at most ", longest));
  } else {
    advice.push_back("a higher kv_cache.memory_fraction");
  }
  if (longest > 0 || only_pages) {
    for (std::string& way : SmallerPages(plan, config)) advice.push_back(std::move(way));
  } else {
    advice.push_back("a lower prefill.chunk_tokens");
  }
  advice.push_back(!on_gpu                     ? "more machines"
                   : longest > 0 || only_pages ? "more GPUs"
                                               : "GPUs with more memory");
  const std::string last = std::move(advice.back());
  advice.pop_back();
  return absl::StrCat(longest > 0 ? "use " : "free memory, or use ", absl::StrJoin(advice, ", "),
                      ", or ", last);
}

}  // namespace

int64_t AvailableMemory() { return std::min(MemInfoAvailable(), ControlGroupAvailable()); }

int64_t PeakMemory() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

std::string FormatBytes(int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  for (; value >= 999.95 && unit < 4; ++unit) value /= 1000;  // what would round to 1000.0
  return unit == 0 ? absl::StrFormat("%d B", bytes)
                   : absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

int64_t MemoryPlan::MaxPages(double fraction) const {
  const int64_t pages = PagesIn(available, fraction, fixed(), page);
  return host_page == 0 ? pages : std::min(pages, PagesIn(host_available, fraction, 0, host_page));
}

std::string MemoryPlan::ToString() const {
  std::string text = absl::StrFormat(
      "weights %s, activations %s, scores %s, exchange %s, cache page %s; available %s",
      FormatBytes(weights), FormatBytes(activations), FormatBytes(scores), FormatBytes(exchange),
      FormatBytes(page), FormatBytes(available));
  if (host_page == 0) return text;
  return absl::StrCat(text, "; on the host, cache page ", FormatBytes(host_page), ", available ",
                      FormatBytes(host_available));
}

MemoryPlan PlanMemory(const Config& config, const ModelConfig& model, const KvShape& kv,
                      int num_ranks, int ranks_on_host, int64_t weight_bytes) {
  const int64_t chunk = config.prefill_chunk_tokens;
  const int64_t stripes = (chunk + kv.stripe_tokens - 1) / kv.stripe_tokens + 1;
  const int64_t rows = std::min(chunk, (stripes + num_ranks - 1) / num_ranks * kv.stripe_tokens);
  const int64_t query_dim = model.num_heads * model.head_dim;
  const int64_t blocks = chunk / config.esa.selection_block;
  MemoryPlan plan;
  // Ranks of a host share the pages of files, but not what each makes up.
  plan.weights = IsDummy(config) ? weight_bytes : weight_bytes / ranks_on_host;
  // Residual, normalised, queries (plain and rotated twice), attention output twice, MLP twice.
  plan.activations = 4 * rows *
                     (2 * model.hidden_size + 6 * query_dim + 2 * kv.kv_dim + kv.score_dim +
                      2 * model.intermediate_size);
  if (kv.score_dim > 0) {
    // Gathered queries, plain and packed, maxima, candidates of a chunk's blocks or of a token of
    // every sequence, and tile maxima, or what each voter's scores are normalised by. Settings may
    // ask for more candidates than an int64 has bytes for.
    const Voters voters = MakeVoters(config, model);
    const int64_t of_voter =
        2 * sizeof(float) + sizeof(int64_t) + kVoteSumDigits * sizeof(uint32_t);
    const double candidates =
        MostMergeBytes(MergeWayOf(config.parallel.selection_merge), num_ranks,
                       std::max(blocks, config.max_num_seqs), config.esa.picks());
    plan.scores = 4 * chunk * (2 * voters.query_dim() + 1) +
                  static_cast<int64_t>(std::min(candidates, 1e18)) +
                  (voters.soft ? chunk * voters.count * of_voter : BufferLimits().tile_group_bytes);
  }
  if (num_ranks > 1) {
    // Keys: what a round may bring from all others, and a message of the next round, out and in,
    // whose tokens have different owners.
    plan.exchange = 2 * BufferLimits().ring_round_tokens * 2 * kv.row_bytes();
    // Queries: of two ranks; this rank's partials of the chunk, and all ranks' of its own rows.
    const int64_t partials = (chunk + num_ranks * rows) * (query_dim + model.num_heads);
    if (!config.deterministic) {
      plan.exchange = std::max(plan.exchange, 4 * (2 * rows * query_dim + partials));
    }
  }
  plan.page = kv.page_bytes();
  plan.available = AvailableMemory() / ranks_on_host;
  return plan;
}

int64_t LongestRequest(MemoryPlan plan, double fraction, const SequenceLayout& layout,
                       absl::FunctionRef<int64_t(int64_t tokens)> activations) {
  const int64_t round = layout.stripe_tokens * layout.num_ranks;
  const auto tokens_of = [&](int64_t pages) { return std::min(pages * round, kMaxPosition); };
  int64_t fit = 0;  // pages
  plan.activations = 0;
  int64_t most = std::min(plan.MaxPages(fraction), (kMaxPosition + round - 1) / round);
  while (fit < most) {
    const int64_t pages = most - (most - fit) / 2;
    plan.activations = activations(tokens_of(pages));
    plan.MaxPages(fraction) >= pages ? fit = pages : most = pages - 1;
  }
  return tokens_of(fit);
}

absl::Status FitCache(const MemoryPlan& plan, int64_t pages, Config* config,
                      const SequenceLayout& layout) {
  const int64_t round = layout.stripe_tokens * layout.num_ranks;
  const int64_t longest =
      plan.longest.value_or(pages > kMaxPosition / round ? kMaxPosition : pages * round);
  if (config->max_model_len == 0) {
    if (longest == 0) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the model leaves no memory for a cache: ", Shortage(plan, 1, *config), "; ",
                       Advice(plan, 0, *config)));
    }
    config->max_model_len = longest;
    return absl::OkStatus();
  }
  const int64_t needed = layout.NumPages(0, config->max_model_len);
  if (needed <= pages) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("the cache does not fit: for max_model_len ", config->max_model_len, " ",
                   Shortage(plan, needed, *config), "; ", Advice(plan, longest, *config)));
}

}  // namespace longspan
