#include "runtime/prefix_manifest.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "runtime/checksum.h"
#include "runtime/json_file.h"

namespace longspan {

using nlohmann::json;

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(PrefixManifest::Page, parent, stripe, last_used, tokens, rank,
                                   place, checksum)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(PrefixManifest, identity, generation, stripe_tokens, halo, pages)

namespace {

bool IsPageOfTree(const PrefixManifest& manifest, int64_t index) {
  const PrefixManifest::Page& page = manifest.pages[index];
  const auto tokens = static_cast<int64_t>(page.tokens.size());
  if (page.parent < -1 || page.parent >= index || page.rank < 0 || page.place < 0 || tokens == 0 ||
      tokens > manifest.stripe_tokens + manifest.halo) {
    return false;
  }
  if (page.parent < 0) return page.stripe == 0;
  const PrefixManifest::Page& parent = manifest.pages[page.parent];
  return page.stripe == parent.stripe + 1 &&
         static_cast<int64_t>(parent.tokens.size()) >= manifest.stripe_tokens;
}

absl::Status CheckTree(const PrefixManifest& manifest) {
  bool ok = manifest.stripe_tokens > 0 && manifest.halo >= 0;
  for (size_t i = 0; ok && i < manifest.pages.size(); ++i) {
    ok = IsPageOfTree(manifest, static_cast<int64_t>(i));
  }
  return ok ? absl::OkStatus() : absl::DataLossError("its pages are no tree of prefixes");
}

}  // namespace

std::string WritePrefixManifest(const PrefixManifest& manifest) {
  const json prefixes = manifest;
  return json{{"checksum", Checksum(prefixes.dump())}, {"prefixes", prefixes}}.dump();
}

absl::StatusOr<PrefixManifest> ParsePrefixManifest(const std::string& text) {
  const absl::StatusOr<json> file = ParseJsonObject(text);
  if (!file.ok()) return absl::DataLossError(file.status().message());
  PrefixManifest manifest;
  try {
    const json& prefixes = file->at("prefixes");
    if (file->at("checksum") != Checksum(prefixes.dump())) {
      return absl::DataLossError("its checksum does not fit");
    }
    manifest = prefixes.get<PrefixManifest>();
  } catch (const json::exception& error) {
    return absl::DataLossError(error.what());
  }
  LONGSPAN_RETURN_IF_ERROR(CheckTree(manifest));
  return manifest;
}

std::string IdentityDifferences(const PrefixIdentity& there, const PrefixIdentity& here) {
  PrefixIdentity all = there;
  all.insert(here.begin(), here.end());
  const auto value = [](const PrefixIdentity& identity, const std::string& name) {
    const auto found = identity.find(name);
    return found == identity.end() ? "unknown" : found->second;
  };
  std::vector<std::string> differences;
  for (const auto& [name, unused] : all) {
    if (value(there, name) == value(here, name)) continue;
    differences.push_back(
        absl::StrCat(name, " is ", value(there, name), " there and ", value(here, name), " here"));
  }
  return absl::StrJoin(differences, "; ");
}

}  // namespace longspan
