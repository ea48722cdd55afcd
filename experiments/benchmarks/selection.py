"""Speed of the selection rules over 4096 prompts of 64 candidates, beside NumPy and PyTorch.

    python -m rsft_jax.experiments.benchmarks.selection
    python -m rsft_jax.experiments.benchmarks.selection --prompts 512 --candidates 1024

A line for each rule, in milliseconds a call: the whole `Selection`, which is checked and has
weights, probabilities and reasons; the mask alone (what XLA leaves of the rule when nothing else is
used); and the same mask in NumPy and, where it is installed, in PyTorch. Rule and peers take turns,
and the figure is the fastest of the repeats, because whatever else runs on the machine only adds.
The last columns are the bandwidth that reading the rewards and writing the whole `Selection` comes
to, and its share of the read bandwidth that is measured at the start in memory; these arrays fit in
a cache. Rules without a peer have none because nobody else offers the operation in one call.
"""

import argparse
import functools
import importlib.util
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax import selection as rules

from .sampling import read_bandwidth

_BETA = 0.5
_BOUND = 5.0


def main(argv: Sequence[str] | None = None) -> None:
    """Times every rule and its peers in turn, in one process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", type=int, default=4096)
    parser.add_argument("--candidates", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args(argv)
    shape = (arguments.prompts, arguments.candidates)

    candidates = made_up_candidates(shape)
    rewards = np.asarray(candidates.rewards)
    numpy, torch = numpy_peers(rewards), torch_peers(rewards)
    key = jax.random.key(0)
    moved = rewards.size * (4 + 1 + 1 + 4 + 4 + 4)  # rewards and valid in; the Selection out
    bandwidth = read_bandwidth(2**25)
    print(
        f"{shape[0]} prompts x {shape[1]} candidates, float32, {jax.devices()[0].platform}; "
        f"{moved / 1e6:.1f} MB a call, memory is read at {bandwidth / 1e9:.1f} GB/s; "
        f"load average {os.getloadavg()[0]:.1f}"
    )
    print(
        f"{'rule':45s} {'ms':>6s} {'mask':>6s} {'NumPy':>6s} {'PyTorch':>7s} "
        f"{'GB/s':>6s} {'share':>6s}"
    )
    for rule in make_rules(shape[1]):
        name = ", ".join(rules.stage_names(rule))
        calls = {
            "whole": functools.partial(rule.select, key, candidates),
            "mask": functools.partial(jax.jit(_mask_of(rule)), key, candidates),
            "numpy": numpy.get(name),
            "torch": torch.get(name),
        }
        taken = fastest_milliseconds(calls, repeats=arguments.repeats)
        figures = {k: "" if ms is None else f"{ms:.2f}" for k, ms in taken.items()}
        rate = moved / taken["whole"] * 1e3
        print(
            f"{name:45s} {figures['whole']:>6s} {figures['mask']:>6s} {figures['numpy']:>6s} "
            f"{figures['torch']:>7s} {rate / 1e9:6.2f} {100 * rate / bandwidth:4.0f} %"
        )


def _mask_of(rule: rules.SelectionRule) -> Callable[..., jax.Array]:
    return lambda key, candidates: rule.select(key, candidates).accepted


def made_up_candidates(shape: tuple[int, int]) -> rules.Candidates:
    """Candidates with everything that any rule needs; 1 % are not scored."""
    random = np.random.default_rng(0)
    rewards = random.normal(size=shape).astype(np.float32)
    rewards[random.random(shape) < 0.01] = np.nan
    return rules.Candidates(
        rewards=jnp.asarray(rewards),
        valid=jnp.ones(shape, bool),
        log_proposal=jnp.asarray(random.normal(-40, 5, shape), jnp.float32),
        log_target=jnp.asarray(random.normal(-40, 5, shape), jnp.float32),
        fingerprint=jnp.asarray(random.integers(0, shape[1], shape), jnp.uint32),
    )


def make_rules(num_candidates: int) -> list[rules.SelectionRule]:
    """The rules that are timed, in the order of the README's table."""
    few, many = sizes(num_candidates)
    return [
        rules.statistical_rejection(_BETA, max_reward=_BOUND),
        rules.density_ratio(log_envelope=1.0),
        rules.density_ratio(rate=0.3),
        rules.threshold(0.5),
        rules.correct(),
        rules.best_of_n(),
        rules.top_k(few),
        rules.top_k(many),
        rules.top_fraction(0.1),
        rules.top_fraction(0.1, scope="batch"),
        rules.quantile(0.9),
        rules.importance_resample(few, _BETA),
        rules.rso_finite(_BETA, few),
        rules.group_filter(0, 1),
        rules.unique(),
        rules.at_most(few),
        rules.random_control(rules.top_k(few)),
        rules.chain(rules.threshold(0.5), rules.at_most(few)),
    ]


def sizes(num_candidates: int) -> tuple[int, int]:
    """A small and a larger count of candidates to accept."""
    return max(1, num_candidates // 16), max(1, num_candidates // 4)


def numpy_peers(rewards: np.ndarray) -> dict[str, Callable[[], Any]]:
    """The same masks as one would write them in NumPy, by the rule's name."""
    random = np.random.default_rng(0)
    known = np.where(np.isfinite(rewards), rewards, -np.inf)
    few, many = sizes(rewards.shape[1])
    tenth = max(1, round(rewards.shape[1] * 0.1))

    def mark(index: np.ndarray) -> np.ndarray:
        mask = np.zeros(known.shape, bool)
        np.put_along_axis(mask, index, True, axis=1)
        return mask

    def best(k: int, scores: np.ndarray = known) -> np.ndarray:
        return mark(np.argpartition(-scores, k - 1, axis=1)[:, :k])

    def best_of_batch() -> np.ndarray:
        mask = np.zeros(known.size, bool)
        mask[np.argpartition(-known.ravel(), known.size // 10)[: known.size // 10]] = True
        return mask

    return {
        f"statistical_rejection(beta={_BETA:g}, max_reward={_BOUND:g})": lambda: (
            random.random(known.shape, np.float32) < np.exp((known - np.float32(_BOUND)) / _BETA)
        ),
        "threshold(0.5)": lambda: known >= 0.5,
        "best_of_n": lambda: mark(known.argmax(axis=1)[:, None]),
        f"top_k({few})": lambda: best(few),
        f"top_k({many})": lambda: best(many),
        "top_fraction(0.1)": lambda: best(tenth),
        "top_fraction(0.1, batch)": best_of_batch,
        "quantile(0.9)": lambda: known >= np.quantile(known, 0.9, axis=1, keepdims=True),
        f"importance_resample({few}, beta={_BETA:g})": lambda: best(
            few, known / _BETA + random.gumbel(size=known.shape)
        ),
        f"random_control(top_k({few}))": lambda: best(few, random.random(known.shape)),
    }


def torch_peers(rewards: np.ndarray) -> dict[str, Callable[[], Any]]:
    """The same in PyTorch; nothing where it is not installed."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch  # pyright: ignore[reportMissingImports]

    known = torch.from_numpy(np.where(np.isfinite(rewards), rewards, -np.inf))
    few, many = sizes(rewards.shape[1])
    tenth = max(1, round(rewards.shape[1] * 0.1))

    def mark(index: Any) -> Any:
        return torch.zeros(known.shape, dtype=torch.bool).scatter_(1, index, True)

    def best(k: int, scores: Any = known) -> Any:
        return mark(scores.topk(k, dim=1).indices)

    def best_of_batch() -> Any:
        index = known.flatten().topk(known.numel() // 10).indices
        return torch.zeros(known.numel(), dtype=torch.bool).scatter_(0, index, True)

    def gumbel() -> Any:
        return -torch.log(torch.empty_like(known).exponential_())

    return {
        f"statistical_rejection(beta={_BETA:g}, max_reward={_BOUND:g})": lambda: (
            torch.rand(known.shape) < torch.exp((known - _BOUND) / _BETA)
        ),
        "threshold(0.5)": lambda: known >= 0.5,
        "best_of_n": lambda: mark(known.argmax(dim=1, keepdim=True)),
        f"top_k({few})": lambda: best(few),
        f"top_k({many})": lambda: best(many),
        "top_fraction(0.1)": lambda: best(tenth),
        "top_fraction(0.1, batch)": best_of_batch,
        "quantile(0.9)": lambda: known >= torch.quantile(known, 0.9, dim=1, keepdim=True),
        f"importance_resample({few}, beta={_BETA:g})": lambda: best(few, known / _BETA + gumbel()),
        f"random_control(top_k({few}))": lambda: best(few, torch.rand(known.shape)),
    }


def fastest_milliseconds(
    calls: Mapping[str, Callable[[], Any] | None], *, repeats: int
) -> dict[str, Any]:
    """The smallest time of each call, taken in turn; two calls each warm up and compile."""
    taken: dict[str, Any] = dict.fromkeys(calls)
    for repeat in range(repeats + 2):
        for name, call in calls.items():
            if call is None:
                continue
            begun = time.perf_counter()
            jax.block_until_ready(call())
            milliseconds = 1e3 * (time.perf_counter() - begun)
            if repeat >= 2:
                taken[name] = min(milliseconds, taken[name] or milliseconds)
    return taken


if __name__ == "__main__":
    main()
