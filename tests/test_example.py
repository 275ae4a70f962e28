"""The examples, run as their texts say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from live import LIMIT_S, LiveServer, python
from rowcast.streams import Positions

EXAMPLES = Path(__file__).parents[1] / "examples"
EXAMPLE, STREAM = EXAMPLES / "train_robot.py", EXAMPLES / "stream.py"


@pytest.mark.system
def test_two_robots_end_with_equal_parameters(tmp_path):
    with LiveServer("rog:4", expected_workers=2) as server:
        address = f"127.0.0.1:{server.port}"
        robots = [
            python(
                EXAMPLE,
                *("--server", address, "--name", f"robot-{part}", "--part", f"{part}/2", "--steps", 30),
                *("--save", tmp_path / f"{part}.pt"),
            )
            for part in range(2)
        ]
        for robot in robots:
            out, err = robot.communicate(timeout=3 * LIMIT_S)
            assert robot.returncode == 0, err
            assert "% right" in out
        assert sorted(server.node.frames_applied) == ["robot-0", "robot-1"]
    first, second = (torch.load(tmp_path / f"{part}.pt", weights_only=True) for part in range(2))
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=1e-5)


@pytest.mark.system
def test_alone_it_is_plain_pytorch(tmp_path):
    robot = python(EXAMPLE, "--alone", "--steps", 100)
    out, err = robot.communicate(timeout=3 * LIMIT_S)
    assert robot.returncode == 0, err
    assert float(out.rpartition("%")[0].rpartition(",")[2]) > 80


def test_adoption_takes_ten_lines_at_most():
    text = EXAMPLE.read_text()
    marked = [line for line in text.splitlines() if "# rowcast" in line]
    assert 3 <= len(marked) <= 10
    # Nothing else of the script knows of Rowcast, and the step stays as it was.
    rest = "\n".join(line for line in text.partition('"""\n\n')[2].splitlines() if "# rowcast" not in line)
    assert "rowcast" not in rest.lower()
    assert "        optimizer.step()\n" in text


@pytest.mark.system
def test_two_robots_train_on_streams_at_their_own_rates(tmp_path):
    """All of both streams is trained on, and both end with the same parameters."""
    rows = 900
    runpy.run_path(str(STREAM))["write"](tmp_path / "digits.csv", rows)
    with LiveServer("bsp?codec=raw", expected_workers=2) as server:
        robots = [
            python(
                *(STREAM, "--server", f"127.0.0.1:{server.port}", "--name", f"robot-{k}", "--batch", "fixed:16"),
                *("--source", f"{tmp_path / 'digits.csv'}?rate={rate}", "--save", tmp_path / f"{k}.pt"),
            )
            for k, rate in enumerate((600, 1200))
        ]
        for robot in robots:
            out, err = robot.communicate(timeout=3 * LIMIT_S)
            assert robot.returncode == 0, err
            assert float(out.rpartition("%")[0].rpartition(":")[2]) > 80
        positions = {name: Positions.unpack(text) for name, text in server.node.team.positions.items()}
    assert positions == {f"robot-{k}": {"digits.csv": rows} for k in range(2)}
    first, second = (torch.load(tmp_path / f"{k}.pt", weights_only=True) for k in range(2))
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=1e-5)


def test_a_stream_takes_ten_lines():
    """From joining the team to the end of the loop."""
    text = STREAM.read_text()
    lines = text[text.index("    team = rowcast.join") : text.index("    return model")].splitlines()
    assert len(lines) <= 10
