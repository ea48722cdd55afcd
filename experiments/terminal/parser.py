"""What the sub-commands of `rsft` share: a parser whose errors are one line."""

import argparse
from pathlib import Path
from typing import Any, NoReturn

from .errors import ConfigError


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line."""

    def __init__(self, **options: Any):
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )

    def add_config_dir(self) -> None:
        """Adds `-cd DIR`, the user's own folder of groups."""
        self.add_argument(
            "-cd", "--config-dir", type=Path, metavar="DIR", help="folder with your own groups"
        )

    def add_allow(self) -> None:
        """Adds `--allow PACKAGE`, for commands that go on with the settings of a run."""
        self.add_argument(
            "--allow", action="append", default=[], metavar="PACKAGE",
            help="your own package, where the run's settings name functions of it",
        )  # fmt: skip

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing the usage."""
        raise ConfigError(f"{self.prog.removeprefix('rsft ')}: {message}")
