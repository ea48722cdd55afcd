"""The record of everything generated, scored, accepted and rejected, as Parquet files."""

from rsft_jax.rollouts.parquet import Rollouts, read_rollouts, write_rollouts
from rsft_jax.rollouts.schema import (
    COLUMNS,
    IDENTITY_COLUMNS,
    SELECTION_COLUMNS,
    TERM_PREFIX,
    Column,
)
from rsft_jax.rollouts.store import Drawn, Part, RolloutStore, draw_name, fingerprint

__all__ = [
    "COLUMNS",
    "IDENTITY_COLUMNS",
    "SELECTION_COLUMNS",
    "TERM_PREFIX",
    "Column",
    "Drawn",
    "Part",
    "RolloutStore",
    "Rollouts",
    "draw_name",
    "fingerprint",
    "read_rollouts",
    "write_rollouts",
]
