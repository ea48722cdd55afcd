"""Runs the benchmarks one after the other: `make bench`, or ARGS="sampling selection" for some."""

import importlib
import sys
from pathlib import Path


def main() -> int:
    """Runs the benchmarks named on the command line, by default all."""
    known = sorted(
        path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_")
    )
    chosen = sys.argv[1:] or known
    unknown = [name for name in chosen if name not in known]
    if unknown:
        print(f"unknown benchmark {unknown[0]!r}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    for name in chosen:
        print(f"== {name}", flush=True)
        sys.argv = [name]  # each benchmark reads its own arguments, here its defaults
        importlib.import_module(f"rsft_jax.experiments.benchmarks.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
