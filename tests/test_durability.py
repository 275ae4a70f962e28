"""A server's state as a value, its inputs as a log, and both on a disk."""

from __future__ import annotations

import errno
import random
import threading
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from disks import MemoryDisk
from rowcast.config import LinkSettings, Secret, ServerSettings, StateSettings
from rowcast.drivers.state import RealDisk, ServerKeeper, TeamSpec
from rowcast.drivers.state.folder import StateFolder
from rowcast.drivers.state.groups import Segment, file_header, pack_group, read_segments
from rowcast.drivers.state.writer import GroupWriter, segment_name
from rowcast.durability import records
from rowcast.durability.recorded import RecordedServer
from rowcast.durability.recovery import recover
from rowcast.durability.state import State, capture, restore
from rowcast.errors import ConfigError, LocalProtocolError, StateDamaged
from rowcast.journal import Journal
from rowcast.session import Link
from rowcast.testing import DurableTeam, VirtualTeam
from teams import LAYOUT, events, worker

POLICIES = ["bsp", "ssp:2", "asp", "rog:4", "flown:2", "localsgd:2", "diloco:2", "rowcast", "rowcast?pulls=common"]
POLICIES += ["rowcast:3?elastic=off", "sparta", "demo", "powersgd:2", "sparseloco:2"]
SMALL_FRAMES = LinkSettings(frame_min_bytes=64, window_min_bytes=256, frame_s=0.001)


def busy_team(policy, until=2.0):
    """A durable team in the middle of its work: frames are on their way, and a link was cut."""
    scripts = [worker(f"robot{k}", iterations=40, rate_bps=3e4 * (k + 1)) for k in range(3)]
    team = DurableTeam(LAYOUT, policy, scripts, link_settings=SMALL_FRAMES)
    team._staleness.measure = lambda *_: None  # who looks changes when updates are added up
    team.at(1.2, lambda: team.cut("robot1", 0.2))
    team.run(until)
    return team


def externals(team):
    return {"journal": team.server.journal, "drawn": team._drawn}


def same(one: State, two: State) -> None:
    for first, second in zip(*(msgspec.msgpack.decode(each.table)["objects"] for each in (one, two)), strict=True):
        assert first == second
    assert one.arrays.keys() == two.arrays.keys()
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, two.arrays[name], err_msg=name)


# -- the state as a value ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_restored_is_captured_alike(policy):
    team = busy_team(policy)
    state = capture(team.server, externals(team))
    again = restore(State(state.table, {name: each.copy() for name, each in state.arrays.items()}), externals(team))
    assert again is not team.server and again.parameters is not team.server.parameters
    same(state, capture(again, externals(team)))


def test_shared_memory_stays_shared():
    vector = np.arange(10, dtype=np.float32)
    turned = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    found = restore(capture({"a": vector, "b": vector[3:7], "c": [vector], "d": turned, "e": turned[:, 1]}, {}), {})
    found["a"][4] = 50
    found["d"][1, 1] = 60
    assert found["b"][1] == 50 and found["c"][0] is found["a"] and found["e"][1] == 60
    assert found["d"].flags.f_contiguous and not found["d"].flags.c_contiguous
    twice = restore(capture(found, {}), {})
    twice["a"][3] = 7
    assert twice["b"][0] == 7


def test_a_secret_is_never_part_of_a_state():
    team = VirtualTeam(LAYOUT, "bsp", [worker("robot0", secret=b"sixteen bytes of it")], secret=b"sixteen bytes of it")
    team.run(0.5)
    node = team.server
    known = {"journal": node.journal, "drawn": node._admission._entropy, "secret": node.secret}
    state = capture(node, known)
    assert b"sixteen bytes" not in state.table
    with pytest.raises(LocalProtocolError, match=r"rowcast\.config\.secret\.Secret"):
        capture({"key": Secret(b"sixteen bytes of it")}, {})
    assert restore(state, {**known, "secret": Secret(b"another")}).secret == b"another"


def test_foreign_objects_are_refused():
    with pytest.raises(LocalProtocolError, match="threading"):
        capture([threading.Event()], {})
    with pytest.raises(LocalProtocolError, match="function"):
        capture([lambda: 1], {})


@pytest.mark.parametrize(
    "entry",
    [["object", "os:stat_result", [], []], ["name", "subprocess:Popen"], ["object", "rowcast.nowhere:Thing", [], []]],
)
def test_only_classes_of_this_library_are_looked_up(entry):
    table = msgspec.msgpack.encode({"root": [0], "objects": [entry], "classes": {}})
    with pytest.raises(StateDamaged, match="classes"):
        restore(State(table, {}), {})


def test_a_damaged_table_is_refused_or_restored():
    """Nothing but StateDamaged comes out of it."""
    chance, team = random.Random(0), busy_team("rowcast", 1.0)
    state = capture(team.server, externals(team))
    refused = 0
    for _ in range(200):
        table = bytearray(state.table)
        for _ in range(3):
            table[chance.randrange(len(table))] ^= 1 << chance.randrange(8)
        try:
            restore(State(bytes(table), dict(state.arrays)), externals(team))
        except StateDamaged:
            refused += 1
    assert refused >= 50


# -- inputs once more --------------------------------------------------------------------------------------------------


def again(team, inputs=None, state=None):
    saved = team._saved[0] if state is None else state
    copied = State(saved.table, {name: each.copy() for name, each in saved.arrays.items()})
    return recover(
        copied,
        records.decode([b"".join(team.log.records if inputs is None else inputs)]),
        journal=Journal("server"),
        secret=None,
        settings=team.server.settings,
        links=team.server.team.links,
        source=random.Random(1).randbytes,
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_inputs_lead_to_the_same_state_to_the_last_bit(policy):
    team = busy_team(policy)
    found = again(team)
    assert found.unsure == [] and found.inputs == len(team.log.records) and 1.5 < found.now <= 2.0
    team.server.notices.clear()
    built = RecordedServer(found.node, team.log, found.drawn, links=found.links, count=found.count)
    built.node.journal.records.clear()
    same(team._host.capture(2.0), built.capture(2.0))


def test_other_settings_hold_from_the_restart_on_and_not_before():
    """What was heard is heard with the settings of then: with those of now another course might follow from it."""
    team = busy_team("rowcast")
    saved, start = team._saved
    changed = replace(team.server.settings, absence_limit_s=0.11, strangers_limit=1)
    found = recover(
        State(saved.table, {name: each.copy() for name, each in saved.arrays.items()}),
        records.decode([b"".join(team.log.records[start:])]),
        journal=Journal("server"),
        secret=None,
        settings=changed,
        links=LinkSettings(),
        source=random.Random(1).randbytes,
    )
    assert found.unsure == [] and set(found.node.members) == set(team.server.members)
    np.testing.assert_array_equal(found.node.parameters, team.server.parameters)
    assert found.node.settings is changed and found.node.team.settings is changed
    assert found.node.team.links == LinkSettings()
    assert {member.link for member in found.node.members.values() if member.link} <= set(found.links.values())


def test_what_happens_again_is_not_recorded_again():
    team = busy_team("rog:4")
    assert team.journals["server"].records
    assert again(team).node.journal.records == []


def test_a_worker_who_was_sent_something_else_joins_anew():
    """As after a move to another kind of processor: what is worked out again is not what was sent."""
    team = busy_team("rowcast")
    other = records.encode
    changed = []
    for place, record in enumerate(records.decode([b"".join(team.log.records)])):
        if isinstance(record, records.Polled) and record.check and place > 200:
            record = records.Polled(record.now, record.drawn, record.link, record.check ^ 1)
        changed.append(other(record))
    found = again(team, changed)
    assert set(found.unsure) == set(team.server.members)
    log = type(team.log)(team.clock, 0.0)
    server = found.resume(log, found.now)
    assert not server.node.members and not found.node.gate.counted()


def test_inputs_of_another_state_are_refused():
    team = busy_team("rog:4")
    with pytest.raises(StateDamaged, match="of connection"):
        again(team, team.log.records[100:])
    with pytest.raises(StateDamaged, match="records"):
        list(records.decode([b"\x05\x00\x00\x00abc"]))


def test_a_fault_of_the_server_happens_again(monkeypatch):
    team = busy_team("rog:4", 1.0)
    node, link = type(team.server), next(iter(team._by_link))
    poll, at = node.poll, 77.0

    def broken(self, now, link):
        return 1 / 0 if now == at else poll(self, now, link)

    with monkeypatch.context() as patch:
        patch.setattr(node, "poll", broken)
        with pytest.raises(ZeroDivisionError):
            team.host.poll(at, link)
        assert again(team).inputs == len(team.log.records) - 1
        with pytest.raises(StateDamaged, match="no fault"):
            again(team, team.log.records[:-1])
    with pytest.raises(StateDamaged, match="ZeroDivisionError"):
        again(team)


# -- groups on a disk --------------------------------------------------------------------------------------------------


def groups_of(contents, first=0):
    return file_header(first) + b"".join(pack_group(first + k, content) for k, content in enumerate(contents))


def read(*files, first=0):
    found = read_segments([Segment(segment_name(number), number, data) for number, data in files], first)
    return [bytes(group) for group in found], found


def test_a_torn_tail_is_cut_at_every_byte():
    contents = [b"one", b"two" * 100, b"three"]
    whole = groups_of(contents)
    ends = [len(groups_of(contents[:count])) for count in range(4)]
    for size in range(len(whole) + 1):
        kept, found = read((0, whole[:size]))
        count = max((k for k, end in enumerate(ends) if end <= size), default=0)
        assert kept == contents[:count] and found.next == count
        assert found.cut == size - (ends[count] if size >= ends[0] else 0)


def test_damage_before_the_last_group_is_named_whatever_the_byte():
    contents = [b"one", b"two" * 20, b"three"]
    whole = groups_of(contents)
    last = len(groups_of(contents[:2]))
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x40
        if place < last:
            with pytest.raises(StateDamaged, match="log-000000000000"):
                read((0, bytes(damaged)))
        else:
            assert read((0, bytes(damaged)))[0] == contents[:2]


def test_groups_that_are_missing_are_noticed():
    with pytest.raises(StateDamaged, match="expected group 1, got group 2; groups are missing"):
        read((0, groups_of([b"a"])), (2, groups_of([b"c"], 2)))
    kept, found = read((0, groups_of([b"a", b"b"])[:-1]), (1, groups_of([b"b", b"c"], 1)))
    assert kept == [b"a", b"b", b"c"] and found.next == 3, "a write that failed was made again in a file of its own"


# -- the writer --------------------------------------------------------------------------------------------------------


class Signal:
    """Waits for what a writer tells."""

    def __init__(self):
        self._changed = threading.Condition()
        self._count = 0

    def __call__(self):
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def until(self, reached):
        with self._changed:
            assert self._changed.wait_for(reached, 20.0)


def content_of(disk):
    names = sorted(name for name in disk.files if name.startswith("log-"))
    segments = [Segment(name, int(name[4:]), disk.read(name)) for name in names]
    return [bytes(group) for group in read_segments(segments, 0)]


def test_records_are_committed_in_groups():
    disk, told = MemoryDisk(), Signal()
    writer = GroupWriter(disk, 0, commit_s=10.0, committed=told)
    assert writer.append(b"a") == 1
    told.until(lambda: writer.committed_to == 1)
    for letter in b"bcdefg":
        last = writer.append(bytes([letter]))
    assert writer.committed_to == 1, "the next commit begins ten seconds after the last one"
    writer.flush()
    assert writer.committed_to == last == 7 and content_of(disk) == [b"a", b"bcdefg"] and disk.syncs == 2
    assert writer.rotate() == 2
    writer.append(b"h", waits=True)
    writer.close()
    assert content_of(disk) == [b"a", b"bcdefg", b"h"] and writer.waiting_bytes == 0
    assert sorted(disk.files) == [segment_name(0), segment_name(2)]


def test_a_record_that_waits_for_the_next_one_holds_nobody_up_who_flushes():
    disk = MemoryDisk()
    writer = GroupWriter(disk, 0, commit_s=0.0, committed=lambda: None)
    late = []

    def check():  # called while the disk works
        if flushing.is_alive() and writer._hurry and not late:
            late.append(writer.append(b"late", waits=True))

    flushing = threading.Thread(target=writer.flush, daemon=True)
    with writer._lock:  # the flush begins before the record is committed
        writer._open.records.append(b"first")
        writer._position += 1
        disk.check = check
        flushing.start()
    flushing.join(10.0)
    assert not flushing.is_alive() and writer.committed_to == 2 and late == [2]
    writer.close()
    assert b"".join(content_of(disk)) == b"firstlate"


@pytest.mark.parametrize("trouble", ["full", "failing"])
def test_nothing_is_committed_while_the_disk_fails_and_everything_after(trouble, monkeypatch):
    monkeypatch.setattr("rowcast.drivers.state.writer.RETRY_S", 0.01)
    disk, told = MemoryDisk(), Signal()
    writer = GroupWriter(disk, 0, commit_s=0.0, committed=told)
    writer.append(b"before")
    writer.flush()
    if trouble == "full":
        disk.room = 10
    else:
        disk.fails = errno.EIO
    writer.append(b"while")
    told.until(lambda: writer.failure)
    assert writer.committed_to == 1 and ("No space" in writer.failure or "Input/output" in writer.failure)
    writer.append(b"more")
    writer.flush()  # returns, for the disk fails
    assert writer.committed_to == 1
    disk.room = disk.fails = None
    told.until(lambda: writer.committed_to == 3 and not writer.failure)
    writer.close()
    assert b"".join(content_of(disk)) == b"beforewhilemore"


def test_who_is_expelled_is_waited_for_no_longer_also_by_the_server_that_comes_back():
    team = busy_team("bsp", until=1.0)
    link = team.server.members["robot2"].link
    team.noted.expel(team.now, link, "revoked")
    assert link.closing and "robot2" not in team.server.members
    assert [each["cause"] for each in events(team, "server", "leave")] == ["revoked"]
    team.crash_server(written=True)
    assert "robot2" not in team.server.members


def test_a_worker_that_lied_about_terms_does_so_for_one_life_of_the_server():
    team = busy_team("bsp", until=1.0)
    team.server.team.served_elsewhere = 1 << 60
    team.crash_server()
    team.crash_server(written=True)
    assert team.server.team.served_elsewhere == 0


# -- a folder ----------------------------------------------------------------------------------------------------------

SPEC = TeamSpec("rog:4", ServerSettings(expected_workers=3, gather_s=0.0), SMALL_FRAMES, b"sixteen bytes of it")
LOG = StateSettings(durability="log", commit_s=0.0)


def keeper_of(disk, spec=SPEC, settings=LOG, seed=0):
    return ServerKeeper(disk, spec, settings, Journal("server"), source=random.Random(seed).randbytes)


def chatter(keeper, count=20, seed=0):
    """Strangers come and go."""
    chance = random.Random(seed)
    server, now = keeper.server, keeper.starts_at + 1.0
    server.listen(now)
    links = []
    for _ in range(count):
        now += 0.01
        if links and chance.random() < 0.4:
            server.link_down(now, links.pop(chance.randrange(len(links))), "gone")
        else:
            link = Link("10.0.0.1:7", address="10.0.0.1")
            server.link_up(now, link)
            links.append(link)
            server.poll(now, link)
        server.take_ready()
        server.next_wake()
    return now


def test_a_folder_brings_the_server_back_after_a_loss_of_power():
    for seed in range(10):
        disk = MemoryDisk()
        first = keeper_of(disk)
        assert first.recovered is None
        now = chatter(first, seed=seed)
        first.log.flush()
        standing = len(first.server._numbers)
        disk.lose_power(random.Random(seed))
        second = keeper_of(disk, seed=1)
        assert second.recovered is not None and second.starts_at == now
        assert len(second.recovered.links) == standing
        assert not second.server._numbers, "the connections are gone, and it knows"
        disk.lose_power(random.Random(seed))
        third = keeper_of(disk, seed=2)
        assert third.recovered.links == {}


def test_a_standby_that_comes_while_a_snapshot_is_written_gets_the_next_one():
    """Nobody else may say anything meanwhile: the keeper itself tells that the next one can be taken."""
    disk = MemoryDisk()
    keeper = keeper_of(disk)
    may_write, written, shipped = threading.Event(), threading.Event(), []
    replace_file = disk.replace

    def replace_slowly(name, new):
        assert may_write.wait(10.0)
        replace_file(name, new)

    disk.replace = replace_slowly
    keeper.on_written = written.set
    keeper.ship(lambda *_: None, lambda first, data: shipped.append((1, len(data))))
    keeper.attend(1.0, 0.0)  # for a standby whose connection has ended meanwhile
    keeper.ship(lambda *_: None, lambda first, data: shipped.append((2, len(data))))
    keeper.attend(2.0, 0.0)
    assert shipped == [] and not written.is_set()
    may_write.set()
    assert written.wait(10.0)
    written.clear()
    keeper.attend(3.0, 0.0)
    assert written.wait(10.0)
    assert [which for which, _ in shipped] == [1, 2] and all(size for _, size in shipped)
    keeper.close(4.0)


def test_snapshots_make_the_log_short():
    disk = MemoryDisk()
    keeper = keeper_of(disk)
    assert sorted(disk.files) == ["identity", "snapshot-000000000000"]
    now = 1.0
    for worked_s in range(60):
        link = Link("10.0.0.1:7" + "x" * 3000)
        now += 1.0
        keeper.server.link_up(now, link)
        keeper.server.link_down(now, link, "gone")
        keeper.log.flush()
        keeper.attend(now, 0.1 * worked_s)
        if keeper._writing is not None:
            keeper._writing.join()
    assert keeper.snapshots == 4, "the first one, and one each 1.5 s"
    assert sum(name.startswith("snapshot") for name in disk.files) == 1
    assert sum(len(file.content) for name, file in disk.files.items() if name.startswith("log")) < 20 * 3500
    assert keeper_again(disk).starts_at == now


def keeper_again(disk):
    disk.lose_power(random.Random(0))
    return keeper_of(disk)


def test_a_server_that_was_stopped_leaves_one_snapshot_and_no_log():
    disk = MemoryDisk()
    keeper = keeper_of(disk)
    now = chatter(keeper)
    keeper.server.stop(now)
    keeper.close(now)
    assert [name for name in disk.files if name.startswith("log")] == []
    assert keeper_of(disk).recovered.inputs == 0


def test_a_full_disk_at_the_start_is_said(monkeypatch):
    disk = MemoryDisk()
    disk.room = 100
    with pytest.raises(ConfigError, match="cannot be written: No space left"):
        keeper_of(disk)


def test_a_snapshot_that_cannot_be_written_leaves_the_one_before():
    disk = MemoryDisk()
    keeper = keeper_of(disk)
    now = chatter(keeper)
    keeper.log.flush()
    disk.room = 50
    keeper._write(*keeper._snapshot(now))
    assert "No space" in keeper.fault
    assert keeper_again(disk).starts_at == now


def test_a_folder_serves_one_server_of_one_policy(tmp_path):
    disk = RealDisk(tmp_path / "state")
    keeper = keeper_of(disk)
    with pytest.raises(ConfigError, match="another process uses it"):
        keeper_of(disk)
    keeper.close(1.0)
    with pytest.raises(ConfigError, match=r"its team has the policy rog:4, and this server has bsp"):
        keeper_of(disk, replace(SPEC, policy="bsp"))
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert {each.stat().st_mode & 0o777 for each in (tmp_path / "state").iterdir()} == {0o600}
    keeper_of(disk).close(2.0)


def test_inputs_of_another_secret_are_not_heard_again():
    disk = MemoryDisk()
    keeper = keeper_of(disk)
    chatter(keeper)
    keeper.log.flush()
    for other in (b"another sixteen bytes", None):
        disk.lose_power(random.Random(0))
        with pytest.raises(ConfigError, match="another shared secret"):
            keeper_of(disk, replace(SPEC, secret=other))
    again = keeper_of(disk)
    again.close(again.starts_at)
    keeper_of(disk, replace(SPEC, secret=b"another sixteen bytes"))  # it was stopped: nothing is to be heard again
    assert all(b"sixteen bytes" not in file.content for file in disk.files.values())


@pytest.mark.parametrize("what", ["byte", "short", "release", "no snapshot", "not text"])
def test_a_snapshot_that_is_not_as_it_was_is_refused(what, monkeypatch):
    disk = MemoryDisk()
    keeper_of(disk)
    disk.lose_power(random.Random(0))
    file = disk.files["snapshot-000000000000"]
    if what == "byte":
        file.content[-20] ^= 1
    elif what == "short":
        del file.content[-20:]
    elif what == "release":
        monkeypatch.setattr("rowcast.drivers.state.folder.__version__", "9.9")
    elif what == "not text":
        file.content[:] = b"\xff" * 100
    else:
        disk.files[segment_name(0)] = disk.files.pop("snapshot-000000000000")
    with pytest.raises(StateDamaged, match="release 9.9, got one of" if what == "release" else "snapshot"):
        StateFolder(disk).find()


# -- without a log -----------------------------------------------------------------------------------------------------


def test_without_a_log_workers_join_anew_and_what_they_send_counts_once():
    settings = StateSettings(durability="snapshot", snapshot_s=5.0)
    disk = MemoryDisk()
    team = busy_team("rog:4")
    keeper = keeper_of(disk, settings=settings)
    keeper.server.node, keeper.server._drawn = team.server, team._drawn
    keeper._team = replace(SPEC, secret=None)
    keeper.server._numbers = {}
    received = {name: one.inbox.received for name, one in team.server.members.items()}
    sessions = {name: (one.session, one.life) for name, one in team.server.members.items()}
    for member in team.server.members.values():
        member.link = None
    keeper.attend(4.0, 0.0)
    assert keeper.snapshots == 1, "the first one, of the empty server"
    keeper.attend(5.0, 0.0)
    keeper._writing.join()
    assert keeper.snapshots == 2 and [name for name in disk.files if name.startswith("log")] == []
    disk.lose_power(random.Random(0))
    back = keeper_of(disk, replace(SPEC, secret=None), settings)
    node = back.server.node
    assert not node.members
    np.testing.assert_array_equal(node.parameters, team.server.parameters)
    for name, (_, life) in sessions.items():
        assert node.received_from(name, life) == received[name] > 0
