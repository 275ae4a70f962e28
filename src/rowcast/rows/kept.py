"""Compiled kernels are kept on disk, where there is a place: a process that finds them there compiles nothing.

Nothing depends on it. On a read-only file system without a home, on a full disk, with damaged files, kernels are
compiled again by each process.
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

__all__ = ["keep"]

log = logging.getLogger("rowcast")

_said = False


def keep(dispatcher: Any) -> Any:
    """Let a function that numba compiles be kept on disk, if it can be; returns it.

    numba looks for a place in this order: the folder ``NUMBA_CACHE_DIR``, ``__pycache__`` beside the source, the
    user's cache folder.
    """
    enable = getattr(dispatcher, "enable_caching", None)
    if enable is None:  # compiling is switched off (NUMBA_DISABLE_JIT)
        return dispatcher
    try:
        if _homeless(dispatcher.py_func.__code__.co_filename):
            raise OSError(errno.ENOENT, "there is no home folder")
        enable()
    except (OSError, RuntimeError) as error:
        _say(error)
    else:
        if hasattr(dispatcher, "_cache"):
            dispatcher._cache = _Forgiving(dispatcher._cache)
    return dispatcher


def _homeless(source: str) -> bool:
    """Whether numba would take a folder named ``~`` in the working directory for the user's home."""
    given = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    if given or os.access(Path(source).parent, os.W_OK):
        return False
    try:
        Path.home()
    except RuntimeError:
        return True
    return False


def _say(error: BaseException) -> None:
    """Say once that, and why, nothing is kept."""
    global _said
    if not _said:
        _said = True
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        log.info(
            "compiled kernels are not kept (%s), so that each start takes some seconds longer; set NUMBA_CACHE_DIR to "
            "a folder that can be written",
            " ".join(why.split()),
        )


class _Forgiving:
    """A cache of numba's that never keeps a kernel from running."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, signature: Any, target: Any) -> Any:
        try:
            return self._cache.load_overload(signature, target)
        except Exception:  # whatever a damaged file leads to: it is compiled again
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        try:
            self._cache.save_overload(signature, compiled)
        except Exception as error:
            _say(error)
