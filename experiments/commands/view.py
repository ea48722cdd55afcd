"""rsft view FOLDER [--port N]: shows a run in the browser while it goes on, read-only."""

from pathlib import Path

from ..settings.compose import allowed_packages
from ..terminal.errors import ConfigError, ExitCode, one_line, shown
from ..terminal.parser import Parser
from ..terminal.signals import Terminated
from ._stored_candidates import run_of

_EPILOG = """\
The address that is printed works on this machine alone and holds a token: whoever has it can read
the run. New rounds appear as they are written. Ctrl-C ends. Nothing in the folder is written, no
device but the CPU is used, and no browser is started: its command line would show the token.

From another machine, through SSH: rsft view FOLDER --port 8642 there, ssh -L 8642:127.0.0.1:8642
HOST here, and the address that was printed in the browser here.

examples:
  rsft view runs/stories/20260101-120000
  rsft view FOLDER --port 8642 --allow mylab"""


def command(arguments: list[str]) -> ExitCode:
    """Serves a run until Ctrl-C."""
    parser = Parser(
        prog="rsft view",
        description="show prompts, candidates and verdicts of a run in the browser",
        epilog=_EPILOG,
    )
    parser.add_argument("folder", type=Path, help="the folder of a run")
    parser.add_argument(
        "--port", type=int, default=0, metavar="N", help="of 127.0.0.1 (default: a free one)"
    )
    parser.add_allow()
    parsed = parser.parse_args(arguments)
    if not 0 <= parsed.port <= 65535:
        raise ConfigError(f"--port: {parsed.port}; must be from 0 (a free one) to 65535")
    run = run_of(parsed.folder)
    if run is None:
        raise ConfigError(f"view: {shown(str(parsed.folder))}; must be the folder of a run")
    from ..runs.backend import use_cpu
    from ..view.server import ViewServer
    from ..view.viewed import Viewed

    use_cpu()  # the run may have the accelerator
    viewed = Viewed(parsed.folder, run, allowed_packages(parsed.allow))
    try:
        server = ViewServer(viewed, parsed.port)
    except OSError as error:
        raise ConfigError(f"--port: {parsed.port}; {one_line(error)}") from None
    with server:
        print(f"{parsed.folder}: {server.url}\nCtrl-C ends", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt as error:
            if isinstance(error, Terminated):
                raise
            print()
    return ExitCode.OK
