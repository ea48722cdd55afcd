"""The words by which a reward was set before its terms had names, read as the present ones.

    before                              now
    sentiment: W                        sentiment: {term: sentiment, weight: W}
    offensive: W, repetition, length    offensive: {term: offensive, weight: -W}
    min_words: N, max_words             length: {min_words: N}
    judge: KIND                         judge: {term: KIND, weight: 1.0}
    functions: [{name: NAME, ...}]      NAME: {term: function, ...}

They stay words of the command line (`reward.min_words=30`), and files of settings have them: those
of the user, and the config.yaml of runs of that time. All of them come through here.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from ..terminal.errors import ConfigError, shown
from .checks import check
from .plain_data import resolve
from .rewards import TERM_NAME
from .typed import build

_SIGNS = {"sentiment": 1.0, "offensive": -1.0, "repetition": -1.0, "length": -1.0}
_PLACES = {"min_words": ("length", "min_words"), "max_words": ("length", "max_words")}


@dataclass(frozen=True, kw_only=True)
class _Function:
    name: str
    function: str
    weight: float


def with_present_reward(data: Any) -> Any:
    """Settings of a run, as plain data, with their reward in the present words."""
    reward = data.get("reward") if isinstance(data, Mapping) else None
    if not isinstance(reward, Mapping):
        return data
    if any(_is_before(name, value) for name, value in reward.items()):
        reward = resolve(data)["reward"]  # a weight may be a reference, and it may get a sign
    return {**data, "reward": present_reward(reward)}


def present_reward(reward: Mapping[str, Any]) -> dict[str, Any]:
    """A reward, as plain data, in the present words; null in place of a term leaves it out.

    >>> present_reward({"judge": "polarity", "brevity": {"term": "function", "weight": 1.0}})
    {'brevity': {'term': 'function', 'weight': 1.0}, 'judge': {'term': 'polarity', 'weight': 1.0}}
    """
    before = {name: value for name, value in reward.items() if _is_before(name, value)}
    present = {name: value for name, value in reward.items() if name not in before}
    if any(name in _SIGNS for name in before):
        # Their order was fixed, and a sum of floats depends on it.
        four = {name: present.get(name, _shipped()[name]) for name in _SIGNS if name in reward}
        present = {**four, **present}
    for name, value in [*before.items(), *((n, v) for n, v in present.items() if v is None)]:
        present = with_setting(present, name, value)
    return present


def with_setting(reward: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    """A reward, as plain data in the present words, with `reward.NAME=VALUE`.

    Args:
      reward: settings of terms by name.
      name: of a term, the judge, or a word of before.
      value: settings of the term, which are set beside those that it has unless it is of another
        kind; null to leave the term out; or what the word of before had.

    Raises:
      ConfigError: the value is not what the word of before had.
    """
    if _is_before(name, value):
        return _with_word_of_before(reward, name, value)
    if value is None and name != "judge":
        return {other: settings for other, settings in reward.items() if other != name}
    there = reward.get(name)
    if isinstance(value, Mapping) and isinstance(there, Mapping):
        is_same_kind = value.get("term", there.get("term")) == there.get("term")
        return {**reward, name: {**there, **value} if is_same_kind else value}
    return {**reward, name: value}


def _is_before(name: str, value: Any) -> bool:
    """Whether this is a word of before: a term has settings now, and not a single value."""
    if value is None or isinstance(value, Mapping):
        return False
    is_judge = name == "judge" and isinstance(value, str)
    return name in _SIGNS or name in _PLACES or name == "functions" or is_judge


def _with_word_of_before(reward: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    field = f"reward.{name}"
    if name == "functions":
        return _with_functions(reward, value)
    if name == "judge":
        return {**reward, name: {"term": value, "weight": 1.0}}
    if name in _SIGNS:
        weight = build(float, value, field)
        check(weight >= 0 and math.isfinite(weight), field, weight, "at least 0 and finite")
        term = reward.get(name) or _shipped()[name]
        return {**reward, name: {**term, "weight": _SIGNS[name] * weight}}
    term, setting = _PLACES[name]
    if not isinstance(reward.get(term), Mapping):
        raise ConfigError(f"{field}: {shown(value)}; this reward has no term {term}")
    return {**reward, term: {**reward[term], setting: value}}


def _with_functions(reward: Mapping[str, Any], value: Any) -> dict[str, Any]:
    """The reward with these functions of the user's own in place of those that it has."""
    functions = build(tuple[_Function, ...], value, "reward.functions")
    terms = {n: settings for n, settings in reward.items() if n == "judge" or not _is_own(settings)}
    for number, function in enumerate(functions):
        field = f"reward.functions[{number}]"
        is_name = TERM_NAME.fullmatch(function.name) is not None
        is_new = is_name and function.name not in terms
        check(is_new, f"{field}.name", function.name, "a name of its own, letters, digits and '_'")
        check(math.isfinite(function.weight), f"{field}.weight", function.weight, "finite")
        settings = {"function": function.function, "weight": function.weight}
        terms[function.name] = {"term": "function", **settings}
    return terms


def _is_own(settings: Any) -> bool:
    return isinstance(settings, Mapping) and settings.get("term") == "function"


@functools.cache
def _shipped() -> Mapping[str, Any]:
    """The one reward that there was before: what it does not state is as in this file."""
    path = resources.files("rsft_jax.configs") / "reward" / "sentiment.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))
