"""Kinds of experiment, a file each: their settings, and what runs, reports and exports them.

A kind is added by a file in this folder. It has, or imports, a dataclass of settings that extends
`RunConfig` and is tagged `kind: Literal["mine"]`, and says in `KIND` what is done with them. Its
values are YAML: an option of configs/experiment/, or of such a folder of your own (`-cd`).

    KIND = Kind(settings=Mine, run=run)

What the settings themselves can tell (arms, metrics, rounds) is asked of them; see `RunConfig`.
Files of this folder import JAX only inside of their functions: help and completion list them.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..settings.plugins import modules_in
from ..settings.schema import RunConfig
from ..terminal.errors import ConfigError, ExitCode, shown

if TYPE_CHECKING:
    from ..language.opened import Opened
    from ..runs.folder import RunFolder
    from ..terminal.console import Console


class Export(Protocol):
    """Writes the policy of a run's last checkpoint to a folder."""

    def __call__(
        self,
        folder: Path,
        output: Path,
        *,
        arm: str,
        weights: str | None,
        form: str,
        options: Mapping[str, str],
        base_model: str | None,
        allow_packages: Sequence[str],
    ) -> None:
        """See `language.export.export_policy`."""


class Open(Protocol):
    """Opens the policy of a run's last checkpoint, to be drawn from."""

    def __call__(
        self,
        folder: Path,
        console: "Console",
        *,
        arm: str,
        weights: str | None,
        allow_packages: Sequence[str],
    ) -> "Opened":
        """See `language.opened.open_tuned`."""
        ...


class Kind(NamedTuple):
    """A kind of experiment.

    Attributes:
      settings: the class of its settings.
      run: `(settings, folder of the run) -> exit code`: makes the run, or what is left of it.
      report: `(folder) -> page`: writes the page of a run; None for a kind without one.
      evaluate: `(folder, allowed packages) -> exit code`: measures the last checkpoint again; None
        where there is nothing to measure.
      export: writes the policy for other programs; None where there is no policy.
      open: opens the policy to be drawn from; None where there is none.
    """

    settings: type[RunConfig]
    run: "Callable[[Any, RunFolder], ExitCode]"
    report: Callable[[Path], Path] | None = None
    evaluate: Callable[[Path, Sequence[str]], ExitCode] | None = None
    export: Export | None = None
    open: Open | None = None


def kinds() -> dict[str, Kind]:
    """All kinds of experiment by the tags of their settings.

    >>> sorted(kinds())
    ['gaussian', 'language']
    """
    listed = {module.KIND.settings: module.KIND for module in modules_in("kinds")}
    return {tag: listed[settings] for tag, settings in RunConfig.variants().items()}


def kind_of(folder: Path) -> Kind:
    """The kind of experiment of the run in a folder.

    Raises:
      ConfigError: it is none of those that are there.
    """
    from ..runs.folder import read_status

    tag, known = str(read_status(folder).get("kind")), kinds()
    if tag not in known:
        raise ConfigError(
            f"{shown(str(folder))}: its kind of experiment, {shown(tag)}, is not one of "
            f"{', '.join(known)}"
        )
    return known[tag]


def without_policy(folder: Path) -> ConfigError:
    """The error of a command that needs a policy, for a run of a kind that has none."""
    able = [tag for tag, kind in kinds().items() if kind.export is not None]
    return ConfigError(f"{shown(str(folder))}: only runs of kind {', '.join(able)} have a policy")


def write_report(folder: Path) -> Path:
    """Writes report.html and the figures of a run into its folder, by what it has written."""
    from ..report import write_report

    return write_report(folder)
