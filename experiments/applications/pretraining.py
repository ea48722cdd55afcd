"""A small decoder, trained from its first step: the policies that applications begin with."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rsft_jax.data.tokenizer import Tokenizer
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
from rsft_jax.training.batches import Batch
from rsft_jax.types import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretraining:
    """Sizes of a policy and of its training; the rest is that of `make_optimizer`.

    Attributes:
      d_model, num_layers, num_heads: of the decoder.
      epochs: passes over the examples, at most.
      batch_size: examples in a step.
      learning_rate: the highest.
      weight_decay: decoupled, per unit of learning rate.
      seed: of the first parameters and of the order of the examples.
    """

    d_model: int = 64
    num_layers: int = 2
    num_heads: int = 2
    epochs: int = 40
    batch_size: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    seed: int = 0


class Pass(NamedTuple):
    """What one pass over the examples came to.

    Attributes:
      number: 1 for the first.
      loss: mean over its steps, in nats a token.
      params: after it.
    """

    number: int
    loss: float
    params: Params


def fresh_decoder(tokenizer: Tokenizer, settings: Pretraining, max_length: int) -> Pretrained:
    """The decoder before its first step; it sees `max_length` tokens."""
    config = TransformerConfig(
        vocab_size=tokenizer.vocab_size,
        d_model=settings.d_model,
        num_layers=settings.num_layers,
        num_heads=settings.num_heads,
        num_kv_heads=settings.num_heads,
        head_dim=settings.d_model // settings.num_heads,
        d_ff=4 * settings.d_model,
        max_length=max_length,
    )
    model = Transformer(config)
    tokens = jnp.zeros((1, 2), jnp.int32)
    params = nn.unbox(model.init(jax.random.key(settings.seed), tokens, tokens))["params"]
    return Pretrained(model, params, tokenizer)


def passes(
    made: Pretrained,
    settings: Pretraining,
    batches: Callable[[], Sequence[Batch]],
    chunk_tokens: int = 512,
) -> Iterator[Pass]:
    """Trains all parameters, one pass over `batches()` after the other.

    Args:
      made: the decoder to begin with.
      settings: of the training; the learning rate falls to 0 over all `epochs`.
      batches: gives the steps of a pass, as many each time.
      chunk_tokens: rows of logits at once, as in `completion_loss`; more is faster where the
        vocabulary is small.
    """
    part = all_parameters(remat="none")
    model = Transformer(part.model(made.model.config))
    steps = settings.epochs * len(batches())
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
    step = make_train_step(model, part, loss=completion_loss(model, chunk_tokens=chunk_tokens))
    for number in range(1, settings.epochs + 1):
        losses = []
        for after, metrics in fine_tune(state, frozen, batches(), step):
            state = after
            losses.append(metrics.loss)
        yield Pass(number, float(np.mean(losses)), part.export(state.params, frozen))
