"""Speed and memory of a training step on SmolLM2-135M: tokens/s, utilisation, compile time, peak.

    python -m rsft_jax.experiments.benchmarks.training                  all cases
    python -m rsft_jax.experiments.benchmarks.training --part all --rows 8 --length 256
    python -m rsft_jax.experiments.benchmarks.training --part lora --rows 4 --packed --steps 1

Every position but the first is trained, so that the figures compare with a plain loop that takes
the loss on all of them (`--prompt` makes the first tokens of each row a prompt instead). With
`--packed` completions of varied length are trained in three forms in turn: a row each in the order
they come, a row each sorted by length, and packed rows. One JSON object a line; a case runs in a
process of its own, so that its peak memory is its own. Utilisation is model FLOPs over what a
matrix product of 2048^3 reaches in the same process and dtype.
"""

import argparse
import functools
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

CASES = (
    ("--part", "lora", "--length", "128"),
    ("--part", "lora"),
    ("--part", "lora", "--dtype", "bfloat16"),
    ("--part", "all"),
    ("--part", "all", "--dtype", "bfloat16"),
    ("--part", "lora", "--rows", "4", "--packed", "--steps", "1"),  # a pass is 24 steps
)
_NUM_PACKED = 96  # sequences in the packed case


def setup(arguments: argparse.Namespace) -> dict[str, Any]:
    """Loads the model and makes state and step."""
    import jax

    from rsft_jax.interop import load_pretrained
    from rsft_jax.models import Transformer
    from rsft_jax.training import (
        all_parameters,
        create_train_state,
        last_layers,
        lora,
        make_optimizer,
        make_train_step,
    )

    from ..language.assets import fetch

    remat = arguments.remat
    parts = {
        "all": lambda: all_parameters(remat=remat),
        "lora": lambda: lora(jax.random.key(0), rank=16, remat=remat),
        "last": lambda: last_layers(4, remat=remat),
    }
    pretrained = load_pretrained(fetch("smollm2-135m-instruct"), dtype=arguments.dtype)
    part = parts[arguments.part]()
    config = pretrained.model.config
    model = Transformer(part.model(config))
    tx = make_optimizer(arguments.optimizer, learning_rate=1e-5, clip_norm=1.0)
    state, frozen = create_train_state(model, part, pretrained.params, tx)
    return {
        "weights": sum(x.size for x in jax.tree.leaves(pretrained.params)),
        "trained": sum(x.size for x in jax.tree.leaves(state.params)),
        "vocab_size": config.vocab_size,
        "state": state,
        "frozen": frozen,
        "step": make_train_step(model, part, accumulate=arguments.accumulate),
    }


def gemm_gflops(dtype: str) -> float:
    """What a matrix product of 2048^3 reaches here, in GFLOP/s; the best of ten."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones((2048, 2048), dtype)
    # Into float32, as the model multiplies: into bfloat16 there is no fast kernel.
    product = jax.jit(functools.partial(jnp.matmul, preferred_element_type=jnp.float32))
    jax.block_until_ready(product(x, x))
    seconds = []
    for _ in range(10):
        begun = time.perf_counter()
        jax.block_until_ready(product(x, x))
        seconds.append(time.perf_counter() - begun)
    return 2 * 2048**3 / min(seconds) / 1e9


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Times one case; the first step, which compiles, is timed apart."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from rsft_jax.training.batches import Batch

    case = setup(arguments)
    state, frozen, step = case["state"], case["frozen"], case.pop("step")
    del case["state"], case["frozen"]
    rows, length = arguments.rows, arguments.length
    ids = np.random.default_rng(0).integers(0, case["vocab_size"], (rows, length))
    batch = Batch(
        tokens=jnp.asarray(ids, jnp.int32),
        positions=jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (rows, length)),
        completion_start=jnp.full(rows, arguments.prompt, jnp.int32),
        completion_length=jnp.full(rows, length - arguments.prompt, jnp.int32),
        weights=jnp.ones(rows, jnp.float32),
    )
    begun = time.perf_counter()
    compiled = step.lower(state, frozen, batch).compile()
    compile_seconds = time.perf_counter() - begun
    memory = compiled.memory_analysis()
    seconds, cpu_seconds, metrics = [], [], None
    for _ in range(arguments.steps + 1):
        begun, cpu_begun = time.perf_counter(), time.process_time()
        state, metrics = compiled(state, frozen, batch)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - begun)
        cpu_seconds.append(time.process_time() - cpu_begun)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    median = statistics.median(seconds[1:])
    # 2 FLOPs a weight forward; backward the same again for the activations, and for what is
    # trained. Attention (3 % here) and the embedding's look-up are left out on both sides.
    flops = rows * length * (4 * case["weights"] + 2 * case["trained"])
    best = gemm_gflops(arguments.dtype)
    return {
        "part": arguments.part,
        "dtype": arguments.dtype,
        "optimizer": arguments.optimizer,
        "remat": arguments.remat,
        "rows": rows,
        "length": length,
        "trained_weights": case["trained"],
        "step_seconds": round(median, 3),
        "step_seconds_min": round(min(seconds[1:]), 3),
        "step_seconds_max": round(max(seconds[1:]), 3),
        # On a machine with other work: what the step would need alone is this / cores.
        "step_cpu_seconds": round(statistics.median(cpu_seconds[1:]), 3),
        "tokens_per_second": round(rows * length / median, 1),
        "model_gflops_per_second": round(flops / median / 1e9, 1),
        "gemm_gflops_per_second": round(best, 1),
        "model_flops_utilisation": round(flops / median / 1e9 / best, 3),
        "compile_seconds": round(compile_seconds, 1),
        "temporaries_gib": round(memory.temp_size_in_bytes / 2**30, 2),
        "peak_gib": round(peak, 2),
        "loss": round(float(metrics.loss), 4) if metrics is not None else None,
        "jax": jax.__version__,
    }


def measure_packing(arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains the same sequences in three forms, in turn; the passes after the first are timed."""
    import jax
    import numpy as np

    from rsft_jax.training.batches import make_batches, pack_batches, padding_fraction

    case = setup(arguments)
    state, frozen, step = case["state"], case["frozen"], case["step"]
    del case["state"]
    generator = np.random.default_rng(0)
    # As completions are: most are short, some run to the limit.
    sizes = np.clip(generator.lognormal(np.log(48), 0.9, _NUM_PACKED), 4, 224).astype(int)
    prompts = [generator.integers(0, case["vocab_size"], 24) for _ in sizes]
    texts = [generator.integers(0, case["vocab_size"], size) for size in sizes]
    rows = arguments.rows
    forms = {
        "in_order": [
            batch
            for i in range(0, len(sizes), rows)
            for batch in make_batches(prompts[i : i + rows], texts[i : i + rows], batch_size=rows)
        ],
        "sorted": make_batches(prompts, texts, batch_size=rows),
        "packed": pack_batches(prompts, texts, batch_size=rows, row_length=arguments.length),
    }
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    metrics = None
    for _ in range(arguments.steps + 1):
        for name, batches in forms.items():
            begun = time.perf_counter()
            for batch in batches:
                state, metrics = step(state, frozen, batch)
            jax.block_until_ready(metrics)
            seconds[name].append(time.perf_counter() - begun)
    tokens = int(sum(sizes) + 24 * len(sizes))
    speeds = {name: tokens / statistics.median(values[1:]) for name, values in seconds.items()}
    return {
        "part": arguments.part,
        "dtype": arguments.dtype,
        "sequences": len(sizes),
        "tokens": tokens,
        "shapes": {name: len({b.tokens.shape for b in b_}) for name, b_ in forms.items()},
        "padding": {name: round(padding_fraction(b), 3) for name, b in forms.items()},
        "real_tokens_per_second": {name: round(speed, 1) for name, speed in speeds.items()},
        "packed_over_in_order": round(speeds["packed"] / speeds["in_order"], 2),
        "packed_over_sorted": round(speeds["packed"] / speeds["sorted"], 2),
        "jax": jax.__version__,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the figures of one case, or of the default ones."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=("all", "lora", "last"))
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--prompt", type=int, default=1, help="tokens of a row that are prompt")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    optimizers = ("adafactor", "adamw", "lion", "sgd")
    parser.add_argument("--optimizer", choices=optimizers, default="adamw")
    parser.add_argument("--packed", action="store_true", help="varied lengths in three forms")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--remat", choices=("none", "dots", "layers"), default="dots")
    arguments = parser.parse_args(argv)
    if arguments.part:
        measured = measure_packing(arguments) if arguments.packed else measure(arguments)
        print(json.dumps(measured), flush=True)
        return
    for case in CASES:
        command = [sys.executable, "-m", "rsft_jax.experiments.benchmarks.training", *case]
        subprocess.run([*command, "--steps", str(arguments.steps)], check=True)


if __name__ == "__main__":
    main()
