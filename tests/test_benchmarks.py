"""Every script of ``benchmarks/`` runs, on a tiny layout: what it calls is still there, and takes what it is given."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"

#: The arguments with which a script takes a second or two. A new script needs an entry; ``common.arguments`` has the
#: option ``--tiny`` for it, ``common.reference_layout`` a tiny layout.
TINY = {
    "beyond": ["--tiny", "--parts", "timing,silence,delivery"],
    "combining": ["--tiny"],
    "drift": ["--tiny"],
    "faults": ["--tiny", "--parts", "schedules,restart,standby,sockets,scripts,return"],
    "finish_together": ["--workers", "3", "--policies", "bsp"],
    "goodput": ["--tiny"],
    "mapping": ["--tiny", "--parts", "delay"],
    "grid": ["--tiny", "--jobs", "0", "--seeds", "1", "--cells", "diabetes/4/x1/momentum/iid/equal/[fo]*"],
    "guard": ["--tiny"],
    "memory": ["--tiny"],
    "optimizers": ["--steps", "3", "--only", "Adam"],
    "pulls": ["--tiny"],
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


SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if has_main(path))
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
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *TINY[name], "--json", str(tmp_path / "figures.json")])
    importlib.import_module(name).main()
    assert capsys.readouterr().out.strip()
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert figures and all(figure["name"] for figure in figures)


@pytest.mark.parametrize("name", PARTS)
def test_part_of_scripts_can_be_imported(name):
    importlib.import_module(name)


def test_make_bench_names_scripts_that_exist():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert set(re.findall(r"benchmarks/(\w+)\.py", text)) <= set(SCRIPTS)
