"""What a worker of a task tells beside its metrics, kept where reports find it: events, and exhibits."""

from __future__ import annotations

from pathlib import Path

from rowcast.errors import ConfigError
from rowcast.exhibits import EXHIBITS, save_exhibits
from rowcast.optim import Optimizer
from rowcast.tasks import TaskWorker

__all__ = ["forget_shown", "save_shown", "tell_events"]


def tell_events(robot: TaskWorker, optimizer: Optimizer) -> None:
    """Write what happened in the task since the last call into the journal.

    Raises:
        ConfigError: the task told something else than pairs of texts.
    """
    for event in robot.happened():
        if not isinstance(event, tuple | list) or len(event) != 2 or not all(isinstance(each, str) for each in event):
            raise ConfigError(
                f"task {type(robot.task).__name__}: happened: expected pairs of texts, what and a detail, as in "
                f"[('lost', 'frame 12')], got {event!r}"
            )
        optimizer.note(*event)


def save_shown(robot: TaskWorker, journal: Path) -> None:
    """Write what the worker shows of its replica beside its journal, and files of its own.

    Without exhibits there is no file of them.

    Raises:
        ConfigError: a report could not show it, or the file cannot be written.
    """
    robot.write_files(journal.parent, journal.stem)
    items = robot.shown()
    if items:
        save_exhibits(_beside(journal), items)


def forget_shown(journal: Path) -> None:
    """Delete what a run before has shown beside its journal: one that is interrupted shows nothing.

    Raises:
        ConfigError: the file cannot be deleted.
    """
    path = _beside(journal)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"exhibits {path}: cannot be deleted: {error.strerror}") from error


def _beside(journal: Path) -> Path:
    return journal.with_name(journal.stem + EXHIBITS)
