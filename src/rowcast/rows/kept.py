"""Compiled kernels are kept on disk, where there is a place: a process that finds them there compiles nothing.

Nothing depends on it. On a read-only file system without a home, on a full disk, with damaged files, kernels are
compiled again by each process.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["KernelEvent", "Place", "keep", "place_of_kernels", "watch_kernels"]

log = logging.getLogger("rowcast")

#: What becomes of a kernel: it was on disk; it was not, and is compiled; it was compiled and kept, or could not be.
KernelEvent = Literal["found", "missing", "kept", "lost"]

_said = False
_watcher: Callable[[KernelEvent, str], None] | None = None
_folders: set[str] = set()
_unkept: str | None = None


@dataclass(frozen=True)
class Place:
    """Where kernels are kept.

    Attributes:
        folder: the folder with all of them; ``None``: there is none.
        why_not: why they are not kept, or some of them; ``None``: they are.
    """

    folder: Path | None
    why_not: str | None


def place_of_kernels() -> Place:
    """Where this process keeps kernels, as far as it has loaded and compiled them."""
    return Place(Path(os.path.commonpath(_folders)) if _folders else None, _unkept)


@contextlib.contextmanager
def watch_kernels(watcher: Callable[[KernelEvent, str], None]) -> Iterator[None]:
    """Within, be told of each kernel that is looked for on disk, by its module and name.

    A kernel that is compiled calls others: what they need is told between its 'missing' and its 'kept' or 'lost'.
    """
    global _watcher
    before, _watcher = _watcher, watcher
    try:
        yield
    finally:
        _watcher = before


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
            _folders.add(str(dispatcher._cache.cache_path))
            function = dispatcher.py_func
            dispatcher._cache = _Forgiving(dispatcher._cache, f"{function.__module__}.{function.__qualname__}")
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
    global _said, _unkept
    if not _said:
        _said = True
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        _unkept = " ".join(why.split())
        log.info(
            "compiled kernels are not kept (%s), so that each start takes some seconds longer; set NUMBA_CACHE_DIR to "
            "a folder that can be written",
            _unkept,
        )


def _tell(event: KernelEvent, name: str) -> None:
    if _watcher is not None:
        _watcher(event, name)


class _Forgiving:
    """A cache of numba's that never keeps a kernel from running."""

    def __init__(self, cache: Any, name: str) -> None:
        self._cache = cache
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, signature: Any, target: Any) -> Any:
        try:
            found = self._cache.load_overload(signature, target)
        except Exception:  # whatever a damaged file leads to: it is compiled again
            found = None
        _tell("missing" if found is None else "found", self._name)
        return found

    def save_overload(self, signature: Any, compiled: Any) -> None:
        event: KernelEvent = "kept"
        try:
            if compiled.library.has_dynamic_globals:  # numba would warn of each
                raise ValueError("numba keeps no code with addresses of this process; is NUMBA_OPT=0 set?")
            self._cache.save_overload(signature, compiled)
        except Exception as error:
            event = "lost"
            _say(error)
        _tell(event, self._name)
