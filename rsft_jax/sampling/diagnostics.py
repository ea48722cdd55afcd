"""What a sampler's user wants to know: rates with intervals, weights, distances, best-of-n.

Rates and their intervals are host arithmetic in float64 (counts in the millions need it). The
rest are pure JAX functions. All logarithms are natural, all divergences in nats.
"""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax.numerics.checks import check_between, check_integer, check_number
from rsft_jax.types import Array, Numeric, record


@record
class RateInterval:
    """An acceptance rate with its exact interval.

    Attributes:
      estimate: float, accepted over attempts; NaN without attempts.
      low: float, the interval's lower end.
      high: float, its upper end.
    """

    estimate: float
    low: float
    high: float


def acceptance_rate(
    num_accepted: Numeric, num_attempts: Numeric, *, confidence: float = 0.95
) -> RateInterval:
    """The acceptance rate, with its Clopper-Pearson interval.

    The interval covers the true rate with at least the given confidence, for any rate and any
    number, if the number of attempts was fixed in advance. If instead attempts went on until
    `num_accepted` was reached, take `unbiased_rate` for the estimate.

    Args:
      num_accepted: accepted attempts, a whole number. The interval is that of a binomial count: a
        rate or a weighted count has none, and is refused.
      num_attempts: all attempts, likewise.
      confidence: in (0, 1).

    Returns:
      A `RateInterval` of Python floats.

    Raises:
      ValueError: unless both are whole, 0 <= num_accepted <= num_attempts and 0 < confidence < 1.

    Example:
      >>> rate = acceptance_rate(0, 10)
      >>> rate.estimate, rate.low, round(rate.high, 4)
      (0.0, 0.0, 0.3085)

    References:
      Clopper and Pearson, The use of confidence or fiducial limits (1934).
    """
    accepted = _whole("num_accepted", num_accepted)
    attempts = _whole("num_attempts", num_attempts)
    if not 0 <= accepted <= attempts:
        raise ValueError(f"num_accepted must be in [0, num_attempts], got {accepted} of {attempts}")
    check_between("confidence", confidence, 0, 1, bounds="()")
    if attempts == 0:
        return RateInterval(estimate=math.nan, low=0.0, high=1.0)
    tail, rejected = (1 - confidence) / 2, attempts - accepted
    low = 0.0 if accepted == 0 else _beta_quantile(tail, accepted, rejected + 1)
    high = 1.0 if rejected == 0 else 1 - _beta_quantile(tail, rejected, accepted + 1)
    return RateInterval(estimate=accepted / attempts, low=low, high=high)


def unbiased_rate(num_accepted: Numeric, num_attempts: Numeric) -> float:
    """The unbiased estimate (m - 1) / (T - 1) of a rate when attempts stopped at the m-th success.

    Then m / T is too high on average (0.299 for a rate of 0.2 and m = 2).

    Args:
      num_accepted: m, the number of successes at which attempts stopped; at least 2.
      num_attempts: T, all attempts, the last (successful) one included.

    Raises:
      ValueError: unless both are whole and 2 <= num_accepted <= num_attempts.

    Example:
      >>> unbiased_rate(2, 11)
      0.1

    References:
      Haldane, On a method of estimating frequencies (1945).
    """
    accepted = _whole("num_accepted", num_accepted)
    attempts = _whole("num_attempts", num_attempts)
    if not 2 <= accepted <= attempts:
        raise ValueError(
            "num_accepted must be in [2, num_attempts] for an unbiased rate, "
            f"got {accepted} of {attempts}"
        )
    return (accepted - 1) / (attempts - 1)


def expected_attempts(log_envelope: Numeric, log_normalizer: Numeric = 0.0) -> Array:
    """Attempts per accepted sample, M / Z, while M is a true envelope.

    Args:
      log_envelope: log M, any shape.
      log_normalizer: log Z of the target as scored; 0 for a normalised one.

    Returns:
      The broadcast shape.

    Example:
      >>> round(float(expected_attempts(math.log(4.0))), 5)
      4.0
    """
    return jnp.exp(jnp.asarray(log_envelope) - jnp.asarray(log_normalizer))


def exhaustion_probability(rate: Numeric, max_attempts: int) -> Array:
    """The chance (1 - a)^K that K attempts at rate a accept nothing.

    Args:
      rate: a, in [0, 1]; any shape, may be traced.
      max_attempts: K, at least 0.

    Returns:
      The shape of `rate`.

    Raises:
      ValueError: if `rate` is a number outside [0, 1], or `max_attempts` no integer >= 0.

    Example:
      >>> float(exhaustion_probability(0.5, 3))
      0.125
    """
    check_between("rate", rate, 0, 1)
    check_integer("max_attempts", max_attempts, 0)
    return jnp.exp(max_attempts * jnp.log1p(-jnp.asarray(rate, jnp.float32)))


def effective_sample_size(log_weights: Array, axis: int = -1) -> Array:
    """How many equal weights are worth as much: (sum w)^2 / sum w^2.

    Args:
      log_weights: log w in nats, any scale; -inf (no weight) is normal.
      axis: the axis of the draws.

    Returns:
      Without that axis: between 1 and the number of draws; 0 if all weights are 0, NaN for NaN.

    Example:
      >>> round(float(effective_sample_size(jnp.array([0.0, 0.0, -jnp.inf]))), 5)
      2.0

    References:
      Kong, A note on importance sampling using standardized weights (1992).
    """
    top = log_weights.max(axis=axis, keepdims=True)
    weight = jnp.exp(log_weights - jnp.where(top == -jnp.inf, 0, top))
    square = (weight**2).sum(axis=axis)
    return jnp.where(square == 0, 0, weight.sum(axis=axis) ** 2 / jnp.where(square == 0, 1, square))


@record
class LogNormalizer:
    """An estimate of log Z.

    Attributes:
      estimate: scalar, log of the mean ratio.
      standard_error: scalar, of the estimate, by the delta method; it understates heavy tails.
    """

    estimate: Array
    standard_error: Array


def log_normalizer(log_ratios: Array) -> LogNormalizer:
    """Estimates log Z, Z = E_q[P / q], from draws of the proposal.

    Args:
      log_ratios: `[S]` log P(x) - log q(x) of draws x ~ q, accepted or not.

    Returns:
      A `LogNormalizer`. Z itself is unbiased, its logarithm biased low by about half the squared
      standard error.

    Example:
      >>> float(log_normalizer(jnp.zeros(10)).estimate)
      0.0
    """
    chex.assert_rank(log_ratios, 1)
    number = log_ratios.shape[0]
    ess = effective_sample_size(log_ratios)
    # The relative variance of the mean is 1/ESS - 1/S (up to S / (S - 1)).
    relative = jnp.maximum(1 / ess - 1 / number, 0) * (number / max(number - 1, 1))
    return LogNormalizer(
        estimate=jax.nn.logsumexp(log_ratios) - math.log(number),
        standard_error=jnp.sqrt(relative),
    )


@record
class LawDistance:
    """How far what is accepted lies from the target, estimated from proposal draws.

    Attributes:
      tv: scalar, the total variation.
      kl_accepted_target: scalar, KL(accepted || target) in nats.
      kl_target_accepted: scalar, KL(target || accepted) in nats.
    """

    tv: Array
    kl_accepted_target: Array
    kl_target_accepted: Array


def accepted_law_distance(log_ratios: Array, log_envelope: Numeric) -> LawDistance:
    """Distances between the law min(P, M q) / Z_M that is accepted and the target P / Z.

    Both laws have a ratio to q that the draws show: min(w, M) / Z_M and w / Z, with Z and Z_M the
    means of w and min(w, M). What no draw has met cannot show: with a heavy tail the distances
    come out too small.

    Args:
      log_ratios: `[S]` log w = log P(x) - log q(x) of draws x ~ q, accepted or not.
      log_envelope: log M, scalar.

    Returns:
      A `LawDistance`; all 0 if no ratio exceeds M.

    Raises:
      ValueError: if `log_envelope` is a number that is NaN or infinite.

    Example:
      >>> distance = accepted_law_distance(jnp.log(jnp.array([0.2, 1.8])), 0.0)
      >>> round(float(distance.tv), 4)
      0.0667

    References:
      Eikema et al., An approximate sampler for energy-based models (2022), section 3.2.
    """
    check_number("log_envelope", log_envelope)
    chex.assert_rank(log_ratios, 1)
    clipped = jnp.minimum(log_ratios, jnp.asarray(log_envelope, log_ratios.dtype))
    log_target = jax.nn.log_softmax(log_ratios)
    log_accepted = jax.nn.log_softmax(clipped)
    target, accepted = jnp.exp(log_target), jnp.exp(log_accepted)

    def mean_log(weight, difference):  # 0 log 0 = 0
        return jnp.where(weight > 0, weight * jnp.where(weight > 0, difference, 0), 0).sum()

    return LawDistance(
        tv=0.5 * jnp.abs(target - accepted).sum(),
        kl_accepted_target=mean_log(accepted, log_accepted - log_target),
        kl_target_accepted=mean_log(target, log_target - log_accepted),
    )


def best_of_n_kl(n: int) -> float:
    """The upper bound log n - (n - 1) / n of KL(best-of-n || base), in nats.

    It is no equality: with two equally likely outcomes the KL never exceeds log 2, whatever n. Use
    `best_of_n_kl_estimate` or `best_of_n_kl_exact` where the axis of a plot is meant.

    Args:
      n: candidates, at least 1.

    Raises:
      ValueError: if n < 1.

    Example:
      >>> round(best_of_n_kl(1024), 3)
      5.932

    References:
      Beirami et al., Theoretical guarantees on the best-of-n alignment policy (2024), theorem 1.
    """
    _check_n(n)
    return math.log(n) - (n - 1) / n


def best_of_n_kl_estimate(log_probs: Array, n: int) -> Array:
    """An estimate of KL(best-of-n || base) from the base probability of the best candidate.

    With e = pi0(y) of the candidate y that best-of-n chose: (1-e)^n (log n + (n-1) log(1-e)
    - (n-1)/n) + (1 - (1-e)^n) log((1 - (1-e)^n) / e). Average it over draws. For small e it is the
    bound, for large n it follows -log e.

    Args:
      log_probs: `[...]` log pi0(y) of chosen candidates, in nats, at most 0.
      n: candidates, at least 1.

    Returns:
      `[...]` nats.

    Raises:
      ValueError: if n < 1.

    Example:
      >>> round(float(best_of_n_kl_estimate(jnp.log(0.5), 1024)), 4)
      0.6931

    References:
      Beirami et al., Theoretical guarantees on the best-of-n alignment policy (2024), section 5.
    """
    _check_n(n)
    e = jnp.exp(log_probs)
    log_rest = jnp.log1p(-jnp.minimum(e, 1 - jnp.finfo(log_probs.dtype).epsneg))
    miss = jnp.exp(n * log_rest)
    hit = -jnp.expm1(n * log_rest)
    spread = miss * (math.log(n) + (n - 1) * log_rest - (n - 1) / n)
    return spread + hit * (jnp.log(hit) - log_probs)


def best_of_n_law(probs: Array, rewards: Array, n: int) -> Array:
    """The law of the best of n draws, ties split in proportion to the base.

    pi_n(y) = (F(r)^n - F(r-)^n) pi0(y) / pi0(tie class of y), F the base's law of the reward.

    Args:
      probs: `[K]` base probabilities of all outcomes.
      rewards: `[K]` their rewards.
      n: candidates, at least 1.

    Returns:
      `[K]` probabilities.

    Raises:
      ValueError: if n < 1.

    Example:
      >>> best_of_n_law(jnp.array([0.5, 0.5]), jnp.array([0.0, 1.0]), 2).tolist()
      [0.25, 0.75]
    """
    _check_n(n)
    chex.assert_equal_shape([probs, rewards])
    chex.assert_rank(probs, 1)
    order = rewards[:, None] - rewards[None, :]
    below = jnp.where(order > 0, probs[None, :], 0).sum(axis=-1)
    tied = jnp.where(order == 0, probs[None, :], 0).sum(axis=-1)
    return ((below + tied) ** n - below**n) * probs / jnp.where(tied > 0, tied, 1)


def best_of_n_kl_exact(probs: Array, rewards: Array, n: int) -> Array:
    """KL(best-of-n || base) in nats, for a law given whole.

    Args:
      probs: `[K]` base probabilities of all outcomes.
      rewards: `[K]` their rewards.
      n: candidates, at least 1.

    Returns:
      A scalar.

    Example:
      >>> round(float(best_of_n_kl_exact(jnp.array([0.5, 0.5]), jnp.array([0.0, 1.0]), 2)), 4)
      0.1308
    """
    law = best_of_n_law(probs, rewards, n)
    some = (law > 0) & (probs > 0)
    ratio = jnp.log(jnp.where(some, law, 1)) - jnp.log(jnp.where(some, probs, 1))
    return jnp.where(some, law * ratio, 0).sum()


def win_rate_bound(n: int) -> float:
    """The upper bound n / (n + 1) of the chance that best-of-n beats one base draw (ties half).

    Args:
      n: candidates, at least 1.

    Raises:
      ValueError: if n < 1.

    Example:
      >>> win_rate_bound(3)
      0.75
    """
    _check_n(n)
    return n / (n + 1)


def _whole(name: str, value: Numeric) -> int:
    """A count as an int; a float or an array of one number that is whole will do."""
    try:
        number = int(value)  # pyright: ignore[reportArgumentType]
        whole = not isinstance(value, str | bytes) and number == value
    except (TypeError, ValueError, OverflowError):
        number, whole = 0, False
    if not whole:
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    return number


def _check_n(n: int) -> None:
    check_integer("n", n)


def _beta_quantile(prob: float, a: float, b: float) -> float:
    """The x at which the Beta(a, b) law has mass `prob` below it, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        if _beta_cdf(middle, a, b) < prob:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def _beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function, by its continued fraction."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side only
        return 1 - _beta_cdf(1 - x, b, a)
    log_front = (
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    tiny = np.finfo(np.float64).tiny
    # Evaluated from the front (Lentz): value is the ratio of two convergents' growth.
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > tiny else tiny)
    value = d
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        change = 1.0
        for term in (even, odd):
            d = 1 + term * d
            d = 1 / (d if abs(d) > tiny else tiny)
            c = 1 + term / c
            c = c if abs(c) > tiny else tiny
            change = c * d
            value *= change
        if abs(change - 1) < 1e-15:
            break
    return min(1.0, math.exp(log_front) * value / a)
