"""What journals say of a team: the reducer, its curves, replay, and that its memory is bounded."""

from __future__ import annotations

import ast
import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rowcast.page.history
from rowcast.journal import EVENTS
from rowcast.page import Curve, Team
from rowcast.page.curves import BINS, RECENT
from rowcast.page.history import History
from rowcast.page.model import MOST_LINES, MOST_METRICS, MOST_ROBOTS
from rowcast.page.state import Changes, curves_of, team_state

STEP = {
    "compute_s": 0.3,
    "communicate_s": 0.1,
    "stall_s": 0.1,
    "push_bytes": 5000,
    "pull_bytes": 2500,
    "rate_bps": 8e6,
    "push_share": 0.75,
}


def record(t, event, node="server", **fields):
    return {"t": t, "node": node, "event": event, **fields}


def line_of(each):
    return json.dumps(each, separators=(",", ":")) + "\n"


def team_of(*records):
    team = Team()
    for each in records:
        team.take(each)
    return team


def everything(team):
    """All that can be seen of a team, to compare."""
    curves = {
        name: {
            curve: [curves_of(team, curve, [name], whole=whole) for whole in (False, True)] for curve in robot.curves
        }
        for name, robot in team.robots.items()
    }
    return team_state(team, 0), curves


# -- states --------------------------------------------------------------------------------------------------

JOINED = (record(0.0, "start", role="server", policy="bsp"), record(1.0, "join", peer="r", how="seed", members=1))

STATES = [
    ((), "joining", ""),
    ((record(2, "gate", peer="r", iteration=3, held_s=0.1, staleness=1),), "computing", ""),
    ((record(2, "waiting", peer="r", iteration=3, **{"for": "s (computing)"}),), "waiting", "s (computing)"),
    ((record(2, "slot", peer="r", direction="pull"),), "pulling", ""),
    ((record(2, "link_down", peer="r", cause="silent"),), "link down", "silent"),
    ((record(2, "link_down", peer="r", cause="silent"), record(3, "link_up", peer="r")), "joining", ""),
    (
        (record(2, "link_down", peer="r", cause="x"), record(3, "absent", peer="r", silent_s=9.6)),
        "absent",
        "silent for 10 s",
    ),
    ((record(2, "absent", peer="r", silent_s=9), record(3, "return", peer="r", iteration=8)), "computing", ""),
    ((record(2, "quarantined", peer="r", cause="norm"),), "quarantined", "norm"),
    ((record(2, "quarantined", peer="r", cause="norm"), record(3, "released", peer="r")), "joining", ""),
    ((record(2, "leave", peer="r", cause="killed"),), "left", "killed"),
    (
        (record(2, "leave", peer="r", cause="finished"), record(3, "link_down", peer="r", cause="x")),
        "finished",
        "finished",
    ),
    ((record(2, "drained", peer="r", iteration=9),), "finished", ""),
    ((record(2, "end", node="r", cause="interrupted"),), "left", "interrupted"),
    ((record(2, "told", peer="r", state="queued", iteration=4, staleness=2, metrics={}),), "queued", ""),
]


@pytest.mark.parametrize(("then", "state", "why"), STATES)
def test_state_of_a_robot(then, state, why):
    robot = team_of(*JOINED, *then).robots["r"]
    assert (robot.state, robot.why) == (state, why)


def test_what_a_step_says():
    team = team_of(record(10.0, "step", node="r", iteration=7, staleness=2, **STEP))
    robot = team.robots["r"]
    assert (robot.iteration, robot.staleness, robot.share) == (7, 2, 0.75)
    assert robot.newest("up") == pytest.approx(8 * 5000 / 0.5)
    assert robot.newest("down") == pytest.approx(8 * 2500 / 0.5)
    assert robot.newest("link") == 8e6
    assert robot.newest("stall") == pytest.approx(0.2)


def test_rates_and_stalls_of_a_server_alone():
    team = team_of(
        *(record(t, "push", peer="r", iteration=t, bytes=1000) for t in (1, 3)),
        *(record(t, "gate", peer="r", iteration=t, held_s=0.5) for t in (4, 6)),
    )
    assert team.robots["r"].newest("up") == pytest.approx(4000)
    assert team.robots["r"].newest("stall") == pytest.approx(0.25)


def test_what_the_server_tells_counts_less_than_the_robots_own_journal():
    told = record(2, "told", peer="r", state="computing", metrics={"loss": 9.0, "rate_bps": 1.0}, down_bps=5.0)
    assert team_of(*JOINED, told).robots["r"].metrics == {"loss": 9.0}
    own = record(1.5, "step", node="r", iteration=1, **STEP), record(1.6, "metric", node="r", name="loss", value=0.5)
    robot = team_of(*JOINED, *own, told).robots["r"]
    assert robot.metrics == {"loss": 0.5} and robot.newest("link") == 8e6


def test_the_map_of_rows():
    team = team_of(
        record(1, "layers", names=["a", "b"], rows=[4, 1]),
        record(2, "rows", peer="r", iteration=3, mean_age=[0.5, 2], oldest_age=[1, 2], pending=[0.25, 1]),
    )
    assert team.layers == (["a", "b"], [4.0, 1.0])
    assert team.robots["r"].rows.pending == [0.25, 1.0]


def test_the_log_says_what_happened_and_how_serious_it_is():
    team = team_of(*JOINED, record(2, "link_down", peer="r", cause="silent\x1b[2J"), record(3, "nonsense", peer="r"))
    assert [(line.who, line.level) for line in team.log] == [("server", "info"), ("r", "info"), ("r", "trouble")]
    assert team.log[-1].text == "link down: silent\\x1b[2J"
    assert team.unknown == 1


def test_that_the_link_of_a_robot_ends_that_has_finished_is_no_trouble():
    team = team_of(*JOINED, record(2, "leave", peer="r", cause="finished"), record(3, "link_down", peer="r", cause="x"))
    assert {line.level for line in team.log} == {"info"}


def test_the_reducer_knows_no_clock_no_file_and_no_thread():
    folder = Path(rowcast.page.history.__file__).parent
    for name in ("model", "curves", "sentences", "state"):
        tree = ast.parse((folder / f"{name}.py").read_text())
        found = {
            each
            for node in ast.walk(tree)
            for each in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert not found & {"time", "datetime", "threading", "asyncio", "pathlib", "os", "socket"}, name


# -- properties ----------------------------------------------------------------------------------------------

finite = st.floats(allow_nan=False, allow_infinity=False)
anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    finite,
    st.text(max_size=8),
    st.lists(st.one_of(finite, st.text(max_size=3)), max_size=4),
    st.dictionaries(st.text(max_size=4), st.one_of(st.integers(-9, 9), st.text(max_size=3)), max_size=3),
)


@st.composite
def records(draw):
    """Records of every event, with fields of any kind, in the order of their times."""
    t, found = 0.0, []
    for _ in range(draw(st.integers(1, 30))):
        t = round(t + draw(st.sampled_from([0.0, 0.01, 0.4, 3.0, 5000.0])), 3)
        event = draw(st.sampled_from(sorted(EVENTS)))
        fields = {name: draw(anything) for name in EVENTS[event] if name != "peer" and draw(st.integers(0, 3))}
        if "peer" in EVENTS[event]:
            fields["peer"] = draw(st.sampled_from(["r-1", "r-2", "server", ""]))
        if event in ("step", "told", "gate") and draw(st.booleans()):
            fields |= {"iteration": draw(st.integers(0, 9)), **STEP}
        found.append({"t": t, "node": draw(st.sampled_from(["server", "r-1", "r-2"])), "event": event, **fields})
    return found


def test_a_step_of_next_to_no_time_has_no_rate():
    team = Team()
    team.take({"t": 0.0, "node": "r-1", "event": "step", "push_bytes": 2.5e9, "starve_s": 1e-298})
    team.take({"t": 0.1, "node": "r-1", "event": "step", "stall_s": 1e9, "compute_s": -1e9, "starve_s": 1e-300})
    json.dumps(Changes().since_last(team, 1), allow_nan=False)


@settings(max_examples=80, deadline=None)
@given(records())
def test_whatever_a_record_holds_it_is_taken_and_can_be_sent(found):
    team, changes = Team(), Changes()
    seen = {}
    for each in found:
        team.take(each)
        told = changes.since_last(team, 1)
        json.dumps(told, allow_nan=False)
        if told["kind"] == "whole":
            seen.clear()
        for name in told.get("gone", ()):
            del seen[name]
        for robot in told["robots"]:
            seen[robot["name"]] = seen.get(robot["name"], {}) | robot
    # Who was sent the changes only knows what one does who is sent all of it.
    whole = {robot["name"]: robot for robot in team_state(team, 1)["robots"]}
    assert seen == whole


@settings(max_examples=40, deadline=None)
@given(records(), st.integers(1, 9), st.data())
def test_replay_to_a_moment_is_what_was_live_then(tmp_path_factory, found, every, data):
    path = tmp_path_factory.mktemp("replay") / "server.jsonl"
    path.write_text("".join(line_of(each) for each in found))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rowcast.page.history, "FIRST_EVERY", every)
        history = History(path, session=0)
        while history.read(every):
            pass
    first = next((place for place, each in enumerate(found) if each["event"] == "start"), 0)
    for t in data.draw(st.lists(st.sampled_from([each["t"] for each in found[first:]]), min_size=1, max_size=5)):
        live = team_of(*(each for each in found[first:] if each["t"] <= t))
        assert history.at(t, everything) == everything(live)
    assert everything(history.team) == everything(team_of(*found[first:]))


def test_moments_are_dropped_where_they_would_take_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(rowcast.page.history, "FIRST_EVERY", 10)
    monkeypatch.setattr(rowcast.page.history, "MOMENTS_BYTES", 20_000)
    path = tmp_path / "server.jsonl"
    found = [record(t / 10, "step", node="r", iteration=t, **STEP) for t in range(3000)]
    path.write_text("".join(line_of(each) for each in found))
    history = History(path)
    while history.read(10):
        pass
    assert history._moments_bytes <= 20_000 and len(history._moments) >= 2
    assert history.at(150.0, everything) == everything(team_of(*(each for each in found if each["t"] <= 150.0)))


def test_memory_is_flat_over_a_day():
    team, sizes = Team(), []
    for number in range(80_000):
        t = number * 1.08
        robot = f"robot-{number % 4}"
        if number % 51 == 0:
            team.take(record(t, "link_down", peer=robot, cause="fading"))
            team.take(record(t, "metric", node=robot, name=f"name {number}", value=1.0))
        team.take(record(t, "step", node=robot, iteration=number // 4, staleness=0, **STEP))
        if number in (40_000, 79_999):
            sizes.append(len(pickle.dumps(team, protocol=5)))
    assert sizes[1] < 1.01 * sizes[0] < 2_000_000
    assert len(team.log) == MOST_LINES and all(len(robot.metrics) == MOST_METRICS for robot in team.robots.values())


def test_robots_that_have_gone_make_room():
    team = team_of(*JOINED, *(record(number, "join", peer=f"r-{number}") for number in range(2 * MOST_ROBOTS)))
    assert len(team.robots) == MOST_ROBOTS and "r-400" not in team.robots
    team = team_of(
        *(
            each
            for number in range(2 * MOST_ROBOTS)
            for each in (record(number, "join", peer=f"r-{number}"), record(number, "leave", peer=f"r-{number}"))
        )
    )
    assert len(team.robots) == MOST_ROBOTS and f"r-{2 * MOST_ROBOTS - 1}" in team.robots


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(-1e6, 1e6)), min_size=1, max_size=80))
def test_a_curve_keeps_its_newest_points_and_the_mean_of_all(points):
    curve = Curve(0.0)
    for t, value in points:
        curve.add(t, value)
    times, values = curve.recent()
    assert list(zip(times, values, strict=True)) == points[-RECENT:]
    middles, means = curve.whole()
    assert len(middles) <= BINS and middles == sorted(middles)
    counted = dict.fromkeys(middles, 0)
    total = 0.0
    for t, value in points:
        middle = (int(t / curve.width_s) + 0.5) * curve.width_s
        counted[middle] += 1
        total += value
    assert sum(mean * counted[middle] for middle, mean in zip(middles, means, strict=True)) == pytest.approx(
        total, abs=1e-3
    )


def test_a_curve_hands_out_what_is_new():
    curve = Curve(0.0)
    for number in range(RECENT + 10):
        curve.add(number, number)
    assert curve.recent(RECENT + 7)[1] == [RECENT + 7, RECENT + 8, RECENT + 9]
    assert len(curve.recent(3)[0]) == RECENT and curve.recent(RECENT + 10) == ([], [])
