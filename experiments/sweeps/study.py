"""A search, read and checked together with the runs that it makes.

A search space is a YAML file of `configs/sweep/`. Nothing here knows Optuna; see `trials.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..settings.compose import load_config, load_group
from ..settings.groups import group_options
from ..settings.overrides import parse_overrides, without_output
from ..settings.schema import RunConfig
from ..settings.schema.search import Axis, CategoricalAxis, SearchConfig, Value
from ..settings.typed import build, leaves, nearest
from ..terminal.errors import ConfigError, quoted, shown


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
    search.check()
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
    elif data.get("type") == "categorical":
        raise ConfigError(f"{where}.choices: {shown(choices)} is not a list, such as [a,b]")
    axis: Axis
    if data.get("type") == "categorical" and set(data) == {"type", "choices"}:
        # A choice is a value of any type, which is no annotation that `build` knows.
        axis = CategoricalAxis(type="categorical", choices=tuple(data["choices"]))
    else:
        axis = build(Axis, data, where)
    axis.check(where)
    return axis


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
