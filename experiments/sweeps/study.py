"""The settings of a search: what is varied, between which ends, and which figure decides.

A search space is a YAML file of `configs/sweep/`. Nothing here knows Optuna; see `trials.py`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..settings.compose import load_config, load_group
from ..settings.groups import group_options
from ..settings.overrides import parse_overrides, without_output
from ..settings.schema import RunConfig
from ..settings.typed import build, leaves, nearest
from ..terminal.errors import ConfigError, quoted, shown

Value = bool | int | float | str | None
"""What an axis can give to a setting."""

_MAX_TRIALS = 10_000
_MAX_WORKERS = 256
_MAX_END = 1e300  # beyond it the width of an axis would not be a number


@dataclass(frozen=True, kw_only=True)
class FloatAxis:
    """Numbers between two ends, both included.

    Attributes:
      low: the lower end.
      high: the upper end.
      log: spread evenly over the logarithm; low must be above 0.
      step: distance of neighbours; null for any number. Not with log.
    """

    type: Literal["float"]
    low: float
    high: float
    log: bool = False
    step: float | None = None


@dataclass(frozen=True, kw_only=True)
class IntAxis:
    """Integers between two ends, both included.

    Attributes:
      low: the lower end.
      high: the upper end.
      log: spread evenly over the logarithm; low must be above 0.
      step: distance of neighbours. 1 with log.
    """

    type: Literal["int"]
    low: int
    high: int
    log: bool = False
    step: int = 1


@dataclass(frozen=True, kw_only=True)
class CategoricalAxis:
    """Values without an order, options of a group among them.

    Attributes:
      choices: the values.
    """

    type: Literal["categorical"]
    choices: tuple[Value, ...]


Axis = FloatAxis | IntAxis | CategoricalAxis


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How a search goes on, all but its space.

    Attributes:
      metric: the figure that is optimised, one that the runs write.
      arm: of the run whose figure it is; null takes the one that is tuned.
      direction: which way is better.
      trials: how many runs there are in all, failed ones included.
      workers: processes that each run one trial at a time.
      sampler: "tpe" learns from the trials before; "random" does not.
      seed: of the sampler. With one worker the same seed makes the same search.
      startup_trials: so many are drawn at random before the sampler learns and the pruner prunes.
      pruner: "median" stops a run whose figure after a round is worse than the median of the
        runs before it after that round; "none" lets all run to their end.
      prune_after: no run is stopped before this round.
      storage: "journal", a file that several workers share, or "sqlite".
      timeout_minutes: a trial that takes longer is stopped and counts as failed; null waits.
      retries: how often a failed trial is run again; it goes on from its last checkpoint.
    """

    metric: str
    arm: str | None
    direction: Literal["maximize", "minimize"]
    trials: int
    workers: int
    sampler: Literal["tpe", "random"]
    seed: int
    startup_trials: int
    pruner: Literal["median", "none"]
    prune_after: int
    storage: Literal["journal", "sqlite"]
    timeout_minutes: float | None
    retries: int


@dataclass(frozen=True, kw_only=True)
class Study:
    """A search as it was asked for, checked.

    Attributes:
      name: of the file in configs/sweep.
      search: its settings.
      space: setting or group -> the values that it can take.
      overrides: what all its runs share.
      config_dir: the user's own folder of groups, or None.
      event: the event in which the runs write the metric.
      arm: of the runs, whose metric it is.
      last_round: number of a run's last round.
      base: a run of the study, for what all of them share.
    """

    name: str
    search: SearchConfig
    space: Mapping[str, Axis]
    overrides: tuple[str, ...]
    config_dir: Path | None
    event: str
    arm: str
    last_round: int
    base: RunConfig

    def settings(self, values: Mapping[str, Value]) -> list[str]:
        """The overrides that give these values to a run."""
        groups = group_options(self.config_dir)
        return [*self.overrides, *(_override(name, v, groups) for name, v in values.items())]


def storage_name(search: SearchConfig) -> str:
    """The file of a study's folder in which the trials are kept."""
    return {"journal": "study.journal", "sqlite": "study.db"}[search.storage]


def load_study(overrides: Sequence[str], config_dir: Path | None = None) -> Study:
    """Reads a search space and checks it together with the runs that it makes. Writes nothing.

    Every end of every axis is tried as the setting of a run.

    Args:
      overrides: `sweep=NAME`, fields of it (`sweep.trials=20`), and what all runs share.
      config_dir: the user's own folder of groups, or None.

    Raises:
      ConfigError: one line that names the field, its value and what would be right.
    """
    given = {o.key_or_group: o for o in parse_overrides(overrides)}
    if "sweep" not in given:
        options = ", ".join(group_options(config_dir)["sweep"])
        raise ConfigError(f"sweep: missing; give sweep=NAME, one of {options}")
    data, rest = load_group("sweep", "", overrides, config_dir)
    data = dict(data)
    space = _space(data.pop("space", None))
    search: SearchConfig = build(SearchConfig, data, "sweep")
    _validate(search)
    shared = tuple(without_output(rest))
    base = _check_space(space, shared, config_dir)
    known = base.METRICS
    if search.metric not in known:
        hint = nearest(search.metric, known) or f"; they write {', '.join(known)}"
        raise ConfigError(
            f"sweep.metric: {shown(search.metric)} is not written by runs of kind {base.kind}{hint}"
        )
    arms = base.arms()
    if search.arm is not None and search.arm not in arms:
        hint = nearest(search.arm, arms) or f", but {', '.join(arms)}"
        raise ConfigError(f"sweep.arm: {shown(search.arm)} is no arm of these runs{hint}")
    return Study(
        name=str(given["sweep"].value()),
        search=search,
        space=space,
        overrides=shared,
        config_dir=config_dir,
        event=known[search.metric],
        arm=search.arm or arms[0],
        last_round=base.last_round(),
        base=base,
    )


def _space(data: Any) -> dict[str, Axis]:
    """Types the axes. Fields that the command line adds come nested, by their dots."""
    where = "sweep.space"
    if not isinstance(data, Mapping) or not data:
        raise ConfigError(f"{where}: {shown(data)}; must name at least one setting to vary")
    fields: dict[str, dict[str, Any]] = {}
    for name, value in data.items():
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{where}.{name}: {shown(value)} is not an axis, such as "
                "{type: float, low: 0.1, high: 1.0}"
            )
        for path, leaf in leaves(value, f"{name}."):
            axis, _, field = path.rpartition(".")
            fields.setdefault(axis, {})[field] = leaf
    return {name: _axis(f"{where}.{name}", values) for name, values in fields.items()}


def _axis(where: str, data: dict[str, Any]) -> Axis:
    choices = data.get("choices")
    if isinstance(choices, list):
        for index, choice in enumerate(choices):
            if not isinstance(choice, Value):
                raise ConfigError(f"{where}.choices[{index}]: {shown(choice)} is not one value")
        if data.get("type") == "categorical" and set(data) == {"type", "choices"}:
            distinct = {(type(choice), choice) for choice in choices}
            if not choices or len(distinct) < len(choices):
                raise ConfigError(
                    f"{where}.choices: {shown(choices)}; must be at least one value, each once"
                )
            return CategoricalAxis(type="categorical", choices=tuple(choices))
    elif data.get("type") == "categorical":
        raise ConfigError(f"{where}.choices: {shown(choices)} is not a list, such as [a,b]")
    axis: Axis = build(Axis, data, where)
    if isinstance(axis, CategoricalAxis):
        raise AssertionError("made above")
    for name in ("low", "high"):
        value = getattr(axis, name)
        if not -_MAX_END <= value <= _MAX_END:
            raise ConfigError(f"{where}.{name}: {shown(value)}; must be between -1e300 and 1e300")
    if axis.low > axis.high:
        raise ConfigError(f"{where}.low: {axis.low}; must be at most high = {axis.high}")
    if axis.log and axis.low <= 0:
        raise ConfigError(f"{where}.low: {axis.low}; must be above 0 with log")
    if axis.step is not None and not axis.step > 0:
        raise ConfigError(f"{where}.step: {axis.step}; must be above 0")
    if axis.log and axis.step not in (None, 1):
        raise ConfigError(f"{where}.step: {axis.step}; cannot be given with log")
    steps = (axis.high - axis.low) / (axis.step or 1)
    if axis.step is not None and abs(steps - round(steps)) > 1e-9 * max(steps, 1):
        raise ConfigError(f"{where}.step: {axis.step}; must divide high - low")
    return axis


def _validate(search: SearchConfig) -> None:
    def check(is_right: bool, name: str, allowed: str) -> None:
        if not is_right:
            value = getattr(search, name)
            raise ConfigError(f"sweep.{name}: {shown(value)}; must be {allowed}")

    check(1 <= search.trials <= _MAX_TRIALS, "trials", f"from 1 to {_MAX_TRIALS}")
    check(1 <= search.workers <= _MAX_WORKERS, "workers", f"from 1 to {_MAX_WORKERS}")
    check(0 <= search.seed < 2**32, "seed", "from 0 to 4294967295")
    for name in ("startup_trials", "prune_after", "retries"):
        check(getattr(search, name) >= 0, name, "at least 0")
    minutes = search.timeout_minutes
    if minutes is not None:
        right = minutes > 0 and math.isfinite(minutes)
        check(right, "timeout_minutes", "above 0 and finite, or null")


def _check_space(
    space: Mapping[str, Axis], shared: tuple[str, ...], config_dir: Path | None
) -> RunConfig:
    """Composes a run at every end of every axis, the other axes at their first."""
    groups = group_options(config_dir)
    ends = {name: _ends(axis) for name, axis in space.items()}
    first = {name: values[0] for name, values in ends.items()}

    def compose(values: Mapping[str, Value]) -> RunConfig:
        texts = [_override(name, value, groups) for name, value in values.items()]
        try:
            return load_config([*shared, *texts], config_dir)
        except ConfigError as error:
            name = str(error).partition(":")[0]
            raise ConfigError(f"sweep.space.{error}" if name in space else str(error)) from None

    for name in space:
        if name in ("output_dir", "resume", "name"):
            raise ConfigError(f"sweep.space.{name}: each trial has its own folder already")
    base = compose(first)
    kinds = {base.kind}
    for name, values in ends.items():
        kinds |= {compose({**first, name: value}).kind for value in values[1:]}
    if len(kinds) > 1:
        raise ConfigError(f"sweep.space: makes runs of several kinds, {', '.join(sorted(kinds))}")
    return base


def _ends(axis: Axis) -> tuple[Value, ...]:
    return axis.choices if isinstance(axis, CategoricalAxis) else (axis.low, axis.high)


def _override(name: str, value: Value, groups: Mapping[str, object]) -> str:
    if isinstance(value, str):
        return f"{name}={value if name in groups else quoted(value)}"
    return f"{name}={'null' if value is None else str(value).lower()}"
