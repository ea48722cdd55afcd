"""rsft tune sweep=NAME [-cd DIR] [key=value ...]: searches for the settings that do best."""

from ..sweeps.tune import tune
from ..terminal.errors import ExitCode
from ..terminal.parser import Parser

_EPILOG = """\
examples:
  rsft tune sweep=beta_lr                      16 runs of the default experiment
  rsft tune sweep=beta_lr sweep.workers=2 sweep.trials=40 selection.budget=4
  rsft tune sweep=gaussian experiment=gaussian the textbook algorithm, in a minute or two
  rsft tune -cd my_configs sweep=mine          your own space, my_configs/sweep/mine.yaml

The same command again goes on where the last one stopped, and runs nothing finished again."""


def command(arguments: list[str]) -> ExitCode:
    """Runs the trials of a search that are left, and ranks all."""
    text = "search for the settings that make a figure best; a space is a file of configs/sweep"
    parser = Parser(prog="rsft tune", description=text, epilog=_EPILOG)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="sweep=NAME and settings")
    parser.add_config_dir()
    parsed = parser.parse_intermixed_args(arguments)
    return tune(parsed.overrides, parsed.config_dir)
