"""The axes of a sweep: which values each override stands for, and the jobs that they make."""

import itertools
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override, RangeSweep

from ..terminal.errors import ConfigError
from .groups import group_options
from .overrides import parse_overrides

MAX_SWEEP_JOBS = 1000


def expand_sweep(texts: Sequence[str], config_dir: Path | None = None) -> list[list[str]]:
    """Expands sweeps into the overrides of each job: the product of all axes, in order.

    Axes are `a,b,c`, `choice(...)`, `range(...)` and, for a group, `glob(*)`. Equal jobs are run
    once.

    Args:
      texts: overrides; those without a sweep go into every job.
      config_dir: the user's own folder of groups, or None.

    Raises:
      ConfigError: no axis, an empty one, or more than `MAX_SWEEP_JOBS` jobs.

    >>> expand_sweep(["seed=range(2)", "selection=top_k,best_of_n"])[1]
    ['seed=0', 'selection=best_of_n']
    """
    axes, num_jobs = [], 1
    for text, override in zip(texts, parse_overrides(texts)):
        if not override.is_sweep_override():
            axes.append([text])
            continue
        name = override.key_or_group
        if name in ("output_dir", "resume", "name"):
            raise ConfigError(f"{name}: cannot be swept; each job has its own folder already")
        num_jobs *= _axis_length(override, config_dir)
        if num_jobs > MAX_SWEEP_JOBS:
            raise ConfigError(f"sweep: at least {num_jobs} jobs; at most {MAX_SWEEP_JOBS} allowed")
        axes.append(list(dict.fromkeys(_axis(override, config_dir))))
    if all(not o.is_sweep_override() for o in parse_overrides(texts)):
        raise ConfigError("sweep: nothing to sweep; give -m an axis such as seed=0,1,2")
    return [list(job) for job in dict.fromkeys(itertools.product(*axes))]


def range_length(name: str, sweep: RangeSweep) -> int:
    """Counts the values of `range(...)` without making them.

    Raises:
      ConfigError: there is no end of them, or no telling how many.
    """
    if not sweep.step:
        raise ConfigError(f"{name}: the step of a range must not be 0")
    try:
        start, stop = sweep.start or 0, sweep.stop or 0
        return max(int(-((stop - start) // -sweep.step)), 0)
    except (OverflowError, ValueError):  # of an end that is infinite, or NaN
        raise ConfigError(f"{name}: start, stop and step of a range must be finite") from None


def _axis_length(override: Override, config_dir: Path | None) -> int:
    """Counts an axis without making it: `range(10**9)` must not be enumerated to be refused."""
    if override.is_range_sweep():
        sweep = override.value()
        assert isinstance(sweep, RangeSweep)
        length = range_length(override.key_or_group, sweep)
    else:
        length = len(_axis(override, config_dir))
    if not length:
        raise ConfigError(f"{override.key_or_group}: the sweep is empty")
    return length


def _axis(override: Override, config_dir: Path | None) -> list[str]:
    name = override.key_or_group
    if not override.is_discrete_sweep():
        raise ConfigError(f"{name}: an interval has no end of values; list them, or use range()")
    sweep = override.value()
    if hasattr(sweep, "filter"):  # glob(...), which only a group can answer
        options = group_options(config_dir).get(name)
        if options is None:
            raise ConfigError(f"{name}: glob() is for groups; list the values")
        return [f"{name}={option}" for option in sweep.filter(options)]  # type: ignore[union-attr]
    return [f"{name}={text}" for text in override.sweep_string_iterator()]
