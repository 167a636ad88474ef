#include "runtime/kv_shard.h"

#include <cstring>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

int64_t KeyRows(const KvShape& shape) {
  return shape.stripe_tokens + (shape.score_is_key ? 2 * shape.halo : 0);
}

int64_t KvLayerBytes(const KvShape& shape) {
  return (KeyRows(shape) + shape.stripe_tokens) * shape.row_bytes();
}

int64_t ScoreLayerBytes(const KvShape& shape) {
  if (shape.score_dim == 0 || shape.score_is_key) return 0;
  return (shape.stripe_tokens + 2 * shape.halo) * shape.score_row_bytes();
}

}  // namespace

int64_t KvShape::kv_bytes() const { return layers * KvLayerBytes(*this); }
int64_t KvShape::score_bytes() const { return layers * ScoreLayerBytes(*this); }

int64_t KvShape::key_offset(int64_t layer) const {
  return layer * KvLayerBytes(*this) + (score_is_key ? halo : 0) * row_bytes();
}

int64_t KvShape::value_offset(int64_t layer) const {
  return layer * KvLayerBytes(*this) + KeyRows(*this) * row_bytes();
}

int64_t KvShape::score_offset(int64_t layer) const {
  return layer * (score_is_key ? KvLayerBytes(*this) : ScoreLayerBytes(*this));
}

absl::StatusOr<Memory> AllocateHostMemory(int64_t bytes) {
  auto* memory = static_cast<std::byte*>(::operator new(bytes, std::nothrow));
  if (memory == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for a cache page of ", bytes, " bytes"));
  }
  return Memory(memory, [](std::byte* page) { ::operator delete(page); });
}

absl::Status CopyHostMemory(std::byte* to, const std::byte* from, int64_t bytes) {
  std::memcpy(to, from, bytes);
  return absl::OkStatus();
}

absl::StatusOr<PageRef> PagePool::Allocate() {
  if (!free_.empty()) {
    Page page = std::move(free_.back());
    free_.pop_back();
    return Lend(std::move(page));
  }
  if (allocated_ == max_pages_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("all ", max_pages_, " cache pages are in use"));
  }
  Page page;
  LONGSPAN_ASSIGN_OR_RETURN(page.kv, memory_.kv(shape_.kv_bytes()));
  if (shape_.score_bytes() > 0) {
    LONGSPAN_ASSIGN_OR_RETURN(page.scores, memory_.scores(shape_.score_bytes()));
  }
  ++allocated_;
  return Lend(std::move(page));
}

PageRef PagePool::Lend(Page page) {
  return {new Page(std::move(page)), [this](Page* returned) {
            free_.push_back(std::move(*returned));
            delete returned;
          }};
}

absl::Status PagePool::Copy(const Page& from, const Page& to) const {
  LONGSPAN_RETURN_IF_ERROR(memory_.copy(to.kv.get(), from.kv.get(), shape_.kv_bytes()));
  if (from.scores == nullptr) return absl::OkStatus();
  return memory_.copy(to.scores.get(), from.scores.get(), shape_.score_bytes());
}

absl::Status PagePool::Read(const Page& page, std::byte* bytes) const {
  LONGSPAN_RETURN_IF_ERROR(memory_.copy(bytes, page.kv.get(), shape_.kv_bytes()));
  if (page.scores == nullptr) return absl::OkStatus();
  return memory_.copy(bytes + shape_.kv_bytes(), page.scores.get(), shape_.score_bytes());
}

absl::Status PagePool::Write(const std::byte* bytes, const Page& page) const {
  LONGSPAN_RETURN_IF_ERROR(memory_.copy(page.kv.get(), bytes, shape_.kv_bytes()));
  if (page.scores == nullptr) return absl::OkStatus();
  return memory_.copy(page.scores.get(), bytes + shape_.kv_bytes(), shape_.score_bytes());
}

absl::Status KvShard::Copy(const Page& page) {
  LONGSPAN_ASSIGN_OR_RETURN(PageRef copy, pool_->Allocate());
  LONGSPAN_RETURN_IF_ERROR(pool_->Copy(page, *copy));
  pages_.push_back(std::move(copy));
  return absl::OkStatus();
}

absl::Status KvShard::Reserve(int64_t tokens) {
  const int64_t needed = layout_.NumPages(rank_, tokens);
  while (static_cast<int64_t>(pages_.size()) < needed) {
    LONGSPAN_ASSIGN_OR_RETURN(auto page, pool_->Allocate());
    pages_.push_back(std::move(page));
  }
  return absl::OkStatus();
}

const Page& KvShard::PageAt(int64_t page) const {
  LONGSPAN_CHECK(page < static_cast<int64_t>(pages_.size()));
  return *pages_[page];
}

std::byte* KvShard::Key(int64_t layer, int64_t position) {
  const KvShape& shape = pool_->shape();
  LONGSPAN_CHECK(layout_.owner(position) == rank_);
  return PageAt(layout_.page(position)).kv.get() + shape.key_offset(layer) +
         position % shape.stripe_tokens * shape.row_bytes();
}

std::byte* KvShard::Value(int64_t layer, int64_t position) {
  const KvShape& shape = pool_->shape();
  LONGSPAN_CHECK(layout_.owner(position) == rank_);
  return PageAt(layout_.page(position)).kv.get() + shape.value_offset(layer) +
         position % shape.stripe_tokens * shape.row_bytes();
}

std::byte* KvShard::ScoreKey(int64_t layer, int64_t page, int64_t position) {
  const KvShape& shape = pool_->shape();
  const int64_t row = position - layout_.StripeOfPage(rank_, page).begin + shape.halo;
  LONGSPAN_CHECK(row >= 0 && row < shape.stripe_tokens + 2 * shape.halo);
  return PageAt(page).score_base() + shape.score_offset(layer) + row * shape.score_row_bytes();
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
