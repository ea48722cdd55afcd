"""Plain data to typed, frozen dataclasses, and back.

Hydra composes YAML files into nested dicts of plain values; `build` turns such a dict into one of
the dataclasses of `schema/`. OmegaConf's structured configs do nearly the same, but frozen
classes are read-only to them, a union of dataclasses is not supported, `Literal` fails before
version 2.4, and a boolean passes for a number. Here types are exact, and errors name the field.

Supported annotations: bool, int, float, str, `Literal[...]`, `X | None`, `tuple[X, ...]`, dicts of
single values or of groups of settings, dataclasses, and unions of dataclasses told apart by a field
of type `Literal`. Such a union is either closed, `A | B`, or open: a base class whose variants are
the files of a folder.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Self

from ..terminal.errors import ConfigError, shown
from .plugins import modules_in

INLINE = {"inline": True}
"""Metadata of a field of type `dict[str, X]` whose entries stand among the other fields."""

_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}


class Open:
    """Base class of an open union: its variants are the tagged dataclasses of a folder.

    A class that lists this one among its bases is the annotation of a field. Each file of its
    folder brings a dataclass that extends it, with a field of type `Literal[NAME]`; a class without
    such a field is a step between, and no variant.

      FOLDER: dotted, below `experiments/`.
    """

    FOLDER: ClassVar[str]

    @classmethod
    def variants(cls) -> dict[str, type[Self]]:
        """The variants by their tags, in the order of their files.

        Raises:
          TypeError: two of them have the same tag.
        """
        by_tag: dict[str, type[Self]] = {}
        modules = list(modules_in(cls.FOLDER))
        names = {module.__name__ for module in modules}
        for module in modules:
            for value in vars(module).values():
                if not (isinstance(value, type) and issubclass(value, cls)):
                    continue
                if value.__module__ in names - {module.__name__}:  # which brings it itself
                    continue
                tag = _tag(value)
                if tag is None:
                    continue
                if by_tag.setdefault(tag[1], value) is not value:
                    raise TypeError(f"{value} and {by_tag[tag[1]]} are both named {tag[1]!r}")
        return by_tag


def build(annotation: Any, data: Any, path: str = "") -> Any:
    """Checks `data` against an annotation and returns the typed value.

    Args:
      annotation: a dataclass, or any annotation listed above.
      data: dicts, lists and scalars.
      path: dotted name of this place, for errors.

    Returns:
      An instance of the dataclass, or the checked value.

    Raises:
      ConfigError: unknown or missing field, wrong type. One line; names the field.
    """
    variants = _variants(annotation)
    if variants:
        return _build_dataclass(_choose(variants, data, path), data, path)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        if data not in arguments or isinstance(data, bool):
            raise ConfigError(f"{path}: {shown(data)} is not one of {_listed(arguments)}")
        return data
    if origin in (typing.Union, types.UnionType):  # only `X | None` is left
        if data is None:
            return None
        return build(next(a for a in arguments if a is not types.NoneType), data, path)
    if origin is tuple:
        if not isinstance(data, list | tuple):
            raise ConfigError(f"{path}: {shown(data)} is not a list, such as [a,b]")
        return tuple(build(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(data))
    if origin is dict:
        if not isinstance(data, Mapping):
            raise ConfigError(f"{path}: {shown(data)} is not a group of values, such as {{a: 1}}")
        if _variants(arguments[1]):
            return _build_named(arguments[1], data, path)
        for name, value in data.items():
            if not isinstance(value, bool | int | float | str):
                raise ConfigError(f"{_join(path, str(name))}: {shown(value)} is not a single value")
        return {str(name): value for name, value in data.items()}
    accepted = (int, float) if annotation is float else (annotation,)
    if type(data) not in accepted:  # exact: a boolean is an int to Python, not to us
        raise ConfigError(f"{path}: {shown(data)} is not {_NAMES[annotation]}")
    try:
        return annotation(data)
    except OverflowError:  # an integer beyond the range of floats
        raise ConfigError(f"{path}: {shown(data)} is too large") from None


def to_dict(value: Any) -> Any:
    """Returns the plain data from which `build` makes the same value."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain = {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
        inline = _inline(type(value))
        return plain if inline is None else {**plain.pop(inline), **plain}
    if isinstance(value, dict):
        return {name: to_dict(item) for name, item in value.items()}
    return [to_dict(item) for item in value] if isinstance(value, tuple) else value


def leaves(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of everything in nested groups.

    >>> list(leaves({"training": {"part": {"rank": 8}}, "seed": 0}))
    [('training.part.rank', 8), ('seed', 0)]
    """
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def field_paths(annotation: Any, prefix: str = "", within: tuple[Any, ...] = ()) -> Iterator[str]:
    """Yields the dotted name of every field, those of all variants of a union included.

    A union that has a field of its own kind, as a rule made of a rule, is not entered again.
    """
    seen = set()
    within = (*within, annotation)
    for cls in _variants(annotation):
        for name, hint in _fields(cls).items():
            path = f"{prefix}{name}"
            if hint not in within and _variants(hint):
                yield from field_paths(hint, f"{path}.", within)
            elif path not in seen and name != _inline(cls):  # whose names the settings choose
                seen.add(path)
                yield path


def nearest(name: str, names: Iterable[str]) -> str:
    """Returns "; did you mean X?", or "" when nothing is near.

    Siblings come first, then fields of the same last name elsewhere: a name that is right but
    lacks its group counts as near.

    >>> nearest("training.learning_rat", ["training.learning_rate", "seed"])
    '; did you mean training.learning_rate?'
    >>> nearest("learning_rate", ["training.learning_rate", "seed"])
    '; did you mean training.learning_rate?'
    """
    names = list(names)
    parent, _, leaf = name.rpartition(".")
    siblings = [full for full in names if full.rpartition(".")[0] == parent]
    for group in (siblings, names):
        by_leaf = {full.rpartition(".")[2]: full for full in reversed(group)}
        close = difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=0.65)
        if close:
            return f"; did you mean {by_leaf[close[0]]}?"
    return ""


def _variants(annotation: Any) -> tuple[type, ...]:
    """Returns the dataclasses that an annotation allows; empty when it allows none."""
    if isinstance(annotation, type) and Open in annotation.__bases__:
        return tuple(annotation.variants().values())
    candidates = typing.get_args(annotation) or (annotation,)
    is_class = all(isinstance(c, type) and dataclasses.is_dataclass(c) for c in candidates)
    return tuple(candidates) if is_class else ()


def _fields(cls: type) -> dict[str, Any]:
    """The fields of a dataclass with their types; what is stated once for the class is none."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _tag(cls: type) -> tuple[str, str] | None:
    """The name and the value of the `Literal` field that marks a variant of a union."""
    for name, hint in _fields(cls).items():
        values = typing.get_args(hint)
        if typing.get_origin(hint) is typing.Literal and len(values) == 1:
            return name, values[0]
    return None


def _choose(variants: tuple[type, ...], data: Any, path: str) -> type:
    """Picks the variant of a union that the data names by its tag."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{path or 'config'}: {shown(data)} is not a group of settings")
    if len(variants) == 1:
        return variants[0]
    tags = {cls: _tag(cls) for cls in variants}
    by_tag = {tag[1]: cls for cls, tag in tags.items() if tag is not None}
    name = next(tag[0] for tag in tags.values() if tag is not None)
    full = _join(path, name)
    if name not in data:
        raise ConfigError(f"{full}: missing; must be one of {_listed(by_tag)}")
    if not isinstance(data[name], str) or data[name] not in by_tag:
        raise ConfigError(f"{full}: {shown(data[name])} is not one of {_listed(by_tag)}")
    return by_tag[data[name]]


def _inline(cls: type) -> str | None:
    """Returns the name of the field whose entries stand among the others."""
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    return next((field.name for field in fields if field.metadata == INLINE), None)


def _build_named(annotation: Any, data: Mapping, path: str) -> dict[str, Any]:
    """Builds groups of settings by names of the user's choice."""
    tags = [tag for cls in _variants(annotation) if (tag := _tag(cls)) is not None]
    word = tags[0][0]
    full = {name: _join(path, str(name)) for name in data}
    known = [full[name] for name in data if isinstance(data[name], Mapping) and word in data[name]]
    known += [_join(path, tag) for _, tag in tags]
    for name, value in data.items():
        hint = nearest(full[name], known)
        if not isinstance(value, Mapping):
            raise ConfigError(f"{full[name]}: {shown(value)} is not a group of settings{hint}")
        if word not in value and hint and full[name] not in known:
            raise ConfigError(f"{full[name]}: unknown{hint}")
    return {str(name): build(annotation, value, full[name]) for name, value in data.items()}


def _build_dataclass(cls: type, data: Mapping, path: str) -> Any:
    hints = _fields(cls)
    inline = _inline(cls)
    if inline is not None:
        others = {name: data[name] for name in data if name in hints and name != inline}
        named = {name: data[name] for name in data if name not in others}
        data = {**others, inline: named}
    for name in data:
        if name not in hints:
            raise ConfigError(_unknown(cls, hints, str(name), path))
    values = {}
    for field in dataclasses.fields(cls):
        full = path if field.name == inline else _join(path, field.name)
        if field.name in data and data[field.name] != "???":  # Hydra's mark of a missing value
            values[field.name] = build(hints[field.name], data[field.name], full)
        elif field.default is dataclasses.MISSING:
            raise ConfigError(f"{full}: missing; give it as {full}=VALUE")
    return cls(**values)


def _unknown(cls: type, hints: Mapping[str, Any], name: str, path: str) -> str:
    full = _join(path, name)
    known = [*(_join(path, n) for n in hints), *field_paths(cls, f"{path}." if path else "")]
    hint = nearest(full, known) or f"; known here: {_listed(hints)}"
    return f"{full}: unknown field{hint}"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
