"""The demo: a whole one, small, and how it ends when something goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import json
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from live import LAYOUT, LIMIT_S, eventually, python, start_of
from rowcast.drivers.claim import claimed
from rowcast.errors import ConfigError, DataError, WorkerFailed
from rowcast.experiment import DemoSettings, ServerAudit, ShapeSettings, WorkerAudit, prove, run_demo, shaped_trace
from rowcast.experiment.loading import loading
from rowcast.experiment.processes import ProcessGroup
from rowcast.experiment.starting import state_file
from rowcast.journal import read_journal
from rowcast.tasks import build_task

POLICIES = {"bsp": "bsp", "rog:4": "rog-4", "rowcast": "rowcast"}


def pretend_pretrained(out):
    """A model that took no time to train, where the demo finds its pre-trained one."""
    task = build_task("cruda-digits", pretrain_epochs=0)
    task.pretrain()
    (out / "states").mkdir()
    task.save_state(out / "states" / state_file(build_task("cruda-digits", seed=0)))


@pytest.fixture(scope="module")
def demo_out(tmp_path_factory):
    """What a demo of two robots and a second for each policy left behind, and what it printed."""
    out = tmp_path_factory.mktemp("demo")
    pretend_pretrained(out)
    process = python(
        "-m", "rowcast", "demo", "--workers=2", "--seconds=1", "--pace=0.1", "--set", "ratio=0.2", "--out", out
    )
    printed, err = process.communicate(timeout=6 * LIMIT_S)
    assert process.returncode == 0, printed + err
    assert "starting model: " in printed and "% right on clean images" in printed
    return out, printed


@pytest.mark.system
def test_demo_leaves_everything_behind(demo_out):
    out, printed = demo_out
    for policy, folder in POLICIES.items():
        assert policy in printed
        for node in ("server", "robot-0", "robot-1"):
            events = [record["event"] for record in read_journal(out / folder / f"{node}.jsonl")]
            assert events[0] == "start" and "end" in events
    for name in ("accuracy.png", "composition.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.system
def test_demo_loses_nothing(demo_out):
    out, _ = demo_out
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["policies"]) == list(POLICIES)
    for numbers in summary["policies"].values():
        assert numbers["workers"] == 2 and numbers["updates_sent"] > 0
        assert (numbers["updates_lost"], numbers["updates_doubled"]) == (0, 0)
        assert numbers["audit"]["clean"]
    assert summary["policies"]["bsp"]["steps_ratio"] == 1.0
    assert summary["best_bps"] == pytest.approx(8 * summary["model_bytes"] / (0.2 * 0.1))


@pytest.mark.system
def test_interrupted_demo_leaves_no_process(tmp_path):
    pretend_pretrained(tmp_path)
    demo = python("-m", "rowcast", "demo", "--workers=2", "--pace=0.1", "--set", "ratio=0.05", "--out", tmp_path)
    try:
        # Both robots are there and train.
        journals = [tmp_path / "bsp" / f"robot-{index}.jsonl" for index in range(2)]
        eventually(lambda: all(path.exists() and '"step"' in path.read_text() for path in journals), 3 * LIMIT_S)
        children = _children(demo.pid)
        assert len(children) == 2
    finally:
        demo.send_signal(signal.SIGINT)
        _, err = demo.communicate(timeout=2 * LIMIT_S)
    assert demo.returncode == 130, err
    seeded = r"rowcast: the team's parameters are those of robot-[01], not trained in a team yet\n"
    assert re.fullmatch(seeded + r"rowcast: interrupted\n", err)
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    for path in journals:
        assert [record["event"] for record in read_journal(path)][-1] in ("end", "link_down")
    assert list(read_journal(tmp_path / "bsp" / "server.jsonl"))[-1]["event"] == "end"


def _children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_loading_looks_for_nothing_that_could_be_freed():
    """Whatever happens meanwhile; and who does so himself is left alone."""
    with loading():
        assert not gc.isenabled()
    assert gc.isenabled()
    with contextlib.suppress(ImportError), loading():
        raise ImportError
    assert gc.isenabled()
    gc.disable()
    try:
        with loading():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


# -- processes that go wrong -------------------------------------------------------------------------------------------


def run_group(tmp_path, scripts, ready_s=LIMIT_S, finish_s=LIMIT_S, end_s=LIMIT_S):
    """Run small scripts as worker processes; returns their ids when all ended well."""

    async def run():
        async with ProcessGroup() as group:
            for index, script in enumerate(scripts):
                await group.start(f"robot-{index}", [sys.executable, "-c", script], tmp_path / f"{index}.log")
            pids.extend(worker.process.pid for worker in group.workers)
            await group.wait_ready(ready_s)
            for _ in range(2):
                group.go(["go"] * len(scripts))
                await group.wait_finished(finish_s)
            await group.wait_ended(end_s)

    pids: list[int] = []
    try:
        asyncio.run(run())
    finally:
        for pid in pids:
            with pytest.raises(ProcessLookupError):  # ended and reaped
                os.kill(pid, 0)


GOOD = "print('ready', flush=True); import sys; [print('finished', flush=True) for _ in sys.stdin]"
PATIENT = "print('ready', flush=True); input(); import time; time.sleep(1000)"


def test_processes_that_end_well(tmp_path):
    run_group(tmp_path, [GOOD, GOOD])


def test_a_process_that_dies_is_named_with_its_last_words(tmp_path):
    dying = "print('ready', flush=True); input(); raise SystemExit('rowcast: no more power')"
    with pytest.raises(WorkerFailed, match=r"robot-1 \(process \d+\) ended with code 1.*no more power"):
        run_group(tmp_path, [PATIENT, dying])


def test_a_process_that_ends_badly_when_nothing_more_comes(tmp_path):
    with pytest.raises(WorkerFailed, match=r"robot-1 \(process \d+\) ended with code 1; .*no more paper"):
        run_group(tmp_path, [GOOD, GOOD + "; raise SystemExit('rowcast: no more paper')"])


def test_a_process_that_dies_before_it_is_ready(tmp_path):
    with pytest.raises(WorkerFailed, match=r"robot-0 .* ended with code 1 before it was ready.*no data"):
        run_group(tmp_path, ["raise SystemExit('rowcast: no data')", PATIENT])


def test_processes_that_hang(tmp_path):
    with pytest.raises(WorkerFailed, match=r"robot-1 .* has not finished after 0.5 s"):
        run_group(tmp_path, [GOOD, PATIENT], finish_s=0.5)
    with pytest.raises(WorkerFailed, match=r"robot-1 .* has not ended after 0.5 s"):
        run_group(tmp_path, [GOOD, GOOD + "; import time; time.sleep(1000)"], end_s=0.5)
    with pytest.raises(WorkerFailed, match=r"robot-0 .* was not ready after 0.2 s"):
        run_group(tmp_path, ["import time; time.sleep(1000)"], ready_s=0.2)


def test_a_process_that_ignores_the_interruption_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("rowcast.experiment.processes.END_LIMIT_S", 0.2)
    deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); " + PATIENT
    with pytest.raises(WorkerFailed, match="has not finished"):
        run_group(tmp_path, [deaf], finish_s=0.2)


# -- the audit ---------------------------------------------------------------------------------------------------------


def books(lost=None, twice=None):
    """Audits of two workers, of which each sent two frames of one update per row; one of them lost or doubled."""
    initial = start_of()
    final = initial.copy()
    workers = []
    for index in range(2):
        computed = np.zeros(LAYOUT.rows)
        for frame in range(2):
            computed += 0.5 * LAYOUT.lengths
            times = (0 if lost == (index, frame) else 1) + (1 if twice == (index, frame) else 0)
            final -= np.float32(0.5 * times)
        workers.append(
            WorkerAudit(
                f"robot-{index}", 2, 2, 2, computed, final, {"accuracy": 90.0, "error": 0.5}, np.ones(2), np.ones(2)
            )
        )
    applied = {f"robot-{index}": 2 for index in range(2)}
    for who, change in ((lost, -1), (twice, 1)):
        if who is not None:
            applied[f"robot-{who[0]}"] += change
    workers = [dataclasses.replace(worker, replica=final) for worker in workers]
    return ServerAudit(LAYOUT, initial, final, applied), workers


def test_audit_of_clean_books():
    report = prove(*books())
    assert report.clean
    assert (report.frames_sent, report.lost, report.doubled, report.rows_off) == (4, 0, 0, 0)
    assert report.row_error == 0.0


def test_audit_finds_what_was_lost_and_what_came_twice():
    report = prove(*books(lost=(1, 0)))
    assert (report.lost, report.doubled, report.clean) == (1, 0, False)
    assert report.rows_off == LAYOUT.rows
    report = prove(*books(twice=(0, 1)))
    assert (report.lost, report.doubled, report.clean) == (0, 1, False)
    assert report.rows_off == LAYOUT.rows
    # Counts that fit do not hide sums that do not.
    server, workers = books(lost=(1, 0), twice=(1, 1))
    assert prove(server, workers).clean
    server.final[0] += 1.0
    assert not prove(server, workers).clean


def test_audit_file(tmp_path):
    worker = books()[1][0]
    worker.save(tmp_path / "robot.npz")
    again = WorkerAudit.load(tmp_path / "robot.npz")
    for field in dataclasses.fields(worker):
        np.testing.assert_array_equal(getattr(worker, field.name), getattr(again, field.name))
    with pytest.raises(DataError, match=r"nothing\.npz"):
        WorkerAudit.load(tmp_path / "nothing.npz")
    with pytest.raises(DataError, match="cannot be written"):
        worker.save(tmp_path / "nowhere" / "robot.npz")


# -- settings ----------------------------------------------------------------------------------------------------------


def test_traces_differ_by_robot_and_direction_and_repeat():
    shape = ShapeSettings("outdoor", best_bps=4e6, seed=3)
    assert shaped_trace(shape, 0, 0) == shaped_trace(shape, 0, 0)
    traces = [shaped_trace(shape, index, way) for index in range(2) for way in range(2)]
    assert len({trace.rates_bps.tobytes() for trace in traces}) == 4
    for trace in traces:
        assert trace.rates_bps.max() == pytest.approx(4e6)


def test_demo_settings_are_checked():
    with pytest.raises(ConfigError, match="pace_s: expected a number"):
        DemoSettings(pace_s=0.0)
    with pytest.raises(ConfigError, match="unknown policy"):
        DemoSettings(policies=("bsp", "rig:4"))


def test_two_demos_do_not_share_a_folder(tmp_path):
    with claimed(tmp_path / ".lock"), pytest.raises(ConfigError, match="another demo runs in this folder"):
        run_demo(DemoSettings(), tmp_path, None)
