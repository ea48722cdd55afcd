"""rsft pairs FOLDER -o FILE [--how best_worst|rso]: preference pairs, for trainers elsewhere."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from ..terminal.errors import ConfigError, ExitCode, shown
from ..terminal.parser import Parser
from ._stored_candidates import read_arm, run_of

_EPILOG = """\
best_worst: the best candidate of a prompt against its worst, the second best against the second
worst, ... rso: candidates that statistical rejection accepts (--beta), paired at random, the higher
reward preferred. A text that the length limit cut is left out: trainers put an end behind each.

The columns are those of TRL: prompt, chosen, rejected; score_chosen, score_rejected, prompt_id and
round besides. Chats (--form chat, and where a prompt is one) are lists of messages; texts are the
prompts as the model saw them.

examples:
  rsft pairs FOLDER -o pairs.jsonl --margin 0.2 --max-pairs 2
  rsft pairs FOLDER -o pairs.parquet --how rso --beta 0.5 --max-reward 1"""


def command(arguments: list[str]) -> ExitCode:
    """Writes a row for each pair."""
    from ..language.candidates import ENDED_EARLY
    from ..language.pairs import Wanted, find_pairs, write_pairs
    from ..terminal.console import Console

    parsed = _parsed(arguments)
    run = run_of(parsed.folder)
    records, problems = read_arm(parsed.folder, parsed.arm, "pairs")
    console = Console()
    for problem in problems:
        console.say(f"left out: {problem}")
    if run is not None and run.sampling.early_stop:
        console.say(ENDED_EARLY)
    wanted = Wanted(
        how=parsed.how,
        margin=parsed.margin,
        max_pairs=parsed.max_pairs,
        beta=parsed.beta,
        max_reward=parsed.max_reward,
        seed=parsed.seed,
        form=parsed.form,
        with_cut=parsed.with_cut,
    )
    found = find_pairs(records, run, parsed.folder, wanted)
    if not found.rows:
        raise ConfigError(
            f"pairs: {shown(str(parsed.folder))}; no two candidates of a prompt differ by "
            f"--margin {parsed.margin:g}{found.note}"
        )
    write_pairs(parsed.output, found.rows)
    console.say(
        f"{len(found.rows)} pairs of {found.num_prompts} prompts, as {found.form}{found.note}: "
        f"{parsed.output}"
    )
    return ExitCode.OK


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="rsft pairs", description="write preference pairs of stored candidates", epilog=_EPILOG
    )
    parser.add_argument("folder", type=Path, help="a run, a store, or a JSON Lines file")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="FILE.jsonl or .parquet"
    )
    parser.add_argument("--how", choices=("best_worst", "rso"), default="best_worst")
    parser.add_argument("--margin", type=float, default=0.0, help="least difference of rewards")
    parser.add_argument("--max-pairs", type=int, default=1, help="of a prompt and round; 1")
    parser.add_argument("--beta", type=float, help="of rso, in units of reward")
    parser.add_argument("--max-reward", type=float, help="of rso: a bound, then the law is exact")
    parser.add_argument("--seed", type=int, default=0, help="of rso's coins and pairs; 0")
    parser.add_argument("--form", choices=("auto", "chat", "text"), default="auto")
    parser.add_argument("--with-cut", action="store_true", help="use texts that were cut, too")
    parser.add_argument("--arm", default="policy", help="whose candidates (default: policy)")
    parsed = parser.parse_args(list(arguments))
    _check(parsed)
    return parsed


def _check(parsed: argparse.Namespace) -> None:
    """Refuses what is out of range, or belongs to another way."""
    given_beta = parsed.beta is not None or parsed.max_reward is not None
    for flag, wrong, allowed in (
        ("--output", parsed.output.suffix not in (".jsonl", ".parquet"), "a .jsonl or .parquet"),
        ("--output", not parsed.output.absolute().parent.is_dir(), "in a folder that is there"),
        ("--margin", not 0 <= parsed.margin < math.inf, "0 or more"),
        ("--max-pairs", parsed.max_pairs < 1, "at least 1"),
        ("--seed", not 0 <= parsed.seed < 2**32, "from 0 to 2^32 - 1"),
        ("--beta", parsed.how == "rso" and not 0 < (parsed.beta or 0) < math.inf,
         "above 0, with --how rso"),
        ("--max-reward", not math.isfinite(parsed.max_reward or 0), "finite"),
        ("--how", parsed.how != "rso" and given_beta, "rso with --beta or --max-reward"),
    ):  # fmt: skip
        if wrong:
            value = getattr(parsed, flag.strip("-").replace("-", "_"))
            raise ConfigError(f"{flag}: {shown(str(value))}; must be {allowed}")
