"""Whether two run folders hold the same run: candidates, what was accepted, figures, parameters.

    python -m rsft_jax.experiments.runs.compare FOLDER OTHER

Bit for bit, but for what says when and where and not what: times, the work of drawing (a store may
have answered), and the column `reward_version`, which names the text of the settings. Prints a line
for each file that both have and exits with 1 where anything differs or is missing.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_NOT_COMPARED = {"seconds", "generation", "reward_version", "time"}


def differences(first: Path, second: Path) -> Iterator[tuple[str, str]]:
    """Yields each thing compared and how it differs, "" where it is the same."""
    yield "figures", _figures(first, second)
    for pattern in ("rollouts/*.parquet", "evaluations/*.parquet"):
        for name in _names(first, second, pattern):
            yield name, _tables(first / name, second / name)
    for name in _names(first, second, "checkpoints/step-*"):
        yield name, _checkpoints(first / name, second / name)


def _names(first: Path, second: Path, pattern: str) -> list[str]:
    return sorted({str(path.relative_to(f)) for f in (first, second) for path in f.glob(pattern)})


def _figures(first: Path, second: Path) -> str:
    """Compares the events of both, without what is not compared."""
    events = [
        [
            {name: value for name, value in json.loads(line).items() if name not in _NOT_COMPARED}
            for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]
        for folder in (first, second)
    ]
    if len(events[0]) != len(events[1]):
        return f"{len(events[0])} and {len(events[1])} events"
    for number, (a, b) in enumerate(zip(*events)):
        if a != b:
            names = [name for name in {**a, **b} if a.get(name) != b.get(name)]
            return f"event {number}: {', '.join(names)}"
    return ""


def _tables(first: Path, second: Path) -> str:
    from rsft_jax.rollouts import read_rollouts

    if missing := [path for path in (first, second) if not path.is_file()]:
        return f"{missing[0]} is missing"
    a, b = read_rollouts(first).columns, read_rollouts(second).columns
    if set(a) != set(b):
        return f"columns {sorted(set(a) ^ set(b))}"
    names = [name for name in a if name not in _NOT_COMPARED and not _equal(a[name], b[name])]
    return ", ".join(names)


def _equal(first: Any, second: Any) -> bool:
    if len(first) != len(second):
        return False
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and first.tobytes() == second.tobytes()
    pairs = ((np.asarray(a), np.asarray(b)) for a, b in zip(first, second))
    # As bytes: an unknown log-probability is NaN, which is not equal to itself.
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)


def _checkpoints(first: Path, second: Path) -> str:
    """Compares the arrays of two checkpoints: their files hold chunks whose names are random."""
    arrays = [dict(_arrays(folder)) for folder in (first, second)]
    names = [
        name for name in {**arrays[0], **arrays[1]} if arrays[0].get(name) != arrays[1].get(name)
    ]
    return ", ".join(names[:4])


def _arrays(folder: Path) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yields the arrays of a checkpoint by name, as shape, type and bytes."""
    import jax
    import orbax.checkpoint as ocp

    for item in sorted(path for path in folder.glob("*") if path.is_dir()):
        tree = ocp.PyTreeCheckpointer().restore(item)
        for place, leaf in jax.tree_util.tree_leaves_with_path(tree):
            is_key = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
            name = f"{item.name}{jax.tree_util.keystr(place)}"
            yield name, (array.shape, str(array.dtype), array.tobytes())


def main(arguments: Sequence[str]) -> int:
    """Prints what is the same and what is not."""
    first, second = map(Path, arguments)
    found = list(differences(first, second))
    for name, difference in found:
        print(f"{name}: {difference or 'the same'}")
    return int(any(difference for _, difference in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
