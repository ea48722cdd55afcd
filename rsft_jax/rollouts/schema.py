"""The columns of a rollout file: what one row, a candidate, is made of.

A file of held-out samples has the `COLUMNS`; a file of candidates that a selection rule has seen
has the `SELECTION_COLUMNS` as well, all of them. Either may have any number of reward terms,
`term/<name>`, and any of the `IDENTITY_COLUMNS`.
"""

import difflib
from collections.abc import Collection
from typing import NamedTuple

TERM_PREFIX = "term/"
"""A column `term/<name>` holds one term of the reward, float64."""

VERSION = "1"
"""Version of this schema, kept in every file."""


class Column(NamedTuple):
    """One column: its name, its Arrow type and what it means."""

    name: str
    type: str
    meaning: str


COLUMNS = (
    Column("round", "int32", "the round that drew it; 0 is the policy before training"),
    Column("arm", "string", "which policy drew it: policy, control"),
    Column("prompt_id", "string", "id of its prompt in the prompt file"),
    Column("candidate", "int32", "its number among the candidates of its prompt"),
    Column("prompt", "string", "text of the prompt"),
    Column("completion", "string", "text after the prompt"),
    Column("tokens", "list<int32>", "token ids of the completion, the stop token included"),
    Column("log_probs", "list<float32>", "log-probability of each token under its law, nats"),
    Column("finished", "bool", "ended by a stop token, not by the length limit"),
    Column("reward", "float64", "what selection looked at; null when it could not be scored"),
    Column("judge", "float64", "a second reward that training never sees; null likewise"),
)
"""What every file holds of a candidate."""

SELECTION_COLUMNS = (
    Column("accepted", "bool", "kept for training"),
    Column("accept_prob", "float64", "probability that one draw of the rule accepts it"),
    Column("log_weight", "float64", "log-weight that repairs the bias of the rule, nats"),
    Column("reason", "string", "why it was accepted or rejected"),
)
"""What is added once a rule has selected."""

IDENTITY_COLUMNS = (
    Column("draw", "string", "what the store finds it by: hash of all that its law depends on"),
    Column("policy", "string", "fingerprint of the policy that drew it"),
    Column("law", "string", "the sampling law"),
    Column("key", "string", "random key of the draw, hexadecimal"),
    Column("place", "int32", "number of its prompt under that key"),
    Column("failed", "bool", "no candidate: no distribution to draw it from, or left out"),
    Column("log_prob", "float64", "of all of it, where that of its tokens is not known, nats"),
    Column("reward_version", "string", "fingerprint of the reward; empty before scoring"),
    Column("rule", "string", "the rule that accepted or rejected it; empty before selection"),
)
"""What a candidate came from; any of them may be left out."""

KNOWN_COLUMNS = COLUMNS + SELECTION_COLUMNS + IDENTITY_COLUMNS


def column_type(name: str) -> str | None:
    """Returns the Arrow type of a column, or None for a name the schema does not know."""
    if name.startswith(TERM_PREFIX) and len(name) > len(TERM_PREFIX):
        return "float64"
    for column in KNOWN_COLUMNS:
        if column.name == name:
            return column.type
    return None


def required_columns(names: Collection[str]) -> tuple[str, ...]:
    """Returns what a file with these columns must have: one selection column calls for all."""
    selection = tuple(column.name for column in SELECTION_COLUMNS)
    base = tuple(column.name for column in COLUMNS)
    return base + selection if any(name in names for name in selection) else base


def nearest_column(name: str) -> str:
    """Returns the known column whose name looks most like `name`, for an error message."""
    known = [column.name for column in KNOWN_COLUMNS]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return close[0]
