"""rsft population [beta=A,B,C] [seed=range(N)] ...: runs many small runs as one program."""

from ..runs.folder import check_output_dir, default_output_dir, make_folder
from ..sweeps import population
from ..terminal.errors import ExitCode
from ..terminal.failures import attempt
from ..terminal.parser import Parser

_EPILOG = """\
examples:
  rsft population                                   1,000 runs of a bandit with 4 answers
  rsft population beta=0.05,0.1,0.3 seed=range(100) num_answers=16 num_candidates=32
  rsft population learning_rate=0.3 k=1,2,4,8 output_dir=FOLDER
  rsft population -cd my_configs population=mine    your file my_configs/population/mine.yaml"""


def command(arguments: list[str]) -> ExitCode:
    """Runs every combination of the axes and writes what came of them."""
    text = "run every combination of settings of a small policy in one compiled program"
    parser = Parser(prog="rsft population", description=text, epilog=_EPILOG)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values, or a,b,c")
    parser.add_config_dir()
    parsed = parser.parse_intermixed_args(arguments)
    config, output_dir = population.load_population(parsed.overrides, parsed.config_dir)
    root = output_dir or default_output_dir("population")
    check_output_dir(root, resume=False)
    make_folder(root)
    return attempt(root, lambda: population.run_population(config, root))
