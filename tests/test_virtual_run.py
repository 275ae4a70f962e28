"""One cell of a comparison in virtual time: what it writes, and that it writes the same again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from rowcast.errors import ConfigError
from rowcast.experiment import Cell
from rowcast.experiment.runners.links import model_bytes
from rowcast.experiment.runners.virtual import run_virtual
from rowcast.experiment.starting import state_file
from rowcast.journal import read_journal
from rowcast.links import load_trace, named_trace
from rowcast.rows import Layout
from rowcast.tasks import build_task

FILES = ["link-0-down.csv", "link-0-up.csv", "link-1-down.csv", "link-1-up.csv", "links.json"]
JOURNALS = ["robot-0.jsonl", "robot-1.jsonl", "server.jsonl"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums in the same order each time, whatever else the machine does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    """Whoever runs the tests has a cache of their own, which is left alone."""
    monkeypatch.setenv("ROWCAST_CACHE", "off")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A folder of a comparison with starting models that were not trained: fast, and as good for this."""
    folder = tmp_path_factory.mktemp("comparison")
    (folder / "states").mkdir()
    for seed in (0, 1):
        task = build_task("cruda-digits", seed=seed, pretrain_epochs=0)
        task.pretrain()
        task.save_state(folder / "states" / state_name(seed))
    return folder


def state_name(seed):
    """The file of the starting model of a plain task."""
    return state_file(build_task("cruda-digits", seed=seed))


def cell(policy="rog:4", seed=0, **more):
    settings = {
        "task": "cruda-digits",
        "data": None,
        "links": "outdoor",
        "channel": "airtime",
        "workers": 2,
        "hours": 0.5 / 60,
        "devices": "2.18",
        **dict.fromkeys(("encode_s", "decode_s", "server_push_s", "server_pull_s"), 0.0),
        "batch": 16,
        "eval_every_s": 15.0,
        "eval_items": 500,
    }
    return Cell(policy=policy, seed=seed, **{**settings, **more})


def run(out, name, cell, told=None):
    folder = out / "cells" / name
    folder.mkdir(parents=True)
    run_virtual(cell, folder, (told if told is not None else []).append)
    return folder


def events(folder, name, event):
    return [record for record in read_journal(folder / f"{name}.jsonl") if record["event"] == event]


def contents(folder):
    return {name: (folder / name).read_bytes() for name in JOURNALS}


@pytest.mark.parametrize("policy", ["rog:4", "bsp"])
def test_the_same_seed_writes_the_same_files(out, policy):
    first, again = (run(out, f"{policy[:3]}-{take}", cell(policy)) for take in (1, 2))
    assert sorted(path.name for path in first.iterdir()) == sorted(FILES + JOURNALS)
    for name in FILES + JOURNALS:
        assert (first / name).read_bytes() == (again / name).read_bytes(), name
    if policy == "rog:4":
        other = run(out, "other", cell(policy, seed=1))
        ours, theirs = contents(first), contents(other)
        assert all(ours[name] != theirs[name] for name in JOURNALS)


def test_a_cell_looks_trains_and_tells(out):
    told = []
    folder = run(out, "looks", cell("ssp:2", hours=52 / 3600), told)
    assert told == sorted(told) and told[-1] == pytest.approx(52.0)
    for name in ("robot-0", "robot-1"):
        steps = events(folder, name, "step")
        assert steps and all(step["compute_s"] == pytest.approx(2.18, abs=1e-5) for step in steps)
        assert all(0 < step["t"] <= 52 for step in steps)
        metrics = events(folder, name, "metric")
        looks = [metric["t"] for metric in metrics if metric["name"] == "accuracy"]
        assert looks == [metric["t"] for metric in metrics if metric["name"] == "own_accuracy"]
        # At the start, then at the first step of each quarter of a minute.
        assert looks[0] == 0.0 and len(looks) == 4
        assert [look // 15 for look in looks] == [0, 1, 2, 3]
        assert sum(metric["name"] == "loss" for metric in metrics) == len(steps) + 1
    pushes = events(folder, "server", "push")
    assert {push["peer"] for push in pushes} == {"robot-0", "robot-1"}


def test_each_robot_computes_on_its_own_device(out, tmp_path):
    short = {"links": "constant:50", "hours": 40 / 3600}
    plain = run(out, "devices", cell("asp", devices="2/6", **short))
    for name, compute_s in (("robot-0", 2.0), ("robot-1", 6.0)):
        steps = events(plain, name, "step")
        assert len(steps) > 2 and all(step["compute_s"] == pytest.approx(compute_s, abs=1e-5) for step in steps)
    (tmp_path / "jetson.csv").write_text("quick,slow\n1,6\n2,\n")
    work = {"encode_s": 0.5, "decode_s": 0.25, "server_push_s": 0.125, "server_pull_s": 0.0625}
    costly = run(out, "costly", cell("asp", devices=str(tmp_path / "jetson.csv"), **short, **work))
    quick, slow = (events(costly, name, "step") for name in ("robot-0", "robot-1"))
    assert [step["compute_s"] for step in quick[:4]] == pytest.approx([1.5, 2.75, 1.75, 2.75], abs=1e-5)
    assert [step["compute_s"] for step in slow[:2]] == pytest.approx([6.5, 6.75], abs=1e-5)


def test_the_servers_work_delays_a_step(out):
    alone = {"links": "constant:1000", "devices": "1", "workers": 1, "hours": 20 / 3600}
    plain = events(run(out, "no-work", cell("bsp", **alone)), "robot-0", "step")
    costly = run(out, "work", cell("bsp", **alone, server_push_s=0.5, server_pull_s=0.25))
    took = [step["communicate_s"] + step["stall_s"] for step in events(costly, "robot-0", "step")[:5]]
    assert took == pytest.approx([step["communicate_s"] + step["stall_s"] + 0.75 for step in plain[:5]], abs=0.02)


def test_links_are_scaled_by_the_size_of_the_model(out):
    folder = run(out, "links", cell("bsp", hours=0.5 / 60))
    whose = json.loads((folder / "links.json").read_text())
    assert whose == {f"robot-{i}": {way: f"link-{i}-{way}.csv" for way in ("up", "down")} for i in (0, 1)}
    task = build_task("cruda-digits", seed=0)
    task.load_state(out / "states" / state_name(0))
    shapes = [(name, tuple(value.shape)) for name, value in task.worker(0, 2).model.named_parameters()]
    scale = model_bytes(Layout.from_shapes(shapes)) / task.reference_bytes
    traces = [load_trace(folder / whose["robot-0"][way]) for way in ("up", "down")]
    for way, trace in enumerate(traces):
        expected = named_trace("outdoor", (0, 0, way), 3600.0).scaled(scale)
        for time in (0.0, 17.3, 1000.0):
            assert trace.rate(time) == pytest.approx(expected.rate(time), rel=1e-3, abs=1.0)
    assert traces[0].rates_bps.tolist() != traces[1].rates_bps.tolist()


def test_robots_take_the_traces_of_a_folder_in_the_order_of_their_names(out, tmp_path):
    """They were recorded together and stay together: with another seed all are entered later by as much."""
    for name, mbps in (("b", 20), ("a", 10), ("c", 30)):
        (tmp_path / f"{name}.csv").write_text(f"time_s,mbps\n0,{mbps}\n50,{mbps + 1}\n100,\n")
    (tmp_path / "notes.md").write_text("not a trace")
    folders = [run(out, f"folder-{seed}", cell("asp", seed, links=str(tmp_path), hours=5 / 3600)) for seed in (0, 1)]
    starts = []
    for folder in folders:
        traces = [load_trace(folder / f"link-{index}-{way}.csv") for index in (0, 1) for way in ("up", "down")]
        scale = traces[0].rates_bps.max() / 11e6
        assert [trace.rates_bps.max() for trace in traces] == pytest.approx([11e6 * scale] * 2 + [21e6 * scale] * 2)
        starts.append([trace.finish(0.0, 40 * trace.rates_bps.min()) for trace in traces])
    assert starts[0] == pytest.approx([40.0] * 4)  # at the lower rate, from the start of the recording
    assert starts[1] != pytest.approx([40.0] * 4) and starts[1] == pytest.approx(starts[1][:1] * 4, rel=0.1)


def test_robots_beyond_the_traces_of_a_folder_share_them(out, tmp_path):
    """Three files for four robots: the fourth enters the first file half a recording later."""
    for name, mbps in (("a", 10), ("b", 20), ("c", 30)):
        (tmp_path / f"{name}.csv").write_text(f"time_s,mbps\n0,{mbps}\n50,{mbps + 1}\n100,\n")
    folder = run(out, "reuse", cell("asp", links=str(tmp_path), workers=4, links_reuse=True, hours=1 / 3600))
    traces = [load_trace(folder / f"link-{index}-up.csv") for index in range(4)]
    scale = traces[0].rates_bps.max() / 11e6
    assert traces[3].rate(0) == pytest.approx(11e6 * scale, rel=1e-3)  # of the first file, after 50 s
    assert traces[0].rate(0) == pytest.approx(10e6 * scale, rel=1e-3)


def test_options_of_the_task_are_what_runs(out, tmp_path, monkeypatch):
    """The optimizer, and a starting model of its own size: another file than that of the plain task."""
    from rowcast.tasks.cruda import CrudaTask

    seen = []
    pretrain = CrudaTask.pretrain

    def watch(task, *arguments):
        seen.append((task.settings.lr, task.settings.optimizer, task.settings.model.widths))
        return pretrain(task, *arguments)

    monkeypatch.setattr(CrudaTask, "pretrain", watch)
    options = 'lr=0.5; optimizer="adamw"; pretrain_epochs=0; widths=[8, 8, 8]'
    folder = run(tmp_path, "options", cell("asp", hours=0.2 / 60, links="constant:50", task_options=options))
    assert seen == [(0.5, "adamw", (8, 8, 8))]
    assert events(folder, "robot-0", "step")
    (state,) = (tmp_path / "states").iterdir()
    assert state.name.startswith("crudadigits-0-") and state.suffix == ".npz"


def test_a_starting_model_is_made_once(out, tmp_path, monkeypatch):
    calls = []
    from rowcast.tasks.cruda import CrudaTask

    def pretrain(task, progress):
        calls.append(task.settings.seed)
        return task.load_state(out / "states" / state_name(0))

    monkeypatch.setattr(CrudaTask, "pretrain", pretrain)
    for take in ("1", "2"):
        run(tmp_path, take, cell("asp", hours=0.2 / 60, links="constant:50"))
    assert calls == [0]
    assert [path.name for path in (tmp_path / "states").iterdir()] == [state_name(0)]


def test_other_data_in_the_same_folder_has_its_own_starting_model(tmp_path, monkeypatch):
    """Two sets of one shape: a policy on the second does not begin from the model of the first."""
    from rowcast.tasks.cruda import CrudaTask

    means = []
    pretrain = CrudaTask.pretrain

    def watch(task, *arguments):
        means.append(float(task.dataset.train_images.mean()))
        return pretrain(task, *arguments)

    monkeypatch.setattr(CrudaTask, "pretrain", watch)
    options = "pretrain_epochs=0; widths=[8, 8, 8]"
    for policy, level in (("bsp", 10), ("asp", 200)):
        data, labels = tmp_path / f"{level}.npz", np.arange(90) % 3
        images = np.full((90, 12, 12), level, dtype=np.uint8)
        np.savez(data, x_train=images, y_train=labels, x_test=images[:12], y_test=labels[:12])
        plan = {"task": "cruda-npz", "data": str(data), "hours": 0.1 / 60, "links": "constant:50", "eval_items": 10}
        run(tmp_path, policy, cell(policy, task_options=options, **plan))
    assert means == [10.0, 200.0]
    assert len(list((tmp_path / "states").iterdir())) == 2


def test_what_is_wrong_with_a_cell_is_said(out):
    with pytest.raises(ConfigError, match="unknown policy"):
        run(out, "wrong", cell("rgo:4"))


def test_links_between_cities_have_the_delay_of_their_robot(out):
    """The same run over the same bandwidth: a robot half a second away waits a second more for each answer."""
    wide = "wide:boston/boston?mbit=20"
    near, far = (
        run(out, f"wide-{name}", cell("bsp", links=wide + more, channel="independent"))
        for name, more in (("near", ""), ("far", "&rtt_ms=1000"))
    )
    waits = [events(folder, "robot-0", "step")[-1]["communicate_s"] for folder in (near, far)]
    assert waits[1] - waits[0] >= 0.95
    links = json.loads((far / "links.json").read_text())
    assert [links[f"robot-{index}"]["delay_s"] for index in (0, 1)] == [0.5, 0.5]
    assert load_trace(far / links["robot-1"]["down"]).rate(3.0) == load_trace(near / "link-0-up.csv").rate(0.0)
    assert "delay_s" not in json.loads((run(out, "no-delay", cell("bsp")) / "links.json").read_text())["robot-0"]
