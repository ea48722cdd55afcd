"""A causal language model of PyTorch as proposal and as target, under our own law.

The module gives its raw logits and nothing else: what `SamplingParams` does to them, the draw and
the log-probabilities are those of `rsft_jax.generation`, with the same keys. So the law is stated,
and a module with the weights of a policy of ours draws the same candidates, up to rounding.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax.generation import Completions, Context, Prompts, SamplingParams, as_prompts
from rsft_jax.generation.inputs import candidate_keys, check_request, masks_of_prompts
from rsft_jax.generation.law import draw
from rsft_jax.generation.log_probs import join, log_probs_of_rows
from rsft_jax.interop.pytorch.modules import (
    Reader,
    TorchModule,
    check_evaluated,
    check_ids,
    last_logits,
    torch_threads,
)
from rsft_jax.numerics.checks import check_integer
from rsft_jax.types import Array, PRNGKey

PromptsLike = Prompts | Array | np.ndarray | Sequence[Sequence[int]]
"""Prompts in any form that `rsft_jax.generation.generate` takes."""


def torch_generate(
    key: PRNGKey,
    module: TorchModule,
    prompts: PromptsLike,
    *,
    num_candidates: int,
    sampling: SamplingParams,
    prompt_ids: Array | np.ndarray | Sequence[int] | None = None,
    max_length: int | None = None,
    allowed_tokens: Array | np.ndarray | None = None,
    cached: bool = True,
    rows_at_once: int = 64,
    num_threads: int | None = None,
) -> Completions:
    """Draws N completions for each of P prompts from a model of PyTorch.

    The law of a completion is that of `rsft_jax.generation.generate`: softmax of the module's
    logits after the transforms of `sampling`, and nothing that `module.generation_config` says.
    Candidates have the keys that they have there. One prompt is read at a time, so that no row is
    padded and no attention mask is needed.

    Args:
      key: random key, consumed.
      module: in evaluation mode; `module(ids[B, S])` gives `[B, S, V]` logits or something with
        `.logits`, as every causal model of transformers does.
      prompts: P prompts, as `generate` takes them; ids of the module's vocabulary.
      num_candidates: N.
      sampling: the law.
      prompt_ids: `[P]` identities for the keys; by default 0 to P - 1.
      max_length: the module's context; by default `max_position_embeddings` of its configuration,
        if it has one.
      allowed_tokens: `[V]` or `[P, V]` bool; by default all.
      cached: whether the module takes and gives `cache` or `past_key_values`; otherwise it reads
        the whole sequence again at every token, which any module can.
      rows_at_once: the most candidates of a prompt that are decoded side by side.
      num_threads: see `torch_threads`.

    Returns:
      `[P, N, T]` completions with log q of every token, in nats, as `run_rounds` wants them from
      `propose`. A candidate does not depend on the other prompts; on `rows_at_once` only by the
      rounding of the module.

    Raises:
      ValueError: a bad argument; a module in training mode; an id outside of its vocabulary.

    Example:
      >>> from transformers import AutoModelForCausalLM  # doctest: +SKIP
      >>> model = AutoModelForCausalLM.from_pretrained(FOLDER).eval()  # doctest: +SKIP
      >>> law = SamplingParams(max_new_tokens=20, temperature=0.7, top_p=0.9)
      >>> out = torch_generate(jax.random.key(0), model, [[1, 2]], num_candidates=4,
      ...                      sampling=law)  # doctest: +SKIP
      >>> out.log_probs.shape  # doctest: +SKIP
      (1, 4, 20)
    """
    prompts = _checked(module, prompts)
    if max_length is None:
        max_length = getattr(getattr(module, "config", None), "max_position_embeddings", None)
    check_request(prompts, num_candidates, sampling, None, max_length)
    check_integer("rows_at_once", rows_at_once)
    keys = candidate_keys(key, prompts, prompt_ids, num_candidates)
    count = len(prompts.tokens)
    allowed = None if allowed_tokens is None else masks_of_prompts(allowed_tokens, count)
    with torch_threads(num_threads):
        rows = [
            [
                _complete(
                    Reader(module, cached),
                    np.asarray(prompts.tokens)[i, : int(prompts.lengths[i])],
                    keys[i, first : first + rows_at_once],
                    sampling,
                    None if allowed is None else np.asarray(allowed)[i],
                )
                for first in range(0, num_candidates, rows_at_once)
            ]
            for i in range(count)
        ]
    found = [_Drawn(*map(np.concatenate, zip(*blocks))) for blocks in rows]
    return Completions(**_Drawn(*(jnp.asarray(np.stack(x)) for x in zip(*found)))._asdict())


def torch_score(
    module: TorchModule,
    prompts: PromptsLike,
    completions: Completions,
    *,
    sampling: SamplingParams,
    allowed_tokens: Array | np.ndarray | None = None,
    rows_at_once: int = 8,
    num_threads: int | None = None,
) -> Array:
    """Log-probability of every token of given completions under a model of PyTorch.

    The same as `rsft_jax.generation.score`. With `SamplingParams(max_new_tokens=...)` alone it is
    the model's own law; summed over T it is log p(y | x), the `log_target` of
    `rsft_jax.selection.density_ratio`, which a round takes from
    `Scored(rewards, log_target=...)`.

    Args:
      module: as `torch_generate` wants it; no cache is asked for.
      prompts: P prompts.
      completions: `[P, N, T]` in ids of the module's vocabulary, whoever drew them.
      sampling: the law of a token; its largest length plays no part.
      allowed_tokens: `[V]` or `[P, V]` bool; by default all.
      rows_at_once: rows of a call; bounds the memory to rows x completion x V logits, and for a
        module that cannot leave out those of the prompt to rows x sequence x V.
      num_threads: see `torch_threads`.

    Returns:
      `[P, N, T]` nats; 0 after the end of a completion.

    Raises:
      ValueError: as `torch_generate`.
    """
    prompts = _checked(module, prompts)
    check_integer("rows_at_once", rows_at_once)
    tokens, lengths = np.asarray(completions.tokens), np.asarray(completions.lengths)
    is_token = np.arange(tokens.shape[2]) < lengths[..., None]
    check_ids(module, tokens[is_token])
    tokens = np.where(is_token, tokens, -1)  # whatever stands behind the end has no embedding
    count, num, longest = tokens.shape
    allowed = None if allowed_tokens is None else masks_of_prompts(allowed_tokens, count)
    out = np.zeros(tokens.shape, np.float32)
    with torch_threads(num_threads):
        for i in range(count):
            prompt = np.asarray(prompts.tokens)[i, : int(prompts.lengths[i])]
            for first in range(0, num, rows_at_once):
                rows = slice(first, min(first + rows_at_once, num))
                size = rows.stop - first
                # Padding stands behind the last token that is asked for: a causal model is blind
                # to it.
                joined = join(
                    jnp.asarray(np.tile(prompt, (size, 1)), jnp.int32),
                    jnp.full(size, len(prompt), jnp.int32),
                    jnp.asarray(tokens[i, rows]),
                )
                logits = last_logits(module, np.asarray(joined.sequence), longest + 1)
                mask = None if allowed is None else jnp.asarray(allowed)[i]
                out[i, rows] = _log_probs(
                    jnp.asarray(logits[:, :-1]),
                    joined,
                    jnp.asarray(lengths[i, rows]),
                    None if mask is None else jnp.broadcast_to(mask, (size, *mask.shape)),
                    sampling=sampling,
                )
    return jnp.asarray(out)


class _Drawn(NamedTuple):
    """`[N, ...]` fields of `Completions`."""

    tokens: Any
    lengths: Any
    log_probs: Any
    finished: Any
    failed: Any


def _complete(
    read: Reader,
    prompt: np.ndarray,
    keys: PRNGKey,
    sampling: SamplingParams,
    allowed: np.ndarray | None,
) -> _Drawn:
    """Candidates of one prompt. Those that have ended are read on, and what they draw is dropped.

    All rows have one length, so that the module counts the positions by itself.
    """
    rows = len(keys)
    shape = (rows, sampling.max_new_tokens)
    drawn = _Drawn(
        np.full(shape, -1, np.int32), np.zeros(rows, np.int32), np.zeros(shape, np.float32),
        np.zeros(rows, bool), np.zeros(rows, bool),
    )  # fmt: skip
    logits = read(np.tile(prompt, (rows, 1)))
    mask = None if allowed is None else np.broadcast_to(allowed, logits.shape)
    seen = None
    if sampling.repetition_penalty != 1:
        seen = np.zeros(logits.shape, bool)
        seen[:, prompt] = True
    active = np.ones(rows, bool)
    for place in range(sampling.max_new_tokens):
        found = _draw(keys, np.int32(place), logits, seen, mask, sampling=sampling)
        token, log_prob = map(np.asarray, found)
        drawn.failed[active & (token < 0)] = True
        active &= token >= 0
        drawn.tokens[active, place] = token[active]
        drawn.log_probs[active, place] = log_prob[active]
        drawn.lengths[active] += 1
        stopped = active & np.isin(token, sampling.stop_token_ids)
        drawn.finished[stopped] = True
        active &= ~stopped
        if not active.any() or place + 1 == sampling.max_new_tokens:
            break
        fed = np.maximum(token, 0)
        if seen is not None:
            seen = seen.copy()  # JAX may still read the last one, whose memory it shares
            seen[np.arange(rows), fed] = True
        logits = read(fed[:, None])
    return drawn


@functools.partial(jax.jit, static_argnames="sampling")
def _draw(
    keys: PRNGKey,
    place: Array | np.int32,
    logits: Array | np.ndarray,
    seen: Array | np.ndarray | None,
    allowed: Array | np.ndarray | None,
    *,
    sampling: SamplingParams,
) -> tuple[Array, Array]:
    """`[B]` tokens at a place of the completion, and log q of them, as `decode_step` draws."""
    length = jnp.full(keys.shape, place, jnp.int32)
    context = Context(length, *(None if x is None else jnp.asarray(x) for x in (seen, allowed)))
    return draw(jax.vmap(jax.random.fold_in)(keys, length), jnp.asarray(logits), sampling, context)


_log_probs = jax.jit(log_probs_of_rows, static_argnames="sampling")


def _checked(module: TorchModule, prompts: PromptsLike) -> Prompts:
    check_evaluated(module)
    prompts = as_prompts(prompts)
    tokens, lengths = np.asarray(prompts.tokens), np.asarray(prompts.lengths)
    check_ids(module, tokens[np.arange(tokens.shape[1]) < lengths[:, None]])
    return prompts
