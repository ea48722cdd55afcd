"""The coins of a stored round, candidate by candidate, for pages that show rows of the store."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rsft_jax.rollouts import from_rows, read_rollouts

from ..runs.folder import RunFolder
from ..settings.schema import LanguageConfig
from ..settings.stored import read_config
from ..terminal.errors import ConfigError, one_line, shown
from .explain import draw_again, what_draws_say
from .sliced import labels_by


class Coins(NamedTuple):
    """The draws of one round and arm.

    Attributes:
      of: (id of the prompt, number of the candidate) -> the coin u and what it must be below; no
        entry for a candidate without a reward, and none at all where no coin can be shown.
      note: what is to be said of them, a sentence or two.
    """

    of: Mapping[tuple[str, int], tuple[float, float]]
    note: str


def coins_of(folder: Path, round_: int, arm: str, allowed: Sequence[str] = ()) -> Coins:
    """Draws the coins of a round again; see `explain.draw_again`.

    Never raises for a round that cannot be explained, but says why in the note.

    Args:
      folder: of the run.
      round_: the round.
      arm: whose candidates.
      allowed: the user's own packages whose functions may be called.
    """
    path = RunFolder(path=folder).rollout_path(round_, arm)
    try:
        run = read_config(folder / "config.yaml")
        if not isinstance(run, LanguageConfig):
            raise ConfigError(f"{shown(str(folder))}: only runs of kind language keep candidates")
        (record,) = from_rows(read_rollouts(path), with_verdict=True)
        if record.verdict is None:
            raise ConfigError(f"{shown(path.name)} has no verdict")
        by, labels = run.selection.group_column(), None
        if by is not None:
            labels = labels_by([record], [by], run, folder, "selection.by")[by][0]
        draws = draw_again(record, run, allowed, labels)
    except (OSError, ValueError, ImportError) as error:
        return Coins({}, f"the draws cannot be shown: {one_line(error)}")
    note = what_draws_say(draws)
    if draws.coin is None or draws.below is None:
        return Coins({}, note)
    # A prompt that was drawn again is numbered on.
    visits = np.zeros(len(record.prompt_ids), int) if record.visits is None else record.visits
    first = visits * run.sampling.num_candidates
    return Coins(
        {
            (record.prompt_ids[i], int(first[i] + j)): (
                float(draws.coin[i, j]),
                float(draws.below[i, j]),
            )
            for i, j in np.argwhere(record.valid & np.isfinite(record.reward + draws.coin))
        },
        note,
    )
