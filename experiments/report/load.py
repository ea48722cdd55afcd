"""Reads the folder of a run into plain values; whatever is missing or broken is left out and named.

Nothing else of this package reads files, and nothing here knows what a figure looks like.
"""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from rsft_jax.rollouts import Rollouts, read_rollouts

from ..settings.reward_words import with_present_reward
from .palette import ARM_ORDER, in_order

_PART_NAME = re.compile(r"round-(\d+)-(.+)\.parquet")
_UNREAD = ("tokens", "log_probs")  # large, and nothing in a report is made of them

Event = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Part:
    """The candidates of one round and arm."""

    round: int
    arm: str
    data: Rollouts


@dataclasses.dataclass(frozen=True)
class Run:
    """All that a report is made of.

    Attributes:
      name: of the run, or of its folder.
      config: the resolved settings; empty when they could not be read.
      config_text: the same as written.
      info: run.json; empty when it could not be read.
      events: metrics.jsonl in order.
      rollouts: candidates that selection saw, by arm and round.
      evaluations: held-out samples, by arm and round; round 0 is before training.
      problems: what was left out and why, one sentence each.
    """

    name: str
    config: Mapping[str, Any]
    config_text: str
    info: Mapping[str, Any]
    events: tuple[Event, ...]
    rollouts: tuple[Part, ...]
    evaluations: tuple[Part, ...]
    problems: tuple[str, ...]

    @property
    def status(self) -> str:
        """How the run stands: finished, running, failed, interrupted, no data or unknown."""
        return str(self.info.get("status", "unknown"))

    @property
    def confidence(self) -> float:
        """Probability of all intervals of the run."""
        return float(self.setting("evaluation.confidence", 0.95))

    def setting(self, name: str, default: Any = None) -> Any:
        """Returns a setting by its dotted name."""
        value: Any = self.config
        for part in name.split("."):
            if not isinstance(value, Mapping) or value.get(part) is None:
                return default
            value = value[part]
        return value

    def arms(self, event: str) -> list[str]:
        """Names the arms that have events of a kind, policy and control first."""
        found = {str(e["arm"]) for e in self.events if e["event"] == event and "arm" in e}
        return in_order(found, ARM_ORDER)

    def series(self, event: str, arm: str) -> list[Event]:
        """Returns the events of a kind and arm by round, the last one written for each."""
        rounds = {
            e["round"]: e
            for e in self.events
            if e["event"] == event and e.get("arm") == arm and isinstance(e.get("round"), int)
        }
        return [rounds[key] for key in sorted(rounds)]

    def evaluation_series(self, arm: str) -> list[Event]:
        """Returns the evaluations of an arm; all arms begin as the same policy, at round 0."""
        own = self.series("evaluation", arm)
        start = [e for e in self.series("evaluation", "policy") if e["round"] == 0]
        return own if own and own[0]["round"] == 0 else start + own

    def evaluation(self, round_: int, arm: str) -> Part | None:
        """Returns the held-out samples of a round and arm."""
        found = [p for p in self.evaluations if (p.round, p.arm) == (round_, arm)]
        return found[0] if found else None

    @property
    def stop(self) -> Event | None:
        """What is known of a stop by the judge; None where all rounds were made."""
        return next((e for e in self.events if e["event"] == "stopped"), None)

    def shares_candidates(self, round_: int, arm: str) -> bool:
        """Whether an arm's candidates are those of the policy: while both are untrained."""
        texts = {p.arm: p.data["completion"] for p in self.rollouts if p.round == round_}
        return arm != "policy" and arm in texts and texts[arm] == texts.get("policy")


def number(event: Event, key: str) -> float:
    """Returns a number of an event; NaN when it is missing, null or no number."""
    value = event.get(key)
    return float(value) if isinstance(value, int | float) else math.nan


def load_run(folder: Path) -> Run:
    """Reads a run's folder.

    Raises:
      FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no run folder at {folder}")
    problems: list[str] = []
    config_text = _attempt(lambda: _text(folder / "config.yaml"), "", problems)
    stored = _attempt(lambda: _mapping(yaml.safe_load(config_text), "config.yaml"), {}, problems)
    # A run from before rewards were terms is the run of the same settings in the present words.
    config = _attempt(lambda: with_present_reward(stored), stored, problems)
    info = _attempt(
        lambda: _mapping(json.loads(_text(folder / "run.json")), "run.json"), {}, problems
    )
    return Run(
        name=str(config.get("name") or folder.resolve().name),
        config=config,
        config_text=config_text,
        info=info,
        events=_events(folder / "metrics.jsonl", problems),
        rollouts=_parts(folder / "rollouts", problems),
        evaluations=_parts(folder / "evaluations", problems),
        problems=tuple(problems),
    )


def _attempt(read: Callable[[], Any], default: Any, problems: list[str]) -> Any:
    try:
        return read()
    except (OSError, ValueError, yaml.YAMLError) as error:
        problems.append(" ".join(str(error).split()))
        return default


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing") from None
    except ValueError:
        raise ValueError(f"{path.name} is not UTF-8 text") from None


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} holds no settings")
    return value


def _events(path: Path, problems: list[str]) -> tuple[Event, ...]:
    if not path.is_file():
        problems.append("metrics.jsonl is missing")
        return ()
    events = []
    for place, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            event = json.loads(line)
        except ValueError:
            problems.append(f"metrics.jsonl line {place} is not JSON, skipped")
            continue
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            events.append(event)
        else:
            problems.append(f"metrics.jsonl line {place} is not an event, skipped")
    return tuple(events)


def _parts(folder: Path, problems: list[str]) -> tuple[Part, ...]:
    parts = []
    for path in sorted(folder.glob("*.parquet")):
        match = _PART_NAME.fullmatch(path.name)
        if match is None:
            problems.append(f"{folder.name}/{path.name} is not named round-ROUND-ARM, skipped")
            continue
        try:
            data = read_rollouts(path, without=_UNREAD)
        except (OSError, ValueError) as error:
            problems.append(f"{folder.name}/{path.name} skipped: {_first_line(error, path)}")
            continue
        parts.append(Part(int(match[1]), match[2], data))
    order = in_order({part.arm for part in parts}, ARM_ORDER)
    return tuple(sorted(parts, key=lambda part: (order.index(part.arm), part.round)))


def _first_line(error: Exception, path: Path) -> str:
    return str(error).split("\n")[0].replace(f"{path} ", "").replace(f"{path}: ", "")
