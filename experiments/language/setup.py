"""What the arms of a run share, made from its settings: policy, prompts, rewards, keys."""

import dataclasses
import time
from collections.abc import Mapping, Sequence

import jax

from rsft_jax.data import Prompt
from rsft_jax.interop import Pretrained
from rsft_jax.policies import (
    EndpointProposal,
    LanguagePolicy,
    PromptBatch,
    encode_prompts,
    language_policy,
    same_width,
)
from rsft_jax.rewards import Term, WeightedSum
from rsft_jax.rollouts import RolloutStore
from rsft_jax.training import StepFn, TrainState, averaged_params
from rsft_jax.types import Params, PRNGKey

from ..settings.schema import LanguageConfig
from ..terminal.console import Console
from ..terminal.errors import ConfigError, one_line
from . import make
from .candidates import ENDED_EARLY
from .endpoint import make_proposal
from .given import Given, check_given, read_given
from .rule import check_rule
from .sliced import labels_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """What the arms of a run share; nothing in it changes.

    Attributes:
      config: the settings.
      policy: what draws, and is tuned.
      train: the prompts to train on.
      heldout: the prompts to evaluate on.
      reward: what selection looks at.
      reward_version: its name in what is stored.
      judge: what training never sees.
      step: the compiled optimizer step.
      keys: a random key for each use.
      console: where progress is shown.
      given: the candidates to train on, when none are drawn.
      proposal: the served model that draws candidates, where the policy does not.
    """

    config: LanguageConfig
    policy: LanguagePolicy
    train: PromptBatch
    heldout: PromptBatch
    reward: WeightedSum
    reward_version: str
    judge: Term
    step: StepFn
    keys: Mapping[str, PRNGKey]
    console: Console
    given: Given | None = None
    proposal: EndpointProposal | None = None

    @property
    def is_on_policy(self) -> bool:
        """Whether the candidates are the policy's own."""
        return self.given is None and self.proposal is None

    def evaluated(self, state: TrainState) -> TrainState:
        """The state that is evaluated and exported: the moving average, where one is kept."""
        if self.config.training.ema_decay is None:
            return state
        return state.replace(params=averaged_params(state.opt_state))


def make_setup(
    config: LanguageConfig, console: Console, answers: RolloutStore | None = None
) -> Setup:
    """Loads and encodes everything that a run needs, before anything is drawn.

    Args:
      config: the settings.
      console: where progress is shown.
      answers: where what endpoints say is kept; None keeps nothing.

    Raises:
      ConfigError: for settings that do not fit the policy or the prompts.
    """
    check_rule(config)
    reward = make.make_reward(config.reward, config.allow_packages, answers)
    judge = make.make_judge(config.reward, config.allow_packages, answers)
    offer = None if config.candidates is None else read_given(config)
    if offer is not None and offer.ended_early:
        console.say(ENDED_EARLY)
    train = offer.prompts if offer else make.load_prompt_split(config.data, heldout=False)
    heldout = make.load_prompt_split(config.data, heldout=True)
    make.check_columns(reward, judge, [*train, *heldout])
    for column in config.evaluation.slices:
        labels_of([*train, *heldout], column, "evaluation.slices")
    if (column := config.selection.group_column()) is not None:
        labels_of(train, column, "selection.by")
    start = time.monotonic()
    pretrained = make.load_policy(config.policy, config.allow_packages)
    batches = _encoded(config, pretrained, train, heldout)
    keys = make.run_keys(config.seed)
    policy = _policy(config, pretrained, keys)
    console.say(
        f"policy: {_size(pretrained.params):,} parameters, "
        f"{_size(policy.initial.params):,} trained, loaded in {time.monotonic() - start:.1f} s; "
        f"{len(train)} prompts to train on, {len(heldout)} held out"
    )
    if config.policy.adapter is not None:
        console.say(f"policy.adapter: {config.policy.adapter} is merged into the starting policy")
    _tell_small_set(config, len(train), console)
    given = None
    if offer is not None:
        given = offer.encode(pretrained.tokenizer, config.sampling.max_new_tokens)
        check_given(config, given)
        for note in given.notes:
            console.say(f"candidates: {note}")
    return Setup(
        config=config,
        policy=policy,
        train=batches[0],
        heldout=batches[1],
        reward=reward,
        reward_version=make.reward_version(config.reward),
        judge=judge,
        step=policy.train_step(
            normalise=config.training.normalise,
            label_smoothing=config.training.label_smoothing,
            z_loss=config.training.z_loss,
            clip_ratio=config.training.clip_ratio,
            temperature=config.sampling.temperature or 1.0,
            kl_weight=config.training.kl_weight,
        ),
        keys=keys,
        console=console,
        given=given,
        proposal=make_proposal(config, pretrained.tokenizer, answers),
    )


def _tell_small_set(config: LanguageConfig, size: int, console: Console) -> None:
    num = config.rounds.prompts_per_round
    if num <= size:
        return
    what = "are drawn for more than once, anew each time"
    if config.candidates is not None:
        what = "are all that a round trains on"
    console.say(f"rounds.prompts_per_round: {num}; the {size} prompts to train on {what}")


def _encoded(
    config: LanguageConfig,
    pretrained: Pretrained,
    train: Sequence[Prompt],
    heldout: Sequence[Prompt],
) -> tuple[PromptBatch, ...]:
    """Both sets of prompts as tokens of one width."""
    new_tokens, row_length = config.sampling.max_new_tokens, config.training.row_length
    room = pretrained.model.config.max_length - new_tokens
    try:
        batches = same_width(
            *(
                encode_prompts(
                    prompts,
                    pretrained.tokenizer,
                    room=room,
                    assistant_last=config.data.assistant_last,
                    banned=config.data.banned,
                )
                for prompts in (train, heldout)
            )
        )
    except ValueError as error:
        text = one_line(error).replace("assistant_last=", "data.assistant_last=")
        raise ConfigError(f"data.path: {text}") from None
    longest = batches[0].tokens.tokens.shape[1] + new_tokens
    if row_length is not None and row_length < longest:
        raise ConfigError(
            f"training.row_length: {row_length}; a prompt and its completion can be "
            f"{longest} tokens long, and must fit into a row"
        )
    return batches


def _policy(
    config: LanguageConfig, pretrained: Pretrained, keys: Mapping[str, PRNGKey]
) -> LanguagePolicy:
    mesh = make.make_mesh(config.mesh, config.training.batch_size)
    try:
        policy, _ = language_policy(
            pretrained,
            sampling=make.sampling_params(config.sampling, pretrained.tokenizer.stop_token_ids),
            part=make.make_part(config.training, keys["adapters"]),
            optimizer=make.make_optimizer(config.training),
            key=keys["dropout"],
            slots=config.sampling.batch_size,
            stop=tuple(config.sampling.stop_strings),
            keep_reference=config.training.kl_weight > 0,
            mesh=mesh,
            rules=config.mesh.rules,
        )
    except ValueError as error:  # more last layers than the model has, say
        raise ConfigError(f"training: {error}") from None
    return policy


def _size(params: Params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
