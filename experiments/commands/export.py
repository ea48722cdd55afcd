"""rsft export FOLDER -o DIR: writes the tuned policy for other programs, such as Transformers."""

from pathlib import Path

from ..kinds import kind_of, without_policy
from ..language.exports import DEFAULT, all_options, chosen_options, formats
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
    parsed = vars(_parser().parse_args(arguments))
    folder, output, form = existing_run(parsed["folder"]).path, parsed["output"], parsed["format"]
    if form not in formats():
        raise ConfigError(f"--format: {shown(form)} is not one of {', '.join(formats())}")
    options = chosen_options(form, {flag: parsed[flag] for flag in all_options()})
    if not check_folder(output, "--output"):
        raise ConfigError(f"--output: {shown(str(output))}; is not empty, choose another")
    allowed = allowed_packages(parsed["allow"])
    kind = kind_of(folder)
    if kind.export is None:
        raise without_policy(folder)
    kind.export(
        folder,
        output,
        arm=parsed["arm"],
        weights=parsed["weights"],
        form=form,
        options=options,
        base_model=parsed["base_model"],
        allow_packages=allowed,
    )
    return ExitCode.OK


def _parser() -> Parser:
    listed = "\n".join(f"  {name:<15}{form.summary}" for name, form in formats().items())
    parser = Parser(
        prog="rsft export",
        description="write the policy of a run's last checkpoint for other programs",
        epilog=f"formats:\n{listed}\n\n{_EPILOG}",
    )
    parser.add_argument("folder", type=Path, help="the output_dir of a run")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="missing or empty"
    )
    parser.add_argument(
        "--format", default=DEFAULT, metavar="NAME", help=f"see below (default: {DEFAULT})"
    )
    parser.add_argument("--arm", default="policy", help="whose parameters (default: policy)")
    parser.add_argument(
        "--weights", choices=WEIGHTS,
        help="of the last step, or their moving average (default: the average, if there is one)",
    )  # fmt: skip
    parser.add_argument(
        "--base-model", metavar="NAME",
        help="what the tuned model is called in what is written, such as a name of the Hub "
        "(default: as in the settings of the run)",
    )  # fmt: skip
    for flag, (option, having) in all_options().items():
        text = f"{option.help} ({', '.join(having)})"
        parser.add_argument(f"--{flag}", dest=flag, metavar=flag.upper(), help=text)
    parser.add_allow()
    return parser
