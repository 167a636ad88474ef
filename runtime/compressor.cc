#include "runtime/compressor.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "runtime/layer_fits.h"

namespace longspan {
namespace {

constexpr char kFingerprint[] = "fingerprint";
constexpr char kTarget[] = "target";
constexpr char kMethod[] = "method";
constexpr char kCompressedDim[] = "compressed_dim";
constexpr char kCalibration[] = "calibration";

std::string QueryName(int64_t layer) { return absl::StrCat("layers.", layer, ".query"); }
std::string KeyName(int64_t layer) { return absl::StrCat("layers.", layer, ".key"); }

// Empty if there is no such key.
std::string MetadataValue(const SafetensorsFile& file, absl::string_view key) {
  const auto found = file.metadata().find(key);
  return found == file.metadata().end() ? "" : found->second;
}

std::string TargetOf(const SafetensorsFile& file) {
  const std::string target = MetadataValue(file, kTarget);
  return target.empty() ? "dot" : target;
}

// The columns that the file has, at least `compressed_dim`.
absl::StatusOr<int64_t> CheckMetadata(const SafetensorsFile& file, absl::string_view fingerprint,
                                      absl::string_view target, int64_t compressed_dim) {
  const std::string fitted_to = MetadataValue(file, kFingerprint);
  if (fitted_to != fingerprint) {
    return absl::FailedPreconditionError(absl::StrCat(
        file.path(), " was fitted to another model (fingerprint '",
        absl::Utf8SafeCEscape(fitted_to.substr(0, 64)), "', this model's is '", fingerprint,
        "'): run `longspan calibrate` for this one, or set esa.compression: exact"));
  }
  if (const std::string fitted_for = TargetOf(file); fitted_for != target) {
    return absl::FailedPreconditionError(absl::StrCat(
        file.path(), " was fitted for esa.target '",
        absl::Utf8SafeCEscape(fitted_for.substr(0, 64)), "', this run's is '", target,
        "': run `longspan calibrate` for it, or set esa.target and esa.far_position to what the "
        "file has"));
  }
  int64_t columns = 0;
  if (!absl::SimpleAtoi(MetadataValue(file, kCompressedDim), &columns) || columns < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.path(), ": metadata key ", kCompressedDim, " is no positive number"));
  }
  if (compressed_dim > columns) {
    return absl::InvalidArgumentError(
        absl::StrCat("esa.compressed_dim is ", compressed_dim, " but ", file.path(), " has ",
                     columns, " dimensions: lower it, or run `longspan calibrate` for more"));
  }
  if (compressed_dim < columns && MetadataValue(file, kMethod) == FitMethodName(FitMethod::kSgd)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "esa.compressed_dim is ", compressed_dim, " but ", file.path(), " has ", columns,
        " dimensions, which gradient descent does not order by what they matter: set ", columns,
        ", or run `longspan calibrate --method sgd` for fewer"));
  }
  return columns;
}

Tensor FirstColumns(const Tensor& matrix, int64_t count) {
  const int64_t rows = matrix.shape[0];
  const int64_t columns = matrix.shape[1];
  if (count == columns) return matrix;
  auto values = std::make_shared<std::vector<float>>(static_cast<size_t>(rows * count));
  const auto* source = static_cast<const float*>(matrix.data);
  for (int64_t row = 0; row < rows; ++row) {
    std::copy_n(source + row * columns, count, values->data() + row * count);
  }
  return {values->data(), DType::kFloat32, {rows, count}, values};
}

// One [rows, columns] float32 matrix, cut to its first `count` columns.
absl::StatusOr<Tensor> FindMatrix(const SafetensorsFile& file, const std::string& name,
                                  int64_t rows, int64_t columns, int64_t count) {
  LONGSPAN_ASSIGN_OR_RETURN(const Tensor tensor, file.Find(name));
  if (tensor.dtype != DType::kFloat32 || tensor.shape != std::vector<int64_t>{rows, columns}) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor '", name, "' of ", file.path(), " is ", std::string(DTypeName(tensor.dtype)), " [",
        absl::StrJoin(tensor.shape, ", "), "]; expected float32 [", rows, ", ", columns, "]"));
  }
  const auto* values = static_cast<const float*>(tensor.data);
  if (!std::all_of(values, values + tensor.num_elements(),
                   [](float value) { return std::isfinite(value); })) {
    return absl::DataLossError(
        absl::StrCat("tensor '", name, "' of ", file.path(), " has values that are not finite"));
  }
  return FirstColumns(tensor, count);
}

}  // namespace

absl::StatusOr<Compressor> LoadCompressor(const std::string& path, const ModelConfig& config,
                                          absl::string_view fingerprint, absl::string_view target,
                                          int64_t compressed_dim) {
  LONGSPAN_CHECK(compressed_dim > 0);
  absl::StatusOr<SafetensorsFile> opened = SafetensorsFile::Open(path);
  if (absl::IsNotFound(opened.status())) {
    return absl::NotFoundError(
        absl::StrCat(opened.status().message(),
                     ": run `longspan calibrate` to make it, or set esa.compression: exact"));
  }
  LONGSPAN_RETURN_IF_ERROR(opened.status());
  const SafetensorsFile& file = *opened;
  LONGSPAN_ASSIGN_OR_RETURN(const int64_t columns,
                            CheckMetadata(file, fingerprint, target, compressed_dim));

  Compressor compressor;
  compressor.dim = compressed_dim;
  compressor.target = TargetOf(file);
  compressor.method = MetadataValue(file, kMethod);
  compressor.calibration = MetadataValue(file, kCalibration);
  const int64_t rows = config.num_kv_heads * config.head_dim;
  for (int64_t i = 0; i < config.num_layers; ++i) {
    LayerCompressor layer;
    LONGSPAN_ASSIGN_OR_RETURN(layer.query,
                              FindMatrix(file, QueryName(i), rows, columns, compressed_dim));
    LONGSPAN_ASSIGN_OR_RETURN(layer.key,
                              FindMatrix(file, KeyName(i), rows, columns, compressed_dim));
    compressor.layers.push_back(std::move(layer));
  }
  return compressor;
}

absl::Status SaveCompressor(const std::string& path, const ModelConfig& config,
                            absl::string_view fingerprint, absl::string_view target,
                            int64_t compressed_dim, absl::Span<const LayerCompressorData> layers,
                            absl::string_view method, absl::string_view calibration) {
  LONGSPAN_CHECK(static_cast<int64_t>(layers.size()) == config.num_layers);
  const std::vector<int64_t> shape = {config.num_kv_heads * config.head_dim, compressed_dim};
  std::vector<NamedFloats> tensors;
  for (size_t i = 0; i < layers.size(); ++i) {
    tensors.push_back({QueryName(static_cast<int64_t>(i)), shape, layers[i].query});
    tensors.push_back({KeyName(static_cast<int64_t>(i)), shape, layers[i].key});
  }
  return WriteSafetensors(path, tensors,
                          {{kFingerprint, std::string(fingerprint)},
                           {kTarget, std::string(target)},
                           {kMethod, std::string(method)},
                           {kCompressedDim, absl::StrCat(compressed_dim)},
                           {kCalibration, std::string(calibration)}});
}

}  // namespace longspan
