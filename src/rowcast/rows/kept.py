"""Compiled kernels are kept on disk, where there is a place: a process that finds them there compiles nothing.

Where the folder is there and can only be read, as in an image or where an administrator has installed the package, what
it holds is used, and what it lacks is kept in the next place that numba knows, if that can be written.

Nothing depends on it. On a read-only file system without a home, on a full disk, with damaged files, kernels are
compiled again by each process.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
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
#: Folders with kernels that were found or kept; and where they can only be read.
_kept_in: set[str] = set()
_read_from: set[str] = set()
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
    """Where the kernels are that this process has found or kept; where it keeps none, from where it has read them."""
    folders = _kept_in or _read_from
    return Place(Path(os.path.commonpath(folders)) if folders else None, _unkept)


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
    user's cache folder. In the first two a kernel is also found where they can only be read.
    """
    enable = getattr(dispatcher, "enable_caching", None)
    if enable is None:  # compiling is switched off (NUMBA_DISABLE_JIT)
        return dispatcher
    function = dispatcher.py_func
    reading = _reading(function)
    why: Exception | None = None
    try:
        if _homeless(function.__code__.co_filename):
            raise OSError(errno.ENOENT, "there is no home folder")
        enable()
    except (OSError, RuntimeError) as error:
        why = error
        if reading is None:
            _say(error)
            return dispatcher
    if hasattr(dispatcher, "_cache"):
        writing = dispatcher._cache if why is None else None
        name = f"{function.__module__}.{function.__qualname__}"
        dispatcher._cache = _Forgiving(writing, reading, name, why)
    return dispatcher


def _reading(function: Callable[..., Any]) -> Any:
    """A cache of numba's for a function, in a folder that is there and can only be read; ``None``: there is none.

    numba itself passes over a folder that it cannot write.
    """
    kind = _reading_kind()
    try:
        return None if kind is None else kind(function)
    except (OSError, RuntimeError):  # numba's, for want of a folder
        return None


@functools.cache
def _reading_kind() -> Any:
    """The class of such a cache: numba's own, with two of its places; ``None``: this numba is built otherwise."""
    caching = importlib.import_module("numba.core.caching")
    implementation = getattr(caching.FunctionCache, "_impl_class", None)
    places = getattr(implementation, "_locator_classes", ())[:2]  # NUMBA_CACHE_DIR, and beside the source
    if implementation is None or not places:
        return None
    readable = [type(f"Readable{place.__name__}", (_Readable, place), {}) for place in places]
    looking = type("ReadingCacheImpl", (implementation,), {"_locator_classes": readable})
    return type("ReadingCache", (caching.FunctionCache,), {"_impl_class": looking})


class _Readable:
    """Of a place of numba's: it is one only where it is there and cannot be written."""

    get_cache_path: Callable[[], str]

    def ensure_cache_path(self) -> None:
        path = Path(self.get_cache_path())
        if not path.is_dir() or os.access(path, os.W_OK):
            raise FileNotFoundError(errno.ENOENT, "no folder that can only be read", str(path))


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
    """Caches of numba's that never keep a kernel from running.

    Args:
        writing: where kernels are found and kept; ``None``: nowhere.
        reading: where some may be found besides.
        name: of the kernel.
        why_not: why nothing is kept, if so.
    """

    def __init__(self, writing: Any, reading: Any, name: str, why_not: Exception | None) -> None:
        self._writing, self._reading = writing, reading
        self._name, self._why_not = name, why_not

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reading if self._writing is None else self._writing, name)

    def load_overload(self, signature: Any, target: Any) -> Any:
        found = self._found(self._reading, _read_from, signature, target)
        if found is None:
            found = self._found(self._writing, _kept_in, signature, target)
        _tell("missing" if found is None else "found", self._name)
        return found

    def _found(self, cache: Any, folders: set[str], signature: Any, target: Any) -> Any:
        try:
            found = None if cache is None else cache.load_overload(signature, target)
        except Exception:  # whatever a damaged file leads to: it is compiled again
            found = None
        if found is not None:
            folders.add(str(cache.cache_path))
        return found

    def save_overload(self, signature: Any, compiled: Any) -> None:
        event: KernelEvent = "kept"
        try:
            if self._why_not is not None:
                raise self._why_not
            if compiled.library.has_dynamic_globals:  # numba would warn of each
                raise ValueError("numba keeps no code with addresses of this process; is NUMBA_OPT=0 set?")
            self._writing.save_overload(signature, compiled)
            _kept_in.add(str(self._writing.cache_path))
        except Exception as error:
            event = "lost"
            _say(error)
        _tell(event, self._name)
