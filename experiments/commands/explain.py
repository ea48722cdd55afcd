"""rsft explain FOLDER --prompt ID [--round T]: why each candidate was accepted or not."""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..settings.compose import allowed_packages
from ..terminal.errors import ConfigError, ExitCode, shown
from ..terminal.parser import Parser
from ..terminal.plain import without_controls
from ._stored_candidates import read_arm, run_of

if TYPE_CHECKING:
    from ..language.explain import Told

_EPILOG = """\
rank: of the reward among the prompt's candidates. P: probability with which the rule accepts.
u: the coin of the candidate, which must be below the number behind it; it is drawn again from the
seed of the run, and shown where the rule, run again, gives the stored verdicts.

examples:
  rsft explain FOLDER --prompt train-0001
  rsft explain FOLDER --prompt train-0001 --round 1 --arm control"""


def command(arguments: list[str]) -> ExitCode:
    """Prints the candidates of a prompt, a table for each time that it was drawn."""
    from ..language.explain import draw_again, places_of, tell, what_draws_say
    from ..language.sliced import labels_by
    from ..terminal.console import Console

    parsed = _parsed(arguments)
    run = run_of(parsed.folder)
    if run is None:
        raise ConfigError(f"explain: {shown(str(parsed.folder))}; must be the folder of a run")
    records, problems = read_arm(parsed.folder, parsed.arm, "explain", with_verdict=True)
    rounds = [record.round for record in records]
    if parsed.round is not None and parsed.round not in rounds:
        raise ConfigError(f"--round: {parsed.round} is not one of {', '.join(map(str, rounds))}")
    record = records[-1 if parsed.round is None else rounds.index(parsed.round)]
    if record.verdict is None:
        raise ConfigError(f"explain: {shown(str(parsed.folder))}; its candidates have no verdict")
    places = places_of(record, parsed.prompt)
    by, labels = run.selection.group_column(), None
    if by is not None:
        labels = labels_by([record], [by], run, parsed.folder, "selection.by")[by][0]
    draws = draw_again(record, run, allowed_packages(parsed.allow), labels)
    console = Console()
    for problem in problems:
        console.say(f"left out: {problem}")
    for place in places:
        told = tell(record, place, run, draws)
        num = sum(one.rank is not None for one in told)
        console.say(
            f"{parsed.prompt}, round {record.round}, {record.arm}: {record.verdict.rule}\n"
            f"prompt: {without_controls(record.prompts[place].strip())}"
        )
        for one in told:
            console.say("\n".join(_lines(one, num)))
    console.say(what_draws_say(draws))
    return ExitCode.OK


def _parsed(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="rsft explain",
        description="show terms, rank, draw and verdict of each candidate of a prompt",
        epilog=_EPILOG,
    )
    parser.add_argument("folder", type=Path, help="the folder of a run")
    parser.add_argument("--prompt", required=True, metavar="ID", help="id of the prompt")
    parser.add_argument("--round", type=int, metavar="T", help="default: the last one")
    parser.add_argument("--arm", default="policy", help="whose candidates (default: policy)")
    parser.add_allow()
    return parser.parse_args(arguments)


def _lines(one: "Told", num: int) -> Iterator[str]:
    """What there is to say of a candidate; what it does not have is not said."""
    yield f"candidate {one.number}: {one.reason}"
    reward = "no reward" if one.rank is None else f"reward {one.reward:.4g}"
    rank = "" if one.rank is None else f", rank {one.rank} of {num}"
    judge = f", judge {one.judge:.4g}" if math.isfinite(one.judge) else ""
    yield f"  {reward}{rank}{judge}"
    if one.terms:
        terms = (f"{value:.4g} {name} x {weight:g}" for name, (value, weight) in one.terms.items())
        yield f"  terms: {', '.join(terms)}"
    draw = ""
    if one.coin is not None and one.below is not None:
        draw = f"; u {one.coin:.4f}, which must be below {one.below:.4f}"
    weight = ""
    if math.isfinite(one.log_weight) and one.log_weight:
        weight = f"; log-weight {one.log_weight:.4g}"
    yield f"  P {one.accept_prob:.4g}{draw}{weight}"
    yield f"  text: {without_controls(one.text.strip())}"
