"""The sensors: Jetson rails by jetson-stats and by the INA3221 files, RAPL, NVML; and the model as a meter.

Optional packages are imported when a meter is made; a sensor that is not there raises :class:`MeterError`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rowcast.energy.account import worker_energy
from rowcast.energy.meters import Between, CounterMeter, PowerMeter, change_load
from rowcast.energy.states import PowerStates
from rowcast.errors import LocalProtocolError, MeterError

__all__ = ["Ina3221", "JetsonStats", "Model", "Nvml", "NvmlPower", "Rapl"]

SYS = Path("/sys")

#: Rails that carry the whole module; where a board has one, the others are parts of it.
TOTAL_RAILS = ("VDD_IN", "POM_5V_IN")


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
        self._module = module or _imported(lambda: importlib.import_module("jtop"), self.name, "jetson-stats")
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
        power_mw = self._total().get("power")
        if isinstance(power_mw, bool) or not isinstance(power_mw, int | float):
            raise MeterError(
                f"meter jtop: expected power['tot']['power'] in mW, got {power_mw!r}; is it jetson-stats 4?"
            )
        return power_mw / 1000

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

    def _total(self) -> Mapping[str, Any]:
        try:
            power = self._client.power
        except self._errors as error:
            raise MeterError(f"meter jtop: expected a reading, got: {error}; restart its service") from error
        total = power.get("tot") if isinstance(power, Mapping) else None
        if not isinstance(total, Mapping):
            raise MeterError(f"meter jtop: expected power['tot'], got {power!r}; install jetson-stats 4 or newer")
        self._rail = str(total.get("name", self._rail))
        return total


class Ina3221(PowerMeter):
    """The rails of a Jetson, from the files of the kernel's INA3221 driver: mV times mA, or mW in older kernels.

    The rail that carries the whole module (VDD_IN or POM_5V_IN) is read where there is one, else the sum of all rails.

    Args:
        sys_root: where sysfs is.
        rails: names of the rails to add up instead.

    Raises:
        MeterError: no such sensor, or no rail of that name.

    Source: Documentation/hwmon/ina3221.rst of Linux; Jetson Linux Developer Guide for the names of the rails.
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
        totals = [rail for rail in TOTAL_RAILS if rail in found]
        self._names = list(rails) if rails is not None else totals[:1] or sorted(found)
        unknown = [rail for rail in self._names if rail not in found]
        if unknown or not self._names:
            raise MeterError(
                f"meter ina3221: no rail {', '.join(unknown) or 'given'}; known: {', '.join(sorted(found))}"
            )
        self._read = [found[rail] for rail in self._names]

    @property
    def source(self) -> str:
        """See :class:`rowcast.energy.Meter`."""
        text = "rail" if len(self._names) == 1 else "sum of rails"
        return f"sensor: INA3221, {text} {', '.join(self._names)}"

    def watts(self) -> float:
        """Sum over the rails (W)."""
        return math.fsum(read() for read in self._read)


def _rails(sys_root: Path) -> dict[str, Callable[[], float]]:
    """Every connected rail, and how to read its Watts."""
    found: dict[str, Callable[[], float]] = {}
    for chip in sorted((sys_root / "class" / "hwmon").glob("hwmon*")):
        if (chip / "name").is_file() and _text(chip / "name", "ina3221") == "ina3221":
            # Channel 7 of the driver is a sum of shunt voltages, no rail.
            for label in sorted(chip.glob("in[123]_label")):
                k = label.name[2]
                if (chip / f"curr{k}_input").is_file():
                    found[_text(label, "ina3221")] = _product(chip / f"in{k}_input", chip / f"curr{k}_input")
    for label in sorted((sys_root / "bus" / "i2c" / "drivers" / "ina3221x").glob("*/iio:device*/rail_name_*")):
        k = label.name.removeprefix("rail_name_")
        found[_text(label, "ina3221")] = _milliwatts(label.parent / f"in_power{k}_input")
    # Not connected.
    found.pop("NC", None)
    return found


def _product(volts: Path, amperes: Path) -> Callable[[], float]:
    return lambda: _integer(volts, "ina3221") * _integer(amperes, "ina3221") / 1e6


def _milliwatts(power: Path) -> Callable[[], float]:
    return lambda: _integer(power, "ina3221") / 1e3


class Rapl(CounterMeter):
    """The energy counters of a PC's processor packages and memory (RAPL), from the kernel's powercap files.

    Read it at least every ten minutes: a counter wraps around at some 65 to 260 kJ, and two wraps between two reads
    cannot be seen.

    Args:
        sys_root: where sysfs is.

    Raises:
        MeterError: no such counters, or they may not be read.

    Source: Documentation/power/powercap/powercap.rst of Linux.
    """

    name = "rapl"

    def __init__(self, sys_root: Path = SYS) -> None:
        super().__init__()
        self._zones: dict[str, Path] = {}
        folder = sys_root / "class" / "powercap"
        for zone in sorted(folder.glob("intel-rapl:*")):
            # Cores and graphics are parts of their package, 'psys' contains the packages; memory stands beside them.
            name = _text(zone / "name", self.name)
            if name.startswith(("package", "dram")):
                label = f"{name} ({zone.name})" if name in self._zones else name
                self._zones[label] = zone
        if not self._zones:
            raise MeterError(
                f"meter rapl: expected zones intel-rapl:* of packages in {folder}, found none; is this a PC, and is "
                "the kernel module intel_rapl_common loaded? (virtual machines have none)"
            )
        self._ranges = {label: _integer(zone / "max_energy_range_uj", self.name) for label, zone in self._zones.items()}
        self._raw = {label: _integer(zone / "energy_uj", self.name) for label, zone in self._zones.items()}
        self._counted_uj = 0

    @property
    def source(self) -> str:
        """See :class:`rowcast.energy.Meter`."""
        return f"sensor: RAPL, {', '.join(self._zones)}; without graphics card, disk, screen and radio"

    def count_j(self) -> float:
        """Sum over the zones (J) since the meter was made."""
        for label, zone in self._zones.items():
            raw = _integer(zone / "energy_uj", self.name)
            step = raw - self._raw[label]
            self._counted_uj += step if step >= 0 else step + self._ranges[label]
            self._raw[label] = raw
        return self._counted_uj / 1e6


class _Gpu:
    """One GPU behind NVML: opening, asking, and errors in our words."""

    def __init__(self, meter: str, index: int, module: Any) -> None:
        self._meter = meter
        self._module = module or _imported(lambda: importlib.import_module("pynvml"), meter, "nvidia-ml-py")
        self._open = False
        try:
            self._module.nvmlInit()
        except self._module.NVMLError as error:
            raise MeterError(
                f"meter {meter}: expected an NVIDIA driver, got: {error}; is there an NVIDIA GPU?"
            ) from error
        self._open = True
        try:
            self._gpu = self._module.nvmlDeviceGetHandleByIndex(index)
        except self._module.NVMLError as error:
            self.close()
            raise MeterError(f"meter {meter}: expected a GPU of number {index}, got: {error}") from error

    def ask(self, function: str, advice: str) -> float:
        """The value of an NVML function of this GPU, in thousandths of its unit."""
        try:
            return float(getattr(self._module, function)(self._gpu)) / 1e3
        except self._module.NVMLError as error:
            raise MeterError(f"meter {self._meter}: expected a value of {function}, got: {error}; {advice}") from error

    def close(self) -> None:
        if self._open:
            self._open = False
            self._module.nvmlShutdown()


class Nvml(CounterMeter):
    """The energy counter of an NVIDIA GPU (NVML, package ``nvidia-ml-py``).

    Args:
        index: which GPU.
        module: stands in for the module ``pynvml`` (tests).

    Raises:
        MeterError: the package, the driver or the GPU is missing. A GPU without a counter (before Volta) fails the
            proof; :class:`NvmlPower` reads its power.

    Source: NVML API reference, ``nvmlDeviceGetTotalEnergyConsumption`` (mJ since the driver was loaded).
    """

    name = "nvml"

    def __init__(self, index: int = 0, module: Any = None) -> None:
        super().__init__()
        self._index = index
        self._gpu = _Gpu(self.name, index, module)

    @property
    def source(self) -> str:
        """See :class:`rowcast.energy.Meter`."""
        return f"sensor: NVML, energy counter of GPU {self._index}; without the rest of the computer"

    def count_j(self) -> float:
        """J since the driver was loaded."""
        return self._gpu.ask("nvmlDeviceGetTotalEnergyConsumption", "GPUs before Volta have none: take 'nvml-power'")

    def close(self) -> None:
        """Leave the driver."""
        self._gpu.close()


class NvmlPower(PowerMeter):
    """The power of an NVIDIA GPU that has no energy counter (NVML, package ``nvidia-ml-py``).

    Args, errors: as :class:`Nvml`.

    Source: NVML API reference, ``nvmlDeviceGetPowerUsage`` (mW).
    """

    name = "nvml-power"

    def __init__(self, index: int = 0, module: Any = None) -> None:
        super().__init__()
        self._index = index
        self._gpu = _Gpu(self.name, index, module)

    @property
    def source(self) -> str:
        """See :class:`rowcast.energy.Meter`."""
        return f"sensor: NVML, power of GPU {self._index}; without the rest of the computer"

    def watts(self) -> float:
        """W now."""
        return self._gpu.ask("nvmlDeviceGetPowerUsage", "take another meter")

    def close(self) -> None:
        """Leave the driver."""
        self._gpu.close()


class Model:
    """No sensor: the table of power states applied to the worker's own journal, behind the protocol of a meter.

    A step enters with its end; until then its time counts as stall. So a figure in the middle of a step is too low,
    and at its end right.

    Args:
        records: the records of the worker's journal, which may still grow (:attr:`rowcast.journal.Journal.records`).
        power: Watts of the states; ``None`` takes the published table.
    """

    name = "model"

    def __init__(self, records: Sequence[Mapping[str, Any]], power: PowerStates | None = None) -> None:
        self._records = records
        self._power = power or PowerStates()
        self._first: float | None = None
        self._last = -math.inf

    @property
    def source(self) -> str:
        """See :class:`rowcast.energy.Meter`."""
        return self._power.source

    def prove(self, between: Between = change_load) -> None:
        """Nothing is measured, so nothing can be proved; :attr:`source` says 'model'."""

    def read_j(self, now: float) -> float:
        """See :class:`rowcast.energy.Meter`.

        Raises:
            ConfigError: the journal has no record yet, or as :func:`rowcast.energy.worker_energy`.
            LocalProtocolError: ``now`` went back.
        """
        if not now >= self._last:
            raise LocalProtocolError(
                f"meter model: expected times that do not go back, got {now} s after {self._last} s"
            )
        self._last = now
        if self._first is None:
            self._first = now
            return 0.0
        account = worker_energy(self._records, self._power, start_s=self._first, end_s=now)
        return account.total.joules

    def close(self) -> None:
        """Nothing is held."""


def _imported(load: Callable[[], Any], meter: str, package: str) -> Any:
    try:
        return load()
    except ImportError as error:
        raise MeterError(f"meter {meter}: expected the Python package {package}, got: {error}; install it") from error


def _text(path: Path, meter: str) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except PermissionError as error:
        raise MeterError(
            f"meter {meter}: {path} may not be read: {error.strerror}; run as root, or give this user "
            "read access to the file"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise MeterError(f"meter {meter}: expected a sensor's value in {path}, got: {error}") from error


def _integer(path: Path, meter: str) -> int:
    text = _text(path, meter)
    try:
        return int(text)
    except ValueError as error:
        raise MeterError(f"meter {meter}: expected a whole number in {path}, got {text!r}") from error
