"""The folder of a comparison: one folder for each cell, what is finished in it, and who works on it.

A cell is finished when its ``done.json`` is there. It holds the cell, the task's metrics (name, unit, better, primary),
the versions of what computed, and the real seconds.
"""

from __future__ import annotations

import contextlib
import json
import platform
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
    "is_finished",
    "refuse_another_version",
    "run_into_folder",
    "versions",
    "write_whole",
]


def cell_folder(out: Path, cell: Cell) -> Path:
    return out / "cells" / cell.name


@contextlib.contextmanager
def claimed_folder(out: Path) -> Iterator[None]:
    """The folder is there, and no other call works on it."""
    try:
        (out / "cells").mkdir(parents=True, exist_ok=True)
        with claimed(out / ".lock", f"out {out}: another comparison runs in this folder; wait for its end"):
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
    """Run a cell from an empty folder to its ``done.json``."""
    began = time.monotonic()
    try:
        if folder.exists():
            if any(folder.iterdir()) and not (folder / "cell.json").is_file():
                raise ConfigError(f"{folder}: holds files that no comparison wrote; move them away")
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        write_whole(folder / "cell.json", {"cell": cell.written()})
        run(cell, folder, tell)
        done = {
            "cell": cell.written(),
            "metrics": metrics_to_json(load_task(cell.task).metrics),
            "versions": versions(),
            "real_s": round(time.monotonic() - began, 3),
        }
        write_whole(folder / "done.json", done)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be used: {error}") from error


def write_whole(path: Path, content: Mapping[str, Any]) -> None:
    """The file is there with all of its content, or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def versions() -> dict[str, str]:
    """Of what computes."""
    found = {"rowcast": __version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "numba"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
