"""A small Transformer over bytes that has seen some sums worked out, and gets others half right."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from rsft_jax.data.tokenizer import Tokenizer, byte_alphabet
from rsft_jax.interop import Pretrained
from rsft_jax.training.batches import Batch, make_batches

from ..pretraining import Pretraining, fresh_decoder, passes
from .prompts import Question

END = "<|end|>"
"""The token that ends a working."""

MAX_LENGTH = 64
"""Bytes of a question and its working, at most."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SumsPretraining(Pretraining):
    """`Pretraining` with sizes that get sums half right."""

    num_heads: int = 4
    epochs: int = 40
    batch_size: int = 16
    learning_rate: float = 2e-3


def byte_tokenizer() -> Tokenizer:
    """A token for each byte, and one that ends a text.

    >>> byte_tokenizer().encode("7+5"), byte_tokenizer().stop_token_ids
    ([55, 43, 53], (256,))
    """
    return Tokenizer.from_bpe([*byte_alphabet(), END], [], special_ids=[256], eos_id=256)


def pretrain(
    examples: Sequence[Question],
    settings: Pretraining,
    tell: Callable[[str], None] = print,
) -> Pretrained:
    """Trains a policy to write the workings of the examples."""
    made = fresh_decoder(byte_tokenizer(), settings, MAX_LENGTH)
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

    done = None
    for done in passes(made, settings, one_pass, chunk_tokens=4096):
        tell(f"pre-training, pass {done.number} of {settings.epochs}: loss {done.loss:.3f}")
    return made if done is None else made._replace(params=done.params)
