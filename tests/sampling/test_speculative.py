"""Speculative sampling: the joint law of what comes out, and how much is kept."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.sampling import speculative_sample
from tests.gates import (
    DEFAULT_DRAWS,
    SLOW_DRAWS,
    ToyModel,
    assert_law,
    assert_rejects,
    count_cells,
)

TARGET, DRAFT = ToyModel(0, mixed=False), ToyModel(1, mixed=False)
METHODS = pytest.mark.parametrize("verification", ["token", "block"])


def tables(model):
    """`[3, 25, 5]` log laws: place, prefix as a number, token."""
    rows = np.zeros((3, 25, 5))
    for place, law in enumerate(model.rows):
        rows[place, : 5**place] = law.reshape(-1, 5)
    with np.errstate(divide="ignore"):
        return jnp.asarray(np.log(rows), jnp.float32)


TARGET_TABLE, DRAFT_TABLE = tables(TARGET), tables(DRAFT)


def draw_next(key, table, place, prefix):
    return jax.random.categorical(key, table[place, prefix])


@functools.partial(jax.jit, static_argnames=("draws", "drafts", "verification", "mutant"))
def three_tokens(key, *, draws, drafts, verification, mutant=None):
    """Rows of three tokens: one verified block, the rest drawn from the target itself.

    Rows have 0 .. `drafts` draft tokens (the rest is padding), so that they reject and end at
    different places of one batch.
    """
    draft_key, verify_key, rest_key = jax.random.split(key, 3)
    prefix = jnp.zeros((draws,), jnp.int32)
    tokens, draft_logits, target_logits = [], [], []
    for place, step_key in enumerate(jax.random.split(draft_key, drafts)):
        draft_logits.append(DRAFT_TABLE[place, prefix])
        target_logits.append(TARGET_TABLE[place, prefix])
        tokens.append(draw_next(step_key, DRAFT_TABLE, place, prefix))
        prefix = prefix * 5 + tokens[-1]
    # After the last place of the model any law will do: its token is not looked at.
    target_logits.append(TARGET_TABLE[drafts, prefix] if drafts < 3 else jnp.zeros((draws, 5)))
    tokens = jnp.stack(tokens, 1)
    given = jnp.where(jnp.arange(draws) % 4 == 0, jnp.arange(draws) // 4 % (drafts + 1), drafts)
    tokens = jnp.where(jnp.arange(drafts)[None, :] < given[:, None], tokens, -1)
    draft_logits, target_logits = jnp.stack(draft_logits, 1), jnp.stack(target_logits, 1)
    if mutant == "bonus from the draft":
        target_logits = target_logits.at[:, drafts].set(draft_logits[:, drafts - 1])
    out = speculative_sample(
        verify_key, tokens, draft_logits, target_logits, verification=verification
    )
    line = out.tokens
    if mutant == "residual from the target":
        again = jax.random.categorical(
            jax.random.fold_in(verify_key, 1),
            jnp.take_along_axis(target_logits, out.num_accepted[:, None, None], axis=1)[:, 0],
        )
        at = jnp.arange(drafts + 1)[None, :] == out.num_accepted[:, None]
        line = jnp.where(at, again[:, None], line)
    line = jnp.pad(line, ((0, 0), (0, 3)), constant_values=-1)[:, :3]
    prefix = jnp.zeros((draws,), jnp.int32)
    for place, step_key in enumerate(jax.random.split(rest_key, 3)):
        own = draw_next(step_key, TARGET_TABLE, place, prefix)
        prefix = prefix * 5 + jnp.where(line[:, place] < 0, own, line[:, place])
    return prefix, out.num_accepted, given


@pytest.mark.parametrize("draws", [DEFAULT_DRAWS, pytest.param(SLOW_DRAWS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("drafts", [pytest.param(1, marks=pytest.mark.slow), 2, 3])
@METHODS
def test_joint_law_is_the_targets(verification, drafts, draws):
    options = {"draws": draws, "drafts": drafts, "verification": verification}
    strings, accepted, given = three_tokens(jax.random.key(drafts), **options)
    assert_law(count_cells(strings, 125), TARGET.joint.ravel())
    assert (accepted < given).mean() > 0.1  # enough rejections for this to mean something


@pytest.mark.parametrize("mutant", ["residual from the target", "bonus from the draft"])
@METHODS
def test_gate_sees_wrong_residual_and_wrong_bonus(verification, mutant):
    strings, _, _ = three_tokens(
        jax.random.key(1), draws=DEFAULT_DRAWS, drafts=2, verification=verification, mutant=mutant
    )
    assert_rejects(count_cells(strings, 125), TARGET.joint.ravel())


def accepted_length_law(p, q, drafts, verification):
    """P(0), .. P(drafts accepted) for independent places, by enumeration over draft strings."""
    law = np.zeros(drafts + 1)
    for string in np.ndindex(*(len(q),) * drafts):
        chance, weights = 1.0, [1.0]
        for x in string:
            chance *= q[x]
            weights.append(min(1.0, weights[-1] * p[x] / q[x]))
        if verification == "token":
            keep = [min(1.0, p[x] / q[x]) for x in string]
            for i in range(drafts + 1):
                stop = 1 - keep[i] if i < drafts else 1.0
                law[i] += chance * np.prod(keep[:i]) * stop
        else:
            z = [np.maximum(w * p - q, 0).sum() for w in weights]
            h = [z[i] / (z[i] + 1 - weights[i]) if i < drafts else weights[i]
                 for i in range(1, drafts + 1)]  # fmt: skip
            left = 1.0
            for i in range(drafts, 0, -1):
                law[i] += chance * left * h[i - 1]
                left *= 1 - h[i - 1]
            law[0] += chance * left
    return law


@pytest.mark.parametrize(("verification", "mean"), [("token", 10 / 9), ("block", 11 / 9)])
def test_golden_number_of_accepted_tokens(verification, mean):
    q, p = np.array([2 / 3, 1 / 3]), np.array([1 / 3, 2 / 3])
    law = accepted_length_law(p, q, 2, verification)
    np.testing.assert_allclose(law @ np.arange(3), mean, rtol=1e-12)
    draws = DEFAULT_DRAWS
    log_q = jnp.broadcast_to(jnp.log(q), (draws, 2, 2)).astype(jnp.float32)
    log_p = jnp.broadcast_to(jnp.log(p), (draws, 3, 2)).astype(jnp.float32)
    drafts = jax.random.categorical(jax.random.key(1), log_q)
    out = speculative_sample(jax.random.key(2), drafts, log_q, log_p, verification=verification)
    counts = count_cells(out.num_accepted, 3)
    assert_law(counts, law)
    other = "block" if verification == "token" else "token"
    assert_rejects(counts, accepted_length_law(p, q, 2, other))
    assert_law(count_cells(out.tokens[:, 0], 2), p)


@METHODS
def test_stop_token_inside_a_block_ends_the_row(verification):
    # p = q: every draft is accepted.
    logits = jnp.zeros((4, 4, 6))
    drafts = jnp.array([[1, 5, 2], [5, 1, 2], [1, 2, 3], [1, 2, 5]])
    logits = logits.at[2, 3].set(jnp.array([0.0] + [-jnp.inf] * 5))
    out = speculative_sample(
        jax.random.key(0), drafts, logits[:, :3], logits,
        verification=verification, stop_token_ids=(5, 0),
    )  # fmt: skip
    assert out.tokens.tolist() == [[1, 5, -1, -1], [5, -1, -1, -1], [1, 2, 3, 0], [1, 2, 5, -1]]
    assert out.num_accepted.tolist() == [2, 1, 3, 3]


@METHODS
def test_padding_takes_the_bonus_from_the_right_place(verification):
    target = jnp.full((3, 3, 4), -jnp.inf)
    for place in range(3):
        target = target.at[:, place, place].set(0.0)
    drafts = jnp.array([[0, 1], [0, -1], [-1, 1]])
    out = speculative_sample(
        jax.random.key(0), drafts, target[:, :2], target, verification=verification
    )
    assert out.tokens.tolist() == [[0, 1, 2], [0, 1, -1], [0, -1, -1]]
    assert out.num_accepted.tolist() == [2, 1, 0]


def test_no_drafts_is_plain_sampling():
    target = jnp.broadcast_to(jnp.log(jnp.array([0.2, 0.8])), (DEFAULT_DRAWS, 1, 2))
    drafts = jnp.zeros((DEFAULT_DRAWS, 0), jnp.int32)
    out = speculative_sample(jax.random.key(0), drafts, target[:, :0], target)
    assert_law(count_cells(out.tokens, 2), [0.2, 0.8])
    assert not out.num_accepted.any()


@METHODS
def test_greedy_laws_keep_the_draft_while_it_is_the_argmax(verification):
    inf = jnp.inf
    one_hot = jnp.where(jnp.eye(3, dtype=bool), 0.0, -inf)
    target = one_hot[jnp.array([[0, 1, 2], [0, 2, 1]])]
    drafts = jnp.array([[0, 1], [0, 1]])
    out = speculative_sample(
        jax.random.key(0), drafts, one_hot[drafts], target, verification=verification
    )
    assert out.tokens.tolist() == [[0, 1, 2], [0, 2, -1]]


@METHODS
def test_rows_that_are_no_law_give_no_token_and_masked_tokens_never_come(verification):
    target = jax.random.normal(jax.random.key(1), (64, 3, 700)).at[:, :, ::2].set(-jnp.inf)
    draft = jax.random.normal(jax.random.key(2), (64, 2, 700))
    drafts = jax.random.categorical(jax.random.key(3), draft)
    target = target.at[0, 0, 350].set(jnp.nan)
    out = speculative_sample(jax.random.key(0), drafts, draft, target, verification=verification)
    assert out.tokens[0].tolist() == [-1, -1, -1]
    tokens = np.asarray(out.tokens[1:])
    assert (tokens[tokens >= 0] % 2 == 1).all()
    assert (tokens[:, 0] >= 0).all()


def test_block_keeps_at_least_as_many_on_average():
    target = 2 * jax.random.normal(jax.random.key(1), (4000, 5, 20))
    draft = target[:, :4] + jax.random.normal(jax.random.key(2), (4000, 4, 20))
    drafts = jax.random.categorical(jax.random.key(3), draft)
    token, block = (
        speculative_sample(jax.random.key(0), drafts, draft, target, verification=v).num_accepted
        for v in ("token", "block")
    )
    assert block.mean() > token.mean() + 0.02


def test_bad_arguments_are_refused():
    logits, drafts = jnp.zeros((2, 3, 5)), jnp.zeros((2, 2), jnp.int32)
    with pytest.raises(ValueError, match=r"one vocabulary.*5.*4"):
        speculative_sample(jax.random.key(0), drafts, logits[:, :2, :4], logits)
    with pytest.raises(ValueError, match=r"verification.*'tree'"):
        speculative_sample(jax.random.key(0), drafts, logits[:, :2], logits, verification="tree")
    with pytest.raises(ValueError, match=r"stop_token_ids must be.*each, got 1\.5"):
        speculative_sample(
            jax.random.key(0), drafts, logits[:, :2], logits, stop_token_ids=(1, 1.5)
        )
    with pytest.raises(ValueError, match=r"target_logits must be.*V >= 1"):
        speculative_sample(jax.random.key(0), drafts, logits[:, :2, :0], logits[..., :0])
    with pytest.raises(ValueError, match="typed key"):
        speculative_sample(jnp.zeros(2, jnp.uint32), drafts, logits[:, :2], logits)
    with pytest.raises(AssertionError):
        speculative_sample(jax.random.key(0), drafts, logits[:, :2], logits[:, :2])
