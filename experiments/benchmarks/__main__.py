"""Runs the benchmarks one after the other: `make bench`, or ARGS="sampling selection" for some."""

import importlib
import sys

BENCHMARKS = (
    "generation",
    "population",
    "reading",
    "reselect",
    "sampling",
    "selection",
    "training",
)
"""Modules here with a `main`; the others are their parts."""


def main() -> int:
    """Runs the benchmarks named on the command line, by default all."""
    chosen = sys.argv[1:] or BENCHMARKS
    unknown = [name for name in chosen if name not in BENCHMARKS]
    if unknown:
        there = ", ".join(BENCHMARKS)
        print(f"unknown benchmark {unknown[0]!r}; there are: {there}", file=sys.stderr)
        return 2
    for name in chosen:
        print(f"== {name}", flush=True)
        sys.argv = [name]  # each benchmark reads its own arguments, here its defaults
        importlib.import_module(f"{__package__}.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
