"""What a settings class is made of: fields that know their unit, range, choices and option, and a check of each."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from rowcast.errors import ConfigError, near_match

__all__ = [
    "Checked",
    "alternatives",
    "complaint",
    "describe",
    "entry_of",
    "from_table",
    "hints_of",
    "item_types",
    "same_as",
    "setting",
]


def setting(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: Collection[str] = (),
    flag: str = "",
    metavar: str = "",
) -> Any:
    """A dataclass field with its documentation.

    Args:
        default: value where nothing is given; ``dataclasses.MISSING`` for a field that must be given.
        doc: what it does and when to change it.
        unit: of the value.
        low, high: allowed range, both ends included.
        choices: the texts that are allowed, as they are when a value is checked; none: all.
        flag: option of a command that sets it, as ``--workers``; none: ``--set`` and the file only.
        metavar: what the help of that option calls the value; none: the kind of value.
    """
    return dataclasses.field(
        default=default,
        metadata={
            "doc": doc,
            "unit": unit,
            "low": low,
            "high": high,
            "choices": choices,
            "flag": flag,
            "metavar": metavar,
        },
    )


def same_as(kind: type, name: str, **other: Any) -> Any:
    """A dataclass field that is that of another settings class: its default, its documentation and its range.

    Args:
        kind, name: the class, and its field.
        other: what differs; ``default``, or as :func:`setting` takes it.
    """
    (field,) = (field for field in dataclasses.fields(kind) if field.name == name)
    default = other.pop("default", field.default)
    return dataclasses.field(default=default, metadata={**field.metadata, **other})


def from_table(table: str, make: Any, doc: str) -> Any:
    """A dataclass field that holds what another table of the settings file says: ``make()`` is its default."""
    return dataclasses.field(default_factory=make, metadata={"doc": doc, "table": table})


def hints_of(kind: Any) -> dict[str, Any]:
    """The types of the fields of a class."""
    return _hints(kind)


_hints = functools.cache(get_type_hints)


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The types of which a value may be one: ``int | None`` has two, ``tuple[int, ...]`` is one."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def item_types(hint: Any) -> tuple[Any, ...]:
    """The types of the items where a value may be a tuple; none where it may not."""
    return tuple(
        item for each in alternatives(hint) if get_origin(each) is tuple for item in alternatives(get_args(each)[0])
    )


class Checked:
    """Checks type, range and choice of every field when an instance is made.

    An ``int`` stands for a ``float``; a ``bool`` stands for no number, and ``None`` only for what is optional.
    """

    def __post_init__(self) -> None:
        hints = hints_of(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            wrong = complaint(field, hints[field.name], getattr(self, field.name))
            if wrong is not None:
                raise ConfigError(f"{field.name}: {wrong}")


def complaint(field: dataclasses.Field[Any], hint: Any, value: Any, *, many: str = "a tuple") -> str | None:
    """What is wrong with a value of this field, or ``None``.

    Args:
        field: the field; only its name and what :func:`setting` left there are looked at.
        hint: its type.
        value: the value.
        many: what is expected where a tuple is, in the words of whoever wrote the value.
    """
    items = item_types(hint)
    if isinstance(value, tuple) and items:
        return next(filter(None, (_wrong(field, items, each, many) for each in value)), None)
    return _wrong(field, alternatives(hint), value, many)


def _wrong(field: dataclasses.Field[Any], kinds: tuple[Any, ...], value: Any, many: str) -> str | None:
    low, high, unit, choices = (field.metadata.get(key) for key in ("low", "high", "unit", "choices"))
    fits = any(_is_one(kind, value) for kind in kinds)
    if fits and value is not None:
        if choices and value not in choices:
            return f"unknown {field.name} {value!r}; {near_match(value, choices)}"
        fits = not _is_one(float, value) or ((low is None or value >= low) and (high is None or value <= high))
        kinds = kinds if fits else (float,)  # its type is right, so that the range alone is the news
    if fits:
        return None
    words = " or ".join(dict.fromkeys(_words(kind, many) for kind in kinds if kind is not type(None)))
    if low is not None or high is not None:
        words += f" in {'-inf' if low is None else low} .. {'inf' if high is None else high} {unit or ''}".rstrip()
    return f"expected {words}, got {value!r}"


def _is_one(kind: Any, value: Any) -> bool:
    """A value of this type; never NaN, nor a whole number that no ``float`` holds."""
    if kind is float:
        if isinstance(value, int):
            return not isinstance(value, bool) and abs(value) < 1 << 1023
        return isinstance(value, float) and not math.isnan(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if get_origin(kind) is tuple:
        return False  # its items are looked at one by one
    return isinstance(value, get_origin(kind) or kind)


def _is_mapping(kind: Any) -> bool:
    origin = get_origin(kind)
    return isinstance(origin, type) and issubclass(origin, Mapping)


_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
}
_PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}


def _words(kind: Any, many: str) -> str:
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        return f"{many} of {_PLURALS.get(item, getattr(item, '__name__', item))}"
    if _is_mapping(kind):
        return "a table"
    return _WORDS.get(kind) or str(getattr(kind, "__name__", kind))


def describe(kind: type) -> list[dict[str, str]]:
    """One entry for each field, as :func:`entry_of` makes it; the reference page is made of them.

    The fields of a class within the class have its field's name in front, as ``shape.link``. Fields that another
    table of the settings file fills have no entry.
    """
    return [entry_of(field, name) for name, field in _entries(kind)]


def entry_of(field: dataclasses.Field[Any], name: str = "") -> dict[str, str]:
    """What there is to say of a field: name, default, unit, range, option and advice."""
    return {
        "name": name or field.name,
        "default": "required" if field.default is dataclasses.MISSING else _written(field.default),
        "unit": field.metadata.get("unit", ""),
        "range": _range(field),
        "flag": field.metadata.get("flag", ""),
        "doc": field.metadata.get("doc", ""),
    }


def _entries(kind: type) -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    for field in dataclasses.fields(kind):
        if "table" in field.metadata:
            continue
        inner = [each for each in alternatives(hints_of(kind)[field.name]) if dataclasses.is_dataclass(each)]
        if inner:
            for name, each in _entries(inner[0]):  # type: ignore[arg-type]
                yield f"{field.name}.{name}", each
        else:
            yield field.name, field


def _range(field: dataclasses.Field[Any]) -> str:
    low, high = field.metadata.get("low"), field.metadata.get("high")
    return "" if low is None and high is None else f"{_written(low)} .. {_written(high)}"


def _written(value: object) -> str:
    """A default or a bound as a user would write it: no digit lost, no exponent where none is needed."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ", ".join(map(_written, value)) or "none"
    return f"{value:.12g}" if isinstance(value, float) else str(value)
