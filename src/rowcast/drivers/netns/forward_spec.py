"""What the process of the medium is told: a JSON file with everything in it, the traces as arrays.

:func:`save_spec` writes it and :func:`load_spec` makes the same of it, traces to the bit: floats are written as the
shortest text that is read as the same float.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rowcast.config import Checked, load_values, read_file, setting
from rowcast.drivers.netns.medium import MediumLink
from rowcast.errors import ConfigError
from rowcast.links import CHANNELS, Trace

__all__ = ["ForwardSettings", "ForwardSpec", "Port", "Station", "down_link", "load_spec", "save_spec", "up_link"]

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


@dataclasses.dataclass(frozen=True)
class ForwardSettings(Checked):
    """How the process of the medium works."""

    channel: str = setting("independent", "How stations share the medium.", choices=CHANNELS)
    seed: int = setting(0, "Of loss and jitter.", low=0)
    summary: Path | None = setting(None, "Where the counters are written at the end, as JSON. None: nowhere.")
    packet_log: Path | None = setting(
        None, "Where packets are logged as they come out of the medium (pcap). None: nowhere. Needs the package dpkt."
    )
    log_snap_bytes: int = setting(
        128, "So much of each packet is logged: 128 has all headers.", unit="byte", low=14, high=65535
    )
    log_limit_bytes: int = setting(
        1 << 30, "The log grows to this size; what comes later is counted only.", unit="byte", low=1 << 10, high=1 << 40
    )


@dataclasses.dataclass(frozen=True)
class Port:
    """A host as the medium sees it.

    Args:
        interface: the end of its cable in the namespace of the medium.
        mac: the address of the other end, which is the host's, as ``02:00:00:00:00:01``.

    Raises:
        ConfigError: the address is none.
    """

    interface: str
    mac: str

    def __post_init__(self) -> None:
        if not _MAC.fullmatch(self.mac):
            raise ConfigError(
                f"interface {self.interface!r}: mac: expected six pairs of small hexadecimal digits, as in "
                f"'02:00:00:00:00:01', got {self.mac!r}"
            )

    @property
    def address(self) -> bytes:
        """The address as it is in a frame."""
        return bytes.fromhex(self.mac.replace(":", ""))


@dataclasses.dataclass(frozen=True)
class Station:
    """A station, and its link in both directions: ``up`` to the access point, ``down`` from there."""

    port: Port
    up: MediumLink
    down: MediumLink


@dataclasses.dataclass(frozen=True)
class ForwardSpec:
    """Everything that the process of the medium is told.

    Raises:
        ConfigError: no station, or an interface or an address that is there twice.
    """

    access_point: Port
    stations: tuple[Station, ...]
    settings: ForwardSettings = dataclasses.field(default_factory=ForwardSettings)

    def __post_init__(self) -> None:
        if not self.stations:
            raise ConfigError("medium: expected one station or more, got none")
        ports = [self.access_point, *(station.port for station in self.stations)]
        for kind in ("interface", "mac"):
            names = [getattr(port, kind) for port in ports]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ConfigError(f"medium: {kind}: expected one for each host, got {twice[0]!r} twice")

    def links(self) -> dict[int, MediumLink]:
        """All links, by their key; see :func:`up_link`."""
        found = {}
        for index, station in enumerate(self.stations):
            found[up_link(index)], found[down_link(index)] = station.up, station.down
        return found


def up_link(station: int) -> int:
    """The key of the link from a station, counted from 0, to the access point."""
    return 2 * station


def down_link(station: int) -> int:
    """The key of the link from the access point to a station."""
    return 2 * station + 1


def save_spec(spec: ForwardSpec, path: str | Path) -> None:
    """Write a file of which :func:`load_spec` makes the same.

    Raises:
        ConfigError: the file cannot be written.
    """
    settings = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in dataclasses.asdict(spec.settings).items()
        if value is not None
    }
    content = {
        "medium": settings,
        "access_point": dataclasses.asdict(spec.access_point),
        "stations": [
            {**dataclasses.asdict(station.port), "up": _link_table(station.up), "down": _link_table(station.down)}
            for station in spec.stations
        ],
    }
    try:
        Path(path).write_text(json.dumps(content) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}; name another file") from error


def load_spec(path: str | Path) -> ForwardSpec:
    """Read what :func:`save_spec` has written.

    Raises:
        ConfigError: the file cannot be read, or something in it is missing, unknown or out of its range.
        TraceError: a trace breaks the rules of :class:`~rowcast.links.Trace`.
    """
    content = read_file(path)
    wanted = ("medium", "access_point", "stations")
    if sorted(content) != sorted(wanted) or not isinstance(content["stations"], list):
        raise ConfigError(
            f"{path}: expected {', '.join(wanted)} (a list), got {', '.join(sorted(content)) or 'nothing'}"
        )
    return ForwardSpec(
        load_values(Port, _table(path, "access_point", content["access_point"])),
        tuple(_station(path, _table(path, "station", each)) for each in content["stations"]),
        load_values(ForwardSettings, _table(path, "medium", content["medium"])),
    )


def _table(path: str | Path, name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: {name}: expected a table, got {type(value).__name__}")
    return dict(value)


def _station(path: str | Path, table: dict[str, Any]) -> Station:
    up, down = (_link(path, _table(path, way, table.pop(way, None))) for way in ("up", "down"))
    return Station(load_values(Port, table), up, down)


def _link_table(link: MediumLink) -> dict[str, Any]:
    trace = link.trace
    fields = {field.name: getattr(link, field.name) for field in dataclasses.fields(link) if field.name != "trace"}
    return {
        **{name: value for name, value in fields.items() if value is not None},
        "trace": {
            "name": trace.name,
            "loop": trace.loop,
            "duration_s": None if math.isinf(trace.duration_s) else trace.duration_s,
            "times_s": trace.times_s.tolist(),
            "rates_bps": trace.rates_bps.tolist(),
        },
    }


def _link(path: str | Path, table: dict[str, Any]) -> MediumLink:
    trace = _table(path, "trace", table.pop("trace", None))
    wanted = ("name", "loop", "duration_s", "times_s", "rates_bps")
    if sorted(trace) != sorted(wanted):
        raise ConfigError(f"{path}: trace: expected {', '.join(wanted)}, got {', '.join(sorted(trace)) or 'nothing'}")
    return load_values(MediumLink, {**table, "trace": _trace(trace)})


def _trace(table: Mapping[str, Any]) -> Trace:
    duration_s = table["duration_s"]
    return Trace(
        table["times_s"],
        table["rates_bps"],
        str(table["name"]),
        bool(table["loop"]),
        duration_s=math.inf if duration_s is None else float(duration_s),
    )
