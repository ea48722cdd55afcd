"""Speculative rejection: who is given up, and that the others are fair draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.generation import Pruning, SamplingParams, generate, generate_pruned
from rsft_jax.selection import Law
from tests.gates import ToyModel
from tests.generation.toys import PROMPT, ToyLogits

LOGITS, PARAMS = ToyLogits(ToyModel(53)), jnp.zeros(())
PROMPTS = [[PROMPT], [PROMPT] * 3, [PROMPT] * 2]
SAMPLING = SamplingParams(max_new_tokens=3, stop_token_ids=(4,))


def _sum(prompts, tokens):
    return np.array([t.sum() for t in tokens], float)


def _pruned(at=(1, 2), fraction=0.5, score=_sum, num=12):
    return generate_pruned(
        jax.random.key(1), LOGITS, PARAMS, PROMPTS, num_candidates=num, sampling=SAMPLING,
        pruning=Pruning(at, fraction, score),
    )  # fmt: skip


def test_the_lowest_unfinished_are_given_up_and_the_others_are_those_of_generate():
    whole = generate(
        jax.random.key(1), LOGITS, PARAMS, PROMPTS, num_candidates=12, sampling=SAMPLING
    )
    out = _pruned()
    tokens, lengths = np.asarray(whole.tokens), np.asarray(whole.lengths)
    expected = np.zeros((3, 12), bool)
    for point in (1, 2):
        for row in range(3):
            alive = np.flatnonzero((lengths[row] > point) & ~expected[row])
            order = alive[np.argsort(tokens[row, alive, :point].sum(axis=1), kind="stable")]
            expected[row, order[: len(order) // 2]] = True
    np.testing.assert_array_equal(out.pruned, expected)
    kept = ~expected
    np.testing.assert_array_equal(np.asarray(out.completions.tokens)[kept], tokens[kept])
    np.testing.assert_allclose(
        np.asarray(out.completions.log_probs)[kept], np.asarray(whole.log_probs)[kept], atol=1e-6
    )
    short = np.asarray(out.completions.lengths)
    assert (short[expected] < lengths[expected]).all()
    assert not np.asarray(out.completions.finished)[expected].any()
    # 36 rows for three steps without it; a smaller batch after each point with it.
    assert int(out.slot_steps) < 36 * 3


def test_the_last_candidate_is_never_given_up():
    assert not np.asarray(_pruned(num=1, fraction=0.99).pruned).any()


def test_what_has_no_score_goes_first():
    def score(prompts, tokens):
        values = np.arange(len(tokens), dtype=float)
        values[np.unique(prompts, return_index=True)[1]] = np.nan  # the first of each prompt
        return values

    out = _pruned(at=(1,), fraction=0.08, score=score, num=24)  # one of 13 to 24
    whole = generate(
        jax.random.key(1), LOGITS, PARAMS, PROMPTS, num_candidates=24, sampling=SAMPLING
    )
    first = (np.asarray(whole.lengths) > 1).argmax(axis=1)
    assert [np.flatnonzero(row).tolist() for row in np.asarray(out.pruned)] == [[i] for i in first]


def test_it_promises_no_law():
    assert Pruning((1,), 0.5, _sum).law is Law.HEURISTIC


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at": ()}, "at must be rising"),
        ({"at": (2, 1)}, "at must be rising"),
        ({"at": (0,)}, "at must be rising"),
        ({"fraction": 1.0}, r"fraction must be in \(0, 1\), got 1.0"),
        ({"fraction": 0.0}, r"fraction must be in \(0, 1\)"),
        ({"score": lambda prompts, tokens: [1.0]}, "score must return"),
        ({"num": 0}, "num_candidates must be an integer >= 1"),
    ],
)
def test_pruning_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        _pruned(**options)
