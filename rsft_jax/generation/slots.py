"""The host's side of decoding: a fixed number of slots, refilled from a queue of candidates.

What is decoded is decided by a `Queue`, how by the functions of `decode`. Between two looks the
device decodes some steps; at a look the host takes what has ended out of its slots, drops what the
queue no longer wants, and fills the free slots with what the queue gives.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from jax.sharding import NamedSharding

from rsft_jax.generation.device import Drawn, Policy, Request, SlotsOnDevice
from rsft_jax.generation.types import StopFn

# Between two looks of the host at a running loop; a look costs well under a millisecond.
_STEPS_PER_LOOK = 16


@dataclasses.dataclass(frozen=True)
class GenerationProgress:
    """Where a call of `generate` with slots stands.

    Attributes:
      completions: how many are complete.
      total: how many there will be, at most.
      tokens: tokens drawn so far, those of dropped candidates included.
      slot_steps: decoding steps times slots so far; `tokens / slot_steps` is the slot use.
      programs: shapes that were run so far, each of them compiled once in a process.
    """

    completions: int
    total: int
    tokens: int
    slot_steps: int
    programs: int = 0


class Queue(Protocol):
    """Which candidates are to be drawn."""

    def take(self, free: int) -> np.ndarray:
        """Up to `free` numbers of candidates to start now, in rising order."""
        ...

    def ended(self, drawn: Drawn) -> None:
        """Receives what has been drawn to its end."""
        ...

    def meanwhile(self) -> None:
        """Called while the device decodes: the host is free to work."""
        ...

    def unwanted(self) -> np.ndarray:
        """Numbers of candidates that need not be drawn further."""
        ...

    def closed(self) -> bool:
        """Whether `take` will give no more, whatever else happens."""
        ...

    def wait(self) -> None:
        """Called when no slot is busy and the queue is not closed: blocks until that changes."""
        ...

    def oldest_prompt(self) -> int:
        """No candidate of a prompt before this one will be taken any more."""
        ...


def run_slots(
    policy: Policy,
    request: Request,
    queue: Queue,
    *,
    slots: int,
    prompts_at_once: int,
    max_tokens: int | None = None,
    sharding: NamedSharding | None = None,
    on_progress: Callable[[GenerationProgress], None] | None = None,
) -> GenerationProgress:
    """Draws what the queue gives until it is closed.

    Args:
      policy: what draws.
      request: the prompts, the keys and the law.
      queue: which candidates, and where they go.
      slots: how many candidates decode at once.
      prompts_at_once: how many prompts are prefilled in one call.
      max_tokens: stop everything after so many drawn tokens.
      sharding: of the slots over a mesh.
      on_progress: called at every look.

    Returns:
      The last progress.
    """
    device = SlotsOnDevice(policy.prepared(), request, slots, prompts_at_once, sharding)
    occupant = np.full(slots, -1)  # the candidate in each slot
    total, completions, ended_tokens, slot_steps = request.keys.size, 0, 0, 0
    while True:
        unwanted = np.isin(occupant, queue.unwanted()) & (occupant >= 0)
        if unwanted.any():
            ended_tokens += int(device.look()["length"][unwanted].sum())
            device.release(unwanted)
            occupant[unwanted] = -1
        free = np.flatnonzero(occupant < 0)
        taken = queue.take(free.size) if free.size else free
        if taken.size:
            device.insert(free[: taken.size], taken, queue.oldest_prompt())
            occupant[free[: taken.size]] = taken
        closed = queue.closed()
        if closed and (kept := device.shrink(occupant)) is not None:
            occupant = kept
        busy = int((occupant >= 0).sum())
        if not busy:
            if closed:
                break
            queue.wait()
            continue
        steps = _STEPS_PER_LOOK
        if max_tokens is not None:
            running = int(device.look()["length"][occupant >= 0].sum())
            # So many steps of all busy slots that the budget is never exceeded.
            steps = min(steps, (max_tokens - ended_tokens - running) // busy)
            if steps < 1:
                break
        # One more free slot can be filled; once nothing waits, many are worth a look.
        wanted = occupant.size - busy + 1
        if closed:
            wanted = max(wanted, device.free_to_shrink())
        steps = device.decode(wanted, steps, queue.meanwhile)
        slot_steps += steps * occupant.size
        seen = device.look()
        kept, cut = _ends(request.stop, seen, occupant)
        gone = np.flatnonzero((occupant >= 0) & (~seen["active"] | cut))
        if gone.size:
            drawn = device.drawn(occupant[gone], gone, kept[gone], cut[gone])
            ended_tokens += int(seen["length"][gone].sum())
            completions += gone.size
            if (left := cut & seen["active"]).any():
                device.release(left)
            occupant[gone] = -1
            queue.ended(drawn)
        if on_progress is not None:
            tokens = ended_tokens + int(seen["length"][occupant >= 0].sum())
            on_progress(
                GenerationProgress(completions, total, tokens, slot_steps, len(device.programs))
            )
    tokens = ended_tokens + int(device.look()["length"][occupant >= 0].sum())
    return GenerationProgress(completions, total, tokens, slot_steps, len(device.programs))


def _ends(
    stop: StopFn | None, seen: Mapping[str, np.ndarray], occupant: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens to keep of each slot, and whether the host ends it there."""
    kept, cut = seen["length"].copy(), np.zeros(occupant.size, bool)
    if stop is not None:
        for slot in np.flatnonzero(occupant >= 0):
            end = stop(seen["tokens"][slot, : kept[slot]])
            if end is not None:
                kept[slot], cut[slot] = end, True
    return kept, cut
