"""What rewards have in common that read one column of the prompts, named by the user."""

from __future__ import annotations

import inspect


def check_column(column: str) -> None:
    """Raises a ValueError for a name that no column of the data can have."""
    if not column.isidentifier() or column in ("prompts", "completions"):
        raise ValueError(f"column must be the name of a column of the data, got {column!r}")


def column_signature(column: str) -> inspect.Signature:
    """The signature of a reward that reads the column, by which a `Term` knows it.

    >>> str(column_signature("answer"))
    '(prompts, completions, *, answer)'
    """
    kinds = inspect.Parameter
    texts = [kinds(name, kinds.POSITIONAL_OR_KEYWORD) for name in ("prompts", "completions")]
    return inspect.Signature([*texts, kinds(column, kinds.KEYWORD_ONLY)])
