"""``benchmarks/peers.py``: what it reads from logs and models, its verdict, and what it says of those who are missing.

That contenders train in namespaces, ``test_benchmarks.py`` shows (``--tiny``).
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rowcast.links import Trace
from rowcast.tasks import find_task

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def folder_on_the_path(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(tmp_path)
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if name == "common" or name.startswith("peers"):
            del sys.modules[name]


def result(name="rowcast", **changes):
    """Three robots that step each second for 100 s, and become better by a point in each look of 10 s."""
    results = importlib.import_module("peers_results")
    made = results.Result(
        contender=name,
        scenario="plain",
        seconds=100.0,
        every_s=10.0,
        best_bps=1e6,
        congestion_control="reno",
        times_s=[[float(second) for second in range(1, 101)] for _ in range(3)],
        rounds=None,
        accuracy=[50.0 + look for look in range(11)],
        up_bytes=2_000_000,
        down_bytes=1_000_000,
    )
    return dataclasses.replace(made, **changes)


def test_accuracy_is_the_mean_of_three_looks():
    found = result()
    assert found.end == 59.0 and found.at(0) == 50.0 and found.at(35) == 52.0
    assert found.reaches_s(52.0) == 30.0
    assert found.reaches_s(59.5) == math.inf
    assert found.steps == 100 and found.bytes == 3_000_000


def test_an_outage_is_judged_by_the_slowest_of_the_others():
    """Robot 1 is away from 40 s to 60 s; robot 2 waits from 45 s to 57 s."""
    steady = [float(second) for second in range(1, 101)]
    away = [second for second in steady if not 40 <= second < 63]
    waits = [second for second in steady if not 45 < second < 57]
    found = result(times_s=[steady, away, waits], outage={"robot": 1, "begin_s": 40.0, "end_s": 60.0})
    assert found.in_outage() == (20, 9, 20)
    assert found.longest_pause_s() == 12.0
    assert found.back_s() == 3.0
    lost = result(times_s=[steady[:40], steady[:39], steady[:40]], outage={"robot": 1, "begin_s": 40.0, "end_s": 60.0})
    assert lost.in_outage() == (20, 1, 0)
    assert lost.longest_pause_s() == 60.0 and lost.back_s() == math.inf


def test_an_outage_takes_its_time_out_of_a_trace_and_nothing_else():
    net = importlib.import_module("peers_net")
    trace = Trace([0.0, 7.0, 30.0], [8e6, 2e6, 4e6], "three", duration_s=40.0)
    cut = net.Outage(0, 10.0, 20.0).on(trace, 60.0)
    assert cut.bits(10.0, 20.0) == 0 and cut.rate(9.99) == 2e6 and cut.rate(20.0) == 2e6
    for begin_s, end_s in ((0.0, 10.0), (20.0, 60.0)):
        assert cut.bits(begin_s, end_s) == trace.bits(begin_s, end_s)
    assert cut.duration_s == 60.0 and not cut.loop
    assert net.Outage(0, 10.0, 20.0).on(Trace.constant(1e6), 30.0).bits(0.0, 30.0) == 20e6


def test_only_the_link_of_one_robot_has_the_outage():
    net = importlib.import_module("peers_net")
    with_it = net.Links("outdoor", 1e6, None, net.Outage(1, 20.0, 50.0)).traces(3, 0, 60.0)
    without = net.Links("outdoor", 1e6, None).traces(3, 0, 60.0)
    assert [pair[way].bits(20.0, 50.0) > 0 for pair in with_it for way in (0, 1)] == [True] * 2 + [False] * 2 + [
        True
    ] * 2
    assert with_it[0] == without[0] and with_it[2] == without[2]
    assert without[0][0].rates_bps.max() == pytest.approx(1e6)


def a_job(folder, **changes):
    job = importlib.import_module("peers_job")
    task = find_task("cruda-digits").kind.build({"test_images": 100}, seed=3)
    task.keep_state(task.make_model())
    task.save_state(folder / "start.npz")
    made = job.Job(
        "cruda-digits",
        None,
        3,
        {"test_images": 100},
        str(folder / "start.npz"),
        2,
        0.5,
        3.0,
        1.0,
        str(folder),
    )
    return dataclasses.replace(made, **changes)


def test_models_that_were_kept_are_evaluated_at_their_looks(tmp_path):
    """Robot 0 keeps a model at 1.2 s, robot 1 none; looks are at 0, 1, 2 and 3 s, and may be a pace late."""
    results, net = importlib.import_module("peers_results"), importlib.import_module("peers_net")
    job = a_job(tmp_path)
    job.save(tmp_path / "job.json")
    assert type(job).load(tmp_path / "job.json") == job
    worker = job.build().worker(0, 2)
    first = worker.evaluate()["accuracy"]
    with torch.no_grad():
        for parameter in worker.model.parameters():
            parameter.mul_(-1)
        vector = torch.nn.utils.parameters_to_vector(worker.model.parameters()).numpy()
    second = worker.evaluate()["accuracy"]
    assert second != first
    np.save(tmp_path / "model-0-000002.npy", vector)
    logs = [
        [
            {"time_s": 0.6, "step": 1},
            {"time_s": 1.2, "step": 2},
            {"time_s": 1.2, "step": 2, "model": "model-0-000002.npy"},
        ],
        [{"time_s": 0.9, "step": 1, "rounds": 4}],
    ]
    for rank, log in enumerate(logs):
        text = "".join(json.dumps(line) + "\n" for line in log)
        (tmp_path / f"robot-{rank}.jsonl").write_text(text + '{"time_s": 2.', encoding="utf-8")
    links = net.Links("outdoor", 1e6, None)
    ways = [{"way": "up", "bytes_out": 10}, {"way": "down", "bytes_out": 4}, {"way": "up", "bytes_out": 1}]
    told = {"medium": {"links": ways}, "congestion_control": "bbr", "ended": {"robot-1": "why"}}
    found = results.evaluated("ddp", "plain", job, told, links)
    mean = (first + second) / 2
    assert found.accuracy == pytest.approx([first, mean, mean, mean])
    assert found.times_s == [[0.6, 1.2], [0.9]] and found.rounds == 4
    assert (found.up_bytes, found.down_bytes) == (11, 4)
    assert found.ended == {"robot-1": "why"}
    assert not list(tmp_path.glob("model-*"))


def call(monkeypatch, capsys, *words):
    script = importlib.import_module("peers")
    monkeypatch.setattr(sys, "argv", ["peers.py", *words])
    try:
        script.main()
        code = 0
    except SystemExit as ended:
        code = ended.code
    return code, capsys.readouterr().out


@pytest.fixture
def prepared(monkeypatch, capsys, tmp_path):
    """A folder as a run leaves it, with results in it that we write; nothing may be run."""
    script = importlib.import_module("peers")
    monkeypatch.setattr(script, "why_not", lambda: None)

    def run(*args):
        raise AssertionError("what is kept is run again")

    monkeypatch.setattr(script, "run", run)

    def write(scenario, found):
        file = tmp_path / "out" / scenario / found.contender.replace(":", "-") / "result.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(dataclasses.asdict(found)), encoding="utf-8")

    words = ["--tiny", "--check", "--out", str(tmp_path / "out"), "--json", str(tmp_path / "figures.json")]
    return write, lambda *more: call(monkeypatch, capsys, *words, *more)


def test_a_third_of_the_time_of_the_best_peer_is_asked(prepared):
    write, run = prepared
    fast = [50.0, *[59.0] * 10]
    write("plain", result(accuracy=fast))
    write("plain", result("ddp:fp16"))
    write("plain", result("flower:8", accuracy=[50.0] * 11))
    code, out = run()
    assert code == 0 and "met: all 1 bounds" in out
    assert "to 59.0 %" in out and "flower:8" in out


def test_too_late_falls_short(prepared):
    write, run = prepared
    write("plain", result(accuracy=[50.0 + 2 * look for look in range(11)]))
    write("plain", result("ddp:fp16"))
    code, out = run()
    assert code == 1
    assert "NOT MET: rowcast: time to what the best peer reaches / its time: 0.6" in out


def test_settings_of_kept_runs_are_those_that_are_asked_for(prepared, tmp_path):
    write, run = prepared
    write("plain", result())
    write("plain", result("ddp:fp16"))
    run()
    kept = json.loads((tmp_path / "out" / "settings.json").read_text())
    (tmp_path / "out" / "settings.json").write_text(json.dumps({**kept, "seed": 7}))
    code, _ = run()
    assert code == f"{tmp_path / 'out'}: holds runs with seed 7, asked for 0; choose another --out"


def test_a_package_that_is_missing_is_named_with_the_remedy(monkeypatch):
    contenders = importlib.import_module("peers_contenders")
    monkeypatch.setattr(contenders.importlib.util, "find_spec", lambda name: None)
    said = {name: contenders.missing(each) for name, each in contenders.CONTENDERS.items()}
    assert said["rowcast"] is None and said["ddp"] is None
    assert said["flower:8"] == "flwr is not installed; run pip install 'rowcast[peers]'"
    assert said["hivemind:32"] == "hivemind is not installed; run pip install 'rowcast[peers]'"
    assert said["torchft"] == "torchft is not installed; run pip install 'rowcast[peers]'"


def test_without_networks_one_line_says_why(monkeypatch, capsys):
    script = importlib.import_module("peers")
    monkeypatch.setattr(script, "why_not", lambda: "no rights; run it as root")
    assert call(monkeypatch, capsys, "--tiny") == ("no rights; run it as root", "")
    assert call(monkeypatch, capsys, "--parts", "flower")[0].startswith("--parts: 'flower' is unknown; did you mean")
