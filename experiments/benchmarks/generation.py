"""Tokens a second of `generate` on SmolLM2-135M, and what they are of the machine's limit.

    python -m rsft_jax.experiments.benchmarks.generation
    python -m rsft_jax.experiments.benchmarks.generation --case natural --dtype bfloat16
    python -m rsft_jax.experiments.benchmarks.generation > figures.jsonl
    python -m rsft_jax.experiments.benchmarks.generation --picture roofline.png \
        --figures figures.jsonl

fixed    64-token prompts, 128 new tokens, no stop; P prompts x 8 candidates, and one of one
many     8 prompts x 8 candidates against 128 x 8, a quarter of the new tokens
natural  32 chat prompts x 8 candidates through 64 slots, until <|im_end|> or 256 tokens
early    2 accepted candidates for each of 64 prompts, at most 16 drawn, at a rate near 1/4
lookup   one prompt that repeats itself, one candidate, greedy: with and without a drafted block
compile  the default experiment's programs (64 slots, 64 new tokens) in two fresh processes, the
         second with the first one's persistent cache: a first call less the same call again

A whole call is timed, prefill included, after one call that compiles; the median of the runs is
printed with the fastest, one JSON object a line. A case runs in a process of its own.

The limit of a decoding step is the longer of two times: to read the weights and the cache once at
the machine's memory bandwidth, and to multiply at its rate; both are measured in the same process.

Memory is the resident size of the process: `held_gib` between the first call and the timed ones
(the weights, the runtime, the programs), `peak_gib` the most during the timed calls. Their
difference `drawing_gib` stands beside the formula of `rsft_jax.generation.generation_memory` for
what is not weights.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .memory import resident, watched_memory
from .policy import Bench, chat, draw, load, questions
from .roofline import ROWS, limit, machine, picture, step_work

CASES = (
    "fixed 64",
    "fixed 8",
    "fixed 1",
    "many prompts",
    "natural",
    "early",
    "lookup",
    "compile",
)
"""What a default run measures, each in float32 and bfloat16."""
_SHAPES = {"fixed 64": (8, 8), "fixed 8": (1, 8), "fixed 1": (1, 1)}


def timed(run: Callable[[int], int], runs: int) -> dict[str, float]:
    """Tokens a second of `run(seed) -> tokens`; the first call compiles."""
    start = time.perf_counter()
    run(0)
    first = time.perf_counter() - start
    rates, seconds = [], []
    held = resident(trim=True)
    with watched_memory() as peak:
        for seed in range(1, runs + 1):
            start = time.perf_counter()
            tokens = run(seed)
            seconds.append(time.perf_counter() - start)
            rates.append(tokens / seconds[-1])
    return {
        "tokens_per_second": round(statistics.median(rates), 1),
        "fastest": round(max(rates), 1),
        "first_call_seconds": round(first, 1),
        "seconds": round(statistics.median(seconds), 2),
        "held_gib": round(held, 2),
        "peak_gib": round(max(peak), 2),
        "drawing_gib": round(max(peak) - held, 2),
    }


def fixed(bench: Bench, prompts: int, candidates: int, arguments: argparse.Namespace) -> dict:
    """Prompts and completions of one length."""
    import jax
    import jax.numpy as jnp

    from rsft_jax.generation import SamplingParams

    shape = (prompts, arguments.prompt_tokens)
    vocab = bench.model.config.vocab_size
    tokens = jax.random.randint(jax.random.key(1), shape, 0, vocab, jnp.int32)
    sampling = SamplingParams(max_new_tokens=arguments.new_tokens)
    rows = prompts * candidates

    def run(seed: int) -> int:
        slots = min(rows, 64)
        return int(draw(bench, seed, tokens, candidates, sampling, slots=slots).lengths.sum())

    figures = timed(run, arguments.runs)
    formula = memory(bench, rows, prompts, arguments)
    figures["drawing_formula_gib"] = round((formula.total - formula.weights) / 2**30, 2)
    figures["weights_gib"] = round(formula.weights / 2**30, 2)
    busy = min(rows, 64)
    work = step_work(bench, busy, arguments.prompt_tokens + arguments.new_tokens)
    can = machine(bench.dtype)
    share = figures["tokens_per_second"] / limit(busy, work, can)
    return {"prompts": prompts, "rows": rows} | figures | work | can | {"of_limit": round(share, 2)}


def many(bench: Bench, arguments: argparse.Namespace) -> dict:
    """Sixteen times as many prompts through the same slots."""
    import jax
    import jax.numpy as jnp

    from rsft_jax.generation import SamplingParams

    shape = (128, arguments.prompt_tokens)
    tokens = jax.random.randint(
        jax.random.key(1), shape, 0, bench.model.config.vocab_size, jnp.int32
    )
    sampling = SamplingParams(max_new_tokens=max(arguments.new_tokens // 4, 1))

    def rate(seed: int, prompts: int) -> float:
        start = time.perf_counter()
        drawn = draw(bench, seed, tokens[:prompts], 8, sampling, slots=64)
        return int(drawn.lengths.sum()) / (time.perf_counter() - start)

    rate(0, 8)  # the same programs
    before, more, after = rate(1, 8), rate(2, 128), [rate(seed, 8) for seed in (3, 4)]
    few = statistics.median([before, *after])
    return {
        "few_tokens_per_second": round(few, 1),
        "tokens_per_second": round(more, 1),
        "cost_of_many": round(few / more, 3),
    }


def natural(bench: Bench, arguments: argparse.Namespace) -> dict:
    """Completions that end when the policy ends them, of a quarter as many slots."""
    from rsft_jax.generation import SamplingParams

    prompts = [bench.tokenizer.encode(chat(q)) for q in questions(32)]
    end = bench.tokenizer.encode("<|im_end|>")[0]
    sampling = SamplingParams(max_new_tokens=256, stop_token_ids=(end,))
    last: list[Any] = []

    def run(seed: int) -> int:
        drawn = draw(bench, seed, prompts, 8, sampling, slots=64, on_progress=last.append)
        return int(drawn.lengths.sum())

    figures = timed(run, min(arguments.runs, 3))
    use = last[-1].tokens / last[-1].slot_steps
    return figures | {"completions": 256, "slot_use": round(use, 3), "programs": last[-1].programs}


def early(bench: Bench, arguments: argparse.Namespace) -> dict:
    """Two accepted candidates a prompt against sixteen candidates for all."""
    import jax
    import numpy as np

    from rsft_jax.generation import SamplingParams, generate_accepted
    from rsft_jax.models import cache_fn, logits_fn
    from rsft_jax.selection import threshold

    prompts = [bench.tokenizer.encode(chat(q))[:64] for q in questions(64)]
    sampling = SamplingParams(max_new_tokens=32)

    def reward(rows: Any, tokens: Sequence[Any]) -> Any:
        # A verdict that depends on every token and passes one in four.
        return np.array(
            [float(zlib.crc32(np.asarray(t, np.int32).tobytes()) % 4 == 0) for t in tokens]
        )

    def run(seed: int) -> Any:
        return generate_accepted(
            jax.random.key(seed), logits_fn(bench.model), bench.params, prompts, reward=reward,
            rule=threshold(1.0), num_accepted=2, max_candidates=16, sampling=sampling, slots=64,
            init_cache=cache_fn(bench.model),
        )  # fmt: skip

    run(0)
    start = time.perf_counter()
    out = run(1)
    seconds = time.perf_counter() - start
    accepted = int(out.selection.accepted.sum())
    everything = 64 * 16 * 32
    return {
        "accepted_per_second": round(accepted / seconds, 1),
        "accepted": accepted,
        "acceptance_rate": round(accepted / int(out.tried.sum()), 3),
        "tokens": int(out.drawn_tokens),
        "tokens_saved": round(everything / int(out.drawn_tokens), 2),
        "judged_share": round(int(out.tried.sum()) * 32 / int(out.drawn_tokens), 3),
        "tokens_per_second": round(int(out.drawn_tokens) / seconds, 1),
    }


def lookup(bench: Bench, arguments: argparse.Namespace) -> dict:
    """One row, where a step is bound by reading the weights: drafts looked up in the text."""
    from rsft_jax.generation import NgramDraft, SamplingParams, Speculative
    from rsft_jax.models import cache_fn, logits_fn

    text = "Write this list again, word for word: apples, pears, plums, figs, dates, grapes, limes."
    prompts = [bench.tokenizer.encode(chat(text))]
    sampling = SamplingParams(max_new_tokens=64, temperature=0.0)
    draft = NgramDraft(2, bench.model.config.vocab_size)
    policy = Speculative(logits_fn(bench.model), cache_fn(bench.model), draft, 4)

    def plain(seed: int) -> int:
        return int(draw(bench, seed, prompts, 1, sampling, slots=1).lengths.sum())

    steps: list[float] = []

    def drafted(seed: int) -> int:
        import jax

        from rsft_jax.generation import generate

        drawn = generate(
            jax.random.key(seed), policy, (bench.params, None), prompts, num_candidates=1,
            sampling=sampling, init_cache=policy.init_cache, slots=1,
        )  # fmt: skip
        assert drawn.steps is not None
        steps.append(float(drawn.lengths.sum()) / float(drawn.steps.sum()))
        return int(drawn.lengths.sum())

    without, with_ = timed(plain, arguments.runs), timed(drafted, arguments.runs)
    return {
        "plain_tokens_per_second": without["tokens_per_second"],
        "tokens_per_second": with_["tokens_per_second"],
        "tokens_per_step": round(steps[-1], 2),
    }


def first_call(bench: Bench) -> dict:
    """Seconds that a first call takes more than the same call again."""
    from rsft_jax.generation import SamplingParams

    prompts = [bench.tokenizer.encode(chat(q)) for q in questions(8)]
    end = bench.tokenizer.encode("<|im_end|>")[0]
    sampling = SamplingParams(max_new_tokens=64, stop_token_ids=(end,))

    def few_stay(tokens: Any) -> int | None:  # most end at the first look, so that slots go
        return None if tokens[-1] % 8 == 0 else len(tokens)

    def seconds() -> float:
        start = time.perf_counter()
        draw(bench, 0, prompts, 8, sampling, slots=64, stop=few_stay, on_progress=last.append)
        return time.perf_counter() - start

    last: list[Any] = []
    first = seconds()
    return {"seconds": round(first - seconds(), 2), "programs": last[-1].programs}


def compile_times(arguments: argparse.Namespace) -> dict:
    """The first call in a fresh process without a persistent cache, and in one that has it."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": folder,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        cold, cached = (
            run_case("first call", arguments.dtype, arguments, environment) for _ in range(2)
        )
    return {
        "cold_seconds": cold["seconds"],
        "cached_seconds": cached["seconds"],
        "programs": cold["programs"],
    }


def memory(bench: Bench, rows: int, prompts: int, arguments: argparse.Namespace) -> Any:
    """Bytes by the formula of `rsft_jax.generation.generation_memory`."""
    from rsft_jax.generation import generation_memory
    from rsft_jax.models import cache_fn, logits_fn

    slots = min(rows, 64)
    return generation_memory(
        logits_fn(bench.model),
        bench.params,
        init_cache=cache_fn(bench.model),
        slots=slots,
        prompt_length=arguments.prompt_tokens,
        max_new_tokens=arguments.new_tokens,
        prompts_at_once=min(prompts, -(-slots * prompts // rows)),
    )


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs one case."""
    name = {"case": arguments.case, "dtype": arguments.dtype}
    if arguments.case == "compile":
        return name | compile_times(arguments)
    bench = load(arguments.dtype)
    if arguments.case in _SHAPES:
        return name | fixed(bench, *_SHAPES[arguments.case], arguments)
    if arguments.case.startswith("rows "):
        return name | fixed(bench, 1, int(arguments.case.split()[1]), arguments)
    if arguments.case == "first call":
        return name | first_call(bench)
    cases = {"many prompts": many, "natural": natural, "early": early, "lookup": lookup}
    return name | cases[arguments.case](bench, arguments)


def known_figures(path: str | None) -> dict[tuple[str, int | None], dict[str, Any]]:
    """What earlier runs printed to a file, by dtype and rows."""
    if path is None:
        return {}
    lines = map(json.loads, Path(path).read_text().splitlines())
    return {(figures["dtype"], figures.get("rows")): figures for figures in lines}


def draw_roofline(arguments: argparse.Namespace) -> None:
    """Draws the picture; what no earlier run has measured is measured first."""
    known = known_figures(arguments.figures)
    figures = {
        dtype: [
            known.get((dtype, rows)) or run_case(f"rows {rows}", dtype, arguments) for rows in ROWS
        ]
        for dtype in ("float32", "bfloat16")
    }
    picture(arguments.picture, figures)


def run_case(
    case: str, dtype: str, arguments: argparse.Namespace, environment: Any = None
) -> dict[str, Any]:
    """One case in a process of its own; its figures, which are printed too."""
    command = [sys.executable, "-m", "rsft_jax.experiments.benchmarks.generation"]
    command += ["--case", case, "--dtype", dtype, "--runs", str(arguments.runs)]
    command += ["--prompt-tokens", str(arguments.prompt_tokens)]
    command += ["--new-tokens", str(arguments.new_tokens)]
    line = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=environment
    ).stdout
    if case != "first call":
        print(line, end="", flush=True)
    return json.loads(line.splitlines()[-1])


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the case given, or all default cases."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--case", help=f"one of {', '.join(CASES)}, or 'rows N'; by default all")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--picture", help="draw the roofline picture to this file and end")
    parser.add_argument("--figures", help="a file with lines of earlier runs, for the picture")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args(argv)
    if arguments.picture:
        draw_roofline(arguments)
        return
    known = (*CASES, "first call")
    if arguments.case and arguments.case not in known and not arguments.case.startswith("rows "):
        parser.error(f"--case must be one of {', '.join(CASES)}, or 'rows N'")
    if arguments.case and arguments.dtype:
        print(json.dumps(measure(arguments)), flush=True)
        return
    dtypes = [arguments.dtype] if arguments.dtype else ["float32", "bfloat16"]
    for case in [arguments.case] if arguments.case else CASES:
        for dtype in dtypes:
            run_case(case, dtype, arguments)


if __name__ == "__main__":
    main()
