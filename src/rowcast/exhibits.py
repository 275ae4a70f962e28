"""What a report shows of a replica beside curves: pictures, and plans seen from above. Values and a file format.

A task makes them at the end of a run (:meth:`rowcast.tasks.TaskWorker.exhibits`); a report draws those of several
policies side by side and needs neither the task's code nor PyTorch for it.

A file of them is an ``.npz`` without pickles: ``header.json`` says what there is, and names the array of each part.
"""

from __future__ import annotations

import json
import math
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from rowcast.errors import ConfigError, visible

__all__ = [
    "EXHIBITS",
    "Cells",
    "Exhibit",
    "Path2d",
    "Picture",
    "Plan",
    "check_exhibits",
    "load_exhibits",
    "save_exhibits",
]

#: What the name of the file ends in that lies beside the journal of a worker, after the name of the worker.
EXHIBITS = ".exhibits.npz"
#: Exhibits of one worker at most; bytes of all of their arrays; rows and columns of a picture; ways of a plan.
MOST_EXHIBITS, MOST_BYTES, MOST_PIXELS, MOST_PATHS = 64, 64 << 20, 4096, 64
#: Points of a way, rectangles, and squares of a plan, at most.
MOST_PARTS = 100_000
#: Characters of a title, a label or a unit.
LONGEST_TEXT = 200
#: No plan has this name: the figure of the pictures has it.
PICTURES = "pictures"


@dataclass(frozen=True, eq=False)
class Picture:
    """An image.

    Attributes:
        name: small letters, digits and '_'; pictures of one name are drawn beside each other, one for each policy.
        title: in words.
        pixels: float32 [height, width], drawn in colours from ``low`` to ``high``, or uint8 [height, width, 3]. What is
            not finite is left white.
        low, high, unit: of the values of a float32 picture.
        reference: it is the same for all policies, and drawn once, before the others.
        row: pictures with one number stand in one line of the figure.
    """

    name: str
    title: str
    pixels: npt.NDArray[np.float32] | npt.NDArray[np.uint8]
    low: float = 0.0
    high: float = 1.0
    unit: str = ""
    reference: bool = False
    row: int = 0


@dataclass(frozen=True, eq=False)
class Path2d:
    """A way through a plan: points float64 [n, 2]; ``true``: where something really was, drawn dotted."""

    label: str
    points: npt.NDArray[np.float64]
    true: bool = False


@dataclass(frozen=True, eq=False)
class Cells:
    """Squares of a plan that belong to whoever has the largest weight there.

    Attributes:
        size: of a square.
        corners: float64 [n, 2], the lower left ones.
        weights: float64 [n], of this worker, at least 0.
    """

    size: float
    corners: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Plan:
    """A place from above, as one worker has it; those of one name are laid over each other, a colour for each worker.

    Attributes:
        name: as that of a :class:`Picture`.
        title: in words.
        unit: of all lengths.
        paths: ways.
        obstacles: float64 [n, 4], grey rectangles (x0, y0, x1, y1).
        cells: squares, or none.
    """

    name: str
    title: str
    unit: str
    paths: tuple[Path2d, ...]
    obstacles: npt.NDArray[np.float64]
    cells: Cells | None = None


Exhibit: TypeAlias = Picture | Plan


# -- what can be shown -------------------------------------------------------------------------------------------------

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


def check_exhibits(items: Sequence[Exhibit], where: str) -> tuple[Exhibit, ...]:
    """The exhibits of one worker, if a report can show them.

    Args:
        where: of whom they are, for the message.

    Raises:
        ConfigError: something else, or more than there is room for; the message names the exhibit and the part.
    """
    if not isinstance(items, Sequence) or not all(isinstance(each, Picture | Plan) for each in items):
        raise ConfigError(f"{where}: expected a sequence of rowcast.exhibits.Picture and Plan, got {_brief(items)}")
    if len(items) > MOST_EXHIBITS:
        raise ConfigError(f"{where}: expected at most {MOST_EXHIBITS} exhibits, got {len(items)}")
    seen = set()
    for item in items:
        if not isinstance(item.name, str) or not _NAME.fullmatch(item.name):
            raise ConfigError(
                f"{where}: expected a name of small letters, digits and '_' that begins with a letter, 40 at most, as "
                f"in 'map_depth', got {_brief(item.name)}"
            )
        at = f"{where}: {item.name}"
        if isinstance(item, Picture):
            _check_picture(item, at)
            key: tuple[object, ...] = (item.name, item.row, item.reference)
        else:
            _check_plan(item, at)
            key = (item.name,)
        if key in seen:
            raise ConfigError(f"{at}: there are two; give each a name of its own")
        seen.add(key)
    size = sum(array.nbytes for item in items for array in _arrays(item))
    if size > MOST_BYTES:
        raise ConfigError(f"{where}: expected arrays of {MOST_BYTES} bytes at most, got {size}; show fewer or smaller")
    return tuple(items)


def _check_picture(item: Picture, at: str) -> None:
    _check_texts(at, title=item.title, unit=item.unit)
    pixels = item.pixels
    kinds = {(np.dtype(np.float32), 2), (np.dtype(np.uint8), 3)}
    if (
        not isinstance(pixels, np.ndarray)
        or (pixels.dtype, pixels.ndim) not in kinds
        or pixels.shape[2:] not in ((), (3,))
    ):
        raise ConfigError(
            f"{at}: pixels: expected float32 [height, width] or uint8 [height, width, 3], got {_brief(pixels)}"
        )
    if not all(1 <= size <= MOST_PIXELS for size in pixels.shape[:2]):
        raise ConfigError(f"{at}: pixels: expected 1 .. {MOST_PIXELS} rows and columns, got {_brief(pixels)}")
    if not _is_number(item.low) or not _is_number(item.high) or not item.low < item.high:
        raise ConfigError(f"{at}: expected numbers low < high, got {_brief(item.low)} and {_brief(item.high)}")
    if not isinstance(item.reference, bool) or not _is_whole(item.row) or not 0 <= item.row < MOST_EXHIBITS:
        raise ConfigError(
            f"{at}: expected reference = True or False and row in 0 .. {MOST_EXHIBITS - 1}, got "
            f"{_brief(item.reference)} and {_brief(item.row)}"
        )


def _check_plan(item: Plan, at: str) -> None:
    if item.name == PICTURES:
        raise ConfigError(f"{at}: this is the name of the figure of the pictures; expected another one for a plan")
    _check_texts(at, title=item.title, unit=item.unit)
    if not isinstance(item.paths, tuple) or not all(isinstance(path, Path2d) for path in item.paths):
        raise ConfigError(f"{at}: paths: expected a tuple of rowcast.exhibits.Path2d, got {_brief(item.paths)}")
    if len(item.paths) > MOST_PATHS:
        raise ConfigError(f"{at}: paths: expected at most {MOST_PATHS}, got {len(item.paths)}")
    for path in item.paths:
        _check_texts(at, label=path.label)
        _check_floats(f"{at}: points of {path.label!r}", path.points, (2,), finite=False)
        if not isinstance(path.true, bool):
            raise ConfigError(f"{at}: true of {path.label!r}: expected True or False, got {_brief(path.true)}")
    _check_floats(f"{at}: obstacles", item.obstacles, (4,))
    if item.cells is None:
        return
    if not isinstance(item.cells, Cells) or not _is_number(item.cells.size) or not item.cells.size > 0:
        raise ConfigError(f"{at}: cells: expected rowcast.exhibits.Cells with a size above 0, got {_brief(item.cells)}")
    _check_floats(f"{at}: corners of the cells", item.cells.corners, (2,))
    _check_floats(f"{at}: weights of the cells", item.cells.weights, ())
    if len(item.cells.corners) != len(item.cells.weights) or (item.cells.weights < 0).any():
        raise ConfigError(
            f"{at}: cells: expected a weight of at least 0 for each corner, got {len(item.cells.weights)} for "
            f"{len(item.cells.corners)}"
        )


def _check_texts(at: str, **texts: object) -> None:
    for name, text in texts.items():
        if not isinstance(text, str) or len(text) > LONGEST_TEXT:
            raise ConfigError(f"{at}: {name}: expected a text of {LONGEST_TEXT} characters at most, got {_brief(text)}")


def _check_floats(at: str, array: object, shape: tuple[int, ...], *, finite: bool = True) -> None:
    """Rows of float64, each of this shape."""
    expected = f"float64 [{', '.join(['n', *map(str, shape)])}], n <= {MOST_PARTS}"
    if not isinstance(array, np.ndarray) or array.dtype != np.float64 or array.shape[1:] != shape or array.ndim == 0:
        raise ConfigError(f"{at}: expected {expected}, got {_brief(array)}")
    if len(array) > MOST_PARTS:
        raise ConfigError(f"{at}: expected {expected}, got {_brief(array)}")
    if finite and not np.isfinite(array).all():
        raise ConfigError(f"{at}: expected finite numbers, got {int((~np.isfinite(array)).sum())} others")


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


def _is_whole(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral)


def _brief(value: object) -> str:
    """What came, in a few words."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return visible(repr(value), LONGEST_TEXT)


# -- the file ----------------------------------------------------------------------------------------------------------

_HEADER, _VERSION = "header.json", 1
#: Bytes of the header, and of what stands before the numbers of an array, at most.
_MOST_HEADER, _MOST_PREFIX = 1 << 20, 4096


def _arrays(item: Exhibit) -> Iterator[npt.NDArray[Any]]:
    """The arrays of an exhibit, in the order of the file."""
    if isinstance(item, Picture):
        yield item.pixels
        return
    yield from (path.points for path in item.paths)
    yield item.obstacles
    if item.cells is not None:
        yield item.cells.corners
        yield item.cells.weights


def _described(item: Exhibit, place: Callable[[npt.NDArray[Any]], str]) -> dict[str, Any]:
    """An exhibit for the header; ``place`` gives the name of an array."""
    if isinstance(item, Picture):
        plain = {"low": float(item.low), "high": float(item.high), "row": int(item.row)}
        return {"kind": "picture", **vars(item), **plain, "pixels": place(item.pixels)}
    paths = [{**vars(path), "points": place(path.points)} for path in item.paths]
    described = {"kind": "plan", **vars(item), "paths": paths, "obstacles": place(item.obstacles)}
    if item.cells is not None:
        described["cells"] = {
            "size": float(item.cells.size),
            "corners": place(item.cells.corners),
            "weights": place(item.cells.weights),
        }
    return described


def save_exhibits(path: str | Path, items: Sequence[Exhibit]) -> None:
    """Write the exhibits of one worker; the file is there whole or not at all, and the same for the same exhibits.

    Raises:
        ConfigError: no such exhibits (see :func:`check_exhibits`), or the file cannot be written.
    """
    target = Path(path)
    check_exhibits(items, str(target))
    arrays: list[npt.NDArray[Any]] = []

    def place(array: npt.NDArray[Any]) -> str:
        arrays.append(array)
        return f"part_{len(arrays) - 1}"

    header = {"version": _VERSION, "exhibits": [_described(item, place) for item in items]}
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        try:
            with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(_member(_HEADER), json.dumps(header))
                for number, array in enumerate(arrays):
                    with archive.open(_member(f"part_{number}.npy"), "w") as stream:
                        np.lib.format.write_array(stream, np.ascontiguousarray(array), (1, 0), allow_pickle=False)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"exhibits {target}: cannot be written: {error.strerror or error}") from error


#: What the libraries make of a file that is damaged or has a password, and we of a header of others.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    NotImplementedError,
    RuntimeError,
)


def _member(name: str) -> zipfile.ZipInfo:
    """A part of the file, without the time at which it was written."""
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def load_exhibits(path: str | Path) -> tuple[Exhibit, ...]:
    """Read what :func:`save_exhibits` wrote; nothing in the file is executed, and no more is read than may be in one.

    Raises:
        ConfigError: no such file, or something else in it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
            if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in archive.infolist()):
                raise ValueError("it is compressed in another way")
            if sum(sizes.values()) > MOST_BYTES + _MOST_HEADER + _MOST_PREFIX * len(sizes):
                raise ValueError(f"it holds more than {MOST_BYTES} bytes")
            if sizes.get(_HEADER, _MOST_HEADER) >= _MOST_HEADER:
                raise ValueError(f"it has no {_HEADER}, or a larger one than is written")
            header = json.loads(archive.read(_HEADER))
            if not isinstance(header, dict) or header.get("version") != _VERSION:
                raise ValueError(f"expected version {_VERSION} in {_HEADER}")
            items = [_read_item(entry, lambda name: _read_array(archive, name)) for entry in header["exhibits"]]
    except OSError as error:
        raise ConfigError(f"exhibits {path}: cannot be read: {error.strerror or error}") from error
    except _DAMAGED as error:
        raise ConfigError(
            f"exhibits {path}: not what 'rowcast' writes at the end of a run ({visible(str(error))}); delete the file "
            "and run again, or do without its figures"
        ) from error
    return check_exhibits(items, f"exhibits {path}")


def _read_item(entry: Mapping[str, Any], read: Callable[[str], npt.NDArray[Any]]) -> Exhibit:
    """An exhibit of the header, with its arrays; whether it is one that can be shown is not looked at here."""
    fields = dict(entry)
    kind = fields.pop("kind")
    if kind == "picture":
        return Picture(**{**fields, "pixels": read(fields["pixels"])})
    if kind != "plan":
        raise ValueError(f"an exhibit of kind {kind!r}")
    paths = tuple(Path2d(**{**path, "points": read(path["points"])}) for path in fields["paths"])
    cells = fields.get("cells")
    if cells is not None:
        cells = Cells(**{**cells, "corners": read(cells["corners"]), "weights": read(cells["weights"])})
    return Plan(**{**fields, "paths": paths, "obstacles": read(fields["obstacles"]), "cells": cells})


def _read_array(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    """An array; what it says of its size has to be what is there, before memory is taken for it."""
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"{name}: an array of version {version}")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=_MOST_PREFIX)
        if dtype.hasobject or not 0 <= math.prod(shape) * dtype.itemsize <= info.file_size:
            raise ValueError(f"{name}: {dtype} {list(shape)} does not fit into the file")
    with archive.open(info) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)
