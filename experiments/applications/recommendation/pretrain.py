"""A policy over films: a small decoder whose vocabulary is the catalogue, trained to go on.

Each film is one token, and a text is a history, film after film. The decoder is trained on what
users rated next before the reward period, liked or not, as any language model is trained on text;
what it is then tuned to is the round's affair. It is kept as a Hugging Face folder.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.interop import Pretrained
from rsft_jax.models import Transformer, TransformerConfig
from rsft_jax.training import (
    LossFn,
    all_parameters,
    completion_loss,
    create_train_state,
    fine_tune,
    make_optimizer,
    make_train_step,
)
from rsft_jax.training.batches import Batch, make_batches
from rsft_jax.types import Params

from .prompts import SEPARATOR, History

START = "<s>"
"""The token that every history begins with; its number is 0, that of film i is i + 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretraining:
    """Sizes of the policy and of its training; the rest is that of `make_optimizer`.

    Attributes:
      d_model, num_layers, num_heads: of the decoder.
      longest: films of a history at a time.
      epochs: passes over the histories, at most.
      patience: it ends after so many passes without a better loss on users who are set aside.
      set_aside: part of the users whom the loss is measured on.
      batch_size: histories in a step.
      learning_rate: the highest.
      weight_decay: decoupled, per unit of learning rate.
      seed: of everything that is drawn.
    """

    d_model: int = 64
    num_layers: int = 2
    num_heads: int = 2
    longest: int = 100
    epochs: int = 40
    patience: int = 4
    set_aside: float = 0.1
    batch_size: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    seed: int = 0


def film_tokenizer(titles: Sequence[str]) -> Tokenizer:
    """One token a film; a text is films with ` | ` between them.

    Raises:
      ValueError: a title is there twice, or could not be told from what stands between two.

    Example:
      >>> films = film_tokenizer(["Heat (1995)", "Fargo (1996)"])
      >>> films.encode_prompt("Fargo (1996) | Heat (1995)"), films.decode([1])
      ([0, 2, 1], 'Heat (1995)')
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers, processors

    if bad := [title for title in titles if SEPARATOR in title or title in ("", START)]:
        raise ValueError(f"titles must be texts without {SEPARATOR!r}, got {bad[0]!r}")
    words = {word: number for number, word in enumerate([START, *titles])}
    if len(words) != len(titles) + 1:
        raise ValueError("titles must all be different")
    backend = Backend(models.WordLevel(words, unk_token=START))
    backend.pre_tokenizer = pre_tokenizers.Split(SEPARATOR, "removed")  # pyright: ignore
    backend.add_special_tokens([START])
    backend.post_processor = processors.TemplateProcessing(  # pyright: ignore
        single=f"{START} $A", special_tokens=[(START, 0)]
    )
    return Tokenizer(backend.to_str(), bos_id=0, pad_id=0, stop_token_ids=())


def fresh_policy(titles: Sequence[str], settings: Pretraining) -> Pretrained:
    """The decoder before its first step."""
    tokenizer = film_tokenizer(titles)
    config = TransformerConfig(
        vocab_size=tokenizer.vocab_size,
        d_model=settings.d_model,
        num_layers=settings.num_layers,
        num_heads=settings.num_heads,
        num_kv_heads=settings.num_heads,
        head_dim=settings.d_model // settings.num_heads,
        d_ff=4 * settings.d_model,
        max_length=settings.longest + 2,
    )
    model = Transformer(config)
    tokens = jnp.zeros((1, 2), jnp.int32)
    params = nn.unbox(model.init(jax.random.key(settings.seed), tokens, tokens))["params"]
    return Pretrained(model, params, tokenizer)


def pretrain(
    histories: Sequence[History],
    titles: Sequence[str],
    settings: Pretraining,
    tell: Callable[[str], None] = print,
) -> Pretrained:
    """Trains a policy on histories; the pass with the best loss on users set aside is kept.

    The films of one second are put in another order in each pass: their own means nothing.

    Raises:
      ValueError: there are too few histories to set one aside.
    """
    made = fresh_policy(titles, settings)
    rng = np.random.default_rng(settings.seed)
    order = rng.permutation(len(histories))
    num_aside = max(int(settings.set_aside * len(histories)), 1)
    if num_aside >= len(histories):
        raise ValueError(f"histories must be 2 or more, got {len(histories)}")
    aside = [histories[i] for i in order[:num_aside]]
    others = [histories[i] for i in order[num_aside:]]
    part = all_parameters(remat="none")
    model = Transformer(part.model(made.model.config))
    steps = settings.epochs * len(_batches(others, settings, rng))
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
    loss = completion_loss(model)
    step = make_train_step(model, part, loss=loss)
    measured = _batches(aside, settings, np.random.default_rng(settings.seed))
    mean_loss = _mean_loss(loss)
    best, kept, since = np.inf, made.params, 0
    for epoch in range(1, settings.epochs + 1):
        losses = []
        for after, metrics in fine_tune(state, frozen, _batches(others, settings, rng), step):
            state = after
            losses.append(float(metrics.loss))
        found = mean_loss(part.variables(state.params, frozen), measured)
        loss_of_pass = float(np.mean(losses))
        tell(f"pre-training, pass {epoch}: loss {loss_of_pass:.3f}, of users set aside {found:.3f}")
        since += 1
        if found < best:
            best, kept, since = found, part.export(state.params, frozen), 0
        if since >= settings.patience:
            break
    return made._replace(params=kept)


def _mean_loss(loss: LossFn) -> Callable[[Params, Sequence[Batch]], float]:
    compiled = jax.jit(loss)

    def mean(variables: Params, batches: Sequence[Batch]) -> float:
        terms = [compiled(variables, batch) for batch in batches]
        return float(sum(t.total for t in terms) / sum(t.count for t in terms))

    return mean


def _batches(
    histories: Sequence[History], settings: Pretraining, rng: np.random.Generator
) -> list[Batch]:
    """One pass: histories cut to pieces that the policy can see whole."""
    pieces = [piece for history in histories for piece in _pieces(history, settings, rng)]
    return make_batches(
        [[0]] * len(pieces),
        [piece + 1 for piece in pieces],
        batch_size=settings.batch_size,
        max_length=settings.longest + 2,
        key=jax.random.key(int(rng.integers(2**31))),
    )


def _pieces(
    history: History, settings: Pretraining, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    order = np.lexsort((rng.random(history.times.size), history.times))
    for start in range(0, order.size, settings.longest):
        yield history.items[order[start : start + settings.longest]]
