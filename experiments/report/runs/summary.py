"""Several runs as comparable figures: one `Summary` for each, and what differs between them.

Kinds of experiments have different figures; a `Measure` says which of them is the score, which arm
is the control, and which way is better. All else of the report of several runs goes by it.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rsft_jax.metrics import Interval, Verdict, verdict

from ...terminal.errors import ConfigError, shown
from ..comparisons import compare
from ..load import Event, Run, load_run, number
from ..run.textbook_figures import law_events
from ..text import printable
from .expected import gaussian_rate, predicted_rate

NONE = Interval(math.nan, math.nan, math.nan)
_NOT_SETTINGS = ("output_dir", "resume", "name", "store", "kind", "allow_packages")
_SAME_SCALE = ("reward.", "data.", "evaluation.", "policy.", "problem.")
_MAX_RUNS = 1000


class Measure(NamedTuple):
    """What runs of a kind are compared by.

    Attributes:
      name: of the score.
      title: the same in words.
      arm: whose score it is.
      control: the arm that it is held against.
      control_name: the same in words.
      higher: whether more is better.
      proposals: what is counted as its cost.
    """

    name: str
    title: str
    arm: str
    control: str
    control_name: str
    higher: bool
    proposals: str


MEASURES = {
    "language": Measure(
        "reward", "mean reward, held-out prompts", "policy", "control", "random control", True,
        "tokens drawn to train on",
    ),
    "gaussian": Measure(
        "loss", "loss on the target", "exact", "proposal", "arm without rejection", False,
        "proposals drawn to train on",
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Point:
    """An arm after a round.

    Attributes:
      round: its number; 0 is before training.
      score: with its interval.
      judge: the second judge's; NaN where there is none.
      kl: to the policy before training, nats.
      distinct_2: share of different word pairs.
      self_bleu: likeness of the samples to each other.
      cost: proposals (tokens or draws) of this and all rounds before.
      seconds: spent on them, evaluation left out.
    """

    round: int
    score: Interval
    judge: float = math.nan
    kl: float = math.nan
    distinct_2: float = math.nan
    self_bleu: float = math.nan
    cost: float = 0.0
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Summary:
    """What is compared of one run.

    Attributes:
      folder: of the run.
      name: its folder's name, as much of it as tells it from the others.
      kind: of experiment.
      status: how it stands.
      settings: dotted name -> value.
      points: of the arm that is compared, by round.
      control: the same of the control.
      gain: score minus the control's after the same round, with its interval; better is positive.
      acceptance: rate of the first round with its interval, of the compared arm.
      last_acceptance: of the last.
      predicted: what the rate of the first round is expected to be.
      rewards: `[P, N]` of the first round's candidates, or None.
      problems: what was left out of it.
    """

    folder: Path
    name: str
    kind: str
    status: str
    settings: Mapping[str, Any]
    points: tuple[Point, ...]
    control: tuple[Point, ...]
    gain: Interval
    acceptance: Interval
    last_acceptance: Interval
    predicted: float
    rewards: np.ndarray | None
    problems: tuple[str, ...]

    @property
    def last(self) -> Point:
        """After the last round; a point of NaN when nothing was evaluated."""
        return self.points[-1] if self.points else Point(0, NONE)

    @property
    def verdict(self) -> Verdict:
        """Whether the gain over the control is sure."""
        return verdict(self.gain)


@dataclasses.dataclass(frozen=True)
class RunSet:
    """Runs to compare, the best first.

    Attributes:
      measure: what they are compared by.
      runs: their summaries.
      varied: settings that differ between them.
      problems: what was left out, and what makes them hard to compare.
    """

    measure: Measure
    runs: tuple[Summary, ...]
    varied: tuple[str, ...]
    problems: tuple[str, ...]

    def label(self, run: Summary, *, seed: bool = True) -> str:
        """Names a run by the settings in which it differs, or by its folder."""
        names = [name for name in self.varied if seed or name != "seed"]
        if not names:
            return run.name if seed or "seed" not in self.varied else "all runs"
        return ", ".join(f"{self.short(name)}={self.value(run, name)}" for name in names)

    def value(self, run: Summary, name: str) -> str:
        """Prints a setting of a run."""
        return _value(run.settings[name]) if name in run.settings else "–"

    def short(self, name: str) -> str:
        """The last part of a setting's name, or all of it when two would look the same."""
        leaf = name.rpartition(".")[2]
        same = [other for other in self.varied if other.rpartition(".")[2] == leaf]
        return leaf if len(same) == 1 and leaf not in ("name", "rule") else name

    def groups(self) -> dict[str, list[Summary]]:
        """Runs that differ by their seed alone, the best of all first."""
        found: dict[str, list[Summary]] = {}
        for run in self.runs:
            found.setdefault(self.label(run, seed=False), []).append(run)
        return found


def summarise(folders: Sequence[Path]) -> RunSet:
    """Reads the runs in these folders, one after the other, and ranks them.

    Raises:
      ConfigError: fewer than two, more than `_MAX_RUNS`, or of kinds with nothing in common.
    """
    if len(folders) < 2:
        raise ConfigError("report: a comparison needs two runs at least")
    if len(folders) > _MAX_RUNS:
        raise ConfigError(f"report: {len(folders)} runs; at most {_MAX_RUNS} are compared")
    names = _names(folders)
    found = [_summary(load_run(folder), folder, name) for folder, name in zip(folders, names)]
    kinds = sorted({run.kind for run in found})
    unknown = [run.name for run in found if run.kind not in MEASURES]
    if unknown:
        raise ConfigError(f"report: {shown(unknown[0])}; its kind of experiment is not known")
    if len(kinds) > 1:
        raise ConfigError(
            f"report: runs of kind {' and '.join(kinds)} have no figure in common; "
            "report each kind apart"
        )
    measure = MEASURES[kinds[0]]
    sign = -1 if measure.higher else 1

    def key(run: Summary) -> tuple[bool, float, str]:
        mean = run.last.score.mean
        return not math.isfinite(mean), sign * mean if math.isfinite(mean) else 0.0, run.name

    runs = tuple(sorted(found, key=key))
    varied = _varied(runs)
    problems = [f"{run.name}: {problem}" for run in runs for problem in run.problems]
    unequal = [name for name in varied if name.startswith(_SAME_SCALE)]
    if unequal:
        problems.append(
            f"the runs differ in {', '.join(unequal)}: their scores are not on the same scale, "
            "or not of the same prompts"
        )
    return RunSet(measure, runs, varied, tuple(problems))


def first_rewards(run: Run, arm: str) -> np.ndarray | None:
    """`[P, N]` rewards of the candidates of the first round, NaN where there is none."""
    parts = [p for p in run.rollouts if p.arm == arm]
    if not parts:
        return None
    data = min(parts, key=lambda part: part.round).data
    rows: dict[str, list[float]] = {}
    for prompt, reward in zip(data["prompt_id"], data["reward"]):
        rows.setdefault(prompt, []).append(float(reward))
    width = max(map(len, rows.values()), default=0)
    return np.array([row + [math.nan] * (width - len(row)) for row in rows.values()])


def _summary(run: Run, folder: Path, name: str) -> Summary:
    kind = str(run.info.get("kind") or run.config.get("kind"))
    common: dict[str, Any] = {
        "folder": folder,
        "name": printable(name),
        "kind": kind,
        "status": run.status,
        "settings": dict(_leaves(run.config)),
        "problems": run.problems,
    }
    make = {"gaussian": _gaussian_figures}.get(kind, _language_figures)
    return Summary(**common, **make(run))


def _language_figures(run: Run) -> dict[str, Any]:
    # Those that early stop has left are no fair sample to predict from.
    early = run.setting("sampling.early_stop")
    rewards = None if early else first_rewards(run, "policy")
    selection = run.config.get("selection")
    rule = selection if isinstance(selection, Mapping) else {}
    pairs = [c for c in compare(run) if (c.score, c.second) == ("reward", "control")]
    rates = [_interval(e, "acceptance", "acceptance_rate") for e in run.series("round", "policy")]
    return {
        "points": _points(run, "policy"),
        "control": _points(run, "control") if run.series("evaluation", "control") else (),
        "gain": Interval(pairs[0].mean, pairs[0].low, pairs[0].high) if pairs else NONE,
        "acceptance": rates[0] if rates else NONE,
        "last_acceptance": rates[-1] if rates else NONE,
        "predicted": math.nan if rewards is None else predicted_rate(rewards, rule),
        "rewards": rewards,
    }


def _points(run: Run, arm: str) -> tuple[Point, ...]:
    cost, seconds = _cumulated(run, arm, "generated_tokens")
    return tuple(
        Point(
            round=e["round"],
            score=_interval(e, "reward", "reward_mean"),
            judge=number(e, "judge_mean"),
            kl=number(e, "kl_mean"),
            distinct_2=number(e, "distinct_2"),
            self_bleu=number(e, "self_bleu"),
            cost=cost.get(e["round"], 0.0),
            seconds=seconds.get(e["round"], 0.0),
        )
        for e in run.evaluation_series(arm)
    )


def _gaussian_figures(run: Run) -> dict[str, Any]:
    arms = {}
    for arm in ("exact", "proposal"):
        cost, seconds = _cumulated(run, arm, "num_attempts")
        arms[arm] = tuple(
            Point(
                round=e["round"],
                score=_interval(e, "loss_target", "loss_target"),
                cost=cost[e["round"]],
                seconds=seconds[e["round"]],
            )
            for e in run.series("round", arm)
        )
    gain = NONE
    if arms["exact"] and arms["proposal"]:
        a, b = arms["proposal"][-1].score, arms["exact"][-1].score
        # Both are measured on the same inputs, so independence overstates the interval.
        half = math.hypot(a.high - a.mean, b.high - b.mean)
        gain = Interval(a.mean - b.mean, a.mean - b.mean - half, a.mean - b.mean + half)
    rates = [_interval(e, "acceptance", "acceptance_rate") for e in run.series("round", "exact")]
    laws = [law for law in law_events(run) if law["arm"] == "exact"]
    return {
        "points": arms["exact"],
        "control": arms["proposal"],
        "gain": gain,
        "acceptance": _interval(laws[0], "acceptance", "acceptance_rate")
        if laws
        else rates[0]
        if rates
        else NONE,
        "last_acceptance": rates[-1] if rates else NONE,
        "predicted": gaussian_rate(run.config.get("problem", {})),
        "rewards": None,
    }


def _cumulated(run: Run, arm: str, key: str) -> tuple[dict[int, float], dict[int, float]]:
    """Sums of proposals and of seconds up to each round."""
    cost, seconds, costs, times = 0.0, 0.0, {}, {}
    for event in run.series("round", arm):
        spent = event.get("seconds")
        stages = spent.values() if isinstance(spent, Mapping) else [spent]
        cost += np.nan_to_num(number(event, key))
        seconds += math.fsum(v for v in stages if isinstance(v, int | float) and math.isfinite(v))
        costs[event["round"]], times[event["round"]] = float(cost), seconds
    return costs, times


def _interval(event: Event, name: str, mean: str) -> Interval:
    return Interval(
        number(event, mean), number(event, f"{name}_low"), number(event, f"{name}_high")
    )


def _leaves(data: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(data, Mapping):
        return [(prefix, tuple(data) if isinstance(data, list) else data)]
    return [
        leaf
        for name, value in data.items()
        for leaf in _leaves(value, f"{prefix}.{name}" if prefix else str(name))
    ]


def _varied(runs: Sequence[Summary]) -> tuple[str, ...]:
    names = dict.fromkeys(name for run in runs for name in run.settings)
    varied = [
        name
        for name in names
        if name not in _NOT_SETTINGS and len({repr(run.settings.get(name)) for run in runs}) > 1
    ]
    return tuple([name for name in varied if name != "seed"] + [n for n in varied if n == "seed"])


def _names(folders: Sequence[Path]) -> list[str]:
    """The ends of the paths, as long as it takes to tell them apart."""
    paths = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple):
        return "[" + ",".join(map(_value, value)) + "]"
    return printable(shown(value).strip("'"))
