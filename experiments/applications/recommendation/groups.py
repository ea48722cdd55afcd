"""The groups that users are divided into."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np


def group_of(row: Mapping[str, Any], by: str) -> str:
    """The group of a row of the prompt file, by "age", "gender" or "activity".

    >>> group_of({"age": 30, "gender": "F", "activity": 12}, "age")
    '25 to 34'
    """
    if by == "gender":
        return str(row["gender"])
    bounds = {"age": (25, 35, 50), "activity": (25, 75)}[by]
    names = [f"under {bounds[0]}"]
    names += [f"{low} to {high - 1}" for low, high in itertools.pairwise(bounds)]
    names += [f"{bounds[-1]} and more"]
    return names[int(np.searchsorted(bounds, row[by], side="right"))]
