"""Candidates that somebody has drawn and scored already: a run, a store, or a JSON Lines file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rsft_jax.rollouts import Record, RolloutStore, from_rows, read_jsonl, read_rollouts
from rsft_jax.selection import SelectionRule, stage_names

from ..terminal.errors import ConfigError, shown

ENDED_EARLY = (
    "note: drawn with sampling.early_stop, so that a prompt's candidates end with its last "
    "accepted one: rates, and rules other than that of the run, are off"
)


def read_candidates(
    path: Path, *, field: str = "candidates", with_verdict: bool = False
) -> tuple[list[Record], list[str]]:
    """Reads candidates from the folder of a run, a store, a Parquet file or a JSON Lines file.

    Args:
      path: what to read.
      field: how errors call it.
      with_verdict: whether the records have the verdicts that are stored.

    Returns:
      The records, by arm and round, and what was left out, a sentence each.

    Raises:
      ConfigError: nothing of that kind is there, or a row is not as it should be.
    """
    where = f"{field}: {shown(str(path))}"
    try:
        if path.is_dir():
            folder = path / "rollouts" if (path / "rollouts").is_dir() else path
            store = RolloutStore(folder)
            problems = store.problems()
            bad = {problem.partition(": ")[0] for problem in problems}
            files = [folder / part.name for part in store.parts()]
            tables = [read_rollouts(file) for file in files if str(file) not in bad]
            if not tables:
                raise ConfigError(f"{where}; holds no candidates that can be read{_why(problems)}")
        elif path.suffix == ".parquet" and path.is_file():
            problems, tables = [], [read_rollouts(path)]
        elif path.is_file():
            record = read_jsonl(path)
            return [record], list(record.left_out)
        else:
            raise ConfigError(f"{where}; is not there")
    except (OSError, ValueError, ImportError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{where}; {error}") from None
    records = [record for table in tables for record in from_rows(table, with_verdict=with_verdict)]
    newest = {(record.arm, record.round): record for record in records}
    return [newest[key] for key in sorted(newest, key=lambda k: (k[0] != "policy", *k))], problems


def check_log_prob(record: Record, rule: SelectionRule, field: str) -> None:
    """Refuses a rule that needs log q of candidates of which one has none.

    Raises:
      ConfigError: names the rule, and the file and line of the first such candidate.
    """
    unknown = np.argwhere(record.valid & ~np.isfinite(record.log_prob))
    if "log_proposal" in rule.needs and unknown.size:
        raise ConfigError(
            f"selection: {' > '.join(stage_names(rule))}; needs the log_prob of every candidate, "
            f"and {place_of(record, field, *unknown[0])} has none"
        )


def place_of(record: Record, field: str, i: int, j: int) -> str:
    """Where a candidate stands: file and line, or prompt and number."""
    if record.lines is not None:
        return record.lines[i][j]
    return f"{field}, candidate {j} of the prompt {shown(record.prompt_ids[i])}"


def _why(problems: Sequence[str]) -> str:
    return f" ({problems[0]})" if problems else ""
