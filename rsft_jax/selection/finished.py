"""The rule that leaves out what was cut."""

import jax.numpy as jnp

from rsft_jax.selection.types import Candidates, Decision, Law, SelectionRule, make_rule
from rsft_jax.types import Array


def finished() -> SelectionRule:
    """Accepts the candidates that ended themselves, by a stop token and not by the length limit.

    A text that was cut has no end: what is fine-tuned on such texts learns not to stop, and a
    reward of half an answer is that of another answer. In front of another rule it is a filter,
    `chain(finished(), top_k(2))`.

    Law (EXACT): q given the event that the completion ends within `max_new_tokens`, at a KL of
    -log Z nats from q with Z the share that does (`Candidates.finished`, its mean). It favours the
    short: of a prompt whose good answers are long it keeps the others.

    Raises:
      ValueError: on `select`, if `finished` is missing.

    Example:
      >>> import jax, numpy as np
      >>> ended = np.array([[True, False, True]])
      >>> candidates = Candidates(rewards=np.zeros((1, 3)), valid=np.ones((1, 3)), finished=ended)
      >>> finished().select(jax.random.key(0), candidates).accepted.tolist()
      [[True, False, True]]

    References:
      Yu et al., DAPO (2025), https://arxiv.org/abs/2503.14476, section 3.4 (what truncated samples
      do to training).
    """

    def decide(key, candidates: Candidates, scored: Array) -> Decision:
        return Decision(jnp.asarray(candidates.finished).astype(bool))

    return make_rule("finished", decide, law=Law.EXACT, needs={"finished"}, separable=True)
