"""rsft completion: prints the line that makes bash complete words after `rsft`."""

from ..settings.groups import group_options
from ..settings.schema import RunConfig
from ..settings.typed import field_paths
from ..terminal.errors import ExitCode
from ..terminal.parser import Parser
from . import names

_BASH = "complete -o nospace -C 'rsft --complete' rsft"


def command(arguments: list[str]) -> ExitCode:
    """Prints the line, for ~/.bashrc."""
    Parser(prog="rsft completion", description=f"for ~/.bashrc: {_BASH}").parse_args(arguments)
    print(_BASH)
    return ExitCode.OK


def complete(line: str) -> list[str]:
    """The words that can stand at the end of a command line. Imports neither JAX nor Hydra.

    Args:
      line: the line so far, starting with the name of the program.

    Returns:
      Whole words; bash takes "=" as a border of words, so after it the option alone.

    >>> complete("rsft run selection=top_k")
    ['top_k']
    >>> complete("rsft run training.learning_r")
    ['training.learning_rate=']
    """
    words = line.split(" ")
    word = words[-1]
    if len(words) <= 2:
        return [name for name in names() if name.startswith(word)]
    if words[1] not in ("run", "tune"):
        return []
    options = group_options()
    key, equals, value = word.partition("=")
    if equals:
        return [name for name in options.get(key, []) if name.startswith(value)]
    fields = [*options, *dict.fromkeys(field_paths(RunConfig))]
    return [f"{name}=" for name in fields if name.startswith(word)]
