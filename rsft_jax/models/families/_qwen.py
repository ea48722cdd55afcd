"""Which layers of a Qwen have a window: those from `max_window_layers` on, if it is switched on."""

from collections.abc import Mapping
from typing import Any

from rsft_jax.models.config import LayerKind, TransformerConfig
from rsft_jax.models.families import _common as common
from rsft_jax.models.families.family import Values
from rsft_jax.models.rope import Rope
from rsft_jax.models.rope_json import read_rope, rope_json


def qwen_kinds(read: Values, sizes: Mapping[str, Any]) -> tuple[LayerKind, ...]:
    """The kinds of all layers."""
    layers = sizes["num_layers"]
    rope = read_rope(read, head_dim=sizes["head_dim"], max_length=sizes["max_length"])
    used = read("use_sliding_window", bool, False)
    window = common.window(read, 4096) if used else None
    first = read("max_window_layers", int, 28)
    default = [common.SLIDING if window and i >= first else common.FULL for i in range(layers)]
    types = common.layer_types(read, layers, default)
    windows = {common.SLIDING: window, common.FULL: None}
    return common.pattern([LayerKind(window=windows[kind], rope=rope) for kind in types])


def qwen_json(c: TransformerConfig) -> dict[str, Any]:
    """What `config.json` says of the kinds."""
    window = common.window_of(c)
    return {
        "hidden_act": "silu",
        **rope_json(c.kinds[0].rope or Rope(), c.head_dim),
        "use_sliding_window": window is not None,
        "sliding_window": window,
        # For readers that do not know of `layer_types`.
        "max_window_layers": next(
            (i for i in range(c.num_layers) if c.kind(i).window), c.num_layers
        ),
        "layer_types": common.types_json(c),
    }
