#include "runtime/jinja/builtins.h"

#include <algorithm>

#include "kernels/base/status_macros.h"
#include "runtime/jinja/eval.h"

namespace longspan::jinja {

const Builtin* FindIn(absl::Span<const Builtin> table, std::string_view name) {
  const auto it = std::find_if(table.begin(), table.end(),
                               [name](const Builtin& entry) { return entry.name == name; });
  return it == table.end() ? nullptr : &*it;
}

std::string NamesIn(absl::Span<const Builtin> table) {
  std::string names;
  for (const Builtin& entry : table) StrAppend(&names, names.empty() ? "" : ", ", entry.name);
  return names;
}

// ---- Calls ----

namespace {

struct Parameters {
  std::vector<std::string_view> names;
  std::vector<bool> optional;
  bool positional_only = false;
};

Parameters ParametersOf(std::string_view text) {
  Parameters parameters;
  if (!text.empty() && text[0] == '/') {
    parameters.positional_only = true;
    text.remove_prefix(1);
  }
  for (std::string_view name : Split(text, ' ')) {
    if (name.empty()) continue;
    parameters.optional.push_back(name.back() == '?');
    if (name.back() == '?') name.remove_suffix(1);
    parameters.names.push_back(name);
  }
  return parameters;
}

absl::StatusOr<CallArguments> Bind(const Builtin& builtin, const CallArguments& arguments) {
  const Parameters parameters = ParametersOf(builtin.parameters);
  const size_t count = parameters.names.size();
  if (arguments.positional.size() > count) {
    return Fault(builtin.name, "() takes at most ", count, " arguments (",
                 arguments.positional.size(), " given)");
  }
  CallArguments bound{arguments.positional, {}};
  bound.positional.resize(count, Missing{});
  for (const auto& [name, value] : arguments.named) {
    const auto it = std::find(parameters.names.begin(), parameters.names.end(), name);
    if (it == parameters.names.end() || parameters.positional_only) {
      return Fault(builtin.name, "() got an unexpected keyword argument '", name, "'");
    }
    Value& slot = bound.positional[it - parameters.names.begin()];
    if (!IsMissing(slot)) return Fault(builtin.name, "() got multiple values for '", name, "'");
    slot = value;
  }
  for (size_t i = 0; i < count; ++i) {
    if (IsMissing(bound.positional[i]) && !parameters.optional[i]) {
      return Fault(builtin.name, "() misses the argument '", parameters.names[i], "'");
    }
  }
  return bound;
}

}  // namespace

absl::StatusOr<Value> CallBuiltin(Rendering& rendering, const Builtin& builtin, const Value& self,
                                  const CallArguments& arguments) {
  const size_t given = arguments.positional.size() + arguments.named.size();
  LONGSPAN_RETURN_IF_ERROR(rendering.budget.Step(4 + static_cast<int64_t>(given)));
  if (builtin.parameters == "*") return builtin.call(rendering, self, arguments);
  LONGSPAN_ASSIGN_OR_RETURN(const CallArguments bound, Bind(builtin, arguments));
  return builtin.call(rendering, self, bound);
}

// ---- Attributes and items ----

namespace {

absl::StatusOr<Value> Cycle(Rendering&, const Value& self, const CallArguments& arguments) {
  if (arguments.positional.empty()) return Fault("no items for cycling given");
  const int64_t index = std::get<std::shared_ptr<Loop>>(self)->index0;
  return arguments.positional[std::max<int64_t>(index, 0) % arguments.positional.size()];
}

constexpr Builtin kCycle = {"cycle", "*", Cycle};

struct LoopAttribute {
  std::string_view name;
  absl::StatusOr<Value> (*get)(Loop& loop);
};

// The length plus `offset`.
absl::StatusOr<Value> FromLength(Loop& loop, int64_t offset) {
  LONGSPAN_ASSIGN_OR_RETURN(const int64_t length, loop.Length());
  return Int{length + offset};
}

constexpr LoopAttribute kLoopAttributes[] = {
    {"index", [](Loop& loop) -> absl::StatusOr<Value> { return Int{loop.index0 + 1}; }},
    {"index0", [](Loop& loop) -> absl::StatusOr<Value> { return Int{loop.index0}; }},
    {"revindex", [](Loop& loop) { return FromLength(loop, -loop.index0); }},
    {"revindex0", [](Loop& loop) { return FromLength(loop, -loop.index0 - 1); }},
    {"first", [](Loop& loop) -> absl::StatusOr<Value> { return loop.index0 == 0; }},
    {"last",
     [](Loop& loop) -> absl::StatusOr<Value> {
       LONGSPAN_ASSIGN_OR_RETURN(const bool last, loop.IsLast());
       return last;
     }},
    {"length", [](Loop& loop) { return FromLength(loop, 0); }},
    {"depth", [](Loop& loop) -> absl::StatusOr<Value> { return Int{loop.depth0 + 1}; }},
    {"depth0", [](Loop& loop) -> absl::StatusOr<Value> { return Int{loop.depth0}; }},
    {"previtem",
     [](Loop& loop) -> absl::StatusOr<Value> {
       return loop.index0 == 0 ? MakeUndefined("there is no previous item") : loop.previous;
     }},
    {"nextitem", [](Loop& loop) { return loop.NextItem(); }},
    {"changed",
     [](Loop&) -> absl::StatusOr<Value> { return Unsupported("loop.changed is not supported"); }},
};

Value NoSuch(Rendering& rendering, const Value& object, std::string_view name) {
  return MakeUndefined(StrCat("'", ObjectName(object), "' has no attribute '", Quoted(name), "'"),
                       &rendering.budget);
}

// Missing where Python would raise an AttributeError.
absl::StatusOr<Value> FindAttribute(Rendering& rendering, const Value& object,
                                    const std::string& name) {
  const bool dunder =
      name.size() > 4 && name.substr(0, 2) == "__" && name.substr(name.size() - 2) == "__";
  if (dunder || IsForbiddenMethod(object, name)) {
    return MakeUndefined(StrCat("access to attribute '", Quoted(name), "' of '", TypeName(object),
                                "' object is unsafe."),
                         &rendering.budget);
  }
  if (const auto* space = std::get_if<Namespace*>(&object)) {
    LONGSPAN_RETURN_IF_ERROR(rendering.budget.StepBytes((*space)->attributes.size()));
    for (const auto& [known, value] : (*space)->attributes) {
      if (known == name) return value;
    }
    return Missing{};
  }
  if (const auto* loop = std::get_if<std::shared_ptr<Loop>>(&object)) {
    for (const LoopAttribute& attribute : kLoopAttributes) {
      if (name == attribute.name) return attribute.get(**loop);
    }
    if (name == kCycle.name) return std::make_shared<const Method>(Method{&kCycle, object});
    return Missing{};
  }
  if (const auto* macro = std::get_if<const Macro*>(&object)) {
    if (name == "name") return rendering.Text((*macro)->definition->text);
    return Missing{};
  }
  LONGSPAN_ASSIGN_OR_RETURN(const Builtin* method, FindMethod(object, name));
  if (method == nullptr) return Missing{};
  return std::make_shared<const Method>(Method{method, object});
}

// Missing where Python would raise a TypeError or LookupError.
absl::StatusOr<Value> FindItem(Rendering& rendering, const Value& object, const Value& key) {
  if (const Dict* dict = As<Dict>(object)) {
    const absl::StatusOr<const Value*> found = Find(*dict, key, rendering.budget);
    if (!found.ok() && absl::IsResourceExhausted(found.status())) return found.status();
    return found.ok() && *found != nullptr ? **found : Value(Missing{});
  }
  Int index;
  if (!AsInt(key, &index)) return Missing{};
  const Sequence* const sequence = As<Sequence>(object);
  const bool indexable = sequence != nullptr && sequence->kind <= SequenceKind::kRange;
  const String* const text = As<String>(object);
  if (!indexable && text == nullptr) return Missing{};
  const Int length = text != nullptr ? text->length : static_cast<Int>(sequence->items.size());
  if (index < 0) index += length;
  if (index < 0 || index >= length) return Missing{};
  if (text == nullptr) return sequence->items[static_cast<size_t>(index)];
  return Slice(rendering, object, index, index + 1, Missing{});
}

}  // namespace

absl::StatusOr<Value> GetAttribute(Rendering& rendering, const Value& object,
                                   const std::string& name) {
  if (IsUndefined(object)) return UndefinedError(object);
  LONGSPAN_ASSIGN_OR_RETURN(Value value, FindAttribute(rendering, object, name));
  if (!IsMissing(value)) return value;
  if (const Dict* dict = As<Dict>(object)) {
    const Value* const item = Find(*dict, name);
    if (item != nullptr) return *item;
  }
  return NoSuch(rendering, object, name);
}

absl::StatusOr<Value> GetItem(Rendering& rendering, const Value& object, const Value& key) {
  if (IsUndefined(object)) return UndefinedError(object);
  LONGSPAN_ASSIGN_OR_RETURN(Value value, FindItem(rendering, object, key));
  if (!IsMissing(value)) return value;
  if (const String* name = As<String>(key)) {
    LONGSPAN_ASSIGN_OR_RETURN(value, FindAttribute(rendering, object, name->text));
    return IsMissing(value) ? NoSuch(rendering, object, name->text) : value;
  }
  LONGSPAN_ASSIGN_OR_RETURN(const std::string shown, ToRepr(key, rendering.budget));
  return MakeUndefined(StrCat(ObjectName(object), " has no element ", Quoted(shown)),
                       &rendering.budget);
}

}  // namespace longspan::jinja
