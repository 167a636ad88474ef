#ifndef LONGSPAN_TESTS_COLLECTIVES_CHECK_DATA_H_
#define LONGSPAN_TESTS_COLLECTIVES_CHECK_DATA_H_

#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

// What the checks of communicators between hosts and between GPUs send, expect and find.
namespace longspan {

// The first mismatch, for the end of a check.
class Findings {
 public:
  void Expect(bool good, absl::string_view what) {
    if (!good && status_.ok()) status_ = absl::DataLossError(what);
  }
  const absl::Status& status() const { return status_; }

 private:
  absl::Status status_;
};

// The bytes that a message with this key has, on whichever rank one asks.
std::vector<char> MakeBytes(uint64_t key, int64_t bytes);
// MakeBytes(first_key + r) of each rank r, one after the other.
std::vector<char> GatheredBytes(uint64_t first_key, int64_t bytes, int size);

// A rank's numbers, infinities, zeros of both signs and NaN among them, and what the maxima over
// `size` ranks are: a NaN counts as nothing, and +0 is larger than -0.
std::vector<float> MakeFloats(int rank, int64_t count);
std::vector<float> Maxima(int64_t count, int size);

// A rank's integers of the whole range, so that sums wrap around, and the sums over `size` ranks.
std::vector<uint32_t> MakeIntegers(int rank, int64_t count);
std::vector<uint32_t> Sums(int64_t count, int size);

template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

}  // namespace longspan

#endif  // LONGSPAN_TESTS_COLLECTIVES_CHECK_DATA_H_
