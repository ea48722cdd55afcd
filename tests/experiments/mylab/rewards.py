"""Rewards: (prompts, completions) -> [P, N]; a further parameter is a column of the prompts."""

import os  # noqa: F401 - a module of the package may import what it likes; a config cannot reach it
from os import system  # noqa: F401

import numpy as np


def brevity(prompts, completions):
    """Shorter is better: 1 for an empty text, 0 from 200 letters on."""
    lengths = np.array([[len(text) for text in row] for row in completions], np.float64)
    return 1 - np.minimum(lengths / 200, 1)


def as_long_as(prompts, completions, answer):
    """1 for a text as long as the column `answer` of its prompt, 0 at twice the length."""
    return [
        [1 - abs(len(text) - len(right)) / len(right) for text in row]
        for row, right in zip(completions, answer)
    ]


not_a_function = 3
