#include "eval/infinitebench.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"
#include "eval/benchmark.h"
#include "eval/rouge.h"
#include "eval/text_metrics.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

constexpr absl::string_view kLetters = "ABCD";
// What separates words of an answer, beside spaces.
constexpr absl::string_view kSeparators = " \t\r\n:\"'.,?!{}";

std::vector<std::string> WordsOf(absl::string_view answer, absl::string_view separators) {
  return absl::StrSplit(answer, absl::ByAnyChar(separators), absl::SkipEmpty());
}

bool Has(const std::vector<std::string>& words, absl::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

double FirstInteger(absl::string_view answer, const EvalCase& expected) {
  const std::vector<std::string> runs = DigitRuns(answer);
  return !runs.empty() && runs[0] == expected.answers[0];
}

double NamesWord(absl::string_view answer, const EvalCase& expected) {
  return Has(WordsOf(answer, kSeparators), expected.answers[0]);
}

double NamesUpperCaseWord(absl::string_view answer, const EvalCase& expected) {
  return Has(WordsOf(UpperCase(answer), kSeparators), UpperCase(expected.answers[0]));
}

double LastInteger(absl::string_view answer, const EvalCase& expected) {
  const std::vector<std::string> words = WordsOf(answer, " \t\r\n.`'\":");
  int64_t given = 0, wanted = 0;
  return !words.empty() && absl::SimpleAtoi(words.back(), &given) &&
         absl::SimpleAtoi(expected.answers[0], &wanted) && given == wanted;
}

// The first number without a sign, with its decimals if it has any.
double FirstNumber(absl::string_view answer, const EvalCase& expected) {
  const auto is_digit = [](char c) { return absl::ascii_isdigit(static_cast<unsigned char>(c)); };
  const auto begin = std::find_if(answer.begin(), answer.end(), is_digit);
  auto end = std::find_if_not(begin, answer.end(), is_digit);
  if (end != answer.end() && *end == '.' && end + 1 != answer.end() && is_digit(end[1])) {
    end = std::find_if_not(end + 1, answer.end(), is_digit);
  }
  double given = 0, wanted = 0;
  const absl::string_view number = answer.substr(begin - answer.begin(), end - begin);
  return absl::SimpleAtod(number, &given) && absl::SimpleAtod(expected.answers[0], &wanted) &&
         (absl::StrContains(expected.answers[0], ".") ? given : std::trunc(given)) == wanted;
}

// The share of the expected numbers before the first that is wrong.
double NumbersInOrder(absl::string_view answer, const EvalCase& expected) {
  std::vector<std::string> given = DigitRuns(answer);
  for (std::string& number : given) {  // as it would be printed
    number.erase(0, std::min(number.find_first_not_of('0'), number.size() - 1));
  }
  const auto wrong =
      std::mismatch(given.begin(), given.end(), expected.answers.begin(), expected.answers.end());
  return static_cast<double>(wrong.second - expected.answers.begin()) /
         static_cast<double>(expected.answers.size());
}

// With a space in place of each of these, and of several spaces.
std::string WithSpacesFor(absl::Span<const absl::string_view> marks, absl::string_view answer) {
  std::vector<std::pair<absl::string_view, absl::string_view>> replacements;
  for (const absl::string_view mark : marks) replacements.emplace_back(mark, " ");
  std::string text;
  for (const char c : absl::StrReplaceAll(answer, replacements)) {
    if (c != ' ' || text.empty() || text.back() != ' ') text += c;
  }
  return text;
}

// Where several options are given, the expected answers are the right one's text and letter.
bool IsRight(absl::string_view choice, const EvalCase& expected) {
  return choice == expected.answers[0] || choice == expected.answers[1];
}

// Whether the right option follows the first of `prefixes`, in their order, that the answer has,
// and one character more; unset: it has none.
std::optional<bool> NamesRightBehind(absl::Span<const absl::string_view> prefixes,
                                     absl::string_view answer, const EvalCase& expected) {
  for (const absl::string_view prefix : prefixes) {
    const size_t at = answer.find(prefix);
    if (at == answer.npos) continue;
    const auto behind = answer.substr(std::min(answer.size(), at + prefix.size() + 1));
    return absl::StartsWith(behind, expected.answers[0]) ||
           absl::StartsWith(behind, expected.answers[1]);
  }
  return std::nullopt;
}

double ChosenFunction(absl::string_view answer, const EvalCase& expected) {
  constexpr absl::string_view kMarks[] = {"\n", "`", "'", "\"", "-", "*", "Option", "option"};
  constexpr absl::string_view kPrefixes[] = {"answer is:", "is:", "answer:", "correct option is:"};
  answer = absl::StripAsciiWhitespace(answer);
  const std::string& letter = expected.answers[1];
  if (absl::StartsWith(answer, letter + ".") || absl::StartsWith(answer, letter + ":")) return 1;
  return NamesRightBehind(kPrefixes, WithSpacesFor(kMarks, answer), expected).value_or(false);
}

double ChosenLetter(absl::string_view answer, const EvalCase& expected) {
  constexpr absl::string_view kMarks[] = {"\n", "\"", "'", ".", ",", "?", "!", "{", "}"};
  constexpr absl::string_view kPrefixes[] = {"answer is:", "answer:", "answer is", "option is"};
  answer = absl::StripAsciiWhitespace(answer);
  if (answer.empty()) return 0;
  if (absl::StrContains(kLetters, answer[0])) return IsRight(answer.substr(0, 1), expected);
  if (IsRight(answer, expected)) return 1;
  const std::string plain = WithSpacesFor(kMarks, answer);
  if (const auto is_right = NamesRightBehind(kPrefixes, plain, expected)) return *is_right;
  for (const std::string& word : WordsOf(plain, " \t\r\n")) {
    if (absl::StrContains(kLetters, word)) return IsRight(word, expected);
  }
  return 0;
}

constexpr BenchmarkForm kForms[] = {
    {"passkey", 6,
     "A long irrelevant text hides one important thing. Find it and keep it in mind: you will be "
     "asked about it.\n\n{context}\n\n{input}\n\nThe pass key is",
     FirstInteger},
    {"number_string", 12,
     "A long irrelevant text hides one important thing. Find it and keep it in mind: you will be "
     "asked about it.\n\n{context}\n\n{input}\n\nThe sequence of digits is",
     FirstInteger},
    {"kv_retrieval", 50,
     "Find the value of the given key in this JSON object.\n\n{context}\n\n{input}", NamesWord},
    {"longbook_sum_eng", 1200, "Sum up this book.\n\n{context}\n\nSummary:", Best<RougeLsum>},
    {"longbook_choice_eng", 40,
     "Read this book and choose the answer to a question.\n\n{context}\n\nQuestion: "
     "{question}\nA. {OPTION_A}\nB. {OPTION_B}\nC. {OPTION_C}\nD. {OPTION_D}\n\nThe letter of the "
     "right answer is",
     ChosenLetter},
    {"longbook_qa_eng", 40,
     "Read this book and answer a question in as few words as possible.\n\n{context}\n\nQuestion: "
     "{question}\nAnswer:",
     Best<WordF1>},
    {"longbook_qa_chn", 40,
     "阅读下面的书，简短地回答问题。\n\n{context}\n\n问题：{question}\n答案：", Best<CharacterF1>},
    {"longdialogue_qa_eng", 40,
     "In this dialogue the name of one character is replaced with \"$$MASK$$\" at one place. Find "
     "out who it is.\n\n{context}\n\nThe name behind $$MASK$$ is most likely",
     NamesUpperCaseWord},
    {"math_find", 3, "{input}\n\n{context}\n\n{input}", FirstNumber},
    {"math_calc", 30000,
     "Compute each intermediate value of an expression.\n\nExpression: 1 + 3 + 4\nValues: [1, 4, "
     "8]\n\nExpression: 8 - 3 + 2 - 4\nValues: [8, 5, 7, 3]\n\nExpression: {context}\nValues:",
     NumbersInOrder},
    {"code_run", 5, "Here are functions in Python.\n\n{context}\n\n{input} The value is",
     LastInteger},
    {"code_debug", 5,
     "One function of this Python code has an error that was put in on purpose and makes it "
     "crash.\n\n{context}\n\nOptions:\nA. {OPTION_A}\nB. {OPTION_B}\nC. {OPTION_C}\nD. "
     "{OPTION_D}\n\nThe right option is:",
     ChosenFunction},
};

bool HasOptions(const BenchmarkForm& form) {
  return form.score == ChosenLetter || form.score == ChosenFunction;
}

// Makes the answers the right option's text and letter, unless they are that.
absl::Status ReadOptions(const JsonLine& line, const std::string& file, BenchmarkRecord* record) {
  LONGSPAN_ASSIGN_OR_RETURN(record->choices, TextsOf(line, file, "options"));
  const std::vector<std::string>& options = record->choices;
  if (options.size() != kLetters.size()) {
    return BadLine(file, line.number, "options", "a list of four texts");
  }
  for (size_t i = 0; i < options.size(); ++i) {
    record->parts.emplace_back(absl::StrCat("{OPTION_", kLetters.substr(i, 1), "}"), options[i]);
  }
  std::vector<std::string>& answers = record->answers;
  if (answers.size() == 2 && answers[1].size() == 1 && absl::StrContains(kLetters, answers[1])) {
    return absl::OkStatus();
  }
  const auto right = std::find(options.begin(), options.end(), answers[0]);
  if (right == options.end()) {
    return BadLine(file, line.number, "answer", "one of the texts in `options`");
  }
  answers = {*right, std::string(kLetters.substr(right - options.begin(), 1))};
  return absl::OkStatus();
}

absl::string_view DigitsFrom(absl::string_view text) {
  const auto end = std::find_if_not(text.begin(), text.end(), [](char c) {
    return absl::ascii_isdigit(static_cast<unsigned char>(c));
  });
  return text.substr(0, end - text.begin());
}

// The first `func_N(M)` of the text, M an integer, and the length of its name. Empty: there is
// none.
std::pair<absl::string_view, size_t> FirstCall(absl::string_view text) {
  constexpr absl::string_view kStart = "func_";
  for (size_t at = 0; (at = text.find(kStart, at)) != text.npos; ++at) {
    const size_t name = kStart.size() + DigitsFrom(text.substr(at + kStart.size())).size();
    absl::string_view rest = text.substr(at + name);
    if (name == kStart.size() || !absl::ConsumePrefix(&rest, "(")) continue;
    absl::ConsumePrefix(&rest, "-");
    const size_t digits = DigitsFrom(rest).size();
    rest.remove_prefix(digits);
    if (digits == 0 || !absl::ConsumePrefix(&rest, ")")) continue;
    return {text.substr(at, rest.data() - (text.data() + at)), name};
  }
  return {};
}

// The first "The ...", up to the last " of" behind it in its line. Empty: there is none.
absl::string_view BeforeLastOf(absl::string_view text) {
  constexpr absl::string_view kStart = "The ", kEnd = " of";
  for (size_t at = 0; (at = text.find(kStart, at)) != text.npos; ++at) {
    const absl::string_view line = text.substr(at, text.find('\n', at) - at);
    const size_t end = line.rfind(kEnd);
    if (end != line.npos && end > kStart.size()) return line.substr(0, end);
  }
  return {};
}

// What the benchmark's own prompts have of the line's input: of `code_run` the call, such as
// "func_12(-3)", and its function, of `math_find` a question without the instructions.
void AddPartsOfInput(const BenchmarkForm& form, BenchmarkRecord* record) {
  const std::string& input = record->question;
  const auto [call, name] = FirstCall(input);
  if (form.name == "code_run" && !call.empty()) {
    record->parts.emplace_back("{func_call}", call);
    record->parts.emplace_back("{func}", call.substr(0, name));
  }
  const absl::string_view asked = BeforeLastOf(input);
  if (form.name == "math_find" && !asked.empty()) {
    record->parts.emplace_back(
        "{prefix}", absl::StrCat("What is ", LowerCase(asked), " in the following list?"));
  }
}

absl::StatusOr<BenchmarkRecord> RecordOf(const JsonLine& line, const std::string& file,
                                         const BenchmarkForm& form) {
  BenchmarkRecord record;
  LONGSPAN_ASSIGN_OR_RETURN(std::string context, TextOf(line, file, "context"));
  LONGSPAN_ASSIGN_OR_RETURN(record.question, TextOf(line, file, "input"));
  LONGSPAN_ASSIGN_OR_RETURN(record.answers, TextsOf(line, file, "answer"));
  record.parts = {{"{context}", std::move(context)},
                  {"{input}", record.question},
                  {"{question}", record.question}};
  AddPartsOfInput(form, &record);
  if (HasOptions(form)) LONGSPAN_RETURN_IF_ERROR(ReadOptions(line, file, &record));
  return record;
}

}  // namespace

absl::StatusOr<CaseSource> OpenInfiniteBench(const std::string& file,
                                             const PromptMaterial& material) {
  const std::string name = std::filesystem::path(file).stem().string();
  const absl::StatusOr<const BenchmarkForm*> found = FindForm(kForms, name, file);
  if (!found.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(found.status().message(), "; the file must be called as its data set is"));
  }
  const BenchmarkForm& form = **found;
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<JsonLine> lines, ReadJsonLines(file));
  std::vector<BenchmarkRecord> records;
  for (const JsonLine& line : lines) {
    LONGSPAN_ASSIGN_OR_RETURN(records.emplace_back(), RecordOf(line, file, form));
  }
  return RecordCases("infinitebench", form, file, std::move(records), material);
}

}  // namespace longspan
