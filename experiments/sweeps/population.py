"""A grid of small runs as one compiled program: `rsft population`.

Every combination of the axes (learning rate, beta, temperature, envelope, k, seed) is a run of a
tabular policy, and all of them one axis of one program, laid over the devices; see
`rsft_jax.populations`.

ROOT/population.yaml    the settings
ROOT/results.csv        a line a run: its settings; reward, KL and acceptance rate after its rounds
ROOT/results.json       the same summed up: mean and 95 % interval over seeds of each combination
ROOT/reward_kl.png      reward against KL, a point a combination
"""

import functools
import itertools
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from hydra.core.override_parser.types import ChoiceSweep, RangeSweep

from ..runs.folder import make_folder
from ..settings import checks
from ..settings.axes import range_length
from ..settings.compose import load_group
from ..settings.overrides import parse_overrides
from ..settings.typed import build, to_dict
from ..terminal.console import Console
from ..terminal.errors import ConfigError, ExitCode, shown
from ..terminal.files import to_csv, write_whole

AXES = ("learning_rate", "beta", "temperature", "max_reward", "k", "seed")
"""What differs between runs, slowest first."""
_MAX_RUNS = 100_000
_MAX_NUMBERS = 2**28  # of the largest array of a round
_NORMAL_95 = 1.96
_FIGURES = ("reward", "kl", "acceptance_rate")


@dataclass(frozen=True, kw_only=True)
class PopulationConfig:
    """The axes of a population, and what all its runs share.

    Attributes:
      learning_rate: of the optimizer, each above 0.
      beta: temperatures of the target, in units of the reward, each above 0.
      temperature: of the proposal, each above 0.
      max_reward: bounds of the reward, which set the envelope; the largest reward is 1.
      k: accepted candidates of each prompt, at most.
      seed: of a run.
      num_prompts: P, rows of the table.
      num_answers: V, answers to each prompt.
      num_candidates: N, drawn for each prompt in a round.
      num_rounds: T.
      steps_per_round: gradient steps on what a round has accepted.
      optimizer: "sgd" is theta <- theta - eta grad L.
      table_seed: of the table of rewards: uniform on [0, 1), its rows scaled to a maximum of 1.
    """

    learning_rate: tuple[float, ...]
    beta: tuple[float, ...]
    temperature: tuple[float, ...]
    max_reward: tuple[float, ...]
    k: tuple[int, ...]
    seed: tuple[int, ...]
    num_prompts: int
    num_answers: int
    num_candidates: int
    num_rounds: int
    steps_per_round: int
    optimizer: Literal["sgd", "adam"]
    table_seed: int


def load_population(
    overrides: Sequence[str], config_dir: Path | None = None
) -> tuple[PopulationConfig, Path | None]:
    """Reads and checks the settings. Nothing is written.

    Args:
      overrides: as on the command line; a field by its name alone, an axis as a value, a sweep
        (`0.1,0.3`, `range(5)`) or a list.
      config_dir: the user's own folder of groups, or None.

    Returns:
      The settings, and `output_dir` if it was given.

    Raises:
      ConfigError: one line that names the field, its value and what would be right.
    """
    texts, swept, output_dir = [], {}, None
    for text, override in zip(overrides, parse_overrides(overrides)):
        name = override.key_or_group
        if override.is_sweep_override():
            if name not in AXES:
                raise ConfigError(f"{name}: cannot be swept; axes are {', '.join(AXES)}")
            swept[name] = _swept(name, override.value())
        elif name == "output_dir":
            output_dir = checks.folder(name, override.value())
        elif name == "population":
            texts.append(text)
        else:
            texts.append(f"population.{text}")
    data, _ = load_group("population", "bandit", texts, config_dir)
    data = {**data, **swept}
    for name in AXES:
        if name in data and not isinstance(data[name], list):
            data[name] = [data[name]]
    config: PopulationConfig = build(PopulationConfig, data)
    _validate(config)
    return config, output_dir


def run_population(config: PopulationConfig, root: Path) -> ExitCode:
    """Runs all combinations and writes what came of them."""
    import jax

    from rsft_jax.populations import population
    from rsft_jax.sharding import make_mesh

    console, devices = Console(), jax.devices()
    runs = combinations(config)
    keys, settings = arrays(runs)
    run_all = population(one_run(config), mesh=make_mesh() if len(devices) > 1 else None)
    start = time.monotonic()
    results = jax.device_get(run_all(keys, settings))
    first = time.monotonic() - start
    start = time.monotonic()
    jax.block_until_ready(run_all(keys, settings))
    again = time.monotonic() - start
    console.say(
        f"population: {len(runs)} runs of {config.num_rounds} rounds in one program on "
        f"{len(devices)} device{'s' * (len(devices) > 1)}: {first:.1f} s with compilation, "
        f"{1e3 * again:.1f} ms without"
    )
    rows = [
        run | {name: float(getattr(results, name)[place, -1]) for name in _FIGURES}
        for place, run in enumerate(runs)
    ]
    groups = summed_up(rows)
    make_folder(root)
    write_whole(root / "population.yaml", _yaml(config))
    write_whole(root / "results.csv", to_csv(rows))
    facts = {"num_runs": len(runs), "num_devices": len(devices), "settings": to_dict(config)}
    facts |= {"seconds_first": first, "seconds_again": again, "combinations": groups}
    write_whole(root / "results.json", json.dumps(facts, indent=2) + "\n")
    write_whole(root / "reward_kl.png", _figure(groups))
    (root / "error.log").unlink(missing_ok=True)  # of an attempt before this one
    _show(console, groups)
    console.say(f"results: {root / 'results.csv'}, {root / 'reward_kl.png'}")
    return ExitCode.OK


def combinations(config: PopulationConfig) -> list[dict[str, Any]]:
    """The runs, each with a value of every axis."""
    axes = [getattr(config, name) for name in AXES]
    return [dict(zip(AXES, values)) for values in itertools.product(*axes)]


def arrays(runs: Sequence[dict[str, Any]]) -> tuple[Any, Any]:
    """Keys `[R]` and settings of `[R]` arrays of runs."""
    import jax

    from rsft_jax.populations import Hyperparameters

    columns = {
        name: np.array([run[name] for run in runs], np.int32 if name == "k" else np.float32)
        for name in AXES[:-1]
    }
    seeds = np.array([run["seed"] for run in runs], np.uint32)
    return jax.vmap(jax.random.key)(seeds), Hyperparameters(**columns)


def one_run(config: PopulationConfig) -> Any:
    """The pure function of one run, `(key, settings) -> TabularRun`, for `vmap` or by itself."""
    import optax

    from rsft_jax.populations import tabular_run

    return functools.partial(
        tabular_run,
        rewards=reward_table(config),
        num_rounds=config.num_rounds,
        num_candidates=config.num_candidates,
        steps_per_round=config.steps_per_round,
        optimizer={"sgd": optax.sgd, "adam": optax.adam}[config.optimizer],
    )


def reward_table(config: PopulationConfig) -> np.ndarray:
    """`[P, V]` float32 rewards, the largest of each prompt 1."""
    shape = (config.num_prompts, config.num_answers)
    table = np.random.default_rng(config.table_seed).uniform(size=shape)
    return (table / table.max(axis=-1, keepdims=True)).astype(np.float32)


def summed_up(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and normal 95 % interval over the seeds of each combination; the best reward first."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in AXES[:-1]), []).append(row)
    groups = []
    for values, members in found.items():
        group = dict(zip(AXES, values)) | {"num_seeds": len(members)}
        for name in _FIGURES:
            figures = np.array([row[name] for row in members])
            spread = figures.std(ddof=1) if len(figures) > 1 else math.nan
            half = _NORMAL_95 * float(spread) / math.sqrt(len(figures))
            ends = (None, None) if math.isnan(half) else (-half, half)
            mean = float(figures.mean())
            group[name] = mean
            for end, shift in zip(("low", "high"), ends):
                group[f"{name}_{end}"] = None if shift is None else mean + shift
        groups.append(group)
    return sorted(groups, key=lambda group: -group["reward"])


def _validate(config: PopulationConfig) -> None:
    def check(is_right: bool, name: str, value: object, allowed: str) -> None:
        if not is_right:
            raise ConfigError(f"{name}: {shown(value)}; must be {allowed}")

    for name in AXES:
        values = getattr(config, name)
        check(len(values) > 0, name, list(values), "at least one value")
        check(len(set(values)) == len(values), name, list(values), "values that differ")
        for value in values:
            if name == "seed":
                check(0 <= value < 2**32, name, value, "from 0 to 4294967295")
            elif name == "k":
                allowed = f"from 1 to num_candidates = {config.num_candidates}"
                check(1 <= value <= config.num_candidates, name, value, allowed)
            elif name == "max_reward":
                check(math.isfinite(value), name, value, "finite")
            else:
                check(0 < value < math.inf, name, value, "above 0 and finite")
    for field in fields(config):
        if field.name.startswith("num_") or field.name == "steps_per_round":
            value, least = getattr(config, field.name), 2 if field.name == "num_answers" else 1
            check(value >= least, field.name, value, f"at least {least}")
    check(0 <= config.table_seed < 2**32, "table_seed", config.table_seed, "from 0 to 4294967295")
    num = math.prod(len(getattr(config, name)) for name in AXES)
    if num > _MAX_RUNS:
        raise ConfigError(f"population: {num} runs; at most {_MAX_RUNS} allowed")
    numbers = num * config.num_prompts * config.num_answers * config.num_candidates
    if numbers > _MAX_NUMBERS:
        raise ConfigError(
            f"population: {num} runs of num_prompts x num_answers x num_candidates make arrays of "
            f"{numbers} numbers; at most {_MAX_NUMBERS} allowed"
        )


def _swept(name: str, sweep: Any) -> list[Any]:
    """The values of `a,b,c` or of `range(...)`, which is counted before it is made."""
    if isinstance(sweep, ChoiceSweep):
        return [getattr(value, "text", value) for value in sweep.list]
    if not isinstance(sweep, RangeSweep):
        raise ConfigError(f"{name}: list the values, or use range()")
    length = range_length(name, sweep)
    if length > _MAX_RUNS:
        raise ConfigError(f"{name}: a range of {length} values; at most {_MAX_RUNS} allowed")
    return [sweep.start + place * sweep.step for place in range(length)]


def _show(console: Console, groups: Sequence[dict[str, Any]], limit: int = 10) -> None:
    varied = [name for name in AXES[:-1] if len({group[name] for group in groups}) > 1]
    rows = [
        (*(f"{group[name]:g}" for name in varied), *(_interval(group, name) for name in _FIGURES))
        for group in groups[:limit]
    ]
    first = f", the best {limit} of {len(groups)}" if len(groups) > limit else ""
    title = f"after the last round, mean and 95 % interval over {groups[0]['num_seeds']} seeds"
    console.table(title + first, (*varied, "reward", "KL, nats", "accepted"), rows)


def _interval(group: dict[str, Any], name: str) -> str:
    mean, low, high = (group[field] for field in (name, f"{name}_low", f"{name}_high"))
    return f"{mean:.3f}" if low is None else f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _figure(groups: Sequence[dict[str, Any]]) -> bytes:
    """Reward against KL; a colour for each beta, from sharp to broad."""
    import matplotlib as mpl

    from ..report.plot import STYLE, Plot, legend_above, make_axes, to_png

    with mpl.rc_context(STYLE):
        figure, (axes,) = make_axes(height=3.2)
        betas = sorted({group["beta"] for group in groups})
        colours = mpl.colormaps["viridis"](np.linspace(0, 0.85, len(betas)))
        for beta, colour in zip(betas, colours):
            some = [group for group in groups if group["beta"] == beta]
            label = f"beta {beta:g}" if len(betas) <= 8 else None
            points = [(group["kl"], group["reward"]) for group in some]
            axes.plot(*zip(*points), "o", color=colour, label=label)
        axes.set_xlabel("KL to the start, nats")
        axes.set_title("expected reward after the last round")
        legend_above(figure, axes)
        plot = Plot(
            name="reward-kl",
            title="Reward against KL",
            caption="",
            alt="",
            figure=figure,
            rows=tuple(groups),
        )
        return to_png(plot)


def _yaml(config: PopulationConfig) -> str:
    import yaml

    return yaml.safe_dump(to_dict(config), sort_keys=False)
