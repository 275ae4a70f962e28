"""Options of a task: what a user may set of it, as texts ``key=value`` and as a table ``[task]`` of a file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterable, Mapping
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from rowcast.config import Checked, load

__all__ = ["TaskOptions", "options_of", "read_options", "written_options"]


@dataclasses.dataclass(frozen=True)
class TaskOptions(Checked):
    """What a user may set of a task; each field ``None`` where it was not given, and then the task's own setting holds.

    Raises:
        ConfigError: a value out of its range.
    """

    @property
    def given(self) -> dict[str, Any]:
        """Those that are set, by name."""
        return {
            field.name: value for field in dataclasses.fields(self) if (value := getattr(self, field.name)) is not None
        }


def options_of(settings: type[Checked], name: str, without: Collection[str] = ()) -> type[TaskOptions]:
    """The options that belong to a settings class: its fields, by default ``None``.

    Args:
        settings: a frozen dataclass. Fields of a type that no file of settings can hold are left out.
        name: of the class, for messages.
        without: names of fields that are given in another way.
    """
    hints = get_type_hints(settings)
    fields: list[tuple[str, Any, Any]] = [
        (field.name, hints[field.name] | None, dataclasses.field(default=None, metadata=field.metadata))
        for field in dataclasses.fields(settings)  # type: ignore[arg-type]
        if field.name not in without and _fits_a_file(hints[field.name])
    ]
    return dataclasses.make_dataclass(
        name, fields, bases=(TaskOptions,), frozen=True, namespace={"__doc__": settings.__doc__}
    )


def read_options(kind: type[TaskOptions], texts: Iterable[str]) -> dict[str, Any]:
    """Options from texts ``key=value``, by name.

    Raises:
        ConfigError: an unknown key (with a near match), or a value out of its range.
    """
    return load(kind, overrides=texts).given


def written_options(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Options as texts that say the same to :func:`read_options`, each in one way."""
    return tuple(f"{key}={json.dumps(options[key])}" for key in sorted(options))


def _fits_a_file(hint: Any) -> bool:
    """Whether a TOML file can hold a value of this type: a text, a number, a switch, or a tuple of one of them."""
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        return len(kinds) == 2 and kinds[1] is Ellipsis and kinds[0] in (str, int, float, bool)
    parts = get_args(hint) or (hint,)
    return all(
        part in (str, int, float, bool, NoneType) or (get_origin(part) is tuple and _fits_a_file(part))
        for part in parts
    )
