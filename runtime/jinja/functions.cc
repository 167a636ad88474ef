// What a template can call by its name.

#include <algorithm>
#include <ctime>

#include "kernels/base/status_macros.h"
#include "runtime/jinja/builtins.h"
#include "runtime/jinja/eval.h"

namespace longspan::jinja {
namespace {

constexpr int64_t kMaxRange = 100000;  // jinja2's own limit for templates it does not trust

absl::StatusOr<Value> Range(Rendering& rendering, const Value&, const CallArguments& arguments) {
  Int bounds[3] = {0, 0, 1};
  const Values& given = arguments.positional;
  if (given.empty() || given.size() > 3 || !arguments.named.empty()) {
    return Fault("range expects 1 to 3 arguments");
  }
  for (size_t i = 0; i < given.size(); ++i) {
    if (IsUndefined(given[i])) return UndefinedError(given[i]);
    const size_t slot = given.size() == 1 ? 1 : i;
    if (!AsInt(given[i], &bounds[slot])) {
      return Fault("'", TypeName(given[i]), "' object cannot be interpreted as an integer");
    }
    constexpr Int kMax = Int{1} << 62;
    if (bounds[slot] > kMax || bounds[slot] < -kMax) {
      return absl::ResourceExhaustedError("a bound of range() is beyond 2^62");
    }
  }
  const auto [begin, end, step] = bounds;
  if (step == 0) return Fault("range() arg 3 must not be zero");
  const Int distance = step > 0 ? end - begin : begin - end;
  const Int stride = step > 0 ? step : -step;
  const Int count = distance <= 0 ? 0 : (distance + stride - 1) / stride;
  if (count > kMaxRange) {
    return absl::ResourceExhaustedError(
        StrCat("range() of ", IntText(count), " items, over the limit of ", kMaxRange));
  }
  Values items;
  for (Int i = 0; i < count; ++i) items.push_back(begin + i * step);
  LONGSPAN_RETURN_IF_ERROR(rendering.budget.Step(items.size()));
  std::string shown = StrCat("range(", IntText(begin), ", ", IntText(end));
  StrAppend(&shown, step == 1 ? "" : StrCat(", ", IntText(step)), ")");
  return MakeSequence(SequenceKind::kRange, std::move(items), &rendering.budget, shown);
}

// dict(mapping or pairs, name=value, ...)
absl::StatusOr<Value> MakeDict(Rendering& rendering, const Value&, const CallArguments& arguments) {
  Budget& budget = rendering.budget;
  DictBuilder builder(&budget);
  if (arguments.positional.size() > 1) return Fault("dict expected at most 1 argument");
  if (!arguments.positional.empty()) {
    const Value& source = arguments.positional[0];
    if (const Dict* dict = As<Dict>(source)) {
      for (const auto& [key, value] : dict->items) {
        LONGSPAN_RETURN_IF_ERROR(builder.Set(key, value));
      }
    } else {
      LONGSPAN_ASSIGN_OR_RETURN(const Values pairs, Items(source, budget));
      for (const Value& pair : pairs) {
        LONGSPAN_ASSIGN_OR_RETURN(const Values both, Items(pair, budget));
        if (both.size() != 2) return Fault("a dict is made of pairs");
        LONGSPAN_RETURN_IF_ERROR(builder.Set(both[0], both[1]));
      }
    }
  }
  for (const auto& [name, value] : arguments.named) {
    LONGSPAN_RETURN_IF_ERROR(builder.SetText(name, value));
  }
  return builder.Finish();
}

absl::StatusOr<Value> MakeNamespace(Rendering& rendering, const Value& self,
                                    const CallArguments& arguments) {
  LONGSPAN_ASSIGN_OR_RETURN(const Value attributes, MakeDict(rendering, self, arguments));
  Namespace* const space = rendering.NewNamespace();
  for (const auto& [key, value] : As<Dict>(attributes)->items) {
    const String* const name = As<String>(key);
    if (name == nullptr) return Unsupported("attributes whose names are not strings");
    if (!name->text.empty() && name->text[0] == '_') {
      return Fault(
          "Chat templates cannot store underscore-prefixed attributes on a namespace, but got '",
          name->text, "'. Please rename the attribute.");
    }
    space->attributes.emplace_back(name->text, value);
    rendering.budget.bytes += static_cast<int64_t>(sizeof(Value) + name->text.size());
    LONGSPAN_RETURN_IF_ERROR(rendering.budget.Room(0));
  }
  return space;
}

// The template refuses its input. The message is the template's, so it gets no line.
absl::StatusOr<Value> RaiseException(Rendering& rendering, const Value&,
                                     const CallArguments& arguments) {
  LONGSPAN_ASSIGN_OR_RETURN(const std::string message,
                            ToText(arguments.positional[0], rendering.budget));
  rendering.error_located = true;
  return Fault("the chat template refuses these messages: ", message.substr(0, 10000));
}

std::tm SystemNow() {
  const std::time_t seconds = std::time(nullptr);
  std::tm now{};
  localtime_r(&seconds, &now);
  return now;
}

absl::StatusOr<Value> StrftimeNow(Rendering& rendering, const Value&,
                                  const CallArguments& arguments) {
  static constexpr std::string_view kDirectives = "aAbBcCdDeFgGhHIjklmMnpPrRStTuUVwWxXyY";
  const String* const format = As<String>(arguments.positional[0]);
  if (format == nullptr) return Fault("strftime_now() takes a string");
  const std::tm now = rendering.options.now ? rendering.options.now() : SystemNow();
  const std::string& text = format->text;
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out.push_back(text[i]);
      continue;
    }
    std::string directive = "%";
    if (i + 1 < text.size() && (text[i + 1] == '-' || text[i + 1] == '_')) {
      directive.push_back(text[++i]);
    }
    const char letter = i + 1 < text.size() ? text[++i] : '\0';
    if (letter == '%' || letter == 'Z' || letter == 'z') {
      if (letter == '%') out.push_back('%');  // the time has no zone for Python
      continue;
    }
    if (letter == '\0' || kDirectives.find(letter) == std::string_view::npos) {
      return Unsupported("strftime_now(): the directive %", std::string(1, letter),
                         " is not supported; supported: ", kDirectives, "zZ%");
    }
    directive.push_back(letter);
    char buffer[256];
    out.append(buffer, std::strftime(buffer, sizeof(buffer), directive.c_str(), &now));
  }
  LONGSPAN_RETURN_IF_ERROR(rendering.budget.Step(text.size()));
  return rendering.Text(std::move(out));
}

absl::StatusOr<Value> NotSupported(Rendering&, const Value&, const CallArguments&) {
  return Unsupported("lipsum, cycler and joiner are not supported");
}

constexpr Builtin kFunctions[] = {
    {"range", "*", Range},
    {"dict", "*", MakeDict},
    {"namespace", "*", MakeNamespace},
    {"raise_exception", "message", RaiseException},
    {"strftime_now", "format", StrftimeNow},
    {"lipsum", "*", NotSupported},
    {"cycler", "*", NotSupported},
    {"joiner", "*", NotSupported},
};

}  // namespace

const Builtin* FindFunction(std::string_view name) { return FindIn(kFunctions, name); }

}  // namespace longspan::jinja
