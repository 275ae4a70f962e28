"""Starting models: trained once, and kept for whoever needs the same again.

A starting model is kept under a key of all that made it: the settings of the clean training, the data, and the versions
of what computed it. It is looked for in the folder of the comparison, then in the user's cache, and else trained. An
entry appears whole or not at all; one that is damaged is made again.

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

from rowcast.errors import DataError
from rowcast.experiment.claim import claimed
from rowcast.tasks import CrudaTask
from rowcast.version import __version__

__all__ = ["CACHE_VARIABLE", "cache_folder", "keep_starting_state", "state_key"]

log = logging.getLogger("rowcast")

#: Names the folder of the cache, or is ``off``.
CACHE_VARIABLE = "ROWCAST_CACHE"
#: Settings of a task that do not change its starting model.
_LATER = (
    "data_dir",
    "test_images",
    "severity",
    "alpha",
    "batch",
    "optimizer",
    "lr",
    "momentum",
    "weight_decay",
)


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


def state_key(clean: CrudaTask) -> str:
    """What made the starting model of this task, as hexadecimal digits: equal if and only if it would be the same."""
    settings = {key: value for key, value in vars(clean.settings).items() if key not in _LATER}
    digest = hashlib.sha256(repr((sorted(settings.items()), __version__, torch.__version__, np.__version__)).encode())
    for array in (clean.dataset.train_images, clean.dataset.train_labels):
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:32]


def keep_starting_state(
    task: CrudaTask, clean: Callable[[], CrudaTask], folder: Path, train: Callable[[CrudaTask], object]
) -> None:
    """Give ``task`` its starting model: that in ``folder``, a cached one, or a new one, which is then in both.

    Both files are named by the data set, the seed and :func:`state_key`. Of several processes with one cache that need
    the same model one trains and the others wait; without a cache, of those with one folder.

    Args:
        task: receives it.
        clean: makes the task whose clean images it is trained on.
        folder: of the starting models of the comparison; made if it is not there.
        train: trains it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    maker = clean()
    name = f"{maker.settings.dataset}-{maker.settings.seed}-{state_key(maker)}.npz"
    path, cache = folder / name, cache_folder()
    kept = cache / name if cache else None
    if _loaded(task, path):
        return
    with _alone(path, kept):
        if _loaded(task, path):  # another process was faster
            return
        if kept is None or not _loaded(maker, kept):
            train(maker)
            if kept is not None:
                _keep(maker, kept)
        maker.save_state(path)
        task.load_state(path)


def _loaded(task: CrudaTask, path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        task.load_state(path)
    except DataError as error:
        log.warning("%s; the starting model is made again", error)
        return False
    return all(np.isfinite(value).all() for value in task.state.values())


def _keep(task: CrudaTask, path: Path) -> None:
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
