"""What a language experiment can do: draw, score, fine-tune, compare, evaluate.

A `Task` holds what all arms of a run share and never changes; the policy that is tuned is a Flax
train state that comes in and goes out.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax.data import Prompt
from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.generation import (
    Completions,
    GenerationProgress,
    Prompts,
    RewardOfTokens,
    SamplingParams,
    StopFn,
    check_completions,
    generate,
    generate_accepted,
    pad_prompts,
    score,
    stop_strings,
)
from rsft_jax.metrics import Interval
from rsft_jax.models import Transformer, cache_fn, logits_fn
from rsft_jax.rewards import WeightedSum
from rsft_jax.selection import SelectionRule
from rsft_jax.sharding import (
    TrainShardings,
    divide_work,
    gather,
    process_rows,
    shard_batch,
    train_shardings,
)
from rsft_jax.training import (
    Part,
    StepFn,
    TrainState,
    abstract_train_state,
    averaged_params,
    completion_loss,
    create_train_state,
    fine_tune,
    make_train_step,
    with_reference,
)
from rsft_jax.training.batches import (
    Batch,
    PackedBatch,
    make_batches,
    pack_batches,
    padding_fraction,
)
from rsft_jax.types import Array, Cache, Params, PRNGKey, RewardFn

from ..settings.schema import LanguageConfig
from ..terminal.console import Advance, Console
from ..terminal.errors import ConfigError
from . import make, samples
from .candidates import ENDED_EARLY
from .given import Offered, read_offer
from .replay import Sequences, accepted_now, with_old

# Prompts whose first candidate the trainer scores again in every round, against the sampler.
_CHECKED_PROMPTS = 8
_MONITORS = ("grad_norm", "update_norm", "entropy", "kl", "clipped")  # of the last step
_PROMPT_MULTIPLE = 16


class PromptBatch(NamedTuple):
    """Some prompts of a set, in every form that a stage needs.

    Attributes:
      prompts: the prompts as read.
      rendered: their texts as the model sees them.
      tokens: their ids, padded to the width that all prompts of the run share.
      places: their places in the set, which the sampling keys are folded from.
    """

    prompts: list[Prompt]
    rendered: list[str]
    tokens: Prompts
    places: np.ndarray

    def take(self, places: Sequence[int] | np.ndarray) -> "PromptBatch":
        """The prompts at these places of this batch."""
        places = np.asarray(places)
        return PromptBatch(
            prompts=[self.prompts[i] for i in places],
            rendered=[self.rendered[i] for i in places],
            tokens=Prompts(self.tokens.tokens[places], self.tokens.lengths[places]),
            places=self.places[places],
        )


@dataclasses.dataclass(frozen=True)
class TrainerLogits:
    """The policy as the trainer computes it: a `LogitsFn` of Flax variables, without a cache."""

    model: Transformer

    def __call__(
        self, params: Params, tokens: Array, positions: Array, cache: Cache
    ) -> tuple[Array, Cache]:
        """Logits of whole sequences."""
        logits: Any = self.model.apply(params, tokens, positions)
        return logits[0], cache


class Evaluated(NamedTuple):
    """Held-out samples and what is known of them."""

    batch: PromptBatch
    completions: Completions
    scores: samples.Scores
    kl: Interval
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What the arms of a run share.

    Attributes:
      config: the settings.
      model: the policy's network, as sampling runs it.
      tokenizer: its tokenizer.
      sampling: the law of a completion.
      train: the prompts to train on.
      heldout: the prompts to evaluate on.
      reward: what selection looks at.
      judge: what training never sees.
      part: which part is trained.
      train_model: the network as training runs it.
      step: the compiled optimizer step.
      initial: the train state before the first step; never given to `step` itself.
      frozen: the parameters that no step changes.
      keys: a random key for each use.
      console: where progress is shown.
      offered: the candidates to train on, when none are drawn.
      shardings: where train states, frozen parameters and batches live; None on one device.
    """

    config: LanguageConfig
    model: Transformer
    tokenizer: Tokenizer
    sampling: SamplingParams
    train: PromptBatch
    heldout: PromptBatch
    reward: WeightedSum
    judge: RewardFn
    part: Part
    train_model: Transformer
    step: StepFn
    initial: TrainState
    frozen: Params
    keys: Mapping[str, PRNGKey]
    console: Console
    offered: Offered | None = None
    shardings: TrainShardings | None = None

    @functools.cached_property
    def reference(self) -> Params:
        """The untuned policy as variables of `train_model`."""
        return self.part.variables(self.trained(self.initial), self._frozen_here)

    @functools.cached_property
    def _frozen_here(self) -> Params:
        return self.frozen if self.shardings is None else gather(self.frozen)

    def new_state(self) -> TrainState:
        """A state at step 0 that owns its arrays: a step donates them."""
        return _copied(self.initial)

    def trained(self, state: TrainState) -> Params:
        """The trainable parameters of a state, whole on one device of each process."""
        return state.params if self.shardings is None else gather(state.params)

    def exported(self, state: TrainState) -> Params:
        """The parameters of a state as sampling takes them, whole on one device."""
        return self.part.export(self.trained(state), self._frozen_here)

    def averaged(self, state: TrainState) -> TrainState:
        """The state with the moving average of its parameters, where one is kept."""
        if self.config.training.ema_decay is None:
            return state
        return state.replace(params=averaged_params(state.opt_state))

    def draw(
        self,
        key: PRNGKey,
        state: TrainState,
        batch: PromptBatch,
        num: int,
        *,
        stage: str,
        note: str = "",
        on_end: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> Completions:
        """Draws `num` completions for each prompt.

        Args:
          key: random key, consumed.
          state: the policy.
          batch: the prompts.
          num: how many completions for each.
          stage: what it is for, shown as the progress's name.
          note: shown beside the progress.
          on_end: called with the figures of the work: tokens, the part of the slots that was in
            use, and how many shapes were compiled; of all processes together.

        Raises:
          ValueError: if the policy gives no distribution, naming prompt and position.
        """
        params = self.exported(state)

        mine: list[GenerationProgress] = []

        def draw(places: np.ndarray) -> Completions:
            some = batch.take(places)
            completions, last = self._draw(key, params, some, num, stage, note)
            mine.append(last)
            return completions

        completions = divide_work(draw, len(batch.prompts))
        check_completions(completions)
        if on_end is not None:
            on_end(_figures_of_all(mine[-1]))
        return completions

    def draw_accepted(
        self,
        key: PRNGKey,
        state: TrainState,
        batch: PromptBatch,
        num: int,
        *,
        rule: SelectionRule,
        rewards: RewardOfTokens,
        wanted: int,
        stage: str,
        note: str = "",
        on_end: Callable[[Completions, Mapping[str, Any]], None] | None = None,
    ) -> Completions:
        """Draws up to `num` completions for each prompt, until `wanted` of them are accepted.

        Args:
          key: random key of a round, consumed: drawing takes the first half of its split.
          state, batch, num, stage, note: as in `draw`.
          rule: a separable rule.
          rewards: what it looks at.
          wanted: how many accepted completions are enough for a prompt.
          on_end: called with the completions and the figures of the work, as in `draw`.

        Returns:
          The completions; those that were not drawn are empty.

        Raises:
          ValueError: as `draw` does.
        """
        with self._progress(stage, len(batch.prompts) * num, note) as progress:
            found = generate_accepted(
                key,
                logits_fn(self.model),
                self.exported(state),
                batch.tokens,
                reward=rewards,
                rule=rule,
                num_accepted=wanted,
                max_candidates=num,
                on_progress=progress,
                **self._drawing(batch),
            )
        check_completions(found.completions)
        if on_end is not None:
            on_end(found.completions, _figures_of_all(progress.last))
        return found.completions

    def _draw(
        self,
        key: PRNGKey,
        params: Params,
        batch: PromptBatch,
        num: int,
        stage: str,
        note: str,
    ) -> tuple[Completions, GenerationProgress]:
        with self._progress(stage, len(batch.prompts) * num, note) as progress:
            completions = generate(
                key,
                logits_fn(self.model),
                params,
                batch.tokens,
                num_candidates=num,
                on_progress=progress,
                **self._drawing(batch),
            )
        return completions, progress.last

    def _drawing(self, batch: PromptBatch) -> dict[str, Any]:
        """What every way to draw completions of these prompts is given."""
        return {
            "sampling": self.sampling,
            "init_cache": cache_fn(self.model),
            "prompt_ids": batch.places,
            "slots": self.config.sampling.batch_size,
            "max_length": self.model.config.max_length,
            "stop": self.stop,
        }

    @contextlib.contextmanager
    def _progress(self, stage: str, total: int, note: str) -> "Iterator[_Shown]":
        with self.console.progress(stage, total, "completions") as advance:
            yield _Shown(advance, note, GenerationProgress(0, total, 0, 0))

    @functools.cached_property
    def stop(self) -> StopFn | None:
        """Ends completions at the stop strings."""
        strings = self.config.sampling.stop_strings
        if not strings:
            return None
        return stop_strings(lambda ids: self.tokenizer.decode_batch([ids])[0], strings)

    @property
    def law(self) -> str:
        """The law of a completion, as the store names it."""
        strings = self.config.sampling.stop_strings
        return repr(self.sampling) + (f" stop_strings={list(strings)!r}" if strings else "")

    def score(self, batch: PromptBatch, completions: Completions) -> samples.Scores:
        """Texts and scores of completions."""
        return samples.score_completions(
            batch.prompts,
            completions,
            tokenizer=self.tokenizer,
            reward=self.reward,
            judge=self.judge,
        )

    def improve(
        self,
        key: PRNGKey,
        state: TrainState,
        batch: PromptBatch,
        completions: Completions,
        weights: Array,
        *,
        stage: str,
        old: Sequences | None = None,
    ) -> tuple[TrainState, dict[str, Any]]:
        """Fine-tunes on what was accepted, and on a part of what was accepted before, `old`."""
        settings = self.config.training
        state = self.new_state() if settings.restart else state
        sequences = accepted_now(batch.tokens, completions, weights)
        num_new = len(sequences.weights)
        if old is not None:
            old_key = jax.random.fold_in(key, settings.epochs)
            sequences = with_old(old_key, sequences, old, settings.replay_fraction)
        batches = []
        for epoch in range(settings.epochs):
            batches += self._batches(jax.random.fold_in(key, epoch), sequences)
        losses, refused, tokens = [], 0, 0
        share = f"accepted {acceptance(weights):.0%}"
        with self.console.progress(stage, len(batches), "steps") as advance:
            placed = map(self._placed, batches)
            for after, metrics in fine_tune(state, self.frozen, placed, self.step):
                state = after
                losses.append(float(metrics.loss))
                refused += not bool(metrics.finite)
                tokens += int(metrics.num_tokens)
                advance(tokens=int(metrics.num_tokens), note=f"{share}, loss {losses[-1]:.3f}")
        return state, {
            "loss_first": losses[0],
            "loss_last": losses[-1],
            "steps": len(losses),
            "refused_steps": refused,
            "trained_tokens": tokens,
            "replayed_sequences": len(sequences.weights) - num_new,
            "padding_fraction": padding_fraction(batches),
            **{name: float(getattr(metrics, name)) for name in _MONITORS},
        }

    def _placed(self, batch: Batch | PackedBatch) -> Batch | PackedBatch:
        """A batch on the devices of its rows, of which each process hands over its own."""
        if self.shardings is None:
            return batch
        where, rows = self.shardings.batch, self.config.training.batch_size
        mine = process_rows(where, rows)
        return shard_batch(where, jax.tree.map(lambda leaf: leaf[mine], batch), rows)

    def _batches(self, key: PRNGKey, sequences: Sequences) -> list[Batch] | list[PackedBatch]:
        settings = self.config.training
        common: dict[str, Any] = {
            "batch_size": settings.batch_size,
            "log_probs": None if settings.clip_ratio is None else sequences.log_probs,
            "vocab_size": self.model.config.vocab_size,
            "key": key,
        }
        data = sequences.prompts, sequences.completions, sequences.weights
        if settings.row_length is not None:
            return pack_batches(*data, row_length=settings.row_length, **common)
        return make_batches(*data, max_length=self.model.config.max_length, **common)

    def gap(self, state: TrainState, batch: PromptBatch, completions: Completions) -> float:
        """Largest difference in nats between the sampler's log-probability and the trainer's."""
        some = np.arange(min(_CHECKED_PROMPTS, len(batch.prompts)))
        first = first_candidates(completions, some)
        variables = self.part.variables(self.trained(state), self._frozen_here)
        again = self._trainer_score(variables, batch.take(some), first)
        return float(jnp.abs(again - first.log_probs).max())

    def evaluate(self, state: TrainState, arm: str, round_: int) -> Evaluated:
        """Draws from the policy on held-out prompts and scores the samples.

        The policy is that of the averaged parameters, where training keeps an average.
        """
        state = self.averaged(state)
        start = time.monotonic()
        settings = self.config.evaluation
        batch = self.heldout.take(np.arange(min(settings.num_prompts, len(self.heldout.prompts))))
        key = jax.random.fold_in(self.keys["evaluation"], round_)
        stage = f"round {round_}: evaluate {arm}"
        completions = self.draw(key, state, batch, settings.num_candidates, stage=stage)
        scores = self.score(batch, completions)
        kl = self._kl_to_reference(batch, completions, round_)
        return Evaluated(batch, completions, scores, kl, time.monotonic() - start)

    def _kl_to_reference(
        self, batch: PromptBatch, completions: Completions, round_: int
    ) -> Interval:
        """KL(policy, untuned policy) of a whole completion, in nats, by its own samples.

        The mean over samples y of log q(y | x) - log q0(y | x), both under the sampling law.
        """
        if round_ == 0:
            return Interval(0.0, 0.0, 0.0)  # the policy is the reference
        settings = self.config.evaluation
        some = np.arange(min(settings.kl_prompts, len(batch.prompts)))
        first = first_candidates(completions, some)
        reference = self._trainer_score(self.reference, batch.take(some), first)
        ratios = np.asarray((first.log_probs - reference).sum(axis=-1))
        return samples.mean_interval(ratios, settings.confidence, settings.bootstrap_samples)

    def _trainer_score(
        self, variables: Params, batch: PromptBatch, completions: Completions
    ) -> Array:
        return score(
            TrainerLogits(self.train_model),
            variables,
            batch.tokens,
            completions,
            sampling=self.sampling,
        )


class _Shown:
    """Passes the progress of generation on to the console, and keeps the last."""

    def __init__(self, advance: Advance, note: str, start: GenerationProgress):
        self._advance, self._note, self.last = advance, note, start

    def __call__(self, now: GenerationProgress) -> None:
        items, tokens = now.completions - self.last.completions, now.tokens - self.last.tokens
        self._advance(items, tokens=tokens, note=self._note)
        self.last = now


def _figures_of_all(mine: GenerationProgress) -> dict[str, Any]:
    """The figures of what all processes have drawn, of which each knows its own part."""
    counts = np.array([[mine.tokens, mine.slot_steps, mine.programs]])
    tokens, slot_steps, programs = divide_work(lambda _: counts, jax.process_count()).T
    return {
        "tokens": int(tokens.sum()),
        "slot_use": float(tokens.sum() / slot_steps.sum()),
        "programs": int(programs.max()),
    }


def acceptance(weights: Array) -> float:
    """The share of the candidates that has a weight above 0."""
    return float((np.asarray(weights) > 0).mean())


def first_candidates(completions: Completions, prompts: np.ndarray) -> Completions:
    """The first completion of each of these prompts."""
    return jax.tree.map(lambda leaf: leaf[prompts, :1], completions)


@jax.jit
def _copied(state: TrainState) -> TrainState:
    return jax.tree.map(jnp.copy, state)


def make_task(config: LanguageConfig, console: Console) -> Task:
    """Loads and encodes everything that a run needs, before anything is drawn.

    Raises:
      ConfigError: for settings that do not fit the policy or the prompts.
    """
    reward = make.make_reward(config.reward, config.allow_packages)
    judge = make.make_judge(config.reward)
    offer = None if config.candidates is None else read_offer(config)
    if offer is not None and offer.ended_early:
        console.say(ENDED_EARLY)
    train = offer.prompts if offer else make.load_prompt_split(config.data, heldout=False)
    heldout = make.load_prompt_split(config.data, heldout=True)
    start = time.monotonic()
    pretrained = make.load_policy(config.policy, config.allow_packages)
    model, tokenizer = pretrained.model, pretrained.tokenizer
    room = model.config.max_length - config.sampling.max_new_tokens
    train_texts, train_ids = make.encode_prompts(train, tokenizer, room=room)
    heldout_texts, heldout_ids = make.encode_prompts(heldout, tokenizer, room=room)
    longest = max(map(len, train_ids + heldout_ids))
    width = min(room, -(-longest // _PROMPT_MULTIPLE) * _PROMPT_MULTIPLE)
    row_length = config.training.row_length
    if row_length is not None and row_length < width + config.sampling.max_new_tokens:
        raise ConfigError(
            f"training.row_length: {row_length}; a prompt and its completion can be "
            f"{width + config.sampling.max_new_tokens} tokens long, and must fit into a row"
        )
    keys = make.run_keys(config.seed)
    mesh = make.make_mesh(config.mesh, config.training.batch_size)
    try:
        part = make.make_part(config.training, keys["adapters"])
        if config.training.kl_weight:
            part = with_reference(part)
        train_model = Transformer(part.model(model.config))
        optimizer = make.make_optimizer(config)
        made = (train_model, part, pretrained.params, optimizer)
        key = keys["dropout"] if train_model.config.lora_dropout else None
        shardings = None
        if mesh is not None:
            abstract = abstract_train_state(*made, key=key)
            shardings = train_shardings(mesh, config.mesh.rules, train_model, *abstract)
        initial, frozen = create_train_state(*made, key=key, shardings=shardings)
    except ValueError as error:  # more last layers than the model has, say
        raise ConfigError(f"training: {error}") from None
    console.say(
        f"policy: {_size(pretrained.params):,} parameters, {_size(initial.params):,} trained, "
        f"loaded in {time.monotonic() - start:.1f} s; "
        f"{len(train)} prompts to train on, {len(heldout)} held out"
    )
    return Task(
        config=config,
        model=model,
        tokenizer=tokenizer,
        sampling=make.sampling_params(config.sampling, tokenizer.stop_token_ids),
        train=_batch(train, train_texts, pad_prompts(train_ids, width=width)),
        heldout=_batch(heldout, heldout_texts, pad_prompts(heldout_ids, width=width)),
        reward=reward,
        judge=judge,
        part=part,
        train_model=train_model,
        step=make_train_step(
            train_model,
            part,
            loss=completion_loss(
                train_model,
                normalise=config.training.normalise,
                label_smoothing=config.training.label_smoothing,
                z_loss=config.training.z_loss,
                clip_ratio=config.training.clip_ratio,
                temperature=config.sampling.temperature or 1.0,
                kl_weight=config.training.kl_weight,
            ),
            shardings=shardings,
        ),
        initial=initial,
        frozen=frozen,
        keys=keys,
        console=console,
        offered=None if offer is None else offer.encode(tokenizer, config.sampling.max_new_tokens),
        shardings=shardings,
    )


def _batch(prompts: list[Prompt], rendered: list[str], tokens: Prompts) -> PromptBatch:
    return PromptBatch(prompts, rendered, tokens, np.arange(len(prompts)))


def _size(params: Params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
