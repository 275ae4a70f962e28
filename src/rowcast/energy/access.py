"""Files of sysfs and optional packages, with errors in our words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rowcast.errors import MeterError

__all__ = ["SYS", "imported", "integer_in", "text_in"]

SYS = Path("/sys")


def imported(load: Callable[[], Any], meter: str, package: str) -> Any:
    """What ``load`` gives: a module of an optional package.

    Raises:
        MeterError: it is not installed.
    """
    try:
        return load()
    except ImportError as error:
        raise MeterError(f"meter {meter}: expected the Python package {package}, got: {error}; install it") from error


def text_in(path: Path, meter: str) -> str:
    """The text of a file of sysfs, without the end of its line.

    Raises:
        MeterError: it is missing, or cannot be read.
    """
    try:
        return path.read_text(encoding="ascii").strip()
    except PermissionError as error:
        raise MeterError(
            f"meter {meter}: {path} may not be read: {error.strerror}; run as root, or give this user "
            "read access to the file"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise MeterError(f"meter {meter}: expected a sensor's value in {path}, got: {error}") from error


def integer_in(path: Path, meter: str) -> int:
    """The whole number in a file of sysfs.

    Raises:
        MeterError: as :func:`text_in`, or it is none.
    """
    text = text_in(path, meter)
    try:
        return int(text)
    except ValueError as error:
        raise MeterError(f"meter {meter}: expected a whole number in {path}, got {text!r}") from error
