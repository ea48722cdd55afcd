"""Selecting, and scoring, again what was drawn before: no model is loaded, nothing is generated."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax import rounds
from rsft_jax.generation import Completions
from rsft_jax.metrics import distinct_n, self_bleu
from rsft_jax.rollouts import RolloutStore, read_rollouts
from rsft_jax.sampling import acceptance_rate, effective_sample_size
from rsft_jax.selection import Selection, SelectionRule, random_control, stage_names

from ..settings import ranges, schema
from ..settings.compose import (
    allowed_packages,
    compose,
    expand_sweep,
    parse_overrides,
    read_config,
)
from ..settings.typed import build as typed
from ..settings.typed import to_dict
from ..terminal.console import Console
from ..terminal.errors import ConfigError, ExitCode, shown
from ..terminal.files import to_csv, write_whole
from ..terminal.parser import Parser
from . import make
from .candidates import ENDED_EARLY, Group, read_candidates

_EXAMPLES = """\
examples:
  rsft reselect FOLDER selection=top_k selection.k=2
  rsft reselect FOLDER selection=statistical_rejection selection.beta=0.03,0.1,0.3,1
  rsft reselect FILE.jsonl selection=threshold selection.minimum=0.5 --csv TABLE.csv"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reselected:
    """What a rule accepts of stored candidates, with a matched random control beside it.

    Attributes:
      rule: its stages.
      law: how sure its law is.
      num_scored: candidates with a reward.
      num_accepted: of these.
      rate: acceptance rate with its 95 % interval, (estimate, low, high).
      reward: mean reward of what was accepted; NaN when nothing was.
      control_reward: the same of as many candidates picked by coin.
      ess: effective sample size of the weights.
      max_log_weight: the largest log-weight of an accepted candidate, nats.
      distinct_2: share of distinct word pairs in what was accepted.
      control_distinct_2: the same of the control.
      self_bleu: similarity of accepted completions.
      prompts_without: prompts of which nothing was accepted.
    """

    rule: str
    law: str
    num_scored: int
    num_accepted: int
    rate: tuple[float, float, float]
    reward: float
    control_reward: float
    ess: float
    max_log_weight: float
    distinct_2: float
    control_distinct_2: float
    self_bleu: float
    prompts_without: int


def select_again(group: Group, rule: SelectionRule, seed: int) -> Selection:
    """Applies a rule to candidates with the randomness of the run that has this seed.

    The run of the same settings and seed would accept exactly these.
    """
    rewards = group.rewards.astype(np.float32)
    log_probs = jnp.asarray(np.nan_to_num(group.log_probs), jnp.float32)[..., None]
    completions = Completions(
        tokens=jnp.zeros(log_probs.shape, jnp.int32),
        lengths=jnp.ones(rewards.shape, jnp.int32),
        log_probs=log_probs,
        finished=jnp.asarray(group.valid),
        failed=jnp.asarray(~group.valid),
    )
    round_key = jax.random.fold_in(make.run_keys(seed)["rounds"], group.round)
    collect_key, _ = jax.random.split(round_key)  # as in `run_rounds`
    return rounds.collect(
        collect_key,
        None,
        None,
        propose=lambda *_: completions,
        score=lambda *_: rewards,
        rule=rule,
    ).selection


def reselect(groups: Sequence[Group], rule: SelectionRule, seed: int) -> Reselected:
    """Applies a rule, and its random control, to all groups together."""
    chosen = [select_again(group, rule, seed) for group in groups]
    by_coin = [select_again(group, random_control(rule), seed) for group in groups]
    accepted = [np.asarray(s.accepted) for s in chosen]
    control = [np.asarray(s.accepted) for s in by_coin]
    log_weights = np.concatenate(  # of all: of one shape for every rule, so compiled once
        [np.where(a, np.asarray(s.log_weight), -np.inf).ravel() for s, a in zip(chosen, accepted)]
    )
    num_scored = sum(int((np.isfinite(g.rewards) & g.valid).sum()) for g in groups)
    num_accepted = sum(int(a.sum()) for a in accepted)
    rate = acceptance_rate(num_accepted, num_scored)
    texts, control_texts = _texts(groups, accepted), _texts(groups, control)
    return Reselected(
        rule=" > ".join(stage_names(rule)),
        law=rule.law.name,
        num_scored=num_scored,
        num_accepted=num_accepted,
        rate=(float(rate.estimate), float(rate.low), float(rate.high)),
        reward=_mean(groups, accepted),
        control_reward=_mean(groups, control),
        ess=float(effective_sample_size(log_weights)) if num_accepted else 0.0,
        max_log_weight=float(log_weights.max()) if num_accepted else math.nan,
        distinct_2=distinct_n(texts, 2) if texts else math.nan,
        control_distinct_2=distinct_n(control_texts, 2) if control_texts else math.nan,
        self_bleu=self_bleu(texts) if len(texts) > 1 else math.nan,
        prompts_without=sum(int((~a.any(axis=1)).sum()) for a in accepted),
    )


def command(arguments: list[str]) -> int:
    """`rsft reselect`: a row for each rule and setting."""
    parser = Parser(
        prog="rsft reselect",
        description="apply selection rules to stored candidates; no model is loaded",
        epilog=_EXAMPLES,
    )
    parser.add_argument("folder", type=Path, help="a run, a store, or a JSON Lines file")
    parser.add_argument("overrides", nargs="*", metavar="selection=...", help="rules, settings")
    parser.add_config_dir()
    parser.add_argument("--arm", default="policy", help="whose candidates (default: policy)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there, too")
    parsed = parser.parse_intermixed_args(arguments)
    run = _run_config(parsed.folder)
    overrides, allowed = _split_allowed(parsed.overrides)
    settings = _settings(overrides, parsed.config_dir, run)
    if parsed.csv and not parsed.csv.absolute().parent.is_dir():
        raise ConfigError(f"--csv: {shown(str(parsed.csv))}; its folder is not there")
    groups, problems = read_candidates(parsed.folder, field="reselect")
    arms = {group.arm for group in groups}
    if parsed.arm not in arms:
        raise ConfigError(f"--arm: {shown(parsed.arm)} is not one of {', '.join(sorted(arms))}")
    groups = [group for group in groups if group.arm == parsed.arm]
    console = Console()
    for problem in problems:
        console.say(f"left out: {problem}")
    if run is not None and run.sampling.early_stop:
        console.say(ENDED_EARLY)
    most = max(group.valid.shape[1] for group in groups)
    rows = []
    for selection, seed in settings:
        ranges.validate_selection(selection, most)
        rows.append(reselect(groups, make.make_rule(selection, allowed), seed))
    rounds_ = ", ".join(str(group.round) for group in groups)
    console.table(f"{parsed.folder}: {parsed.arm}, round {rounds_}", _COLUMNS, map(_row, rows))
    if parsed.csv:
        _write_csv(parsed.csv, rows)
    return ExitCode.OK


def rescore_command(arguments: list[str]) -> int:
    """`rsft rescore`: another reward for the same candidates, kept beside the first."""
    parser = Parser(
        prog="rsft rescore",
        description="score stored candidates by another reward; writes FOLDER/rescored/VERSION, "
        "a store that reselect and candidates= can read",
        epilog="examples:\n  rsft rescore FOLDER reward.length=1.0 reward.min_words=40",
    )
    parser.add_argument("folder", type=Path, help="the folder of a run, or a store")
    parser.add_argument("overrides", nargs="*", metavar="reward.FIELD=VALUE", help="the reward")
    parser.add_config_dir()
    parsed = parser.parse_intermixed_args(arguments)
    run = _run_config(parsed.folder)
    overrides, allowed = _split_allowed(parsed.overrides)
    reward = _reward(overrides, parsed.config_dir, run)
    console = Console()
    if run is not None and run.sampling.early_stop:
        console.say(ENDED_EARLY)
    path, rows, problems = rescore(parsed.folder, reward, run, allowed)
    for problem in problems:
        console.say(f"left out: {problem}")
    columns = ("part", "candidates", "unscored", "reward before", "after", "correlation")
    console.table(f"{parsed.folder}: scored again", columns, rows)
    console.say(f"store: {path}")
    return ExitCode.OK


def rescore(
    folder: Path,
    reward: schema.RewardConfig,
    run: schema.LanguageConfig | None,
    allow_packages: Sequence[str] = (),
) -> tuple[Path, list[tuple[Any, ...]], list[str]]:
    """Writes a store with the same candidates and another reward.

    Returns:
      The store, a row of figures for each part, and the parts that were left out.
    """
    source = RolloutStore(folder / "rollouts" if (folder / "rollouts").is_dir() else folder)
    problems = source.problems()
    bad = {problem.partition(": ")[0] for problem in problems}
    parts = [p for p in source.parts() if str(source.folder / p.name) not in bad]
    if not parts:
        raise ConfigError(f"rescore: {shown(str(folder))}; holds no candidates that can be read")
    asked = {}
    if run is not None and run.candidates is None:
        asked = {p.id: p.text for p in make.load_prompt_split(run.data, heldout=False)}
    version = make.reward_version(reward)
    score, judge = make.make_reward(reward, allow_packages), make.make_judge(reward)
    target = RolloutStore(folder / "rescored" / version)
    figures = []
    for part in parts:
        rows = read_rollouts(source.folder / part.name)
        prompts = [asked.get(i, text) for i, text in zip(rows["prompt_id"], rows["prompt"])]
        texts = [[text] for text in rows["completion"]]
        terms = score.terms(prompts, texts)
        after = score.combine(terms)[:, 0]
        dropped = {"accepted", "accept_prob", "log_weight", "reason", "rule"}
        kept = {
            name: values
            for name, values in rows.columns.items()
            if name not in dropped and not name.startswith("term/")
        }
        kept |= {f"term/{name}": values[:, 0] for name, values in terms.items()}
        kept |= {"reward": after, "judge": np.asarray(judge(prompts, texts), np.float64)[:, 0]}
        kept |= {"reward_version": [version] * rows.num_rows}
        target.append(kept, name=part.name.removesuffix(".parquet"))
        figures.append(_compared(part.name, np.asarray(rows["reward"]), after))
    return target.folder, figures, problems


def _compared(name: str, before: np.ndarray, after: np.ndarray) -> tuple[Any, ...]:
    both = np.isfinite(before) & np.isfinite(after)
    spread = both.sum() > 1 and before[both].std() > 0 and after[both].std() > 0
    correlation = float(np.corrcoef(before[both], after[both])[0, 1]) if spread else None
    means = [
        float(v[np.isfinite(v)].mean()) if np.isfinite(v).any() else None for v in (before, after)
    ]
    return (name, len(after), int((~np.isfinite(after)).sum()), *means, correlation)


def _run_config(folder: Path) -> schema.LanguageConfig | None:
    path = folder / "config.yaml"
    if not path.is_file():
        return None
    config = read_config(path)
    if not isinstance(config, schema.LanguageConfig):
        raise ConfigError(f"{shown(str(folder))}: only runs of kind language keep candidates")
    return config


def _split_allowed(overrides: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """Parts `allow_packages=[...]` from the settings of a rule or reward."""
    rest, allowed = [], ()
    for text, override in zip(overrides, parse_overrides(overrides)):
        if override.key_or_group == "allow_packages":
            allowed = allowed_packages(override.value())
        else:
            rest.append(text)
    return rest, allowed


def _settings(
    overrides: list[str], config_dir: Path | None, run: schema.LanguageConfig | None
) -> list[tuple[schema.SelectionConfig, int]]:
    """The rules to apply, with their seeds: the product of all axes."""
    parsed = parse_overrides(overrides)
    for override in parsed:
        name = override.key_or_group
        if name.split(".")[0] not in ("selection", "seed"):
            raise ConfigError(f"{name}: only selection and seed can be set here")
    names = {override.key_or_group for override in parsed}
    sweep = any(override.is_sweep_override() for override in parsed)
    jobs = expand_sweep(overrides, config_dir) if sweep else [overrides]
    if run is None and "selection" not in names:
        raise ConfigError("selection: missing; give the rule as selection=NAME")
    base = [] if run is None else [f"selection={run.selection.rule}"]
    found = []
    for job in jobs:
        job = job if "selection" in names else [*base, *job]
        data = compose(["experiment=stories", *job], config_dir)
        selection = data["selection"]
        if run is not None and "selection" not in names:
            given = {o.key_or_group.partition(".")[2] for o in parsed}
            own = to_dict(run.selection)
            selection |= {name: own[name] for name in own if name not in given}
        seed = run.seed if run is not None and "seed" not in names else data["seed"]
        found.append(
            (typed(schema.SelectionConfig, selection, "selection"), typed(int, seed, "seed"))
        )
    return found


def _reward(
    overrides: list[str], config_dir: Path | None, run: schema.LanguageConfig | None
) -> schema.RewardConfig:
    names = {override.key_or_group for override in parse_overrides(overrides)}
    for name in names:
        if name.split(".")[0] != "reward":
            raise ConfigError(f"{name}: only reward can be set here")
    reward = compose(["experiment=stories", *overrides], config_dir)["reward"]
    if run is not None and "reward" not in names:
        own = to_dict(run.reward)
        reward |= {name: own[name] for name in own if f"reward.{name}" not in names}
    found = typed(schema.RewardConfig, reward, "reward")
    ranges.validate_reward(found)
    return found


def _texts(groups: Sequence[Group], kept: Sequence[np.ndarray]) -> list[str]:
    return [g.texts[i][j] for g, mask in zip(groups, kept) for i, j in np.argwhere(mask)]


def _mean(groups: Sequence[Group], kept: Sequence[np.ndarray]) -> float:
    values = np.concatenate([group.rewards[mask] for group, mask in zip(groups, kept)])
    return float(values.mean()) if values.size else math.nan


_COLUMNS = ("rule", "law", "accepted", "rate", "reward", "by coin", "ESS", "distinct-2")


def _row(found: Reselected) -> tuple[Any, ...]:
    estimate, low, high = found.rate
    return (
        found.rule,
        found.law.lower(),
        f"{found.num_accepted}/{found.num_scored}",
        f"{estimate:.3f} [{low:.3f}, {high:.3f}]",
        found.reward,
        found.control_reward,
        found.ess,
        found.distinct_2,
    )


def _write_csv(path: Path, rows: Sequence[Reselected]) -> None:
    flat = []
    for row in rows:
        values = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
        rate, low, high = values.pop("rate")
        flat.append({**values, "rate": rate, "rate_low": low, "rate_high": high})
    write_whole(path, to_csv(flat))
