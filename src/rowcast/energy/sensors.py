"""Sensors of computers and of their GPUs: RAPL, NVML; and the model as a meter. Those of Jetsons: ``jetson.py``.

Optional packages are imported when a meter is made; a sensor that is not there raises :class:`MeterError`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rowcast.energy.access import SYS, imported, integer_in, text_in
from rowcast.energy.account import worker_energy
from rowcast.energy.meters import Between, CounterMeter, PowerMeter, change_load
from rowcast.energy.states import PowerStates
from rowcast.errors import LocalProtocolError, MeterError

__all__ = ["Model", "Nvml", "NvmlPower", "Rapl"]


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
            name = text_in(zone / "name", self.name)
            if name.startswith(("package", "dram")):
                label = f"{name} ({zone.name})" if name in self._zones else name
                self._zones[label] = zone
        if not self._zones:
            raise MeterError(
                f"meter rapl: expected zones intel-rapl:* of packages in {folder}, found none; is this a PC, and is "
                "the kernel module intel_rapl_common loaded? (virtual machines have none)"
            )
        zones = self._zones.items()
        self._ranges = {label: integer_in(zone / "max_energy_range_uj", self.name) for label, zone in zones}
        self._raw = {label: integer_in(zone / "energy_uj", self.name) for label, zone in zones}
        self._counted_uj = 0

    @property
    def source(self) -> str:
        """See :class:`rowcast.energy.Meter`."""
        return f"sensor: RAPL, {', '.join(self._zones)}; without graphics card, disk, screen and radio"

    def count_j(self) -> float:
        """Sum over the zones (J) since the meter was made."""
        for label, zone in self._zones.items():
            raw = integer_in(zone / "energy_uj", self.name)
            step = raw - self._raw[label]
            self._counted_uj += step if step >= 0 else step + self._ranges[label]
            self._raw[label] = raw
        return self._counted_uj / 1e6


class _Gpu:
    """One GPU behind NVML: opening, asking, and errors in our words."""

    def __init__(self, meter: str, index: int, module: Any) -> None:
        self._meter = meter
        self._module = module or imported(lambda: importlib.import_module("pynvml"), meter, "nvidia-ml-py")
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
