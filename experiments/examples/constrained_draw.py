"""A token under a hard constraint, without asking the constraint about the whole vocabulary.

    python -m rsft_jax.experiments.examples.constrained_draw

The constraint is that the token be prime. Of 32000 tokens a few dozen are asked about; the answer
follows the model's law given the constraint, and the weight is an unbiased estimate of the mass
that the constraint leaves, here compared with the truth.
"""

import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax.sampling import constrained_sample

VOCAB, ROWS = 32_000, 512


def primes(size):
    """`[size]` bool: which numbers are prime."""
    sieve = np.ones(size, bool)
    sieve[:2] = False
    for n in range(2, int(size**0.5) + 1):
        sieve[n * n :: n] &= not sieve[n]
    return sieve


def main():
    """Returns the mean estimate of the allowed mass, and the mass."""
    is_prime = jnp.asarray(primes(VOCAB))
    logits = 2 * jax.random.normal(jax.random.key(0), (VOCAB,))
    rows = jnp.broadcast_to(logits, (ROWS, VOCAB))
    sample = constrained_sample(
        jax.random.key(1), rows, lambda tokens: is_prime[tokens], max_checks=200
    )
    mass = float(jnp.where(is_prime, jax.nn.softmax(logits), 0).sum())
    estimate = float(jnp.exp(sample.log_weight).mean())
    print(f"found in {int(sample.accepted.sum())} of {ROWS} rows, the first: {sample.value[:5]}")
    print(f"checks a row: {sample.num_checks.mean():.1f} of {VOCAB} tokens")
    print(f"mass of the primes: {mass:.4f}, estimated {estimate:.4f}")
    return estimate, mass


if __name__ == "__main__":
    main()
