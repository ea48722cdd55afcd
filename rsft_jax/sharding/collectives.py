"""Which collectives a compiled program runs, how often, and how many bytes they move.

The compiler decides where values are gathered and reduced. Its own text says what it decided, so
that a sharding rule can be tested, and a machine planned for, without running anything.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
"""The collectives, by their names in HLO."""

_WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s32": 4, "u32": 4}
_WIDTHS |= {"f32": 4, "s64": 8, "u64": 8, "f64": 8}
_HEAD = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = (.*)$")
_ARRAY = re.compile(r"\b(" + "|".join(_WIDTHS) + r")\[([\d,]*)\]")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition)=%?([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_KIND = re.compile(r"\s(" + "|".join(KINDS) + r")(-start)?\(")


class Collective(NamedTuple):
    """The collectives of one kind in one run of a program, for one device.

    Attributes:
      times: how many are run.
      bytes: what the device sends, by the usual ring algorithms: with n devices and results of s
        bytes, s (n - 1) / n for all-gather and all-to-all, s (n - 1) for reduce-scatter,
        2 s (n - 1) / n for all-reduce, s for collective-permute.
    """

    times: int
    bytes: int


def collectives(hlo: str, *, unknown_trips: int = 1) -> dict[str, Collective]:
    """Counts the collectives of a compiled program.

    A loop counts as often as it runs, where the compiler knows it (layers that are scanned). Groups
    of one device move nothing and are left out.

    Args:
      hlo: the optimised program, `jax.jit(f).lower(...).compile().as_text()`.
      unknown_trips: how often loops of unknown length run, such as that over chunks of a loss.

    Returns:
      For each kind that occurs, in the order of `KINDS`, their number and bytes.

    Example:
      >>> collectives('''ENTRY %main (p: f32[4]) -> f32[4] {
      ...   ROOT %r = f32[4]{0} all-reduce(%p), replica_groups={{0,1}}, to_apply=%add
      ... }''')
      {'all-reduce': Collective(times=1, bytes=16)}
    """
    bodies, entry = _computations(hlo)
    devices = int(found[1]) if (found := re.search(r"num_partitions=(\d+)", hlo)) else 1
    counts: dict[str, list[int]] = {}

    def visit(name: str, times: int) -> None:
        for line in bodies.get(name, ()):
            kind = _KIND.search(line)
            if kind:
                size = _bytes_sent(kind[1], line, kind.start(), bool(kind[2]), devices)
                if size:
                    total = counts.setdefault(kind[1], [0, 0])
                    total[0], total[1] = total[0] + times, total[1] + times * size
                continue
            trips = 1
            if " while(" in line:
                known = _TRIPS.search(line)
                trips = int(known[1]) if known else unknown_trips
            called = [(what, where) for what, where in _CALLED.findall(line)]
            if branches := _BRANCHES.search(line):
                called += [("branch", b.strip().lstrip("%")) for b in branches[1].split(",")]
            for what, where in called:
                visit(where, times * (trips if what in ("body", "condition") else 1))

    visit(entry, 1)
    return {kind: Collective(*counts[kind]) for kind in KINDS if kind in counts}


def _computations(hlo: str) -> tuple[Mapping[str, list[str]], str]:
    bodies: dict[str, list[str]] = {}
    entry, current = "", None
    for line in hlo.splitlines():
        if head := _HEAD.match(line):
            current = bodies.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif current is not None and (instruction := _INSTRUCTION.match(line)):
            current.append(instruction[1])
    return bodies, entry


def _bytes_sent(kind: str, line: str, name_at: int, started: bool, devices: int) -> int:
    group = _group_size(line, devices)
    shapes = [_size(*array) for array in _ARRAY.findall(line[:name_at])]
    if started and kind == "all-gather":
        shapes = shapes[len(shapes) // 2 :]  # (operands, results)
    if started and kind == "collective-permute":
        shapes = shapes[:1]  # (operand, result, contexts)
    size = sum(shapes)
    if kind == "collective-permute":
        return size
    if group == 1:
        return 0
    factor = {"all-reduce": 2 / group, "reduce-scatter": 1}.get(kind, 1 / group)
    return round(size * factor * (group - 1))


def _group_size(line: str, devices: int) -> int:
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", line):
        return int(found[2])
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return found[1].count(",") + 1
    return devices


def _size(dtype: str, dims: str) -> int:
    size = _WIDTHS[dtype]
    for dim in filter(None, dims.split(",")):
        size *= int(dim)
    return size
