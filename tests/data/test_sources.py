"""Prompts from a source with rows by number, against the same rows in a file."""

import json

import numpy as np
import pytest

from rsft_jax.data import Prompt, prompts_from, read_prompts

ROWS = [
    {"id": "a", "split": "train", "prompt": "Zoë's 猫", "answer": "1", "level": 2},
    {"id": 7, "split": "test", "prompt": [{"role": "user", "content": "chat"}]},
    {"id": "empty", "split": "train", "prompt": "  "},
    {"id": "c", "split": "train", "prompt": "last"},
]


class Source:
    """As a data source of Grain is: a length, rows by number, and nothing else."""

    __iter__ = None  # nothing may iterate over it

    def __init__(self, rows):
        self._rows, self.asked = rows, []

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, index):
        self.asked.append(index)
        return self._rows[index]


@pytest.mark.parametrize("options", [{}, {"split": "train"}, {"limit": 1}])
def test_rows_are_read_as_those_of_a_file(tmp_path, options):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    source = Source(ROWS)
    found, expected = prompts_from(source, **options), read_prompts(path, **options)
    assert found.prompts == expected.prompts
    assert [(s.id, s.reason) for s in found.skipped] == [("empty", "empty prompt")]
    assert source.asked == [0, 1, 2, 3]
    assert {prompt.line for prompt in found.prompts} == {0}


def test_strings_and_prompts_are_rows():
    known = Prompt(id="k", text="t", messages=({"role": "user", "content": "t"},))
    found = prompts_from(Source(["one", np.str_("two"), known])).prompts
    assert [prompt.id for prompt in found] == ["row-000000", "row-000001", "k"]
    assert found[2] is known
    assert found[1].messages == ({"role": "user", "content": "two"},)


@pytest.mark.parametrize(
    ("rows", "options", "problem"),
    [
        ([{"prompt": "a"}, {"text": "b"}], {}, "Source:1: column 'prompt' is missing"),
        ([{"id": "x", "prompt": "a"}, {"id": "x", "prompt": "b"}], {}, "Source:1: the id 'x'"),
        (["a", 5], {}, "Source:1: a row must be"),
        ([{"prompt": b"x"}], {}, "Source:0: column 'prompt' .* got bytes"),
        ([{"prompt": 5}], {}, "Source:0: column 'prompt' must be a string or list"),
        (["a"], {"split": "train"}, "Source:0: column 'split' is missing"),
        ([Prompt(id="k", text="t", messages=())], {"split": "x"}, "Source:0: column 'split'"),
        ([], {}, "Source is empty"),
        ([" "], {}, "none of its 1 rows is left"),
        (["a"], {"limit": 0}, "limit must be"),
    ],
)
def test_what_is_wrong_is_named(rows, options, problem):
    with pytest.raises(ValueError, match=problem):
        prompts_from(Source(rows), **options)
