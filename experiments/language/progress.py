"""What a person sees of drawing and of fine-tuning, and the figures of it for the record."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from rsft_jax.generation import GenerationProgress
from rsft_jax.sharding import divide_work
from rsft_jax.training import StepMetrics

from ..terminal.console import Advance, Console


class Drawing:
    """Passes the progress of drawing on to the console, and keeps its figures.

    Args:
      console: where it is shown.
      stage: what it is for, the progress's name.
      note: shown beside the progress.
    """

    def __init__(self, console: Console, stage: str, note: str = ""):
        self._console, self._stage, self._note = console, stage, note
        self._advance: Advance | None = None
        self._last: GenerationProgress | None = None

    @contextlib.contextmanager
    def shown(self, total: int) -> Iterator["Drawing"]:
        """Shows the progress of one call that draws so many completions, at most."""
        with self._console.progress(self._stage, total, "completions") as self._advance:
            self._last = GenerationProgress(0, total, 0, 0)
            yield self

    def __call__(self, now: GenerationProgress) -> None:
        """Takes in where drawing stands."""
        assert self._advance is not None
        assert self._last is not None
        completions, tokens = now.completions - self._last.completions, now.tokens
        self._advance(completions, tokens=tokens - self._last.tokens, note=self._note)
        self._last = now

    def figures(self) -> dict[str, Any] | None:
        """Tokens drawn, slot use and compiled shapes, of all processes; None if nothing was drawn.

        Each process knows its own part. All of them must ask, or none.
        """
        if self._last is None:
            return None
        counts = np.array([[self._last.tokens, self._last.slot_steps, self._last.programs]])
        tokens, slot_steps, programs = divide_work(lambda _: counts, jax.process_count()).T
        return {
            "tokens": int(tokens.sum()),
            "slot_use": float(tokens.sum() / slot_steps.sum()),
            "programs": int(programs.max()),
        }


class Steps:
    """Passes the progress of fine-tuning on to the console; an `OnStep` of `improve`.

    Args:
      console: where it is shown.
      stage: the progress's name.
      note: shown beside the progress.
    """

    def __init__(self, console: Console, stage: str, note: str):
        self._console, self._stage, self._note = console, stage, note
        self._open = contextlib.ExitStack()
        self._advance: Advance | None = None

    def __call__(self, metrics: StepMetrics | None, total: int) -> None:
        """Takes in a step; how many there will be is known before the first one."""
        if metrics is None:
            progress = self._console.progress(self._stage, total, "steps")
            self._advance = self._open.enter_context(progress)
            return
        assert self._advance is not None
        loss = float(metrics.loss)
        self._advance(tokens=int(metrics.num_tokens), note=f"{self._note}, loss {loss:.3f}")

    def __enter__(self) -> "Steps":
        """Shows what is reported inside."""
        return self

    def __exit__(self, *error: Any) -> None:
        """Ends the line."""
        self._open.__exit__(*error)
