"""The wheel: what ``pip install rowcast`` brings into an empty environment is enough for a demo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rowcast.journal import read_journal

ROOT = Path(__file__).parent.parent
#: Seconds that ``import rowcast`` takes at most once PyTorch is there, and with all that a training script uses of it.
MOST_S, MOST_IN_ALL_S = 0.5, 1.0
#: Measures both in one process, as seconds of its processor: other processes do not count.
IMPORTS = """
import time, torch
began = time.process_time()
import rowcast
imported = time.process_time()
rowcast.Optimizer, rowcast.Team
print(imported - began, time.process_time() - began)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this source tree."""
    folder = tmp_path_factory.mktemp("wheel")
    pip(sys.executable, "wheel", "--no-deps", "-w", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """An environment with the wheel, what pip installs for it, and nothing else."""
    folder = tmp_path_factory.mktemp("env")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "env")], check=True, timeout=120)
    plan = folder / "plan.json"
    pip(folder / "env/bin/python", "install", "--dry-run", "--report", plan, wheel)
    names = [item["metadata"]["name"].lower() for item in json.loads(plan.read_text())["install"]]
    if any(name.startswith("nvidia") for name in names):
        pytest.skip("the package registry at hand has PyTorch with CUDA only: some gigabytes")
    pip(folder / "env/bin/python", "install", wheel)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "ROWCAST"))}
    return folder, environment


def pip(python: Path | str, command: str, *words: Path | str) -> None:
    """Run pip; skips the test where no registry has what it asks for."""
    line = [python, "-m", "pip", command, "--quiet", "--retries", "0", *words]
    if command == "install":
        line += ["-c", ROOT / "constraints.txt"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        if "No matching distribution" in done.stderr or "Connection" in done.stderr:
            pytest.skip("no package registry at hand")
        pytest.fail(done.stderr)


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
    seen = subprocess.run(
        [python, "-c", where], capture_output=True, text=True, env=environment, cwd=folder, timeout=60, check=True
    )
    file, *missing = seen.stdout.split()
    assert Path(file).is_relative_to(folder / "env")
    assert missing == ["None", "None"]
    words = ["--workers=2", "--seconds=5", "--pace=0.1", "--policies=rog:4,rowcast", "--set", "ratio=0.2", "--out=out"]
    done = subprocess.run(
        [folder / "env/bin/rowcast", "demo", *words],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    summary = json.loads((folder / "out/summary.json").read_text())
    for policy, journals in (("rog:4", "rog-4"), ("rowcast", "rowcast")):
        numbers = summary["policies"][policy]
        assert numbers["updates_sent"] > 0 and numbers["updates_lost"] == 0 and numbers["audit"]["clean"]
        events = {each["event"] for each in read_journal(folder / "out" / journals / "robot-0.jsonl")}
        assert {"start", "step", "end"} <= events
    assert "no figures: they need matplotlib, which is not installed; pip install 'rowcast[demo]'" in done.stdout


@pytest.mark.system
@pytest.mark.timeout(400)
def test_it_is_imported_in_half_a_second_beyond_pytorch(installed: tuple[Path, dict[str, str]]) -> None:
    folder, environment = installed
    runs = [
        subprocess.run(
            [folder / "env/bin/python", "-c", IMPORTS],
            capture_output=True,
            text=True,
            env=environment,
            cwd=folder,
            timeout=60,
            check=True,
        ).stdout.split()
        for _ in range(3)
    ]
    import_s, all_s = (min(map(float, each)) for each in zip(*runs, strict=True))
    assert 0 < import_s < MOST_S
    assert import_s < all_s < MOST_IN_ALL_S
