#ifndef LONGSPAN_RUNTIME_JSON_FIELDS_H_
#define LONGSPAN_RUNTIME_JSON_FIELDS_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace longspan {

// One JSON object of a file, read key by key; errors name file, key and value. A key that is null
// counts as absent.
class JsonFields {
 public:
  // `prefix` is put before keys in messages: "rope_parameters.".
  JsonFields(const nlohmann::json& object, std::string path, std::string prefix = "")
      : object_(object), path_(std::move(path)), prefix_(std::move(prefix)) {}

  // Null where the key is absent.
  const nlohmann::json* Find(absl::string_view key) const;
  bool Has(absl::string_view key) const { return Find(key) != nullptr; }
  // Also where it is null.
  bool States(absl::string_view key) const { return object_.contains(std::string(key)); }

  // InvalidArgument: "file: key is ...; expected ...".
  absl::Status Invalid(absl::string_view key, absl::string_view expected) const;
  // Unimplemented: "file: key is ...; supported: ...".
  absl::Status Unsupported(absl::string_view key, absl::string_view supported) const;

  // In [min, max].
  absl::StatusOr<int64_t> Integer(absl::string_view key, int64_t min, int64_t max) const;
  // Finite and positive.
  absl::StatusOr<double> Positive(absl::string_view key) const;
  absl::StatusOr<double> PositiveOr(absl::string_view key, double if_absent) const {
    if (!Has(key)) return if_absent;
    return Positive(key);
  }
  absl::StatusOr<bool> Bool(absl::string_view key) const;
  absl::StatusOr<bool> BoolOr(absl::string_view key, bool if_absent) const {
    if (!Has(key)) return if_absent;
    return Bool(key);
  }

  const std::string& path() const { return path_; }

 private:
  const nlohmann::json& object_;
  std::string path_;
  std::string prefix_;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_JSON_FIELDS_H_
