"""Rules that accept an event: a reward above a minimum, a correct answer."""

from rsft_jax.selection.arguments import check_number, per_prompt
from rsft_jax.selection.types import Candidates, Decision, Law, SelectionRule, make_rule
from rsft_jax.types import Array, Numeric


def threshold(minimum: Numeric) -> SelectionRule:
    """Accepts every scored candidate with reward >= minimum.

    Law (EXACT): q given the event, q(y) 1[r(y) >= minimum] / Z with Z = q(r >= minimum), at a KL
    of -log Z nats from q. The number accepted is Binomial(n, Z): a minimum above every reward
    accepts nothing. Keeping all that is accepted weighs prompts by their Z; see `at_most`.

    Args:
      minimum: in units of the reward, a number or `[P]`; may be traced. Not NaN; +inf accepts
        nothing and -inf everything that is scored.

    Raises:
      ValueError: if `minimum` is a NaN number.

    Example:
      >>> candidates = Candidates(rewards=jnp.array([[0.2, 0.5, 0.9]]), valid=jnp.ones((1, 3)))
      >>> threshold(0.5).select(jax.random.key(0), candidates).accepted.tolist()
      [[False, True, True]]

    References:
      Gulcehre et al., ReST (2023), https://arxiv.org/abs/2308.08998, section 3 (filter F).
    """
    check_number("minimum", minimum, finite=False)

    def decide(key, candidates: Candidates, scored: Array) -> Decision:
        rewards = candidates.rewards
        return Decision(rewards >= per_prompt("minimum", minimum, rewards))

    return make_rule("threshold", decide, law=Law.EXACT)
