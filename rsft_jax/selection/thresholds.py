"""Rules that accept an event: a reward above a minimum, a correct answer."""

import itertools
from collections.abc import Callable, Sequence

import jax.numpy as jnp

from rsft_jax.numerics.checks import check_integer, check_number, per_prompt
from rsft_jax.selection.types import (
    Candidates,
    Decision,
    Law,
    SelectionRule,
    check_candidates,
    is_scored,
    label,
    make_rule,
)
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
      >>> import jax, numpy as np
      >>> candidates = Candidates(rewards=np.array([[0.2, 0.5, 0.9]]), valid=np.ones((1, 3)))
      >>> threshold(0.5).select(jax.random.key(0), candidates).accepted.tolist()
      [[False, True, True]]

    References:
      Gulcehre et al., ReST (2023), https://arxiv.org/abs/2308.08998, section 3 (filter F).
    """
    check_number("minimum", minimum, finite=False)

    def decide(key, candidates: Candidates, scored: Array) -> Decision:
        rewards = candidates.rewards
        return Decision(rewards >= per_prompt("minimum", minimum, rewards))

    return make_rule(f"threshold({label(minimum)})", decide, law=Law.EXACT, separable=True)


def correct(minimum: Numeric = 1.0) -> SelectionRule:
    """Accepts every candidate that the verifier calls correct: reward >= minimum, which is 1.

    Rewards are verdicts, 0 or 1 (-1 or 1 will do, and so will bools). Many verifiers give partial
    credit for what is near the answer, or for its form; that is no verdict of "correct" and is
    rejected. `num_partial` counts it: where it is not 0 the rewards are graded, and either
    `threshold` is meant or the verifier another one than was thought.

    Law (EXACT): q(y) P(correct | y) / Z for a verdict that is right, the posterior of y given that
    the answer is right: sampling from it is the E-step of expectation maximisation on P(correct).
    A verifier that errs gives *its* posterior, and a right answer for a wrong reason passes.

    Args:
      minimum: the least reward that is a verdict of "correct", a number or `[P]`; may be traced.
        For verdicts with a weight w it is w.

    Raises:
      ValueError: if `minimum` is a number that is not finite.

    Example:
      >>> import jax, numpy as np
      >>> candidates = Candidates(rewards=np.array([[1.0, 0.97, 0.0]]), valid=np.ones((1, 3)))
      >>> correct().select(jax.random.key(0), candidates).accepted.tolist()
      [[True, False, False]]

    References:
      Zelikman et al., STaR (2022), https://arxiv.org/abs/2203.14465; Singh et al., ReST-EM (2023),
      https://arxiv.org/abs/2312.06585, section 3.
    """

    check_number("minimum", minimum)

    def decide(key, candidates: Candidates, scored: Array) -> Decision:
        rewards = candidates.rewards
        return Decision(rewards >= per_prompt("minimum", minimum, rewards))

    is_one = isinstance(minimum, int | float) and minimum == 1
    name = "correct" if is_one else f"correct({label(minimum)})"
    return make_rule(name, decide, law=Law.EXACT, separable=True)


def num_partial(candidates: Candidates, minimum: Numeric = 1.0) -> Array:
    """Counts, per prompt, the scored candidates with partial credit: 0 < reward < minimum.

    Args:
      candidates: `[P, N]`.
      minimum: that of `correct`.

    Returns:
      `[P]` int32; 0 where all rewards are verdicts.

    Example:
      >>> import numpy as np
      >>> candidates = Candidates(rewards=np.array([[1, 0.97, 0.5, 0, -1]]), valid=np.ones((1, 5)))
      >>> num_partial(candidates).tolist()
      [2]
    """
    check_number("minimum", minimum)
    candidates = check_candidates(candidates)
    rewards = candidates.rewards
    partial = (rewards > 0) & (rewards < per_prompt("minimum", minimum, rewards))
    return (partial & is_scored(candidates)).sum(axis=-1, dtype=jnp.int32)


def rising_threshold(
    minimums: Sequence[float], *, rule: Callable[[float], SelectionRule] = threshold
) -> Callable[[int], SelectionRule]:
    """ReST's schedule: the rule of round t is `threshold(minimums[t - 1])`, the bar ever higher.

    The law of each round is that of its rule. A bar above every reward accepts nothing. For
    rewards of unknown scale, `rising_threshold((0.5, 0.7, 0.9), rule=quantile)`.

    Args:
      minimums: strictly increasing numbers; the last holds for all rounds after it.
      rule: makes a rule of a minimum.

    Returns:
      A function from the round, counted from 1, to its rule; the same object every time.

    Raises:
      ValueError: if `minimums` is empty, not strictly increasing or not finite; from the returned
        function, if the round is < 1.

    Example:
      >>> schedule = rising_threshold([0.0, 0.5])
      >>> schedule(2) is schedule(7)
      True

    References:
      Gulcehre et al., ReST (2023), https://arxiv.org/abs/2308.08998, section 3 and figure 3.
    """
    minimums = list(minimums)
    for i, minimum in enumerate(minimums):
        check_number(f"minimums[{i}]", minimum)
    values = [float(minimum) for minimum in minimums]
    if not values or not all(a < b for a, b in itertools.pairwise(values)):
        raise ValueError(f"minimums must be one or more, strictly increasing, got {values}")
    rules = [rule(value) for value in values]

    def schedule(round: int) -> SelectionRule:
        check_integer("round", round)
        return rules[min(round, len(rules)) - 1]

    return schedule
