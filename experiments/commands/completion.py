"""Tab completion: the words that can follow. Imports neither JAX nor Hydra."""

from ..settings.groups import group_options
from ..settings.schema import RunConfig
from ..settings.typed import field_paths

COMMANDS = (
    "evaluate",
    "export",
    "ls",
    "plan",
    "population",
    "report",
    "rescore",
    "reselect",
    "run",
    "tune",
)


def complete(line: str) -> list[str]:
    """Lists what can stand at the end of a command line.

    Args:
      line: the line so far, starting with the name of the command.

    Returns:
      Whole words; bash takes "=" as a border of words, so after it the option alone.

    >>> complete("rsft run selection=top")
    ['top_k']
    >>> complete("rsft run training.learning_r")
    ['training.learning_rate=']
    """
    words = line.split(" ")
    word = words[-1]
    if len(words) <= 2:
        return [name for name in COMMANDS if name.startswith(word)]
    if words[1] not in ("run", "tune"):
        return []
    options = group_options()
    key, equals, value = word.partition("=")
    if equals:
        return [name for name in options.get(key, []) if name.startswith(value)]
    names = [*options, *dict.fromkeys(field_paths(RunConfig))]
    return [f"{name}=" for name in names if name.startswith(word)]
