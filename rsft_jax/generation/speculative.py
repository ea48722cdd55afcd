"""Speculative decoding: a draft proposes tokens, the policy judges a block of them in one call.

A `Speculative` takes the place of a `LogitsFn` in `generate` and `generate_accepted`, with slots or
without. The law is the policy's, whatever the draft; only the number of calls changes.
"""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from rsft_jax.generation.law import (
    Block,
    Context,
    Frontier,
    draw,
    log_softmax_at,
    sampling_logits,
)
from rsft_jax.generation.types import SamplingParams
from rsft_jax.generation.uncached import init_history
from rsft_jax.numerics.checks import check_choice, check_integer
from rsft_jax.sampling.speculative import speculative_sample
from rsft_jax.types import Array, Cache, LogitsFn, Params, PRNGKey


class Draft(Protocol):
    """Proposes tokens. Static and hashable; what it reads is in its parameters and its cache."""

    def init_cache(self, rows: int, length: int) -> Cache:
        """An empty cache, the rows leading."""
        ...

    def write(self, params: Params, tokens: Array, positions: Array, cache: Cache) -> Cache:
        """Takes in `[B, T]` tokens at `[B, T]` positions; those at negative ones are padding."""
        ...

    def propose(
        self, params: Params, at: Frontier, cache: Cache, num: int, sampling: SamplingParams
    ) -> tuple[Array, Array, Cache]:
        """Proposes what follows where the rows stand.

        Returns:
          `[B, G]` tokens, -1 from where there is no proposal on; `[B, G, V]` logits of the law that
          they were drawn from; the cache, in which the token and the proposals stand.
        """
        ...


@dataclasses.dataclass(frozen=True)
class ModelDraft:
    """Drafts with another model over the same vocabulary, usually a smaller one.

    Attributes:
      logits_fn: the model.
      make_cache: its `init_cache`.
    """

    logits_fn: LogitsFn
    make_cache: Any

    def init_cache(self, rows: int, length: int) -> Cache:
        """An empty cache."""
        return self.make_cache(rows, length)

    def write(self, params: Params, tokens: Array, positions: Array, cache: Cache) -> Cache:
        """Runs tokens through the model."""
        return self.logits_fn(params, tokens, positions, cache)[1]

    def propose(
        self, params: Params, at: Frontier, cache: Cache, num: int, sampling: SamplingParams
    ) -> tuple[Array, Array, Cache]:
        """Draws from the model under the same transforms as the policy."""
        token, context, tokens, logits = at.token, at.context, [], []
        for step in range(num):
            raw, cache = self.logits_fn(params, token[:, None], _positions(at, step), cache)
            logits.append(sampling_logits(raw[:, 0], sampling, context))
            token, _ = draw(_folded(at.keys, step), raw[:, 0], sampling, context)
            tokens.append(token)
            context = _after(context, token)
            token = jnp.maximum(token, 0)
        # The last proposal goes in too: if all are kept, the next round begins behind it.
        cache = self.write(params, token[:, None], _positions(at, num), cache)
        return jnp.stack(tokens, axis=1), jnp.stack(logits, axis=1), cache


@dataclasses.dataclass(frozen=True)
class NgramDraft:
    """Drafts what followed the last time that the row had the same last tokens (prompt lookup).

    It costs nearly nothing and pays where text repeats itself or its prompt. Its law is a point:
    a proposal is kept with the probability that the policy gives it.

    Attributes:
      size: how many last tokens must agree, at least 1.
      vocab_size: V.
    """

    size: int
    vocab_size: int

    def __post_init__(self) -> None:
        check_integer("size", self.size)

    def init_cache(self, rows: int, length: int) -> Cache:
        """The tokens so far."""
        return init_history(rows, length)

    def write(self, params: Params, tokens: Array, positions: Array, cache: Cache) -> Cache:
        """Keeps tokens."""
        rows = jnp.arange(tokens.shape[0], dtype=jnp.int32)[:, None]
        columns = jnp.where(positions >= 0, positions, cache.shape[1])
        return cache.at[rows, columns].set(tokens, mode="drop")

    def propose(
        self, params: Params, at: Frontier, cache: Cache, num: int, sampling: SamplingParams
    ) -> tuple[Array, Array, Cache]:
        """Looks the last tokens up in the row."""
        position = at.position
        cache = self.write(params, at.token[:, None], position[:, None], cache)
        columns = jnp.arange(cache.shape[1], dtype=jnp.int32)[None, :]
        same = (columns >= self.size - 1) & (columns < position[:, None])
        for back in range(self.size):
            last = jnp.take_along_axis(cache, jnp.maximum(position - back, 0)[:, None], axis=1)
            same &= jnp.roll(cache, back, axis=1) == last
        found = jnp.where(same, columns, -1).max(axis=1)
        found = jnp.where(position >= self.size - 1, found, -1)
        places = found[:, None] + 1 + jnp.arange(num, dtype=jnp.int32)[None, :]
        known = (found[:, None] >= 0) & (places <= position[:, None])
        tokens = jnp.take_along_axis(cache, jnp.minimum(places, cache.shape[1] - 1), axis=1)
        tokens = jnp.where(known, tokens, -1)
        logits = jnp.log(jax.nn.one_hot(tokens, self.vocab_size))
        cache = self.write(params, jnp.maximum(tokens, 0), _positions(at, 1, num), cache)
        return tokens, logits, cache


@dataclasses.dataclass(frozen=True)
class Speculative:
    """A policy whose tokens are drafted; give it to `generate` as `logits_fn`.

    Its parameters are the pair (the policy's, the draft's), and its `init_cache` is a method.
    A step makes one to G + 1 tokens; `Completions.steps` tells how many steps each completion took.

    Attributes:
      logits_fn: the policy.
      make_cache: its `init_cache`. Column s must hold position s, and be overwritten when that
        position is written again: rejected drafts stay in it until then.
      draft: a `ModelDraft`, `NgramDraft` or other `Draft`.
      num_drafts: G, at least 1.
      verification: "block" or "token"; see `rsft_jax.sampling.speculative_sample`.

    Example:
      >>> from rsft_jax.generation import generate
      >>> from rsft_jax.generation.uncached import HistoryLogits, init_history
      >>> bigram = lambda params, tokens, positions, cache: (params[tokens], cache)
      >>> table = jnp.log(jnp.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))
      >>> policy = Speculative(HistoryLogits(bigram), init_history, NgramDraft(1, 3), num_drafts=3)
      >>> out = generate(jax.random.key(0), policy, (table, None), [[0, 1, 2]], num_candidates=1,
      ...                sampling=SamplingParams(max_new_tokens=6), init_cache=policy.init_cache)
      >>> out.tokens.tolist(), out.steps.tolist()
      ([[[0, 1, 2, 0, 1, 2]]], [[3]])

    References:
      Leviathan et al. (2023), https://arxiv.org/abs/2211.17192, algorithm 1.
      Sun et al. (2024), https://arxiv.org/abs/2403.10444, algorithm 2.
    """

    logits_fn: LogitsFn
    make_cache: Any
    draft: Draft
    num_drafts: int
    verification: str = "block"

    def __post_init__(self) -> None:
        check_integer("num_drafts", self.num_drafts)
        check_choice("verification", self.verification, ("token", "block"))

    def init_cache(self, rows: int, length: int) -> Cache:
        """Both caches, with room for drafts beyond the last token."""
        length += self.num_drafts
        return self.make_cache(rows, length), self.draft.init_cache(rows, length)

    def prepare(self, params: Params) -> Params:
        """The parameters of both as they are read fastest."""
        own, drafts = params
        for_own = getattr(self.logits_fn, "prepare", lambda given: given)
        for_draft = getattr(getattr(self.draft, "logits_fn", None), "prepare", lambda given: given)
        return for_own(own), for_draft(drafts)

    def __call__(
        self, params: Params, tokens: Array, positions: Array, cache: Cache
    ) -> tuple[Array, Cache]:
        """The policy's logits; the draft takes the tokens in too."""
        if cache is None:
            return self.logits_fn(params[0], tokens, positions, None)
        own, drafts = cache
        logits, own = self.logits_fn(params[0], tokens, positions, own)
        return logits, (own, self.draft.write(params[1], tokens, positions, drafts))

    def draw_block(
        self,
        params: Params,
        at: Frontier,
        cache: Cache,
        sampling: SamplingParams,
        *,
        policy_log_probs: bool,
    ) -> tuple[Block, Cache]:
        """Draws what follows where the rows stand, one to G + 1 tokens."""
        own, drafts = cache
        of_draft = at._replace(keys=_folded(at.keys, 0))
        proposed, law, drafts = self.draft.propose(
            params[1], of_draft, drafts, self.num_drafts, sampling
        )
        fed = jnp.concatenate([at.token[:, None], jnp.maximum(proposed, 0)], axis=1)
        raw, own = self.logits_fn(params[0], fed, _positions(at, 0, fed.shape[1]), own)
        contexts = [at.context]
        for step in range(self.num_drafts):
            contexts.append(_after(contexts[-1], proposed[:, step]))
        along = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *contexts)
        target = sampling_logits(raw, sampling, along)
        made = speculative_sample(
            _folded(at.keys, 1), proposed, law, target,
            verification=self.verification, stop_token_ids=sampling.stop_token_ids,
        ).tokens  # fmt: skip
        known = jnp.maximum(made, 0)
        policy = log_softmax_at(raw, known) if policy_log_probs else None
        return Block(made, log_softmax_at(target, known), policy), (own, drafts)


def _folded(keys: PRNGKey, number: int) -> PRNGKey:
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)


def _positions(at: Frontier, first: int, num: int = 1) -> Array:
    """`[B, num]` positions from `first` behind each row's last token on; -1 for no row."""
    positions = at.position[:, None] + first + jnp.arange(num, dtype=jnp.int32)[None, :]
    return jnp.where(at.position[:, None] >= 0, positions, -1)


def _after(context: Context, token: Array) -> Context:
    """The context once `[B]` tokens have been drawn (-1: none)."""
    seen = context.seen
    if seen is not None:
        rows = jnp.arange(token.shape[0], dtype=jnp.int32)
        seen = seen.at[rows, jnp.where(token >= 0, token, seen.shape[1])].set(True, mode="drop")
    return Context(context.length + 1, seen, context.allowed)
