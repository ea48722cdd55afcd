"""What a mesh draws; `test_sharded` calls it, and starts it as one process of two."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from rsft_jax.generation import SamplingParams, generate
from rsft_jax.models import Transformer, TransformerConfig, cache_fn, logits_fn
from rsft_jax.sharding import make_mesh, tree_shardings
from rsft_jax.sharding.rules import logical_axes

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9], [10, 11]]


def draw(mesh=None, rules="replicated", slots=8):
    """Tokens of every candidate, through slots over a mesh or without one."""
    config = TransformerConfig(
        vocab_size=96, d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8,
        d_ff=48, dtype=jnp.dtype("float64"),
    )  # fmt: skip
    model = Transformer(config)
    ids = jnp.zeros((1, 4), jnp.int32)
    params = nn.unbox(model.init(jax.random.key(0), ids, jnp.arange(4)[None]))["params"]
    params = jax.tree.map(lambda leaf: np.asarray(leaf * 2, np.float64), params)
    sharding = None
    if mesh is not None:
        shardings = tree_shardings(mesh, rules, logical_axes(model), params)
        params = jax.tree.map(
            lambda leaf, at: jax.make_array_from_callback(leaf.shape, at, lambda i: leaf[i]),
            params, shardings,
        )  # fmt: skip
        sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    drawn = generate(
        jax.random.key(7), logits_fn(model), params, PROMPTS, num_candidates=6,
        sampling=SamplingParams(max_new_tokens=9, stop_token_ids=tuple(range(3, 40, 5))),
        init_cache=cache_fn(model), slots=slots, sharding=sharding,
    )  # fmt: skip
    return np.asarray(drawn.tokens).tolist(), np.asarray(drawn.log_probs).tolist()


def main() -> None:
    """One process of several: python -m tests.generation.sharded ADDRESS PROCESSES NUMBER."""
    address, count, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, count, number)
    print("\n" + json.dumps(draw(make_mesh(data=2, tensor=2), "tensor")))


if __name__ == "__main__":
    main()
