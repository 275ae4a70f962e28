"""Whatever a SIGKILL leaves of a network is removed, and nothing of anybody else's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from namespaces import names_with, needs_namespaces, runs, source_environment
from rowcast.drivers.netns.cleaning import Cleaned, clean
from rowcast.drivers.netns.namespaces import processes_in
from rowcast.drivers.netns.network import Network
from rowcast.drivers.netns.places import PRIVATE, names_folder, records_folder
from rowcast.drivers.netns.records import Owner, Record, records_locked
from rowcast.errors import ConfigError

#: Makes a network and stops at a point, after it said the token and which processes it has started inside.
_VICTIM = """
import contextlib, os, subprocess, sys, threading, time
from pyroute2 import netns
from rowcast.drivers.netns import cleaning, network as module
from rowcast.drivers.netns.kernel_shaper import KernelShaper
from rowcast.drivers.netns.network import Network
from rowcast.links import Trace

point, network, started = sys.argv[1], Network(["server", "robot-0"]), []
make, remove, attach, taken = module.make_namespace, cleaning.remove_namespace, netns.attach, []

def stop(*_):
    print(network.token, *started, flush=True)
    threading.Event().wait()

def third(function):
    return lambda path: stop() if len(taken) == 2 else (taken.append(path), function(path))[1]

def bare_name(path, thread):
    if network.token not in path:
        return attach(path, thread)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path, "x").close()
    stop()

if point == "claimed":
    module.make_namespace = stop
elif point == "name":
    netns.attach = bare_name
elif point == "some":
    module.make_namespace = third(make)
elif point == "bare":
    Network._pairs = stop
elif point == "pairs":
    Network._air_side = stop
elif point == "removing":
    cleaning.remove_namespace = third(remove)

def start(*argv):
    process = subprocess.Popen(network.command("robot-0", argv), stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"inside\\n"
    started.append(process.pid)

with network, contextlib.ExitStack() as stack:
    if point in ("running", "stubborn"):
        ignoring = "trap '' TERM; " if point == "stubborn" else ""
        start("sh", "-c", ignoring + "echo inside; exec tail -f /dev/null")
        stop()
    elif point == "shaping":
        trace = {"robot-0": Trace([0, 0.01], [1e6, 2e6], "quick", duration_s=0.02)}
        shaper = stack.enter_context(KernelShaper(network, trace, trace))
        shaper.start(time.monotonic())
        started.append(shaper._tc.pid)
        stop()
"""

POINTS = ("claimed", "name", "some", "bare", "pairs", "running", "stubborn", "shaping", "removing")


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Records of nobody else."""
    monkeypatch.setenv(PRIVATE, str(tmp_path))
    return tmp_path


def victim(point: str) -> tuple[subprocess.Popen[str], str, list[int]]:
    """A process that has got to a point; the token of its network, and what it runs in it."""
    process = subprocess.Popen(
        [sys.executable, "-c", _VICTIM, point],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=source_environment(),
        start_new_session=True,
    )
    assert process.stdout is not None
    token, *pids = process.stdout.readline().split()
    return process, token, [int(pid) for pid in pids]


@pytest.fixture
def stopped_at(request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], str, list[int]]]:
    """A victim at the point that the test names; killed at the end of the test, and what it left removed."""
    process, token, pids = victim(request.param)
    yield process, token, pids
    process.kill()
    process.communicate()
    clean()


@needs_namespaces
@pytest.mark.system
@pytest.mark.parametrize("stopped_at", POINTS, indirect=True)
def test_nothing_is_left_after_a_kill(stopped_at: tuple[subprocess.Popen[str], str, list[int]]) -> None:
    process, token, pids = stopped_at
    assert (records_folder() / f"{token}.json").exists()
    before = names_with(token)
    clean()  # it lives: nothing of it is touched
    assert names_with(token) == before
    assert all(runs(pid) for pid in pids)
    process.kill()
    process.communicate()
    cleaned = clean()
    assert names_with(token) == []
    assert not any(runs(pid) for pid in pids)
    assert not (records_folder() / f"{token}.json").exists()
    assert cleaned.left == ()


@needs_namespaces
@pytest.mark.system
@pytest.mark.parametrize("stopped_at", ["running"], indirect=True)
def test_a_name_that_a_killed_process_left_is_said_with_the_remedy(
    stopped_at: tuple[subprocess.Popen[str], str, list[int]],
) -> None:
    process, token, _ = stopped_at
    process.kill()
    process.communicate()
    with pytest.raises(ConfigError, match=f"process {process.pid} left it when it died; run rowcast emulate --clean"):
        Network(["server", "robot-0"], label=token).__enter__()


def record(token: str, owner: Owner) -> Record:
    one = Record(token, owner, (f"rowcast-{token}-air",))
    with records_locked():
        one.save()
    return one


def test_a_later_process_of_the_same_id_is_not_the_owner(private: Path) -> None:
    me = Owner.this_process()
    record("mine", me)
    record("earlier", replace(me, started=me.started - 1))
    record("before-the-machine-started", replace(me, boot="another"))
    record("elsewhere", replace(me, pid_namespace=1, pid=2**30))
    assert clean() == Cleaned()
    assert sorted(path.stem for path in records_folder().glob("*.json")) == ["elsewhere", "mine"]


def test_what_is_no_record_is_told(private: Path) -> None:
    with records_locked():
        (records_folder() / "odd.json").write_text('{"token": 3}', encoding="ascii")
    assert clean().left == (f"{records_folder() / 'odd.json'} is no record of a network; look at it, and delete it",)


def test_a_mere_file_of_a_dead_owner_is_removed_and_named(private: Path) -> None:
    record("dead", replace(Owner.this_process(), started=1))
    names_folder().mkdir()
    (names_folder() / "rowcast-dead-air").touch()
    (names_folder() / "rowcast-alien-air").touch()
    assert clean() == Cleaned(namespaces=("rowcast-dead-air",))
    assert [path.name for path in names_folder().iterdir()] == ["rowcast-alien-air"]


def test_a_namespace_in_which_we_live_ends_nobody(private: Path) -> None:
    names_folder().mkdir()
    (names_folder() / "rowcast-dead-air").symlink_to("/proc/self/ns/net")
    assert processes_in([names_folder() / "rowcast-dead-air"]) == []


def test_records_that_may_not_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PRIVATE, "/proc/nowhere")
    with pytest.raises(ConfigError, match="cannot keep records of networks"):
        clean()
