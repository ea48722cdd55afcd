"""Exact samples of a small Bayesian posterior, with no chain and no burn-in.

    python -m rsft_jax.experiments.examples.bayesian_posterior

Seven successes in ten trials, and a prior on the log-odds: theta ~ N(0, 1.5^2). The prior is the
proposal, so log p~ - log q is the log likelihood; its maximum, at 7 / 10, is the exact envelope.
Every accepted draw is an independent draw of the posterior, and the acceptance rate estimates the
evidence.
"""

import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax.sampling import acceptance_rate, rejection_sample_from

SUCCESSES, TRIALS, PRIOR_SCALE = 7, 10, 1.5


def prior(key):
    """One draw of the log-odds from the prior."""
    return PRIOR_SCALE * jax.random.normal(key)


def log_likelihood(log_odds):
    """Log probability of the data, without the binomial coefficient."""
    failures = TRIALS - SUCCESSES
    return SUCCESSES * jax.nn.log_sigmoid(log_odds) + failures * jax.nn.log_sigmoid(-log_odds)


def main():
    """Returns the posterior mean of the probability by rejection and by quadrature."""
    best = float(log_likelihood(jnp.log(SUCCESSES / (TRIALS - SUCCESSES))))
    sample = rejection_sample_from(
        jax.random.key(0), prior, log_likelihood, log_envelope=best, num_samples=20_000
    )
    mean = float(jax.nn.sigmoid(sample.value).mean())

    grid = np.linspace(-12, 12, 20_001)
    weight = np.exp(np.asarray(log_likelihood(jnp.asarray(grid))) - 0.5 * (grid / PRIOR_SCALE) ** 2)
    exact = float((weight / (1 + np.exp(-grid))).sum() / weight.sum())

    rate = acceptance_rate(int(sample.accepted.sum()), int(sample.num_attempts.sum()))
    print(f"posterior mean {mean:.4f} (quadrature {exact:.4f})")
    print(f"acceptance rate {rate.estimate:.4f} [{rate.low:.4f}, {rate.high:.4f}]")
    print(f"log evidence {np.log(rate.estimate) + best:.3f}")
    return mean, exact


if __name__ == "__main__":
    main()
