"""The sizes of a round: what its arrays take, what it computes and what it sends, by counting.

Nothing is compiled here; see `programs.py` for what the compiler says.
"""

from collections.abc import Iterator
from typing import NamedTuple

from jax.sharding import Mesh

from rsft_jax.models import TransformerConfig
from rsft_jax.models.attention import block_size

from .machine import SLICES, Chip, find_devices
from .shapes import num_parameters

USABLE = 0.95
"""Part of a device's memory that is free for programs; the rest is the runtime's."""


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
      frozen_bytes: of a parameter that is not trained: 4, or 2 where bfloat16 is kept.
    """

    part: str
    optimizer: str
    train_rows: int
    length: int
    candidates: int
    prompts: int
    prompt_length: int
    new_tokens: int
    frozen_bytes: int = 4


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
        limit = chip.memory * USABLE if chip.memory else float("inf")
        if max(estimated_bytes(c, work, fsdp, tensor)) <= limit:
            yield {"data": 1, "fsdp": fsdp, "tensor": tensor}


def estimated_bytes(
    config: TransformerConfig, work: Work, fsdp: int, tensor: int
) -> tuple[float, float]:
    """Bytes of one device while training and while decoding, from the sizes of the arrays."""
    c, total = config, num_parameters(config)
    trained = total if work.part == "all" else total * 0.02
    moments = {"adamw": 2, "lion": 1, "sgd": 0, "adafactor": 0}[work.optimizer]
    state = 4 * (1 + moments) * total
    if work.part == "lora":  # adapters and two moments of them
        state = work.frozen_bytes * total + 4 * 3 * trained
    state /= fsdp * tensor
    tokens = work.train_rows * work.length
    # Of a layer its input, its attention's output, and a log-sum for each head and token.
    kept = tokens * (2 * c.d_model + (2 * c.head_dim + 4) * c.num_heads / tensor) * c.num_layers
    square = min(block_size(work.length), work.length) * work.length
    scores = 3 * 4 * work.train_rows * c.num_heads / tensor * square
    wide = tokens * (8 * c.d_ff / tensor + 12 * c.d_model)
    head = 12 * chunk_tokens(work, 1) * c.vocab_size / tensor
    gradients = 4 * trained / (fsdp * tensor)
    gathered = 3 * 4 * (total - c.vocab_size * c.d_model) / c.num_layers / tensor
    train = state + gradients + kept + max(scores + wide, head) + gathered
    rows = work.prompts * work.candidates
    cache = 4 * c.num_layers * c.num_kv_heads / tensor * c.head_dim
    cache *= rows * (work.prompt_length + work.new_tokens)
    decode = state + 2 * total / tensor + 1.3 * cache + 12 * rows * c.vocab_size / tensor
    return train, decode


def train_flops(config: TransformerConfig, part: str, tokens: int, length: int) -> float:
    """Floating-point operations of a step, with the second forward pass of rematerialisation.

    (It leaves out attention, which then forms its scores again in the backward pass.)
    """
    forward = tokens * forward_flops(config, length)
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


def forward_flops(config: TransformerConfig, context: int) -> float:
    """Operations for one token: a multiplication and an addition for each weight, and attention."""
    c = config
    layers = num_parameters(c) - c.vocab_size * c.d_model * (2 - c.tie_embeddings)
    attention = 4 * c.num_layers * c.num_heads * c.head_dim * context
    return 2.0 * (layers + c.vocab_size * c.d_model) + attention


def ways(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are divided."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def chunk_tokens(work: Work, row_ways: int) -> int:
    """A quarter of a device's tokens: the head's gradient is summed over devices once a chunk."""
    return max(work.train_rows * work.length // 4, 1024) * row_ways
