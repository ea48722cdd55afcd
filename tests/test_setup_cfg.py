"""What `setup.cfg` lets pip install: pairs that work, on every Python that it names.

A list of versions is what there was when it was written, oldest and newest of what each Python can
have; a version that breaks with another one gets a row of `BREAKS`.
"""

import configparser
import itertools
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent

AVAILABLE = {
    "3.11": {"jax": ["0.10.2"], "flax": ["0.12.8"]},
    "3.12": {
        "jax": ["0.10.2", "0.11.0", "0.11.1", "0.11.2", "0.12.0.1"],
        "flax": ["0.12.8", "0.12.9", "0.12.10", "0.12.12"],
    },
    "3.13": {
        "jax": ["0.10.2", "0.11.0", "0.11.1", "0.11.2", "0.12.0.1"],
        "flax": ["0.12.8", "0.12.9", "0.12.10", "0.12.12"],
    },
}
# Of `jax.experimental.hijax`, 0.11.1 has lost `MutableHiType`, and 0.11.2 `HiPrimitive`.
BREAKS = [
    {"flax": "<0.12.9", "jax": ">=0.11.1"},
    {"flax": "<0.12.10", "jax": ">=0.11.2"},
]


@pytest.fixture(scope="module")
def config():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def requirements(text):
    return [Requirement(line) for line in text.splitlines() if line]


def extras(config):
    """The requirements of every extra, with those of the core."""
    core = requirements(config["options"]["install_requires"])
    names = config.options("options.extras_require")
    found = {name: requirements(config["options.extras_require"][name]) for name in names}
    return {"the core": core} | {name: core + own for name, own in found.items()}


def allowed(wanted, name, python):
    """The versions of a package that pip may install; every one where nothing names it."""
    own = [r for r in wanted if r.name.lower() == name]
    own = [r for r in own if r.marker is None or r.marker.evaluate({"python_version": python})]
    versions = AVAILABLE[python][name]
    return [v for v in versions if all(r.specifier.contains(v) for r in own)] if own else []


@pytest.mark.parametrize("python", AVAILABLE)
def test_no_extra_allows_a_pair_that_breaks(config, python):
    for name, wanted in extras(config).items():
        has_flax = any(r.name == "flax" for r in wanted)
        jax, flax = (allowed(wanted, package, python) for package in ("jax", "flax"))
        assert jax, f"{name} has no jax on Python {python}"
        assert bool(flax) == has_flax, f"{name} has no flax on Python {python}"
        for one, other in itertools.product(jax, flax):
            for pair in BREAKS:
                breaks = one in SpecifierSet(pair["jax"]) and other in SpecifierSet(pair["flax"])
                assert not breaks, f"{name} allows jax {one} with flax {other} on {python}"


def test_every_python_is_named_everywhere(config):
    classifiers = config["metadata"]["classifiers"]
    assert re.findall(r"Python :: (3\.\d+)", classifiers) == list(AVAILABLE)
    assert config["options"]["python_requires"] == f">={min(AVAILABLE, key=_number)}"
    readme = (ROOT / "README.md").read_text("utf-8")
    assert f"Python {min(AVAILABLE, key=_number)} to {max(AVAILABLE, key=_number)}" in readme


def _number(python):
    return tuple(map(int, python.split(".")))


def test_a_build_for_an_accelerator_has_the_core_s_bounds(config):
    (core,) = [r for r in extras(config)["the core"] if r.name == "jax"]
    for name, build in (("cuda12", "cuda12"), ("cuda13", "cuda13"), ("plan", "tpu")):
        (own,) = [r for r in extras(config)[name] if r.extras]
        assert (own.name, own.extras, own.specifier) == ("jax", {build}, core.specifier)


def test_extras_that_are_asked_for_are_there(config):
    names = {*config.options("options.extras_require"), "$(INTEROP)", "$(ACCELERATOR)"}
    makefile = (ROOT / "Makefile").read_text("utf-8")
    asked = re.findall(r'--editable "\.\[(.*)\]"', makefile)
    asked += re.findall(r"^INTEROP \?= (.*)$", makefile, re.M)
    asked += re.findall(r"^ACCELERATOR \?= .*,(\w+,\w+)\)$", makefile, re.M)
    assert len(asked) == 5
    asked += re.findall(r"ACCELERATOR=(\w+)", makefile)
    for path in (ROOT / "README.md", ROOT / "experiments" / "README.md"):
        asked += re.findall(r'pip install "\.\[(.*?)\]"', path.read_text("utf-8"))
    assert {name for several in asked for name in several.split(",")} <= names
