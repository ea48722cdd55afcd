"""The two programs of a round, compiled for devices that are not here.

They are compiled ahead of time, from shapes alone: the training step, and a step of
decoding N candidates for each prompt. The compiler says what memory they take on each device and
which collectives they run; a roofline says what bounds them. No weight is allocated and no device
of the slice is needed.
"""

import dataclasses
import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rsft_jax.models import Transformer, TransformerConfig, cache_fn, logits_fn, unstack_layers
from rsft_jax.sharding import (
    BATCH_AXES,
    Collective,
    collectives,
    logical_axes,
    train_shardings,
    tree_shardings,
)
from rsft_jax.training import (
    abstract_train_state,
    all_parameters,
    completion_loss,
    lora,
    make_optimizer,
    make_train_step,
)
from rsft_jax.training.batches import Batch

from ..terminal.errors import ConfigError, one_line
from .machine import Chip
from .shapes import num_parameters
from .sizes import Work, chunk_tokens, forward_flops, sent_bytes, train_flops, ways


class Program(NamedTuple):
    """One compiled program; sizes in bytes, for one device.

    Attributes:
      name: "train step" or "decode step".
      memory: kind -> bytes.
      flops: of the whole program over all devices, counted from the sizes.
      traffic: bytes from and to memory, at least: arguments read, results written, temporaries
        both.
      compiler: what the compiler itself counts for one device, "flops" and "bytes" read and
        written by its instructions; the body of a loop once, however often it runs, and so one
        layer of a training step.
      network: the collectives in the compiled text. The TPU compiler cuts them into pieces and
        does not say how long its loops are: there the counts are a lower bound.
      sent: bytes that the device sends, counted from the sizes.
      seconds: what each resource would need, by name.
      compile_seconds: how long the compiler took.
    """

    name: str
    memory: dict[str, int]
    flops: float
    traffic: int
    compiler: dict[str, float]
    network: dict[str, Collective]
    sent: float
    seconds: dict[str, float]
    compile_seconds: float

    @property
    def total(self) -> int:
        """Bytes of a device that are in use while the program runs."""
        return sum(self.memory.values())


def train_program(config: TransformerConfig, work: Work, mesh: Mesh, chip: Chip) -> Program:
    """Compiles the training step: bfloat16 products, layers rematerialised."""
    # What the device would take, not this machine's default.
    carried = jnp.float32 if mesh.devices.flat[0].platform == "cpu" else jnp.bfloat16
    config = dataclasses.replace(config, dtype=jnp.bfloat16, carried_dtype=carried)
    if work.part == "all":
        part = all_parameters(remat="layers")
    else:
        part = lora(jax.random.key(0), rank=16, remat="layers")
    model = Transformer(part.model(config))
    tx = make_optimizer(work.optimizer, learning_rate=1e-5, clip_norm=1.0)
    # What is trained becomes float32 in the state.
    params = _abstract_params(config, jnp.bfloat16 if work.frozen_bytes == 2 else jnp.float32)
    state, frozen = abstract_train_state(model, part, params, tx)
    try:
        shardings = train_shardings(mesh, _rules(mesh), model, state, frozen)
    except ValueError as error:  # an axis that a size does not divide, named with the nearest
        raise ConfigError(f"--mesh: {one_line(error)}") from None
    row_ways = ways(mesh)
    loss = completion_loss(model, chunk_tokens=chunk_tokens(work, row_ways))
    step = make_train_step(model, part, loss=loss, shardings=shardings)
    batch = _abstract_batch(work.train_rows * row_ways, work.length)
    begun = time.perf_counter()
    compiled = step.lower(  # pyright: ignore[reportFunctionMemberAccess]
        _placed(state, shardings.state), _placed(frozen, shardings.frozen), batch
    ).compile()
    seconds = time.perf_counter() - begun
    memory: Any = compiled.memory_analysis()
    parameters = _device_bytes(state.params, shardings.state.params)
    parameters += _device_bytes(frozen, shardings.frozen)
    moments = _device_bytes(state.opt_state, shardings.state.opt_state)
    kinds = {
        "parameters": parameters,
        "optimizer": moments,
        "batch": memory.argument_size_in_bytes - parameters - moments,
        "gradients and activations": memory.temp_size_in_bytes,
        "results": memory.output_size_in_bytes - memory.alias_size_in_bytes,
    }
    tokens = work.train_rows * row_ways * work.length
    flops = train_flops(config, work.part, tokens, work.length)
    chunks = -(-work.length // max(chunk_tokens(work, row_ways) // (work.train_rows * row_ways), 1))
    sent = sent_bytes(config, work, mesh)
    return _program(
        compiled,
        mesh,
        chip,
        name="train step",
        memory=kinds,
        flops=flops,
        sent=sent,
        unknown_trips=chunks,
        compile_seconds=seconds,
    )


def decode_program(
    config: TransformerConfig, work: Work, mesh: Mesh, chip: Chip, state_bytes: int
) -> Program:
    """Compiles one step of decoding with a cache, bfloat16 throughout.

    The weights are a copy in bfloat16 beside the train state, divided by `tensor` alone where that
    is enough room, so that a step gathers none.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"  # where a cache in half precision is slow
    cache_dtype = None if on_cpu else jnp.bfloat16
    config = dataclasses.replace(config, dtype=jnp.bfloat16, cache_dtype=cache_dtype)
    model = Transformer(config)
    params = _abstract_params(config, jnp.bfloat16)
    whole = 2 * num_parameters(config) / mesh.shape["tensor"]
    rules = "tensor" if not chip.memory or whole < 0.5 * chip.memory else "fsdp+tensor"
    rows = work.prompts * work.candidates * ways(mesh)
    cache = jax.eval_shape(lambda: cache_fn(model)(rows, work.prompt_length + work.new_tokens))
    heads = "tensor" if config.num_kv_heads % mesh.shape["tensor"] == 0 else None
    by_row = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    by_head = NamedSharding(mesh, PartitionSpec(BATCH_AXES, heads))
    where = tree_shardings(mesh, rules, logical_axes(model), params)
    cache_where = jax.tree.map(lambda _: by_head, cache)

    def step(params: Any, cache: Any, tokens: jax.Array, positions: jax.Array, seed: jax.Array):
        logits, cache = logits_fn(model)(params, tokens[:, None], positions[:, None], cache)
        drawn = jax.random.categorical(jax.random.key(seed), logits[:, 0])
        return drawn.astype(jnp.int32), cache

    compiling = jax.jit(step, out_shardings=(by_row, cache_where), donate_argnums=1)
    row = jax.ShapeDtypeStruct((rows,), jnp.int32, sharding=by_row)
    seed = jax.ShapeDtypeStruct((), jnp.uint32, sharding=NamedSharding(mesh, PartitionSpec()))
    begun = time.perf_counter()
    compiled = compiling.lower(
        _placed(params, where), _placed(cache, cache_where), row, row, seed
    ).compile()
    seconds = time.perf_counter() - begun
    memory: Any = compiled.memory_analysis()
    weights, cached = _device_bytes(params, where), _device_bytes(cache, cache_where)
    kinds = {
        "train state": state_bytes,
        "weights": weights,
        "cache": cached,
        "activations": memory.temp_size_in_bytes,
        "tokens": memory.argument_size_in_bytes - weights - cached
        + memory.output_size_in_bytes - memory.alias_size_in_bytes,
    }  # fmt: skip
    context = work.prompt_length + work.new_tokens
    flops = rows * forward_flops(config, context)
    tensor, parts = mesh.shape["tensor"], mesh.shape["fsdp"] if rules != "tensor" else 1
    sent = 2.0 * num_parameters(config) / tensor * (parts - 1) / parts
    sums = 2 * config.num_layers * rows / ways(mesh) * config.d_model * 2
    sent += sums * 2 * (tensor - 1) / tensor
    return _program(
        compiled,
        mesh,
        chip,
        name="decode step",
        memory=kinds,
        flops=flops,
        sent=sent,
        unknown_trips=1,
        compile_seconds=seconds,
    )


def _program(
    compiled: Any,
    mesh: Mesh,
    chip: Chip,
    *,
    name: str,
    memory: dict[str, int],
    flops: float,
    sent: float,
    unknown_trips: int,
    compile_seconds: float,
) -> Program:
    """What the compiler says of a program, beside what was counted of it; see `Program`."""
    sizes = compiled.memory_analysis()
    traffic = sizes.argument_size_in_bytes + 2 * sizes.temp_size_in_bytes
    traffic += sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    network = collectives(compiled.as_text(), unknown_trips=unknown_trips)
    seconds = {}
    if chip.flops and chip.bandwidth and chip.network:
        seconds = {
            "arithmetic": flops / mesh.devices.size / chip.flops,
            "memory": traffic / chip.bandwidth,
            "network": sent / chip.network,
        }
    return Program(
        name=name,
        memory=memory,
        flops=flops,
        traffic=traffic,
        compiler=_compiler_counts(compiled),
        network=network,
        sent=sent,
        seconds=seconds,
        compile_seconds=compile_seconds,
    )


def _compiler_counts(compiled: Any) -> dict[str, float]:
    counts = compiled.cost_analysis() or {}
    counts = counts[0] if isinstance(counts, list) else counts
    names = {"flops": "flops", "bytes": "bytes accessed"}
    return {name: float(counts[key]) for name, key in names.items() if key in counts}


def _abstract_params(config: TransformerConfig, dtype: Any) -> Any:
    """Parameters in the unrolled layout; traced as one layer, which takes no time."""
    model = Transformer(dataclasses.replace(config, scan_layers=True))
    ids = jnp.zeros((1, 1), jnp.int32)

    def init() -> Any:
        from flax.core import meta

        params = unstack_layers(meta.unbox(model.init(jax.random.key(0), ids, ids))["params"])
        return jax.tree.map(lambda x: x.astype(dtype), params)

    return jax.eval_shape(init)


def _abstract_batch(rows: int, length: int) -> Batch:
    ids = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    row = jax.ShapeDtypeStruct((rows,), jnp.int32)
    weights: Any = jax.ShapeDtypeStruct((rows,), jnp.float32)
    shapes: Any = {"tokens": ids, "positions": ids, "weights": weights}
    return Batch(**shapes, completion_start=row, completion_length=row)  # pyright: ignore


def _placed(tree: Any, shardings: Any) -> Any:
    def placed(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(placed, tree, shardings)


def _device_bytes(tree: Any, shardings: Any) -> int:
    def size(leaf: Any, where: NamedSharding) -> int:
        return leaf.dtype.itemsize * math.prod(where.shard_shape(leaf.shape))

    return sum(jax.tree.leaves(jax.tree.map(size, tree, shardings)))


def _rules(mesh: Mesh) -> str:
    fsdp, tensor = mesh.shape["fsdp"] > 1, mesh.shape["tensor"] > 1
    return {(0, 0): "replicated", (1, 0): "fsdp", (0, 1): "tensor"}.get(
        (fsdp, tensor), "fsdp+tensor"
    )
