// The filters: value | name(arguments).

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "kernels/base/status_macros.h"
#include "runtime/jinja/builtins.h"
#include "runtime/jinja/case.h"
#include "runtime/jinja/eval.h"

namespace longspan::jinja {
namespace {

using ValueOr = absl::StatusOr<Value>;

bool Given(const CallArguments& arguments, size_t i) { return !IsMissing(arguments.positional[i]); }

// An optional argument that counts as true or false.
bool Flag(const CallArguments& arguments, size_t i) { return IsTrue(arguments.positional[i]); }

ValueOr Generator(Rendering& rendering, Values items, absl::Status error = absl::OkStatus()) {
  return MakeIterator(std::move(items), "generator", &rendering.budget, std::move(error));
}

// ---- Text ----

template <absl::StatusOr<std::string> (*map)(std::string_view)>
ValueOr MapText(Rendering& rendering, const Value& value, const CallArguments&) {
  LONGSPAN_ASSIGN_OR_RETURN(const std::string text, ToText(value, rendering.budget));
  LONGSPAN_RETURN_IF_ERROR(rendering.budget.StepBytes(text.size() * 4));
  LONGSPAN_ASSIGN_OR_RETURN(std::string mapped, map(text));
  return rendering.Text(std::move(mapped));
}

ValueOr AsText(Rendering& rendering, const Value& value, const CallArguments&) {
  if (As<String>(value) != nullptr) return value;
  LONGSPAN_ASSIGN_OR_RETURN(std::string text, ToText(value, rendering.budget));
  return rendering.Text(std::move(text));
}

ValueOr Trim(Rendering& rendering, const Value& value, const CallArguments& arguments) {
  LONGSPAN_ASSIGN_OR_RETURN(const Value text, AsText(rendering, value, {}));
  LONGSPAN_ASSIGN_OR_RETURN(const Builtin* strip, FindMethod(text, "strip"));
  return CallBuiltin(rendering, *strip, text, arguments);
}

ValueOr Replace(Rendering& rendering, const Value& value, const CallArguments& arguments) {
  Budget& budget = rendering.budget;
  LONGSPAN_ASSIGN_OR_RETURN(const std::string text, ToText(value, budget));
  LONGSPAN_ASSIGN_OR_RETURN(const std::string old, ToText(arguments.positional[0], budget));
  LONGSPAN_ASSIGN_OR_RETURN(const std::string replacement, ToText(arguments.positional[1], budget));
  Int count = -1;
  const Value& limit = arguments.positional[2];
  if (!IsMissing(limit) && !IsNone(limit) && !AsInt(limit, &count)) {
    return Fault("replace() takes an integer as count, not ", TypeName(limit));
  }
  std::string out;
  size_t at = 0;
  for (; count != 0; --count) {
    size_t found = at;
    // An empty text is found before each character and at the end.
    if (!old.empty()) found = FindText(text, old, at);
    if (found == std::string::npos) break;
    out.append(text, at, found - at).append(replacement);
    LONGSPAN_RETURN_IF_ERROR(budget.StepBytes(found - at + replacement.size()));
    LONGSPAN_RETURN_IF_ERROR(budget.Room(static_cast<double>(out.size())));
    at = found + old.size();
    if (!old.empty()) continue;
    if (at >= text.size()) break;
    const size_t bytes = CharacterBytes(text[at]);
    out.append(text, at, bytes);
    at += bytes;
  }
  out.append(text, std::min(at, text.size()));
  return rendering.Text(std::move(out));
}

ValueOr Indent(Rendering& rendering, const Value& value, const CallArguments& arguments) {
  const String* const text = As<String>(value);
  if (IsUndefined(value)) return UndefinedError(value);
  if (text == nullptr) return Fault("indent takes a str, not ", TypeName(value));
  std::string indentation(4, ' ');
  Int width;
  if (const String* given = As<String>(arguments.positional[0])) {
    indentation = given->text;
  } else if (AsInt(arguments.positional[0], &width)) {
    LONGSPAN_RETURN_IF_ERROR(rendering.budget.Room(std::max(0.0, static_cast<double>(width))));
    indentation.assign(static_cast<size_t>(std::max<Int>(0, width)), ' ');
  } else if (Given(arguments, 0)) {
    return Fault("indent takes an integer or a str");
  }
  const std::string ended = StrCat(text->text, "\n");
  LONGSPAN_RETURN_IF_ERROR(rendering.budget.Room(1.0 * ended.size() * sizeof(std::string_view)));
  const auto lines = SplitLines(ended, false);
  LONGSPAN_RETURN_IF_ERROR(
      rendering.budget.Room(1.0 * ended.size() + 1.0 * lines.size() * (1 + indentation.size())));
  std::string out = Flag(arguments, 1) ? indentation : "";
  for (size_t i = 0; i < lines.size(); ++i) {
    const bool indents = i > 0 && (Flag(arguments, 2) || !lines[i].empty());
    StrAppend(&out, i > 0 ? "\n" : "", indents ? indentation : "", lines[i]);
  }
  return rendering.Text(std::move(out));
}

ValueOr Json(Rendering& rendering, const Value& value, const CallArguments& arguments) {
  JsonStyle style;
  style.ensure_ascii = Flag(arguments, 0);
  style.sort_keys = Flag(arguments, 3);
  std::string indent;
  Int width;
  const Value& given = arguments.positional[1];
  if (const String* text = As<String>(given)) indent = text->text;
  if (AsInt(given, &width)) {
    LONGSPAN_RETURN_IF_ERROR(rendering.budget.Room(std::max(0.0, static_cast<double>(width))));
    indent.assign(static_cast<size_t>(std::max<Int>(0, width)), ' ');
  } else if (!IsMissing(given) && !IsNone(given) && As<String>(given) == nullptr) {
    return Fault("tojson takes an integer or a str as indent");
  }
  if (!IsMissing(given) && !IsNone(given)) {
    style.indent = &indent;
    style.item_separator.assign(1, ',');  // GCC 12 warns of "="
  }
  const Value& separators = arguments.positional[2];
  if (!IsMissing(separators) && !IsNone(separators)) {
    LONGSPAN_ASSIGN_OR_RETURN(const Values both, Items(separators, rendering.budget));
    if (both.size() != 2 || As<String>(both[0]) == nullptr || As<String>(both[1]) == nullptr) {
      return Fault("tojson takes two str as separators");
    }
    style.item_separator = As<String>(both[0])->text;
    style.key_separator = As<String>(both[1])->text;
  }
  LONGSPAN_ASSIGN_OR_RETURN(std::string json, ToJson(value, style, rendering.budget));
  return rendering.Text(std::move(json));
}

// ---- Numbers ----

// float(str) of Python.
bool ParseFloat(std::string_view text, double* out) {
  text = Strip(text, nullptr, true, true);
  return IsAscii(text) && text.find_first_of("xX(") == text.npos &&
         absl::SimpleAtod(ForAbsl(text), out);
}

bool ParseInt(std::string_view text, Int* out) {
  text = Strip(text, nullptr, true, true);
  const bool negative = !text.empty() && text[0] == '-';
  if (negative || (!text.empty() && text[0] == '+')) text.remove_prefix(1);
  Int value = 0;
  bool after_digit = false;
  for (const char c : text) {
    if (c == '_' && after_digit) {
      after_digit = false;
      continue;
    }
    if (!absl::ascii_isdigit(c) || __builtin_mul_overflow(value, Int{10}, &value) ||
        __builtin_add_overflow(value, Int{c - '0'}, &value)) {
      return false;
    }
    after_digit = true;
  }
  *out = negative ? -value : value;
  return after_digit;
}

ValueOr ToInt(Rendering& rendering, const Value& value, const CallArguments& arguments) {
  Int integer;
  double number;
  Int base = 10;
  if (Given(arguments, 1) && (!AsInt(arguments.positional[1], &base) || base != 10)) {
    return Unsupported("int of another base than 10 is not supported");
  }
  if (IsUndefined(value)) return UndefinedError(value);
  if (AsInt(value, &integer)) return integer;
  const String* const text = As<String>(value);
  if (text != nullptr) {
    LONGSPAN_RETURN_IF_ERROR(rendering.budget.StepBytes(text->text.size() * 4));
    if (ParseInt(text->text, &integer)) return integer;
  }
  const auto* const real = std::get_if<double>(&value);
  if (real != nullptr && std::isinf(*real)) return Fault("cannot convert infinity to integer");
  if (real != nullptr || (text != nullptr && ParseFloat(text->text, &number))) {
    if (real != nullptr) number = *real;
    if (std::abs(number) < 1e38) return static_cast<Int>(number);
    if (std::isfinite(number)) return Unsupported("integers beyond 128 bits are not supported");
  }
  return Given(arguments, 0) ? arguments.positional[0] : Value(Int{0});
}

ValueOr ToFloat(Rendering& rendering, const Value& value, const CallArguments& arguments) {
  double number;
  if (IsUndefined(value)) return UndefinedError(value);
  if (AsNumber(value, &number)) return number;
  const String* const text = As<String>(value);
  if (text != nullptr) {
    LONGSPAN_RETURN_IF_ERROR(rendering.budget.StepBytes(text->text.size() * 4));
    if (ParseFloat(text->text, &number)) return number;
  }
  return Given(arguments, 0) ? arguments.positional[0] : Value(0.0);
}

ValueOr Absolute(Rendering&, const Value& value, const CallArguments&) {
  Int integer;
  if (AsInt(value, &integer)) return integer < 0 ? Negate(integer) : ValueOr(integer);
  if (const auto* number = std::get_if<double>(&value)) return std::abs(*number);
  return Fault("bad operand type for abs(): '", TypeName(value), "'");
}

ValueOr Round(Rendering&, const Value& value, const CallArguments& arguments) {
  Int integer, precision = 0;
  double number;
  if (Given(arguments, 0) && !AsInt(arguments.positional[0], &precision)) {
    return Fault("round takes an integer as precision");
  }
  if (precision < 0 || precision > 300) return Unsupported("round takes a precision from 0 to 300");
  const String* const given = As<String>(arguments.positional[1]);
  const std::string method = given != nullptr ? given->text : "common";
  if (!AsNumber(value, &number)) {
    return Fault("type ", TypeName(value), " doesn't define __round__ method");
  }
  if (method == "ceil" || method == "floor") {
    const double scale = std::pow(10.0, static_cast<double>(precision));
    return (method == "ceil" ? std::ceil(number * scale) : std::floor(number * scale)) / scale;
  }
  if (method != "common") return Fault("method must be common, ceil or floor");
  if (AsInt(value, &integer)) return integer;
  if (!std::isfinite(number)) return number;
  char digits[700];  // the C library rounds the exact number, as Python does
  std::snprintf(digits, sizeof(digits), "%.*f", static_cast<int>(precision), number);
  return std::strtod(digits, nullptr);
}

// ---- Any value ----

ValueOr Default(Rendering&, const Value& value, const CallArguments& arguments) {
  const bool replaces = IsUndefined(value) || (Flag(arguments, 1) && !IsTrue(value));
  if (!replaces) return value;
  return Given(arguments, 0) ? arguments.positional[0] : MakeString("", nullptr);
}

ValueOr Count(Rendering&, const Value& value, const CallArguments&) {
  LONGSPAN_ASSIGN_OR_RETURN(const int64_t length, Length(value));
  return Int{length};
}

ValueOr ToList(Rendering& rendering, const Value& value, const CallArguments&) {
  LONGSPAN_ASSIGN_OR_RETURN(Values items, Items(value, rendering.budget));
  return rendering.List(std::move(items));
}

ValueOr First(Rendering& rendering, const Value& value, const CallArguments&) {
  if (const auto* iterator = std::get_if<std::shared_ptr<Iterator>>(&value)) {
    Iterator& state = **iterator;  // takes only one
    if (state.next < state.items.size()) return state.items[state.next++];
  }
  LONGSPAN_ASSIGN_OR_RETURN(const Values items, Items(value, rendering.budget));
  if (items.empty()) return MakeUndefined("No first item, sequence was empty.", &rendering.budget);
  return items[0];
}

ValueOr Last(Rendering& rendering, const Value& value, const CallArguments&) {
  if (std::holds_alternative<std::shared_ptr<Iterator>>(value)) {
    return Fault("'", TypeName(value), "' object is not reversible");
  }
  LONGSPAN_ASSIGN_OR_RETURN(const Values items, Items(value, rendering.budget));
  if (items.empty()) return MakeUndefined("No last item, sequence was empty.", &rendering.budget);
  return items.back();
}

ValueOr Reverse(Rendering& rendering, const Value& value, const CallArguments&) {
  if (As<String>(value) != nullptr) {
    return Slice(rendering, value, Missing{}, Missing{}, Int{-1});
  }
  LONGSPAN_ASSIGN_OR_RETURN(Values items, Items(value, rendering.budget));
  std::reverse(items.begin(), items.end());
  if (std::holds_alternative<std::shared_ptr<Iterator>>(value)) {
    return rendering.List(std::move(items));
  }
  return MakeIterator(std::move(items), StrCat(TypeName(value), "_reverseiterator"),
                      &rendering.budget);
}

ValueOr DictItems(Rendering& rendering, const Value& value, const CallArguments&) {
  if (IsUndefined(value)) return Generator(rendering, {});
  const Dict* const dict = As<Dict>(value);
  // jinja2 fails when the first pair is asked for.
  if (dict == nullptr) {
    return Generator(rendering, {}, Fault("Can only get item pairs from a mapping."));
  }
  Values items;
  for (const auto& [key, item] : dict->items) {
    LONGSPAN_RETURN_IF_ERROR(rendering.budget.Step());
    LONGSPAN_ASSIGN_OR_RETURN(Value pair, rendering.Tuple({key, item}));
    items.push_back(std::move(pair));
  }
  return Generator(rendering, std::move(items));
}

// ---- Attributes of items ----

// Whether there is time and room for the pieces of a path.
absl::Status CheckPieces(Rendering& rendering, const std::string& path, char separator) {
  LONGSPAN_RETURN_IF_ERROR(rendering.budget.StepBytes(path.size() * 4));
  const double pieces = 1.0 + std::count(path.begin(), path.end(), separator);
  return rendering.budget.Room(pieces *
                               (sizeof(std::string_view) + sizeof(Value) + sizeof(String)));
}

// The steps of a path such as "function.name" or "0". All items have the same, so that it is
// taken apart only once.
absl::StatusOr<Values> PathParts(Rendering& rendering, const Value& path) {
  Values parts;
  if (const String* text = As<String>(path)) {
    LONGSPAN_RETURN_IF_ERROR(CheckPieces(rendering, text->text, '.'));
    for (const std::string_view part : Split(text->text, '.')) {
      Int index;
      const bool digits =
          !part.empty() && std::all_of(part.begin(), part.end(), absl::ascii_isdigit);
      parts.push_back(digits && ParseInt(part, &index)
                          ? Value(index)
                          : MakeString(std::string(part), &rendering.budget));
    }
  } else if (!IsMissing(path) && !IsNone(path)) {
    parts.push_back(path);
  }
  return parts;
}

ValueOr GetPath(Rendering& rendering, Value value, const Values& path, const Value& fallback) {
  for (const Value& part : path) {
    LONGSPAN_RETURN_IF_ERROR(rendering.budget.Step());
    LONGSPAN_ASSIGN_OR_RETURN(value, GetItem(rendering, value, part));
    if (IsUndefined(value) && !IsMissing(fallback) && !IsNone(fallback)) value = fallback;
  }
  return value;
}

// How values are compared unless case matters.
ValueOr IgnoreCase(Rendering& rendering, Value value, bool case_sensitive) {
  const String* const text = As<String>(value);
  if (case_sensitive || text == nullptr) return value;
  LONGSPAN_ASSIGN_OR_RETURN(std::string lower, Lower(text->text));
  return rendering.Text(std::move(lower));
}

ValueOr Join(Rendering& rendering, const Value& value, const CallArguments& arguments) {
  Budget& budget = rendering.budget;
  std::string separator;
  if (Given(arguments, 0)) {
    LONGSPAN_ASSIGN_OR_RETURN(separator, ToText(arguments.positional[0], budget));
  }
  LONGSPAN_ASSIGN_OR_RETURN(const Values items, Items(value, budget));
  LONGSPAN_ASSIGN_OR_RETURN(const Values path, PathParts(rendering, arguments.positional[1]));
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    LONGSPAN_ASSIGN_OR_RETURN(const Value item, GetPath(rendering, items[i], path, Missing{}));
    LONGSPAN_ASSIGN_OR_RETURN(const std::string text, ToText(item, budget));
    StrAppend(&out, i > 0 ? separator : "", text);
    LONGSPAN_RETURN_IF_ERROR(budget.StepBytes(separator.size()));
    LONGSPAN_RETURN_IF_ERROR(budget.Room(static_cast<double>(out.size())));
  }
  return rendering.Text(std::move(out));
}

// What is left of the arguments behind the first `count`.
CallArguments Behind(const CallArguments& arguments, size_t count) {
  return {{arguments.positional.begin() + count, arguments.positional.end()}, arguments.named};
}

using ItemCall = std::function<ValueOr(const Value& item)>;

absl::StatusOr<ItemCall> MapCall(Rendering& rendering, const CallArguments& arguments) {
  if (!arguments.positional.empty()) {
    const String* const name = As<String>(arguments.positional[0]);
    const Builtin* const filter = name == nullptr ? nullptr : FindFilter(name->text);
    if (filter == nullptr) {
      return Unsupported("map: unknown filter; supported: ", FilterNames());
    }
    // Maps of maps of ... of a text recurse without end: its characters are texts.
    if (name->text == "map") return Unsupported("map of `map` is not supported");
    return [&rendering, filter, rest = Behind(arguments, 1)](const Value& item) {
      return CallBuiltin(rendering, *filter, item, rest);
    };
  }
  Value path = Missing{}, fallback = Missing{};
  for (const auto& [name, value] : arguments.named) {
    if (name != "attribute" && name != "default") return Fault("map: unexpected ", name);
    (name == "attribute" ? path : fallback) = value;
  }
  if (IsMissing(path)) return Fault("map requires a filter argument");
  LONGSPAN_ASSIGN_OR_RETURN(Values parts, PathParts(rendering, path));
  return [&rendering, parts = std::move(parts), fallback](const Value& item) {
    return GetPath(rendering, item, parts, fallback);
  };
}

// The items that `call` gives, or with `selects` those for which it gives `wanted`. An error comes
// where jinja2's generator would raise it.
ValueOr Generate(Rendering& rendering, const Value& value, const ItemCall& call, bool selects,
                 bool wanted) {
  LONGSPAN_ASSIGN_OR_RETURN(const Values items, Items(value, rendering.budget));
  Values out;
  for (const Value& item : items) {
    LONGSPAN_RETURN_IF_ERROR(rendering.budget.Step());
    LONGSPAN_RETURN_IF_ERROR(rendering.budget.Room(1.0 * out.size() * sizeof(Value)));
    ValueOr result = call(item);
    if (!result.ok() && absl::IsResourceExhausted(result.status())) return result;
    if (!result.ok()) return Generator(rendering, std::move(out), result.status());
    if (!selects) {
      out.push_back(*std::move(result));
    } else if (IsTrue(*result) == wanted) {
      out.push_back(item);
    }
  }
  return Generator(rendering, std::move(out));
}

ValueOr Map(Rendering& rendering, const Value& value, const CallArguments& arguments) {
  if (!IsTrue(value)) return Generator(rendering, {});
  LONGSPAN_ASSIGN_OR_RETURN(const ItemCall call, MapCall(rendering, arguments));
  return Generate(rendering, value, call, false, false);
}

// select, reject, selectattr, rejectattr
template <bool of_attribute, bool wanted>
ValueOr Select(Rendering& rendering, const Value& value, const CallArguments& arguments) {
  if (!IsTrue(value)) return Generator(rendering, {});
  Value path = Missing{};
  size_t taken = 0;
  if (of_attribute) {
    if (arguments.positional.empty()) return Fault("Missing parameter for attribute name");
    path = arguments.positional[taken++];
  }
  const Builtin* test = nullptr;
  if (arguments.positional.size() > taken) {
    const String* const name = As<String>(arguments.positional[taken++]);
    test = name == nullptr ? nullptr : FindTest(name->text);
    if (test == nullptr) return Unsupported("unknown test; supported: ", TestNames());
  }
  const CallArguments rest = Behind(arguments, taken);
  LONGSPAN_ASSIGN_OR_RETURN(const Values parts, PathParts(rendering, path));
  const ItemCall call = [&](const Value& item) -> ValueOr {
    LONGSPAN_ASSIGN_OR_RETURN(const Value tested, GetPath(rendering, item, parts, Missing{}));
    return test == nullptr ? ValueOr(tested) : CallBuiltin(rendering, *test, tested, rest);
  };
  return Generate(rendering, value, call, true, wanted);
}

// ---- Order ----

struct Keyed {
  Value key;
  Value item;
};

// A stable merge sort that ends at the first error of a comparison, whatever the order is.
absl::Status Sort(std::vector<Keyed>& items, Budget& budget) {
  std::vector<Keyed> merged(items.size());
  for (size_t width = 1; width < items.size(); width *= 2) {
    for (size_t begin = 0; begin < items.size(); begin += 2 * width) {
      const size_t middle = std::min(begin + width, items.size());
      const size_t end = std::min(begin + 2 * width, items.size());
      size_t left = begin, right = middle;
      for (size_t out = begin; out < end; ++out) {
        bool takes_right = right < end;
        if (left < middle && right < end) {
          LONGSPAN_ASSIGN_OR_RETURN(takes_right, Less(items[right].key, items[left].key, budget));
        }
        merged[out] = items[takes_right ? right++ : left++];
      }
    }
    items.swap(merged);
  }
  return absl::OkStatus();
}

ValueOr SortedList(Rendering& rendering, std::vector<Keyed> items, bool reverse) {
  if (reverse) std::reverse(items.begin(), items.end());
  LONGSPAN_RETURN_IF_ERROR(Sort(items, rendering.budget));
  if (reverse) std::reverse(items.begin(), items.end());
  Values sorted;
  for (Keyed& entry : items) sorted.push_back(std::move(entry.item));
  return rendering.List(std::move(sorted));
}

ValueOr SortFilter(Rendering& rendering, const Value& value, const CallArguments& arguments) {
  LONGSPAN_ASSIGN_OR_RETURN(const Values items, Items(value, rendering.budget));
  std::vector<Values> paths;
  if (const String* text = As<String>(arguments.positional[2])) {
    LONGSPAN_RETURN_IF_ERROR(CheckPieces(rendering, text->text, ','));
    for (const std::string_view path : Split(text->text, ',')) {
      const Value one = MakeString(std::string(path), &rendering.budget);
      LONGSPAN_ASSIGN_OR_RETURN(Values parts, PathParts(rendering, one));
      paths.push_back(std::move(parts));
    }
  } else {
    LONGSPAN_ASSIGN_OR_RETURN(Values parts, PathParts(rendering, arguments.positional[2]));
    paths.push_back(std::move(parts));
  }
  std::vector<Keyed> keyed;
  for (const Value& item : items) {
    Values key;
    for (const Values& path : paths) {
      LONGSPAN_RETURN_IF_ERROR(rendering.budget.Step());
      LONGSPAN_ASSIGN_OR_RETURN(Value part, GetPath(rendering, item, path, Missing{}));
      LONGSPAN_ASSIGN_OR_RETURN(part, IgnoreCase(rendering, part, Flag(arguments, 1)));
      key.push_back(std::move(part));
    }
    LONGSPAN_ASSIGN_OR_RETURN(Value list, rendering.List(std::move(key)));
    keyed.push_back({std::move(list), item});
  }
  return SortedList(rendering, std::move(keyed), Flag(arguments, 0));
}

ValueOr DictSort(Rendering& rendering, const Value& value, const CallArguments& arguments) {
  if (IsUndefined(value)) return UndefinedError(value);
  const Dict* const dict = As<Dict>(value);
  if (dict == nullptr) return Fault("dictsort takes a dict, not ", TypeName(value));
  bool by_value = false;
  if (Given(arguments, 1)) {
    const String* const by = As<String>(arguments.positional[1]);
    if (by == nullptr || (by->text != "key" && by->text != "value")) {
      return Fault("You can only sort by either \"key\" or \"value\"");
    }
    by_value = by->text == "value";
  }
  std::vector<Keyed> keyed;
  for (const auto& [key, item] : dict->items) {
    LONGSPAN_ASSIGN_OR_RETURN(Value pair, rendering.Tuple({key, item}));
    LONGSPAN_ASSIGN_OR_RETURN(Value by,
                              IgnoreCase(rendering, by_value ? item : key, Flag(arguments, 0)));
    keyed.push_back({std::move(by), std::move(pair)});
  }
  return SortedList(rendering, std::move(keyed), Flag(arguments, 2));
}

ValueOr Unique(Rendering& rendering, const Value& value, const CallArguments& arguments) {
  LONGSPAN_ASSIGN_OR_RETURN(const Values items, Items(value, rendering.budget));
  LONGSPAN_ASSIGN_OR_RETURN(const Values path, PathParts(rendering, arguments.positional[1]));
  Values seen, out;
  for (const Value& item : items) {
    LONGSPAN_ASSIGN_OR_RETURN(Value key, GetPath(rendering, item, path, Missing{}));
    LONGSPAN_ASSIGN_OR_RETURN(key, IgnoreCase(rendering, key, Flag(arguments, 0)));
    bool known = false;
    for (size_t i = 0; i < seen.size() && !known; ++i) {
      LONGSPAN_ASSIGN_OR_RETURN(known, Equal(seen[i], key, rendering.budget));
    }
    if (known) continue;
    seen.push_back(std::move(key));
    out.push_back(item);
  }
  return Generator(rendering, std::move(out));
}

template <bool largest>
ValueOr Extreme(Rendering& rendering, const Value& value, const CallArguments& arguments) {
  LONGSPAN_ASSIGN_OR_RETURN(const Values items, Items(value, rendering.budget));
  if (items.empty())
    return MakeUndefined("No aggregated item, sequence was empty.", &rendering.budget);
  LONGSPAN_ASSIGN_OR_RETURN(const Values path, PathParts(rendering, arguments.positional[1]));
  Value best_key, best;
  for (const Value& item : items) {
    LONGSPAN_ASSIGN_OR_RETURN(Value key, GetPath(rendering, item, path, Missing{}));
    LONGSPAN_ASSIGN_OR_RETURN(key, IgnoreCase(rendering, key, Flag(arguments, 0)));
    bool better = IsMissing(best_key);
    if (!better) {
      LONGSPAN_ASSIGN_OR_RETURN(better, largest ? Less(best_key, key, rendering.budget)
                                                : Less(key, best_key, rendering.budget));
    }
    if (!better) continue;
    best_key = std::move(key);
    best = item;
  }
  return best;
}

ValueOr Sum(Rendering& rendering, const Value& value, const CallArguments& arguments) {
  LONGSPAN_ASSIGN_OR_RETURN(const Values items, Items(value, rendering.budget));
  Value sum = Given(arguments, 1) ? arguments.positional[1] : Value(Int{0});
  if (As<String>(sum) != nullptr) return Fault("sum() can't sum strings");
  LONGSPAN_ASSIGN_OR_RETURN(const Values path, PathParts(rendering, arguments.positional[0]));
  for (const Value& item : items) {
    LONGSPAN_ASSIGN_OR_RETURN(const Value term, GetPath(rendering, item, path, Missing{}));
    LONGSPAN_ASSIGN_OR_RETURN(sum, BinaryOperation(rendering, "+", sum, term));
  }
  return sum;
}

constexpr Builtin kFilters[] = {
    {"abs", "", Absolute},
    {"capitalize", "", MapText<Capitalize>},
    {"count", "", Count},
    {"d", "default_value? boolean?", Default},
    {"default", "default_value? boolean?", Default},
    {"dictsort", "case_sensitive? by? reverse?", DictSort},
    {"first", "", First},
    {"float", "default?", ToFloat},
    {"indent", "width? first? blank?", Indent},
    {"int", "default? base?", ToInt},
    {"items", "", DictItems},
    {"join", "d? attribute?", Join},
    {"last", "", Last},
    {"length", "", Count},
    {"list", "", ToList},
    {"lower", "", MapText<Lower>},
    {"map", "*", Map},
    {"max", "case_sensitive? attribute?", Extreme<true>},
    {"min", "case_sensitive? attribute?", Extreme<false>},
    {"reject", "*", Select<false, false>},
    {"rejectattr", "*", Select<true, false>},
    {"replace", "old new count?", Replace},
    {"reverse", "", Reverse},
    {"round", "precision? method?", Round},
    {"safe", "", AsText},
    {"select", "*", Select<false, true>},
    {"selectattr", "*", Select<true, true>},
    {"sort", "reverse? case_sensitive? attribute?", SortFilter},
    {"string", "", AsText},
    {"sum", "attribute? start?", Sum},
    {"title", "", MapText<TitleFilter>},
    {"tojson", "ensure_ascii? indent? separators? sort_keys?", Json},
    {"trim", "chars?", Trim},
    {"unique", "case_sensitive? attribute?", Unique},
    {"upper", "", MapText<Upper>},
};

}  // namespace

const Builtin* FindFilter(std::string_view name) { return FindIn(kFilters, name); }
std::string FilterNames() { return NamesIn(kFilters); }

}  // namespace longspan::jinja
