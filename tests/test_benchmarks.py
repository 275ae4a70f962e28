"""Every script of ``benchmarks/`` runs, on a tiny layout: what it calls is still there, and takes what it is given."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from rowcast.drivers.netns.rights import why_not
from rowcast.errors import ConfigError

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"

#: The arguments with which a script takes a second or two. A new script needs an entry; ``common.arguments`` has the
#: option ``--tiny`` for it, ``common.reference_layout`` a tiny layout.
TINY = {
    "agreement": ["--tiny"],
    "beyond": ["--tiny", "--parts", "timing,silence,delivery"],
    "combining": ["--tiny"],
    "drift": ["--tiny"],
    "faults": ["--tiny", "--parts", "schedules,restart,standby,sockets,scripts,return"],
    "fleet": ["--tiny", "--parts", "pushes,elements,two_step", "--only", "twostep"],
    "finish_together": ["--workers", "3", "--policies", "bsp"],
    "goodput": ["--tiny"],
    "log_places": ["--tiny"],
    "mapping": ["--tiny", "--parts", "delay"],
    "grid": ["--tiny", "--jobs", "0", "--seeds", "1", "--cells", "diabetes/4/x1/momentum/iid/equal/[fo]*"],
    "guard": ["--tiny"],
    "memory": ["--tiny"],
    "motion": ["--tiny", "--jobs", "0", "--models", "2d,online"],
    "optimizers": ["--steps", "3", "--only", "Adam"],
    "peers": ["--tiny"],
    "page": ["--tiny"],
    "pulls": ["--tiny"],
    "shaping": ["--tiny"],
    "simulate": ["--tiny"],
    "split": ["--tiny"],
    "split_rows": ["--tiny"],
    "split_sockets": ["--tiny"],
    "still_frames": ["--tiny"],
    "step_cost": ["--tiny"],
    "stream_faults": ["--tiny", "--only", "kafka, positions"],
    "stream_loader": ["--tiny"],
    "streams": ["--tiny", "--only", "s1,s2,outdoor,topk"],
    "tensor_codecs": ["--tiny"],
    "tls": ["--tiny"],
    "wide_area": ["--tiny"],
    "wire_size": ["--tiny"],
    "worker_state": ["--tiny"],
}


def has_main(path):
    return '__name__ == "__main__"' in path.read_text(encoding="utf-8")


#: Contenders of ``peers.py``, which starts them as processes; most of them need a package.
CONTENDERS = sorted(path.stem for path in FOLDER.glob("peers_*.py") if has_main(path))
SCRIPTS = sorted({path.stem for path in FOLDER.glob("*.py") if has_main(path)} - set(CONTENDERS))
PARTS = sorted(path.stem for path in FOLDER.glob("*.py") if not has_main(path))


@pytest.fixture(autouse=True)
def folder_on_the_path(monkeypatch, tmp_path):
    """As when a script is started; files that it writes land beside the test."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(tmp_path)
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if name in SCRIPTS + PARTS:
            del sys.modules[name]


def test_every_script_has_tiny_arguments():
    missing = sorted(set(SCRIPTS) - TINY.keys())
    assert not missing, f"{missing}: add arguments with which they take a second to TINY in {Path(__file__).name}"
    assert TINY.keys() <= set(SCRIPTS), "a script that is gone"


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_runs(name, monkeypatch, capsys, tmp_path):
    if name == "peers" and (reason := why_not()) is not None:
        pytest.skip(reason)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *TINY[name], "--json", str(tmp_path / "figures.json")])
    importlib.import_module(name).main()
    assert capsys.readouterr().out.strip()
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert figures and all(figure["name"] for figure in figures)


def test_the_cost_of_a_step_on_a_device_runs_on_the_processor():
    device_cost, common = importlib.import_module("device_cost"), importlib.import_module("common")
    figures = device_cost.device_figures(common.TINY, torch.device("cpu"), 1, 1, 0.0)
    assert {"encode, decode, apply / copy", "host's part of a step"} <= {figure.name for figure in figures}
    assert all(figure.bound is None and figure.value > 0 for figure in figures)


def test_the_cost_of_a_step_names_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["step_cost.py", "--device", "nowhere"])
    with pytest.raises(SystemExit, match="device: 'nowhere' cannot be used here"):
        importlib.import_module("step_cost").main()


@pytest.mark.parametrize("name", PARTS)
def test_part_of_scripts_can_be_imported(name):
    importlib.import_module(name)


def test_what_beyond_trains_is_listed_and_run_by_its_key(monkeypatch, capsys, tmp_path):
    """Then the script finds it, and trains nothing again."""
    script = importlib.import_module("beyond")
    words = ["beyond.py", "--tiny", "--parts", "delivery", "--out", str(tmp_path / "out"), "--jobs", "0"]

    def call(*more):
        monkeypatch.setattr(sys, "argv", [*words, *more])
        script.main()
        return capsys.readouterr().out

    (key,) = call("--list-cells").split()
    assert re.fullmatch(r"delivery/[\w.-]+_s0", key) and not (tmp_path / "out").exists()
    with pytest.raises(SystemExit) as refused:
        call("--cell", f"{key}1")
    assert refused.value.code == 2 and f"did you mean '{key}'" in capsys.readouterr().err
    assert "1 of 1 runs finished" in call("--cell", key)
    (result,) = (tmp_path / "out").glob("delivery/cells/*/result.json")
    found, at = json.loads(result.read_text()), result.stat().st_mtime_ns
    assert found["steps"] > 1 and 0 < found["after"] <= 100
    assert call("--list-cells") == ""
    assert "poor links, rowcast" in call()
    assert result.stat().st_mtime_ns == at


def test_parts_of_beyond_plan_what_their_figures_read(tmp_path):
    """The sweeps of all parts, with the data of none."""
    beyond = importlib.import_module("beyond")
    training, wifi = importlib.import_module("beyond_training"), importlib.import_module("beyond_wifi")
    device = beyond.robot((0.01, 0.02))
    sweeps = [*training.silence_sweeps(tmp_path, device, 2, ()), *wifi.wifi_sweeps(tmp_path, device, 2)]
    sweeps += beyond.delivery_sweeps(tmp_path, 2)
    cells = [(sweep.place.relative_to(tmp_path).as_posix(), cell) for sweep in sweeps for cell in planned(sweep)]
    counted = Counter(place for place, _ in cells)
    assert counted == {
        "silence/runs": 4,
        "wifi": 2 * len(wifi.POLICIES),
        "delivery": 2 * len(beyond_delivery().POLICIES),
    }
    assert len({(place, cell.name) for place, cell in cells}) == len(cells)
    assert sorted(path.name for path in (tmp_path / "silence" / "silent-1").iterdir()) == [
        f"robot{k}.csv" for k in range(4)
    ]
    links = training.accuracy_sweeps(tmp_path, tmp_path, tmp_path / "s", training.plan(device, 2), 0.5, ("rog:20",))
    assert [(sweep.settings.policies, sweep.settings.hours) for sweep in links[:3]] == [
        (("bsp",), 0.5),
        (("rowcast", "rog:20"), 0.5),
        (("rog:4",), 1.0),
    ]
    assert {sweep.place.name for sweep in links} == {"fashion_mnist", "cifar10"}


def beyond_delivery():
    return importlib.import_module("beyond_delivery")


def planned(sweep):
    from rowcast.experiment import plan_cells

    return plan_cells(sweep.settings)


def test_of_several_that_measure_the_cost_the_first_one_counts(tmp_path):
    training = importlib.import_module("beyond_training")
    assert training.settled_cost(tmp_path, (0.0123, 0.0456)) == (0.012, 0.046)
    assert training.settled_cost(tmp_path, (1.0, 2.0)) == (0.012, 0.046)
    assert [path.name for path in tmp_path.iterdir()] == ["cost.json"]


def test_make_bench_names_scripts_that_exist():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert set(re.findall(r"benchmarks/(\w+)\.py", text)) <= set(SCRIPTS)


def test_two_step_names_the_policies_that_it_has(tmp_path):
    two_step = importlib.import_module("fleet_two_step").two_step
    with pytest.raises(ConfigError, match=r"two_step: expected some of 'twostep, smooth=0', .*, got 'bsp'"):
        two_step(tmp_path, only=["bsp"])
