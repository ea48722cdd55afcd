"""What the script of families.json and the test that reads it must make alike: weights, prompts."""

import zlib

import numpy as np

# Prompts of three lengths, past the window (8) and past the length that was trained on (16).
LENGTHS = (40, 25, 9)
# Of the vocabulary, whose logits are kept.
COLUMNS = (0, 41, 97, 150, 201, 258)


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The array of this name: matrices of scale 1 / sqrt(in), vectors around 0 or 1."""
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) == 1:
        around = "bias" not in name and ("norm" in name or ".ln_" in name)
        return (draw * 0.1 + around).astype(np.float32)
    return (draw / np.sqrt(shape[-1])).astype(np.float32)


def tokens() -> np.ndarray:
    """`[3, 40]` token ids, padded with 256."""
    rows = np.full((len(LENGTHS), max(LENGTHS)), 256)
    for i, length in enumerate(LENGTHS):
        rows[i, :length] = np.random.default_rng(i).integers(0, 256, length)
    return rows
