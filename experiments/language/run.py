"""Rejection sampling fine-tuning of a language model, with a random control beside it.

Two arms are tuned, from the same policy, on the same prompts and with the same keys: one on what
the rule selects, one on as many samples whatever their rewards. Each round both draw, score,
select and improve (`rsft_jax.rounds`), are evaluated on held-out prompts, and are checkpointed
together.
"""

import io
from collections.abc import Iterator, Mapping

from rsft_jax.policies import KeptDraws, PolicyNames
from rsft_jax.rollouts import RolloutStore
from rsft_jax.rounds import RoundReport
from rsft_jax.selection import first_control, random_control
from rsft_jax.training import Checkpoints, TrainState

from ..runs.folder import RunFolder
from ..settings.schema import LanguageConfig
from ..terminal.console import Console
from ..terminal.errors import ExitCode
from . import make
from .arms import Arm, accepted_share
from .checkpoints import restore, save
from .endpoint import answers_store, cap_behind, check_clients
from .evaluate import evaluate, log_evaluation
from .events import log_round
from .judged_stop import stops_by_judge
from .rule import controls, make_rules
from .setup import Setup, make_setup
from .shown import explain_empty, show_evaluations, show_round


def run_language(config: LanguageConfig, folder: RunFolder) -> ExitCode:
    """Runs the rounds of all arms, or those that are left."""
    console = Console(None if folder.writes else io.StringIO())
    early = make.make_early_stop(config)
    setup = make_setup(config, console, answers_store(config, folder.draws))
    check_clients(setup.proposal, [*setup.reward.members, setup.judge])
    draws = RolloutStore(config.store or folder.draws)
    rules = make_rules(config.selection, config.allow_packages)
    control = controls(rules, random_control if early is None else first_control)
    store = KeptDraws(draws, setup.policy.tokenizer, config.sampling.max_new_tokens)
    names = PolicyNames(setup.policy, repr(config.training.part))
    arms = {
        name: Arm(
            name=name,
            rules=rules if name == "policy" else control,
            setup=setup,
            store=store,
            names=names,
            rollouts=RolloutStore(folder.rollouts),
            early=early,
        )
        for name in config.arms()
    }
    with Checkpoints(folder.checkpoints, max_to_keep=config.checkpoint.keep) as checkpoints:
        states = {name: setup.policy.new_state() for name in arms}
        done, states = restore(checkpoints, folder, setup, states)
        first = states if done else {"policy": setup.policy.initial}
        for problem in draws.problems():
            console.say(f"store: {problem}")
        try:
            _evaluate(setup, folder, first, done)
            code = _rounds(setup, folder, arms, states, done, checkpoints)
        except Exception as error:
            if (cap := cap_behind(error)) is None:
                raise
            console.say(f"the cap of an endpoint is reached: {cap}; resume=true goes on")
            code = ExitCode.CAPPED
    evaluations = (e for e in folder.events() if e["event"] == "evaluation")
    show_evaluations(console, evaluations, setup.config.evaluation.confidence)
    return code


def _rounds(
    setup: Setup,
    folder: RunFolder,
    arms: Mapping[str, Arm],
    states: dict[str, TrainState],
    done: int,
    checkpoints: Checkpoints,
) -> ExitCode:
    """The rounds that are left, each written, saved and, if due, evaluated before the next one."""
    if stops_by_judge(setup.config, folder, setup.console):
        return ExitCode.OK
    for number, reports in enumerate(play(arms, states, done), done + 1):
        states = {name: report.state for name, report in reports.items()}
        events = [log_round(folder, arms[name], report) for name, report in reports.items()]
        if code := explain_empty(setup.console, reports["policy"]):
            return code
        # Before anything is measured: what fails there, a reward say, costs no training.
        save(checkpoints, folder, setup, number, states)
        _evaluate(setup, folder, states, number)
        show_round(setup.console, events)
        if stops_by_judge(setup.config, folder, setup.console):
            break
    return ExitCode.OK


def _evaluate(
    setup: Setup, folder: RunFolder, states: Mapping[str, TrainState], number: int
) -> None:
    """Evaluates the arms if that is due, but for those that have been before a run went on."""
    if number % setup.config.evaluation.every and number != setup.config.rounds.num_rounds:
        return
    known = [(e.get("arm"), e.get("round")) for e in folder.events() if e["event"] == "evaluation"]
    for name, state in states.items():
        if (name, number) not in known:
            log_evaluation(setup, folder, name, number, evaluate(setup, state, name, number))


def play(
    arms: Mapping[str, Arm], states: Mapping[str, TrainState], done: int
) -> Iterator[dict[str, RoundReport]]:
    """Yields, round by round after the last one that is done, what every arm did."""
    notes = dict.fromkeys(arms, "")  # of the round before, shown while the next one is drawn
    num_rounds = next(iter(arms.values())).setup.config.rounds.num_rounds
    for number in range(done + 1, num_rounds + 1):
        reports = {name: arm.round(number, states[name], notes[name]) for name, arm in arms.items()}
        states = {name: report.state for name, report in reports.items()}
        shares = {name: accepted_share(r.collected.weights) for name, r in reports.items()}
        notes = {
            name: f"accepted {share:.0%} in round {number}" if share else notes[name]
            for name, share in shares.items()
        }
        yield reports
