"""Speculative sampling: a draft's tokens accepted or corrected so that the output is the target's.

Only what is needed is computed: a log-sum-exp for every position, the ratio at the draft tokens,
and then one residual row per sequence, from which one token is drawn by inverse CDF. The dense
form, a residual and a draw at every position, costs several times more.
"""

import functools

import chex
import jax
import jax.numpy as jnp

from rsft_jax.numerics.checks import check_choice, check_integer, check_same_vocabulary
from rsft_jax.numerics.keys import check_key, is_typed, log_uniform, row_keys, unit_uniform
from rsft_jax.numerics.loops import vary_like
from rsft_jax.sampling.categorical import (
    CategoricalCdf,
    block_reduce,
    categorical_cdf,
    draw_from_cdf,
    pick_by_mass,
    pick_within,
    take_block,
)
from rsft_jax.types import Array, PRNGKey, record


@record
class SpeculativeSample:
    """The tokens that a block of drafts became.

    Attributes:
      tokens: `[B, G+1]` int32: the accepted draft tokens, then one token of the target's own (the
        correction of the first rejected one, or the bonus after the last), then -1. After a
        stop token everything is -1.
      num_accepted: `[B]` int32 how many draft tokens were kept.
    """

    tokens: Array
    num_accepted: Array


def speculative_sample(
    key: PRNGKey,
    draft_tokens: Array,
    draft_logits: Array,
    target_logits: Array,
    *,
    verification: str = "token",
    stop_token_ids: tuple[int, ...] = (),
) -> SpeculativeSample:
    """Verifies draft tokens against the target; the output follows the target exactly.

    Write x_i for draft token i, drawn from q_i, and p_i for the target after the same prefix.

    - "token": x_i is kept with probability min(1, p_i(x_i) / q_i(x_i)) if all before it were. At
      the first rejection the token is drawn from (p_i - q_i)+ / sum, and if there is none a bonus
      token from the target after the last draft token.
    - "block": with w_0 = 1 and w_i = min(1, w_{i-1} p_i(x_i) / q_i(x_i)), let Z_i = sum over x of
      (w_i p_{i+1}(x) - q_{i+1}(x))+ and h_i = Z_i / (Z_i + 1 - w_i), h_G = w_G. The longest i with
      u_i < h_i is kept, and the next token drawn from (w_i p_{i+1} - q_{i+1})+. No verification
      that is exact keeps more tokens on average; never fewer than "token".

    With logits made greedy (temperature 0) both keep the draft while it equals the target's
    argmax. B is sequences, G draft tokens, V vocabulary.

    Args:
      key: a typed key, consumed: sequence i uses `fold_in(key, i)` and no other. Or `[B]` keys, one
        for each sequence.
      draft_tokens: `[B, G]` int32, drawn from the draft; from the first negative one on a row
        is padding, and has that many fewer drafts. G may be 0: plain sampling.
      draft_logits: `[B, G, V]` unnormalised log q, as sampled (after temperature and top-p).
      target_logits: `[B, G+1, V]` unnormalised log p, transformed likewise.
      verification: "token" or "block". Static.
      stop_token_ids: tokens that end a sequence; what follows one in the block is dropped, which
        leaves the law of the stopped sequences exact. Static.

    Returns:
      A `SpeculativeSample`. Where the row of logits that it needs is no law (NaN, all masked)
      the token after the accepted ones is -1.

    Raises:
      ValueError: if the vocabularies differ or are empty, `verification` is unknown, a stop token
        is no integer >= 0, or `key` is not typed.

    Example:
      >>> q, p = jnp.log(jnp.array([[2 / 3, 1 / 3]])), jnp.log(jnp.array([[1 / 3, 2 / 3]]))
      >>> target = jnp.stack([p, p], axis=1)
      >>> out = speculative_sample(jax.random.key(0), jnp.array([[1]]), q[None], target)
      >>> out.tokens[0, 0].item(), out.num_accepted.item()
      (1, 1)

    References:
      Leviathan et al., Fast Inference from Transformers via Speculative Decoding (2023), section 2.
      Sun et al., Block Verification Accelerates Speculative Decoding (2024), algorithm 2.
    """
    chex.assert_rank(draft_tokens, 2)
    rows, drafts = draft_tokens.shape
    if not (is_typed(key) and key.shape == (rows,)):
        check_key(key)
        key = row_keys(key, rows)
    check_choice("verification", verification, ("token", "block"))
    check_same_vocabulary("target_logits", target_logits, "draft_logits", draft_logits)
    stops = tuple(check_integer("stop_token_ids", i, 0, note="each") for i in stop_token_ids)
    chex.assert_shape(draft_logits, (rows, drafts, None))
    chex.assert_shape(target_logits, (rows, drafts + 1, None))
    return _speculative_sample(
        key,
        draft_tokens,
        draft_logits,
        target_logits,
        verification=verification,
        stop_token_ids=stops,
    )


@functools.partial(jax.jit, static_argnames=("verification", "stop_token_ids"))
def _speculative_sample(
    keys, draft_tokens, draft_logits, target_logits, *, verification, stop_token_ids
):
    (rows, drafts), vocab_size = draft_tokens.shape, target_logits.shape[-1]
    target = target_logits.astype(jnp.float32).reshape(-1, vocab_size)
    draft = draft_logits.astype(jnp.float32).reshape(-1, vocab_size)
    target_cdf = categorical_cdf(target)
    bits = jax.vmap(lambda key: jax.random.bits(key, (drafts + 1, 2), jnp.uint32))(keys)
    if drafts == 0:
        token = draw_from_cdf(target_cdf, target, unit_uniform(bits[:, 0]))
        return _assemble(draft_tokens, jnp.zeros((rows,), jnp.int32), token, stop_token_ids)

    draft_cdf = categorical_cdf(draft)
    target_norm, draft_norm = target_cdf.log_normalizer, draft_cdf.log_normalizer
    given = jnp.cumprod((draft_tokens >= 0).astype(jnp.int32), axis=1, dtype=jnp.int32) > 0
    length = given.sum(axis=1, dtype=jnp.int32)
    log_ratio = _log_ratios(draft_tokens, draft, draft_norm, target, target_norm)
    log_ratio = jnp.where(given, log_ratio, -jnp.inf)
    log_u = log_uniform(bits[:, :drafts])
    if verification == "token":
        kept = jnp.cumprod((log_u < log_ratio).astype(jnp.int32), axis=1, dtype=jnp.int32)
        accepted = kept.sum(axis=1, dtype=jnp.int32)
        log_scale = jnp.zeros((rows,), jnp.float32)
    else:
        log_weight = _log_block_weights(log_ratio)  # [B, G+1], the first is log 1
        log_keep = _log_block_keep(log_weight, length, draft, draft_norm, target, target_norm)
        places = jnp.arange(1, drafts + 1, dtype=jnp.int32)[None, :]
        kept = (log_u < log_keep) & given
        accepted = jnp.where(kept, places, 0).max(axis=1, initial=0)
        log_scale = jnp.take_along_axis(log_weight, accepted[:, None], axis=1)[:, 0]

    token = _draw_next(
        unit_uniform(bits[:, drafts]),
        accepted,
        accepted == length,
        log_scale,
        (draft, draft_cdf),
        (target, target_cdf),
    )
    return _assemble(draft_tokens, accepted, token, stop_token_ids)


def _log_ratios(tokens, draft, draft_norm, target, target_norm) -> Array:
    """`[B, G]` log p(x) / q(x) at the draft tokens; -inf for p = 0, q = 0 included."""
    rows, drafts = tokens.shape
    vocab_size = target.shape[1]
    row = jnp.arange(rows, dtype=jnp.int32)[:, None]
    place = jnp.arange(drafts, dtype=jnp.int32)[None, :]
    at_target, at_draft = row * (drafts + 1) + place, row * drafts + place
    inside = (tokens >= 0) & (tokens < vocab_size)
    token = jnp.clip(tokens, 0, vocab_size - 1)
    log_p = target[at_target, token] - target_norm[at_target]
    log_q = draft[at_draft, token] - draft_norm[at_draft]
    return jnp.where(inside & (log_p > -jnp.inf), log_p - log_q, -jnp.inf)


def _log_block_weights(log_ratio: Array) -> Array:
    """`[B, G+1]` log w_i of block verification: a running product clipped at 1."""

    def step(log_w, ratio):
        log_w = jnp.minimum(log_w + ratio, 0)
        return log_w, log_w

    start = vary_like(jnp.zeros(log_ratio.shape[:1], log_ratio.dtype), log_ratio)
    _, rest = jax.lax.scan(step, start, log_ratio.T)
    return jnp.concatenate([start[:, None], rest.T], axis=1)


def _log_block_keep(log_weight, length, draft, draft_norm, target, target_norm) -> Array:
    """`[B, G]` log h_i for i = 1 .. G; that of the last draft of a row is log w."""
    rows, drafts = log_weight.shape[0], log_weight.shape[1] - 1
    vocab_size = target.shape[1]

    def residual(row):
        # One sequence at a time: its rows stay in the cache, and no array of the size of all
        # logits is written.
        t, t_norm, d, d_norm, log_w = row
        mass = jnp.exp(t[:-1] + (log_w[:-1] - t_norm[:-1])[:, None]) - jnp.exp(d - d_norm[:, None])
        return jnp.maximum(mass, 0).sum(axis=-1)

    z = jax.lax.map(
        residual,
        (
            target.reshape(rows, drafts + 1, vocab_size),
            target_norm.reshape(rows, drafts + 1),
            draft.reshape(rows, drafts, vocab_size),
            draft_norm.reshape(rows, drafts),
            log_weight,
        ),
    )
    z = jnp.concatenate([z[:, 1:], jnp.zeros((rows, 1), z.dtype)], axis=1)  # Z_1 .. Z_G
    slack = z - jnp.expm1(log_weight[:, 1:])
    # z = 0 and w = 1: p equals q at the next place, where the longer block is kept for certain.
    keep = jnp.where(slack > 0, z / jnp.where(slack > 0, slack, 1), 0)
    last = jnp.arange(1, drafts + 1, dtype=jnp.int32)[None, :] == length[:, None]
    return jnp.where(last, log_weight[:, 1:], jnp.log(keep))


def _draw_next(uniform, accepted, bonus, log_scale, draft_side, target_side) -> Array:
    """`[B]` one token of each sequence from (w p - q)+ at its place, or from p for a bonus."""
    (draft, draft_cdf), (target, target_cdf) = draft_side, target_side
    rows = accepted.shape[0]
    width = target.shape[0] // rows
    row = jnp.arange(rows, dtype=jnp.int32)
    at_target = row * width + accepted
    at_draft = row * (width - 1) + jnp.minimum(accepted, width - 2)
    cdf = CategoricalCdf(*(field[at_target] for field in target_cdf))
    shift = (log_scale - cdf.log_normalizer)[:, None]
    draft_shift = draft_cdf.log_normalizer[at_draft][:, None]

    def residual(t, d, a, c):
        return jnp.maximum(jnp.exp(t + a) - jnp.exp(d - c), 0)

    left = block_reduce(
        lambda t, d: residual(t, d, shift[:, :, None], draft_shift[:, :, None]).sum(axis=-1),
        target[at_target],
        draft[at_draft],
    )
    left_sum = jnp.cumsum(left, axis=-1)
    # Nothing is left only if w p = q up to rounding; what was rejected by that is drawn from p.
    plain = bonus | (left_sum[:, -1] <= 0)
    block_mass = jnp.where(plain[:, None], cdf.block_mass, left)
    cumulative = jnp.where(plain[:, None], cdf.cumulative, left_sum)
    total = cumulative[:, -1]
    block = pick_by_mass(block_mass, uniform[:, 0] * total, cumulative)
    inside, place = take_block(target, block, -jnp.inf, at_target)
    beside, _ = take_block(draft, block, -jnp.inf, at_draft)
    plain_mass = jnp.exp(inside - cdf.maximum[:, None])
    mass = jnp.where(plain[:, None], plain_mass, residual(inside, beside, shift, draft_shift))
    token = pick_within(mass, inside > -jnp.inf, place, uniform[:, 1])
    return jnp.where(cdf.valid & (bonus | draft_cdf.valid[at_draft]), token, -1)


def _assemble(draft_tokens, accepted, token, stop_token_ids) -> SpeculativeSample:
    """Puts the drawn token after the accepted ones, and ends the row at its first stop token."""
    rows, drafts = draft_tokens.shape
    place = jnp.arange(drafts + 1, dtype=jnp.int32)[None, :]
    padded = jnp.concatenate([draft_tokens, jnp.full((rows, 1), -1)], axis=1).astype(jnp.int32)
    tokens = jnp.where(place < accepted[:, None], padded, -1)
    tokens = jnp.where(place == accepted[:, None], token[:, None], tokens)
    if stop_token_ids:
        stops = (tokens[:, :, None] == jnp.asarray(stop_token_ids, jnp.int32)[None, None, :]).any(
            -1
        )
        end = jnp.where(stops, place, drafts + 1).min(axis=1)
        tokens = jnp.where(place <= end[:, None], tokens, -1)
        accepted = jnp.minimum(accepted, end + 1)
    return SpeculativeSample(tokens=tokens, num_accepted=accepted)
