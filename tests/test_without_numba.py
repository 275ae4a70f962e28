"""Without numba the same bytes: codes, choices of rows, and the replicas of whole teams."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rowcast.rows import lanes

HERE = Path(__file__).parent


def run(*arguments, **variables):
    """A Python process with warnings as errors; what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        timeout=170,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def both():
    """Digests with numba, and without it."""
    found = []
    for wanted in ("1", "0"):
        code, printed, complaints = run(str(HERE / "same_bytes.py"), ROWCAST_NUMBA=wanted)
        assert code == 0, complaints
        found.append(json.loads(printed))
    assert found[0]["numba"] and not found[1]["numba"]
    return found


@pytest.mark.system
def test_every_digest_is_the_same_without_numba(both):
    compiled, plain = (each["digests"] for each in both)
    assert len(compiled) > 200
    assert [name for name in compiled if compiled[name] != plain[name]] == []


@pytest.mark.system
def test_every_plain_version_was_called(both):
    assert sorted(set(both[1]["every"]) - set(both[1]["plain"])) == []


def in_order(numbers):
    """The order that :mod:`rowcast.rows.lanes` promises, one number after the other."""

    def onto(sums, at, stop):
        while at + len(sums) <= stop:
            sums = [total + number for total, number in zip(sums, numbers[at : at + len(sums)], strict=True)]
            at += len(sums)
        return sums, at

    lanes, at = onto([np.float32(0.0)] * 32, 0, len(numbers))
    eight = [((lanes[i] + lanes[i + 8]) + lanes[i + 16]) + lanes[i + 24] for i in range(8)]
    four = [eight[i] + eight[i + 4] for i in range(4)]
    begun = (four[0] + four[2]) + (four[1] + four[3])
    four, at = onto([begun] + [np.float32(0.0)] * 3, at, len(numbers))
    (total,), _ = onto([(four[0] + four[2]) + (four[1] + four[3])], at, len(numbers))
    return total


@pytest.mark.parametrize("length", [0, 1, 3, 4, 7, 8, 31, 32, 35, 36, 77, 128, 576, 1001])
def test_sums_keep_the_order_that_is_promised(length):
    random = np.random.default_rng(length)
    for _ in range(20):
        one, other = random.standard_normal((2, length)).astype(np.float32)
        assert np.float32(lanes.size_of(one)) == in_order(np.abs(one)) == lanes.sums_of_rows(np.abs(one)[None])[0]
        assert np.float32(lanes.dot_of(one, other)) == in_order(one * other)


def test_a_sum_of_nothing_but_negative_zeros_is_the_same_zero_without_numba():
    one, other = np.ones(70, dtype=np.float32), np.full(70, -0.0, dtype=np.float32)
    for length in (0, 1, 4, 33, 70):
        sums = lanes.dot_of(one[:length], other[:length]), lanes.sums_of_rows(one[None, :length] * other[:length])[0]
        assert [np.float32(each).view(np.uint32) for each in sums] == [0, 0]


@pytest.mark.system
def test_a_process_without_numba_computes_all_the_same():
    text = (
        "import importlib.util as u; find = u.find_spec; "
        "u.find_spec = lambda name, *more: None if name == 'numba' else find(name, *more); import sys; "
        "from rowcast.rows import compiling, kernels; import numpy as np; "
        "print(compiling.HAS_NUMBA, 'numba' in sys.modules, kernels.lowest(np.array([3, 1], dtype=np.int32)))"
    )
    code, printed, complaints = run("-c", text, ROWCAST_NUMBA="")
    assert (code, printed.split()) == (0, ["False", "False", "1"]), complaints
    code, _, complaints = run("-c", text, ROWCAST_NUMBA="1")
    assert code != 0
    assert "ROWCAST_NUMBA: expected numba to be there for 1, got none; pip install numba" in complaints


@pytest.mark.system
def test_a_wrong_value_is_one_line():
    code, _, complaints = run("-c", "import rowcast.rows", ROWCAST_NUMBA="yes")
    assert code != 0
    assert "ROWCAST_NUMBA: expected 0, 1 or nothing, got 'yes'" in complaints
