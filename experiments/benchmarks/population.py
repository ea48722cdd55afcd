"""Speed of 1,000 small runs in one program, beside loops over the same runs one by one.

    python -m rsft_jax.experiments.benchmarks.population
    python -m rsft_jax.experiments.benchmarks.population --quick

A line for each size of table. "one program" is `populations.population`. "loop of runs" calls a
single run, all its rounds in one jitted program, once for each. "loop of rounds" is a run as on the
host: one jitted round, called T times for each run (timed on 50 runs and scaled up). Each is
compiled beforehand, and each brings its results to the host, as a sweep has to. They take turns of
50 ms or one call, and the figure is the fastest call, because whatever else runs on the machine
only adds.
The last column is the largest difference of a final reward between the program and the loop.

What the program saves is the start of each operation, so it gains most where a run is small; a
table of 4 x 8 is bound by arithmetic and gains from the devices alone.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax.populations import population
from rsft_jax.sharding import make_mesh

from ..sweeps.population import PopulationConfig, arrays, combinations, one_run

# prompts, answers, candidates, rounds
SIZES = ((1, 4, 4, 10), (1, 4, 8, 10), (1, 8, 8, 20), (4, 8, 8, 20))
_SAMPLED = 50
_TURN_SECONDS = 0.05


def main(argv: Sequence[str] | None = None) -> None:
    """Times one program and the loops in turn, in one process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small size")
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args(argv)
    devices = jax.devices()
    print(f"1000 runs, float32, {len(devices)} x {devices[0].device_kind}, milliseconds")
    print(f"{'P x V, N, T':16s} {'program':>8s} {'loop of runs':>16s} {'loop of rounds':>18s}")
    for size in SIZES[:1] if arguments.quick else SIZES:
        taken, gap = measure(size, repeats=1 if arguments.quick else arguments.repeats)
        program, runs, rounds = (taken[name] for name in ("program", "runs", "rounds"))
        name = f"{size[0]} x {size[1]}, {size[2]}, {size[3]}"
        print(
            f"{name:16s} {program:8.2f} {runs:9.1f} {runs / program:5.1f}x {rounds:10.1f} "
            f"{rounds / program:6.1f}x   {gap:.0e}",
            flush=True,
        )


def measure(size: tuple[int, int, int, int], *, repeats: int) -> tuple[dict[str, float], float]:
    """Milliseconds of the program and of the loops, and their largest difference."""
    config = _config(*size)
    run, one_round = one_run(config), one_run(_config(*size[:3], 1))
    keys, settings = arrays(combinations(config))
    num = len(keys)
    mesh = make_mesh() if len(jax.devices()) > 1 else None
    together = population(run, mesh=mesh)
    single, round_ = jax.jit(run), jax.jit(one_round)
    each = [(keys[i], jax.tree.map(lambda leaf, i=i: leaf[i], settings)) for i in range(num)]
    rounds = jnp.arange(size[3])
    fold_in = jax.jit(jax.random.fold_in)

    def by_rounds() -> list[Any]:
        # The policy of the round before does not change what a round costs.
        some = each[:_SAMPLED]
        return [[jax.device_get(round_(fold_in(k, t), s)) for t in rounds] for k, s in some]

    calls: dict[str, Callable[[], Any]] = {
        "program": lambda: jax.device_get(together(keys, settings)),
        "runs": lambda: [jax.device_get(single(key, values)) for key, values in each],
        "rounds": by_rounds,
    }
    taken = fastest_milliseconds(calls, repeats=repeats)
    taken["rounds"] *= num / _SAMPLED
    ours = calls["program"]().reward[:, -1]
    theirs = np.array([result.reward[-1] for result in calls["runs"]()])
    return taken, float(np.abs(ours - theirs).max())


def fastest_milliseconds(calls: dict[str, Callable[[], Any]], *, repeats: int) -> dict[str, float]:
    """The smallest time of each call, taken in turn; the first turn warms up and compiles."""
    taken = dict.fromkeys(calls, float("inf"))
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            turn_ends = time.perf_counter() + _TURN_SECONDS
            while True:
                begun = time.perf_counter()
                call()
                ended = time.perf_counter()
                if repeat:
                    taken[name] = min(taken[name], 1e3 * (ended - begun))
                if ended > turn_ends:
                    break
    return taken


def _config(prompts: int, answers: int, candidates: int, rounds: int) -> PopulationConfig:
    return PopulationConfig(
        learning_rate=(0.1, 0.3, 1.0, 3.0),
        beta=(0.05, 0.1, 0.2, 0.5, 1.0),
        temperature=(1.0,),
        max_reward=(1.0,),
        k=(1, 4),
        seed=tuple(range(25)),
        num_prompts=prompts,
        num_answers=answers,
        num_candidates=candidates,
        num_rounds=rounds,
        steps_per_round=1,
        optimizer="sgd",
        table_seed=0,
    )


if __name__ == "__main__":
    main()
