"""Speed and memory of a training step on SmolLM2-135M: seconds, tokens/s, compile time, peak.

    python -m rsft_jax.experiments.benchmarks.training                  the two default cases
    python -m rsft_jax.experiments.benchmarks.training --part all --rows 8 --length 256

Every position but the first is trained, so that the figures compare with a plain loop that takes
the loss on all of them (`--prompt` makes the first tokens of each row a prompt instead). One JSON
object a line; a case runs in a process of its own, so that its peak memory is its own.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

CASES = (("lora", 8, 128), ("all", 8, 256))
"""(part, rows, tokens a row)."""


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Times one case; the first step, which compiles, is timed apart."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from rsft_jax.data.batches import Batch
    from rsft_jax.experiments.assets import fetch
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
    tx = make_optimizer(learning_rate=1e-5, clip_norm=1.0)
    state, frozen = create_train_state(model, part, pretrained.params, tx)
    weights = sum(x.size for x in jax.tree.leaves(pretrained.params))
    trained = sum(x.size for x in jax.tree.leaves(state.params))
    del pretrained

    rows, length = arguments.rows, arguments.length
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (rows, length))
    batch = Batch(
        tokens=jnp.asarray(ids, jnp.int32),
        positions=jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (rows, length)),
        completion_start=jnp.full(rows, arguments.prompt, jnp.int32),
        completion_length=jnp.full(rows, length - arguments.prompt, jnp.int32),
        weights=jnp.ones(rows, jnp.float32),
    )
    step = make_train_step(model, part, accumulate=arguments.accumulate)
    begun = time.perf_counter()
    compiled = step.lower(state, frozen, batch).compile()  # pyright: ignore
    compile_seconds = time.perf_counter() - begun
    memory = compiled.memory_analysis()
    seconds, cpu_seconds = [], []
    for _ in range(arguments.steps + 1):
        begun, cpu_begun = time.perf_counter(), time.process_time()
        state, metrics = compiled(state, frozen, batch)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - begun)
        cpu_seconds.append(time.process_time() - cpu_begun)
    median = statistics.median(seconds[1:])
    # 2 FLOPs a weight forward; backward the same again for the activations, and for what is
    # trained. Attention (3 % here) and the embedding's look-up are left out on both sides.
    flops = rows * length * (4 * weights + 2 * trained)
    return {
        "part": arguments.part,
        "dtype": arguments.dtype,
        "rows": rows,
        "length": length,
        "trained_weights": trained,
        "step_seconds": round(median, 3),
        "step_seconds_min": round(min(seconds[1:]), 3),
        "step_seconds_max": round(max(seconds[1:]), 3),
        # On a machine with other work: what the step would need alone is this / cores.
        "step_cpu_seconds": round(statistics.median(cpu_seconds[1:]), 3),
        "tokens_per_second": round(rows * length / median, 1),
        "model_gflops_per_second": round(flops / median / 1e9, 1),
        "compile_seconds": round(compile_seconds, 1),
        "temporaries_gib": round(memory.temp_size_in_bytes / 2**30, 2),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "loss": round(float(metrics.loss), 4),
        "jax": jax.__version__,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the figures of one case, or of the default ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("all", "lora", "last"))
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--prompt", type=int, default=1, help="tokens of a row that are prompt")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--remat", choices=("none", "dots", "layers"), default="layers")
    arguments = parser.parse_args(argv)
    if arguments.part:
        print(json.dumps(measure(arguments)), flush=True)
        return
    for part, rows, length in CASES:
        command = [sys.executable, "-m", "rsft_jax.experiments.benchmarks.training"]
        command += ["--part", part, "--rows", str(rows), "--length", str(length)]
        command += ["--dtype", arguments.dtype, "--steps", str(arguments.steps)]
        subprocess.run([*command, "--remat", arguments.remat], check=True)


if __name__ == "__main__":
    main()
