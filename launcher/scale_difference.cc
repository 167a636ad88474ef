#include "launcher/scale_difference.h"

#include <algorithm>
#include <iterator>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace longspan {
namespace {

constexpr absl::string_view kMayDiffer[] = {"reference", "launch", "hostfile"};

// Keys of a config and their values.
std::map<std::string, std::string> SettingsOf(const std::string& yaml) {
  std::map<std::string, std::string> settings;
  for (const absl::string_view line : absl::StrSplit(yaml, '\n', absl::SkipEmpty())) {
    settings.insert(absl::StrSplit(line, absl::MaxSplits(": ", 1)));
  }
  return settings;
}

std::string ConfigDifference(const std::string& there, const std::string& here) {
  const std::map<std::string, std::string> before = SettingsOf(there), now = SettingsOf(here);
  std::map<std::string, std::string> all = before;
  all.insert(now.begin(), now.end());
  const auto value = [](const std::map<std::string, std::string>& settings,
                        const std::string& key) {
    const auto found = settings.find(key);
    return found == settings.end() ? "the default" : found->second;
  };
  for (const auto& [key, unused] : all) {
    if (value(before, key) == value(now, key)) continue;
    return absl::StrCat("`", key, "` is ", value(before, key), " there and ", value(now, key),
                        " here");
  }
  return "";
}

bool Contains(const nlohmann::ordered_json& list, const nlohmann::ordered_json& part) {
  return std::all_of(part.begin(), part.end(), [&](const nlohmann::ordered_json& value) {
    return std::find(list.begin(), list.end(), value) != list.end();
  });
}

}  // namespace

std::string StudyDifference(const ScaleStudy& there, const ScaleStudy& here) {
  const nlohmann::ordered_json before = ToJson(there), now = ToJson(here);
  for (const auto& [key, value] : now.items()) {
    const bool may_differ =
        std::find(std::begin(kMayDiffer), std::end(kMayDiffer), key) != std::end(kMayDiffer);
    if (may_differ || before.at(key) == value) continue;
    if (key == "config") {
      const std::string difference = ConfigDifference(there.config, here.config);
      if (!difference.empty()) return difference;
      continue;  // the order of its keys, say
    }
    if (key == "text" && there.text.empty()) continue;
    if (key == "text") return "`file` has another text than there";
    if (value.is_array() && Contains(value, before.at(key))) continue;
    return absl::StrCat("`", key, "` is ", before.at(key).dump(), " there and ", value.dump(),
                        " here", value.is_array() ? ", and may only grow" : "");
  }
  return "";
}

std::string LaunchDifference(const ScaleStudy& there, const ScaleStudy& here) {
  if (there.launch.empty()) return "";
  if (there.launch != here.launch) {
    return absl::StrCat("with `", there.launch, "` there and `", here.launch, "` here");
  }
  return there.hostfile == here.hostfile ? "" : "by another hostfile than they were there";
}

}  // namespace longspan
