#ifndef LONGSPAN_RUNTIME_PREFIX_MANIFEST_H_
#define LONGSPAN_RUNTIME_PREFIX_MANIFEST_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace longspan {

// What numbers in cached pages depend on, by name: only a run that agrees in all may take them.
using PrefixIdentity = std::map<std::string, std::string>;

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

// JSON, with a checksum of all that it says.
std::string WritePrefixManifest(const PrefixManifest& manifest);
// DataLoss: not what was written. The message does not name the file.
absl::StatusOr<PrefixManifest> ParsePrefixManifest(const std::string& text);

// "esa.top_k is 512 there and 256 here; ..."; empty: they agree.
std::string IdentityDifferences(const PrefixIdentity& there, const PrefixIdentity& here);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_PREFIX_MANIFEST_H_
