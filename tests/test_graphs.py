"""Graphs: in-place pairs are one tensor, consumers, digests; profiles and their files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rowcast.errors import ConfigError
from rowcast.graphs import Barrier, Graph, Identity, Op, Profile, RunningSum, Window, load_profile, save_profile


def small() -> Graph:
    """Image -> convolution -> relu in place -> add of both -> scale for each channel -> mean."""
    return Graph(
        [
            Op((), 800, Identity(8), "image"),
            Op((0,), 800, Window(8, 3, padding=1), "conv"),
            Op((1,), 800, Identity(8), "relu_", in_place=1),
            Op((0, 1, 2), 800, Identity(8), "add"),
            Op((3,), 100, RunningSum(8), "scale"),
            Op((3, 4), 800, Identity(8), "mul"),
            Op((5,), 100, RunningSum(8), "mean"),
        ],
        outputs=[6],
    )


def test_a_tensor_and_what_was_made_of_it_in_place_are_read_once() -> None:
    graph = small()
    assert graph.reads == ((), (0,), (1,), (0, 2), (3,), (3, 4), (5,))
    assert graph.consumers == ((1, 3), (2,), (3,), (4, 5), (5,), (6,), ())
    assert graph.last_use == (3, 2, 3, 5, 5, 6, 7)
    assert (graph.inputs, graph.outputs, len(graph)) == ((0,), (6,), 7)


def test_a_chain_of_changes_in_place_is_one_tensor_with_its_latest_version() -> None:
    """A reader between two of them reads the version of its time, the answer is the last one."""
    ops = [
        Op((), 8),
        Op((0,), 16, name="zeros"),
        Op((1, 0), 16, name="__setitem__", in_place=1),
        Op((1,), 8, name="reader"),
        Op((1, 2, 3), 16, name="__setitem__", in_place=1),
        Op((2,), 8, name="behind"),
    ]
    graph = Graph(ops, outputs=[1, 5])
    assert graph.reads == ((), (0,), (1, 0), (2,), (2, 3), (4,))
    assert graph.outputs == (4, 5)


def test_an_input_of_another_height_is_read_whole() -> None:
    graph = small()
    available = [8, 8, 8, 5, 0, 0, 0]
    assert graph.read_rows(5, available) == 0
    available[4] = 1
    assert graph.read_rows(5, available) == 5
    assert graph.read_rows(4, available) == 5


@pytest.mark.parametrize(
    ("ops", "outputs", "complaint"),
    [
        ([Op((0,), 1)], [0], "expected inputs among the operators before it, got 0"),
        ([Op((), 1), Op((2,), 1, name="conv"), Op((1,), 1)], [2], r"operator 1 \(conv\): expected inputs among"),
        ([Op((), -1)], [0], "expected a size of 0 bytes or more, got -1"),
        ([Op((), 1), Op((), 1), Op((1,), 1, in_place=0)], [2], "it overwrites 0, which is none of its inputs"),
        ([Op((), 4), Op((0,), 0, in_place=0)], [1], "give it the size of what it overwrites"),
        ([Op((), 4, joined=True)], [0], "expected that to be an operator, not an input of the model"),
        ([Op((), 4), Op((0,), 4, joined=True)], [1], "expected that to be an operator, not an input of the model"),
        ([Op((), 4)], [1], r"outputs: expected operators in 0 \.\. 0, got 1"),
        ([Op((), 4)], [], "expected at least one operator that makes the answer"),
    ],
)
def test_a_graph_that_cannot_be_says_why(ops: list[Op], outputs: list[int], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Graph(ops, outputs)


def test_equal_graphs_have_equal_digests_and_the_first_difference_is_named() -> None:
    ops = list(small().ops)
    assert small().digest == Graph(ops, [6]).digest and len(small().digest) == 16
    assert small().difference(Graph(ops, [6])) is None
    other = Graph([*ops[:1], Op((0,), 400, Window(8, 3, 2, 1), "conv"), Op((1,), 400, Identity(4))], [2])
    said = small().difference(other)
    assert said is not None and said.startswith("operator 1 (conv): bytes 800 against 400, rule Window(rows=8")
    assert small().difference(Graph(ops[:6], [5])) == "7 operators against 6"
    assert small().difference(Graph(ops, [5])) == "outputs (6,) against (5,)"
    assert len({small().digest, other.digest, Graph(ops[:6], [5]).digest, Graph(ops, [5]).digest}) == 4


def profile_of(graph: Graph) -> Profile:
    times = np.arange(len(graph)) * 1e-3
    return Profile(times, times / 10, 4e-5, 2e-5, 0.03, robot_step_s=3e-6, server_step_s=1e-6)


def test_a_profile_and_its_graph_come_back_from_their_file(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    save_profile(path, small(), profile_of(small()))
    graph, profile = load_profile(path)
    assert graph.digest == small().digest and graph.ops == small().ops
    assert profile.robot_s.tolist() == profile_of(small()).robot_s.tolist()
    assert profile.server_s.tolist() == profile_of(small()).server_s.tolist()
    assert (profile.robot_floor_s, profile.server_floor_s, profile.local_p99_s) == (4e-5, 2e-5, 0.03)
    assert (profile.robot_step_s, profile.server_step_s) == (3e-6, 1e-6)


def test_a_file_that_is_no_profile_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    with pytest.raises(ConfigError, match="cannot be read as a profile"):
        load_profile(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be read as a profile"):
        load_profile(path)
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigError, match="was it written by save_profile"):
        load_profile(path)

    def changed(change: str, into: str) -> None:
        save_profile(path, small(), profile_of(small()))
        text = path.read_text(encoding="utf-8")
        assert change in text
        path.write_text(text.replace(change, into, 1), encoding="utf-8")

    changed('"bytes": 800', '"bytes": 801')
    with pytest.raises(ConfigError, match="changed since it was written; measure the model again"):
        load_profile(path)
    changed('"window"', '"widow"')
    with pytest.raises(ConfigError, match="unknown row rule 'widow': did you mean 'window'"):
        load_profile(path)
    changed('"robot_floor_s"', '"robot_floor"')
    with pytest.raises(ConfigError, match="'robot_floor_s' is missing"):
        load_profile(path)
    changed('"kernel": 3', '"kernel": "3"')
    with pytest.raises(ConfigError, match=r"model\.json: "):
        load_profile(path)
    changed('"robot_s": 0.001', '"robot_s": NaN')
    with pytest.raises(ConfigError, match="expected seconds, 0 or more, in robot_s, got nan"):
        load_profile(path)


def test_a_saved_profile_has_an_operator_a_line(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    save_profile(path, small(), profile_of(small()))
    text = path.read_text(encoding="utf-8")
    assert json.loads(text)["digest"] == small().digest.hex()
    assert sum('"rule"' in line for line in text.splitlines()) == 7


def test_a_profile_checks_its_numbers() -> None:
    with pytest.raises(ConfigError, match=r"one time for each operator on both sides, got \(2,\).* and \(3,\)"):
        Profile(np.zeros(2), np.zeros(3))
    with pytest.raises(ConfigError, match=r"in server_s, got -1\.0"):
        Profile(np.zeros(2), np.array([0.0, -1.0]))
    with pytest.raises(ConfigError, match="in local_p99_s, got inf"):
        Profile(np.zeros(2), np.zeros(2), local_p99_s=float("inf"))
    with pytest.raises(ConfigError, match="times of 2 operators, the graph has 7; measure this model again"):
        Profile(np.zeros(2), np.zeros(2)).check(small())
    with pytest.raises(ConfigError, match="measure this model again"):
        save_profile(Path("unused"), small(), Profile(np.zeros(2), np.zeros(2)))
    with pytest.raises(ConfigError, match="expected factors above 0"):
        Profile(np.zeros(2), np.zeros(2)).faster(server=0)


def test_a_profile_keeps_its_times_and_scales_them() -> None:
    times = np.array([0.1, 0.3])
    profile = Profile(times, times / 2, 0.01, 0.02, local_p99_s=0.5)
    times[0] = 9.0
    assert profile.local_s == pytest.approx(0.4) and profile.sustained_s == 0.5
    with pytest.raises(ValueError, match="read-only"):
        profile.robot_s[0] = 1.0
    fast = profile.faster(robot=2.0, server=4.0)
    assert fast.robot_s.tolist() == [0.05, 0.15] and fast.server_s.tolist() == [0.0125, 0.0375]
    assert (fast.robot_floor_s, fast.server_floor_s, fast.sustained_s) == (0.005, 0.005, 0.25)
    assert Profile(np.array([0.1]), np.array([0.1])).sustained_s == pytest.approx(0.1)


def test_a_barrier_is_the_rule_of_an_operator_that_names_none() -> None:
    assert Op((0,), 4).rule == Barrier(1) and Op((0,), 4).rows == 1
