"""What a standby has of another server in its folder and in memory, and whose grants count when it asks to lead."""

from __future__ import annotations

import random
import threading

import pytest

from disks import MemoryDisk
from rowcast.config import StateSettings
from rowcast.drivers.state.mirror import Mirror
from rowcast.durability import records
from rowcast.durability.recovery import Replay
from rowcast.durability.state import capture
from rowcast.journal import Journal
from test_durability import SPEC, busy_team, chatter, keeper_of

# -- the members that a vote counts ------------------------------------------------------------------------------------


def rosters_of(*names):
    return [frozenset(name.encode() for name in each.split()) for each in names]


@pytest.mark.parametrize(("record", "left"), [("none", 3), ("shared", 2), ("attached", 3), ("alone", 0)])
def test_which_members_count_when_a_server_is_built_again(record, left):
    team = busy_team("bsp", until=0.1)
    node, drawn = team.server, team._drawn
    root = {"node": node, "links": {}, "count": 0, "now": 1.0, "unsure": [], "rosters": rosters_of("", "a", "a b")}
    state = capture(root, {"journal": node.journal, "drawn": drawn, "secret": node.secret})
    replay = Replay(state, journal=Journal("server"), secret=None, source=drawn)
    if record == "shared":
        replay.take(records.Shared(2))
    elif record != "none":
        replay.take(records.Led(2.0, b"", 3, b"team", b"one", b"two" if record == "attached" else b"", ""))
    now = [frozenset(one.session for one in node.members.values())] if record in ("attached", "alone") else []
    assert replay.rosters == rosters_of("", "a", "a b")[3 - left :] + now


def test_what_a_standby_has_on_its_disk_it_has_heard_also_when_that_is_full_then():
    disk, shipped = MemoryDisk(), []
    first = keeper_of(MemoryDisk())
    first.ship(lambda *group: shipped.append(group), lambda number, data: shipped.append((number, data)))
    written = threading.Event()
    first.on_written = written.set
    first.attend(1.0, 0.0)
    assert written.wait(10.0)
    chatter(first)
    first.log.flush()
    chatter(first, seed=1)
    first.log.flush()
    (snapshot,) = [each for each in shipped if len(each) == 2]
    groups = [(number, content) for number, _, content in (each for each in shipped if len(each) == 3)]
    assert len(groups) >= 2
    mirror = Mirror(disk, SPEC, StateSettings(), Journal("standby"))
    mirror.take(*snapshot)
    disk.room = sum(len(content) for _, content in groups[:-1]) + 200
    with pytest.raises(OSError, match="No space"):
        mirror.add(groups)
    disk.room = None
    warm = mirror.give()
    assert warm.recovered.inputs > 0 and warm.next == groups[-1][0]
    warm.folder.close()
    again = Mirror(disk, SPEC, StateSettings(), Journal("standby"))
    assert again.next == warm.next and again._replay.inputs == warm.recovered.inputs
    again.close()
    first.close(9.0)


def test_a_snapshot_for_which_there_is_no_thread_is_tried_again(monkeypatch):
    keeper, shipped = keeper_of(MemoryDisk()), []
    keeper.ship(lambda *_: None, lambda first, data: shipped.append(first))
    start, written = threading.Thread.start, threading.Event()
    keeper.on_written = written.set
    monkeypatch.setattr(threading.Thread, "start", lambda self: (_ for _ in ()).throw(RuntimeError("can't start")))
    with pytest.raises(RuntimeError, match="can't start"):
        keeper.attend(1.0, 100.0)
    monkeypatch.setattr(threading.Thread, "start", start)
    keeper.attend(2.0, 200.0)
    assert written.wait(10.0) and keeper.snapshots == 2 and len(shipped) == 1
    keeper.close(3.0)


def test_all_that_a_standby_has_comes_from_the_other_server_whose_older_members_do_not_count():
    """Otherwise the time before anybody had joined would count for ever, in which nobody can have a majority."""
    leader, disk = MemoryDisk(), MemoryDisk()
    first = keeper_of(leader)
    first.server.rosters = lambda: rosters_of("", "a", "a b")
    shipped, written = [], threading.Event()
    first.on_written = written.set
    first.ship(lambda *_: None, lambda number, data: shipped.append((number, data)))
    first.attend(1.0, 0.0)
    assert written.wait(10.0)
    mirror = Mirror(disk, SPEC, StateSettings(), Journal("standby"))
    mirror.take(*shipped[0])
    mirror.close()
    again = Mirror(disk, SPEC, StateSettings(), Journal("standby"))
    assert again._replay.rosters == rosters_of("a b")
    again.close()
    leader.lose_power(random.Random(0))
    assert len(keeper_of(leader).recovered.rosters) == 3, "the server that led does not know what its standby has"
    first.close(2.0)
