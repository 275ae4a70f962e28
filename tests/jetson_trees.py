"""Trees of sysfs as Jetsons have them, written from published layouts; none of them was recorded on a board of ours.

Where they are from:

- The files of a channel (``in1_label``, ``in1_input`` in mV, ``curr1_input`` in mA, ``in1_enable``, shunt voltages in
  ``in4`` .. ``in6``, ``in7_label`` "sum of shunt voltages", ``curr4_input``): Documentation/hwmon/ina3221.rst of Linux.
- Chips, addresses and labels of JetPack 5 and 6, and ``NC``: Jetson Linux Developer Guide r35.6.0 and r36.4.3,
  "Software-Based Power Consumption Modeling"; of JetPack 4: r32.6.1; all of them in jetson/JetsonPowerRails.md of
  energymon. Where the folders lie (``/sys/bus/i2c/drivers/ina3221/1-0041/hwmon/hwmon2``, read errors of a channel that
  is not connected): a listing from an AGX Orin in issue 212 of alumet-dev/alumet; of a Xavier NX
  (``7-0040/hwmon/hwmon6``): its plugin's README.

The volts and milliamperes are made up, of the size that such boards show.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BOARDS", "Board", "Chip", "write_iio", "write_tree"]

#: Label, mV, mA.
Channel = tuple[str, int, int]


@dataclass(frozen=True)
class Chip:
    """An INA3221: its address on the bus of the kernel, and its three channels."""

    address: str
    channels: tuple[Channel, Channel, Channel]


@dataclass(frozen=True)
class Board:
    """A board, and which of its rails are the whole module."""

    name: str
    chips: tuple[Chip, ...]
    module: tuple[str, ...]

    @property
    def watts(self) -> float:
        """What its module takes."""
        found = {
            label: volts * milliamperes / 1e6 for chip in self.chips for label, volts, milliamperes in chip.channels
        }
        return sum(found[rail] for rail in self.module)


BOARDS = [
    Board(
        "Orin Nano and Orin NX, JetPack 5 and 6",
        (Chip("1-0040", (("VDD_IN", 5064, 1216), ("VDD_CPU_GPU_CV", 5056, 216), ("VDD_SOC", 5056, 368))),),
        ("VDD_IN",),
    ),
    Board(
        "AGX Orin, JetPack 5 and 6",
        (
            Chip("1-0040", (("VDD_GPU_SOC", 12008, 280), ("VDD_CPU_CV", 12008, 40), ("VIN_SYS_5V0", 4968, 980))),
            Chip("1-0041", (("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 4968, 80), ("NC", 0, 0))),
        ),
        ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ),
    Board(
        "Xavier NX, JetPack 5",
        (Chip("7-0040", (("VDD_IN", 5000, 840), ("VDD_CPU_GPU_CV", 4992, 120), ("VDD_SOC", 4992, 240))),),
        ("VDD_IN",),
    ),
    Board(
        "AGX Xavier, JetPack 5",
        (
            Chip("1-0040", (("GPU", 19136, 48), ("CPU", 19136, 64), ("SOC", 19112, 120))),
            Chip("1-0041", (("CV", 19136, 16), ("VDDRQ", 19112, 24), ("SYS5V", 4984, 600))),
        ),
        ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
    ),
    Board(
        "TX2 on its developer kit",
        (
            Chip("0-0040", (("VDD_SYS_GPU", 19152, 16), ("VDD_SYS_SOC", 19152, 32), ("VDD_4V0_WIFI", 4792, 4))),
            Chip("0-0041", (("VDD_IN", 19144, 176), ("VDD_SYS_CPU", 19144, 24), ("VDD_SYS_DDR", 4760, 260))),
            Chip("0-0042", (("VDD_MUX", 19136, 224), ("VDD_5V0_IO_SYS", 5000, 280), ("VDD_3V3_SYS", 3320, 8))),
            Chip("0-0043", (("VDD_3V3_IO_SLP", 3320, 4), ("VDD_1V8_IO", 1800, 8), ("VDD_3V3_SYS_M2", 3320, 0))),
        ),
        ("VDD_IN",),
    ),
    Board(
        "Nano",
        (Chip("6-0040", (("POM_5V_IN", 5104, 440), ("POM_5V_GPU", 5096, 8), ("POM_5V_CPU", 5096, 116))),),
        ("POM_5V_IN",),
    ),
]


def write(folder: Path, **files: object) -> None:
    """Files of one line each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n", encoding="ascii")


def write_tree(root: Path, board: Board, numbers: Sequence[int], turned: int = 0) -> dict[str, tuple[Path, int]]:
    """The tree of JetPack 5 and 6, links and all.

    Args:
        root: of sysfs.
        board: whose rails.
        numbers: which ``hwmonN`` each of its chips is; other sensors have those below 10 that are left.
        turned: by how many places the channels of each chip are turned.

    Returns:
        For each label that is not ``NC`` the folder of its chip, and its channel.
    """
    hwmon, drivers = root / "class" / "hwmon", root / "bus" / "i2c" / "drivers" / "ina3221"
    hwmon.mkdir(parents=True)
    drivers.mkdir(parents=True)
    for number in set(range(6)) - set(numbers):
        device = root / "devices" / "virtual" / "thermal" / f"thermal_zone{number}" / f"hwmon{number}"
        write(device, name="soc0_thermal", temp1_input=50000)
        link(hwmon / device.name, device)
    found: dict[str, tuple[Path, int]] = {}
    for chip, number in zip(board.chips, numbers, strict=True):
        bus = chip.address.partition("-")[0]
        device = root / "devices" / "platform" / "bus@0" / f"c{bus}40000.i2c" / f"i2c-{bus}" / chip.address
        folder = device / "hwmon" / f"hwmon{number}"
        write(folder, name="ina3221", in7_label="sum of shunt voltages", in7_input=760, curr4_input=360)
        channels = chip.channels[turned:] + chip.channels[:turned]
        for k, (label, millivolts, milliamperes) in enumerate(channels, start=1):
            connected = label != "NC"
            write(folder, **{f"in{k}_label": label, f"in{k}_enable": int(connected), f"in{k + 3}_input": 40 * k})
            if connected:  # the files of the other channels are there, and reading them is an error
                write(folder, **{f"in{k}_input": millivolts, f"curr{k}_input": milliamperes})
                found[label] = folder, k
        link(hwmon / folder.name, folder)
        link(drivers / chip.address, device)
    return found


def write_iio(root: Path, board: Board, folder: str = "iio:device{}") -> dict[str, Path]:
    """The tree of JetPack 4: channels count from 0, and power is in mW; for each label the file with its power."""
    found = {}
    for number, chip in enumerate(board.chips):
        device = root / "bus" / "i2c" / "drivers" / "ina3221x" / chip.address / folder.format(number)
        for k, (label, millivolts, milliamperes) in enumerate(chip.channels):
            power = millivolts * milliamperes // 1000
            write(device, **{f"rail_name_{k}": label, f"in_power{k}_input": power, f"in_voltage{k}_input": millivolts})
            found[label] = device / f"in_power{k}_input"
    return found


def link(place: Path, target: Path) -> None:
    """A relative link, as those of sysfs are."""
    place.symlink_to(os.path.relpath(target, place.parent))
