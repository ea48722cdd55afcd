"""The guard: only `[P, N]` numbers come out, and nothing else is touched."""

import random

import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.rewards import RewardError, as_rewards, from_text_score, guard

PROMPTS = ["a", "b"]
COMPLETIONS = [["", "x"], ["xx", "xxx"]]
NAN, INF = float("nan"), float("inf")


def constant(values):
    return lambda prompts, completions: values


@pytest.mark.parametrize(
    "values",
    [
        [[1, 0], [0, 1]],
        [[True, False], [False, True]],
        np.array([[1, 0], [0, 1]], np.float16),
        np.array([[1, 0], [0, 1]], object),
        jnp.array([[1, 0], [0, 1]], jnp.bfloat16),
        [[np.float32(1), 0], [np.bool_(False), jnp.float32(1)]],
    ],
)
def test_guard_accepts_numbers_of_every_kind(values):
    rewards = guard(constant(values))(PROMPTS, COMPLETIONS)
    np.testing.assert_array_equal(rewards, [[1.0, 0.0], [0.0, 1.0]])
    assert rewards.dtype == np.float64


@pytest.mark.parametrize(
    ("values", "reasons"),
    [
        ([[None, NAN], [INF, 1.0]], {"none": 1, "nan": 1, "infinite": 1}),
        ([[-INF, INF], [NAN, 1.0]], {"nan": 1, "infinite": 2}),
        ([[None, None], [10**400, 1.0]], {"none": 2, "infinite": 1}),
    ],
)
def test_guard_turns_what_is_no_value_into_nan_and_counts_it(values, reasons):
    report = guard(constant(values)).report(PROMPTS, COMPLETIONS)
    np.testing.assert_array_equal(report.rewards, [[NAN, NAN], [NAN, 1.0]])
    assert report.reasons == reasons
    assert report.num_unscored == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([["1", "2"], ["3", "4"]], "must hold numbers"),
        ([[1, "2"], [3, 4]], "must hold numbers"),
        ([[1, None], ["3", 4]], "got str '3' for prompt 1, candidate 0"),
        ([[1, None], [b"3", 4]], "must hold numbers"),
        ([[1j, 2], [3, 4]], "must hold numbers"),
        ([[np.complex64(1), None], [3, 4]], "got complex64"),
        ([1, 2, 3, 4], r"shape \[P, N\] = \(2, 2\), got \(4,\)"),
        ([1, 2], r"got \(2,\)"),
        ([[1], [2]], r"got \(2, 1\)"),
        ([[1, 2]], r"got \(1, 2\)"),
        ([[[1], [2]], [[3], [4]]], r"got \(2, 2, 1\)"),
        ([[1, 2], [3]], r"must have the shape"),
        (None, r"got \(\)"),
        (np.zeros((2, 2), "datetime64[s]"), "must hold numbers"),
        ({"a": 1}, r"got \(\)"),
    ],
)
def test_guard_refuses_other_kinds_and_shapes(values, message):
    with pytest.raises(ValueError, match=message):
        guard(constant(values))(PROMPTS, COMPLETIONS)


def test_guard_keeps_texts_from_being_edited():
    completions = [list(row) for row in COMPLETIONS]

    def edits(prompts, rows):
        rows[0][0] = "edited"
        return np.zeros((2, 2))

    with pytest.raises(RewardError, match="does not support item assignment"):
        guard(edits)(PROMPTS, completions)
    assert completions == COMPLETIONS


def test_guard_puts_the_global_generators_back():
    def draws(prompts, completions):
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        np.random.normal(size=3)  # noqa: NPY002
        return np.zeros((2, 2))

    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    expected = random.random(), np.random.random()  # noqa: NPY002
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    guard(draws)(PROMPTS, COMPLETIONS)
    assert (random.random(), np.random.random()) == expected  # noqa: NPY002


def test_guard_copies_what_the_function_keeps():
    kept = np.zeros((2, 2))
    rewards = guard(constant(kept))(PROMPTS, COMPLETIONS)
    kept[:] = 9.0
    assert not rewards.any()


def raises_on(bad):
    def score(text):
        if text in bad:
            raise KeyError(f"no entry for {text}")
        return len(text)

    return from_text_score(score)


def test_guard_error_names_prompt_and_candidate():
    with pytest.raises(RewardError, match=r"candidate 1 of prompt story-9: KeyError: 'no entry"):
        guard(raises_on({"xxx"})).report(PROMPTS, COMPLETIONS, prompt_ids=["story-4", "story-9"])
    with pytest.raises(RewardError, match="candidate 0 of prompt 1"):
        guard(raises_on({"xx"}))(PROMPTS, COMPLETIONS)


def test_guard_skips_the_guilty_candidate_alone():
    guarded = guard(raises_on({"xx"}), on_error="skip", max_failed_fraction=0.5)
    report = guarded.report(PROMPTS, COMPLETIONS)
    np.testing.assert_array_equal(report.rewards, [[0.0, 1.0], [NAN, 3.0]])
    assert report.reasons == {"error": 1}
    assert "candidate 0 of prompt 1" in report.first_error


def test_guard_stops_at_the_failed_fraction():
    guarded = guard(raises_on({"xx"}), on_error="skip", max_failed_fraction=0.25)
    with pytest.raises(RewardError, match="1 of 4 candidates failed"):
        guarded(PROMPTS, COMPLETIONS)


def test_guard_reports_a_failure_of_the_batch_alone():
    def small_batches_only(prompts, completions):
        if len(prompts) > 1:
            raise MemoryError("too many")
        return np.ones((len(prompts), len(completions[0])))

    with pytest.raises(RewardError, match="on no candidate alone"):
        guard(small_batches_only)(PROMPTS, COMPLETIONS)
    report = guard(small_batches_only, on_error="skip").report(PROMPTS, COMPLETIONS)
    np.testing.assert_array_equal(report.rewards, np.ones((2, 2)))


def test_guard_lets_an_interrupt_through():
    calls = []

    def interrupted_once(prompts, completions):
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return np.zeros((len(prompts), len(completions[0])))

    with pytest.raises(KeyboardInterrupt):
        guard(interrupted_once, on_error="skip")(PROMPTS, COMPLETIONS)


def test_guard_does_not_call_the_function_for_nothing():
    def never(prompts, completions):
        raise AssertionError

    assert guard(never)([], []).shape == (0, 0)
    assert guard(never)(["a"], [[]]).shape == (1, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_error": "ignore"}, "on_error must be"),
        ({"max_failed_fraction": 0.0}, "got 0.0"),
        ({"max_failed_fraction": NAN}, "got nan"),
        ({"max_failed_fraction": 1.5}, "got 1.5"),
    ],
)
def test_guard_refuses_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        guard(constant(0), **options)


def test_guard_refuses_ids_of_another_number():
    with pytest.raises(ValueError, match="1 ids, 2 prompts"):
        guard(constant(0)).report(PROMPTS, COMPLETIONS, prompt_ids=["a"])


def test_as_rewards_uses_the_name_given():
    with pytest.raises(ValueError, match="the judge must have the shape"):
        as_rewards([1.0], (1, 1), name="the judge")
