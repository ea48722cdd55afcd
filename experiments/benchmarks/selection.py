"""Speed of the selection rules over 4096 prompts of 64 candidates, beside NumPy and PyTorch.

    python -m rsft_jax.experiments.benchmarks.selection
    python -m rsft_jax.experiments.benchmarks.selection --prompts 512 --candidates 1024

A line for each rule: milliseconds a call (median of the repeats, and the fastest), what the same
operation takes in NumPy and, where it is installed, in PyTorch, and the bandwidth that reading the
rewards and writing the whole `Selection` comes to. The peers compute the mask alone; the rules
also check their input and fill in weights, probabilities and reasons. Rules without a peer have
none because nobody else offers the operation in one call.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax import selection as rules

_BETA = 0.5


def main(argv: Sequence[str] | None = None) -> None:
    """Times every rule and its peers, one after the other, in one process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=4096)
    parser.add_argument("--candidates", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args(argv)
    shape = (arguments.prompts, arguments.candidates)

    candidates = made_up_candidates(shape)
    rewards = np.asarray(candidates.rewards)
    numpy = numpy_peers(rewards)
    torch = torch_peers(rewards)
    key = jax.random.key(0)
    moved = rewards.nbytes + rewards.size * (1 + 1 + 4 + 4 + 4)  # valid in; the Selection out
    print(f"{shape[0]} prompts x {shape[1]} candidates, float32, {jax.devices()[0].platform}")
    print(f"{'rule':36s} {'ms':>8s} {'fastest':>8s} {'NumPy':>8s} {'PyTorch':>8s} {'GB/s':>6s}")
    for rule in make_rules(shape[1]):
        name = ", ".join(rules.stage_names(rule))
        median, fastest = milliseconds(rule.select, key, candidates, repeats=arguments.repeats)
        family = name.split("(")[0]
        peers = []
        for peer in (numpy, torch):
            known = family in peer
            figure = milliseconds(peer[family], repeats=arguments.repeats)[0] if known else None
            peers.append("" if figure is None else f"{figure:.2f}")
        bandwidth = moved / median / 1e6
        line = f"{name:36s} {median:8.2f} {fastest:8.2f} {peers[0]:>8s} {peers[1]:>8s}"
        print(f"{line} {bandwidth:6.2f}")


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
    few, many = max(1, num_candidates // 16), max(1, num_candidates // 4)
    rejection = rules.statistical_rejection(_BETA, max_reward=5.0)
    return [
        rules.best_of_n(),
        rules.top_k(few),
        rules.top_k(many),
        rules.top_fraction(0.1),
        rules.top_fraction(0.1, scope="batch"),
        rules.quantile(0.9),
        rules.threshold(0.5),
        rules.correct(),
        rejection,
        rules.rso_finite(_BETA, few),
        rules.density_ratio(log_envelope=1.0),
        rules.density_ratio(rate=0.3),
        rules.importance_resample(few, _BETA),
        rules.group_filter(0, 1),
        rules.unique(),
        rules.at_most(few),
        rules.random_control(rules.top_k(few)),
        rules.chain(rules.threshold(0.5), rules.at_most(few)),
    ]


def numpy_peers(rewards: np.ndarray) -> dict[str, Callable[[], Any]]:
    """The same masks as one would write them in NumPy, by the rule's name."""
    random = np.random.default_rng(0)
    known = np.where(np.isfinite(rewards), rewards, -np.inf)
    few = max(1, rewards.shape[1] // 16)
    tenth = max(1, round(rewards.shape[1] * 0.1))

    def mark(index: np.ndarray) -> np.ndarray:
        mask = np.zeros(known.shape, bool)
        np.put_along_axis(mask, index, True, axis=1)
        return mask

    def best(k: int) -> np.ndarray:
        return mark(np.argpartition(-known, k - 1, axis=1)[:, :k])

    return {
        "best_of_n": lambda: mark(known.argmax(axis=1)[:, None]),
        "top_k": lambda: best(few),
        "top_fraction": lambda: best(tenth),
        "quantile": lambda: known >= np.quantile(known, 0.9, axis=1, keepdims=True),
        "threshold": lambda: known >= 0.5,
        "statistical_rejection": lambda: (
            random.random(known.shape, np.float32) < np.exp((known - np.float32(5)) / _BETA)
        ),
        "importance_resample": lambda: mark(
            np.argpartition(-(known / _BETA + random.gumbel(size=known.shape)), few - 1)[:, :few]
        ),
    }


def torch_peers(rewards: np.ndarray) -> dict[str, Callable[[], Any]]:
    """The same in PyTorch; nothing where it is not installed."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch  # pyright: ignore[reportMissingImports]

    known = torch.from_numpy(np.where(np.isfinite(rewards), rewards, -np.inf))
    few = max(1, rewards.shape[1] // 16)
    tenth = max(1, round(rewards.shape[1] * 0.1))

    def mark(index: Any) -> Any:
        return torch.zeros(known.shape, dtype=torch.bool).scatter_(1, index, True)

    def gumbel() -> Any:
        return -torch.log(torch.empty_like(known).exponential_())

    return {
        "best_of_n": lambda: mark(known.argmax(dim=1, keepdim=True)),
        "top_k": lambda: mark(known.topk(few, dim=1).indices),
        "top_fraction": lambda: mark(known.topk(tenth, dim=1).indices),
        "quantile": lambda: known >= torch.quantile(known, 0.9, dim=1, keepdim=True),
        "threshold": lambda: known >= 0.5,
        "statistical_rejection": lambda: torch.rand(known.shape) < torch.exp((known - 5) / _BETA),
        "importance_resample": lambda: mark((known / _BETA + gumbel()).topk(few, dim=1).indices),
    }


def milliseconds(run: Callable[..., Any], *inputs: Any, repeats: int) -> tuple[float, float]:
    """Median and smallest time of a call, after two that warm up and compile."""
    taken = []
    for _ in range(repeats + 2):
        begun = time.perf_counter()
        jax.block_until_ready(run(*inputs))
        taken.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(taken[2:]), min(taken[2:])


if __name__ == "__main__":
    main()
