"""What a server writes of its robots while it is watched, and that watching changes nothing."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from rowcast.drivers.virtual import Device
from rowcast.journal import Journal
from rowcast.page import Team
from rowcast.training import WorkerNode
from rowcast.training.watching import MOST_LAYERS, TeamWatch
from test_journal_hashes import LAYOUT, LINKS, WORKER, team_of, traces

NEW = ("told", "layers", "rows")


def run(policy, every_s, seconds=30.0):
    """Three robots on fading links, one of which is cut off for a while; the journal of the server, and its node."""
    journals = {}

    def journal(name):
        return journals.setdefault(name, Journal(name))

    simulation, entropy = team_of(policy, journal)
    layout = LAYOUT.timing_only()
    for index, trace in enumerate(traces()):
        name = f"robot-{index}"
        options = {"settings": WORKER, "link_settings": LINKS, "journal": journal(name), "entropy": entropy}
        node = WorkerNode(name, layout, layout.zeros(), **options)
        amounts = (1 + np.arange(layout.rows) % 5).astype(np.float32)
        simulation.add_timing_only(node, Device(0.4 + 0.2 * index, seed=index), trace, trace, amounts=amounts)
    simulation.clock.at(9.0, partial(simulation.cut, "robot-0", 3.0))
    server = simulation.server
    watch = TeamWatch(server.team, every_s)
    for number in range(int(seconds / 0.25)):
        simulation.clock.at(number * 0.25, partial(watch.look, number * 0.25))
    simulation.run(seconds)
    return journals, server


@pytest.mark.parametrize("policy", ["bsp", "rog:4", "rowcast:4", "rowcast:4?pulls=common", "flown:3"])
def test_watching_changes_nothing(policy):
    """All that happens happens as without, byte for byte."""
    unwatched, _ = run(policy, 0.0)
    watched, _ = run(policy, 1.0)
    assert not any(record["event"] in NEW for record in unwatched["server"].records)
    for name, journal in watched.items():
        assert [record for record in journal.records if record["event"] not in NEW] == unwatched[name].records
    found = [record["event"] for record in watched["server"].records if record["event"] in NEW]
    assert found.count("layers") == 1
    assert 80 <= found.count("told") <= 90 and 30 <= found.count("rows") <= 45


def test_the_map_is_that_of_the_version_table():
    journals, server = run("rog:4", 0.25)
    (layers,) = (record for record in journals["server"].records if record["event"] == "layers")
    assert layers["names"] == ["weight", "bias"] and layers["rows"] == [60, 1]
    newest = max(member.begun_iteration for member in server.members.values() if member.gated)
    last = {record["peer"]: record for record in journals["server"].records if record["event"] == "rows"}
    assert set(last) == {"robot-0", "robot-1", "robot-2"}
    seen = set()
    for record in journals["server"].records:
        if record["event"] == "rows":
            assert all(
                0 <= mean <= oldest for mean, oldest in zip(record["mean_age"], record["oldest_age"], strict=True)
            )
            assert all(0 <= share <= 1 for share in record["pending"])
            seen.add(record["oldest_age"][0])
    assert 0 in seen and max(seen) >= 2  # rows beyond the quota wait while the link is poor
    TeamWatch(server.team, 1.0).look(100.0)
    for record in journals["server"].records[-3:]:
        ages = newest - server.versions.of(record["peer"])
        assert record["oldest_age"] == [int(ages[:60].max()), int(ages[60])]
        assert record["mean_age"][0] == pytest.approx(ages[:60].mean(), abs=0.006)
        begun = server.members[record["peer"]].begun_iteration
        assert record["pending"][0] == pytest.approx(
            (server.versions.of(record["peer"])[:60] < begun).mean(), abs=0.001
        )


def test_the_page_knows_all_robots_by_the_servers_journal_alone():
    journals, server = run("rowcast:4", 1.0)
    team = Team()
    for record in journals["server"].records:
        team.take(record)
    assert sorted(team.robots) == ["robot-0", "robot-1", "robot-2"]
    for line in server.status(30.0):
        robot = team.robots[line.name]
        if not robot.absent:  # one for whom nobody waits runs ahead, and the server counts it otherwise
            assert abs(robot.iteration - line.iteration) <= 3
        assert robot.rows is not None and robot.newest("link") > 0 and robot.newest("down") > 0
    assert sum(not robot.absent for robot in team.robots.values()) >= 2
    assert any(line.event == "link_down" and line.who == "robot-0" for line in team.log)


def test_many_layers_are_put_together(monkeypatch):
    monkeypatch.setattr("rowcast.training.watching.MOST_LAYERS", 1)
    journals, _ = run("rog:4", 1.0, seconds=8.0)
    (layers,) = (record for record in journals["server"].records if record["event"] == "layers")
    assert layers["names"] == ["weight .. bias"] and layers["rows"] == [61] and MOST_LAYERS == 48
