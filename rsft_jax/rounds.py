"""The round: collect (propose, score, select), improve (fine-tune), and again.

    prompts -> propose -> score -> select -> improve -> state
       ^      N candidates  [P, N]  accepted   optax      |
       +------------------- one round --------------------+

What each part does is a function that the caller passes: `propose` may be `generation.generate`
with a Transformer, a tabular policy, or somebody else's endpoint. `run_round` is pure when those
functions are, so a round of a small model can be jit-compiled, scanned, and vmapped over seeds and
hyperparameters (`populations.population`); `run_rounds` is the loop on the host, a generator that
leaves logging, checkpoints and stopping to whoever iterates. Both draw the same for the same key.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rsft_jax.generation import Completions
from rsft_jax.numerics.round_keys import collect_keys, round_keys, split_round
from rsft_jax.round_types import (
    Checked,
    CheckFn,
    Collected,
    CollectFn,
    ImproveFn,
    Info,
    Proposed,
    ProposeFn,
    RoundReport,
    Scored,
    ScoreFn,
)
from rsft_jax.selection import Candidates, Selection, SelectionRule
from rsft_jax.types import Array, PRNGKey


class OffPolicyError(RuntimeError):
    """Sampler and trainer disagree about the policy: training on its samples would be wrong."""


def collect(
    key: PRNGKey,
    state: Any,
    prompts: Any,
    *,
    propose: ProposeFn,
    score: ScoreFn,
    rule: SelectionRule,
) -> Collected:
    """Draws candidates, scores and selects them; pure when the functions are.

    Args:
      key: random key, consumed.
      state: the policy, in the form that `propose` reads.
      prompts: P prompts, likewise.
      propose: draws N completions a prompt from the current policy.
      score: `(prompts, completions) -> [P, N]` rewards; NaN for what could not be scored.
      rule: accepts or rejects.

    Returns:
      The candidates and the selection, with what `propose` and `score` said besides.

    Example:
      >>> from rsft_jax.selection import best_of_n
      >>> found = collect(
      ...     jax.random.key(0), 0.0, 2, rule=best_of_n(),
      ...     propose=lambda key, mean, prompts: mean + jax.random.normal(key, (prompts, 8)),
      ...     score=lambda prompts, x: Scored(-jnp.abs(x), {"largest": jnp.abs(x).max()}))
      >>> found.selection.accepted.sum(axis=1).tolist(), list(found.info.score)
      ([1, 1], ['largest'])
    """
    keys = collect_keys(key)
    proposed = propose(keys.propose, state, prompts)
    proposed = proposed if isinstance(proposed, Proposed) else Proposed(proposed, None)
    scored = score(prompts, proposed.completions)
    scored = scored if isinstance(scored, Scored) else Scored(scored, None)
    candidates = as_candidates(proposed.completions, jnp.asarray(scored.rewards))
    if (log_q := proposed.log_proposal) is not None:
        candidates = dataclasses.replace(candidates, log_proposal=jnp.asarray(log_q))
    if (log_p := scored.log_target) is not None:
        candidates = dataclasses.replace(candidates, log_target=jnp.asarray(log_p))
    if (group := scored.group) is not None:
        candidates = dataclasses.replace(candidates, group=jnp.asarray(group))
    if (fingerprint := scored.fingerprint) is not None:
        candidates = dataclasses.replace(candidates, fingerprint=jnp.asarray(fingerprint))
    selection = rule.select(keys.select, candidates)
    return Collected(proposed.completions, candidates, selection, Info(proposed.info, scored.info))


def select_candidates(key: PRNGKey, candidates: Candidates, rule: SelectionRule) -> Selection:
    """What `collect` selects with this key, of candidates that are there already.

    Args:
      key: of collecting, as `round_keys(key, t).collect` of the round that drew them.
      candidates: `[P, N]` rewards and what the rule needs.
      rule: accepts or rejects.

    Example:
      >>> from rsft_jax.selection import threshold
      >>> seen = Candidates(rewards=jnp.array([[0.2, 0.9]]), valid=jnp.ones((1, 2), bool))
      >>> select_candidates(round_keys(jax.random.key(0), 1).collect, seen, threshold(0.5)).accepted
      Array([[False,  True]], dtype=bool)
    """
    return rule.select(collect_keys(key).select, candidates)


class Round(NamedTuple):
    """What one pure round did.

    Attributes:
      state: after it.
      collected: candidates, rewards, selection.
      metrics: what `improve` reported; where nothing was accepted, of an update not made.
    """

    state: Any
    collected: Collected
    metrics: Any


def run_round(
    key: PRNGKey,
    state: Any,
    prompts: Any,
    *,
    propose: ProposeFn,
    score: ScoreFn,
    rule: SelectionRule,
    improve: ImproveFn,
) -> Round:
    """One round as a pure function, for `jit`, `scan` and `vmap`.

    Where nothing is accepted the state stays bit for bit what it was, whatever `improve` returns.

    Args:
      key: random key of the round, consumed; `run_rounds` gives round t `fold_in(key, t)`.
      state: the policy and whatever `improve` keeps; a tree of arrays.
      prompts: P prompts.
      propose: draws candidates from the policy.
      score: rewards, `[P, N]`.
      rule: the selection rule.
      improve: the fine-tuning step.

    Returns:
      A `Round`.

    Example:
      >>> from rsft_jax.selection import best_of_n
      >>> propose = lambda key, mean, prompts: mean + jax.random.normal(key, (64, 8))
      >>> score = lambda prompts, x: -jnp.abs(x - 3.0)
      >>> def improve(key, mean, prompts, x, weights):
      ...     return (x * weights).sum() / weights.sum(), {}
      >>> def mean_after(key, mean):
      ...     return run_round(key, mean, None, propose=propose, score=score, rule=best_of_n(),
      ...                      improve=improve).state
      >>> keys = jax.random.split(jax.random.key(0), 3)
      >>> jax.jit(jax.vmap(mean_after))(keys, jnp.array([0.0, 1.0, 2.0])).round().tolist()
      [1.0, 2.0, 3.0]
    """
    keys = split_round(key)
    collected = collect(keys.collect, state, prompts, propose=propose, score=score, rule=rule)
    weights = collected.weights
    improved, metrics = improve(keys.improve, state, prompts, collected.completions, weights)
    any_accepted = jnp.any(weights > 0)
    state = jax.tree.map(lambda new, old: jnp.where(any_accepted, new, old), improved, state)
    return Round(state, collected, metrics)


def as_candidates(completions: Any, rewards: Array) -> Candidates:
    """Puts `[P, N]` rewards together with what the completions know.

    `Completions` give the log-probability of each candidate under the law it was drawn from,
    `[P, N]` nats; the failed ones are invalid, and the empty ones, which were not drawn (because
    their prompt had enough before). Of anything else only the rewards are known.
    """
    if not isinstance(completions, Completions):
        return Candidates(rewards=rewards, valid=jnp.ones(rewards.shape, bool))
    return Candidates(
        rewards=rewards,
        valid=~completions.failed & (completions.lengths > 0),
        log_proposal=completions.log_probs.sum(axis=-1),
        finished=completions.finished,
    )


def run_rounds(
    key: PRNGKey,
    state: Any,
    *,
    prompts: Callable[[int], Any],
    propose: ProposeFn,
    score: ScoreFn,
    rule: SelectionRule,
    improve: ImproveFn,
    num_rounds: int,
    first_round: int = 1,
    check: CheckFn | None = None,
    max_gap: float = 1e-2,
) -> Iterator[RoundReport]:
    """Runs rounds of rejection sampling fine-tuning, each from the current policy.

    Round t draws all its randomness from `fold_in(key, t)`, so that a run continued at
    `first_round` with the state after the round before is the uninterrupted run. A round in which
    nothing is accepted makes no update and says so in its report; it is not an error.

    Args:
      key: random key of the whole run, consumed.
      state: the policy and whatever `improve` keeps.
      prompts: the prompts of round t.
      propose: draws candidates from the policy.
      score: rewards, `[P, N]`.
      rule: the selection rule.
      improve: the fine-tuning step.
      num_rounds: number of the last round.
      first_round: number of the first, from 1.
      check: `(state, prompts, completions) -> gap`: the largest difference in nats between the
        sampler's log-probability of a token and the trainer's, for some of the candidates; or a
        `Checked`, which says by itself what is allowed.
      max_gap: the run stops when the gap is larger.

    Yields:
      A `RoundReport` after each round.

    Raises:
      OffPolicyError: when `check` finds a gap above the largest allowed, or NaN.

    Example:
      >>> from rsft_jax.selection import best_of_n
      >>> mean = 0.0  # a "policy": a normal law whose mean is moved to the accepted samples
      >>> propose = lambda key, mean, prompts: mean + jax.random.normal(key, (prompts, 8))
      >>> score = lambda prompts, x: -jnp.abs(x - 3.0)
      >>> def improve(key, mean, prompts, x, weights):
      ...     return float((x * weights).sum() / weights.sum()), {}
      >>> reports = list(run_rounds(
      ...     jax.random.key(0), mean, prompts=lambda t: 64, propose=propose, score=score,
      ...     rule=best_of_n(), improve=improve, num_rounds=4))
      >>> abs(reports[-1].state - 3.0) < 0.5
      True

    References:
      Dong et al. 2023, "RAFT", https://arxiv.org/abs/2304.06767, algorithm 1.
      Touvron et al. 2023, "Llama 2", https://arxiv.org/abs/2307.09288, section 3.2.3.
    """

    watch = _Stopwatch()
    return _rounds(
        key,
        state,
        watch,
        prompts=prompts,
        collect=functools.partial(
            collect,
            propose=watch.timed("generate", propose),
            score=watch.timed("score", score),
            rule=rule._replace(select=watch.timed("select", rule.select)),
        ),
        improve=improve,
        numbers=range(first_round, num_rounds + 1),
        check=check,
        max_gap=max_gap,
    )


def run_rounds_with(
    key: PRNGKey,
    state: Any,
    *,
    prompts: Callable[[int], Any],
    collect: CollectFn,
    improve: ImproveFn,
    num_rounds: int,
    first_round: int = 1,
    check: CheckFn | None = None,
    max_gap: float = 1e-2,
) -> Iterator[RoundReport]:
    """`run_rounds` with a way of one's own to collect, where drawing and judging are not apart.

    Such is early stop: what is drawn depends on what was accepted before
    (`rsft_jax.generation.generate_accepted`). The time of `collect` is that of "generate".

    Args:
      collect: draws, scores and selects; for round t it gets `round_keys(key, t).collect`, as
        `rsft_jax.rounds.collect` does.
      key, state, prompts, improve, num_rounds, first_round, check, max_gap: as in `run_rounds`.

    Yields:
      A `RoundReport` after each round.

    Raises:
      OffPolicyError: as in `run_rounds`.

    Example:
      >>> from rsft_jax.generation import SamplingParams, generate_accepted
      >>> from rsft_jax.selection import threshold
      >>> coin = lambda p, tokens, positions, cache: (
      ...     jnp.broadcast_to(jnp.stack([-p, p]), (*tokens.shape, 2)), cache)
      >>> law = SamplingParams(max_new_tokens=4)
      >>> def until_two_accepted(key, p, prompts):
      ...     found = generate_accepted(
      ...         key, coin, p, prompts, num_accepted=2, max_candidates=50, slots=8, sampling=law,
      ...         reward=lambda prompts, tokens: np.array([t.mean() for t in tokens]),
      ...         rule=threshold(0.75))
      ...     rewards = found.rewards
      ...     return Collected(found.completions, as_candidates(found.completions, rewards),
      ...                      found.selection)
      >>> def improve(key, p, prompts, completions, weights):
      ...     ones = (completions.tokens == 1).sum(-1) / completions.lengths
      ...     mean = jnp.where(weights > 0, ones, 0).sum() / (weights > 0).sum()
      ...     return jnp.log(mean / (1.01 - mean)) / 2, {}
      >>> reports = list(run_rounds_with(
      ...     jax.random.key(0), jnp.array(0.0), prompts=lambda t: [[0], [1]],
      ...     collect=until_two_accepted, improve=improve, num_rounds=2))
      >>> [report.num_accepted for report in reports], bool(reports[-1].state > 0.5)
      ([4, 4], True)
    """

    watch = _Stopwatch()
    return _rounds(
        key,
        state,
        watch,
        prompts=prompts,
        collect=watch.timed("generate", collect),
        improve=improve,
        numbers=range(first_round, num_rounds + 1),
        check=check,
        max_gap=max_gap,
    )


def _rounds(
    key: PRNGKey,
    state: Any,
    watch: "_Stopwatch",
    *,
    prompts: Callable[[int], Any],
    collect: CollectFn,
    improve: ImproveFn,
    numbers: range,
    check: CheckFn | None,
    max_gap: float,
) -> Iterator[RoundReport]:
    """The loop; what `collect` does is timed by `watch` already."""
    for number in numbers:
        keys = round_keys(key, number)
        watch.seconds = {}
        batch = prompts(number)
        collected = collect(keys.collect, state, batch)
        checked = None
        if check is not None:
            found = watch.timed("check", check)(state, batch, collected.completions)
            checked = found if isinstance(found, Checked) else Checked(found, max_gap)
            if not checked.gap <= checked.max_gap:
                raise OffPolicyError(
                    f"round {number}: a token's log-probability differs by {checked.gap:.3g} nats "
                    f"between sampler and trainer (allowed: {checked.max_gap:.3g})"
                )
        metrics: Mapping[str, Any] = {}
        if bool(jnp.any(collected.weights > 0)):
            state, metrics = watch.timed("train", improve)(
                keys.improve, state, batch, collected.completions, collected.weights
            )
        yield RoundReport(
            round=number,
            state=state,
            prompts=batch,
            collected=collected,
            metrics=metrics,
            checked=checked,
            seconds=dict(watch.seconds),
        )


class _Stopwatch:
    """Adds up the wall time of the stages, device work included."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timed(self, stage: str, function: Callable) -> Callable:
        def call(*args: Any) -> Any:
            start = time.perf_counter()
            result = jax.block_until_ready(function(*args))
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
            return result

        return call
