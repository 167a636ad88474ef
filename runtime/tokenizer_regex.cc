#include "runtime/tokenizer_regex.h"

#include <time.h>

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace longspan {
namespace {

constexpr size_t kMaxPatternBytes = 1 << 16;
constexpr size_t kJitStackBytes = 8 << 20;
constexpr uint32_t kMatchLimit = 20'000'000;  // backtracks from one starting position
constexpr uint32_t kHeapLimitKiB = 256 << 10;
// Starting positions tried between two looks at the clock.
constexpr size_t kWindowBytes = 4096;
constexpr int64_t kCallsPerClock = 256;
// A search slower than this is not linear: no pattern in use comes within a tenth of it.
constexpr double kGraceSeconds = 30;
constexpr double kSecondsPerByte = 5e-6;

// What Oniguruma calls a word character within a class; outside, Latin-1's other numbers count too.
constexpr char kWordClasses[] = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";
constexpr char kLatin1Numbers[] = R"(\x{B2}\x{B3}\x{B9}\x{BC}-\x{BE})";

double ThreadSeconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

std::string ErrorText(int code) {
  unsigned char buffer[256];
  return pcre2_get_error_message(code, buffer, sizeof(buffer)) < 0
             ? absl::StrCat("PCRE2 error ", code)
             : std::string(reinterpret_cast<char*>(buffer));
}

size_t NextCharacter(std::string_view text, size_t i) {
  do ++i;
  while (i < text.size() && (text[i] & 0xC0) == 0x80);
  return i;
}

class Translator {
 public:
  explicit Translator(std::string_view pattern) : rest_(pattern), whole_(pattern) {}

  absl::StatusOr<std::string> Run() {
    while (!rest_.empty()) LONGSPAN_RETURN_IF_ERROR(Step());
    return std::move(out_);
  }

 private:
  absl::Status Step() {
    switch (rest_[0]) {
      case '\\':
        return Escape(/*in_class=*/false);
      case '[':
        return Class();
      case '(':
        return Group();
      case '{':
        return Braces();
      default:
        Copy(1);
        return absl::OkStatus();
    }
  }

  absl::Status Escape(bool in_class) {
    if (rest_.size() < 2) return Unsupported("a backslash at the end");
    const char c = rest_[1];
    if (!absl::ascii_isalnum(c)) return Copy(2), absl::OkStatus();
    switch (c) {
      case 'r':
      case 'n':
      case 't':
      case 'f':
      case 'a':
      case 'e':
        return Copy(2), absl::OkStatus();
      case 'v':
        return Replace(2, R"(\x0B)");
      case 's':  // PCRE2's \s has U+180E besides
        return Replace(2, R"(\p{White_Space})");
      case 'S':
        return Replace(2, R"(\P{White_Space})");
      case 'd':
        return Replace(2, R"(\p{Nd})");
      case 'D':
        return Replace(2, R"(\P{Nd})");
      case 'w':
        return Replace(
            2, in_class ? kWordClasses : absl::StrCat("[", kWordClasses, kLatin1Numbers, "]"));
      case 'h':
        return Replace(2, in_class ? "0-9a-fA-F" : "[0-9a-fA-F]");
      case 'p':
      case 'P':
        return Property();
      case 'x':
      case 'u':
        return CodePoint();
      default:
        break;
    }
    if (!in_class) {
      if (c == 'W') return Replace(2, absl::StrCat("[^", kWordClasses, kLatin1Numbers, "]"));
      if (c == 'H') return Replace(2, "[^0-9a-fA-F]");
      if (c == 'A' || c == 'z' || c == 'Z') return Copy(2), absl::OkStatus();
    }
    return Unsupported(absl::StrCat("\\", std::string(1, c), in_class ? " in a class" : ""));
  }

  // General categories are the same in both; any other name must be a script, which PCRE2 would
  // otherwise take for a script extension.
  absl::Status Property() {
    const size_t close = rest_.find('}');
    if (rest_.size() < 3 || rest_[2] != '{' || close == rest_.npos) {
      return Unsupported("\\p without {name}");
    }
    std::string_view name = rest_.substr(3, close - 3);
    const std::string whole(name);
    const bool inverted = name.starts_with('^');
    if (inverted) name.remove_prefix(1);
    if (name.empty() || !std::all_of(name.begin(), name.end(),
                                     [](char c) { return absl::ascii_isalpha(c) || c == '_'; })) {
      return Unsupported(absl::StrCat("\\p{", whole, "}"));
    }
    std::string translated(rest_.substr(0, 3));
    absl::StrAppend(&translated, inverted ? "^" : "", name.size() > 2 ? "sc:" : "",
                    std::string(name), "}");
    return Replace(close + 1, translated);
  }

  // \xHH, \x{H...} and \uHHHH. In Oniguruma \x80 to \xFF are bytes, not characters.
  absl::Status CodePoint() {
    const bool braced = rest_.starts_with("\\x{");
    const size_t begin = braced ? 3 : 2;
    const size_t limit = braced ? 8 : rest_[1] == 'x' ? 2 : 4;
    size_t end = begin;
    while (end < rest_.size() && end - begin < limit && absl::ascii_isxdigit(rest_[end])) ++end;
    const std::string digits(rest_.substr(begin, end - begin));
    const bool closed = braced ? rest_.substr(end).starts_with("}") : digits.size() == limit;
    if (digits.empty() || !closed || (!braced && limit == 2 && digits[0] >= '8')) {
      return Unsupported(std::string(rest_.substr(0, begin)) + digits);
    }
    return Replace(end + (braced ? 1 : 0), absl::StrCat("\\x{", digits, "}"));
  }

  absl::Status Class() {
    Copy(1);
    if (rest_.starts_with("^")) Copy(1);
    if (rest_.starts_with("]")) return Unsupported("']' first in a class");
    while (!rest_.empty() && rest_[0] != ']') {
      if (rest_[0] == '[') return Unsupported("a class or POSIX bracket within a class");
      if (rest_.starts_with("&&")) return Unsupported("&& in a class");
      if (rest_[0] == '\\') {
        LONGSPAN_RETURN_IF_ERROR(Escape(/*in_class=*/true));
      } else {
        Copy(1);
      }
    }
    if (rest_.empty()) return Unsupported("a class without ']'");
    Copy(1);
    return absl::OkStatus();
  }

  absl::Status Group() {
    if (rest_.starts_with("(*")) return Unsupported("(*...)");
    if (!rest_.starts_with("(?")) return Copy(1), absl::OkStatus();
    for (std::string_view plain : {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!"}) {
      if (rest_.starts_with(plain)) return Copy(plain.size()), absl::OkStatus();
    }
    size_t end = 2;
    while (end < rest_.size() && (rest_[end] == 'i' || rest_[end] == 'm' || rest_[end] == '-'))
      ++end;
    const std::string_view close = rest_.substr(end, 1);
    // Ruby's options in mid-pattern enclose the following alternatives in a group.
    if (close == ":" || (close == ")" && out_.empty())) {
      std::string options(rest_.substr(0, end + 1));
      std::replace(options.begin(), options.end(), 'm',
                   's');  // Ruby's name for "dot is any character"
      return Replace(end + 1, options);
    }
    return Unsupported("the group " + std::string(rest_.substr(0, 4)) + "...");
  }

  absl::Status Braces() {
    size_t end = 1;
    while (end < rest_.size() && (absl::ascii_isdigit(rest_[end]) || rest_[end] == ',')) ++end;
    const std::string inside(rest_.substr(1, end - 1));
    const size_t commas = std::count(inside.begin(), inside.end(), ',');
    if (!rest_.substr(end).starts_with("}") || commas > 1 || inside.size() == commas) {
      return Replace(1, "\\{");
    }
    const std::string after(rest_.substr(end + 1).substr(0, 1));
    if (after == "+" || (after == "?" && commas == 0)) {
      return Unsupported(absl::StrCat("{", inside, "}", after));
    }
    return Replace(end + 1, absl::StrCat("{", inside[0] == ',' ? "0" : "", inside, "}"));
  }

  void Copy(size_t count) {
    out_.append(rest_.substr(0, count));
    rest_.remove_prefix(std::min(count, rest_.size()));
  }
  absl::Status Replace(size_t count, std::string_view replacement) {
    out_.append(replacement);
    rest_.remove_prefix(count);
    return absl::OkStatus();
  }
  absl::Status Unsupported(const std::string& what) const {
    return absl::InvalidArgumentError(absl::StrCat("regular expression \"", std::string(whole_),
                                                   "\": ", what, " is not supported (at byte ",
                                                   whole_.size() - rest_.size(), ")"));
  }

  std::string_view rest_;
  std::string_view whole_;
  std::string out_;
};

absl::StatusOr<pcre2_code*> CompilePcre2(std::string_view pattern, const std::string& original,
                                         uint32_t options) {
  if (original.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError(absl::StrCat("regular expression of ", original.size(),
                                                   " bytes: at most ", kMaxPatternBytes));
  }
  std::shared_ptr<pcre2_compile_context> context(pcre2_compile_context_create(nullptr),
                                                 pcre2_compile_context_free);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error;
  size_t offset;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                    options | PCRE2_UTF | PCRE2_USE_OFFSET_LIMIT, &error, &offset, context.get());
  if (code == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("regular expression \"", original, "\": ", ErrorText(error)));
  }
  // Where this fails (no executable memory), PCRE2's interpreter gives the same matches, slower.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  return code;
}

}  // namespace

absl::StatusOr<std::string> TranslateOniguruma(std::string_view pattern) {
  return Translator(pattern).Run();
}

Regex::Regex(pcre2_real_code_8* code) : code_(code, pcre2_code_free) {}

absl::StatusOr<Regex> Regex::Compile(std::string_view pattern) {
  LONGSPAN_ASSIGN_OR_RETURN(const std::string translated, TranslateOniguruma(pattern));
  LONGSPAN_ASSIGN_OR_RETURN(pcre2_code * code, CompilePcre2(translated, std::string(pattern),
                                                            PCRE2_UCP | PCRE2_MULTILINE));
  return Regex(code);
}

absl::StatusOr<Regex> Regex::Literal(std::string_view text) {
  LONGSPAN_ASSIGN_OR_RETURN(pcre2_code * code,
                            CompilePcre2(text, std::string(text), PCRE2_LITERAL));
  return Regex(code);
}

RegexMatcher::RegexMatcher(const Regex& regex)
    : code_(regex.code_),
      stack_(pcre2_jit_stack_create(32 << 10, kJitStackBytes, nullptr), pcre2_jit_stack_free),
      context_(pcre2_match_context_create(nullptr), pcre2_match_context_free),
      data_(pcre2_match_data_create_from_pattern(code_.get(), nullptr), pcre2_match_data_free),
      start_seconds_(ThreadSeconds()) {
  pcre2_set_match_limit(context_.get(), kMatchLimit);
  pcre2_set_heap_limit(context_.get(), kHeapLimitKiB);
  pcre2_jit_stack_assign(context_.get(), nullptr, stack_.get());
}

absl::StatusOr<bool> RegexMatcher::Find(std::string_view text, size_t from, size_t* begin,
                                        size_t* end) {
  size_t start = from;
  while (true) {
    if (++calls_ % kCallsPerClock == 0) LONGSPAN_RETURN_IF_ERROR(CheckTime());
    pcre2_set_offset_limit(context_.get(), start + kWindowBytes);
    const int rc = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                               start, PCRE2_NO_UTF_CHECK, data_.get(), context_.get());
    if (rc > 0) {
      const size_t* span = pcre2_get_ovector_pointer(data_.get());
      *begin = span[0];
      *end = span[1];
      searched_bytes_ += static_cast<int64_t>(*end - start);
      return true;
    }
    if (rc != PCRE2_ERROR_NOMATCH) {
      return absl::ResourceExhaustedError(
          absl::StrCat("matching a regular expression: ", ErrorText(rc)));
    }
    if (text.size() - start <= kWindowBytes) return false;
    searched_bytes_ += kWindowBytes;
    start += kWindowBytes + 1;
    while (start < text.size() && (text[start] & 0xC0) == 0x80) ++start;
    LONGSPAN_RETURN_IF_ERROR(CheckTime());
  }
}

absl::Status RegexMatcher::ForEachSpan(std::string_view text, VisitSpan visit) {
  size_t done = 0;   // everything before is visited
  size_t from = 0;   // where the next search starts
  bool any = false;  // a match ended at `done`
  while (from <= text.size()) {
    size_t begin, end;
    LONGSPAN_ASSIGN_OR_RETURN(const bool found, Find(text, from, &begin, &end));
    if (!found) break;
    if (begin == end && any && end == done) {
      from = NextCharacter(text, from);
      continue;
    }
    if (begin > done) LONGSPAN_RETURN_IF_ERROR(visit({done, begin, false}));
    LONGSPAN_RETURN_IF_ERROR(visit({begin, end, true}));
    any = true;
    done = from = end;
  }
  return done < text.size() ? visit({done, text.size(), false}) : absl::OkStatus();
}

absl::Status RegexMatcher::CheckTime() const {
  const double spent = ThreadSeconds() - start_seconds_;
  if (spent <= kGraceSeconds + kSecondsPerByte * static_cast<double>(searched_bytes_)) {
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("matching a regular expression: ", searched_bytes_, " bytes took ", spent,
                   " s; the pattern needs more than linear time on this text"));
}

}  // namespace longspan
