"""Settings read from files, ``key=value`` texts and options, and written for another process."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_origin

from rowcast.config.fields import alternatives, complaint, hints_of, item_types
from rowcast.errors import ConfigError, near_match

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - exercised on Python 3.10 only
    import tomli as tomllib

__all__ = ["TABLES", "as_number", "from_text", "load", "load_tables", "load_values", "read_file", "save_tables"]

T = TypeVar("T")

#: Tables that a settings file may have; each command reads its own.
TABLES = ("compare", "demo", "link", "robot", "serve", "server", "task", "worker")

#: Digits of ASCII, a decimal point, an exponent; or nan or inf. No ``1_000``, which float() would read.
_NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|inf(inity)?)", re.ASCII | re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?\d{1,300}", re.ASCII)


def as_number(text: str) -> float | None:
    """The number that a user wrote in a file or an option, blanks around it aside, or ``None`` if it is none.

    It may be NaN or infinite: whoever asks checks the range.
    """
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def from_text(hint: Any, text: str) -> Any:
    """What a text in an option or a cell of a table stands for, in a field of this type.

    Commas part the items of a tuple. What stands for nothing of this type stays a text: whoever asks checks it.
    """
    items = item_types(hint)
    single = tuple(kind for kind in alternatives(hint) if get_origin(kind) is not tuple and kind is not type(None))
    if items and ("," in text or not single):
        return tuple(_scalar(items, part.strip()) for part in text.split(",") if part.strip())
    return _scalar(single, text)


def _scalar(kinds: tuple[Any, ...], text: str) -> Any:
    if int in kinds and _WHOLE.fullmatch(text.strip()):
        return int(text)
    number = as_number(text) if float in kinds or int in kinds else None
    if number is not None:
        return number
    return Path(text) if Path in kinds else text


def load(
    kind: type[T],
    path: str | Path | None = None,
    *,
    table: str | None = None,
    overrides: Iterable[str] = (),
) -> T:
    """Read settings of class ``kind`` from a file and apply ``key=value`` overrides.

    Args:
        kind: a settings class.
        path: TOML file, or JSON where its name ends so; ``None`` for defaults.
        table: name of the table in the file; ``None`` reads the top level.
        overrides: texts ``key=value``; the value is read as TOML (``5``, ``0.5``, ``"bbr"``).

    Raises:
        ConfigError: unreadable file, unknown key (with a near match), wrong type or range.
    """
    values: dict[str, Any] = {}
    if path is not None:
        content = read_file(path)
        values.update(content if table is None else _section(content, table, path))
    values.update(map(_override, overrides))
    return _build(kind, values)


def load_tables(
    kinds: Mapping[str, type],
    path: str | Path | None = None,
    *,
    overrides: Iterable[str] = (),
    given: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Read several classes of settings, each from its own table of one file.

    A field that is made with :func:`~rowcast.config.fields.from_table` is read from that table, too.

    Args:
        kinds: the settings class of each table. The other tables of a team's file (``TABLES``) may be there and are
            left alone. Of a key that two classes have, the last means it.
        path: TOML file, or JSON where its name ends so; ``None`` for defaults.
        overrides: texts ``key=value``; the key says which class is meant.
        given: for each table values by field, which win over file and overrides.

    Returns:
        One object for each entry of ``kinds``.

    Raises:
        ConfigError: as :func:`load`; also an unknown table.
    """
    content = {} if path is None else read_file(path)
    for name in content:
        if name not in TABLES:
            raise ConfigError(f"settings file {path}: unknown table [{name}]; {near_match(name, TABLES)}")
    parts = {
        field.metadata["table"]: (field, table)
        for table, kind in kinds.items()
        for field in dataclasses.fields(kind)
        if "table" in field.metadata and field.metadata["table"] not in kinds
    }
    read = {**{table: hints_of(kinds[owner])[field.name] for table, (field, owner) in parts.items()}, **kinds}
    values = {table: dict(_section(content, table, path)) for table in read}
    owners = {
        field.name: table for table, kind in read.items() if dataclasses.is_dataclass(kind) for field in _fields(kind)
    }
    for key, value in map(_override, overrides):
        if key not in owners:
            raise ConfigError(f"unknown setting {key!r}; {near_match(key, owners)}")
        values[owners[key]][key] = value
    for table, options in (given or {}).items():
        for key, value in options.items():
            before = values[table].get(key)
            if isinstance(value, Mapping) and isinstance(before, Mapping):
                value = {**before, **value}
            values[table][key] = value
    filled: dict[str, dict[str, Any]] = {table: {} for table in kinds}
    for table, (field, owner) in parts.items():
        default = _default(field)
        plain = not dataclasses.is_dataclass(default)
        filled[owner][field.name] = values[table] if plain else _build(read[table], values[table], base=default)
    return {table: _build(kind, values[table], filled=filled[table]) for table, kind in kinds.items()}


def load_values(kind: type[T], values: Mapping[str, Any]) -> T:
    """Settings of class ``kind`` from values as a TOML file has them.

    Raises:
        ConfigError: unknown key (with a near match), wrong type or range.
    """
    return _build(kind, values)


def save_tables(path: Path, tables: Mapping[str, Any]) -> None:
    """Write settings to a file from which :func:`load_tables` makes them again; the file's name ends in ``.json``.

    What a field has from its default is left out, and what another table fills is written to that table.

    Raises:
        ConfigError: the file cannot be written.
    """
    content: dict[str, Any] = {}
    for table, settings in tables.items():
        content[table] = _changed(settings)
        for field in dataclasses.fields(settings):
            if "table" in field.metadata:
                content[field.metadata["table"]] = _changed(getattr(settings, field.name), _default(field))
    try:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"settings file {path}: cannot be written: {error.strerror}") from error


def _changed(settings: Any, base: Any = None) -> dict[str, Any]:
    """The fields that differ from those of ``base``, or from their defaults, as JSON has them."""
    found: dict[str, Any] = {}
    if isinstance(settings, Mapping):
        return dict(settings)
    for field in _fields(type(settings)):
        value = getattr(settings, field.name)
        if value != (field.default if base is None else getattr(base, field.name)):
            plain = _changed(value) if dataclasses.is_dataclass(value) else value
            found[field.name] = str(plain) if isinstance(plain, Path) else plain
    return found


def read_file(path: str | Path) -> dict[str, Any]:
    """The content of a settings file: TOML, or JSON where its name ends in ``.json``.

    Raises:
        ConfigError: unreadable, or not what it should be.
    """
    is_json = Path(path).suffix.lower() == ".json"
    try:
        text = Path(path).read_text(encoding="utf-8")
        content = json.loads(text) if is_json else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"settings file {path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        raise ConfigError(f"settings file {path}: not {'JSON' if is_json else 'TOML'}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"settings file {path}: expected tables by name, got {type(content).__name__}")
    return content


def _section(content: Mapping[str, Any], table: str, path: str | Path | None) -> Mapping[str, Any]:
    section = content.get(table, {})
    if not isinstance(section, Mapping):
        raise ConfigError(f"settings file {path}: [{table}] must be a table")
    return section


def _override(text: str) -> tuple[str, Any]:
    """Key and value of a text ``key=value``."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"setting {text!r}: expected key=value")
    try:
        return key.strip(), tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def _default(field: dataclasses.Field[Any]) -> Any:
    """What a field that another table fills has without it."""
    assert field.default_factory is not dataclasses.MISSING
    return field.default_factory()


def _fields(kind: Any) -> list[dataclasses.Field[Any]]:
    """Those that a table for this class may have."""
    return [field for field in dataclasses.fields(kind) if "table" not in field.metadata]


def _build(
    kind: type[T], values: Mapping[str, Any], *, base: T | None = None, filled: Mapping[str, Any] | None = None
) -> T:
    """An instance: of ``values``, of ``filled``, which is taken as it is, and else of ``base`` or the defaults."""
    fields = {field.name: field for field in _fields(kind)}
    hints = hints_of(kind)
    read: dict[str, Any] = dict(filled or {})
    for key, value in values.items():
        if key not in fields:
            raise ConfigError(f"{kind.__name__}: unknown setting {key!r}; {near_match(key, fields)}")
        read[key] = _converted(hints[key], value)
        wrong = complaint(fields[key], hints[key], read[key], many="a list")
        if wrong is not None:
            raise ConfigError(f"{kind.__name__}.{key}: {wrong}")
    if base is not None:
        return dataclasses.replace(base, **read)  # type: ignore[type-var]
    for name, field in fields.items():
        if name not in read and field.default is field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{kind.__name__}: expected {name!r} to be given")
    return kind(**read)


def _converted(hint: Any, value: Any) -> Any:
    """A value of a file as a field of this type has it, as far as there is one: a list becomes a tuple."""
    kinds, items = alternatives(hint), item_types(hint)
    if isinstance(value, list | tuple) and items:
        return tuple(_number(items, each) for each in value)
    if isinstance(value, str) and Path in kinds:
        return Path(value)
    inner = next(filter(dataclasses.is_dataclass, kinds), None)
    if isinstance(value, Mapping) and inner is not None:
        return _build(inner, value)  # type: ignore[arg-type]
    return _number(kinds, value)


def _number(kinds: tuple[Any, ...], value: Any) -> Any:
    """A whole number as a ``float`` where only that fits."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if whole and float in kinds and int not in kinds and abs(value) < 1 << 1023 else value
