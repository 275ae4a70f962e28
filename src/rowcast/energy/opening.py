"""Meters by name, and the search for one that works."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rowcast.energy.access import SYS
from rowcast.energy.jetson import Ina3221, JetsonStats
from rowcast.energy.meters import Between, Meter, change_load
from rowcast.energy.sensors import Model, Nvml, NvmlPower, Rapl
from rowcast.energy.states import PowerStates
from rowcast.errors import ConfigError, MeterError, near_match
from rowcast.registry import Registry

__all__ = ["CHOICES", "REGISTRY", "OpenedMeter", "open_meter", "register"]

#: Makes a sensor; takes the root of sysfs, which not all of them need.
MakeMeter = Callable[[Path], Meter]


def _checked(name: str, value: object) -> MakeMeter:
    if name in (*CHOICES, "model"):
        raise ConfigError(f"meter {name!r}: this name stands for a choice of sensors; take another")
    if not callable(value):
        raise ConfigError(
            f"meter {name!r}: expected a class or function that takes the root of sysfs and gives a "
            f"rowcast.energy.Meter, got {value!r}"
        )
    return value


#: Names that try several sensors, in this order.
CHOICES: Mapping[str, Sequence[str]] = {
    "jetson": ("jtop", "ina3221"),
    "auto": ("jtop", "ina3221", "rapl", "nvml", "nvml-power"),
}


#: Every sensor by its name.
REGISTRY: Registry[MakeMeter] = Registry("meter", "rowcast.meters", _checked)


def register(name: str, make: MakeMeter) -> MakeMeter:
    """Make a sensor known under a name; an entry point in the group ``rowcast.meters`` does so everywhere.

    Args:
        make: takes the root of sysfs; gives a :class:`rowcast.energy.Meter`, or raises :class:`MeterError`.

    Raises:
        ConfigError: a name that is taken, or something that cannot be called.
    """
    return REGISTRY.register(name, make)


_BUILT_IN: Mapping[str, MakeMeter] = {
    "jtop": lambda sys_root: JetsonStats(),
    "ina3221": Ina3221,
    "rapl": Rapl,
    "nvml": lambda sys_root: Nvml(),
    "nvml-power": lambda sys_root: NvmlPower(),
}
for _name, _make in _BUILT_IN.items():
    register(_name, _make)


@dataclass(frozen=True)
class OpenedMeter:
    """A meter that has proved that it reads, and why those tried before it were refused."""

    meter: Meter
    refused: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"energy from {self.meter.name}: {self.meter.source}"]
        return "\n".join(lines + [f"refused: {reason}" for reason in self.refused.values()])


def open_meter(
    kind: str = "auto",
    *,
    between: Between = change_load,
    records: Sequence[Mapping[str, Any]] | None = None,
    power: PowerStates | None = None,
    sys_root: Path = SYS,
) -> OpenedMeter:
    """Open the meter of that name and let it prove that it reads.

    Args:
        kind: 'jtop', 'ina3221', 'rapl', 'nvml', 'nvml-power' or 'model'; 'jetson' takes the first of the first two
            that proves itself, 'auto' the first of the five. A model never steps in for a sensor unasked.
        between: changes the load between the reads of the proof; see :meth:`Meter.prove`.
        records, power: for 'model': the worker's journal, and its table of power states.
        sys_root: where sysfs is.

    Raises:
        ConfigError: no such meter (the nearest name is in the message), or 'model' without ``records``.
        MeterError: none of those tried proves itself; the message says why, for each.
    """
    if kind == "model":
        if records is None:
            raise ConfigError("meter 'model': expected the records of the worker's journal, got none")
        model = Model(records, power)
        model.prove(between)
        return OpenedMeter(model)
    if kind not in REGISTRY and kind not in CHOICES:
        raise ConfigError(f"unknown meter {kind!r}; {near_match(kind, [*REGISTRY, *CHOICES, 'model'])}")
    refused: dict[str, str] = {}
    for name in CHOICES.get(kind, (kind,)):
        try:
            return OpenedMeter(_proved(REGISTRY[name], sys_root, between), refused)
        except MeterError as error:
            refused[name] = str(error)
    if len(refused) == 1:
        raise MeterError(*refused.values())
    reasons = "".join(f"\n  {reason}" for reason in refused.values())
    raise MeterError(f"no power sensor works here; without one there is 'model', the table of power states:{reasons}")


def _proved(make: MakeMeter, sys_root: Path, between: Between) -> Meter:
    meter = make(sys_root)
    try:
        meter.prove(between)
    except BaseException:
        meter.close()
        raise
    return meter
