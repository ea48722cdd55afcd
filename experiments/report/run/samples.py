"""Texts to read: what base, control and policy answer, and what selection did with candidates."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .. import text
from ..load import Part, Run

_NUM_EXTREME = 3  # prompts shown at each end
_NUM_FIRST = 2  # prompts shown for being the first of the file
_NUM_PROMPTS = 3  # prompts whose candidates are listed
_MAX_CANDIDATES = 16

CoinsOf = Callable[[int, str], tuple[Mapping[tuple[str, int], tuple[float, float]], str]]
"""`(round, arm) -> (prompt, candidate) -> (u, what it must be below)`, and a sentence on them."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """The first sample of one policy for a prompt, and its scores."""

    arm: str
    text: str
    reward: str
    judge: str


@dataclasses.dataclass(frozen=True)
class SideBySide:
    """One held-out prompt with the answers of every policy.

    Attributes:
      label: why it is shown.
      prompt_id: id of the prompt.
      prompt: its text.
      gain: reward of the policy's answer minus the base's.
      answers: base, control, policy, as far as there are any.
    """

    label: str
    prompt_id: str
    prompt: str
    gain: str
    answers: tuple[Answer, ...]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One candidate of a training prompt; numbers as text.

    Attributes:
      accepted: whether it was kept.
      reason: why.
      numbers: rank of its reward, reward, judge, its terms, the accept probability, and where coins
        are known its u and what that must be below.
      text: the completion.
    """

    accepted: bool
    reason: str
    numbers: tuple[str, ...]
    text: str


@dataclasses.dataclass(frozen=True)
class Candidates:
    """All candidates of one prompt, the highest reward first.

    Attributes:
      prompt_id: id of the prompt.
      prompt: its text.
      round: when they were drawn.
      columns: names of the numbers.
      rows: the candidates.
      num_hidden: candidates beyond those listed.
      note: on the draws; "" for none.
    """

    prompt_id: str
    prompt: str
    round: int
    columns: tuple[str, ...]
    rows: tuple[Candidate, ...]
    num_hidden: int
    note: str


def side_by_side(run: Run) -> list[SideBySide]:
    """Picks held-out prompts by the change from base to policy: largest gains, losses, and some
    that were not picked by what they show.

    The sample shown is always the first that was drawn for the prompt.
    """
    base = run.evaluation(0, "policy")
    trained = [p for p in run.evaluations if p.arm == "policy" and p.round > 0]
    control = [p for p in run.evaluations if p.arm == "control" and p.round > 0]
    if base is None or not trained:
        return []
    parts = {"base": base, "policy": trained[-1]}
    if control:
        parts = {"base": base, "control": control[-1], "policy": trained[-1]}
    first = {arm: first_rows(part) for arm, part in parts.items()}
    gains = {
        prompt: float(
            parts["policy"].data["reward"][row] - base.data["reward"][first["base"][prompt]]
        )
        for prompt, row in first["policy"].items()
        if prompt in first["base"]
    }
    chosen = _chosen(gains)
    prompts = without_template(base.data["prompt"])
    return [
        SideBySide(
            label=label,
            prompt_id=text.printable(prompt),
            prompt=text.printable(prompts[first["base"][prompt]]),
            gain=text.signed(gains[prompt]),
            answers=tuple(
                _answer(arm, parts[arm], rows[prompt])
                for arm, rows in first.items()
                if prompt in rows
            ),
        )
        for prompt, label in chosen
    ]


def candidate_tables(run: Run, coins: CoinsOf | None = None) -> list[Candidates]:
    """Lists the candidates of a few prompts of the policy's last round, some kept and some not.

    Args:
      run: the run.
      coins: see `page.write_report`.
    """
    parts = [p for p in run.rollouts if p.arm == "policy" and "reason" in p.data.columns]
    if not parts:
        return []
    part = parts[-1]
    rows: dict[str, list[int]] = {}
    for row, prompt in enumerate(part.data["prompt_id"]):
        rows.setdefault(prompt, []).append(row)
    accepted = part.data["accepted"]
    mixed = [prompt for prompt, own in rows.items() if 0 < accepted[own].sum() < len(own)]
    others = [prompt for prompt in rows if prompt not in mixed]
    prompts = without_template(part.data["prompt"])
    drawn = ({}, "") if coins is None else coins(part.round, part.arm)
    weights = {name: run.setting(f"reward.{name}.weight") for name in part.data.terms}
    return [
        _candidates(part, prompt, prompts[rows[prompt][0]], rows[prompt], weights, drawn)
        for prompt in (mixed + others)[:_NUM_PROMPTS]
    ]


def without_template(prompts: Sequence[str]) -> list[str]:
    """Cuts what all prompts share, such as a chat template, off both ends.

    The cut is made where a line begins in front, and where a line or a special token ("<|") ends
    the text behind, so that no sentence is cut.

    >>> without_template(["<|user|>\\nA cat.<|end|>\\n", "<|user|>\\nA dog.<|end|>\\n"])
    ['A cat.', 'A dog.']
    """
    different = sorted(set(prompts))
    if len(different) < 2:
        return list(prompts)
    front = _common_start(different)
    front = front[: front.rfind("\n") + 1]
    behind = _common_start([prompt[len(front) :][::-1] for prompt in different])[::-1]
    starts = [place for mark in ("<|", "\n") if (place := behind.find(mark)) >= 0]
    behind = behind[min(starts) :] if starts else ""
    return [prompt[len(front) : len(prompt) - len(behind)] for prompt in prompts]


def _common_start(texts: Sequence[str]) -> str:
    """The longest beginning that all texts share: that of the first and last in their order."""
    first, last = min(texts), max(texts)
    length = next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), len(first))
    return first[:length]


def _candidates(
    part: Part,
    prompt: str,
    shown: str,
    rows: Sequence[int],
    weights: Mapping[str, Any],
    drawn: tuple[Mapping[tuple[str, int], tuple[float, float]], str],
) -> Candidates:
    data, (coins, note) = part.data, drawn
    reward = data["reward"]
    order = sorted(rows, key=lambda row: -reward[row] if math.isfinite(reward[row]) else math.inf)
    columns = ["reward", "judge", *(f"term/{name}" for name in data.terms), "accept_prob"]
    heads = ["reward", "judge", *(_weighted(name, weights[name]) for name in data.terms)]
    return Candidates(
        prompt_id=text.printable(prompt),
        prompt=text.printable(shown),
        round=part.round,
        columns=("rank", *heads, "P(accept)", *(("u", "u below") if coins else ())),
        rows=tuple(
            Candidate(
                accepted=bool(data["accepted"][row]),
                reason=text.printable(data["reason"][row]),
                numbers=(
                    _rank(reward[row], reward[rows]),
                    *(text.number(float(data[name][row])) for name in columns),
                    *(_coin(coins.get((prompt, int(data["candidate"][row])))) if coins else ()),
                ),
                text=text.printable(data["completion"][row]).strip(),
            )
            for row in order[:_MAX_CANDIDATES]
        ),
        num_hidden=max(0, len(rows) - _MAX_CANDIDATES),
        note=text.printable(note),
    )


def _weighted(name: str, weight: Any) -> str:
    """The head of a term: with its weight in the reward, where that is not 1."""
    is_other = isinstance(weight, int | float) and weight != 1
    return f"{name} ×\u00a0{weight:g}".replace("-", text.MINUS) if is_other else name


def _coin(coin: tuple[float, float] | None) -> tuple[str, str]:
    """u and what it must be below; four decimals, since they may be close."""
    return ("", "") if coin is None else (text.number(coin[0], 4), text.number(coin[1], 4))


def _rank(reward: float, all_of_prompt: np.ndarray) -> str:
    """1 for the highest; equal rewards share one."""
    return str(1 + int((all_of_prompt > reward).sum())) if math.isfinite(reward) else ""


def first_rows(part: Part) -> dict[str, int]:
    """The row of the first sample of every prompt, in the order of the file."""
    first: dict[str, int] = {}
    candidate: Any = part.data["candidate"]
    for row, prompt in enumerate(part.data["prompt_id"]):
        if prompt not in first or candidate[row] < candidate[first[prompt]]:
            first[prompt] = row
    return first


def _chosen(gains: dict[str, float]) -> list[tuple[str, str]]:
    """Prompts to show and why, none twice."""
    scored = [prompt for prompt, gain in gains.items() if np.isfinite(gain)]
    ordered = sorted(scored, key=lambda prompt: -gains[prompt])
    num = min(_NUM_EXTREME, len(ordered) // 2)
    chosen = {prompt: "largest gain" for prompt in ordered[:num]}
    chosen |= {prompt: "largest loss" for prompt in reversed(ordered[len(ordered) - num :])}
    if len(ordered) > 2 * num:
        chosen[ordered[len(ordered) // 2]] = "median"
    rest = [prompt for prompt in gains if prompt not in chosen]
    chosen |= {prompt: "first in the file" for prompt in rest[:_NUM_FIRST]}
    names = {"largest loss": "smallest gain"}
    return [
        (prompt, names.get(label, label) if gains[prompt] >= 0 else label)
        for prompt, label in chosen.items()
    ]


def _answer(arm: str, part: Part, row: int) -> Answer:
    data = part.data
    return Answer(
        arm=arm,
        text=text.printable(data["completion"][row]).strip(),
        reward=text.number(float(data["reward"][row])),
        judge=text.number(float(data["judge"][row])),
    )
