"""The wheel: what ``pip install rowcast`` brings into an empty environment is enough for a demo."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rowcast.journal import read_journal

ROOT = Path(__file__).parent.parent
#: What a file of the source tree may be that is no part of the wheel.
NOT_SHIPPED = {".pyc"}


def required(name: str, extras: tuple[str, ...] = ()) -> Iterator[str]:
    """The distributions that a distribution asks for on this machine, without extras unless named."""
    pattern = re.compile(r"^([\w.-]+)\s*(?:\[([^]]*)\])?[^;]*(?:;(.*))?$")
    for text in importlib.metadata.requires(name) or ():
        wanted = pattern.match(text)
        assert wanted is not None, text
        if wanted[3] is None or holds(wanted[3], extras):
            yield canonical(wanted[1])


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def holds(marker: str, extras: tuple[str, ...]) -> bool:
    from packaging.markers import Marker

    return any(Marker(marker).evaluate({"extra": extra}) for extra in extras or ("",))


@functools.cache
def closure(name: str) -> frozenset[str]:
    """A distribution, what it asks for, and what that asks for, as far as it is installed here."""
    found, open_ = set(), [canonical(name)]
    while open_:
        each = open_.pop()
        if each in found:
            continue
        try:
            importlib.metadata.distribution(each)
        except importlib.metadata.PackageNotFoundError:  # a part that another platform needs
            continue
        found.add(each)
        open_ += required(each)
    return frozenset(found)


def link(names: frozenset[str], folder: Path) -> None:
    """Let an environment see the installed distributions of these names, and no others.

    Each top-level file or folder of a distribution becomes a link, so that what is not asked for is not there.
    """
    for name in names:
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or () if not file.parts[0].startswith(("..", "/"))}:
            target = folder / top
            source = Path(str(distribution.locate_file(top)))
            if source.exists() and not target.exists() and top != "__pycache__":
                target.symlink_to(source)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this source tree."""
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--retries", "0", "-w", folder, ROOT],
        capture_output=True,
        text=True,
        timeout=170,
        cwd=folder,
    )
    if done.returncode != 0:
        if "No matching distribution" in done.stderr or "Connection" in done.stderr:
            pytest.skip("no package registry at hand for what builds a wheel (hatchling)")
        pytest.fail(done.stderr)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """An environment with the wheel, the distributions that it asks for, and nothing else."""
    folder = tmp_path_factory.mktemp("env")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "env")], check=True, timeout=120)
    python = folder / "env/bin/python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel], check=True, timeout=120)
    (packages,) = (folder / "env").glob("lib/python*/site-packages")
    link(closure("rowcast") - {"rowcast"}, packages)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "ROWCAST"))}
    return folder, environment


@pytest.mark.system
@pytest.mark.timeout(400)
def test_the_wheel_has_all_that_the_package_needs(wheel: Path) -> None:
    source = ROOT / "src" / "rowcast"
    asked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "src/rowcast"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    ours = {Path(line).relative_to("src").as_posix() for line in asked.stdout.splitlines() if (ROOT / line).is_file()}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert ours <= names
    assert {name for name in names if ".dist-info/" not in name} <= ours
    for each in ("page/assets/index.html", "page/assets/uPlot.LICENSE.txt", "tasks/cruda/digits.npz", "py.typed"):
        assert (source / each).is_file() and f"rowcast/{each}" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@pytest.mark.system
@pytest.mark.timeout(400)
def test_an_empty_environment_runs_a_demo(installed: tuple[Path, dict[str, str]]) -> None:
    """Without the extra ``demo``: no scikit-learn, no matplotlib."""
    folder, environment = installed
    python = folder / "env/bin/python"
    where = "import importlib.util as i, rowcast; print(rowcast.__file__, *map(i.find_spec, ('sklearn', 'matplotlib')))"
    seen = subprocess.run([python, "-c", where], capture_output=True, text=True, env=environment, cwd=folder, timeout=60)
    file, *missing = seen.stdout.split()
    assert Path(file).is_relative_to(folder / "env"), seen.stderr
    assert missing == ["None", "None"]
    words = "demo --workers=2 --seconds=1 --pace=0.1 --policies=bsp,rowcast --set ratio=0.2 --out out".split()
    done = subprocess.run(
        [folder / "env/bin/rowcast", *words], capture_output=True, text=True, env=environment, cwd=folder, timeout=170
    )
    assert done.returncode == 0, done.stderr + done.stdout
    summary = json.loads((folder / "out/summary.json").read_text())
    for policy in ("bsp", "rowcast"):
        numbers = summary["policies"][policy]
        assert numbers["updates_sent"] > 0 and numbers["updates_lost"] == 0 and numbers["audit"]["clean"]
        assert [each["event"] for each in read_journal(folder / f"out/{policy}/robot-0.jsonl")][0] == "start"
    assert "no figures: they need matplotlib, which is not installed; pip install 'rowcast[demo]'" in done.stdout
