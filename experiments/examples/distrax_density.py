"""Rejection over densities of another library: distrax if it is installed, numpyro otherwise.

    python -m rsft_jax.experiments.examples.distrax_density

The target is a normal law cut to x > 1, unnormalised; the proposal a shifted exponential. All that
the sampler needs is a function that draws, a function that gives the log ratio, and where it holds:
what a log density is outside its support differs from library to library and from version to
version, and so does what it is at the end, where a draw of exactly 0 falls once in some millions
(the README of `rsft_jax.sampling` has a table). The support is named, so that none of it matters.
"""

import jax
import jax.numpy as jnp

from rsft_jax.sampling import rejection_sample_from

EDGE = 1.0
RATE = 1.6180340  # (edge + sqrt(edge^2 + 4)) / 2: the exponential that fits the tail best


def densities():
    """The library's name, `propose`, and `log_ratio` = log target - log proposal."""
    try:
        import distrax
    except ImportError:
        import numpyro.distributions as dist

        proposal, target = dist.Exponential(RATE), dist.Normal(0.0, 1.0)
        return (
            "numpyro",
            lambda key: EDGE + proposal.sample(key),
            lambda x: jnp.subtract(target.log_prob(x), proposal.log_prob(x - EDGE)),
        )
    proposal, target = distrax.Gamma(1.0, RATE), distrax.Normal(0.0, 1.0)
    return (
        "distrax",
        lambda key: EDGE + proposal.sample(seed=key),
        lambda x: jnp.subtract(target.log_prob(x), proposal.log_prob(x - EDGE)),
    )


def inside(x):
    """Where the target has mass: to the right of the edge, and not at it."""
    return x > EDGE


def main():
    """Returns the mean of the accepted draws and the exact mean of the truncated normal."""
    library, propose, log_ratio = densities()
    # The ratio is largest where the slopes of both logarithms agree: x = RATE.
    log_envelope = float(log_ratio(jnp.float32(RATE)))
    sample = rejection_sample_from(
        jax.random.key(0), propose, log_ratio, log_envelope=log_envelope, num_samples=50_000,
        support=inside,
    )  # fmt: skip
    normal = jax.scipy.stats.norm
    exact = float(normal.pdf(EDGE) / normal.sf(EDGE))
    mean = float(sample.value.mean())
    rate = 50_000 / int(sample.num_attempts.sum())
    inside_only = bool((sample.value > EDGE).all())
    print(f"{library}: mean {mean:.4f} (exact {exact:.4f}), ", end="")
    print(f"none below the edge: {inside_only}, violations: {int(sample.violated.sum())}, ", end="")
    print(f"undefined ratios: {int(sample.num_undefined.sum())}, accepted {rate:.3f}")
    return mean, exact


if __name__ == "__main__":
    main()
