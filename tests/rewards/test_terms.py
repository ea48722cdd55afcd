"""A term: which columns of the prompts its function gets, and what is said when it cannot."""

import functools
import random

import numpy as np
import pytest

from rsft_jax.data import Prompt
from rsft_jax.rewards import RewardError, Term, from_text_score, guard, weighted_sum


def prompt(index, **fields):
    message = {"role": "user", "content": f"question {index}"}
    return Prompt(id=f"p{index}", text=f"question {index}", messages=(message,), fields=fields)


PROMPTS = [prompt(0, answer="4", group="sum"), prompt(1, answer="6", group="sum")]
COMPLETIONS = [["4", "5", "4"], ["4", "6", "6"]]


def seen_by(make, prompts=PROMPTS):
    """What a function gets: `make(note)` returns one that hands all of it to `note`."""
    notes = []

    def note(**values):
        notes.append(values)
        return np.zeros((len(prompts), 3))

    Term("t", make(note))(prompts, COMPLETIONS[: len(prompts)])
    (values,) = notes
    return values


def exact(prompts, completions, answer):
    return [[text == right for text in row] for row, right in zip(completions, answer)]


def test_a_parameter_gets_the_column_of_its_name():
    np.testing.assert_array_equal(
        Term("exact", exact)(PROMPTS, COMPLETIONS), [[1, 0, 1], [0, 1, 1]]
    )


def test_texts_are_tuples_whatever_the_prompts_are():
    def make(note):
        return lambda prompts, completions: note(prompts=prompts, completions=completions)

    rows = seen_by(make)
    texts = seen_by(make, [row.text for row in PROMPTS])
    assert rows == texts
    assert rows["prompts"] == ("question 0", "question 1")
    assert rows["completions"] == (("4", "5", "4"), ("4", "6", "6"))


def test_messages_are_those_of_each_prompt_and_one_of_the_user_for_a_text():
    def make(note):
        return lambda prompts, completions, messages: note(messages=messages)

    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]
    row = Prompt(id="a", text="Hello?", messages=tuple(talk), fields={"messages": "a column"})
    assert seen_by(make, [row])["messages"] == (tuple(talk),)
    bare = seen_by(make, ["Hello?"])["messages"]
    assert bare == (({"role": "user", "content": "Hello?"},),)


def test_open_keywords_get_all_columns_and_none_where_a_prompt_lacks_one():
    def make(note):
        return lambda prompts, completions, **columns: note(**columns)

    prompts = [prompt(0, answer="4"), prompt(1, answer="6", prompts="taken", level=2)]
    assert seen_by(make, prompts) == {"answer": ("4", "6"), "level": (None, 2)}


def test_open_keywords_do_not_repeat_a_named_column():
    def make(note):
        return lambda prompts, completions, answer, **columns: note(answer=answer, rest=columns)

    assert seen_by(make) == {"answer": ("4", "6"), "rest": {"group": ("sum", "sum")}}


def test_a_default_is_kept_only_where_no_prompt_has_the_column():
    def make(note):
        return lambda prompts, completions, *, answer="none", unit="metre": note(a=answer, u=unit)

    assert seen_by(make) == {"a": ("4", "6"), "u": "metre"}
    some = [prompt(0, answer="4"), prompt(1)]
    with pytest.raises(ValueError, match="reads the column answer, and prompt p1 does not have it"):
        seen_by(make, some)


def test_what_a_partial_has_fixed_is_no_column():
    fixed = functools.partial(exact, answer=("5", "4"))
    np.testing.assert_array_equal(Term("t", fixed)(PROMPTS, COMPLETIONS), [[0, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (
            PROMPTS,
            "reward term t reads the column solution, and prompt p0 does not have it; its "
            "columns: answer, group, messages$",
        ),
        (["2 + 2", "3 + 3"], "prompt 0 does not have it; its columns: none, it is a bare text"),
    ],
)
def test_a_missing_column_is_named_before_anything_is_scored(prompts, message):
    calls = []

    def counted(prompts, completions):
        calls.append(1)
        return np.zeros((2, 3))

    reward = weighted_sum(
        {"first": (counted, 1.0), "t": (lambda prompts, completions, solution: solution, 1.0)}
    )
    for score in (reward, lambda rows, texts: reward.check_columns(rows)):
        with pytest.raises(ValueError, match=message):
            score(prompts, COMPLETIONS)
    assert not calls


@pytest.mark.parametrize(
    "function",
    [lambda prompts: 0, lambda completions, answer: 0, lambda *, prompts, completions: 0, len],
)
def test_a_function_that_does_not_take_prompts_and_completions_is_refused(function):
    with pytest.raises(ValueError, match="reward term t must take prompts and completions as its"):
        Term("t", function)


def test_a_term_that_raises_is_named_with_its_prompt_and_candidate():
    def strict(prompts, completions, answer):
        return [[int(right) / int(t) for t in row] for row, right in zip(completions, answer)]

    reward = weighted_sum({"strict": (strict, 1.0), "size": (from_text_score(len), 1.0)})
    with pytest.raises(
        RewardError, match="reward term strict raised on candidate 1 of prompt p1: Z"
    ):
        reward(PROMPTS, [["1", "2", "4"], ["1", "0", "3"]])
    with pytest.raises(RewardError, match="candidate 0 of prompt 0"):
        weighted_sum({"strict": (lambda prompts, completions: 1 / 0, 1.0)})(["p"], [["x"]])


def test_none_and_infinities_of_a_term_are_not_scored():
    reward = weighted_sum({"t": (lambda prompts, completions: [[1, None, float("inf")]], 2.0)})
    np.testing.assert_array_equal(reward(["p"], [["a", "b", "c"]]), [[2.0, np.nan, np.nan]])


@pytest.mark.parametrize(
    ("values", "message"),
    [([["1", "2", "3"]], "reward term t must hold numbers"), ([1, 2, 3], r"got \(3,\)")],
)
def test_texts_and_wrong_shapes_of_a_term_are_refused_by_its_name(values, message):
    with pytest.raises(ValueError, match=message) as caught:
        Term("t", lambda prompts, completions: values)(["p"], [["a", "b", "c"]])
    assert "reward term t" in str(caught.value)


def test_a_term_changes_neither_the_random_numbers_of_a_run_nor_its_data():
    tags = ["a"]

    def careless(prompts, completions, tags):
        random.seed(0)
        tags[0].append("b")
        return [[len(tags[0])]]

    random.seed(7)
    before = random.getstate()
    term = Term("careless", careless)
    for _ in range(2):
        np.testing.assert_array_equal(term([prompt(0, tags=tags)], [["x"]]), [[2.0]])
    assert tags == ["a"]
    assert random.getstate() == before


def test_a_guarded_term_keeps_its_own_way_with_errors_and_its_columns():
    def strict(prompts, completions, answer):
        return [[1 / (t == right) for t in row] for row, right in zip(completions, answer)]

    term = Term("t", guard(strict, on_error="skip", max_failed_fraction=1.0))
    np.testing.assert_array_equal(term(PROMPTS, COMPLETIONS), [[1, np.nan, 1], [np.nan, 1, 1]])
    assert term.report(PROMPTS, COMPLETIONS).first_error.startswith("reward term t raised on cand")


def test_single_candidates_get_the_columns_of_their_own_prompt():
    rows = [PROMPTS[1], PROMPTS[0], PROMPTS[1]]
    scores = Term("exact", exact)(rows, [["6"], ["6"], ["4"]])
    np.testing.assert_array_equal(scores, [[1], [0], [0]])


def test_a_term_is_a_reward_of_its_own_with_its_weight_and_a_sum_keeps_it_without():
    np.testing.assert_array_equal(
        Term("exact", exact, -2)(PROMPTS, COMPLETIONS), [[-2, 0, -2], [0, -2, -2]]
    )
    terms = weighted_sum({"exact": (exact, -2)}).terms(PROMPTS, COMPLETIONS)
    np.testing.assert_array_equal(terms["exact"], [[1, 0, 1], [0, 1, 1]])
