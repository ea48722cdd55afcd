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
import contextlib
import ctypes
import functools
import gc
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
_ROWS = (1, 2, 4, 8, 16, 32, 64)
_SHAPES = {"fixed 64": (8, 8), "fixed 8": (1, 8), "fixed 1": (1, 1)}


class Bench(NamedTuple):
    """The policy, and what `generate` is told about it."""

    model: Any
    params: Any
    tokenizer: Any
    dtype: str


def load(dtype: str) -> Bench:
    """SmolLM2-135M-Instruct in the given precision."""
    import jax

    from rsft_jax.interop import load_pretrained

    from ..language.assets import fetch

    pretrained = load_pretrained(fetch("smollm2-135m-instruct"), dtype=dtype)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), pretrained.params)
    return Bench(pretrained.model, params, pretrained.tokenizer, dtype)


def draw(bench: Bench, seed: int, prompts: Any, num: int, sampling: Any, **options: Any) -> Any:
    """One call of `generate`, waited for."""
    import jax

    from rsft_jax.generation import generate
    from rsft_jax.models import cache_fn, logits_fn

    return jax.block_until_ready(
        generate(
            jax.random.key(seed), logits_fn(bench.model), bench.params, prompts,
            num_candidates=num, sampling=sampling, init_cache=cache_fn(bench.model), **options,
        )
    )  # fmt: skip


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


def resident(*, trim: bool = False) -> float:
    """GiB that the process holds now; where the system does not say, the most so far.

    With `trim`, glibc first gives back what has been freed; elsewhere nothing happens.
    """
    pages = Path("/proc/self/statm")
    if trim:
        gc.collect()
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
    if pages.exists():
        return int(pages.read_text().split()[1]) * resource.getpagesize() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@contextlib.contextmanager
def watched_memory() -> Iterator[list[float]]:
    """A list that fills with `resident`, 20 times a second."""
    seen, over = [resident()], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            seen.append(resident())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


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
        # A verdict that hangs on every token and passes one in four.
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
        kept = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": folder,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        found = [run_case("first call", arguments.dtype, arguments, kept) for _ in range(2)]
    return {
        "cold_seconds": found[0]["seconds"],
        "cached_seconds": found[1]["seconds"],
        "programs": found[0]["programs"],
    }


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


def limit(rows: int, work: dict[str, float], can: dict[str, float]) -> float:
    """Tokens a second if a step took no longer than its reading, or its arithmetic."""
    reading = work["step_gb"] / can["gb_per_second"]
    return rows / max(reading, work["step_gflop"] / can["gflop_per_second"])


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
    return name | globals()[arguments.case.split()[0]](bench, arguments)


def picture(path: str, arguments: argparse.Namespace) -> None:
    """Tokens a second over rows, and the limit of the machine."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    known = {}
    if arguments.figures:
        for line in Path(arguments.figures).read_text().splitlines():
            found = json.loads(line)
            known[found["dtype"], found.get("rows")] = found
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for dtype, color, below in (("float32", "#4477aa", True), ("bfloat16", "#cc6677", False)):
        found = [
            known.get((dtype, rows)) or run_case(f"rows {rows}", dtype, arguments) for rows in _ROWS
        ]
        rates = [figures["tokens_per_second"] for figures in found]
        # One look at the machine varies by half: the median of those that the cases took.
        can = {
            name: statistics.median(figures[name] for figures in found)
            for name in ("gb_per_second", "gflop_per_second")
        }
        limits = [limit(rows, figures, can) for rows, figures in zip(_ROWS, found)]
        axes.plot(_ROWS, rates, "o-", color=color, label=f"{dtype}, measured")
        axes.plot(_ROWS, limits, "--", color=color, alpha=0.7, label=f"{dtype}, limit")
        for rows, rate in zip(_ROWS, rates):
            axes.annotate(
                f"{rate:.0f}", (rows, rate), (0, -13 if below else 6), color=color, fontsize=8,
                textcoords="offset points", ha="center",
            )  # fmt: skip
    axes.set(
        xscale="log", yscale="log", xlabel="rows decoded at once", ylabel="tokens per second",
        title="SmolLM2-135M on 2 cores: 64-token prompts, 128 new tokens, prefill included",
    )  # fmt: skip
    axes.title.set_fontsize(10)
    axes.set_xticks(_ROWS, [str(rows) for rows in _ROWS])
    ticks = (20, 50, 100, 200, 500, 1000, 2000)
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


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


def questions(count: int) -> list[str]:
    """Short questions, half of them arithmetic."""
    topics = (
        "Name three uses of",
        "Write a sentence about",
        "Explain to a child what is",
        "Describe",
    )
    things = ("a paper clip", "the sea", "a baker", "rain", "a prime number", "bees", "a grey cat")
    asked = []
    for i in range(count):
        a, b, c = 3 + 7 * i % 23, 2 + 5 * i % 17, 1 + i % 5
        asked.append(
            f"{topics[i // 2 % 4]} {things[i // 2 % 7]}."
            if i % 2
            else f"Ana has {a} coins, gets {b} more and gives {c} away. How many are left? "
            "Think step by step, then give the number."
        )
    return asked


def chat(question: str) -> str:
    """A question as the model's chat template has it."""
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the case given, or all default cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", help=f"one of {', '.join(CASES)}, or 'rows N'; by default all")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--picture", help="draw the roofline picture to this file and end")
    parser.add_argument("--figures", help="a file with lines of earlier runs, for the picture")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args(argv)
    if arguments.picture:
        picture(arguments.picture, arguments)
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
