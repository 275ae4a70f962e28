"""Every field of every settings class: what it takes and what it refuses, from Python, a file, a text and an option."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from rowcast.cli import compare, demo, serve
from rowcast.cli.app import app
from rowcast.cli.options import options_from
from rowcast.config import (
    Checked,
    LinkSettings,
    WorkerSettings,
    load,
    load_tables,
    load_values,
    same_as,
    save_tables,
    setting,
)
from rowcast.config.fields import item_types
from rowcast.errors import ConfigError
from rowcast.experiment import Comparison, DemoSettings, RobotSettings, RunSettings, ShapeSettings
from rowcast.planning import LinkCosts
from rowcast.tasks.cruda import ConvMLPConfig

#: Values of fields without which an instance cannot be made.
NEEDED: dict[str, dict[str, Any]] = {
    ShapeSettings.__name__: {"link": "outdoor"},
    "RelaySettings": {"connect": "127.0.0.1:7117"},
    RunSettings.__name__: {"name": "bsp"},
    LinkCosts.__name__: {"up_bps": 1e6, "down_bps": 1e6},
    # A voxel is at most as large as the truncation.
    **{f"{name}Settings": {"truncation": 10.0} for name in ("Crimp", "Recorded", "RedKitchen", "Room", "SevenScenes")},
}


def type_of(kind: type, field: dataclasses.Field[Any]) -> Any:
    return typing.get_type_hints(kind)[field.name]


def kinds_of(base: type) -> Iterator[type]:
    for kind in base.__subclasses__():
        if kind.__module__.startswith("rowcast."):
            yield kind
        yield from kinds_of(kind)


KINDS = sorted(kinds_of(Checked), key=lambda kind: kind.__name__)
FIELDS = [(kind, field) for kind in KINDS for field in dataclasses.fields(kind)]
WORDS = [f"{kind.__name__}.{field.name}" for kind, field in FIELDS]
#: One value of each kind that a field may have or be given by mistake.
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        3,
        -3,
        1 << 2000,
        2.5,
        math.nan,
        math.inf,
        "text",
        b"text",
        Path("here"),
        {"key": 1},
        [3],
        ["x"],
    ),
    *((3,), ("text",), (2.5,), (True,), (None,), ((3,),), object(), LinkSettings(), ShapeSettings("outdoor"), int),
)


def allowed(hint: Any, value: Any) -> bool:
    """Whether a value is of this type, said in another way than the code says it."""
    if typing.get_origin(hint) in (typing.Union, UnionType):
        return any(allowed(each, value) for each in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return type(value) is tuple and all(allowed(typing.get_args(hint)[0], each) for each in value)
    if hint is float and type(value) is int:
        return value < 10**300
    if hint is float and type(value) is float:
        return not math.isnan(value)
    if typing.get_origin(hint) is Mapping:
        return isinstance(value, dict)
    if hint is Path:
        return isinstance(value, Path)
    return type(value) is hint


def test_all_classes_are_looked_at() -> None:
    names = {kind.__name__ for kind in KINDS}
    assert names >= {
        *("Comparison", "ConvMLPConfig", "CrudaSettings", "DemoSettings", "LinkSettings", "PowerStates"),
        *("RobotSettings", "RunSettings", "ServeSettings", "ServerSettings", "ShapeSettings", "TaskOptions"),
        "WorkerSettings",
    }


@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=WORDS)
def test_python_takes_no_other_type(kind: type, field: dataclasses.Field[Any]) -> None:
    needed = NEEDED.get(kind.__name__, {})
    for value in VALUES:
        given = {**needed, field.name: value}
        if not allowed(type_of(kind, field), value):
            with pytest.raises(ConfigError, match=f"^{field.name}: expected .*, got "):
                kind(**given)


FLOATS = [
    (kind, field) for kind, field in FIELDS if type_of(kind, field) in (float, float | None) and "low" in field.metadata
]


@pytest.mark.parametrize(("kind", "field"), FLOATS, ids=lambda value: getattr(value, "name", None))
def test_a_whole_number_stands_for_a_number(kind: type, field: dataclasses.Field[Any]) -> None:
    low, high = field.metadata["low"], field.metadata["high"]
    chosen = field.default not in (None, dataclasses.MISSING) and math.ceil(field.default) <= high
    whole = math.ceil(field.default if chosen else low)
    needed = NEEDED.get(kind.__name__, {})
    if whole <= high:
        assert getattr(kind(**{**needed, field.name: whole}), field.name) == whole
        read = getattr(load_values(kind, {**needed, field.name: whole}), field.name)
        assert read == whole and type(read) is float


@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=WORDS)
def test_a_file_takes_no_other_type(kind: type, field: dataclasses.Field[Any]) -> None:
    """As TOML and JSON have them: lists for tuples, texts for paths, tables for classes."""
    needed, hint = NEEDED.get(kind.__name__, {}), type_of(kind, field)
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, UnionType) else (hint,)
    inner = any(dataclasses.is_dataclass(part) for part in parts)
    for value in (True, 3, 1 << 2000, 2.5, math.nan, "text", [3], ["x"], [True], [[3]], {"key": 1}):
        meant = tuple(value) if isinstance(value, list) else Path(value) if value == "text" and Path in parts else value
        if "table" in field.metadata or (inner and isinstance(value, dict)):
            message = "unknown setting"
        elif not allowed(hint, meant):
            message = rf"{kind.__name__}\.{field.name}: expected .*, got "
        else:
            continue
        with pytest.raises(ConfigError, match=message):
            load_values(kind, {**needed, field.name: value})


@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=WORDS)
def test_an_override_takes_no_other_type(kind: type, field: dataclasses.Field[Any]) -> None:
    hint = type_of(kind, field)
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, UnionType) else (hint,)
    if "table" in field.metadata:
        return
    for text, right in {
        "true": bool in parts,
        "fast": str in parts or Path in parts,
        "2.5": float in parts,
        "nan": False,
        '["x"]': str in item_types(hint),
        "[[1]]": False,
    }.items():
        if not right:
            with pytest.raises(ConfigError, match=rf"{field.name}: (expected .*, got|unknown)"):
                load(kind, overrides=[f"{field.name}={text}"])


def test_what_is_said_of_a_wrong_type() -> None:
    with pytest.raises(ConfigError, match=r"^congestion_control: expected a text, got 3$"):
        LinkSettings(congestion_control=3)  # type: ignore[arg-type]
    with pytest.raises(
        ConfigError, match=r"^frame_min_bytes: expected a whole number in 64 .. 1048576 byte, got 64.5$"
    ):
        LinkSettings(frame_min_bytes=64.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^policies: expected a tuple of texts, got \['bsp'\]$"):
        DemoSettings(policies=["bsp"])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^Comparison\.policies: expected a list of texts, got 'bsp'$"):
        load_values(Comparison, {"policies": "bsp"})
    with pytest.raises(ConfigError, match=r"^parameters: unknown parameters 'mime'; did you mean 'mine'"):
        RobotSettings(parameters="mime")
    with pytest.raises(ConfigError, match=r"^widths: expected a whole number, got 1.5$"):
        ConvMLPConfig(widths=(64, 1.5), depths=(1, 1))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^ShapeSettings: expected 'link' to be given$"):
        load_values(RobotSettings, {"shape": {"seed": 1}})
    assert LinkSettings(window_s=1).window_s == 1


# -- from one process to another ------------------------------------------------------------------------------------


def test_settings_travel_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "robot.json"
    robot = RobotSettings(
        name="röbot",
        state=tmp_path / "a b.npz",
        pace_s=0.1 + 0.2,
        shape=ShapeSettings("constant:3", best_bps=1 / 3, seed=9),
        worker_settings=WorkerSettings(patience_s=0.7),
        link_settings=LinkSettings(frame_min_bytes=2048),
        insecure=True,
    )
    save_tables(path, {"robot": robot})
    assert load_tables({"robot": RobotSettings}, path) == {"robot": robot}
    assert json.loads(path.read_text())["link"] == {"frame_min_bytes": 2048}
    assert load_tables({"demo": DemoSettings}, path)["demo"].link == LinkSettings(frame_min_bytes=2048)
    with pytest.raises(ConfigError, match="cannot be written"):
        save_tables(tmp_path / "nowhere" / "robot.json", {"robot": robot})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "expected tables by name, got list"),
        ('{"robot": []}', r"\[robot\] must be a table"),
        ('{"robot": {"link_settings": {}}}', "unknown setting 'link_settings'"),
        ('{"robot": {"index": 1.0}}', r"RobotSettings\.index: expected a whole number"),
        ('{"robot": {"shape": {"link": "outdoor", "sed": 1}}}', "unknown setting 'sed'; did you mean 'seed'"),
    ],
)
def test_a_json_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "robot.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_tables({"robot": RobotSettings}, path)


# -- options ----------------------------------------------------------------------------------------------------------

COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("command", "kinds"),
    [
        ("serve", (serve.ServeSettings, serve.ServerSettings)),
        ("train", (RobotSettings, ShapeSettings)),
        ("demo", (demo.DemoSettings,)),
        ("compare", (compare.Comparison,)),
    ],
)
def test_every_flag_is_an_option_with_the_advice_of_its_field(command: str, kinds: tuple[type, ...]) -> None:
    helps = {option: each.help for each in COMMANDS[command].params for option in each.opts}
    fields = [field for kind in kinds for field in dataclasses.fields(kind) if field.metadata.get("flag")]
    assert len(fields) > 2
    for field in fields:
        assert helps[field.metadata["flag"]].startswith(field.metadata["doc"])
    unit = next(field for field in fields if field.metadata["unit"] and field.metadata["low"] is not None)
    assert f"{unit.metadata['unit']}" in helps[unit.metadata["flag"]].rpartition("[")[2]


def test_a_field_that_is_that_of_another_class() -> None:
    @dataclasses.dataclass(frozen=True)
    class Other(Checked):
        hours: float = same_as(Comparison, "hours", default=2.0, flag="--other-hours")
        links: tuple[str, ...] = same_as(Comparison, "links")

    hours, links = dataclasses.fields(Other)
    theirs = {field.name: field for field in dataclasses.fields(Comparison)}
    assert hours.metadata == {**theirs["hours"].metadata, "flag": "--other-hours"}
    assert links.metadata == theirs["links"].metadata
    assert (Other().hours, Other().links) == (2.0, Comparison().links)
    with pytest.raises(ConfigError, match="hours: expected"):
        Other(hours=0.0)
    with pytest.raises(ValueError, match="not enough values"):
        same_as(Comparison, "hour")


@dataclasses.dataclass(frozen=True)
class Inner(Checked):
    """An inner part."""

    word: str = setting(dataclasses.MISSING, "A word.", flag="--word")
    depth: int = setting(0, "How deep.", low=0, high=9, flag="--depth")


@dataclasses.dataclass(frozen=True)
class Outer(Checked):
    """An outer part; in a file, the table ``[robot]``."""

    count: int = setting(1, "How many.", unit="pieces", low=1, high=5, flag="--number")
    share: float | None = setting(None, "Which share.", low=0.0, high=1.0, flag="--share")
    sizes: tuple[int, ...] = setting((), "Sizes.", low=1, flag="--sizes")
    seeds: int | tuple[int, ...] = setting(5, "Seeds.", low=0, flag="--seeds")
    place: Path | None = setting(None, "Where.", flag="--place")
    loud: bool = setting(False, "Louder.", flag="--loud")
    quiet: float = setting(0.5, "Has no option.", low=0.0, high=1.0)
    inner: Inner | None = setting(None, "Within.")


class Command:
    """A command of these classes; keeps what it was called with."""

    def __init__(self) -> None:
        import typer

        self.seen: list[Outer] = []
        self.app = typer.Typer(pretty_exceptions_enable=False, add_completion=False, rich_markup_mode=None)

        @self.app.command()
        @options_from(robot=Outer)
        def run(robot: Outer) -> None:
            """Run."""
            self.seen.append(robot)

    def __call__(self, *words: str) -> Outer:
        result = CliRunner().invoke(self.app, list(words), standalone_mode=False, catch_exceptions=False)
        assert result.exit_code == 0
        return self.seen[-1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], Outer()),
        (["--number=3", "--share", "1"], Outer(count=3, share=1.0)),
        (["--sizes=4"], Outer(sizes=(4,))),
        (["--sizes=4, 5,"], Outer(sizes=(4, 5))),
        (["--sizes="], Outer()),
        (["--seeds=7"], Outer(seeds=7)),
        (["--seeds=7,"], Outer(seeds=(7,))),
        (["--seeds=7, 9"], Outer(seeds=(7, 9))),
        (["--place=12", "--loud"], Outer(place=Path("12"), loud=True)),
        (["--set=loud=true", "--no-loud"], Outer(loud=False)),
        (["--set=count=2", "--number=4", "--set=quiet=0.25"], Outer(count=4, quiet=0.25)),
        (["--word=x", "--depth=2"], Outer(inner=Inner("x", 2))),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_options_make_the_settings(words: list[str], expected: Outer) -> None:
    assert Command()(*words) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--number=6"], r"^--number, setting count: expected a number in 1 .. 5 pieces, got 6$"),
        (["--number=2.5"], r"^--number, setting count: expected a whole number in 1 .. 5 pieces, got 2.5$"),
        (["--number=two"], "got 'two'"),
        (["--number="], "got ''"),
        (["--number=1_0"], "got '1_0'"),
        (["--number=" + "9" * 5000], "expected a whole number"),
        (["--share=nan"], r"^--share: expected a number in 0.0 .. 1.0, got nan$"),
        (["--sizes=1,x"], r"^--sizes: expected a whole number in 1 .. inf, got 'x'$"),
        (["--depth=1"], "^Inner: expected 'word' to be given$"),
        (["--depth=x"], "^--depth: expected a whole number in 0 .. 9, got 'x'$"),
    ],
    ids=lambda words: words[0][:20] if isinstance(words, list) else "",
)
def test_options_that_cannot_be_used_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Command()(*words)


def test_options_win_over_overrides_and_these_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "team.toml"
    path.write_text("[robot]\ncount = 2\nshare = 0.25\nquiet = 0.125\n[robot.inner]\nword = 'x'\n", encoding="utf-8")
    found = Command()("--config", str(path), "--set=share=0.5", "--set=quiet=0.75", "--share=1", "--depth=3")
    assert found == Outer(count=2, share=1.0, quiet=0.75, inner=Inner("x", 3))


def test_the_help_has_a_heading_for_each_class() -> None:
    from rowcast.cli.options import PanelCommand

    text = CliRunner().invoke(app, ["train", "--help"], prog_name="rowcast").output
    assert text.index("What one robot does:") < text.index("--shape-seed") < text.index("\nOptions:")
    assert text.index("\nOptions:") < text.index("--config") < text.index("--await-start")
    assert isinstance(COMMANDS["train"], PanelCommand)
