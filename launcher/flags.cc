#include "launcher/flags.h"

#include <algorithm>
#include <optional>

#include "absl/algorithm/container.h"
#include "absl/flags/flag.h"
#include "absl/flags/reflection.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernels/base/status_macros.h"
#include "runtime/edit_distance.h"

namespace {

// An Abseil flag keeps its last value; this one is to be given several times.
std::vector<std::string>& SetFlagValues() {
  static auto* values = new std::vector<std::string>;
  return *values;
}

}  // namespace

ABSL_FLAG(
    std::string, batch, "1",
    "bench: sequences that are decoded together, or prompts, or rows of the kernels. scale: "
    "prompts that run together; several numbers, separated by commas, are a grid. plan: sequences "
    "that decode together");
ABSL_FLAG(std::string, context, "262144",
          "bench: tokens of the prompt, or of what is in the cache; several, separated by commas, "
          "are measured one after the other. scale and plan: tokens of each prompt; several, "
          "separated by commas, are a grid");
ABSL_FLAG(std::string, config, "", "YAML file of the run; configs/needle.yaml explains every key");
ABSL_FLAG(
    std::string, file, "",
    "ask: the document, a text file; `-` is standard input. scale: a text file that prompts are "
    "cut from, again and again if it is short; random tokens if it is not given");
ABSL_FLAG(std::string, format, "table",
          "bench and calibrate: table, csv or json. plan: table or json. eval: of `eval report`, "
          "table, markdown or json");
ABSL_FLAG(
    std::string, input, "",
    "generate: JSONL of requests; `-` is standard input. calibrate: a text, or a .jsonl file of "
    "objects with `prompt` or `text`, a string");
ABSL_FLAG(std::string, host, "", "Address to listen on; wins over the config's `server.host`");
ABSL_FLAG(int64_t, max_tokens, 64, "Tokens of the answer, at most");
ABSL_FLAG(
    std::string, method, "",
    "scale: esa, dense or streaming, in place of the config's `attention`; several, separated "
    "by commas. calibrate: how it fits: closed_form (the default), pca, or sgd as in the ESA "
    "paper. eval: ways to attend, separated by commas");
ABSL_FLAG(std::string, model, "", "Hugging Face model directory; wins over the config's `model`");
ABSL_FLAG(
    std::string, output, "",
    "generate: JSONL of answers; requests whose custom_id it answers already are not run again, "
    "whatever has changed; `-` is standard output. bench and plan: the results, by default on "
    "standard output. plan: with --fit the profile. calibrate: the compressor, by default "
    "compressor.safetensors of the model; with --compare or --recall the report, by default on "
    "standard output. scale: the study's directory; of `scale point` the file of its line, by "
    "default standard output. eval: a directory");
ABSL_FLAG(std::optional<int64_t>, port, std::nullopt,
          "Port to listen on, 0 for any that is free; wins over the config's `server.port`");
ABSL_FLAG(std::string, progress, "auto",
          "bar, lines, off, or auto: a bar if standard error is a terminal (mpirun hides whether "
          "it is), otherwise lines");
ABSL_FLAG(std::string, prompt_template, "",
          "The prompt, with {document} and {question}, in place of the config's "
          "`ask.prompt_template`; \\n and the like are escapes");
ABSL_FLAG(std::optional<int64_t>, repeat, std::nullopt,
          "bench: runs that the median is over: replays of kernels or collectives (41 if not "
          "given), runs of a layer (11), decoded tokens (32), prompts (1). scale: runs of each "
          "point (1)");
ABSL_FLAG(int64_t, seed, 0,
          "Of all that is drawn: the same seed draws the same. bench serve then sends the same, "
          "which a server may still have in its cache");
ABSL_FLAG(std::string, set, "",
          "key=value, a key of the config that wins over the files, as in --set esa.top_k=512; "
          "repeatable")
    .OnUpdate([] {
      if (std::string value = absl::GetFlag(FLAGS_set); !value.empty()) {
        SetFlagValues().push_back(std::move(value));
      }
    });
ABSL_FLAG(std::string, verbosity, "",
          "trace, debug, info, warn, err or off; the default is $SPDLOG_LEVEL, or info");

namespace longspan {
namespace {

absl::CommandLineFlag* FindFlag(absl::string_view name,
                                absl::Span<const absl::string_view> allowed) {
  const bool known = std::find(allowed.begin(), allowed.end(), name) != allowed.end();
  return known ? absl::FindCommandLineFlag(name) : nullptr;
}

// " (did you mean --x?)", or nothing where half of the name would have to change.
std::string Suggestion(absl::string_view unknown, absl::Span<const absl::string_view> allowed) {
  constexpr size_t kLongest = 64;
  absl::string_view nearest;
  int64_t nearest_distance = static_cast<int64_t>(std::min(unknown.size(), kLongest) + 1) / 2;
  for (const absl::string_view name : allowed) {
    const int64_t distance = EditDistance(unknown.substr(0, kLongest), name);
    if (distance >= nearest_distance) continue;
    nearest = name;
    nearest_distance = distance;
  }
  return nearest.empty() ? "" : absl::StrCat(" (did you mean --", nearest, "?)");
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ParseFlags(absl::Span<const std::string> arguments,
                                                    absl::Span<const absl::string_view> allowed) {
  std::vector<std::string> positional;
  for (size_t i = 0; i < arguments.size(); ++i) {
    absl::string_view argument = arguments[i];
    if (argument == "--") {
      positional.insert(positional.end(), arguments.begin() + i + 1, arguments.end());
      break;
    }
    if (argument == "-" || !absl::ConsumePrefix(&argument, "-")) {
      positional.push_back(arguments[i]);
      continue;
    }
    absl::ConsumePrefix(&argument, "-");
    const size_t equals = argument.find('=');
    const bool has_value = equals != argument.npos;
    std::string value(has_value ? argument.substr(equals + 1) : "");
    const std::string name = absl::StrReplaceAll(argument.substr(0, equals), {{"-", "_"}});

    absl::CommandLineFlag* flag = FindFlag(name, allowed);
    absl::string_view negated = name;
    const bool negates = flag == nullptr && !has_value && absl::ConsumePrefix(&negated, "no");
    if (negates) absl::ConsumePrefix(&negated, "_");  // --no-x
    if (negates) flag = FindFlag(negated, allowed);
    if (flag == nullptr || (negates && !flag->IsOfType<bool>())) {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown flag --", argument.substr(0, equals), Suggestion(name, allowed)));
    }
    if (!has_value && flag->IsOfType<bool>()) {
      value = negates ? "false" : "true";
    } else if (!has_value) {
      if (++i == arguments.size()) {
        return absl::InvalidArgumentError(absl::StrCat("--", name, " needs a value"));
      }
      value = arguments[i];
    }
    std::string error;
    if (!flag->ParseFrom(value, &error)) {
      return absl::InvalidArgumentError(absl::StrCat("--", name, ": not a valid value: ", value,
                                                     error.empty() ? "" : ": ", error));
    }
  }
  return positional;
}

absl::StatusOr<std::vector<ConfigOverride>> SetFlags() {
  std::vector<ConfigOverride> overrides;
  for (const std::string& value : SetFlagValues()) {
    const size_t equals = value.find('=');
    if (equals == value.npos || equals == 0) {
      return absl::InvalidArgumentError(absl::StrCat("--set ", value, ": must be key=value"));
    }
    overrides.push_back({value.substr(0, equals), value.substr(equals + 1)});
  }
  return overrides;
}

absl::StatusOr<std::vector<int64_t>> ParseNumbers(absl::string_view flag, absl::string_view text,
                                                  int64_t most) {
  std::vector<int64_t> numbers;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    int64_t number = 0;
    if (!absl::SimpleAtoi(part, &number) || number < 1 || number > most) {
      return absl::InvalidArgumentError(absl::StrCat("--", flag, " must be numbers from 1 to ",
                                                     most, ", separated by commas, not `", part,
                                                     "`"));
    }
    numbers.push_back(number);
  }
  return numbers;
}

absl::StatusOr<int64_t> ParseNumber(absl::string_view flag, absl::string_view text, int64_t most) {
  int64_t number = 0;
  if (absl::SimpleAtoi(text, &number) && number >= 1 && number <= most) return number;
  return absl::InvalidArgumentError(
      absl::StrCat("--", flag, " must be from 1 to ", most, ", not ", text));
}

std::string TextFor(absl::string_view command, absl::string_view help) {
  std::vector<absl::string_view> sentences;
  bool is_mine = true;
  for (absl::string_view sentence : absl::StrSplit(help, ". ")) {
    const size_t colon = sentence.find(": ");
    const std::vector<absl::string_view> names = absl::StrSplit(sentence.substr(0, colon), " and ");
    const bool is_label =
        colon != sentence.npos && absl::c_all_of(names, [](absl::string_view name) {
          return absl::c_all_of(name, [](char c) { return absl::ascii_islower(c); });
        });
    if (is_label) {
      is_mine = absl::c_linear_search(names, command);
      sentence.remove_prefix(colon + 2);
    }
    if (is_mine) sentences.push_back(sentence);
  }
  return sentences.empty() ? std::string(help) : absl::StrJoin(sentences, ". ");
}

std::string DescribeFlags(absl::string_view command, absl::Span<const absl::string_view> names) {
  std::string text;
  for (const absl::string_view name : names) {
    const absl::CommandLineFlag* flag = absl::FindCommandLineFlag(name);
    const std::string initial = flag->DefaultValue();
    absl::StrAppend(&text, "  --", name, "\n      ", TextFor(command, flag->Help()),
                    initial.empty() ? "" : absl::StrCat(" (default: ", initial, ")"), "\n");
  }
  return text;
}

}  // namespace longspan
