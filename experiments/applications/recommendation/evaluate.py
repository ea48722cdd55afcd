"""Judges the policies of recommendation runs on the test period, beside what anybody would try.

    python -m rsft_jax.experiments.applications.recommendation.evaluate RUN ... [--data FOLDER]

For each run (of another seed, say) the tuned policy, the one it began with, the random control, a
list of the popular and a factorisation; hit@10 and nDCG@10 with intervals paired by user, coverage,
novelty, and figures by age, gender and activity. Written to recommendation.json in the run.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsft_jax.metrics import Interval, Slices, slice_by
from rsft_jax.policies import PromptBatch
from rsft_jax.rollouts import read_rollouts

from ...language.evaluate import open_run
from ...runs.folder import RunFolder, existing_run
from ...terminal.console import Console
from ...terminal.errors import ConfigError, ExitCode
from ...terminal.parser import Parser
from ..evaluation import write_result
from ..script import run_script
from .baselines import factorisation, known_before_test, popularity
from .groups import group_of
from .judging import (
    Judged,
    Users,
    expected_reward,
    film_log_probs,
    judge,
    known_share,
    shown,
    users_of,
)
from .movielens import Ratings, read_movielens
from .prompts import Row, Split, read_rows

RANK = 50
"""Singular vectors of the factorisation."""

GROUPINGS = ("age", "gender", "activity")
"""What users are divided by."""

_NAMES = {
    "policy": "tuned policy",
    "base": "pre-trained policy",
    "control": "random control",
    "popular": "list of the popular",
    "factors": "factorisation",
}


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Judges each run, and says the means over all."""
    parser = Parser(prog="recommendation.evaluate", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output_dir of a run")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="of the three files")

    def body(parsed: argparse.Namespace) -> None:
        folders = [existing_run(path) for path in parsed.runs]
        ratings = read_movielens(parsed.data)
        found = [evaluate_run(folder, ratings, Split(), Console()) for folder in folders]
        if len(found) > 1:
            _show_means(Console(), found)

    return run_script(parser, arguments, body)


def evaluate_run(
    folder: RunFolder, ratings: Ratings, split: Split, console: Console
) -> dict[str, Any]:
    """Judges a run, prints what it finds and writes it to recommendation.json.

    Raises:
      ConfigError: the run is of another kind, has no checkpoint, or its prompts are no histories
        with what followed them.
    """
    setup, done, states = open_run(folder.path, console)
    if not done:
        raise ConfigError(f"{folder.path}: has no checkpoint yet, and so no tuned policy")
    path = Path(str(setup.config.data.path))
    rows = {name: read_rows(path, name) for name in ("train", "heldout")}
    rows["heldout"], batch = _held_out(setup.heldout, rows["heldout"])
    known = known_before_test(ratings, split)
    users = users_of(rows["heldout"], ratings.titles, known)
    policy = setup.policy
    states = {"base": policy.initial, **states}
    log_probs = {
        name: film_log_probs(policy.model, policy.params(setup.evaluated(state)), batch.tokens)
        for name, state in states.items()
    }
    scores = {
        **log_probs,
        "popular": popularity(ratings, split, len(users.rows)),
        "factors": factorisation(
            ratings, split, [np.flatnonzero(s).tolist() for s in users.seen], rank=RANK, seed=0
        ),
    }
    judged = {name: judge(scores[name], users) for name in _NAMES if name in scores}
    accepted = _acceptance(folder, done, rows["train"])
    result = {
        "users": len(users.rows),
        "rounds": done,
        "seed": setup.config.seed,
        "known_share": {name: known_share(p, users) for name, p in log_probs.items()},
        "figures": {name: one.figures() for name, one in judged.items()},
        "policy_less": {
            name: judged["policy"].against(one) for name, one in judged.items() if name != "policy"
        },
        "groups": {by: _groups(by, judged, log_probs, users, accepted) for by in GROUPINGS},
    }
    _show(console, folder.path, result)
    write_result(folder.path / "recommendation.json", result)
    return result


def _held_out(heldout: PromptBatch, rows: Sequence[Row]) -> tuple[list[Row], PromptBatch]:
    """The rows that the run holds out, and their prompts in the same order."""
    place = {prompt.id: number for number, prompt in enumerate(heldout.prompts)}
    rows = [row for row in rows if row["id"] in place]
    return rows, heldout.take([place[row["id"]] for row in rows])


def _acceptance(
    folder: RunFolder, last: int, rows: Sequence[Row]
) -> dict[str, tuple[list[Row], np.ndarray, np.ndarray]]:
    """Of the last round of each arm: a row for each user, the share accepted, the mean reward."""
    of_prompt = {row["id"]: row for row in rows}
    found = {}
    for arm in ("policy", "control"):
        path = folder.rollout_path(last, arm)
        if not path.is_file():
            continue
        table = read_rollouts(path, without=("tokens", "log_probs", "prompt"))
        users: dict[int, list[tuple[float, float]]] = {}
        row_of: dict[int, Row] = {}
        for name, yes, reward in zip(table["prompt_id"], table["accepted"], table["reward"]):
            row = of_prompt[str(name)]
            row_of.setdefault(row["user"], row)
            users.setdefault(row["user"], []).append((float(yes), float(reward)))
        means = np.array([np.mean(values, axis=0) for values in users.values()])
        found[arm] = ([row_of[user] for user in users], means[:, 0], means[:, 1])
    return found


def _groups(
    by: str,
    judged: Mapping[str, Judged],
    log_probs: Mapping[str, np.ndarray],
    users: Users,
    accepted: Mapping[str, tuple[list[Row], np.ndarray, np.ndarray]],
) -> dict[str, Slices]:
    """Every figure by the groups of one division, with the gap between best and worst."""
    groups = [group_of(row, by) for row in users.rows]
    found: dict[str, Slices] = {}
    for name in judged:
        found[f"ndcg of {name}"] = slice_by(judged[name].ndcg, groups)
    for name, values in log_probs.items():
        found[f"reward of {name}"] = slice_by(expected_reward(values, users), groups)
    for name, (rows, shares, _) in accepted.items():
        found[f"accepted of {name}"] = slice_by(shares, [group_of(row, by) for row in rows])
    return found


def _show(console: Console, path: Path, result: Mapping[str, Any]) -> None:
    figures, less = result["figures"], result["policy_less"]
    console.table(
        f"{path}: test period, {result['users']} users, 95 % intervals over them",
        ("", "hit@10", "nDCG@10", "coverage", "novelty, bits"),
        (
            (_NAMES[name], *(shown(one, key) for key in ("hit", "ndcg", "coverage", "novelty")))
            for name, one in figures.items()
        ),
    )
    console.table(
        "tuned policy less the others, paired by user",
        ("", "hit@10", "nDCG@10"),
        ((_NAMES[name], shown(one, "hit"), shown(one, "ndcg")) for name, one in less.items()),
    )
    rows = [
        (f"{figure}, by {by}", *_group_cells(found))
        for by, all_figures in result["groups"].items()
        for figure, found in all_figures.items()
        if figure.endswith((" policy", " base"))
    ]
    columns = ("", "best group", "worst group", "gap")
    console.table("by group; the interval of a gap holds for all pairs at once", columns, rows)
    shares = ", ".join(f"{_NAMES[k]} {v:.1%}" for k, v in result["known_share"].items())
    console.say(f"drawn films that the user knows: {shares}")


def _group_cells(found: Slices) -> tuple[str, ...]:
    """The best and the worst group with their means, and the gap between them."""
    if found.gap is None:
        return "-", "-", "-"
    means = {one.group: one.interval.mean for one in found.groups}
    ends = (f"{name}: {means[name]:.3f}" for name in (found.gap.first, found.gap.second))
    return (*ends, shown({"gap": found.gap.difference}, "gap"))


def _show_means(console: Console, found: Sequence[Mapping[str, Any]]) -> None:
    """The means over runs, and each."""
    figures = {"hit": "hit@10", "ndcg": "nDCG@10", "coverage": "coverage", "novelty": "novelty"}
    rows = []
    for name in found[0]["figures"]:
        for key, label in figures.items():
            values = [_mean_of(one["figures"][name][key]) for one in found]
            each = ", ".join(f"{value:.3f}" for value in values)
            rows.append((_NAMES[name], label, f"{np.mean(values):.3f}", each))
    seeds = ", ".join(str(one["seed"]) for one in found)
    console.table("over runs", ("", "", "mean", f"seeds {seeds}"), rows)


def _mean_of(value: Interval | float) -> float:
    return value.mean if isinstance(value, Interval) else float(value)


if __name__ == "__main__":
    sys.exit(main())
