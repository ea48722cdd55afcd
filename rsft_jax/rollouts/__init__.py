"""The record of everything generated, scored, accepted and rejected, as Parquet files."""

from rsft_jax.rollouts.parquet import Rollouts, read_rollouts, write_rollouts
from rsft_jax.rollouts.schema import COLUMNS, SELECTION_COLUMNS, TERM_PREFIX, Column

__all__ = [
    "COLUMNS",
    "SELECTION_COLUMNS",
    "TERM_PREFIX",
    "Column",
    "Rollouts",
    "read_rollouts",
    "write_rollouts",
]
