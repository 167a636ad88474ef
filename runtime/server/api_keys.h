#ifndef LONGSPAN_RUNTIME_SERVER_API_KEYS_H_
#define LONGSPAN_RUNTIME_SERVER_API_KEYS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace longspan {

class ApiKeys {
 public:
  // Of a file, one a line (`#` begins a comment), and of $LONGSPAN_API_KEY; an empty path: no file.
  // InvalidArgument if the file cannot be read, has no key, or others than its owner may read it.
  static absl::StatusOr<ApiKeys> Load(const std::string& path);
  explicit ApiKeys(std::vector<std::string> keys) : keys_(std::move(keys)) {}

  bool empty() const { return keys_.empty(); }
  // Of an Authorization header of `Bearer KEY`; empty: it is none.
  static absl::string_view KeyOf(absl::string_view authorization);
  // Whether an Authorization header has one of the keys, or none is asked for. The
  // time it takes depends on the lengths alone.
  bool Allow(absl::string_view authorization) const;

 private:
  std::vector<std::string> keys_;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_SERVER_API_KEYS_H_
