"""The report of a run: one self-contained page, and every figure as a PNG."""
