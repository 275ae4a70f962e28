"""Settings: frozen dataclasses in which each field carries its unit, its range and advice.

A setting is read from one TOML file and overridden on the command line; an unknown key is an error with
a near-match hint::

    settings = load(ServerSettings, "team.toml", overrides=["absence_limit_s=5"])

The reference page ``docs/settings.md`` is generated from these classes (:func:`describe`).
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from rowcast.errors import ConfigError, near_match, visible

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - exercised on Python 3.10 only
    import tomli as tomllib

__all__ = [
    "Checked",
    "LinkSettings",
    "Secret",
    "ServerSettings",
    "WorkerSettings",
    "as_number",
    "describe",
    "load",
    "load_tables",
    "load_values",
    "read_secret",
    "setting",
]

log = logging.getLogger("rowcast")
T = TypeVar("T")


def setting(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """A dataclass field with its documentation, unit and allowed range (both ends included)."""
    return dataclasses.field(default=default, metadata={"doc": doc, "unit": unit, "low": low, "high": high})


def _stuck_limit() -> Any:
    """``stuck_limit_s``: servers and workers watch their links alike."""
    return setting(
        20.0,
        "A link is cut and made anew when rows were sent and nothing was acknowledged for this long, or when a frame "
        "has begun and is not finished, although the link lives. Four times what the measured rate and round trip "
        "lead one to expect is allowed in any case, and so is a slow transfer that makes progress; it doubles with "
        "each such cut until something is delivered. Keep it above silence_limit_s.",
        unit="s",
        low=0.5,
        high=86_400.0,
    )


#: Digits of ASCII, a decimal point, an exponent; or nan or inf. No ``1_000``, which float() would read.
_NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|inf(inity)?)", re.ASCII | re.IGNORECASE)


def as_number(text: str) -> float | None:
    """The number that a user wrote in a file or an option, blanks around it aside, or ``None`` if it is none.

    It may be NaN or infinite: whoever asks checks the range.
    """
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None


class Checked:
    """Checks type and range of every field when an instance is made."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value is None and type(None) in getattr(hints[field.name], "__args__", ()):
                continue
            for each in value if isinstance(value, tuple) else (value,):
                _check_range(field, each)


def _check_range(field: dataclasses.Field[Any], value: Any) -> None:
    low, high, unit = (field.metadata.get(key) for key in ("low", "high", "unit"))
    if low is None and high is None:
        return
    bad = (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or math.isnan(value)
        or (low is not None and value < low)
        or (high is not None and value > high)
    )
    if bad:
        bounds = f"{'-inf' if low is None else low} .. {'inf' if high is None else high}"
        raise ConfigError(f"{field.name}: expected a number in {bounds} {unit or ''}".rstrip() + f", got {value!r}")


@dataclasses.dataclass(frozen=True)
class LinkSettings(Checked):
    """How bytes are put on a link; the same on both ends."""

    frame_s: float = setting(
        0.01,
        "Link time that one row frame takes at the measured rate. Smaller cuts deadlines finer and costs headers.",
        unit="s",
        low=0.001,
        high=10.0,
    )
    frame_min_bytes: int = setting(1024, "Smallest target size of a row frame.", unit="byte", low=64, high=1 << 20)
    frame_max_bytes: int = setting(1 << 20, "Largest target size of a row frame.", unit="byte", low=1024, high=4 << 20)
    window_s: float = setting(
        0.02,
        "Unacknowledged row bytes allowed, as link time beyond the round trip. Larger hides jitter; smaller "
        "leaves less behind when the link collapses.",
        unit="s",
        low=0.002,
        high=5.0,
    )
    window_min_bytes: int = setting(4096, "The window never shrinks below this.", unit="byte", low=256, high=1 << 20)
    initial_rate_bps: float = setting(
        1e6, "Delivery rate assumed before the first acknowledgement.", unit="bit/s", low=1e3, high=1e11
    )
    congestion_control: str | None = setting(
        None,
        "TCP congestion control to ask the system for ('cubic', 'bbr', 'reno'); none keeps the system's. It can "
        "change results two-fold, so pin it when you compare.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frame_min_bytes > self.frame_max_bytes:
            raise ConfigError(
                f"frame_min_bytes: expected at most frame_max_bytes, {self.frame_max_bytes}, got {self.frame_min_bytes}"
            )


@dataclasses.dataclass(frozen=True)
class ServerSettings(Checked):
    """Settings of the server node."""

    expected_workers: int = setting(
        1, "The gate opens for the first time when this many workers have joined.", unit="workers", low=1, high=10_000
    )
    absence_limit_s: float = setting(
        10.0,
        "A worker whose link has been down for this long leaves the gate, so that nobody waits for it. "
        "Lower it when robots stop often, raise it when every sample of every robot counts.",
        unit="s",
        low=0.1,
        high=86_400.0,
    )
    absent_workers: int = setting(
        8,
        "So many workers are kept that have been away for longer than absence_limit_s, with what they are owed: a copy "
        "of the model each. Beyond that the one that has been away longest is forgotten; when it returns it receives "
        "the parameters anew, and what it had pending still counts. Raise it when memory is plenty and links are slow.",
        unit="workers",
        low=0,
        high=10_000,
    )
    silence_limit_s: float = setting(
        10.0,
        "A link on which no byte arrives for this long is taken for lost. A slow transfer that makes progress "
        "is not silent.",
        unit="s",
        low=0.5,
        high=3600.0,
    )
    stuck_limit_s: float = _stuck_limit()
    heartbeat_s: float = setting(
        1.0, "A heartbeat is sent when nothing else was for this long.", unit="s", low=0.05, high=3600.0
    )
    patience_s: float = setting(
        3.0, "A worker held at the gate for longer than this is told for whom.", unit="s", low=0.1, high=3600.0
    )
    gather_s: float = setting(
        6.0,
        "After the server has begun to listen, a worker that has not trained waits so long for workers that have: "
        "their parameters go first. Longer than reconnect_cap_s of the workers, so that all of them have tried again "
        "by then; 0 where no team can have trained before.",
        unit="s",
        low=0.0,
        high=3600.0,
    )
    fresh_after_s: float | None = setting(
        None,
        "When no worker has been connected for this long, the model is forgotten, and the next worker brings its own "
        "parameters. None keeps the model as long as the server runs.",
        unit="s",
        low=1.0,
        high=1e7,
    )
    handshake_limit_s: float = setting(
        10.0, "A connection that has not introduced itself after this long is closed.", unit="s", low=0.5, high=600.0
    )
    model_limit_bytes: int = setting(
        4 << 30,
        "The largest model that a first worker may bring: 4 bytes for each parameter and 64 for each row. The server "
        "holds that once, and about once more for each worker (not with pulls=common). The default, 4 GiB, is a "
        "thousand million parameters; lower it to what the machine has where anybody may join.",
        unit="byte",
        low=1 << 10,
        high=1 << 40,
    )
    strangers_limit: int = setting(
        512,
        "Connections at once that have not introduced themselves; further ones are closed at once. Each costs about "
        "70 kB (measured once) and a file descriptor. Keep it well below the limit of descriptors (ulimit -n).",
        unit="connections",
        low=1,
        high=100_000,
    )
    strangers_per_address: int = setting(
        256,
        "The same for one address (of IPv6, one network of 64 bits). Raise it when more robots than that share an "
        "address and start at the same moment; those that are turned away try again.",
        unit="connections",
        low=1,
        high=100_000,
    )
    failures_per_minute: int = setting(
        300,
        "Failed attempts of one address in a minute, such as a wrong secret, garbage or no hello; after that its "
        "connections are closed at once until it has failed less. Who is let in costs nothing. Lower it where "
        "strangers reach the port, raise it when many robots behind one address have poor links.",
        unit="connections",
        low=1,
        high=1_000_000,
    )


@dataclasses.dataclass(frozen=True)
class WorkerSettings(Checked):
    """Settings of a worker node."""

    join_limit_s: float = setting(
        30.0,
        "Give up when the server has not answered for this long at the start, or whoever did has not proved that it "
        "knows the secret. An attempt that is under way is finished first: up to silence_limit_s more.",
        unit="s",
        low=0.1,
        high=86_400.0,
    )
    reconnect_limit_s: float = setting(
        3600.0,
        "Give up when a lost server has not come back for this long, while there is training to do.",
        unit="s",
        low=0.1,
        high=1e7,
    )
    finish_limit_s: float = setting(
        300.0,
        "A worker that has finished gives up when a lost server has not come back for this long; what it has not "
        "delivered is lost then. Raise it for robots that drive back into reach when their work is done.",
        unit="s",
        low=0.1,
        high=1e7,
    )
    reconnect_first_s: float = setting(
        0.2, "Wait before the first reconnection; doubles each time, with jitter.", unit="s", low=0.01, high=60.0
    )
    reconnect_cap_s: float = setting(
        5.0, "Longest wait between two attempts to reconnect.", unit="s", low=0.05, high=600.0
    )
    silence_limit_s: float = setting(
        10.0, "A link on which no byte arrives for this long is taken for lost.", unit="s", low=0.5, high=3600.0
    )
    stuck_limit_s: float = _stuck_limit()
    heartbeat_s: float = setting(
        1.0, "How often a worker tells that it lives and how it is doing.", unit="s", low=0.05, high=3600.0
    )
    patience_s: float = setting(3.0, "A wait longer than this says for whom.", unit="s", low=0.1, high=3600.0)
    refusals_limit: int = setting(
        8,
        "When a server refuses what this worker says, or says itself what has no place here, the link is made anew, "
        "after a pause that doubles. After so many times in a row, with nothing delivered in between, the worker gives "
        "up: one end has a fault. Damaged bytes do not count; 0 gives up at once, to find such a fault.",
        unit="times",
        low=0,
        high=1_000_000,
    )


def load(
    kind: type[T],
    path: str | Path | None = None,
    *,
    table: str | None = None,
    overrides: Iterable[str] = (),
) -> T:
    """Read settings of class ``kind`` from a TOML file and apply ``key=value`` overrides.

    Args:
        kind: a settings class of this module.
        path: TOML file, or ``None`` for defaults.
        table: name of the table in the file; ``None`` reads the top level.
        overrides: texts ``key=value``; the value is read as TOML (``5``, ``0.5``, ``"bbr"``).

    Raises:
        ConfigError: unreadable file, unknown key (with a near match), wrong type or range.
    """
    values: dict[str, Any] = {}
    if path is not None:
        content = _read_toml(path)
        section = content if table is None else content.get(table, {})
        if not isinstance(section, Mapping):
            raise ConfigError(f"settings file {path}: [{table}] must be a table")
        values.update(section)
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"setting {text!r}: expected key=value")
        try:
            values[key.strip()] = tomllib.loads(f"v = {value}")["v"]
        except tomllib.TOMLDecodeError:
            values[key.strip()] = value.strip()
    return _build(kind, values)


def load_tables(
    kinds: Mapping[str, type], path: str | Path | None = None, *, overrides: Iterable[str] = ()
) -> dict[str, Any]:
    """Read several classes of settings, each from its own table of one TOML file.

    Args:
        kinds: the settings class of each table. The other tables of a team's file (``server``, ``worker``,
            ``link``, ``compare``) may be there and are left alone.
        path: TOML file, or ``None`` for defaults.
        overrides: texts ``key=value``; the key says which class is meant.

    Returns:
        One object for each entry of ``kinds``.

    Raises:
        ConfigError: as :func:`load`; also an unknown table.
    """
    if path is not None:
        for name in _read_toml(path):
            if name not in _TABLES:
                raise ConfigError(f"settings file {path}: unknown table [{name}]; {near_match(name, _TABLES)}")
    owners = {field.name: table for table, kind in kinds.items() for field in dataclasses.fields(kind)}
    shares: dict[str, list[str]] = {table: [] for table in kinds}
    for text in overrides:
        key = text.partition("=")[0].strip()
        if key not in owners:
            raise ConfigError(f"unknown setting {key!r}; {near_match(key, owners)}")
        shares[owners[key]].append(text)
    return {table: load(kind, path, table=table, overrides=shares[table]) for table, kind in kinds.items()}


_TABLES = ("compare", "link", "server", "task", "worker")


def _read_toml(path: str | Path) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"settings file {path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"settings file {path}: not TOML: {error}") from error


def load_values(kind: type[T], values: Mapping[str, Any]) -> T:
    """Settings of class ``kind`` from values as a TOML file has them.

    Raises:
        ConfigError: unknown key (with a near match), wrong type or range.
    """
    return _build(kind, values)


def _build(kind: type[T], values: Mapping[str, Any]) -> T:
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            raise ConfigError(f"{kind.__name__}: unknown setting {key!r}; {near_match(key, fields)}")
        checked[key] = _read_as(hints[key], value, f"{kind.__name__}.{key}")
    return kind(**checked)


def _read_as(hint: Any, value: Any, where: str) -> Any:
    """A value of a TOML file as a field of this type wants it; a list becomes a tuple."""
    if get_origin(hint) is not tuple and get_args(hint):
        wanted = [t for t in get_args(hint) if t is not type(None)]
    else:
        wanted = [hint]
    if float in wanted and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) in wanted:
        return value
    lists = [t for t in wanted if get_origin(t) is tuple]
    if lists and isinstance(value, list):
        return tuple(_read_as(get_args(lists[0])[0], each, where) for each in value)
    names = " or ".join(f"a list of {get_args(t)[0].__name__}" if t in lists else t.__name__ for t in wanted)
    raise ConfigError(f"{where}: expected {names}, got {value!r}")


def read_secret(path: str | Path) -> bytes:
    """The team's shared secret: the content of a file, surrounding white space aside.

    A file that other users of the machine may read or write is used, with a warning, once for each file.

    Raises:
        ConfigError: the file cannot be read, or holds fewer than 16 bytes.
    """
    try:
        with Path(path).open("rb") as file:
            found = os.fstat(file.fileno())
            secret = file.read().strip()
    except OSError as error:
        raise ConfigError(f"secret file {path}: cannot be read: {error.strerror}") from error
    if len(secret) < 16:
        raise ConfigError(
            f"secret file {path}: expected at least 16 bytes, got {len(secret)}; "
            "make one with: (umask 077; head -c 32 /dev/urandom | base64 > team.secret)"
        )
    # Where there are no such modes (Windows), they say nothing about who may read.
    if os.name == "posix" and found.st_mode & 0o077 and (found.st_dev, found.st_ino) not in _warned:
        _warned.add((found.st_dev, found.st_ino))
        log.warning(
            "secret file %s: other users of this machine can read or change it (mode %03o); chmod 600 %s",
            visible(str(path)),
            found.st_mode & 0o777,
            visible(str(path)),
        )
    return Secret(secret)


#: Secret files of which the user was told, by device and inode.
_warned: set[tuple[int, int]] = set()


class Secret(bytes):
    """The team's shared secret: bytes that show themselves in no ``repr``, log line or traceback."""

    def __repr__(self) -> str:
        return f"Secret({len(self)} bytes, not shown)"

    __str__ = __repr__


def describe(kind: type) -> list[dict[str, str]]:
    """One entry for each field: name, default, unit, range and advice; the reference page is made of it."""
    rows = []
    for field in dataclasses.fields(kind):
        low, high = field.metadata.get("low"), field.metadata.get("high")
        rows.append(
            {
                "name": field.name,
                "default": _written(field.default),
                "unit": field.metadata.get("unit", ""),
                "range": "" if low is None and high is None else f"{_written(low)} .. {_written(high)}",
                "doc": field.metadata.get("doc", ""),
            }
        )
    return rows


def _written(value: object) -> str:
    """A default or a bound as a user would write it: no digit lost, no exponent where none is needed."""
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ", ".join(map(_written, value)) or "none"
    return f"{value:.12g}" if isinstance(value, float) else str(value)
