"""Rotary positions: how fast each pair of a head turns, and the turning.

A pair i of the r numbers that turn has the frequency

    f_i = base^(-2i / r)            radians a token

and models that are to read longer texts than they were trained on slow some of the pairs down. The
ways to do so are the small classes below; each says what becomes of the frequencies, and by what
`magnitude` cosine and sine are multiplied.

References:
  Su et al. 2021, "RoFormer", https://arxiv.org/abs/2104.09864, section 3.4.
  Chen et al. 2023, "Extending Context Window ...", https://arxiv.org/abs/2306.15595 (linear).
  Peng et al. 2023, "YaRN", https://arxiv.org/abs/2309.00071, sections 3.2 to 3.4.
  Ding et al. 2024, "LongRoPE", https://arxiv.org/abs/2402.13753.
  Dubey et al. 2024, "The Llama 3 Herd of Models", https://arxiv.org/abs/2407.21783, section 3.2;
    its rule of frequencies is published in code alone (Llama 3.1's model card).
"""

import dataclasses
import math
from typing import Any, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp

from rsft_jax.numerics.checks import check_between, check_integer
from rsft_jax.numerics.dtypes import wide_dtype
from rsft_jax.types import Array, Numeric


class Scaling(Protocol):
    """What is done to the frequencies of a model for texts longer than it was trained on."""

    @property
    def magnitude(self) -> float:
        """Cosine and sine are multiplied by it, the scores of attention by its square."""
        ...

    def scale(self, frequencies: Array, base: float, max_length: int) -> Array:
        """The `[r / 2]` frequencies that are used, of those of the base.

        Args:
          frequencies: `[r / 2]` radians a token.
          base: that they are made of.
          max_length: of the sequences, in tokens.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Linear:
    """Every pair turns slower by a factor: positions are squeezed into the trained range."""

    factor: float

    def __post_init__(self) -> None:
        check_between("rope factor", self.factor, 0, math.inf, bounds="()")

    @property
    def magnitude(self) -> float:
        """1: nothing is made larger."""
        return 1.0

    def scale(self, frequencies: Array, base: float, max_length: int) -> Array:
        """`frequencies / factor`."""
        return frequencies / self.factor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Llama3:
    """Llama 3.1's: slow pairs turn slower by a factor, fast ones as they did, between by both.

    Attributes:
      factor: by which the slow ones are slowed down.
      low: pairs that turn less than so many times in `trained_length` tokens are slow.
      high: pairs that turn more than so many times are fast.
      trained_length: tokens of the texts before the context was extended.
    """

    factor: float
    low: float
    high: float
    trained_length: int

    def __post_init__(self) -> None:
        check_between("rope factor", self.factor, 0, math.inf, bounds="()")
        check_between("low_freq_factor", self.low, 0, self.high, bounds="()")
        check_integer("original_max_position_embeddings", self.trained_length)

    @property
    def magnitude(self) -> float:
        """1: nothing is made larger."""
        return 1.0

    def scale(self, frequencies: Array, base: float, max_length: int) -> Array:
        """Interpolates between `frequencies / factor` and `frequencies` by turns in a text."""
        turns = self.trained_length * frequencies / (2 * jnp.pi)
        fast = jnp.clip((turns - self.low) / (self.high - self.low), 0, 1)
        return (1 - fast) * frequencies / self.factor + fast * frequencies


@dataclasses.dataclass(frozen=True, kw_only=True)
class Yarn:
    """YaRN: a ramp over the number of the pair, and scores that are made a little sharper.

    Attributes:
      factor: by which slow pairs are slowed down.
      trained_length: tokens of the texts before the context was extended.
      beta_fast, beta_slow: turns in such a text above which a pair is fast, and below which slow.
      truncate: whether the ends of the ramp are whole numbers of pairs.
      attention_factor: the magnitude; by default `0.1 ln(factor) + 1` (section 3.4, equation 22).
    """

    factor: float
    trained_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        check_between("rope factor", self.factor, 0, math.inf, bounds="()")
        check_between("beta_slow", self.beta_slow, 0, self.beta_fast, bounds="()")
        check_integer("original_max_position_embeddings", self.trained_length)

    @property
    def magnitude(self) -> float:
        """The attention factor."""
        if self.attention_factor is not None:
            return self.attention_factor
        return 0.1 * math.log(self.factor) + 1 if self.factor > 1 else 1.0

    def scale(self, frequencies: Array, base: float, max_length: int) -> Array:
        """Interpolates between `frequencies` and `frequencies / factor` by the number of a pair."""
        half = frequencies.shape[0]
        low, high = (
            self._pair(turns, 2 * half, base) for turns in (self.beta_fast, self.beta_slow)
        )
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * half - 1)
        pairs = jnp.arange(half, dtype=frequencies.dtype)
        slow = jnp.clip((pairs - low) / (high - low if high != low else 1e-3), 0, 1)
        return slow * frequencies / self.factor + (1 - slow) * frequencies

    def _pair(self, turns: float, width: int, base: float) -> float:
        """The number, not rounded, of the pair that turns so often in `trained_length` tokens."""
        return width * math.log(self.trained_length / (turns * 2 * math.pi)) / (2 * math.log(base))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongRope:
    """LongRoPE: every pair has a factor of its own, found by search; for long texts another one.

    Which of the two is used is decided by the longest sequence that the model is to read, and not
    by each text: else a text that grows past `trained_length` would be another model's from there
    on, and its cached keys wrong. (transformers decides by the longest text of each call.)

    Attributes:
      short, long: factors of the r / 2 pairs, by which their frequencies are divided.
      trained_length: up to so many tokens the short ones are used.
      attention_factor: the magnitude.
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    trained_length: int
    attention_factor: float = 1.0

    def __post_init__(self) -> None:
        check_integer("original_max_position_embeddings", self.trained_length)
        for factor in (*self.short, *self.long):
            check_between("rope factor", factor, 0, math.inf, bounds="()")

    @property
    def magnitude(self) -> float:
        """The attention factor."""
        return self.attention_factor

    def scale(self, frequencies: Array, base: float, max_length: int) -> Array:
        """`frequencies / short`, or `/ long` where sequences may be longer than was trained on."""
        factors = self.long if max_length > self.trained_length else self.short
        return frequencies / jnp.asarray(factors, frequencies.dtype)


@dataclasses.dataclass(frozen=True)
class Rope:
    """How the heads of a layer turn with the position.

    Attributes:
      base: of the frequencies, positive; larger turns slower.
      width: r, how many of the C numbers of a head turn, the first ones; even. By default all.
      scaling: what is done for long texts; by default nothing.
    """

    base: float = 10_000.0
    width: int | None = None
    scaling: Scaling | None = None

    def __post_init__(self) -> None:
        check_between("rope base", self.base, 0, math.inf, bounds="()")
        if self.width is not None and (self.width < 2 or self.width % 2):
            raise ValueError(f"rope width must be even and at least 2, got {self.width}")

    @property
    def magnitude(self) -> float:
        """Cosine and sine are multiplied by it."""
        return 1.0 if self.scaling is None else self.scaling.magnitude

    def frequencies(self, head_dim: int, max_length: int, dtype: Any = jnp.float32) -> Array:
        """`[r / 2]` radians a token of each pair.

        Args:
          head_dim: C.
          max_length: of the sequences, in tokens; see `LongRope`.
          dtype: of the result.

        Example:
          >>> Rope(base=100.0).frequencies(4, 2048).tolist()
          [1.0, 0.10000000149011612]
          >>> Rope(base=100.0, scaling=Linear(2.0)).frequencies(4, 2048).tolist()
          [0.5, 0.05000000074505806]
        """
        half = (self.width or head_dim) // 2
        frequencies = self.base ** (-jnp.arange(half, dtype=dtype) / half)
        if self.scaling is None:
            return frequencies
        return self.scaling.scale(frequencies, self.base, max_length)


def rotate(
    x: Array, positions: Array, frequencies: Array, magnitude: Numeric | None = None
) -> Array:
    """Turns each pair (i, i + r/2) of the first r numbers of a head by `position * f_i` radians.

    Args:
      x: `[B, T, heads, C]`.
      positions: `[B, T]` int32.
      frequencies: `[r / 2]` radians a token; r is at most C, and what is beyond stays as it is.
      magnitude: the turned numbers are multiplied by it; by default by nothing.

    Returns:
      `[B, T, heads, C]` in the dtype of `x`; differentiable in `x` alone.

    Example:
      >>> x = jnp.array([[[[1.0, 0.0, 5.0]]]])
      >>> quarter = jnp.array([jnp.pi / 2])
      >>> rotate(x, jnp.array([[1]]), quarter).round(3).tolist()
      [[[[-0.0, 1.0, 5.0]]]]
    """
    width = 2 * frequencies.shape[0]
    turned = cast(Array, _rotate(x[..., :width], positions, frequencies, magnitude))
    return turned if width == x.shape[-1] else jnp.concatenate([turned, x[..., width:]], axis=-1)


class _Turn(NamedTuple):
    positions: Array
    frequencies: Array
    magnitude: Numeric | None


@jax.custom_vjp
def _rotate(x: Array, positions: Array, frequencies: Array, magnitude: Numeric | None) -> Array:
    return _turned(x, _Turn(positions, frequencies, magnitude), 1)


def _turned(x: Array, turn: _Turn, direction: int) -> Array:
    half = x.shape[-1] // 2
    wide = wide_dtype(x.dtype)
    frequencies = turn.frequencies.astype(wide)
    angle = turn.positions[:, :, None, None].astype(wide) * frequencies[None, None, None, :]
    sin, cos = direction * jnp.sin(angle), jnp.cos(angle)
    first, second = x[..., :half].astype(wide), x[..., half:].astype(wide)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    if turn.magnitude is not None:
        turned = turned * jnp.asarray(turn.magnitude, wide)
    return turned.astype(x.dtype)


def _rotate_forward(
    x: Array, positions: Array, frequencies: Array, magnitude: Numeric | None
) -> tuple[Array, _Turn]:
    turn = _Turn(positions, frequencies, magnitude)
    return _turned(x, turn, 1), turn


def _rotate_backward(turn: _Turn, dy: Array) -> tuple[Array, None, None, None]:
    # The inverse of a turn is its transpose. JAX's own rule pads and adds up halves instead.
    return _turned(dy, turn, -1), None, None, None


_rotate.defvjp(_rotate_forward, _rotate_backward)
