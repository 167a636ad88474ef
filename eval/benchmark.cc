#include "eval/benchmark.h"

#include <algorithm>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "eval/haystack.h"
#include "kernels/base/status_macros.h"
#include "runtime/json_file.h"
#include "runtime/read_bytes.h"

namespace longspan {
namespace {

// What all cases of a file share.
struct Records {
  std::string prompt;
  std::optional<ChatFrame> chat;  // around it
  int64_t max_tokens;
  std::vector<BenchmarkRecord> records;
};

// What is left of a prompt has a beginning and an end.
absl::Status CheckLength(const CaseId& id) {
  constexpr int64_t kLeast = 16;
  if (id.length >= kLeast) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(id.length, " tokens are no prompt; use ", kLeast, " or more"));
}

void CutMiddle(int64_t most, std::vector<int32_t>* ids) {
  const auto surplus = static_cast<int64_t>(ids->size()) - most;
  if (surplus <= 0) return;
  const auto cut = ids->begin() + most / 2;
  ids->erase(cut, cut + surplus);
}

std::string FillIn(absl::string_view prompt, const BenchmarkRecord& record) {
  std::vector<std::pair<absl::string_view, absl::string_view>> parts = {{"{{", "{"}, {"}}", "}"}};
  parts.insert(parts.end(), record.parts.begin(), record.parts.end());
  return absl::StrReplaceAll(prompt, parts);
}

absl::StatusOr<std::vector<int32_t>> EncodeRecord(const Records& records,
                                                  const BenchmarkRecord& record,
                                                  const Tokenizer& tokenizer) {
  const ChatFrame chat = records.chat.value_or(ChatFrame());
  // A chat template writes special tokens itself.
  return tokenizer.Encode(absl::StrCat(chat.before, FillIn(records.prompt, record), chat.behind),
                          /*add_special_tokens=*/false);
}

absl::StatusOr<EvalCase> MakeRecordCase(const Records& records, const PromptMaterial& material,
                                        const CaseId& id) {
  const BenchmarkRecord& record = records.records.at(static_cast<size_t>(id.index));
  EvalCase made;
  if (!records.chat) {
    LONGSPAN_ASSIGN_OR_RETURN(made.prompt, BeginningOfPrompt(material.tokenizer));
  }
  LONGSPAN_RETURN_IF_ERROR(CheckLength(id));
  const int64_t room = id.length - static_cast<int64_t>(made.prompt.size());
  LONGSPAN_ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                            EncodeRecord(records, record, material.tokenizer));
  CutMiddle(room, &ids);
  made.prompt.insert(made.prompt.end(), ids.begin(), ids.end());
  made.question = record.question;
  made.answers = record.answers;
  made.choices = record.choices;
  made.max_tokens = records.max_tokens;
  made.is_chat = records.chat.has_value();
  return made;
}

// The names in a prompt, with their brackets. What follows a bracket that is never closed is one.
std::vector<absl::string_view> NamesOf(absl::string_view prompt) {
  std::vector<absl::string_view> names;
  for (size_t at = 0; (at = prompt.find_first_of("{}", at)) != prompt.npos;) {
    size_t length = 2;
    if (prompt.substr(at, 2) != "{{" && prompt.substr(at, 2) != "}}") {
      length = std::min(prompt.find('}', at), prompt.size() - 1) + 1 - at;
      names.push_back(prompt.substr(at, length));
    }
    at += length;
  }
  return names;
}

absl::Status CheckNames(const Records& shared, const BenchmarkForm& form, const std::string& file) {
  for (const absl::string_view name : NamesOf(shared.prompt)) {
    for (const BenchmarkRecord& record : shared.records) {
      const auto is_it = [&](const auto& part) { return part.first == name; };
      if (std::any_of(record.parts.begin(), record.parts.end(), is_it)) continue;
      const auto append = [](std::string* out, const auto& part) {
        absl::StrAppend(out, part.first);
      };
      return absl::InvalidArgumentError(absl::StrCat(
          "--prompts: nothing stands for ", name, " in the prompt of `", form.name, "`: case ",
          &record - shared.records.data() + 1, " of ", file, " has ",
          absl::StrJoin(record.parts, ", ", append), "; brackets that are meant are doubled"));
    }
  }
  return absl::OkStatus();
}

bool AppendText(const nlohmann::json& value, std::vector<std::string>* texts) {
  if (value.is_string()) {
    texts->push_back(value);
  } else if (value.is_number()) {
    texts->push_back(value.dump());
  } else {
    return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<std::vector<JsonLine>> ReadJsonLines(const std::string& path) {
  std::string text;
  LONGSPAN_RETURN_IF_ERROR(ReadBytes(path, 0, -1, &text));
  std::vector<JsonLine> lines;
  int64_t number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    absl::StatusOr<nlohmann::json> object = ParseJsonObject({line.data(), line.size()});
    if (!object.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ":", number, ": ", object.status().message()));
    }
    lines.push_back({number, *std::move(object)});
  }
  if (lines.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": has no lines"));
  return lines;
}

absl::Status BadLine(const std::string& path, int64_t number, absl::string_view key,
                     absl::string_view expected) {
  return absl::InvalidArgumentError(
      absl::StrCat(path, ":", number, ": `", key, "` must be ", expected));
}

absl::StatusOr<std::string> TextOf(const JsonLine& line, const std::string& path,
                                   const std::string& key) {
  const auto found = line.object.find(key);
  if (found != line.object.end() && found->is_string()) return found->get<std::string>();
  return BadLine(path, line.number, key, "a text");
}

absl::StatusOr<std::vector<std::string>> TextsOf(const JsonLine& line, const std::string& path,
                                                 const std::string& key) {
  std::vector<std::string> texts;
  const auto found = line.object.find(key);
  bool is_good = found != line.object.end();
  if (is_good && found->is_array()) {
    const bool is_nested = !found->empty() && found->front().is_array();
    const nlohmann::json& list = is_nested ? found->front() : *found;
    is_good = !list.empty();
    for (const nlohmann::json& value : list) is_good = is_good && AppendText(value, &texts);
  } else if (is_good) {
    is_good = AppendText(*found, &texts);
  }
  if (is_good) return texts;
  return BadLine(path, line.number, key, "a text, a number or a list of them");
}

absl::StatusOr<const BenchmarkForm*> FindForm(absl::Span<const BenchmarkForm> forms,
                                              absl::string_view name, const std::string& path) {
  const auto found = std::find_if(forms.begin(), forms.end(),
                                  [&](const BenchmarkForm& form) { return form.name == name; });
  if (found != forms.end()) return &*found;
  const auto append = [](std::string* out, const BenchmarkForm& form) {
    absl::StrAppend(out, form.name);
  };
  return absl::InvalidArgumentError(absl::StrCat(path, ": the data set `", name,
                                                 "` is not known; there are ",
                                                 absl::StrJoin(forms, ", ", append)));
}

absl::StatusOr<CaseSource> RecordCases(absl::string_view benchmark, const BenchmarkForm& form,
                                       const std::string& file,
                                       std::vector<BenchmarkRecord> records,
                                       const PromptMaterial& material) {
  auto shared = std::make_shared<Records>();
  const auto own = material.prompts.find(std::string(form.name));
  shared->prompt = own == material.prompts.end() ? std::string(form.prompt) : own->second;
  if (!form.is_continued) shared->chat = material.chat;
  shared->max_tokens = form.max_tokens;
  shared->records = std::move(records);
  LONGSPAN_RETURN_IF_ERROR(CheckNames(*shared, form, file));
  CaseSource source;
  source.label = absl::StrCat(benchmark, "/", form.name);
  source.score = form.score;
  source.most_cases = static_cast<int64_t>(shared->records.size());
  source.make = [shared, &material](const CaseId& id) {
    return MakeRecordCase(*shared, material, id);
  };
  source.measure = [shared](const CaseId& id) -> absl::StatusOr<int64_t> {
    LONGSPAN_RETURN_IF_ERROR(CheckLength(id));
    return shared->max_tokens;
  };
  return source;
}

}  // namespace longspan
