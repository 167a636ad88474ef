#ifndef LONGSPAN_RUNTIME_TOKENIZER_REGEX_H_
#define LONGSPAN_RUNTIME_TOKENIZER_REGEX_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

// PCRE2's own types, so that its header and its macros stay in one source file.
struct pcre2_real_code_8;
struct pcre2_real_match_data_8;
struct pcre2_real_match_context_8;
struct pcre2_real_jit_stack_8;

namespace longspan {

// Rewrites a pattern from Oniguruma's Ruby syntax, which tokenizer.json is written in, to PCRE2's
// where the two differ: \s \w \h \v, script names, (?m), {,n}; `^` and `$` are of lines in both.
// InvalidArgument names constructs that mean something else in the two and are not rewritten:
// nested and POSIX classes, `&&`, {n}? and {n,m}+, options in mid-pattern, \b, back-references,
// names. Two differences remain: under (?i) a character never matches several (ß and ss), and
// characters newer than PCRE2's Unicode version (14 in PCRE2 10.42) have no properties.
absl::StatusOr<std::string> TranslateOniguruma(std::string_view pattern);

// A compiled pattern over UTF-8, safe to share between threads.
class Regex {
 public:
  // A pattern in Oniguruma's syntax.
  static absl::StatusOr<Regex> Compile(std::string_view pattern);
  // Matches `text` itself.
  static absl::StatusOr<Regex> Literal(std::string_view text);

 private:
  friend class RegexMatcher;
  explicit Regex(pcre2_real_code_8* code);
  std::shared_ptr<pcre2_real_code_8> code_;
};

// A match in a text, or what lies between two.
struct RegexSpan {
  size_t begin;
  size_t end;
  bool is_match;
};

// Memory for matching with one Regex, which it must not outlive; for one thread.
class RegexMatcher {
 public:
  explicit RegexMatcher(const Regex& regex);

  // The first match in text[from:]: true and [begin, end). `text` must be well-formed UTF-8 and
  // `from` a boundary of characters. ResourceExhausted: the pattern needs
  // more than linear time on this text.
  absl::StatusOr<bool> Find(std::string_view text, size_t from, size_t* begin, size_t* end);

  // Visits the matches in `text` and what lies between them, in order. An empty match counts unless
  // it directly follows another match.
  using VisitSpan = absl::FunctionRef<absl::Status(RegexSpan)>;
  absl::Status ForEachSpan(std::string_view text, VisitSpan visit);

 private:
  absl::Status CheckTime() const;

  std::shared_ptr<pcre2_real_code_8> code_;
  std::shared_ptr<pcre2_real_jit_stack_8> stack_;
  std::shared_ptr<pcre2_real_match_context_8> context_;
  std::shared_ptr<pcre2_real_match_data_8> data_;
  double start_seconds_;        // of this thread's processor time
  int64_t calls_ = 0;           // searches so far
  int64_t searched_bytes_ = 0;  // text behind us
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_TOKENIZER_REGEX_H_
