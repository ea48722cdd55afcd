"""Every rule of the library is a choice: the settings make the rule that the library makes."""

import dataclasses
import shlex

import jax
import numpy as np
import pytest
import yaml

from rsft_jax import selection as rules
from rsft_jax.experiments.commands.rules import row_of
from rsft_jax.experiments.language import rule as of_rounds
from rsft_jax.experiments.language.candidates import read_candidates
from rsft_jax.experiments.language.explain import draw_again
from rsft_jax.experiments.language.reselect import reselect
from rsft_jax.experiments.report.runs.expected import predicted_rate
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.settings.groups import group_options
from rsft_jax.experiments.settings.nested_rules import _SHIPPED
from rsft_jax.experiments.settings.rules import SelectionConfig
from rsft_jax.experiments.terminal.errors import ConfigError
from rsft_jax.rollouts import from_rows, read_rollouts
from rsft_jax.selection import Candidates
from tests.experiments.stored_run import write_stored_run

KEY = jax.random.key(3)
RNG = np.random.default_rng(0)
SHAPE = (5, 8)
CANDIDATES = Candidates(
    rewards=np.where(RNG.random(SHAPE) < 0.1, np.nan, RNG.normal(0, 1, SHAPE)).astype(np.float32),
    valid=RNG.random(SHAPE) < 0.9,
    log_proposal=RNG.normal(-3, 1, SHAPE).astype(np.float32),
    fingerprint=RNG.integers(0, 4, SHAPE).astype(np.uint32),
    finished=RNG.random(SHAPE) < 0.7,
    group=np.array([0, 1, 0, 1, 1]),
)


def selection(*overrides):
    return load_config(["experiment=smoke", "sampling.num_candidates=8", *overrides]).selection


# As one would write them in Python, beside what one types.
CHOICES = {
    "at_most selection.k=3": lambda: rules.at_most(3),
    "best_of_n": lambda: rules.best_of_n(),
    "top_k selection.k=3": lambda: rules.top_k(3),
    "random_control selection.k=3": lambda: rules.random_control(rules.top_k(3)),
    "finished": lambda: rules.finished(),
    "threshold selection.minimum=0.1": lambda: rules.threshold(0.1),
    "correct selection.minimum=0.2 selection.contrast=false selection.budget=null": lambda: (
        rules.correct(0.2)
    ),
    "statistical_rejection selection.beta=0.5 selection.max_reward=2 selection.budget=1": lambda: (
        rules.chain(rules.statistical_rejection(0.5, max_reward=2.0), rules.at_most(1))
    ),
    "group_filter": lambda: rules.group_filter(),
    "group_filter selection.minimum=0 selection.maximum=0.4 selection.budget=2": lambda: (
        rules.chain(rules.group_filter(0, 0.4), rules.at_most(2))
    ),
    "unique": lambda: rules.unique(),
    "importance_resample selection.num=3 selection.beta=0.5": lambda: rules.importance_resample(
        3, 0.5
    ),
    "importance_resample selection.num=9 selection.beta=0.5 selection.replace=true": lambda: (
        rules.importance_resample(9, 0.5, replace=True)
    ),
    "rso_finite selection.beta=0.5 selection.num=3": lambda: rules.rso_finite(0.5, 3),
    "quantile selection.level=0.6": lambda: rules.quantile(0.6),
    "quantile selection.level=0.6 selection.scope=batch": lambda: rules.quantile(0.6, "batch"),
    "top_fraction selection.fraction=0.3": lambda: rules.top_fraction(0.3),
    "top_fraction selection.fraction=0.3 selection.scope=batch": lambda: rules.top_fraction(
        0.3, "batch"
    ),
    # q exp(r / 0.5) over exp(1) q is exp((r - 0.5) / 0.5): a bound of the reward in other words.
    "density_ratio selection.beta=0.5 selection.rate=null selection.log_envelope=1 "
    "selection.budget=null": lambda: rules.statistical_rejection(0.5, max_reward=0.5),
    "density_ratio selection.target=reward selection.beta=null selection.rate=0.3 "
    "selection.scope=batch selection.budget=null": lambda: _with_log_p(
        rules.density_ratio(rate=0.3, scope="batch")
    ),
    "balanced selection.by=group 'selection.inner={rule: threshold, minimum: 0.1, budget: 2}' "
    "selection.max_gap=0.1": lambda: rules.balanced(
        rules.chain(rules.threshold(0.1), rules.at_most(2)), 0.1
    ),
    "chain 'selection.stages=[finished,unique,{rule: quantile, level: 0.3, budget: 2}]'": lambda: (
        rules.chain(
            rules.finished(), rules.unique(), rules.chain(rules.quantile(0.3), rules.at_most(2))
        )
    ),
    "rising_threshold selection.minimums=[-0.5,0.5]": lambda: rules.threshold(-0.5),
}


def _with_log_p(rule):
    def select(key, candidates):
        return rule.select(key, dataclasses.replace(candidates, log_target=candidates.rewards))

    return rule._replace(select=select, needs=frozenset({"log_proposal"}))


@pytest.mark.parametrize("typed", CHOICES)
def test_a_choice_is_the_rule_of_the_library(typed):
    found = selection(*shlex.split(f"selection={typed}")).whole()
    wanted = CHOICES[typed]()
    ours, theirs = (rule.select(KEY, CANDIDATES) for rule in (found, wanted))
    np.testing.assert_array_equal(ours.accepted, theirs.accepted)
    np.testing.assert_allclose(ours.log_weight, theirs.log_weight, rtol=1e-5)
    np.testing.assert_allclose(ours.accept_prob, theirs.accept_prob, rtol=1e-5)
    assert (found.law, found.needs, found.places) == (wanted.law, wanted.needs, wanted.places)
    assert 0 < np.asarray(ours.accepted).sum() < np.isfinite(CANDIDATES.rewards).sum()


def test_every_rule_is_tried_here_and_has_a_file_of_its_name():
    names = set(SelectionConfig.variants())
    assert {typed.split()[0] for typed in CHOICES} == names - {"own"}
    for name in names:
        values = yaml.safe_load((_SHIPPED / "selection" / f"{name}.yaml").read_text("utf-8"))
        assert values["rule"] == name
    assert names <= set(group_options()["selection"])


STRENGTHS = {
    "at_most": ["exact"], "balanced": ["exact"], "best_of_n": ["exact"],
    "chain": ["heuristic", "exact"], "correct": ["exact", "heuristic"],
    "density_ratio": ["exact", "consistent", "consistent"], "finished": ["exact"],
    "group_filter": ["heuristic", "heuristic"], "importance_resample": ["consistent"],
    "own": ["unknown"], "quantile": ["consistent", "heuristic"], "random_control": ["consistent"],
    "rising_threshold": ["exact", "consistent"], "rso_finite": ["heuristic"],
    "statistical_rejection": ["exact", "consistent"], "threshold": ["exact"],
    "top_fraction": ["consistent", "heuristic"], "top_k": ["exact"], "unique": ["heuristic"],
}  # fmt: skip


def test_rsft_rules_says_of_each_how_sure_its_law_is():
    rows = {name: row_of(name, kind) for name, kind in SelectionConfig.variants().items()}
    assert {n: [e.strength for e in row.examples] for n, row in rows.items()} == STRENGTHS
    assert rows["unique"].examples[0].needs == ("rewards", "fingerprint")
    for row in rows.values():
        assert all((row.accepts, row.law, row.cost, row.source))
        assert not row.accepts.endswith(".")


@pytest.mark.parametrize(
    ("typed", "part"),
    [
        ("at_most selection.k=9", "selection.k: 9; must be from 1 to sampling.num_candidates = 8"),
        ("group_filter selection.minimum=1 selection.maximum=0", "selection.maximum: 0.0; must be"),
        ("group_filter selection.minimum=nan", "selection.minimum: nan; must be finite, or null"),
        ("importance_resample selection.num=9", "selection.num: 9; must be from 1 to"),
        ("importance_resample selection.num=0 selection.replace=true", "selection.num: 0; must"),
        ("rso_finite selection.num=0", "selection.num: 0; must be from 1 to"),
        ("rso_finite selection.beta=0", "selection.beta: 0.0; must be above 0"),
        ("quantile selection.level=1.1", "selection.level: 1.1; must be from 0 to 1"),
        ("quantile selection.scope=all", "selection.scope: 'all' is not one of prompt, batch"),
        ("top_fraction selection.fraction=0", "selection.fraction: 0.0; must be above 0"),
        ("density_ratio selection.log_envelope=1", "selection.rate: 0.25; exactly one of it and"),
        ("density_ratio selection.rate=1", "selection.rate: 1.0; must be between 0 and 1"),
        ("density_ratio selection.target=reward", "selection.beta: 0.1; must be null with"),
        ("density_ratio selection.beta=null", "selection.beta: null; must be above 0"),
        ("rising_threshold", "selection.minimums: missing"),
        ("rising_threshold selection.minimums=[]", "selection.minimums: []; must be one or more"),
        ("rising_threshold selection.minimums=[1,1]", "strictly increasing"),
        (
            "rising_threshold selection.of=quantile selection.minimums=[0.5,2]",
            "selection.minimums[1]: 2.0; must be from 0 to 1",
        ),
        ("chain selection.stages=[]", "selection.stages: []; must be one rule or more"),
        ("chain selection.stages=[best]", "selection.stages[0]: 'best' is not one of at_most"),
        (
            "chain 'selection.stages=[finished,{rule: top_k, k: 9}]'",
            "selection.stages[1].k: 9; must be from 1 to",
        ),
        (
            "chain 'selection.stages=[{rule: chain, stages: [{rule: top_k, k: 0}]}]'",
            "selection.stages[0].stages[0].k: 0; must be",
        ),
        (
            "chain 'selection.stages=[{rule: own, function: mylab.rules.middle}]'",
            "selection.stages[0].function",
        ),
        (
            "chain 'selection.stages=[{rule: balanced, by: a, inner: best_of_n},"
            "{rule: balanced, by: b, inner: best_of_n}]'",
            "selection.stages: groups by 'a' and 'b'",
        ),
        ("balanced selection.by=a 'selection.inner={rule: top_k, k: 9}'", "selection.inner.k: 9"),
    ],
)
def test_what_cannot_be_is_one_line_with_field_and_range(typed, part):
    with pytest.raises(ConfigError) as caught:
        selection(*shlex.split(f"selection={typed}"))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_rule_that_needs_what_no_run_knows_is_refused_before_anything_is_loaded(monkeypatch):
    config = load_config(["experiment=smoke", "selection=chain", "selection.stages=[finished]"])
    of_rounds.check_rule(config)
    unknown = rules.density_ratio(rate=0.5)
    monkeypatch.setattr(of_rounds, "make_rules", lambda *_: lambda number: unknown)
    with pytest.raises(ConfigError, match="needs log_target of the candidates, and a run knows"):
        of_rounds.check_rule(config)


def test_the_bar_rises_from_round_to_round(tmp_path):
    bars = selection("selection=rising_threshold", "selection.minimums=[0.0,0.4]")
    of = of_rounds.make_rules(bars)
    assert of(1) is not of(2)
    assert of(2) is of(9)
    control = of_rounds.controls(of, rules.random_control)
    assert control(2) is control(3)
    folder = write_stored_run(tmp_path / "run")
    records = [r for r in read_candidates(folder)[0] if r.arm == "policy"]
    again = reselect(records, of, seed=0)
    by_hand = sum(
        int((record.reward >= bar).sum()) for record, bar in zip(records, (0.0, 0.4), strict=True)
    )
    assert again.num_accepted == by_hand
    assert again.rule == "threshold(0), then threshold(0.4)"
    assert (again.law, len(records)) == ("EXACT", 2)


def test_the_coin_of_a_stage_is_shown_of_those_that_reached_it(tmp_path):
    chosen = [
        "sampling.num_candidates=8",
        "selection=chain",
        "selection.stages=[finished,{rule: statistical_rejection, beta: 0.3, budget: 2}]",
    ]
    folder = write_stored_run(tmp_path / "run", *chosen)
    config = load_config(["experiment=smoke", *chosen])
    rows = read_rollouts(folder / "rollouts" / "round-001-policy.parquet")
    (record,) = from_rows(rows, with_verdict=True)
    draws = draw_again(record, config)
    assert draws.by == "statistical_rejection(beta=0.3)"
    reached = record.finished & np.isfinite(record.reward)
    np.testing.assert_array_equal(np.isfinite(draws.coin), reached)
    best = np.where(reached, record.reward, -np.inf).max(axis=1, keepdims=True)
    below = np.exp((record.reward - best) / 0.3)
    np.testing.assert_allclose(draws.below[reached], below[reached], rtol=1e-5)
    # The budget takes the first two of those whose coin fell.
    passed = reached & (draws.coin < draws.below)
    np.testing.assert_array_equal(record.verdict.accepted, passed & (passed.cumsum(axis=1) <= 2))


def test_what_tosses_no_coin_of_its_own_has_no_expected_acceptance():
    rewards = RNG.normal(0, 1, (6, 8)).astype(np.float32)
    rising = {"rule": "rising_threshold", "minimums": [0.0, 9.0], "of": "reward", "budget": None}
    assert predicted_rate(rewards, rising) == (rewards >= 0).mean()
    quantile = {"rule": "quantile", "level": 0.75, "scope": "prompt", "budget": None}
    assert predicted_rate(rewards, quantile) == 0.25
    ratio = {"rule": "density_ratio", "target": "tilted", "beta": 0.5, "log_envelope": None,
             "rate": 0.25, "scope": "batch", "budget": None}  # fmt: skip
    assert predicted_rate(rewards, ratio) == pytest.approx(0.25, abs=1e-4)
    for selection in (
        {"rule": "rso_finite", "beta": 0.5, "num": 2},
        {"rule": "importance_resample", "num": 2, "beta": 0.5, "replace": False},
        {"rule": "unique", "budget": None},
        {"rule": "chain", "stages": [{"rule": "best_of_n"}]},
    ):
        assert np.isnan(predicted_rate(rewards, selection))
