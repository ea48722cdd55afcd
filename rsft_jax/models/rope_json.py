"""Rotary positions in a `config.json`: read as transformers 4 and 5 do, and written for both.

transformers 5 writes `rope_parameters`; transformers 4 wrote `rope_scaling`, and the base as
`rope_theta`. Where several are there, `rope_scaling` wins over `rope_parameters`, and the base in
either over the one beside them. (transformers 4 looks at `rope_theta` alone, and takes 10000
without it.) What is written stands where both find it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Protocol

from rsft_jax.models.config import LayerKind
from rsft_jax.models.rope import Linear, Llama3, LongRope, Rope, Scaling, Yarn

_KEYS = {
    "default": set(),
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor"},
    "yarn": {"factor", "attention_factor", "beta_fast", "beta_slow", "truncate"},
    "longrope": {"factor", "attention_factor", "short_factor", "long_factor"},
}
_EVERYWHERE = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
_TRAINED = "original_max_position_embeddings"


class _Values(Protocol):
    def __call__(self, key: str, kind: type, default: Any = None, /) -> Any: ...

    def fail(self, key: str, reason: str, /) -> NoReturn: ...


def read_rope(
    read: _Values, *, head_dim: int, max_length: int, base: float = 1e4, partial: bool = False
) -> Rope:
    """The rotary positions of a model whose layers all turn alike.

    Args:
      read: values of its `config.json`.
      head_dim: C.
      max_length: `max_position_embeddings`.
      base: where none is given.
      partial: whether a part of a head may turn; most classes of transformers leave that key out.

    Raises:
      ValueError: layers have parameters of their own, or a value is not one that is computed.
    """
    key = "rope_scaling" if read("rope_scaling", dict, {}) else "rope_parameters"
    parameters = read(key, dict, {})
    if any(isinstance(value, dict) for value in parameters.values()):
        # transformers takes the default base where each type of layer has parameters of its own.
        read.fail(key, f"must be one for all layers, got {parameters!r:.80}")
    base = read("rope_theta", float, base)
    rope = _rope(read, key, parameters, head_dim=head_dim, max_length=max_length, base=base)
    if rope.width is not None and not partial:
        read.fail("partial_rotary_factor", f"must be 1, got {rope.width / head_dim}")
    return rope


def read_ropes(
    read: _Values, *, head_dim: int, max_length: int, base: float, local_base: float
) -> dict[str, Rope]:
    """The rotary positions of full and of sliding attention, where each has its own.

    `rope_scaling` is of the full layers alone, as in the files that transformers 4 wrote.

    Args:
      read: values of the `config.json`.
      head_dim: C.
      max_length: `max_position_embeddings`.
      base, local_base: of full and of sliding attention, where no parameters give them.

    Returns:
      `{"full_attention": ..., "sliding_attention": ...}`.
    """
    given = read("rope_parameters", dict, {})
    full = {**(given.get("full_attention") or {}), **read("rope_scaling", dict, {})}
    local = given.get("sliding_attention") or {}
    unknown = sorted(set(given) - {"full_attention", "sliding_attention"})
    if unknown or not isinstance(full, dict) or not isinstance(local, dict):
        read.fail(
            "rope_parameters", f"must have one object for each type of layer, got {given!r:.80}"
        )
    lengths = {"head_dim": head_dim, "max_length": max_length}
    ropes = {
        "full_attention": _rope(read, "rope_parameters", full, base=base, **lengths),
        "sliding_attention": _rope(read, "rope_parameters", local, base=local_base, **lengths),
    }
    if any(rope.width for rope in ropes.values()):
        read.fail("partial_rotary_factor", "must be 1")
    return ropes


def _rope(
    read: _Values,
    key: str,
    parameters: Mapping[str, Any],
    *,
    head_dim: int,
    max_length: int,
    base: float,
) -> Rope:
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    kind = {"su": "longrope"}.get(kind, kind)
    if kind not in _KEYS:
        known = ", ".join(map(repr, _KEYS))
        read.fail(key, f"rope_type must be one of {known}, got {kind!r:.80}")
    unknown = set(parameters) - _KEYS[kind] - _EVERYWHERE - {_TRAINED}
    if unknown:
        read.fail(key, f"{min(unknown):.80} is not known for rope_type {kind!r}")
    number = _Numbers(read, key, parameters)
    part = number("partial_rotary_factor", read("partial_rotary_factor", float, 1.0))
    width = int(head_dim * part)
    return Rope(
        base=number("rope_theta", base),
        width=None if width == head_dim else width,
        scaling=_scaling(kind, number, max_length),
    )


class _Numbers:
    """Numbers of an object inside of a `config.json`."""

    def __init__(self, read: _Values, key: str, parameters: Mapping[str, Any]) -> None:
        self._read, self._key, self._parameters = read, key, parameters

    def __call__(self, name: str, default: Any = None) -> Any:
        value = self._parameters.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._read.fail(self._key, f"{name} must be a number, got {value!r:.80}")
        return float(value)

    def optional(self, name: str) -> float | None:
        return None if self._parameters.get(name) is None else self(name)

    def flag(self, name: str, default: bool) -> bool:
        value = self._parameters.get(name, default)
        if not isinstance(value, bool):
            self._read.fail(self._key, f"{name} must be true or false, got {value!r:.80}")
        return value

    def many(self, name: str) -> tuple[float, ...]:
        value = self._parameters.get(name)
        if not isinstance(value, list) or any(type(v) not in (int, float) for v in value):
            self._read.fail(self._key, f"{name} must be a list of numbers, got {value!r:.80}")
        return tuple(map(float, value))

    def trained_length(self, max_length: int) -> int:
        # Beside the parameters it wins over the one among them, as in transformers (Phi 3).
        beside = self._read(_TRAINED, int, 0)
        return beside or int(self(_TRAINED, max_length))


def _scaling(kind: str, number: _Numbers, max_length: int) -> Scaling | None:
    if kind == "default":
        return None
    if kind == "linear":
        return Linear(number("factor"))
    trained = number.trained_length(max_length)
    if kind == "llama3":
        low, high = number("low_freq_factor"), number("high_freq_factor")
        return Llama3(factor=number("factor"), low=low, high=high, trained_length=trained)
    factor = number.optional("factor") or max_length / trained
    attention_factor = number.optional("attention_factor")
    if kind == "yarn":
        return Yarn(
            factor=factor,
            trained_length=trained,
            beta_fast=number("beta_fast", 32.0),
            beta_slow=number("beta_slow", 1.0),
            truncate=number.flag("truncate", True),
            attention_factor=attention_factor,
        )
    if attention_factor is None:
        larger = factor > 1
        attention_factor = math.sqrt(1 + math.log(factor) / math.log(trained)) if larger else 1.0
    return LongRope(
        short=number.many("short_factor"),
        long=number.many("long_factor"),
        trained_length=trained,
        attention_factor=attention_factor,
    )


def rope_json(rope: Rope, head_dim: int) -> dict[str, Any]:
    """The keys of a `config.json` for rotary positions: the base, and what is done to it.

    Example:
      >>> rope_json(Rope(base=5e5, scaling=Linear(4.0)), 64)
      {'rope_theta': 500000.0, 'rope_scaling': {'rope_type': 'linear', 'factor': 4.0}}
    """
    keys: dict[str, Any] = {"rope_theta": rope.base}
    if rope.width is not None:
        keys["partial_rotary_factor"] = rope.width / head_dim
    if rope.scaling is not None:
        keys["rope_scaling"] = scaling_json(rope.scaling)
    return keys


def ropes_json(
    kinds: Sequence[LayerKind], default: Rope, *, local_key: str | None = None
) -> dict[str, Any]:
    """Inverts `read_ropes`, in the form of transformers 5 and in that of transformers 4.

    Args:
      kinds: of the layers.
      default: of the types of layers that the model does not have.
      local_key: under which transformers 4 finds the base of sliding layers; by default it takes
        that of the full ones.
    """
    full = next((k.rope for k in kinds if k.rope and not k.window), default)
    local = next((k.rope for k in kinds if k.rope and k.window), default)
    stated = {
        "full_attention": {"rope_theta": full.base, **_scaling_or_default(full)},
        "sliding_attention": {"rope_theta": local.base, **_scaling_or_default(local)},
    }
    older: dict[str, Any] = {"rope_theta": full.base}
    if local_key:
        older[local_key] = local.base
    if full.scaling:
        older["rope_scaling"] = scaling_json(full.scaling)
    return {**older, "rope_parameters": stated}


def _scaling_or_default(rope: Rope) -> dict[str, Any]:
    return scaling_json(rope.scaling) if rope.scaling else {"rope_type": "default"}


def scaling_json(scaling: Scaling) -> dict[str, Any]:
    """What is done to the frequencies, as the object `rope_scaling`."""
    match scaling:
        case Linear():
            return {"rope_type": "linear", "factor": scaling.factor}
        case Llama3():
            return {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low,
                "high_freq_factor": scaling.high,
                _TRAINED: scaling.trained_length,
            }
        case Yarn():
            stated = scaling.attention_factor
            return {
                "rope_type": "yarn",
                "factor": scaling.factor,
                **({} if stated is None else {"attention_factor": stated}),
                "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow,
                "truncate": scaling.truncate,
                _TRAINED: scaling.trained_length,
            }
        case LongRope():
            return {
                "rope_type": "longrope",
                "attention_factor": scaling.magnitude,
                "short_factor": list(scaling.short),
                "long_factor": list(scaling.long),
                _TRAINED: scaling.trained_length,
            }
    raise ValueError(f"a scaling of the type {type(scaling).__name__} has no form in config.json")
