"""Reads idx, npz and JPEG files, writes whole files; every fault becomes one line: what was expected, found, to do."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from rowcast.errors import DataError

__all__ = ["checked_pair", "decode_jpegs", "open_folder", "read_idx", "read_npz", "write_whole"]

_IDX_MAGIC = {3: 2051, 1: 2049}
"""Magic number of an idx file of bytes, by its number of dimensions."""
_AGAIN = "fetch the file again"


def open_folder(dataset: str, data_dir: str | Path | None, files: Sequence[str], *, or_else: str = "") -> Path:
    """The folder of a data set, after a look that all ``files`` (or the one file ``or_else``) are there."""
    wanted = ", ".join(files) + (f" (or {or_else})" if or_else else "")
    if data_dir is None:
        raise DataError(f"{dataset}: no data folder given; name the folder that holds {wanted}")
    folder = Path(data_dir)
    if not folder.is_dir():
        raise DataError(f"{dataset}: {folder} is not a folder; expected a folder that holds {wanted}")
    missing = [name for name in files if not (folder / name).is_file()]
    if not missing or (or_else and (folder / or_else).is_file()):
        return folder
    present = sorted(path.name for path in folder.iterdir())
    found = ", ".join(present[:6]) + (f" and {len(present) - 6} more" if len(present) > 6 else "") or "nothing"
    instead = f" (or {or_else} instead)" if or_else else ""
    raise DataError(f"{dataset}: {folder} lacks {', '.join(missing)}{instead}; found {found}; put the files there")


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array in an idx file of bytes: big-endian magic number, one size a dimension, then the bytes.

    A file whose name ends in ``.gz`` is unpacked on the way.
    """
    header_bytes = 4 + 4 * dimensions
    kind = "gzip" if path.suffix.lower() == ".gz" else "idx"
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as file:
            header = file.read(header_bytes)
            if len(header) < header_bytes:
                raise DataError(
                    f"{path}: expected an idx header of {header_bytes} bytes, found {len(header)}; {_AGAIN}"
                )
            magic, *sizes = struct.unpack(f">{1 + dimensions}I", header)
            if magic != _IDX_MAGIC[dimensions]:
                raise DataError(
                    f"{path}: expected idx magic number {_IDX_MAGIC[dimensions]} (bytes, {dimensions} dimensions), "
                    f"found {magic}; is it the right file under this name?"
                )
            expected_bytes = int(np.prod(sizes, dtype=object))
            body = file.read(min(expected_bytes, 1 << 31) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: expected a whole {kind} file, found one that is cut off or damaged ({error}); {_AGAIN}"
        ) from error
    if len(body) != expected_bytes:
        amount = f"{len(body)}" if len(body) < expected_bytes else "more"
        shape = " x ".join(map(str, sizes))
        raise DataError(f"{path}: expected {shape} = {expected_bytes} bytes after the header, found {amount}; {_AGAIN}")
    return np.frombuffer(body, dtype=np.uint8).reshape(sizes)


def read_npz(path: Path, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The named arrays of an ``.npz`` file; never unpickles."""
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: expected an .npz archive, found a single array; {_AGAIN}")
            missing = [key for key in keys if key not in archive.files]
            if missing:
                raise DataError(f"{path}: expected arrays {', '.join(keys)}; lacks {', '.join(missing)}")
            return {key: archive[key] for key in keys}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, MemoryError) as error:
        raise DataError(
            f"{path}: expected a whole .npz archive of plain arrays, found none ({error}); {_AGAIN}"
        ) from error


def checked_pair(
    images: NDArray[Any], labels: NDArray[Any], source: str, *, classes: int, limit: int | None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The first ``limit`` images ``(n, channels, height, width)`` and labels, after a check that they fit together."""
    if len(images) != len(labels):
        raise DataError(f"{source}: expected as many images as labels, found {len(images)} and {len(labels)}")
    if len(labels) == 0:
        raise DataError(f"{source}: expected images, found none")
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1 or labels.min() < 0 or labels.max() >= classes:
        raise DataError(f"{source}: expected labels 0..{classes - 1}, found {labels.dtype} up to {labels.max()}")
    return np.ascontiguousarray(images[:limit]), labels[:limit].astype(np.int64)


def decode_jpegs(raw: NDArray[Any], offsets: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    """Decode JPEG files that lie one after another in ``raw``: ``(n, 3, 32, 32)`` uint8. Needs Pillow."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(f"{path}: needs Pillow, which is not installed; pip install 'rowcast[demo]'") from error
    whole = np.issubdtype(offsets.dtype, np.integer) and offsets.ndim == 1
    if raw.dtype != np.uint8 or not whole or offsets[0] < 0 or np.any(np.diff(offsets) <= 0):
        raise DataError(f"{path}: expected jpeg as uint8 and growing offsets from 0; {_AGAIN}")
    if offsets[-1] > len(raw):
        raise DataError(f"{path}: expected {offsets[-1]} bytes of JPEG, found {len(raw)}; {_AGAIN}")
    images = np.empty((len(offsets) - 1, 3, 32, 32), dtype=np.uint8)
    for number, (start, end) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        try:
            with Image.open(io.BytesIO(raw[start:end].tobytes()), formats=["JPEG"]) as image:
                size = image.size
                pixels = np.asarray(image.convert("RGB")) if size == (32, 32) else None
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{path}: image {number} is no readable JPEG ({error}); {_AGAIN}") from error
        if pixels is None:
            raise DataError(f"{path}: expected images of 32 x 32 pixels, image {number} is {size[0]} x {size[1]}")
        images[number] = pixels.transpose(2, 0, 1)
    return images


def write_whole(path: str | Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file that appears whole or not at all, so that several processes may try at once.

    Args:
        path: where to.
        write: puts the content into the open file.

    Raises:
        DataError: the folder is missing or cannot be written.
    """
    target = Path(path)
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            part = Path(file.name)
            try:
                write(file)
                file.flush()
                os.fsync(file.fileno())
                part.chmod(0o644)
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{target}: cannot be written ({error.strerror or error}); choose a folder that exists"
        ) from error
