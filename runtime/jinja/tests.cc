// The tests: value is name(arguments).

#include <cmath>

#include "kernels/base/status_macros.h"
#include "runtime/jinja/builtins.h"
#include "runtime/jinja/case.h"
#include "runtime/jinja/eval.h"

namespace longspan::jinja {
namespace {

using ValueOr = absl::StatusOr<Value>;

template <bool (*is)(const Value&)>
ValueOr Kind(Rendering&, const Value& value, const CallArguments&) {
  return is(value);
}

bool IsDefined(const Value& value) { return !IsUndefined(value); }
bool IsBoolean(const Value& value) { return std::holds_alternative<bool>(value); }
bool IsInteger(const Value& value) { return std::holds_alternative<Int>(value); }
bool IsFloat(const Value& value) { return std::holds_alternative<double>(value); }
bool IsNumber(const Value& value) { return IsBoolean(value) || IsInteger(value) || IsFloat(value); }
bool IsString(const Value& value) { return As<String>(value) != nullptr; }
bool IsMapping(const Value& value) { return As<Dict>(value) != nullptr; }
bool IsThisTrue(const Value& value) { return IsBoolean(value) && std::get<bool>(value); }
bool IsThisFalse(const Value& value) { return IsBoolean(value) && !std::get<bool>(value); }

// What has a length and items that can be asked for.
bool HasItems(const Value& value) {
  const Sequence* const sequence = As<Sequence>(value);
  return IsUndefined(value) || IsString(value) || IsMapping(value) ||
         (sequence != nullptr && sequence->kind <= SequenceKind::kRange);
}

bool IsIterable(const Value& value) {
  return HasItems(value) || As<Sequence>(value) != nullptr ||
         std::holds_alternative<std::shared_ptr<Iterator>>(value) ||
         std::holds_alternative<std::shared_ptr<Loop>>(value);
}

bool IsCallable(const Value& value) {
  return IsUndefined(value) || std::holds_alternative<const Macro*>(value) ||
         std::holds_alternative<const Builtin*>(value) || As<Method>(value) != nullptr ||
         std::holds_alternative<std::shared_ptr<Loop>>(value);
}

template <absl::StatusOr<bool> (*is)(std::string_view)>
ValueOr Case(Rendering& rendering, const Value& value, const CallArguments&) {
  LONGSPAN_ASSIGN_OR_RETURN(const std::string text, ToText(value, rendering.budget));
  LONGSPAN_ASSIGN_OR_RETURN(const bool holds, is(text));
  return holds;
}

// Whether the remainder of the value by `divisor` is `remainder`.
ValueOr HasRemainder(Rendering& rendering, const Value& value, const Value& divisor,
                     Int remainder) {
  LONGSPAN_ASSIGN_OR_RETURN(const Value rest, BinaryOperation(rendering, "%", value, divisor));
  LONGSPAN_ASSIGN_OR_RETURN(const bool same, Equal(rest, remainder, rendering.budget));
  return same;
}

template <int remainder>
ValueOr Parity(Rendering& rendering, const Value& value, const CallArguments&) {
  return HasRemainder(rendering, value, Int{2}, remainder);
}

ValueOr IsDivisible(Rendering& rendering, const Value& value, const CallArguments& arguments) {
  return HasRemainder(rendering, value, arguments.positional[0], 0);
}

ValueOr IsIn(Rendering& rendering, const Value& value, const CallArguments& arguments) {
  LONGSPAN_ASSIGN_OR_RETURN(const bool in,
                            Contains(arguments.positional[0], value, rendering.budget));
  return in;
}

template <bool wanted>
ValueOr EqualTo(Rendering& rendering, const Value& value, const CallArguments& arguments) {
  LONGSPAN_ASSIGN_OR_RETURN(const bool same,
                            Equal(value, arguments.positional[0], rendering.budget));
  return same == wanted;
}

template <bool swapped, bool or_equal>
ValueOr Ordered(Rendering& rendering, const Value& value, const CallArguments& arguments) {
  const Value& other = arguments.positional[0];
  LONGSPAN_ASSIGN_OR_RETURN(const bool less, swapped ? Less(other, value, rendering.budget)
                                                     : Less(value, other, rendering.budget));
  if (less || !or_equal) return less;
  LONGSPAN_ASSIGN_OR_RETURN(const bool same, Equal(value, other, rendering.budget));
  return same;
}

// Only the constants and what a template holds twice are the same object for sure.
ValueOr IsSame(Rendering& rendering, const Value& value, const CallArguments& arguments) {
  const Value& other = arguments.positional[0];
  const bool constants = (IsNone(value) || IsBoolean(value)) || (IsNone(other) || IsBoolean(other));
  if (!constants) return Unsupported("sameas is supported for true, false and none only");
  if (value.index() != other.index()) return false;
  LONGSPAN_ASSIGN_OR_RETURN(const bool same, Equal(value, other, rendering.budget));
  return same;
}

constexpr Builtin kTests[] = {
    {"!=", "other", EqualTo<false>},
    {"<", "other", Ordered<false, false>},
    {"<=", "other", Ordered<false, true>},
    {"==", "other", EqualTo<true>},
    {">", "other", Ordered<true, false>},
    {">=", "other", Ordered<true, true>},
    {"boolean", "", Kind<IsBoolean>},
    {"callable", "", Kind<IsCallable>},
    {"defined", "", Kind<IsDefined>},
    {"divisibleby", "num", IsDivisible},
    {"eq", "other", EqualTo<true>},
    {"equalto", "other", EqualTo<true>},
    {"even", "", Parity<0>},
    {"false", "", Kind<IsThisFalse>},
    {"float", "", Kind<IsFloat>},
    {"ge", "other", Ordered<true, true>},
    {"greaterthan", "other", Ordered<true, false>},
    {"gt", "other", Ordered<true, false>},
    {"in", "seq", IsIn},
    {"integer", "", Kind<IsInteger>},
    {"iterable", "", Kind<IsIterable>},
    {"le", "other", Ordered<false, true>},
    {"lessthan", "other", Ordered<false, false>},
    {"lower", "", Case<IsLower>},
    {"lt", "other", Ordered<false, false>},
    {"mapping", "", Kind<IsMapping>},
    {"ne", "other", EqualTo<false>},
    {"none", "", Kind<IsNone>},
    {"number", "", Kind<IsNumber>},
    {"odd", "", Parity<1>},
    {"sameas", "other", IsSame},
    {"sequence", "", Kind<HasItems>},
    {"string", "", Kind<IsString>},
    {"true", "", Kind<IsThisTrue>},
    {"undefined", "", Kind<IsUndefined>},
    {"upper", "", Case<IsUpper>},
};

}  // namespace

const Builtin* FindTest(std::string_view name) { return FindIn(kTests, name); }
std::string TestNames() { return NamesIn(kTests); }

}  // namespace longspan::jinja
