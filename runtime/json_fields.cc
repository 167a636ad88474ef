#include "runtime/json_fields.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"

namespace longspan {
namespace {

using Json = nlohmann::json;

// A value for an error message: it comes from the file and may be of any size.
std::string Excerpt(const Json* value) {
  if (value == nullptr) return "missing";
  std::string text = value->dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  if (text.size() > 100) text = text.substr(0, 100) + "...";
  return text;
}

}  // namespace

const Json* JsonFields::Find(absl::string_view key) const {
  const auto found = object_.find(std::string(key));
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

absl::Status JsonFields::Invalid(absl::string_view key, absl::string_view expected) const {
  return absl::InvalidArgumentError(
      absl::StrCat(path_, ": ", prefix_, key, " is ", Excerpt(Find(key)), "; expected ", expected));
}

absl::Status JsonFields::Unsupported(absl::string_view key, absl::string_view supported) const {
  return absl::UnimplementedError(absl::StrCat(path_, ": ", prefix_, key, " is ",
                                               Excerpt(Find(key)), "; supported: ", supported));
}

absl::StatusOr<int64_t> JsonFields::Integer(absl::string_view key, int64_t min, int64_t max) const {
  const Json* value = Find(key);
  const bool fits = value != nullptr && value->is_number_integer() &&
                    (!value->is_number_unsigned() ||
                     value->get<uint64_t>() <= std::numeric_limits<int64_t>::max()) &&
                    value->get<int64_t>() >= min && value->get<int64_t>() <= max;
  if (!fits) return Invalid(key, absl::StrCat("an integer from ", min, " to ", max));
  return value->get<int64_t>();
}

absl::StatusOr<double> JsonFields::Positive(absl::string_view key) const {
  const Json* value = Find(key);
  const double number = value != nullptr && value->is_number() ? value->get<double>() : -1;
  if (!std::isfinite(number) || number <= 0) return Invalid(key, "a positive number");
  return number;
}

absl::StatusOr<bool> JsonFields::Bool(absl::string_view key) const {
  const Json* value = Find(key);
  if (value == nullptr || !value->is_boolean()) return Invalid(key, "true or false");
  return value->get<bool>();
}

}  // namespace longspan
