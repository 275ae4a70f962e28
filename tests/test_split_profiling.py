"""Measured times of operators, and profiles of two machines put together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from captured_models import small
from rowcast.errors import ConfigError
from rowcast.graphs import save_profile
from rowcast.split import Captured, capture
from rowcast.split.profiling import joined, joined_files, measure, profile


class HeavyAndLight(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = (x + 1).repeat(1, 2, 1)[:, :64]
        return torch.relu(y[:, :1, :1] * (y @ y.transpose(1, 2)).sum())


@pytest.fixture(scope="module")
def heavy() -> Captured:
    return capture(HeavyAndLight().eval(), torch.ones(1, 64, 4096))


def test_times_add_up_to_the_model_and_the_heaviest_operator_is_known(heavy: Captured) -> None:
    measured = measure(heavy, seconds=0.05)
    measured.check(heavy.graph)
    names = [op.name for op in heavy.graph.ops]
    assert names[int(np.argmax(measured.robot_s))] in ("matmul", "bmm")
    assert measured.robot_s[0] == 0.0
    assert (measured.robot_s[1:] > 0).all()
    assert 0 < measured.robot_floor_s < measured.local_s <= measured.sustained_s
    assert measured.local_p99_s > 0
    np.testing.assert_array_equal(measured.robot_s, measured.server_s)


def test_the_scaled_sum_is_the_median_of_untraced_runs(heavy: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    from rowcast.split import profiling

    monkeypatch.setattr(profiling, "_whole_runs", lambda captured, inputs, seconds: np.linspace(1.0, 3.0, 201))
    measured = measure(heavy, seconds=0.01)
    assert measured.local_s == pytest.approx(2.0)
    assert measured.local_p99_s == pytest.approx(2.98)


@pytest.mark.parametrize("name", ["camera", "recurrent"])
def test_inputs_of_any_kind_are_made(name: str) -> None:
    captured, _ = small(name)
    measured = measure(captured, seconds=0.01)
    assert len(measured.robot_s) == len(captured.graph)


def test_sides_that_were_measured_on_two_machines_are_one_profile(heavy: Captured, tmp_path: Path) -> None:
    robot = measure(heavy, seconds=0.01)
    server = robot.faster(robot=4.0)
    save_profile(tmp_path / "robot.json", heavy.graph, robot)
    save_profile(tmp_path / "server.json", heavy.graph, server)
    graph, measured = joined_files(tmp_path / "robot.json", tmp_path / "server.json")
    assert graph.digest == heavy.graph.digest
    expected = joined(robot, server)
    for one in (measured, expected):
        np.testing.assert_allclose(one.robot_s, robot.robot_s)
        np.testing.assert_allclose(one.server_s, robot.robot_s / 4)
        assert one.server_floor_s == pytest.approx(robot.robot_floor_s / 4)
        assert one.local_p99_s == pytest.approx(robot.local_p99_s)


def test_a_robot_measures_itself_and_takes_the_server_from_a_file_or_a_guess(heavy: Captured, tmp_path: Path) -> None:
    guessed = profile(heavy, 8.0, seconds=0.01)
    np.testing.assert_allclose(guessed.server_s, guessed.robot_s / 8)
    assert guessed.server_floor_s == pytest.approx(guessed.robot_floor_s / 8)
    there = measure(heavy, seconds=0.01).faster(robot=20.0)
    save_profile(tmp_path / "server.json", heavy.graph, there)
    both = profile(heavy, tmp_path / "server.json", seconds=0.01)
    np.testing.assert_allclose(both.server_s, there.robot_s)
    assert both.local_s > both.server_s.sum()
    other, _ = small("recurrent")
    with pytest.raises(ConfigError, match=r"this model and .*server.json: expected the same model.*operator 0"):
        profile(other, tmp_path / "server.json", seconds=0.01)
    with pytest.raises(ConfigError, match=r"expected factors above 0"):
        profile(heavy, 0.0, seconds=0.01)


def test_profiles_of_different_models_are_not_joined(heavy: Captured, tmp_path: Path) -> None:
    other, _ = small("recurrent")
    save_profile(tmp_path / "robot.json", heavy.graph, measure(heavy, seconds=0.01))
    save_profile(tmp_path / "server.json", other.graph, measure(other, seconds=0.01))
    with pytest.raises(ConfigError, match=r"expected the same model, got another: operator 0"):
        joined_files(tmp_path / "robot.json", tmp_path / "server.json")


def test_a_step_costs_what_slabs_take_on_top(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worst of the numbers of slabs, shared by the steps in which operators compute a part of their rows."""
    from rowcast.split import profiling

    net = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3, padding=1), torch.nn.ReLU()).eval()
    captured = capture(net, torch.zeros(1, 1, 32, 32))
    monkeypatch.setattr(profiling, "_whole_runs", lambda captured, inputs, seconds: np.full(9, 1.0))
    monkeypatch.setattr(profiling, "_streamed", lambda captured, inputs, slabs, wait: 1.0 + 0.1 * slabs)
    # Of 2 operators each computes a part of its rows in each slab; 0.4 s in 8 steps, 1.6 s in 32.
    assert measure(captured, seconds=0.01).robot_step_s == pytest.approx(0.05)
    monkeypatch.setattr(profiling, "_streamed", lambda captured, inputs, slabs, wait: 0.5)
    assert measure(captured, seconds=0.01).robot_step_s == 0.0


def test_a_model_in_slabs_is_the_model(heavy: Captured) -> None:
    from rowcast.split import profiling

    captured, example = small("unet-bilinear")
    waits = []
    assert profiling._streamed(captured, example, 4, lambda: waits.append(1)) > 0 and waits == [1]
    assert profiling._step(heavy, (torch.ones(1, 64, 4096),), 1e9) == 0.0


def test_measuring_takes_time(heavy: Captured) -> None:
    with pytest.raises(ConfigError, match=r"expected seconds above 0, got 0"):
        measure(heavy, seconds=0)
