"""The tables of a report as plain text in rows; a table without data is None."""

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from .. import text
from ..comparisons import Comparison
from ..load import Event, Part, Run, number
from .drift_figures import KL_INFINITE, has_infinite_kl
from .textbook_figures import law_events


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
      name: of its place in the page.
      caption: what it holds and how to read it.
      columns: their heads; the first `num_labels` are words, the others numbers.
      rows: as many cells as columns each.
      num_labels: columns of words.
    """

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    num_labels: int = 1


def comparison_table(run: Run, comparisons: Sequence[Comparison]) -> Table | None:
    """Lists the paired comparisons with their intervals and verdicts."""
    if not comparisons:
        return None
    words = {"above": "better", "below": "worse", "undecided": "undecided"}
    rows = tuple(
        (
            f"{c.first} {text.MINUS} {c.second}",
            c.score,
            words[c.verdict],
            text.signed(c.mean),
            text.interval(c.low, c.high),
            text.number(c.first_mean),
            text.number(c.second_mean),
            str(c.num_prompts),
            str(c.round),
        )
        for c in comparisons
    )
    return Table(
        "comparisons",
        "Held-out samples, averaged by prompt and paired over prompts. Better or worse: the "
        f"{text.percent(run.confidence, 0)} bootstrap interval of the difference excludes zero.",
        ("compared", "score", "verdict", "difference", "interval", "mean of first", "of second",
         "prompts", "round"),
        rows,
        num_labels=3,
    )  # fmt: skip


def evaluation_table(run: Run) -> Table | None:
    """Lists everything measured on held-out prompts."""
    columns: dict[str, tuple[str, int]] = {
        "distinct_1": ("distinct\u20111", 3),
        "distinct_2": ("distinct\u20112", 3),
        "self_bleu": ("self\u2011BLEU", 3),
        "length_mean": ("length, tokens", 1),
        "kl_outside": ("KL infinite", 3),
        "finished_share": ("ended, not cut", 2),
    }
    events = [e for arm in run.arms("evaluation") for e in run.series("evaluation", arm)]
    columns = {key: value for key, value in columns.items() if any(key in e for e in events)}
    infinite = has_infinite_kl(run)
    if not infinite:
        columns.pop("kl_outside", None)
    if not events:
        return None
    rows = tuple(
        (
            str(e["round"]),
            str(e["arm"]) if e["round"] else "base",
            *(_with_interval(e, name) for name in ("reward", "judge", "kl")),
            *(text.number(number(e, key), digits) for key, (_, digits) in columns.items()),
        )
        for e in sorted(events, key=lambda e: e["round"])
    )
    return Table(
        "evaluations",
        f"Held-out prompts. Means over all scored samples, with {text.percent(run.confidence, 0)} "
        "bootstrap intervals; KL in nats per completion." + (" " + KL_INFINITE if infinite else ""),
        ("round", "arm", "reward", "judge", "KL", *(name for name, _ in columns.values())),
        rows,
        num_labels=2,
    )


def rounds_table(run: Run) -> Table | None:
    """Lists what every round did."""
    events = [e for arm in run.arms("round") for e in run.series("round", arm)]
    if not events:
        return None
    counts = {
        "num_prompts": "prompts",
        "num_candidates": "candidates",
        "num_scored": "scored",
        "num_accepted": "accepted",
    }
    changes = {
        "reward, proposed → accepted": ("reward_proposed", "reward_accepted", text.number),
        "judge, proposed → accepted": ("judge_proposed", "judge_accepted", text.number),
        "loss, first → last batch": ("loss_first", "loss_last", text.number),
        "learning rate, first → last step": (
            "learning_rate_first", "learning_rate_last", text.compact,
        ),
    }  # fmt: skip
    others = {
        "ess": "effective samples",
        "on_policy_gap": "on\u2011policy gap, nats a token",
        "gap_median": "its median",
        "gap_p99": "99\u00a0%",
        "gap_largest": "largest",
        "gap_allowed": "allowed",
    }
    counts = {key: name for key, name in counts.items() if any(key in e for e in events)}
    changes = {n: keys for n, keys in changes.items() if any(keys[1] in e for e in events)}
    others = {key: name for key, name in others.items() if any(key in e for e in events)}
    rows = tuple(
        (
            str(e["round"]),
            str(e["arm"]),
            *(text.number(number(e, key), 0) for key in counts),
            *(
                f"{printed(number(e, before))} → {printed(number(e, after))}"
                for before, after, printed in changes.values()
            ),
            *(text.compact(number(e, key)) for key in others),
        )
        for e in sorted(events, key=lambda e: e["round"])
    )
    return Table(
        "rounds",
        "Training prompts. Effective samples: of the accepted, with their weights. On\u2011policy "
        "gap: largest difference between the sampler's log-probability of a token and the "
        "trainer's.",
        ("round", "arm", *counts.values(), *changes, *others.values()),
        rows,
        num_labels=2,
    )


def speed_table(run: Run) -> Table | None:
    """Lists tokens and tokens per second of generation and training."""
    rows = []
    for event in sorted(
        (e for arm in run.arms("round") for e in run.series("round", arm)),
        key=lambda e: e["round"],
    ):
        seconds = event.get("seconds")
        if not isinstance(seconds, dict):
            continue
        made, trained = number(event, "generated_tokens"), number(event, "trained_tokens")
        total = sum(v for stage in seconds if math.isfinite(v := number(seconds, stage)))
        shared = run.shares_candidates(event["round"], str(event["arm"]))
        rows.append(
            (
                str(event["round"]),
                str(event["arm"]),
                text.number(made, 0),
                "shared" if shared else text.number(_per(made, number(seconds, "generate")), 0),
                _slot_use(event),
                _saved(event),
                text.number(trained, 0),
                text.number(_per(trained, number(seconds, "train")), 0),
                text.duration(total),
            )
        )
    if not rows:
        return None
    names = ("round", "arm", "tokens generated", "per second", "slots in use", "tokens saved",
             "tokens trained", "per second", "time of all stages")  # fmt: skip
    about = (
        "Compilation is in the time of the first round. Shared: the candidates are those that the "
        "policy drew in the same round, both being the untrained model."
    )
    saved = names.index("tokens saved")
    if any(row[saved] for row in rows):
        about += (
            " Tokens saved: about how many more it would have been to draw every candidate, "
            "without early stop."
        )
    else:
        names = names[:saved] + names[saved + 1 :]
        rows = [row[:saved] + row[saved + 1 :] for row in rows]
    return Table("speed", about, names, tuple(rows), num_labels=2)


def reasons_table(run: Run) -> Table | None:
    """Counts why candidates were accepted or rejected, by round and arm."""
    parts = [p for p in run.rollouts if "reason" in p.data.columns and p.data.num_rows]
    if not parts:
        return None
    counts = {
        (p.round, p.arm): collections.Counter(
            (bool(kept), str(reason)) for kept, reason in zip(p.data["accepted"], p.data["reason"])
        )
        for p in parts
    }
    total = sum(counts.values(), collections.Counter())
    keys = sorted(total, key=lambda key: (not key[0], -total[key], key[1]))
    places = sorted(counts, key=lambda place: (place[0], place[1] != "policy", place[1]))
    rows = tuple(
        (
            text.printable(key[1]),
            *(_count(counts[place][key], counts[place].total()) for place in places),
        )
        for key in keys
    )
    return Table(
        "reasons",
        "What became of the candidates of each round, and their share.",
        ("reason", *(f"{arm}, round {round_}" for round_, arm in places)),
        rows,
    )


def terms_table(run: Run) -> Table | None:
    """Shows which terms the reward is made of, before and after, on held-out prompts."""
    parts = [p for p in (run.evaluation(0, "policy"), *_last_parts(run)) if p is not None]
    names = list(dict.fromkeys(name for part in parts for name in part.data.terms))
    if not names:
        return None
    columns = tuple(f"{p.arm}, round {p.round}" if p.round else "base" for p in parts)
    rows = tuple(
        (
            name,
            text.compact(number(run.setting("reward", {}), name)),
            *(_mean(p, f"term/{name}") for p in parts),
        )
        for name in names
    )
    total = ("reward", "", *(_mean(p, "reward") for p in parts))
    return Table(
        "terms",
        "Mean of every term over held-out samples, before its weight; penalties are subtracted.",
        ("term", "weight", *columns),
        (*rows, total),
    )


def law_table(run: Run) -> Table | None:
    """Lists the laws of the Gaussian experiment: observed beside exact."""
    laws = law_events(run)
    if not laws:
        return None
    rows = tuple(
        (
            str(law["arm"]),
            str(law.get("law", "")),
            *(
                text.number(number(law, key), 4)
                for key in ("acceptance_rate", "acceptance_exact", "tv_own", "tv_target",
                            "tv_target_exact", "tv_gate")
            ),
            text.number(number(law, "num_samples"), 0),
        )
        for law in laws
    )  # fmt: skip
    return Table(
        "laws",
        "Observed figures beside the exact ones, found by integration. TV: total variation over "
        "the bins; samples of the right law stay below the gate.",
        ("arm", "law", "acceptance", "exact", "TV to own law", "TV to target", "exact", "gate",
         "samples"),
        rows,
        num_labels=2,
    )  # fmt: skip


def moments_table(run: Run) -> Table | None:
    """Lists mean, variance and divergence of every law, observed beside exact."""
    rows = tuple(
        (
            str(law["arm"]),
            f"{text.number(number(law, 'mean'), 4)} "
            + text.interval(number(law, "mean_low"), number(law, "mean_high"), 4),
            *(
                text.number(number(law, key), 4)
                for key in ("mean_exact", "variance", "variance_exact", "kl_target",
                            "kl_target_exact")
            ),
        )
        for law in law_events(run)
    )  # fmt: skip
    if not rows:
        return None
    return Table(
        "moments",
        "Of z, with the 95 % interval of the mean; KL in nats.",
        ("arm", "mean", "exact", "variance", "exact", "KL to target", "exact"),
        rows,
    )


def fit_table(run: Run) -> Table | None:
    """Lists the linear model's last losses by arm."""
    rows = []
    for arm in run.arms("round"):
        last = run.series("round", arm)[-1:]
        if last and math.isfinite(number(last[0], "loss_target")):
            e = last[0]
            rows.append(
                (
                    arm,
                    f"{text.number(number(e, 'loss_target'))} "
                    + text.interval(number(e, "loss_target_low"), number(e, "loss_target_high")),
                    text.number(number(e, "loss_target_best")),
                    text.number(number(e, "loss_train")),
                    str(e["round"]),
                )
            )
    if not rows:
        return None
    return Table(
        "fits",
        "Mean squared error of the linear model after its last round.",
        ("arm", "on the target", "least possible for its law", "on its own samples", "round"),
        tuple(rows),
    )


def _last_parts(run: Run) -> list[Part]:
    last: dict[str, Part] = {}
    for part in run.evaluations:
        if part.round > 0:
            last[part.arm] = part
    return [last[arm] for arm in sorted(last, key=lambda arm: (arm == "policy", arm))]


def _mean(part: Part, column: str) -> str:
    values = part.data.columns.get(column)
    kept = np.asarray([]) if values is None else values[np.isfinite(values)]
    return text.number(float(kept.mean()) if kept.size else math.nan)


def _with_interval(event: Event, name: str) -> str:
    mean, low, high = (number(event, f"{name}_{end}") for end in ("mean", "low", "high"))
    return f"{text.number(mean)} {text.interval(low, high)}".rstrip()


def _count(count: int, total: int) -> str:
    return f"{count:,} ({text.percent(count / total)})" if count else "–"


def _slot_use(event: Event) -> str:
    """The part of the decoding slots that was in use; nothing where none was drawn."""
    drawing = event.get("generation")
    if not isinstance(drawing, Mapping):
        return ""
    use = number(drawing, "slot_use")
    return f"{use:.0%}" if math.isfinite(use) else ""


def _saved(event: Event) -> str:
    """Tokens that early stop saved and their share of all; nothing without it."""
    drawing = event.get("generation")
    if not isinstance(drawing, Mapping) or "tokens_saved" not in drawing:
        return ""
    saved, drawn = number(drawing, "tokens_saved"), number(drawing, "tokens")
    return f"{text.number(saved, 0)} ({text.percent(saved / (saved + drawn), 0)})"


def _per(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 else math.nan
