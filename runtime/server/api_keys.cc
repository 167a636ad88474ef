#include "runtime/server/api_keys.h"

#include <sys/stat.h>

#include <cstdlib>
#include <fstream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace longspan {
namespace {

// `volatile` keeps the compiler from leaving early.
bool EqualInConstantTime(absl::string_view a, absl::string_view b) {
  volatile unsigned char difference = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < a.size() && !b.empty(); ++i) {
    difference = difference | static_cast<unsigned char>(a[i] ^ b[i % b.size()]);
  }
  return difference == 0;
}

}  // namespace

absl::StatusOr<ApiKeys> ApiKeys::Load(const std::string& path) {
  std::vector<std::string> keys;
  if (const char* key = getenv("LONGSPAN_API_KEY"); key != nullptr && *key != '\0') {
    keys.emplace_back(key);
  }
  if (path.empty()) return ApiKeys(std::move(keys));
  std::ifstream file(path);
  struct stat info;
  if (!file.is_open() || stat(path.c_str(), &info) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("server.api_key_file ", path, ": cannot be read"));
  }
  if ((info.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("server.api_key_file ", path, ": others can read it; chmod 600 ", path));
  }
  const size_t before = keys.size();
  for (std::string line; std::getline(file, line);) {
    const absl::string_view key = absl::StripAsciiWhitespace(line);
    if (!key.empty() && key[0] != '#') keys.emplace_back(key);
  }
  if (keys.size() == before) {
    return absl::InvalidArgumentError(absl::StrCat("server.api_key_file ", path, ": has no key"));
  }
  return ApiKeys(std::move(keys));
}

absl::string_view ApiKeys::KeyOf(absl::string_view authorization) {
  constexpr absl::string_view kScheme = "Bearer ";
  if (!absl::StartsWithIgnoreCase(authorization, kScheme)) return "";
  return authorization.substr(kScheme.size());
}

bool ApiKeys::Allow(absl::string_view authorization) const {
  if (keys_.empty()) return true;
  const absl::string_view given = KeyOf(authorization);
  bool allowed = false;
  for (const std::string& key : keys_) allowed |= EqualInConstantTime(given, key);
  return allowed;
}

}  // namespace longspan
