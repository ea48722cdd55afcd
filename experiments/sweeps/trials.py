"""A study on disk: who runs which trial, and what comes next. Optuna's storage, sampler, pruner.

FOLDER/study.journal or study.db    every trial, its values, its state
FOLDER/.study.lock                  held for the moments in which a trial is taken
FOLDER/.trials/0007.lock            held by the process that runs trial 7

A lock is the system's, and ends with its process. So a trial that is running and whose lock is
free was left by a process that was killed, and is taken up again: same number, same values, same
folder. A process that merely stands still keeps its lock, and nobody runs its trial a second time.

What is drawn for trial n follows from the seed, n and the trials before it, and from nothing that
a process remembers.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, Trial, TrialState

from ..runs.lock import locked
from ..settings.schema.search import Axis, CategoricalAxis, FloatAxis, SearchConfig
from ..terminal.errors import ConfigError, one_line
from .study import Study, storage_name


class Trials:
    """The trials of a study in a folder, shared by all processes that open it.

    Args:
      folder: of the study; exists.
      study: what is searched.

    Raises:
      ConfigError: the storage cannot be read.
    """

    def __init__(self, folder: Path, study: Study):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._folder, self._study = folder, study
        (folder / ".trials").mkdir(exist_ok=True)
        with self._locked():
            path = folder / storage_name(study.search)
            try:
                self._optuna = optuna.create_study(
                    storage=_storage(path),
                    study_name=study.name,
                    direction=study.search.direction,
                    pruner=_pruner(study.search),
                    load_if_exists=True,
                )
            except Exception as error:  # a file that is none of ours, or was cut
                raise ConfigError(f"{path}: cannot be read ({one_line(error, 200)})") from None

    def all(self) -> list[FrozenTrial]:
        """Every trial, by number."""
        return self._optuna.get_trials(deepcopy=False)

    @contextlib.contextmanager
    def take(self) -> Iterator[Trial | None]:
        """Owns the next trial while inside: one that was left, else a new one, else None."""
        with contextlib.ExitStack() as stack:
            with self._locked():
                trial = self._left(stack)
                if trial is None and len(self.all()) < self._study.search.trials:
                    trial = self._optuna.ask()
                    stack.enter_context(locked(self._lock_path(trial.number)))
                if trial is not None:
                    self._suggest(trial)
            yield trial

    def tell(self, trial: Trial, value: float | None, state: TrialState) -> None:
        """Writes how a trial ended."""
        self._optuna.tell(trial.number, value, state=state)

    def _left(self, stack: contextlib.ExitStack) -> Trial | None:
        """A trial whose process is gone, with its lock."""
        for frozen in self.all():
            if frozen.state != TrialState.RUNNING:
                continue
            try:
                stack.enter_context(locked(self._lock_path(frozen.number), wait=False))
            except BlockingIOError:
                continue
            self._optuna.sampler = _sampler(self._study.search, frozen.number, 0)
            return Trial(self._optuna, frozen._trial_id)
        return None

    def _suggest(self, trial: Trial) -> None:
        """Draws what has no value yet.

        Each axis has a seed of its own: a process that was killed between two of them must not
        change what the second gets.
        """
        self._optuna.sampler = _sampler(self._study.search, trial.number, 0)
        trial.relative_params  # noqa: B018 - drawn together, for all axes
        for place, (name, axis) in enumerate(self._study.space.items(), start=1):
            self._optuna.sampler = _sampler(self._study.search, trial.number, place)
            _suggest(trial, name, axis)

    def _locked(self) -> contextlib.AbstractContextManager[Any]:
        return locked(self._folder / ".study.lock")

    def _lock_path(self, number: int) -> Path:
        return self._folder / ".trials" / f"{number:04d}.lock"


class _FileLock(JournalFileSymlinkLock):
    """The journal's lock, freed by the system: Optuna's own stays for 30 s after a kill."""

    def __init__(self, path: Path):  # none of the base class's state is used
        self._path, self._stack = path, contextlib.ExitStack()

    def acquire(self) -> bool:
        self._stack.enter_context(locked(self._path))
        return True

    def release(self) -> None:
        self._stack.close()


def _storage(path: Path) -> JournalStorage | RDBStorage:
    if path.suffix == ".db":
        return RDBStorage(f"sqlite:///{path.absolute()}")
    lock = _FileLock(path.with_name(".journal.lock"))
    lock.acquire()
    try:
        _mend(path)
    finally:
        lock.release()
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def _mend(path: Path) -> None:
    """Takes away a last line that was cut, as by a full disk: what follows would be unreadable."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    if data and not data.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)


def _sampler(search: SearchConfig, number: int, place: int) -> optuna.samplers.BaseSampler:
    seed = int(np.random.SeedSequence((search.seed, number, place)).generate_state(1)[0])
    if search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=search.startup_trials, multivariate=True, constant_liar=True
    )


def _pruner(search: SearchConfig) -> optuna.pruners.BasePruner:
    if search.pruner == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(
        n_startup_trials=search.startup_trials, n_warmup_steps=search.prune_after
    )


def _suggest(trial: Trial, name: str, axis: Axis) -> None:
    if isinstance(axis, CategoricalAxis):
        trial.suggest_categorical(name, axis.choices)
    elif isinstance(axis, FloatAxis):
        trial.suggest_float(name, axis.low, axis.high, step=axis.step, log=axis.log)
    else:
        trial.suggest_int(name, axis.low, axis.high, step=axis.step, log=axis.log)
