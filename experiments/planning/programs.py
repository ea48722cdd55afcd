"""`rsft plan`: compile a round for a machine that is not here, and say whether it fits.

Two programs are compiled ahead of time, from shapes alone: the training step, and a step of
decoding N candidates for each prompt. The compiler says what memory they take on each device and
which collectives they run; a roofline says what bounds them. No weight is allocated and no device
of the slice is needed.
"""

import argparse
import dataclasses
import itertools
import json
import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rsft_jax.models import Transformer, TransformerConfig, cache_fn, logits_fn, unstack_layers
from rsft_jax.models.attention import block_size
from rsft_jax.sharding import (
    BATCH_AXES,
    Collective,
    collectives,
    logical_axes,
    make_mesh,
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

from ..settings.typed import nearest
from ..terminal.errors import ConfigError, ExitCode, one_line, shown
from .machine import GIB, SLICES, Chip, find_devices
from .shapes import SHAPES, num_parameters

_USABLE = 0.95  # of a device's memory; the rest is the runtime's
_NUM_SUGGESTIONS = 3


class Work(NamedTuple):
    """The size of a round.

    Attributes:
      part: "all" or "lora".
      optimizer: a name that `make_optimizer` knows.
      train_rows: sequences in a training step, for each device that divides rows.
      length: tokens of a training sequence.
      candidates: N, completions of a prompt.
      prompts: prompts decoded at the same time, for each device that divides rows.
      prompt_length: tokens of a prompt.
      new_tokens: tokens of a completion.
    """

    part: str
    optimizer: str
    train_rows: int
    length: int
    candidates: int
    prompts: int
    prompt_length: int
    new_tokens: int


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


def plan(arguments: argparse.Namespace) -> ExitCode:
    """Prints a plan for each topology, as text or as JSON; the exit code is 1 if none fits."""
    config = _model(arguments.model)
    work = Work(
        part=arguments.part,
        optimizer=arguments.optimizer,
        train_rows=arguments.rows,
        length=arguments.length,
        candidates=arguments.candidates,
        prompts=arguments.prompts,
        prompt_length=arguments.prompt_length,
        new_tokens=arguments.new_tokens,
    )
    for name, value in work._asdict().items():
        if isinstance(value, int) and value < 1:
            raise ConfigError(
                f"--{name.removeprefix('train_').replace('_', '-')}: {value} is not at least 1"
            )
    any_fits = False
    for topology in arguments.topology.split(","):
        fits = _plan_one(config, work, topology, arguments)
        any_fits = any_fits or fits
    return ExitCode.OK if any_fits else ExitCode.FAILED


def _plan_one(
    config: TransformerConfig, work: Work, topology: str, arguments: argparse.Namespace
) -> bool:
    topology = smallest_slice(config, work, topology) if topology in SLICES else topology
    devices, chip = find_devices(topology)
    if arguments.mesh:
        sizes = _mesh_sizes(arguments.mesh)
    else:
        sizes = next(iter(suggestions(config, work, len(devices), chip)), None)
        if sizes is None:
            report: dict[str, Any] = {"topology": topology, "devices": len(devices), "fits": False}
            report["reason"] = "by the sizes of its arrays no mesh of these devices holds the round"
            _show(report, arguments.json)
            return False
    try:
        mesh = make_mesh(**sizes, devices=devices)
    except ValueError as error:
        raise ConfigError(f"--mesh: {one_line(error)}") from None
    report = {
        "model": arguments.model,
        "parameters": num_parameters(config),
        "topology": topology,
        "devices": len(devices),
        "device": devices[0].device_kind,
        "mesh": dict(mesh.shape),
        "suggestions": list(
            itertools.islice(suggestions(config, work, len(devices), chip), _NUM_SUGGESTIONS)
        ),
        "memory": chip.memory,
    }
    limit = chip.memory * _USABLE if chip.memory else float("inf")
    try:
        programs = [train_program(config, work, mesh, chip)]
        state = programs[0].memory["parameters"] + programs[0].memory["optimizer"]
        programs.append(decode_program(config, work, mesh, chip, state))
        report["programs"] = [program._asdict() | {"total": program.total} for program in programs]
        report["fits"] = all(program.total <= limit for program in programs)
        report["round"] = round_seconds(config, work, mesh, chip, programs)
    except jax.errors.JaxRuntimeError as error:  # the compiler itself refuses
        report |= {"fits": False, "reason": one_line(error, 300)}
    _show(report, arguments.json)
    return bool(report["fits"])


def smallest_slice(config: TransformerConfig, work: Work, family: str) -> str:
    """The smallest slice of a generation that holds the round by the sizes of its arrays."""
    for size in SLICES[family]:
        devices, chip = find_devices(f"{family}:{size}")
        if any(suggestions(config, work, len(devices), chip)):
            return f"{family}:{size}"
    return f"{family}:{SLICES[family][-1]}"


def suggestions(
    config: TransformerConfig, work: Work, devices: int, chip: Chip
) -> Iterator[dict[str, int]]:
    """Mesh sizes that hold the round by the sizes of its arrays, the best first.

    As little `tensor` as possible, because it sends activations in every layer; and the rest
    `fsdp`, because nothing else divides the optimizer's state.
    """
    c = config
    for tensor in (n for n in range(1, devices + 1) if devices % n == 0):
        fsdp = devices // tensor
        divides = all(
            size % tensor == 0
            for size in (c.num_kv_heads, c.d_ff, c.vocab_size, c.num_kv_heads * c.head_dim)
        )
        if not divides or c.d_model % fsdp:
            continue
        limit = chip.memory * _USABLE if chip.memory else float("inf")
        if max(estimated_bytes(c, work, fsdp, tensor)) <= limit:
            yield {"data": 1, "fsdp": fsdp, "tensor": tensor}


def estimated_bytes(
    config: TransformerConfig, work: Work, fsdp: int, tensor: int
) -> tuple[float, float]:
    """Bytes of one device while training and while decoding, from the sizes of the arrays."""
    c, total = config, num_parameters(config)
    trained = total if work.part == "all" else total * 0.02
    moments = {"adamw": 2, "lion": 1, "sgd": 0, "adafactor": 0}[work.optimizer]
    state = 4 * (total + (moments * trained if work.part == "all" else 3 * trained))
    state /= fsdp * tensor
    tokens = work.train_rows * work.length
    # Of a layer its input, its attention's output, and a log-sum for each head and token.
    kept = tokens * (2 * c.d_model + (2 * c.head_dim + 4) * c.num_heads / tensor) * c.num_layers
    square = min(block_size(work.length), work.length) * work.length
    scores = 3 * 4 * work.train_rows * c.num_heads / tensor * square
    wide = tokens * (8 * c.d_ff / tensor + 12 * c.d_model)
    head = 12 * _chunk_tokens(work, 1) * c.vocab_size / tensor
    gradients = 4 * trained / (fsdp * tensor)
    gathered = 3 * 4 * (total - c.vocab_size * c.d_model) / c.num_layers / tensor
    train = state + gradients + kept + max(scores + wide, head) + gathered
    rows = work.prompts * work.candidates
    cache = 4 * c.num_layers * c.num_kv_heads / tensor * c.head_dim
    cache *= rows * (work.prompt_length + work.new_tokens)
    decode = state + 2 * total / tensor + 1.3 * cache + 12 * rows * c.vocab_size / tensor
    return train, decode


def train_program(config: TransformerConfig, work: Work, mesh: Mesh, chip: Chip) -> Program:
    """Compiles the training step: bfloat16 products, float32 parameters, layers rematerialised."""
    # What the device would take, not this machine's default.
    carried = jnp.float32 if mesh.devices.flat[0].platform == "cpu" else jnp.bfloat16
    config = dataclasses.replace(config, dtype=jnp.bfloat16, carried_dtype=carried)
    if work.part == "all":
        part = all_parameters(remat="layers")
    else:
        part = lora(jax.random.key(0), rank=16, remat="layers")
    model = Transformer(part.model(config))
    tx = make_optimizer(work.optimizer, learning_rate=1e-5, clip_norm=1.0)
    state, frozen = abstract_train_state(model, part, _abstract_params(config, jnp.float32), tx)
    try:
        shardings = train_shardings(mesh, _rules(mesh), model, state, frozen)
    except ValueError as error:  # an axis that a size does not divide, named with the nearest
        raise ConfigError(f"--mesh: {one_line(error)}") from None
    ways = _ways(mesh)
    loss = completion_loss(model, chunk_tokens=_chunk_tokens(work, ways))
    step = make_train_step(model, part, loss=loss, shardings=shardings)
    batch = _abstract_batch(work.train_rows * ways, work.length)
    begun = time.perf_counter()
    compiled = step.lower(  # pyright: ignore[reportFunctionMemberAccess]
        _placed(state, shardings.state), _placed(frozen, shardings.frozen), batch
    ).compile()
    seconds = time.perf_counter() - begun
    memory = compiled.memory_analysis()
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
    tokens = work.train_rows * ways * work.length
    flops = train_flops(config, work.part, tokens, work.length)
    chunks = -(-work.length // max(_chunk_tokens(work, ways) // (work.train_rows * ways), 1))
    sent = sent_bytes(config, work, mesh)
    return _program("train step", compiled, kinds, flops, sent, chunks, seconds, mesh, chip)


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
    rows = work.prompts * work.candidates * _ways(mesh)
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
    memory = compiled.memory_analysis()
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
    flops = rows * _forward_flops(config, context)
    tensor, ways = mesh.shape["tensor"], mesh.shape["fsdp"] if rules != "tensor" else 1
    sent = 2.0 * num_parameters(config) / tensor * (ways - 1) / ways
    sums = 2 * config.num_layers * rows / _ways(mesh) * config.d_model * 2
    sent += sums * 2 * (tensor - 1) / tensor
    return _program("decode step", compiled, kinds, flops, sent, 1, seconds, mesh, chip)


def round_seconds(
    config: TransformerConfig, work: Work, mesh: Mesh, chip: Chip, programs: list[Program]
) -> dict[str, float]:
    """What one wave of prompts takes at best: prefill, decoding, and training on one in N."""
    if chip.flops is None:
        return {}
    train, decode = (max(program.seconds.values()) for program in programs)
    prompts = work.prompts * _ways(mesh)
    flops = prompts * work.prompt_length * _forward_flops(config, work.prompt_length)
    return {
        "prefill": flops / (chip.flops * mesh.devices.size),
        "decode": work.new_tokens * decode,
        "train": train * prompts / (work.train_rows * _ways(mesh)),
    }


def train_flops(config: TransformerConfig, part: str, tokens: int, length: int) -> float:
    """Floating-point operations of a step, with the second forward pass of rematerialisation.

    (It leaves out attention, which then forms its scores again in the backward pass.)
    """
    forward = tokens * _forward_flops(config, length)
    # Backward: the gradient of the activations, and, where they are trained, of the weights.
    return forward * (4 if part == "all" else 3)


def sent_bytes(config: TransformerConfig, work: Work, mesh: Mesh) -> float:
    """Bytes that a device sends in a training step, by ring algorithms, in bfloat16.

    fsdp gathers every parameter forward and backward and scatters the sum of its gradient; data
    sums gradients; tensor sums activations five times a layer (see tests/sharding).
    """
    data, fsdp, tensor = (mesh.shape[name] for name in ("data", "fsdp", "tensor"))
    parameters = 2.0 * num_parameters(config) / tensor
    trained = parameters if work.part == "all" else 0.02 * parameters
    sent = (2 * parameters + trained) * (fsdp - 1) / fsdp
    sent += 2 * trained / fsdp * (data - 1) / data
    activations = 2.0 * work.train_rows * work.length * config.d_model
    return sent + 5 * config.num_layers * activations * 2 * (tensor - 1) / tensor


def _forward_flops(config: TransformerConfig, context: int) -> float:
    """Operations for one token: a multiplication and an addition for each weight, and attention."""
    c = config
    layers = num_parameters(c) - c.vocab_size * c.d_model * (2 - c.tie_embeddings)
    attention = 4 * c.num_layers * c.num_heads * c.head_dim * context
    return 2.0 * (layers + c.vocab_size * c.d_model) + attention


def _program(
    name: str,
    compiled: Any,
    kinds: dict[str, int],
    flops: float,
    sent: float,
    unknown_trips: int,
    compile_seconds: float,
    mesh: Mesh,
    chip: Chip,
) -> Program:
    memory = compiled.memory_analysis()
    traffic = memory.argument_size_in_bytes + 2 * memory.temp_size_in_bytes
    traffic += memory.output_size_in_bytes - memory.alias_size_in_bytes
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
        memory=kinds,
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


def _ways(mesh: Mesh) -> int:
    return mesh.shape["data"] * mesh.shape["fsdp"]


def _chunk_tokens(work: Work, ways: int) -> int:
    """A quarter of a device's tokens: the head's gradient is summed over devices once a chunk."""
    return max(work.train_rows * work.length // 4, 1024) * ways


def _rules(mesh: Mesh) -> str:
    fsdp, tensor = mesh.shape["fsdp"] > 1, mesh.shape["tensor"] > 1
    return {(0, 0): "replicated", (1, 0): "fsdp", (0, 1): "tensor"}.get(
        (fsdp, tensor), "fsdp+tensor"
    )


def _model(name: str) -> TransformerConfig:
    if name not in SHAPES:
        raise ConfigError(f"{shown(name)}: unknown model{nearest(name, SHAPES)}; there are: "
                          f"{', '.join(SHAPES)}")  # fmt: skip
    return SHAPES[name]


def _mesh_sizes(text: str) -> dict[str, int]:
    sizes = {"data": 1, "fsdp": 1, "tensor": 1}
    for item in text.split(","):
        name, equals, value = item.partition("=")
        if name not in sizes or not equals or not value.lstrip("-").isdigit():
            raise ConfigError(f"--mesh: {shown(item)} is not data=N, fsdp=N or tensor=N")
        sizes[name] = int(value)
    return sizes


def _as_argument(sizes: dict[str, int]) -> str:
    return ",".join(f"{name}={size}" for name, size in sizes.items() if size > 1) or "data=1"


def _show(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(report), flush=True)
        return
    mesh = " x ".join(f"{name} {size}" for name, size in report.get("mesh", {}).items())
    print(f"{report['topology']}: {report['devices']} devices, mesh {mesh or '-'}")
    for program in report.get("programs", []):
        print(f"  {program['name']}: {program['total'] / GIB:.2f} GiB a device "
              f"(compiled in {program['compile_seconds']:.0f} s)")  # fmt: skip
        for kind, size in program["memory"].items():
            print(f"    {kind:<26}{size / GIB:8.2f} GiB")
        print(f"    {program['flops']:.3g} FLOPs, {program['traffic'] / GIB:.1f} GiB of memory "
              f"traffic, {program['sent'] / GIB:.1f} GiB sent, a device")  # fmt: skip
        if counted := program["compiler"]:
            flops, size = counted.get("flops", 0), counted.get("bytes", 0) / GIB
            print(f"    the compiler counts {flops:.3g} FLOPs and {size:.1f} GiB of traffic a "
                  "device, the body of a loop once")  # fmt: skip
        for kind, found in program["network"].items():
            print(f"    {kind:<20}{found.times:6d} times in the text, {found.bytes / GIB:.3f} GiB")
        if program["seconds"]:
            bound = max(program["seconds"], key=program["seconds"].get)
            times = ", ".join(f"{name} {s * 1e3:.3g}" for name, s in program["seconds"].items())
            print(f"    at best, in ms: {times}; bound by {bound}")
    if report.get("suggestions"):
        meshes = "; ".join(_as_argument(sizes) for sizes in report["suggestions"])
        print(f"  by the sizes of its arrays it fits with, best first: {meshes}")
    if report.get("round"):
        parts = ", ".join(f"{name} {s:.3g} s" for name, s in report["round"].items())
        print(f"  a wave of prompts, at best: {parts}")
    room = f" of {report['memory'] / GIB:.0f} GiB a device" if report.get("memory") else ""
    verdict = "fits" if report["fits"] else "does not fit"
    print(
        f"  {verdict}{room}" + (f": {report['reason']}" if "reason" in report else ""), flush=True
    )
