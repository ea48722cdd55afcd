"""rsft export FOLDER -o DIR: writes the tuned policy for Hugging Face Transformers."""

from pathlib import Path

from ..kinds import kind_of, without_policy
from ..runs.folder import check_folder, existing_run
from ..settings.compose import allowed_packages
from ..terminal.errors import ConfigError, ExitCode, shown
from ..terminal.parser import Parser

WEIGHTS = ("averaged", "last")
_EPILOG = """\
examples:
  rsft export FOLDER -o my_policy              the tuned policy
  rsft run policy=local policy.path=my_policy  and a run that starts from it"""


def command(arguments: list[str]) -> ExitCode:
    """Writes the policy of a run's last checkpoint to a folder that is missing or empty."""
    parser = Parser(
        prog="rsft export",
        description="write the policy of a run's last checkpoint as a Hugging Face folder "
        "(float32, adapters merged)",
        epilog=_EPILOG,
    )
    parser.add_argument("folder", type=Path, help="the output_dir of a run")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="missing or empty"
    )
    parser.add_argument("--arm", default="policy", help="whose parameters (default: policy)")
    parser.add_argument(
        "--weights", choices=WEIGHTS,
        help="of the last step, or their moving average (default: the average, if there is one)",
    )  # fmt: skip
    parser.add_allow()
    parsed = parser.parse_args(arguments)
    folder = existing_run(parsed.folder).path
    if not check_folder(parsed.output, "--output"):
        raise ConfigError(f"--output: {shown(str(parsed.output))}; is not empty, choose another")
    allowed = allowed_packages(parsed.allow)
    kind = kind_of(folder)
    if kind.export is None:
        raise without_policy(folder)
    kind.export(
        folder, parsed.output, arm=parsed.arm, weights=parsed.weights, allow_packages=allowed
    )
    return ExitCode.OK
