"""The command line: one clear line and the right exit code for each kind of bad input, and clean ends."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
import logging
import os
import signal
import socket
import threading
import warnings
from pathlib import Path

import pytest
from typer.main import get_command

from live import LAYOUT, LIMIT_S, LiveServer, eventually, python, start_of
from raw_frames import framed, framed_as_version_1
from rowcast.cli import ExitCode, main
from rowcast.cli import train as train_command
from rowcast.cli.app import app
from rowcast.cli.exits import MEANINGS
from rowcast.config import save_tables
from rowcast.drivers.sockets import Endpoint, Team
from rowcast.errors import ConfigError
from rowcast.experiment import RobotSettings, WorkerAudit
from rowcast.journal import read_journal
from rowcast.sync import REGISTRY
from rowcast.tasks import build_task
from rowcast.version import __version__
from rowcast.wire import HEADER_BYTES, Challenge, encode

SECRET = "sixteen bytes and more\n"


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """A starting model that took no time to train."""
    path = tmp_path_factory.mktemp("state") / "state.npz"
    task = build_task("cruda-digits", pretrain_epochs=0)
    task.pretrain()
    task.save_state(path)
    return str(path)


digits = functools.lru_cache(build_task)


def built(settings):
    return digits(settings.task, settings.data, seed=settings.seed)


@pytest.fixture
def rowcast(monkeypatch, capsys):
    """Runs the command in this process; gives exit code, standard output and standard error."""
    log = logging.getLogger("rowcast")
    before = (list(log.handlers), log.level, log.propagate, signal.getsignal(signal.SIGTERM))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(train_command, "limit_threads", lambda threads: None)
    # Each command would read the data again and warm up for a training that never begins.
    monkeypatch.setattr("rowcast.experiment.robot._task_of", built)
    monkeypatch.setattr("rowcast.experiment.robot._warm_up", lambda robot, settings: None)

    def run(*words):
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        return end.value.code, out, err

    yield run
    log.handlers, log.level, log.propagate = before[:3]
    signal.signal(signal.SIGTERM, before[3])


@pytest.fixture
def refused(rowcast):
    """Runs a command that must fail with this code and one line on standard error that holds these texts."""

    def run(code, *words, says):
        found, _, err = rowcast(*words)
        last = err.rstrip("\n").splitlines()[-1:]
        assert found == code, err
        assert "Traceback" not in err
        assert all(line.startswith("rowcast: ") for line in err.splitlines()), err
        for text in [says] if isinstance(says, str) else says:
            assert text in last[0]
        return err.splitlines()

    return run


def train(state, port=1, *more):
    return (
        "train",
        "--connect",
        f"127.0.0.1:{port}",
        "--state",
        state,
        "--set",
        "join_limit_s=0.5",
        "--steps=2",
        "--seconds=20",
        *more,
    )


# -- what it says about itself -----------------------------------------------------------------------------------------


def test_the_end_of_a_command_looks_for_nothing_that_could_be_freed(rowcast, monkeypatch):
    """Python would do so for half a second with the objects of PyTorch."""
    at_end = []
    monkeypatch.setattr("rowcast.cli.app.atexit.register", at_end.append)
    assert rowcast("version")[0] == 0 and at_end == [gc.freeze]


def test_version(rowcast):
    assert rowcast("version") == rowcast("--version") == (0, f"{__version__}\n", "")


def test_train_takes_settings_of_the_task(monkeypatch):
    from typer.testing import CliRunner

    import rowcast.experiment as experiment
    from rowcast.cli.app import app
    from rowcast.errors import WorkerFailed

    seen = []

    def stop(settings, **callbacks):
        seen.append(settings)
        raise WorkerFailed("far enough")

    monkeypatch.setattr(experiment, "run_robot", stop)
    words = ["train", "--set", "lr=0.1", "--set", "optimizer=adamw", "--set", "patience_s=9"]
    assert isinstance(CliRunner().invoke(app, words, standalone_mode=False).exception, WorkerFailed)
    (settings,) = seen
    assert settings.task_options == {"lr": 0.1, "optimizer": "adamw"} and settings.worker_settings.patience_s == 9.0
    wrong = CliRunner().invoke(app, ["train", "--set", "lrr=0.1"], standalone_mode=False).exception
    assert "unknown setting 'lrr'; did you mean 'lr'" in str(wrong)


@pytest.mark.parametrize("command", [[], ["serve"], ["train"], ["demo"], ["version"]])
def test_help(rowcast, command):
    code, out, err = rowcast(*command, "--help")
    assert (code, err) == (0, "")
    assert "Usage" in out


def commands_of(command, words=()):
    """Each command and group, by the words that call it."""
    yield list(words), command
    for name, each in getattr(command, "commands", {}).items():
        yield from commands_of(each, (*words, name))


COMMANDS = list(commands_of(get_command(app)))


@pytest.mark.parametrize(("words", "command"), COMMANDS, ids=[" ".join(words) or "rowcast" for words, _ in COMMANDS])
def test_help_shows_every_word_that_was_written(rowcast, words, command):
    """Brackets too, which a mark-up language would take for its own; only the line breaks are others."""
    code, out, err = rowcast(*words, "--help")
    assert (code, err) == (0, "")
    shown = "".join(out.split())
    texts = [command.help, command.epilog, *(getattr(parameter, "help", None) for parameter in command.params)]
    for text in filter(None, texts):
        assert "".join(text.split()) in shown, text


def test_help_names_every_policy(rowcast):
    for command, option in (("serve", "--policy"), ("demo", "--policies"), ("compare", "--policies")):
        (found,) = [
            parameter.help
            for words, each in COMMANDS
            if words == [command]
            for parameter in each.params
            if option in parameter.opts
        ]
        forms = (
            "bsp, ssp:S, asp, flown:S, localsgd:H, diloco:H, sparseloco:H, demo, sparta, powersgd:R, rog:S, "
            "twostep:S, rowcast or rowcast:S"
        )
        assert forms in found
        assert all(family in found for family in REGISTRY)


def test_one_option_means_one_thing():
    """``serve --workers`` waits for so many; a worker says into how many parts the data is cut."""
    (train,) = [command for words, command in COMMANDS if words == ["train"]]
    options = {option for parameter in train.params for option in parameter.opts}
    assert "--parts" in options and "--workers" not in options


def test_help_lists_the_exit_codes(rowcast):
    _, out, _ = rowcast("--help")
    words = " ".join(out.split())
    for code in ExitCode:
        assert f"{code:d} {MEANINGS[code]}" in words


def test_module_runs_the_command():
    process = python("-m", "rowcast", "version")
    assert process.communicate(timeout=LIMIT_S) == (f"{__version__}\n", "")
    assert process.returncode == 0


# -- wrong usage: 2 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["serv"], ["No such command 'serv'", "--help"]),
        (["serve", "--polcy", "bsp"], "--polcy"),
        (["serve", "--port", "x"], "--port"),
        (["serve", "--policy", "roug:4"], ["unknown policy 'roug:4'", "did you mean 'rog:4'"]),
        (["serve", "--policy", "rog"], "expected a slack"),
        (["serve", "--workers", "0"], "expected_workers: expected a number in 1 .. 10000"),
        (["serve", "--set", "patience=1"], ["unknown setting 'patience'", "patience_s"]),
        (["serve", "--set", "patience_s=soon"], ["patience_s", "'soon'"]),
        (["serve", "--set", "congestion_control=warp"], "refuses 'warp'"),
        (["serve", "--config", "/nowhere/team.toml"], "/nowhere/team.toml: cannot be read"),
        (["serve", "--secret-file", "/nowhere/secret"], "/nowhere/secret: cannot be read"),
        (["serve", "--port", "0", "--journal", "/proc/nowhere/j.jsonl"], "cannot be written"),
        (["serve", "--host", "0.0.0.0"], ["without a shared secret", "--secret-file"]),
        (["train", "--connect", "here:there"], "expected host:port"),
        (["train", "--connect", "192.0.2.1:7117"], ["192.0.2.1 without a shared secret", "--secret-file"]),
        (["train", "--task", "cruda-digit"], ["unknown task 'cruda-digit'", "cruda-digits"]),
        (["train", "--task", "cruda-cifar10", "--data", "/nowhere"], "/nowhere is not a folder"),
        (["train", "--task", "cruda-fashion-mnist"], "no data folder given"),
        (["train", "--state", "/nowhere/state.npz"], "/nowhere/state.npz"),
        (["train", "--shape", "outdor"], ["unknown link 'outdor'", "outdoor"]),
        (["train", "--shape", "/nowhere/trace.csv"], "/nowhere/trace.csv: cannot be read"),
        (["train", "--shape", "constant:fast"], "'fast' is not a rate"),
        (["train", "--shape", "constant:0", "--shape-best-bps", "1000"], "cannot be scaled"),
        (["demo", "--policies", "bsp,rogue:4"], "unknown policy 'rogue:4'"),
        (["demo", "--policies", ""], "expected at least one"),
        (["demo", "--policies", "bsp,bsp"], "twice"),
        (["demo", "--seconds", "0"], "seconds: expected a number in 1"),
        (["demo", "--workers", "0"], "workers: expected a number in 1"),
        (["demo", "--trace", "outdor"], "unknown link 'outdor'"),
        (["demo", "--task", "cruda-digit"], "unknown task"),
        (["demo", "--out", "/proc/nowhere"], "/proc/nowhere: cannot be made"),
    ],
    ids=" ".join,
)
def test_wrong_usage(refused, words, says):
    refused(ExitCode.USAGE, *words, says=says)


def test_wrong_settings_file(refused, tmp_path):
    path = tmp_path / "team.toml"
    path.write_text("[sever]\npatience_s = 1\n")
    refused(ExitCode.USAGE, "serve", "--config", path, says=["unknown table [sever]", "'server'"])
    path.write_text("[server\n")
    refused(ExitCode.USAGE, "serve", "--config", path, says="not TOML")
    path.write_text("[server]\nabsence_limit = 5\n")
    refused(ExitCode.USAGE, "serve", "--config", path, says=["'absence_limit'", "'absence_limit_s'"])


def test_short_secret(refused, tmp_path):
    (tmp_path / "secret").write_text("short")
    refused(ExitCode.USAGE, "serve", "--secret-file", tmp_path / "secret", says=["at least 16 bytes, got 5", "head -c"])


def test_bad_trace_names_the_line(refused, tmp_path):
    (tmp_path / "link.csv").write_text("time_s,mbps\n0,5\n1,fast\n")
    refused(ExitCode.USAGE, "train", "--shape", tmp_path / "link.csv", says=["link.csv, line 3", "'fast'"])


def test_state_of_another_model(refused, tmp_path, state):
    (tmp_path / "state.npz").write_bytes(b"not a zip")
    refused(ExitCode.USAGE, *train(tmp_path / "state.npz"), says="state.npz")


def test_port_in_use(refused):
    with LiveServer() as server:
        refused(ExitCode.USAGE, "serve", "--port", server.port, says=["cannot listen", "another --port"])


# -- nobody there: 3 ---------------------------------------------------------------------------------------------------


def test_server_not_there(refused, state):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    for shape in ([], ["--shape", "constant:20"]):
        refused(ExitCode.LINK, *train(state, port, *shape), says=[f"127.0.0.1:{port} within 0.5 s", "rowcast serve"])


# -- refused: 4 --------------------------------------------------------------------------------------------------------


def test_wrong_secret(refused, state, tmp_path):
    (tmp_path / "ours").write_text(SECRET)
    (tmp_path / "theirs").write_text("another one of 16 bytes")
    with LiveServer(secret=SECRET.strip().encode()) as server:
        refused(ExitCode.REFUSED, *train(state, server.port), says=["this worker has neither", "--secret-file"])
        wrong = train(state, server.port, "--secret-file", tmp_path / "theirs")
        refused(ExitCode.REFUSED, *wrong, says="does not fit")


def test_wrong_layout(refused, state):
    with LiveServer() as server:
        first = Team(Endpoint("127.0.0.1", server.port), name="first")
        first.start(LAYOUT, start_of())
        try:
            lines = refused(ExitCode.REFUSED, *train(state, server.port), says=["weight", "(200, 64)"])
        finally:
            first.leave()
        assert sum("(200, 64)" in line for line in lines) == 1, lines
        assert len(lines) <= 2, lines  # the server in this process has a line too


def test_parameters_that_would_overwrite_the_training_of_others(refused, state):
    with LiveServer() as server:
        first = Team(Endpoint("127.0.0.1", server.port), name="first")
        first.start(LAYOUT, start_of())
        try:
            mine = train(state, server.port, "--parameters", "mine")
            refused(ExitCode.REFUSED, *mine, says=["which first brought", "parameters='team'"])
        finally:
            first.leave()


def test_name_clash(refused, state):
    with LiveServer() as server, _Trainer(server.port, state):
        refused(ExitCode.REFUSED, *train(state, server.port), says=["'robot-0' is connected", "--name"])


class _Trainer:
    """A worker process of the built-in task that trains until it is told to stop."""

    def __init__(self, port, state, *more):
        self.process = python(
            "-m", "rowcast", "train", "--connect", f"127.0.0.1:{port}", "--state", state, "--test-items=50", *more
        )
        self.out = ""

    def __enter__(self):
        line = self.process.stdout.readline()
        if "joined" not in line:
            self.__exit__()
            pytest.fail(line + self.err)
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGINT)
        self.out, self.err = self.process.communicate(timeout=LIMIT_S)


@pytest.mark.parametrize(
    ("files", "code", "says"), [(2, ExitCode.FINE, ""), (0, ExitCode.INTERRUPTED, "rowcast: interrupted\n")]
)
def test_a_robot_of_a_demo_trains_as_often_as_it_is_told(rowcast, state, monkeypatch, tmp_path, files, code, says):
    """Each line names its settings; without any it was interrupted."""
    ran, todo = [], [tmp_path / f"{number}.json" for number in range(files)]
    for file in todo:
        save_tables(file, {"robot": RobotSettings(name=file.stem, state=Path(state))})
    theirs, ours = os.pipe()
    with os.fdopen(theirs, "rb"), os.fdopen(ours, "wb", buffering=0) as told:

        class Orders(train_command._Orders):
            def next(self):
                if todo:
                    told.write(f"{todo.pop(0)}\n".encode())
                else:
                    told.close()
                return super().next()

        monkeypatch.setattr(train_command, "_Orders", lambda: Orders(theirs))
        run = lambda settings, joined: ran.append(settings)  # noqa: E731
        monkeypatch.setattr("rowcast.experiment.run_robot", run, raising=False)
        assert rowcast("train", "--await-start", "--state", state) == (code, "ready\n" + "finished\n" * files, says)
    assert [settings.name for settings in ran] == [str(number) for number in range(files)]


def test_a_robot_that_has_joined_says_so_and_waits(rowcast, state, monkeypatch, tmp_path):
    file = tmp_path / "robot.json"
    save_tables(file, {"robot": RobotSettings(state=Path(state))})
    lines = iter([str(file), "go", None])

    class Orders:
        idle = threading.Event()

        def start(self):
            pass

        def next(self):
            return next(lines)

    monkeypatch.setattr(train_command, "_Orders", Orders)
    monkeypatch.setattr("rowcast.experiment.run_robot", lambda settings, joined: joined(None), raising=False)
    words = ("train", "--await-start", "--await-team", "--state", state)
    assert rowcast(*words) == (ExitCode.FINE, "ready\njoined\nfinished\n", "")
    lines = iter([str(file), None])
    assert rowcast(*words) == (ExitCode.INTERRUPTED, "ready\njoined\n", "rowcast: interrupted\n")
    code, _, err = rowcast("train", "--await-team", "--state", state)
    assert code == ExitCode.USAGE and "--await-team: expected --await-start beside it" in err


def test_a_robot_of_a_demo_stops_when_whoever_started_it_is_gone():
    theirs, ours = os.pipe()
    with os.fdopen(theirs, "rb"), os.fdopen(ours, "wb", buffering=0) as told:
        orders = train_command._Orders(theirs)
        orders.start()
        told.write(b"settings.json\n")
        assert orders.next() == "settings.json"
        with pytest.raises(KeyboardInterrupt):
            told.close()
            eventually(lambda: not orders.is_alive() and None)
        orders.join(LIMIT_S)


@pytest.mark.parametrize("version", [1, 99])
def test_other_version(refused, state, version):
    challenge = encode(Challenge(bytes(16), bytes(16), False))
    body = challenge[HEADER_BYTES:]
    challenge = framed_as_version_1(1, body) if version == 1 else framed(1, body, version=version)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            connection, _ = listener.accept()
            with connection:
                connection.sendall(challenge)
                while connection.recv(4096):
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        lines = refused(ExitCode.REFUSED, *train(state, listener.getsockname()[1]), says=["version", str(version)])
        assert len(lines) == 1
        thread.join(LIMIT_S)


# -- internal errors: 1 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1, 2])
def test_debug_shows_the_traceback(rowcast, place):
    words = ["serve", "--policy=roug"]
    words.insert(place, "--debug")
    code, _, err = rowcast(*words)
    assert code == ExitCode.USAGE
    assert "Traceback" in err and "ConfigError" in err


def test_a_traceback_shows_no_character_that_a_terminal_obeys(rowcast, monkeypatch):
    def fail(*_, **__):
        try:
            raise ValueError("first\x1b[2J")
        except ValueError as error:
            raise RuntimeError("of a peer: \x1b]0;title\x07\nsecond line \u202e") from error

    monkeypatch.setattr("rowcast.cli.options.load_tables", fail)
    code, _, err = rowcast("serve", "--debug")
    assert code == ExitCode.INTERNAL
    lines = err.splitlines()
    assert lines[0] == "Traceback (most recent call last):" and "    raise ValueError(" in err
    assert "ValueError: first\\x1b[2J" in lines
    assert lines[-3:-1] == ["RuntimeError: of a peer: \\x1b]0;title\\x07", "second line \\u202e"]
    assert all(char.isprintable() for line in lines for char in line)


def test_a_logged_exception_shows_no_character_that_a_terminal_obeys(rowcast, monkeypatch):
    def log(*_, **__):
        try:
            raise ValueError("\x1b[2J")
        except ValueError:
            logging.getLogger("rowcast").exception("it failed")
        raise ConfigError("enough")

    monkeypatch.setattr("rowcast.cli.options.load_tables", log)
    _, _, err = rowcast("serve")
    assert err.startswith("rowcast: it failed\nTraceback") and "ValueError: \\x1b[2J\n" in err


def test_internal_error(refused, monkeypatch):
    monkeypatch.setattr("rowcast.cli.options.load_tables", lambda *_, **__: 1 / 0)
    refused(ExitCode.INTERNAL, "serve", says=["internal error: ZeroDivisionError", "--debug"])


# -- serving -----------------------------------------------------------------------------------------------------------


def test_serve_for_a_while(rowcast, tmp_path):
    code, out, err = rowcast("serve", "--port=0", "--seconds=0.1", "--journal", tmp_path / "a" / "server.jsonl")
    assert (code, err) == (0, "")
    assert "listening on 127.0.0.1:" in out
    events = [record["event"] for record in read_journal(tmp_path / "a" / "server.jsonl")]
    assert (events[0], events[-1]) == ("start", "end")


def test_a_signal_behind_the_last_moment_of_a_server_takes_no_record_away(rowcast, monkeypatch, tmp_path):
    """Between the end of the loop, which takes the signals, and the end of the command."""
    run = asyncio.run

    def run_and_interrupt(serving):
        run(serving)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("rowcast.cli.serving.asyncio.run", run_and_interrupt)
    code, _, _ = rowcast("serve", "--port=0", "--seconds=0.1", "--journal", tmp_path / "server.jsonl")
    assert code == ExitCode.INTERRUPTED
    last = list(read_journal(tmp_path / "server.jsonl"))[-1]
    assert (last["event"], last["cause"]) == ("end", "0.1 s are over")


@pytest.mark.system
def test_serve_and_train(state, tmp_path):
    """As on two laptops: a server that ends when everybody has finished, and a worker."""
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secret").chmod(0o600)
    journals = [tmp_path / "server.jsonl", tmp_path / "robot.jsonl"]
    secret = ("--secret-file", tmp_path / "secret")
    server = python(
        "-m", "rowcast", "serve", "--port=0", "--once", "--set", "gather_s=0", "--journal", journals[0], *secret
    )
    port = _port_of(server)
    words = ("--connect", f"127.0.0.1:{port}", "--state", state, "--steps=4", "--test-items=50", *secret)
    files = ("--journal", journals[1], "--audit", tmp_path / "robot.npz")
    worker = python("-m", "rowcast", "train", *words, *files)
    for process in (worker, server):
        out, err = process.communicate(timeout=2 * LIMIT_S)
        assert process.returncode == 0
        assert len(err.splitlines()) == 1 and "parameters" in err  # whose parameters are used
        assert "finished" in out
    audit = WorkerAudit.load(tmp_path / "robot.npz")
    assert (audit.name, audit.iterations) == ("robot-0", 4)
    server_says, worker_says = (list(read_journal(path)) for path in journals)
    assert (server_says[-1]["event"], server_says[-1]["cause"]) == ("end", "everybody has finished")
    drained = [record for record in server_says if record["event"] == "drained"]
    assert [(record["peer"], record["frames_applied"]) for record in drained] == [("robot-0", audit.frames_sent)]
    assert sum(record["event"] == "step" for record in worker_says) == 4


def _port_of(server):
    line = server.stdout.readline()
    assert "listening on" in line, line + server.stderr.read()
    return int(line.partition("127.0.0.1:")[2].partition(",")[0])


# -- Ctrl-C: 130 -------------------------------------------------------------------------------------------------------


@pytest.mark.system
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_server(tmp_path, number):
    server = python("-m", "rowcast", "serve", "--port=0", "--journal", tmp_path / "server.jsonl")
    _port_of(server)
    server.send_signal(number)
    _, err = server.communicate(timeout=LIMIT_S)
    assert (server.returncode, err) == (ExitCode.INTERRUPTED, "rowcast: interrupted\n")
    records = list(read_journal(tmp_path / "server.jsonl"))
    assert (records[-1]["event"], records[-1]["cause"]) == ("end", "interrupted")


@pytest.mark.system
def test_interrupted_worker(state, tmp_path):
    """It leaves the team, so that nobody waits for it, and its journal is complete."""
    with LiveServer("rog:4", expected_workers=1) as server:
        trainer = _Trainer(server.port, state, "--journal", str(tmp_path / "robot.jsonl"))
        with trainer:
            eventually(lambda: (server.member("robot-0", "iteration") or 0) > 2)
        assert trainer.process.returncode == ExitCode.INTERRUPTED
        *before, last = trainer.err.splitlines()
        assert last == "rowcast: interrupted"
        assert all("parameters" in line for line in before), before
        assert eventually(lambda: server.events("leave", peer="robot-0"))[0]["cause"] == "left"
    lines = (tmp_path / "robot.jsonl").read_text().splitlines()
    assert {"end", "start"} <= {json.loads(line)["event"] for line in lines}


@pytest.mark.system
def test_interrupted_while_the_server_is_away(state):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    words = ("--connect", f"127.0.0.1:{port}", "--state", state, "--test-items=50", "--set", "patience_s=0.1")
    worker = python("-m", "rowcast", "train", *words)
    assert "waiting for the server" in worker.stderr.readline()
    worker.send_signal(signal.SIGINT)
    _, err = worker.communicate(timeout=LIMIT_S)
    assert worker.returncode == ExitCode.INTERRUPTED
    assert "Traceback" not in err
