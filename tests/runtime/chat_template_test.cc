#include "runtime/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/jinja/eval.h"
#include "runtime/jinja/parser.h"
#include "tests/runtime/file_testing.h"

namespace longspan {
namespace {

using Json = nlohmann::ordered_json;
using testing::Fails;
using testing::IsOk;
using testing::ReadFile;
using testing::TempDir;
using testing::WriteFile;

// tools/make_chat_fixtures.py makes these files and says what is in them.
const std::string kData = LONGSPAN_SOURCE_DIR "/tests/runtime/testdata/chat_templates/";

Json Fixture(const std::string& name) { return Json::parse(ReadFile(kData + name)); }

// Tue, 3 February 2026, 04:05:06
std::tm FixedNow() {
  std::tm now{};
  now.tm_year = 126, now.tm_mon = 1, now.tm_mday = 3, now.tm_wday = 2, now.tm_yday = 33;
  now.tm_hour = 4, now.tm_min = 5, now.tm_sec = 6;
  return now;
}

Json User(const std::string& text) { return {{{"role", "user"}, {"content", text}}}; }

absl::StatusOr<std::string> RenderSource(const std::string& source, const Json& variables = {},
                                         jinja::RenderOptions options = {}) {
  options.now = FixedNow;
  auto body = jinja::Parse(source);
  if (!body.ok()) return body.status();
  return jinja::Render(*body, variables.is_null() ? Json::object() : variables, options);
}

// ---- Equality with transformers ----

// `expected`: the text, or the error it ends in.
void ExpectEqual(const absl::StatusOr<std::string>& actual, const Json& expected,
                 const std::string& what) {
  if (expected.is_string()) {
    ASSERT_THAT(actual, IsOk()) << what;
    EXPECT_EQ(*actual, expected.get<std::string>()) << what;
    return;
  }
  ASSERT_FALSE(actual.ok()) << what << "\nexpected " << expected << "\nbut got " << *actual;
  const std::string message(actual.status().message());
  EXPECT_THAT(message, ::testing::HasSubstr(expected["message"].get<std::string>())) << what;
  EXPECT_TRUE(absl::IsInvalidArgument(actual.status())) << what << "\n" << actual.status();
}

TEST(ChatTemplateFixtures, EqualTransformers) {
  const Json conversations = Fixture("conversations.json");
  const Json expected = Fixture("expected.json");
  ASSERT_GE(conversations.size(), 30u);
  ASSERT_GE(expected.size(), 8u);
  for (const auto& [name, family] : expected.items()) {
    const auto chat = ChatTemplate::Parse(ReadFile(kData + "templates/" + name + ".jinja"),
                                          family["tokens"], {.now = FixedNow});
    ASSERT_THAT(chat, IsOk()) << name;
    ASSERT_EQ(family["rendered"].size(), conversations.size());
    for (size_t i = 0; i < conversations.size(); ++i) {
      const Json& conversation = conversations[i];
      const auto text =
          chat->Render(conversation["messages"], conversation.value("tools", Json()),
                       conversation.value("generate", false), conversation.value("extra", Json()));
      Json wanted = family["rendered"][i];
      // There we refuse before the template runs, with a message of our own.
      if (conversation["messages"].empty()) wanted = {{"message", "at least one message"}};
      ExpectEqual(text, wanted, absl::StrCat(name, " ", conversation.dump()));
    }
  }
}

TEST(ChatTemplateFixtures, SnippetsEqualJinja2) {
  const Json fixture = Fixture("snippets.json");
  ASSERT_GE(fixture["snippets"].size(), 500u);
  int unsupported = 0;
  for (const Json& snippet : fixture["snippets"]) {
    const std::string source = snippet[0].get<std::string>();
    const auto text = RenderSource(source, fixture["variables"]);
    if (absl::IsUnimplemented(text.status())) {
      ++unsupported;  // refused rather than wrong
      continue;
    }
    ExpectEqual(text, snippet[1], source);
    // What jinja2 finds when it reads a template is found then, and nothing else.
    const bool is_syntax = snippet[1].is_object() && snippet[1]["error"] == "syntax";
    EXPECT_EQ(jinja::Parse(source).ok(), !is_syntax) << source;
  }
  EXPECT_LE(unsupported, 14);
}

// ---- Limits ----

struct Limit {
  const char* source;
  const char* message;
};

TEST(ChatTemplateLimits, EachEndsInItsError) {
  const std::string deep_parens = "{{ " + std::string(5000, '(') + "1" + std::string(5000, ')');
  std::string sum = "{{ 1", ifs;
  for (int i = 0; i < 5000; ++i) sum += "+1";
  for (int i = 0; i < 5000; ++i) ifs += "{% if 1 %}";
  const std::string minuses = "{{ " + std::string(5000, '-') + "1 }}";
  const std::string large = std::string((1 << 20) + 1, 'x');
  const Limit kLimits[] = {
      {deep_parens.c_str(), "nested deeper"},
      {minuses.c_str(), "nested deeper"},
      {(sum += " }}").c_str(), "nested deeper"},
      {ifs.c_str(), "nested deeper"},
      {large.c_str(), "over the limit"},
      {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "macros of the chat template"},
      {"{% macro m(n) %}{% for x in [1,2] %}{{ m(n) }}{% endfor %}{% endmacro %}{{ m(1) }}",
       "macros of the chat template"},
      {"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "steps"},
      {"{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}"
       "{% endfor %}",
       "take more than"},
      {"{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}"
       "{% endfor %}",
       "take more than"},
      {"{{ 'x' * 10 ** 18 }}", "take more than"},
      {"{{ [1] * 10 ** 30 }}", "take more than"},
      {"{{ 'a'.rjust(10 ** 18) }}", "take more than"},
      {"{{ 'a\nb'|indent(10 ** 18) }}", "take more than"},
      {"{{ [1]|tojson(indent=10 ** 18) }}", "take more than"},
      {"{{ ('x' * 10 ** 6).replace('', 'y' * 10 ** 6) }}", "take more than"},
      {"{% for i in range(99999) %}{{ 'x' * 100000 }}{% endfor %}", "prints more than"},
      {"{{ ('x' * 10 ** 7)[::-1] }}", "take more than"},
      {"{{ ('\\n' * 10 ** 7).splitlines()|length }}", "take more than"},
      {"{{ range(100001) }}", "range()"},
      {"{{ range(10 ** 30) }}", "range()"},
      {"{% set ns = namespace(x=[]) %}{% for i in range(999) %}{% set ns.x = [ns.x] %}"
       "{% endfor %}",
       "nest deeper"},
      {"{% set ns = namespace(x={}) %}{% for i in range(999) %}{% set ns.x = {'a': ns.x} %}"
       "{% endfor %}",
       "nest deeper"},
      {"{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}", "nests deeper"},
      // Work and memory in what one step looks at.
      {"{% set ns = namespace(t=(1,)) %}{% for i in range(40) %}{% set ns.t = (ns.t, ns.t) %}"
       "{% endfor %}{{ {ns.t: 1} }}",
       "steps"},
      {"{{ ([{}] * 3000)|map(attribute='a' * 1000000)|list|length }}", "steps"},
      {"{% set t = 'a' * 10000000 %}{% for i in range(9999) %}{% set x = {'b': 1}[t] %}{% endfor "
       "%}",
       "steps"},
      {"{% set p = ('b' * 1000000,) * 99999 %}{{ ('a' * 1000000).startswith(p) }}", "steps"},
      {"{% set d = {'a' * 1000000: 1} %}{% for i in range(999) %}{% set x = namespace(**d) %}"
       "{% endfor %}",
       "take more than"},
      {"{% set ns = namespace() %}{% set ns.me = [ns, ns] %}{{ ns }}", "deeper"},
      {"{% set ns = namespace(x=[1, 2]) %}{% for i in range(90) %}{% set ns.x = [ns.x, ns.x] %}"
       "{% endfor %}{{ ns.x }}",
       "steps"},
      {"{% set ns = namespace(x=[1, 2], y=[1, 2]) %}{% for i in range(90) %}"
       "{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}"
       "{{ ns.x == ns.y }}",
       "steps"},
  };
  jinja::RenderOptions options;
  options.max_steps = 5'000'000;
  options.max_bytes = 16 << 20;
  options.max_output = 4 << 20;
  for (const Limit& limit : kLimits) {
    EXPECT_THAT(RenderSource(limit.source, {}, options),
                Fails(absl::StatusCode::kResourceExhausted, limit.message))
        << std::string(limit.source).substr(0, 200);
  }
  Json deep = 1;
  for (int i = 0; i < 300; ++i) deep = Json::array({deep});
  EXPECT_THAT(RenderSource("", {{"x", deep}}),
              Fails(absl::StatusCode::kResourceExhausted, "nests deeper"));
}

// "a0, a1, ..."
std::string Names(int count) {
  std::string names;
  for (int i = 0; i < count; ++i) absl::StrAppend(&names, i > 0 ? ", a" : "a", i);
  return names;
}

// What leaves nothing behind by itself: the work of looking at it, and what is made on the way.
TEST(ChatTemplateLimits, CountWhatIsLookedAtAndMadeOnTheWay) {
  const std::pair<std::string, const char*> kLimits[] = {
      {"{% set s = 'a' * 10000000 %}{% for i in range(9999) %}{% set x = s.startswith(s) %}"
       "{% endfor %}",
       "steps"},
      {"{% set s = 'a' * 10000000 %}{% for i in range(9999) %}{% set x = s.removeprefix(s) %}"
       "{% endfor %}",
       "steps"},
      {"{% set s = ' ' * 10000000 %}{% for i in range(9999) %}{% set x = s.strip() %}{% endfor %}",
       "steps"},
      {"{% set s = '0' * 1000000 %}{% for i in range(9999) %}{% set x = s|int %}{% endfor %}",
       "steps"},
      {"{% set a = ['eq'] * 99999 %}{{ ([[]|reverse] * 9999)|map('select', *a)|list }}", "steps"},
      {"{% macro m(" + Names(200) +
           ") %}{{ kwargs|length }}{% endmacro %}{% set d = namespace(x=[]) %}"
           "{% for i in range(999) %}{% set d.x = d.x + [('b' ~ i, 1)] %}{% endfor %}"
           "{% set d = dict(d.x) %}{% for i in range(999) %}{{ m(**d) }}{% endfor %}",
       "steps"},
      {"{{ ([[]] * 200000)|map('first')|list|length }}", "take more than"},
      {"{{ ([{}] * 40000)|map(attribute='a' * 900)|list|length }}", "take more than"},
      {"{{ []|sort(attribute=',' * 1000000)|length }}", "take more than"},
      {"{% set a = [1] * 300000 %}{% set b = a|list %}{% set c = a|list %}", "take more than"},
      // A block that defines a macro stays.
      {"{% for i in range(99999) %}{% set " + std::string(1000, 'a') +
           " = 1 %}{% macro m() %}{% endmacro %}{% endfor %}",
       "take more than"},
  };
  jinja::RenderOptions options;
  options.max_steps = 5'000'000;
  options.max_bytes = 16 << 20;
  for (const auto& [source, message] : kLimits) {
    EXPECT_THAT(RenderSource(source, {}, options),
                Fails(absl::StatusCode::kResourceExhausted, message))
        << source.substr(0, 200);
  }
}

TEST(ChatTemplateLimits, SearchesAreLinear) {
  // Each would take minutes letter by letter.
  for (const char* expression :
       {"('a' * 2000000 ~ 'b') in 'a' * 4000000", "('a' * 4000000).rfind('b' ~ 'a' * 2000000) > 0",
        "('a' * 4000000).split('a' * 2000000 ~ 'b')|length > 1",
        "('a' * 4000000).rsplit('b' ~ 'a' * 2000000)|length > 1",
        "('a' * 4000000).count('a' * 2000000 ~ 'b') > 0",
        "('a' * 4000000).replace('a' * 2000000 ~ 'b', '')|length < 4000000"}) {
    const auto text = RenderSource(absl::StrCat("{{ ", expression, " }}"));
    ASSERT_THAT(text, IsOk()) << expression;
    EXPECT_EQ(*text, "False") << expression;
  }
  EXPECT_EQ(*RenderSource("{{ 'aaaxaa'.rsplit('aa') }}{{ 'abcabc'.rfind('bc') }}"
                          "{{ 'a.b.c'.rsplit('.', 1) }}{{ 'a.b.c'.rpartition('.') }}"),
            "['a', 'x', '']4['a.b', 'c']('a.b', '.', 'c')");
  EXPECT_EQ(*RenderSource("{{ 'abc'.zfill(-9223372036854775808) }}"), "abc");
}

TEST(ChatTemplateLimits, MemoryThatIsGivenBackDoesNotCount) {
  jinja::RenderOptions options;
  options.max_bytes = 8 << 20;
  const auto text = RenderSource(
      "{% for i in range(200) %}{% set x = 'a' * 1000000 %}{% endfor %}done", {}, options);
  ASSERT_THAT(text, IsOk());
  EXPECT_EQ(*text, "done");
}

TEST(ChatTemplateLimits, LongConversationsFit) {
  Json messages = Json::array();
  for (int i = 0; i < 4000; ++i) {
    messages.push_back(
        {{"role", i % 2 == 0 ? "user" : "assistant"}, {"content", std::string(1000, 'x')}});
  }
  const auto chat = ChatTemplate::Parse(ReadFile(kData + "templates/qwen3.jinja"), Json::object());
  ASSERT_THAT(chat, IsOk());
  const auto text = chat->Render(messages, {}, true, {});
  ASSERT_THAT(text, IsOk());
  EXPECT_GT(text->size(), 4'000'000u);
}

// ---- Errors ----

TEST(ChatTemplateErrors, NameTheLineAndWhatIsSupported) {
  EXPECT_THAT(RenderSource("a\n\n{{ 1|foo }}"),
              Fails(absl::StatusCode::kUnimplemented,
                    "chat template line 3: unknown filter `foo`; supported: abs, "));
  EXPECT_THAT(RenderSource("{{ 1 is foo }}"),
              Fails(absl::StatusCode::kUnimplemented, "line 1: unknown test `foo`; supported: "));
  EXPECT_THAT(
      RenderSource("a\n{% include 'x' %}"),
      Fails(absl::StatusCode::kUnimplemented,
            "line 2: the tag `include` is not supported in chat templates; supported: if, for"));
  EXPECT_THAT(RenderSource("{% for x in y recursive %}{% endfor %}"),
              Fails(absl::StatusCode::kUnimplemented, "recursive loops"));
  EXPECT_THAT(RenderSource("a\n{{ x.y }}"),
              Fails(absl::StatusCode::kInvalidArgument, "line 2: 'x' is undefined"));
  EXPECT_THAT(RenderSource("\n{{ 'x'.center(5) }}"),
              Fails(absl::StatusCode::kUnimplemented, "line 2: the method `center` of str"));
  EXPECT_THAT(RenderSource("{{ 'É'|lower }}"),
              Fails(absl::StatusCode::kUnimplemented, "outside of ASCII"));
  EXPECT_THAT(RenderSource("{{ raise_exception('not so') }}"),
              Fails(absl::StatusCode::kInvalidArgument,
                    "the chat template refuses these messages: not so"));
  EXPECT_THAT(RenderSource("\xff"), Fails(absl::StatusCode::kInvalidArgument, "UTF-8"));
}

TEST(ChatTemplateErrors, WhatWouldCallItselfWithoutEnd) {
  EXPECT_THAT(RenderSource("{{ 'a'|map(*(['map'] * 5000))|list }}"),
              Fails(absl::StatusCode::kUnimplemented, "map of `map`"));
  EXPECT_THAT(RenderSource("{% set ns = namespace(l=none) %}{% for x in [1, 2, 3, 4] "
                           "if (x == 2 and ns.l.length) or true %}{% set ns.l = loop %}{{ x }},"
                           "{% endfor %}{{ ns.l.length }}"),
              Fails(absl::StatusCode::kInvalidArgument, "generator already executing"));
  std::string call = "{{ dict(";
  for (int i = 0; i < 300; ++i) call += absl::StrCat("a", i, "=1, ");
  EXPECT_THAT(RenderSource(call + ") }}"),
              Fails(absl::StatusCode::kInvalidArgument, "more than 255 keyword arguments"));
  EXPECT_THAT(RenderSource("{{ range(" + Names(300) + ") }}"),
              Fails(absl::StatusCode::kInvalidArgument, "more than 255 arguments"));
  EXPECT_THAT(RenderSource("{% macro m(" + Names(300) + ") %}{% endmacro %}"),
              Fails(absl::StatusCode::kInvalidArgument, "more than 255 parameters"));
  EXPECT_THAT(RenderSource("{{ " + std::string(1025, 'a') + " }}"),
              Fails(absl::StatusCode::kInvalidArgument, "a name of more than 1024 bytes"));
}

TEST(ChatTemplateErrors, OfTheInput) {
  const auto chat = ChatTemplate::Parse("{{ x }}{{ messages[0] }}{{ tools }}", Json::object());
  ASSERT_THAT(chat, IsOk());
  const auto code = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(chat->Render({}, {}, false, {}), Fails(code, "messages: expected an array"));
  EXPECT_THAT(chat->Render({1}, {}, false, {}), Fails(code, "messages[0]: expected an object"));
  EXPECT_THAT(chat->Render(Json::array(), {}, false, {}), Fails(code, "at least one message"));
  EXPECT_THAT(chat->Render(User("a"), 5, false, {}), Fails(code, "tools: expected an array"));
  EXPECT_THAT(chat->Render(User("a"), {}, false, 5), Fails(code, "chat_template_kwargs"));
  EXPECT_THAT(chat->Render(User("a"), {}, false, {{"messages", 1}}), Fails(code, "`messages`"));
  // Bytes that are no text are replaced, wherever they come from.
  const auto text = chat->Render(User("a\xff"), {}, false, {{"x", "\xc3"}});
  ASSERT_THAT(text, IsOk());
  EXPECT_EQ(*text, "\uFFFD{'role': 'user', 'content': 'a\uFFFD'}None");
}

// ---- Loading ----

absl::StatusOr<std::string> LoadAndRender(const std::string& dir, const Json& tools = {}) {
  const auto chat = ChatTemplate::Load(dir, {.now = FixedNow});
  if (!chat.ok()) return chat.status();
  return chat->Render(User("u"), tools, false, {});
}

TEST(ChatTemplateLoad, FilesWinOverTheConfiguration) {
  const TempDir dir;
  EXPECT_THAT(LoadAndRender(dir.path()), Fails(absl::StatusCode::kNotFound, "no chat template"));
  const std::string config = dir / "tokenizer_config.json";
  WriteFile(config, R"({"bos_token": "<b>"})");
  EXPECT_THAT(LoadAndRender(dir.path()), Fails(absl::StatusCode::kNotFound, "no chat template"));
  WriteFile(config, R"({"chat_template": "C{{ bos_token }}{{ eos_token }}{{ pad_token }}",
                        "bos_token": "<b>", "pad_token": null,
                        "eos_token": {"content": "<e>", "lstrip": false}})");
  EXPECT_EQ(*LoadAndRender(dir.path()), "C<b><e>");
  WriteFile(dir / "special_tokens_map.json", R"({"eos_token": "<map>"})");
  EXPECT_EQ(*LoadAndRender(dir.path()), "C<b><map>");
  WriteFile(config, R"({"chat_template": [{"name": "default", "template": "D"},
                                          {"name": "tool_use", "template": "T{{ tools }}"},
                                          {"name": "rag", "template": "{% nonsense"}],
                        "added_tokens_decoder": {}, "eos_token": "<e>"})");
  EXPECT_EQ(*LoadAndRender(dir.path()), "D");
  EXPECT_EQ(*LoadAndRender(dir.path(), Json::array()), "T[]");
  WriteFile(dir / "chat_template.jinja", "J{{ eos_token }}{{ strftime_now('%d %b %Y') }}\r\n\n");
  EXPECT_EQ(*LoadAndRender(dir.path(), Json::array()), "J<e>03 Feb 2026\n");
  std::filesystem::create_directory(dir / "additional_chat_templates");
  WriteFile(dir / "additional_chat_templates/tool_use.jinja", "U");
  EXPECT_EQ(*LoadAndRender(dir.path(), Json::array()), "U");
  WriteFile(dir / "chat_template.jinja", "\n{% oops %}");
  EXPECT_THAT(LoadAndRender(dir.path()),
              Fails(absl::StatusCode::kInvalidArgument, dir.path() + ": chat template line 2"));
}

TEST(ChatTemplateLoad, RefusesMalformedConfigurations) {
  const TempDir dir;
  for (const char* config : {R"({"chat_template": 5})", R"({"chat_template": [5]})",
                             R"({"chat_template": [{"name": "rag", "template": ""}]})",
                             R"({"chat_template": "x", "bos_token": 5})", "[]", "{"}) {
    WriteFile(dir / "tokenizer_config.json", config);
    EXPECT_THAT(LoadAndRender(dir.path()), Fails(absl::StatusCode::kInvalidArgument, dir.path()));
  }
}

TEST(ChatTemplate, TheClockIsTheSystemsUnlessGiven) {
  const auto chat = ChatTemplate::Parse("{{ strftime_now('%Y') }}", Json::object());
  ASSERT_THAT(chat, IsOk());
  EXPECT_GE(chat->Render(User("a"), {}, false, {})->substr(0, 2), "20");
}

TEST(ChatTemplate, RendersInManyThreads) {
  const auto chat = ChatTemplate::Parse(ReadFile(kData + "templates/others.jinja"), Json::object(),
                                        {.now = FixedNow});
  ASSERT_THAT(chat, IsOk());
  const auto expected = chat->Render(User("Hi"), {}, true, {});
  ASSERT_THAT(expected, IsOk());
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) {
        const auto text = chat->Render(User("Hi"), {}, true, {});
        EXPECT_TRUE(text.ok() && *text == *expected);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// ---- Any input ----

TEST(ChatTemplateFuzz, MutatedTemplatesNeverCrash) {
  const Json fixture = Fixture("snippets.json");
  const Json conversations = Fixture("conversations.json");
  const Json expected = Fixture("expected.json");
  std::vector<std::string> sources;
  for (const auto& [name, unused] : expected.items()) {
    sources.push_back(ReadFile(kData + "templates/" + name + ".jinja"));
  }
  for (const Json& snippet : fixture["snippets"]) sources.push_back(snippet[0].get<std::string>());
  std::mt19937_64 random(20260203);
  jinja::RenderOptions options;
  options.max_steps = 20000;
  options.max_bytes = 4 << 20;
  options.max_output = 1 << 20;
  int rendered = 0;
  for (int i = 0; i < 50000; ++i) {
    std::string source = sources[random() % sources.size()];
    // Splices two, so that constructs meet that nobody has put together.
    if (random() % 3 == 0) {
      const std::string& other = sources[random() % sources.size()];
      source.insert(random() % (source.size() + 1), other.substr(random() % (other.size() + 1)));
    }
    source = testing::Mutate(source, source.size(), &random);
    Json variables = fixture["variables"];
    variables["messages"] = conversations[random() % conversations.size()]["messages"];
    const auto text = RenderSource(source, variables, options);
    EXPECT_FALSE(absl::IsInternal(text.status()));
    rendered += text.ok() ? 1 : 0;
  }
  EXPECT_GT(rendered, 1000);
}

}  // namespace
}  // namespace longspan
