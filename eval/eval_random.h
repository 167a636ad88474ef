#ifndef LONGSPAN_EVAL_EVAL_RANDOM_H_
#define LONGSPAN_EVAL_EVAL_RANDOM_H_

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace longspan {

// Numbers drawn from a name, with the same result everywhere: the standard library's distributions
// differ between implementations. SplitMix64 (Steele et al., OOPSLA 2014), seeded by FNV-1a.
class EvalRandom {
 public:
  explicit EvalRandom(absl::string_view name) {
    for (const char c : name) state_ = (state_ ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  }

  uint64_t Next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  // From 0 to `count` - 1.
  int64_t Below(int64_t count) {
    return static_cast<int64_t>(Next() % static_cast<uint64_t>(count));
  }
  // From 0 to 1, without 1.
  double Share() { return static_cast<double>(Next() >> 11) * 0x1p-53; }

  template <typename Table>
  const auto& Choice(const Table& table) {
    return table[Below(static_cast<int64_t>(std::size(table)))];
  }
  template <typename T>
  void Shuffle(std::vector<T>* items) {
    for (size_t i = items->size(); i > 1; --i) {
      std::swap((*items)[i - 1], (*items)[Below(static_cast<int64_t>(i))]);
    }
  }

 private:
  uint64_t state_ = 0xcbf29ce484222325u;
};

}  // namespace longspan

#endif  // LONGSPAN_EVAL_EVAL_RANDOM_H_
