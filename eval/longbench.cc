#include "eval/longbench.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "eval/benchmark.h"
#include "eval/rouge.h"
#include "eval/text_metrics.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

// Few-shot answers go on with further examples.
absl::string_view FirstLine(absl::string_view answer) {
  while (absl::ConsumePrefix(&answer, "\n")) {
  }
  return answer.substr(0, answer.find('\n'));
}

template <Scorer kScorer>
double OfFirstLine(absl::string_view answer, const EvalCase& expected) {
  return kScorer(FirstLine(answer), expected);
}

// The share of the answer's numbers that are the reference's last.
double ShareOfNumbers(absl::string_view answer, absl::string_view reference) {
  const std::vector<std::string> given = DigitRuns(answer), wanted = DigitRuns(reference);
  if (given.empty() || wanted.empty()) return 0;
  const auto right = std::count(given.begin(), given.end(), wanted.back());
  return static_cast<double>(right) / static_cast<double>(given.size());
}

// One over the classes that the answer names, if the right one is among them. A class that is a
// part of the right one's name does not count, but for the one that is named next to another such,
// in the order of all classes: as published.
double ShareOfClasses(absl::string_view answer, const EvalCase& expected) {
  double best = 0;
  for (const std::string& reference : expected.answers) {
    std::vector<absl::string_view> named;
    for (const std::string& name : expected.choices) {
      if (absl::StrContains(answer, name)) named.push_back(name);
    }
    for (size_t i = 0; i < named.size(); ++i) {  // over the next one, where one is taken out
      if (named[i] != reference && absl::StrContains(reference, named[i])) {
        named.erase(named.begin() + static_cast<int64_t>(i));
      }
    }
    if (std::find(named.begin(), named.end(), reference) == named.end()) continue;
    best = std::max(best, 1.0 / static_cast<double>(named.size()));
  }
  return best;
}

// Of the first line that has code and no comment.
double CodeSimilarity(absl::string_view answer, absl::string_view reference) {
  while (absl::ConsumePrefix(&answer, "\n")) {
  }
  for (const absl::string_view line : absl::StrSplit(answer, '\n')) {
    if (absl::StrContains(line, "`") || absl::StrContains(line, "#") ||
        absl::StrContains(line, "//")) {
      continue;
    }
    return Similarity(line, reference);
  }
  return Similarity("", reference);
}

constexpr absl::string_view kPassages =
    "The passages below answer a question. Reply with the answer alone.\n\n{context}\n\nUsing the "
    "passages above, reply with the answer alone.\n\nQuestion: {input}\nAnswer:";

constexpr absl::string_view kNextLine =
    "Here is the beginning of a program. \n{context}{input}The line of code that comes next:\n";

constexpr BenchmarkForm kForms[] = {
    {"narrativeqa", 128,
     "Below are a story, a novel or a film script, and a question. Reply in as few words as "
     "possible and explain nothing.\n\nStory: {context}\n\nReply to the question about the story "
     "in "
     "as few words as possible and explain nothing.\n\nQuestion: {input}\n\nAnswer:",
     Best<WordF1>},
    {"qasper", 128,
     "Below are a scientific article and a question. Reply with one phrase or sentence and explain "
     "nothing. Where the article does not tell, reply \"unanswerable\"; to a yes/no question reply "
     "\"yes\", \"no\" or \"unanswerable\".\n\nArticle: {context}\n\nReply to the question about "
     "the "
     "article as said above.\n\nQuestion: {input}\n\nAnswer:",
     Best<WordF1>},
    {"multifieldqa_en", 64,
     "Read this text.\n\n{context}\n\nReply to the question about the text with the answer "
     "alone.\n\nQuestion: {input}\nAnswer:",
     Best<WordF1>},
    {"hotpotqa", 32, kPassages, Best<WordF1>},
    {"2wikimqa", 32, kPassages, Best<WordF1>},
    {"musique", 32, kPassages, Best<WordF1>},
    {"gov_report", 512,
     "Below is a report of a government agency.\n\nReport:\n{context}\n\nWrite a summary of the "
     "report of one page.\n\nSummary:",
     Best<RougeL>},
    {"qmsum", 512,
     "Below are the transcript of a meeting and a query about "
     "it.\n\nTranscript:\n{context}\n\nReply "
     "to the query in one or several sentences.\n\nQuery: {input}\nAnswer:",
     Best<RougeL>},
    {"multi_news", 512,
     "Below are passages of several news.\n\nNews:\n{context}\n\nWrite a summary of all the news "
     "of "
     "one page.\n\nSummary:",
     Best<RougeL>},
    {"trec", 64, "Tell the type of the last question, as in these examples.\n\n{context}\n{input}",
     OfFirstLine<ShareOfClasses>, true},
    {"triviaqa", 32,
     "Reply to the last question about its passage with the answer alone, as in these "
     "examples.\n\n{context}\n\n{input}",
     OfFirstLine<Best<WordF1>>, true},
    {"samsum", 128,
     "Sum up the last dialogue in a few short sentences, as in these examples.\n\n{context}\n\n"
     "{input}",
     OfFirstLine<Best<RougeL>>, true},
    {"lsht", 64, "说出最后一条新闻的类别，如下面的例子所示。\n\n{context}\n{input}",
     OfFirstLine<ShareOfClasses>, true},
    {"passage_count", 32,
     "Below are paragraphs of Wikipedia, some of them several times. Find out how many different "
     "ones there are.\n\n{context}\n\nReply with the number of different paragraphs alone, such as "
     "1, 2 or 3.\n\nThe number is: ",
     Best<ShareOfNumbers>},
    {"passage_retrieval_en", 32,
     "Below are 30 paragraphs of Wikipedia and an abstract of one of them. Find out of "
     "which.\n\n{context}\n\nThe abstract:\n\n{input}\n\nReply with the number of the paragraph, "
     "in "
     "the form \"Paragraph 1\".\n\nThe answer is: ",
     Best<ShareOfNumbers>},
    {"passage_retrieval_zh", 32,
     "下面是一些段落，以及其中一段的摘要。找出是哪一段。\n\n{context}\n\n摘要：\n\n{input}\n\n"
     "只回答段落的编号，格式如\"段落1\"。\n\n答案是：",
     Best<ShareOfNumbers>},
    {"lcc", 64, kNextLine, Best<CodeSimilarity>, true},
    {"repobench-p", 64, kNextLine, Best<CodeSimilarity>, true},
};

constexpr absl::string_view kOfChineseWords[] = {"multifieldqa_zh", "dureader", "vcsum"};

absl::StatusOr<BenchmarkRecord> RecordOf(const JsonLine& line, const std::string& file,
                                         const BenchmarkForm& form) {
  BenchmarkRecord record;
  LONGSPAN_ASSIGN_OR_RETURN(std::string context, TextOf(line, file, "context"));
  LONGSPAN_ASSIGN_OR_RETURN(record.question, TextOf(line, file, "input"));
  LONGSPAN_ASSIGN_OR_RETURN(record.answers, TextsOf(line, file, "answers"));
  if (form.score == OfFirstLine<ShareOfClasses>) {
    LONGSPAN_ASSIGN_OR_RETURN(record.choices, TextsOf(line, file, "all_classes"));
  }
  record.parts = {{"{context}", std::move(context)}, {"{input}", record.question}};
  return record;
}

}  // namespace

absl::StatusOr<CaseSource> OpenLongBench(const std::string& file, const PromptMaterial& material) {
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<JsonLine> lines, ReadJsonLines(file));
  LONGSPAN_ASSIGN_OR_RETURN(const std::string named, TextOf(lines[0], file, "dataset"));
  const absl::string_view name = absl::StripSuffix(named, "_e");
  if (std::find(std::begin(kOfChineseWords), std::end(kOfChineseWords), name) !=
      std::end(kOfChineseWords)) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": the metrics of ", name,
                     " count Chinese words, which need a segmenter that longspan has not"));
  }
  LONGSPAN_ASSIGN_OR_RETURN(const BenchmarkForm* form, FindForm(kForms, name, file));
  std::vector<BenchmarkRecord> records;
  for (const JsonLine& line : lines) {
    LONGSPAN_ASSIGN_OR_RETURN(const std::string dataset, TextOf(line, file, "dataset"));
    if (dataset != named) {
      return BadLine(file, line.number, "dataset",
                     absl::StrCat(named, ", as in the file's first line: one data set a file"));
    }
    LONGSPAN_ASSIGN_OR_RETURN(records.emplace_back(), RecordOf(line, file, *form));
  }
  return RecordCases("longbench", *form, file, std::move(records), material);
}

}  // namespace longspan
