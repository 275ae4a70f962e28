"""The folder of a robot's state: real files, processes that are killed, and what may be wrong with it all."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from live import LAYOUT as LIVE_LAYOUT
from live import LIMIT_S, LiveServer, Robot, start_of
from rowcast.drivers.kept import Keeper, arrays, noting
from rowcast.drivers.kept import keeper as kept_keeper
from rowcast.drivers.kept.folder import Folder
from rowcast.errors import ConfigError
from rowcast.journal import read_journal
from rowcast.rows import Layout
from rowcast.training.kept import SESSION_NOTES, Acknowledged, Resumed
from teams import LAYOUT, events, finished
from test_kept import Story, robots, told

TESTS = Path(__file__).resolve().parent


class Prompt(Keeper):
    """Has written each picture before anything else happens."""

    def turn(self, now, node):
        super().turn(now, node)
        self._await_picture()


class Filed(Story):
    """The robot that is killed has its state in a folder; beside it the witness knows the truth."""

    def __init__(self, policy, folder, **more):
        super().__init__(policy, robots(), **more)
        self.folder = folder
        self.keeper = self.begin()

    def begin(self):
        keeper = Prompt(self.folder, self.name, 0.0)
        kept = keeper.open(LAYOUT)
        note, turn, pictures = self.witness.note, self.witness.turn, self.witness._pictures

        class Both:
            def note(self, one):
                keeper.note(one)
                note(one)

            def turn(self, now, node):
                if pictures(node.iteration):
                    keeper.turn(now, node)
                turn(now, node)

        self.node.notebook = Both()
        self.kept = kept
        return keeper

    def restart(self):
        """From the folder, and with the witness as if from its own memory."""
        self.keeper.close(done=False)
        self.harm()
        super().restart()
        self.keeper = self.begin()
        compare(self.kept.replay, self.node.recovery._replay)

    def harm(self):
        """What happens to the files meanwhile."""


def compare(one, other):
    for name in ("replica", "pending", "stamps", "left"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    for name in ("iteration", "session", "server", "joined", "training", "sent", "received", "acknowledged"):
        assert getattr(one, name) == getattr(other, name), name
    assert len(one._open) == len(other._open)


@pytest.mark.parametrize("policy", ["rog:4?codec=onebit", "rowcast:3", "powersgd:2", "diloco:2"])
def test_files_give_back_what_was_kept(policy, tmp_path):
    story = Filed(policy, tmp_path / "state", every=2)
    for time in (1.3, 1.9):
        story.team.at(time, story.crash)
    story.to_the_end()
    assert len(story.lost) == 2


@pytest.mark.parametrize("harm", ["torn", "flipped", "flipped in the header", "empty"])
def test_a_damaged_picture_falls_back_to_the_one_before(harm, tmp_path, caplog):
    story = Filed("rog:4?codec=onebit", tmp_path, every=1)

    def damage():
        newest = max(tmp_path.glob("picture-*"))
        data = bytearray(newest.read_bytes())
        if harm == "torn":
            del data[len(data) // 2 :]
        elif harm == "empty":
            data.clear()
        else:
            data[len(data) // 2 if harm == "flipped" else 40] ^= 4
        newest.write_bytes(data)

    story.harm = damage
    compared = []
    story.restart = lambda: compared.append(fall_back(story))
    story.team.at(1.5, story.crash)
    story.to_the_end()
    [(before, after)] = compared
    assert after.iteration == before.iteration
    assert after.lost.iterations == before.lost.iterations + 1
    np.testing.assert_array_equal(after.replica, before.replica)
    assert [record for record in caplog.records if "an older state is used" in record.message]


def fall_back(story):
    """Restart from files of which the newest is damaged; what memory has, and what the files had."""
    story.keeper.close(done=False)
    truth = story.witness.replay(LAYOUT)
    story.harm()
    keeper = Prompt(story.folder, story.name, 0.0)
    kept = keeper.open(LAYOUT)
    found = kept.replay
    story.witness.replay = lambda layout: found
    story.explain = lambda lost: None
    Story.restart(story)
    story.keeper = keeper
    return truth, found


def test_notes_that_are_torn_count_up_to_there(tmp_path):
    story = Filed("rog:4?codec=onebit", tmp_path, every=4)
    story.team.at(1.7, story.crash)
    seen = []

    def tear():
        whole = Prompt(tmp_path, story.name, 0.0)
        seen.append(whole.open(LAYOUT).replay)
        whole.close(done=False)
        newest = max(path for path in tmp_path.glob("notes-*") if path.stat().st_size > 100)
        size = newest.stat().st_size
        os.truncate(newest, size - 3)
        torn = Prompt(tmp_path, story.name, 0.0)
        seen.append(torn.open(LAYOUT).replay)
        torn.close(done=False)
        assert newest.stat().st_size < size - 3, "what is no whole note is cut off, so that others may follow"

    story.restart = lambda: (
        story.keeper.close(done=False),
        tear(),
        setattr(story.team.workers["robot1"], "killed", True),
    )
    finished(story.team)
    whole, torn = seen
    assert (torn.sent, torn.received, torn.acknowledged) != (whole.sent, whole.received, whole.acknowledged)
    assert torn.iteration in (whole.iteration, whole.iteration - 1)


def test_notes_of_the_session_are_on_the_disk_with_all_before_them(tmp_path, monkeypatch):
    """Without them, after a loss of power, those before would be believed of frames that bear the same numbers."""
    flushed = {}
    sync = os.fsync

    def watch(file):
        sync(file)
        path = Path(f"/proc/self/fd/{file}").readlink()
        flushed[path.name] = 0 if path.is_dir() else path.stat().st_size

    monkeypatch.setattr(os, "fsync", watch)
    story = Filed("rog:4?codec=onebit", tmp_path / "state", every=1)
    kinds = []
    note = story.keeper.note

    def compare_sizes(one):
        note(one)
        if isinstance(one, SESSION_NOTES):
            kinds.append(type(one))
            notes = {path.name: path.stat().st_size for path in (tmp_path / "state").glob("notes-*")}
            assert flushed == notes | {"state": 0}
        flushed.clear()

    story.keeper.note = compare_sizes
    for time in (1.3, 1.7):
        story.team.at(time, lambda: story.team.cut(story.name, 0.1))
    story.to_the_end()
    assert kinds.count(Resumed) == 2 and set(kinds) == set(SESSION_NOTES)


def test_notes_behind_those_that_are_lost_do_not_count(tmp_path):
    """Whole notes of the file before are gone, and it ends with a whole one: what is in the next one is of no use."""
    with contextlib.closing(Prompt(tmp_path, "robot1", 0.0)) as keeper:
        keeper.close = functools.partial(keeper.close, done=False)
        keeper.open(LAYOUT)
        story = Story("rog:4?codec=raw", robots(), every=1)
        story.team.run(1.5)
        keeper.turn(0.0, story.node)
        newest = story.node.outbox.acknowledged_frames
        keeper.note(Acknowledged(newest + 1))
        keeper.note(Acknowledged(newest + 2))
        keeper.turn(0.0, story.node)
        keeper.note(Acknowledged(newest + 3))
    first, second = sorted(tmp_path.glob("notes-*"))
    max(tmp_path.glob("picture-*")).unlink()
    follows, notes, _ = noting.read_notes(second, LAYOUT)
    assert follows == first.stat().st_size and notes == [Acknowledged(newest + 3)]
    size = len(first.read_bytes()) - (len(second.read_bytes()) - noting._HEAD.size)
    os.truncate(first, size)
    assert noting.read_notes(first, LAYOUT)[1:] == ([Acknowledged(newest + 1)], size)
    folder = Folder(tmp_path, "robot1")
    assert folder.read(LAYOUT).replay.acknowledged == newest + 1
    assert not second.exists()
    folder.close()


def full_for(monkeypatch, kind):
    """The disk is full for files of a kind."""
    write = os.write

    def refuse(file, data):
        if kind in Path(f"/proc/self/fd/{file}").readlink().name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data)

    monkeypatch.setattr(os, "write", refuse)


def test_what_is_before_a_gap_is_removed_when_the_session_changes(tmp_path, monkeypatch):
    """A note is missing, and the picture behind it as well: a resumption is in notes that nobody would come to."""
    story = Story("rog:4?codec=raw", robots(), every=1)
    story.team.run(1.5)
    keeper = Prompt(tmp_path, "robot1", 0.0)
    keeper.open(LAYOUT)
    keeper.turn(0.0, story.node)
    with monkeypatch.context() as patch:
        full_for(patch, "notes-")
        keeper.note(Acknowledged(1))
    with monkeypatch.context() as patch:
        full_for(patch, "picture-")
        keeper.turn(0.0, story.node)
        keeper.turn(0.0, story.node)
    names = ["notes-0000000001", "notes-0000000002", "notes-0000000003", "picture-0000000001.safetensors"]
    assert sorted(path.name for path in tmp_path.glob("*-*")) == names
    keeper.note(Resumed(1, 1, -1, False))
    assert sorted(path.name for path in tmp_path.glob("*-*")) == names[1:3]
    keeper.turn(0.0, story.node)  # there is room again
    keeper.close(done=False)
    again = Keeper(tmp_path, "robot1", 0.0)
    assert again.open(LAYOUT).replay.iteration == story.node.iteration
    again.close(done=False)


def test_a_picture_that_was_flushed_is_kept_until_another_one_is(tmp_path, monkeypatch, caplog):
    story = Story("rog:4?codec=raw", robots(), every=1)
    story.team.run(1.5)
    monkeypatch.setattr(kept_keeper, "FLUSH_S", 3600.0)
    keeper = Prompt(tmp_path, "robot1", 0.0)
    keeper.open(LAYOUT)
    for _ in range(5):
        keeper.turn(0.0, story.node)
        keeper.note(Acknowledged(keeper.pictures))
    assert [int(path.name[8:18]) for path in sorted(tmp_path.glob("picture-*"))] == [1, 4, 5]
    assert len(list(tmp_path.glob("notes-*"))) == 5
    keeper.close(done=False)
    for path in sorted(tmp_path.glob("picture-*"))[1:]:
        os.truncate(path, 100)
    again = Prompt(tmp_path, "robot1", 0.0)
    monkeypatch.setattr(kept_keeper, "FLUSH_S", 0.0)
    assert again.open(LAYOUT).generation == 1
    again.turn(0.0, story.node)
    assert [int(path.name[8:18]) for path in sorted(tmp_path.glob("picture-*"))] == [1, 7]
    again.turn(0.0, story.node)
    assert [int(path.name[8:18]) for path in sorted(tmp_path.glob("picture-*"))] == [7, 8]
    again.close(done=False)


def filled(folder, name="robot1"):
    story = Filed("bsp?codec=raw", folder, name=name)
    story.team.run(1.5)
    story.keeper.close(done=False)
    return folder


def test_the_state_of_another_robot_or_model_or_release_is_refused(tmp_path, monkeypatch):
    filled(tmp_path)
    with pytest.raises(ConfigError, match=r"expected the state of 'robot2', got that of 'robot1'; give each robot"):
        Keeper(tmp_path, "robot2", 0.0).open(LAYOUT)
    other = Layout.from_shapes([("weight", (3, 3))], small_tensor=1)
    with pytest.raises(ConfigError, match="got that of another one; give each robot and each model a folder"):
        Keeper(tmp_path, "robot1", 0.0).open(other)
    monkeypatch.setattr("rowcast.drivers.kept.folder.FORMAT", 3)
    monkeypatch.setattr("rowcast.drivers.kept.pictures.FORMAT", 3)
    with pytest.raises(ConfigError, match="expected a state of format 3, got one of format 2; install the release"):
        Keeper(tmp_path, "robot1", 0.0).open(LAYOUT)


def test_a_folder_has_one_owner(tmp_path):
    first = Keeper(tmp_path, "robot1", 0.0)
    with pytest.raises(ConfigError, match="another process uses this folder; stop it, or give each robot"):
        Keeper(tmp_path, "robot1", 0.0)
    first.close(done=False)
    Keeper(tmp_path, "robot1", 0.0).close(done=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="expected a folder that can be written, got: "):
        Keeper(tmp_path / "file", "robot1", 0.0)


class Disk:
    """Writes fail while it is full; half of one succeeds first, as on a real one."""

    def __init__(self, monkeypatch):
        self.full = self.partial = False
        write = os.write

        def scripted(file, data):
            if not self.full:
                return write(file, data)
            if self.partial and len(data) > 8:
                self.partial = False
                return write(file, memoryview(data)[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        for module in (arrays, noting):
            monkeypatch.setattr(module.os, "write", scripted)

    def fill(self):
        self.full = self.partial = True

    def empty(self):
        self.full = False


def test_a_full_disk_does_not_stop_the_training_and_is_told_once(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.WARNING, "rowcast")
    disk = Disk(monkeypatch)
    story = Filed("bsp?codec=raw", tmp_path, every=1)
    story.team.at(1.0, disk.fill)
    story.team.at(2.0, disk.empty)
    story.team.at(3.0, story.crash)
    story.to_the_end()
    lines = [record.message for record in caplog.records if "state_dir" in record.message]
    assert len(lines) == 2
    assert "cannot be written (No space left on device); training goes on" in lines[0]
    assert "the state is kept again" in lines[1]
    assert [one["message"] for one in events(story.team, "robot1", "error")] == ["state_dir: No space left on device"]
    assert told(story)[0]["lost_iterations"] == 0


@pytest.mark.parametrize("policy", ["bsp?codec=raw", "rowcast:3?codec=onebit"])
def test_a_crash_while_the_disk_is_full_doubles_nothing(policy, tmp_path, monkeypatch):
    """The notes end where the disk was full; the server tells what came behind them."""
    disk = Disk(monkeypatch)
    story = Filed(policy, tmp_path, every=1)
    gave_up = []

    def restart():
        disk.empty()
        story.keeper.close(done=False)
        keeper = Prompt(tmp_path, story.name, 0.0)
        found = keeper.open(LAYOUT).replay
        story.witness.replay = lambda layout: found
        story.explain = lambda lost: gave_up.append(not story.team.undelivered(story.name).any())
        Story.restart(story)
        story.keeper = keeper

    story.restart = restart
    story.team.at(1.0, disk.fill)
    story.team.at(1.9, story.crash)
    story.to_the_end()
    assert gave_up == [True]
    assert "notes are here of" in told(story)[0]["cause"]


@pytest.mark.system
def test_a_process_that_is_killed_in_any_phase_of_a_step_goes_on(tmp_path):
    steps, phases = 12, [("Sent", 3), ("Received", 2), ("Acknowledged", 2), ("computing", 6), ("picture", 2)]
    with LiveServer("bsp?codec=raw", expected_workers=2, absence_limit_s=60.0) as server:
        other = Robot(server, "other", steps=steps, update=1)
        for phase, left in [*phases, ("never", 0)]:
            arguments = [server.port, "killed", tmp_path / "state", tmp_path / "journal", steps, 100, phase, left]
            command = [sys.executable, str(TESTS / "killed_robot.py"), *map(str, arguments)]
            code = subprocess.run(command, timeout=3 * LIMIT_S, check=False, env={**os.environ}).returncode
            assert code == (0 if phase == "never" else -signal.SIGKILL), phase
        other.done(LIMIT_S)
        moved = start_of() - server.node.parameters
    recovered = [record for record in read_journal(tmp_path / "journal", None) if record["event"] == "recovered"]
    assert [record["how"] for record in recovered] == ["resumed"] * len(phases)
    lost = sum(record["lost_iterations"] for record in recovered)
    counts = (moved - steps) / 100
    np.testing.assert_array_equal(counts, np.round(counts))
    assert counts.max() <= steps
    assert counts.min() >= steps - lost
    assert lost <= 1, "only the picture that was being written is missing"
    np.testing.assert_array_equal(other.team.replica, server.node.parameters)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["lock"]
    assert len(moved) == LIVE_LAYOUT.elements
