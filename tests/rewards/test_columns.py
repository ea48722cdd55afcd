"""Flat-list reward functions, both ways."""

import numpy as np
import pytest

from rsft_jax.data import Prompt
from rsft_jax.rewards import Term, from_columns, from_text_score, to_columns

COLUMNS = {"2+2": {"answer": "4", "level": 1}, "3+3": {"answer": "6", "level": 2}}


def test_columns_line_up_with_completions():
    seen = {}

    def function(prompts, completions, answer, level):
        seen.update(prompts=prompts, completions=completions, answer=answer, level=level)
        return [float(c == a) for c, a in zip(completions, answer, strict=True)]

    rewards = from_columns(function, COLUMNS)(["3+3", "2+2"], [["6", "5", "4"], ["6", "5", "4"]])
    np.testing.assert_array_equal(rewards, [[1, 0, 0], [0, 0, 1]])
    assert seen["prompts"] == ["3+3"] * 3 + ["2+2"] * 3
    assert seen["answer"] == ["6"] * 3 + ["4"] * 3
    assert seen["level"] == [2] * 3 + [1] * 3


def test_columns_none_becomes_nan_and_strings_are_refused():
    rewards = from_columns(lambda prompts, completions: [None, 1])(["a"], [["x", "y"]])
    np.testing.assert_array_equal(rewards, [[np.nan, 1.0]])
    with pytest.raises(ValueError, match="must hold numbers"):
        from_columns(lambda prompts, completions: ["0.5", "1"])(["a"], [["x", "y"]])


def test_columns_conversational_wraps_both_sides():
    def function(prompts, completions):
        assert prompts == [[{"role": "user", "content": "a"}]] * 2
        assert [c[0]["role"] for c in completions] == ["assistant"] * 2
        return [len(c[0]["content"]) for c in completions]

    rewards = from_columns(function, conversational=True)(["a"], [["x", "yy"]])
    np.testing.assert_array_equal(rewards, [[1.0, 2.0]])


@pytest.mark.parametrize(
    ("function", "columns", "message"),
    [
        (lambda **_: [1.0], None, "4 completions, 1 values"),
        (lambda **_: [[1.0]] * 4, None, "shape"),
        (lambda **_: [1.0] * 4, {"2+2": {}}, "prompt 1 is '3\\+3'"),
        (lambda **_: [1.0] * 4, {"2+2": {"a": 1}, "3+3": {}}, "same columns"),
        (lambda **_: [1.0] * 4, {"2+2": {"prompts": 1}, "3+3": {"prompts": 1}}, "may not be named"),
    ],
)
def test_columns_that_do_not_fit_are_refused(function, columns, message):
    with pytest.raises(ValueError, match=message):
        from_columns(function, columns)(["2+2", "3+3"], [["4", "5"], ["5", "6"]])


def test_columns_there_and_back_is_the_same_reward():
    reward = from_text_score(len)
    again = from_columns(to_columns(reward))
    completions = [["", "x"], ["xx", "xxx"]]
    np.testing.assert_array_equal(again(["a", "b"], completions), reward(["a", "b"], completions))


def test_to_columns_takes_messages_and_keeps_nan():
    reward = from_text_score(lambda text: float("nan") if text == "?" else len(text))
    function = to_columns(reward)
    user = [{"role": "user", "content": "a"}]
    values = function(
        prompts=[user, user],
        completions=[[{"role": "assistant", "content": t}] for t in ("?", "xyz")],
        answer=["1", "2"],
    )
    np.testing.assert_array_equal(values, [np.nan, 3.0])


def test_conversational_reward_sees_the_whole_chat_of_a_prompt():
    chat = ({"role": "system", "content": "S"}, {"role": "user", "content": "U"})
    seen = []

    def function(prompts, completions, **columns):
        seen.extend(zip(prompts, completions))
        return [1.0] * len(prompts)

    row = Prompt(id="a", text="system: S\n\nuser: U", messages=chat)
    Term("t", from_columns(function, conversational=True))([row], [["x", "y"]])
    says = {text: [{"role": "assistant", "content": text}] for text in "xy"}
    assert seen == [(list(chat), says["x"]), (list(chat), says["y"])]
    seen.clear()
    from_columns(function, conversational=True)(["U"], [["x"]])
    assert seen == [([{"role": "user", "content": "U"}], says["x"])]


def test_flat_reward_is_given_all_messages_of_a_chat():
    seen = []

    def reward(prompts, completions):
        seen.append((*prompts, *completions[0]))
        return np.zeros((1, 1))

    chat = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    answer = [{"role": "assistant", "content": "A"}]
    to_columns(reward)(prompts=[chat], completions=[answer])
    to_columns(reward)(prompts=[chat[1:]], completions=["A"])
    assert seen == [("system: S\n\nuser: U", "A"), ("U", "A")]
