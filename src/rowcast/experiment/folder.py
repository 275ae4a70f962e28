"""The folder of a comparison: one folder for each cell, what is finished in it, and who works on it.

A cell is finished when its ``done.json`` is there. It holds the cell, the task's metrics (name, unit, better, primary),
the versions of what computed, and the real seconds.

A cell runs in a folder of its own beside ``cells`` (``running/NAME~MACHINE~RANDOM``), which is renamed to
``cells/NAME`` in one piece when it is finished. So processes of several machines that share the folder run cells at the
same time without a lock on the whole of it: of two that ran the same cell the first counts. What a process left that
died is removed by the next one on the same machine.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rowcast.drivers.claim import claimed
from rowcast.errors import ConfigError
from rowcast.experiment.cell import LATER, Cell
from rowcast.experiment.preparing import Preparing
from rowcast.experiment.runners import RunCell
from rowcast.metric import metrics_to_json
from rowcast.tasks import load_task
from rowcast.version import __version__

__all__ = [
    "cell_folder",
    "claimed_folder",
    "clear_abandoned",
    "files_of",
    "is_finished",
    "opened_folder",
    "put_in_place",
    "receive_folder",
    "refuse_another_version",
    "run_into_folder",
    "scratch_folder",
    "versions",
    "write_whole",
]

#: Ends the name of a folder that gives way to a finished one.
_OLD = "~old"


def cell_folder(out: Path, cell: Cell) -> Path:
    return out / "cells" / cell.name


@contextlib.contextmanager
def claimed_folder(out: Path) -> Iterator[None]:
    """The folder is there, and no other call works on the whole of it."""
    taken = f"out {out}: another comparison runs in this folder; wait for its end"
    with opened_folder(out), claimed(out / ".lock", taken):
        yield


@contextlib.contextmanager
def opened_folder(out: Path) -> Iterator[None]:
    """The folder is there; others may work on it at the same time.

    Raises:
        ConfigError: it cannot be used.
    """
    try:
        (out / "cells").mkdir(parents=True, exist_ok=True)
        clear_abandoned(out)
        yield
    except OSError as error:
        raise ConfigError(f"out {out}: cannot be used: {error.filename or ''} {error.strerror}") from error


def refuse_another_version(out: Path) -> None:
    """Nothing is added to runs whose settings have other names: no report could set the two side by side.

    Raises:
        ConfigError: there is such a run; the message names those settings.
    """
    wanted = {field.name for field in fields(Cell)} - LATER.keys()
    for path in sorted(out.glob("cells/*/done.json")):
        try:
            found = set(json.loads(path.read_text(encoding="utf-8"))["cell"]) - LATER.keys()
        except (OSError, ValueError, KeyError, TypeError):
            continue  # said when that run is wanted, or drawn
        words = [f"no {name}" for name in sorted(wanted - found)] + [f"a {name}" for name in sorted(found - wanted)]
        if words:
            raise ConfigError(
                f"{path.parent}: was run by another version of Rowcast, for which a run has {', '.join(words)}; "
                "choose another folder"
            )


def is_finished(cell: Cell, folder: Path) -> bool:
    """Whether the cell ran to its end before.

    Raises:
        ConfigError: it did, with other settings.
    """
    path = folder / "done.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["cell"]
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); delete {folder} to run this cell again") from error
    wanted = cell.written()
    changed = [
        f"{key} = {found.get(key)!r}, now {wanted.get(key)!r}"
        for key in {**wanted, **found}
        if found.get(key) != wanted.get(key)
    ]
    if changed:
        raise ConfigError(
            f"{folder}: was run with other settings ({'; '.join(changed)}); choose another folder for the new ones, "
            "or put them back"
        )
    return True


def run_into_folder(cell: Cell, folder: Path, run: RunCell, tell: Callable[[float | Preparing], None]) -> None:
    """Run a cell in an empty folder, and rename that to ``folder`` when it is finished.

    Args:
        cell: what to run.
        folder: ``OUT/cells/NAME``; not there, or that of an unfinished run, which is removed.
        run: writes the cell's journals.
        tell: told how far it is.

    Raises:
        ConfigError: the folder cannot be used, or has what no comparison wrote.
        RowcastError: as ``run`` has it; what was written until then stays, for who looks for the cause.
    """
    began = time.monotonic()
    try:
        _refuse_foreign(folder)
        with scratch_folder(folder) as scratch:
            write_whole(scratch / "cell.json", {"cell": cell.written()})
            run(cell, scratch, tell)
            done = {
                "cell": cell.written(),
                "metrics": metrics_to_json(load_task(cell.task).metrics),
                "versions": versions(),
                "real_s": round(time.monotonic() - began, 3),
            }
            write_whole(scratch / "done.json", done)
            put_in_place(scratch, folder)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be used: {error}") from error


def files_of(folder: Path) -> dict[str, bytes]:
    """What a folder holds: the path within it, and the content of each file."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def receive_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make the folder of a cell of what :func:`files_of` gave where it ran.

    Raises:
        ConfigError: the folder cannot be used, or has what no comparison wrote.
    """
    try:
        _refuse_foreign(folder)
        with scratch_folder(folder) as scratch:
            for name, content in files.items():
                path = scratch / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            put_in_place(scratch, folder)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be used: {error}") from error


@contextlib.contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside ``cells`` for the files of ``OUT/cells/NAME``, which nobody else uses or clears."""
    place = folder.parents[1] / "running"
    place.mkdir(parents=True, exist_ok=True)
    scratch = place / f"{folder.name[:80]}~{_machine()}~{secrets.token_hex(4)}"
    lock = _lock_of(scratch)
    # The lock first: a folder that can be seen is locked until its process dies or is done with it.
    with claimed(lock, f"{lock}: expected nobody else to have this name; start the command again"):
        scratch.mkdir()
        yield scratch
        lock.unlink()


def put_in_place(scratch: Path, folder: Path) -> None:
    """Make a finished cell's folder the one that counts; if another process was faster, its own stays.

    Raises:
        OSError: it cannot be renamed, or removed.
    """
    made = scratch
    folder.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            made.rename(folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if (folder / "done.json").is_file():
            shutil.rmtree(made)
            return
        aside = scratch.with_name(f"{scratch.name}{_OLD}")
        with contextlib.suppress(FileNotFoundError):
            folder.rename(aside)
            if (aside / "done.json").is_file():  # finished by another between the two looks: that one goes back
                made, aside = aside, made
            shutil.rmtree(aside)


def clear_abandoned(out: Path) -> None:
    """Remove what processes of this machine left that died in the middle of a cell."""
    for scratch in out.glob(f"running/*~{_machine()}~*"):
        if not scratch.is_dir():
            continue
        lock = _lock_of(scratch)
        with contextlib.suppress(ConfigError), claimed(lock, f"{scratch}: in use"):
            shutil.rmtree(scratch, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _lock_of(scratch: Path) -> Path:
    return scratch.with_name(f".{scratch.name.removesuffix(_OLD)}.lock")


def _machine() -> str:
    """The name of this machine as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", platform.node())[:40] or "unnamed"


def _refuse_foreign(folder: Path) -> None:
    """Raises ConfigError for a folder with files that no comparison wrote."""
    if folder.exists() and any(folder.iterdir()) and not (folder / "cell.json").is_file():
        raise ConfigError(f"{folder}: holds files that no comparison wrote; move them away")


def write_whole(path: Path, content: Mapping[str, Any]) -> None:
    """The file is there with all of its content, or not at all, also if several processes write it at the same time."""
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def versions() -> dict[str, str]:
    """Of what computes."""
    found = {"rowcast": __version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "numba"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
