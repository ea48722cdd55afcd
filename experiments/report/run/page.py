"""Puts a run's words, figures and tables on one page."""

import dataclasses
import datetime
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from .. import text
from ..comparisons import Headline, compare, headline
from ..load import Run, load_run, number
from ..page import Plan, write_page
from ..plot import STYLE, Plot
from . import tables
from .figures import language_figures
from .samples import CoinsOf, candidate_tables, side_by_side
from .slice_tables import heldout_slices_table, selection_slices_table
from .textbook_figures import gaussian_figures, law_events


@dataclasses.dataclass(frozen=True)
class Step:
    """A box of the round's picture."""

    title: str
    figure: str
    note: str


def write_report(folder: Path, coins: CoinsOf | None = None) -> Path:
    """Writes `report.html` and `figures/*.png` into the folder of a run, from that folder alone.

    A run that is unfinished, failed, or has files that cannot be read gets a report of what there
    is; what was left out is named in it. The page is one file and asks for nothing from elsewhere.

    Args:
      folder: the output_dir of a run.
      coins: `(round, arm)` -> the draws of its candidates by prompt and number, and a sentence on
        them; None where nobody draws them again.

    Returns:
      The path of the page.

    Raises:
      FileNotFoundError: there is no such folder.
    """
    folder = Path(folder)
    run = load_run(folder)
    with matplotlib.rc_context(STYLE):
        plots, context = _content(run, coins)
    return write_page(folder, "run.html.jinja", plots, _plan(run), context)


def _content(run: Run, coins: CoinsOf | None) -> tuple[list[Plot], dict[str, Any]]:
    """Draws the figures of the run's kind, and finds its words."""
    context = {
        "run": run,
        "title": run.name,
        "problems": run.problems,
        "problems_title": "Left out of this report",
        "facts": _facts(run),
        "steps": _steps(run),
        "samples": side_by_side(run),
        "candidates": candidate_tables(run, coins),
        "versions": _versions(run),
        "command": _command(run),
    }
    if _is_gaussian(run):
        return gaussian_figures(run), context | {
            "headline": _gaussian_headline(run),
            "result": tables.law_table(run),
        }
    comparisons = compare(run)
    return language_figures(run, comparisons), context | {
        "headline": headline(run, comparisons),
        "result": tables.comparison_table(run, comparisons),
    }


def _is_gaussian(run: Run) -> bool:
    kind = run.info.get("kind") or run.config.get("kind")
    return kind == "gaussian" or (kind is None and bool(law_events(run)))


def _plan(run: Run) -> list[Plan]:
    if _is_gaussian(run):
        laws = ("densities", "relative-to-target", "distances", "acceptance")
        return [
            Plan("laws", "Laws", "", laws, (tables.moments_table(run),)),
            Plan("losses", "Losses", "", ("loss-target", "loss-train"), (tables.fit_table(run),)),
        ]
    return [
        Plan(
            "reward", "Reward", "",
            ("effects", "reward-by-round", "judge-by-round", "reward-against-kl"),
            (
                tables.terms_table(run),
                tables.evaluation_table(run),
                heldout_slices_table(run),
            ),
        ),
        Plan(
            "selection", "Selection", "",
            ("reward-histograms", "accepted-by-reward", "acceptance"),
            (
                tables.reasons_table(run),
                tables.rounds_table(run),
                selection_slices_table(run),
            ),
        ),
        Plan("diversity-and-drift", "Diversity and drift", "", ("diversity", "kl-by-round")),
        Plan(
            "cost", "Cost", "", ("seconds-by-stage", "tokens-by-round"), (tables.speed_table(run),)
        ),
    ]  # fmt: skip


def _facts(run: Run) -> list[tuple[str, str]]:
    """What the run was, for the head of the page."""
    policy = run.setting("policy.asset") or run.setting("policy.path")
    if policy is not None:
        policy = Path(str(policy)).name
    found = {
        "policy": policy,
        "rule": run.setting("selection.rule") or run.setting("selection"),
        "training": run.setting("training.part.name"),
        "seed": run.info.get("seed", run.config.get("seed")),
        "rounds done": run.info.get("rounds_done"),
        "device": _device(run),
        "started": _time(run.info.get("started")),
        "took": _took(run),
    }
    return [
        (name, text.printable(str(value))) for name, value in found.items() if value is not None
    ]


def _device(run: Run) -> str | None:
    device = run.info.get("device")
    if isinstance(device, Mapping):
        return ", ".join(f"{key} {value}" for key, value in device.items())
    return None if device is None else str(device)


def _time(value: Any) -> str | None:
    moment = _moment(value)
    return moment.strftime("%-d %b %Y, %H:%M") if moment else None


def _took(run: Run) -> str | None:
    start, end = _moment(run.info.get("started")), _moment(run.info.get("finished"))
    return text.duration((end - start).total_seconds()) if start and end else None


def _moment(value: Any) -> datetime.datetime | None:
    try:
        if isinstance(value, int | float):
            return datetime.datetime.fromtimestamp(value, datetime.UTC)
        moment = datetime.datetime.fromisoformat(str(value))
    except (ValueError, OverflowError, OSError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)


def _steps(run: Run) -> list[Step]:
    """The round's picture with the sums of the policy's rounds; empty without any."""
    rounds = run.series("round", "policy")
    if not rounds or _is_gaussian(run):
        return []

    def total(key: str) -> float:
        return math.fsum(number(e, key) for e in rounds)

    each = run.setting("sampling.num_candidates")
    up_to = "up to " if run.setting("sampling.early_stop") else ""
    scored, accepted = total("num_scored"), total("num_accepted")
    unscored = total("num_candidates") - scored
    return [
        Step("prompts", text.number(total("num_prompts"), 0), f"in {len(rounds)} rounds"),
        Step(
            "generation",
            text.number(total("num_candidates"), 0),
            f"candidates, {up_to}{each} each" if each else "candidates",
        ),
        Step(
            "rewards",
            text.number(scored, 0),
            f"scored, {text.number(unscored, 0)} could not be" if unscored else "all scored",
        ),
        Step(
            "selection",
            text.number(accepted, 0),
            f"accepted, {text.percent(accepted / scored if scored else math.nan)}",
        ),
        Step("training", text.number(total("trained_tokens"), 0), "tokens trained on"),
    ]


def _versions(run: Run) -> list[tuple[str, str]]:
    versions = run.info.get("versions")
    if not isinstance(versions, Mapping):
        return []
    return [(str(name), str(version)) for name, version in versions.items()]


def _command(run: Run) -> str | None:
    """The command as it was given, where the run kept it."""
    command = run.info.get("command")
    if isinstance(command, Sequence) and not isinstance(command, str):
        command = " ".join(str(part) for part in command)
    return text.printable(command) if isinstance(command, str) else None


def _gaussian_headline(run: Run) -> Headline:
    """Says which arms sample the law they state, and which of them the target."""
    laws = law_events(run)
    if not laws:
        return Headline("No result yet", "open", ("The run holds no comparison of laws.",))
    own = [law for law in laws if number(law, "tv_own") <= number(law, "tv_gate")]
    target = [law for law in laws if number(law, "tv_target") <= number(law, "tv_gate")]
    wrong = [law for law in laws if law not in own]
    names = _names([law["arm"] for law in target])
    if not target:
        title = "No rule samples the target"
    elif len(target) == 1:
        title = f"Only the {names} rule samples the target"
    else:
        title = f"Rules that sample the target: {names}"
    sentences = [
        f"{str(law['arm']).capitalize()} accepts {text.percent(number(law, 'acceptance_rate'))} of "
        f"proposals ({text.percent(number(law, 'acceptance_exact'))} is exact). Its samples are at "
        f"a total variation of {text.number(number(law, 'tv_own'), 4)} from its own law and "
        f"{text.number(number(law, 'tv_target'), 4)} from the target; the gate is "
        f"{text.number(number(law, 'tv_gate'), 4)}."
        for law in laws
    ]
    if wrong:
        sentences.insert(
            0, f"Samples outside the gate of their own law: {_names([w['arm'] for w in wrong])}."
        )
    else:
        sentences.insert(0, "Every rule samples the law it states.")
    return Headline(title, "bad" if wrong else "good", tuple(sentences))


def _names(arms: Sequence[Any]) -> str:
    return ", ".join(str(arm) for arm in arms)
