"""``rowcast emulate``: real processes in namespaces, what they leave, and what is refused in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from namespaces import needs_namespaces
from rowcast.drivers.netns.cleaning import clean
from rowcast.errors import ConfigError
from rowcast.experiment.emulation import plan_emulation
from rowcast.experiment.emulation_settings import EmulationSettings
from rowcast.experiment.medium_settings import MediumSettings
from rowcast.report import read_experiment, summarise

ROOT = Path(__file__).parents[1]
#: A run that is over in seconds.
SHORT = ("--policies=rowcast", "--workers=2", "--minutes=0.1", "--devices=0.1", "--ratio=0.3", "--eval-every-s=2")


def emulate(*words: str, limit_s: float = 150.0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rowcast", "emulate", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=limit_s, cwd=ROOT, check=False)


@needs_namespaces
@pytest.mark.system
@pytest.mark.timeout(300)
def test_a_run_leaves_what_a_report_is_drawn_from(tmp_path: Path) -> None:
    done = emulate(*SHORT, "--packet-log", "--loss=0.001", "--delay-ms=2", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "0 lost, 0 doubled; all replicas agree" in done.stdout
    (run,) = read_experiment(tmp_path).runs
    found = summarise(run)
    assert found.workers == 2
    assert found.steps >= 10
    assert found.push_bytes > 0 < found.pull_bytes
    assert all(0 < end <= 6.0 for robot in run.robots for end in robot.ends_s)
    looks = [len(robot.measured["accuracy"].values) for robot in run.robots]
    assert all(2 <= count <= 3 for count in looks)  # at the start, and each 2 s of 6
    account = json.loads((run.folder / "emulation.json").read_text())
    assert account["audit"]["clean"]
    links = account["medium"]["links"]
    assert {(each["station"], each["way"]) for each in links} == {
        (f"robot-{index}", way) for index in range(2) for way in ("up", "down")
    }
    # Every byte of rows was on the medium, and more: headers, and what was lost and sent again.
    up = sum(each["bytes_in"] for each in links if each["way"] == "up")
    assert up > found.push_bytes
    assert (run.folder / "packets.pcap").stat().st_size > 10_000
    assert (tmp_path / "report" / "report.html").is_file()
    again = emulate(*SHORT, "--packet-log", "--loss=0.001", "--delay-ms=2", f"--out={tmp_path}")
    assert "1 of 1 runs finished, 0 under way" in again.stdout  # nothing is run twice
    assert not clean().namespaces


@needs_namespaces
@pytest.mark.system
@pytest.mark.timeout(300)
def test_the_kernel_shapes_a_run(tmp_path: Path) -> None:
    done = emulate(*SHORT, "--shaper=kernel", "--links=constant:2", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "0 lost, 0 doubled; all replicas agree" in done.stdout
    account = json.loads(next(tmp_path.glob("cells/*/emulation.json")).read_text())
    assert account["medium"]["changes"] >= 1


@needs_namespaces
@pytest.mark.system
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_nothing_is_left(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "rowcast", "emulate", *SHORT, "--minutes=5", f"--out={tmp_path}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT) as process:
        # Robots have joined: their journals are there.
        wait_until(lambda: len(list(tmp_path.glob("running/*/robot-*.jsonl"))) == 2, process)
        token = next(name for name in namespaces_of(process.pid))
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "the same command goes on" in " ".join(said.split())
    else:
        done = emulate("--clean")
        assert done.returncode == 0, done.stderr
        assert "removed 4 namespaces" in done.stdout
    assert not list(namespaces_of(process.pid))
    assert not processes_with(token)
    assert not processes_with(str(tmp_path))


def wait_until(true, process: subprocess.Popen[str]) -> None:
    """Look until it is so; the process must not end before."""
    while not true():
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.2)


def namespaces_of(pid: int) -> list[str]:
    from rowcast.drivers.netns.places import names_folder

    folder = names_folder()
    return [path.name for path in folder.glob(f"rowcast-{pid}-*")] if folder.is_dir() else []


def processes_with(text: str) -> list[str]:
    """Command lines of other processes that have this text in them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has ended
        if text in words and path.parent.name != str(os.getpid()):
            found.append(words)
    return found


def test_looks_come_by_the_clock_or_by_the_step() -> None:
    from rowcast.experiment.robot import _Looks

    by_clock = _Looks(5, 10.0)
    assert [by_clock.due(step, t) for step, t in enumerate((0.0, 4.0, 9.9, 13.0, 19.0, 20.0, 45.0, 49.0, 50.5))] == [
        *(True, False, False, True, False, True, True, False, True)
    ]
    by_step = _Looks(2, None)
    assert [by_step.due(step, 100.0) for step in range(4)] == [True, False, True, False]
    assert not any(_Looks(0, None).due(step, 100.0) for step in range(4))


def test_runs_of_an_emulation_are_those_of_virtual_time_on_other_terms() -> None:
    settings = EmulationSettings(policies=("bsp", "rowcast"), minutes=3, seeds=2, ratio=0.5, channel="airtime")
    cells = plan_emulation(settings)
    assert [(cell.policy, cell.seed) for cell in cells] == [("bsp", 0), ("rowcast", 0), ("bsp", 1), ("rowcast", 1)]
    for cell in cells:
        assert (cell.driver, cell.medium, cell.link) == ("netns", settings.medium, settings.link)
        assert (cell.seconds, cell.ratio, cell.channel) == (180.0, 0.5, "airtime")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"policies": ("bps",)}, "unknown policy"),
        ({"channel": "airtime", "medium": MediumSettings(shaper="kernel")}, "channel: expected 'independent' with"),
        ({"workers": 0}, "workers: expected a number in 1 .. 64 workers"),
    ],
)
def test_settings_that_cannot_be(settings, says) -> None:
    with pytest.raises(ConfigError, match=says):
        plan_emulation(EmulationSettings(**settings))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"delay_ms": 5.0}, "delay_ms: expected 0 with --shaper kernel"),
        ({"jitter_ms": 5.0}, "jitter_ms: expected 0 with --shaper kernel"),
        ({"loss": 0.1}, "loss: expected 0 with --shaper kernel"),
        ({"packet_log": True}, "packet_log: expected --shaper user"),
    ],
)
def test_what_the_kernel_cannot_do(settings, says) -> None:
    MediumSettings(**settings)
    with pytest.raises(ConfigError, match=says):
        MediumSettings(shaper="kernel", **settings)


def test_a_trace_that_is_shorter_than_a_run(tmp_path: Path) -> None:
    path = tmp_path / "short.csv"
    path.write_text("time_s,mbps\n0,5\n60,4\n120,3\n")
    with pytest.raises(ConfigError, match=r"expected a trace of 300 s or more, got 180 s; take --minutes 3, or"):
        plan_emulation(EmulationSettings(links=(str(path),)))
    plan_emulation(EmulationSettings(links=(str(path),), minutes=3))
    plan_emulation(EmulationSettings(links=(str(path),), links_repeat=True))


def test_no_rights_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from rowcast.cli.emulate import _take_rights

    monkeypatch.setattr("rowcast.drivers.netns.rights.why_not", lambda: "networks of namespaces need CAP_NET_ADMIN")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(ConfigError, match="need CAP_NET_ADMIN"):
        _take_rights(EmulationSettings())
