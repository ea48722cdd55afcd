"""What the machine would allow: its measured limits, and those of a decoding step."""

import functools
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from .policy import Bench

ROWS = (1, 2, 4, 8, 16, 32, 64)
"""Rows decoded at once, of the picture."""


@functools.cache
def machine(dtype: str) -> dict[str, float]:
    """Measured GB and GFLOP a second, both with every core."""
    import jax
    import jax.numpy as jnp

    def best(function: Any, *arguments: Any) -> float:
        jax.block_until_ready(function(*arguments))
        seconds = []
        for _ in range(7):
            start = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    size = 2048
    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32))
    x = jnp.ones((2**16, 2**11), jnp.float32)
    return {
        "gb_per_second": round(x.nbytes / best(jax.jit(lambda x: x.sum(axis=1)), x) / 1e9, 1),
        "gflop_per_second": round(2 * size**3 / best(product, a, a) / 1e9, 1),
    }


def step_work(bench: Bench, rows: int, length: int) -> dict[str, float]:
    """GB that a decoding step reads, weights and cache, and GFLOP that it computes."""
    import jax

    from rsft_jax.models import cache_fn

    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(bench.params))
    cache = jax.eval_shape(lambda: cache_fn(bench.model)(rows, length))
    read = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache))
    numbers = sum(leaf.size for leaf in jax.tree.leaves(bench.params))
    c = bench.model.config
    each = 2 * numbers + 4 * c.num_layers * c.num_heads * c.head_dim * length
    return {"step_gb": round((weights + read) / 1e9, 4), "step_gflop": round(rows * each / 1e9, 4)}


def limit(rows: int, work: Mapping[str, float], can: Mapping[str, float]) -> float:
    """Tokens a second if a step took no longer than its reading, or its arithmetic."""
    reading = work["step_gb"] / can["gb_per_second"]
    return rows / max(reading, work["step_gflop"] / can["gflop_per_second"])


def picture(path: str, figures: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Draws tokens a second over rows, and the limit of the machine.

    Args:
      path: of the file.
      figures: what the cases "rows N" print, for each of `ROWS`, by dtype.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for dtype, color, below in (("float32", "#4477aa", True), ("bfloat16", "#cc6677", False)):
        cases = figures[dtype]
        rates = [case["tokens_per_second"] for case in cases]
        # One look at the machine varies by half: the median of those that the cases took.
        can = {
            name: statistics.median(case[name] for case in cases)
            for name in ("gb_per_second", "gflop_per_second")
        }
        limits = [limit(rows, case, can) for rows, case in zip(ROWS, cases)]
        axes.plot(ROWS, rates, "o-", color=color, label=f"{dtype}, measured")
        axes.plot(ROWS, limits, "--", color=color, alpha=0.7, label=f"{dtype}, limit")
        for rows, rate in zip(ROWS, rates):
            axes.annotate(
                f"{rate:.0f}", (rows, rate), (0, -13 if below else 6), color=color, fontsize=8,
                textcoords="offset points", ha="center",
            )  # fmt: skip
    axes.set(
        xscale="log", yscale="log", xlabel="rows decoded at once", ylabel="tokens per second",
        title="SmolLM2-135M on 2 cores: 64-token prompts, 128 new tokens, prefill included",
    )  # fmt: skip
    axes.title.set_fontsize(10)
    axes.set_xticks(ROWS, [str(rows) for rows in ROWS])
    ticks = (20, 50, 100, 200, 500, 1000, 2000)
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
