"""A policy over films: a small decoder whose vocabulary is the catalogue, trained to go on.

Each film is one token, and a text is a history, film after film. The decoder is trained on what
users rated next before the reward period, liked or not, as any language model is trained on text;
what it is then tuned to is the round's affair. It is kept as a Hugging Face folder.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.interop import Pretrained
from rsft_jax.models import Transformer
from rsft_jax.training import completion_loss
from rsft_jax.training.batches import Batch, make_batches
from rsft_jax.types import Params

from ..pretraining import Pretraining, fresh_decoder, passes
from .prompts import SEPARATOR, History

START = "<s>"
"""The token that every history begins with; its number is 0, that of film i is i + 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilmPretraining(Pretraining):
    """`Pretraining` that ends by itself.

    Attributes:
      longest: films of a history at a time.
      patience: it ends after so many passes without a better loss on users who are set aside.
      set_aside: part of the users whom the loss is measured on.
    """

    longest: int = 100
    patience: int = 4
    set_aside: float = 0.1


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


def fresh_policy(titles: Sequence[str], settings: FilmPretraining) -> Pretrained:
    """The decoder before its first step."""
    return fresh_decoder(film_tokenizer(titles), settings, settings.longest + 2)


def pretrain(
    histories: Sequence[History],
    titles: Sequence[str],
    settings: FilmPretraining,
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
    measured = _batches(aside, settings, np.random.default_rng(settings.seed))
    mean_loss = _mean_loss(made.model)
    best, kept, since = np.inf, made.params, 0
    for done in passes(made, settings, lambda: _batches(others, settings, rng)):
        found = mean_loss(done.params, measured)
        tell(
            f"pre-training, pass {done.number}: loss {done.loss:.3f}, of users set aside "
            f"{found:.3f}"
        )
        since += 1
        if found < best:
            best, kept, since = found, done.params, 0
        if since >= settings.patience:
            break
    return made._replace(params=kept)


def _mean_loss(model: Transformer) -> Callable[[Params, Sequence[Batch]], float]:
    compiled = jax.jit(completion_loss(model))

    def mean(params: Params, batches: Sequence[Batch]) -> float:
        terms = [compiled({"params": params}, batch) for batch in batches]
        return float(sum(t.total for t in terms) / sum(t.count for t in terms))

    return mean


def _batches(
    histories: Sequence[History], settings: FilmPretraining, rng: np.random.Generator
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
    history: History, settings: FilmPretraining, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    order = np.lexsort((rng.random(history.times.size), history.times))
    for start in range(0, order.size, settings.longest):
        yield history.items[order[start : start + settings.longest]]
