"""One independent 64-bit random word for each candidate of each prompt."""

import jax
import jax.numpy as jnp

from rsft_jax.numerics.keys import check_key, counter_bits, log_uniform
from rsft_jax.selection.types import Candidates
from rsft_jax.types import Array, PRNGKey


def candidate_bits(key: PRNGKey, candidates: Candidates) -> Array:
    """Draws 64 random bits for each candidate.

    Candidate j of the prompt with number i gets the threefry block of `fold_in(key, i)` at counter
    j, the same bits as the key `fold_in(fold_in(key, i), j)`. So they depend neither on P and N nor
    on what the other prompts are, and one block cipher call a candidate is all that it costs.

    Args:
      key: a typed key, consumed.
      candidates: only their shape and `prompt_ids` are read.

    Returns:
      `[P, N, 2]` uint32.

    Raises:
      ValueError: if `key` is not a typed key.
    """
    check_key(key)
    prompts, per_prompt = candidates.rewards.shape
    ids = candidates.prompt_ids
    ids = jnp.arange(prompts) if ids is None else jnp.asarray(ids)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, ids.astype(jnp.uint32))
    counter = jnp.broadcast_to(jax.lax.iota(jnp.uint32, per_prompt)[None, :], (prompts, per_prompt))
    return counter_bits(jnp.broadcast_to(keys[:, None], counter.shape), counter)


def candidate_log_uniform(key: PRNGKey, candidates: Candidates) -> Array:
    """`[P, N]` float32 log u, u uniform on [0, 1) and resolved to 2^-64; -inf at u = 0.

    Compare strictly, `log u < log A`: then A = 0 is never accepted and A = 1 always.
    """
    return log_uniform(candidate_bits(key, candidates))
