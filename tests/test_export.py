"""``rowcast export``: each file is read back with its own library, and says what the journals say."""

from __future__ import annotations

import csv
import itertools
import json
import socket
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from live import LiveServer, Robot
from rowcast.cli import main
from rowcast.errors import ConfigError
from rowcast.export import TARGETS, Moments, export_run
from rowcast.export.schema import event_schema
from rowcast.journal import EVENTS, FileSink, Journal, open_journal, read_journal
from rowcast.session import record_start
from rowcast.training.watching import TeamWatch

STEP = {
    "compute_s": 0.25,
    "communicate_s": 0.5,
    "stall_s": 0.25,
    "push_rows": 120,
    "push_bytes": 2000,
    "push_share": 0.6,
    "pull_rows": 80,
    "pull_bytes": 1000,
    "quota_s": None,
    "mta_time_s": 0.4,
    "rate_bps": 1.5e6,
    "staleness": 1,
    "skipped": False,
}


def records():
    """Two robots, of which one waits, loses its link and comes back; t in s."""
    yield 10.0, "server", "start", {"role": "server", "version": "1", "policy": "rog:4", "settings": {"a": 1}}
    yield 10.5, "server", "join", {"peer": "r-1", "epoch": 1, "iteration": 0, "how": "seed", "members": 1}
    yield 11.0, "r-1", "start", {"role": "worker", "version": "1", "policy": None, "settings": {}}
    for k in range(1, 4):
        yield 11.0 + k, "r-1", "step", {"iteration": k, **STEP}
        yield 11.25 + k, "r-1", "metric", {"iteration": k, "name": "accuracy", "value": 0.5 + k / 10}
    yield 15.0, "server", "waiting", {"peer": "r-2", "iteration": 2, "for": "r-1: its rows are old", "waited_s": 3.5}
    yield 16.0, "server", "link_down", {"peer": "r-1", "cause": "connection reset"}
    yield 17.0, "server", "error", {"peer": "10.0.0.9:4242", "error": "AuthenticationFailed", "message": "no\nproof"}
    yield 18.0, "server", "end", {"cause": "everybody has finished"}


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    journals = {name: Journal(name, FileSink(folder / f"{name}.jsonl")) for name in ("server", "r-1")}
    for t, node, event, fields in records():
        journals[node].record(t, event, **fields)
    for journal in journals.values():
        journal.close()
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The journals of a server that is watched, and of two robots that have trained over real sockets."""
    folder = tmp_path_factory.mktemp("trained")
    with (
        open_journal("server", folder / "server.jsonl") as server_journal,
        open_journal("r-1", folder / "r-1.jsonl") as first,
        open_journal("r-2", folder / "r-2.jsonl") as second,
        LiveServer("rog:4?codec=raw", journal=server_journal, expected_workers=2) as server,
    ):
        now = server.server.now
        record_start(server_journal, now(), "server", "rog:4")
        watch = TeamWatch(server.node.team, 1e-6)
        robots = []
        for journal in (first, second):
            record_start(journal, now(), "worker", None)
            robots.append(Robot(server, journal.node, steps=20, journal=journal))
        while any(robot.is_alive() for robot in robots):
            server.ask(lambda node: watch.look(now()))
        for robot in robots:
            robot.done()
        server_journal.record(now(), "end", cause="everybody has finished")
    return folder


def journal_of(folder):
    """All records by their time."""
    return sorted(
        itertools.chain.from_iterable(read_journal(path) for path in folder.glob("*.jsonl")), key=lambda each: each["t"]
    )


def given(found, robot, series):
    return [(t, value) for t, who, name, value in found if (who, name) == (robot, series)]


def check_values(found):
    """Time, robot, series and value of the numbers in an export of ``run``."""
    seconds = [12.0, 13.0, 14.0]
    assert given(found, "r-1", "rate/up") == [(t, 16_000.0) for t in seconds]
    assert given(found, "r-1", "rate/down") == [(t, 8_000.0) for t in seconds]
    assert given(found, "r-1", "rate/link") == [(t, 1.5e6) for t in seconds]
    assert given(found, "r-1", "stall") == [(t, 0.25) for t in seconds]
    assert given(found, "r-1", "step/push_bytes") == [(t, 2000) for t in seconds]
    assert given(found, "r-1", "step/skipped") == [(t, 0) for t in seconds]
    assert given(found, "r-1", "iteration") == [(10.5, 0), (12.0, 1), (13.0, 2), (14.0, 3)]
    assert given(found, "r-1", "staleness") == [(12.0, 1)]  # it has not changed since
    assert given(found, "r-1", "step/quota_s") == []  # null
    assert given(found, "r-2", "waiting/waited_s") == [(15.0, 3.5)]
    metrics = given(found, "r-1", "metric/accuracy")
    assert [t for t, _ in metrics] == [12.25, 13.25, 14.25]
    assert [value for _, value in metrics] == pytest.approx([0.6, 0.7, 0.8], rel=1e-6)


def table_of(rows):
    return [
        (float(row["time_s"]), row["robot"], row["series"], float(row["value"]))
        for row in rows
        if row["value"] not in ("", None)
    ]


# -- each target ---------------------------------------------------------------------------------------------


def check_table(rows):
    check_values(table_of(rows))
    units = {row["series"]: row["unit"] for row in rows}
    assert (units["rate/up"], units["step/push_bytes"], units["step/stall_s"], units["stall"]) == (
        "bit/s",
        "B",
        "s",
        "share",
    )
    states = [(float(row["time_s"]), row["text"]) for row in rows if (row["robot"], row["series"]) == ("r-1", "state")]
    assert states == [(10.5, "joining"), (12.0, "computing"), (16.0, "link down")]
    events = [(row["robot"], row["series"], row["text"]) for row in rows if row["series"].startswith("event/")]
    assert ("r-1", "event/link_down", "link down: connection reset") in events
    assert ("r-2", "event/waiting", "has waited 3.5 s for r-1: its rows are old") in events
    assert ("10.0.0.9:4242", "event/error", "AuthenticationFailed: no\\nproof") in events
    assert ("server", "event/end", "ends: everybody has finished") in events


def test_csv(run, tmp_path):
    written = export_run(run, "csv", tmp_path / "a.csv")
    assert (written.records, written.robots) == (13, ["r-1", "r-2"])
    with written.path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["time_s", "robot", "iteration", "series", "value", "unit", "text"]
    check_table(rows)
    assert next(row["iteration"] for row in rows if row["series"] == "metric/accuracy") == "1"


def test_parquet(run, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: pip install 'rowcast[parquet]'")
    table = pq.read_table(export_run(run, "parquet", tmp_path / "a.parquet").path)
    rows = table.to_pylist()
    check_table(rows)
    assert [str(field.type) for field in table.schema][::2] == ["double", "int64", "double", "string"]
    assert next(row for row in rows if row["series"] == "state")["value"] is None


def test_parquet_in_several_groups(trained, tmp_path, monkeypatch):
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: pip install 'rowcast[parquet]'")
    monkeypatch.setattr("rowcast.export.tables._GROUP", 50)
    path = export_run(trained, "parquet", tmp_path / "a.parquet").path
    assert pq.ParquetFile(path).num_row_groups > 3
    as_csv = export_run(trained, "csv", tmp_path / "a.csv").path
    with as_csv.open(encoding="utf-8", newline="") as file:
        assert table_of(list(csv.DictReader(file))) == table_of(pq.read_table(path).to_pylist())


def messages_of(path):
    """Topic -> time (s) and content of its messages; schemas by name."""
    from mcap.reader import make_reader

    topics, schemas = {}, {}
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        for schema, channel, message in reader.iter_messages():
            assert (channel.message_encoding, schema.encoding) == ("json", "jsonschema")
            assert message.log_time == message.publish_time
            schemas[channel.topic] = schema.name, json.loads(schema.data)
            topics.setdefault(channel.topic, []).append((message.log_time / 1e9, json.loads(message.data)))
    return topics, schemas


def test_mcap(run, tmp_path):
    topics, schemas = messages_of(export_run(run, "mcap", tmp_path / "a.mcap").path)
    found = [
        (t, who, series, message["value"])
        for topic, messages in topics.items()
        for t, message in messages
        for who, _, series in [topic[1:].partition("/")]
        if series.startswith(("rate/", "metric/")) or series == "stall"
    ]
    steps = [
        (t, "r-1", f"step/{name}", float(value)) for t, step in topics["/r-1/step"] for name, value in step.items()
    ]
    states = [(t, "r-1", "iteration", state["iteration"]) for t, state in topics["/r-1/state"][:-1]]  # its link fails
    waits = [(t, "r-2", "waiting/waited_s", wait["waited_s"]) for t, wait in topics["/r-2/waits"]]
    first = [(12.0, "r-1", "staleness", topics["/r-1/state"][1][1]["staleness"])]
    check_values([*found, *steps, *states, *waits, *first])
    assert topics["/r-1/state"][-1] == (
        16.0,
        {
            "state": "link down",
            "why": "connection reset",
            "since": 16.0,
            "iteration": 3,
            "staleness": 1,
            "share": 0.6,
        },
    )
    log = {message["file"]: (t, message) for t, message in topics["/events"]}
    assert log["link_down"] == (
        16.0,
        {
            "timestamp": {"sec": 16, "nsec": 0},
            "level": 4,
            "message": "link down: connection reset",
            "name": "r-1",
            "file": "link_down",
            "line": 5,
            "cause": "connection reset",
        },
    )
    assert schemas["/events"][0] == "foxglove.Log" and schemas["/r-1/step"][0] == "rowcast.step"
    assert set(schemas["/r-1/step"][1]["properties"]) == set(EVENTS["step"])
    assert schemas["/r-1/step"][1]["properties"]["rate_bps"]["description"] == EVENTS["step"]["rate_bps"]
    assert not any(topic.startswith("/10.0.0.9") for topic in topics)  # a stranger gets no topic
    assert "/server/error" in topics


KINDS = {"number": (int, float), "integer": int, "string": str, "boolean": bool, "array": list, "object": dict}


def check_schema(schema, value):
    """A value is what its schema says; every part of a schema has a type, without which Foxglove shows nothing."""
    assert isinstance(value, KINDS[schema["type"]]), (schema, value)
    assert isinstance(value, bool) == (schema["type"] == "boolean"), (schema, value)
    if isinstance(value, list):
        for each in value:
            check_schema(schema["items"], each)
    elif isinstance(value, dict):
        for name, each in value.items():
            if "properties" in schema:
                check_schema(schema["properties"][name], each)


def test_messages_fit_their_schemas(run, trained, tmp_path):
    for number, folder in enumerate((run, trained)):
        topics, schemas = messages_of(export_run(folder, "mcap", tmp_path / f"{number}.mcap").path)
        for topic, messages in topics.items():
            for _, message in messages:
                check_schema(schemas[topic][1], message)
    assert {"/r-1/rows", "/server/layers", "/r-2/gate", "/r-2/told"} <= topics.keys()


def test_every_field_of_the_journal_has_a_type():
    for event, fields in EVENTS.items():
        properties = json.loads(event_schema(event))["properties"]
        assert properties.keys() == fields.keys()
        assert all(each["type"] in KINDS for each in properties.values())


def scalars_of(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return events


def test_tensorboard(run, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'rowcast[tensorboard]'")
    path = export_run(run, "tensorboard", tmp_path / "tb").path
    assert sorted(each.name for each in path.iterdir()) == ["r-1", "r-2", "server"]
    found = []
    for folder in path.iterdir():
        events = scalars_of(folder)
        for tag in events.Tags()["scalars"]:
            found += [(each.wall_time, folder.name, tag, each.value) for each in events.Scalars(tag)]
    check_values(found)
    events = scalars_of(path / "r-1")
    assert [each.step for each in events.Scalars("metric/accuracy")] == [1, 2, 3]
    texts = [each.tensor_proto.string_val[0].decode() for each in events.Tensors("events")]
    assert "r-1 link down: connection reset" in texts
    assert events.SummaryMetadata("events").plugin_data.plugin_name == "text"


def test_tensorboard_needs_no_tensorflow(run, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'rowcast[tensorboard]'")
    code = (
        "import sys; sys.modules['tensorflow'] = sys.modules['torch'] = None\n"
        "from rowcast.export import export_run; export_run(*sys.argv[1:])"
    )
    subprocess.run([sys.executable, "-c", code, run, "tensorboard", tmp_path / "tb"], check=True, timeout=100)
    assert scalars_of(tmp_path / "tb" / "r-1").Scalars("stall")[-1].value == 0.25


def test_tensorboard_with_more_robots_than_files_may_be_open(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'rowcast[tensorboard]'")
    monkeypatch.setattr("rowcast.export.tensorboard_files._MOST_OPEN", 2)
    path, names = tmp_path / "a.jsonl", ["a/b", "a_b", "../c", "..", "d"]
    journal = Journal("server", FileSink(path))
    for t, (name, iteration) in enumerate((name, k) for k in range(3) for name in names):
        journal.record(float(t), "push", peer=name, iteration=iteration, rows=1, zero_rows=0, bytes=10, quota_s=None)
    journal.close()
    folder = export_run(path, "tensorboard", tmp_path / "tb").path
    found = sorted(each.name for each in folder.iterdir())
    assert found == ["_", "_c", "a_b", "a_b-2", "d"] and folder.parent == tmp_path
    for name in found:
        assert [each.value for each in scalars_of(folder / name).Scalars("iteration")] == [0, 1, 2]


def wandb_records(folder):
    """Values of the history of an offline run.

    The library has no reader of its files in Python: they are logs of LevelDB behind 7 bytes, blocks of 32 KiB with
    pieces of messages of its protocol.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    data, place, message, history = path.read_bytes(), 7, b"", []
    assert data[:4] == b":W&B"
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # no room for a head: the rest of the block is empty
            place += 32768 - place % 32768
            continue
        _, size, kind = struct.unpack_from("<IHB", data, place)
        message += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            record = Record.FromString(message)
            message = b""
            if record.HasField("history"):
                items = record.history.item
                history.append({each.key or ".".join(each.nested_key): json.loads(each.value_json) for each in items})
    return history


def test_wandb_offline_asks_nobody(run, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'rowcast[wandb]'")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "WANDB_BASE_URL"):
            monkeypatch.setenv(name, proxy)
        monkeypatch.setenv("WANDB_MODE", "online")  # whatever the user has there
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        done = subprocess.run(
            [sys.executable, "-m", "rowcast", "export", run, "--to", "wandb-offline", "--out", tmp_path / "wb"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        with pytest.raises(BlockingIOError):
            listener.accept()
    found = [
        (row["time_s"], *key.split("/", 1), value)
        for row in wandb_records(tmp_path / "wb")
        for key, value in row.items()
        if "/" in key and not isinstance(value, str)
    ]
    check_values(found)
    texts = [row["events"] for row in wandb_records(tmp_path / "wb") if "events" in row]
    assert "r-1 link down: connection reset" in texts


# -- a run that was trained ----------------------------------------------------------------------------------


def test_what_a_team_wrote_is_all_there(trained, tmp_path):
    """Every number of the journals of robots is in the table, at its time."""
    with export_run(trained, "csv", tmp_path / "a.csv").path.open(encoding="utf-8", newline="") as file:
        found = set(table_of(list(csv.DictReader(file))))
    steps = 0
    for record in journal_of(trained):
        steps += record["event"] == "step"
        if record["event"] in ("step", "push", "gate"):
            who = record.get("peer", record["node"])
            for name, value in record.items():
                if isinstance(value, int | float) and name not in ("t", "iteration"):
                    assert (record["t"], who, f"{record['event']}/{name}", float(value)) in found
    assert steps == 40


def test_a_bandwidth_trace_of_what_was_exported(trained, tmp_path):
    from rowcast.links import named_trace

    path = export_run(trained, "mcap", tmp_path / "a.mcap").path
    steps = [each for each in journal_of(trained) if each["event"] == "step" and each["node"] == "r-1"]
    trace = named_trace(f"{path}?topic=/r-1/step&field=rate_bps&unit=bit/s")
    np.testing.assert_allclose(trace.rates_bps, [each["rate_bps"] for each in steps])
    np.testing.assert_allclose(trace.times_s, [each["t"] - steps[0]["t"] for each in steps], atol=1e-6)


def test_memory_does_not_grow_with_the_run(tmp_path):
    peaks = []
    for number in (6_000, 24_000):
        path = tmp_path / f"{number}.jsonl"
        with path.open("w") as file:
            for k in range(number):
                record = {"t": k / 10, "node": "r-1", "event": "step", "iteration": k, **STEP}
                file.write(json.dumps(record, separators=(",", ":")) + "\n")
        tracemalloc.start()
        try:
            assert sum(len(moment.values) for moment in Moments(path)) > 10 * number
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    # A part of a file is read at once, 1 MiB of it: both are longer. What the longer one has more are 5 MB of text.
    assert peaks[1] < peaks[0] + 2e6 and path.stat().st_size > 6e6


# -- what goes wrong -----------------------------------------------------------------------------------------


def test_a_journal_that_is_cut(run, tmp_path, caplog):
    path = run / "r-1.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    with export_run(run, "csv", tmp_path / "a.csv").path.open(encoding="utf-8", newline="") as file:
        metrics = given(table_of(csv.DictReader(file)), "r-1", "metric/accuracy")
    assert [t for t, _ in metrics] == [12.25, 13.25]
    assert "bytes are no whole record and are left out: it was cut there" in caplog.text
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:2], lines[2][:20], *lines[3:-1], b""]))
    caplog.clear()
    assert export_run(run, "csv", tmp_path / "b.csv").records == 11
    assert caplog.messages == ["journal r-1.jsonl: a damaged line was left out"]


def test_records_that_nobody_can_place(tmp_path, caplog):
    path = tmp_path / "a.jsonl"
    lines = [
        {"t": -1.0, "node": "r-1", "event": "step"},
        {"t": 1e300, "node": "r-1", "event": "step"},
        {"t": 1.0, "node": "r-1", "event": "sung"},
        {"t": 1.0, "node": "r-1", "event": "step", "iteration": 1, "push_bytes": 10**400, "rate_bps": "fast"},
        {"t": 2.0, "node": "r-1", "event": "metric", "name": None, "value": None},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for target in ("csv", "mcap", "parquet", "tensorboard"):
        caplog.clear()
        assert export_run(path, target, tmp_path / f"out-{target}").records == 2
        assert caplog.messages == [
            "journal a.jsonl: was written by another version: its events 'sung' are left out",
            "2 records with a time that none can have are left out",
        ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{}/run", "--to", "tensorbord"], "--to: unknown target 'tensorbord'; did you mean 'tensorboard'?"),
        (["{}/run", "--to", "csv", "--out", "{}/run/r-1.jsonl"], "is there already; remove it, or give another --out"),
        (["{}/run", "--to", "csv", "--out", "{}/none/a.csv"], "cannot be written: No such file or directory"),
        (["{}/none", "--to", "csv"], "expected a file or a folder, found nothing there"),
        (["{}", "--to", "csv"], "expected journals (*.jsonl) in the folder, found none; there are some in run"),
        (["{}/run", "--to", "csv", "--session", "3"], "expected a session in 0 .. 0, got 3"),
        (["{}/run"], "--to"),
    ],
)
def test_what_is_refused_is_one_line(run, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as done:
        main(["export", *(word.format(tmp_path) for word in words)])
    assert done.value.code == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("target", "module", "extra"),
    [
        ("mcap", "mcap.writer", "mcap"),
        ("parquet", "pyarrow", "parquet"),
        ("tensorboard", "tensorboard.summary.writer.record_writer", "tensorboard"),
        ("wandb-offline", "wandb", "wandb"),
    ],
)
def test_a_missing_extra_is_one_line_with_the_command(run, tmp_path, monkeypatch, target, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"pip install 'rowcast\[{extra}\]'") as refused:
        export_run(run, target, tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


def test_the_extras_are_those_of_the_package():
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    for extra in ("mcap", "parquet", "tensorboard", "wandb"):
        assert f"\n{extra} = [" in text


def test_an_error_leaves_nothing_behind(run, tmp_path, monkeypatch):
    def fail(moments, path):
        path.write_text("half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(TARGETS, "csv", type(TARGETS["csv"])(".csv", fail))
    with pytest.raises(ConfigError, match=r"a\.csv: cannot be written: No space left on device"):
        export_run(run, "csv", tmp_path / "a.csv")
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


def test_the_name_is_that_of_the_run(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as done:
        main(["export", "run", "--to", "csv"])
    assert done.value.code == 0
    assert capsys.readouterr().out == "written to run.csv: 13 records, 2 robots\n"
    assert export_run(run / "server.jsonl", "mcap").path == Path("server.mcap")
    monkeypatch.chdir(run)
    assert export_run(".", "mcap").path == Path("run.mcap")


def test_the_command_loads_no_framework(run, tmp_path):
    """Neither PyTorch, which a machine that looks at journals need not have, nor the libraries of other targets."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from rowcast.cli import main\n"
        "try:\n    main(['export', sys.argv[1], '--to', 'csv', '--out', sys.argv[2]])\n"
        "finally:\n    assert not {'pyarrow', 'wandb', 'tensorboard', 'mcap'} & sys.modules.keys(), 'loaded'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, run, tmp_path / "a.csv"], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
