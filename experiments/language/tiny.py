"""A random language model of two small layers over bytes, for the smoke test."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from rsft_jax.data.tokenizer import Tokenizer, byte_alphabet
from rsft_jax.interop import Pretrained
from rsft_jax.models import Transformer, TransformerConfig

_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
_LETTERS = "abcdefghijklmnopqrstuvwxyz      ....etaoinshrdlu"


def random_policy(dtype: jnp.dtype) -> Pretrained:
    """Makes the model; its head leans towards letters, so that the rewards have words to read."""
    tokenizer = Tokenizer.from_bpe(
        [*byte_alphabet(), "<|im_end|>"],
        [],
        special_ids=[256],
        eos_id=256,
        chat_template=_TEMPLATE,
    )
    config = TransformerConfig(
        vocab_size=tokenizer.vocab_size,
        d_model=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        d_ff=64,
        max_length=512,
        tie_embeddings=False,
        dtype=dtype,
    )
    model = Transformer(config)
    tokens = jnp.zeros((1, 2), jnp.int32)
    params = nn.unbox(model.init(jax.random.key(0), tokens, tokens))["params"]
    ids = jnp.asarray(tokenizer.encode(_LETTERS))
    # Every hidden state has a positive mean on its first coordinate after this scale.
    kernel = params["head"]["kernel"]
    params["head"]["kernel"] = kernel.at[:, ids].add(jnp.sign(kernel[:, :1]))
    return Pretrained(model, params, tokenizer)
