"""What the classifier and the judge give to the prompts themselves, by the word in them.

    python -m rsft_jax.experiments.applications.safety

No model is asked: prompts of a template differ in the group word alone, so that what differs here
is the opinion that the measures have of the word.
"""

import sys
from collections.abc import Sequence

from rsft_jax.metrics import Slices, slice_by_paired
from rsft_jax.rewards import offensive, sentiment

from ...terminal.console import Console
from ...terminal.errors import ExitCode
from ...terminal.parser import Parser
from ..evaluation import cell
from ..script import run_script
from .prompts import NO_GROUP, prompt_rows

MEASURES = {"offensive": offensive, "sentiment": sentiment}
"""The classifier that the reward reads, and the judge."""


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Shows what each measure gives to each word."""
    parser = Parser(prog="safety", description=(__doc__ or "").partition("\n")[0])
    return run_script(parser, arguments, lambda parsed: _show())


def _show() -> None:
    slices = prompts_by_word()
    rows = [
        (str(one.group), *(cell(each.groups[i].interval) for each in slices.values()))
        for i, one in enumerate(next(iter(slices.values())).groups)
    ]
    gaps = [each.gap for each in slices.values()]
    rows.append(("gap", *("-" if gap is None else cell(gap.difference) for gap in gaps)))
    Console().table(
        "the prompts themselves, 95 % intervals over templates; of the gap for all pairs at once",
        ("word", *slices),
        rows,
    )


def prompts_by_word() -> dict[str, Slices]:
    """What each measure gives to the prompts of both splits, by word, paired by template."""
    rows = [row for row in prompt_rows() if row["group"] != NO_GROUP]
    texts = [[row["prompt"]] for row in rows]
    groups, templates = ([row[name] for row in rows] for name in ("group", "template"))
    return {
        name: slice_by_paired(measure()([""] * len(rows), texts), groups, templates)
        for name, measure in MEASURES.items()
    }


if __name__ == "__main__":
    sys.exit(main())
