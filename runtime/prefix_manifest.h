#ifndef LONGSPAN_RUNTIME_PREFIX_MANIFEST_H_
#define LONGSPAN_RUNTIME_PREFIX_MANIFEST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/prefix_identity.h"

namespace longspan {

// What a directory of saved prefixes holds: a tree of pages, as PrefixCache has them.
struct PrefixManifest {
  struct Page {
    int64_t parent = -1;  // index in `pages`, before its own; -1: the page begins a prompt
    int64_t stripe = 0;   // the parent's and one; 0 without one
    int64_t last_used = 0;
    std::vector<int32_t> tokens;  // of the stripe, then of the halo behind it, as far as they go
    int rank = 0;                 // whose file it is in
    int64_t place = 0;            // pages before it there
    std::string checksum;         // of its bytes (checksum.h)
  };
  PrefixIdentity identity;
  int64_t generation = 0;  // which page files are meant: each save writes new ones
  int64_t stripe_tokens = 0;
  int64_t halo = 0;
  std::vector<Page> pages;
};

// A line with the checksum of what follows, and that as JSON.
std::string WritePrefixManifest(const PrefixManifest& manifest);
// DataLoss: not what was written. The message does not name the file.
absl::StatusOr<PrefixManifest> ParsePrefixManifest(absl::string_view text);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_PREFIX_MANIFEST_H_
