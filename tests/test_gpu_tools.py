"""The script that runs everything that needs a GPU, where there is none."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch

TOOLS = Path(__file__).parents[1] / "tools"


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_nothing_is_run(monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_checks.py"])
    assert tool("gpu_checks").main() == 2
    assert "sees no GPU" in capsys.readouterr().err


def test_limits_of_all_parts_add_up_to_less_than_eight_minutes_and_what_they_run_is_there() -> None:
    parts = tool("gpu_checks").PARTS
    assert sum(limit_s for _, _, limit_s in parts) < 8 * 60
    for _, arguments, _ in parts:
        for argument in arguments:
            assert not argument.endswith(".py") or (TOOLS.parent / argument).is_file(), argument


def test_every_file_with_a_test_that_needs_a_gpu_is_run() -> None:
    (arguments,) = (arguments for name, arguments, _ in tool("gpu_checks").PARTS if name == "tests")
    marked = [path for path in (TOOLS.parent / "tests").glob("*.py") if "mark.cuda" in path.read_text(encoding="utf-8")]
    own = Path(__file__).name
    assert {f"tests/{path.name}" for path in marked} - {f"tests/{own}"} == {
        argument for argument in arguments if argument.endswith(".py")
    }


def test_what_failed_is_named(monkeypatch, capfd) -> None:
    checks = tool("gpu_checks")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    parts = (("good", ("-c", "print('it ran')"), 60), ("bad", ("-c", "raise SystemExit(3)"), 60))
    monkeypatch.setattr(checks, "PARTS", (*parts, ("endless", ("-c", "while True: pass"), 1)))
    monkeypatch.setattr(sys, "argv", ["gpu_checks.py"])
    assert checks.main() == 1
    told = capfd.readouterr().out
    assert "it ran" in told and "bad: exit status 3" in told and "endless: ended after 1 s" in told
    assert told.rstrip().endswith("failed: bad, endless")
    monkeypatch.setattr(sys, "argv", ["gpu_checks.py", "--only", "good"])
    assert checks.main() == 0
