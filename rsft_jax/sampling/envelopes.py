"""Envelopes: the constant M that a ratio p / q is held under, known, chosen or learned."""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from rsft_jax.numerics.checks import check_between, check_number, check_same_vocabulary
from rsft_jax.numerics.dtypes import wide_dtype, widened
from rsft_jax.sampling.categorical import categorical_cdf
from rsft_jax.sampling.rejection import log_ratio_supremum
from rsft_jax.types import Array, Numeric, record


def log_envelope_supremum(proposal_logits: Array, target_logits: Array) -> Array:
    """The exact log M = log max p(x) / q(x) of each row, for the normalised laws.

    Accept-reject with it follows p exactly, with acceptance rate 1 / M.

    Args:
      proposal_logits: `[..., V]` unnormalised log q; -inf marks a masked token.
      target_logits: `[..., V]` unnormalised log p.

    Returns:
      `[...]` log M >= 0 in nats; +inf where q = 0 < p somewhere, NaN for a row that is no law.

    Raises:
      ValueError: if the vocabularies differ or are empty.

    Example:
      >>> q, p = jnp.zeros(2), jnp.log(jnp.array([0.9, 0.1]))
      >>> round(float(jnp.exp(log_envelope_supremum(q, p))), 6)
      1.8
    """
    check_same_vocabulary("proposal_logits", proposal_logits, "target_logits", target_logits)
    chex.assert_equal_shape([proposal_logits, target_logits])
    return _log_envelope_supremum(proposal_logits, target_logits)


@jax.jit
def _log_envelope_supremum(proposal_logits, target_logits):
    lead, vocab_size = proposal_logits.shape[:-1], proposal_logits.shape[-1]
    dtype = wide_dtype(proposal_logits.dtype, target_logits.dtype)
    proposal = proposal_logits.astype(dtype).reshape(-1, vocab_size)
    target = target_logits.astype(dtype).reshape(-1, vocab_size)
    q, p = categorical_cdf(proposal), categorical_cdf(target)
    log_m = log_ratio_supremum(proposal, target) - p.log_normalizer + q.log_normalizer
    # The supremum of a ratio of two laws is at least 1; below is rounding.
    return jnp.where(q.valid & p.valid, jnp.maximum(log_m, 0), jnp.nan).reshape(lead)


@record
class BudgetedEnvelope:
    """An envelope chosen for an acceptance rate, and what it does to the law.

    The accepted law is proportional to min(P, M q). P is the target without its normaliser Z,
    the shares are estimated from the given draws of q.

    Attributes:
      log_envelope: scalar log M in nats, for log ratios as they were given.
      rate: scalar, the acceptance rate expected: the mean of min(1, ratio / M).
      clipped_mass: scalar, the share of p's mass that lies above the envelope and is cut off:
        the mean of (ratio - M)+ over the mean ratio.
      tv_bound: scalar, an upper bound of the total variation between accepted law and p. It is
        the clipped mass: where the law lost mass it lost no more than was cut off.
    """

    log_envelope: Array
    rate: Array
    clipped_mass: Array
    tv_bound: Array


def log_envelope_for_rate(log_ratios: Array, rate: Numeric) -> BudgetedEnvelope:
    """The envelope under which draws with these ratios are accepted at a wanted rate.

    Accepting with min(1, ratio / M) is, among all rules with the same acceptance rate, the one
    whose law is closest to p in every f-divergence; the question is only which M. This solves
    mean(min(1, ratio / M)) = rate exactly for the given draws: with the ratios in rising order
    and their sums, M is found at one of S places.

    Args:
      log_ratios: `[S]` log P(x) - log q(x) of draws x ~ q, in nats; P may lack its normaliser.
        -inf (P = 0) is counted; NaN (not scored) is left out.
      rate: the wanted acceptance rate, in (0, 1]. It cannot exceed the share of ratios above 0;
        where it does, M is the smallest positive ratio, and `rate` says what is reached.

    Returns:
      A `BudgetedEnvelope`. All NaN if no ratio is above -inf.

    Raises:
      ValueError: if `rate` is a number outside (0, 1].

    Example:
      >>> chosen = log_envelope_for_rate(jnp.log(jnp.array([0.5, 0.5, 1.0, 2.0])), 0.5)
      >>> round(float(jnp.exp(chosen.log_envelope)), 6), round(float(chosen.clipped_mass), 6)
      (2.0, 0.0)

    References:
      Verine et al., Optimal Budgeted Rejection Sampling for Generative Models (2024), section 3.
    """
    check_between("rate", rate, 0, 1, bounds="(]")
    chex.assert_rank(log_ratios, 1)
    return _log_envelope_for_rate(log_ratios, rate)


# `rsft_jax.selection.rejection.envelope_for_rate` solves the same equation otherwise. Here there is
# one long stream, the rate may be traced, and what the envelope cuts off is wanted too, which the
# sorted sums give. There many short rows are solved at once, where a bisection is faster than
# XLA:CPU's sort, and M is the smallest float for which the sum as computed is within the rate: the
# two agree to rounding only, and either is held to its last bit by what was drawn with it.
@jax.jit
def _log_envelope_for_rate(log_ratios, rate):
    log_ratios = widened(log_ratios)
    dtype = log_ratios.dtype
    counted = ~jnp.isnan(log_ratios)
    number = counted.sum().astype(dtype)
    wanted = jnp.asarray(rate, dtype) * number  # the sum of min(1, ratio / M) that is sought
    rising = jnp.sort(jnp.where(counted, log_ratios, -jnp.inf))
    top = rising[-1]
    ratio = jnp.exp(rising - jnp.where(jnp.isfinite(top), top, 0))  # in units of the largest
    below = jnp.cumsum(ratio)
    above = jnp.arange(log_ratios.shape[0] - 1, -1, -1).astype(dtype)
    # At M = ratio_k those up to k are accepted in proportion and the rest for certain.
    accepted_at = below / jnp.where(ratio > 0, ratio, 1) + above
    # accepted_at falls as k rises: the last k where it is still enough brackets M from below.
    enough = (ratio > 0) & (accepted_at >= wanted)
    k = jnp.max(jnp.where(enough, jnp.arange(log_ratios.shape[0], dtype=jnp.int32), -1))
    # Between ratio_k and ratio_{k+1}: sum below / M + number above = wanted.
    left = wanted - above[k]
    unclipped = below[k] / jnp.where(left > 0, left, 1)
    least = jnp.min(jnp.where(ratio > 0, ratio, jnp.inf))
    envelope = jnp.where(k < 0, least, jnp.where(left > 0, unclipped, ratio[k]))
    excess = jnp.maximum(ratio - envelope, 0).sum()
    total = ratio.sum()
    log_envelope = jnp.log(envelope) + top
    empty = ~jnp.isfinite(top)

    def known(value):
        return jnp.where(empty, jnp.nan, value)

    return BudgetedEnvelope(
        log_envelope=known(log_envelope),
        rate=known(jnp.minimum(1, ratio / envelope).sum() / number),
        clipped_mass=known(excess / total),
        tv_bound=known(excess / total),
    )


@record
class EmpiricalEnvelopeState:
    """A running supremum, and whether it has settled.

    Attributes:
      log_envelope: scalar, the largest log ratio seen; -inf before any.
      num_seen: scalar int32, ratios seen (NaN ones left out).
      num_jumps: scalar int32, ratios at which the supremum rose, the first included.
      last_jump: scalar int32, the number of ratios seen when it last rose.
      last_rise: scalar, by how many nats it then rose (+inf at the first).
    """

    log_envelope: Array
    num_seen: Array
    num_jumps: Array
    last_jump: Array
    last_rise: Array

    @property
    def late_jump(self) -> Array:
        """Scalar in [0, 1]: where in the stream the last jump was.

        Of exchangeable ratios the largest is equally likely at each place, so this is uniform
        even if all is well; but a jump in the last tenth of a long stream, by more than a
        rounding, says that the supremum is still unknown and the law still off.
        """
        return self.last_jump / jnp.maximum(self.num_seen, 1)


class EmpiricalEnvelope(NamedTuple):
    """A running empirical supremum as a pair of pure functions.

    With M the largest ratio met so far, accept-reject is exact only in the limit (CONSISTENT):
    early draws are accepted too often. It settles slowly or never for heavy-tailed ratios; read
    `late_jump` and `last_rise`.

    Example:
      >>> envelope = EmpiricalEnvelope()
      >>> state = envelope.update(envelope.init(), jnp.array([0.1, 0.7, 0.3]))
      >>> round(float(state.log_envelope), 6), int(state.num_jumps), int(state.last_jump)
      (0.7, 2, 2)

    References:
      Caffo, Booth and Davison, Empirical supremum rejection sampling (2002).
    """

    @staticmethod
    def init(log_envelope: Numeric = -math.inf) -> EmpiricalEnvelopeState:
        """Returns the state before any ratio; a first guess of log M, not NaN, may be given."""
        check_number("log_envelope", log_envelope, finite=False)
        return EmpiricalEnvelopeState(
            log_envelope=jnp.asarray(log_envelope, jnp.float32),
            num_seen=jnp.int32(0),
            num_jumps=jnp.int32(0),
            last_jump=jnp.int32(0),
            last_rise=jnp.float32(0),
        )

    @staticmethod
    @jax.jit
    def update(state: EmpiricalEnvelopeState, log_ratios: Array) -> EmpiricalEnvelopeState:
        """Returns the state after `[...]` more log ratios, in their order; NaN ones are skipped."""
        flat = widened(log_ratios).reshape(-1).astype(state.log_envelope.dtype)
        if flat.size == 0:
            return state
        counted = ~jnp.isnan(flat)
        flat = jnp.where(counted, flat, -jnp.inf)
        start = state.log_envelope[None]
        running = jax.lax.cummax(jnp.concatenate([start, flat]))
        rises = running[1:] > running[:-1]
        seen = state.num_seen + jnp.cumsum(counted.astype(jnp.int32), dtype=jnp.int32)
        last = jnp.max(jnp.where(rises, jnp.arange(flat.shape[0], dtype=jnp.int32), -1))
        rose = last >= 0
        return EmpiricalEnvelopeState(
            log_envelope=running[-1],
            num_seen=state.num_seen + counted.sum(dtype=jnp.int32),
            num_jumps=state.num_jumps + rises.sum(dtype=jnp.int32),
            last_jump=jnp.where(rose, seen[last], state.last_jump)
            if flat.size
            else state.last_jump,
            last_rise=jnp.where(rose, running[last + 1] - running[last], state.last_rise),
        )


def repair_log_weight(log_ratio: Array, log_envelope: Numeric) -> Array:
    """The log-weight that repairs a clipped envelope: log max(1, ratio / M).

    What is accepted with min(1, w / M) and then weighted by max(1, w / M) stands for w / M, so
    that weighted means over accepted draws are those under p (up to one normaliser), whatever M.

    Args:
      log_ratio: `[...]` log P(x) - log q(x) of accepted draws, in nats.
      log_envelope: log M, broadcastable to it.

    Returns:
      `[...]` log-weights >= 0; 0 where the envelope held.

    Example:
      >>> repair_log_weight(jnp.array([-1.0, 2.0]), 0.5).tolist()
      [0.0, 1.5]

    References:
      Liu, Chen and Wong, Rejection control and sequential importance sampling (1998), section 2.
    """
    log_ratio = widened(log_ratio)
    log_envelope = jnp.broadcast_to(jnp.asarray(log_envelope, log_ratio.dtype), log_ratio.shape)
    return jnp.maximum(log_ratio - log_envelope, 0)
