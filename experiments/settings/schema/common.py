"""What every run has."""

from dataclasses import dataclass

from .tracking import TrackerConfig


@dataclass(frozen=True, kw_only=True)
class Run:
    """What every run has.

    Attributes:
      name: of the run, and of its folder; letters, digits, ".", "_", "-".
      seed: from 0 to 2^32 - 1; all randomness of the run follows from it.
      output_dir: folder of the run; null makes runs/NAME/DATE-TIME.
      resume: go on with the run in output_dir.
      tracker: where the figures are sent besides.
      allow_packages: packages of your own whose functions the settings may name. Given on the
        command line alone: no file can allow anything.
    """

    name: str
    seed: int
    output_dir: str | None
    resume: bool
    tracker: TrackerConfig
    allow_packages: tuple[str, ...]
