"""Files of arrays and a text, in the safetensors format, with a digest over all of it.

The form: eight bytes with the length of the header, a header in JSON, and the arrays one behind the other. The text and
the digest stand in the header's ``__metadata__``. Nothing that is read is ever executed. See
https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load

__all__ = ["Damaged", "read_arrays", "write_arrays"]

Array = npt.NDArray[Any]

_NO_DIGEST = "0" * 64
_TEXT, _DIGEST = "rowcast", "sha256"
#: Names of the element types in the format.
_TYPES = {
    "float32": "F32",
    "float64": "F64",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "bool": "BOOL",
}


class Damaged(ValueError):
    """A file is not what was written: torn, or changed since."""


def write_arrays(path: Path, arrays: Mapping[str, Array], text: str) -> int:
    """Write a new file under a temporary name, then give it its own. The arrays are written from where they are.

    Not flushed to the disk: the system does that, or the caller. A torn file has another digest.

    Args:
        path: the file.
        arrays: by name.
        text: whatever belongs to them.

    Returns:
        Bytes of the file.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    parts = [np.asarray(array, order="C") for array in arrays.values()]
    header = _header(dict(zip(arrays, parts, strict=True)), text)
    digest = hashlib.sha256(header)
    temporary = path.with_name(path.name + ".part")
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write(file, header)
            for part in parts:
                data = part.reshape(-1).view(np.uint8).data
                _write(file, data)
                digest.update(data)
            os.lseek(file, 0, os.SEEK_SET)
            _write(file, header.replace(_NO_DIGEST.encode(), digest.hexdigest().encode(), 1))
        finally:
            os.close(file)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return len(header) + sum(part.nbytes for part in parts)


def read_arrays(path: Path) -> tuple[dict[str, Array], str]:
    """The arrays of a file, and its text.

    Raises:
        Damaged: it is not what was written.
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    try:
        header = data[:end]
        found = json.loads(header[8:])["__metadata__"]
        text, told = found[_TEXT], found[_DIGEST]
        digest = hashlib.sha256(header.replace(told.encode(), _NO_DIGEST.encode(), 1))
        digest.update(memoryview(data)[end:])
        if digest.hexdigest() != told:
            raise Damaged(f"{path.name}: its digest is not that of its content")
        return dict(load(data)), str(text)
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise error if isinstance(error, Damaged) else Damaged(f"{path.name}: it is torn or damaged") from error


def _header(arrays: Mapping[str, Array], text: str) -> bytes:
    table: dict[str, Any] = {"__metadata__": {_DIGEST: _NO_DIGEST, _TEXT: text}}
    place = 0
    for name, array in arrays.items():
        end = place + array.nbytes
        table[name] = {"dtype": _TYPES[array.dtype.name], "shape": list(array.shape), "data_offsets": [place, end]}
        place = end
    content = json.dumps(table, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)
    return len(content).to_bytes(8, "little") + content


def _write(file: int, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
