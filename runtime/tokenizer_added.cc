#include "runtime/tokenizer_added.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "kernels/base/status_macros.h"
#include "runtime/tokenizer_utf8.h"

namespace longspan {
namespace {

size_t PreviousCharacter(std::string_view text, size_t i) {
  do --i;
  while (i > 0 && (text[i] & 0xC0) == 0x80);
  return i;
}

// Bytes of the white space character (Unicode's White_Space) that `text` begins with, otherwise 0.
size_t WhiteSpaceBytes(std::string_view text) {
  constexpr std::string_view kWide[] = {"\u0085", "\u00A0", "\u1680", "\u2000", "\u2001",
                                        "\u2002", "\u2003", "\u2004", "\u2005", "\u2006",
                                        "\u2007", "\u2008", "\u2009", "\u200A", "\u2028",
                                        "\u2029", "\u202F", "\u205F", "\u3000"};
  if (text.empty()) return 0;
  if (text[0] == ' ' || (text[0] >= '\t' && text[0] <= '\r')) return 1;
  for (std::string_view space : kWide) {
    if (text.substr(0, space.size()) == space) return space.size();
  }
  return 0;
}

size_t SkipSpaceForward(std::string_view text, size_t i) {
  while (const size_t bytes = WhiteSpaceBytes(text.substr(i))) i += bytes;
  return i;
}

// Not further back than `limit`.
size_t SkipSpaceBackward(std::string_view text, size_t i, size_t limit) {
  while (i > limit) {
    const size_t previous = PreviousCharacter(text, i);
    if (previous < limit || WhiteSpaceBytes(text.substr(previous)) == 0) break;
    i = previous;
  }
  return i;
}

// Whether the character of `text` at `i` is one of words.
absl::StatusOr<bool> IsWordCharacter(RegexMatcher& word, std::string_view text, size_t i) {
  const Utf8Step step = NextUtf8(text.substr(i));
  size_t begin, end;
  return word.Find(text.substr(i, step.length), 0, &begin, &end);
}

// Whether no character of a word touches [begin, end).
absl::StatusOr<bool> IsSingleWord(RegexMatcher& word, std::string_view text, size_t begin,
                                  size_t end) {
  if (begin > 0) {
    LONGSPAN_ASSIGN_OR_RETURN(const bool touches,
                              IsWordCharacter(word, text, PreviousCharacter(text, begin)));
    if (touches) return false;
  }
  if (end == text.size()) return true;
  LONGSPAN_ASSIGN_OR_RETURN(const bool touches, IsWordCharacter(word, text, end));
  return !touches;
}

}  // namespace

void AddedTokenMatcher::Trie::Insert(std::string_view content, int32_t index) {
  starts[static_cast<uint8_t>(content[0])] = true;
  int32_t node = 0;
  for (const char c : content) {
    const uint64_t key = static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(c);
    const auto [it, inserted] = child.try_emplace(key, static_cast<int32_t>(token.size()));
    if (inserted) token.push_back(-1);
    node = it->second;
  }
  token[node] = index;
}

int32_t AddedTokenMatcher::Trie::Longest(std::string_view text) const {
  int32_t longest = -1;
  int32_t node = 0;
  for (const char c : text) {
    const auto it = child.find(static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(c));
    if (it == child.end()) break;
    node = it->second;
    if (token[node] >= 0) longest = token[node];
  }
  return longest;
}

absl::StatusOr<AddedTokenMatcher> AddedTokenMatcher::Create(std::vector<AddedToken> tokens) {
  // Rust's regex \w, by which the library tells words.
  LONGSPAN_ASSIGN_OR_RETURN(Regex word, Regex::Compile(R"([\w\x{200C}\x{200D}])"));
  AddedTokenMatcher matcher(std::move(word));
  for (size_t i = 0; i < tokens.size(); ++i) {
    Trie& trie = tokens[i].normalized ? matcher.second_ : matcher.first_;
    trie.Insert(tokens[i].pattern, static_cast<int32_t>(i));
  }
  matcher.tokens_ = std::move(tokens);
  return matcher;
}

absl::Status AddedTokenMatcher::Split(std::string_view text, NormalizerRun& normalizer,
                                      Visit visit) const {
  return SplitBy(first_, text, [&](AddedSpan span) -> absl::Status {
    if (span.id >= 0) return visit(span);
    LONGSPAN_ASSIGN_OR_RETURN(const std::string_view normalized, normalizer.Normalize(span.text));
    return SplitBy(second_, normalized, [&](AddedSpan part) {
      part.begins_text &= span.begins_text;
      return visit(part);
    });
  });
}

absl::Status AddedTokenMatcher::SplitBy(const Trie& trie, std::string_view text,
                                        Visit visit) const {
  std::optional<RegexMatcher> word;  // made when first needed
  size_t done = 0;                   // everything before is visited
  size_t run_end = 0;                // of the white space that was last looked through
  for (size_t i = 0; i < text.size();) {
    const int32_t index =
        trie.starts[static_cast<uint8_t>(text[i])] ? trie.Longest(text.substr(i)) : -1;
    if (index < 0) {
      ++i;
      continue;
    }
    const AddedToken& token = tokens_[index];
    size_t begin = i;
    size_t end = i + token.pattern.size();
    i = end;  // also past a match that is not taken, and not past white space that it takes in
    if (token.single_word) {
      if (!word) word.emplace(word_character_);
      LONGSPAN_ASSIGN_OR_RETURN(const bool single, IsSingleWord(*word, text, begin, end));
      if (!single) continue;
    }
    if (token.lstrip) begin = std::max(done, SkipSpaceBackward(text, begin, std::min(done, begin)));
    if (token.rstrip) {
      // The end of a run of spaces is looked for once, though every space of it may be a token.
      if (end > run_end) run_end = SkipSpaceForward(text, end);
      end = std::max(end, run_end);
    }
    if (done < begin) {
      LONGSPAN_RETURN_IF_ERROR(visit({text.substr(done, begin - done), -1, done == 0}));
    }
    LONGSPAN_RETURN_IF_ERROR(visit({text.substr(begin, end - begin), token.id, begin == 0}));
    done = end;
  }
  return done < text.size() ? visit({text.substr(done), -1, done == 0}) : absl::OkStatus();
}

}  // namespace longspan
