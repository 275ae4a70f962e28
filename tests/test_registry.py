"""Registries: names, entry points of plug-ins, and that a broken plug-in stops nobody else."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import rowcast.codecs
import rowcast.energy
from registries import REGISTRIES, forget_afterwards
from rowcast.codecs import Half, codec_by_id, codec_by_name, codec_for
from rowcast.energy import open_meter
from rowcast.errors import ConfigError, MeterError, RemoteProtocolError
from rowcast.registry import Registry
from rowcast.rows import Layout
from rowcast.sync import parse_policy
from rowcast.testing import ScriptedWorker, VirtualTeam

LAYOUT = Layout.from_shapes([("wide", (40, 50)), ("bias", (40,))])


class Twin(Half):
    """A codec of a third party: as ``half``, under a name and a number of its own."""

    name = "twin"
    wire_id = 41


@pytest.fixture
def undone(monkeypatch):
    """What a test registers is forgotten after it."""
    forget_afterwards(monkeypatch)


@pytest.fixture
def install(tmp_path: Path, monkeypatch):
    """Installs a package with one module and entry points, as pip leaves them."""

    def install(name: str, text: str, points: str) -> None:
        module = name.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(text)
        folder = tmp_path / f"{module}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(points)

    monkeypatch.syspath_prepend(tmp_path)
    yield install
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


def whole(name: str, value: object) -> int:
    if not isinstance(value, int):
        raise ConfigError(f"number {name!r}: expected a whole number, got {value!r}")
    return value


def numbers() -> Registry[int]:
    registry: Registry[int] = Registry("number", "rowcast.test_numbers", whole)
    registry.register("one", 1)
    return registry


# -- names -------------------------------------------------------------------------------------------------------------


def test_an_entry_is_found_by_its_name_and_an_unknown_one_gets_a_hint() -> None:
    registry = numbers()
    assert registry["one"] == registry.find("one") == 1 and list(registry) == ["one"] and len(registry) == 1
    with pytest.raises(ConfigError, match="unknown number 'onee'; did you mean 'one'"):
        registry.find("onee")
    with pytest.raises(KeyError):
        registry["two"]


@pytest.mark.parametrize("name", ["", "One", "1st", "a b", "a" * 41, "a:b", 7])
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="expected a name of small letters"):
        numbers().register(name, 2)


def test_a_name_that_is_taken_and_a_wrong_type_are_refused_and_change_nothing() -> None:
    registry = numbers()
    with pytest.raises(ConfigError, match="number 'one': this name is taken, by 1"):
        registry.register("one", 2)
    with pytest.raises(ConfigError, match="number 'two': expected a whole number, got 'two'"):
        registry.register("two", "two")
    assert registry.usable() == {"one": 1}


# -- plug-ins ----------------------------------------------------------------------------------------------------------


def test_a_plug_in_is_imported_when_its_name_is_asked_for(install) -> None:
    install("acme-numbers", "two = 2\n", "[rowcast.test_numbers]\ntwo = acme_numbers:two\n")
    registry = numbers()
    assert list(registry) == ["one", "two"] and "acme_numbers" not in sys.modules
    assert registry.find("two") == 2 and registry.usable() == {"one": 1, "two": 2}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import nothing_of_this_name\n", "cannot be loaded: ModuleNotFoundError: No module named 'nothing_of"),
        ("raise SystemExit(3)\n", "cannot be loaded: SystemExit: 3"),
        ("three = 3\n", "cannot be loaded: AttributeError: module 'bad_numbers' has no attribute 'two'"),
        ("two = 'zwei'\n", "number 'two': expected a whole number, got 'zwei'"),
    ],
)
def test_a_broken_plug_in_is_said_to_who_asks_for_it_and_stops_nobody_else(install, caplog, text, says) -> None:
    install("bad-numbers", text, "[rowcast.test_numbers]\ntwo = bad_numbers:two\n")
    registry = numbers()
    with pytest.raises(ConfigError, match=re.escape("plug-in 'two' (bad_numbers:two of bad-numbers 1.0)")) as caught:
        registry.find("two")
    assert says in str(caught.value)
    assert registry.find("one") == 1
    with caplog.at_level(logging.WARNING, "rowcast"):
        fresh = numbers()
        assert fresh.usable() == fresh.usable() == {"one": 1}
    assert caplog.text.count(says) == 1


def test_two_plug_ins_of_one_name_are_both_named(install) -> None:
    for name in ("first-numbers", "second-numbers"):
        module = name.replace("-", "_")
        install(name, "two = 2\n", f"[rowcast.test_numbers]\ntwo = {module}:two\n")
    with pytest.raises(ConfigError, match=r"several plug-ins .*first-numbers.*second-numbers.*uninstall all but one"):
        numbers().find("two")


def test_a_plug_in_cannot_take_the_name_of_what_is_built_in(install, caplog) -> None:
    install("bold-numbers", "one = 100\n", "[rowcast.test_numbers]\none = bold_numbers:one\n")
    with caplog.at_level(logging.WARNING, "rowcast"):
        assert numbers().usable() == {"one": 1}
    assert "Rowcast has a number of this name; it stays" in caplog.text


def test_each_kind_has_its_group() -> None:
    groups = [f"rowcast.{name}" for name in ("codecs", "meters", "policies", "sources", "tasks", "tensor_codecs")]
    assert [registry.group for registry in REGISTRIES] == groups


# -- codecs ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("undone")
def test_a_registered_codec_carries_a_team() -> None:
    """Its frames were refused: the table of numbers was made before it was registered."""
    twin = rowcast.codecs.register(Twin())
    assert codec_by_id(41) is twin is codec_by_name("twin")

    def gradient(step: int, parameters: np.ndarray) -> np.ndarray:
        return (0.1 * (parameters - 1)).astype(np.float32)

    workers = [
        ScriptedWorker(name, gradient, iterations=5, compute_s=0.1, rate_bps=1e6) for name in ("robot-0", "robot-1")
    ]
    team = VirtualTeam(LAYOUT, "rog:4?codec=twin", workers, seed=1)
    team.run()
    assert team.finished and not team.failures


@pytest.mark.usefixtures("undone")
def test_a_registered_codec_has_its_form_for_timing_only_layouts_and_for_buffers() -> None:
    twin = rowcast.codecs.register(Twin())
    timing = codec_for(LAYOUT.timing_only(), twin)
    assert timing.name == "timing-twin" and codec_by_id(timing.wire_id) is timing
    assert codec_for(LAYOUT, twin) is twin


@pytest.mark.usefixtures("undone")
def test_the_frames_of_a_plug_in_are_read_where_nobody_named_it(install) -> None:
    text = "from rowcast.codecs import Half\n\nclass Twin(Half):\n    name = 'twin'\n    wire_id = 41\n"
    install("acme-codecs", text, "[rowcast.codecs]\ntwin = acme_codecs:Twin\n")
    assert codec_by_id(41).name == "twin" and parse_policy("rog:4?codec=twin").row_codec.name == "twin"
    with pytest.raises(RemoteProtocolError, match=r"expected a codec number in \[0, .*41\], got 42"):
        codec_by_id(42)


@pytest.mark.usefixtures("undone")
@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"name": "Twin"}, "expected a name of small letters"),
        ({"name": "half"}, "this name is taken"),
        ({"wire_id": 1}, "wire_id 1 is that of "),
        ({"wire_id": 64}, "wire_id: expected a whole number in 0 .. 63, got 64"),
        ({"wire_id": True}, "wire_id: expected a whole number in 0 .. 63, got True"),
    ],
)
def test_a_codec_that_cannot_be_registered_changes_nothing(attributes: dict[str, object], says: str) -> None:
    before = dict(rowcast.codecs._BY_ID)
    with pytest.raises(ConfigError, match=re.escape(says)):
        rowcast.codecs.register(type("Other", (Twin,), attributes)())
    with pytest.raises(ConfigError, match="expected an object with the methods of"):
        rowcast.codecs.REGISTRY.register("nothing", object())
    assert before == rowcast.codecs._BY_ID


# -- meters ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("undone")
def test_a_registered_meter_is_opened_by_its_name(tmp_path: Path) -> None:
    roots = []

    def make(sys_root: Path) -> object:
        roots.append(sys_root)
        raise MeterError("no such sensor here")

    rowcast.energy.register("acme", make)
    with pytest.raises(MeterError, match="no such sensor here"):
        open_meter("acme", sys_root=tmp_path)
    assert roots == [tmp_path]
    for name, value, says in (("auto", make, "stands for a choice"), ("other", 3, "expected a class or function")):
        with pytest.raises(ConfigError, match=says):
            rowcast.energy.register(name, value)
