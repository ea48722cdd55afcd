"""A language model as a policy: what a round asks of it, as functions of a train state.

    policy, state = language_policy(pretrained, sampling=law, part=lora(key), optimizer=adam)
    policy.propose(key, state, prompts, num_candidates=8)     # draws from it
    policy.log_probs(policy.variables(state), prompts, completions)
    policy.kl(prompts, completions)                           # to the untuned one

The `LanguagePolicy` holds what never changes in a run; what is tuned is a Flax train state, which
comes in and goes out.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.generation import (
    Completions,
    GenerationProgress,
    RewardOfTokens,
    SamplingParams,
    StopFn,
    check_completions,
    generate,
    generate_accepted,
    score,
    stop_strings,
)
from rsft_jax.interop import Pretrained
from rsft_jax.models import Transformer, cache_fn, logits_fn
from rsft_jax.policies.gaps import FLOOR, TokenGaps, allowed, differences, statistic
from rsft_jax.policies.prompts import PromptBatch
from rsft_jax.rounds import Checked
from rsft_jax.selection import SelectionRule
from rsft_jax.sharding import TrainShardings, divide_work, gather, train_shardings
from rsft_jax.training import (
    Part,
    StepFn,
    TrainState,
    abstract_train_state,
    completion_loss,
    create_train_state,
    make_train_step,
    with_reference,
)
from rsft_jax.types import Array, Cache, Params, PRNGKey

# Prompts whose first candidate the trainer scores again in every round, against the sampler.
_CHECKED_PROMPTS = 8

OnProgress = Callable[[GenerationProgress], None]
"""Called with where drawing stands, after every few tokens."""


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguagePolicy:
    """What a policy and its fine-tuning share, and what a round asks of it.

    Attributes:
      model: the network as sampling runs it.
      tokenizer: its tokenizer.
      sampling: the law of a completion.
      part: which part is trained.
      train_model: the network as training runs it.
      initial: the train state before the first step; never given to a step itself, which donates
        what it is given.
      frozen: the parameters that no step changes.
      slots: how many completions are decoded at the same time.
      stop: texts that end a completion.
      shardings: where train states, frozen parameters and batches live; None on one device.
    """

    model: Transformer
    tokenizer: Tokenizer
    sampling: SamplingParams
    part: Part
    train_model: Transformer
    initial: TrainState
    frozen: Params
    slots: int = 64
    stop: tuple[str, ...] = ()
    shardings: TrainShardings | None = None

    @property
    def law(self) -> str:
        """The law of a completion, as a store names it."""
        return repr(self.sampling) + (f" stop_strings={list(self.stop)!r}" if self.stop else "")

    @functools.cached_property
    def reference(self) -> Params:
        """The untuned policy, as variables of `train_model`."""
        return self.variables(self.initial)

    def new_state(self) -> TrainState:
        """A state at step 0 that owns its arrays: a step donates them."""
        return _copied(self.initial)

    def trained(self, state: TrainState) -> Params:
        """The trainable parameters of a state, whole on one device of each process."""
        return state.params if self.shardings is None else gather(state.params)

    def params(self, state: TrainState) -> Params:
        """The parameters of a state, adapters merged, whole on one device."""
        return self.part.export(self.trained(state), self._frozen_here)

    def sampled(self, state: TrainState) -> Params:
        """The parameters of a state as `logits_fn` takes them, whole on one device.

        Those of `params`, but for adapters of parameters in half precision, which stay beside them.
        """
        sampled = self.part.sampled or self.part.export
        return sampled(self.trained(state), self._frozen_here)

    def variables(self, state: TrainState) -> Params:
        """The parameters of a state as variables of `train_model`, whole on one device."""
        return self.part.variables(self.trained(state), self._frozen_here)

    def train_step(self, **loss: Any) -> StepFn:
        """The compiled optimizer step on weighted completions.

        Args:
          **loss: options of `rsft_jax.training.completion_loss`.
        """
        return make_train_step(
            self.train_model,
            self.part,
            loss=completion_loss(self.train_model, **loss),
            shardings=self.shardings,
        )

    def propose(
        self,
        key: PRNGKey,
        state: TrainState,
        prompts: PromptBatch,
        *,
        num_candidates: int,
        on_progress: OnProgress | None = None,
    ) -> Completions:
        """Draws N completions for each of P prompts, by `sampling` and the stop strings.

        In a run of several processes each draws its part, and all get the whole. Candidate j of
        the prompt with the number i in `prompts.draws` has the random numbers of
        `fold_in(fold_in(key, i), j)`.

        Args:
          key: random key, consumed.
          state: the policy.
          prompts: P prompts.
          num_candidates: N.
          on_progress: called after every few tokens, with what this process has drawn.

        Raises:
          ValueError: if the policy gives no distribution, naming prompt and position.
        """
        params = self.sampled(state)

        def draw(places: np.ndarray) -> Completions:
            some = prompts.take(places)
            return generate(
                key,
                logits_fn(self.model),
                params,
                some.tokens,
                num_candidates=num_candidates,
                on_progress=on_progress,
                **self._drawing(some),
            )

        completions = divide_work(draw, len(prompts.prompts))
        check_completions(completions)
        return completions

    def propose_accepted(
        self,
        key: PRNGKey,
        state: TrainState,
        prompts: PromptBatch,
        *,
        num_candidates: int,
        num_accepted: int,
        rule: SelectionRule,
        reward: RewardOfTokens,
        on_progress: OnProgress | None = None,
    ) -> Completions:
        """Draws up to N completions for each prompt, until enough of them are accepted.

        Args:
          key: of collecting, consumed: drawing takes the first part of its split, as in
            `rsft_jax.rounds.collect`.
          state, prompts, on_progress: as in `propose`.
          num_candidates: N, the most for a prompt.
          num_accepted: how many accepted completions are enough for a prompt.
          rule: a separable rule.
          reward: what it looks at.

        Returns:
          The completions; those that were not drawn are empty.

        Raises:
          ValueError: as `propose` does.
        """
        drawn = generate_accepted(
            key,
            logits_fn(self.model),
            self.sampled(state),
            prompts.tokens,
            reward=reward,
            rule=rule,
            num_accepted=num_accepted,
            max_candidates=num_candidates,
            on_progress=on_progress,
            **self._drawing(prompts),
        )
        check_completions(drawn.completions)
        return drawn.completions

    def log_probs(self, variables: Params, prompts: PromptBatch, completions: Completions) -> Array:
        """`[P, N, T]` log-probability in nats of each token, as the trainer computes it.

        Args:
          variables: of `train_model`: `variables(state)`, or `reference`.
          prompts: P prompts.
          completions: N completions of each.
        """
        return self._log_probs(self.train_model, variables, prompts, completions)

    def _log_probs(
        self, model: Transformer, variables: Params, prompts: PromptBatch, completions: Completions
    ) -> Array:
        return score(
            TrainerLogits(model),
            variables,
            prompts.tokens,
            completions,
            sampling=self.sampling,
            allowed_tokens=prompts.allowed_tokens(self.model.config.vocab_size),
        )

    def gap(
        self,
        state: TrainState,
        prompts: PromptBatch,
        completions: Completions,
        *,
        max_gap: float | None = None,
    ) -> Checked:
        """How far the sampler's log-probabilities of tokens are from the trainer's.

        Of the tokens of the first candidate of the first few prompts; what `run_rounds` takes as
        `check`.

        Args:
          state, prompts, completions: of a round.
          max_gap: the largest gap that is allowed, nats; by default what rounding in the dtype of
            the model explains, which is measured where the gap is not small (see
            `rsft_jax.policies.gaps`).

        Returns:
          The gap, the largest allowed, and as info the `TokenGaps`.
        """
        some = np.arange(min(_CHECKED_PROMPTS, len(prompts.prompts)))
        first, batch = first_candidates(completions, some), prompts.take(some)
        variables = self.variables(state)
        again = np.asarray(self.log_probs(variables, batch, first))
        inside = np.arange(again.shape[-1]) < np.asarray(first.lengths)[..., None]
        found = TokenGaps(differences(np.asarray(first.log_probs), again, inside))
        gap = statistic(found.differences, self.sampling)
        if max_gap is not None or gap <= FLOOR:
            return Checked(gap, FLOOR if max_gap is None else max_gap, found)
        exact = self._log_probs(self._in_float32, variables, batch, first)
        rounding = statistic(differences(again, np.asarray(exact), inside), self.sampling)
        return Checked(gap, allowed(rounding), found._replace(rounding=rounding))

    def kl(self, prompts: PromptBatch, completions: Completions) -> np.ndarray:
        """`[P, N]` log q(y | x) - log q0(y | x) in nats, of samples y of the policy q.

        q0 is the untuned policy, both are under the sampling law. Over samples of q the mean is
        KL(q, q0), of whole completions. Where the law is cut (top-k, top-p, min-p, greedy) q may
        draw what q0 cannot: the difference is then infinite, and so is the divergence.

        Args:
          prompts: P prompts.
          completions: N completions of each, drawn from q.
        """
        reference = self.log_probs(self.reference, prompts, completions)
        return np.asarray((completions.log_probs - reference).sum(axis=-1))

    @functools.cached_property
    def _in_float32(self) -> Transformer:
        return Transformer(dataclasses.replace(self.train_model.config, dtype=jnp.float32))

    @functools.cached_property
    def _frozen_here(self) -> Params:
        return self.frozen if self.shardings is None else gather(self.frozen)

    @functools.cached_property
    def _stop(self) -> StopFn | None:
        if not self.stop:
            return None
        return stop_strings(self.tokenizer.readings, self.stop)

    def _drawing(self, prompts: PromptBatch) -> dict[str, Any]:
        """What every way to draw completions of these prompts is given."""
        return {
            "sampling": self.sampling,
            "init_cache": cache_fn(self.model),
            "prompt_ids": prompts.draws,
            "slots": self.slots,
            "max_length": self.model.config.max_length,
            "stop": self._stop,
            "allowed_tokens": prompts.allowed_tokens(self.model.config.vocab_size),
        }


def language_policy(
    pretrained: Pretrained,
    *,
    sampling: SamplingParams,
    part: Part,
    optimizer: optax.GradientTransformation,
    key: PRNGKey | None = None,
    slots: int = 64,
    stop: tuple[str, ...] = (),
    keep_reference: bool = False,
    mesh: Mesh | None = None,
    rules: str = "replicated",
) -> tuple[LanguagePolicy, TrainState]:
    """A loaded model as a policy, and the train state to begin with.

    Args:
      pretrained: module, parameters, tokenizer.
      sampling: the law of a completion; `max_new_tokens` is its longest length.
      part: which parameters are trained.
      optimizer: an optax transformation; build it once.
      key: random key for the dropout of adapters; a part without it needs none.
      slots: how many completions are decoded at the same time.
      stop: texts that end a completion.
      keep_reference: whether the step sees the untuned parameters beside its own, which a loss with
        `kl_weight` needs.
      mesh: devices of training; None for one.
      rules: how the train state is laid out over them; see `rsft_jax.sharding`.

    Returns:
      The policy, and a state at step 0.

    Raises:
      ValueError: the part or the rules do not fit the model.

    Example:
      See `experiments/examples/round_of_a_language_model.py`.
    """
    part = with_reference(part) if keep_reference else part
    train_model = Transformer(part.model(pretrained.model.config))
    made = (train_model, part, pretrained.params, optimizer)
    key = key if train_model.config.lora_dropout else None
    shardings = None
    if mesh is not None:
        shardings = train_shardings(mesh, rules, train_model, *abstract_train_state(*made, key=key))
    initial, frozen = create_train_state(*made, key=key, shardings=shardings)
    policy = LanguagePolicy(
        model=pretrained.model,
        tokenizer=pretrained.tokenizer,
        sampling=sampling,
        part=part,
        train_model=train_model,
        initial=initial,
        frozen=frozen,
        slots=slots,
        stop=stop,
        shardings=shardings,
    )
    return policy, policy.new_state()


def first_candidates(completions: Completions, prompts: np.ndarray) -> Completions:
    """The first completion of each of these prompts."""
    return jax.tree.map(lambda leaf: leaf[prompts, :1], completions)


@jax.jit
def _copied(state: TrainState) -> TrainState:
    return jax.tree.map(jnp.copy, state)
