"""rsft chat FOLDER [--beside base]: talks to the tuned policy of a run, or to a model."""

import sys

from ..terminal.errors import ConfigError, ExitCode, shown
from ..terminal.parser import Parser
from ._policy_to_draw import add_law, add_policy, check_given, opened

_LONGEST = 256
_EPILOG = """\
A line is a message; /help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves. Answers go to
the standard output, everything else to the standard error. The standard input may be a pipe.

examples:
  rsft chat FOLDER --beside base
  rsft chat MODEL.gguf --system "Answer in one sentence." --temperature 0.7
  rsft chat FOLDER --temperature 0 < questions.txt > answers.txt"""


def command(arguments: list[str]) -> ExitCode:
    """Answers lines until they end."""
    parser = Parser(
        prog="rsft chat", description="talk to a policy in the terminal", epilog=_EPILOG
    )
    add_policy(parser)
    parser.add_argument(
        "--beside", choices=("base",),
        help="answer each message twice: the tuned policy, and the policy before it was tuned; the "
        "conversation goes on with the first answer",
    )  # fmt: skip
    parser.add_argument("--system", metavar="TEXT", help="a message that comes before all others")
    add_law(parser, length=f"{_LONGEST}, or half of the context")
    parsed = parser.parse_args(arguments)
    check_given(parsed)
    from ..language.chat import Chat, voices_of
    from ..terminal.console import Console
    from ..terminal.lines import typed_lines

    console = Console(sys.stderr)
    policy = opened(parsed, console, longest=_LONGEST)
    if parsed.beside and policy.base is None:
        folder = shown(str(parsed.folder))
        raise ConfigError(f"--beside: 'base'; {folder} is a model, only a run has a base beside it")

    def tell(text: str) -> None:
        console.say("\n".join(f"({line})" for line in text.split("\n")))

    tell(f"{policy.about}; {policy.drawn}; /help, Ctrl-D leaves")
    if policy.tokenizer.chat_template is None:
        tell("no chat template: it continues each text as it is, and sees none of those before")
    chat = Chat(
        policy,
        voices_of(policy, beside_base=parsed.beside is not None),
        seed=parsed.seed,
        out=sys.stdout,
        tell=tell,
        named=parsed.beside is not None or sys.stdout.isatty(),
    )
    chat.begin(parsed.system)
    chat.run(typed_lines("you> ", tell))
    return ExitCode.OK
