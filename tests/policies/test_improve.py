import itertools

import jax
import numpy as np
import pytest

from rsft_jax.generation import Completions, pad_prompts
from rsft_jax.policies import (
    PromptBatch,
    Sequences,
    accepted_before,
    accepted_sequences,
    improve,
    mix,
)
from rsft_jax.rollouts import RolloutStore

PROMPTS = pad_prompts([[5, 6], [7], [8, 9, 10]])


def _rows(round_, arm, accepted, log_weight):
    places = [2, 0, 2]
    return {
        "round": [round_] * 3,
        "arm": [arm] * 3,
        "prompt_id": ["a", "b", "a"],
        "candidate": [0, 0, 1],
        "prompt": ["x"] * 3,
        "completion": ["y"] * 3,
        "tokens": [[round_, i] for i in range(3)],
        "log_probs": [[-0.5, -round_ - i] for i in range(3)],
        "finished": [True] * 3,
        "reward": [0.0] * 3,
        "judge": [0.0] * 3,
        "accepted": accepted,
        "accept_prob": [1.0] * 3,
        "log_weight": log_weight,
        "reason": [""] * 3,
        "place": places,
    }


def test_old_sequences_are_those_of_the_arm_and_of_earlier_rounds(tmp_path):
    store = RolloutStore(tmp_path)
    nothing = accepted_before(store, PROMPTS, "policy", 1)
    assert nothing.prompts == []
    some = [True, False, True]
    store.append(_rows(1, "policy", some, [0.0, -np.inf, 1.0]), name="1-policy")
    store.append(_rows(1, "control", [True] * 3, [0.0] * 3), name="1-control")
    # A run that was killed in round 3 has left this; it is about to make round 3 again.
    store.append(_rows(3, "policy", [True] * 3, [0.0] * 3), name="3-policy")
    store.append(_rows(2, "policy", [False, True, False], [0.0, 0.5, 0.0]), name="2-policy")
    found = accepted_before(store, PROMPTS, "policy", 3)
    seen = sorted(
        (c.tolist(), p.tolist(), round(float(w), 4), lp.tolist()) for p, c, w, lp in zip(*found)
    )
    assert seen == [
        ([1, 0], [8, 9, 10], 1.0, [-0.5, -1.0]),
        ([1, 2], [8, 9, 10], 2.7183, [-0.5, -3.0]),
        ([2, 1], [5, 6], 1.6487, [-0.5, -3.0]),
    ]
    # The two of one prompt and round share its weight, e^0 and e^1 of their sum.
    shares = accepted_before(store, PROMPTS, "policy", 3, by_prompt=True)
    np.testing.assert_allclose(sorted(shares.weights), [0.268941, 0.731059, 1.0], rtol=1e-5)
    store.append(_rows(4, "policy", some, [0.0, 0.0, 0.0]), name="4-policy")
    later = accepted_before(store, PROMPTS, "policy", 5, by_prompt=True)
    assert np.isclose(later.weights, 0.5).sum() == 4, "rounds have their own sums"


def _sequences(number, weight, first=0):
    return Sequences(
        prompts=[np.array([1])] * number,
        completions=[np.array([first + i]) for i in range(number)],
        weights=np.full(number, weight) * np.where(np.arange(number) % 2, 1.5, 0.5),
        log_probs=[np.array([-1.0])] * number,
    )


def test_old_sequences_make_up_their_part_of_sequences_and_of_weight():
    new, old = _sequences(30, 1.0), _sequences(100, 500.0, first=1000)
    mixed = mix(jax.random.key(0), new, old, 0.25)
    is_old = np.array([c[0] >= 1000 for c in mixed.completions])
    assert is_old.sum() == 10
    assert len(mixed.prompts) == len(mixed.log_probs) == 40
    # A scale of 500 in an earlier round gives its sequences no more say.
    np.testing.assert_allclose(mixed.weights[is_old].mean(), mixed.weights[~is_old].mean())
    again = mix(jax.random.key(0), new, old, 0.25)
    np.testing.assert_array_equal(np.stack(mixed.completions), np.stack(again.completions))
    other = mix(jax.random.key(1), new, old, 0.25)
    assert not np.array_equal(np.stack(mixed.completions), np.stack(other.completions))


def test_nothing_old_leaves_the_new_sequences_as_they_are():
    new = _sequences(4, 3.0)
    none = _sequences(0, 1.0)
    for old, fraction in ((none, 0.5), (_sequences(9, 1.0), 0.0)):
        mixed = mix(jax.random.key(0), new, old, fraction)
        np.testing.assert_array_equal(mixed.weights, new.weights)
        assert len(mixed.prompts) == 4


def test_accepted_sequences_are_cut_to_their_lengths():
    completions = Completions(
        tokens=np.array([[[3, 4, -1], [5, -1, -1]], [[6, 7, 8], [9, -1, -1]]]),
        lengths=np.array([[2, 1], [3, 1]]),
        log_probs=-np.arange(12.0).reshape(2, 2, 3),
        finished=np.ones((2, 2), bool),
        failed=np.zeros((2, 2), bool),
    )
    found = accepted_sequences(PROMPTS, completions, np.array([[0.0, 2.0], [0.5, 0.0]]))
    assert [p.tolist() for p in found.prompts] == [[5, 6], [7]]
    assert [c.tolist() for c in found.completions] == [[5], [6, 7, 8]]
    assert found.weights.tolist() == [2.0, 0.5]
    assert [lp.tolist() for lp in found.log_probs] == [[-3.0], [-6.0, -7.0, -8.0]]
    every = np.array([[1.0, 3.0], [0.0, 5.0]])
    shares = accepted_sequences(PROMPTS, completions, every, by_prompt=True)
    assert shares.weights.tolist() == [0.25, 0.75, 1.0]
    with pytest.raises(ValueError, match=r"fraction must be in \[0, 1\), got 1"):
        mix(jax.random.key(0), found, found, 1.0)


def test_the_mean_over_prompts_of_correct_ones_is_an_unbiased_gradient_of_maxrl():
    """All 2^N verdicts of one prompt, enumerated: d/dp of -sum_{k=1}^N (1 - p)^k / k.

    A correct draw has the score d log p / dp = 1 / p, for the policy whose only choice is p.
    """
    p, num = 0.3, 4
    completions = Completions(
        tokens=np.arange(num).reshape(1, num, 1), lengths=np.ones((1, num), int),
        log_probs=np.zeros((1, num, 1)), finished=np.ones((1, num), bool),
        failed=np.zeros((1, num), bool),
    )  # fmt: skip
    one = pad_prompts([[5]])
    found = {True: 0.0, False: 0.0}
    for verdicts in itertools.product([0.0, 1.0], repeat=num):
        chance = np.prod([p if v else 1 - p for v in verdicts])
        for by_prompt in found:
            weights = np.array([verdicts])
            own = accepted_sequences(one, completions, weights, by_prompt=by_prompt).weights
            found[by_prompt] += chance * own.sum() / p
    np.testing.assert_allclose(found[True], sum((1 - p) ** (k - 1) for k in range(1, num + 1)))
    np.testing.assert_allclose(found[False], num)  # of the pass rate itself, N times


def test_nothing_to_train_on_is_refused():
    completions = Completions(
        tokens=np.array([[[3]]]), lengths=np.array([[1]]), log_probs=np.zeros((1, 1, 1)),
        finished=np.ones((1, 1), bool), failed=np.zeros((1, 1), bool),
    )  # fmt: skip
    nothing = (None, None, _batch(), completions, np.zeros((1, 1)))
    options = {"policy": None, "step": None, "batch_size": 1}
    with pytest.raises(ValueError, match="weights must have an entry above 0 to train on, got"):
        improve(*nothing, **options)
    with pytest.raises(ValueError, match=r"epochs must be .* got 0"):
        improve(*nothing, epochs=0, **options)


def _batch():
    return PromptBatch([], [], PROMPTS, np.arange(3), np.arange(3), 3)
