// The methods of strings, lists and dicts.

#include <algorithm>
#include <iterator>

#include "absl/strings/ascii.h"
#include "kernels/base/status_macros.h"
#include "runtime/jinja/builtins.h"
#include "runtime/jinja/case.h"
#include "runtime/jinja/eval.h"

namespace longspan::jinja {
namespace {

using ValueOr = absl::StatusOr<Value>;

const std::string& TextOf(const Value& self) { return As<String>(self)->text; }

absl::StatusOr<const std::string*> TextArgument(const Value& value, std::string_view what) {
  if (const String* text = As<String>(value)) return &text->text;
  return Fault(what, " must be str, not ", TypeName(value));
}

absl::StatusOr<int64_t> CountArgument(const Value& value, int64_t default_value) {
  Int count;
  if (IsMissing(value)) return default_value;
  if (!AsInt(value, &count)) return Fault("an integer is required, not ", TypeName(value));
  constexpr Int kLimit = Int{1} << 62;  // lengths are subtracted from it
  return static_cast<int64_t>(std::clamp<Int>(count, -kLimit, kLimit));
}

// ---- Case and kind ----

template <absl::StatusOr<std::string> (*map)(std::string_view)>
ValueOr MapText(Rendering& rendering, const Value& self, const CallArguments&) {
  LONGSPAN_RETURN_IF_ERROR(rendering.budget.StepBytes(TextOf(self).size() * 4));
  LONGSPAN_ASSIGN_OR_RETURN(std::string text, map(TextOf(self)));
  return rendering.Text(std::move(text));
}

template <absl::StatusOr<bool> (*test)(std::string_view)>
ValueOr TestText(Rendering& rendering, const Value& self, const CallArguments&) {
  LONGSPAN_RETURN_IF_ERROR(rendering.budget.StepBytes(TextOf(self).size() * 4));
  LONGSPAN_ASSIGN_OR_RETURN(const bool holds, test(TextOf(self)));
  return holds;
}

template <bool (*is)(unsigned char)>
absl::StatusOr<bool> AllAscii(std::string_view text) {
  if (!IsAscii(text)) return Unsupported("the kinds of characters outside of ASCII are not known");
  return !text.empty() && std::all_of(text.begin(), text.end(), is);
}

absl::StatusOr<bool> AllSpace(std::string_view text) {
  return !text.empty() && LeadingSpace(text) == text.size();
}

// ---- Stripping ----

template <bool left, bool right>
ValueOr StripText(Rendering& rendering, const Value& self, const CallArguments& arguments) {
  const Value& characters = arguments.positional[0];
  LONGSPAN_RETURN_IF_ERROR(rendering.budget.StepBytes(TextOf(self).size()));
  if (IsMissing(characters) || IsNone(characters)) {
    return rendering.Text(std::string(Strip(TextOf(self), nullptr, left, right)));
  }
  LONGSPAN_ASSIGN_OR_RETURN(const std::string* text, TextArgument(characters, "strip arg"));
  const std::string_view set = *text;
  LONGSPAN_RETURN_IF_ERROR(
      rendering.budget.StepBytes(TextOf(self).size() * std::min<size_t>(1 + set.size(), 1 << 20)));
  return rendering.Text(std::string(Strip(TextOf(self), &set, left, right)));
}

ValueOr RemovePrefix(Rendering& rendering, const Value& self, const CallArguments& arguments) {
  LONGSPAN_ASSIGN_OR_RETURN(const std::string* prefix,
                            TextArgument(arguments.positional[0], "the prefix"));
  LONGSPAN_RETURN_IF_ERROR(rendering.budget.StepBytes(prefix->size()));
  const bool has = TextOf(self).starts_with(*prefix);
  return rendering.Text(TextOf(self).substr(has ? prefix->size() : 0));
}

ValueOr RemoveSuffix(Rendering& rendering, const Value& self, const CallArguments& arguments) {
  LONGSPAN_ASSIGN_OR_RETURN(const std::string* suffix,
                            TextArgument(arguments.positional[0], "the suffix"));
  LONGSPAN_RETURN_IF_ERROR(rendering.budget.StepBytes(suffix->size()));
  const bool has = TextOf(self).ends_with(*suffix);
  return rendering.Text(TextOf(self).substr(0, TextOf(self).size() - (has ? suffix->size() : 0)));
}

// ---- Searching ----

// The part of the text that the optional arguments `start` and `end` select.
absl::StatusOr<Value> Part(Rendering& rendering, const Value& self,
                           const CallArguments& arguments) {
  const Values& given = arguments.positional;
  if (IsMissing(given[1]) && IsMissing(given[2])) return self;
  return Slice(rendering, self, given[1], given[2], Missing{});
}

template <bool at_end>
ValueOr HasAffix(Rendering& rendering, const Value& self, const CallArguments& arguments) {
  LONGSPAN_ASSIGN_OR_RETURN(const Value part, Part(rendering, self, arguments));
  const String* const text = As<String>(part);
  if (text == nullptr) return Fault("slice indices must be integers or None");
  const Value& affix = arguments.positional[0];
  const auto has = [&text](std::string_view piece) {
    return at_end ? text->text.ends_with(piece) : text->text.starts_with(piece);
  };
  if (const String* piece = As<String>(affix)) {
    LONGSPAN_RETURN_IF_ERROR(rendering.budget.StepBytes(piece->text.size()));
    return has(piece->text);
  }
  if (!IsSequence(affix, SequenceKind::kTuple)) {
    return Fault("startswith and endswith take a str or a tuple of str, not ", TypeName(affix));
  }
  for (const Value& item : As<Sequence>(affix)->items) {
    LONGSPAN_RETURN_IF_ERROR(rendering.budget.Step());
    LONGSPAN_ASSIGN_OR_RETURN(const std::string* piece, TextArgument(item, "each of the tuple"));
    LONGSPAN_RETURN_IF_ERROR(rendering.budget.StepBytes(piece->size()));
    if (has(*piece)) return true;
  }
  return false;
}

absl::StatusOr<int64_t> FindPosition(Rendering& rendering, const Value& self,
                                     const CallArguments& arguments, bool from_end) {
  if (!IsMissing(arguments.positional[1]) || !IsMissing(arguments.positional[2])) {
    return Unsupported("find and index within a part of a string are not supported");
  }
  LONGSPAN_ASSIGN_OR_RETURN(const std::string* piece,
                            TextArgument(arguments.positional[0], "what is searched"));
  LONGSPAN_RETURN_IF_ERROR(rendering.budget.StepBytes(TextOf(self).size()));
  const size_t at =
      from_end ? RFindText(TextOf(self), *piece) : jinja::FindText(TextOf(self), *piece);
  if (at == std::string::npos) return -1;
  return CodePoints(std::string_view(TextOf(self)).substr(0, at));
}

template <bool from_end, bool must_exist>
ValueOr FindText(Rendering& rendering, const Value& self, const CallArguments& arguments) {
  LONGSPAN_ASSIGN_OR_RETURN(const int64_t at, FindPosition(rendering, self, arguments, from_end));
  if (must_exist && at < 0) return Fault("substring not found");
  return Int{at};
}

ValueOr CountText(Rendering& rendering, const Value& self, const CallArguments& arguments) {
  LONGSPAN_ASSIGN_OR_RETURN(const Value part, Part(rendering, self, arguments));
  const String* const text = As<String>(part);
  if (text == nullptr) return Fault("slice indices must be integers or None");
  LONGSPAN_ASSIGN_OR_RETURN(const std::string* piece,
                            TextArgument(arguments.positional[0], "what is counted"));
  if (piece->empty()) return Int{text->length + 1};
  LONGSPAN_RETURN_IF_ERROR(rendering.budget.StepBytes(text->text.size()));
  Int count = 0;
  for (size_t at = jinja::FindText(text->text, *piece); at != std::string::npos;
       at = jinja::FindText(text->text, *piece, at + piece->size())) {
    ++count;
  }
  return count;
}

// ---- Splitting and joining ----

// Whether there is time and room to split a text at separators of so many bytes.
absl::Status CheckSplit(Budget& budget, std::string_view text, size_t separator) {
  LONGSPAN_RETURN_IF_ERROR(budget.StepBytes(text.size() * 4));
  return budget.Room(1.0 * text.size() / separator * sizeof(std::string_view));
}

ValueOr TextList(Rendering& rendering, const std::vector<std::string_view>& pieces) {
  Values items;
  LONGSPAN_RETURN_IF_ERROR(
      rendering.budget.Room(1.0 * pieces.size() * (sizeof(String) + sizeof(Value))));
  for (const std::string_view piece : pieces) {
    LONGSPAN_ASSIGN_OR_RETURN(Value item, rendering.Text(std::string(piece)));
    items.push_back(std::move(item));
  }
  return rendering.List(std::move(items));
}

// At white space, which also falls away at both ends, except behind the last permitted split.
std::vector<std::string_view> SplitSpace(std::string_view text, int64_t max_splits, bool from_end) {
  std::vector<std::string_view> pieces;
  const auto space_at = [](std::string_view rest) { return IsSpace(FirstCharacter(rest)); };
  while (!(text = Strip(text, nullptr, !from_end, from_end)).empty()) {
    if (max_splits >= 0 && static_cast<int64_t>(pieces.size()) >= max_splits) {
      pieces.push_back(text);
      break;
    }
    if (!from_end) {
      size_t end = 0;
      while (end < text.size() && !space_at(text.substr(end))) end += CharacterBytes(text[end]);
      pieces.push_back(text.substr(0, end));
      text = text.substr(end);
      continue;
    }
    size_t begin = text.size(), last = text.size();
    while (begin > 0) {
      do {
        --begin;
      } while ((text[begin] & 0xC0) == 0x80);
      if (space_at(text.substr(begin))) break;
      last = begin;
    }
    pieces.push_back(text.substr(last));
    text = text.substr(0, last);
  }
  if (from_end) std::reverse(pieces.begin(), pieces.end());
  return pieces;
}

std::vector<std::string_view> SplitAt(std::string_view text, std::string_view separator,
                                      int64_t max_splits, bool from_end) {
  // From its end a text is what its mirror image is from the beginning.
  const std::string mirrored = from_end ? std::string(text.rbegin(), text.rend()) : std::string();
  const std::string mirrored_separator(separator.rbegin(), separator.rend());
  const std::string_view searched = from_end ? std::string_view(mirrored) : text;
  const auto piece = [&](size_t begin, size_t end) {
    return from_end ? text.substr(text.size() - end, end - begin) : text.substr(begin, end - begin);
  };
  std::vector<std::string_view> pieces;
  size_t begin = 0;
  while (max_splits < 0 || static_cast<int64_t>(pieces.size()) < max_splits) {
    const size_t at = jinja::FindText(
        searched, from_end ? std::string_view(mirrored_separator) : separator, begin);
    if (at == std::string_view::npos) break;
    pieces.push_back(piece(begin, at));
    begin = at + separator.size();
  }
  pieces.push_back(piece(begin, text.size()));
  if (from_end) std::reverse(pieces.begin(), pieces.end());
  return pieces;
}

template <bool from_end>
ValueOr SplitText(Rendering& rendering, const Value& self, const CallArguments& arguments) {
  LONGSPAN_ASSIGN_OR_RETURN(const int64_t max_splits, CountArgument(arguments.positional[1], -1));
  const Value& separator = arguments.positional[0];
  if (IsMissing(separator) || IsNone(separator)) {
    LONGSPAN_RETURN_IF_ERROR(CheckSplit(rendering.budget, TextOf(self), 2));
    return TextList(rendering, SplitSpace(TextOf(self), max_splits, from_end));
  }
  LONGSPAN_ASSIGN_OR_RETURN(const std::string* text, TextArgument(separator, "the separator"));
  if (text->empty()) return Fault("empty separator");
  LONGSPAN_RETURN_IF_ERROR(CheckSplit(rendering.budget, TextOf(self), text->size()));
  return TextList(rendering, SplitAt(TextOf(self), *text, max_splits, from_end));
}

ValueOr SplitTextLines(Rendering& rendering, const Value& self, const CallArguments& arguments) {
  LONGSPAN_RETURN_IF_ERROR(CheckSplit(rendering.budget, TextOf(self), 1));
  return TextList(rendering, SplitLines(TextOf(self), IsTrue(arguments.positional[0])));
}

template <bool from_end>
ValueOr Partition(Rendering& rendering, const Value& self, const CallArguments& arguments) {
  LONGSPAN_ASSIGN_OR_RETURN(const std::string* separator,
                            TextArgument(arguments.positional[0], "the separator"));
  if (separator->empty()) return Fault("empty separator");
  const std::string_view text = TextOf(self);
  LONGSPAN_RETURN_IF_ERROR(rendering.budget.StepBytes(text.size()));
  const size_t at = from_end ? RFindText(text, *separator) : jinja::FindText(text, *separator);
  std::string_view parts[3] = {from_end ? "" : text, "", from_end ? text : ""};
  if (at != text.npos) {
    parts[0] = text.substr(0, at);
    parts[1] = *separator;
    parts[2] = text.substr(at + separator->size());
  }
  Values items;
  for (const std::string_view part : parts) {
    LONGSPAN_ASSIGN_OR_RETURN(Value item, rendering.Text(std::string(part)));
    items.push_back(std::move(item));
  }
  return rendering.Tuple(std::move(items));
}

ValueOr JoinText(Rendering& rendering, const Value& self, const CallArguments& arguments) {
  LONGSPAN_ASSIGN_OR_RETURN(const Values items, Items(arguments.positional[0], rendering.budget));
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    LONGSPAN_ASSIGN_OR_RETURN(const std::string* piece, TextArgument(items[i], "each item"));
    StrAppend(&out, i > 0 ? TextOf(self) : "", *piece);
    LONGSPAN_RETURN_IF_ERROR(rendering.budget.StepBytes(TextOf(self).size() + piece->size()));
    LONGSPAN_RETURN_IF_ERROR(rendering.budget.Room(static_cast<double>(out.size())));
  }
  return rendering.Text(std::move(out));
}

ValueOr ReplaceText(Rendering& rendering, const Value& self, const CallArguments& arguments) {
  const Values& given = arguments.positional;
  for (const int i : {0, 1}) LONGSPAN_RETURN_IF_ERROR(TextArgument(given[i], "replace()").status());
  // The filter of this name converts its arguments and then does the same.
  return CallBuiltin(rendering, *FindFilter("replace"), self, arguments);
}

ValueOr Zfill(Rendering& rendering, const Value& self, const CallArguments& arguments) {
  LONGSPAN_ASSIGN_OR_RETURN(const int64_t width, CountArgument(arguments.positional[0], 0));
  const std::string& text = TextOf(self);
  const int64_t fill = std::max<int64_t>(0, width - As<String>(self)->length);
  LONGSPAN_RETURN_IF_ERROR(rendering.budget.Room(static_cast<double>(fill)));
  const size_t sign = !text.empty() && (text[0] == '+' || text[0] == '-') ? 1 : 0;
  return rendering.Text(StrCat(text.substr(0, sign), std::string(fill, '0'), text.substr(sign)));
}

// ljust, rjust
template <bool left>
ValueOr Justify(Rendering& rendering, const Value& self, const CallArguments& arguments) {
  LONGSPAN_ASSIGN_OR_RETURN(const int64_t width, CountArgument(arguments.positional[0], 0));
  std::string fill = " ";
  if (!IsMissing(arguments.positional[1])) {
    LONGSPAN_ASSIGN_OR_RETURN(const std::string* given,
                              TextArgument(arguments.positional[1], "the fill character"));
    if (CodePoints(*given) != 1) return Fault("The fill character must be exactly one character");
    fill = *given;
  }
  const int64_t count = std::max<int64_t>(0, width - As<String>(self)->length);
  LONGSPAN_RETURN_IF_ERROR(rendering.budget.Room(4.0 * static_cast<double>(count)));
  std::string padding;
  for (int64_t i = 0; i < count; ++i) padding += fill;
  return rendering.Text(left ? StrCat(TextOf(self), padding) : StrCat(padding, TextOf(self)));
}

constexpr Builtin kTextMethods[] = {
    {"capitalize", "/", MapText<Capitalize>},
    {"count", "/sub start? end?", CountText},
    {"endswith", "/suffix start? end?", HasAffix<true>},
    {"find", "/sub start? end?", FindText<false, false>},
    {"index", "/sub start? end?", FindText<false, true>},
    {"isalnum", "/", TestText<AllAscii<absl::ascii_isalnum>>},
    {"isalpha", "/", TestText<AllAscii<absl::ascii_isalpha>>},
    {"isdecimal", "/", TestText<AllAscii<absl::ascii_isdigit>>},
    {"isdigit", "/", TestText<AllAscii<absl::ascii_isdigit>>},
    {"islower", "/", TestText<IsLower>},
    {"isnumeric", "/", TestText<AllAscii<absl::ascii_isdigit>>},
    {"isspace", "/", TestText<AllSpace>},
    {"isupper", "/", TestText<IsUpper>},
    {"join", "/iterable", JoinText},
    {"ljust", "/width fill?", Justify<true>},
    {"lower", "/", MapText<Lower>},
    {"lstrip", "/chars?", StripText<true, false>},
    {"partition", "/sep", Partition<false>},
    {"removeprefix", "/prefix", RemovePrefix},
    {"removesuffix", "/suffix", RemoveSuffix},
    {"replace", "/old new count?", ReplaceText},
    {"rfind", "/sub start? end?", FindText<true, false>},
    {"rindex", "/sub start? end?", FindText<true, true>},
    {"rjust", "/width fill?", Justify<false>},
    {"rpartition", "/sep", Partition<true>},
    {"rsplit", "sep? maxsplit?", SplitText<true>},
    {"rstrip", "/chars?", StripText<false, true>},
    {"split", "sep? maxsplit?", SplitText<false>},
    {"splitlines", "keepends?", SplitTextLines},
    {"startswith", "/prefix start? end?", HasAffix<false>},
    {"strip", "/chars?", StripText<true, true>},
    {"swapcase", "/", MapText<SwapCase>},
    {"title", "/", MapText<TitleWords>},
    {"upper", "/", MapText<Upper>},
    {"zfill", "/width", Zfill},
};
constexpr std::string_view kOtherTextMethods[] = {
    "casefold", "center",       "encode",      "expandtabs", "format",    "format_map",
    "isascii",  "isidentifier", "isprintable", "istitle",    "maketrans", "translate"};

// ---- Dicts ----

ValueOr GetKey(Rendering& rendering, const Value& self, const CallArguments& arguments) {
  LONGSPAN_ASSIGN_OR_RETURN(const Value* found,
                            Find(*As<Dict>(self), arguments.positional[0], rendering.budget));
  if (found != nullptr) return *found;
  return IsMissing(arguments.positional[1]) ? None{} : arguments.positional[1];
}

template <SequenceKind kind>
ValueOr DictView(Rendering& rendering, const Value& self, const CallArguments&) {
  Values items;
  const Dict& dict = *As<Dict>(self);
  LONGSPAN_RETURN_IF_ERROR(rendering.budget.Step(dict.items.size()));
  for (const auto& [key, value] : dict.items) {
    if (kind == SequenceKind::kDictItems) {
      LONGSPAN_ASSIGN_OR_RETURN(Value pair, rendering.Tuple({key, value}));
      items.push_back(std::move(pair));
    } else {
      items.push_back(kind == SequenceKind::kDictKeys ? key : value);
    }
  }
  return MakeSequence(kind, std::move(items), &rendering.budget);
}

ValueOr Self(Rendering&, const Value& self, const CallArguments&) { return self; }

constexpr Builtin kDictMethods[] = {
    {"get", "/key default?", GetKey},
    {"items", "/", DictView<SequenceKind::kDictItems>},
    {"keys", "/", DictView<SequenceKind::kDictKeys>},
    {"values", "/", DictView<SequenceKind::kDictValues>},
    {"copy", "/", Self},
};
constexpr std::string_view kOtherDictMethods[] = {"fromkeys"};
constexpr std::string_view kForbiddenDictMethods[] = {"clear", "pop", "popitem", "setdefault",
                                                      "update"};

// ---- Lists and tuples ----

ValueOr CountItem(Rendering& rendering, const Value& self, const CallArguments& arguments) {
  Int count = 0;
  for (const Value& item : As<Sequence>(self)->items) {
    LONGSPAN_ASSIGN_OR_RETURN(const bool same,
                              Equal(item, arguments.positional[0], rendering.budget));
    count += same ? 1 : 0;
  }
  return count;
}

ValueOr IndexOfItem(Rendering& rendering, const Value& self, const CallArguments& arguments) {
  const Values& items = As<Sequence>(self)->items;
  for (size_t i = 0; i < items.size(); ++i) {
    LONGSPAN_ASSIGN_OR_RETURN(const bool same,
                              Equal(items[i], arguments.positional[0], rendering.budget));
    if (same) return static_cast<Int>(i);
  }
  return Fault("the value is not in the list");
}

constexpr Builtin kListMethods[] = {
    {"count", "/value", CountItem}, {"index", "/value", IndexOfItem}, {"copy", "/", Self}};
constexpr Builtin kTupleMethods[] = {{"count", "/value", CountItem},
                                     {"index", "/value", IndexOfItem}};
constexpr std::string_view kForbiddenListMethods[] = {"append", "clear", "pop",    "reverse",
                                                      "insert", "sort",  "extend", "remove"};

template <size_t n>
bool IsIn(const std::string_view (&names)[n], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

}  // namespace

absl::StatusOr<const Builtin*> FindMethod(const Value& object, std::string_view name) {
  const auto unsupported = [&](absl::Span<const Builtin> table) {
    return Unsupported("the method `", name, "` of ", TypeName(object),
                       " is not supported; supported: ", NamesIn(table));
  };
  if (As<String>(object) != nullptr) {
    if (IsIn(kOtherTextMethods, name)) return unsupported(kTextMethods);
    return FindIn(kTextMethods, name);
  }
  if (As<Dict>(object) != nullptr) {
    if (IsIn(kOtherDictMethods, name)) return unsupported(kDictMethods);
    return FindIn(kDictMethods, name);
  }
  if (IsSequence(object, SequenceKind::kList)) return FindIn(kListMethods, name);
  if (IsSequence(object, SequenceKind::kTuple)) return FindIn(kTupleMethods, name);
  return nullptr;
}

bool IsForbiddenMethod(const Value& object, std::string_view name) {
  if (As<Dict>(object) != nullptr) return IsIn(kForbiddenDictMethods, name);
  return IsSequence(object, SequenceKind::kList) && IsIn(kForbiddenListMethods, name);
}

}  // namespace longspan::jinja
