"""The keys of a round: one split for everybody who draws, selects or trains in it."""

from typing import NamedTuple

import jax

from rsft_jax.types import PRNGKey


class CollectKeys(NamedTuple):
    """The keys of collecting candidates.

    Attributes:
      propose: draws them.
      select: is the rule's.
    """

    propose: PRNGKey
    select: PRNGKey


class RoundKeys(NamedTuple):
    """The keys of one round.

    Attributes:
      collect: what `rsft_jax.rounds.collect` is given, which splits it by `collect_keys`.
      improve: is the fine-tuning's.
    """

    collect: PRNGKey
    improve: PRNGKey

    @property
    def propose(self) -> PRNGKey:
        """Draws the candidates: the first of `collect_keys(collect)`."""
        return collect_keys(self.collect).propose

    @property
    def select(self) -> PRNGKey:
        """Is the rule's: the second of `collect_keys(collect)`."""
        return collect_keys(self.collect).select


def collect_keys(key: PRNGKey) -> CollectKeys:
    """Splits the key of collecting, consumed, into those of drawing and of the rule.

    Example:
      >>> keys = collect_keys(jax.random.key(0))
      >>> bool((jax.random.key_data(keys.propose) != jax.random.key_data(keys.select)).any())
      True
    """
    return CollectKeys(*jax.random.split(key))


def split_round(key: PRNGKey) -> RoundKeys:
    """Splits the key of a round, consumed, into those of collecting and of fine-tuning."""
    return RoundKeys(*jax.random.split(key))


def round_keys(key: PRNGKey, number: int) -> RoundKeys:
    """The keys of round `number` of a run.

    Round t draws all its randomness from `fold_in(key, t)`, so that it does not depend on the
    rounds before it.

    Args:
      key: random key of the whole run, used for nothing but its rounds.
      number: t, from 1.

    Example:
      >>> keys = round_keys(jax.random.key(0), 3)
      >>> again = split_round(jax.random.fold_in(jax.random.key(0), 3))
      >>> bool((jax.random.key_data(keys.improve) == jax.random.key_data(again.improve)).all())
      True
    """
    return split_round(jax.random.fold_in(key, number))
