#ifndef LONGSPAN_RUNTIME_JINJA_VALUE_H_
#define LONGSPAN_RUNTIME_JINJA_VALUE_H_

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/jinja/text.h"

// The values of a template: those of Python that JSON and jinja2 give rise to. They are immutable
// but for namespaces and the position of iterators.
namespace longspan::jinja {

// How deep lists and dicts may nest: what walks over them recurses.
inline constexpr int kMaxValueDepth = 100;

// What one rendering may use. A template is input, so that each of its steps is counted.
struct Budget {
  int64_t max_steps = 0;
  int64_t max_bytes = 0;   // held by values at one time
  int64_t max_output = 0;  // bytes
  int64_t steps = 0;
  int64_t bytes = 0;

  // Each ResourceExhausted if the limit is passed. A step is about 30 ns of work.
  absl::Status Step(int64_t count = 1);
  absl::Status StepBytes(size_t size) { return Step(1 + static_cast<int64_t>(size / 16)); }
  absl::Status Room(double more_bytes) const;  // for `more_bytes` that are to be allocated
};

// Counts the memory of a value while it lives.
class Held {
 public:
  Held(Budget* budget, size_t bytes) : budget_(budget), bytes_(static_cast<int64_t>(bytes)) {
    if (budget_ != nullptr) budget_->bytes += bytes_;
  }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  ~Held() {
    if (budget_ != nullptr) budget_->bytes -= bytes_;
  }

 private:
  Budget* budget_;  // nullptr: belongs to the template itself
  int64_t bytes_;
};

struct Missing {};  // an argument that was not given
struct None {};
struct Undefined;
struct String;
struct Sequence;
struct Dict;
struct Iterator;
struct Loop;
struct Namespace;
struct Macro;
struct Method;
struct Builtin;

using Value =
    std::variant<Missing, std::shared_ptr<const Undefined>, None, bool, Int, double,
                 std::shared_ptr<const String>, std::shared_ptr<const Sequence>,
                 std::shared_ptr<const Dict>, std::shared_ptr<Iterator>, std::shared_ptr<Loop>,
                 Namespace*, const Macro*, std::shared_ptr<const Method>, const Builtin*>;
using Values = std::vector<Value>;

struct Undefined {
  std::string message;  // of the error that most uses of it end in
  Held held;
};

struct String {
  String(std::string t, Budget* budget)
      : text(std::move(t)), length(CodePoints(text)), held(budget, sizeof(String) + text.size()) {}
  const std::string text;  // well-formed UTF-8
  const int64_t length;    // code points
  Held held;
};

enum class SequenceKind { kList, kTuple, kRange, kDictKeys, kDictValues, kDictItems };

struct Sequence {
  SequenceKind kind;
  Values items;
  int depth;
  std::string range;  // how a range prints
  Held held;
};

struct Dict {
  std::vector<std::pair<Value, Value>> items;
  // Positions of the keys that are strings, whose text belongs to `items`.
  absl::flat_hash_map<absl::string_view, size_t> by_text;
  int depth;
  Held held;
};

// What Python's generators and reverse iterators give: each item once. They compute when asked;
// here all is computed at once, but an error waits for its turn.
struct Iterator {
  Values items;
  int depth;
  absl::Status error;  // comes after the items
  std::string type;    // Python's name of it
  Held held;
  size_t next = 0;
};

// The attributes of a `namespace`. It belongs to the rendering: it may contain itself.
struct Namespace {
  std::vector<std::pair<std::string, Value>> attributes;
};

// A method bound to its object.
struct Method {
  const Builtin* builtin;
  Value self;
};

// ---- Making values ----

// A name that a message quotes: the template may have made it up, and it may be megabytes long.
inline std::string_view Quoted(std::string_view name) { return name.substr(0, 500); }
Value MakeUndefined(std::string message, Budget* budget = nullptr);
Value MakeString(std::string text, Budget* budget);
absl::StatusOr<Value> MakeSequence(SequenceKind kind, Values items, Budget* budget,
                                   std::string range = "");
absl::StatusOr<Value> MakeIterator(Values items, std::string type, Budget* budget,
                                   absl::Status error = absl::OkStatus());
absl::StatusOr<Value> FromJson(const nlohmann::ordered_json& json, Budget* budget, int depth = 0);

class DictBuilder {
 public:
  explicit DictBuilder(Budget* budget) : budget_(budget) {}
  absl::Status Set(Value key, Value value);
  absl::Status SetText(std::string key, Value value);
  absl::StatusOr<Value> Finish();

 private:
  absl::Status Add(Value key, Value value);

  Budget* budget_;
  std::vector<std::pair<Value, Value>> items_;
  absl::flat_hash_map<absl::string_view, size_t> by_text_;
};

// ---- Reading values ----

template <typename T>
const T* As(const Value& value) {
  const auto* pointer = std::get_if<std::shared_ptr<const T>>(&value);
  return pointer == nullptr ? nullptr : pointer->get();
}
inline bool IsMissing(const Value& value) { return std::holds_alternative<Missing>(value); }
inline bool IsNone(const Value& value) { return std::holds_alternative<None>(value); }
inline bool IsUndefined(const Value& value) { return As<Undefined>(value) != nullptr; }
bool IsSequence(const Value& value, SequenceKind kind);

const Value* Find(const Dict& dict, std::string_view key);
absl::StatusOr<const Value*> Find(const Dict& dict, const Value& key, Budget& budget);
int Depth(const Value& value);
// bool and int are integers to Python.
bool AsInt(const Value& value, Int* out);
bool AsNumber(const Value& value, double* out);

bool IsTrue(const Value& value);
std::string TypeName(const Value& value);    // "str"
std::string ObjectName(const Value& value);  // "str object", as jinja2's messages say it
absl::StatusOr<int64_t> Length(const Value& value);
// Whether there is time and room to copy so many values.
absl::Status CheckCopy(size_t values, Budget& budget);
// All items, once: an iterator is empty afterwards.
absl::StatusOr<Values> Items(const Value& value, Budget& budget);

absl::StatusOr<bool> Equal(const Value& a, const Value& b, Budget& budget);
absl::StatusOr<bool> Less(const Value& a, const Value& b, Budget& budget);  // errors as Python's <
absl::StatusOr<bool> Contains(const Value& container, const Value& item, Budget& budget);

absl::StatusOr<std::string> ToText(const Value& value, Budget& budget);  // str()
absl::StatusOr<std::string> ToRepr(const Value& value, Budget& budget);  // repr()

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  const std::string* indent = nullptr;  // nullptr: one line
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
absl::StatusOr<std::string> ToJson(const Value& value, const JsonStyle& style, Budget& budget);

// What the template does wrong.
template <typename... Args>
absl::Status Fault(const Args&... args) {
  return absl::InvalidArgumentError(StrCat(args...));
}
// What jinja2 could do and this interpreter cannot.
template <typename... Args>
absl::Status Unsupported(const Args&... args) {
  return absl::UnimplementedError(StrCat(args...));
}
inline absl::Status UndefinedError(const Value& value) {
  return absl::InvalidArgumentError(As<Undefined>(value)->message);
}

}  // namespace longspan::jinja

#endif  // LONGSPAN_RUNTIME_JINJA_VALUE_H_
