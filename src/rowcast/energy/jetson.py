"""Sensors of Jetsons: by the service of jetson-stats, and by the files of the INA3221 chips.

A board measures some of its rails, and which of them add up to the whole module is not in the files. It was published:

- Orin Nano, Orin NX, Xavier NX, TX2 NX, TX2 and TX1 measure their input, ``VDD_IN`` (Nano: ``POM_5V_IN``); the other
  rails of the module are parts of it, and those of a carrier board (``VDD_MUX`` and on) stand beside it.
- AGX Orin has no such rail. Its module has two inputs: GPU, SoC, CPU and CV are fed from one, ``VIN_SYS_5V0`` from the
  other, and ``VDDQ_VDD2_1V8AO`` from ``VIN_SYS_5V0``: whoever adds up all four counts the memory twice.
- AGX Xavier has none either; its six rails stand beside each other.

Sources: Jetson Linux Developer Guide r36.4.3, "Software-Based Power Consumption Modeling" (Orin; r35.2.1 and r32.6.1
for older boards); NVIDIA Developer Forums, topics 223111 (AGX Orin), 81016 (AGX Xavier), 73608 (Nano), 201037 (TX2);
``jetson/JetsonPowerRails.md`` of energymon, which has them side by side.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rowcast.energy.access import SYS, imported, integer_in, text_in
from rowcast.energy.meters import PowerMeter
from rowcast.errors import MeterError

__all__ = ["Ina3221", "JetsonStats", "rails_of_the_module"]

#: Rails that carry the whole module; where a board has one, the others are parts of it, or of its carrier board.
TOTAL_RAILS = ("VDD_IN", "POM_5V_IN")
#: Boards without one: the rails that add up to the module, and by which of them the board is known.
SUMS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("AGX Orin", ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), "VDD_GPU_SOC"),
    ("AGX Xavier", ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"), "VDDRQ"),
)
#: Labels of channels to which nothing is connected.
NOT_CONNECTED = ("NC", "")


def rails_of_the_module(names: Collection[str]) -> tuple[str, ...]:
    """Which rails add up to the whole module, each part of it once; all of them where the board is not known.

    Args:
        names: rails that a board measures.

    Raises:
        MeterError: the board is known, and lacks one of them: what is left is less than the module takes.
    """
    for total in TOTAL_RAILS:
        if total in names:
            return (total,)
    for board, rails, mark in SUMS:
        if mark in names:
            lacking = [rail for rail in rails if rail not in names]
            if lacking:
                raise MeterError(
                    f"expected the rails {', '.join(rails)} of an {board}, found no {', '.join(lacking)}: the sum "
                    "of the others would be too low; name the rails that are wanted, or take another meter"
                )
            return rails
    return tuple(sorted(names))


class JetsonStats(PowerMeter):
    """The total power of a Jetson, from the service of jetson-stats 4 (package ``jetson-stats``, module ``jtop``).

    Args:
        module: stands in for the module ``jtop`` (tests).

    Raises:
        MeterError: the package is missing, or its service does not answer.
    """

    name = "jtop"

    def __init__(self, module: Any = None) -> None:
        super().__init__()
        self._module = module or imported(lambda: importlib.import_module("jtop"), self.name, "jetson-stats")
        #: What jetson-stats raises; OSError and EOFError where its service's socket is missing or closed.
        self._errors = (self._module.JtopException, OSError, EOFError)
        self._client = self._module.jtop()
        try:
            self._client.start()
        except self._errors as error:
            raise MeterError(
                f"meter jtop: expected the service of jetson-stats, got: {error}; start it, and put the user "
                "into its group"
            ) from error
        self._rail = "all rails"

    @property
    def source(self) -> str:
        """See :class:`rowcast.energy.Meter`."""
        return f"sensor: jetson-stats, total power of the module ({self._rail})"

    def watts(self) -> float:
        """The last value of the service (W; jetson-stats gives mW)."""
        # A connection that broke shows here only: the values themselves are the last ones, for ever.
        self._expect_alive(spin=True)
        rails, total = self._power()
        if isinstance(rails, Mapping) and total.get("name") not in TOTAL_RAILS and (names := _known_sum(rails)):
            # Its own total of an AGX Orin is the sum of all rails, with the memory in it twice.
            self._rail = ", ".join(names)
            return math.fsum(_milliwatts_of(rails[name], f"power['rail'][{name!r}]") for name in names) / 1000
        self._rail = str(total.get("name", self._rail))
        return _milliwatts_of(total, "power['tot']") / 1000

    def fresh_watts(self) -> float:
        """Waits for the service's next value."""
        self._expect_alive(spin=False)
        return self.watts()

    def _expect_alive(self, *, spin: bool) -> None:
        try:
            alive = self._client.ok(spin=spin)
        except self._errors as error:
            raise MeterError(f"meter jtop: expected the next value of the service, got: {error}; restart it") from error
        if not alive:
            raise MeterError("meter jtop: expected the next value of the service, it has stopped; restart it")

    def close(self) -> None:
        """Leave the service."""
        self._client.close()

    def _power(self) -> tuple[object, Mapping[str, Any]]:
        """What the service says of the rails, and of the whole."""
        try:
            power = self._client.power
        except self._errors as error:
            raise MeterError(f"meter jtop: expected a reading, got: {error}; restart its service") from error
        if not isinstance(power, Mapping) or not isinstance(power.get("tot"), Mapping):
            raise MeterError(f"meter jtop: expected power['tot'], got {power!r}; install jetson-stats 4 or newer")
        return power.get("rail"), power["tot"]


def _known_sum(rails: Mapping[str, Any]) -> tuple[str, ...]:
    """The rails of the module where the board is a known one without a rail of the whole; else none."""
    if not any(mark in rails for _, _, mark in SUMS):
        return ()
    try:
        return rails_of_the_module(rails)
    except MeterError as error:
        raise MeterError(f"meter jtop: {error}") from error


def _milliwatts_of(told: Any, what: str) -> float:
    power_mw = told.get("power") if isinstance(told, Mapping) else None
    if isinstance(power_mw, bool) or not isinstance(power_mw, int | float):
        raise MeterError(f"meter jtop: expected {what}['power'] in mW, got {power_mw!r}; is it jetson-stats 4?")
    return float(power_mw)


@dataclass(frozen=True)
class _Rail:
    """How to read a rail (W), and why it cannot be read as it is; empty: it can."""

    watts: Callable[[], float]
    problem: str = ""


class Ina3221(PowerMeter):
    """The rails of a Jetson, from the files of the kernel's INA3221 driver: mV times mA, or mW in older kernels.

    Read are the rails that carry the whole module, see :func:`rails_of_the_module`: each by its label, in whatever
    order the chips and their channels are numbered.

    Args:
        sys_root: where sysfs is.
        rails: names of the rails to add up instead.

    Raises:
        MeterError: no such sensor, no rail of that name, one that is switched off, or one of the module is missing.

    Source: Documentation/hwmon/ina3221.rst of Linux (JetPack 5 and 6); for JetPack 4 the driver ``ina3221x`` of L4T
    32. See above for the rails.
    """

    name = "ina3221"

    def __init__(self, sys_root: Path = SYS, rails: Sequence[str] | None = None) -> None:
        super().__init__()
        found = _rails(sys_root)
        if not found:
            raise MeterError(
                f"meter ina3221: expected rails of an INA3221 in {sys_root}/class/hwmon or "
                f"{sys_root}/bus/i2c/drivers/ina3221x, found none; is this a Jetson?"
            )
        try:
            self._names = tuple(rails) if rails is not None else rails_of_the_module(found)
        except MeterError as error:
            raise MeterError(f"meter ina3221: {error}") from error
        unknown = [rail for rail in self._names if rail not in found]
        if unknown or not self._names:
            raise MeterError(
                f"meter ina3221: no rail {', '.join(unknown) or 'given'}; known: {', '.join(sorted(found))}"
            )
        for rail in self._names:
            if found[rail].problem:
                raise MeterError(f"meter ina3221: rail {rail} cannot be read: {found[rail].problem}")
        self._read = [found[rail].watts for rail in self._names]

    @property
    def source(self) -> str:
        """See :class:`rowcast.energy.Meter`."""
        text = "rail" if len(self._names) == 1 else "sum of rails"
        return f"sensor: INA3221, {text} {', '.join(self._names)}"

    def watts(self) -> float:
        """Sum over the rails (W)."""
        return math.fsum(read() for read in self._read)


def _rails(sys_root: Path) -> dict[str, _Rail]:
    """Every connected rail by its label; where several have the same, by label and chip."""
    found: dict[str, _Rail] = {}
    # A kernel has one of the two drivers; where both had files, a rail would be in them twice.
    for label, chip, rail in list(_rails_by_hwmon(sys_root)) or list(_rails_by_iio(sys_root)):
        if label not in NOT_CONNECTED:
            found[label if label not in found else f"{label} ({chip})"] = rail
    return found


def _rails_by_hwmon(sys_root: Path) -> Iterator[tuple[str, str, _Rail]]:
    """Those of JetPack 5 and 6: label, chip, rail."""
    places = [
        *(sys_root / "class" / "hwmon").glob("hwmon*"),
        *(sys_root / "bus" / "i2c" / "drivers" / "ina3221").glob("*/hwmon/hwmon*"),
    ]
    # One chip is in both folders, by links to one place.
    for chip in sorted({place.resolve() for place in places}):
        if not (chip / "name").is_file() or text_in(chip / "name", "ina3221") != "ina3221":
            continue
        # in4 .. in6 are shunt voltages, in7 is their sum: no rails. A channel that is not connected may lack a label.
        for label in sorted(chip.glob("in[123]_label")):
            k = label.name[2]
            yield text_in(label, "ina3221"), chip.name, _channel(chip, k)


def _channel(chip: Path, k: str) -> _Rail:
    volts, amperes, switch = chip / f"in{k}_input", chip / f"curr{k}_input", chip / f"in{k}_enable"
    problem = ""
    if switch.is_file() and text_in(switch, "ina3221") == "0":
        problem = f"its channel is switched off; switch it on: echo 1 | sudo tee {switch}"
    elif not amperes.is_file():
        problem = f"there is no {amperes}"
    return _Rail(lambda: integer_in(volts, "ina3221") * integer_in(amperes, "ina3221") / 1e6, problem)


def _rails_by_iio(sys_root: Path) -> Iterator[tuple[str, str, _Rail]]:
    """Those of JetPack 4 and before: label, chip, rail."""
    for label in sorted((sys_root / "bus" / "i2c" / "drivers" / "ina3221x").glob("*/iio*device*/rail_name_*")):
        power = label.parent / f"in_power{label.name.removeprefix('rail_name_')}_input"
        problem = "" if power.is_file() else f"there is no {power}"
        yield text_in(label, "ina3221"), label.parent.parent.name, _rail_of_milliwatts(power, problem)


def _rail_of_milliwatts(power: Path, problem: str) -> _Rail:
    return _Rail(lambda: integer_in(power, "ina3221") / 1e3, problem)
