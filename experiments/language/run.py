"""Rejection sampling fine-tuning of a language model, with a random control beside it.

Two arms are tuned, from the same policy, on the same prompts and with the same keys: one on what
the rule selects, one on as many samples whatever their rewards. Each round both draw, score,
select and improve (`rsft_jax.rounds`), are evaluated on held-out prompts, and are checkpointed
together.
"""

import dataclasses
import functools
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rsft_jax.data import PromptCursor, take
from rsft_jax.generation import Completions
from rsft_jax.rollouts import RolloutStore, write_rollouts
from rsft_jax.rounds import Collected, RoundReport, run_rounds, run_rounds_with
from rsft_jax.sampling import acceptance_rate, effective_sample_size
from rsft_jax.selection import SelectionRule, first_control, random_control
from rsft_jax.sharding import replicate
from rsft_jax.training import CheckpointError, Checkpoints, TrainState
from rsft_jax.types import PRNGKey

from ..runs.folder import RunFolder
from ..runs.processes import is_first
from ..settings.schema import LanguageConfig
from ..settings.stored import read_config
from ..terminal.console import Console
from ..terminal.errors import ConfigError, ExitCode, shown
from . import make, samples
from .early_stop import (
    EarlyStop,
    Stopped,
    collect_until_accepted,
    make_early_stop,
    tokens_saved,
)
from .kept import KeptDraws, PolicyNames, source_of
from .replay import accepted_before
from .task import Evaluated, PromptBatch, Task, acceptance, make_task

_SAVED = ("step", "params", "opt_state")  # fields of a train state that a checkpoint holds


def run_language(config: LanguageConfig, folder: RunFolder) -> ExitCode:
    """Runs the rounds of all arms, or those that are left."""
    console = Console(None if is_first() else io.StringIO())
    early = make_early_stop(config)
    task = make_task(config, console)
    rule = make.make_rule(config.selection, config.allow_packages)
    control = random_control(rule) if early is None else first_control(rule)
    rules = {"policy": rule} | ({"control": control} if config.control else {})
    states = {arm: task.new_state() for arm in rules}
    with Checkpoints(folder.checkpoints, max_to_keep=config.checkpoint.keep) as checkpoints:
        done, states = restore(checkpoints, folder, task, states)
        if done == 0:
            log_evaluation(task, folder, "policy", 0, task.evaluate(task.initial, "policy", 0))
        code = ExitCode.OK
        draws = RolloutStore(config.store or folder.draws)
        for problem in draws.problems():
            console.say(f"store: {problem}")
        rollouts = RolloutStore(folder.rollouts)
        rounds = rounds_of_arms(task, rules, states, done, draws, rollouts, early)
        for number, made in enumerate(rounds, done + 1):
            states = {arm: round_.report.state for arm, round_ in made.items()}
            events = [
                log_round(task, folder, arm, rules[arm], round_) for arm, round_ in made.items()
            ]
            code = explain_empty(task, made["policy"].report)
            if code:
                break
            for arm, state in states.items():
                evaluated = task.evaluate(state, arm, number)
                log_evaluation(task, folder, arm, number, evaluated)
            save(checkpoints, folder, task, number, states)
            show_round(console, events)
    show_evaluations(console, (e for e in folder.events() if e["event"] == "evaluation"))
    return code


class ArmRound(NamedTuple):
    """What one arm did in one round.

    Attributes:
      report: of the round.
      scores: of its candidates.
      identity: where they come from, as columns of a rollout file.
      drawing: figures of drawing them; None if they were drawn before.
      stopped: what is known where drawing stopped early; None where all was drawn.
    """

    report: RoundReport
    scores: samples.Scores
    identity: Mapping[str, list[Any]]
    drawing: Mapping[str, Any] | None
    stopped: Stopped | None


def rounds_of_arms(
    task: Task,
    rules: Mapping[str, SelectionRule],
    states: Mapping[str, TrainState],
    done: int,
    store: RolloutStore,
    rollouts: RolloutStore,
    early: EarlyStop | None = None,
) -> Iterator[dict[str, ArmRound]]:
    """Yields, round by round, what every arm did; candidates in the store are not drawn again.

    What earlier rounds accepted is read from `rollouts`. With `early` a prompt's candidates are
    drawn until it is enough.
    """
    seen: dict[str, tuple[samples.Scores, Mapping[str, list[Any]]]] = {}
    drawing: dict[str, Mapping[str, Any]] = {}
    stopped: dict[str, Stopped] = {}
    kept = KeptDraws(store, task.tokenizer, task.sampling.max_new_tokens)
    names = PolicyNames(task)
    num = task.config.sampling.num_candidates
    version = make.reward_version(task.config.reward)

    def rounds_of(arm: str) -> Iterator[RoundReport]:
        number = done + 1
        note = ""  # of the round before, shown while the next one is drawn
        identity: Mapping[str, list[Any]] = {}

        def prompts(round_: int) -> PromptBatch:
            nonlocal number
            number = round_
            return round_prompts(task, round_)

        def propose(key: PRNGKey, state: TrainState, batch: PromptBatch) -> Completions:
            nonlocal identity
            drawing.pop(arm, None)
            if task.offered is not None:
                identity = {"place": np.repeat(batch.places, task.offered.num).tolist()}
                return task.offered.completions(batch.places)
            source = source_of(task, names, key, state)
            identity = source.columns(batch, num)
            stage = f"round {number}: draw for {arm}"

            def draw(some: PromptBatch) -> Completions:
                return task.draw(
                    key, state, some, num, stage=stage, note=note,
                    on_end=lambda figures: drawing.update({arm: figures}),
                )  # fmt: skip

            return kept.get(source, batch, num, draw, round_=number, arm=arm)

        def score(batch: PromptBatch, completions: Completions) -> np.ndarray:
            scores = task.score(batch, completions)
            if task.offered is not None:
                scores = task.offered.scores(batch.places, scores)
            columns = {**identity, "reward_version": [version] * scores.reward.size}
            seen[arm] = (scores, columns)
            return scores.reward.astype(np.float32)

        def improve(
            key: PRNGKey, state: TrainState, batch: PromptBatch, completions: Any, weights: Any
        ) -> tuple[TrainState, Mapping[str, Any]]:
            nonlocal note
            note = f"accepted {acceptance(weights):.0%} in round {number}"
            stage = f"round {number}: fine-tune {arm}"
            old = None
            if task.config.training.replay_fraction:
                old = accepted_before(rollouts, task.train.tokens, arm, number)
            return task.improve(key, state, batch, completions, weights, stage=stage, old=old)

        def collect(key: PRNGKey, state: TrainState, batch: PromptBatch) -> Collected:
            nonlocal identity
            assert early is not None
            drawing.pop(arm, None)
            draw_key, _ = jax.random.split(key)  # as `rsft_jax.rounds.collect` does
            source = source_of(task, names, draw_key, state)
            identity = source.columns(batch, num)

            def on_end(completions: Completions, figures: Mapping[str, Any]) -> None:
                saved = tokens_saved(completions, figures["tokens"])
                drawing[arm] = {**figures, "tokens_saved": saved}

            found = collect_until_accepted(
                key,
                batch,
                task=task,
                early=early,
                rule=rules[arm],
                draw=lambda some, rule, rewards: task.draw_accepted(
                    key, state, some, num, rule=rule, rewards=rewards, wanted=early.wanted,
                    stage=f"round {number}: draw for {arm}", note=note, on_end=on_end,
                ),
                keep=functools.partial(
                    kept.get_longest, source, batch, num, round_=number, arm=arm
                ),
            )  # fmt: skip
            columns = {**identity, "reward_version": [version] * found.scores.reward.size}
            seen[arm], stopped[arm] = (found.scores, columns), found
            return found.collected

        shared = {
            "prompts": prompts,
            "improve": improve,
            "num_rounds": task.config.rounds.num_rounds,
            "first_round": done + 1,
            "check": task.gap if task.offered is None else None,  # else they are not the policy's
        }
        key, state = task.keys["rounds"], states[arm]
        if early is not None:
            return run_rounds_with(key, state, collect=collect, **shared)
        return run_rounds(key, state, propose=propose, score=score, rule=rules[arm], **shared)

    generators = {arm: rounds_of(arm) for arm in rules}
    for _ in range(done, task.config.rounds.num_rounds):
        reports = {arm: next(generator) for arm, generator in generators.items()}
        yield {
            arm: ArmRound(report, *seen[arm], drawing.get(arm), stopped.get(arm))
            for arm, report in reports.items()
        }


def round_prompts(task: Task, round_: int) -> PromptBatch:
    """The prompts of a round: the next ones of a shuffled, endless pass over the training set."""
    size, num = len(task.train.prompts), task.config.rounds.prompts_per_round
    places, _ = take(round_cursor(task, round_), num, size=size, seed=task.config.seed)
    return task.train.take(places)


def round_cursor(task: Task, round_: int) -> PromptCursor:
    """Where a round begins in the pass over the training set."""
    before = (round_ - 1) * task.config.rounds.prompts_per_round
    return PromptCursor(*divmod(before, len(task.train.prompts)))


def log_round(
    task: Task,
    folder: RunFolder,
    arm: str,
    rule: SelectionRule,
    made: ArmRound,
) -> dict[str, Any]:
    """Writes every candidate with its verdict, and the round's figures; returns the latter."""
    report, scores = made.report, made.scores
    collected, batch = report.collected, report.prompts
    rows = samples.rollout_rows(
        round_=report.round,
        arm=arm,
        prompts=batch.prompts,
        rendered=batch.rendered,
        completions=collected.completions,
        scores=scores,
        selection=collected.selection,
        rule=rule,
        identity=made.identity,
    )
    if is_first():
        name = folder.rollout_path(report.round, arm).stem
        RolloutStore(folder.rollouts).append(rows, name=name)
    accepted = np.asarray(collected.selection.accepted)
    scored = np.isfinite(scores.reward)
    drawn = samples.is_drawn(collected.completions)
    # What was not drawn had no place left in the budget: it counts as what was not accepted.
    rate = acceptance_rate(int(accepted.sum()), accepted.size - int((drawn & ~scored).sum()))
    fair = slice(None) if made.stopped is None else slice(made.stopped.always)
    weights = np.asarray(collected.weights)[accepted]
    event = {
        "event": "round",
        "arm": arm,
        "round": report.round,
        "num_prompts": len(batch.prompts),
        "num_candidates": int(drawn.sum()),
        "num_scored": int(scored.sum()),
        "num_accepted": int(accepted.sum()),
        "num_prompts_without": int((~accepted.any(axis=1)).sum()),
        "acceptance_rate": float(rate.estimate),
        "acceptance_low": float(rate.low),
        "acceptance_high": float(rate.high),
        **_rule_rate(task, made.stopped),
        "reward_proposed": _mean(scores.reward[:, fair].ravel()),
        "reward_accepted": _mean(scores.reward[accepted]),
        "judge_proposed": _mean(scores.judge[:, fair].ravel()),
        "judge_accepted": _mean(scores.judge[accepted]),
        "ess": float(effective_sample_size(np.log(weights))) if weights.size else 0.0,
        "generated_tokens": int(np.asarray(collected.completions.lengths).sum()),
        "generation": made.drawing,
        "trained_tokens": 0,
        "on_policy_gap": report.gap,
        **report.metrics,
        "seconds": report.seconds,
    }
    folder.log(event)
    return event


def _rule_rate(task: Task, stopped: Stopped | None) -> dict[str, float]:
    """The rate of the rule without its budget, with its interval over prompts."""
    if stopped is None:
        return {}
    settings = task.config.evaluation
    rates = stopped.rates[:, None]
    found = samples.mean_interval(rates, settings.confidence, settings.bootstrap_samples)
    return {"rule_rate": found.mean, "rule_rate_low": found.low, "rule_rate_high": found.high}


def log_evaluation(
    task: Task, folder: RunFolder, arm: str, round_: int, evaluated: Evaluated
) -> None:
    """Writes the held-out samples and their figures."""
    if not is_first():
        return
    rows = samples.rollout_rows(
        round_=round_,
        arm=arm,
        prompts=evaluated.batch.prompts,
        rendered=evaluated.batch.rendered,
        completions=evaluated.completions,
        scores=evaluated.scores,
    )
    write_rollouts(folder.evaluation_path(round_, arm), rows)
    folder.log(evaluation_event(task, arm, round_, evaluated))


def evaluation_event(task: Task, arm: str, round_: int, evaluated: Evaluated) -> dict[str, Any]:
    """The figures of held-out samples."""
    scores, completions = evaluated.scores, evaluated.completions
    settings = task.config.evaluation
    bootstrap = (settings.confidence, settings.bootstrap_samples)
    return {
        "event": "evaluation",
        "arm": arm,
        "round": round_,
        "num_samples": int(scores.reward.size),
        **samples.interval_figures("reward", samples.mean_interval(scores.reward, *bootstrap)),
        **samples.interval_figures("judge", samples.mean_interval(scores.judge, *bootstrap)),
        **samples.text_figures(scores, completions),
        **samples.interval_figures("kl", evaluated.kl),
        "generated_tokens": int(np.asarray(completions.lengths).sum()),
        "seconds": evaluated.seconds,
    }


def _mean(values: np.ndarray) -> float | None:
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else None


def save(
    checkpoints: Checkpoints,
    folder: RunFolder,
    task: Task,
    round_: int,
    states: Mapping[str, TrainState],
) -> None:
    """Writes what a resumed run needs; only then does the round count as done."""
    arrays = _saved_items(task, states)
    cursor = round_cursor(task, round_ + 1)._asdict()
    checkpoints.save(round_, arrays, {"round": round_, "arms": list(states), "cursor": cursor})
    folder.update(rounds_done=round_)


def restore(
    checkpoints: Checkpoints, folder: RunFolder, task: Task, states: Mapping[str, TrainState]
) -> tuple[int, dict[str, TrainState]]:
    """The number of the last complete round and the states after it; (0, states) at the start."""
    if not folder.resumed:
        return 0, dict(states)
    done, states = load_states(checkpoints, task, states)
    folder.rewind(done if done else -1)
    return done, states


def load_states(
    checkpoints: Checkpoints, task: Task, states: Mapping[str, TrainState]
) -> tuple[int, dict[str, TrainState]]:
    """The last checkpoint's round and states; (0, states) where there is none.

    Raises:
      CheckpointError: also when the checkpoint's keys or place among the prompts are not those
        that this run would go on with.
    """
    found = checkpoints.restore(_saved_items(task, states))
    if found is None:
        return 0, dict(states)
    done = found.meta["round"]
    expected = round_cursor(task, done + 1)._asdict()
    if found.meta["cursor"] != expected:
        raise CheckpointError(
            f"the checkpoint goes on at prompt {found.meta['cursor']}, this run at {expected}"
        )
    for name, key in task.keys.items():
        saved = jax.random.key_data(found.arrays["keys"][name])
        if not np.array_equal(np.asarray(saved), np.asarray(jax.random.key_data(key))):
            raise CheckpointError(f"the checkpoint's key {name!r} is that of another seed")
    return done, {
        arm: state.replace(**{name: found.arrays[f"{arm}-{name}"] for name in _SAVED})
        for arm, state in states.items()
    }


def _saved_items(task: Task, states: Mapping[str, TrainState]) -> dict[str, Any]:
    """What a checkpoint holds of a run: every arm's train state, and the keys."""
    items: dict[str, Any] = {
        f"{arm}-{name}": getattr(state, name) for arm, state in states.items() for name in _SAVED
    }
    keys = dict(task.keys)
    if task.shardings is not None:  # of several processes each holds a part of what is saved
        keys = replicate(task.shardings.replicated, keys)
    return items | {"keys": keys}


def explain_empty(task: Task, report: RoundReport) -> ExitCode:
    """Says, prompt by prompt, why a round accepted nothing; such a run cannot go on."""
    if report.num_accepted:
        return ExitCode.OK
    rewards = np.asarray(report.collected.candidates.rewards)
    probs = np.asarray(report.collected.selection.accept_prob)
    rows = []
    for prompt, row, prob in zip(report.prompts.prompts, rewards, probs):
        scored = row[np.isfinite(row)]
        best = float(scored.max()) if scored.size else None
        rows.append((prompt.id, f"{scored.size}/{row.size}", best, float(prob.max())))
    title = f"round {report.round}: nothing was accepted, and nothing trained"
    task.console.table(title, ("prompt", "scored", "best reward", "largest accept prob"), rows)
    return ExitCode.NO_DATA


def show_round(console: Console, events: list[dict[str, Any]]) -> None:
    """Prints the figures of a round, a line for each arm."""
    for event in events:
        gap = ""
        if event["on_policy_gap"] is not None:
            gap = (
                f"; sampler and trainer differ by at most {event['on_policy_gap']:.1e} nats a token"
            )
        console.say(
            f"round {event['round']}, {event['arm']}: accepted {event['num_accepted']} of "
            f"{event['num_scored']}, reward {event['reward_proposed']:.3f} proposed, "
            f"{event['reward_accepted']:.3f} accepted" + gap
        )


def show_evaluations(console: Console, events: Iterable[Mapping[str, Any]]) -> None:
    """Prints the held-out figures of evaluations, a row each."""
    rows = [
        (
            event["round"],
            event["arm"],
            _with_interval(event, "reward"),
            _with_interval(event, "judge"),
            event["kl_mean"],
            event["distinct_2"],
            event["self_bleu"],
            event["length_mean"],
        )
        for event in events
    ]
    columns = ("round", "arm", "reward", "judge", "KL, nats", "distinct-2", "self-BLEU", "tokens")
    console.table("held-out prompts, with 95 % intervals over prompts", columns, rows)


def _with_interval(event: Mapping[str, Any], name: str) -> str:
    mean, low, high = (event[f"{name}_{end}"] for end in ("mean", "low", "high"))
    if mean is None:
        return "-"
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]" if low is not None else f"{mean:.3f}"


def arms_of(config: LanguageConfig) -> tuple[str, ...]:
    """The names of the arms that a run tunes."""
    return ("policy", "control") if config.control else ("policy",)


def open_run(
    path: Path, console: Console, allow_packages: Sequence[str] = ()
) -> tuple[Task, int, dict[str, TrainState]]:
    """What a run shares, the last round that it has saved (0 for none), and its states then.

    Args:
      path: the folder of the run.
      console: where progress is shown.
      allow_packages: see `RunConfig`.

    Raises:
      ConfigError: the run is of another kind than language.
    """
    folder = RunFolder(path=path, resumed=True)
    config = dataclasses.replace(
        read_config(folder.config_path), allow_packages=tuple(allow_packages)
    )
    if not isinstance(config, LanguageConfig):
        raise ConfigError(f"{shown(str(path))}: only runs of kind language have a policy")
    task = make_task(config, console)
    with Checkpoints(folder.checkpoints) as checkpoints:
        fresh = {arm: task.new_state() for arm in arms_of(config)}
        done, states = load_states(checkpoints, task, fresh)
    return task, done, states


def evaluate_folder(path: Path, allow_packages: Sequence[str] = ()) -> ExitCode:
    """Draws from the last checkpoint of a run on its held-out prompts, and prints the figures."""
    console = Console()
    task, done, states = open_run(path, console, allow_packages)
    events = [
        evaluation_event(task, arm, done, task.evaluate(state, arm, done))
        for arm, state in states.items()
    ]
    show_evaluations(console, events)
    return ExitCode.OK
