"""Accept-reject over a vocabulary: one token per row, one attempt stream per row.

An attempt draws x from the proposal q and accepts it when

    log u < log p(x) - log q(x) - log M,      u ~ Uniform[0, 1)

The work that grows with the vocabulary is done once: one prepared CDF of q, from which any number
of attempts draw by reading one block, and one supremum (or two log-sum-exps). An attempt costs
four random words. The loop over attempts takes the rows that are not done, a few hundred at a
time, so that a row that is done costs nothing and a slow row delays no other.
"""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax.numerics.checks import (
    check_between,
    check_integer,
    check_number,
    check_same_vocabulary,
)
from rsft_jax.numerics.dtypes import wide_dtype
from rsft_jax.numerics.keys import check_key, log_uniform, row_keys, unit_uniform
from rsft_jax.numerics.loops import vary_like
from rsft_jax.sampling.categorical import (
    CategoricalCdf,
    block_reduce,
    categorical_cdf,
    draw_from_cdf,
    has_nan,
)
from rsft_jax.types import Array, Numeric, PRNGKey, record

_LANES = 512  # rows tried at a time: enough to vectorise, few enough not to waste the last ones


@record
class RejectionSample:
    """What accept-reject drew. Read `accepted` before `value`.

    Attributes:
      value: `[...]` int32 the accepted token; -1 where none was accepted (never a rejected one).
        From `rejection_sample_from`: a pytree with `[S, ...]` leaves.
      accepted: `[...]` bool, whether an attempt was accepted.
      num_attempts: `[...]` int32 proposals drawn, the accepted one included; 0 for a row that
        was not tried (no law, or no finite envelope).
      log_accept_prob: `[...]` log of the probability with which the value was accepted, at most
        0; -inf where nothing was.
      log_weight: `[...]` log max(1, p / (M q)) at the value, the weight that repairs what a
        clipped envelope cuts off; 0 while M holds, -inf where nothing was accepted.
      violated: `[...]` bool, whether a proposal was seen with p > M q: the accepted law is then
        proportional to min(p, M q), and not p.
      unsupported: `[...]` bool, whether p has a token that q cannot propose (q = 0 < p). With the
        exact supremum nothing is accepted then (and `violated` is set): no finite M exists.
      num_undefined: `[...]` int32 proposals among `num_attempts` whose ratio is NaN or +inf, so
        that no probability of acceptance exists; none of them is accepted. Of logits always 0: a
        row with such an entry is no law, and is not tried.
    """

    value: Array
    accepted: Array
    num_attempts: Array
    log_accept_prob: Array
    log_weight: Array
    violated: Array
    unsupported: Array
    num_undefined: Array


def rejection_sample(
    key: PRNGKey,
    proposal_logits: Array,
    target_logits: Array,
    *,
    log_envelope: Numeric | None = None,
    max_attempts: int = 64,
) -> RejectionSample:
    """Draws one token per row from the target by accept-reject from the proposal.

    With p and q the softmax of the logits and M = exp(log_envelope), a proposal x ~ q is accepted
    with probability A(x) = min(1, p(x) / (M q(x))). Given acceptance its law is proportional to
    min(p, M q):

    - `log_envelope=None`: M is the exact supremum of p / q in each row. The law is exactly p, the
      acceptance rate 1 / M, the number of attempts geometric and independent of the value.
    - `log_envelope=0.0`: A = min(1, p / q), the plain rule. The law is min(p, q) / sum min(p, q),
      which is not p; the acceptance rate is 1 - TV(p, q).
    - another: see `log_envelope_for_rate`; exact where M >= max p / q, and `violated` otherwise.

    Masked tokens (-inf) on either side are normal: one that q masks is never proposed and one
    that p masks is never accepted. The letters: V vocabulary.

    Args:
      key: a typed key, consumed. Row i (leading axes flattened) uses `fold_in(key, i)` and no
        other, so that a row's draw does not depend on the batch.
      proposal_logits: `[..., V]` unnormalised log q, as sampled: after temperature and top-p.
      target_logits: `[..., V]` unnormalised log p.
      log_envelope: log M in nats, a number or `[...]`. A number must be finite and >= 0, since
        no smaller M bounds the ratio of two laws; an array may be negative (a budgeted rule).
      max_attempts: proposals per row before giving up, at least 1. Static. With acceptance rate
        a the chance of giving up is (1 - a)^max_attempts, and what is accepted keeps its law.

    Returns:
      A `RejectionSample` with `[...]` fields. A row that is no law (NaN, +inf, all masked) has
      `accepted=False`, `value=-1` and no attempts.

    Raises:
      ValueError: if the vocabularies differ or are empty, `max_attempts` < 1, `log_envelope` is a
        number that is NaN, infinite or negative, or a NumPy array with a NaN or an infinity, or
        `key` is not a typed key.

    Example:
      >>> q, p = jnp.zeros((1000, 2)), jnp.log(jnp.full((1000, 2), jnp.array([0.9, 0.1])))
      >>> sample = rejection_sample(jax.random.key(0), q, p)
      >>> bool(sample.accepted.all()), bool(0.87 < (sample.value == 0).mean() < 0.93)
      (True, True)

    References:
      von Neumann, Various techniques used in connection with random digits (1951).
      Eikema et al., An approximate sampler for energy-based models (2022), section 3 (clipping).
    """
    check_key(key)
    check_same_vocabulary("proposal_logits", proposal_logits, "target_logits", target_logits)
    chex.assert_equal_shape([proposal_logits, target_logits])
    check_integer("max_attempts", max_attempts)
    _check_envelope(log_envelope)
    return _rejection_sample(
        key, proposal_logits, target_logits, log_envelope, max_attempts=int(max_attempts)
    )


def _check_envelope(log_envelope: Numeric | None) -> None:
    """Raises ValueError for a bad number or host array; what is on a device shows as data."""
    if log_envelope is None or isinstance(log_envelope, jax.Array):
        return
    if isinstance(log_envelope, np.ndarray):
        return check_number("log_envelope", log_envelope)
    check_between(
        "log_envelope",
        log_envelope,
        0,
        math.inf,
        bounds="[)",
        note="(M >= 1), or an array, which may be negative for a budgeted envelope",
    )


@functools.partial(jax.jit, static_argnames=("max_attempts",))
def _rejection_sample(key, proposal_logits, target_logits, log_envelope, *, max_attempts):
    lead, vocab_size = proposal_logits.shape[:-1], proposal_logits.shape[-1]
    dtype = wide_dtype(proposal_logits.dtype, target_logits.dtype)
    proposal = proposal_logits.astype(dtype).reshape(-1, vocab_size)
    target = target_logits.astype(dtype).reshape(-1, vocab_size)
    rows = proposal.shape[0]

    cdf = categorical_cdf(proposal)
    supremum = log_ratio_supremum(proposal, target)
    unsupported = supremum == jnp.inf
    if log_envelope is None:
        # The normalisers of p and q cancel against those in the supremum: neither is needed.
        log_bound = supremum
        tolerance = jnp.zeros_like(supremum)
        tried = cdf.valid & jnp.isfinite(supremum) & ~has_nan(target)
    else:
        target_cdf = categorical_cdf(target)
        log_envelope = jnp.broadcast_to(jnp.asarray(log_envelope, dtype), lead).reshape(-1)
        log_bound = log_envelope + target_cdf.log_normalizer - cdf.log_normalizer
        # What the bound and the ratio can differ by through rounding is no violation.
        size = jnp.abs(target_cdf.log_normalizer) + jnp.abs(cdf.log_normalizer)
        tolerance = 16 * jnp.finfo(dtype).eps * (1 + size + jnp.abs(log_envelope))
        tried = cdf.valid & target_cdf.valid & jnp.isfinite(log_envelope)

    attempts = _run_attempts(
        row_keys(key, rows), cdf, proposal, target,
        log_bound=log_bound, tried=tried, max_attempts=max_attempts,
    )  # fmt: skip
    log_ratio = attempts.log_ratio
    accepted = attempts.value >= 0
    sample = RejectionSample(
        value=attempts.value,
        accepted=accepted,
        num_attempts=attempts.count,
        log_accept_prob=jnp.minimum(log_ratio, 0),
        log_weight=jnp.where(accepted, jnp.maximum(log_ratio, 0), -jnp.inf),
        # A proposal above the envelope is always accepted, so the accepted ones tell.
        violated=(log_ratio > tolerance) | (unsupported & (log_envelope is None)),
        unsupported=unsupported,
        num_undefined=jnp.zeros_like(attempts.count),
    )
    return jax.tree.map(lambda x: x.reshape(lead), sample)


def log_ratio_supremum(proposal: Array, target: Array) -> Array:
    """The largest `target - proposal` of each row, over the tokens that the target has.

    Args:
      proposal: `[B, V]` logits; finite ones must be smaller than 1e29 in size.
      target: `[B, V]` logits.

    Returns:
      `[B]`: +inf where a token has q = 0 < p, -inf where the target has no token. Rows with
      a NaN must be sorted out by the caller: a maximum need not show them.
    """

    # By clamping and not by `where`, which would cost a `[B, V]` array (see block_reduce): a token
    # that the target lacks comes out near -3e38, one that only the proposal lacks near +1e30.
    def block_supremum(q, t):
        return (jnp.maximum(t, -3e38) - jnp.maximum(q, -1e30)).max(axis=-1)

    supremum = block_reduce(block_supremum, proposal, target).max(axis=-1)
    supremum = jnp.where(supremum < -1e29, -jnp.inf, supremum)
    return jnp.where(supremum > 1e29, jnp.inf, supremum)


@record
class _Attempts:
    """The loop's carry: `[B]` value (-1 none yet), count of attempts, log p/(Mq) at the value."""

    value: Array
    count: Array
    log_ratio: Array


def _run_attempts(
    keys: PRNGKey,
    cdf: CategoricalCdf,
    proposal: Array,
    target: Array,
    *,
    log_bound: Array,
    tried: Array,
    max_attempts: int,
) -> _Attempts:
    """Attempts rows until each has accepted or has used up its attempts."""
    rows = proposal.shape[0]
    lanes = min(rows, _LANES)

    def active(state):
        return tried & (state.value < 0) & (state.count < max_attempts)

    def attempt(state):
        row = jnp.nonzero(active(state), size=lanes, fill_value=rows)[0].astype(jnp.int32)
        at = jnp.minimum(row, rows - 1)  # idle lanes read the last row and write nowhere
        bits = jax.vmap(lambda k, n: jax.random.bits(jax.random.fold_in(k, n), (4,), jnp.uint32))(
            keys[at], state.count[at]
        )
        token = draw_from_cdf(cdf, proposal, unit_uniform(bits[:, :2]), at)
        log_ratio = target[at, token] - proposal[at, token] - log_bound[at]
        accept = log_uniform(bits[:, 2:]).astype(log_ratio.dtype) < log_ratio

        value, log_ratio = (
            old.at[row].set(jnp.where(accept, new, old[at]), mode="drop")
            for old, new in ((state.value, token), (state.log_ratio, log_ratio))
        )
        count = state.count.at[row].add(1, mode="drop")
        return _Attempts(value=value, count=count, log_ratio=log_ratio)

    start = _Attempts(
        value=jnp.full((rows,), -1, jnp.int32),
        count=jnp.zeros((rows,), jnp.int32),
        log_ratio=jnp.full((rows,), -jnp.inf, log_bound.dtype),
    )
    start = vary_like(start, keys, proposal, target, log_bound, tried)
    return jax.lax.while_loop(lambda state: active(state).any(), attempt, start)
