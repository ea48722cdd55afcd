"""Words, sentences, and the step from a score of texts to `[P, N]` rewards."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsft_jax.rewards import (
    candidates_shape,
    from_batch_score,
    from_text_score,
    split_sentences,
    split_words,
)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        ("  \n ", []),
        ("One", ["One"]),
        ("One. Two? Three!", ["One.", "Two?", "Three!"]),
        ("He paid 3.50 for it. Cheap!", ["He paid 3.50 for it.", "Cheap!"]),
        ("“Go.” She went.", ["“Go.”", "She went."]),
        ("Dr. Ada met Mrs. Ito. They spoke.", ["Dr. Ada met Mrs. Ito.", "They spoke."]),
        ("Ask the Dr. \n", ["Ask the Dr."]),
        ("A line\nanother line", ["A line", "another line"]),
        ("Nice! :) Yes.", ["Nice!", ":) Yes."]),
        ("Nice!\n:)\nYes.", ["Nice!\n:)", "Yes."]),
        (":)", [":)"]),
    ],
)
def test_sentences_match_answers_by_hand(text, sentences):
    assert split_sentences(text) == sentences


@settings(deadline=None)
@given(st.text(alphabet="ab. !?\n\"')é’\t", max_size=60))
def test_sentences_keep_every_word_in_order(text):
    assert split_words(" ".join(split_sentences(text))) == split_words(text)


@pytest.mark.parametrize("unit", [".", '."', "mr. ", "\n", "a.b", "'a", ". ", "! :) "])
def test_sentences_take_linear_time_on_hostile_runs(unit):
    def seconds(repeats):
        start = time.process_time()
        for text in (unit * repeats, unit * repeats + "a"):
            split_sentences(text)
            split_words(text)
        return time.process_time() - start

    # Eight times the text: 8 if linear, 64 if quadratic. The constant forgives a busy machine.
    assert seconds(16_000) < 24 * seconds(2_000) + 0.1


def test_text_score_keeps_every_candidate_in_its_place():
    rewards = from_text_score(len)(["a", "b", "c"], [["", "x"], ["xx", "xxx"], ["x" * 4, "x" * 5]])
    np.testing.assert_array_equal(rewards, np.arange(6.0).reshape(3, 2))
    assert rewards.dtype == np.float64


def test_batch_score_is_called_once_and_never_with_nothing():
    calls = []

    def score(texts):
        calls.append(list(texts))
        return [0.0] * len(texts)

    reward = from_batch_score(score)
    assert reward([], []).shape == (0, 0)
    assert reward(["a", "b"], [[], []]).shape == (2, 0)
    reward(["a", "b"], [["x", "y"], ["z", "w"]])
    assert calls == [["x", "y", "z", "w"]]


def test_batch_score_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"2 texts, result of shape \(1,\)"):
        from_batch_score(lambda texts: [0.0])(["a"], [["x", "y"]])


@pytest.mark.parametrize(
    ("prompts", "completions", "message"),
    [
        (["a"], ["x"], "bare text"),
        (["a"], "x", "bare text"),
        (["a", "b"], [["x"]], "2 prompts, 1 rows"),
        (["a", "b"], [["x"], ["y", "z"]], "prompt 0 has 1, prompt 1 has 2"),
        (["a", "b"], [["x"], [None]], "candidate 0 of prompt 1 is NoneType"),
    ],
)
def test_completions_of_another_form_are_refused(prompts, completions, message):
    with pytest.raises(ValueError, match=message):
        candidates_shape(prompts, completions)
