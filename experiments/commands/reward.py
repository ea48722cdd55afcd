"""rsft reward train --data FILE --loss LOSS -o DIR: trains a reward model on preferences."""

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..settings import checks
from ..terminal.errors import ConfigError, ExitCode, one_line, shown
from ..terminal.parser import Parser

if TYPE_CHECKING:
    from rsft_jax.interop import Pretrained

    from ..language.preferences import Example
    from ..language.reward_model import Fitted

REPORT = "reward.json"
_ASSETS = {"smollm2": "smollm2-135m-instruct", "tiny_random": "tiny-random"}
_EPILOG = """\
a row of FILE is a pair, as `rsft pairs` writes it, or a completion with a score:
  bradley_terry  {"prompt": ..., "chosen": "...", "rejected": "..."}
  regression     {"prompt": ..., "completion": "...", "score": 7}
The prompt is a text or a list of messages. Scores are trained on less their mean, divided by their
deviation. Held out are the rows whose column `split` is `heldout`, or a part of the groups where no
row has that column; rows of one group (--group, such as a person; else of one prompt) are never on
both sides, and intervals draw groups.

DIR is a Hugging Face folder that AutoModelForSequenceClassification reads, with reward.json, the
figures that are printed, in it.

examples:
  rsft reward train --data pairs.jsonl --loss bradley_terry -o my_reward
  rsft reward train --data scores.jsonl --loss regression --group person --train lora -o my_reward
  rsft run reward=learned reward.learned.path=my_reward"""


def command(arguments: list[str]) -> ExitCode:
    """Trains, measures on held-out rows, and writes the folder."""
    from ..runs.folder import check_folder

    parsed = _parsed(arguments)
    if not check_folder(parsed.output, "--output"):
        raise ConfigError(f"--output: {shown(str(parsed.output))}; is not empty, choose another")
    from ..language.assets import default_cache_dir
    from ..language.preferences import read_examples
    from ..language.reward_figures import heldout_figures, show_figures
    from ..language.reward_model import fit_reward
    from ..language.score_fit import Fitting
    from ..runs import backend
    from ..terminal.console import Console

    examples = read_examples(
        parsed.data,
        parsed.loss,
        group=parsed.group,
        split=parsed.split,
        heldout=parsed.heldout,
        heldout_part=parsed.heldout_part,
        seed=parsed.seed,
    )
    _check_groups(examples)
    console, start = Console(), time.monotonic()
    backend.use_compilation_cache(default_cache_dir() / "xla")
    base = _base(parsed.policy, parsed.dtype)
    num_heldout = sum(row.heldout for row in examples)
    console.say(f"{len(examples) - num_heldout} rows to train on, {num_heldout} held out")
    fitting = Fitting(
        loss=parsed.loss,
        train=parsed.train,
        rate=parsed.learning_rate,
        passes=parsed.passes,
        batch_size=parsed.batch_size,
        rank=parsed.rank,
        layers=parsed.layers,
        seed=parsed.seed,
    )
    try:
        fitted = fit_reward(base, examples, fitting, console, max_length=parsed.max_length)
    except ValueError as error:
        raise ConfigError(f"--data: {shown(str(parsed.data))}; {one_line(error)}") from None
    kept = [examples[i] for i in fitted.kept]
    figures = heldout_figures(kept, fitted.scores, parsed.loss)
    show_figures(figures, parsed.loss, console)
    _write(parsed, fitted, kept, figures, time.monotonic() - start)
    console.say(f"{parsed.output}: a reward model; reward.learned.path={parsed.output} uses it")
    return ExitCode.OK


def _base(policy: str, dtype: str) -> "Pretrained":
    """The language model below the head."""
    from ..language.make import load_policy
    from ..settings.schema import PolicyConfig

    asset = _ASSETS.get(policy)
    settings = PolicyConfig(
        asset=asset, path=None if asset else policy, function=None,
        dtype="bfloat16" if dtype == "bfloat16" else "float32",
    )  # fmt: skip
    try:
        return load_policy(settings)
    except ConfigError as error:
        raise ConfigError(str(error).replace("policy.path", "--policy")) from None


def _check_groups(examples: "Sequence[Example]") -> None:
    """Refuses a group that stands on both sides: what is held out would be known."""
    sides: dict[str, bool] = {}
    for row in examples:
        if sides.setdefault(row.group, row.heldout) != row.heldout:
            raise ConfigError(
                f"--data: line {row.prompt.line}; its group {shown(row.group)} has rows that are "
                "held out and rows to train on; --group names the column of what must not"
            )


def _write(
    parsed: argparse.Namespace,
    fitted: "Fitted",
    kept: "Sequence[Example]",
    figures: dict[str, Any],
    seconds: float,
) -> None:
    from rsft_jax.interop import save_classifier

    from ..language.reward_figures import FIGURES
    from ..terminal.files import write_whole

    save_classifier(parsed.output, fitted.classifier)
    settings = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(parsed).items()
        if name not in ("verb", "output")
    }
    heldout = sum(row.heldout for row in kept)
    report = {
        "settings": settings,
        "rows": {"train": len(kept) - heldout, "heldout": heldout},
        "groups": {"heldout": len({row.group for row in kept if row.heldout})},
        "set_aside": fitted.aside,
        "score": {"mean": fitted.centre[0], "deviation": fitted.centre[1]},
        "figure": FIGURES[parsed.loss],
        "heldout": figures,
        "seconds": round(seconds, 1),
    }
    write_whole(parsed.output / REPORT, json.dumps(report, indent=1, allow_nan=False) + "\n")


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="rsft reward", description="train a reward model on people's preferences",
        epilog=_EPILOG,
    )  # fmt: skip
    parser.add_argument("verb", choices=("train",), help="train")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="JSON Lines")
    parser.add_argument("--loss", choices=("bradley_terry", "regression"), required=True)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="missing or empty"
    )
    parser.add_argument(
        "--policy", default="smollm2", metavar="MODEL",
        help="what the head stands on: a Hugging Face folder, a GGUF file, or smollm2 (default)",
    )  # fmt: skip
    parser.add_argument(
        "--train", choices=("head", "lora", "last_layers"), default="head",
        help="the head alone (default), or adapters or last layers besides",
    )  # fmt: skip
    parser.add_argument("--group", metavar="COLUMN", help="whose rows are alike (default: prompt)")
    parser.add_argument("--split", default="split", metavar="COLUMN", help="default: split")
    parser.add_argument("--heldout", default="heldout", metavar="VALUE", help="default: heldout")
    parser.add_argument(
        "--heldout-part", type=float, default=0.2, metavar="PART",
        help="of the groups, where no row has the column of --split (default: 0.2)",
    )  # fmt: skip
    parser.add_argument(
        "--learning-rate", type=float, default=1e-4, help="of adapters or layers; 1e-4"
    )
    parser.add_argument("--passes", type=int, default=2, help="over the texts, besides the head's")
    parser.add_argument("--batch-size", type=int, default=8, help="rows of a step; 8")
    parser.add_argument("--rank", type=int, default=8, help="of the adapters; 8")
    parser.add_argument("--layers", type=int, default=2, help="how many last layers; 2")
    parser.add_argument(
        "--max-length", type=int, metavar="N",
        help="longest prompt with completion, in tokens; rows with a longer one are left out "
        "(default: what the model was made for)",
    )  # fmt: skip
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parsed = parser.parse_args(list(arguments))
    _check(parsed)
    return parsed


def _check(parsed: argparse.Namespace) -> None:
    """Refuses what is out of range."""
    part, rate = parsed.heldout_part, parsed.learning_rate
    checks.check(0 < part < 1, "--heldout-part", part, "above 0 and below 1")
    checks.check(0 < rate < math.inf, "--learning-rate", rate, "above 0 and finite")
    for name in ("passes", "batch_size", "rank", "layers", "max_length"):
        if getattr(parsed, name) is not None:
            checks.at_least(f"--{name.replace('_', '-')}", getattr(parsed, name), 1)
    checks.seed("--seed", parsed.seed)
