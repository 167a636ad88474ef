#include "runtime/kv_shard.h"

#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

// A layer of a page is keys [stripe], values [stripe], score keys [halo + stripe + halo]; exact
// scores read the keys, which then have the halo.
int64_t KeyRows(const KvShape& shape) {
  return shape.stripe_tokens + (shape.score_is_key ? 2 * shape.halo : 0);
}

int64_t LayerBytes(const KvShape& shape) {
  const int64_t score_rows =
      shape.score_dim == 0 || shape.score_is_key ? 0 : shape.stripe_tokens + 2 * shape.halo;
  return (KeyRows(shape) + shape.stripe_tokens) * shape.row_bytes() +
         score_rows * shape.score_row_bytes();
}

}  // namespace

int64_t KvShape::page_bytes() const { return layers * LayerBytes(*this); }

absl::StatusOr<std::unique_ptr<std::byte[]>> PagePool::Allocate() {
  if (!free_.empty()) {
    auto page = std::move(free_.back());
    free_.pop_back();
    return page;
  }
  if (allocated_ == max_pages_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("all ", max_pages_, " cache pages are in use"));
  }
  // Not zeroed: pages of memory are touched, and so committed, as tokens are written.
  std::unique_ptr<std::byte[]> page(new (std::nothrow) std::byte[shape_.page_bytes()]);
  if (page == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for a cache page of ", shape_.page_bytes(), " bytes"));
  }
  ++allocated_;
  return page;
}

void PagePool::Free(std::unique_ptr<std::byte[]> page) { free_.push_back(std::move(page)); }

KvShard::~KvShard() {
  for (auto& page : pages_) pool_->Free(std::move(page));
}

absl::Status KvShard::Reserve(int64_t tokens) {
  const int64_t needed = layout_.NumPages(rank_, tokens);
  while (static_cast<int64_t>(pages_.size()) < needed) {
    LONGSPAN_ASSIGN_OR_RETURN(auto page, pool_->Allocate());
    pages_.push_back(std::move(page));
  }
  return absl::OkStatus();
}

std::byte* KvShard::LayerOfPage(int64_t layer, int64_t page) {
  LONGSPAN_CHECK(page < static_cast<int64_t>(pages_.size()));
  return pages_[page].get() + layer * LayerBytes(pool_->shape());
}

std::byte* KvShard::Key(int64_t layer, int64_t position) {
  const KvShape& shape = pool_->shape();
  LONGSPAN_CHECK(layout_.owner(position) == rank_);
  const int64_t row = position % shape.stripe_tokens + (shape.score_is_key ? shape.halo : 0);
  return LayerOfPage(layer, layout_.page(position)) + row * shape.row_bytes();
}

std::byte* KvShard::Value(int64_t layer, int64_t position) {
  const KvShape& shape = pool_->shape();
  LONGSPAN_CHECK(layout_.owner(position) == rank_);
  const int64_t row = KeyRows(shape) + position % shape.stripe_tokens;
  return LayerOfPage(layer, layout_.page(position)) + row * shape.row_bytes();
}

std::byte* KvShard::ScoreKey(int64_t layer, int64_t page, int64_t position) {
  const KvShape& shape = pool_->shape();
  const int64_t row = position - layout_.StripeOfPage(rank_, page).begin + shape.halo;
  LONGSPAN_CHECK(row >= 0 && row < shape.stripe_tokens + 2 * shape.halo);
  std::byte* base = LayerOfPage(layer, page);
  if (shape.score_is_key) return base + row * shape.row_bytes();
  return base + (KeyRows(shape) + shape.stripe_tokens) * shape.row_bytes() +
         row * shape.score_row_bytes();
}

std::vector<int64_t> KvShard::PagesNear(int64_t position) const {
  // The halo is at most a stripe, so only the neighbouring stripes can be near.
  std::vector<int64_t> pages;
  const int64_t halo = pool_->shape().halo;
  for (int64_t s = layout_.stripe(position) - 1; s <= layout_.stripe(position) + 1; ++s) {
    if (s < 0 || s % layout_.num_ranks != rank_) continue;
    const int64_t begin = s * layout_.stripe_tokens;
    if (position < begin - halo || position >= begin + layout_.stripe_tokens + halo) continue;
    if (s / layout_.num_ranks < static_cast<int64_t>(pages_.size())) {
      pages.push_back(s / layout_.num_ranks);
    }
  }
  return pages;
}

}  // namespace longspan
