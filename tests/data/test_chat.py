import json
import pickle
import threading
import time
import tracemalloc
from pathlib import Path

import jinja2.sandbox
import pytest

from rsft_jax.data.chat import MAX_TEMPLATE_LENGTH, ChatTemplate, check_messages, unused_characters
from tests.tiny import CHATML

CHAT = [{"role": "user", "content": "Hi there"}]


def render(source, messages=CHAT, **options):
    return ChatTemplate(source).render(messages, **options)


# What real templates do; each must give what Jinja's own sandbox gives.
ORDINARY = [
    CHATML,
    "{% if messages[0]['role'] == 'system' %}a{% else %}b{% endif %}\n  {% set x = 1 %}\n{{ x }}",
    "{% for m in messages %}{{ loop.index0 ~ ':' ~ m.content ~ none ~ nothing }}{% endfor %}",
    "{{ messages[0]['content'].split(' ')[-1] }}{{ 'abc'[1:] }}{{ 'abc'[::-1] }}{{ 'abc'[0] }}",
    "{{ (messages | length) % 2 == 1 }}{{ 7 // 2 + 3 * 2 - 1 }}{{ 'ab' * 3 }}",
    "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}",
    "{% set ns = namespace(last=none) %}{% for m in messages %}{% set ns.last = m %}{% endfor %}"
    "{{ ns.last.content | trim | upper }}",
    "{% macro f(m) %}[{{ m.role }}]{% endmacro %}{% for m in messages %}{{ f(m) }}{% endfor %}",
    "{{ messages | map(attribute='content') | join(', ') }}{{ [1, 2] + [3] }}{{ {'a': (1, 2)} }}",
    "{{ 'Hi' in messages[0].content and messages is defined and messages[0] is mapping }}",
    "{{ messages[0].content | replace('H', 'J') }}{{ messages[0].content.replace('i', 'o') }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ m | default('d') }}",
    "{% set text %}in {{ messages[0].role }}{% endset %}{{ text | capitalize }}",
    "{% for i in range(3) %}{{ i }}{{ ',' if not loop.last }}{% endfor %}",
    "{% filter upper %}quiet {{ 1 }}{% endfilter %}{{ ', '.join(['a', 'b']) }}",
    "{{ 'x' if 0 else 'y' }}{{ 'abcd'[1:3] }}{{ [1, 2, 3][-2:] }}{{ messages[1:] }}",
]


@pytest.mark.parametrize("source", ORDINARY)
def test_template_renders_as_in_the_plain_sandbox(source):
    plain = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    chat = [{"role": "system", "content": " Be brief. "}, *CHAT]
    for messages in (CHAT, chat):
        expected = plain.from_string(source).render(messages=messages, add_generation_prompt=True)
        assert render(source, messages) == expected


def test_template_has_what_transformers_adds():
    assert render("{{ messages | tojson }}") == '[{"role": "user", "content": "Hi there"}]'
    assert render("{{ 'é<' | tojson }}") == '"é<"'
    assert render("{% for m in [1, 2] %}{% break %}{% endfor %}x") == "x"
    assert render("{{ tools is none }}{{ bos_token }}", variables={"bos_token": "<s>"}) == "True<s>"
    with pytest.raises(ValueError, match="chat template failed: only users"):
        render("{{ raise_exception('only users') }}")


def loop(step, start="'ab'"):
    return (
        "{% set ns = namespace(x=" + start + ") %}{% for i in range(80) %}"
        "{% set y = ns.x %}" + step + "{% endfor %}{{ ns.x | length }}"
    )


BOMBS = {
    "range": "{{ range(10**9) | list }}",
    "range literal": "{{ range(1000000000) | list }}",
    "repeat": "{{ 'x' * 10**10 }}",
    "repeat literal": "{{ 'x' * 10000000000 }}",
    "repeat list": "{{ [1] * 10000000000 }}",
    "repeat left": "{{ 10000000000 * 'x' }}",
    "power": "{{ 2 ** 10000000000 }}",
    "squares": loop("{% set ns.x = y * y %}", "7"),
    "shown square": "{{ (10 ** 9999999) | length }}",
    "doubling +": loop("{% set ns.x = y + y %}"),
    "doubling ~": loop("{% set ns.x = y ~ y %}"),
    "doubling list": loop("{% set ns.x = y + y %}", "[1]"),
    "nesting": loop("{% set ns.x = [y, y] %}"),
    "nesting tuple": loop("{% set ns.x = (y, y) %}"),
    "nesting dict": loop("{% set ns.x = {'a': y, 'b': y} %}"),
    "nesting call": loop("{% set ns.x = dict(a=y, b=y) %}"),
    "nesting namespace": loop("{% set ns.x = namespace(a=y, b=y) %}").replace("length", "string"),
    "doubling block": loop("{% set z %}{{ y }}{{ y }}{% endset %}{% set ns.x = z %}"),
    "replace": loop("{% set ns.x = y | replace('a', y) %}"),
    "replace method": loop("{% set ns.x = y.replace('a', y) %}"),
    "replace nothing": loop("{% set ns.x = y.replace('', y) %}"),
    "join": loop("{% set ns.x = [y, y, y] | join(y) %}"),
    "join method": loop("{% set ns.x = y.join([y, y, y]) %}"),
    "join characters": loop("{% set ns.x = y | join(y) %}"),
    "format": "{{ '{:>10000000000}'.format(1) }}",
    "format item": "{{ '{:>10000000000}'['format'](1) }}",
    "format map": "{{ '{a:>10000000000}'.format_map({'a': 1}) }}",
    "format operator": "{{ '%10000000000d' % 1 }}",
    "format filter": "{{ '%10000000000d' | format(1) }}",
    "mapped filter": "{{ ['%10000000000d'] | map('format', 1) | list }}",
    "center": "{{ 'x'.center(10000000000) }}",
    "zfill": "{{ 'x'.zfill(10000000000) }}",
    "center filter": "{{ 'x' | center(10000000000) }}",
    "indent": "{{ 'x' | indent(10000000000) }}",
    "indented JSON": "{{ [1] | tojson(indent=10000000000) }}",
    "lorem": "{{ lipsum(n=1000000) }}",
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "text": "{% for i in range(99999) %}{% for j in range(99999) %}a{% endfor %}{% endfor %}",
    "captured text": "{% set x %}{% for i in range(99999) %}"
    + "a" * 9999
    + "{% endfor %}{% endset %}",
    "recursion": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "many slices": "{% set x = 'a' * 99999 %}"
    + "".join(f"{{% set x{i} = x[{i}:] %}}" for i in range(2000)),
    "slices": "{% set x = 'a' * 99999 %}{% set ns = namespace(l=[]) %}{% for i in range(99999) %}"
    "{% set ns.l = ns.l + [x[i:]] %}{% endfor %}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_template_that_grows_without_end_is_stopped(name):
    start = time.thread_time()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="chat template"):
            render(BOMBS[name])
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert time.thread_time() - start < 20.0  # on a slow machine; without the guard, minutes


ESCAPES = [
    "{{ ''.__class__.__mro__ }}",
    "{{ ''['__class__'] }}",
    "{{ messages.__class__ }}",
    "{{ messages[0].__class__.__init__.__globals__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ range.__init__ }}",
    "{{ raise_exception.__globals__['os'] }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{{ messages | attr('__class__') }}",
    "{{ messages | map(attribute='__class__') | first }}",
    "{{ '{0.__class__}'.format(messages) }}",
    "{{ (messages | string).__len__ }}",
    "{{ 'x'.encode() }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'x'}) }}",
    "{{ messages[0].clear() }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% extends 'x' %}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_template_reaches_nothing_outside(source):
    messages = [dict(CHAT[0])]
    try:
        outcome = render(source, messages)
    except ValueError as error:
        outcome = str(error).partition(":")[0]
    assert outcome in ("", "the chat template failed", "the chat template cannot be read")
    assert messages == CHAT


@pytest.mark.parametrize(
    "source", ["{% if x", "{{ 1 | nothing }}", "{{ " + "(" * 5000 + " }}", "{% frob %}"]
)
def test_template_that_cannot_be_read_is_refused(source):
    with pytest.raises(ValueError, match="chat template cannot be read"):
        ChatTemplate(source)


def test_template_longer_than_the_limit_is_refused():
    ChatTemplate("x" * MAX_TEMPLATE_LENGTH)
    with pytest.raises(ValueError, match=f"more than {MAX_TEMPLATE_LENGTH}"):
        ChatTemplate("x" * (MAX_TEMPLATE_LENGTH + 1))


def test_template_budget_suffices_for_long_chats():
    text = "x" * 1_000_000
    assert text in render(CHATML, [{"role": "user", "content": text}])
    assert len(render(CHATML, CHAT * 5000)) > 5000 * 36


def test_template_budget_starts_anew_for_each_chat_and_thread():
    template = ChatTemplate(CHATML)
    expected = template.render(CHAT)
    results = []

    def work():
        results.extend(template.render(CHAT) for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 200
    template._budget.spend(1000)
    left = []
    thread = threading.Thread(target=lambda: left.append(template._budget.left))
    thread.start()
    thread.join()
    assert left[0] > template._budget.left
    for _ in range(20):  # each of these takes a third of a budget
        assert len(template.render([{"role": "user", "content": "x" * 70_000}])) > 70_000


def test_template_survives_pickling():
    assert pickle.loads(pickle.dumps(ChatTemplate(CHATML))).render(CHAT) == render(CHATML)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hello", "messages must be a list"),
        ({"role": "user", "content": "x"}, "messages must be a list"),
        (None, "messages must be a list"),
        (["hello"], r"messages\[0\] must be a mapping"),
        ([*CHAT, {"role": "user"}], r"messages\[1\]\['content'\] must be a string"),
        ([{"content": "x"}], r"messages\[0\]\['role'\]"),
        ([{"role": "user", "content": None}], r"messages\[0\]\['content'\]"),
        ([{"role": 1, "content": "x"}], r"messages\[0\]\['role'\]"),
    ],
)
def test_malformed_messages_are_named(messages, message):
    with pytest.raises(ValueError, match=message):
        check_messages(messages)
    with pytest.raises(ValueError, match=message):
        render(CHATML, messages)


GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "chats.json").read_text())
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}


def rendered(source, messages, **options):
    """The text of a chat, or the refusal."""
    try:
        return render(source, messages, variables=NAMES, **options)
    except ValueError as error:
        return {"error": str(error)}


@pytest.mark.parametrize("family", GOLDENS["templates"])
def test_templates_in_the_style_of_known_families_render_as_transformers_does(family):
    cases = [case for case in GOLDENS["cases"] if case["family"] == family]
    assert len(cases) == len(GOLDENS["chats"])
    source = GOLDENS["templates"][family]
    for case in cases:
        messages = GOLDENS["chats"][case["chat"]]
        found = {
            "prompt": rendered(source, messages),
            "whole": rendered(source, messages, add_generation_prompt=False),
        }
        if "continued" in case:
            found["continued"] = rendered(source, messages, continue_last=True)
        for form, text in found.items():
            if isinstance(case[form], str):
                assert text == case[form]
            elif family != "json":  # its words are nowhere in `m | tojson` for transformers' check
                assert isinstance(text, dict)


def test_template_may_mark_what_the_assistant_says():
    source = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{%- generation %}{% set x = 'in' %}"
        "{{ loop.index ~ m.content }}{% endgeneration -%} {{ x }}"
        "{% else %}[{{ m.content }}]{% endif %}{% endfor %}"
    )
    messages = [*CHAT, {"role": "assistant", "content": "Yo"}]
    assert render(source, messages) == "[Hi there]2Yo"
    with pytest.raises(ValueError, match="cannot be read"):
        ChatTemplate("{% generation %}{{ x }}")
    with pytest.raises(ValueError, match="more text or takes more steps"):
        render(BOMBS["text"].replace("a{", "{% generation %}a{% endgeneration %}{"))


@pytest.mark.parametrize(
    "asked",
    ["messages | length", "messages | last", "messages[1:] | first", "messages | default([])",
     "messages | list | count", "messages[::-1] | length"],
)  # fmt: skip
def test_template_may_ask_for_the_whole_chat_in_every_turn(asked):
    source = "{% for m in messages %}{% set x = " + asked + " %}{{ m.content }}{% endfor %}"
    chat = [{"role": "user", "content": "x" * 500}] * 200
    assert len(render(source, chat)) == 200 * 500


JSON_BOMBS = {
    "escapes": "{% set ns = namespace(x='\"') %}{% for i in range(24) %}"
    "{% set ns.x = ns.x | tojson %}{% endfor %}",
    "indents": "{% set ns = namespace(x=[1] * 999) %}{% for i in range(400) %}"
    "{% set ns.x = [ns.x] %}{% endfor %}{% set x = ns.x | tojson(indent=8) %}",
    "separators": "{% set x = [1, 2] | tojson(separators=('x' * 999, ':')) %}",
}


@pytest.mark.parametrize("name", JSON_BOMBS)
def test_json_that_grows_without_end_is_stopped(name):
    with pytest.raises(ValueError, match="chat template failed"):
        render(JSON_BOMBS[name])


def test_json_takes_the_arguments_of_transformers_and_no_others():
    assert render("{{ 'é' | tojson(true) }}{{ [1] | tojson(indent=1) }}") == '"\\u00e9"[\n 1\n]'
    assert render("{{ {'b': 1, 'a': 2} | tojson(separators=(',', ':'), sort_keys=true) }}") == (
        '{"a":2,"b":1}'
    )
    with pytest.raises(ValueError, match="chat template failed"):
        render("{{ [1] | tojson(cls=namespace) }}")


def test_template_that_asks_for_today_is_told_why_it_cannot():
    guarded = "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}1{% endif %}"
    assert render(guarded) == "1"
    with pytest.raises(ValueError, match="prompts do not depend on the day"):
        render("{{ strftime_now('%Y') }}")


def test_continued_message_must_be_one_that_the_template_writes():
    messages = [*CHAT, {"role": "assistant", "content": "A\U000f0000 b"}]
    text = render(CHATML, messages, continue_last=True)
    assert text.endswith("<|im_start|>assistant\nA\U000f0000 b")
    with pytest.raises(ValueError, match="leaves out the last message"):
        render("{{ messages[0].content }}", messages, continue_last=True)
    with pytest.raises(ValueError, match="must hold one to go on with"):
        render(CHATML, [], continue_last=True)
    with pytest.raises(ValueError, match="nearly all of the 256"):
        unused_characters(
            [{"role": "user", "content": "".join(map(chr, range(0xF0000, 0xF0100)))}], 1
        )
