#ifndef LONGSPAN_RUNTIME_JINJA_EVAL_H_
#define LONGSPAN_RUNTIME_JINJA_EVAL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "runtime/jinja/ast.h"
#include "runtime/jinja/render_options.h"
#include "runtime/jinja/value.h"

namespace longspan::jinja {

// The variables of a block. A block that defines a macro outlives its end.
struct Scope {
  Scope* parent = nullptr;
  absl::flat_hash_map<std::string, Value> variables = {};
  bool captured = false;
};

struct Macro {
  const Statement* definition;
  Scope* scope;  // where it was defined
};

// A `for` loop that runs; its attributes are what the template sees as `loop`. As in jinja2 the
// filter of a loop runs as late as possible: just before its item is needed.
struct Loop {
  using Filter = std::function<absl::StatusOr<bool>(const Value& item)>;

  static absl::StatusOr<std::shared_ptr<Loop>> Start(Value source, Filter filter, int depth0,
                                                     Budget& budget);
  // False at the end; else `current` is the next item.
  absl::StatusOr<bool> Advance();
  absl::StatusOr<bool> IsLast();
  absl::StatusOr<int64_t> Length();
  absl::StatusOr<Value> NextItem();

  Value source;
  Filter filter;  // unset: none
  Value current = Missing{};
  Value previous = Missing{};
  int64_t index0 = -1;
  int depth0 = 0;
  int value_depth = 0;

 private:
  absl::StatusOr<bool> Fetch(Value* item);  // false at the end
  absl::StatusOr<bool> Peek();

  Values own_items_;               // of sources that are no sequences
  const Values* items_ = nullptr;  // nullptr: `source` is an iterator
  size_t next_ = 0;
  std::optional<Value> ahead_;
  std::optional<int64_t> length_;
  bool filtering_ = false;  // the filter runs: it must not ask for the next item
};

// One rendering of a template: what its values belong to.
struct Rendering {
  explicit Rendering(const RenderOptions& render_options);
  Rendering(const Rendering&) = delete;
  Rendering& operator=(const Rendering&) = delete;
  ~Rendering();

  // A string of the template's, if there is room for it.
  absl::StatusOr<Value> Text(std::string text);
  absl::StatusOr<Value> List(Values items) {
    return MakeSequence(SequenceKind::kList, std::move(items), &budget);
  }
  absl::StatusOr<Value> Tuple(Values items) {
    return MakeSequence(SequenceKind::kTuple, std::move(items), &budget);
  }
  Namespace* NewNamespace();

  Budget budget;  // outlives the values
  const RenderOptions& options;
  std::vector<std::unique_ptr<Namespace>> namespaces;
  std::vector<std::unique_ptr<Macro>> macros;
  std::vector<std::unique_ptr<Scope>> captured_scopes;
  // Set once the error that is on its way says where it comes from.
  bool error_located = false;
};

// What the template prints with these variables, an object. Thread-safe. InvalidArgument: the
// template fails, maybe on purpose. Unimplemented: it needs what is not supported.
// ResourceExhausted: it passes one of the limits, and the message says which.
absl::StatusOr<std::string> Render(const Body& body, const nlohmann::ordered_json& variables,
                                   const RenderOptions& options);

// ---- Operators ----

absl::StatusOr<Value> BinaryOperation(Rendering& rendering, std::string_view op, const Value& a,
                                      const Value& b);
absl::StatusOr<Value> Negate(const Value& value);
absl::StatusOr<Value> Plus(const Value& value);
// object[begin:end:step], each Missing or an integer or None.
absl::StatusOr<Value> Slice(Rendering& rendering, const Value& object, const Value& begin,
                            const Value& end, const Value& step);

}  // namespace longspan::jinja

#endif  // LONGSPAN_RUNTIME_JINJA_EVAL_H_
