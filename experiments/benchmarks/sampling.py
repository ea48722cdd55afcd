"""How fast the samplers are, beside what one would write without them.

    python -m rsft_jax.experiments.benchmarks.sampling [--quick]

Peers run in the same process and in turn with ours (A B A B), so that what else the machine does
meets both: NumPy, the one-at-a-time loop of a textbook, `jax.random`, and PyTorch where it is
installed. Times are medians with the least beside them. Bytes are those that the algorithm must
read once; the last column is the share of the read bandwidth measured at the start.
"""

import argparse
import contextlib
import importlib
import math
import os
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax.numerics.counting import running_count
from rsft_jax.numerics.keys import counter_bits, log_uniform, numbered_key, unrolled_key
from rsft_jax.sampling import (
    greedy_token,
    rejection_sample,
    rejection_sample_from,
    sample_categorical,
    speculative_sample,
    top_k,
    top_p,
)

torch: Any = None  # a module, where it is installed
with contextlib.suppress(ImportError):
    torch = importlib.import_module("torch")

SCALE = 1.5  # the continuous problem: N(0, 1) from N(0, 1.5^2), two thirds accepted


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="small shapes, to see that it runs")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args(argv)
    repeats = 1 if options.quick else options.repeats
    if torch is None:
        print("PyTorch is not installed: no rows of it")
    else:
        torch.set_num_threads(_cores())
    bandwidth = read_bandwidth(2**22 if options.quick else 2**27)
    print(f"jax {jax.__version__}, {_cores()} cores, reads {bandwidth / 1e9:.1f} GB/s; {_load()}")
    scale = 32 if options.quick else 1
    for section in (tokens, transforms, rejection, speculative, continuous):
        title, work, rows = section(scale)
        print(f"\n{title}")
        report(in_turn(rows, repeats), work, bandwidth)
    print(f"\n{_load()}")


def tokens(scale):
    """One token per row."""
    rows, vocab = 64, 49152 // scale
    logits = 3 * jax.random.normal(jax.random.key(1), (rows, vocab))
    key = jax.random.key(0)

    def ours(columns):
        draw = jax.jit(lambda k, x: sample_categorical(jax.random.uniform(k, (rows, *columns)), x))
        return lambda: draw(key, logits)

    gumbel, greedy = jax.jit(jax.random.categorical), jax.jit(greedy_token)
    cases = {
        "sample_categorical, one uniform": ours(()),
        "sample_categorical, two uniforms": ours((2,)),
        "jax.random.categorical": lambda: gumbel(key, logits),
        "greedy_token": lambda: greedy(logits),
        "jnp.argmax": _jit_on(lambda x: x.argmax(-1), logits),
    }
    if torch:
        x = torch.tensor(np.asarray(logits))
        cases["torch.multinomial"] = lambda: torch.multinomial(x.softmax(-1), 1)
        cases["torch inverse CDF"] = lambda: _torch_draw(x.softmax(-1))
    return f"token draw [{rows}, {vocab}]", {"bytes": logits.nbytes}, cases


def transforms(scale):
    """Truncations."""
    rows, vocab = 64, 49152 // scale
    logits = 3 * jax.random.normal(jax.random.key(1), (rows, vocab))
    cases = {
        "top_k 50": _jit_on(lambda x: top_k(x, 50), logits),
        "top_k 1000": _jit_on(lambda x: top_k(x, 1000), logits),
        "top_p 0.9": _jit_on(lambda x: top_p(x, 0.9), logits),
        "jnp.sort": _jit_on(lambda x: jnp.sort(x, axis=-1), logits),
    }
    if torch:
        x = torch.tensor(np.asarray(logits))
        cases["torch.topk 50, values alone"] = lambda: x.topk(50)
        cases["torch.topk 50, logits masked"] = lambda: _torch_top_k(x, 50)
        cases["torch.sort"] = lambda: x.sort()
    return f"truncation [{rows}, {vocab}]", {"bytes": logits.nbytes}, cases


def rejection(scale):
    """Accept-reject over a vocabulary; the yardstick is one log-sum-exp of both arrays."""
    rows, vocab = 4096 // scale, 32000 // scale
    q = 2 * jax.random.normal(jax.random.key(1), (rows, vocab))
    p = q + 0.3 * jax.random.normal(jax.random.key(2), (rows, vocab))
    key = jax.random.key(3)
    both = jax.jit(lambda a, b: (jax.nn.logsumexp(a, -1), jax.nn.logsumexp(b, -1)))
    some_q, some_p = np.asarray(q[:8]), np.asarray(p[:8])

    def one_at_a_time():  # a textbook: a whole pass over the vocabulary for each row
        rng = np.random.default_rng(0)
        for a, b in zip(some_q, some_p):
            law_q, law_p = np.exp(a - a.max()), np.exp(b - b.max())
            law_q, law_p = law_q / law_q.sum(), law_p / law_p.sum()
            envelope = (law_p / law_q).max()
            while True:
                x = rng.choice(law_q.size, p=law_q / law_q.sum(dtype=np.float64))
                if rng.random() < law_p[x] / (envelope * law_q[x]):
                    break

    cases = {
        "logsumexp of both (the yardstick)": lambda: both(q, p),
        "rejection_sample, exact envelope": lambda: rejection_sample(key, q, p),
        "rejection_sample, plain rule": lambda: rejection_sample(key, q, p, log_envelope=0.0),
        "NumPy, 8 rows one at a time": one_at_a_time,
    }
    if torch:
        tq, tp = torch.tensor(np.asarray(q)), torch.tensor(np.asarray(p))
        cases["torch.logsumexp of both"] = lambda: (tq.logsumexp(-1), tp.logsumexp(-1))
        cases["torch, all rows, until accepted"] = lambda: _torch_rejection(tq, tp)
    return f"rejection_sample [{rows}, {vocab}]", {"bytes": 2 * q.nbytes}, cases


def speculative(scale):
    """Draft verification."""
    rows, drafts, vocab = 64 // min(scale, 8), 8, 49152 // scale
    target = 2 * jax.random.normal(jax.random.key(1), (rows, drafts + 1, vocab))
    draft = target[:, :drafts] + 0.5 * jax.random.normal(jax.random.key(2), (rows, drafts, vocab))
    token = sample_categorical(jax.random.uniform(jax.random.key(3), (rows, drafts, 2)), draft)
    key = jax.random.key(4)
    dense = jax.jit(_dense)
    cases = {
        "speculative_sample, token": lambda: speculative_sample(key, token, draft, target),
        "speculative_sample, block": lambda: speculative_sample(
            key, token, draft, target, verification="block"
        ),
        "JAX, dense": lambda: dense(key, token, draft, target),
    }
    if torch:
        arrays = [torch.tensor(np.asarray(a)) for a in (token, draft, target)]
        arrays[0] = arrays[0].long()
        cases["torch, dense"] = lambda: _torch_dense(*arrays)
        cases["torch, lean"] = lambda: _torch_lean(*arrays)
    work = {"bytes": target.nbytes + draft.nbytes}
    return f"speculative [{rows}, {drafts}, {vocab}]", work, cases


def continuous(scale):
    """Accepted draws per second of N(0, 1) from N(0, 1.5^2)."""
    number = 4_000_000 // scale
    key = jax.random.key(0)

    def sampler(method):
        return lambda: rejection_sample_from(
            key, _propose, _log_ratio, log_envelope=0.0, num_samples=number, method=method
        )

    # A caller under jit who takes the values alone does not pay for the other fields.
    value = jax.jit(
        lambda k: (
            rejection_sample_from(
                k, _propose, _log_ratio, log_envelope=0.0, num_samples=number
            ).value
        )
    )
    few = max(number // 200, 1000)
    cases = {
        "rejection_sample_from, blocks": sampler("blocks"),
        "the same, values alone, under jit": lambda: value(key),
        "rejection_sample_from, lanes": sampler("lanes"),
        "NumPy, chunks": lambda: _numpy_continuous(number),
        f"Python, one at a time (x {few})": lambda: _python_continuous(few),
    }
    cases |= _continuous_parts(number)
    works = dict.fromkeys(cases, number)
    works[f"Python, one at a time (x {few})"] = few
    if torch:
        tensors = few // 20
        cases["torch, chunks"] = lambda: _torch_continuous(number)
        cases[f"torch, one at a time (x {tensors})"] = lambda: _torch_one_at_a_time(tensors)
        parts = {"  of it: torch.randn": torch.randn, "  of it: torch.rand": torch.rand}
        for name, draw in parts.items():
            cases[name] = lambda draw=draw: [draw(1 << 16) for _ in range(number * 3 // 2 >> 16)]
            works[name] = number
        works |= {"torch, chunks": number, f"torch, one at a time (x {tensors})": tensors}
    return "continuous: N(0, 1) from N(0, 1.5^2), two thirds accepted", {"draws": works}, cases


def _continuous_parts(number):
    """The parts of our time, on as many proposals as `number` values take: the profile."""
    block = min(1 << 18, number)
    turns = -(-number * 3 // 2 // block)
    draw_key, accept_key = jax.random.split(unrolled_key(jax.random.key(0)))
    index = jnp.arange(block, dtype=jnp.int32)

    def draw(key):
        return jax.vmap(lambda i: _propose(numbered_key(key, i)))(index.astype(jnp.uint32))

    def log_u(key):
        return log_uniform(counter_bits(key, index.astype(jnp.uint32)))

    def pack(mask, values):
        at = jnp.where(mask, running_count(mask) - 1, block)
        source = jnp.zeros((block + 1,), jnp.int32)
        source = source.at[at].set(index, mode="promise_in_bounds")[:block]
        return values.at[source].get(mode="promise_in_bounds")

    def often(function, *arguments):
        compiled = jax.jit(function)
        return lambda: [compiled(*arguments) for _ in range(turns)]

    values = draw(draw_key)
    return {
        "  of it: proposals": often(draw, draw_key),
        "  of it: log u of the acceptance": often(log_u, accept_key),
        "  of it: packing the values": often(pack, values > -0.6, values),
    }


def in_turn(cases: dict[str, Callable], repeats: int) -> dict[str, list[float]]:
    """Times all cases in turn, `repeats` times round, after one round to warm up."""
    times = {name: [] for name in cases}
    for turn in range(repeats + 1):
        for name, call in cases.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def report(times, work, bandwidth):
    """Prints a row for each case."""
    for name, seconds in times.items():
        median, least = statistics.median(seconds), min(seconds)
        line = f"  {name:38s} {1e3 * median:9.2f} ms (least {1e3 * least:.2f})"
        if "bytes" in work and "8 rows" not in name:
            rate = work["bytes"] / least
            line += f"  {work['bytes'] / 1e6:7.1f} MB {100 * rate / bandwidth:5.1f} % of bandwidth"
        if "draws" in work:
            line += f"  {work['draws'][name] / median / 1e6:9.4f} M draws/s"
        print(line, flush=True)


def read_bandwidth(words):
    """Bytes per second of a float32 sum over an array that no cache holds."""
    x = jnp.ones((words // 1024, 1024))
    total = jax.jit(lambda x: x.sum(axis=-1))
    times = in_turn({"sum": lambda: total(x)}, 5)["sum"]
    return x.nbytes / min(times)


def _propose(key):
    return SCALE * jax.random.normal(key)


def _log_ratio(x):
    return x * x * (0.5 / SCALE**2 - 0.5)


def _jit_on(function, *arrays):
    compiled = jax.jit(function)
    return lambda: compiled(*arrays)


def _dense(key, token, draft, target):
    """A residual and a draw at every position, as a first version has it."""
    rows, drafts = token.shape
    p, q = jax.nn.softmax(target), jax.nn.softmax(draft)
    accept_key, residual_key, bonus_key = jax.random.split(key, 3)
    at = token[..., None]
    ratio = jnp.take_along_axis(p[:, :drafts], at, -1) / jnp.take_along_axis(q, at, -1)
    kept = jnp.cumprod(jax.random.uniform(accept_key, (rows, drafts)) < ratio[..., 0], axis=1)
    number = kept.sum(axis=1)
    residual = jax.random.categorical(residual_key, jnp.log(jnp.maximum(p[:, :drafts] - q, 1e-38)))
    bonus = jax.random.categorical(bonus_key, target[:, drafts])
    last = jnp.take_along_axis(residual, jnp.minimum(number, drafts - 1)[:, None], 1)[:, 0]
    return jnp.where(kept > 0, token, -1), number, jnp.where(number == drafts, bonus, last)


def _numpy_continuous(number, chunk=1 << 16):
    rng = np.random.default_rng(0)
    out, have = np.empty(number, np.float32), 0
    slope = np.float32(0.5 / SCALE**2 - 0.5)
    while have < number:
        x = rng.standard_normal(chunk, np.float32) * np.float32(SCALE)
        x = x[rng.random(chunk, np.float32) < np.exp(slope * x * x)]
        take = min(len(x), number - have)
        out[have : have + take] = x[:take]
        have += take
    return out


def _python_continuous(number):
    gauss, uniform, exp, slope = random.gauss, random.random, math.exp, 0.5 / SCALE**2 - 0.5
    out = []
    while len(out) < number:
        x = gauss(0.0, SCALE)
        if uniform() < exp(slope * x * x):
            out.append(x)


def _torch_continuous(number, chunk=1 << 16):
    out, have = torch.empty(number), 0
    while have < number:
        x = torch.randn(chunk) * SCALE
        x = x[torch.rand(chunk) < torch.exp(x * x * (0.5 / SCALE**2 - 0.5))]
        take = min(len(x), number - have)
        out[have : have + take] = x[:take]
        have += take


def _torch_one_at_a_time(number):
    out = []
    while len(out) < number:
        x = torch.randn(1) * SCALE
        if torch.rand(()) < torch.exp((x * x).sum() * (0.5 / SCALE**2 - 0.5)):
            out.append(x)
    torch.stack(out)


def _torch_draw(mass):
    running = mass.cumsum(-1)
    at = torch.rand(mass.shape[0], 1) * running[:, -1:]
    return torch.searchsorted(running, at)[:, 0].clamp(max=mass.shape[1] - 1)


def _torch_top_k(logits, k):
    return logits.masked_fill(logits < logits.topk(k).values[:, -1:], -torch.inf)


def _torch_rejection(q, p):
    envelope = (p - q).amax(-1)
    running = (q - q.amax(-1, keepdim=True)).exp().cumsum(-1)
    row = torch.arange(q.shape[0])
    value = torch.full((q.shape[0],), -1)
    for _ in range(64):
        at = torch.rand(len(row), 1) * running[row, -1:]
        x = torch.searchsorted(running[row], at)[:, 0].clamp(max=q.shape[1] - 1)
        accept = torch.rand(len(row)).log() < p[row, x] - q[row, x] - envelope[row]
        value[row[accept]] = x[accept]
        row = row[~accept]
        if not len(row):
            break
    return value


def _torch_dense(token, draft, target):
    rows, drafts = token.shape
    p, q = target.softmax(-1), draft.softmax(-1)
    ratio = p[:, :drafts].gather(-1, token[..., None]) / q.gather(-1, token[..., None])
    kept = (torch.rand(rows, drafts) < ratio[..., 0]).cumprod(1)
    residual = (p[:, :drafts] - q).clamp_(min=torch.finfo(torch.float32).tiny)
    drawn = residual.div_(torch.empty_like(residual).exponential_()).argmax(-1)
    bonus = torch.multinomial(p[:, drafts], 1)[:, 0]
    number = kept.sum(1)
    last = drawn.gather(1, number.clamp(max=drafts - 1)[:, None])[:, 0]
    return torch.where(number == drafts, bonus, last)


def _torch_lean(token, draft, target):
    rows, drafts = token.shape
    norm_p, norm_q = target.logsumexp(-1), draft.logsumexp(-1)
    log_p = target[:, :drafts].gather(-1, token[..., None])[..., 0] - norm_p[:, :drafts]
    log_q = draft.gather(-1, token[..., None])[..., 0] - norm_q
    number = (torch.rand(rows, drafts).log() < log_p - log_q).cumprod(1).sum(1)
    row, place = torch.arange(rows), number.clamp(max=drafts - 1)
    p = (target[row, number] - norm_p[row, number][:, None]).exp_()
    q = (draft[row, place] - norm_q[row, place][:, None]).exp_() * (number < drafts)[:, None]
    return _torch_draw((p - q).clamp_(min=0))


def _cores():
    return len(os.sched_getaffinity(0))


def _load():
    return f"load average {os.getloadavg()[0]:.1f} (others on the machine make all times worse)"


if __name__ == "__main__":
    main()
