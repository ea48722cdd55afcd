"""The Gaussian problem and its laws: the acceptance rules, and all that is known of them exactly.

Inputs x have D numbers. Along the direction u = (1, ..., 1) / sqrt(D), with z = u . x,

    proposal q:  z ~ N(0, 1)            target p:  z ~ N(mean, deviation^2)

and at right angles to u both are N(0, I). So every distance between laws of x is the distance
between laws of z, which is one integral. With deviation < 1 the ratio is bounded,

    log p/q = -log deviation - (z - mean)^2 / (2 deviation^2) + z^2 / 2
    log M   = -log deviation + mean^2 / (2 (1 - deviation^2))

Three arms differ in the rule alone: "proposal" accepts all; "plain" is A = min(1, p/q), whose law
is min(p, q) / Z with Z = 1 - TV(p, q), and not p; "exact" is A = p / (M q), whose law is p.

Shapes: D inputs, B samples of a batch, K bins.
"""

import math
import statistics
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax.sampling import rejection_sample_from
from rsft_jax.types import Array, PRNGKey

from ..settings.schema import ProblemConfig

ARMS = {"proposal": "q", "plain": "min(p, q) / Z", "exact": "p"}
"""Each arm and the law of what it accepts."""

_GATE_MISS = 5e-9  # probability that the right law falls outside its gate


class Draws(NamedTuple):
    """Accepted samples.

    Attributes:
      inputs: `[B, D]` float32; 0 where not accepted.
      accepted: `[B]` bool; False where the attempts ran out.
      num_attempts: [] int32 proposals spent on them all.
    """

    inputs: Array
    accepted: Array
    num_attempts: Array


class ExactLaw(NamedTuple):
    """What is known about the law of one arm.

    Attributes:
      shares: `[K]` probability of each bin.
      mean: of z.
      variance: of z.
      acceptance: probability that a proposal is accepted.
      best_loss: loss on the target of the linear model that fits this law best.
    """

    shares: np.ndarray
    mean: float
    variance: float
    acceptance: float
    best_loss: float


def log_ratio(inputs: Array, problem: ProblemConfig) -> Array:
    """log p(x) - log q(x) in nats, for inputs `[..., D]`."""
    z = along(inputs)
    square = jnp.square((z - problem.mean) / problem.deviation)
    return -math.log(problem.deviation) - square / 2 + jnp.square(z) / 2


def log_envelope(problem: ProblemConfig) -> float:
    """log M, the supremum of `log_ratio`, reached at z = mean / (1 - deviation^2)."""
    variance = problem.deviation**2
    return -math.log(problem.deviation) + problem.mean**2 / (2 * (1 - variance))


def along(inputs: Array) -> Array:
    """z = u . x for inputs `[..., D]`."""
    return jnp.sum(inputs, axis=-1) / math.sqrt(inputs.shape[-1])


def make_draw(
    arm: str, problem: ProblemConfig, *, num_samples: int, max_attempts: int
) -> Callable[[PRNGKey], Draws]:
    """Builds the sampler of one arm: key, consumed, to B = `num_samples` draws.

    The plain rule is the same call with the envelope left at log M = 0.
    """
    envelope = log_envelope(problem) if arm == "exact" else 0.0

    def propose(key: PRNGKey) -> Array:
        return jax.random.normal(key, (problem.num_inputs,))

    def ratio(inputs: Array) -> Array:
        return log_ratio(inputs, problem)

    def draw_all(key: PRNGKey) -> Draws:
        inputs = jax.vmap(propose)(jax.random.split(key, num_samples))
        return Draws(inputs, jnp.ones(num_samples, bool), jnp.int32(num_samples))

    def draw(key: PRNGKey) -> Draws:
        sample = rejection_sample_from(
            key,
            propose,
            ratio,
            log_envelope=envelope,
            num_samples=num_samples,
            max_attempts=max_attempts,
        )
        # Zeros where nothing was accepted: whatever stands there must not reach a gradient.
        inputs = jnp.where(sample.accepted[:, None], sample.value, 0.0)
        return Draws(inputs, sample.accepted, jnp.sum(sample.num_attempts))

    return draw_all if arm == "proposal" else draw


def exact_laws(problem: ProblemConfig, num_bins: int) -> dict[str, ExactLaw]:
    """Integrates everything that can be known of the three arms, on a grid of z.

    The grid spans 12 standard deviations with 2^18 points: the error is far below 1e-6.
    """
    low = min(-12.0, problem.mean - 12 * problem.deviation)
    high = max(12.0, problem.mean + 12 * problem.deviation)
    grid = np.linspace(low, high, 2**18 + 1)
    q = _density(grid, 0.0, 1.0)
    p = _density(grid, problem.mean, problem.deviation)
    overlap = np.minimum(p, q)
    densities = {"proposal": q, "plain": overlap, "exact": p}
    acceptance = {
        "proposal": 1.0,
        "plain": float(np.trapezoid(overlap, grid)),
        "exact": math.exp(-log_envelope(problem)),
    }
    edges = bin_edges(problem, num_bins)
    return {
        arm: _exact_law(grid, densities[arm], p, acceptance[arm], edges, problem) for arm in ARMS
    }


def _exact_law(
    grid: np.ndarray,
    density: np.ndarray,
    target: np.ndarray,
    acceptance: float,
    edges: np.ndarray,
    problem: ProblemConfig,
) -> ExactLaw:
    density = density / np.trapezoid(density, grid)
    cells = (density[1:] + density[:-1]) / 2 * np.diff(grid)
    cumulative = np.concatenate([[0.0], np.cumsum(cells)])
    shares = np.diff(np.concatenate([[0.0], np.interp(edges, grid, cumulative), [1.0]]))

    def mean_of(values: np.ndarray, law: np.ndarray = density) -> float:
        return float(np.trapezoid(values * law, grid))

    square = problem.curvature * grid**2
    mean = mean_of(grid)
    variance = mean_of((grid - mean) ** 2)
    # Least squares in one variable; at right angles to u every law gives the right slopes.
    slope = mean_of(square * (grid - mean)) / variance
    constant = mean_of(square) - slope * mean
    missed = mean_of((square - slope * grid - constant) ** 2, target)
    return ExactLaw(shares, mean, variance, acceptance, missed + problem.noise**2)


def _density(z: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    scaled = (z - mean) / deviation
    return np.exp(-(scaled**2) / 2) / (deviation * math.sqrt(2 * math.pi))


def bin_edges(problem: ProblemConfig, num_bins: int) -> np.ndarray:
    """Returns the K - 1 inner edges of bins that are equally likely under the target."""
    target = statistics.NormalDist(problem.mean, problem.deviation)
    return np.array([target.inv_cdf(k / num_bins) for k in range(1, num_bins)])


def tv_gate(num_bins: int, num_samples: int) -> float:
    """Returns the distance within which samples of the right law stay."""
    if num_samples == 0:
        return math.inf
    spread = math.sqrt(num_bins / num_samples) / 2
    return spread + math.sqrt(math.log(1 / _GATE_MISS) / (2 * num_samples))


def total_variation(a: np.ndarray, b: np.ndarray) -> float:
    """Half the sum of |a - b| over bins."""
    return float(np.abs(a - b).sum() / 2)


def kl_divergence(a: np.ndarray, b: np.ndarray) -> float:
    """KL(a, b) in nats; 0 log 0 = 0."""
    inside = a > 0
    return float(np.sum(a[inside] * np.log(a[inside] / b[inside])))
