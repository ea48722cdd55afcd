"""One arm of a run: the policy that the rule tunes, or the control beside it, round by round."""

import dataclasses
import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from rsft_jax.data import group_numbers
from rsft_jax.generation import Completions
from rsft_jax.numerics.round_keys import collect_keys
from rsft_jax.policies import (
    EarlyStop,
    EndpointProposal,
    KeptDraws,
    PolicyNames,
    PromptBatch,
    Replay,
    Source,
    Stopped,
    Told,
    accepted_before,
    collect_until_accepted,
    improve,
    score_texts,
    tokens_saved,
    without_failed,
)
from rsft_jax.rollouts import RolloutStore
from rsft_jax.rounds import (
    CheckFn,
    Collected,
    Info,
    Proposed,
    RoundReport,
    Scored,
    run_rounds,
    run_rounds_with,
)
from rsft_jax.selection import text_fingerprint
from rsft_jax.training import TrainState
from rsft_jax.types import Array, PRNGKey

from . import make
from .progress import Drawing, Steps
from .prompts import round_prompts
from .rule import RuleFn
from .setup import Setup
from .sliced import labels_of


class Drawn(NamedTuple):
    """Where the candidates of a round come from; the `info.propose` of its report.

    Attributes:
      source: as columns of a rollout file.
      figures: of drawing them; None if nothing was drawn.
      stopped: what is known where drawing stopped early; None where all was drawn.
      counts: of candidates that are not as they were drawn, as figures of the round.
    """

    source: Mapping[str, list[Any]]
    figures: Mapping[str, Any] | None = None
    stopped: Stopped | None = None
    counts: Mapping[str, int] = MappingProxyType({})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """What one arm does in a round.

    Attributes:
      name: "policy" or "control".
      rules: what it accepts in each round.
      setup: what all arms share.
      store: where candidates are looked up before any is drawn.
      names: names the policies for the store.
      rollouts: what earlier rounds accepted is read from there.
      early: when drawing for a prompt ends; None where all is drawn.
    """

    name: str
    rules: RuleFn
    setup: Setup
    store: KeptDraws
    names: PolicyNames
    rollouts: RolloutStore
    early: EarlyStop | None = None

    def round(self, number: int, state: TrainState, note: str = "") -> RoundReport:
        """One round, from the state after the round before.

        Args:
          number: of the round, from 1.
          state: the policy; its arrays are donated.
          note: shown while candidates are drawn.

        Returns:
          The report; its `info` is of a `Drawn` and the `Record` of the candidates.
        """
        play = _Play(arm=self, number=number, note=note)
        shared: dict[str, Any] = {
            "prompts": lambda t: round_prompts(self.setup, t),
            "improve": play.improve,
            "first_round": number,
            "num_rounds": number,
            # Candidates that are given, or asked for, are not of this policy.
            "check": self._check() if self.setup.is_on_policy else None,
        }
        key = self.setup.keys["rounds"]
        if self.early is not None:
            return next(run_rounds_with(key, state, collect=play.collect, **shared))
        propose, score = play.propose, play.score
        return next(
            run_rounds(key, state, propose=propose, score=score, rule=self.rules(number), **shared)
        )

    def _check(self) -> CheckFn:
        return functools.partial(self.setup.policy.gap, max_gap=self.setup.config.sampling.max_gap)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Play:
    """An arm in one round: the functions that `run_rounds` takes."""

    arm: Arm
    number: int
    note: str

    def propose(self, key: PRNGKey, state: TrainState, prompts: PromptBatch) -> Proposed:
        """Candidates that are given, kept, or drawn."""
        arm, setup = self.arm, self.arm.setup
        if setup.given is not None:
            places = np.repeat(prompts.places, setup.given.num)
            return Proposed(
                setup.given.completions(prompts.places),
                Drawn({"place": places.tolist()}),
                setup.given.log_proposal(prompts.places),
            )
        if setup.proposal is not None:
            return self._asked(setup.proposal, key, state, prompts)
        num, source, shown = self._drawing(key, state)

        def draw(some: PromptBatch) -> Completions:
            with shown.shown(len(some.prompts) * num):
                return setup.policy.propose(key, state, some, num_candidates=num, on_progress=shown)

        completions = arm.store.get(source, prompts, num, draw, round_=self.number, arm=arm.name)
        return Proposed(completions, Drawn(source.columns(prompts, num), shown.figures()))

    def _asked(
        self, proposal: EndpointProposal, key: PRNGKey, state: TrainState, prompts: PromptBatch
    ) -> Proposed:
        """Candidates of a served model, and what is to be told of them."""
        console, stage = self.arm.setup.console, f"round {self.number}: ask for {self.arm.name}"
        budget = proposal.completer.answers.client.budget
        before = budget.requests, budget.tokens
        with console.progress(stage, len(prompts.prompts), "prompts") as advance:
            proposed = proposal.propose(key, state, prompts, advance)
        told: Told = proposed.info
        requests, tokens = budget.requests - before[0], budget.tokens - before[1]
        total = len(prompts.prompts) * proposal.num_candidates
        why = f" ({told.refused})" if told.refused else ""
        console.say(
            f"{stage}: {requests} requests, {tokens:,} tokens; of {total} candidates "
            f"{told.num_cut} cut, {told.num_too_long} too long in the policy's tokens, "
            f"{told.num_refused} refused or no whole answer{why}"
        )
        counts = {"num_cut": told.num_cut, "num_too_long": told.num_too_long}
        counts |= {"num_refused": told.num_refused}
        figures = {"requests": requests, "tokens": tokens}
        return proposed._replace(info=Drawn(told.source, figures, counts=counts))

    def score(self, prompts: PromptBatch, completions: Completions) -> Scored:
        """Scores by the rewards of the run; says which texts are alike, and groups for the rule."""
        scored = self._scored(prompts, completions)
        scored = scored._replace(fingerprint=text_fingerprint(scored.info.texts))
        column = self.arm.setup.config.selection.group_column()
        if column is None:
            return scored
        labels = labels_of(prompts.prompts, column, "selection.by")
        return scored._replace(group=group_numbers(labels))

    def _scored(self, prompts: PromptBatch, completions: Completions) -> Scored:
        """Scores by the rewards of the run; what came with given candidates takes their place."""
        setup = self.arm.setup
        scored = score_texts(
            prompts,
            completions,
            reward=setup.reward,
            tokenizer=setup.policy.tokenizer,
            judge=setup.judge,
            round_=self.number,
            arm=self.arm.name,
        )
        if setup.proposal is not None:  # what is left out of its texts is nobody's answer
            record = without_failed(scored.info)
            return Scored(record.reward.astype(np.float32), record)
        if setup.given is None:
            return scored
        record = setup.given.scored(prompts.places, scored.info)
        return Scored(record.reward.astype(np.float32), record)

    def collect(self, key: PRNGKey, state: TrainState, prompts: PromptBatch) -> Collected:
        """Draws, scores and selects until it is enough for each prompt."""
        arm, setup = self.arm, self.arm.setup
        assert arm.early is not None
        num, source, shown = self._drawing(collect_keys(key).propose, state)

        def draw(key: PRNGKey, state: TrainState, some: PromptBatch, **options: Any) -> Completions:
            with shown.shown(len(some.prompts) * num):
                return setup.policy.propose_accepted(key, state, some, on_progress=shown, **options)

        collected = collect_until_accepted(
            key,
            state,
            prompts,
            policy=setup.policy,
            early=arm.early,
            rule=arm.rules(self.number),
            reward=setup.reward,
            judge=setup.judge,
            num_candidates=num,
            keep=lambda more: arm.store.get_longest(
                source, prompts, num, more, round_=self.number, arm=arm.name
            ),
            propose=draw,
            round_=self.number,
            arm=arm.name,
        )
        figures = shown.figures()
        if figures is not None:
            figures["tokens_saved"] = tokens_saved(collected.completions, figures["tokens"])
        drawn = Drawn(source.columns(prompts, num), figures, collected.info.propose)
        return collected._replace(info=Info(drawn, collected.info.score))

    def improve(
        self,
        key: PRNGKey,
        state: TrainState,
        prompts: PromptBatch,
        completions: Completions,
        weights: Array,
    ) -> tuple[TrainState, Mapping[str, Any]]:
        """Fine-tunes on what was accepted, and on a part of what was accepted before."""
        arm, setup, settings = self.arm, self.arm.setup, self.arm.setup.config.training
        replay = None
        if settings.replay_fraction:
            old = accepted_before(
                arm.rollouts,
                setup.train.tokens,
                arm.name,
                self.number,
                by_prompt=settings.normalise == "prompt",
            )
            replay = Replay(old, settings.replay_fraction)
        stage, share = f"round {self.number}: fine-tune {arm.name}", accepted_share(weights)
        with Steps(setup.console, stage, f"accepted {share:.0%}") as shown:
            return improve(
                key,
                state,
                prompts,
                completions,
                weights,
                policy=setup.policy,
                step=setup.step,
                batch_size=settings.batch_size,
                epochs=settings.epochs,
                row_length=settings.row_length,
                with_log_probs=settings.clip_ratio is not None,
                by_prompt=settings.normalise == "prompt",
                restart=settings.restart,
                replay=replay,
                rate=make.make_rate(settings),
                span=make.round_span(setup.config, self.number),
                on_step=shown,
            )

    def _drawing(self, key: PRNGKey, state: TrainState) -> tuple[int, Source, Drawing]:
        """N, what the candidates depend on, and what is seen of drawing them."""
        setup, stage = self.arm.setup, f"round {self.number}: draw for {self.arm.name}"
        shown = Drawing(setup.console, stage, self.note)
        return setup.config.sampling.num_candidates, self.arm.names.source(key, state), shown


def accepted_share(weights: Array | np.ndarray) -> float:
    """The share of the candidates that has a weight above 0."""
    return float((np.asarray(weights) > 0).mean())
