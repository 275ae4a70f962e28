"""One interface for a log, whatever it lies in; the form of a log in a stream; addresses. What needs no nats-server."""

from __future__ import annotations

import random
import re
import sys

import msgspec
import numpy as np
import pytest

from disks import MemoryDisk
from rowcast.cli.serve import ServeSettings
from rowcast.config import StateSettings
from rowcast.drivers.state import JetStreamAddress, RealDisk, RowLog, state_at
from rowcast.drivers.state.folder import StateFolder, snapshot_bytes
from rowcast.drivers.state.groups import pack_group
from rowcast.drivers.state.stored import GroupPart, description, groups_of, identity_of
from rowcast.drivers.state.writer import GroupCommit
from rowcast.durability.state import State
from rowcast.errors import ConfigError, StateDamaged, SteppedDown


def snapshot(seed=0, size=1000):
    values = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    return snapshot_bytes(State(b"table", {"model": values}), {"seed": str(seed)})


# -- where a state lies ------------------------------------------------------------------------------------------------


def test_an_address_is_read():
    address = JetStreamAddress.of("tls://a,b:4333,[::1]:7/team-1?replicas=3&user=me&password_file=p&ca=c")
    assert address.hosts == ("a:4222", "b:4333", "[::1]:7") and address.name == "team-1" and address.tls
    assert (
        address.replicas == 3 and address.user == "me" and (str(address.password_file), str(address.ca)) == ("p", "c")
    )
    assert str(address) == "tls://a:4222,b:4333,[::1]:7/team-1"
    assert not JetStreamAddress.of("nats://127.0.0.1,192.0.2.1/x").is_local
    assert JetStreamAddress.of("nats://127.0.0.1,[::1],localhost/x").is_local


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nats://a", "NAME of at most 64 letters"),
        ("nats://a/", "NAME of at most 64 letters"),
        ("nats://a/b.c", "NAME of at most 64 letters"),
        ("http://a/b", "expected nats://HOST"),
        ("nats:///b", "expected HOST or HOST:PORT of a NATS server, got ''"),
        ("nats://a:0/b", "expected HOST or HOST:PORT"),
        ("nats://a:70000/b", "expected HOST or HOST:PORT"),
        ("nats://a,,c/b", "expected HOST or HOST:PORT"),
        ("nats://me:secret@a/b", "expected no password in an address"),
        ("nats://a/b?replicas=0", r"replicas: expected a number in 1 \.\. 5, got '0'"),
        ("nats://a/b?replicas=three", "replicas: expected a number"),
        ("nats://a/b?replica=3", "unknown option 'replica'; did you mean 'replicas'"),
        ("nats://a/b?replicas", "expected options as KEY=VALUE"),
        ("nats://a/b?replicas=", "expected a value for replicas, got none"),
        ("nats://a/b?replicas=1&replicas=3", "expected each option once"),
        ("nats://a/b?user=me", "expected user and password_file, got one of them"),
    ],
)
def test_an_address_of_another_form_is_refused(text, why):
    with pytest.raises(ConfigError, match=why) as caught:
        JetStreamAddress.of(text)
    assert "secret" not in str(caught.value)


def test_what_a_user_gives_as_state_is_looked_at_before_anything_starts():
    with pytest.raises(ConfigError, match="expected HOST or HOST:PORT"):
        ServeSettings(state="nats://a:x/b")
    with pytest.raises(ConfigError, match="would travel in the clear; give tls://, or --insecure"):
        ServeSettings(state="nats://10.0.0.1/team")
    ServeSettings(state="tls://10.0.0.1/team")
    ServeSettings(state="nats://10.0.0.1/team", insecure=True)
    with pytest.raises(ConfigError, match="a log in JetStream needs no standby"):
        ServeSettings(state="nats://127.0.0.1/team", standby_of="10.0.0.1:7117")


def test_a_folder_is_no_address(tmp_path):
    disk = state_at(str(tmp_path / "state"), StateSettings())
    assert isinstance(disk, RealDisk) and (tmp_path / "state").is_dir()
    folder = StateFolder(disk)
    assert isinstance(folder, RowLog) and folder.lost is None and folder.followable
    folder.close()


def test_without_the_library_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "nats", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'rowcast[jetstream]'")):
        state_at("nats://127.0.0.1/team", StateSettings())


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    pytest.importorskip("nats")
    for option in ("user=me&password_file", "ca"):
        with pytest.raises(ConfigError, match="missing cannot be used: No such file"):
            state_at(f"tls://127.0.0.1:1/team?{option}={tmp_path / 'missing'}", StateSettings())


# -- the form in a stream ----------------------------------------------------------------------------------------------


def parts_of(number, content, size=40):
    data = pack_group(number, content)
    pieces = [data[place : place + size] for place in range(0, len(data), size)]
    return [GroupPart(number, place, len(pieces), piece) for place, piece in enumerate(pieces)]


CONTENTS = [b"one" * 30, b"two", b"three" * 40]
PARTS = [part for number, content in enumerate(CONTENTS) for part in parts_of(number, content)]


def read(parts, first=0):
    found = groups_of(parts, first, "log")
    return [bytes(each) for each in found], found


def test_groups_come_back_and_those_before_the_snapshot_are_left_out():
    for first in range(4):
        kept, found = read(PARTS, first)
        assert kept == CONTENTS[first:] and found.next == 3 and found.cut == 0


def test_a_group_that_was_not_stored_to_its_end_is_cut():
    for count in range(len(PARTS)):
        kept, found = read(PARTS[:count])
        whole = sum(part.part == part.parts - 1 for part in PARTS[:count])
        assert kept == CONTENTS[:whole] and found.next == whole
        torn = [part for part in PARTS[:count] if part.number == whole]
        assert found.cut == sum(len(part.data) for part in torn)


def test_what_was_stored_again_counts_once():
    """After an answer that did not come, or by the next owner in place of a group without an end."""
    for count in range(1, len(PARTS)):
        number = PARTS[count - 1].number
        again = [part for part in PARTS if part.number >= number]
        assert read([*PARTS[:count], *again])[0] == CONTENTS
    new = [*PARTS[: len(PARTS) - 1], *parts_of(2, b"another one")]
    assert read(new)[0] == [*CONTENTS[:2], b"another one"]


def test_a_part_that_is_missing_is_noticed():
    for place, part in enumerate(PARTS):
        if part.number < 2:
            with pytest.raises(StateDamaged, match=rf"expected group {part.number}, got group {part.number + 1}"):
                read([*PARTS[:place], *PARTS[place + 1 :]])


def test_a_part_that_was_changed_is_noticed():
    chance = random.Random(0)
    for place, part in enumerate(PARTS):
        data = bytearray(part.data)
        data[chance.randrange(len(data))] ^= 1
        changed = GroupPart(part.number, part.part, part.parts, bytes(data))
        parts = [*PARTS[:place], changed, *PARTS[place + 1 :]]
        if part.number < 2:
            with pytest.raises(StateDamaged, match=r"damaged|missing"):
                read(parts)
        else:
            assert read(parts)[0] == CONTENTS[:2]


def test_a_stream_says_what_it_is():
    assert identity_of(description(b"i" * 16), "there") == b"i" * 16
    for text, why in (
        ("", "got one of somebody else"),
        ("orders", "got one of somebody else"),
        ("rowcast log, layout 2, " + "00" * 16, "expected a log of layout 1, got one of layout 2; use the release"),
        ("rowcast log, layout 1, 00", "expected 16 bytes that name the log"),
        ("rowcast log, layout 1, nothing", "expected 16 bytes that name the log"),
    ):
        with pytest.raises(StateDamaged, match=why):
            identity_of(text, "there")


# -- committing --------------------------------------------------------------------------------------------------------


class Taken:
    """A store that takes so many groups, and then has another owner."""

    def __init__(self, count):
        self.groups, self._count = [], count

    def put(self, number, content, *, opens):
        if len(self.groups) == self._count:
            raise SteppedDown("another process took it over")
        self.groups.append((number, content, opens))
        return len(content)

    def close(self):
        self.closed = True


def test_who_has_lost_the_log_commits_nothing_more_and_ends():
    store, told = Taken(2), []
    writer = GroupCommit(store, 5, commit_s=0.0, committed=lambda: told.append(writer.committed_to))
    for record in (b"a", b"b", b"c", b"d"):
        writer.append(record)
        writer.flush()  # returns although the log is lost
    assert store.groups == [(5, b"a", True), (6, b"b", False)]
    assert writer.committed_to == 2 and "took it over" in writer.failure and told[-1] == 2
    writer.close()
    assert store.closed and len(store.groups) == 2


def test_a_snapshot_is_a_log_of_its_own_in_every_place():
    """The records of a snapshot in a stream are read as they were written, and nothing else is."""
    from rowcast.drivers.state.stored import SnapshotRecord

    record = SnapshotRecord(7, "a.b", 3, 4, 100, "ff")
    assert msgspec.json.decode(msgspec.json.encode(record), type=SnapshotRecord) == record
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(b'{"first": "seven"}', type=SnapshotRecord)


def test_a_folder_and_what_it_does_at_a_loss_of_power():
    """The behaviours that ``tests/test_jetstream.py`` asks of the other place."""
    disk = MemoryDisk()
    log = StateFolder(disk)
    log.write(0, snapshot())
    writer = log.writer(0, commit_s=0.0, committed=lambda: None)
    for record in (b"a", b"b"):
        writer.append(record)
        writer.flush()
    disk.lose_power(random.Random(0))
    found = StateFolder(disk).find()
    assert [bytes(each) for each in found.groups] == [b"a", b"b"] and found.about["seed"] == "0"
