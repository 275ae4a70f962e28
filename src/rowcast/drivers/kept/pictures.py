"""Pictures of workers as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from rowcast.drivers.kept.arrays import Damaged, read_arrays, write_arrays
from rowcast.training.kept import Picture
from rowcast.training.kept.picture import Extras, Flying, Place, Progress
from rowcast.wire import Rows

__all__ = ["FORMAT", "Head", "picture_of", "read_picture", "write_picture"]

FORMAT = 2

_FRAME_ARRAYS = ("rows", "payload", "before")


class _FrameHead(msgspec.Struct, frozen=True):
    number: int
    iteration: int
    codec: int
    absolute: bool
    quota_end: bool


class Head(msgspec.Struct, frozen=True):
    """What a file says of itself, beside its arrays.

    Attributes:
        format: version of the form.
        taken_at: when the picture was taken (s since 1970).
        extras: names of arrays that are not the worker's, and values.
    """

    format: int
    name: str
    layout: bytes
    taken_at: float
    place: Place
    progress: Progress
    sent: int
    received: int
    flying: tuple[_FrameHead, ...]
    vectors: tuple[str, ...]
    extras: tuple[str, ...]
    values: Any


def write_picture(path: Path, picture: Picture, extras: Extras, taken_at: float) -> int:
    """Write a picture; returns the bytes of the file.

    Raises:
        OSError: it cannot be written.
    """
    arrays: dict[str, npt.NDArray[Any]] = {f"vector.{name}": vector for name, vector in picture.vectors.items()}
    arrays |= {"stamps": picture.stamps, "left": picture.left, "computed": picture.computed}
    for k, one in enumerate(picture.flying):
        arrays |= {f"frame.{k}.{name}": array for name, array in zip(_FRAME_ARRAYS, _parts(one), strict=True)}
    arrays |= {f"extra.{name}": array for name, array in extras.arrays.items()}
    head = Head(
        format=FORMAT,
        name=picture.name,
        layout=picture.layout,
        taken_at=taken_at,
        place=picture.place,
        progress=picture.progress,
        sent=picture.sent,
        received=picture.received,
        flying=tuple(_frame_head(one.message) for one in picture.flying),
        vectors=tuple(picture.vectors),
        extras=tuple(extras.arrays),
        values=extras.values,
    )
    return write_arrays(path, arrays, msgspec.json.encode(head).decode())


def read_picture(path: Path) -> tuple[Head, dict[str, npt.NDArray[Any]]]:
    """What a file says of itself, and its arrays; :func:`picture_of` makes the picture.

    Raises:
        Damaged: it is not what was written.
        OSError: it cannot be read.
    """
    arrays, text = read_arrays(path)
    try:
        version = msgspec.json.decode(text)["format"]
        if version != FORMAT:
            return Head(version, "", b"", 0.0, Place(b"", b"", False, b"", "", ""), _NOWHERE, 0, 0, (), (), (), {}), {}
        return msgspec.json.decode(text, type=Head), arrays
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise Damaged(f"{path.name}: it does not hold the state of a worker") from error


_NOWHERE = Progress(0, 0, b"", "", 0.0, 0.0, 1.0, 0.0, ())


def picture_of(head: Head, arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[Picture, Extras]:
    """The picture of a file that was read, and what belongs to it."""
    flying = tuple(
        _flying(one, [arrays[f"frame.{k}.{name}"] for name in _FRAME_ARRAYS]) for k, one in enumerate(head.flying)
    )
    picture = Picture(
        name=head.name,
        layout=head.layout,
        place=head.place,
        progress=head.progress,
        sent=head.sent,
        received=head.received,
        flying=flying,
        vectors={name: arrays[f"vector.{name}"] for name in head.vectors},
        stamps=arrays["stamps"],
        left=arrays["left"],
        computed=arrays["computed"],
    )
    return picture, Extras({name: arrays[f"extra.{name}"] for name in head.extras}, head.values)


def _parts(one: Flying) -> tuple[npt.NDArray[Any], ...]:
    return one.message.rows, np.asarray(one.message.payload), one.before


def _frame_head(message: Rows) -> _FrameHead:
    return _FrameHead(message.number, message.iteration, message.codec, message.absolute, message.quota_end)


def _flying(head: _FrameHead, parts: list[npt.NDArray[Any]]) -> Flying:
    rows, payload, before = parts
    message = Rows(head.number, head.iteration, head.codec, head.absolute, head.quota_end, rows, payload)
    return Flying(message, before)
