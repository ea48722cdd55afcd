"""Which policies of a run are compared on held-out prompts, and the result in words.

The arithmetic is that of `rsft_jax.metrics.compare_paired`: what two policies share on a prompt
cancels, and a claim is made only when the interval of their difference excludes zero.
"""

import dataclasses
from typing import Literal

import numpy as np

from rsft_jax.metrics import Interval, Verdict, compare_paired, prompt_means, verdict

from . import text
from .load import Part, Run, number

SCORES = ("reward", "judge")

Tone = Literal["good", "bad", "open"]
"""Of a result, for its colour."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The mean over prompts of one policy's score minus another's.

    Attributes:
      score: reward or judge.
      first: name of the policy that is compared.
      second: name of what it is compared with: base or control.
      round: whose evaluation `first` was taken from; -1 stands for no round.
      num_prompts: prompts that both have a score for.
      first_mean: mean score of `first` over these prompts.
      second_mean: the same of `second`.
      mean: their difference.
      low: lower end of its bootstrap interval; NaN for fewer than two prompts.
      high: upper end.
    """

    score: str
    first: str
    second: str
    round: int
    num_prompts: int
    first_mean: float
    second_mean: float
    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        """What the interval says: zero inside it, or an interval missing, decides nothing."""
        return verdict(Interval(self.mean, self.low, self.high))


@dataclasses.dataclass(frozen=True)
class Headline:
    """The result in words.

    Attributes:
      title: one short line.
      tone: good, bad or open, for its colour.
      sentences: what it rests on.
    """

    title: str
    tone: Tone
    sentences: tuple[str, ...]


def compare(run: Run) -> tuple[Comparison, ...]:
    """Compares the trained policy with base and control, and control with base, by both scores.

    Policies are compared at the last round at which both were evaluated. Reads only the held-out
    samples; a comparison without data is left out.
    """
    base = run.evaluation(0, "policy")
    last = {
        arm: max((p.round for p in run.evaluations if p.arm == arm and p.round > 0), default=0)
        for arm in ("policy", "control")
    }
    shared = [
        p.round
        for p in run.evaluations
        if p.arm == "control" and p.round > 0 and run.evaluation(p.round, "policy")
    ]
    pairs: list[tuple[str, Part | None, str, Part | None, int]] = []
    if last["policy"]:
        trained = run.evaluation(last["policy"], "policy")
        pairs.append(("policy", trained, "base", base, last["policy"]))
    if shared:
        round_ = max(shared)
        pairs.append(
            (
                "policy",
                run.evaluation(round_, "policy"),
                "control",
                run.evaluation(round_, "control"),
                round_,
            )
        )
    if last["control"]:
        control = run.evaluation(last["control"], "control")
        pairs.append(("control", control, "base", base, last["control"]))
    return tuple(
        comparison
        for score in SCORES
        for first, a, second, b, round_ in pairs
        if (comparison := _comparison(run, score, first, a, second, b, round_)) is not None
    )


def headline(run: Run, comparisons: tuple[Comparison, ...]) -> Headline:
    """Puts the comparisons in words. Says what is not known as plainly as what is."""
    by_name = {(c.score, c.first, c.second): c for c in comparisons}
    versus_base = by_name.get(("reward", "policy", "base"))
    versus_control = by_name.get(("reward", "policy", "control"))
    if versus_base is None:
        return _without_comparison(run)
    sentences = [_sentence_base(versus_base, run.confidence)]
    if versus_control is None:
        sentences.append(
            "No random control was evaluated, so a change cannot be told apart from what training "
            "on any samples of the policy would give."
        )
    else:
        sentences.append(_sentence_control(versus_control, run.confidence))
    judges = [c for c in comparisons if c.score == "judge" and c.first == "policy"]
    sentences.extend(_sentences_judge(versus_base, judges))
    sentences.extend(_sentences_stop(run))
    title, tone = _title(versus_base, versus_control, judges)
    return Headline(title, tone, tuple(sentences))


def _comparison(
    run: Run, score: str, first: str, a: Part | None, second: str, b: Part | None, round_: int
) -> Comparison | None:
    if a is None or b is None:
        return None
    paired = compare_paired(_means(a, score), _means(b, score), run.confidence)
    if not paired.num_prompts:
        return None
    return Comparison(
        score=score,
        first=first,
        second=second,
        round=round_,
        num_prompts=paired.num_prompts,
        first_mean=paired.first_mean,
        second_mean=paired.second_mean,
        mean=paired.difference.mean,
        low=paired.difference.low,
        high=paired.difference.high,
    )


def _means(part: Part, score: str) -> dict[str, float]:
    return prompt_means(part.data["prompt_id"], part.data[score])


def _without_comparison(run: Run) -> Headline:
    events = run.series("evaluation", "policy")
    if run.status == "no data":
        return Headline(
            "Nothing was trained",
            "open",
            ("A round accepted no candidate, so there was no data to train on.",),
        )
    if any(e["round"] > 0 for e in events):
        return Headline(
            "No paired comparison",
            "open",
            ("The held-out samples that it needs are missing; the figures show the means.",),
        )
    if events:
        return Headline(
            "Not trained yet",
            "open",
            ("Only the base model has been evaluated; there is nothing to compare it with.",),
        )
    return Headline("No result yet", "open", ("The run holds no held-out evaluation.",))


def _range(c: Comparison, confidence: float) -> str:
    if np.isnan(c.low):
        return "no interval: too few prompts"
    return f"{text.percent(confidence, 0)} interval {text.signed(c.low)} to {text.signed(c.high)}"


def _sentence_base(c: Comparison, confidence: float) -> str:
    start = (
        f"After round {c.round} the trained policy's mean reward on {c.num_prompts} held-out "
        f"prompts is {text.number(c.first_mean)}, against {text.number(c.second_mean)} for the "
        f"base model: {text.signed(c.mean)} ({_range(c, confidence)})"
    )
    return (
        start
        + {
            "above": ".",
            "below": ", a loss.",
            "undecided": ", which does not decide whether it changed.",
        }[c.verdict]
    )


def _sentence_control(c: Comparison, confidence: float) -> str:
    effect = f"{text.signed(c.mean)} ({_range(c, confidence)})"
    return {
        "above": f"It beats the random control, trained on samples picked blindly, by {effect}.",
        "below": "It falls behind the random control, trained on samples picked blindly: "
        f"{effect}.",
        "undecided": "Whether it beats the random control, trained on samples picked blindly, is "
        f"undecided: {effect}.",
    }[c.verdict]


def _sentences_judge(versus_base: Comparison, judges: list[Comparison]) -> list[str]:
    if not judges:
        return []
    effects = " and ".join(
        f"{text.signed(c.mean)} against {_the(c.second)} {text.interval(c.low, c.high)}".strip()
        for c in judges
    )
    against_base = judges[0].verdict
    if against_base == "below":
        opening = "The second judge, which training never saw, fell"
    elif against_base == "undecided":
        opening = "The second judge, which training never saw, does not decide"
    elif versus_base.verdict == "above":
        opening = "The second judge, which training never saw, agrees"
    else:
        opening = "The second judge, which training never saw, rose"
    ending = (
        ". Reward up and judge down is the mark of over-optimisation."
        if against_base == "below" and versus_base.verdict == "above"
        else "."
    )
    return [f"{opening}: {effects}{ending}"]


def _sentences_stop(run: Run) -> list[str]:
    if run.stop is None:
        return []
    judge, reward = (
        " to ".join(text.number(number(run.stop, f"{score}_{of}")) for of in ("best", "last"))
        for score in ("judge", "reward")
    )
    return [
        f"The judge stopped the run after round {run.stop['round']}: since round "
        f"{run.stop['best_round']}, its best, it went from {judge}, while the reward rose from "
        f"{reward}."
    ]


def _the(name: str) -> str:
    return {"base": "the base model", "control": "the control"}.get(name, name)


def _title(
    versus_base: Comparison, versus_control: Comparison | None, judges: list[Comparison]
) -> tuple[str, Tone]:
    if versus_base.verdict == "below":
        return "The trained policy is worse than the base model", "bad"
    if versus_base.verdict == "undecided":
        return "No change from the base model is shown", "open"
    judge_fell = any(c.verdict == "below" for c in judges)
    but = ", but the second judge fell" if judge_fell else ""
    if versus_control is None:
        return f"The trained policy beats the base model{but}", "open"
    if versus_control.verdict == "above":
        title = f"The trained policy beats the base model and the random control{but}"
        return title, "bad" if judge_fell else "good"
    if versus_control.verdict == "below":
        return "The trained policy beats the base model, but not the random control", "bad"
    return "Better than the base model, not shown to beat the random control", "open"
