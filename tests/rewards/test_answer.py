"""The verifier of numbers: what is right in which form, and which columns are refused."""

import numpy as np
import pytest

from rsft_jax.data import Prompt
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.terminal.errors import ConfigError
from rsft_jax.rewards import Term, answer, equations, guard


def prompt(name, **fields):
    return Prompt(id=name, text="3+4", messages=(), fields=fields)


def scores(text, right=7, **options):
    return Term("answer", answer(**options))([prompt("a", answer=right)], [[text]])[0, 0]


@pytest.mark.parametrize(
    ("text", "end", "alone", "anywhere"),
    [
        ("7", 1, 1, 1),
        (" 7.\n", 1, 1, 1),
        ("+7.00", 1, 1, 1),
        ("3+4=7", 1, 0, 1),
        ("It is 7, I say", 0, 0, 1),
        ("7 apples", 0, 0, 1),
        ("6 or 7", 1, 0, 1),  # the last number counts
        ("7 or 6", 0, 0, 0),
        ("7 7.", 1, 0, 1),
        ("7..", 0, 0, 1),
        ("07", 1, 1, 1),
        ("-7", 0, 0, 0),
        ("17", 0, 0, 0),
        ("70", 0, 0, 0),
        ("7.5", 0, 0, 0),
        ("6.9999999999999999999", 0, 0, 0),
        ("7/1", 0, 0, 0),
        ("seven", 0, 0, 0),
        ("", 0, 0, 0),
        ("7\u00b2", 0, 0, 1),  # a square is no digit of an answer
        ("NaN", 0, 0, 0),
    ],
)
def test_the_last_number_counts_where_it_may_stand(text, end, alone, anywhere):
    found = [scores(text, form=form) for form in ("end", "alone", "anywhere")]
    assert found == [end, alone, anywhere]


@pytest.mark.parametrize(
    ("right", "text"),
    [(7, "7.0"), ("7", "7"), (" 1,200.50 ", "1200.5"), (-3, "46-49=-3"), (0.1, "0.10"),
     (1e-7, "0.0000001"), (-0.0, "0"), (10**30, "1" + "0" * 30)],
)  # fmt: skip
def test_equal_numbers_are_equal_however_spelled(right, text):
    assert scores(text, right) == 1
    assert scores(text + "1", right) == 0


def test_a_prompt_is_judged_by_its_own_answer_in_the_column_that_is_named():
    term = Term("sum", answer("total"), weight=-2.0)
    prompts = [prompt("a", total=7, answer=1), prompt("b", total="8")]
    np.testing.assert_array_equal(term(prompts, [["7", "8"], ["7", "8"]]), [[-2, 0], [0, -2]])


@pytest.mark.parametrize(
    "value", [None, True, "", "seven", "7 cm", "1_0", [7], float("nan"), "inf", float("inf")]
)
@pytest.mark.parametrize("made", [answer(), guard(answer())], ids=["plain", "guarded"])
def test_an_answer_that_is_no_number_is_told_of_before_anything_is_scored(value, made):
    prompts = [prompt("a", answer=7), prompt("b", answer=value)]
    told = "reward term right: prompt b: column answer must be a number, got "
    with pytest.raises(ValueError, match=told) as caught:
        Term("right", made).columns(prompts)
    assert "\n" not in str(caught.value)


def test_a_prompt_without_the_column_is_named():
    told = "reads the column answer, and prompt a does not have it"
    with pytest.raises(ValueError, match=told):
        Term("right", answer()).columns([prompt("a", level=1)])


def test_what_calls_it_without_a_term_is_told_as_well():
    with pytest.raises(ValueError, match="column answer must be a number, got 'x'"):
        answer()(["3+4"], [["7"]], answer=["x"])


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="column must be the name of a column"):
        answer("prompts")
    with pytest.raises(ValueError, match="form must be one of end, alone, anywhere, got 'first'"):
        answer(form="first")
    wrong = "reward={mine: {term: answer, column: 'a b', weight: 1.0}}"
    with pytest.raises(ConfigError, match=r"reward\.mine\.column: 'a b'; must be the name"):
        load_config(["experiment=smoke", wrong])


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("3+4=7", 1),
        ("12+34=46 46-5=41", 1),
        (" 5-9=-4 ", 1),
        ("-4+5=1", 1),
        ("12+34=45 46-5=41", 0),
        ("12+34=46 46-5=40", 0),
        ("3+4=7 so 7", 0),
        ("3+4=7.", 0),
        ("3*4=12", 0),
        ("3+4=07 ", 1),
        ("7", 0),
        ("", 0),
    ],
)
def test_equations_are_all_true_and_nothing_else_is_there(text, score):
    assert equations()(["?"], [[text]]).tolist() == [[score]]
