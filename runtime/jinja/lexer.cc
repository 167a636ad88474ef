#include "runtime/jinja/lexer.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"

namespace longspan::jinja {

absl::Status SyntaxError(int line, std::string_view message) {
  return absl::InvalidArgumentError(StrCat("chat template line ", line, ": ", message));
}

namespace {

// ---- String literals ----

std::optional<char32_t> HexDigits(std::string_view digits) {
  uint32_t value = 0;
  const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  if (result.ec != std::errc() || result.ptr != digits.data() + digits.size()) return std::nullopt;
  return value;
}

// The escape sequence at the beginning of `text`, which starts with a backslash. Appends what it
// stands for and returns its bytes; 0 if it is malformed.
size_t AppendEscape(std::string_view text, std::string& out) {
  static constexpr std::pair<char, std::string_view> kSimple[] = {
      {'\n', ""},  {'\\', "\\"}, {'\'', "'"}, {'"', "\""}, {'a', "\a"}, {'b', "\b"},
      {'f', "\f"}, {'n', "\n"},  {'r', "\r"}, {'t', "\t"}, {'v', "\v"}};
  static constexpr std::pair<char, size_t> kHex[] = {{'x', 2}, {'u', 4}, {'U', 8}};
  if (text.size() < 2) return 0;
  for (const auto& [letter, meaning] : kSimple) {
    if (text[1] == letter) return out.append(meaning), 2;
  }
  for (const auto& [letter, digits] : kHex) {
    if (text[1] != letter) continue;
    const auto value = HexDigits(text.substr(2, digits));
    const bool valid = text.size() >= 2 + digits && value && *value < 0x110000 &&
                       (*value < 0xD800 || *value > 0xDFFF);
    return valid ? AppendCharacter(*value, out), 2 + digits : 0;
  }
  size_t octal = 1;
  char32_t value = 0;
  for (; octal < 4 && octal < text.size() && text[octal] >= '0' && text[octal] <= '7'; ++octal) {
    value = value * 8 + (text[octal] - '0');
  }
  if (octal > 1) return AppendCharacter(value, out), octal;
  if (text[1] == 'N') return 0;
  out.push_back('\\');
  if (static_cast<uint8_t>(text[1]) < 0x80) return out.push_back(text[1]), 2;
  // jinja2 writes other characters as escape sequences first, whose backslash is then escaped.
  const char32_t c = FirstCharacter(text.substr(1));
  const auto code = static_cast<uint32_t>(c);
  out.append(c < 0x100     ? absl::StrFormat("x%02x", code)
             : c < 0x10000 ? absl::StrFormat("u%04x", code)
                           : absl::StrFormat("U%08x", code));
  return 1 + CharacterBytes(text[1]);
}

// ---- Inside of tags ----

bool IsNameByte(char c) { return absl::ascii_isalnum(c) || c == '_'; }

// Digits with single underscores between them at the beginning of `text`: how many bytes.
size_t DigitRun(std::string_view text, bool (*is_digit)(char)) {
  size_t end = 0;
  while (end < text.size() &&
         (is_digit(text[end]) || (end > 0 && text[end] == '_' && text[end - 1] != '_'))) {
    ++end;
  }
  while (end > 0 && text[end - 1] == '_') --end;
  return end;
}

bool IsDecimal(char c) { return c >= '0' && c <= '9'; }

// Bytes of the float at the beginning of `text`, 0 if there is none.
size_t FloatBytes(std::string_view text) {
  const size_t whole = DigitRun(text, IsDecimal);
  if (whole == 0) return 0;
  size_t end = whole;
  if (end < text.size() && text[end] == '.') {
    const size_t fraction = DigitRun(text.substr(end + 1), IsDecimal);
    if (fraction > 0) end += 1 + fraction;
  }
  if (end < text.size() && (text[end] == 'e' || text[end] == 'E')) {
    size_t digits = end + 1;
    if (digits < text.size() && (text[digits] == '+' || text[digits] == '-')) ++digits;
    const size_t exponent = DigitRun(text.substr(std::min(digits, text.size())), IsDecimal);
    if (exponent > 0) return digits + exponent;
  }
  return end > whole ? end : 0;
}

struct IntegerForm {
  std::string_view prefix;
  int base;
};

std::optional<Int> ParseDigits(std::string_view digits, int base) {
  Int value = 0;
  for (const char c : digits) {
    if (c == '_') continue;
    const int digit = absl::ascii_isdigit(c) ? c - '0' : absl::ascii_tolower(c) - 'a' + 10;
    if (__builtin_mul_overflow(value, Int{base}, &value) ||
        __builtin_add_overflow(value, Int{digit}, &value)) {
      return std::nullopt;
    }
  }
  return value;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  absl::StatusOr<std::vector<Token>> Run();

 private:
  std::string_view Rest() const { return std::string_view(source_).substr(at_); }
  bool Follows(std::string_view text) const { return Rest().starts_with(text); }
  void Advance(size_t bytes);
  void AddData(std::string_view text, int line);
  size_t FindTag() const;
  size_t RawBeginBytes(std::string_view tag) const;
  void EndTag(bool trims_space, bool trims_newline, size_t bytes);
  absl::Status LexComment();
  absl::Status LexRaw(size_t begin_bytes);
  absl::Status LexTag(bool block);
  bool LexTagEnd(bool block);
  absl::Status LexTagToken();
  absl::Status LexNumber();
  absl::Status LexString();
  absl::Status LexOperator();
  std::string_view TextBefore(std::string_view text, char sign, bool variable) const;

  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  // what was matched last ends in a newline
  std::string brackets_;       // that are open, as their closing counterparts
  std::vector<Token> tokens_;
};

void Lexer::Advance(size_t bytes) {
  const std::string_view text = Rest().substr(0, bytes);
  line_ += static_cast<int>(std::count(text.begin(), text.end(), '\n'));
  if (!text.empty()) line_starting_ = text.back() == '\n';
  at_ += text.size();
}

void Lexer::AddData(std::string_view text, int line) {
  if (!text.empty()) tokens_.push_back({TokenKind::kData, line, std::string(text)});
}

size_t Lexer::FindTag() const {
  for (size_t at = source_.find('{', at_); at != std::string::npos;
       at = source_.find('{', at + 1)) {
    const char next = at + 1 < source_.size() ? source_[at + 1] : '\0';
    if (next == '%' || next == '#' || next == '{') return at;
  }
  return std::string::npos;
}

// What is left of the text before a tag with this sign: `-` strips all white space; otherwise
// lstrip_blocks strips an indentation, unless the tag prints something.
std::string_view Lexer::TextBefore(std::string_view text, char sign, bool variable) const {
  if (sign == '-') return WithoutTrailingSpace(text);
  if (sign == '+' || variable) return text;
  const size_t newline = text.rfind('\n');
  const size_t begin = newline == text.npos ? 0 : newline + 1;
  if (begin == 0 && !line_starting_) return text;
  return LeadingSpace(text.substr(begin)) == text.size() - begin ? text.substr(0, begin) : text;
}

// Behind the end of a tag: `-` strips all white space, trim_blocks one newline.
void Lexer::EndTag(bool trims_space, bool trims_newline, size_t bytes) {
  const std::string_view rest = Rest().substr(bytes);
  if (trims_space) {
    bytes += LeadingSpace(rest);
  } else if (trims_newline && rest.starts_with("\n")) {
    ++bytes;
  }
  Advance(bytes);
}

absl::Status Lexer::LexComment() {
  const int line = line_;
  const size_t end = source_.find("#}", at_);
  if (end == std::string::npos) {
    // jinja2 misses the end only if something follows.
    return at_ == source_.size() ? absl::OkStatus()
                                 : SyntaxError(line, "missing end of comment tag");
  }
  const char sign = end > at_ ? source_[end - 1] : '\0';
  EndTag(sign == '-', sign != '+', end + 2 - at_);
  return absl::OkStatus();
}

// Bytes of a whole `{% raw %}` at the beginning of `tag`, 0 if it is another tag.
size_t Lexer::RawBeginBytes(std::string_view tag) const {
  size_t at = 2;
  if (at < tag.size() && (tag[at] == '-' || tag[at] == '+')) ++at;
  at += LeadingSpace(tag.substr(std::min(at, tag.size())));
  if (!tag.substr(std::min(at, tag.size())).starts_with("raw")) return 0;
  at += 3;
  at += LeadingSpace(tag.substr(at));
  if (tag.substr(at).starts_with("%}")) return at + 2;
  if (!tag.substr(at).starts_with("-%}")) return 0;
  return at + 3 + LeadingSpace(tag.substr(at + 3));
}

absl::Status Lexer::LexRaw(size_t begin_bytes) {
  const int line = line_;
  Advance(begin_bytes);
  for (size_t tag = source_.find("{%", at_); tag != std::string::npos;
       tag = source_.find("{%", tag + 1)) {
    const std::string_view text = std::string_view(source_).substr(tag);
    size_t at = 2;
    const char sign = at < text.size() ? text[at] : '\0';
    if (sign == '-' || sign == '+') ++at;
    at += LeadingSpace(text.substr(std::min(at, text.size())));
    if (!text.substr(std::min(at, text.size())).starts_with("endraw")) continue;
    at += 6;
    at += LeadingSpace(text.substr(at));
    const char end_sign = at < text.size() ? text[at] : '\0';
    if (end_sign == '-' || end_sign == '+') ++at;
    if (!text.substr(at).starts_with("%}")) continue;
    AddData(TextBefore(std::string_view(source_).substr(at_, tag - at_), sign, false), line_);
    EndTag(end_sign == '-', end_sign != '+', tag - at_ + at + 2);
    return absl::OkStatus();
  }
  return at_ == source_.size() ? absl::OkStatus()
                               : SyntaxError(line, "missing end of raw directive");
}

bool Lexer::LexTagEnd(bool block) {
  const std::string_view close = block ? "%}" : "}}";
  const bool minus = Follows(block ? "-%}" : "-}}");
  const bool plus = block && Follows("+%}");
  if (!minus && !plus && !Follows(close)) return false;
  tokens_.push_back(
      {block ? TokenKind::kBlockEnd : TokenKind::kVariableEnd, line_, std::string(close)});
  EndTag(minus, block && !plus, minus || plus ? 3 : 2);
  return true;
}

absl::Status Lexer::LexNumber() {
  static constexpr IntegerForm kForms[] = {{"0b", 2}, {"0o", 8}, {"0x", 16}};
  const bool after_dot = at_ > 0 && source_[at_ - 1] == '.';
  if (const size_t bytes = after_dot ? 0 : FloatBytes(Rest())) {
    std::string digits(Rest().substr(0, bytes));
    digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
    Token token{TokenKind::kFloat, line_, digits};
    if (!absl::SimpleAtod(digits, &token.number)) return SyntaxError(line_, "malformed number");
    tokens_.push_back(std::move(token));
    Advance(bytes);
    return absl::OkStatus();
  }
  int base = 10;
  size_t prefix = 0, bytes = 0;
  for (const IntegerForm& form : kForms) {
    if (!Follows("0") || at_ + 1 == source_.size() ||
        absl::ascii_tolower(source_[at_ + 1]) != form.prefix[1]) {
      continue;
    }
    const auto is_digit = form.base == 2   ? [](char c) { return c == '0' || c == '1'; }
                          : form.base == 8 ? [](char c) { return c >= '0' && c <= '7'; }
                                           : [](char c) -> bool { return absl::ascii_isxdigit(c); };
    const std::string_view digits = Rest().substr(2);
    const size_t underscore = digits.starts_with("_") ? 1 : 0;
    bytes = DigitRun(digits.substr(underscore), is_digit);
    if (bytes == 0) continue;
    bytes += underscore;
    prefix = 2, base = form.base;
    break;
  }
  if (prefix == 0) {
    bytes = Follows("0") ? DigitRun(Rest(), [](char c) { return c == '0'; })
                         : DigitRun(Rest(), IsDecimal);
  }
  const auto value = ParseDigits(Rest().substr(prefix, bytes), base);
  if (!value) return SyntaxError(line_, "integers beyond 128 bits are not supported");
  tokens_.push_back(
      {TokenKind::kInteger, line_, std::string(Rest().substr(0, prefix + bytes)), *value});
  Advance(prefix + bytes);
  return absl::OkStatus();
}

absl::Status Lexer::LexString() {
  const char quote = source_[at_];
  Token token{TokenKind::kString, line_, ""};
  size_t end = at_ + 1;
  while (end < source_.size() && source_[end] != quote) {
    if (source_[end] != '\\') {
      token.text.push_back(source_[end++]);
      continue;
    }
    const size_t bytes = AppendEscape(std::string_view(source_).substr(end), token.text);
    if (bytes == 0) return SyntaxError(line_, "malformed or unsupported escape in a string");
    end += bytes;
  }
  if (end >= source_.size()) return SyntaxError(line_, "a string does not end");
  tokens_.push_back(std::move(token));
  Advance(end + 1 - at_);
  return absl::OkStatus();
}

absl::Status Lexer::LexOperator() {
  static constexpr std::string_view kOperators[] = {
      "**", "//", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", "[",
      "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};
  for (const std::string_view op : kOperators) {
    if (!Follows(op)) continue;
    if (op == "{") brackets_.push_back('}');
    if (op == "(") brackets_.push_back(')');
    if (op == "[") brackets_.push_back(']');
    if (op == "}" || op == ")" || op == "]") {
      if (brackets_.empty()) return SyntaxError(line_, StrCat("unexpected '", op, "'"));
      if (brackets_.back() != op[0]) {
        return SyntaxError(line_, StrCat("unexpected '", op, "', expected '",
                                         brackets_.substr(brackets_.size() - 1), "'"));
      }
      brackets_.pop_back();
    }
    tokens_.push_back({TokenKind::kOperator, line_, std::string(op)});
    Advance(op.size());
    return absl::OkStatus();
  }
  return SyntaxError(
      line_, StrCat("unexpected character '", Rest().substr(0, CharacterBytes(source_[at_])), "'"));
}

absl::Status Lexer::LexTagToken() {
  const char c = source_[at_];
  if (const size_t space = LeadingSpace(Rest())) return Advance(space), absl::OkStatus();
  if (IsDecimal(c)) return LexNumber();
  if (c == '\'' || c == '"') return LexString();
  if (!IsNameByte(c)) return LexOperator();
  const std::string_view rest = Rest();
  const auto* const end = std::find_if_not(rest.begin(), rest.end(), IsNameByte);
  const std::string_view name = rest.substr(0, end - rest.begin());
  constexpr size_t kMaxNameBytes = 1024;
  if (name.size() > kMaxNameBytes) {
    return SyntaxError(line_, StrCat("a name of more than ", kMaxNameBytes, " bytes"));
  }
  tokens_.push_back({TokenKind::kName, line_, std::string(name)});
  Advance(name.size());
  return absl::OkStatus();
}

absl::Status Lexer::LexTag(bool block) {
  // A bracket that is left open keeps the tag from ending; the parser sees the end of the source.
  while (at_ < source_.size()) {
    if (brackets_.empty() && LexTagEnd(block)) return absl::OkStatus();
    LONGSPAN_RETURN_IF_ERROR(LexTagToken());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Token>> Lexer::Run() {
  while (at_ < source_.size()) {
    const size_t tag = FindTag();
    if (tag == std::string::npos) {
      AddData(Rest(), line_);
      Advance(Rest().size());
      break;
    }
    const char kind = source_[tag + 1];
    const size_t raw = kind == '%' ? RawBeginBytes(std::string_view(source_).substr(tag)) : 0;
    char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    if (sign != '-' && sign != '+') sign = '\0';
    const std::string_view text = std::string_view(source_).substr(at_, tag - at_);
    AddData(TextBefore(text, sign, kind == '{'), line_);
    Advance(tag - at_);
    if (raw > 0) {
      LONGSPAN_RETURN_IF_ERROR(LexRaw(raw));
      continue;
    }
    if (kind != '#') {
      tokens_.push_back({kind == '%' ? TokenKind::kBlockBegin : TokenKind::kVariableBegin, line_,
                         std::string(source_, at_, 2)});
    }
    Advance(sign == '\0' ? 2 : 3);
    LONGSPAN_RETURN_IF_ERROR(kind == '#' ? LexComment() : LexTag(kind == '%'));
  }
  tokens_.push_back({TokenKind::kEnd, line_, ""});
  return std::move(tokens_);
}

}  // namespace

absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source) {
  std::string text = NormalizeNewlines(source);
  if (text.ends_with("\n")) text.pop_back();
  return Lexer(std::move(text)).Run();
}

}  // namespace longspan::jinja
