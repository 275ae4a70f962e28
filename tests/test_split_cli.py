"""Split inference as commands: models from files, a camera's loop, methods compared, the demo, and what they report."""

from __future__ import annotations

import json
import math
import re
import signal
import threading
import time
from concurrent.futures import Future
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from commands import running
from live import LIMIT_S, eventually, python
from rowcast.cli import ExitCode
from rowcast.cli.split.live import camera_line
from rowcast.energy import PowerStates
from rowcast.errors import ConfigError, DeadlineMissed, WorkerFailed
from rowcast.experiment.inference.camera import Tally, run_camera
from rowcast.experiment.inference.demo import OUTAGES, _port, _server, demo_trace
from rowcast.experiment.inference.methods import Exactness
from rowcast.experiment.inference.models import find_model, inputs_in, random_inputs
from rowcast.experiment.inference.scenes import scenes
from rowcast.experiment.inference.settings import MEANINGS, CameraSettings, MethodSettings, SplitDemoSettings
from rowcast.graphs import Profile, load_profile
from rowcast.inference import Made, Work
from rowcast.inference.model import whole
from rowcast.inference.outcome import Spent
from rowcast.inference.work import Piece
from rowcast.journal import EVENTS, Journal, read_journal
from rowcast.report.inference_sections import time_lines
from rowcast.report.inferences import methods_table, read_comparison, read_inferences, states_table
from rowcast.split import Remote, RemoteOptions, Serving, capture
from rowcast.split.plans import METHODS, coding_costs
from rowcast.split.slower import SlowerEngine, slowed
from rowcast.testing.zoo import SMALL

PNG = b"\x89PNG\r\n\x1a\n"
MODEL = """
import torch
from rowcast.testing.zoo import SMALL

constant = 3

def build():
    return SMALL["camera"]()

def only():
    return SMALL["camera"]()[0]

def training():
    return SMALL["camera"]()[0].train()

def example():
    return torch.zeros(1, 40, 48, 3, dtype=torch.uint8)

def broken():
    raise ValueError("no weights here")

def number():
    return 7
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Before anything is built: sums of floats depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    net, arguments = SMALL["camera"]()
    return capture(net, arguments)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "net.py"
    path.write_text(MODEL, encoding="utf-8")
    return path


@pytest.fixture
def rowcast(monkeypatch, capsys, model):
    """Runs the command in this process; gives exit code, standard output and standard error.

    The model of the file is captured once for all tests.
    """
    known = {str(model.net): model}
    monkeypatch.setattr(
        "rowcast.split.capture",
        lambda net, example: known[str(net)] if str(net) in known and not net.training else capture(net, example),
    )

    with running(monkeypatch, capsys) as run:
        yield run


def slow(model, seconds=10.0):
    """A profile in which the robot takes so long, and the server nothing to speak of."""
    times = np.array([float(bool(op.inputs)) for op in model.graph.ops])
    return Profile(times * seconds / times.sum(), times * 1e-6)


# -- models and inputs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "example", "shape"),
    [
        ("", None, (1, 40, 48, 3)),
        (":build", None, (1, 40, 48, 3)),
        (":build", "1x8x9x3:uint8", (1, 8, 9, 3)),
        (":only", "example", (1, 40, 48, 3)),
        (":only", "2x3", (2, 3)),
    ],
)
def test_a_model_is_found_in_a_file(file, function, example, shape):
    found = find_model(f"{file}{function}", example)
    assert isinstance(found.net, torch.nn.Module)
    assert [tensor.shape for tensor in found.example] == [shape]
    assert found.name == f"{file.resolve()}{function or ':build'}"


def test_a_model_is_found_in_a_module():
    name = "rowcast.experiment.inference.demo:build_small"
    found = find_model(name)
    assert found.name == name and found.example[0].dtype is torch.uint8


@pytest.mark.parametrize(
    ("text", "example", "complaint"),
    [
        ("{}:nothing", None, "has no 'nothing'"),
        ("{}:constant", None, "expected a function, got int"),
        ("{}:broken", None, r"net\.py, line 20: ValueError: no weights here"),
        ("{}:number", None, "expected a torch.nn.Module, or one with its example"),
        ("{}:only", None, "give --example, such as 1x480x640x3:uint8"),
        ("{}:only", "1x40:uint9", "expected a type of uint8, float32"),
        ("{}:only", "nothing", "expected a shape, such as .* or a function of net.py"),
        ("nowhere.py:build", None, "cannot be read: No such file"),
        ("plain", None, "expected MODEL.py:build"),
        ("no.such.module:build", None, "cannot be imported"),
        ("rowcast.testing.zoo:nothing", None, "has no 'nothing'"),
    ],
)
def test_models_that_are_none_are_explained(file, text, example, complaint):
    with pytest.raises(ConfigError, match=complaint):
        find_model(text.format(file), example)


def test_random_inputs_are_different_and_the_same_each_time(model):
    first, again = random_inputs(model, 3), random_inputs(model, 3)
    assert all(torch.equal(one, other) for (one,), (other,) in zip(first, again, strict=True))
    assert not torch.equal(first[0][0], first[1][0])
    model(*first[2])


def test_inputs_are_read_from_a_folder_in_the_order_of_their_names(model, tmp_path):
    images = np.arange(3 * 40 * 48 * 3, dtype=np.uint8).reshape(3, 40, 48, 3)
    np.save(tmp_path / "b.npy", images[1])  # without the axis of the batch
    np.save(tmp_path / "a.npy", images[:1])
    np.savez(tmp_path / "c.npz", **{model.inputs[0].name: images[2:]})
    (tmp_path / "notes.txt").write_text("no input")
    found = inputs_in(tmp_path, model, 10)
    assert [torch.equal(given, torch.from_numpy(images[k : k + 1])) for k, (given,) in enumerate(found)] == [True] * 3
    assert len(inputs_in(tmp_path, model, 2)) == 2


def test_a_folder_without_inputs_for_the_model(model, tmp_path):
    with pytest.raises(ConfigError, match="expected files that end in"):
        inputs_in(tmp_path, model, 10)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        inputs_in(tmp_path / "nowhere", model, 10)
    np.save(tmp_path / "a.npy", np.zeros((40, 48, 3)))
    with pytest.raises(ConfigError, match=r"a\.npy: input .* expected torch\.uint8, got torch\.float64"):
        inputs_in(tmp_path, model, 10)
    (tmp_path / "a.npy").write_bytes(b"no array")
    with pytest.raises(ConfigError, match=r"a\.npy: cannot be read"):
        inputs_in(tmp_path, model, 10)
    (tmp_path / "a.npy").unlink()
    np.savez(tmp_path / "b.npz", other=np.zeros(3))
    with pytest.raises(ConfigError, match=r"b\.npz: cannot be read"):
        inputs_in(tmp_path, model, 10)


def test_scenes_are_images_that_compress_as_those_of_cameras_do(model):
    images = scenes(3, 40, 48)
    assert all(image.shape == (1, 40, 48, 3) and image.dtype is torch.uint8 for image in images)
    assert torch.equal(images[1], scenes(3, 40, 48)[1]) and not torch.equal(images[0], images[1])
    (costs,) = coding_costs(model, (images[0],), ("deflate",))
    assert 0.3 < costs.ratio < 0.75 and 0 < costs.decode_s_per_byte < 1e-5


# -- settings ----------------------------------------------------------------------------------------------------------


def test_the_methods_of_the_commands_are_those_of_a_robot():
    assert MEANINGS.keys() == METHODS.keys()


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: MethodSettings(methods=()), "expected at least one"),
        (lambda: MethodSettings(methods=("local", "local")), "names one twice"),
        (lambda: MethodSettings(methods=("offlod",)), "unknown method 'offlod'.*offload"),
        (lambda: CameraSettings(objective="speed"), "objective: expected 'latency', 'energy' or"),
        (lambda: RemoteOptions(method="offlod"), "unknown method 'offlod'.*offload"),
        (lambda: RemoteOptions(slower=0.5), "slower: expected 1 or more, got 0.5"),
        (lambda: RemoteOptions(slower=math.inf), "slower: expected 1 or more, got inf"),
    ],
)
def test_settings_that_make_no_sense(make, complaint):
    with pytest.raises(ConfigError, match=complaint):
        make()


# -- methods and a slower robot ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "plan", "by"),
    [
        ("local", "local", "robot"),
        ("offload", "offload", "server"),
        ("chain", "chain", "server"),
        ("pipeline", "pipeline", "server"),
        ("rowcast", "streamed", "server"),
    ],
)
def test_a_robot_asks_with_the_method_it_was_told(model, method, plan, by):
    """By a profile in which the robot takes much longer, so that all but local want the server."""
    (given,) = random_inputs(model, 1)
    options = RemoteOptions(profile=slow(model), method=method, codecs=())
    with (
        Serving(model, "127.0.0.1:0") as serving,
        Remote(f"127.0.0.1:{serving.port}", model, name="robot", options=options) as remote,
    ):
        assert remote.wait(LIMIT_S)
        answer = remote(*given)
        if by == "server":
            eventually(lambda: serving.status().answered == 1)
        status = serving.status()
    assert (answer.outcome.plan.method, answer.by) == (plan, by)
    assert answer.plan == ("offload" if by == "server" else "local")  # what the plan comes to
    assert torch.allclose(answer.value, model(*given), rtol=1e-5, atol=1e-5)
    assert (status.robots, status.turned_away, status.waiting) == (("robot",), 0, 0)
    assert status.answered == (by == "server") and (status.batch == 1.0) == (by == "server")


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class InstantEngine:
    def __init__(self, clock, seconds=0.0):
        self.clock, self.seconds, self.forgotten = clock, seconds, []

    def run(self, works):
        self.clock.now += self.seconds
        return [Made(complete=True) for _ in works]

    def forget(self, key):
        self.forgotten.append(key)

    def is_trivial(self, works):
        return not any(work.side.ops for work in works)


def work_of(model, first=0, last=None):
    (image,) = model.graph.inputs
    rows = model.graph.ops[image].rows
    return Work("key", whole(model.graph), [Piece(image, first, rows if last is None else last)])


def test_a_slower_robot_takes_what_its_profile_says(model, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("rowcast.split.slower.time", clock)
    engine = InstantEngine(clock, 0.004)
    slower = SlowerEngine(engine, model, slow(model, 0.1))
    assert [made.complete for made in slower.run([work_of(model)])] == [True]
    assert clock.now == pytest.approx(0.1)
    slower.run([work_of(model, 0, 10)])  # a quarter of its 40 rows
    assert clock.now == pytest.approx(0.125)
    engine.seconds = 0.3  # this machine is slower than that
    slower.run([work_of(model)])
    assert clock.now == pytest.approx(0.425)
    slower.forget("key")
    assert engine.forgotten == ["key"] and not slower.is_trivial([work_of(model)])


def test_a_slower_robot_stops_waiting_when_nobody_wants_its_work(model, monkeypatch):
    clock, work = Clock(), work_of(model)
    monkeypatch.setattr("rowcast.split.slower.time", clock)
    sleep = clock.sleep

    def cancelling(seconds):
        sleep(seconds)
        work.cancelled = clock.now > 0.02

    clock.sleep = cancelling
    SlowerEngine(InstantEngine(clock), model, slow(model, 0.1)).run([work])
    assert 0.02 < clock.now < 0.03


def test_waits_for_the_processor_are_not_multiplied(model):
    here = Profile(np.array([0.0, 0.01]), np.array([0.0, 0.01]), local_p99_s=0.015)
    robot = slowed(here, 8)
    assert robot.local_s == pytest.approx(0.08) and robot.sustained_s == pytest.approx(0.085)
    assert robot.server_s.sum() == pytest.approx(0.01)


# -- the loop of a camera ----------------------------------------------------------------------------------------------


class ScriptedRemote:
    """Answers at once: late, superseded, with an error, or in time."""

    rate_bps = 2e6

    def __init__(self, script):
        self.script, self.asked = list(script), []

    def submit(self, *given):
        self.asked.append(given)
        future = Future()
        word = self.script[(len(self.asked) - 1) % len(self.script)]
        if word == "skip":
            future.cancel()
        elif word == "fail":
            future.set_exception(DeadlineMissed("no answer within 0.1 s"))
        else:
            now = time.monotonic()
            future.set_result(
                SimpleNamespace(
                    by=word,
                    plan="streamed",
                    latency_s=0.2 if word == "robot" else 0.05,
                    joules=0.5,
                    value=len(self.asked),
                    age_s=0.125,
                    outcome=SimpleNamespace(asked_at=now),
                )
            )
        return future


def test_what_comes_of_a_cameras_inputs_is_counted():
    remote, kept, looks = ScriptedRemote(["server", "robot", "skip", "fail", "server"]), [], []
    tally = run_camera(
        remote,
        [("a",), ("b",)],
        rate_hz=100.0,
        seconds=0.1,
        deadline_s=0.1,
        look=lambda tally, left_s: looks.append(left_s),
        keep=lambda number, answer: kept.append((number, answer.value)),
    )
    assert remote.asked == [("a",), ("b",)] * 5
    assert (tally.inputs, tally.by, tally.superseded, tally.late) == (10, {"server": 4, "robot": 2}, 2, 4)
    assert isinstance(tally.error, DeadlineMissed) and tally.joules == 0.5
    assert kept == [(number, number + 1) for number in (0, 1, 4, 5, 6, 9)]
    assert looks[-1] == 0.0 and 0 < looks[0] <= 0.1
    line = camera_line(tally, 3.2, remote.rate_bps)
    assert line == (
        "3 s left | link 2 Mbit/s | plan streamed | 50 ms | age 125 ms | 2 by robot, 4 by server | 4 missed | "
        "2 superseded | 0.5 J"
    )
    assert camera_line(Tally(), 3.2, 0.0) == "3 s left | link unknown | no answer yet"


def test_answers_that_differ_are_told():
    exactness = Exactness()
    exactness.add({"a": torch.tensor([1.0, 2.0])}, [torch.tensor([1.0, 2.0])])
    exactness.add(torch.tensor([1.0, 2.5]), [torch.tensor([1.0, 2.0])])
    exactness.add(torch.tensor([1.0]), [torch.tensor([1.0]), torch.tensor([1.0])])
    assert (exactness.compared, exactness.equal) == (3, 1)
    assert exactness.worst == pytest.approx(0.5 / 3)


# -- what journals say -------------------------------------------------------------------------------------------------


def write_inferences(path, *events):
    """A journal of a robot with these inferences: (asked at, latency, what is not as usual)."""
    journal = Journal("robot")
    journal.keep_in(path)
    journal.record(0.0, "start", role="robot")
    usual = dict.fromkeys(EVENTS["inference"]) | dict.fromkeys(
        ("robot_s", "sending_s", "server_s", "queued_s", "up_bytes", "down_bytes", "rate_bps", "joules"), 0.0
    )
    for ticket, (asked, latency, changes) in enumerate(events, start=1):
        fields = {**usual, "ticket": ticket, "latency_s": latency, "by": "server", "plan": "offload", "slabs": 1}
        journal.record(asked + latency, "inference", **{**fields, "superseded": False, **changes})
    journal.close()
    return path


def test_a_run_is_read_from_its_journal(tmp_path):
    path = write_inferences(
        tmp_path / "robot.jsonl",
        (9.0, 0.1, {}),  # before the run
        (10.0, 0.1, {"up_bytes": 3000, "joules": 0.4}),
        (10.2, 0.5, {"by": "robot", "joules": 0.8}),
        (10.3, 0.2, {"superseded": True, "by": "", "joules": 9.0}),
        (10.6, 0.3, {"error": "DeadlineMissed: no", "by": "", "joules": 0.6}),
    )
    run = read_inferences(path, "offload", 10.0, 1.0, 0.25)
    assert run.inferences.values("outcome") == ["server", "late", "superseded", "none"]
    table = methods_table([run])
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert [row[name] for name in ("method", "inputs", "answers", "late", "skipped")] == ["offload", 4, 2, 2, 1]
    assert row["mean_ms"] == pytest.approx(300) and row["p50_ms"] == pytest.approx(100)
    assert row["server_%"] == 50 and row["up_kB"] == pytest.approx(1.0) and row["J"] == pytest.approx(0.6)
    # From the first input's age of 0.0 to 0.1 s, then 0.1 to 0.7, then 0.5 (input of 0.2) to 0.8.
    age_s = 0.1 * 0.05 + 0.6 * (0.1 + 0.7) / 2 + 0.3 * (0.5 + 0.8) / 2
    assert row["age_ms"] == pytest.approx(1e3 * age_s)


def test_a_newer_answer_that_comes_first_stays_the_newest(tmp_path):
    path = write_inferences(tmp_path / "robot.jsonl", (0.0, 0.8, {}), (0.2, 0.2, {}))
    run = read_inferences(path, "x", 0.0, 1.0)
    assert run.mean_age_s() == pytest.approx(0.4 * 0.2 + 0.6 * (0.2 + 0.8) / 2)


def test_energy_by_state_adds_up_to_what_the_journal_says(tmp_path):
    power = PowerStates(10.0, 5.0, 4.0)
    events = []
    for asked, latency, robot_s, sending_s in ((0, 0.1, 0.1, 0.0), (1, 0.1, 0.02, 0.05), (2, 0.1, 0.07, 0.09)):
        joules = Spent(robot_s, sending_s).joules(latency, power)
        events.append((asked, latency, {"robot_s": robot_s, "sending_s": sending_s, "joules": joules}))
    run = read_inferences(write_inferences(tmp_path / "robot.jsonl", *events), "x", 0.0, 3.0)
    table = states_table([run], power)
    parts = dict(zip(table.values("joules_per_inference_in"), table.numbers("mean"), strict=True))
    assert parts["whole"] == pytest.approx(np.mean(run.inferences.numbers("joules")))
    assert parts["whole"] == pytest.approx(sum(parts[name] for name in ("compute", "communicate", "stall")))
    assert parts["compute"] == pytest.approx(10 * (0.1 + 0.02 + 0.07) / 3)
    assert parts["stall"] == pytest.approx(4 * 0.03 / 3)


def test_journals_that_are_none_of_a_robot(tmp_path):
    path = tmp_path / "robot.jsonl"
    journal = Journal("robot")
    journal.keep_in(path)
    journal.record(0.0, "start", role="robot")
    journal.close()
    with pytest.raises(ConfigError, match="expected events 'inference' of a robot, found none"):
        read_inferences(path, "x")
    with pytest.raises(ConfigError, match=r"inference 1 has robot_s = None, expected a number"):
        read_inferences(write_inferences(tmp_path / "b.jsonl", (0.0, 0.1, {"robot_s": None})), "x")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[", "cannot be read"),
        ("{}", "expected a file with \"format\": 'rowcast split 1'"),
        ('{"format": "rowcast split 1"}', "not what this 'rowcast split' writes.*methods"),
        (
            '{"format": "rowcast split 1", "deadline_s": null, "methods": [{"journal": "../robot.jsonl"}]}',
            "expected the name of a file in the folder",
        ),
    ],
)
def test_summaries_that_are_none(tmp_path, content, complaint):
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(ConfigError, match=complaint):
        read_comparison(tmp_path)


# -- commands ----------------------------------------------------------------------------------------------------------


def test_profiles_of_robot_and_server_become_one_that_can_be_planned_with(rowcast, file, tmp_path):
    server, both = tmp_path / "server.json", tmp_path / "both.json"
    code, out, err = rowcast("split", "profile", f"{file}:build", "--seconds", 0.1, "--out", server)
    assert (code, err) == (0, "")
    assert (
        "the 8 slowest of 24 operators" in out and "99th percentile" in out and out.endswith(f"written to {server}\n")
    )
    code, out, err = rowcast(
        *("split", "profile", f"{file}:only", "--example", "example", "--seconds", 0.1, "--out", both, "--join", server)
    )
    assert (code, err) == (0, "") and "server_ms" in out
    assert load_profile(both)[1].server_s.tolist() == load_profile(server)[1].robot_s.tolist()
    code, out, err = rowcast("split", "plan", both, "--trace", "constant:20")
    assert (code, err) == (0, "") and out.startswith("both.json: 24 operators, 5.76 kB in")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("profile", "{}:broken", "--out", "x.json"), "no weights here"),
        (("profile", "{}:training", "--example", "example", "--out", "x.json"), "call net.eval() first"),
        (("profile", "{}:build", "--out", "x.json", "--join", "nowhere.json"), "nowhere.json: cannot be read"),
        (("serve", "{}:only"), "give --example"),
        (("serve", "{}:build", "--port", "99999"), "--port"),
        (("ask", "127.0.0.1:1", "{}:build", "--objective", "speed"), "objective: expected"),
        (("ask", "127.0.0.1:1", "{}:build", "--images", "nowhere"), "--images nowhere: cannot be read"),
        (("ask", "127.0.0.1:1", "{}:build", "--slower", "5000", "--deadline-ms", "5"), "deadline: expected at least"),
        (("ask", "10.0.0.1:1", "{}:build"), "secret"),
        (("bench", "127.0.0.1:1", "{}:build", "--methods", "locl"), "unknown method 'locl'"),
        (("demo", "--robot-ms", "0.5"), "--robot-ms"),
    ],
)
def test_bad_input_is_one_line(rowcast, file, words, complaint):
    code, _, err = rowcast("split", *(word.format(file) for word in words))
    assert code == ExitCode.USAGE and err.count("\n") == 1, err
    assert complaint in err


def test_a_robot_asks_a_server_and_says_what_came_of_it(rowcast, model, file, tmp_path):
    with Serving(model, "127.0.0.1:0") as serving:
        code, out, err = rowcast(
            *("split", "ask", f"127.0.0.1:{serving.port}", f"{file}:build", "--rate", 40, "--seconds", 0.5),
            *("--slower", 300, "--deadline-ms", 2000, "--log", tmp_path),
        )
    assert (code, err) == (0, "")
    header, row = (line.split() for line in out.splitlines()[-5:-3])
    assert "the server's is excluded" in out
    figures = dict(zip(header, row, strict=True))
    assert figures["method"] == "robot" and figures["inputs"] == "20"
    assert int(figures["answers"]) + int(figures["skipped"]) == 20
    events = [record for record in read_journal(tmp_path / "robot.jsonl") if record["event"] == "inference"]
    assert len(events) == 20


def test_a_robot_with_a_model_of_its_own_is_refused(rowcast, model, tmp_path):
    path = tmp_path / "other.py"
    path.write_text("from rowcast.testing.zoo import SMALL\nbuild = SMALL['resnet50']\n", encoding="utf-8")
    with Serving(model, "127.0.0.1:0") as serving:
        code, _, err = rowcast(
            *("split", "bench", f"127.0.0.1:{serving.port}", f"{path}:build", "--seconds", 0.2, "--out", tmp_path / "b")
        )
    assert code == ExitCode.REFUSED and "other operators" in err


def test_methods_are_compared_over_a_real_link_and_reported(rowcast, model, file, tmp_path):
    out = tmp_path / "bench"
    with Serving(model, "127.0.0.1:0") as serving:
        code, text, err = rowcast(
            *("split", "bench", f"127.0.0.1:{serving.port}", f"{file}:build", "--rate", 40, "--seconds", 0.4),
            *("--slower", 100, "--deadline-ms", 5000, "--out", out, "--methods", "local,offload,rowcast"),
        )
    assert (code, err) == (0, ""), text
    assert [line.split(":")[0] for line in text.splitlines() if "equal those of the undivided" in line] == [
        "local",
        "offload",
        "rowcast",
    ]
    comparison = read_comparison(out)
    assert [run.method for run in comparison.runs] == ["local", "offload", "rowcast"]
    for run in comparison.runs:
        assert run.checked["compared"] == run.checked["equal"] == len(run.answered.rows) > 0
    local, offload, _ = comparison.runs
    assert set(local.answered.values("by")) == {"robot"} and set(offload.answered.values("by")) == {"server"}
    assert all((out / name).read_bytes().startswith(PNG) for name in ("methods.png", "inference.png", "energy.png"))
    code, text, err = rowcast("report", out)
    assert (code, err) == (0, "")
    page = (out / "report" / "report.html").read_text(encoding="utf-8")
    assert page.count("<figure") == 4 and page.count("data:image/png") == 3
    assert "answers equal those of the undivided model" in page and "energy is excluded" in page


@pytest.mark.system
def test_a_server_tells_robots_when_it_is_interrupted(model, file, tmp_path):
    server = python("-m", "rowcast", "split", "serve", f"{file}:build", "--port", 0, "--log", tmp_path)
    try:
        first = next(line for line in server.stdout if "listening on" in line)
        port = int(re.search(r"listening on 127\.0\.0\.1:(\d+), ", first)[1])
        options = RemoteOptions(profile=slow(model), codecs=())
        with Remote(f"127.0.0.1:{port}", model, name="robot", options=options) as remote:
            assert remote.wait(3 * LIMIT_S)
            (given,) = random_inputs(model, 1)
            assert remote(*given).by == "server"
            server.send_signal(signal.SIGINT)
            eventually(lambda: not remote.connected)
            server.wait(LIMIT_S)
    finally:
        if server.poll() is None:
            server.kill()
        _, err = server.communicate(timeout=LIMIT_S)
    assert (server.returncode, err) == (ExitCode.INTERRUPTED, "rowcast: interrupted\n")
    events = [record["event"] for record in read_journal(tmp_path / "server.jsonl")]
    assert events[0] == "start" and "answer" in events and "end" in events


# -- the demo ----------------------------------------------------------------------------------------------------------


def test_the_link_of_the_demo_carries_nothing_for_two_times():
    settings = SplitDemoSettings(trace="constant:7", ratio=0.5, robot_ms=100.0)
    trace = demo_trace(settings, 10_000, 20.0)
    assert trace.rate(0.0) == pytest.approx(8 * 10_000 / 0.05)
    begins = [at * 20.0 for at, _, _ in OUTAGES]
    lengths = [min(share * 20.0, most) for _, share, most in OUTAGES]
    for begin, length in zip(begins, lengths, strict=True):
        assert trace.rate(begin + 0.001) == trace.rate(begin + length - 0.001) == 0.0
        assert trace.rate(begin - 0.001) > 0 and trace.rate(begin + length + 0.001) > 0
    whole = demo_trace(SplitDemoSettings(trace="constant:7", outages=False), 10_000, 20.0)
    assert (whole.rates_bps > 0).all()
    with pytest.raises(ConfigError, match="nothing passes on it"):
        demo_trace(SplitDemoSettings(trace="constant:0"), 10_000, 20.0)


@pytest.mark.system
def test_a_server_of_the_demo_that_does_not_start_is_told(tmp_path):
    with _server("nowhere", tmp_path) as server, pytest.raises(WorkerFailed, match="has no 'nowhere'"):
        _port(server, tmp_path)
    assert server.returncode == ExitCode.USAGE


@pytest.mark.system
def test_the_demo_compares_methods_and_draws_them(rowcast, tmp_path):
    threads = threading.active_count()
    code, text, err = rowcast(
        *("split", "demo", "--seconds", 2.4, "--rate", 20, "--robot-ms", 30, "--deadline-ms", 400, "--out", tmp_path),
        *("--set", "small=true"),
    )
    assert (code, err) == (0, ""), text
    assert re.search(r"the robot takes 30 ms for the model: it computes operators [\d.]+ times slower than", text)
    comparison = read_comparison(tmp_path)
    assert [run.method for run in comparison.runs] == ["local", "offload", "pipeline", "rowcast"]
    for run in comparison.runs:
        assert len(run.inferences.rows) == 12
        assert run.checked["compared"] == run.checked["equal"] == len(run.answered.rows) > 0
    assert comparison.trace is not None and (comparison.trace.rates_bps == 0).sum() >= 2
    local, offload = comparison.runs[:2]
    assert min(local.answered.numbers("latency_s")) >= 0.03
    assert set(offload.answered.values("by")) == {"server"}
    lines = time_lines(comparison)
    bars = lines["offload, answered by server"]
    assert [bar.lane for bar in bars] == ["robot", "link up", "server", "link down"]
    assert bars[1].end_s <= bars[2].start_s + 1e-6 and bars[2].end_s == bars[3].start_s
    assert all((tmp_path / name).read_bytes().startswith(PNG) for name in ("methods.png", "inference.png"))
    events = [record["event"] for record in read_journal(tmp_path / "server.jsonl")]
    assert "end" in events and events.count("served") == 4
    assert json.loads((tmp_path / "split.json").read_text())["settings"]["robot_ms"] == 30
    eventually(lambda: threading.active_count() <= threads)
