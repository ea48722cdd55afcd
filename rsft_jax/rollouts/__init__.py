"""The record of everything generated, scored, accepted and rejected, as Parquet files."""

from rsft_jax.rollouts.pairs import (
    PreferencePair,
    best_worst_pairs,
    pair_rows,
    random_pairs,
)
from rsft_jax.rollouts.parquet import Rollouts, read_rollouts, scan_rollouts, write_rollouts
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
    "PreferencePair",
    "Record",
    "RolloutStore",
    "Rollouts",
    "Verdict",
    "best_worst_pairs",
    "draw_name",
    "fingerprint",
    "from_rows",
    "pair_rows",
    "random_pairs",
    "read_jsonl",
    "read_rollouts",
    "scan_rollouts",
    "to_rows",
    "write_rollouts",
]
