"""Lines that a person types, or that a pipe brings."""

import contextlib
import sys
from collections.abc import Callable, Iterator


def typed_lines(prompt: str, tell: Callable[[str], None]) -> Iterator[str]:
    """Lines of the standard input, without their ends, until it ends.

    On a terminal each is asked for, and can be edited where Python has readline; Ctrl-C there gives
    the line up and no more. A line that is not UTF-8 is left out, and told.

    Args:
      prompt: what stands before what is typed, on a terminal.
      tell: what is told of lines that are left out.
    """
    on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if on_terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (input() edits lines with it)
    while True:
        try:
            if on_terminal:
                yield input(prompt)
                continue
            if not (raw := sys.stdin.buffer.readline()):
                return
            yield raw.decode("utf-8").rstrip("\r\n")
        except EOFError:
            print()
            return
        except UnicodeDecodeError:
            tell("the line is not UTF-8, and left out")
        except KeyboardInterrupt as error:
            if not on_terminal or type(error) is not KeyboardInterrupt:  # SIGTERM
                raise
            print()
            tell("Ctrl-D or /quit leaves")
