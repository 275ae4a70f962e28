"""The house of CONTRIBUTING.md: imports point down only, and the lower floors know no torch, socket or clock."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import rowcast

SOURCE = Path(rowcast.__file__).parent

#: Part of the package -> floor. A part that stands nowhere here is an error: give it a floor first.
FLOORS = {
    **dict.fromkeys(("errors", "config", "journal", "metric", "version"), 0),
    **dict.fromkeys(("registry", "userfile", "libraries"), 0),
    **dict.fromkeys(("rows", "codecs", "links", "energy", "graphs", "streams", "exhibits", "bags"), 1),
    **dict.fromkeys(("sync", "wire", "planning"), 2),
    "delivery": 3,
    "session": 4,
    **dict.fromkeys(("training", "inference", "durability"), 5),
    **dict.fromkeys(("drivers", "sources", "testing", "page"), 6),
    **dict.fromkeys(("optim", "split", "loader", "export", "warming"), 7),
    **dict.fromkeys(("tasks", "experiment", "combining"), 8),
    **dict.fromkeys(("cli", "report"), 9),
}
#: The public face is above everything, and may import everything.
FACE = 10
FACE_MODULES = ("rowcast", "rowcast.__main__")

SOCKETS = {"socket", "socketserver", "ssl", "select", "selectors", "asyncio"}
CLOCKS = {"time", "datetime", "sched"}
THREADS = {"threading", "_thread", "concurrent", "multiprocessing", "subprocess", "signal"}
PURE = SOCKETS | CLOCKS | THREADS | {"torch"}
FORBIDDEN: dict[str, set[str]] = {
    **{part: PURE for part, floor in FLOORS.items() if floor <= 5},
    "testing": PURE,
    "drivers": {"torch"},
    "sources": {"torch"},
    "page": {"torch"},
    "export": {"torch"},
    "optim": SOCKETS | CLOCKS | THREADS,
    "warming": PURE,
}
#: What a module may import although its part may not: models to test with are models of PyTorch.
ALLOWED = {"rowcast.testing.zoo": {"torch"}}


@dataclass(frozen=True)
class Arrow:
    """One import: from a module to a module."""

    source: str
    line: int
    target: str


def module_name(root: Path, file: Path) -> str:
    parts = [root.name, *file.relative_to(root).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def arrows(root: Path) -> Iterator[Arrow]:
    """Every import in every file under ``root``, also those inside functions and ``if TYPE_CHECKING``."""
    files = sorted(root.rglob("*.py"))
    modules = {module_name(root, file) for file in files}
    for file in files:
        name = module_name(root, file)
        package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for target in imported(node, package, modules):
                yield Arrow(name, node.lineno, target)


def imported(node: ast.AST, package: list[str], modules: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package[: len(package) - node.level + 1] if node.level else []
        base = ".".join([*above, *filter(None, [node.module])])
        # ``from rowcast import rows`` is an import of rowcast.rows, ``from rowcast import join`` of the face.
        yield from {f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base for alias in node.names}
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
        "importlib.import_module",
        "import_module",
        "__import__",
    ):
        first = node.args[0] if node.args else None
        yield first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else "<computed name>"


def part_of(module: str) -> str:
    """``rowcast.sync.mta`` -> ``sync``; the face -> the empty text."""
    return "" if module in FACE_MODULES else module.split(".")[1]


def complaints(root: Path) -> list[str]:
    """Everything under ``root`` that breaks the table."""
    found: list[str] = []
    edges: dict[str, set[str]] = {}
    for arrow in arrows(root):
        source, where = part_of(arrow.source), f"{arrow.source}, line {arrow.line}"
        if source and source not in FLOORS:
            found.append(f"{where}: {source!r} has no floor; add it to the table")
            continue
        if arrow.target.split(".")[0] != root.name:
            allowed = ALLOWED.get(".".join(arrow.source.split(".")[:3]), set())
            if (
                arrow.target.split(".")[0] in FORBIDDEN.get(source, set()) - allowed
                or arrow.target == "<computed name>"
            ):
                found.append(f"{where}: {source or 'the face'} may not import {arrow.target}")
            continue
        target = part_of(arrow.target)
        if not source or source == target:
            continue
        edges.setdefault(source, set()).add(target)
        if FLOORS[source] == 0 and target != "errors":
            found.append(f"{where}: floor 0 may import nothing of ours but errors, got {arrow.target}")
        elif (FLOORS.get(target, FACE) if target else FACE) > FLOORS[source]:
            found.append(f"{where}: {source} (floor {FLOORS[source]}) may not look up to {arrow.target}")
    return found + [f"cycle between packages: {' -> '.join(cycle)}" for cycle in cycles(edges)]


def cycles(edges: dict[str, set[str]]) -> Iterator[list[str]]:
    """Each cycle once, from its alphabetically first member."""

    def walk(path: list[str]) -> Iterator[list[str]]:
        for target in sorted(edges.get(path[-1], ())):
            if target == path[0]:
                yield [*path, target]
            elif target > path[0] and target not in path:
                yield from walk([*path, target])

    for start in sorted(edges):
        yield from walk([start])


def test_the_package_keeps_to_its_floors() -> None:
    assert complaints(SOURCE) == []


def test_the_walk_sees_the_package() -> None:
    seen = list(arrows(SOURCE))
    assert len({arrow.source for arrow in seen}) > 50
    assert {part_of(arrow.source) for arrow in seen} >= {
        "rows",
        "codecs",
        "wire",
        "delivery",
        "session",
        "training",
        "optim",
    }
    assert any(arrow.target == "torch" for arrow in seen)
    assert any(arrow.source == "rowcast.training.worker" and arrow.target == "rowcast.wire" for arrow in seen)


def test_every_part_of_the_package_has_a_floor() -> None:
    parts = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert parts - {"__init__", "__main__"} <= FLOORS.keys()


PLANTED = [
    ("rows/a.py", "from rowcast.codecs.base import Codec\nimport rowcast.sync", "rows (floor 1) may not look up"),
    ("sync/a.py", "def f():\n    from rowcast.training import ServerNode", "may not look up to rowcast.training"),
    ("wire/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import rowcast.drivers", "may not look up"),
    ("sync/a.py", "from rowcast import training", "may not look up to rowcast.training"),
    ("sync/a.py", "from .. import training", "may not look up to rowcast.training"),
    ("sync/a.py", "from ..training import port", "may not look up to rowcast.training.port"),
    ("training/a.py", "from rowcast import join", "may not look up to rowcast"),
    ("testing/a.py", "import rowcast.optim", "testing (floor 6) may not look up"),
    ("optim/a.py", "from rowcast.tasks import Task", "optim (floor 7) may not look up"),
    ("drivers/a.py", "import rowcast.experiment", "drivers (floor 6) may not look up"),
    ("config.py", "from rowcast.journal import Journal", "floor 0 may import nothing of ours"),
    ("journal.py", "import rowcast.rows", "floor 0 may import nothing of ours"),
    ("extra/a.py", "import math", "'extra' has no floor"),
    ("links/a.py", "import socket", "links may not import socket"),
    ("energy/a.py", "from time import monotonic", "energy may not import time"),
    ("codecs/a.py", "import torch.nn as nn", "codecs may not import torch.nn"),
    ("training/a.py", "def f():\n    import asyncio", "training may not import asyncio"),
    ("wire/a.py", "from concurrent.futures import Future", "wire may not import concurrent"),
    ("sync/a.py", "import os, threading", "sync may not import threading"),
    ("testing/a.py", "import time", "testing may not import time"),
    ("testing/a.py", "import torch", "testing may not import torch"),
    ("testing/zoo/a.py", "import time", "testing may not import time"),
    ("drivers/a.py", "from torch import Tensor", "drivers may not import torch"),
    ("optim/a.py", "import ssl", "optim may not import ssl"),
    ("config.py", "import time", "config may not import time"),
    ("rows/a.py", "import importlib\nimportlib.import_module('torch')", "rows may not import torch"),
    ("rows/a.py", "import importlib\nimportlib.import_module('tor' + 'ch')", "may not import <computed name>"),
]


def plant(root: Path, files: dict[str, str]) -> Path:
    house = root / "rowcast"
    for name, text in {"__init__.py": "", "training/__init__.py": "", "training/port.py": "", **files}.items():
        path = house / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return house


@pytest.mark.parametrize(("name", "text", "complaint"), PLANTED)
def test_a_planted_violation_is_found(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    found = complaints(plant(tmp_path, {name: text}))
    assert len(found) == 1
    assert complaint in found[0]


def test_a_cycle_on_one_floor_is_found_once(tmp_path: Path) -> None:
    files = {
        "rows/a.py": "import rowcast.codecs",
        "codecs/a.py": "import rowcast.links.a",
        "links/a.py": "from rowcast.rows.a import x",
    }
    assert complaints(plant(tmp_path, files)) == ["cycle between packages: codecs -> links -> rows -> codecs"]


def test_what_is_allowed_passes(tmp_path: Path) -> None:
    files = {
        "__init__.py": "from rowcast.optim import Optimizer\nimport torch, socket",
        "__main__.py": "import rowcast.cli, time",
        "journal.py": "import rowcast.errors",
        "codecs/a.py": "from rowcast.rows import Layout\nimport numpy",
        "training/a.py": "from rowcast.training.port import Port\nfrom . import port\nfrom ..wire import encode",
        "drivers/a.py": "import asyncio, threading, time, ssl, socket\nimport rowcast.training",
        "testing/a.py": "from rowcast.drivers import x\nimport rowcast.codecs",
        "testing/zoo/a.py": "from torch import nn",
        "optim/a.py": "import torch\nimport rowcast.rows",
        "experiment/a.py": "import multiprocessing, signal\nfrom rowcast.tasks import x",
        "cli/a.py": "import rowcast.report, rowcast.experiment",
    }
    assert complaints(plant(tmp_path, files)) == []
