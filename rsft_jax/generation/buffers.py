"""Completions in host memory, filled as candidates end."""

import jax.numpy as jnp
import numpy as np

from rsft_jax.generation.device import Drawn
from rsft_jax.generation.types import Completions


class Table:
    """The fields of `Completions` in host memory, filled as candidates end."""

    def __init__(self, rows: int, length: int, *, policy_log_probs: bool):
        self._length = length
        self._rows = {
            "tokens": np.full((rows, length), -1, np.int32),
            "lengths": np.zeros(rows, np.int32),
            "steps": np.zeros(rows, np.int32),
            "log_probs": np.zeros((rows, length), jnp.zeros(()).dtype),
            "finished": np.zeros(rows, bool),
            "failed": np.zeros(rows, bool),
        }
        if policy_log_probs:
            self._rows["policy_log_probs"] = np.zeros_like(self._rows["log_probs"])

    def put(self, drawn: Drawn) -> None:
        """Keeps what has been drawn, in the rows of its numbers."""
        for name, values in drawn.fields.items():
            self._rows[name][drawn.numbers] = values

    def clear(self, rows: np.ndarray) -> None:
        """Empties rows, `[rows]` bool, as if they had not been drawn."""
        for name, values in self._rows.items():
            values[rows] = -1 if name == "tokens" else 0

    def completions(self, *shape: int) -> Completions:
        """All rows as `Completions` of this leading shape."""
        return Completions(
            **{k: jnp.asarray(v.reshape(*shape, *v.shape[1:])) for k, v in self._rows.items()}
        )
