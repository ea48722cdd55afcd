"""rsft generate FOLDER --prompts FILE [-o OUT.jsonl]: writes completions of a policy."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..settings import checks
from ..terminal.errors import ConfigError, ExitCode, shown
from ..terminal.failures import complain
from ..terminal.parser import Parser
from ..terminal.signals import Terminated
from ._policy_to_draw import add_law, add_policy, check_given, opened

if TYPE_CHECKING:
    from rsft_jax.policies import PromptBatch

    from ..language.opened import Opened
    from ..terminal.console import Console

_EPILOG = """\
a row of OUT.jsonl is a completion:
  {"id": "a1", "prompt": "2 + 2 =", "candidate": 0, "completion": "4", "finished": true,
   "log_prob": -0.31, "num_tokens": 2, ...}
finished: whether it ended by itself, and was not cut; log_prob: of the whole completion, in nats,
under the law that it was drawn from; num_tokens: with the one that ends it; then the prompt's own
columns.
A completion depends on the seed, its prompt's place in the file and its number alone.

examples:
  rsft generate FOLDER --prompts PROMPTS.jsonl -o OUT.jsonl
  rsft generate MODEL.gguf --prompts questions.txt --n 4 --temperature 0.7 > OUT.jsonl
  echo "Tell a story." | rsft generate FOLDER --prompts - --seed 3"""


def command(arguments: list[str]) -> ExitCode:
    """Draws completions and writes them batch by batch, whole lines only."""
    parsed = _parser().parse_args(arguments)
    check_given(parsed)
    checks.at_least("--n", parsed.n, 1)
    if parsed.batch_size is not None:
        checks.at_least("--batch-size", parsed.batch_size, 1)
    _check_output(parsed.output)
    from ..language.completions import encoded
    from ..language.prompt_files import read_prompt_file
    from ..terminal.console import Console

    console = Console(sys.stderr)  # the standard output may be that of the rows
    prompts = read_prompt_file(parsed.prompts, parsed.format, sys.stdin.buffer)
    policy = opened(parsed, console)
    if parsed.batch_size is not None:
        sampling = dataclasses.replace(policy.sampling, batch_size=parsed.batch_size)
        policy = dataclasses.replace(policy, sampling=sampling)
    if parsed.assistant_last is not None:
        policy = dataclasses.replace(policy, assistant_last=parsed.assistant_last)
    batch = encoded(policy, prompts)
    console.say(f"{policy.about}; {len(prompts)} prompts x {parsed.n}; {policy.drawn}")
    return _write(policy, batch, parsed, console)


def _parser() -> Parser:
    parser = Parser(
        prog="rsft generate",
        description="write completions of a policy for prompts",
        epilog=_EPILOG,
    )
    add_policy(parser)
    parser.add_argument(
        "--prompts", required=True, metavar="FILE",
        help="JSON Lines with `prompt` (.jsonl), a prompt a line (.txt), or - for standard input",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=("jsonl", "txt"), help="of FILE (default: as its name ends; - is txt)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT.jsonl",
        help="a new file (default: the standard output)",
    )  # fmt: skip
    parser.add_argument(
        "-n",
        "--n",
        type=int,
        default=1,
        metavar="N",
        help="completions for each prompt (default: 1)",
    )
    add_law(parser)
    parser.add_argument(
        "--batch-size", type=int, metavar="N",
        help="completions that are drawn at the same time, and written together (default: as in "
        "the run, or 64)",
    )  # fmt: skip
    parser.add_argument(
        "--assistant-last", choices=("refuse", "continue"),
        help="what becomes of a chat that ends with words of the assistant (default: as in the "
        "run, or refuse)",
    )  # fmt: skip
    return parser


def _check_output(path: Path | None) -> None:
    if path is None:
        return
    if path.exists() or path.is_symlink():
        raise ConfigError(f"--output: {shown(str(path))}; is there already, choose another")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--output: {shown(str(path))}; its folder is not there")


def _write(
    policy: "Opened", batch: "PromptBatch", parsed: argparse.Namespace, console: "Console"
) -> ExitCode:
    from ..language.completions import draw_rows
    from ..terminal.json_lines import json_lines

    where = "the standard output" if parsed.output is None else str(parsed.output)
    total, written, finished, code = len(batch.prompts) * parsed.n, 0, 0, ExitCode.OK
    try:
        with (
            json_lines(parsed.output) as file,
            console.progress("generate", total, "completions") as advance,
        ):
            for rows in draw_rows(policy, batch, num=parsed.n, seed=parsed.seed):
                file.append(rows)
                written += len(rows)
                finished += sum(row["finished"] for row in rows)
                advance(len(rows), tokens=sum(row["num_tokens"] for row in rows))
    except KeyboardInterrupt as error:
        complain("interrupted")
        code = ExitCode.TERMINATED if isinstance(error, Terminated) else ExitCode.INTERRUPTED
    finally:
        console.say(
            f"wrote {written} of {total} completions to {where}, {finished} finished and "
            f"{written - finished} cut at --max-new-tokens {policy.sampling.max_new_tokens}"
        )
    return code
