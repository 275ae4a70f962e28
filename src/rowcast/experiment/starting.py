"""Starting models: trained once, and kept for whoever needs the same again.

A starting model is kept under a key of all that made it: what the task says that it depends on (settings, data), the
user's file, and the versions of what computed it. It is looked for in the folder of the comparison, then in the user's
cache, and else trained. An entry appears whole or not at all; one that is damaged is made again.

The cache is the folder ``rowcast`` in ``$XDG_CACHE_HOME`` (by default ``~/.cache``), or what ``ROWCAST_CACHE`` names;
``off`` does without.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from rowcast.drivers.claim import claimed
from rowcast.errors import DataError
from rowcast.tasks import Task
from rowcast.version import __version__

__all__ = ["CACHE_VARIABLE", "cache_folder", "keep_starting_state", "state_file"]

log = logging.getLogger("rowcast")

#: Names the folder of the cache, or is ``off``.
CACHE_VARIABLE = "ROWCAST_CACHE"


def cache_folder(environment: Mapping[str, str] | None = None) -> Path | None:
    """The user's cache of starting models, or ``None`` where there shall be none.

    Args:
        environment: variables; ``None``: those of the process.
    """
    values = os.environ if environment is None else environment
    named = values.get(CACHE_VARIABLE, "")
    if named:
        return None if named.lower() == "off" else Path(named).expanduser() / "states"
    base = values.get("XDG_CACHE_HOME", "")
    if base and Path(base).is_absolute():  # the XDG specification: a relative path is ignored
        return Path(base) / "rowcast" / "states"
    home = values.get("HOME", "")
    return Path(home) / ".cache" / "rowcast" / "states" if home else None


def state_file(task: Task, code: str = "") -> str | None:
    """The name of the file that keeps the starting model of this task: the same if and only if the model would be.

    Args:
        code: digest of the user's file that the task is of.

    Returns:
        class, seed and a digest of all that the model depends on; ``None``: the task wants nothing kept.
    """
    key = task.starting_key()
    if key is None:
        return None
    kind = type(task)
    made_of = (key, code, kind.__module__, kind.__qualname__, task.settings.seed, __version__)
    digest = hashlib.sha256(repr((*made_of, torch.__version__, np.__version__)).encode()).hexdigest()
    return f"{kind.__name__.lower()}-{task.settings.seed}-{digest[:32]}.npz"


def keep_starting_state(
    task: Task, folder: Path, progress: Callable[[float], None] | None = None, *, code: str = ""
) -> Path | None:
    """Give ``task`` its starting model: that in ``folder``, a cached one, or a new one, which is then in both.

    Both files are named by :func:`state_file`. Of several processes with one cache that need the same model one trains
    and the others wait; without a cache, of those with one folder.

    Args:
        task: receives it.
        folder: of the starting models of the comparison; made if it is not there.
        progress: told how far the training is, if there is one.
        code: digest of the user's file that the task is of.

    Returns:
        the file in ``folder``; ``None``: the task wants nothing kept.
    """
    name = state_file(task, code)
    if name is None:
        task.pretrain(progress)
        return None
    folder.mkdir(parents=True, exist_ok=True)
    path, cache = folder / name, cache_folder()
    kept = cache / name if cache else None
    if _loaded(task, path):
        return path
    with _alone(path, kept):
        if _loaded(task, path):  # another process was faster
            return path
        if kept is None or not _loaded(task, kept):
            task.pretrain(progress)
            if kept is not None:
                _keep(task, kept)
        task.save_state(path)
    return path


def _loaded(task: Task, path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        task.load_state(path)
    except DataError as error:
        log.warning("%s; the starting model is made again", error)
        return False
    return all(np.isfinite(value).all() for value in task.state.values())


def _keep(task: Task, path: Path) -> None:
    """Write it to the cache; what cannot be written is only trained again the next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        task.save_state(path)
    except (OSError, DataError) as error:
        log.warning("the starting model is not cached: %s; %s names another folder, or 'off'", error, CACHE_VARIABLE)


@contextlib.contextmanager
def _alone(path: Path, kept: Path | None) -> Iterator[None]:
    """Nobody else is in this block with this entry of the cache; where that has no place for a lock, with this path."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(claimed(_lock(path if kept is None else kept)))
        except OSError:
            stack.enter_context(claimed(_lock(path)))
        yield


def _lock(path: Path) -> Path:
    """The lock lies above the folder of the entries, which holds nothing else."""
    folder = path.parents[1]
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f".{path.stem}.lock"
