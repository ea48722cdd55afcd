"""Fine-tuning on what was accepted: sequences, batches, optimizer steps.

A round trains on the sequences that it accepted and, with replay, on some that earlier rounds
accepted.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from rsft_jax.generation import Completions, Prompts
from rsft_jax.numerics.checks import check_integer
from rsft_jax.policies.language import LanguagePolicy
from rsft_jax.policies.prompts import PromptBatch
from rsft_jax.rollouts import RolloutStore
from rsft_jax.sharding import process_rows, shard_batch
from rsft_jax.training import RateFn, StepFn, StepMetrics, TrainState, at_progress, fine_tune
from rsft_jax.training.batches import (
    Batch,
    PackedBatch,
    draw_old,
    make_batches,
    pack_batches,
    padding_fraction,
)
from rsft_jax.training.step import AnyBatch
from rsft_jax.types import Array, Params, PRNGKey

_MONITORS = ("grad_norm", "update_norm", "entropy", "kl", "clipped")  # of the last step


OnStep = Callable[[StepMetrics | None, int], None]
"""Called with the metrics of a step, None before the first one, and the number of steps."""


class Sequences(NamedTuple):
    """Sequences to train on.

    Attributes:
      prompts: token ids of each prompt.
      completions: token ids of each completion.
      weights: above 0.
      log_probs: of the completion's tokens under the law that drew them, in nats.
    """

    prompts: list[np.ndarray]
    completions: list[np.ndarray]
    weights: np.ndarray
    log_probs: list[np.ndarray]

    def take(self, places: np.ndarray) -> "Sequences":
        """Those at these places."""
        return Sequences(
            prompts=[self.prompts[i] for i in places],
            completions=[self.completions[i] for i in places],
            weights=self.weights[places],
            log_probs=[self.log_probs[i] for i in places],
        )


class Replay(NamedTuple):
    """What earlier rounds accepted, and how much of it is mixed in.

    Attributes:
      sequences: to draw from.
      fraction: their part of a round's sequences, in [0, 1).
    """

    sequences: Sequences
    fraction: float


def improve(
    key: PRNGKey,
    state: TrainState,
    prompts: PromptBatch,
    completions: Completions,
    weights: Array,
    *,
    policy: LanguagePolicy,
    step: StepFn,
    batch_size: int,
    epochs: int = 1,
    row_length: int | None = None,
    with_log_probs: bool = False,
    by_prompt: bool = False,
    restart: bool = False,
    replay: Replay | None = None,
    rate: RateFn | None = None,
    span: tuple[float, float] = (0.0, 1.0),
    on_step: OnStep | None = None,
) -> tuple[TrainState, dict[str, Any]]:
    """Fine-tunes on accepted completions; an `rsft_jax.rounds.ImproveFn` once its options are set.

    Args:
      key: random key, consumed: shuffles each epoch, and draws what is replayed.
      state: to begin with; its arrays are donated.
      prompts: P prompts.
      completions: `[P, N]`.
      weights: `[P, N]`; only what has a weight above 0 is trained on.
      policy: of the state.
      step: `policy.train_step(...)`; build it once.
      batch_size: rows of a step.
      epochs: passes over the sequences.
      row_length: tokens of a row into which sequences are packed; None gives each its own row.
      with_log_probs: whether the loss needs the log-probabilities under the sampler
        (`clip_ratio`).
      by_prompt: divide weights by their sum over the prompt's completions, for a loss that is
        normalised by "prompt"; for what is replayed, its round's.
      restart: begin at the untuned policy instead of `state` (ReST-EM).
      replay: what is mixed in of earlier rounds.
      rate: the optimizer's learning rate, to report it; see `rsft_jax.training.make_rate`.
      span: the progress of training before and after this call, such as (t - 1) / R and t / R for
        round t of R; its steps are evenly spread over it.
      on_step: called before the first step and after each.

    Returns:
      The new state, and figures of the round: `loss_first`, `loss_last`, `steps`, `trained_tokens`,
      `replayed_sequences`, `padding_fraction`, `refused_steps`, with a `rate` also
      `learning_rate_first` and `learning_rate_last`, and of the last step `grad_norm`,
      `update_norm`, `entropy`, `kl` (to the reference, a token; 0 where the loss has none),
      `clipped`.

    Raises:
      ValueError: nothing has a weight above 0, or `epochs` is below 1.

    References:
      Singh et al. 2023, "Beyond Human Data" (ReST-EM), https://arxiv.org/abs/2312.06585, section 3:
      the restart.
    """
    check_integer("epochs", epochs)
    state = policy.new_state() if restart else state
    sequences = accepted_sequences(prompts.tokens, completions, weights, by_prompt=by_prompt)
    num_new = len(sequences.weights)
    if not num_new:
        raise ValueError("weights must have an entry above 0 to train on, got none")
    if replay is not None:
        sequences = mix(jax.random.fold_in(key, epochs), sequences, *replay)
    batches = []
    for epoch in range(epochs):
        batches += _batches(
            jax.random.fold_in(key, epoch),
            sequences,
            policy=policy,
            batch_size=batch_size,
            row_length=row_length,
            with_log_probs=with_log_probs,
        )
    losses, rates, refused, tokens, metrics = [], [], 0, 0, None
    if on_step is not None:
        on_step(None, len(batches))

    def step_on(
        state: TrainState, frozen: Params, batch: AnyBatch
    ) -> tuple[TrainState, StepMetrics]:
        progress = span[0] + (span[1] - span[0]) * len(losses) / len(batches)
        if rate is not None:
            rates.append(float(rate(int(state.step), progress)))
        state = state.replace(opt_state=at_progress(state.opt_state, progress))
        return step(state, frozen, batch)

    placed = (_placed(batch, policy, batch_size) for batch in batches)
    for after, metrics in fine_tune(state, policy.frozen, placed, step_on):
        state = after
        losses.append(float(metrics.loss))
        refused += not bool(metrics.finite)
        tokens += int(metrics.num_tokens)
        if on_step is not None:
            on_step(metrics, len(batches))
    return state, {
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "steps": len(losses),
        "refused_steps": refused,
        "trained_tokens": tokens,
        "replayed_sequences": len(sequences.weights) - num_new,
        "padding_fraction": padding_fraction(batches),
        **({"learning_rate_first": rates[0], "learning_rate_last": rates[-1]} if rates else {}),
        **{name: float(getattr(metrics, name)) for name in _MONITORS},
    }


def accepted_sequences(
    prompts: Prompts, completions: Completions, weights: Array, *, by_prompt: bool = False
) -> Sequences:
    """Every completion of a round with a weight above 0.

    Args:
      prompts: P prompts.
      completions: `[P, N]`.
      weights: `[P, N]`.
      by_prompt: whether weights are divided by their sum over a prompt's completions.
    """
    all_weights = np.asarray(weights, np.float64)
    chosen = np.argwhere(all_weights > 0)
    own = all_weights[tuple(chosen.T)]
    tokens, log_probs = np.asarray(completions.tokens), np.asarray(completions.log_probs)
    lengths, asked = np.asarray(completions.lengths), np.asarray(prompts.tokens)
    return Sequences(
        prompts=[asked[i, : prompts.lengths[i]] for i, _ in chosen],
        completions=[tokens[i, j, : lengths[i, j]] for i, j in chosen],
        weights=_shares(own, chosen[:, 0]) if by_prompt else own,
        log_probs=[log_probs[i, j, : lengths[i, j]] for i, j in chosen],
    )


def accepted_before(
    store: RolloutStore, prompts: Prompts, arm: str, round_: int, *, by_prompt: bool = False
) -> Sequences:
    """What an arm accepted before a round, as it is written in the store of the run.

    Read from there and not kept in memory, so that a run taken up again finds the same.

    Args:
      store: of the run's rollouts.
      prompts: all prompts to train on, which the column `place` counts.
      arm: "policy" or "control".
      round_: number of the round that is about to train.
      by_prompt: whether weights are divided by their sum over a prompt's completions of a round.
    """
    if round_ == 1:
        return Sequences([], [], np.zeros(0), [])
    rows = store.read()
    chosen = rows["accepted"] & (rows["round"] < round_) & (np.asarray(rows["arm"]) == arm)
    chosen = np.flatnonzero(chosen)
    places, asked = rows["place"][chosen], np.asarray(prompts.tokens)
    own = np.exp(np.asarray(rows["log_weight"][chosen], np.float64))
    drawn = np.stack([rows["round"][chosen], places], axis=1)
    prompt = np.unique(drawn, axis=0, return_inverse=True)[1].ravel()
    return Sequences(
        prompts=[asked[place, : prompts.lengths[place]] for place in places],
        completions=[rows["tokens"][i] for i in chosen],
        weights=_shares(own, prompt) if by_prompt else own,
        log_probs=[rows["log_probs"][i] for i in chosen],
    )


def _shares(weights: np.ndarray, prompt: np.ndarray) -> np.ndarray:
    """Weights divided by their sum over the same prompt, `[S]` of `[S]` and its numbers."""
    return weights / np.bincount(prompt, weights)[prompt]


def mix(key: PRNGKey, new: Sequences, old: Sequences, fraction: float) -> Sequences:
    """Adds as many old sequences as make up a part of the whole; see `draw_old`.

    The weights of either are divided by their mean first: a part of the sequences is then that
    part of the weight, whatever the scale of the rules' weights in another round.

    Args:
      key: random key, consumed.
      new: of this round.
      old: of earlier ones.
      fraction: the part of the whole that is old, in [0, 1).

    Raises:
      ValueError: if `fraction` is not in [0, 1).
    """
    drawn = draw_old(key, len(new.weights), len(old.weights), fraction=fraction)
    if not drawn.size:
        return new
    old = old.take(drawn)
    return Sequences(
        prompts=new.prompts + old.prompts,
        completions=new.completions + old.completions,
        weights=np.concatenate([w / w.mean() for w in (new.weights, old.weights)]),
        log_probs=new.log_probs + old.log_probs,
    )


def _batches(
    key: PRNGKey,
    sequences: Sequences,
    *,
    policy: LanguagePolicy,
    batch_size: int,
    row_length: int | None,
    with_log_probs: bool,
) -> list[Batch] | list[PackedBatch]:
    """One epoch, shuffled."""
    config = policy.model.config
    data = sequences.prompts, sequences.completions, sequences.weights
    common: dict[str, Any] = {
        "batch_size": batch_size,
        "log_probs": sequences.log_probs if with_log_probs else None,
        "vocab_size": config.vocab_size,
        "key": key,
    }
    if row_length is not None:
        return pack_batches(*data, row_length=row_length, **common)
    return make_batches(*data, max_length=config.max_length, **common)


def _placed(batch: AnyBatch, policy: LanguagePolicy, batch_size: int) -> AnyBatch:
    """A batch on the devices of its rows, of which each process hands over its own."""
    if policy.shardings is None:
        return batch
    where = policy.shardings.batch
    mine = process_rows(where, batch_size)
    return shard_batch(where, jax.tree.map(lambda leaf: leaf[mine], batch), batch_size)
