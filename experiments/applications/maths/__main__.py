"""Makes what `rsft run experiment=maths` reads: prompts, and a policy to begin with.

    python -m rsft_jax.experiments.applications.maths [--output DIR] [--seed N]

Nothing is fetched: sums are drawn from the seed.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ...settings import checks
from ...terminal.errors import ExitCode
from ...terminal.parser import Parser
from ..script import run_script
from .prompts import check_no_leak, draw_questions, prompt_rows, write_rows

FOLDER = Path("maths")
"""Where the experiment's settings look for both."""


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Draws the questions, writes the prompts, trains the policy and writes it."""
    parser = Parser(prog="maths", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=FOLDER, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0, help="of questions and pre-training")

    def body(parsed: argparse.Namespace) -> None:
        checks.seed("--seed", parsed.seed)
        prepare(parsed.output, seed=parsed.seed)

    return run_script(parser, arguments, body)


def prepare(
    output: Path,
    *,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    tell: Callable[[str], None] = lambda text: print(text, flush=True),
    **pretraining: float,
) -> None:
    """Writes `prompts.jsonl` and `policy/` into a folder.

    Args:
      output: the folder.
      seed: of questions and pre-training.
      sizes: questions of a level in each split; `prompts.SPLITS` by default.
      tell: takes each line that is said.
      **pretraining: sizes of `pretrain.SumsPretraining`.
    """
    from rsft_jax.interop import save_pretrained

    from .pretrain import SumsPretraining, pretrain

    start = time.monotonic()
    questions = draw_questions(seed, sizes)
    check_no_leak(questions)
    output.mkdir(parents=True, exist_ok=True)
    write_rows(output / "prompts.jsonl", prompt_rows(questions))
    tell(
        f"{len(questions['examples'])} sums with their working to pre-train on; "
        f"{len(questions['train'])} prompts to train on, {len(questions['heldout'])} held out"
    )
    settings = SumsPretraining(**{"seed": seed, **pretraining})  # pyright: ignore[reportArgumentType]
    made = pretrain(questions["examples"], settings, tell)
    save_pretrained(output / "policy", made.model, made.params, made.tokenizer)
    tell(f"{output}: written in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
