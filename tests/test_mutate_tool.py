"""The tool that puts small faults into the code: where it sees room for one, and what it tells of the tests."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parent.parent / "tools"

SOURCE = '''"""Counting; 1 < 2."""

import typing

__all__ = ["held", "longer"]
LIMIT: typing.Annotated[int, 7] = 3


def longer(count: int, *, strict: bool = False) -> bool:
    """Whether a count is over the limit, 5 + 5."""
    if count < 0:
        raise ValueError(f"expected {1 + 1} or more, got {count}" + "!")
    return count > LIMIT or strict


def held(counts):
    total = 0
    for count in counts:
        if longer(count):
            break
        total += count
    return total
'''
TEST = """from small import held, longer


def test_longer():
    assert longer(4) and not longer(3) and not longer(0) and longer(0, strict=True)


def test_held():
    assert held([1, 2]) == 3
"""


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    """The modules of the tool: what finds the faults, and what tries them."""
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("mutants"), importlib.import_module("mutate")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    for name, text in (("src/small.py", SOURCE), ("tests/test_small.py", TEST)):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(text, "utf-8")
    return root


def faults(tools: tuple[ModuleType, ModuleType], source: str) -> set[tuple[int, str, str]]:
    return {(one.line, one.before, one.after) for one in tools[0].mutants_of("x.py", source.encode())}


def test_there_is_room_for_a_fault_in_behaviour_and_nowhere_else(tools: tuple[ModuleType, ModuleType]) -> None:
    assert faults(tools, SOURCE) == {
        (6, "3", "4"),
        (6, "3", "2"),
        (9, "False", "True"),
        (11, "<", "<="),
        (11, "0", "1"),
        (11, "0", "(-1)"),
        (12, 'raise ValueError(f"expected {1 + 1} or more, got {count}" + "!")', "pass"),
        (13, "count > LIMIT or strict", "None"),
        (13, ">", ">="),
        (13, "or", "and"),
        (17, "0", "1"),
        (17, "0", "(-1)"),
        (19, "longer(count)", "not longer(count)"),
        (20, "break", "continue"),
        (21, "+", "-"),
        (21, "total += count", "pass"),
        (22, "total", "None"),
    }


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a = b is not (c)", {("is not", "is")}),
        ("a = b not  in c", {("not  in", "in")}),
        ("a = (b  # or c < d\n  < c)", {("<", "<=")}),
        ("a = 'ä' in b < c", {("in", "not in"), ("<", "<=")}),
        ("a = not (b or c)", {("not (b or c)", "(b or c)"), ("or", "and")}),
        ("a = -b", {("-b", "b")}),
        ("a = b ** c // d", {("**", "*"), ("//", "*")}),
        ("a = min(b, c)", {("min", "max")}),
        ("a.b = c", {("a.b = c", "pass")}),
        ("a = round(b, 6)", set()),
        ("assert isinstance(a, int | str) and a < 5", set()),
        ("@cache(maxsize=5)\ndef f(a: 'b | c' = None) -> 5:\n  'x'\n", set()),
        ("a = b if c else d", {("c", "not c")}),
        ("f(a)", {("f(a)", "pass")}),
    ],
)
def test_a_fault_of_each_kind(tools: tuple[ModuleType, ModuleType], source: str, expected: set) -> None:
    assert {(before, after) for _, before, after in faults(tools, source)} == expected


def test_a_seed_draws_the_same_faults_and_one_for_each_place(
    tools: tuple[ModuleType, ModuleType], repository: Path
) -> None:
    mutants, _ = tools
    first, again, other = (mutants.draw(repository, ["src"], 6, seed) for seed in (0, 0, 1))
    assert first == again != other and len(first) == 6
    places = [one.start for one in mutants.draw(repository, ["src"], 1000, 0)]
    assert len(places) == len(set(places)) == 14
    with pytest.raises(ValueError, match="the file has changed"):
        first[0].apply(b"#" + SOURCE.encode())


def test_what_no_test_notices_survives_and_a_second_run_goes_on(
    tools: tuple[ModuleType, ModuleType], repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One test reaches the limit, none reaches the ``break``."""
    mutants, mutate = tools
    everything = mutants.draw(repository, ["src"], 1000, 0)
    chosen = [one for one in everything if one.after in (">=", "continue")]
    campaign = mutate.Campaign(repository, chosen, ["tests/test_small.py"], repository / "out")
    campaign.load()
    campaign.run(-math.inf)
    assert campaign.done == {} and "2 not tried" in campaign.report()
    campaign.run(math.inf)
    results = {one.after: campaign.done[one] for one in chosen}
    assert results[">="].killed and results[">="].how == "tests/test_small.py::test_longer"
    assert not results["continue"].killed and results["continue"].how == ""
    assert "survived: src/small.py:20: break -> continue\nkilled 1 of 2 (50 %); 0 not tried" in campaign.report()
    assert (repository / "src/small.py").read_text("utf-8") == SOURCE

    lines = (repository / "out/results.jsonl").read_text("utf-8").splitlines()
    assert [*json.loads(lines[0])] == ["digest", "durations"] and len(lines) == 3
    (repository / "out/results.jsonl").write_text("\n".join(lines[:-1]) + "\n", "utf-8")
    capsys.readouterr()
    again = mutate.Campaign(repository, chosen, ["tests/test_small.py"], repository / "out")
    again.load()
    assert len(again.done) == 1
    again.run(math.inf)
    assert {one: result.killed for one, result in again.done.items()} == {
        one: result.killed for one, result in campaign.done.items()
    }
    assert capsys.readouterr().out.startswith("2/2 ")

    # With another test, what survived is tried again, and nothing else.
    (repository / "tests/test_more.py").write_text(
        "from small import held\n\n\ndef test_it():\n    assert held([1, 9, 1]) == 1\n", "utf-8"
    )
    more = mutate.Campaign(repository, chosen, ["tests/test_small.py", "tests/test_more.py"], repository / "out")
    more.load(again=True)
    assert [one.after for one in more.done] == [">="]
    more.run(math.inf)
    assert all(result.killed for result in more.done.values()) and "killed 2 of 2 (100 %)" in more.report()
    (repository / "src/small.py").write_text(SOURCE + "\n", "utf-8")
    fresh = mutate.Campaign(repository, chosen, ["tests/test_small.py"], repository / "out")
    fresh.load()
    assert fresh.done == {}


def test_tests_that_fail_without_a_fault_say_nothing(tools: tuple[ModuleType, ModuleType], repository: Path) -> None:
    mutants, mutate = tools
    (repository / "tests/test_small.py").write_text("def test_it():\n    assert False\n", "utf-8")
    drawn = mutants.draw(repository, ["src"], 2, 0)
    campaign = mutate.Campaign(repository, drawn, ["tests/test_small.py"], repository / "out")
    campaign.load()
    with pytest.raises(RuntimeError, match="expected it to pass without a fault"):
        campaign.run(math.inf)


def test_a_fault_that_hangs_is_killed(
    tools: tuple[ModuleType, ModuleType], repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutants, mutate = tools
    source = "def count(n):\n    while n > 0:\n        n -= 1\n    return n\n"
    (repository / "src/small.py").write_text(source, "utf-8")
    (repository / "tests/test_small.py").write_text(
        "from small import count\n\n\ndef test_it():\n    assert count(3) == 0\n", "utf-8"
    )
    drawn = [one for one in mutants.draw(repository, ["src"], 99, 0) if one.before == "n -= 1"]
    monkeypatch.setattr(mutate, "LEAST_S", 1.0)
    monkeypatch.setattr(mutate, "PATIENCE", 1.5)
    campaign = mutate.Campaign(repository, drawn, ["tests/test_small.py"], repository / "out")
    campaign.load()
    campaign.run(math.inf)
    assert [result.how for result in campaign.done.values()] == ["timeout"]


def test_the_repository_has_what_the_tool_looks_for(
    tools: tuple[ModuleType, ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    _, mutate = tools
    root = TOOLS.parent
    chosen = mutate.core_tests(root)
    assert {"tests/test_sync.py", "tests/test_streaming.py", "tests/test_invariants.py"} <= set(chosen)
    assert not {"tests/test_compare.py", "tests/test_docs.py", "tests/test_cli.py"} & set(chosen)
    assert mutate.main(["--list", "--count", "7"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 7 and all(line.startswith("src/rowcast/") for line in listed)
