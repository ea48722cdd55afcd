"""The groups of prompts by a column."""

import numpy as np
import pytest

from rsft_jax.data import Prompt, group_labels, group_numbers


def prompt(name, **fields):
    return Prompt(id=name, text=name, messages=(), fields=fields)


def test_labels_are_the_values_of_a_column():
    rows = [prompt("p", level=1), prompt("q", level=2.5), prompt("r", level="x")]
    assert group_labels(rows, "level") == [1, 2.5, "x"]
    assert group_labels([prompt("p", ok=True), prompt("q", ok=False)], "ok") == ["true", "false"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"other": 1}, "prompt q has no column level; its columns: other$"),
        ({}, "its columns: none$"),
        ({"level": None}, "prompt q must have a text or a number in the column level, got None"),
        ({"level": ["a"]}, r"column level, got \['a'\]"),
        ({"level": float("nan")}, "got nan"),
    ],
)
def test_a_prompt_without_a_group_is_named_with_the_column(fields, message):
    with pytest.raises(ValueError, match=message):
        group_labels([prompt("p", level=1), prompt("q", **fields)], "level")


def test_numbers_are_equal_where_labels_are():
    np.testing.assert_array_equal(group_numbers(["b", 1, "b", "1"]), [0, 1, 0, 2])
