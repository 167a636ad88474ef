#ifndef LONGSPAN_RUNTIME_CUDA_ARENA_H_
#define LONGSPAN_RUNTIME_CUDA_ARENA_H_

#include <cstddef>
#include <cstdint>

namespace longspan {

// What an allocation of device memory takes.
inline int64_t Granules(int64_t bytes) {
  constexpr int64_t kGranule = int64_t{2} << 20;
  return (bytes + kGranule - 1) / kGranule * kGranule;
}

// Hands out one block of device memory piece by piece. Without memory it only counts, so that one
// function both plans a layout and makes it.
class Arena {
 public:
  Arena() = default;
  explicit Arena(std::byte* memory) : memory_(memory) {}

  // [count], aligned for any copy. Null if there is no memory.
  template <typename T>
  T* Take(int64_t count) {
    constexpr int64_t kAlignment = 256;
    std::byte* piece = memory_ == nullptr ? nullptr : memory_ + bytes_;
    bytes_ += (count * static_cast<int64_t>(sizeof(T)) + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<T*>(piece);
  }

  bool has_memory() const { return memory_ != nullptr; }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* memory_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_CUDA_ARENA_H_
