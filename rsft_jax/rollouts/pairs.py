"""Preference pairs out of candidates that are scored: for those who train on pairs, elsewhere.

P is prompts, N candidates per prompt.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rsft_jax.rollouts.record import Record


class PreferencePair(NamedTuple):
    """Two candidates of a prompt, of which one is preferred.

    Attributes:
      prompt: place of the prompt, from 0.
      chosen: number of the candidate with the higher reward.
      rejected: number of the other.
      margin: reward of the first minus that of the second, above 0.
    """

    prompt: int
    chosen: int
    rejected: int
    margin: float


def best_worst_pairs(
    rewards: ArrayLike, usable: ArrayLike, *, margin: float = 0.0, max_pairs: int = 1
) -> list[PreferencePair]:
    """Pairs the best of each prompt with its worst, the second best with the second worst, ...

    Of the n usable candidates of a prompt in the order of their rewards (equal ones by number) the
    i-th is paired with the (n + 1 - i)-th, i up to n / 2, as long as their rewards differ by the
    margin. No candidate is in two pairs. The pairs are as far apart as can be, and so follow no
    policy's law: for pairs from the target policy see `random_pairs` of accepted candidates.

    Args:
      rewards: `[P, N]`; NaN and infinite ones are not used.
      usable: `[P, N]` bool, which candidates may be in a pair.
      margin: least difference of rewards, >= 0; equal rewards are no pair whatever it is.
      max_pairs: at most so many of a prompt, at least 1.

    Returns:
      The pairs, prompt by prompt, the largest difference first.

    Raises:
      ValueError: the shapes differ, or an option is out of its range.

    Example:
      >>> best_worst_pairs([[0.1, 0.9, 0.4, np.nan]], np.ones((1, 4), bool), max_pairs=2)
      [PreferencePair(prompt=0, chosen=1, rejected=0, margin=0.8)]
    """
    rows, mask = _checked(rewards, usable, margin, max_pairs)
    pairs = []
    for i, row in enumerate(rows):
        own = np.flatnonzero(mask[i])
        order = own[np.argsort(-row[own], kind="stable")].tolist()
        ends = zip(order, reversed(order[(len(order) + 1) // 2 :]))
        pairs += _kept(i, row, ends, margin)[:max_pairs]
    return pairs


def random_pairs(
    rewards: ArrayLike,
    usable: ArrayLike,
    *,
    margin: float = 0.0,
    max_pairs: int = 1,
    seed: int = 0,
) -> list[PreferencePair]:
    """Pairs candidates of a prompt at random, each in one pair, and prefers the higher reward.

    With what statistical rejection has accepted as the usable ones these are the pairs of RSO:
    two draws from the target q exp(r / beta) that the reward then ranks, K / 2 pairs of K accepted
    (rso-sample-rank with its first-round ranking). They follow the law of the accepted, two by two,
    as long as the margin is 0: a margin asks for unlike pairs. A pair of equal rewards is dropped.

    Args:
      rewards, usable, margin, max_pairs: as in `best_worst_pairs`.
      seed: of the pairing; that of a prompt depends on the seed and its place alone.

    Returns:
      The pairs, prompt by prompt, in the order in which they were drawn.

    Raises:
      ValueError: the shapes differ, or an option is out of its range.

    Example:
      >>> accepted = np.array([[True, False, True, True, True]])
      >>> pairs = random_pairs([[0.1, 9.0, 0.5, 0.3, 0.2]], accepted, max_pairs=4)
      >>> len(pairs), 1 in {pair.chosen for pair in pairs}, all(pair.margin > 0 for pair in pairs)
      (2, False, True)

    References:
      Liu et al., Statistical rejection sampling improves preference optimization (2023),
      https://arxiv.org/abs/2309.06657, sections 3.2 and 3.3.
    """
    rows, mask = _checked(rewards, usable, margin, max_pairs)
    pairs = []
    for i, row in enumerate(rows):
        own = np.random.default_rng((seed, i)).permutation(np.flatnonzero(mask[i])).tolist()
        pairs += _kept(i, row, zip(own[::2], own[1::2]), margin)[:max_pairs]
    return pairs


def pair_rows(
    record: Record,
    pairs: Sequence[PreferencePair],
    messages: Sequence[Sequence[Mapping[str, str]]] | None = None,
) -> list[dict[str, Any]]:
    """Pairs as the rows that TRL reads: `prompt`, `chosen`, `rejected`, one form for all.

    Args:
      record: the candidates.
      pairs: of them; pairs of equal texts are left out.
      messages: the prompts as chats, P of them, for the conversational form: `prompt` is then a
        list of messages and the completions are one message of the assistant each. None writes
        texts, the prompt as the model saw it.

    Returns:
      Rows with `prompt_id`, `round`, and the rewards as `score_chosen` and `score_rejected` besides
      (not `margin`, which a reward trainer of TRL would take for a setting of its loss).

    Example:
      >>> from rsft_jax.rollouts import read_jsonl
      >>> import json, pathlib, tempfile
      >>> file = pathlib.Path(tempfile.mkdtemp()) / "candidates.jsonl"
      >>> rows = [{"prompt": "2 + 2 =", "completion": t, "reward": t == "4"} for t in "45"]
      >>> _ = file.write_text("".join(json.dumps(row) + chr(10) for row in rows))
      >>> record = read_jsonl(file)
      >>> (row,) = pair_rows(record, best_worst_pairs(record.reward, record.valid))
      >>> row["prompt"], row["chosen"], row["rejected"], row["score_chosen"]
      ('2 + 2 =', '4', '5', 1.0)
    """
    rows = []
    for pair in pairs:
        i, texts = pair.prompt, record.texts[pair.prompt]
        chosen, rejected = texts[pair.chosen], texts[pair.rejected]
        if chosen == rejected:
            continue
        rows.append(
            {
                "prompt": record.prompts[i] if messages is None else _messages(messages[i]),
                "chosen": _completion(chosen, messages is not None),
                "rejected": _completion(rejected, messages is not None),
                "prompt_id": record.prompt_ids[i],
                "round": record.round,
                "score_chosen": float(record.reward[i, pair.chosen]),
                "score_rejected": float(record.reward[i, pair.rejected]),
            }
        )
    return rows


def _checked(
    rewards: ArrayLike, usable: ArrayLike, margin: float, max_pairs: int
) -> tuple[np.ndarray, np.ndarray]:
    rows, mask = np.asarray(rewards, np.float64), np.asarray(usable, bool)
    if rows.ndim != 2 or rows.shape != mask.shape:
        raise ValueError(
            f"rewards and usable must have one shape [P, N], got {rows.shape} and {mask.shape}"
        )
    if not margin >= 0:
        raise ValueError(f"margin must be >= 0, got {margin}")
    if max_pairs < 1:
        raise ValueError(f"max_pairs must be at least 1, got {max_pairs}")
    return rows, mask & np.isfinite(rows)


def _kept(place: int, row: np.ndarray, ends: Any, margin: float) -> list[PreferencePair]:
    """The pairs of a prompt that are unlike enough, the better one in front."""
    found = []
    for a, b in ends:
        chosen, rejected = (a, b) if row[a] >= row[b] else (b, a)
        difference = float(row[chosen] - row[rejected])
        if difference > 0 and difference >= margin:
            found.append(PreferencePair(place, chosen, rejected, difference))
    return found


def _messages(chat: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    return [dict(message) for message in chat]


def _completion(text: str, conversational: bool) -> str | list[dict[str, str]]:
    return [{"role": "assistant", "content": text}] if conversational else text
