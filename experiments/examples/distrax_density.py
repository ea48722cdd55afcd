"""Rejection over densities of another library: distrax if it is installed, numpyro otherwise.

    python -m rsft_jax.experiments.examples.distrax_density

The target is a normal law cut to x > 1, unnormalised; the proposal a shifted exponential. All that
the sampler needs is a function that draws and a function that gives the log ratio.
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


def main():
    """Returns the mean of the accepted draws and the exact mean of the truncated normal."""
    library, propose, log_ratio = densities()
    # The ratio is largest where the slopes of both logarithms agree: x = RATE.
    log_envelope = float(log_ratio(jnp.float32(RATE)))
    sample = rejection_sample_from(
        jax.random.key(0), propose, log_ratio, log_envelope=log_envelope, num_samples=50_000
    )
    normal = jax.scipy.stats.norm
    exact = float(normal.pdf(EDGE) / normal.sf(EDGE))
    mean = float(sample.value.mean())
    print(f"{library}: mean {mean:.4f} (exact {exact:.4f}), none below the edge: "
          f"{bool((sample.value > EDGE).all())}, violations: {int(sample.violated.sum())}, "
          f"accepted {50_000 / int(sample.num_attempts.sum()):.3f}")  # fmt: skip
    return mean, exact


if __name__ == "__main__":
    main()
