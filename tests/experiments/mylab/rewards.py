"""Rewards: (prompts, completions) -> [P, N]."""

import os  # noqa: F401 - a module of the package may import what it likes; a config cannot reach it
from os import system  # noqa: F401

import numpy as np


def brevity(prompts, completions):
    """Shorter is better: 1 for an empty text, 0 from 200 letters on."""
    lengths = np.array([[len(text) for text in row] for row in completions], np.float64)
    return 1 - np.minimum(lengths / 200, 1)


not_a_function = 3
