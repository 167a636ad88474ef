#ifndef LONGSPAN_RUNTIME_KV_SHARD_H_
#define LONGSPAN_RUNTIME_KV_SHARD_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/base/dtype.h"
#include "sharding/sequence_layout.h"

namespace longspan {

// Sizes of a rank's cache. One page holds one stripe of one sequence, all layers.
struct KvShape {
  int64_t layers = 0;
  int64_t kv_dim = 0;         // kv_heads * head_dim
  int64_t score_dim = 0;      // of what the score reads; 0: nothing is scored
  bool score_is_key = false;  // exact scores read the keys themselves
  int64_t stripe_tokens = 0;
  int64_t halo = 0;  // tokens either side of a stripe whose score keys are kept too (proximity)
  DType dtype = DType::kFloat32;        // of keys and values
  DType score_dtype = DType::kFloat32;  // of score keys; exact scores: dtype

  int64_t row_bytes() const { return kv_dim * SizeOf(dtype); }
  int64_t score_row_bytes() const { return score_dim * SizeOf(score_dtype); }

  // A page has two parts, since what is scored may lie in faster memory. A layer of the first is
  // keys [stripe], values [stripe]; of the second score keys [halo + stripe + halo]. Exact scores
  // read the keys, which then have the halo, and there is no second part.
  int64_t kv_bytes() const;     // of the first part
  int64_t score_bytes() const;  // of the second
  int64_t page_bytes() const { return kv_bytes() + score_bytes(); }
  // Bytes from the begin of its part to a layer's first key, value, or score key (of the halo in
  // front).
  int64_t key_offset(int64_t layer) const;
  int64_t value_offset(int64_t layer) const;
  int64_t score_offset(int64_t layer) const;
};

// Memory of the host or of a GPU.
using Memory = std::unique_ptr<std::byte, std::function<void(std::byte*)>>;
using AllocateMemory = std::function<absl::StatusOr<Memory>(int64_t bytes)>;
// Not zeroed: pages of memory are touched, and so committed, as tokens are written.
absl::StatusOr<Memory> AllocateHostMemory(int64_t bytes);
using CopyMemory = std::function<absl::Status(std::byte* to, const std::byte* from, int64_t bytes)>;
absl::Status CopyHostMemory(std::byte* to, const std::byte* from, int64_t bytes);

struct Page {
  Memory kv;
  Memory scores;  // null where they are the keys, or there are none
  std::byte* score_base() const { return scores != nullptr ? scores.get() : kv.get(); }
};

// One of a pool, which takes it back from the last that refers to it.
using PageRef = std::shared_ptr<Page>;

// Where the parts of pages come from, and how they are copied between forward passes.
struct PageMemory {
  AllocateMemory kv = AllocateHostMemory;
  AllocateMemory scores = AllocateHostMemory;
  CopyMemory copy = CopyHostMemory;
};

// Pages of a rank, up to a limit. Freed pages are kept for the next sequence. It outlives them.
class PagePool {
 public:
  PagePool(const KvShape& shape, int64_t max_pages, PageMemory memory = {})
      : shape_(shape), max_pages_(max_pages), memory_(std::move(memory)) {}
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  const KvShape& shape() const { return shape_; }
  int64_t max_pages() const { return max_pages_; }
  absl::StatusOr<PageRef> Allocate();
  absl::Status Copy(const Page& from, const Page& to) const;
  // To and from host memory [page_bytes()]: the page's second part lies behind the first.
  absl::Status Read(const Page& page, std::byte* bytes) const;
  absl::Status Write(const std::byte* bytes, const Page& page) const;

 private:
  PageRef Lend(Page page);

  KvShape shape_;
  int64_t max_pages_;
  PageMemory memory_;
  int64_t allocated_ = 0;
  std::vector<Page> free_;
};

// What one rank keeps of one sequence: of its stripes, for each layer, keys before RoPE, values,
// and the score keys with a halo either side. Rows are of the pool's dtype.
class KvShard {
 public:
  KvShard(PagePool* pool, const SequenceLayout& layout, int rank)
      : pool_(pool), layout_(layout), rank_(rank) {}
  KvShard(const KvShard&) = delete;
  KvShard& operator=(const KvShard&) = delete;

  const SequenceLayout& layout() const { return layout_; }
  int rank() const { return rank_; }

  // Before Reserve: this rank's next stripe is in that page, which is only read while others have
  // it, or in a copy of it.
  void Share(PageRef page) { pages_.push_back(std::move(page)); }
  absl::Status Copy(const Page& page);
  // Makes room for positions [0, tokens), halos of this rank's stripes included.
  absl::Status Reserve(int64_t tokens);

  // Rows of positions that this rank owns: [kv_dim]. Rows of one stripe are contiguous.
  std::byte* Key(int64_t layer, int64_t position);
  std::byte* Value(int64_t layer, int64_t position);
  // Score key [score_dim] of `position` as kept beside the stripe of page `page`, to which it
  // belongs or is at most `halo` away from.
  std::byte* ScoreKey(int64_t layer, int64_t page, int64_t position);
  absl::Span<const PageRef> pages() const { return pages_; }
  // Pages (of this rank) whose stripe or halo holds `position`, for positions below Reserve's.
  std::vector<int64_t> PagesNear(int64_t position) const;

 private:
  const Page& PageAt(int64_t page) const;

  PagePool* pool_;
  SequenceLayout layout_;
  int rank_;
  std::vector<PageRef> pages_;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_KV_SHARD_H_
