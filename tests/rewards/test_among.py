"""A reward that reads a list: who is in it, what is not known, and which lists are refused."""

import numpy as np
import pytest

from rsft_jax.data import Prompt
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.terminal.errors import ConfigError
from rsft_jax.rewards import Term, among, guard


def prompt(name, **fields):
    return Prompt(id=name, text="Alien", messages=(), fields=fields)


ROWS = [["Heat", " Fargo ", "", "heat"], ["Heat", "Fargo", "Brazil", "Fargo | Heat"]]


def test_a_completion_scores_where_its_own_prompt_lists_it():
    term = Term("liked", among("liked"))
    prompts = [prompt("a", liked=["Fargo", "Heat"]), prompt("b", liked=["Brazil"], later=[])]
    np.testing.assert_array_equal(term(prompts, ROWS), [[1, 1, 0, 0], [0, 0, 1, 0]])


def test_a_part_of_a_listed_text_is_not_it():
    found = among("liked")(["p"], [["Heat", "Heat (1995)", "H", "(1995)"]], liked=[["Heat (1995)"]])
    np.testing.assert_array_equal(found, [[0, 1, 0, 0]])


def test_the_column_is_the_one_that_is_named():
    term = Term("chosen", among("later"), weight=-2.0)
    prompts = [prompt("a", liked=["Heat"], later=["Fargo"]), prompt("b", later=["Heat"])]
    np.testing.assert_array_equal(term(prompts, ROWS), [[0, -2, 0, 0], [-2, 0, 0, 0]])


def test_null_is_no_score_and_not_nought():
    scores = Term("liked", among("liked"))([prompt("a", liked=None)], ROWS[:1])
    assert np.isnan(scores).all()


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([], "reward term liked: prompt b: column liked is an empty list"),
        ("Fargo", "reward term liked: prompt b: column liked must be a list of texts or null"),
        ([3], r"must be a list of texts or null, got \[3\]"),
    ],
)
@pytest.mark.parametrize("made", [among("liked"), guard(among("liked"))], ids=["plain", "guarded"])
def test_a_list_that_cannot_be_is_told_of_before_anything_is_scored(value, problem, made):
    prompts = [prompt("a", liked=["Heat"]), prompt("b", liked=value)]
    with pytest.raises(ValueError, match=problem) as caught:
        Term("liked", made).columns(prompts)
    assert "\n" not in str(caught.value)


def test_a_prompt_without_the_column_is_named():
    with pytest.raises(ValueError, match="reads the column liked, and prompt a does not have it"):
        Term("liked", among("liked")).columns([prompt("a", later=["Heat"])])


def test_what_calls_it_without_a_term_is_told_as_well():
    with pytest.raises(ValueError, match="column liked is an empty list"):
        among("liked")(["Alien"], [["Heat"]], liked=[[]])


def test_a_name_that_no_column_can_have_is_refused():
    with pytest.raises(ValueError, match="column must be the name of a column"):
        among("prompts")
    wrong = "reward={mine: {term: among, column: 'a b', weight: 1.0}}"
    with pytest.raises(ConfigError, match=r"reward\.mine\.column: 'a b'; must be the name"):
        load_config(["experiment=smoke", wrong])
