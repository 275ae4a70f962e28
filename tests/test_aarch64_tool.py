"""``tools/aarch64_wheels.py``, without an index; and that its table names every dependency that there is today."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("aarch64_wheels", ROOT / "tools" / "aarch64_wheels.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_names_every_dependency(tool: ModuleType) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {canonicalize_name(Requirement(text).name) for texts in tool.wanted(project).values() for text in texts}
    page = tool.PAGE.read_text(encoding="utf-8").split(tool.BEGIN)[1].split(tool.END)[0]
    named = set(re.findall(r"^\| `([a-z0-9-]+)` \| `rowcast", page, re.MULTILINE))
    assert asked == named, "run: python tools/aarch64_wheels.py --write"
    assert re.search(r"^Asked on \d{4}-\d\d-\d\d, ", page, re.MULTILINE)


def test_conditions_are_those_of_the_board(tool: ModuleType) -> None:
    texts = [
        "tomli; python_version < '3.11'",
        "arm; platform_machine == 'aarch64'",
        "intel; platform_machine == 'x86_64'",
        "windows; sys_platform == 'win32'",
        "other; extra == 'demo'",
        "always",
    ]
    names = [each.name for each in tool.applying(texts, "3.10")]
    assert names == ["tomli", "arm", "always"]
    assert [each.name for each in tool.applying(texts, "3.13", ["demo"])] == ["arm", "other", "always"]


def test_what_has_no_wheel_is_said(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip names one after the other; the rest is asked for again."""
    asked: list[list[str]] = []

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        names = command[command.index("--report") + 2 :]
        asked.append(names)
        if "sdist-only>=1" in names:
            error = "ERROR: No matching distribution found for sdist-only>=1"
            return subprocess.CompletedProcess(command, 1, "", error)
        item = (
            '{"download_info": {"url": "file:///x/numpy-2.4.6-cp311-cp311-manylinux_2_27_aarch64.whl"}, '
            '"metadata": {"requires_dist": ["other"]}}'
        )
        Path(command[command.index("--report") + 1]).write_text(f'{{"install": [{item}]}}')
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(tool.subprocess, "run", pip)
    found = tool.ask("3.11", [Requirement("numpy"), Requirement("sdist-only>=1")])
    assert asked == [["numpy", "sdist-only>=1"], ["numpy"]]
    assert found["numpy"] == tool.Found("2.4.6", "cp311-cp311-manylinux_2_27_aarch64", ("other",))
    assert tool.written(found["numpy"]) == "2.4.6, manylinux_2_27"
    assert tool.written(found["sdist-only"]) == "**no wheel**"
    table = tool.table({"3.11": found}, {"numpy": "", "sdist-only": "numpy"}, {"numpy": ""})
    assert table.splitlines()[2:] == [
        "| `numpy` | `rowcast` | 2.4.6, manylinux_2_27 |",
        "| `sdist-only` | `numpy` | **no wheel** |",
    ]


def test_another_failure_of_pip_ends_it(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess[str]([], 1, "", "ERROR: no such option")
    monkeypatch.setattr(tool.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(SystemExit, match="no such option"):
        tool.ask("3.11", [Requirement("numpy")])
