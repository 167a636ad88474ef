#ifndef LONGSPAN_RUNTIME_SAFETENSORS_H_
#define LONGSPAN_RUNTIME_SAFETENSORS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/base/dtype.h"
#include "runtime/mapped_file.h"

namespace longspan {

// A dense row-major tensor. Copies are shallow: they share the data and keep its owner alive.
struct Tensor {
  const void* data = nullptr;  // aligned to SizeOf(dtype)
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;
  std::shared_ptr<const void> owner;  // the mapped file or a buffer; null: the caller owns the data

  bool empty() const { return data == nullptr; }
  int64_t num_elements() const {
    int64_t product = 1;
    for (const int64_t extent : shape) product *= extent;
    return product;
  }
  int64_t num_bytes() const { return num_elements() * SizeOf(dtype); }
};

// What the header says of one tensor.
struct SafetensorsEntry {
  std::string dtype;  // as the file writes it: "BF16"
  std::vector<int64_t> shape;
  int64_t begin = 0;  // bytes from the start of the data
  int64_t end = 0;
};

// One file in the safetensors format: eight bytes of header length, a JSON header, the tensors.
class SafetensorsFile {
 public:
  // Maps the file and validates the whole header: tensors are in range, match their shape and
  // dtype, and cover the data without gap or overlap. The tensors themselves are not read.
  // Every dtype of the format is accepted here. DataLoss for a truncated or malformed file.
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);

  // The tensor lies in the mapped file and keeps it alive; only where the file misaligns it, it is
  // a copy. NotFound if there is no such tensor; Unimplemented, naming the dtype, if it is not
  // float32, bfloat16 or float16.
  absl::StatusOr<Tensor> Find(absl::string_view name) const;

  bool contains(absl::string_view name) const { return entries_.contains(name); }
  std::vector<std::string> names() const;  // sorted
  const absl::flat_hash_map<std::string, std::string>& metadata() const { return metadata_; }
  const std::string& path() const { return file_->path(); }

 private:
  SafetensorsFile() = default;

  std::shared_ptr<const MappedFile> file_;
  const std::byte* data_ = nullptr;  // of the first tensor
  absl::btree_map<std::string, SafetensorsEntry> entries_;
  absl::flat_hash_map<std::string, std::string> metadata_;
};

struct NamedFloats {
  std::string name;
  std::vector<int64_t> shape;
  absl::Span<const float> values;  // row-major, as many as the shape says
};

// Writes a float32 safetensors file beside `path`, flushes it to disk and renames it into place:
// a reader sees the old file or the new one, whole. The bytes depend on the arguments only.
absl::Status WriteSafetensors(const std::string& path, absl::Span<const NamedFloats> tensors,
                              const absl::flat_hash_map<std::string, std::string>& metadata);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_SAFETENSORS_H_
