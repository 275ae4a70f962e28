"""Profiles of devices: their texts, their recordings, what they refuse, and the devices that a team gets."""

from __future__ import annotations

import itertools
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.drivers.virtual import Device
from rowcast.errors import ConfigError, DataError
from rowcast.experiment.devices import ComputeTime, parse_devices, place_in_recording


def recording(folder: Path, text: str, name: str = "jetson.csv") -> str:
    path = folder / name
    path.write_bytes(text.encode("latin-1"))
    return str(path)


def gradients(device: Device, count: int) -> list[float]:
    return [device.gradient_s(n) for n in range(count)]


# -- texts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "times", "short"),
    [
        ("2.18", [(2.18, 0.0)], "2.18"),
        (" 2.0/2.20 / 2.5/8.1", [(2.0, 0.0), (2.2, 0.0), (2.5, 0.0), (8.1, 0.0)], "2/2.2/2.5/8.1"),
        ("2.18~0.20", [(2.18, 0.2)], "2.18~0.2"),
        ("2.0~0.1/8.1", [(2.0, 0.1), (8.1, 0.0)], "2~0.1/8.1"),
        ("0.128@64", [(0.128, 0.0, 64)], "0.128@64"),
        (" 0.10 @ 32~0.20/8.1/1@1", [(0.1, 0.2, 32), (8.1, 0.0), (1.0, 0.0, 1)], "0.1@32~0.2/8.1/1@1"),
        ("2~0", [(2.0, 0.0)], "2"),
        ("1e-3/3600", [(0.001, 0.0), (3600.0, 0.0)], "0.001/3600"),
    ],
)
def test_forms(text: str, times: list[tuple[Any, ...]], short: str) -> None:
    profile = parse_devices(text)
    assert profile.times == tuple(ComputeTime((seconds,), *others) for seconds, *others in times)
    assert profile.by_samples == any(len(each) == 3 for each in times)
    assert profile.text == short and not profile.recorded


@given(
    st.lists(
        st.tuples(st.floats(0.001, 3600), st.none() | st.integers(1, 65536), st.none() | st.floats(0, 3)),
        min_size=1,
        max_size=5,
    )
)
def test_the_text_of_a_profile_says_the_same(times: list[tuple[float, int | None, float | None]]) -> None:
    text = "/".join(
        f"{seconds!r}{'' if batch is None else f'@{batch}'}{'' if spread is None else f'~{spread!r}'}"
        for seconds, batch, spread in times
    )
    profile = parse_devices(text)
    found = [(*time.seconds, time.samples, time.spread) for time in profile.times]
    assert found == [(seconds, batch, spread or 0.0) for seconds, batch, spread in times]
    assert parse_devices(profile.text) == profile


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "",
            "expected 2.18 (seconds), 2.18~0.2 (drawn), 0.128@64 (of 64 samples), 2.0/2.2/8.1 (one for each robot) or "
            "the path of a .csv file",
        ),
        ("2@", "got '2@'"),
        ("2@64@3", "got '2@64@3'"),
        ("2~0.1@64", "got '2~0.1@64'"),
        ("2@6.5", "got '2@6.5'"),
        ("@64", "got '@64'"),
        ("1/2@0", "devices 1/2@0: expected samples of a batch behind '@' in 1 .. 65536, got 0"),
        ("", "got ''"),
        ("jetson", "got 'jetson'"),
        ("jetson.txt", "got 'jetson.txt'"),
        ("2,18", "got '2,18'"),
        ("2 s", "got '2 s'"),
        ("2.0//8", "got '' in '2.0//8'"),
        ("2.0/fast", "got 'fast' in '2.0/fast'"),
        ("2~", "got '2~'"),
        ("2~0.1~0.2", "got '2~0.1~0.2'"),
        ("0", "devices 0: expected seconds of a gradient in 0.001 .. 3600, got 0"),
        ("2/-8", "devices 2/-8: expected seconds of a gradient in 0.001 .. 3600, got -8"),
        ("3601", "got 3601"),
        ("1_0", "got '1_0'"),
        ("\u0662", "got '\u0662'"),  # the digit 2 of Arabic
        ("nan", "got nan"),
        ("2~inf", "expected a spread in 0 .. 3, got inf"),
        ("2~-0.1", "expected a spread in 0 .. 3, got -0.1"),
    ],
)
def test_texts_that_are_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        parse_devices(text)


# -- recordings --------------------------------------------------------------------------------------------------------


def test_a_recording_with_a_column_for_each_robot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns of their own length, with the marks and ends of lines that a spreadsheet writes."""
    text = recording(
        tmp_path, '\xef\xbb\xbfrobot 0, robot 1,"the slow, old one"\r\n2.0,2.5 ,8\r\n2.1,,9\r\n2.2,,\r\n,,\r\n\r\n'
    )
    profile = parse_devices(text)
    assert profile.recorded and profile.text == text
    assert [time.seconds for time in profile.times] == [(2.0, 2.1, 2.2), (2.5,), (8.0, 9.0)]
    devices = profile.team(3, seed=1)
    assert [gradients(device, 4) for device in devices] == [[2.0, 2.1, 2.2, 2.0], [2.5] * 4, [8.0, 9.0, 8.0, 9.0]]
    monkeypatch.chdir(tmp_path)
    assert parse_devices("jetson.csv") == parse_devices(f"..{os.sep}{tmp_path.name}/jetson.csv") == profile


def test_a_recording_for_all_is_entered_at_other_places(tmp_path: Path) -> None:
    values = [float(n) for n in range(1, 101)]
    profile = parse_devices(recording(tmp_path, "\n".join(["seconds", *map(str, values)])))
    for seed in (0, 1, 2):
        firsts = []
        for device in profile.team(4, seed):
            taken = gradients(device, 200)
            assert sorted(taken[:100]) == values and taken[100:] == taken[:100]
            assert all(after == before % 100 + 1 for before, after in itertools.pairwise(taken))
            firsts.append(taken[0])
        place = int(100 * ((math.sqrt(5) - 1) / 2 * seed % 1))
        assert sorted((first - 1 - place) % 100 for first in firsts) == pytest.approx([0, 25, 50, 75], abs=1)
        assert profile.team(4, seed) == profile.team(4, seed)


def test_places_in_a_recording() -> None:
    assert [place_in_recording(part, 4, 0) for part in range(4)] == [0.0, 0.25, 0.5, 0.75]
    places = sorted(place_in_recording(0, 4, seed) for seed in range(100))
    assert min(np.diff(places)) > 0.004 and places[0] >= 0 and places[-1] < 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: expected a header that names each column, got nothing"),
        ("\na\n2\n", "line 1: expected a header that names each column, got nothing"),
        ("2.0\n2.1\n", "line 1, column 1: expected a header that names each column, got '2.0'"),
        ("a,,b\n1,2,3\n", "line 1, column 2: expected a header that names each column, got ''"),
        ("a,b,a\n1,2,3\n", "line 1, column 3: 'a' is there twice"),
        ("a\n", "line 2, column a: expected seconds below the header, got none"),
        ("a,b\n1,\n2,\n", "line 2, column b: expected seconds below the header, got none"),
        ("a,b\n1,2\n3\n", "line 3: expected 2 cells, got 1"),
        ("a,b\n1,2,3\n", "line 2: expected 2 cells, got 3"),
        ("a,b\n1,2\n3,fast\n", "line 3, column b: expected seconds in 0.001 .. 3600, got 'fast'"),
        ("a\n1\n-2\n", "line 3, column a: expected seconds in 0.001 .. 3600, got '-2'"),
        ("a\n0\n", "got '0'"),
        ("a\nnan\n", "got 'nan'"),
        ("a\n1_0\n", "got '1_0'"),
        ("a,b\n1,2\n3,\n5,6\n", "line 4, column b: '6' comes after the empty cell in line 3, which ends the column"),
        ("a\n1\n\n2\n", "line 4, column a: '2' comes after the empty cell in line 3, which ends the column"),
        ("a\n\xff\n", "not a text file"),
        (f"a\n{'1' * 200_000}\n", "line 2: not CSV: field larger than field limit"),
    ],
)
def test_recordings_that_are_refused(tmp_path: Path, text: str, says: str) -> None:
    path = recording(tmp_path, text)
    with pytest.raises(DataError, match=re.escape(path) + ".*" + re.escape(says)):
        parse_devices(path)


def test_a_recording_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.csv: cannot be read: No such file"):
        parse_devices(str(tmp_path / "nowhere.csv"))
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        (tmp_path / "folder.csv").mkdir()
        parse_devices(str(tmp_path / "folder.csv"))


# -- teams -------------------------------------------------------------------------------------------------------------


def test_one_device_is_that_of_all() -> None:
    devices = parse_devices("2.18").team(3, 0, encode_s=0.25, decode_s=0.125)
    assert [(device.gradient_s(7), device.encode_s, device.decode_s) for device in devices] == [(2.18, 0.25, 0.125)] * 3


def test_each_robot_draws_its_own_and_each_seed_others() -> None:
    profile = parse_devices("2.0~0.2")
    drawn = {
        (seed, index): gradients(device, 400) for seed in (0, 1) for index, device in enumerate(profile.team(3, seed))
    }
    logs = np.log(np.array(list(drawn.values())))
    assert np.abs(np.corrcoef(logs) - np.eye(6)).max() < 0.2
    assert np.exp(np.median(logs, axis=1)) == pytest.approx([2.0] * 6, rel=0.05)
    assert logs.std(axis=1) == pytest.approx([0.2] * 6, rel=0.15)
    # The same robot, seed and iteration draw the same, whatever the policy and the size of the team.
    assert [gradients(device, 400) for device in profile.team(5, 1)[:3]] == [drawn[1, index] for index in range(3)]


def test_drawn_and_constant_go_together() -> None:
    quick, slow = parse_devices("2.0~0.1/8.1").team(2, 5)
    assert len(set(gradients(quick, 10))) == 10
    assert gradients(slow, 10) == [8.1] * 10


def test_a_batch_takes_time_in_proportion_to_its_samples() -> None:
    measured, drawn, always = parse_devices("0.128@64/0.5@32~0.1/2").team(3, 5)
    assert [measured.gradient_s(n, n) for n in (1, 64, 96)] == pytest.approx([0.002, 0.128, 0.192])
    assert measured.gradient_s(0) == 0.128  # of as many samples as it was measured with
    assert drawn.gradient_s(4, 96) == pytest.approx(3 * drawn.gradient_s(4, 32)) and drawn.gradient_s(4) != 0.5
    assert always.gradient_s(0, 1) == always.gradient_s(0, 1000) == 2.0
    # Where all batches are of one size, that is said once.
    fixed = parse_devices("0.128@64/0.5@32~0.1/2").team(3, 5, batch=32)
    assert [device.samples for device in fixed] == [None] * 3
    assert [device.gradient_s(4) for device in fixed] == pytest.approx([0.064, drawn.gradient_s(4), 2.0])
    with pytest.raises(ConfigError, match="expected 1 sample or more"):
        Device(1.0, samples=0)


def test_the_team_must_have_the_size_of_the_profile(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"devices 2/8: has 2 devices, expected 4, one for each robot of the team"):
        parse_devices("2/8").team(4, 0)
    with pytest.raises(ConfigError, match=r"jetson\.csv: has 2 columns, expected 1, one for each robot of the team"):
        parse_devices(recording(tmp_path, "a,b\n1,2\n")).check_team(1)
