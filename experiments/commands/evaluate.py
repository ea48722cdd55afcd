"""rsft evaluate FOLDER: scores the tuned policy of a run again on held-out prompts."""

from pathlib import Path

from ..kinds import kind_of, without_policy
from ..runs.folder import existing_run
from ..settings.compose import allowed_packages
from ..terminal.errors import ExitCode
from ..terminal.failures import attempt
from ..terminal.parser import Parser


def command(arguments: list[str]) -> ExitCode:
    """Measures the last checkpoint of a run."""
    text = "score the tuned policy of a run again on held-out prompts"
    parser = Parser(prog="rsft evaluate", description=text)
    parser.add_argument("folder", type=Path, help="the output_dir of a run")
    parser.add_allow()
    parsed = parser.parse_args(arguments)
    folder = existing_run(parsed.folder).path
    allowed = allowed_packages(parsed.allow)
    return attempt(folder, lambda: _evaluate(folder, allowed))


def _evaluate(folder: Path, allowed: tuple[str, ...]) -> ExitCode:
    from ..language.assets import default_cache_dir
    from ..runs import backend

    kind = kind_of(folder)
    if kind.evaluate is None:
        raise without_policy(folder)
    backend.use_compilation_cache(default_cache_dir() / "xla")
    return kind.evaluate(folder, allowed)
