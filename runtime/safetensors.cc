#include "runtime/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "runtime/new_file.h"

namespace longspan {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

constexpr size_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the format's own library
constexpr char kMetadataKey[] = "__metadata__";

using TensorEntries = absl::btree_map<std::string, SafetensorsEntry>;
using Metadata = absl::flat_hash_map<std::string, std::string>;

struct DTypeInfo {
  absl::string_view name;
  int64_t bits;
  std::optional<DType> supported;
};

constexpr DTypeInfo kDTypes[] = {
    {"F32", 32, DType::kFloat32}, {"BF16", 16, DType::kBFloat16},
    {"F16", 16, DType::kFloat16}, {"BOOL", 8, std::nullopt},
    {"U8", 8, std::nullopt},      {"I8", 8, std::nullopt},
    {"F8_E4M3", 8, std::nullopt}, {"F8_E4M3FNUZ", 8, std::nullopt},
    {"F8_E5M2", 8, std::nullopt}, {"F8_E5M2FNUZ", 8, std::nullopt},
    {"F8_E8M0", 8, std::nullopt}, {"F4", 4, std::nullopt},
    {"F6_E2M3", 6, std::nullopt}, {"F6_E3M2", 6, std::nullopt},
    {"I16", 16, std::nullopt},    {"U16", 16, std::nullopt},
    {"I32", 32, std::nullopt},    {"U32", 32, std::nullopt},
    {"I64", 64, std::nullopt},    {"U64", 64, std::nullopt},
    {"F64", 64, std::nullopt},    {"C64", 64, std::nullopt},
};

const DTypeInfo* FindDType(absl::string_view name) {
  const auto* found = std::find_if(std::begin(kDTypes), std::end(kDTypes),
                                   [name](const DTypeInfo& info) { return info.name == name; });
  return found == std::end(kDTypes) ? nullptr : found;
}

// Names come from the file: they may hold anything, at any length.
std::string Quoted(absl::string_view name) {
  return absl::StrCat("'", absl::Utf8SafeCEscape(name.substr(0, 200)), "'");
}

// Collects the header as it is parsed, so that a hostile one is refused at its first fault, before
// it grows in memory. Unlike a JSON document this also sees duplicate keys.
class HeaderReader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderReader(TensorEntries* entries, Metadata* metadata)
      : entries_(entries), metadata_(metadata) {}

  const std::string& fault() const { return fault_; }

  bool start_object(size_t) override {
    if (level_ >= kInEntry) return Fail("an object where none belongs");
    ++level_;
    entry_ = {};
    fields_.clear();
    return true;
  }

  bool key(std::string& key) override {
    if (level_ == kInHeader) {
      name_ = key;
      return names_.insert(key).second || Fail("the name occurs twice");
    }
    field_ = key;
    if (!fields_.insert(key).second) return Fail("a key occurs twice");
    return in_metadata() || key == "dtype" || key == "shape" || key == "data_offsets" ||
           Fail("a key that is not dtype, shape or data_offsets");
  }

  bool string(std::string& value) override {
    if (level_ != kInEntry) return Fail("a string where none belongs");
    if (in_metadata()) {
      metadata_->emplace(field_, value);
      return true;
    }
    entry_.dtype = value;
    return field_ == "dtype" || Fail("a string where an array belongs");
  }

  bool start_array(size_t) override {
    if (level_ != kInEntry || in_metadata() || field_ == "dtype") {
      return Fail("an array where none belongs");
    }
    ++level_;
    return true;
  }

  bool number_unsigned(uint64_t value) override {
    if (level_ != kInArray) return Fail("a number where none belongs");
    if (value > std::numeric_limits<int64_t>::max()) return Fail("a number beyond 63 bits");
    (field_ == "shape" ? entry_.shape : offsets_).push_back(static_cast<int64_t>(value));
    return true;
  }

  bool end_array() override {
    --level_;
    if (field_ != "data_offsets") return true;
    if (offsets_.size() != 2) return Fail("data_offsets is not a pair");
    entry_.begin = offsets_[0];
    entry_.end = offsets_[1];
    offsets_.clear();
    return true;
  }

  bool end_object() override {
    --level_;
    if (level_ != kInHeader || in_metadata()) return true;
    if (fields_.size() != 3) return Fail("dtype, shape or data_offsets is missing");
    entries_->emplace(name_, std::move(entry_));
    return true;
  }

  bool number_integer(int64_t) override { return Fail("a negative number"); }
  bool number_float(double, const std::string&) override { return Fail("not a 64-bit integer"); }
  bool null() override { return Fail("null where none belongs"); }
  bool boolean(bool) override { return Fail("a boolean where none belongs"); }
  bool binary(nlohmann::json::binary_t&) override { return Fail("binary data"); }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Fail(absl::StrCat("not valid JSON at byte ", position));
  }

 private:
  enum Level { kOutside, kInHeader, kInEntry, kInArray };

  bool in_metadata() const { return name_ == kMetadataKey; }

  bool Fail(absl::string_view fault) {
    fault_ = name_.empty() ? std::string(fault) : absl::StrCat(Quoted(name_), ": ", fault);
    return false;
  }

  TensorEntries* entries_;
  Metadata* metadata_;
  std::string fault_;
  int level_ = kOutside;
  absl::flat_hash_set<std::string> names_;   // in the header
  absl::flat_hash_set<std::string> fields_;  // of the current entry
  std::string name_;
  std::string field_;
  SafetensorsEntry entry_;
  std::vector<int64_t> offsets_;
};

// Bytes that the shape needs, or nothing if that overflows or is no whole number of bytes.
std::optional<int64_t> ByteSize(const SafetensorsEntry& entry, const DTypeInfo& dtype) {
  int64_t bits = dtype.bits;
  for (const int64_t extent : entry.shape) {
    if (__builtin_mul_overflow(bits, extent, &bits)) return std::nullopt;
  }
  if (bits % 8 != 0) return std::nullopt;
  return bits / 8;
}

absl::Status CheckEntry(const SafetensorsEntry& entry, int64_t data_bytes) {
  const DTypeInfo* dtype = FindDType(entry.dtype);
  if (dtype == nullptr) {
    return absl::UnimplementedError(absl::StrCat("unknown dtype ", Quoted(entry.dtype)));
  }
  if (entry.begin > entry.end) {
    return absl::DataLossError(
        absl::StrCat("offsets [", entry.begin, ", ", entry.end, ") are reversed"));
  }
  if (entry.end > data_bytes) {
    return absl::DataLossError(absl::StrCat("ends at byte ", entry.end, " of the data, but only ",
                                            data_bytes, " are there: the file is truncated"));
  }
  const std::optional<int64_t> bytes = ByteSize(entry, *dtype);
  if (!bytes.has_value() || *bytes != entry.end - entry.begin) {
    return absl::DataLossError(absl::StrCat(
        "shape [",
        absl::StrJoin(entry.shape.begin(),
                      entry.shape.begin() + std::min<int64_t>(entry.shape.size(), 16), ", "),
        "] of ", entry.dtype, " does not fit its ", entry.end - entry.begin, " bytes"));
  }
  return absl::OkStatus();
}

// The tensors must tile the data: a gap or an overlap means that some offset is wrong.
absl::Status CheckLayout(const TensorEntries& entries, int64_t data_bytes) {
  std::vector<const TensorEntries::value_type*> order;
  order.reserve(entries.size());
  for (const auto& item : entries) {
    const absl::Status status = CheckEntry(item.second, data_bytes);
    if (!status.ok()) {
      return absl::Status(status.code(),
                          absl::StrCat("tensor ", Quoted(item.first), ": ", status.message()));
    }
    order.push_back(&item);
  }
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  int64_t covered = 0;
  for (const auto* item : order) {
    if (item->second.begin != covered) {
      return absl::DataLossError(absl::StrCat("tensor ", Quoted(item->first), " starts at byte ",
                                              item->second.begin, " of the data where ", covered,
                                              " was expected: tensors overlap or leave a gap"));
    }
    covered = item->second.end;
  }
  if (covered != data_bytes) {
    return absl::DataLossError(
        absl::StrCat("the tensors cover ", covered, " of ", data_bytes, " data bytes"));
  }
  return absl::OkStatus();
}

// The JSON header at the start of `bytes`.
absl::StatusOr<absl::string_view> HeaderText(absl::Span<const std::byte> bytes) {
  if (bytes.size() < kLengthBytes) {
    return absl::DataLossError(
        absl::StrCat("truncated: ", bytes.size(), " bytes are too few for a safetensors file"));
  }
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kLengthBytes);
  if (length > kMaxHeaderBytes) {
    return absl::DataLossError(absl::StrCat("not a safetensors file: a header of ", length,
                                            " bytes is over the limit of ", kMaxHeaderBytes));
  }
  if (length > bytes.size() - kLengthBytes) {
    return absl::DataLossError(
        absl::StrCat("truncated: the header has ", length, " bytes, the file ", bytes.size()));
  }
  const absl::string_view text(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length);
  if (text.empty() || text.front() != '{') {
    return absl::DataLossError("not a safetensors file: the header is no JSON object");
  }
  return text;
}

absl::Status ParseHeader(absl::Span<const std::byte> bytes, TensorEntries* entries,
                         Metadata* metadata, size_t* data_offset) {
  LONGSPAN_ASSIGN_OR_RETURN(const absl::string_view text, HeaderText(bytes));
  HeaderReader reader(entries, metadata);
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &reader)) {
    return absl::DataLossError(absl::StrCat("malformed header: ", reader.fault()));
  }
  *data_offset = kLengthBytes + text.size();
  return CheckLayout(*entries, static_cast<int64_t>(bytes.size() - *data_offset));
}

absl::StatusOr<std::string> MakeHeader(absl::Span<const NamedFloats> tensors,
                                       const Metadata& metadata) {
  nlohmann::json header = nlohmann::json::object();
  for (const auto& [key, value] : metadata) header[kMetadataKey][key] = value;
  int64_t offset = 0;
  for (const NamedFloats& tensor : tensors) {
    int64_t elements = 1;
    for (const int64_t extent : tensor.shape) elements *= extent;
    if (elements != static_cast<int64_t>(tensor.values.size())) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(tensor.name), " of shape [",
                                                     absl::StrJoin(tensor.shape, ", "), "] has ",
                                                     tensor.values.size(), " values"));
    }
    if (tensor.name == kMetadataKey || header.contains(tensor.name)) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor name ", Quoted(tensor.name), " is taken"));
    }
    const int64_t end = offset + elements * SizeOf(DType::kFloat32);
    header[tensor.name] = {
        {"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  try {
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');  // aligns the data
    return text;
  } catch (const nlohmann::json::exception&) {
    return absl::InvalidArgumentError("a tensor name or metadata value is not valid UTF-8");
  }
}

}  // namespace

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  LONGSPAN_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::Open(path));
  SafetensorsFile file;
  file.file_ = std::make_shared<const MappedFile>(std::move(mapped));
  size_t data_offset = 0;
  const absl::Status status =
      ParseHeader(file.file_->bytes(), &file.entries_, &file.metadata_, &data_offset);
  if (!status.ok()) {
    return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
  }
  file.data_ = file.file_->bytes().data() + data_offset;
  return file;
}

absl::StatusOr<Tensor> SafetensorsFile::Find(absl::string_view name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) {
    return absl::NotFoundError(absl::StrCat(path(), " has no tensor ", Quoted(name)));
  }
  const SafetensorsEntry& entry = found->second;
  const std::optional<DType> dtype = FindDType(entry.dtype)->supported;
  if (!dtype.has_value()) {
    return absl::UnimplementedError(
        absl::StrCat("tensor ", Quoted(name), " of ", path(), " is ", entry.dtype,
                     "; F32, BF16 and F16 are supported, quantised weights are not"));
  }
  const std::byte* data = data_ + entry.begin;
  if (reinterpret_cast<uintptr_t>(data) % SizeOf(*dtype) == 0) {
    return Tensor{data, *dtype, entry.shape, file_};
  }
  const size_t bytes = static_cast<size_t>(entry.end - entry.begin);
  // One element more than enough, so that an empty tensor has data too.
  auto copy = std::make_shared<std::vector<float>>(bytes / sizeof(float) + 1);
  std::memcpy(copy->data(), data, bytes);
  return Tensor{copy->data(), *dtype, entry.shape, copy};
}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> names;
  names.reserve(entries_.size());
  for (const auto& item : entries_) names.push_back(item.first);
  return names;
}

absl::Status WriteSafetensors(const std::string& path, absl::Span<const NamedFloats> tensors,
                              const absl::flat_hash_map<std::string, std::string>& metadata) {
  LONGSPAN_ASSIGN_OR_RETURN(const std::string header, MakeHeader(tensors, metadata));
  LONGSPAN_ASSIGN_OR_RETURN(NewFile file, NewFile::Create(path));
  const uint64_t length = header.size();
  LONGSPAN_RETURN_IF_ERROR(file.Write({reinterpret_cast<const char*>(&length), kLengthBytes}));
  LONGSPAN_RETURN_IF_ERROR(file.Write(header));
  for (const NamedFloats& tensor : tensors) {
    LONGSPAN_RETURN_IF_ERROR(file.Write({reinterpret_cast<const char*>(tensor.values.data()),
                                         tensor.values.size() * sizeof(float)}));
  }
  return file.Commit();
}

}  // namespace longspan
