"""The ground floor: what every package computes and checks with. It knows no law and no model.

    checks       arguments on the host, in one dialect of errors
    keys         random keys and uniforms, one key a row
    counting     counts and places along a mask
    float_order  the order of floats as integers, and the bisection over it
    dtypes       float32 or wider
    loops        loops inside `jax.shard_map`

It needs jax, numpy and chex, and `rsft_jax.types`.
"""

from rsft_jax.numerics.checks import (
    check_between,
    check_choice,
    check_integer,
    check_number,
    check_same_vocabulary,
    check_vocabulary,
    per_prompt,
)
from rsft_jax.numerics.counting import first_true, last_true, running_count
from rsft_jax.numerics.dtypes import wide_dtype, widened
from rsft_jax.numerics.float_order import Bracket, bisect, first_float, from_order, to_order
from rsft_jax.numerics.keys import (
    check_key,
    counter_bits,
    is_typed,
    log_uniform,
    numbered_key,
    row_keys,
    threefry_2x32,
    unit_uniform,
    unrolled_key,
)
from rsft_jax.numerics.loops import vary_like

__all__ = [
    "Bracket",
    "bisect",
    "check_between",
    "check_choice",
    "check_integer",
    "check_key",
    "check_number",
    "check_same_vocabulary",
    "check_vocabulary",
    "counter_bits",
    "first_float",
    "first_true",
    "from_order",
    "is_typed",
    "last_true",
    "log_uniform",
    "numbered_key",
    "per_prompt",
    "row_keys",
    "running_count",
    "threefry_2x32",
    "to_order",
    "unit_uniform",
    "unrolled_key",
    "vary_like",
    "wide_dtype",
    "widened",
]
