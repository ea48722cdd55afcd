"""Speculative rejection: unpromising candidates are given up before they are complete."""

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from rsft_jax.generation.buffers import Table
from rsft_jax.generation.decode import InitCacheFn
from rsft_jax.generation.device import Request, SlotsOnDevice
from rsft_jax.generation.inputs import candidate_keys, check_request, make_policy
from rsft_jax.generation.types import Completions, Prompts, SamplingParams, as_prompts
from rsft_jax.numerics.checks import check_between
from rsft_jax.selection import Law
from rsft_jax.types import Array, LogitsFn, Params, PRNGKey, record


@dataclasses.dataclass(frozen=True)
class Pruning:
    """When to give up which candidates.

    Attributes:
      at: numbers of new tokens at which candidates are compared, rising.
      fraction: part of a prompt's unfinished candidates that is given up each time, in (0, 1);
        rounded down, so the last one never is.
      score: `score(prompts[E], tokens[E][t]) -> [E]`: what to expect of unfinished completions,
        such as a reward of the text so far. NaN ranks lowest.
    """

    at: tuple[int, ...]
    fraction: float
    score: Callable[[np.ndarray, Sequence[np.ndarray]], np.ndarray]

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", tuple(int(i) for i in self.at))
        if not self.at or min(self.at) < 1 or list(self.at) != sorted(set(self.at)):
            raise ValueError(f"at must be rising numbers of tokens, each >= 1, got {self.at}")
        check_between("fraction", self.fraction, 0, 1, bounds="()")

    @property
    def law(self) -> Law:
        """HEURISTIC: no law, unless the score orders beginnings as rewards order wholes."""
        return Law.HEURISTIC


@record
class PrunedCompletions:
    """Completions, some of them given up; P prompts, N candidates.

    Attributes:
      completions: `[P, N, ...]`; of those given up, what they had drawn.
      pruned: `[P, N]` bool, which were given up: they are no candidates for selection.
      slot_steps: decoding steps times rows that they took.
    """

    completions: Completions
    pruned: Array
    slot_steps: Array


def generate_pruned(
    key: PRNGKey,
    logits_fn: LogitsFn,
    params: Params,
    prompts: Prompts | Array | np.ndarray | Sequence[Sequence[int]],
    *,
    pruning: Pruning,
    num_candidates: int,
    sampling: SamplingParams,
    init_cache: InitCacheFn | None = None,
    prompt_ids: Array | np.ndarray | Sequence[int] | None = None,
    max_length: int | None = None,
) -> PrunedCompletions:
    """Draws N completions for each prompt, giving up the least promising on the way.

    All candidates start side by side; at each of `pruning.at`, the lowest `fraction` of a prompt's
    unfinished ones is dropped and the batch becomes smaller. What ended before is kept.

    Law: HEURISTIC. Candidate j is a fair draw, the same as `generate` makes of it, but which ones
    live depends on a score of their beginnings: what is selected among them follows the rule's law
    only if no dropped candidate would have been selected.

    Args:
      key, logits_fn, params, prompts, num_candidates, sampling, init_cache, prompt_ids,
        max_length: as in `generate`.
      pruning: when and what to drop.

    Returns:
      A `PrunedCompletions`.

    Raises:
      ValueError: for a bad argument.

    Example:
      >>> fair = lambda params, tokens, positions, cache: (jnp.zeros((*tokens.shape, 2)), cache)
      >>> import jax
      >>> ones = Pruning((1, 2), 0.5, lambda prompts, tokens: np.array([t.sum() for t in tokens]))
      >>> out = generate_pruned(jax.random.key(0), fair, None, [[0]], num_candidates=8,
      ...                       pruning=ones, sampling=SamplingParams(max_new_tokens=3))
      >>> int(out.pruned.sum()), sorted(out.completions.lengths[0].tolist())
      (6, [1, 1, 1, 1, 2, 2, 3, 3])

    References:
      Sun et al., Fast best-of-N decoding via speculative rejection (2024),
      https://arxiv.org/abs/2410.20290.
    """
    prompts = as_prompts(prompts)
    check_request(prompts, num_candidates, sampling, None, max_length)
    count = prompts.tokens.shape[0]
    total = count * num_candidates
    keys = candidate_keys(key, prompts, prompt_ids, num_candidates)
    policy = make_policy(logits_fn, params, init_cache).prepared()
    device = SlotsOnDevice(policy, Request(prompts, keys, sampling), total, count, None)
    table = Table(total, sampling.max_new_tokens, policy_log_probs=False)
    pruned, occupant, slot_steps = np.zeros(total, bool), np.arange(total), 0
    device.insert(occupant, occupant, 0)
    points = [at for at in pruning.at if at < sampling.max_new_tokens]
    for before, at in zip([0, *points], [*points, sampling.max_new_tokens]):
        slot_steps += occupant.size * device.decode(occupant.size, at - before)
        seen = device.look()
        active = seen["active"] & (occupant >= 0)
        if at in points:
            dropped = _least(pruning, device, occupant, active, seen["length"], num_candidates)
            pruned[occupant[dropped]] = True
            active[dropped] = False
        gone = np.flatnonzero((occupant >= 0) & ~active)
        kept = seen["length"][gone]
        table.put(device.drawn(occupant[gone], gone, kept, np.zeros(gone.size, bool)))
        device.release(~active)
        occupant[gone] = -1
        if not active.any():
            break
        # By halves, so that there are few sizes to compile.
        slots = occupant.size
        while slots // 2 >= max(int(active.sum()), 1):
            slots //= 2
        if slots < occupant.size:
            occupant = device.keep(occupant, slots)
    return PrunedCompletions(
        completions=table.completions(count, num_candidates),
        pruned=jnp.asarray(pruned.reshape(count, num_candidates)),
        slot_steps=jnp.asarray(slot_steps, jnp.int32),
    )


def _least(
    pruning: Pruning,
    device: SlotsOnDevice,
    occupant: np.ndarray,
    active: np.ndarray,
    lengths: np.ndarray,
    num: int,
) -> np.ndarray:
    """The slots whose candidates are to be given up."""
    slots = np.flatnonzero(active)
    if not slots.size:
        return slots
    slots = slots[np.argsort(occupant[slots])]  # in the order of the candidates, whatever the slots
    rows = np.asarray(device.state.tokens)[slots]
    prompts = occupant[slots] // num
    scores = np.asarray(
        pruning.score(prompts, [row[:n] for row, n in zip(rows, lengths[slots])]), float
    )
    if scores.shape != slots.shape:
        raise ValueError(f"score must return {slots.shape} values, got shape {scores.shape}")
    scores = np.where(np.isnan(scores), -np.inf, scores)
    dropped = []
    for prompt in np.unique(prompts):
        here = np.flatnonzero(prompts == prompt)
        lowest = here[np.argsort(scores[here], kind="stable")]
        dropped.append(slots[lowest[: int(pruning.fraction * here.size)]])
    return np.concatenate(dropped)
