"""Makes what `rsft run experiment=recommendation` reads: prompts, and a policy to begin with.

    python -m rsft_jax.experiments.applications.recommendation [--output DIR] [--data FOLDER]

MovieLens-100K is fetched once, pinned by its hash, or read from FOLDER.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from ...terminal.errors import ConfigError, ExitCode
from ...terminal.parser import Parser
from ..script import run_script
from .movielens import Ratings, read_movielens
from .prompts import Split, prompt_rows, training_histories, write_rows

FOLDER = Path("recommendation")
"""Where the experiment's settings look for both."""


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Reads the ratings, writes the prompts, trains the policy and writes it."""
    parser = Parser(prog="recommendation", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=FOLDER, metavar="DIR")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="of the three files")
    parser.add_argument("--seed", type=int, default=0, help="of pre-training")

    def body(parsed: argparse.Namespace) -> None:
        prepare(read_movielens(parsed.data), parsed.output, seed=parsed.seed)

    return run_script(parser, arguments, body)


def prepare(
    ratings: Ratings,
    output: Path,
    *,
    split: Split | None = None,
    seed: int = 0,
    tell: Callable[[str], None] = lambda text: print(text, flush=True),
    **sizes: float,
) -> None:
    """Writes `prompts.jsonl` and `policy/` into a folder.

    Args:
      ratings: to make them from.
      output: the folder.
      split: how time is divided.
      seed: of pre-training.
      tell: takes each line that is said.
      **sizes: of `pretrain.FilmPretraining`.

    Raises:
      ConfigError: no prompt of a split is left.
    """
    from rsft_jax.interop import save_pretrained

    from .pretrain import FilmPretraining, pretrain

    split = split or Split()
    start = time.monotonic()
    rows, left_out = prompt_rows(ratings, split)
    for note in [*ratings.notes, *left_out]:
        tell(note)
    counts = Counter(row["split"] for row in rows)
    for name in ("train", "heldout"):
        if not counts[name]:
            raise ConfigError(f"{output}: no prompt of the split {name} is left of these ratings")
    output.mkdir(parents=True, exist_ok=True)
    write_rows(output / "prompts.jsonl", rows)
    histories = training_histories(ratings, split)
    users = len({row["user"] for row in rows if row["split"] == "train"})
    tell(
        f"{len(histories)} histories to pre-train on; {counts['train']} prompts of {users} users "
        f"to train on, {counts['heldout']} held out; {len(ratings.titles)} films"
    )
    sizes = {"seed": seed, "longest": split.longest, **sizes}
    settings = FilmPretraining(**sizes)  # pyright: ignore[reportArgumentType]
    made = pretrain(histories, ratings.titles, settings, tell)
    save_pretrained(output / "policy", made.model, made.params, made.tokenizer)
    tell(f"{output}: written in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
