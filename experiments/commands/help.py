"""rsft help [COMMAND]: says what there is to type."""

from ..settings.groups import GROUPS, group_options
from ..terminal.errors import EXIT_CODE_HELP, ExitCode
from ..terminal.parser import Parser
from . import described, dispatch, names

EXAMPLES = """\
examples:
  rsft run                                     the default experiment, stories
  rsft run experiment=gaussian                 the textbook algorithm, in seconds
  rsft run selection=top_k selection.k=2 training.learning_rate=5e-4 output_dir=FOLDER
  rsft run output_dir=FOLDER resume=true       go on with an interrupted run
  rsft run --from FOLDER seed=1                repeat a run, with another seed
  rsft run -m seed=0,1,2 selection=top_k,best_of_n      a sweep: six runs
  rsft tune sweep=beta_lr sweep.workers=2      search for the best settings
  rsft run -cd my_configs reward=mine          options from your own folder, my_configs/reward/
  rsft report FOLDER                           write FOLDER/report.html again
  rsft view FOLDER                             look at candidates in the browser while it runs
  rsft report runs                             compare the runs below a folder on one page
  rsft evaluate FOLDER                         score the tuned policy again on held-out prompts
  rsft export FOLDER -o DIR                    write the tuned policy for Hugging Face Transformers
  rsft plan llama-3.1-8b --topology v5e,v6e    what a round would need on a TPU slice"""


def command(arguments: list[str]) -> ExitCode:
    """Prints the help of everything, or that of one command."""
    parser = Parser(prog="rsft help", description="say what there is to type")
    parser.add_argument("command", nargs="?", metavar="COMMAND", help="a command, such as run")
    name = parser.parse_args(arguments).command
    if name is not None:
        return dispatch([name, "--help"])
    print(_everything())
    return ExitCode.OK


def groups_help() -> str:
    """The groups of settings, each with the options that are shipped."""
    options = group_options()
    lines = [
        f"  {group + '=':<15}{GROUPS[group]}\n{'':17}{', '.join(options[group])}"
        for group in GROUPS
    ]
    return "\n".join(
        [
            "Groups, each with the options that come with rsft (group=option):",
            *lines,
            "",
            "Every field can be set: group.field=value. See them with --print-config.",
            "Always there: seed=0 output_dir=FOLDER (default runs/NAME/DATE-TIME) resume=true",
        ]
    )


def _everything() -> str:
    commands = "\n".join(f"  {row.usage}\n{'':17}{row.summary}" for row in map(described, names()))
    codes = "\n".join(f"  {int(code):>3}  {text}" for code, text in EXIT_CODE_HELP.items())
    return f"""\
usage: rsft COMMAND ... | rsft COMMAND --help | rsft --version

Rejection sampling fine-tuning: draw candidates, accept or reject them towards a target,
fine-tune on what was accepted, repeat.

Commands:
{commands}

{groups_help()}

{EXAMPLES}

exit codes:
{codes}"""
