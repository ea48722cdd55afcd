"""What every run has, whatever its kind of experiment."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .. import checks
from ..typed import Open
from .tracking import TrackerConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig(Open):
    """The settings of a run, and what the rest of the program asks of them.

    The settings of a kind of experiment extend these; see `experiments/kinds/`. What is stated
    once for a kind, and not for each run of it:

      ARMS: what is tuned beside each other, the one that counts first.
      METRICS: figure that the runs write -> the event in which they do.
      MAIN_METRIC: the one of these that tells most; None if there is none.
      PATHS: settings that are paths, dotted.
      MAY_CHANGE: settings that may be others where a run goes on.
      FIRST_OPTIONS: group -> option whose file has the values of settings that are newer than a
        stored run.

    Attributes:
      name: of the run, and of its folder; letters, digits, ".", "_", "-".
      seed: from 0 to 2^32 - 1; all randomness of the run follows from it.
      output_dir: folder of the run; null makes runs/NAME/DATE-TIME.
      resume: go on with the run in output_dir.
      tracker: where the figures are sent besides.
      allow_packages: packages of your own whose functions the settings may name. Given on the
        command line alone: no file can allow anything.
      kind: of experiment.
    """

    FOLDER: ClassVar[str] = "kinds"
    ARMS: ClassVar[tuple[str, ...]] = ()
    METRICS: ClassVar[Mapping[str, str]] = {}
    MAIN_METRIC: ClassVar[str | None] = None
    PATHS: ClassVar[tuple[str, ...]] = ()
    MAY_CHANGE: ClassVar[tuple[str, ...]] = ("output_dir", "resume")
    FIRST_OPTIONS: ClassVar[Mapping[str, str]] = {}

    name: str
    seed: int
    output_dir: str | None
    resume: bool
    tracker: TrackerConfig
    allow_packages: tuple[str, ...]
    kind: str

    def check(self) -> None:
        """Checks the ranges of all settings.

        Raises:
          ConfigError: one line with the field, its value and the allowed range.
        """
        checks.plain_name("name", self.name)
        checks.seed("seed", self.seed)
        checks.folder("output_dir", self.output_dir)
        self.tracker.check()

    def arms(self) -> tuple[str, ...]:
        """The arms that this run tunes, the one that counts first."""
        return self.ARMS

    def last_round(self) -> int:
        """The number of the last round; 0 for a kind without rounds."""
        return 0

    def functions(self) -> Iterator[tuple[str, str]]:
        """Field and dotted path of the user's own functions that the settings name."""
        yield from ()

    def folders(self) -> Iterator[tuple[str, Path]]:
        """Field and path of the folders beside output_dir that the run writes to."""
        yield from ()

    def shared(self, root: Path) -> Mapping[str, str]:
        """Settings that the runs of a sweep in the folder `root` share, where none is given."""
        return {}

    @property
    def is_distributed(self) -> bool:
        """Whether several processes make the run together."""
        return False
