"""Text files of a sequence: matrices, and files that are told apart by the numbers in their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rowcast.errors import DataError, visible
from rowcast.tasks.crimp.frames import Intrinsics

__all__ = [
    "matrix_intrinsics",
    "numbered",
    "numbers_of",
    "read_intrinsics_file",
    "read_lines",
    "read_matrix",
    "same_numbers",
]

#: A pinhole camera, 3 x 3, beside a sequence or one folder above it.
INTRINSICS_FILE = "camera-intrinsics.txt"


def read_lines(path: Path) -> list[tuple[int, list[str]]]:
    """The words of each line that is neither empty nor a comment (``#``), with its number from 1.

    Raises:
        DataError: the file cannot be read, or is no text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a text file, found none that can be read ({error}); put it there") from error
    found = [(number, line.replace(",", " ").split()) for number, line in enumerate(text.splitlines(), 1)]
    return [(number, words) for number, words in found if words and not words[0].startswith("#")]


def read_matrix(path: Path, rows: int) -> npt.NDArray[np.float64]:
    """A square matrix, a row a line; elements may be infinite or NaN.

    Raises:
        DataError: the file cannot be read or holds something else.
    """
    words = [word for _, line in read_lines(path) for word in line]
    return numbers_of(words, rows * rows, f"{path}", f"a matrix of {rows} x {rows} numbers").reshape(rows, rows)


def numbers_of(words: list[str], count: int, where: str, what: str) -> npt.NDArray[np.float64]:
    """Words as numbers.

    Raises:
        DataError: another count of them, or one that is no number.
    """
    try:
        values = np.array([float(word) for word in words])
    except ValueError:
        values = np.zeros(0)
    if len(values) != count:
        raise DataError(f"{where}: expected {what}, found {visible(' '.join(words), 60)!r}; fetch the file again")
    return values


def matrix_intrinsics(matrix: npt.NDArray[np.float64]) -> Intrinsics:
    """The pinhole camera of a matrix, 3 x 3 or 4 x 4."""
    return Intrinsics(float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[0, 2]), float(matrix[1, 2]))


def read_intrinsics_file(folder: Path) -> tuple[Intrinsics, Path] | None:
    """What ``camera-intrinsics.txt`` in a folder, or in the one above, says; ``None`` where there is none."""
    for path in (folder / INTRINSICS_FILE, folder.resolve().parent / INTRINSICS_FILE):
        if path.is_file():
            return matrix_intrinsics(read_matrix(path, 3)), path
    return None


def numbered(folder: Path, pattern: str) -> dict[int, Path]:
    """The files of a folder whose names fit a pattern with one group, by the number in it, in their order.

    Raises:
        DataError: the folder cannot be listed, or two files have one number.
    """
    fits = re.compile(pattern, re.IGNORECASE)
    try:
        names = sorted(each.name for each in folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: expected a folder, found none that can be listed ({error.strerror})") from error
    found: dict[int, Path] = {}
    for name in names:
        match = fits.fullmatch(name)
        if match is None:
            continue
        number = int(match[1])
        if number in found:
            raise DataError(f"{folder}: {found[number].name} and {name} are both frame {number}; leave one of them out")
        found[number] = folder / name
    return dict(sorted(found.items()))


def same_numbers(folder: Path, files: Mapping[str, Mapping[int, Path]]) -> list[int]:
    """The numbers of the frames, which all kinds of files have.

    Args:
        folder: where they lie, for messages.
        files: by kind ('colour') the files by their numbers.

    Raises:
        DataError: there are none, or a kind lacks one; it names the first.
    """
    numbers = sorted(set().union(*files.values()))
    counts = ", ".join(f"{len(each)} {kind}" for kind, each in files.items())
    if not numbers:
        raise DataError(f"{folder}: found no frames; expected files of colour, depth and pose for each")
    for number in numbers:
        lacking = [kind for kind, each in files.items() if number not in each]
        if lacking:
            there = next(each[number].name for each in files.values() if number in each)
            raise DataError(
                f"{folder}: expected as many files of each kind, found {counts}; {lacking[0]} of frame {number} is the "
                f"first that is missing ({there} is there): fetch it, or leave that frame out"
            )
    return numbers
