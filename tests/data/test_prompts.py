"""Prompt files: what is read, what is skipped, and what each error names."""

import itertools
import json
import os
import re
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsft_jax.data import MAX_LINE_BYTES, fields_by_text, fingerprint, load_prompts, read_prompts

STORIES = Path(__file__).parents[2] / "experiments" / "applications" / "stories" / "prompts.jsonl"


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "prompts.jsonl"
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def test_prompts_keep_id_text_and_the_other_columns(write):
    path = write(
        [
            {"id": "a", "split": "train", "prompt": "Zoë's 猫", "answer": "1", "level": 2},
            {"prompt": "no id"},
            {"id": 7, "prompt": "a number"},
        ]
    )
    first, second, third = load_prompts(path)
    assert (first.id, first.text) == ("a", "Zoë's 猫")
    assert first.fields == {"split": "train", "answer": "1", "level": 2}
    assert first.messages == ({"role": "user", "content": "Zoë's 猫"},)
    assert second.id == "line-000002"
    assert third.id == "7"


def test_prompts_accept_chat_messages(write):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    (prompt,) = load_prompts(write([{"id": "a", "prompt": messages}]))
    assert prompt.text == "system: Be brief.\n\nuser: Hello"
    assert list(prompt.messages) == messages


def test_chats_that_end_alike_are_different_texts(write):
    def chat(first):
        talk = [("user", first), ("assistant", "I think."), ("user", "And the result?")]
        return [{"role": role, "content": content} for role, content in talk]

    rows = [{"id": x, "prompt": chat(f"{x} + {x}"), "answer": 2 * x} for x in (2, 3)]
    found = fields_by_text(load_prompts(write(rows)))
    assert [fields["answer"] for fields in found.values()] == [4, 6]


@pytest.mark.parametrize(
    "content",
    [
        b'{"id":"a","prompt":"x"}',  # no line break at the end
        b'\xef\xbb\xbf{"id":"a","prompt":"x"}\r\n\r\n',  # as written on Windows
        b'\n \n{"id":"a","prompt":"x"}\n\n',
    ],
)
def test_prompts_accept_harmless_forms_of_a_file(write, content):
    (prompt,) = load_prompts(write(content))
    assert (prompt.id, prompt.text) == ("a", "x")


def test_split_and_limit_choose_rows_in_order(write):
    rows = [{"id": f"{i}", "split": "ab"[i % 2], "prompt": f"p{i}"} for i in range(7)]
    path = write(rows)
    assert [p.id for p in load_prompts(path, split="b")] == ["1", "3", "5"]
    assert [p.id for p in load_prompts(path, split="a", limit=2)] == ["0", "2"]
    assert len(load_prompts(path, limit=100)) == 7


GOOD = '{"id":"a","prompt":"x"}\n'


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (GOOD + '{"id":"b","prompt":"y"', 2, "the last line is cut or malformed"),
        (GOOD.encode() + '{"id":"b","prompt":"é'.encode()[:-1], 2, "it ends inside a character"),
        (GOOD + '{"id" "b"}\n' + GOOD, 2, "malformed JSON: Expecting ':' delimiter"),
        (GOOD + "\n\n[1, 2]\n", 4, r"must be a JSON object, got list \(\[1, 2\]\)"),
        (GOOD + "null\n", 2, "must be a JSON object, got null"),
        (GOOD + '{"id":"b"}\n', 2, r"column 'prompt' is missing; the row has \['id'\]"),
        (GOOD + '{"id":"b","prompt":3}\n', 2, "column 'prompt' must be a string or list, got num"),
        (GOOD + '{"id":"b","prompt":null}\n', 2, "column 'prompt' must be .* got null"),
        (GOOD + '{"id":["b"],"prompt":"y"}\n', 2, "column 'id' must be a string or number, got li"),
        (GOOD + '{"id":true,"prompt":"y"}\n', 2, "column 'id' must be .* got true or false"),
        (GOOD + '{"id":"","prompt":"y"}\n', 2, "column 'id' must not be empty"),
        (GOOD + GOOD, 2, "the id 'a' is already that of line 1"),
        (GOOD + '{"id":"b","prompt":"y","prompt":"z"}\n', 2, "the name 'prompt' occurs twice"),
        (GOOD + '{"id":"b","prompt":[]}\n', 2, "at least one message"),
        (GOOD + '{"id":"b","prompt":["y"]}\n', 2, "'prompt', message 0: a message must be"),
        (GOOD + '{"id":"b","prompt":[{"role":"user"}]}\n', 2, "message 0"),
        (GOOD + '{"id":"b","prompt":[{"role":"user","content":1}]}\n', 2, "message 0"),
        (GOOD + '{"id":"b","prompt":"y","answer":NaN}\n', 2, "NaN is not JSON"),
        (GOOD + "[" * 100_000 + "\n", 2, "nested too deeply"),
        (GOOD + "1" * 100_000 + "\n", 2, "malformed JSON"),
    ],
)
def test_bad_row_is_an_error_naming_file_line_and_column(write, content, line, message):
    path = write(content)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}:{line}: .*{message}"):
        load_prompts(path)


def test_limit_does_not_hide_a_bad_row(write):
    with pytest.raises(ValueError, match=":2: malformed JSON"):
        load_prompts(write(GOOD + "oops\n" + GOOD), limit=1)


@pytest.mark.parametrize(
    ("row", "row_id", "reason"),
    [
        (b'{"id":"b","prompt":"caf\xe9"}', "", "invalid UTF-8 at byte 23"),
        (b'{"id":"b","prompt":"\\ud800"}', "b", "half a surrogate pair"),
        (b'{"id":"b","prompt":"a\\u0000b"}', "b", "a NUL character"),
        (b'{"id":"b","prompt":"x","answer":[{"deep":"\\udc00"}]}', "b", "half a surrogate pair"),
        (b'{"id":"b\\ud800","prompt":"x"}', "", "half a surrogate pair"),
        (b'{"id":"b","prompt":""}', "b", "empty prompt"),
        (b'{"id":"b","prompt":" \\n\\t"}', "b", "empty prompt"),
        (b'{"id":"b","prompt":[{"role":"user","content":" "}]}', "b", "empty prompt"),
    ],
)
def test_unreadable_text_is_skipped_counted_and_logged(write, caplog, row, row_id, reason):
    path = write(GOOD.encode() + row + b'\n{"id":"c","prompt":"z"}\n')
    found = read_prompts(path)
    assert [prompt.id for prompt in found.prompts] == ["a", "c"]
    (skipped,) = found.skipped
    assert (skipped.line, skipped.id, skipped.reason) == (2, row_id, reason)
    assert f"{path}:2: skipped" in caplog.text
    assert reason in caplog.text


def test_last_line_with_a_bad_byte_inside_is_skipped_and_not_called_cut(write):
    found = read_prompts(write(GOOD.encode() + b'{"id":"b","prompt":"caf\xe9"}'))
    assert [row.reason for row in found.skipped] == ["invalid UTF-8 at byte 23"]


def test_paired_surrogates_are_one_character(write):
    (prompt,) = load_prompts(write(b'{"id":"a","prompt":"\\ud83d\\ude00"}\n'))
    assert prompt.text == "\N{GRINNING FACE}"


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_empty_file_is_an_error(write, content):
    with pytest.raises(ValueError, match="is empty: a prompt file needs at least one row"):
        load_prompts(write(content))


def test_file_with_no_row_left_is_an_error_with_counts(write):
    path = write([{"id": "a", "prompt": ""}, {"id": "b", "prompt": " "}])
    with pytest.raises(ValueError, match=r"none of its 2 rows is left for use \(2 skipped\)"):
        load_prompts(path)
    path = write([{"id": "a", "split": "train", "prompt": "x"}])
    with pytest.raises(ValueError, match=r"the split 'test'; usable rows by split: {'train': 1}"):
        load_prompts(path, split="test")


def test_split_asked_for_must_be_a_column(write):
    with pytest.raises(ValueError, match=":1: column 'split' is missing"):
        load_prompts(write(GOOD), split="train")


def test_line_above_the_cap_is_refused_without_reading_the_rest(write):
    path = write(GOOD)
    with path.open("r+b") as file:  # a sparse file: one line of 10 GB that takes no room
        file.seek(0, os.SEEK_END)
        file.truncate(10_000_000_000)
    tracemalloc.start()
    with pytest.raises(ValueError, match=f":2: the line is longer than {MAX_LINE_BYTES} bytes"):
        load_prompts(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * MAX_LINE_BYTES


def test_line_at_the_cap_is_read(write):
    row = '{"id":"a","prompt":"%s"}'
    text = "x" * (MAX_LINE_BYTES - len(row) + 2)
    for end in ("", "\n", "\r\n"):
        assert load_prompts(write(row % text + end))[0].text == text
    with pytest.raises(ValueError, match="longer than"):
        load_prompts(write(row % (text + "x") + "\n"))


def test_path_that_is_no_file_is_an_error_and_no_hang(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no prompt file at .*absent\.jsonl"):
        load_prompts(tmp_path / "absent.jsonl")
    with pytest.raises(ValueError, match="not a regular file"):
        load_prompts(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        load_prompts(tmp_path / "pipe")


def test_limit_below_one_is_refused(write):
    with pytest.raises(ValueError, match="limit must be at least 1 or None, got 0"):
        load_prompts(write(GOOD), limit=0)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=80), st.sampled_from([b"", GOOD.encode()]))
def test_any_bytes_give_prompts_or_a_value_error(tmp_path_factory, content, before):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(before + content)
    prompts, error = [], str(path)
    try:
        prompts = load_prompts(path)
    except ValueError as caught:
        error = str(caught)
    assert str(path) in error
    assert all(prompt.text.strip() for prompt in prompts)


def test_fields_by_text_refuses_a_text_with_two_answers(write):
    rows = [
        {"id": "a", "split": "train", "prompt": "x", "answer": "1"},
        {"id": "b", "split": "test", "prompt": "x", "answer": "1"},
        {"id": "c", "split": "test", "prompt": "x", "answer": "2"},
    ]
    prompts = load_prompts(write(rows))
    assert fields_by_text(prompts[:2]) == {"x": {"answer": "1"}}
    with pytest.raises(ValueError, match="prompts 'a' and 'c' have the same text"):
        fields_by_text(prompts)


def test_fingerprint_changes_with_order_text_and_columns(write):
    rows = [{"id": "a", "prompt": "x", "answer": "1"}, {"id": "b", "prompt": "y", "answer": "2"}]
    variants = [
        rows,
        rows[::-1],
        [{**rows[0], "prompt": "z"}, rows[1]],
        [{**rows[0], "answer": "9"}, rows[1]],
        [{**rows[0], "id": "c"}, rows[1]],
        rows[:1],
    ]
    prints = [fingerprint(load_prompts(write(variant))) for variant in variants]
    assert len(set(prints)) == len(prints)
    assert prints[0] == fingerprint(load_prompts(write(rows)))


def test_stories_are_240_and_80_different_short_prompts():
    train, held_out = load_prompts(STORIES, split="train"), load_prompts(STORIES, split="heldout")
    assert (len(train), len(held_out)) == (240, 80)
    assert read_prompts(STORIES).skipped == ()
    openings = {prompt.text.split(": ")[-1].lower() for prompt in train + held_out}
    assert len(openings) == 320
    assert all(8 <= len(prompt.text.split()) <= 30 for prompt in train + held_out)


def test_stories_held_out_are_no_variation_of_training_ones():
    common = re.compile(
        r"\b(a|an|the|of|to|and|in|on|at|who|is|was|had|his|her|that|it|for|with"
        r"|continue|write|tell|finish|this|story|short|few|sentences|about)\b"
    )

    def content_words(text):
        return set(re.findall(r"[a-z']+", common.sub(" ", text.lower())))

    train = [content_words(p.text) for p in load_prompts(STORIES, split="train")]
    held_out = [content_words(p.text) for p in load_prompts(STORIES, split="heldout")]
    shared = max(len(a & b) / len(a | b) for a, b in itertools.product(train, held_out))
    assert shared < 0.4
