#include "runtime/prefix_manifest.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "runtime/checksum.h"
#include "runtime/json_file.h"

namespace longspan {

using nlohmann::json;

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(PrefixManifest::Page, parent, stripe, last_used, tokens, rank,
                                   place, checksum)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(PrefixManifest, identity, generation, stripe_tokens, halo, pages)

namespace {

// No product or sum of them overflows.
constexpr int64_t kMost = int64_t{1} << 31;

bool IsPageOfTree(const PrefixManifest& manifest, int64_t index) {
  const PrefixManifest::Page& page = manifest.pages[index];
  const auto tokens = static_cast<int64_t>(page.tokens.size());
  if (page.parent < -1 || page.parent >= index || page.rank < 0 || page.place < 0 ||
      page.place > kMost || tokens == 0 || tokens > manifest.stripe_tokens + manifest.halo) {
    return false;
  }
  if (page.parent < 0) return page.stripe == 0;
  const PrefixManifest::Page& parent = manifest.pages[page.parent];
  // The parent's halo, as far as both go, is the page's beginning.
  const int64_t halo = static_cast<int64_t>(parent.tokens.size()) - manifest.stripe_tokens;
  return page.stripe == parent.stripe + 1 && halo >= 0 &&
         std::equal(page.tokens.begin(), page.tokens.begin() + std::min(halo, tokens),
                    parent.tokens.begin() + manifest.stripe_tokens);
}

absl::Status CheckTree(const PrefixManifest& manifest) {
  bool ok = manifest.stripe_tokens > 0 && manifest.stripe_tokens <= kMost && manifest.halo >= 0 &&
            manifest.halo <= kMost && manifest.generation > 0 && manifest.generation <= kMost;
  for (size_t i = 0; ok && i < manifest.pages.size(); ++i) {
    ok = IsPageOfTree(manifest, static_cast<int64_t>(i));
  }
  return ok ? absl::OkStatus() : absl::DataLossError("its pages are no tree of prefixes");
}

}  // namespace

std::string WritePrefixManifest(const PrefixManifest& manifest) {
  const std::string text =
      json(manifest).dump(-1, ' ', /*ensure_ascii=*/true, json::error_handler_t::replace);
  return absl::StrCat(Checksum(text), "\n", text);
}

absl::StatusOr<PrefixManifest> ParsePrefixManifest(absl::string_view text) {
  const size_t line = text.find('\n');
  if (line == absl::string_view::npos || text.substr(0, line) != Checksum(text.substr(line + 1))) {
    return absl::DataLossError("its checksum does not fit");
  }
  text.remove_prefix(line + 1);
  const absl::StatusOr<json> file = ParseJsonObject({text.data(), text.size()});
  if (!file.ok()) return absl::DataLossError(file.status().message());
  PrefixManifest manifest;
  try {
    manifest = file->get<PrefixManifest>();
  } catch (const json::exception& error) {
    return absl::DataLossError(error.what());
  }
  LONGSPAN_RETURN_IF_ERROR(CheckTree(manifest));
  return manifest;
}

}  // namespace longspan
