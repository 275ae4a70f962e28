"""Kernels with numba, and without it.

Where numba cannot be imported, or ``ROWCAST_NUMBA=0`` says so, a kernel is replaced by its **plain version**: numpy
with the same result, bit by bit, that :func:`without_numba` names; or, where a kernel has none, by the Python function
that numba would have compiled.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from rowcast.errors import ConfigError
from rowcast.rows.kept import keep

__all__ = ["HAS_NUMBA", "compiled", "compiled_inline", "compiled_serial", "usable_threads", "without_numba"]

F = TypeVar("F", bound=Callable[..., Any])

#: The plain versions of kernels, by module and name; for tests.
PLAIN: dict[str, Callable[..., Any]] = {}


def _numba() -> Any:
    """The module, or ``None``.

    Raises:
        ConfigError: the variable says something else than 0 or 1, or wants what is not there.
    """
    wanted = os.environ.get("ROWCAST_NUMBA", "")
    if wanted not in ("", "0", "1"):
        raise ConfigError(f"ROWCAST_NUMBA: expected 0, 1 or nothing, got {wanted!r}; 0 computes without numba")
    if wanted == "0":
        return None
    if importlib.util.find_spec("numba") is None:
        if wanted == "1":
            raise ConfigError("ROWCAST_NUMBA: expected numba to be there for 1, got none; pip install numba, or set 0")
        return None
    import numba

    return numba


_NUMBA = _numba()

#: Whether kernels are compiled.
HAS_NUMBA = _NUMBA is not None


def without_numba(plain: Callable[..., Any]) -> Callable[[F], F]:
    """Name the plain version of a kernel; stands below the decorator that compiles it.

    Args:
        plain: takes the same arguments, writes and returns the same bits.
    """

    def note(function: F) -> F:
        PLAIN[f"{function.__module__}.{function.__name__}"] = plain
        return function

    return note


def _standing_in(function: F) -> F:
    """What is called without numba: silent where numbers overflow, as compiled code is."""
    plain = PLAIN.get(f"{function.__module__}.{function.__name__}", function)

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        with np.errstate(all="ignore"):
            return plain(*arguments)

    return cast(F, call)


def compiled(function: F) -> F:
    """Compile a kernel: no GIL, cached on disk where that can be written, sums may be reordered."""
    if _NUMBA is None:
        return _standing_in(function)
    return cast(F, keep(_NUMBA.njit(nogil=True, fastmath={"reassoc", "nsz"})(function)))


def compiled_serial(function: F) -> F:
    """Compile a loop that is never cut into parts: no GIL, cached on disk. Calling it costs a microsecond.

    Sums keep their order. That has to be said: a function that says nothing takes over what its first caller says.
    """
    if _NUMBA is None:
        return _standing_in(function)
    return cast(F, keep(_NUMBA.njit(nogil=True, fastmath=False)(function)))


def compiled_inline(function: F) -> F:
    """For a function that kernels use: compiled as a part of each of them."""
    return _standing_in(function) if _NUMBA is None else cast(F, _NUMBA.njit(inline="always")(function))


def usable_threads() -> int:
    """Threads that numba's variables allow, or the processors that this process may use."""
    if _NUMBA is not None:
        return int(_NUMBA.config.NUMBA_NUM_THREADS)
    asked = os.environ.get("NUMBA_NUM_THREADS", "").strip()
    here = len(os.sched_getaffinity(0))
    return int(asked) if asked.isascii() and asked.isdigit() and int(asked) else here
