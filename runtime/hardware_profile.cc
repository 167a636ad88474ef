#include "runtime/hardware_profile.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

namespace fs = std::filesystem;

// A number of a mapping: where it goes and what makes sense.
struct NumberKey {
  const char* name;
  std::variant<double*, int64_t*> to;
  double min = 0, max = 1e30;
  bool required = false;
};

std::string Where(const YAML::Node& node, const std::string& file) {
  return absl::StrCat(file, ":", node.Mark().line + 1);
}

absl::Status SetNumber(const YAML::Node& node, const std::string& file, const NumberKey& key) {
  double value = 0;
  const bool parsed = node.IsScalar() && absl::SimpleAtod(node.Scalar(), &value);
  const bool whole =
      std::holds_alternative<double*>(key.to) || (parsed && value == std::floor(value));
  if (!parsed || !whole || !(value >= key.min && value <= key.max)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: `%s` must be a%s number from %g to %g, not `%s`", Where(node, file),
                        key.name, std::holds_alternative<int64_t*>(key.to) ? " whole" : "", key.min,
                        key.max, node.IsScalar() ? node.Scalar() : "a mapping or a list"));
  }
  if (const auto* number = std::get_if<double*>(&key.to)) **number = value;
  if (const auto* count = std::get_if<int64_t*>(&key.to)) **count = static_cast<int64_t>(value);
  return absl::OkStatus();
}

// Takes all of a mapping but the keys of `others`; what it does not know is an error.
absl::Status ReadNumbers(const YAML::Node& map, const std::string& file, const std::string& name,
                         const std::vector<NumberKey>& keys,
                         const std::set<std::string>& others = {}) {
  if (!map.IsMap()) {
    return absl::InvalidArgumentError(
        absl::StrCat(Where(map, file), ": ", name, " must be a mapping of keys to values"));
  }
  std::set<std::string> seen;
  for (const auto& entry : map) {
    const std::string key = entry.first.IsScalar() ? entry.first.Scalar() : "";
    if (!seen.insert(key).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(Where(entry.first, file), ": `", key, "` is stated twice"));
    }
    if (others.contains(key)) continue;
    const auto known =
        std::find_if(keys.begin(), keys.end(), [&](const NumberKey& k) { return key == k.name; });
    if (known == keys.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(Where(entry.first, file), ": unknown key `", key, "` in ", name));
    }
    LONGSPAN_RETURN_IF_ERROR(SetNumber(entry.second, file, *known));
  }
  for (const NumberKey& key : keys) {
    if (key.required && !seen.contains(key.name)) {
      return absl::InvalidArgumentError(
          absl::StrCat(Where(map, file), ": ", name, " lacks `", key.name, "`"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<LinkCost> ReadLink(const YAML::Node& node, const std::string& file,
                                  const std::string& name) {
  LinkCost link;
  LONGSPAN_RETURN_IF_ERROR(
      ReadNumbers(node, file, name,
                  {{.name = "latency_s", .to = &link.latency_s, .max = 10, .required = true},
                   {.name = "bytes_per_s", .to = &link.bytes_per_s, .min = 1, .required = true}}));
  return link;
}

absl::Status ReadTier(const YAML::Node& root, const std::string& file, const Links& links,
                      const char* tier, LinkCost* link) {
  const YAML::Node node = root[tier];
  if (!node) {
    return absl::InvalidArgumentError(absl::StrCat(
        file, ": lacks `", tier, "`: a name of links.yaml, or {latency_s, bytes_per_s}"));
  }
  if (!node.IsScalar()) {
    LONGSPAN_ASSIGN_OR_RETURN(*link, ReadLink(node, file, absl::StrCat("`", tier, "`")));
    return absl::OkStatus();
  }
  const auto named = links.links.find(node.Scalar());
  if (named != links.links.end()) {
    *link = named->second;
    return absl::OkStatus();
  }
  const std::string lacks =
      links.file.empty()
          ? absl::StrCat("there is no links.yaml beside it with the link `", node.Scalar(), "`")
          : absl::StrCat(links.file, " has no link `", node.Scalar(), "`");
  return absl::InvalidArgumentError(absl::StrCat(Where(node, file), ": `", tier, "`: ", lacks,
                                                 ": name one of its links, or state {latency_s, "
                                                 "bytes_per_s}"));
}

absl::Status ReadDevice(const YAML::Node& node, const std::string& file, bool* is_gpu) {
  if (!node) return absl::OkStatus();
  const std::string device = node.IsScalar() ? node.Scalar() : "";
  *is_gpu = device == "cuda";
  if (*is_gpu || device == "cpu") return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(Where(node, file), ": `device` must be cpu or cuda, not `", device, "`"));
}

absl::Status ReadKernels(const YAML::Node& node, const std::string& file,
                         HardwareProfile* profile) {
  std::set<std::string> names(kKernelNames.begin(), kKernelNames.end());
  if (!node) return absl::OkStatus();
  LONGSPAN_RETURN_IF_ERROR(ReadNumbers(node, file, "`kernels`", {}, names));
  for (int k = 0; k < kNumKernels; ++k) {
    const YAML::Node kernel = node[kKernelNames[k]];
    if (!kernel) continue;
    KernelCost& cost = profile->kernels[k];
    LONGSPAN_RETURN_IF_ERROR(ReadNumbers(
        kernel, file, absl::StrCat("`kernels.", kKernelNames[k], "`"),
        // Above 1 where a floor is beaten: keys that are read from a cache.
        {{.name = "efficiency", .to = &cost.efficiency, .min = 1e-6, .max = 100, .required = true},
         {.name = "overhead_s", .to = &cost.overhead_s, .max = 10}}));
  }
  return absl::OkStatus();
}

absl::StatusOr<HardwareProfile> ReadProfile(const YAML::Node& root, const std::string& file,
                                            const Links& links) {
  HardwareProfile profile;
  LONGSPAN_RETURN_IF_ERROR(
      ReadNumbers(root, file, "a hardware profile",
                  {{.name = "bytes_per_s", .to = &profile.bytes_per_s, .min = 1, .required = true},
                   {.name = "flops_per_s", .to = &profile.flops_per_s, .min = 1, .required = true},
                   {.name = "memory_bytes",
                    .to = &profile.memory_bytes,
                    .min = 1,
                    .max = 1e15,
                    .required = true},
                   {.name = "ranks_per_host",
                    .to = &profile.ranks_per_host,
                    .min = 1,
                    .max = 1e6,
                    .required = true},
                   {.name = "processors_per_host", .to = &profile.processors_per_host, .max = 1e6},
                   {.name = "call_s", .to = &profile.call_s, .max = 10},
                   {.name = "plan_s", .to = &profile.plan_s, .max = 10},
                   {.name = "plan_key_s", .to = &profile.plan_key_s, .max = 10},
                   {.name = "step_s", .to = &profile.step_s, .max = 10}},
                  {"name", "device", "kernels", "within_host", "between_hosts"}));
  if (!root["name"] || !root["name"].IsScalar() || root["name"].Scalar().empty()) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": lacks `name`, a plain word"));
  }
  profile.name = root["name"].Scalar();
  LONGSPAN_RETURN_IF_ERROR(ReadDevice(root["device"], file, &profile.is_gpu));
  LONGSPAN_RETURN_IF_ERROR(ReadKernels(root["kernels"], file, &profile));
  LONGSPAN_RETURN_IF_ERROR(ReadTier(root, file, links, "within_host", &profile.within_host));
  LONGSPAN_RETURN_IF_ERROR(ReadTier(root, file, links, "between_hosts", &profile.between_hosts));
  return profile;
}

// What `read` makes of the one document, with the library's exceptions as errors.
template <typename F>
auto WithYaml(absl::string_view yaml, const std::string& file, F&& read)
    -> decltype(read(YAML::Node())) {
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(std::string(yaml));
    if (documents.size() != 1 || !documents[0].IsMap()) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ":1: must be one mapping of keys to values"));
    }
    return read(documents[0]);
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ":", error.mark.line + 1, ": not valid YAML: ", error.msg));
  }
}

absl::StatusOr<std::string> ReadText(const std::string& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) {
    return absl::NotFoundError(
        absl::StrCat(path, fs::exists(path, error) ? ": is no file" : ": no such file"));
  }
  constexpr uintmax_t kMaxBytes = 1 << 20;
  if (fs::file_size(path, error) > kMaxBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is over 1 MiB, not a profile"));
  }
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) return absl::InvalidArgumentError(absl::StrCat(path, ": cannot be read"));
  return text.str();
}

}  // namespace

absl::StatusOr<Links> ParseLinks(absl::string_view yaml, const std::string& file) {
  return WithYaml(yaml, file, [&](const YAML::Node& root) -> absl::StatusOr<Links> {
    Links links = {file, {}};
    for (const auto& entry : root) {
      const std::string name = entry.first.Scalar();
      LONGSPAN_ASSIGN_OR_RETURN(const LinkCost link,
                                ReadLink(entry.second, file, absl::StrCat("`", name, "`")));
      if (!links.links.emplace(name, link).second) {
        return absl::InvalidArgumentError(
            absl::StrCat(Where(entry.first, file), ": `", name, "` is stated twice"));
      }
    }
    return links;
  });
}

absl::StatusOr<HardwareProfile> ParseHardwareProfile(absl::string_view yaml,
                                                     const std::string& file, const Links& links) {
  return WithYaml(yaml, file,
                  [&](const YAML::Node& root) { return ReadProfile(root, file, links); });
}

absl::StatusOr<HardwareProfile> LoadHardwareProfile(
    const std::string& path, const std::vector<std::string>& link_directories) {
  LONGSPAN_ASSIGN_OR_RETURN(const std::string yaml, ReadText(path));
  std::vector<fs::path> directories = {fs::path(path).parent_path()};
  directories.insert(directories.end(), link_directories.begin(), link_directories.end());
  Links links;
  for (const fs::path& directory : directories) {
    const std::string file = (directory / "links.yaml").string();
    std::error_code error;
    if (!fs::exists(file, error)) continue;
    LONGSPAN_ASSIGN_OR_RETURN(const std::string text, ReadText(file));
    LONGSPAN_ASSIGN_OR_RETURN(links, ParseLinks(text, file));
    break;
  }
  return ParseHardwareProfile(yaml, path, links);
}

std::string HardwareProfileToYaml(const HardwareProfile& profile) {
  YAML::Emitter name;
  name << YAML::DoubleQuoted << profile.name;
  const auto link = [](const char* tier, const LinkCost& cost) {
    return absl::StrFormat("%s: {latency_s: %.6g, bytes_per_s: %.6g}\n", tier, cost.latency_s,
                           cost.bytes_per_s);
  };
  std::string yaml = absl::StrFormat(
      "name: %s\ndevice: %s\nbytes_per_s: %.6g\nflops_per_s: %.6g\nmemory_bytes: "
      "%d\nranks_per_host: %d\n"
      "processors_per_host: %d\ncall_s: %.6g\nplan_s: %.6g\nplan_key_s: %.6g\nstep_s: %.6g\n",
      name.c_str(), profile.is_gpu ? "cuda" : "cpu", profile.bytes_per_s, profile.flops_per_s,
      profile.memory_bytes, profile.ranks_per_host, profile.processors_per_host, profile.call_s,
      profile.plan_s, profile.plan_key_s, profile.step_s);
  absl::StrAppend(&yaml, link("within_host", profile.within_host),
                  link("between_hosts", profile.between_hosts), "kernels:\n");
  for (int k = 0; k < kNumKernels; ++k) {
    absl::StrAppendFormat(&yaml, "  %s: {efficiency: %.6g, overhead_s: %.6g}\n", kKernelNames[k],
                          profile.kernels[k].efficiency, profile.kernels[k].overhead_s);
  }
  return yaml;
}

}  // namespace longspan
