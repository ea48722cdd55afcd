"""The example of a user's own rule says what became of every candidate."""

import jax
import jax.numpy as jnp

from rsft_jax.experiments.examples import custom_rule
from rsft_jax.selection import Candidates


def test_custom_rule_runs_and_accounts_for_every_candidate(capsys):
    custom_rule.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "law: EXACT; needs: log_proposal"
    counts = {line[4:]: int(line[:3]) for line in lines[1:6]}
    assert sum(counts.values()) == 4 * 16
    assert counts["not scored"] == 1
    assert 0 < counts["accepted"] <= 4 * 2
    assert counts["rejected by likely(-40)"] > 0
    assert "needs log_proposal" in lines[-1]


def test_likely_accepts_at_the_minimum_and_nothing_unscored():
    candidates = Candidates(
        rewards=jnp.array([[0.0, 0.0, jnp.nan, 0.0]]),
        valid=jnp.ones((1, 4), bool),
        log_proposal=jnp.array([[-40.0, -40.1, -1.0, jnp.nan]]),
    )
    selection = custom_rule.likely(-40).select(jax.random.key(0), candidates)
    assert selection.accepted.tolist() == [[True, False, False, False]]
