"""rsft rules [RULE] [--json]: the selection rules: law, needs, cost, source, example."""

import argparse
import json
import shlex
from typing import Any, NamedTuple

from ..settings.compose import load_config
from ..settings.rules import SelectionConfig
from ..settings.schema import LanguageConfig
from ..settings.typed import nearest
from ..terminal.errors import ConfigError, ExitCode, shown
from ..terminal.parser import Parser

_EPILOG = """\
examples:
  rsft rules                      all of them
  rsft rules density_ratio        one of them
  rsft rules --json               for a program

q is the law of the draws, r the reward, N the candidates of a prompt. exact: each accepted
candidate follows the stated law at any N; consistent: it tends to it as N grows; heuristic: it
chooses prompts, or has no target."""


class Example(NamedTuple):
    """A rule with some settings.

    Attributes:
      command: that runs it.
      strength: of its law: exact, consistent or heuristic; unknown for a function of the user's.
      needs: what it reads of candidates.
    """

    command: str
    strength: str
    needs: tuple[str, ...]


class Row(NamedTuple):
    """What there is to say of a rule.

    Attributes:
      rule: its name.
      accepts: what, a sentence.
      law: what an accepted candidate follows.
      cost: how many of N are kept.
      source: who published it.
      examples: one for each strength that its law can have.
    """

    rule: str
    accepts: str
    law: str
    cost: str
    source: str
    examples: tuple[Example, ...]


def command(arguments: list[str]) -> ExitCode:
    """Prints every rule, with the strength of its law for some settings."""
    parsed = _parsed(arguments)
    rules = SelectionConfig.variants()
    if parsed.rule is not None and parsed.rule not in rules:
        hint = nearest(parsed.rule, rules) or f"; rules: {', '.join(rules)}"
        raise ConfigError(f"RULE: {shown(parsed.rule)}; is no rule{hint}")
    rows = [row_of(name, kind) for name, kind in rules.items() if parsed.rule in (None, name)]
    if parsed.json:
        print(json.dumps([_plain(row) for row in rows], indent=2))
    else:
        print("\n\n".join(map(_block, rows)))
    return ExitCode.OK


def row_of(name: str, kind: type[SelectionConfig]) -> Row:
    """What the file of a rule says, and what the rule itself says of its examples."""
    about = kind.ABOUT
    accepts = (kind.__doc__ or "").partition("\n")[0].removesuffix(".")
    examples = tuple(map(_example, about.examples))
    return Row(name, accepts, about.law, about.cost, about.source, examples)


def _example(overrides: str) -> Example:
    config = load_config(shlex.split(overrides))
    assert isinstance(config, LanguageConfig)
    strength, needs = "unknown", frozenset[str]()
    if not any(config.selection.functions()):  # code of the user's own is not run to be listed
        rule = config.selection.whole()
        strength, needs = rule.law.name.lower(), rule.needs
    return Example(f"rsft run {overrides}", strength, ("rewards", *sorted(needs)))


def _plain(row: Row) -> dict[str, Any]:
    return {**row._asdict(), "examples": [example._asdict() for example in row.examples]}


def _block(row: Row) -> str:
    lines = [f"{row.rule}: {row.accepts}"]
    lines += [f"  {name:<8} {getattr(row, name)}" for name in ("law", "cost", "source")]
    for example in row.examples:
        lines.append(f"  {example.strength}, needs {', '.join(example.needs)}:")
        lines.append(f"    {example.command}")
    return "\n".join(lines)


def _parsed(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(prog="rsft rules", description="what rules there are", epilog=_EPILOG)
    parser.add_argument("rule", nargs="?", metavar="RULE", help="a rule, such as top_k")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(arguments)
