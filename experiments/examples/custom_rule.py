"""A selection rule of one's own, put in front of the library's by `chain`.

    python -m rsft_jax.experiments.examples.custom_rule

The rule: a completion that the policy itself found most unlikely is a ramble or an accident of the
tail, whatever its reward says. It conditions the proposal on log q >= minimum, so its law is exact,
and so is that of the chain: q(y) 1[log q(y) >= minimum] exp(r(y) / beta), up to a constant.
"""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax.selection import (
    Candidates,
    Decision,
    Law,
    SelectionRule,
    at_most,
    chain,
    make_rule,
    stage_names,
    statistical_rejection,
)
from rsft_jax.types import Array, PRNGKey


def likely(minimum: float) -> SelectionRule:
    """Accepts candidates that the proposal gave at least `minimum` nats of log-probability.

    Law (EXACT): q given the event log q(y) >= minimum.
    """

    def decide(key: PRNGKey, candidates: Candidates, scored: Array) -> Decision:
        assert candidates.log_proposal is not None  # `needs` says so
        return Decision(candidates.log_proposal >= minimum)

    return make_rule(f"likely({minimum:g})", decide, law=Law.EXACT, needs={"log_proposal"})


def main() -> None:
    """Selects among made-up candidates and says what became of them."""
    rule = chain(likely(-40), statistical_rejection(beta=0.3, max_reward=1.0), at_most(2))
    print(f"law: {rule.law.name}; needs: {', '.join(rule.needs)}")

    reward_key, length_key, select_key = jax.random.split(jax.random.key(0), 3)
    shape = (4, 16)  # 4 prompts, 16 candidates of each
    rewards = jax.random.uniform(reward_key, shape)
    log_proposal = -jax.random.uniform(length_key, shape, minval=20.0, maxval=50.0)
    candidates = Candidates(
        rewards=rewards.at[0, 0].set(jnp.nan),  # could not be scored
        valid=jnp.ones(shape, bool),
        log_proposal=log_proposal,
    )
    selection = rule.select(select_key, candidates)

    fates = {-1: "accepted", -2: "not scored"} | {
        stage: f"rejected by {name}" for stage, name in enumerate(stage_names(rule))
    }
    counts = Counter(np.asarray(selection.rejected_by).ravel().tolist())
    for stage, fate in fates.items():
        print(f"{counts[stage]:3d} {fate}")
    accepted = np.asarray(selection.accepted)
    print(f"mean reward {np.nanmean(candidates.rewards):.2f} proposed, ", end="")
    print(f"{np.asarray(rewards)[accepted].mean():.2f} accepted")

    try:
        rule.select(select_key, Candidates(rewards=rewards, valid=candidates.valid))
    except ValueError as error:
        print(f"without log-probabilities: {error}")


if __name__ == "__main__":
    main()
