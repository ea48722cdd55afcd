"""The report of several runs: which settings are best, is it sure, and what did they cost?"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from rsft_jax.metrics import Verdict

from .. import text
from ..comparisons import Headline, Tone
from ..load import Part, load_run
from ..page import Plan, write_page
from ..plot import STYLE
from ..run.differences import Piece, new_words
from ..run.samples import first_rows, without_template
from ..run.tables import Table
from .figures import runs_figures
from .summary import RunSet, summarise

_NUM_COMPARED = 3  # runs whose samples are shown
_NUM_PROMPTS = 6
_TONES: dict[Verdict, Tone] = {"above": "good", "below": "bad", "undecided": "open"}
_WORDS = {"above": "better", "below": "worse", "undecided": "undecided"}


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one run answers to a prompt.

    Attributes:
      label: the run.
      reward: of this answer.
      judge: the same by the second judge.
      pieces: the text, cut into what the first answer has too and what it has not.
      is_base: whether this is the first answer, before training.
    """

    label: str
    reward: str
    judge: str
    pieces: tuple[Piece, ...]
    is_base: bool


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A held-out prompt with an answer of each run."""

    prompt_id: str
    prompt: str
    answers: tuple[Answer, ...]


def write_runs_report(folders: Sequence[Path], output: Path) -> Path:
    """Compares runs on one page, `output/report.html`, with every figure as PNG and CSV beside it.

    Runs that failed or are unfinished take part with what they have; what was left out is named.

    Args:
      folders: of two or more runs of one kind.
      output: a folder; made when missing.

    Returns:
      The path of the page.

    Raises:
      ConfigError: the runs cannot be compared. Nothing is written.
    """
    runs = summarise(folders)
    with matplotlib.rc_context(STYLE):
        plots = runs_figures(runs)
    context = {
        "title": f"{len(runs.runs)} runs",
        "problems": runs.problems,
        "problems_title": "Left out, or hard to compare",
        "runs": runs,
        "headline": headline(runs),
        "facts": _facts(runs),
        "result": leaderboard_table(runs),
        "prompts": answers_side_by_side(runs),
    }
    plan = [
        Plan("ranking", "Ranking", "", ("leaderboard", "parallel-coordinates"), (_seeds(runs),)),
        Plan("trade-offs", "What the score cost", "", ("score-against-kl", "score-against-cost")),
        Plan("selection", "Selection", "", ("acceptance", "acceptance-curve")),
        Plan("diversity-of-samples", "Diversity", "", ("diversity",)),
    ]
    output.mkdir(parents=True, exist_ok=True)
    return write_page(output, "runs.html.jinja", plots, plan, context)


def headline(runs: RunSet) -> Headline:
    """Says which run is best, whether it beats its control, and how far that can be trusted."""
    found = [run for run in runs.runs if math.isfinite(run.last.score.mean)]
    if not found:
        return Headline("No result yet", "open", ("No run has an evaluation.",))
    best, measure = found[0], runs.measure
    score = best.last.score
    first = (
        f"After round {best.last.round} its {measure.title} is {text.number(score.mean)} "
        f"{text.interval(score.low, score.high)}".rstrip()
        + "."
    )
    held = [run for run in found if math.isfinite(run.gain.mean)]
    above = sum(run.verdict == "above" for run in held)
    if not held:
        second = "No run has a control to be held against."
        tone = "open"
    else:
        gain = (
            f"{text.signed(best.gain.mean)} {text.interval(best.gain.low, best.gain.high)}".strip()
            if math.isfinite(best.gain.mean)
            else "unknown"
        )
        second = (
            f"Its lead over its {measure.control_name} is {gain}; {above} of {len(held)} runs are "
            "shown to beat theirs."
        )
        tone = _TONES[best.verdict]
    third = (
        f"The best of {len(found)} was picked by the same held-out data that it is measured on, so "
        "its figure is too good on average; confirm it with another seed or other prompts."
    )
    rest = [] if len(found) < 2 else [third]
    label = runs.label(best)
    return Headline(f"Best: {label}", tone, (first, second, *rest))


def leaderboard_table(runs: RunSet) -> Table:
    """Lists every run with its figures, best first."""
    measure = runs.measure
    named = list(runs.varied)
    is_language = measure.name == "reward"
    rows = []
    for rank, run in enumerate(runs.runs, start=1):
        last = run.last
        labels = [str(rank), *(runs.value(run, name) for name in named)]
        labels += [run.name] if not named else []
        cells = [
            _with_interval(last.score),
            text.number(run.control[-1].score.mean) if run.control else "–",
            f"{text.signed(run.gain.mean)} {text.interval(run.gain.low, run.gain.high)}".strip(),
            _WORDS[run.verdict] if math.isfinite(run.gain.mean) else "–",
        ]
        if is_language:
            cells += [text.number(last.judge), text.number(last.kl, 2)]
            cells += [text.number(last.distinct_2)]
        cells += [
            f"{text.percent(run.acceptance.mean)} ({text.percent(run.predicted)})",
            text.number(last.cost, 0),
            text.duration(last.seconds),
            run.status,
        ]
        rows.append((*labels, *cells))
    columns = [measure.name, measure.control_name, "lead over it", "verdict"]
    columns += ["judge", "KL, nats", "distinct\u20112"] if is_language else []
    columns += ["accepted (expected)", "tokens" if is_language else "proposals", "took", "status"]
    heads = ["", *(runs.short(name) for name in named), *([] if named else ["run"])]
    return Table(
        "leaderboard",
        f"{measure.title.capitalize()}, after each run's last round; in brackets the interval. "
        "Better or worse: the interval of the lead over the control excludes zero. Accepted: in "
        "the first round.",
        (*heads, *columns),
        tuple(rows),
        num_labels=len(heads),
    )


def answers_side_by_side(runs: RunSet) -> list[Prompt]:
    """First answers of the best runs, and of the policy before training, to a few prompts.

    The prompts are spread evenly over those of the file, whatever their rewards.
    """
    found = [run for run in runs.runs if run.last.round > 0][:_NUM_COMPARED]
    parts: list[tuple[str, Part]] = []
    for summary in found:
        run = load_run(summary.folder)
        base = run.evaluation(0, "policy")
        trained = [p for p in run.evaluations if p.arm == "policy" and p.round > 0]
        if not parts and base is not None:
            parts.append(("before training", base))
        if trained:
            parts.append((runs.label(summary), trained[-1]))
    if len(parts) < 2:
        return []
    rows = [(label, part, first_rows(part)) for label, part in parts]
    shared = [name for name in rows[0][2] if all(name in own for _, _, own in rows[1:])]
    places = np.unique(np.linspace(0, len(shared) - 1, _NUM_PROMPTS).round().astype(int))
    texts = without_template(rows[0][1].data["prompt"])
    return [_prompt(shared[place], texts, rows) for place in places if shared]


def _prompt(
    name: str, texts: Sequence[str], rows: Sequence[tuple[str, Part, dict[str, int]]]
) -> Prompt:
    answers = []
    base = ""
    for number, (label, part, own) in enumerate(rows):
        row = own[name]
        answer = text.printable(part.data["completion"][row]).strip()
        base = answer if number == 0 else base
        pieces = (Piece(answer, False),) if number == 0 else new_words(answer, base)
        answers.append(
            Answer(
                label,
                text.number(float(part.data["reward"][row])),
                text.number(float(part.data["judge"][row])),
                pieces,
                is_base=number == 0,
            )
        )
    shown = text.printable(texts[rows[0][2][name]])
    return Prompt(text.printable(name), shown, tuple(answers))


def _seeds(runs: RunSet) -> Table | None:
    """Lists settings that were run with several seeds, and how far these lie apart."""
    groups = {k: v for k, v in runs.groups().items() if len(v) > 1}
    if "seed" not in runs.varied or not groups:
        return None
    rows = []
    for label, own in groups.items():
        scores = _finite([run.last.score.mean for run in own])
        gains = _finite([run.gain.mean for run in own])
        rows.append((label, str(len(own)), *_spread(scores), *_spread(gains, signed=True)))
    control = runs.measure.control_name
    return Table(
        "seeds",
        "Runs that differ by their seed alone: the mean over seeds, the lowest and the highest.",
        ("settings", "seeds", runs.measure.name, "lowest to highest", f"lead over {control}",
         "lowest to highest"),
        tuple(rows),
    )  # fmt: skip


def _spread(values: Sequence[float], *, signed: bool = False) -> tuple[str, str]:
    if not values:
        return "–", "–"
    show = text.signed if signed else text.number
    mean = show(math.fsum(values) / len(values))
    return mean, f"{show(min(values))} to {show(max(values))}"


def _facts(runs: RunSet) -> list[tuple[str, str]]:
    states: dict[str, int] = {}
    for run in runs.runs:
        states[run.status] = states.get(run.status, 0) + 1
    total = math.fsum(run.last.seconds for run in runs.runs)
    facts = [
        ("runs", ", ".join(f"{count} {state}" for state, count in states.items())),
        ("settings that differ", ", ".join(runs.varied) or "none"),
        ("time in rounds, all runs", text.duration(total)),
    ]
    return [(name, text.printable(value)) for name, value in facts]


def _with_interval(value) -> str:
    return f"{text.number(value.mean)} {text.interval(value.low, value.high)}".strip()


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]
