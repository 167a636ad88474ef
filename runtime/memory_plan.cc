#include "runtime/memory_plan.h"

#include <sys/resource.h>

#include <algorithm>
#include <fstream>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"

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

int64_t ControlGroupAvailable() {
  const int64_t limit = NumberIn("/sys/fs/cgroup/memory.max");
  const int64_t used = NumberIn("/sys/fs/cgroup/memory.current");
  return limit == kNoLimit || used == kNoLimit ? kNoLimit : std::max<int64_t>(0, limit - used);
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
  return absl::StrFormat(unit == 0 ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
}

int64_t MemoryPlan::MaxPages(double fraction) const {
  const double room = static_cast<double>(available) * fraction - static_cast<double>(fixed());
  return room <= 0 ? 0 : static_cast<int64_t>(room / static_cast<double>(page));
}

std::string MemoryPlan::ToString() const {
  return absl::StrFormat(
      "weights %s, activations %s, scores %s, exchange %s, cache page %s; available %s",
      FormatBytes(weights), FormatBytes(activations), FormatBytes(scores), FormatBytes(exchange),
      FormatBytes(page), FormatBytes(available));
}

MemoryPlan PlanMemory(const Config& config, const ModelConfig& model, const KvShape& kv,
                      int num_ranks, int ranks_on_host, int64_t weight_bytes) {
  const int64_t chunk = config.prefill_chunk_tokens;
  const int64_t stripes = (chunk + kv.stripe_tokens - 1) / kv.stripe_tokens + 1;
  const int64_t rows = std::min(chunk, (stripes + num_ranks - 1) / num_ranks * kv.stripe_tokens);
  const int64_t query_dim = model.num_heads * model.head_dim;
  const int64_t blocks = chunk / config.esa.selection_block;
  MemoryPlan plan;
  plan.weights = weight_bytes / ranks_on_host;
  // Residual, normalised, queries (plain and rotated twice), attention output twice, MLP twice.
  plan.activations = 4 * rows *
                     (2 * model.hidden_size + 6 * query_dim + 2 * kv.kv_dim + kv.score_dim +
                      2 * model.intermediate_size);
  if (kv.score_dim > 0) {
    plan.scores =
        4 * chunk * (2 * kv.score_dim + 1) + 8 * (num_ranks + 1) * blocks * config.esa.top_k;
  }
  // What a round may bring from all others, and one message on its way out.
  plan.exchange = num_ranks == 1 ? 0 : 2 * 32768 * 2 * kv.row_bytes();
  plan.page = kv.page_bytes();
  plan.available = AvailableMemory() / ranks_on_host;
  return plan;
}

}  // namespace longspan
