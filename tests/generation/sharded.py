"""What a mesh draws; `test_sharded` calls it, and starts it as one process of two."""

import json
import sys

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rsft_jax.generation import SamplingParams, generate
from rsft_jax.models import cache_fn, logits_fn
from rsft_jax.sharding import make_mesh, tree_shardings
from rsft_jax.sharding.rules import logical_axes
from tests.generation.toys import small_transformer

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9], [10, 11]]


def draw(mesh=None, rules="replicated", slots=8):
    """Tokens of every candidate, through slots over a mesh or without one."""
    model, params = small_transformer(96)
    sharding = None
    if mesh is not None:
        shardings = tree_shardings(mesh, rules, logical_axes(model), params)
        params = jax.tree.map(
            lambda leaf, at: jax.make_array_from_callback(leaf.shape, at, lambda i: leaf[i]),
            jax.device_get(params), shardings,
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
