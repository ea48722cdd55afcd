"""rsft passk FOLDER [--term NAME] [--by COLUMN]: pass@k and maj@k of stored candidates."""

import argparse
from pathlib import Path

from ..terminal.errors import ConfigError, ExitCode, shown
from ..terminal.files import to_csv, write_whole
from ..terminal.parser import Parser
from ._stored_candidates import read_arm, run_of

_COLUMNS = ("k", "prompts", "pass@k", "maj@k")
_EPILOG = """\
A candidate is correct if the term (or the reward) is 1, and wrong at any other value; one without a
score is left out. pass@k is unbiased (Chen et al. 2021, equation 1). maj@k is the expected verdict
on the most frequent answer, ties broken by a fair coin; a candidate without an answer has no vote.

examples:
  rsft passk FOLDER --term answer --by level
  rsft passk FOLDER --term answer --heldout --csv TABLE.csv
  rsft passk FILE.jsonl --k 1,8,64 --answer text"""


def command(arguments: list[str]) -> ExitCode:
    """Prints a row for each group and k, a table for each round."""
    from ..language.candidates import ENDED_EARLY
    from ..language.passk import ANSWERS, heldout_records, passed
    from ..language.sliced import asked_prompts, intervals_of, labels_of
    from ..terminal.console import Console

    parsed = _parsed(arguments, list(ANSWERS))
    run = run_of(parsed.folder)
    console = Console()
    if parsed.heldout:
        records = heldout_records(parsed.folder, parsed.arm)
    else:
        records, problems = read_arm(parsed.folder, parsed.arm, "passk")
        for problem in problems:
            console.say(f"left out: {problem}")
        if run is not None and run.sampling.early_stop:
            console.say(ENDED_EARLY)
    rows = []
    for record in records:
        labels = None
        if parsed.by is not None:
            asked = asked_prompts(record, run, parsed.folder, "--by", heldout=parsed.heldout)
            labels = labels_of(asked, parsed.by, "--by")
        found = passed(
            record,
            parsed.term,
            answer=ANSWERS[parsed.answer],
            ks=parsed.k,
            labels=labels,
            intervals=intervals_of(run),
        )
        title = f"{parsed.folder}: {parsed.arm}, round {record.round}, {parsed.term} = 1"
        heads = _COLUMNS if parsed.by is None else (parsed.by, *_COLUMNS)
        console.table(title, heads, [row.cells(parsed.by is not None) for row in found])
        rows += [{"round": record.round, "arm": record.arm, **row.flat()} for row in found]
    if parsed.csv:
        write_whole(parsed.csv, to_csv(rows))
    return ExitCode.OK


def _parsed(arguments: list[str], answers: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="rsft passk",
        description="how often one of k candidates is right, and what most of k say",
        epilog=_EPILOG,
    )
    parser.add_argument("folder", type=Path, help="a run, a store, or a JSON Lines file")
    parser.add_argument("--term", default="reward", metavar="NAME", help="default: the reward")
    parser.add_argument("--by", metavar="COLUMN", help="of the prompts: a figure for each value")
    parser.add_argument("--k", type=_numbers, metavar="K,...", help="default: 1, 2, 4, ..., N")
    parser.add_argument(
        "--answer", default=answers[0], choices=answers,
        help="what votes: the last number (default), or the whole text",
    )  # fmt: skip
    parser.add_argument("--arm", default="policy", help="whose candidates (default: policy)")
    parser.add_argument("--heldout", action="store_true", help="of the evaluations of a run")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there, too")
    parsed = parser.parse_args(arguments)
    if parsed.csv and not parsed.csv.absolute().parent.is_dir():
        raise ConfigError(f"--csv: {shown(str(parsed.csv))}; its folder is not there")
    return parsed


def _numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and int(part) >= 1 for part in parts):
        raise argparse.ArgumentTypeError(f"{shown(text)} is no list of numbers from 1, as 1,2,4")
    return [int(part) for part in parts]
