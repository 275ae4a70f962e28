"""Which rails are the whole module, on every board, in whatever order its sensors are numbered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jetson_trees import BOARDS, Board, Chip, write_iio, write_tree
from rowcast.energy import Ina3221, JetsonStats, open_meter
from rowcast.energy.jetson import rails_of_the_module
from rowcast.errors import MeterError

ORIN_NX, AGX_ORIN = BOARDS[:2]
NUMBERS = [(1, 2, 3, 4), (4, 3, 2, 1), (12, 0, 7, 10)]


@pytest.mark.parametrize("board", BOARDS, ids=[board.name for board in BOARDS])
@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("turned", [0, 1, 2])
def test_the_whole_module_in_any_order(board: Board, numbers: tuple[int, ...], turned: int, tmp_path: Path) -> None:
    write_tree(tmp_path, board, numbers[: len(board.chips)], turned)
    meter = Ina3221(tmp_path)
    assert meter.read_w(0.0) == pytest.approx(board.watts, abs=1e-9)
    what = "rail" if len(board.module) == 1 else "sum of rails"
    assert meter.source == f"sensor: INA3221, {what} {', '.join(board.module)}"


@pytest.mark.parametrize("board", BOARDS, ids=[board.name for board in BOARDS])
@pytest.mark.parametrize("folder", ["iio:device{}", "iio_device"])
def test_the_whole_module_with_the_kernel_of_jetpack_4(board: Board, folder: str, tmp_path: Path) -> None:
    write_iio(tmp_path, board, folder)
    assert Ina3221(tmp_path).read_w(0.0) == pytest.approx(board.watts, abs=0.001 * len(board.module))


def test_an_agx_orin_counts_its_memory_once(tmp_path: Path) -> None:
    """VDDQ_VDD2_1V8AO is fed from VIN_SYS_5V0, which is measured as well."""
    write_tree(tmp_path, AGX_ORIN, (3, 4))
    all_four = Ina3221(tmp_path, rails=[*AGX_ORIN.module, "VDDQ_VDD2_1V8AO"])
    assert all_four.read_w(0.0) == pytest.approx(9.10864, abs=1e-9)  # what is told where all rails are added up
    assert Ina3221(tmp_path).read_w(0.0) == pytest.approx(9.10864 - 0.39744, abs=1e-9)


def test_the_rails_are_found_by_the_driver_alone_and_none_twice(tmp_path: Path) -> None:
    """In a container that is given /sys/bus and not /sys/class."""
    write_tree(tmp_path, AGX_ORIN, (1, 2))
    both = Ina3221(tmp_path).read_w(0.0)
    for link in (tmp_path / "class" / "hwmon").iterdir():
        link.unlink()
    assert Ina3221(tmp_path).read_w(0.0) == both == pytest.approx(AGX_ORIN.watts)


def test_a_rail_that_is_missing_is_no_smaller_sum(tmp_path: Path) -> None:
    rails = write_tree(tmp_path, AGX_ORIN, (1, 2))
    folder, k = rails["VIN_SYS_5V0"]
    (folder / f"in{k}_label").unlink()
    with pytest.raises(
        MeterError, match="of an AGX Orin, found no VIN_SYS_5V0: the sum of the others would be too low"
    ):
        Ina3221(tmp_path)
    assert Ina3221(tmp_path, rails=["VDD_GPU_SOC"]).read_w(0.0) == pytest.approx(12.008 * 0.28)


def test_a_channel_that_is_switched_off(tmp_path: Path) -> None:
    rails = write_tree(tmp_path, ORIN_NX, (1,))
    folder, k = rails["VDD_SOC"]
    (folder / f"in{k}_enable").write_text("0\n")
    assert Ina3221(tmp_path).read_w(0.0) == pytest.approx(ORIN_NX.watts)  # it is a part of VDD_IN
    with pytest.raises(MeterError, match=r"rail VDD_SOC cannot be read: its channel is switched off.*tee .*in3_enable"):
        Ina3221(tmp_path, rails=["VDD_SOC"])
    (folder / "in1_enable").write_text("0\n")
    with pytest.raises(MeterError, match="rail VDD_IN cannot be read: its channel is switched off"):
        Ina3221(tmp_path)  # and its parts do not step in for it


def test_a_rail_without_a_current(tmp_path: Path) -> None:
    rails = write_tree(tmp_path, ORIN_NX, (1,))
    (rails["VDD_IN"][0] / "curr1_input").unlink()
    with pytest.raises(MeterError, match=r"rail VDD_IN cannot be read: there is no .*curr1_input"):
        Ina3221(tmp_path)
    power = write_iio(tmp_path / "jetpack-4", ORIN_NX)["VDD_IN"]
    power.unlink()
    with pytest.raises(MeterError, match=r"rail VDD_IN cannot be read: there is no .*in_power0_input"):
        Ina3221(tmp_path / "jetpack-4")


def test_a_board_that_nobody_knows_is_the_sum_of_its_rails(tmp_path: Path) -> None:
    chip = Chip("2-0040", (("MOTORS", 24000, 500), ("COMPUTE", 12000, 1000), ("NC", 0, 0)))
    again = Chip("2-0041", (("COMPUTE", 12000, 250), ("NC", 0, 0), ("NC", 0, 0)))
    write_tree(tmp_path, Board("one's own", (chip, again), ("MOTORS",)), (1, 2))
    meter = Ina3221(tmp_path)
    assert meter.read_w(0.0) == pytest.approx(12.0 + 12.0 + 3.0)
    assert meter.source == "sensor: INA3221, sum of rails COMPUTE, COMPUTE (hwmon2), MOTORS"


def test_the_sum_has_no_order() -> None:
    for board in BOARDS:
        names = [label for chip in board.chips for label, _, _ in chip.channels if label != "NC"]
        assert rails_of_the_module(names) == rails_of_the_module(names[::-1]) == board.module


def test_a_rail_that_vanishes_while_it_is_read(tmp_path: Path) -> None:
    rails = write_tree(tmp_path, AGX_ORIN, (1, 2))
    folder, k = rails["VDD_CPU_CV"]
    meter = open_meter(
        "ina3221", between=lambda load: (folder / f"curr{k}_input").write_text(f"{40 + load}\n"), sys_root=tmp_path
    ).meter
    meter.read_j(0.0)
    (folder / f"curr{k}_input").unlink()
    with pytest.raises(MeterError, match=r"expected a sensor's value in .*curr2_input, got: .*No such file"):
        meter.read_j(1.0)


class Service:
    """What jetson-stats says of a board: jtop 4 adds up all rails where none is that of the whole."""

    class JtopException(Exception):
        pass

    def __init__(self, board: Board, **more: int) -> None:
        self._rails = {
            label: {"power": volts * milliamperes // 1000}
            for chip in board.chips
            for label, volts, milliamperes in chip.channels
            if label != "NC"
        } | {name: {"power": power} for name, power in more.items()}

    def jtop(self) -> Service:
        return self

    def start(self) -> None:
        pass

    def ok(self, spin: bool = False) -> bool:
        return True

    @property
    def power(self) -> dict[str, Any]:
        rails = dict(self._rails)
        for total in ("VDD_IN", "POM_5V_IN"):
            if total in rails:
                return {"tot": {"name": total, **rails.pop(total)}, "rail": rails}
        return {"tot": {"name": "ALL", "power": sum(rail.get("power", 0) for rail in rails.values())}, "rail": rails}


@pytest.mark.parametrize("board", BOARDS, ids=[board.name for board in BOARDS])
def test_jetson_stats_agrees_with_the_files(board: Board) -> None:
    meter = JetsonStats(Service(board))
    assert meter.read_w(0.0) == pytest.approx(board.watts, abs=0.001 * len(board.module))
    assert meter.source.startswith("sensor: jetson-stats, total power of the module (")
    assert all(rail in meter.source for rail in board.module) or "ALL" in meter.source


def test_jetson_stats_with_the_plug_of_usb_c_among_its_rails() -> None:
    assert JetsonStats(Service(AGX_ORIN, **{"1-00081": 15000})).read_w(0.0) == pytest.approx(AGX_ORIN.watts, abs=0.003)


def test_jetson_stats_whose_rails_are_not_all_there() -> None:
    service = Service(AGX_ORIN)
    del service._rails["VDD_CPU_CV"]
    with pytest.raises(MeterError, match=r"meter jtop: expected the rails .* of an AGX Orin, found no VDD_CPU_CV"):
        JetsonStats(service).read_w(0.0)
    service = Service(AGX_ORIN)
    service._rails["VDD_CPU_CV"] = {}
    with pytest.raises(MeterError, match=r"expected power\['rail'\]\['VDD_CPU_CV'\]\['power'\] in mW, got None"):
        JetsonStats(service).read_w(0.0)
