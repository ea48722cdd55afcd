"""A small Transformer over bytes that has seen some sums worked out, and gets others half right."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rsft_jax.data.tokenizer import Tokenizer, byte_alphabet
from rsft_jax.interop import Pretrained
from rsft_jax.models import Transformer, TransformerConfig
from rsft_jax.training import (
    all_parameters,
    completion_loss,
    create_train_state,
    fine_tune,
    make_optimizer,
    make_train_step,
)
from rsft_jax.training.batches import Batch, make_batches

from .prompts import Question

END = "<|end|>"
"""The token that ends a working."""

MAX_LENGTH = 64
"""Bytes of a question and its working, at most."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretraining:
    """Sizes of the policy and of its training; the rest is that of `make_optimizer`.

    Attributes:
      d_model, num_layers, num_heads: of the decoder.
      epochs: passes over the examples.
      batch_size: examples in a step.
      learning_rate: the highest.
      weight_decay: decoupled, per unit of learning rate.
      seed: of the first parameters and of the order of the examples.
    """

    d_model: int = 64
    num_layers: int = 2
    num_heads: int = 4
    epochs: int = 16
    batch_size: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 0.1
    seed: int = 0


def byte_tokenizer() -> Tokenizer:
    """A token for each byte, and one that ends a text.

    >>> byte_tokenizer().encode("7+5"), byte_tokenizer().stop_token_ids
    ([55, 43, 53], (256,))
    """
    return Tokenizer.from_bpe([*byte_alphabet(), END], [], special_ids=[256], eos_id=256)


def fresh_policy(settings: Pretraining) -> Pretrained:
    """The decoder before its first step."""
    tokenizer = byte_tokenizer()
    config = TransformerConfig(
        vocab_size=tokenizer.vocab_size,
        d_model=settings.d_model,
        num_layers=settings.num_layers,
        num_heads=settings.num_heads,
        num_kv_heads=settings.num_heads,
        head_dim=settings.d_model // settings.num_heads,
        d_ff=4 * settings.d_model,
        max_length=MAX_LENGTH,
    )
    model = Transformer(config)
    tokens = jnp.zeros((1, 2), jnp.int32)
    params = nn.unbox(model.init(jax.random.key(settings.seed), tokens, tokens))["params"]
    return Pretrained(model, params, tokenizer)


def pretrain(
    examples: Sequence[Question],
    settings: Pretraining,
    tell: Callable[[str], None] = print,
) -> Pretrained:
    """Trains a policy to write the workings of the examples."""
    made = fresh_policy(settings)
    part = all_parameters(remat="none")
    model = Transformer(part.model(made.model.config))
    rng = np.random.default_rng(settings.seed)
    prompts = [made.tokenizer.encode_prompt(f"{one.text}:") for one in examples]
    ends = made.tokenizer.stop_token_ids
    workings = [[*made.tokenizer.encode(one.working), *ends] for one in examples]

    def one_pass() -> list[Batch]:
        return make_batches(
            prompts,
            workings,
            batch_size=settings.batch_size,
            multiple_of=16,
            max_length=MAX_LENGTH,
            key=jax.random.key(int(rng.integers(2**31))),
        )

    steps = settings.epochs * len(one_pass())
    optimizer = make_optimizer(
        "adamw",
        learning_rate=settings.learning_rate,
        schedule="cosine",
        warmup_steps=max(steps // 50, 1),
        total_steps=steps,
        clip_norm=1.0,
        weight_decay=settings.weight_decay,
    )
    state, frozen = create_train_state(model, part, made.params, optimizer)
    step = make_train_step(model, part, loss=completion_loss(model, chunk_tokens=4096))
    for number in range(1, settings.epochs + 1):
        losses = []
        for after, metrics in fine_tune(state, frozen, one_pass(), step):
            state = after
            losses.append(float(metrics.loss))
        tell(f"pre-training, pass {number} of {settings.epochs}: loss {np.mean(losses):.3f}")
    return made._replace(params=part.export(state.params, frozen))
