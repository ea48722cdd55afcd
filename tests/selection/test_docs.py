"""The README of the selection rules runs, and names every rule."""

import inspect
import re
from pathlib import Path

from rsft_jax import selection


def test_readme_runs_and_names_every_rule():
    text = (Path(selection.__file__).parent / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    names = {}
    exec(code, names)
    assert names["selection"].accepted.shape == (1, 4)
    described = {"make_rule", "random_control", "gvm_allocation"}
    described |= {"text_fingerprint", "token_fingerprint", "num_duplicates"}
    for name in selection.__all__:
        if name in described or inspect.signature(getattr(selection, name)).return_annotation in (
            selection.SelectionRule,
        ):
            assert f"`{name}" in text, name
