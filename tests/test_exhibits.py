"""Pictures and plans as files: what comes back, and what is refused."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rowcast.errors import ConfigError
from rowcast.exhibits import Cells, Exhibit, Path2d, Picture, Plan, check_exhibits, load_exhibits, save_exhibits

DEPTH = np.array([[1.0, np.nan, 3.0], [np.inf, 0.5, 2.0]], dtype=np.float32)
COLOURS = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
POINTS = np.array([[0.0, 1.0], [2.0, np.nan], [4.0, 5.0]])
PICTURE = Picture("map_depth", "Tiefe <über>", DEPTH, 0.5, 3.0, "m", reference=True, row=3)
PLAN = Plan(
    "top",
    "From above",
    "m",
    (Path2d("true", POINTS, true=True), Path2d("found", POINTS[:0])),
    np.array([[0.0, 0.0, 1.0, 2.0]]),
    Cells(0.8, np.array([[0.0, 0.8], [1.6, 0.0]]), np.array([0.0, 12.0])),
)
ITEMS: tuple[Exhibit, ...] = (PICTURE, Picture("colours", "", COLOURS), PLAN, replace(PLAN, name="bare", cells=None))


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    if hasattr(one, "__dataclass_fields__"):
        return type(one) is type(other) and all(equal(vars(one)[name], vars(other)[name]) for name in vars(one))
    return type(one) is type(other) and one == other


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    save_exhibits(tmp_path / "a.npz", ITEMS)
    save_exhibits(tmp_path / "b.npz", ITEMS)
    assert equal(load_exhibits(tmp_path / "a.npz"), ITEMS)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]
    with np.load(tmp_path / "a.npz") as plain:  # for whoever has NumPy only
        assert np.array_equal(plain["part_1"], COLOURS)
    save_exhibits(tmp_path / "a.npz", ())
    assert load_exhibits(tmp_path / "a.npz") == ()


def test_arrays_that_are_no_block_of_memory_are_saved(tmp_path: Path) -> None:
    turned = replace(PICTURE, pixels=DEPTH.T[::-1], low=np.float32(0.5), high=np.int64(3), row=np.int64(2))
    save_exhibits(tmp_path / "a.npz", [turned])
    (found,) = load_exhibits(tmp_path / "a.npz")
    assert equal(found, replace(turned, low=0.5, high=3.0, row=2))


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\.npz: cannot be written: No such file"):
        save_exhibits(tmp_path / "nowhere" / "a.npz", ITEMS)
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(ConfigError, match=r"a\.npz: cannot be written"):
        save_exhibits(tmp_path / "a.npz", ITEMS)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


CELLS = PLAN.cells
assert CELLS is not None
REFUSED: dict[str, tuple[Any, str]] = {
    "no sequence": (PICTURE, "expected a sequence of rowcast.exhibits.Picture and Plan"),
    "an array": ([DEPTH], "expected a sequence of rowcast.exhibits.Picture and Plan"),
    "too many": ([replace(PICTURE, row=k % 64, name=f"n{k}") for k in range(65)], "at most 64 exhibits, got 65"),
    "a name": ([replace(PICTURE, name="Map")], "expected a name of small letters"),
    "a path as name": ([replace(PLAN, name="../x")], "expected a name of small letters"),
    "the pictures' name": ([replace(PLAN, name="pictures")], "pictures: this is the name of the figure"),
    "two pictures": ([PICTURE, PICTURE], "map_depth: there are two"),
    "two plans": ([PLAN, PLAN], "top: there are two"),
    "a long title": ([replace(PICTURE, title="x" * 201)], "map_depth: title: expected a text of 200"),
    "a unit": ([replace(PLAN, unit=3)], "top: unit: expected a text"),
    "float64 pixels": (
        [replace(PICTURE, pixels=DEPTH.astype(float))],
        r"float32 \[height, width\].*got float64 \[2, 3\]",
    ),
    "four channels": ([replace(PICTURE, pixels=np.zeros((2, 2, 4), np.uint8))], r"got uint8 \[2, 2, 4\]"),
    "float colours": ([replace(PICTURE, pixels=np.zeros((2, 2, 3), np.float32))], r"got float32 \[2, 2, 3\]"),
    "no pixels": ([replace(PICTURE, pixels=DEPTH[:0])], r"expected 1 .. 4096 rows and columns, got float32 \[0, 3\]"),
    "a wide picture": ([replace(PICTURE, pixels=np.zeros((1, 4097), np.float32))], "expected 1 .. 4096 rows"),
    "no range": ([replace(PICTURE, low=3.0)], "expected numbers low < high, got 3.0 and 3.0"),
    "an endless range": ([replace(PICTURE, high=np.inf)], "expected numbers low < high"),
    "a row": ([replace(PICTURE, row=-1)], "row in 0 .. 63, got True and -1"),
    "a way": ([replace(PLAN, paths=(POINTS,))], "paths: expected a tuple of rowcast.exhibits.Path2d"),
    "many ways": ([replace(PLAN, paths=PLAN.paths * 33)], "paths: expected at most 64, got 66"),
    "a way in space": (
        [replace(PLAN, paths=(Path2d("x", np.zeros((4, 3))),))],
        r"points of 'x': expected float64 \[n, 2\]",
    ),
    "a true way": ([replace(PLAN, paths=(Path2d("x", POINTS, true=1),))], "true of 'x': expected True or False"),  # type: ignore[arg-type]
    "a long way": ([replace(PLAN, paths=(Path2d("x", np.zeros((100_001, 2))),))], "n <= 100000, got"),
    "obstacles": (
        [replace(PLAN, obstacles=np.full((1, 4), np.nan))],
        "obstacles: expected finite numbers, got 4 others",
    ),
    "no cells": ([replace(PLAN, cells=3)], "cells: expected rowcast.exhibits.Cells"),
    "small cells": ([replace(PLAN, cells=replace(CELLS, size=0.0))], "cells: expected .* with a size above 0"),
    "weights": (
        [replace(PLAN, cells=replace(CELLS, weights=np.ones(3)))],
        "a weight of at least 0 for each corner, got 3",
    ),
    "bad weights": ([replace(PLAN, cells=replace(CELLS, weights=-np.ones(2)))], "a weight of at least 0"),
    "too large": (
        [replace(PICTURE, name=f"n{k}", pixels=np.zeros((4096, 4096), np.float32)) for k in range(2)],
        "expected arrays of 67108864 bytes at most, got 134217728",
    ),
}


@pytest.mark.parametrize(("items", "says"), REFUSED.values(), ids=REFUSED)
def test_what_no_report_could_show_is_refused(tmp_path: Path, items: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=f"^mine: .*{says}"):
        check_exhibits(items, "mine")
    with pytest.raises(ConfigError, match=says):
        save_exhibits(tmp_path / "a.npz", items)
    assert not list(tmp_path.iterdir())


# -- files that come from elsewhere ------------------------------------------------------------------------------------


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written(path: Path, parts: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def test_another_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    save_exhibits(path, ITEMS)
    parts = members(path)
    header = json.loads(parts["header.json"])
    picture, plan = header["exhibits"][0], header["exhibits"][2]
    for wrong, says in (
        (b"{", "not what 'rowcast' writes"),
        (b"[]", "expected version 1"),
        ({**header, "version": 2}, "expected version 1"),
        ({"version": 1}, "'exhibits'"),
        ({**header, "exhibits": 3}, "not what 'rowcast' writes"),
        ({**header, "exhibits": [{**picture, "kind": "film"}]}, "an exhibit of kind 'film'"),
        ({**header, "exhibits": [{**picture, "more": 1}]}, "unexpected keyword argument 'more'"),
        ({**header, "exhibits": [{**picture, "pixels": "part_99"}]}, "part_99"),
        ({**header, "exhibits": [{**picture, "pixels": ["part_0"]}]}, "not what 'rowcast' writes"),
        ({**header, "exhibits": [{**picture, "low": "x"}]}, "map_depth: expected numbers low < high"),
        ({**header, "exhibits": [{**picture, "low": float("nan")}]}, "map_depth: expected numbers low < high"),
        ({**header, "exhibits": [{**picture, "name": "../../x"}]}, "expected a name of small letters"),
        (
            {**header, "exhibits": [{**picture, "pixels": "part_2"}]},
            r"pixels: expected float32 .* got float64 \[3, 2\]",
        ),
        ({**header, "exhibits": [{**plan, "paths": 3}]}, "not what 'rowcast' writes"),
        ({**header, "exhibits": [{**plan, "obstacles": "part_1"}]}, r"obstacles: expected float64 \[n, 4\]"),
        ({**header, "exhibits": [{**plan, "cells": {"size": 1}}]}, "'corners'"),
    ):
        content = wrong if isinstance(wrong, bytes) else json.dumps(wrong).encode()
        written(path, {**parts, "header.json": content})
        with pytest.raises(ConfigError, match=f"exhibits .*a.npz: .*{says}"):
            load_exhibits(path)


def npy(array: Any, **more: Any) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **more)
    return stream.getvalue()


def test_an_array_is_data_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    save_exhibits(path, [PICTURE])
    parts = members(path)
    huge = npy(np.zeros((3, 3), np.float32)).replace(b"(3, 3)", b"(99999999, 99999)")
    for wrong in (
        npy(np.array([Bomb()], dtype=object), allow_pickle=True),
        pickle.dumps(Bomb()),
        huge,
        npy(np.zeros((3, 3), np.float32))[:-1],
        npy(np.zeros((3, 3), np.float32), version=(2, 0)),
        b"",
    ):
        written(path, {**parts, "part_0.npy": wrong})
        with pytest.raises(ConfigError, match=r"exhibits .*a\.npz: not what 'rowcast' writes"):
            load_exhibits(path)


class Bomb:
    """Says when somebody makes it of a pickle."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("a pickle was read",)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(ConfigError, match=r"a\.npz: cannot be read: No such file"):
        load_exhibits(path)
    save_exhibits(path, ITEMS)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        for damaged in (whole[:place], whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]):
            path.write_bytes(damaged)
            try:
                load_exhibits(path)
            except ConfigError as error:
                assert str(path) in str(error)
            else:
                assert len(damaged) == len(whole)  # a date, for example


def test_a_file_that_unpacks_to_too_much_is_not_unpacked(tmp_path: Path) -> None:
    path = written(tmp_path / "a.npz", {"header.json": b"{}", "part_0.npy": bytes(70 << 20)})
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ConfigError, match="it holds more than 67108864 bytes"):
        load_exhibits(path)
    written(path, {"part_0.npy": b""})
    with pytest.raises(ConfigError, match=r"it has no header\.json"):
        load_exhibits(path)
