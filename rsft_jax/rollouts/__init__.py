"""The record of everything generated, scored, accepted and rejected, as Parquet files."""

from rsft_jax.rollouts.parquet import Rollouts, read_rollouts, write_rollouts
from rsft_jax.rollouts.record import Record, Verdict, from_rows, read_jsonl, to_rows
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
    "Record",
    "RolloutStore",
    "Rollouts",
    "Verdict",
    "draw_name",
    "fingerprint",
    "from_rows",
    "read_jsonl",
    "read_rollouts",
    "to_rows",
    "write_rollouts",
]
