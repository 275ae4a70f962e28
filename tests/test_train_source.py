"""``rowcast train --source``: a robot of a task that is trained on samples as they arrive, and what goes wrong."""

from __future__ import annotations

import gzip
import itertools
import logging
import signal
import time

import numpy as np
import pytest
import torch

from commands import running
from live import LIMIT_S, LiveServer, eventually, python
from rowcast.cli import ExitCode
from rowcast.cli.exits import exit_code
from rowcast.config import save_tables
from rowcast.errors import ConfigError, StreamGap
from rowcast.experiment import RobotSettings, run_robot
from rowcast.experiment.gradients import source_of
from rowcast.experiment.recorded_samples import write_samples
from rowcast.experiment.settings import StreamSettings
from rowcast.journal import read_journal
from rowcast.streams import Positions
from rowcast.tasks import build_task, pack_item, read_model


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """A starting model that took no time to train."""
    path = tmp_path_factory.mktemp("state") / "state.npz"
    task = build_task("cruda-digits", pretrain_epochs=0)
    task.pretrain()
    task.save_state(path)
    return path


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """One thread, as ``rowcast train`` has; the clock may run while something is slow for the first time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr("rowcast.experiment.robot._warm_up", lambda robot, settings: None)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def recording(tmp_path):
    """96 samples of robot 0."""
    path = tmp_path / "a.mcap"
    assert write_samples(path, build_task("cruda-digits").samples(0, 1), 96) == 96
    return path


@pytest.fixture
def train(tmp_path, state):
    """Trains a robot on sources, with a server of its own; gives its audit, its steps, and the server at the end."""

    def run(sources, policy="bsp?codec=raw", *, batch="fixed:16", buffer=None, rehearsal="off", **settings):
        journal = tmp_path / "robot.jsonl"
        with LiveServer(policy, expected_workers=1) as server:
            settings = {"task": "cruda-digits", "state": state, "test_items": 20, "eval_every": 0, **settings}
            stream = StreamSettings(tuple(map(str, sources)), batch, buffer, rehearsal)
            audit = run_robot(RobotSettings(f"127.0.0.1:{server.port}", stream=stream, journal=journal, **settings))
            assert server.node.frames_applied["robot-0"] == audit.frames_sent  # everything was delivered
            np.testing.assert_allclose(server.node.parameters, audit.replica, atol=1e-5)
            steps = [record for record in read_journal(journal) if record["event"] == "step"]
            assert len(steps) == audit.iterations
            return audit, steps, server

    return run


# -- sources -----------------------------------------------------------------------------------------------------------


def test_a_recording_to_its_end(train, recording, caplog):
    """Its end ends the training, all was trained on and delivered, and the journal has what it was like."""
    caplog.set_level(logging.INFO, "rowcast")
    audit, steps, server = train([recording], batch="fixed:20")
    assert [step["samples"] for step in steps] == [20, 20, 20, 20, 16] and audit.iterations == 5
    for step in steps:
        assert step["queued"] >= step["samples"] and step["dropped"] == 0 and step["exposed"] == 0
        assert step["age_s"] >= 0 and step["starve_s"] >= 0
    assert "robot-0: the samples are over" in [record.getMessage() for record in caplog.records]
    assert Positions.unpack(server.node.team.positions["robot-0"]) == {"samples": 96}


def rows_of_wall(folder, rows):
    """A recording as that of the task ``wall``, and where it is."""
    path = folder / "sensor_readings_24.csv.gz"
    rng = np.random.default_rng(0)
    with gzip.open(path, "wt") as file:
        file.write(",".join([*(f"S{k}" for k in range(1, 25)), "OUTPUT"]) + "\n")
        for row in range(rows):
            numbers = ",".join(f"{value:.3f}" for value in rng.uniform(0, 5, 24))
            file.write(f"{numbers},{('Move-Forward', 'Sharp-Right-Turn')[row % 2]}\n")
    return path


def test_rows_of_a_csv_file(train, tmp_path):
    path = rows_of_wall(tmp_path, 45)
    audit, steps, _ = train([f"{path}?rate=1000"], task="wall", data=str(tmp_path), state=None, batch="fixed:10")
    assert [step["samples"] for step in steps] == [10, 10, 10, 10, 5]
    assert 0 <= audit.metrics["prequential_accuracy"] <= 100


def test_a_directory_that_grows(train, tmp_path):
    """It has no end: the steps have."""
    folder = tmp_path / "grows"
    folder.mkdir()
    for k, sample in zip(range(40), build_task("cruda-digits").samples(0, 1), strict=False):
        (folder / f"{k:03}.item").write_bytes(pack_item(sample))
    audit, steps, _ = train([f"dir://{folder}?settle=0"], batch="fixed:8", steps=3)
    assert audit.iterations == 3 and [step["samples"] for step in steps] == [8, 8, 8]


def test_a_robot_that_stands_still_is_trained_on_what_differs(train, tmp_path):
    """Three frames, each of them ten times; what was dropped stands in the journal."""
    path = tmp_path / "still.mcap"
    seen = itertools.islice(build_task("cruda-digits").samples(0, 1), 3)
    write_samples(path, (sample for sample in seen for _ in range(10)), 30)
    audit, steps, _ = train([f"{path}?still=0.02&t_max=1e6"], batch="fixed:3", buffer="persist")
    assert audit.iterations == 1 and steps[0]["samples"] == 3
    assert 18 <= steps[0]["dropped"] <= 27


def test_the_model_is_written_at_the_end(train, recording, tmp_path):
    path = tmp_path / "model.safetensors"
    audit, _, _ = train([recording], batch="fixed:20", save=path)
    saved = read_model(path)
    assert saved.classes == tuple("0123456789")
    task = build_task("cruda-digits", test_images=20)
    model = task.make_model()
    model.load_state_dict(dict(saved.state))
    assert task.accuracy(model) == pytest.approx(audit.metrics["accuracy"])


@pytest.mark.parametrize(("name", "says"), [("model.pt", "ends in .safetensors"), ("no/model.safetensors", "a folder")])
def test_where_no_model_can_be_written_is_said_before_the_training(tmp_path, state, name, says):
    with pytest.raises(ConfigError, match=says):
        run_robot(RobotSettings("127.0.0.1:1", state=state, save=tmp_path / name))


def test_two_sources_are_one_stream(train, recording, tmp_path):
    other = tmp_path / "b.mcap"
    write_samples(other, build_task("cruda-digits").samples(1, 2), 24)
    _, steps, server = train([recording, other], batch="fixed:40")
    assert sum(step["samples"] for step in steps) == 96 + 24
    positions = Positions.unpack(server.node.team.positions["robot-0"])
    assert positions == {"0/samples": 96, "1/samples": 24}


# -- batches, buffers, time --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", ["fixed:12", "rate:0.1s", "team:24", "speed:24"])
@pytest.mark.parametrize("policy", ["bsp?codec=raw", "rowcast"])
def test_rules_of_batches(train, recording, batch, policy):
    """A stream at a rate, until the data are over: each sample is trained on once, or counted as dropped."""
    _, steps, _ = train([f"{recording}?rate=240"], policy, batch=batch, buffer="persist")
    trained, dropped = (sum(step[name] for step in steps) for name in ("samples", "dropped"))
    assert (trained, dropped) == (96, 0)
    assert len(steps) >= 2
    if batch == "fixed:12":
        assert [step["samples"] for step in steps] == [12] * 8


def test_what_waits_too_long_gives_way_and_is_counted(train, recording):
    _, steps, _ = train([recording], batch="fixed:8", buffer="truncate:8")
    trained, dropped = (sum(step[name] for step in steps) for name in ("samples", "dropped"))
    assert trained + dropped == 96 and dropped > 0


def test_old_samples_count_as_no_new_ones(train, recording):
    _, steps, _ = train([recording], batch="fixed:16", rehearsal="reservoir:20@0.5")
    assert [step["samples"] for step in steps] == [16] * 6


def test_the_time_ends_while_no_sample_comes(train, tmp_path):
    (tmp_path / "empty").mkdir()
    began = time.monotonic()
    audit, steps, _ = train([f"dir://{tmp_path / 'empty'}"], seconds=0.3)
    assert (audit.iterations, steps) == (0, []) and time.monotonic() - began < LIMIT_S


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"\xc1", pack_item([1, 2])], ids=["no item", "an item of something else"])
def test_a_sample_that_is_none_is_dropped_counted_and_shown(train, tmp_path, caplog, content):
    folder = tmp_path / "grows"
    folder.mkdir()
    for k, sample in zip(range(16), build_task("cruda-digits").samples(0, 1), strict=False):
        (folder / f"{k:03}.item").write_bytes(content if k in (3, 5) else pack_item(sample))
    _, steps, _ = train([f"dir://{folder}?settle=0"], batch="fixed:8", steps=2)
    assert [(step["samples"], step["dropped"]) for step in steps] == [(6, 2), (8, 0)]
    (shown,) = [record.getMessage() for record in caplog.records if "cannot be decoded" in record.getMessage()]
    assert "robot-0: sample 4 of files" in shown and "DataError: item: expected" in shown


@pytest.mark.parametrize(
    ("stream", "says"),
    [
        ({"sources": ("kafca://a/b",)}, r"unknown scheme 'kafca'; did you mean 'kafka'\?"),
        ({"sources": ("a.mcap", "a.mcap?rat=3")}, r"unknown option 'rat'"),
        ({"sources": ("nowhere/",)}, "no such file or folder"),
        ({"batch": "fixed:8"}, r"no source is given: add --source SOURCE"),
        ({"buffer": "persist"}, r"no source is given"),
        ({"rehearsal": "reservoir:5"}, r"no source is given"),
    ],
    ids=["scheme", "option", "file", "batch alone", "buffer alone", "rehearsal alone"],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded_or_joined(stream, says, monkeypatch):
    def never(*_):
        raise AssertionError("it was loaded")

    monkeypatch.setattr("rowcast.experiment.robot.load_robot", never)
    with pytest.raises(ConfigError, match=says):
        run_robot(RobotSettings("127.0.0.1:1", stream=StreamSettings(**stream)))


def test_a_robot_without_a_stream_has_none():
    assert source_of(None) is None


def test_settings_of_a_stream_in_a_file(tmp_path):
    """What ``rowcast demo`` gives its processes says the same as the options."""
    settings = RobotSettings(stream=StreamSettings(("a.csv",), "rate:2s", "truncate:9", "importance:7"))
    save_tables(tmp_path / "robot.json", {"robot": settings})
    from rowcast.config import load_tables

    assert load_tables({"robot": RobotSettings}, tmp_path / "robot.json")["robot"].stream == settings.stream


def test_a_gap_ends_with_the_code_of_the_users_data(monkeypatch, capsys, tmp_path, state):
    assert exit_code(StreamGap("gone")) == ExitCode.USAGE
    folder = tmp_path / "grows"
    folder.mkdir()
    (folder / ".rowcast-index").write_text("gone.item\n")
    monkeypatch.setattr("rowcast.cli.train.limit_threads", lambda threads: None)
    with LiveServer("bsp", expected_workers=1) as server, running(monkeypatch, capsys, "train") as run:
        code, _, err = run(
            *("--connect", f"127.0.0.1:{server.port}", "--state", state, "--test-items=20", "--eval-every=0"),
            *("--source", f"dir://{folder}", "--batch", "fixed:8"),
        )
        assert eventually(lambda: server.events("leave", peer="robot-0"))
    assert code == ExitCode.USAGE
    assert "gone.item: it was deleted before it was read" in err.splitlines()[-1] and "Traceback" not in err


@pytest.mark.system
def test_an_interrupted_robot_that_waits_for_samples_leaves_the_team(tmp_path, state):
    folder = tmp_path / "grows"
    folder.mkdir()
    for k, sample in zip(range(8), build_task("cruda-digits").samples(0, 1), strict=False):
        (folder / f"{k}.item").write_bytes(pack_item(sample))
    with LiveServer("bsp", expected_workers=1) as server:
        robot = python(
            *("-m", "rowcast", "train", "--connect", f"127.0.0.1:{server.port}", "--state", state, "--test-items=20"),
            *("--source", f"dir://{folder}?settle=0", "--batch", "fixed:8"),
        )
        try:
            eventually(lambda: server.member("robot-0", "iteration") == 1, 3 * LIMIT_S)
        finally:
            robot.send_signal(signal.SIGINT)
            _, err = robot.communicate(timeout=LIMIT_S)
        assert robot.returncode == ExitCode.INTERRUPTED, err
        assert err.splitlines()[-1] == "rowcast: interrupted" and "Traceback" not in err
        assert eventually(lambda: server.events("leave", peer="robot-0"))[0]["cause"] == "left"
