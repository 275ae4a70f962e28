"""Meters: they read what the files say, prove themselves, and a sensor that is missing or frozen is refused."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from rowcast.energy import (
    CounterMeter,
    Ina3221,
    JetsonStats,
    Meter,
    MeterLog,
    Model,
    Nvml,
    NvmlPower,
    PowerMeter,
    PowerStates,
    Rapl,
    change_load,
    check_alive,
    open_meter,
    worker_energy,
)
from rowcast.errors import ConfigError, LocalProtocolError, MeterError

#: The published energy logs of ROG, if this checkout stands beside its measurements.
POWER_JSON = Path(__file__).resolve().parents[2] / "shared" / "data" / "rog-artifact" / "power.json"


class ListedPower(PowerMeter):
    """Gives the Watts of a list, then the last of them for ever."""

    name = "listed"
    source = "a list"

    def __init__(self, *watts: float) -> None:
        super().__init__()
        self._coming = list(watts)

    def watts(self) -> float:
        return self._coming.pop(0) if len(self._coming) > 1 else self._coming[0]


class ListedCounter(CounterMeter):
    name = "counted"
    source = "a list"

    def __init__(self, *joules: float) -> None:
        super().__init__()
        self._coming = list(joules)

    def count_j(self) -> float:
        return self._coming.pop(0) if len(self._coming) > 1 else self._coming[0]


def nothing(k: int) -> None:
    """No load between two reads."""


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n", encoding="ascii")


# -- proof and watch ------------------------------------------------------------------------------------------


def test_power_is_integrated_by_trapezes() -> None:
    meter = ListedPower(10.0, 20.0, 20.5)
    assert [meter.read_j(now) for now in (5.0, 7.0, 8.0)] == [0.0, 30.0, 50.25]
    with pytest.raises(LocalProtocolError, match="go back"):
        meter.read_j(7.5)


def test_a_counter_starts_at_its_first_reading() -> None:
    meter = ListedCounter(100.0, 103.0, 110.0)
    assert [meter.read_j(now) for now in (5.0, 7.0, 8.0)] == [0.0, 3.0, 10.0]


def test_a_frozen_sensor_fails_the_proof() -> None:
    loads: list[int] = []
    with pytest.raises(MeterError, match=r"got 5\.93 W in each of 12 reads under changing load: the sensor is frozen"):
        ListedPower(5.93).prove(loads.append)
    assert loads == list(range(1, 12))
    with pytest.raises(MeterError, match="a counter that increases, got 7 J"):
        ListedCounter(7.0).prove(nothing)
    with pytest.raises(MeterError, match="it went back"):
        ListedCounter(1.0, 2.0, 1.5, 3.0).prove(nothing)
    ListedPower(5.93, 5.93, 5.94).prove(nothing)
    ListedCounter(7.0, 7.5).prove(nothing)


@pytest.mark.parametrize("power_w", [0.0, -3.0, float("nan"), 1e6])
def test_an_impossible_power_fails_the_proof(power_w: float) -> None:
    with pytest.raises(MeterError, match="is it the right rail"):
        ListedPower(5.0, power_w, 6.0).prove(nothing)


def test_a_sensor_that_freezes_during_a_run_is_refused() -> None:
    """As published: it moves for some seconds, so a proof passes, then shows one value to the end."""
    meter = ListedPower(4.74, 4.81, 5.02, 9.8, 13.1, 5.93)
    log = MeterLog("robot-2", meter)
    with pytest.raises(MeterError, match=r"got 5.93 in \d+ reads over 30.0 s: the sensor is frozen"):
        for k in range(16_801):
            log.sample(k / 2)
    assert k == 65
    counter = MeterLog("robot-2", ListedCounter(1.0, 2.0, 3.0))
    with pytest.raises(MeterError, match="frozen"):
        for k in range(100):
            counter.sample(float(k))


def test_few_reads_far_apart_are_not_taken_for_frozen() -> None:
    meter = ListedPower(5.0)
    assert [meter.read_j(now) for now in (0.0, 60.0, 120.0)] == [0.0, 300.0, 600.0]


def test_the_published_logs_are_told_apart() -> None:
    """power.json holds, of each log, its samples, mean, and how long the last value lasted; the rest is noise here."""
    if not POWER_JSON.is_file():
        pytest.skip("the measurements of the ROG artifact (power.json) are not beside this checkout")
    told: list[tuple[str, str]] = []
    noise = random.Random(0)
    for log in json.loads(POWER_JSON.read_text(encoding="utf-8")):
        if log["status"] == "log absent":
            continue
        samples, tail = log["samples"], round(log["constant_tail_s"] / 0.5)
        lively = [log["mean_W"] + round(noise.gauss(0.0, 0.15), 2) for _ in range(samples - tail)]
        series = [log["first_W"], *lively[1:], *[log["mean_W"]] * tail]
        try:
            check_alive([k / 2 for k in range(samples)], series, f"{log['run']} {log['worker']}")
            told.append((log["status"], "ok"))
        except MeterError:
            told.append((log["status"], "frozen reading"))
    assert {status for status, _ in told} == {"ok", "frozen reading"}
    assert all(status == found for status, found in told)


def test_logs_that_prove_nothing() -> None:
    with pytest.raises(MeterError, match="two readings or more, got 1"):
        check_alive([0.0], [5.0], "log")
    with pytest.raises(MeterError, match="expected numbers, got nan"):
        check_alive([0.0, 1.0], [5.0, float("nan")], "log")
    with pytest.raises(LocalProtocolError, match="a time for each reading"):
        check_alive([0.0, 1.0], [5.0], "log")


def test_a_log_of_a_meter_is_the_energy_of_a_worker() -> None:
    log = MeterLog("robot-2", ListedPower(10.0, 20.0, 10.0))
    log.sample(100.0)
    with pytest.raises(MeterError, match="two readings of meter listed or more, got 1"):
        log.energy()
    log.sample(102.0)
    log.sample(103.0)
    account = log.energy()
    assert (account.total.joules, account.total.source, account.states) == (45.0, "a list", None)
    assert account.joules_after(1.0) == 15.0
    with pytest.raises(MeterError, match="read it until the end of the run"):
        account.joules_after(4.0)


def test_the_load_between_two_reads_is_work_and_no_clock() -> None:
    change_load(1)
    change_load(2)


# -- Jetson ---------------------------------------------------------------------------------------------------


def hwmon(root: Path, *rails: tuple[str, int, int], chip: str = "hwmon3") -> Path:
    folder = root / "class" / "hwmon" / chip
    write(folder, name="ina3221")
    for k, (label, millivolts, milliamperes) in enumerate(rails, start=1):
        write(folder, **{f"in{k}_label": label, f"in{k}_input": millivolts, f"curr{k}_input": milliamperes})
    return folder


def test_rails_from_hwmon_are_volts_times_amperes(tmp_path: Path) -> None:
    write(tmp_path / "class" / "hwmon" / "hwmon0", name="thermal-fan")
    folder = hwmon(tmp_path, ("VDD_IN", 5000, 1500), ("VDD_CPU_GPU_CV", 5000, 400), ("VDD_SOC", 5000, 250))
    write(folder, in7_label="sum of shunt voltages")
    meter = Ina3221(tmp_path)
    assert meter.read_w(0.0) == 7.5
    assert meter.source == "sensor: INA3221, rail VDD_IN"
    parts = Ina3221(tmp_path, rails=["VDD_CPU_GPU_CV", "VDD_SOC"])
    assert parts.read_w(0.0) == 3.25
    with pytest.raises(MeterError, match="no rail VDD; known: VDD_CPU_GPU_CV, VDD_IN, VDD_SOC"):
        Ina3221(tmp_path, rails=["VDD"])


def test_without_a_rail_of_the_whole_module_all_are_added(tmp_path: Path) -> None:
    hwmon(tmp_path, ("GPU", 19000, 100), ("CPU", 19000, 50), ("NC", 0, 0))
    hwmon(tmp_path, ("SYS5V", 5000, 200), chip="hwmon4")
    meter = Ina3221(tmp_path)
    assert meter.read_w(0.0) == pytest.approx(1.9 + 0.95 + 1.0)
    assert meter.source == "sensor: INA3221, sum of rails CPU, GPU, SYS5V"


def test_rails_of_older_kernels_are_milliwatts(tmp_path: Path) -> None:
    folder = tmp_path / "bus" / "i2c" / "drivers" / "ina3221x" / "6-0040" / "iio:device0"
    write(folder, rail_name_0="POM_5V_IN", in_power0_input=4321, rail_name_1="POM_5V_GPU", in_power1_input=100)
    assert Ina3221(tmp_path).read_w(0.0) == 4.321


def test_a_rail_proves_itself_or_is_refused(tmp_path: Path) -> None:
    folder = hwmon(tmp_path, ("VDD_IN", 5000, 800))
    with pytest.raises(MeterError, match="got 4 W in each of 12 reads"):
        open_meter("ina3221", between=nothing, sys_root=tmp_path)
    opened = open_meter("ina3221", between=lambda k: write(folder, curr1_input=800 + k % 2), sys_root=tmp_path)
    assert str(opened) == "energy from ina3221: sensor: INA3221, rail VDD_IN"


def test_files_that_are_no_numbers_or_vanish(tmp_path: Path) -> None:
    folder = hwmon(tmp_path, ("VDD_IN", 5000, 800))
    meter = Ina3221(tmp_path)
    write(folder, curr1_input="a lot")
    with pytest.raises(MeterError, match=r"expected a whole number in .*curr1_input, got 'a lot'"):
        meter.read_j(0.0)
    (folder / "curr1_input").unlink()
    with pytest.raises(MeterError, match=r"expected a sensor's value in .*curr1_input, got: .*No such file"):
        meter.read_j(0.0)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hwmon(tmp_path, ("VDD_IN", 5000, 800))
    meter = Ina3221(tmp_path)

    def forbidden(self: Path, encoding: str) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", forbidden)
    with pytest.raises(MeterError, match="may not be read: Permission denied; run as root"):
        meter.read_j(0.0)


class Service:
    """What the module jtop of jetson-stats 4 looks like from outside."""

    class JtopException(Exception):
        pass

    def __init__(self, *power_mw: object, up: bool = True) -> None:
        self._coming = list(power_mw)
        self._up = up
        self.closed = 0

    def jtop(self) -> Service:
        return self

    def start(self) -> None:
        if not self._up:
            raise self.JtopException("The jtop.service is not active")

    def ok(self, spin: bool = False) -> bool:
        if len(self._coming) > 1 and not spin:
            self._coming.pop(0)
        return self._up

    @property
    def power(self) -> Any:
        return {"rail": {}, "tot": {"name": "VDD_IN", "power": self._coming[0]}}

    def close(self) -> None:
        self.closed += 1


def test_jetson_stats_reads_and_a_stuck_service_is_refused() -> None:
    meter = JetsonStats(Service(4000, 4740, 5930))
    meter.prove(nothing)
    assert meter.read_w(0.0) == 5.93
    assert meter.source == "sensor: jetson-stats, total power of the module (VDD_IN)"
    with pytest.raises(MeterError, match=r"got 5.93 W in each of 12 reads .* frozen"):
        JetsonStats(Service(5930)).prove(nothing)


def test_jetson_stats_that_does_not_answer() -> None:
    with pytest.raises(MeterError, match=r"expected the service of jetson-stats, got: The jtop.service is not active"):
        JetsonStats(Service(1, up=False))
    stopped = Service(4000, 4740)
    meter = JetsonStats(stopped)
    stopped._up = False
    with pytest.raises(MeterError, match="it has stopped; restart it"):
        meter.prove(nothing)
    with pytest.raises(MeterError, match="it has stopped; restart it"):
        meter.read_j(0.0)
    with pytest.raises(MeterError, match="in mW, got None"):
        JetsonStats(Service(None)).read_j(0.0)
    meter.close()
    assert stopped.closed == 1


# -- RAPL -----------------------------------------------------------------------------------------------------


def powercap(root: Path) -> Path:
    folder = root / "class" / "powercap"
    zones = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:0:1": "dram", "intel-rapl:1": "psys"}
    for zone, name in zones.items():
        write(folder / zone, name=name, energy_uj=1_000_000, max_energy_range_uj=10_000_000)
    write(folder / "intel-rapl-mmio:0", name="package-0", energy_uj=1, max_energy_range_uj=10_000_000)
    return folder


def test_rapl_adds_packages_and_memory_and_unwraps(tmp_path: Path) -> None:
    folder = powercap(tmp_path)
    meter = Rapl(tmp_path)
    assert "RAPL, package-0, dram;" in meter.source
    assert meter.read_j(0.0) == 0.0
    write(folder / "intel-rapl:0", energy_uj=9_000_000)
    write(folder / "intel-rapl:0:0", energy_uj=5_000_000)
    assert meter.read_j(1.0) == 8.0
    write(folder / "intel-rapl:0", energy_uj=2_000_000)  # 10 - 9 + 2
    write(folder / "intel-rapl:0:1", energy_uj=1_500_000)
    assert meter.read_j(2.0) == 8.0 + 3.0 + 0.5
    write(folder / "intel-rapl:0", energy_uj=2_250_000)
    assert meter.read_j(3.0) == 11.75


def test_rapl_of_two_sockets(tmp_path: Path) -> None:
    folder = powercap(tmp_path)
    write(folder / "intel-rapl:2", name="package-1", energy_uj=0, max_energy_range_uj=10_000_000)
    write(folder / "intel-rapl:2:0", name="dram", energy_uj=0, max_energy_range_uj=10_000_000)
    meter = Rapl(tmp_path)
    write(folder / "intel-rapl:2:0", energy_uj=250_000)
    assert meter.count_j() == 0.25
    assert "package-0, dram, package-1, dram (intel-rapl:2:0);" in meter.source


def test_rapl_whose_counter_stands_still_is_refused(tmp_path: Path) -> None:
    powercap(tmp_path)
    with pytest.raises(MeterError, match="meter rapl: expected a counter that increases"):
        open_meter("rapl", between=nothing, sys_root=tmp_path)


# -- NVML -----------------------------------------------------------------------------------------------------


class Driver:
    """What the module pynvml looks like from outside; without a counter when ``counter`` is empty."""

    class NVMLError(Exception):
        pass

    def __init__(self, counter: list[int], present: bool = True) -> None:
        self._counter = counter
        self._present = present
        self.inits = 0

    def nvmlInit(self) -> None:
        if not self._present:
            raise self.NVMLError("Driver Not Loaded")
        self.inits += 1

    def nvmlShutdown(self) -> None:
        self.inits -= 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index:
            raise self.NVMLError("Invalid Argument")
        return 7

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: int) -> int:
        if not self._counter:
            raise self.NVMLError("Not Supported")
        return self._counter.pop(0) if len(self._counter) > 1 else self._counter[0]

    def nvmlDeviceGetPowerUsage(self, gpu: int) -> int:
        return 61_500


def test_nvml_counts_millijoules() -> None:
    driver = Driver([5_000, 7_500, 8_000])
    meter = Nvml(module=driver)
    assert [meter.read_j(now) for now in (0.0, 1.0, 2.0)] == [0.0, 2.5, 3.0]
    meter.close()
    meter.close()
    assert driver.inits == 0


def test_nvml_without_counter_driver_or_gpu() -> None:
    with pytest.raises(MeterError, match="got: Not Supported; GPUs before Volta have none: take 'nvml-power'"):
        Nvml(module=Driver([])).prove(nothing)
    assert NvmlPower(module=Driver([])).read_w(0.0) == 61.5
    with pytest.raises(MeterError, match="got: Driver Not Loaded; is there an NVIDIA GPU"):
        Nvml(module=Driver([], present=False))
    absent = Driver([1])
    with pytest.raises(MeterError, match="expected a GPU of number 3, got: Invalid Argument"):
        Nvml(3, module=absent)
    assert absent.inits == 0


# -- the model, and opening -----------------------------------------------------------------------------------


def test_the_model_is_a_meter_that_follows_the_journal() -> None:
    power = PowerStates(compute_w=10.0, communicate_w=5.0, stall_w=4.0, origin="a desk")
    records: list[dict[str, Any]] = [{"t": 0.0, "node": "robot-1", "event": "start"}]
    meter = Model(records, power)
    meter.prove()
    assert meter.read_j(0.0) == 0.0
    assert meter.read_j(2.0) == 8.0  # the step under way counts as stall until it ends
    step = {"iteration": 1, "compute_s": 2.0, "communicate_s": 1.0, "stall_s": 0.0}
    records.append({"t": 3.0, "node": "robot-1", "event": "step", **step})
    assert meter.read_j(3.0) == 25.0
    assert meter.read_j(4.0) == 29.0
    assert meter.read_j(4.0) == worker_energy(records, power, end_s=4.0).total.joules
    assert meter.source.startswith("model of power states (a desk")
    with pytest.raises(LocalProtocolError, match="go back"):
        meter.read_j(3.0)


def test_every_meter_keeps_the_protocol(tmp_path: Path) -> None:
    hwmon(tmp_path, ("VDD_IN", 5000, 800))
    powercap(tmp_path)
    meters: list[Meter] = [
        JetsonStats(Service(4000)),
        Ina3221(tmp_path),
        Rapl(tmp_path),
        Nvml(module=Driver([1])),
        NvmlPower(module=Driver([])),
        Model([{"t": 0.0, "node": "robot-1", "event": "start"}]),
    ]
    for meter in meters:
        assert meter.read_j(1.0) == 0.0
        assert meter.source.startswith(("sensor: ", "model "))
        meter.close()
        meter.close()
    assert len({meter.name for meter in meters}) == len(meters)


def test_auto_takes_the_first_that_works_and_says_why_not_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jtop", None)  # not installed, whatever this machine is
    folder = powercap(tmp_path)
    counted = iter(range(1_000_000, 9_000_000, 100))
    opened = open_meter(
        "auto", between=lambda k: write(folder / "intel-rapl:0", energy_uj=next(counted)), sys_root=tmp_path
    )
    assert opened.meter.name == "rapl"
    assert list(opened.refused) == ["jtop", "ina3221"]
    assert "expected the Python package jetson-stats" in opened.refused["jtop"]
    assert "found none; is this a Jetson?" in str(opened)


def test_auto_never_falls_back_on_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jtop", None)
    with pytest.raises(MeterError) as caught:
        open_meter("jetson", between=nothing, sys_root=tmp_path)
    lines = str(caught.value).split("\n")
    assert "without one there is 'model'" in lines[0]
    assert [line.split(":")[0] for line in lines[1:]] == ["  meter jtop", "  meter ina3221"]


def test_a_meter_that_fails_its_proof_is_closed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    service = Service(5930)
    monkeypatch.setitem(sys.modules, "jtop", service)
    folder = hwmon(tmp_path, ("VDD_IN", 5000, 800))
    opened = open_meter("jetson", between=lambda k: write(folder, curr1_input=800 + k), sys_root=tmp_path)
    assert opened.meter.name == "ina3221"
    assert "the sensor is frozen" in opened.refused["jtop"]
    assert service.closed == 1


def test_names_of_meters() -> None:
    with pytest.raises(ConfigError, match="unknown meter 'rappl'; did you mean 'rapl'"):
        open_meter("rappl")
    with pytest.raises(ConfigError, match="expected the records of the worker's journal"):
        open_meter("model")
    assert open_meter("model", records=[]).meter.name == "model"
    with pytest.raises(MeterError, match="expected zones intel-rapl"):
        open_meter("rapl", sys_root=Path("nowhere"))
