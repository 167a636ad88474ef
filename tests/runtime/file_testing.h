#ifndef LONGSPAN_TESTS_RUNTIME_FILE_TESTING_H_
#define LONGSPAN_TESTS_RUNTIME_FILE_TESTING_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/base/check.h"

namespace longspan::testing {

inline const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& result) {
  return result.status();
}

MATCHER(IsOk, "") {
  *result_listener << StatusOf(arg).ToString();
  return StatusOf(arg).ok();
}

// An error of this code whose message contains `text`.
MATCHER_P2(Fails, code, text, "") {
  *result_listener << StatusOf(arg).ToString();
  return StatusOf(arg).code() == code &&
         StatusOf(arg).message().find(text) != absl::string_view::npos;
}

// A directory that is removed at the end.
class TempDir {
 public:
  TempDir() {
    std::string pattern = ::testing::TempDir() + "/longspan.XXXXXX";
    LONGSPAN_CHECK(mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// A new file each time: ext4 flushes one that is truncated and written again, which is slow.
inline void WriteFile(const std::string& path, absl::string_view bytes) {
  std::filesystem::remove(path);
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  LONGSPAN_CHECK(file.good());
}

inline std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  LONGSPAN_CHECK(file.good());
  return std::string(std::istreambuf_iterator<char>(file), {});
}

inline std::string ModelPath(const std::string& name) {
  return std::string(LONGSPAN_SOURCE_DIR) + "/tests/runtime/testdata/models/" + name;
}

// A few random edits: flipped bits, bytes of JSON, repeated and dropped pieces, a cut. Three in
// four fall into the first `hot_bytes`.
inline std::string Mutate(std::string bytes, size_t hot_bytes, std::mt19937_64* random) {
  const auto below = [random](size_t bound) { return static_cast<size_t>((*random)() % bound); };
  for (size_t edits = 1 + below(3); edits > 0 && !bytes.empty(); --edits) {
    const size_t range = below(4) == 0 ? bytes.size() : std::min(hot_bytes, bytes.size());
    const size_t at = below(std::max<size_t>(range, 1));
    const size_t piece = std::min(1 + below(12), bytes.size() - at);
    switch (below(6)) {
      case 0:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
        break;
      case 1:
        bytes[at] = "0123456789-.eE[]{}\",:ntf \\\x00\xff"[below(28)];
        break;
      case 2:
        bytes.insert(at, bytes.substr(at, piece));
        break;
      case 3:
        bytes.erase(at, piece);
        break;
      case 4:
        bytes[at] = static_cast<char>(below(256));
        break;
      default:
        if (below(4) == 0) bytes.resize(at);
    }
  }
  return bytes;
}

}  // namespace longspan::testing

#endif  // LONGSPAN_TESTS_RUNTIME_FILE_TESTING_H_
