"""The walls of the house: which room may import which, read from the source of every module.

A room is a folder or a single module of `rsft_jax/` or of `experiments/`. To open an arrow, or to
add a room, change the tables; everything else here only reads them.
"""

import ast
import itertools
import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# A room and the rooms that it may import. What a row names has its own row further up: that is
# how one sees that there is no circle, and a test holds it.
LIBRARY = {
    "types": "",
    "texts": "",
    "numerics": "types",
    "sampling": "types numerics",
    "selection": "types numerics sampling",
    "generation": "types numerics sampling selection",
    "metrics": "types texts numerics",
    "rewards": "types texts numerics metrics",
    "data": "types texts numerics",
    "rollouts": "types numerics data",
    "models": "types numerics",
    "sharding": "types numerics",
    "training": "types numerics models sharding",
    # Answers of endpoints are kept in the rollout store; a module of PyTorch draws by our law.
    "interop": "types texts numerics generation data models rollouts",
    "round_types": "types selection",
    "rounds": "types numerics generation round_types selection",
    "policies": "types numerics data generation interop metrics models rewards rollouts rounds"
    " sampling selection sharding training",
    "populations": "types numerics rounds sampling selection sharding",
}
# Every room of the experiments may import the library and the YAML of `configs/` as well, but for
# those of NO_LIBRARY.
EXPERIMENTS = {
    "terminal": "",
    "settings": "terminal",
    "runs": "terminal settings",
    "planning": "terminal settings",
    "textbook": "terminal settings runs",
    "language": "terminal settings runs",
    "report": "terminal settings runs textbook",
    "view": "terminal settings runs language report",
    "kinds": "terminal settings runs report textbook language",
    "applications": "terminal settings runs language",
    "sweeps": "terminal settings runs report kinds",
    "commands": "terminal settings runs report planning textbook language view kinds sweeps",
    "cli": "terminal settings runs kinds commands",
    "benchmarks": "terminal settings runs language kinds sweeps",
    "examples": "language",
}
NO_LIBRARY = {"terminal"}

Arrow = tuple[str, str]


def _room(module: str) -> str | None:
    """The room of a module by its dotted name: `sampling`, `experiments.runs`; None outside."""
    parts = module.split(".")
    names = parts[1:3] if parts[1:2] == ["experiments"] else parts[1:2]
    return (
        ".".join(names) if parts[0] == "rsft_jax" and names != ["experiments"] and names else None
    )


def _modules() -> Iterator[tuple[str, Path]]:
    """The dotted name, as installed, and the file of every module."""
    for folder, package in (("rsft_jax", "rsft_jax"), ("experiments", "rsft_jax.experiments")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            inner = path.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join((package, *inner)), path


def _names_in_strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Names of modules as strings, by which a table of commands says what it imports later.

    After "-m" a name starts a process and imports nothing.
    """
    lists = [node.elts for node in ast.walk(tree) if isinstance(node, ast.List)]
    started = {
        id(name)
        for flag, name in itertools.chain.from_iterable(map(itertools.pairwise, lists))
        if isinstance(flag, ast.Constant) and flag.value == "-m"
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or id(node) in started:
            continue
        if re.fullmatch(r"rsft_jax(\.\w+)+", str(node.value)):
            yield node.lineno, str(node.value)


def _targets(source: str, module: str) -> Iterator[tuple[int, str]]:
    """The line and the dotted name of all that a module imports, at the top or in a function.

    `from . import x` counts as importing x.
    """
    tree = ast.parse(source)
    yield from _names_in_strings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            names = [*base, *node.module.split(".")] if node.module else base
            for alias in node.names:
                yield node.lineno, ".".join((*names, alias.name))


def _arrows() -> dict[Arrow, list[str]]:
    """Every arrow from one room to another, and the lines that draw it."""
    arrows: dict[Arrow, list[str]] = {}
    for module, path in _modules():
        source = _room(module)
        for line, imported in _targets(path.read_text(), module):
            target = _room(imported)
            if source and target and source != target:
                place = f"{path.relative_to(ROOT)}:{line} imports {imported}"
                arrows.setdefault((source, target), []).append(place)
    return arrows


def _allowed(library: Mapping[str, str], experiments: Mapping[str, str]) -> set[Arrow]:
    arrows = {(room, target) for room, row in library.items() for target in row.split()}
    for room, row in experiments.items():
        source = f"experiments.{room}"
        arrows |= {(source, f"experiments.{target}") for target in row.split()}
        if room not in NO_LIBRARY:
            arrows |= {(source, target) for target in (*library, "configs")}
    return arrows


def _circle(arrows: set[Arrow]) -> list[str] | None:
    """A circle among the arrows, or None."""
    graph: dict[str, set[str]] = {}
    for source, target in arrows:
        graph.setdefault(source, set()).add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def _rooms_of(folder: str) -> set[str]:
    """The folders with a module in them, and the single modules, of a folder."""
    names = {path.relative_to(ROOT / folder).parts[0] for path in (ROOT / folder).rglob("*.py")}
    return {name.removesuffix(".py") for name in names} - {"__init__"}


ARROWS = _arrows()


def test_every_import_between_rooms_is_in_the_table():
    forbidden = set(ARROWS) - _allowed(LIBRARY, EXPERIMENTS)
    places = [place for arrow in sorted(forbidden) for place in ARROWS[arrow]]
    assert not forbidden, "\n".join(["not in the tables of tests/test_layering.py:", *places])


@pytest.mark.parametrize(("folder", "table"), [("rsft_jax", LIBRARY), ("experiments", EXPERIMENTS)])
def test_every_room_has_a_row(folder, table):
    without = _rooms_of(folder) - set(table)
    assert not without, f"rooms of {folder}/ without a row in tests/test_layering.py: {without}"


def test_a_row_names_only_rows_above_it():
    for table in (LIBRARY, EXPERIMENTS):
        above: set[str] = set()
        for room, row in table.items():
            assert set(row.split()) <= above, f"{room} may import what stands below it"
            above.add(room)


def test_no_circle_among_the_rooms():
    assert _circle(set(ARROWS)) is None


def test_the_reader_of_imports_sees_every_form():
    source = """
import rsft_jax.sampling.rejection
from rsft_jax import selection
from rsft_jax.types import Array
from . import here
from ..runs.folder import RunFolder
def later():
    from ...interop import load_pretrained
    import_module("rsft_jax.generation")
    start([python, "-m", "rsft_jax.experiments.cli"])
"""
    module = "rsft_jax.experiments.language.run"
    assert {imported for _, imported in _targets(source, module)} == {
        "rsft_jax.sampling.rejection",
        "rsft_jax.selection",
        "rsft_jax.types.Array",
        "rsft_jax.experiments.language.here",
        "rsft_jax.experiments.runs.folder.RunFolder",
        "rsft_jax.interop.load_pretrained",
        "rsft_jax.generation",
    }
    assert _room(module) == "experiments.language"
    assert _room("rsft_jax.types.Array") == "types"
    assert _room("flax.linen") is None


def test_a_circle_is_seen():
    assert _circle({("a", "b"), ("b", "c")}) is None
    assert set(_circle({("a", "b"), ("b", "c"), ("c", "a")}) or ()) == {"a", "b", "c"}


def test_setup_lists_every_package():
    """`packages` of setup.cfg is every folder with an `__init__.py`, and no other."""
    text = (ROOT / "setup.cfg").read_text()
    listed = re.search(r"^packages =\n((?:    .+\n)+)", text, re.MULTILINE)
    assert listed
    packages = {
        ".".join((package, *path.parent.relative_to(ROOT / folder).parts))
        for folder, package in (
            ("rsft_jax", "rsft_jax"),
            ("configs", "rsft_jax.configs"),
            ("experiments", "rsft_jax.experiments"),
        )
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert sorted(listed.group(1).split()) == sorted(packages)
