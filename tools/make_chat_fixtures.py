#!/usr/bin/env python3
"""Makes tests/runtime/testdata/chat_templates: what transformers renders.

The templates here are ours. Each produces the prompt format that a family of models documents, with
the statements, filters, tests, slices, namespaces and macros that the official templates use, but
none is a copy of one: those belong to the models' makers.

Writes templates/*.jinja, conversations.json (shared by the families), expected.json (what each
template renders of each conversation, or the error it ends in) and snippets.json (small templates
with jinja2's output). Needs transformers 5 and jinja2. Nothing is random.
"""

import argparse
import datetime
import itertools
import json
from pathlib import Path

import jinja2
import transformers
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

OUT = Path(__file__).resolve().parent.parent / "tests/runtime/testdata/chat_templates"
NOW = datetime.datetime(2026, 2, 3, 4, 5, 6)

# ---- Templates ----

LLAMA2 = """\
{%- if messages[0]['role'] == 'system' -%}
    {%- set turns = messages[1:] -%}
    {%- set instructions = messages[0]['content'] -%}
{%- else -%}
    {%- set turns = messages -%}
    {%- set instructions = false -%}
{%- endif -%}
{%- for turn in turns -%}
    {%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('Roles must alternate: user, assistant, user, assistant, ...') -}}
    {%- endif -%}
    {%- if loop.index0 == 0 and instructions != false -%}
        {%- set text = '<<SYS>>\\n' + instructions + '\\n<</SYS>>\\n\\n' + turn['content'] -%}
    {%- else -%}
        {%- set text = turn['content'] -%}
    {%- endif -%}
    {%- if turn['role'] == 'user' -%}
        {{- bos_token + '[INST] ' + text.strip() + ' [/INST]' -}}
    {%- elif turn['role'] == 'assistant' -%}
        {{- ' ' + text.strip() + ' ' + eos_token -}}
    {%- endif -%}
{%- endfor -%}
"""

LLAMA3 = """\
{% set turns = messages %}{% for turn in turns %}
{% set block = '<|start_header_id|>' + turn['role'] + '<|end_header_id|>\\n\\n' + turn['content'] | trim + '<|eot_id|>' %}
{% if loop.index0 == 0 %}{% set block = bos_token + block %}{% endif %}{{ block }}{% endfor %}
{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

LLAMA31 = """\
{%- macro open(role) -%}
    <|start_header_id|>{{ role }}<|end_header_id|>{{ "\\n\\n" }}
{%- endmacro %}
{%- macro signatures(list) %}{% for each in list %}{{- each | tojson(indent=4) ~ "\\n\\n" }}{% endfor %}{% endmacro %}
{%- macro plain(content) %}
    {%- if content is string %}{{- content | trim }}
    {%- elif content is defined %}
        {%- for part in content if part.type == 'text' %}{{- part['text'] | trim }}{%- endfor %}
    {%- endif %}
{%- endmacro %}
{%- macro invocation(function) %}
    {%- if function.name in (builtin_tools or []) %}
        {{- "<|python_tag|>" ~ function.name ~ ".call(" }}
        {%- for key, item in function.arguments | items %}
            {{- ", " if not loop.first }}{{ key ~ '="' ~ item ~ '"' }}
        {%- endfor %}
        {{- ")<|eom_id|>" }}
    {%- else %}
        {{- '{"name": "' ~ function.name ~ '", "parameters": ' ~ function.arguments | tojson ~ "}<|eot_id|>" }}
    {%- endif %}
{%- endmacro %}

{#- What the caller may leave open. #}
{%- set offered = custom_tools if custom_tools is defined else tools %}
{%- if offered is not defined %}{% set offered = none %}{% endif %}
{%- set with_question = tools_in_user_message | default(true) and offered is not none %}
{%- set today = date_string if date_string is defined else strftime_now("%d %b %Y") %}
{%- set rest = namespace(messages=messages, system="") %}
{%- if rest.messages[0].role == "system" %}
    {%- set rest.system = plain(messages[0].content) %}
    {%- set rest.messages = messages[1:] %}
{%- endif %}

{{- bos_token ~ open("system") }}
{{- "Environment: ipython\\n" if builtin_tools is defined or offered is not none }}
{%- if builtin_tools is defined %}
    {{- "Tools: " + builtin_tools | reject('equalto', 'code_interpreter') | join(", ") + "\\n\\n" }}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\\nToday Date: " + today + "\\n\\n" }}
{%- if offered is not none and not with_question %}
    {{- "Functions:\\n\\n" + signatures(offered) }}
{%- endif %}
{{- rest.system + "<|eot_id|>" }}

{%- if with_question %}
    {%- if rest.messages | length == 0 %}
        {{- raise_exception("There is no question to put the tools before") }}
    {%- endif %}
    {{- open("user") + "Functions:\\n\\n" + signatures(offered) + rest.messages[0]['content'] | trim + "<|eot_id|>" }}
    {%- set rest.messages = rest.messages[1:] %}
{%- endif %}
{%- for turn in rest.messages %}
    {%- if 'tool_calls' in turn %}
        {%- if turn.tool_calls | length != 1 %}{{- raise_exception("Only one call at once") }}{% endif %}
        {{- open("assistant") -}} {{- invocation(turn.tool_calls[0].function) }}
    {%- elif turn.role in ["tool", "ipython"] %}
        {%- set is_data = turn.content is mapping or (turn.content is iterable and turn.content is not string) %}
        {{- open("ipython") ~ (turn.content | tojson if is_data else turn.content) ~ "<|eot_id|>" }}
    {%- else %}
        {{- open(turn.role) ~ plain(turn.content) ~ "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- open("assistant") }}{% endif %}
"""

MISTRAL1 = """\
{{ bos_token }}{% for turn in messages %}{% if (turn['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate: user, assistant, user, assistant, ...') }}{% endif %}{% if turn['role'] == 'user' %}{{ '[INST] ' + turn['content'] + ' [/INST]' }}{% elif turn['role'] == 'assistant' %}{{ turn['content'] + eos_token + ' ' }}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}
"""

MISTRAL3 = """\
{%- macro checked(id) %}
    {%- if id is not defined or id | length != 9 %}
        {{- raise_exception("Calls need ids of 9 characters") }}
    {%- endif %}
    {{- id }}
{%- endmacro %}
{%- macro signature(function) %}
    {{- '{"type": "function", "function": {' }}
    {%- for name, part in function.items() if name != "return" %}
        {{- '"' ~ name ~ '": ' ~ ('"' + part + '"' if part is string else part | tojson) }}
        {{- ", " if not loop.last }}
    {%- endfor %}
    {{- "}}" }}
{%- endmacro %}

{%- set has_system = messages[0]["role"] == "system" %}
{%- set dialog = messages[1:] if has_system else messages %}
{%- set questions = dialog | selectattr("role", "equalto", "user") | list %}

{#- Only what is said counts: calls and their results stand between a question and its answer. #}
{%- set spoken = namespace() %}
{%- set spoken.count = 0 %}
{%- for turn in dialog if turn.role not in ("tool", "tool_results") and not (turn.tool_calls is defined and turn.tool_calls is not none) %}
    {%- if (spoken.count is even) != (turn.role == "user") %}
        {{- raise_exception("Roles must alternate: user, assistant, user, assistant, ...") }}
    {%- endif %}
    {%- set spoken.count = spoken.count + 1 %}
{%- endfor %}

{{- bos_token }}
{%- for turn in dialog %}
    {%- if turn.tool_calls is defined and turn.tool_calls is not none %}
        {%- for call in turn.tool_calls %}
            {%- set json = call.function | tojson %}
            {{- ("[TOOL_CALLS] [" if loop.first else ", ") ~ json[:-1] ~ ', "id": "' ~ checked(call.id) ~ '"}' }}
        {%- endfor %}
        {{- "]" + eos_token }}
    {%- elif turn["role"] == "assistant" %}
        {{- " " + turn["content"] | trim + eos_token }}
    {%- elif turn["role"] == "user" %}
        {%- if tools and turn == questions[-1] %}
            {%- for tool in tools %}
                {{- "[AVAILABLE_TOOLS] [" if loop.first else ", " }}{{ signature(tool.function) }}
            {%- endfor %}
            {{- "][/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {{- "[INST] " + (messages[0].content + "\\n\\n" if has_system and loop.last else "") + turn["content"] + "[/INST]" }}
    {%- elif turn.role in ("tool", "tool_results") %}
        {%- set result = turn.content.content if turn.content is defined and turn.content.content is defined else turn.content %}
        {{- '[TOOL_RESULTS] {"content": ' + result | string + ', "call_id": "' + checked(turn.tool_call_id) + '"}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception("There is no role " ~ turn.role) }}
    {%- endif %}
{%- endfor %}
"""

QWEN2 = """\
{% for turn in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}{% endif %}{{ '<|im_start|>' + turn['role'] + '\\n' + turn['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

QWEN25 = """\
{%- set opening = messages[0].content if messages[0]['role'] == 'system' else 'You are helpful.' %}
{{- '<|im_start|>system\\n' ~ opening }}
{%- if tools %}
    {{- "\\n\\n# Tools\\n\\nSignatures:\\n<tools>" }}
    {%- for tool in tools %}{{- "\\n" ~ tool | tojson }}{%- endfor %}
    {{- "\\n</tools>\\n\\nAnswer as <tool_call>\\n{\\"name\\": <name>, \\"arguments\\": <object>}\\n</tool_call>" }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- for turn in messages %}
    {%- set previous = messages[loop.index0 - 1] %}
    {%- set following = messages[loop.index0 + 1] %}
    {%- if turn.role == 'tool' %}
        {{- '<|im_start|>user' if loop.first or previous.role != 'tool' }}
        {{- '\\n<tool_response>\\n' ~ turn.content ~ '\\n</tool_response>' }}
        {{- '<|im_end|>\\n' if loop.last or following.role != 'tool' }}
    {%- elif turn.role == 'assistant' and turn.tool_calls %}
        {{- '<|im_start|>assistant' }}{{ '\\n' + turn.content if turn.content }}
        {%- for call in turn.tool_calls %}
            {%- if call.function is defined %}{% set call = call.function %}{% endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}{{ call.name }}{{ '", "arguments": ' ~ call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif turn.role != 'system' or not loop.first %}
        {{- '<|im_start|>' + turn.role + '\\n' + turn.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{{- '<|im_start|>assistant\\n' if add_generation_prompt }}
"""

QWEN3 = """\
{%- macro say(role, text) %}{{ '<|im_start|>' ~ role ~ '\\n' ~ text ~ '<|im_end|>\\n' }}{% endmacro %}
{%- set has_system = messages[0].role == 'system' %}
{%- if tools %}
    {%- set list %}
        {%- for tool in tools %}{{- '\\n' ~ tool | tojson }}{% endfor %}
    {%- endset %}
    {{- say('system', (messages[0].content + '\\n\\n' if has_system else '') ~ '# Tools\\n\\n<tools>' ~ list ~ '\\n</tools>') }}
{%- elif has_system %}
    {{- say('system', messages[0].content) }}
{%- endif %}

{#- Thoughts are kept only behind the last question, which is not the result of a tool. #}
{%- set seek = namespace(on=true, question=messages|length - 1) %}
{%- for turn in messages[::-1] %}
    {%- set text = turn.content if turn.content is string else none %}
    {%- if seek.on and turn.role == 'user' and text is not none %}
        {%- if not (text.startswith('<tool_response>') and text.endswith('</tool_response>')) %}
            {%- set seek.on = false %}
            {%- set seek.question = messages|length - loop.index %}
        {%- endif %}
    {%- endif %}
{%- endfor %}

{%- for turn in messages %}
    {%- set text = turn.content if turn.content is string else '' %}
    {%- if turn.role == 'tool' %}
        {{- '<|im_start|>user' if loop.first or loop.previtem.role != 'tool' }}
        {{- '\\n<tool_response>\\n' ~ text ~ '\\n</tool_response>' }}
        {{- '<|im_end|>\\n' if loop.last or loop.nextitem.role != 'tool' }}
    {%- elif turn.role == 'assistant' %}
        {%- set thoughts = turn.reasoning_content if turn.reasoning_content is string else '' %}
        {%- if not thoughts and '</think>' in text %}
            {%- set halves = text.split('</think>') %}
            {%- set thoughts = halves[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set text = halves[-1].lstrip('\\n') %}
        {%- endif %}
        {%- set said %}
            {%- if loop.index0 > seek.question and (loop.last or thoughts) -%}
                {{ '<think>\\n' ~ thoughts.strip('\\n') ~ '\\n</think>\\n\\n' ~ text.lstrip('\\n') }}
            {%- else -%}
                {{ text }}
            {%- endif %}
            {%- for call in turn.tool_calls or [] %}
                {{- '\\n' if text or not loop.first }}
                {%- set function = call.function if call.function else call %}
                {%- set values = function.arguments if function.arguments is string else function.arguments | tojson %}
                {{- '<tool_call>\\n{"name": "' + function.name + '", "arguments": ' + values + '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endset %}
        {{- say(turn.role, said) }}
    {%- elif not (loop.first and turn.role == 'system') %}
        {{- say(turn.role, text) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {{- '<think>\\n\\n</think>\\n\\n' if enable_thinking is defined and enable_thinking is false }}
{%- endif %}
"""

# What else templates use: the generation tag, loop control, set blocks, with, raw, filters.
OTHERS = """\
{% macro shown(turn, prefix='>') -%}
{{ prefix }}{{ turn.role|upper }}/{{ turn['content']|default('(none)', true)|string|replace('\\n', '|') }}
{%- endmacro %}
{% set last_user = (messages | selectattr('role', 'eq', 'user') | map(attribute='content') | list | last) %}
{% raw %}{{ not a variable }}{% endraw %}

{% for turn in messages if turn.role != 'system' %}
  {% if loop.index > 3 %}{% break %}{% endif %}
  {% if turn.role == 'tool' %}{% continue %}{% endif %}
  {% generation %}{{ loop.index ~ '/' ~ loop.length ~ shown(turn) }}{% endgeneration %}

{% else %}
nobody spoke
{% endfor %}
{% set note %}
last: {{ last_user }} ({{ last_user|length }})
{% endset %}
{{ note|trim }}
{% with n = messages|length, roles = messages|map(attribute='role')|unique|sort|join(',') %}{{ n }} {{ roles }}{% endwith %}
{{ (tools or [])|map(attribute='function.name')|list }} {{ messages[0] }}
{{ {'now': strftime_now('%Y-%m-%d'), 'b': [1, 2.5, none, true]}|tojson(indent=2) }}
{% filter upper %}end{% endfilter %}
"""

TEMPLATES = {
    "llama2": (LLAMA2, "<s>", "</s>"),
    "llama3": (LLAMA3, "<|begin_of_text|>", "<|eot_id|>"),
    "llama3_1": (LLAMA31, "<|begin_of_text|>", "<|eot_id|>"),
    "mistral_v1": (MISTRAL1, "<s>", "</s>"),
    "mistral_v3": (MISTRAL3, "<s>", "</s>"),
    "qwen2": (QWEN2, None, "<|im_end|>"),
    "qwen2_5": (QWEN25, None, "<|im_end|>"),
    "qwen3": (QWEN3, None, "<|im_end|>"),
    "others": (OTHERS, "<s>", "</s>"),
}

# ---- Conversations ----


def system(text):
    return {"role": "system", "content": text}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def tool(text, call_id="abcdefghi"):
    return {"role": "tool", "name": "weather", "content": text, "tool_call_id": call_id}


def call(name, arguments, call_id="abcdefghi"):
    return {"type": "function", "function": {"name": name, "arguments": arguments}, "id": call_id}


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'The weather "now" in a town, über <b>all</b> & more',
        "parameters": {
            "type": "object",
            "properties": {
                "town": {"type": "string", "description": "Name\nof it"},
                "days": {"type": "integer", "minimum": 0, "maximum": 1.5e16, "default": 1},
                "unit": {"type": "string", "enum": ["C", "F"], "nullable": True},
            },
            "required": ["town"],
        },
        "return": {"type": "string", "description": "what it is like"},
    },
}
TIME = {
    "type": "function",
    "function": {
        "name": "time",
        "description": "",
        "parameters": {"type": "object", "properties": {}, "required": []},
    },
}
DATE = {"date_string": "01 Jan 2025"}


def make_conversations():
    asked = [system("Be brief."), user("Hello"), assistant("Hi."), user("Weather in Köln?")]
    called = call("weather", {"town": "Köln", "days": 3, "exact": 0.1, "x": None, "y": False})
    result = [assistant("", tool_calls=[called]), tool('{"sky": "grey"}'), assistant("Grey.")]
    two = [assistant("Let me see.", tool_calls=[called, call("time", {}, "123456789")])]
    two += [tool("a"), tool("b", "123456789")]
    thoughts = "<think>\nIt is\n2.\n</think>\n\nTwo."
    return [
        {"messages": [user("Hello")]},
        {"messages": [user("Hello")], "generate": True},
        {"messages": [system("You are terse."), user("Hello")], "generate": True},
        {"messages": asked, "generate": True},
        {"messages": asked + [assistant("Rain.")]},
        {"messages": asked, "tools": [WEATHER, TIME], "generate": True},
        {"messages": [user("Hi")], "tools": [], "generate": True},
        {"messages": asked + result, "tools": [WEATHER]},
        {"messages": asked + result + [user("And now?")], "tools": [WEATHER, TIME], "generate": True},
        {"messages": asked[1:] + two, "tools": [TIME], "generate": True},
        {"messages": [user("q"), assistant(None, tool_calls=[called]), tool("r")], "generate": True},
        {"messages": [user("")]},
        {"messages": [system(""), user("  padded \n\n"), assistant("\n\tx\u00a0")], "generate": True},
        {"messages": []},
        {"messages": [system("only a system message")], "generate": True},
        {"messages": [system("only a system message")], "tools": [TIME]},
        {"messages": [user("日本語 ∑ 🙂 e\u0301 \u2028 \u00ad")], "generate": True},
        {"messages": [user("a\r\nb\rc\n\n\nd\t\u000b\f")]},
        {"messages": [user("{{ 1 + 1 }} {% if x %} {# no #} {{ bos_token }}")], "generate": True},
        {"messages": [user("\"quotes\" 'both' \\ back </s> <|im_end|> [/INST] <b>&amp;")]},
        {"messages": [user("a"), user("b")]},
        {"messages": [assistant("first")]},
        {"messages": [user("a"), {"role": "narrator", "content": "b"}]},
        {"messages": [{"role": "user"}]},
        {"messages": [user("1+1?"), assistant(thoughts), user("Sure?"), assistant(thoughts)]},
        {"messages": [user("1+1?"), assistant("Two.", reasoning_content="Easy.")], "generate": True},
        {"messages": [user("1+1?"), assistant("Two.", reasoning="It is.\n")]},
        {"messages": [user("Hello")], "generate": True, "extra": {"enable_thinking": False}},
        {"messages": [user("Hello")], "generate": True, "extra": {"enable_thinking": True, **DATE}},
        {"messages": asked, "extra": {"custom_tools": [TIME], "tools_in_user_message": False, **DATE}},
        {"messages": asked + result, "extra": {"builtin_tools": ["weather", "code_interpreter"]}},
        {"messages": [user([{"type": "text", "text": " part "}, {"type": "image"}])]},
        {"messages": [user("a"), assistant("", tool_calls=[call("f", {}, "short")])], "tools": [TIME]},
        {"messages": [user("a"), {"role": "tool", "content": {"content": 5}}]},
        {"messages": [user("x"), tool(["a", {"b": 1}])], "extra": {"eos_token": "<other>"}},
        {"messages": [user("<tool_response>\nz\n</tool_response>"), assistant(thoughts)]},
    ]


# ---- Snippets ----


def make_snippets():
    """Small templates, each on its own. Variables are those of VARIABLES."""
    expressions = """
1 + 2 * 3 - 4|7 // 2|-7 // 2|7 % 3|-7 % 3|7 % -3|7 / 2|6 / 2|2 ** 10|2 ** -1|-2 ** 2|2 ** 3 ** 2|1 / 0|1 // 0
7.5 // 2|-7.5 // 2|7.5 % 2|-7.5 % 2|1e16|1e15|1.5e-5|0.0001|0.1 + 0.2|1e300 * 1e10|-0.0|1_000|0x1F|0b101|0o17|1.0|100.0|1e22|12345678901234567890
true + 1|+true|-false|not 1|not ''|1 < 2 < 3|1 < 3 < 2|3 > 2 >= 2 != 1|1 == 1.0|true == 1|'1' == 1|none == false|[] == ()|[1] == [1.0]
'a' + 'b'|'a' 'b' "c"|'a' ~ 1 ~ none ~ 1.0 ~ true|'ab' * 3|3 * 'ab'|'ab' * -1|[1] * 2|(1,) * 2|'a' + 1|1 + 'a'|[1] + [2]|[1] + (2,)|(1,) + (2,)
'a' < 'b'|'a' < 1|[1, 2] < [1, 3]|(1,) < (1, 2)|none < 1|'é' > 'z'
'a' in 'abc'|'d' not in 'abc'|1 in [1, 2]|'a' in {'a': 1}|1 in 'abc'|'x' in nothing|1 in 5|none in [none]|'' in ''
1 if true|1 if false|1 if false else 2|1 if true else 2 if true else 3|(1 if false) is defined|(1 if false).x
true and 'x'|0 and 'x'|'' or 'y'|'x' or 'y'|none or false|1 and 2 or 3|not true or true|not (true or true)
nothing|nothing.x|nothing['x']|nothing + 1|1 + nothing|nothing ~ 'x'|nothing == nothing2|nothing == none|nothing() |-nothing|nothing < 1|nothing|length|nothing|list|nothing|first|nothing|last|nothing|join|nothing|trim|nothing|upper
nothing is defined|nothing is undefined|nothing is none|nothing is string|nothing is iterable|nothing is sequence|nothing is mapping|nothing is callable|nothing is number
nothing|int|nothing|float|nothing|abs|nothing|items|list|nothing|dictsort|nothing|map('upper')|list|nothing|tojson|nothing|string|nothing|reverse|list|nothing|sort|nothing|indent|nothing|default(3)|nothing|d|nothing|replace('a', 'b')
d.a|d.zz|d['a']|d['zz']|d.zz.y|d.items()|d.keys()|d.values()|d.items|length|d.get('a')|d.get('zz')|d.get('zz', 5)|d|length|d|list|d|first|d|last|d|items|list|d|dictsort|d|dictsort(reverse=true)|d|dictsort(by='value')|d|dictsort(false, 'nope')|d.copy()
d.update({})|d.pop('a')|d.clear|d.update is defined|l.append(1)|l.append|l.sort()|d.__class__|d.__class__.x|s.__len__|'a'.__class__.__mro__
d|tojson|d|tojson(indent=2)|d|tojson(2)|d|tojson(indent=0)|d|tojson(indent='\\t')|d|tojson(sort_keys=true)|d|tojson(separators=(',', ':'))|u|tojson|u|tojson(ensure_ascii=true)|[]|tojson|{}|tojson|[[], {}]|tojson(indent=1)|(1, 2)|tojson|1.0|tojson|1e100|tojson|none|tojson|'<a>&\\''|tojson|{1: 2, none: 3, true: 4, 1.5: 5}|tojson|range(3)|tojson|d.items()|tojson|(d|map('upper'))|tojson|1e400|tojson
l|l[0]|l[-1]|l[9]|l[1:]|l[:-1]|l[::-1]|l[::2]|l[5:]|l[-2:]|l[3:1]|l[3:1:-1]|l[::0]|l['x']|l[none]|l[1.0]|l[true]|l[:'a']|l[100:-100:-3]|l.0|l.index(2)|l.count(2)|l.index(99)|l.foo
s|s[0]|s[-1]|s[99]|s[1:3]|s[::-1]|s[:2]|s.foo|s['upper']()|s|length|s|reverse|s|list|s|first|s|last|u[0]|u[::-1]|u|length|u|reverse|u[1:3]|u|list
s.upper()|s.lower()|s.title()|s.capitalize()|s.swapcase()|s|upper|s|lower|s|title|s|capitalize|'don\\'t stop-me (now)'|title|'don\\'t stop-me'.title()|''|capitalize|'日本 a'|upper|5|upper
' a '.strip()|'xxaxx'.strip('x')|'xyaxy'.lstrip('xy')|'xyaxy'.rstrip('xy')|' a '|trim|'xax'|trim('x')|'\\u3000a\\x1f'.strip()|''.strip()|'a\\n'.rstrip('\\n')|' a'.strip(none)|' a'.strip(1)|5|trim
'a,b,,c'.split(',')|' a  b '.split()|'a b c'.split(none, 1)|'a,b,c'.split(',', 1)|'a,b,c'.rsplit(',', 1)|' a b c '.rsplit(none, 1)|'a,b'.split('')|'abc'.split(sep='b', maxsplit=1)|''.split(',')|''.split()|'a\\nb\\r\\nc'.splitlines()|'a\\nb'.splitlines(true)|'a-b-c'.partition('-')|'a-b-c'.rpartition('-')|'abc'.partition('-')|'a\\u00a0b'.split()
'abc'.startswith('a')|'abc'.startswith(('x', 'ab'))|'abc'.endswith('bc')|'abc'.startswith('b', 1)|'abc'.startswith(1)|'abc'.find('c')|'abc'.find('z')|'abc'.index('z')|'aéa'.rfind('a')|'aaa'.count('a')|'aaa'.count('')|'aXbX'.replace('X', 'y')|'aXbX'.replace('X', 'y', 1)|'ab'.replace('', '-')|'aXb'|replace('X', 1)|'ab'|replace('', '-', 2)|'abc'.replace(1, 2)|'prefix-x'.removeprefix('prefix-')|'x.txt'.removesuffix('.txt')|'5'.zfill(3)|'-5'.zfill(4)|'a'.ljust(3)|'a'.rjust(3, '*')|'12'.isdigit()|'a1'.isalnum()|'ab'.isalpha()|' '.isspace()|'a'.islower()|'A'.isupper()|''.isdigit()
', '.join(['a', 'b'])|','.join([1])|[1, none, 'a']|join('-')|[1, 2]|join|'abc'|join(',')|rows|join(',', attribute='n')|d|join
[1, 2.0, 'a', none, true, [1], (1,), (), {'a': 'b'}]|['it\\'s', 'a"b', '\\'"', '\\\\ \\n\\t\\x00', 'é\\u00ad\\u3000']|{'a': [1, {'b': none}]}|[nothing]|(1, 2)|(1,)|()|[[]]|{}
[3, 1, 2]|sort|[3, 1, 2]|sort(reverse=true)|['b', 'A', 'c']|sort|['b', 'A', 'c']|sort(case_sensitive=true)|[1, 'a']|sort|rows|sort(attribute='n')|map(attribute='n')|list|rows|sort(attribute='k,n')|map(attribute='n')|list|['b', 'B', 'a']|unique|list|[1, 1.0, true, 2]|unique|list|[3, 1]|min|[3, 1]|max|[]|max|['b', 'A']|min|[1, 2.5]|sum|rows|sum(attribute='n')|['a']|sum|rows|map(attribute='k')|unique|list
rows|map(attribute='n')|list|rows|map(attribute='zz')|list|rows|map(attribute='zz', default=0)|list|rows|map('length')|list|['a', 'b']|map('upper')|list|['a']|map('replace', 'a', 'b')|list|rows|map()|list|[1]|map('nope')|list|[[1, 2]]|map(attribute=0)|list|[{'a': {'b': 1}}]|map(attribute='a.b')|list|[none]|map('upper')|first
rows|selectattr('n', 'gt', 1)|list|rows|selectattr('k', 'equalto', 'x')|map(attribute='n')|list|rows|rejectattr('k', '==', 'x')|list|rows|selectattr('zz')|list|rows|selectattr('zz', 'defined')|list|[0, 1, '', 'a']|select|list|[0, 1]|reject|list|[1, 2, 3]|select('odd')|list|[1, 2, 3]|reject('divisibleby', 3)|list|[1, 2]|select('in', [2])|list|none|select|list|5|select|list|rows|selectattr|list|rows|selectattr('n', 'lt', 'a')|list|rows|selectattr('n', 'lt', 'a')|length
[1, 2]|reverse|list|[1, 2]|first|[1, 2]|last|[]|first|[]|last is defined|5|first|5|list|d|reverse|list|(1, 2)|reverse|first|range(5)|list|range(2, 8, 3)|list|range(5, 0, -2)|list|range(3)|range(0)|range(1, 2, 0)|range('a')|range(3)[1]|range(4)|length|range(3)|last|range(3) == range(3)
'5'|int|'5.7'|int|'x'|int|'x'|int(9)|5.9|int|-5.9|int|none|int|' 7 '|int|'1_0'|int|true|int|[]|int|'1e3'|int|'5'|float|'x'|float|'x'|float(1.5)|none|float|'1e3'|float|'inf'|float|2|float|-3|abs|-3.5|abs|'a'|abs|true|abs
2.5|round|3.5|round|2.675|round(2)|2.4|round(0, 'ceil')|2.6|round(method='floor')|5|round|-2.5|round|'a'|round|1e300|round|2.345|round(1, 'ceil')|2.5|round(method='x')
5|string|none|string|[1]|string|'<a>'|safe|5|length|none|length|'x'|default('y')|''|default('y')|''|default('y', true)|''|d('y', boolean=true)|none|default('y')|0|default(1, true)
1 is number|1.0 is number|true is number|'1' is number|1 is integer|true is integer|1.0 is float|'a' is string|[] is sequence|{} is mapping|{} is sequence|[] is iterable|5 is iterable|'a' is iterable|none is none|0 is none|true is true|1 is true|false is false|0 is false|true is boolean|3 is odd|4 is even|'a' is odd|6 is divisibleby 3|6 is divisibleby(4)|'a' is lower|'A' is upper|'aB' is lower|1 is in [1]|1 is eq 1|1 is ne 1|1 is lt 2|1 is gt 2|1 is ge 1|2 is le 1|1 is not defined|1 is defined and 2 is defined|not 1 is defined|none is sameas none|true is sameas true|1 is sameas true|range is callable|s is callable|1 is equalto 1 and true
[1, 2,]|{'a': 1,}|(1, 2,)|{'a': 1, 'a': 2}|{[]: 1}|{(1, 2): 3}[(1, 2)]|{1: 'x'}[1]|{1: 'x'}[true]|{1: 'x'}['1']|{'a': 1}.a|{'b': {'c': [5]}}.b.c[0]|dict(a=1, b=2)|dict([('a', 1)], b=2)|dict({'a': 1})|dict(5)|namespace(a=1).a|namespace(a=1).b|namespace({'a': 1})['a']|namespace(a=1)|namespace(_a=1)
'\\n\\t\\\\\\'"'|"\\x41\\u00e9\\U0001F642"|'\\101\\0'|'\\q'|'\\é'|'a\\
b'|'\\x4'|'\\u12'
raise_exception('no: ' ~ 5)|raise_exception()|strftime_now('%Y-%m-%d %H:%M:%S')|strftime_now('%d %b %Y')|strftime_now('%A %B %-d %j %%')|strftime_now(5)|range is defined|nosuch is defined|loop is defined|true|True|None|none|False|d.items() is iterable|d.items()|list|d.items()[0]
s|indent|lines|indent|lines|indent(2)|lines|indent(2, true)|lines|indent(2, blank=true)|lines|indent('> ')|lines|indent(first=true)|5|indent|lines|indent(width=1, first=false, blank=true)
s.center(9)|s.nosuch()|s()|5()|none.x|none['x']|none.x.y|5.x|(5).x|true.x|l.x.y|s.upper|length|d.a.b.c|d[none]|d[[]]|d[[]] is defined|s[s]|s[none]|l[nothing]|d[nothing] is defined
'%s' % 5|'{}'.format(5)|1 ~ -1|-1 ** 2|2 - -2|2--2|1 +1|not not true|[1, 2][0]|'ab'[1]|(1, 2)[1]|{'a': 1}['a']|'a' if 'a' in l else 'b'|(not true)|1 in [1] and 2 not in [1]|[1] is iterable and [1] is not string|s is string and s|length > 1|1 if 1 is defined else 2
"""
    table = []
    for line in expressions.strip("\n").replace("\\\nb", "\\\x00b").split("\n"):
        table += [part.replace("\x00", "\n") for part in split_expressions(line)]
    return ["{{ " + part + " }}" for part in table] + STATEMENTS + whitespace_snippets()


FILTERS = sorted(
    "abs capitalize count d default dictsort first float indent int items join last length list lower map max min "
    "reject rejectattr replace reverse round safe select selectattr sort string sum title tojson trim unique upper".split()
)


def split_expressions(line):
    """Cuts at each `|` that is not followed by the name of a filter."""
    parts, depth, quote, begin, i = [], 0, None, 0, 0
    while i < len(line):
        c = line[i]
        if quote:
            if c == "\\":
                i += 1
            elif c == quote:
                quote = None
        elif c in "'\"":
            quote = c
        elif c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        elif c == "|" and depth == 0:
            word = "".join(itertools.takewhile(lambda x: x.isalnum() or x == "_", line[i + 1 :]))
            follows = line[i + 1 + len(word) : i + 2 + len(word)]
            is_filter = word in FILTERS and follows in ("", "|", "(", " ", "[") and word not in ("d", "s")
            if word == "d" and follows in ("", "(") and line[i + 1 : i + 3] != "d.":
                is_filter = line[i + 2 : i + 3] == "(" or i + 2 == len(line)
            if not is_filter:
                parts.append(line[begin:i])
                begin = i + 1
        i += 1
    return parts + [line[begin:]]


STATEMENTS = """\
{% for x in l %}{{ x }},{% endfor %}
{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }};{% endfor %}
{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }};{% endfor %}
{% for x in l %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{{ loop.depth }}{{ loop.cycle('a', 'b') }}{% endfor %}
{% for x in [] %}x{% else %}none{% endfor %}
{% for x in nothing %}x{% else %}none{% endfor %}
{% for x in none %}x{% endfor %}
{% for x in 5 %}x{% endfor %}
{% for x in 'aé' %}{{ x }}.{% endfor %}
{% for k in d %}{{ k }}{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}
{% for k, v in d|items %}{{ k }}={{ v }}{{ loop.last }};{% endfor %}
{% for k, v in [1] %}{% endfor %}
{% for k, v in [(1, 2, 3)] %}{% endfor %}
{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for x in l if x > 1 %}{{ x }}{{ loop.index }}/{{ loop.length }}{{ loop.last }}{% endfor %}
{% for x in l if x > 9 %}{{ x }}{% else %}no{% endfor %}
{% for x in l if loop is defined %}{{ x }}{% endfor %}
{% for x in l if x is odd %}{{ loop.previtem }}{{ loop.nextitem }},{% endfor %}
{% for x in l %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for x in l %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}
{% for x in [1] %}{% break %}{% else %}else{% endfor %}
{% for x in [1] %}{% continue %}{% else %}else{% endfor %}
{% for x in l %}{% for y in l %}{% if y == 2 %}{% break %}{% endif %}{{ x }}{{ y }} {% endfor %}{% endfor %}
{% for x in l %}{% for y in l %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}
{% for x in [] %}{% else %}{{ loop is defined }}{% endfor %}
{% break %}
{% continue %}
{% if true %}{% break %}{% endif %}
{% for x in l %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}
{% set x = 1 %}{% for y in l %}{% set x = x + y %}{{ x }}{% endfor %}{{ x }}
{% set ns = namespace(x=1) %}{% for y in l %}{% set ns.x = ns.x + y %}{% endfor %}{{ ns.x }}
{% set ns = namespace() %}{% set ns.a = 1 %}{% set ns.b = ns.a + 1 %}{{ ns.a }}{{ ns.b }}{{ ns.c }}
{% set ns = namespace(found=false) %}{% for x in l if not ns.found %}{{ x }}{% set ns.found = true %}{% endfor %}
{% set d.x = 1 %}
{% set nothing.x = 1 %}
{% set ns = namespace() %}{% set ns._x = 1 %}
{% set a, b = 1, 2 %}{{ a }}{{ b }}
{% set a, b = [1] %}
{% set a = 1, 2 %}{{ a }}
{% set (a, b) = (1, 2) %}{{ a }}{{ b }}
{% set ns = namespace() %}{% set ns.a, b = 1, 2 %}{{ ns.a }}{{ b }}
{% set true = 1 %}
{% set 'x' = 1 %}
{% set x %}a{{ 1 }}b{% endset %}[{{ x }}]
{% set x | upper %}abc{% endset %}{{ x }}
{% set x | replace('a', 'b') | upper %}abc{% endset %}{{ x }}
{% set x %}{% set y = 5 %}{{ y }}{% endset %}{{ x }}{{ y }}
{% set x = 1 if false %}{{ x is defined }}
{% if false %}{% set x = 1 %}{% endif %}{{ x is defined }}
{% if true %}{% set x = 1 %}{% endif %}{{ x }}
{% if nothing %}a{% elif [] %}b{% elif [0] %}c{% else %}d{% endif %}
{% if 0 %}a{% elif 0.0 %}b{% elif '' %}c{% elif none %}d{% elif {} %}e{% else %}f{% endif %}
{% if 1 %}{% if 0 %}a{% else %}b{% endif %}{% endif %}
{% if %}{% endif %}
{% if 1 %}
{% endif %}
{% for %}{% endfor %}
{% for x l %}{% endfor %}
{% for x in l %}
{% else %}
{% foo %}
{% if 1 %}{% endfor %}
{% macro m(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(b=5, a=4) }} {{ m() }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}
{% macro m(a) %}{{ a is defined }}{% endmacro %}{{ m() }}{{ m(none) }}
{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}
{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}
{% macro m(a=1, b) %}{% endmacro %}
{% macro m(n) %}{{ n }}{% if n > 0 %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(5) }}
{% set x = 1 %}{% macro m() %}{{ x }}{% endmacro %}{% set x = 2 %}{{ m() }}
{% macro m() %}{% set x = 1 %}{% endmacro %}{{ m() }}{{ x is defined }}
{% macro m() %}a{% endmacro %}{{ m()|upper ~ m().upper() }}{{ m is callable }}{{ m.name }}
{% for i in l %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}
{% set ns = namespace() %}{% macro m(x) %}{% set ns.v = x %}{% endmacro %}{{ m(3) }}{{ ns.v }}
{{ m() }}{% macro m() %}late{% endmacro %}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(*[1]) }}{{ m(**{'a': 2}) }}
{% macro outer() %}{% macro inner() %}i{% endmacro %}{{ inner() }}{% endmacro %}{{ outer() }}
{% generation %}a{{ 1 }}{% endgeneration %}
{% generation %}{% set x = 1 %}{{ x }}{% endgeneration %}{{ x is defined }}
{% for x in l %}{% generation %}{{ loop.index }}{% endgeneration %}{% endfor %}
{% generation %}
{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}
{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}
{% with %}{% set z = 1 %}{{ z }}{% endwith %}{{ z is defined }}
{% filter upper %}abc{{ s }}{% endfilter %}
{% filter replace('a', 'b')|upper %}abc{% endfilter %}
{% print 1, 2 %}
{% raw %}{{ x }}{% if %}{% endraw %}
{% raw -%} a {%- endraw %} b
{% raw %}
a
{% endraw %}
b
{% raw %}
{# a comment #}x{# another
one #}y
{#- strip -#} x
{# {{ nested }} {% if %} #}
{# open
{{ 'a' }}{{ "b" }}
{{ {'a': {'b': 1}}['a']['b'] }}
{{ {'a': {'b': 1}} }}
{{ '}}' }}{{ '%}' }}{% if '%}' %}x{% endif %}
{{ 1 }
{{ 1
{{ }}
{{ 1 2 }}
{{ (1 }}
{{ 1) }}
{{ [1) }}
{{ 'a }}
{{ a b }}
{{ 1 +}}
{{ | upper }}
{{ 1 | }}
{{ 1 | nosuchfilter }}
{{ 1 is nosuchtest }}
{{ 1 is string is string }}
{{ a.b.c }}
{{ a. }}
{{ a[ }}
{{ $ }}
{{ a ? b : c }}
{{ a = 1 }}
{{ f(a=1, 2) }}
{{ f(**a, **b) }}
{{ dict(a=1, a=2) }}
{{ l[1:2, 3] is defined }}
{{ 'a'|upper|lower|length }}
{{ (1, 2)|length }}
{{ 1, 2 }}
{{- 1 -}}
{{+ 1 }}
{{ -1 }}{{-1}}
{% set it = l|map('string') %}{{ it|list }}{{ it|list }}
{% set it = l|select('odd') %}{% for x in it %}{{ x }}{% endfor %}{% for x in it %}{{ x }}{% endfor %}
{% set it = l|select %}{{ it|first }}{{ it|first }}{{ it|list }}
{% set it = l|reverse %}{% for x in it %}{{ x }}{% break %}{% endfor %}{{ it|list }}
{% set f = s.upper %}{{ f() }}
{% set loop = 5 %}{{ loop }}
{% for loop in l %}{% endfor %}
{% for x in l %}{% set x = x * 2 %}{{ x }}{% endfor %}
{% for x in l[::-1] %}{{ x }}{% endfor %}
{% for x in range(3) %}{{ x }}{% endfor %}
{% for x in l recursive %}{% endfor %}
{% include 'x' %}
{% extends 'x' %}
{% block a %}x{% endblock %}
{% call m() %}{% endcall %}
{% import 'x' as y %}
{% if 1 -%}  x  {%- endif %}
{% for x in l: %}{{ x }}{% endfor %}
{% set x = namespace(a=[]) %}{% set x.a = x.a + [1] %}{% set x.a = x.a + [2] %}{{ x.a }}
{% if s is string and s is not none and (s|length > 2 or false) %}y{% endif %}
{% set x = {'a': 1} %}{% set y = dict(x, b=2) %}{{ x }}{{ y }}
{% for m in rows %}{{ m.n }}{% if not loop.last %}, {% endif %}{% endfor %}
{% for m in rows if m.k == 'x' %}{{ m['n'] }}{% endfor %}
{{ rows[0].n }}{{ rows[-1]['k'] }}{{ rows|map(attribute='k')|join }}
{{ none }}{{ true }}{{ 1.50 }}{{ [] }}
{{ (nothing or {}).x }}{{ (d.zz or 'q') }}
""".split(
    "\n"
)


def whitespace_snippets():
    """Every sign at both ends of a tag, amid newlines and indentation."""
    out = []
    signs = ["", "-", "+"]
    for begin, end in itertools.product(signs, signs):
        for before, after in [("a\n  ", "  \n b"), ("  ", "\n\nb"), ("a ", " b"), ("\n\t", "\n")]:
            out.append(f"{before}{{%{begin} if 1 {end}%}}{after}{{% endif %}}\nz")
            out.append(f"{before}{{#{begin} c {end}#}}{after}")
            if end != "+":
                out.append(f"{before}{{{{{begin} 1 {end}}}}}{after}")
                out.append(f"{before}{{%{begin} raw {end}%}}{after}{{%{end} endraw {begin}%}}\n y")
    out += [
        "a\n",
        "a\n\n",
        "\n",
        "",
        "a\r\nb\rc\r\n",
        "{% if 1 %}\r\nx\r\n{% endif %}\r\n",
        "{% if 1 %}\n{% if 1 %}\n  x\n  {% endif %}\n{% endif %}\n\n",
        "  {% if 1 %}  {% endif %}  x",
        "x  {% if 1 %}  {% endif %}",
        "{{ 1 }}  {% if 1 %}\n  {{ 2 }}\n  {% endif %}",
        "{{ 1 }}\n{{ 2 }}\n\n{{ 3 }}\n",
        "  {# c #}  \n  {# d #}\n x",
        "\u3000{%- if 1 %}\u00a0{%- endif %}",
        "\u3000{% if 1 %}y{% endif %}",
        "{%if 1%}x{%endif%}",
        "{%\nif\n1\n%}x{%\nendif\n%}",
        "{{1}}{{ 'a'}}{{'b' }}",
        "{ { 1 } } {%% }} %} #} {",
        "{{ '\n' }}x",
        "{% if 1 %}\n\n\nx{% endif %}",
        "{#-#}x{#+#}\ny",
        "{%- set x = 1 -%}\n\n x {{ x }}",
    ]
    return out


VARIABLES = {
    "d": {"b": 2, "a": 1, "C": "x"},
    "l": [1, 2, 3],
    "s": "Hello wOrld",
    "u": "aé日🙂\u2028\u007f\u0001",
    "lines": "one\ntwo\n\n  three",
    "rows": [{"n": 2, "k": "x"}, {"n": 1, "k": "y"}, {"n": 3, "k": "x"}],
}


# ---- Rendering ----


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def error_of(error):
    # The message of Python's own errors is no part of the format.
    known = isinstance(error, jinja2.exceptions.TemplateError)
    syntax = isinstance(error, jinja2.exceptions.TemplateSyntaxError)
    name = "syntax" if syntax or isinstance(error, SyntaxError) else type(error).__name__
    return {"error": name, "message": str(error) if known and not syntax else ""}


def render_snippet(source):
    try:
        # Renders without apply_chat_template, which has its own ideas of messages.
        return chat_template_utils._compile_jinja_template(source).render(**VARIABLES)
    except Exception as error:  # whatever a template can raise
        return error_of(error)


def render_conversation(template, bos, eos, conversation):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE()), bos_token=bos, eos_token=eos
    )
    try:
        return tokenizer.apply_chat_template(
            conversation["messages"],
            chat_template=template,
            tools=conversation.get("tools"),
            add_generation_prompt=conversation.get("generate", False),
            tokenize=False,
            **conversation.get("extra", {}),
        )
    except Exception as error:  # whatever a template can raise
        return error_of(error)


def write_json(path, value, indent):
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=True) + "\n")


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    chat_template_utils.datetime = Clock
    conversations = make_conversations()
    expected = {}
    (OUT / "templates").mkdir(parents=True, exist_ok=True)
    for name, (template, bos, eos) in TEMPLATES.items():
        (OUT / "templates" / f"{name}.jinja").write_text(template)
        rendered = [render_conversation(template, bos, eos, c) for c in conversations]
        tokens = {"bos_token": bos, "eos_token": eos}
        expected[name] = {"tokens": {k: v for k, v in tokens.items() if v}, "rendered": rendered}
    snippets = [[source, render_snippet(source)] for source in make_snippets()]
    write_json(OUT / "conversations.json", conversations, 0)
    write_json(OUT / "expected.json", expected, 0)
    write_json(OUT / "snippets.json", {"variables": VARIABLES, "snippets": snippets}, 0)
    errors = sum(isinstance(result, dict) for _, result in snippets)
    print(
        f"transformers {transformers.__version__}, jinja2 {jinja2.__version__}: "
        f"{len(TEMPLATES)} templates, {len(conversations)} conversations, "
        f"{len(snippets)} snippets of which {errors} fail"
    )


if __name__ == "__main__":
    main()
