#include "runtime/jinja/value.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/status_macros.h"
#include "runtime/jinja/eval.h"
#include "runtime/tokenizer_utf8.h"

namespace longspan::jinja {

absl::Status Budget::Step(int64_t count) {
  steps += count;
  if (steps > max_steps) {
    return absl::ResourceExhaustedError(
        StrCat("the chat template takes more than ", max_steps, " steps"));
  }
  if (bytes > max_bytes) return Room(0);
  return absl::OkStatus();
}

absl::Status Budget::Room(double more_bytes) const {
  if (static_cast<double>(bytes) + more_bytes <= static_cast<double>(max_bytes)) {
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(
      StrCat("the values of the chat template take more than ", max_bytes, " bytes"));
}

// ---- Making values ----

namespace {

absl::StatusOr<int> DepthOf(const Values& items) {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, Depth(item));
  if (depth >= kMaxValueDepth) {
    return absl::ResourceExhaustedError(
        StrCat("the values of the chat template nest deeper than ", kMaxValueDepth, " levels"));
  }
  return depth + 1;
}

}  // namespace

Value MakeUndefined(std::string message, Budget* budget) {
  constexpr size_t kMaxBytes = 500;
  if (message.size() > kMaxBytes) {
    size_t end = kMaxBytes;
    while (end > 0 && (message[end] & 0xC0) == 0x80) --end;
    message = StrCat(message.substr(0, end), "...");
  }
  const size_t bytes = sizeof(Undefined) + message.size() + 64;  // and what the heap adds
  return std::shared_ptr<const Undefined>(new Undefined{std::move(message), {budget, bytes}});
}

Value MakeString(std::string text, Budget* budget) {
  return std::make_shared<const String>(std::move(text), budget);
}

absl::StatusOr<Value> MakeSequence(SequenceKind kind, Values items, Budget* budget,
                                   std::string range) {
  LONGSPAN_ASSIGN_OR_RETURN(const int depth, DepthOf(items));
  const size_t bytes = sizeof(Sequence) + items.size() * sizeof(Value);
  return std::shared_ptr<const Sequence>(
      new Sequence{kind, std::move(items), depth, std::move(range), {budget, bytes}});
}

absl::StatusOr<Value> MakeIterator(Values items, std::string type, Budget* budget,
                                   absl::Status error) {
  LONGSPAN_ASSIGN_OR_RETURN(const int depth, DepthOf(items));
  const size_t bytes = sizeof(Iterator) + items.size() * sizeof(Value);
  return std::shared_ptr<Iterator>(
      new Iterator{std::move(items), depth, std::move(error), std::move(type), {budget, bytes}});
}

absl::StatusOr<Value> FromJson(const nlohmann::ordered_json& json, Budget* budget, int depth) {
  if (depth >= kMaxValueDepth) {
    return absl::ResourceExhaustedError(
        StrCat("the input of the chat template nests deeper than ", kMaxValueDepth));
  }
  LONGSPAN_RETURN_IF_ERROR(budget->Step());
  switch (json.type()) {
    case nlohmann::ordered_json::value_t::boolean:
      return json.get<bool>();
    case nlohmann::ordered_json::value_t::number_integer:
      return Int{json.get<int64_t>()};
    case nlohmann::ordered_json::value_t::number_unsigned:
      return Int{json.get<uint64_t>()};
    case nlohmann::ordered_json::value_t::number_float:
      return json.get<double>();
    case nlohmann::ordered_json::value_t::string: {
      std::string text;
      AppendWellFormed(json.get_ref<const std::string&>(), text);
      return MakeString(std::move(text), budget);
    }
    case nlohmann::ordered_json::value_t::array: {
      Values items;
      for (const auto& item : json) {
        LONGSPAN_ASSIGN_OR_RETURN(Value value, FromJson(item, budget, depth + 1));
        items.push_back(std::move(value));
      }
      return MakeSequence(SequenceKind::kList, std::move(items), budget);
    }
    case nlohmann::ordered_json::value_t::object: {
      DictBuilder dict(budget);
      for (const auto& item : json.items()) {
        LONGSPAN_ASSIGN_OR_RETURN(Value value, FromJson(item.value(), budget, depth + 1));
        std::string key;
        AppendWellFormed(item.key(), key);
        LONGSPAN_RETURN_IF_ERROR(dict.SetText(std::move(key), std::move(value)));
      }
      return dict.Finish();
    }
    default:
      return None{};
  }
}

namespace {

absl::Status CheckHashable(const Value& key, Budget& budget) {
  const Sequence* const sequence = As<Sequence>(key);
  const bool list = sequence != nullptr && sequence->kind != SequenceKind::kTuple &&
                    sequence->kind != SequenceKind::kRange;
  if (list || As<Dict>(key) != nullptr) return Fault("unhashable type: '", TypeName(key), "'");
  if (sequence != nullptr) {
    for (const Value& item : sequence->items) {
      LONGSPAN_RETURN_IF_ERROR(budget.Step());
      LONGSPAN_RETURN_IF_ERROR(CheckHashable(item, budget));
    }
  }
  return absl::OkStatus();
}

}  // namespace

constexpr size_t kDictItemBytes = 2 * sizeof(Value) + 64;

absl::Status DictBuilder::Add(Value key, Value value) {
  items_.emplace_back(std::move(key), std::move(value));
  if (budget_ == nullptr) return absl::OkStatus();
  return budget_->Room(1.0 * items_.size() * kDictItemBytes);
}

absl::Status DictBuilder::SetText(std::string key, Value value) {
  return Set(MakeString(std::move(key), budget_), std::move(value));
}

absl::Status DictBuilder::Set(Value key, Value value) {
  Budget unlimited{.max_steps = INT64_MAX, .max_bytes = INT64_MAX};
  Budget& budget = budget_ == nullptr ? unlimited : *budget_;
  if (const String* text = As<String>(key)) {
    LONGSPAN_RETURN_IF_ERROR(budget.StepBytes(text->text.size()));
    const auto [it, added] = by_text_.try_emplace(text->text, items_.size());
    if (added) return Add(std::move(key), std::move(value));
    items_[it->second].second = std::move(value);
    return absl::OkStatus();
  }
  LONGSPAN_RETURN_IF_ERROR(CheckHashable(key, budget));
  for (auto& item : items_) {
    LONGSPAN_ASSIGN_OR_RETURN(const bool same, Equal(item.first, key, budget));
    if (!same) continue;
    item.second = std::move(value);
    return absl::OkStatus();
  }
  return Add(std::move(key), std::move(value));
}

absl::StatusOr<Value> DictBuilder::Finish() {
  int depth = 0;
  for (const auto& [key, value] : items_) {
    depth = std::max({depth, Depth(key), Depth(value)});
  }
  if (depth >= kMaxValueDepth) {
    return absl::ResourceExhaustedError(
        StrCat("the values of the chat template nest deeper than ", kMaxValueDepth, " levels"));
  }
  const size_t bytes = sizeof(Dict) + items_.size() * kDictItemBytes;
  return std::shared_ptr<const Dict>(
      new Dict{std::move(items_), std::move(by_text_), depth + 1, {budget_, bytes}});
}

// ---- Reading values ----

bool IsSequence(const Value& value, SequenceKind kind) {
  const Sequence* const sequence = As<Sequence>(value);
  return sequence != nullptr && sequence->kind == kind;
}

const Value* Find(const Dict& dict, std::string_view key) {
  const auto it = dict.by_text.find(ForAbsl(key));
  return it == dict.by_text.end() ? nullptr : &dict.items[it->second].second;
}

absl::StatusOr<const Value*> Find(const Dict& dict, const Value& key, Budget& budget) {
  if (const String* text = As<String>(key)) {
    LONGSPAN_RETURN_IF_ERROR(budget.StepBytes(text->text.size()));
    return Find(dict, text->text);
  }
  LONGSPAN_RETURN_IF_ERROR(CheckHashable(key, budget));
  if (dict.by_text.size() == dict.items.size()) return nullptr;
  for (const auto& [known, value] : dict.items) {
    LONGSPAN_ASSIGN_OR_RETURN(const bool same, Equal(known, key, budget));
    if (same) return &value;
  }
  return nullptr;
}

int Depth(const Value& value) {
  if (const auto* sequence = As<Sequence>(value)) return sequence->depth;
  if (const auto* dict = As<Dict>(value)) return dict->depth;
  if (const auto* method = As<Method>(value)) return Depth(method->self) + 1;
  if (const auto* iterator = std::get_if<std::shared_ptr<Iterator>>(&value)) {
    return (*iterator)->depth;
  }
  if (const auto* loop = std::get_if<std::shared_ptr<Loop>>(&value)) return (*loop)->value_depth;
  return 0;
}

bool AsInt(const Value& value, Int* out) {
  if (const auto* number = std::get_if<Int>(&value)) return *out = *number, true;
  if (const auto* boolean = std::get_if<bool>(&value)) return *out = *boolean ? 1 : 0, true;
  return false;
}

bool AsNumber(const Value& value, double* out) {
  Int integer;
  if (AsInt(value, &integer)) return *out = static_cast<double>(integer), true;
  if (const auto* number = std::get_if<double>(&value)) return *out = *number, true;
  return false;
}

bool IsTrue(const Value& value) {
  double number;
  if (IsUndefined(value) || IsNone(value) || IsMissing(value)) return false;
  if (AsNumber(value, &number)) return number != 0;
  if (const auto* text = As<String>(value)) return !text->text.empty();
  if (const auto* sequence = As<Sequence>(value)) return !sequence->items.empty();
  if (const auto* dict = As<Dict>(value)) return !dict->items.empty();
  return true;
}

std::string TypeName(const Value& value) {
  static constexpr std::string_view kNames[] = {
      "object", "Undefined", "NoneType",    "bool",      "int",   "float",  "str",     "",
      "dict",   "",          "LoopContext", "Namespace", "Macro", "method", "function"};
  static constexpr std::string_view kSequences[] = {"list",      "tuple",       "range",
                                                    "dict_keys", "dict_values", "dict_items"};
  if (const auto* sequence = As<Sequence>(value)) {
    return std::string(kSequences[static_cast<int>(sequence->kind)]);
  }
  if (const auto* iterator = std::get_if<std::shared_ptr<Iterator>>(&value)) {
    return (*iterator)->type;
  }
  return std::string(kNames[value.index()]);
}

std::string ObjectName(const Value& value) {
  if (IsNone(value)) return "None";
  const std::string name = TypeName(value);
  if (std::holds_alternative<Namespace*>(value)) {
    return "transformers.utils.chat_template_utils.Namespace object";
  }
  return StrCat(name == "LoopContext" || name == "Macro" ? "jinja2.runtime." : "", name, " object");
}

absl::StatusOr<int64_t> Length(const Value& value) {
  if (IsUndefined(value)) return 0;
  if (const auto* text = As<String>(value)) return text->length;
  if (const auto* sequence = As<Sequence>(value)) return sequence->items.size();
  if (const auto* dict = As<Dict>(value)) return dict->items.size();
  return Fault("object of type '", TypeName(value), "' has no len()");
}

absl::Status CheckCopy(size_t values, Budget& budget) {
  LONGSPAN_RETURN_IF_ERROR(budget.Step(1 + static_cast<int64_t>(values / 4)));
  return budget.Room(1.0 * values * sizeof(Value));
}

absl::StatusOr<Values> Items(const Value& value, Budget& budget) {
  if (IsUndefined(value)) return Values{};
  Values items;
  if (const auto* text = As<String>(value)) {
    LONGSPAN_RETURN_IF_ERROR(budget.Step(text->length));
    LONGSPAN_RETURN_IF_ERROR(budget.Room(1.0 * text->length * (sizeof(String) + sizeof(Value))));
    for (const std::string_view character : Characters(text->text)) {
      items.push_back(MakeString(std::string(character), &budget));
    }
    return items;
  }
  if (const auto* sequence = As<Sequence>(value)) {
    LONGSPAN_RETURN_IF_ERROR(CheckCopy(sequence->items.size(), budget));
    return sequence->items;
  }
  if (const auto* dict = As<Dict>(value)) {
    LONGSPAN_RETURN_IF_ERROR(CheckCopy(dict->items.size(), budget));
    for (const auto& item : dict->items) items.push_back(item.first);
    return items;
  }
  if (const auto* iterator = std::get_if<std::shared_ptr<Iterator>>(&value)) {
    Iterator& state = **iterator;
    LONGSPAN_RETURN_IF_ERROR(CheckCopy(state.items.size() - state.next, budget));
    items.assign(state.items.begin() + state.next, state.items.end());
    state.next = state.items.size();
    if (!state.error.ok()) return state.error;
    return items;
  }
  return Fault("'", TypeName(value), "' object is not iterable");
}

// ---- Comparing ----

namespace {

absl::StatusOr<bool> EqualItems(const Values& a, const Values& b, Budget& budget) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    LONGSPAN_ASSIGN_OR_RETURN(const bool same, Equal(a[i], b[i], budget));
    if (!same) return false;
  }
  return true;
}

absl::StatusOr<bool> EqualDicts(const Dict& a, const Dict& b, Budget& budget) {
  if (a.items.size() != b.items.size()) return false;
  for (const auto& [key, value] : a.items) {
    LONGSPAN_ASSIGN_OR_RETURN(const Value* other, Find(b, key, budget));
    if (other == nullptr) return false;
    LONGSPAN_ASSIGN_OR_RETURN(const bool same, Equal(value, *other, budget));
    if (!same) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<bool> Equal(const Value& a, const Value& b, Budget& budget) {
  LONGSPAN_RETURN_IF_ERROR(budget.Step());
  Int i, j;
  double x, y;
  if (AsInt(a, &i) && AsInt(b, &j)) return i == j;
  if (AsNumber(a, &x) && AsNumber(b, &y)) return x == y;
  if (a.index() != b.index()) return false;
  if (IsUndefined(a) || IsNone(a)) return true;
  if (const auto* text = As<String>(a)) {
    LONGSPAN_RETURN_IF_ERROR(budget.StepBytes(text->text.size() / 8));
    return text->text == As<String>(b)->text;
  }
  if (const auto* sequence = As<Sequence>(a)) {
    const auto* other = As<Sequence>(b);
    if (sequence == other) return true;
    return sequence->kind == other->kind ? EqualItems(sequence->items, other->items, budget)
                                         : absl::StatusOr<bool>(false);
  }
  if (const auto* dict = As<Dict>(a)) {
    return dict == As<Dict>(b) ? absl::StatusOr<bool>(true)
                               : EqualDicts(*dict, *As<Dict>(b), budget);
  }
  if (const auto* method = As<Method>(a)) return method == As<Method>(b);
  if (const auto* space = std::get_if<Namespace*>(&a)) return *space == std::get<Namespace*>(b);
  if (const auto* macro = std::get_if<const Macro*>(&a)) return *macro == std::get<const Macro*>(b);
  if (const auto* builtin = std::get_if<const Builtin*>(&a)) {
    return *builtin == std::get<const Builtin*>(b);
  }
  if (const auto* loop = std::get_if<std::shared_ptr<Loop>>(&a)) {
    return *loop == std::get<std::shared_ptr<Loop>>(b);
  }
  if (const auto* iterator = std::get_if<std::shared_ptr<Iterator>>(&a)) {
    return *iterator == std::get<std::shared_ptr<Iterator>>(b);
  }
  return false;
}

absl::StatusOr<bool> Less(const Value& a, const Value& b, Budget& budget) {
  LONGSPAN_RETURN_IF_ERROR(budget.Step());
  Int i, j;
  double x, y;
  if (IsUndefined(a)) return UndefinedError(a);
  if (IsUndefined(b)) return UndefinedError(b);
  if (AsInt(a, &i) && AsInt(b, &j)) return i < j;
  if (AsNumber(a, &x) && AsNumber(b, &y)) return x < y;
  if (As<String>(a) != nullptr && As<String>(b) != nullptr) {
    // UTF-8 sorts as its code points do.
    LONGSPAN_RETURN_IF_ERROR(budget.StepBytes(As<String>(a)->text.size() / 8));
    return As<String>(a)->text < As<String>(b)->text;
  }
  for (const SequenceKind kind : {SequenceKind::kList, SequenceKind::kTuple}) {
    if (!IsSequence(a, kind) || !IsSequence(b, kind)) continue;
    const Values& left = As<Sequence>(a)->items;
    const Values& right = As<Sequence>(b)->items;
    for (size_t at = 0; at < std::min(left.size(), right.size()); ++at) {
      LONGSPAN_ASSIGN_OR_RETURN(const bool same, Equal(left[at], right[at], budget));
      if (!same) return Less(left[at], right[at], budget);
    }
    return left.size() < right.size();
  }
  return Fault("'<' not supported between instances of '", TypeName(a), "' and '", TypeName(b),
               "'");
}

absl::StatusOr<bool> Contains(const Value& container, const Value& item, Budget& budget) {
  if (const auto* text = As<String>(container)) {
    const auto* part = As<String>(item);
    if (part == nullptr) {
      return Fault("'in <string>' requires string as left operand, not ", TypeName(item));
    }
    LONGSPAN_RETURN_IF_ERROR(budget.StepBytes(text->text.size()));
    return FindText(text->text, part->text) != std::string::npos;
  }
  if (const auto* dict = As<Dict>(container)) {
    LONGSPAN_ASSIGN_OR_RETURN(const Value* found, Find(*dict, item, budget));
    return found != nullptr;
  }
  const Sequence* const sequence = As<Sequence>(container);
  Values own;
  if (sequence == nullptr) {
    LONGSPAN_ASSIGN_OR_RETURN(own, Items(container, budget));
  }
  for (const Value& candidate : sequence != nullptr ? sequence->items : own) {
    LONGSPAN_ASSIGN_OR_RETURN(const bool same, Equal(candidate, item, budget));
    if (same) return true;
  }
  return false;
}

// ---- Printing ----

namespace {

constexpr int kMaxPrintDepth = 2 * kMaxValueDepth;  // a namespace may contain itself

struct Printer {
  Budget& budget;
  std::string out;
  int depth = 0;

  absl::Status Add(std::string_view text) {
    out.append(text);
    LONGSPAN_RETURN_IF_ERROR(budget.StepBytes(text.size()));
    return budget.Room(static_cast<double>(out.size()));
  }
};

absl::Status PrintRepr(const Value& value, Printer& printer);

absl::Status PrintItems(const Values& items, std::string_view open, std::string_view close,
                        Printer& printer) {
  LONGSPAN_RETURN_IF_ERROR(printer.Add(open));
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) LONGSPAN_RETURN_IF_ERROR(printer.Add(", "));
    LONGSPAN_RETURN_IF_ERROR(PrintRepr(items[i], printer));
  }
  return printer.Add(close);
}

absl::Status PrintSequence(const Sequence& sequence, Printer& printer) {
  switch (sequence.kind) {
    case SequenceKind::kList:
      return PrintItems(sequence.items, "[", "]", printer);
    case SequenceKind::kTuple:
      return PrintItems(sequence.items, "(", sequence.items.size() == 1 ? ",)" : ")", printer);
    case SequenceKind::kRange:
      return printer.Add(sequence.range);
    case SequenceKind::kDictKeys:
      return PrintItems(sequence.items, "dict_keys([", "])", printer);
    case SequenceKind::kDictValues:
      return PrintItems(sequence.items, "dict_values([", "])", printer);
    case SequenceKind::kDictItems:
      return PrintItems(sequence.items, "dict_items([", "])", printer);
  }
  return absl::OkStatus();
}

absl::Status PrintDict(const Dict& dict, Printer& printer) {
  LONGSPAN_RETURN_IF_ERROR(printer.Add("{"));
  bool first = true;
  for (const auto& [key, value] : dict.items) {
    if (!first) LONGSPAN_RETURN_IF_ERROR(printer.Add(", "));
    first = false;
    LONGSPAN_RETURN_IF_ERROR(PrintRepr(key, printer));
    LONGSPAN_RETURN_IF_ERROR(printer.Add(": "));
    LONGSPAN_RETURN_IF_ERROR(PrintRepr(value, printer));
  }
  return printer.Add("}");
}

absl::Status PrintNamespace(const Namespace& space, Printer& printer) {
  LONGSPAN_RETURN_IF_ERROR(printer.Add("<Namespace {"));
  bool first = true;
  for (const auto& [name, value] : space.attributes) {
    LONGSPAN_RETURN_IF_ERROR(printer.Add(StrCat(first ? "'" : ", '", name, "': ")));
    first = false;
    LONGSPAN_RETURN_IF_ERROR(PrintRepr(value, printer));
  }
  return printer.Add("}>");
}

absl::Status PrintReprOnce(const Value& value, Printer& printer) {
  Int integer;
  if (IsUndefined(value)) return printer.Add("Undefined");
  if (IsNone(value)) return printer.Add("None");
  if (const auto* boolean = std::get_if<bool>(&value)) {
    return printer.Add(*boolean ? "True" : "False");
  }
  if (AsInt(value, &integer)) return printer.Add(IntText(integer));
  if (const auto* number = std::get_if<double>(&value)) return printer.Add(FloatText(*number));
  if (const auto* text = As<String>(value)) {
    std::string repr;
    LONGSPAN_RETURN_IF_ERROR(printer.budget.StepBytes(text->text.size() * 16));
    LONGSPAN_RETURN_IF_ERROR(printer.budget.Room(4.0 * text->text.size()));
    LONGSPAN_RETURN_IF_ERROR(AppendStringRepr(text->text, repr));
    return printer.Add(repr);
  }
  if (const auto* sequence = As<Sequence>(value)) return PrintSequence(*sequence, printer);
  if (const auto* dict = As<Dict>(value)) return PrintDict(*dict, printer);
  if (const auto* space = std::get_if<Namespace*>(&value)) {
    return PrintNamespace(**space, printer);
  }
  // Python prints an address; nothing can depend on it.
  return printer.Add(StrCat("<", TypeName(value), " object>"));
}

absl::Status PrintRepr(const Value& value, Printer& printer) {
  if (++printer.depth > kMaxPrintDepth) {
    return absl::ResourceExhaustedError(
        StrCat("a printed value nests deeper than ", kMaxPrintDepth, " levels"));
  }
  LONGSPAN_RETURN_IF_ERROR(PrintReprOnce(value, printer));
  --printer.depth;
  return absl::OkStatus();
}

// ---- JSON ----

struct JsonPrinter : Printer {
  const JsonStyle& style;
};

absl::Status PrintJson(const Value& value, JsonPrinter& printer);

absl::StatusOr<std::string> JsonKey(const Value& key, Budget& budget) {
  Int integer;
  if (const auto* text = As<String>(key)) return text->text;
  if (IsNone(key)) return "null";
  if (const auto* boolean = std::get_if<bool>(&key)) return *boolean ? "true" : "false";
  if (AsInt(key, &integer) || std::holds_alternative<double>(key)) return ToRepr(key, budget);
  return Fault("keys must be str, int, float, bool or None, not ", TypeName(key));
}

absl::Status NewLine(int depth, JsonPrinter& printer) {
  if (printer.style.indent == nullptr) return absl::OkStatus();
  LONGSPAN_RETURN_IF_ERROR(printer.Add("\n"));
  for (int i = 0; i < depth; ++i) LONGSPAN_RETURN_IF_ERROR(printer.Add(*printer.style.indent));
  return absl::OkStatus();
}

// An object's items, or a list's, where `keys` is nullptr.
absl::Status PrintJsonItems(const std::vector<std::string>* keys,
                            const std::vector<const Value*>& items, JsonPrinter& printer) {
  if (items.empty()) return printer.Add(keys != nullptr ? "{}" : "[]");
  LONGSPAN_RETURN_IF_ERROR(printer.Add(keys != nullptr ? "{" : "["));
  ++printer.depth;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) LONGSPAN_RETURN_IF_ERROR(printer.Add(printer.style.item_separator));
    LONGSPAN_RETURN_IF_ERROR(NewLine(printer.depth, printer));
    if (keys != nullptr) {
      std::string key;
      LONGSPAN_RETURN_IF_ERROR(printer.budget.Room(6.0 * (*keys)[i].size()));
      AppendJsonString((*keys)[i], printer.style.ensure_ascii, key);
      LONGSPAN_RETURN_IF_ERROR(printer.Add(key));
      LONGSPAN_RETURN_IF_ERROR(printer.Add(printer.style.key_separator));
    }
    LONGSPAN_RETURN_IF_ERROR(PrintJson(*items[i], printer));
  }
  --printer.depth;
  LONGSPAN_RETURN_IF_ERROR(NewLine(printer.depth, printer));
  return printer.Add(keys != nullptr ? "}" : "]");
}

absl::Status PrintJsonDict(const Dict& dict, JsonPrinter& printer) {
  std::vector<const std::pair<Value, Value>*> items;
  for (const auto& item : dict.items) items.push_back(&item);
  if (printer.style.sort_keys) {
    if (dict.by_text.size() != items.size()) {
      return Unsupported("tojson(sort_keys=true) of keys that are not strings is not supported");
    }
    std::sort(items.begin(), items.end(), [](const auto* a, const auto* b) {
      return As<String>(a->first)->text < As<String>(b->first)->text;
    });
  }
  std::vector<std::string> keys;
  std::vector<const Value*> values;
  for (const auto* item : items) {
    LONGSPAN_ASSIGN_OR_RETURN(std::string key, JsonKey(item->first, printer.budget));
    keys.push_back(std::move(key));
    values.push_back(&item->second);
  }
  return PrintJsonItems(&keys, values, printer);
}

absl::Status PrintJson(const Value& value, JsonPrinter& printer) {
  LONGSPAN_RETURN_IF_ERROR(printer.budget.Step());
  if (IsNone(value)) return printer.Add("null");
  if (const auto* boolean = std::get_if<bool>(&value)) {
    return printer.Add(*boolean ? "true" : "false");
  }
  if (const auto* integer = std::get_if<Int>(&value)) return printer.Add(IntText(*integer));
  if (const auto* number = std::get_if<double>(&value)) {
    if (std::isnan(*number)) return printer.Add("NaN");
    if (std::isinf(*number)) return printer.Add(*number < 0 ? "-Infinity" : "Infinity");
    return printer.Add(FloatText(*number));
  }
  if (const auto* text = As<String>(value)) {
    std::string quoted;
    LONGSPAN_RETURN_IF_ERROR(printer.budget.Room(6.0 * text->text.size()));
    AppendJsonString(text->text, printer.style.ensure_ascii, quoted);
    return printer.Add(quoted);
  }
  if (const auto* dict = As<Dict>(value)) return PrintJsonDict(*dict, printer);
  if (IsSequence(value, SequenceKind::kList) || IsSequence(value, SequenceKind::kTuple)) {
    std::vector<const Value*> items;
    for (const Value& item : As<Sequence>(value)->items) items.push_back(&item);
    return PrintJsonItems(nullptr, items, printer);
  }
  return Fault("Object of type ", TypeName(value), " is not JSON serializable");
}

}  // namespace

absl::StatusOr<std::string> ToRepr(const Value& value, Budget& budget) {
  Printer printer{budget, "", 0};
  LONGSPAN_RETURN_IF_ERROR(PrintRepr(value, printer));
  return std::move(printer.out);
}

absl::StatusOr<std::string> ToText(const Value& value, Budget& budget) {
  if (const auto* text = As<String>(value)) {
    LONGSPAN_RETURN_IF_ERROR(budget.StepBytes(text->text.size()));
    return text->text;
  }
  if (IsUndefined(value)) return "";
  return ToRepr(value, budget);
}

absl::StatusOr<std::string> ToJson(const Value& value, const JsonStyle& style, Budget& budget) {
  JsonPrinter printer{{budget, "", 0}, style};
  LONGSPAN_RETURN_IF_ERROR(PrintJson(value, printer));
  return std::move(printer.out);
}

}  // namespace longspan::jinja
