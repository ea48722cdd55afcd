"""Tokens a second of `generate` on SmolLM2-135M: 64-token prompts, 128 new tokens, no stop.

    python -m rsft_jax.experiments.benchmarks.generation
    python -m rsft_jax.experiments.benchmarks.generation --dtype bfloat16 --prompts 1

The whole call is timed, prefill included, after one call that compiles; the median of the runs is
printed with the fastest, one JSON object a line. A case runs in a process of its own.
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

CASES = (("float32", 8), ("float32", 1), ("bfloat16", 8), ("bfloat16", 1))
"""(dtype, prompts); 8 candidates each."""


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Times one case."""
    import jax
    import jax.numpy as jnp

    from rsft_jax.experiments.assets import fetch
    from rsft_jax.generation import SamplingParams, generate
    from rsft_jax.interop import load_pretrained
    from rsft_jax.models import cache_fn, logits_fn

    pretrained = load_pretrained(fetch("smollm2-135m-instruct"), dtype=arguments.dtype)
    model = pretrained.model
    params = jax.tree.map(lambda leaf: leaf.astype(arguments.dtype), pretrained.params)
    del pretrained
    rows = arguments.prompts * arguments.candidates
    shape = (arguments.prompts, arguments.prompt_tokens)
    prompts = jax.random.randint(jax.random.key(1), shape, 0, model.config.vocab_size, jnp.int32)
    sampling = SamplingParams(max_new_tokens=arguments.new_tokens)

    def run(seed: int) -> float:
        start = time.perf_counter()
        completions = generate(
            jax.random.key(seed),
            logits_fn(model),
            params,
            prompts,
            num_candidates=arguments.candidates,
            sampling=sampling,
            init_cache=cache_fn(model),
            slots=rows,
        )
        jax.block_until_ready(completions)
        return time.perf_counter() - start

    first = run(0)
    seconds = [run(seed) for seed in range(1, arguments.runs + 1)]
    tokens = rows * arguments.new_tokens
    return {
        "dtype": arguments.dtype,
        "rows": rows,
        "tokens_per_second": round(tokens / statistics.median(seconds), 1),
        "fastest": round(tokens / min(seconds), 1),
        "first_call_seconds": round(first, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the case given, or all default cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args(argv)
    if arguments.dtype:
        print(json.dumps(measure(arguments)), flush=True)
        return
    for dtype, prompts in CASES:
        command = [sys.executable, "-m", "rsft_jax.experiments.benchmarks.generation"]
        command += ["--dtype", dtype, "--prompts", str(prompts), "--runs", str(arguments.runs)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
