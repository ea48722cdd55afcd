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
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.override_parser.types import ChoiceSweep, RangeSweep

from ..runs.folder import make_folder
from ..settings import checks
from ..settings.axes import range_length
from ..settings.compose import load_group
from ..settings.overrides import parse_overrides
from ..settings.schema import PopulationConfig
from ..settings.typed import build, to_dict
from ..terminal.console import Console
from ..terminal.errors import ConfigError, ExitCode
from ..terminal.files import to_csv, write_whole
from .population_figures import FIGURES, figure, show, summed_up

AXES = PopulationConfig.AXES


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
    config.check()
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
        run | {name: float(getattr(results, name)[place, -1]) for name in FIGURES}
        for place, run in enumerate(runs)
    ]
    groups = summed_up(rows)
    make_folder(root)
    write_whole(root / "population.yaml", _yaml(config))
    write_whole(root / "results.csv", to_csv(rows))
    facts = {"num_runs": len(runs), "num_devices": len(devices), "settings": to_dict(config)}
    facts |= {"seconds_first": first, "seconds_again": again, "combinations": groups}
    write_whole(root / "results.json", json.dumps(facts, indent=2) + "\n")
    write_whole(root / "reward_kl.png", figure(groups))
    (root / "error.log").unlink(missing_ok=True)  # of an attempt before this one
    show(console, groups)
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

    table: Any = reward_table(config)
    return functools.partial(
        tabular_run,
        rewards=table,
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


def _swept(name: str, sweep: Any) -> list[Any]:
    """The values of `a,b,c` or of `range(...)`, which is counted before it is made."""
    if isinstance(sweep, ChoiceSweep):
        return [getattr(value, "text", value) for value in sweep.list]
    if not isinstance(sweep, RangeSweep):
        raise ConfigError(f"{name}: list the values, or use range()")
    length = range_length(name, sweep)
    if length > PopulationConfig.MAX_RUNS:
        raise ConfigError(
            f"{name}: a range of {length} values; at most {PopulationConfig.MAX_RUNS} allowed"
        )
    start, step = sweep.start or 0, sweep.step or 1  # a step of 0 was refused as it was counted
    return [start + place * step for place in range(length)]


def _yaml(config: PopulationConfig) -> str:
    import yaml

    return yaml.safe_dump(to_dict(config), sort_keys=False)
