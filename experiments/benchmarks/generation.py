"""Tokens a second of `generate` on SmolLM2-135M, and what they are of the machine's limit.

    python -m rsft_jax.experiments.benchmarks.generation
    python -m rsft_jax.experiments.benchmarks.generation --case natural --dtype bfloat16
    python -m rsft_jax.experiments.benchmarks.generation --picture roofline.png

fixed    64-token prompts, 128 new tokens, no stop; P prompts x 8 candidates, and one of one
natural  32 chat prompts x 8 candidates through 64 slots, until <|im_end|> or 256 tokens
early    2 accepted candidates for each of 64 prompts, at most 16 drawn, at a rate near 1/4
lookup   one prompt that repeats itself, one candidate, greedy: with and without a drafted block

A whole call is timed, prefill included, after one call that compiles; the median of the runs is
printed with the fastest, one JSON object a line. A case runs in a process of its own.

The limit of a decoding step is the longer of two times: to read the weights and the cache once at
the machine's memory bandwidth, and to multiply at its rate; both are measured in the same process.
"""

import argparse
import functools
import json
import math
import resource
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

CASES = (
    "fixed 64",
    "fixed 8",
    "fixed 1",
    "many prompts",
    "natural",
    "early",
    "lookup",
)
"""What a default run measures, each in float32 and bfloat16."""
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Bench(NamedTuple):
    """The policy, and what `generate` is told about it."""

    model: Any
    params: Any
    tokenizer: Any
    dtype: str


def load(dtype: str) -> Bench:
    """SmolLM2-135M-Instruct in the given precision."""
    import jax

    from rsft_jax.experiments.assets import fetch
    from rsft_jax.interop import load_pretrained

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
    limit = step_limit(bench, min(rows, 64), arguments.prompt_tokens + arguments.new_tokens)
    share = figures["tokens_per_second"] * limit / min(rows, 64)
    return {"prompts": prompts, "rows": rows} | figures | {"of_limit": round(share, 2)}


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


@functools.cache
def machine(dtype: str) -> tuple[float, float]:
    """Measured bytes and multiply-adds x 2 a second, both with every core."""
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
    flops = 2 * size**3 / best(product, a, a)
    x = jnp.ones((2**16, 2**11), jnp.float32)
    return x.nbytes / best(jax.jit(lambda x: x.sum(axis=1)), x), flops


def step_limit(bench: Bench, rows: int, length: int) -> float:
    """Seconds that a decoding step takes at least."""
    import jax

    from rsft_jax.models import cache_fn

    bandwidth, flops = machine(bench.dtype)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(bench.params))
    cache = jax.eval_shape(lambda: cache_fn(bench.model)(rows, length))
    read = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache))
    numbers = sum(leaf.size for leaf in jax.tree.leaves(bench.params))
    c = bench.model.config
    work = 2 * numbers + 4 * c.num_layers * c.num_heads * c.head_dim * length
    return max((weights + read) / bandwidth, rows * work / flops)


def memory(bench: Bench, rows: int, length: int) -> float:
    """GiB: the weights, one cache for the slots, and the logits of one step (and its mass)."""
    import jax

    from rsft_jax.models import cache_fn

    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(bench.params))
    cache = jax.eval_shape(lambda: cache_fn(bench.model)(rows, length))
    held = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache))
    return (weights + held + rows * bench.model.config.vocab_size * 4) / 2**30


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs one case."""
    bench = load(arguments.dtype)
    shapes = {"fixed 64": (8, 8), "fixed 8": (1, 8), "fixed 1": (1, 1), "many prompts": (128, 1)}
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if arguments.case in shapes:
        figures = fixed(bench, *shapes[arguments.case], arguments)
        rows = min(figures["rows"], 64)
        length = arguments.prompt_tokens + arguments.new_tokens
        figures["memory_formula_gib"] = round(memory(bench, rows, length), 2)
    elif arguments.case.startswith("rows "):
        figures = fixed(bench, 1, int(arguments.case.split()[1]), arguments)
    else:
        figures = globals()[arguments.case](bench, arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    figures |= {"loaded_gib": round(loaded, 2), "peak_gib": round(peak, 2)}
    return {"case": arguments.case, "dtype": arguments.dtype} | figures


def picture(path: str, arguments: argparse.Namespace) -> None:
    """Tokens a second over rows, and the two limits of the machine."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for dtype, color in (("float32", "#4477aa"), ("bfloat16", "#cc6677")):
        found = [run_case(f"rows {rows}", dtype, arguments) for rows in _ROWS]
        rates = [figures["tokens_per_second"] for figures in found]
        limits = [f["tokens_per_second"] / f["of_limit"] for f in found]
        axes.plot(_ROWS, rates, "o-", color=color, label=f"{dtype}, measured")
        axes.plot(_ROWS, limits, "--", color=color, alpha=0.6, label=f"{dtype}, limit")
    axes.set(
        xscale="log", yscale="log", xlabel="rows decoded at once", ylabel="tokens per second",
        title="SmolLM2-135M, 64 + 128 tokens, prefill included",
    )  # fmt: skip
    axes.set_xticks(_ROWS, [str(rows) for rows in _ROWS])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def run_case(case: str, dtype: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One case in a process of its own; its figures, which are printed too."""
    command = [sys.executable, "-m", "rsft_jax.experiments.benchmarks.generation"]
    command += ["--case", case, "--dtype", dtype, "--runs", str(arguments.runs)]
    command += ["--prompt-tokens", str(arguments.prompt_tokens)]
    command += ["--new-tokens", str(arguments.new_tokens)]
    line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
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
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args(argv)
    if arguments.picture:
        picture(arguments.picture, arguments)
        return
    if arguments.case and arguments.case not in CASES and not arguments.case.startswith("rows "):
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
