"""rsft explain FOLDER --prompt ID [--round T]: why each candidate was accepted or not."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..settings.compose import allowed_packages
from ..terminal.errors import ConfigError, ExitCode, shown
from ..terminal.parser import Parser
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
    from ..language.explain import draw_again, places_of, tell
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
        title = f"{parsed.prompt}, round {record.round}, {record.arm}: {record.verdict.rule}"
        console.say(f"prompt: {record.prompts[place].strip()}")
        console.table(title, *_table(told))
        for one in told:
            console.say(f"{one.number}: {one.text.strip()}")
    if draws.coin is not None:
        console.say(f"u: the coin of {draws.by}, drawn again; all stored verdicts come out again")
    elif draws.same.all():
        console.say("no coin is tossed for each candidate; all stored verdicts come out again")
    else:
        console.say(
            f"the rule, run again, gives another verdict on {int((~draws.same).sum())} of "
            f"{draws.same.size} candidates of the round (early stop, or another version): "
            "its draws cannot be shown"
        )
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


def _table(told: Sequence["Told"]) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Heads and rows; what no candidate has is no column."""
    terms = list(told[0].terms) if told else []
    weights = {name: told[0].terms[name][1] for name in terms}
    heads = ["", "verdict", "reward", "rank", *(f"{n} ×{weights[n]:g}" for n in terms)]
    rows = [
        [one.number, one.reason, _number(one.reward), one.rank]
        + [_number(one.terms[name][0]) for name in terms]
        for one in told
    ]
    further = {
        "judge": [_number(one.judge) for one in told],
        "P": [_number(one.accept_prob) for one in told],
        "u": [None if one.coin is None else f"{one.coin:.4f} < {one.below:.4f}?" for one in told],
        "log-weight": [one.log_weight or None if math.isfinite(one.log_weight) else None
                       for one in told],
    }  # fmt: skip
    for name, values in further.items():
        if any(value is not None for value in values):
            heads.append(name)
            rows = [[*row, value] for row, value in zip(rows, values)]
    return tuple(heads), [tuple(row) for row in rows]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
