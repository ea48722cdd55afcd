"""What a language run needs to go on: saved after each round, checked when it is read."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from rsft_jax.sharding import replicate
from rsft_jax.training import CheckpointError, Checkpoints, TrainState
from rsft_jax.training.numbers import numbers_of, without_numbers

from ..runs.folder import RunFolder
from .prompts import round_cursor
from .setup import Setup

_SAVED = ("step", "params", "opt_state")  # fields of a train state that a checkpoint holds


def save(
    checkpoints: Checkpoints,
    folder: RunFolder,
    setup: Setup,
    round_: int,
    states: Mapping[str, TrainState],
) -> None:
    """Writes what a resumed run needs; only then does the round count as done."""
    arrays = _saved_items(setup, states)
    cursor = round_cursor(setup, round_ + 1)._asdict()
    checkpoints.save(round_, arrays, {"round": round_, "arms": list(states), "cursor": cursor})
    folder.update(rounds_done=round_)


def restore(
    checkpoints: Checkpoints, folder: RunFolder, setup: Setup, states: Mapping[str, TrainState]
) -> tuple[int, dict[str, TrainState]]:
    """The number of the last complete round and the states after it; (0, states) at the start."""
    if not folder.resumed:
        return 0, dict(states)
    done, states = load_states(checkpoints, setup, states)
    folder.rewind(done if done else -1)
    return done, states


def load_states(
    checkpoints: Checkpoints, setup: Setup, states: Mapping[str, TrainState]
) -> tuple[int, dict[str, TrainState]]:
    """The last checkpoint's round and states; (0, states) where there is none.

    Raises:
      CheckpointError: also when the checkpoint's keys or place among the prompts are not those
        that this run would go on with.
    """
    restored = checkpoints.restore(_saved_items(setup, states))
    if restored is None:
        return 0, dict(states)
    done = restored.meta["round"]
    expected = round_cursor(setup, done + 1)._asdict()
    if restored.meta["cursor"] != expected:
        raise CheckpointError(
            f"the checkpoint goes on at prompt {restored.meta['cursor']}, this run at {expected}"
        )
    for name, key in setup.keys.items():
        saved = jax.random.key_data(restored.arrays["keys"][name])
        if not np.array_equal(np.asarray(saved), np.asarray(jax.random.key_data(key))):
            raise CheckpointError(f"the checkpoint's key {name!r} is that of another seed")
    return done, {arm: _with_saved(arm, state, restored.arrays) for arm, state in states.items()}


def _with_saved(arm: str, state: TrainState, arrays: Mapping[str, Any]) -> TrainState:
    """An arm's state after the round; the optimizer's numbers are those of the settings."""
    saved = {name: arrays[f"{arm}-{name}"] for name in _SAVED}
    opt_state = numbers_of(state.opt_state, saved.pop("opt_state"))
    return state.replace(**saved, opt_state=opt_state)


def _saved_items(setup: Setup, states: Mapping[str, TrainState]) -> dict[str, Any]:
    """What a checkpoint holds of a run: every arm's train state, and the keys."""
    items: dict[str, Any] = {
        f"{arm}-{name}": without_numbers(getattr(state, name))
        for arm, state in states.items()
        for name in _SAVED
    }
    keys, shardings = dict(setup.keys), setup.policy.shardings
    if shardings is not None:  # of several processes each holds a part of what is saved
        keys = replicate(shardings.replicated, keys)
    return items | {"keys": keys}
