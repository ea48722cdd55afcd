"""Writes prompts of a task of reasoning-gym, with what its verifier needs.

    python -m rsft_jax.experiments.applications.maths.gym TASK -o FILE [--set NAME=VALUE ...]

    rsft run data=jsonl data.path=FILE reward=gym_answer selection=correct

Any of its seeded generators whose items go through JSON: what does not is refused. Each row has the
columns `task`, `entry` and `answer`; no question is in both splits.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...settings import checks
from ...terminal.errors import ConfigError, ExitCode, one_line, shown
from ...terminal.files import write_whole
from ...terminal.parser import Parser
from ..script import run_script
from .prompts import Row

SYSTEM = "Answer the question. Put the final answer between <answer> and </answer>."
"""What the policy is told before each question; the reward reads what stands there."""

_DRAWN_AT_MOST = 20
"""Times as many questions as are wanted; some tasks have few that differ."""


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Draws the questions, checks that their verifier takes their answers, and writes the file."""
    parser = Parser(
        prog="maths.gym", description=(__doc__ or "").partition("\n")[0],
        epilog="example: python -m rsft_jax.experiments.applications.maths.gym chain_sum "
        "-o sums.jsonl --set max_digits=2",
    )  # fmt: skip
    parser.add_argument("task", metavar="TASK", help="a data set of reasoning-gym")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--train", type=int, default=400, help="questions to train on; 400")
    parser.add_argument("--heldout", type=int, default=100, help="questions held out; 100")
    parser.add_argument("--seed", type=int, default=0, help="of the generator; 0")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="options",
        help="a setting of the task, the value as JSON",
    )  # fmt: skip

    def body(parsed: argparse.Namespace) -> None:
        for name in ("train", "heldout"):
            checks.at_least(f"--{name}", getattr(parsed, name), 1)
        checks.seed("--seed", parsed.seed)
        rows = gym_rows(
            parsed.task, train=parsed.train, heldout=parsed.heldout, seed=parsed.seed,
            options=dict(map(_option, parsed.options)),
        )  # fmt: skip
        write_whole(parsed.output, "".join(json.dumps(row) + "\n" for row in rows))
        print(f"{parsed.output}: {parsed.train} prompts to train on, {parsed.heldout} held out")

    return run_script(parser, arguments, body)


def gym_rows(
    task: str, *, train: int, heldout: int, seed: int = 0, options: Mapping[str, Any] | None = None
) -> list[Row]:
    """Rows of the prompt file: the first questions that differ, the last of them held out.

    Args:
      task: the name of a data set of reasoning-gym.
      train: prompts to train on.
      heldout: prompts to evaluate on.
      seed: of its generator.
      options: its settings.

    Raises:
      ConfigError: reasoning-gym is not there, or has no such task or setting; there are too few
        questions that differ; an answer is not right by the verifier once it went through JSON.
    """
    try:
        import reasoning_gym  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError('TASK: needs reasoning-gym: pip install "rsft_jax[maths]"') from None
    wanted = train + heldout
    try:
        drawn = reasoning_gym.create_dataset(
            task, seed=seed, size=wanted * _DRAWN_AT_MOST, **(options or {})
        )
        found: dict[str, Any] = {}
        for entry in drawn:
            found.setdefault(entry["question"], entry)
            if len(found) == wanted:
                break
    except (ValueError, TypeError, AssertionError) as error:
        raise ConfigError(f"TASK: {shown(task)}; {one_line(error)}") from None
    if len(found) < wanted:
        raise ConfigError(
            f"TASK: {shown(task)}; {len(found)} different questions in "
            f"{wanted * _DRAWN_AT_MOST:,}, {wanted} are wanted"
        )
    rows = []
    right = reasoning_gym.get_score_answer_fn(task)
    for number, (question, entry) in enumerate(found.items()):
        try:
            kept: Row = json.loads(json.dumps(entry, allow_nan=False))
            is_right = right(kept["answer"], kept) == 1.0
        except Exception:  # whatever a verifier makes of an item that JSON has changed
            kept, is_right = {}, False
        if not is_right:
            raise ConfigError(
                f"TASK: {shown(task)}; its verifier does not take the answer of an item that went "
                "through JSON"
            )
        split = "train" if number < train else "heldout"
        rows.append(
            {
                "id": f"{split}-{number}",
                "split": split,
                "prompt": [
                    {"role": "system", "content": SYSTEM},
                    {"role": "user", "content": question},
                ],
                "task": task,
                "answer": kept["answer"],
                "entry": kept,
            }
        )
    return rows


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        if not equals:
            raise ConfigError(f"--set: {shown(text)}; must be NAME=VALUE") from None
        return name, value


if __name__ == "__main__":
    sys.exit(main())
