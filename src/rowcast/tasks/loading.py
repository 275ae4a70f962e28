"""Tasks by name, from a user's file, and from a module.

``--task`` takes the name of a registered task, ``my_file.py:MyTask``, or ``my_package.my_module:MyTask``.
"""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

from rowcast.errors import ConfigError, near_match
from rowcast.metric import check_metrics
from rowcast.registry import Registry
from rowcast.tasks.base import Task, TaskSettings
from rowcast.tasks.crimp import CRIMP_TASKS
from rowcast.tasks.cruda import CRUDA_TASKS
from rowcast.tasks.drift import DRIFT_TASKS
from rowcast.tasks.motion import MOTION_TASKS
from rowcast.userfile import load_file, resolve

__all__ = ["TASKS", "FoundTask", "build_task", "find_task", "load_task", "register"]


def _checked(name: str, value: object) -> type[Task]:
    """A class of tasks that can be used, or an error that says what it lacks."""
    if not (isinstance(value, type) and issubclass(value, Task)):
        what = "an object of this class; name the class itself" if isinstance(value, Task) else f"{value!r}"
        raise ConfigError(f"task {name}: expected a class derived from rowcast.tasks.Task, got {what}")
    if inspect.isabstract(value):
        missing = ", ".join(sorted(value.__abstractmethods__))
        raise ConfigError(f"task {name}: {value.__name__} does not define {missing}")
    names = [metric.name for metric in check_metrics(value.metrics, f"task {name}")]
    if not isinstance(value.shown, tuple | list):
        raise ConfigError(f"task {name}: shown: expected names of metrics, as in ('{names[0]}',), got {value.shown!r}")
    for shown in value.shown:
        if shown not in names:
            raise ConfigError(f"task {name}: shown: {shown!r} is none of its metrics; {near_match(str(shown), names)}")
    size = value.reference_bytes
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ConfigError(f"task {name}: reference_bytes: expected a whole number above 0, got {size!r}")
    settings = value.Settings
    frozen = isinstance(settings, type) and "__dataclass_params__" in vars(settings)
    if not frozen or not issubclass(settings, TaskSettings):
        raise ConfigError(
            f"task {name}: Settings: expected a class derived from rowcast.tasks.TaskSettings with "
            f"@dataclass(frozen=True) above it, got {settings!r}"
        )
    return value


#: Every task by its name: a class.
TASKS: Registry[type[Task]] = Registry("task", "rowcast.tasks", _checked)
for _name, _kind in [*CRUDA_TASKS.items(), *CRIMP_TASKS.items(), *DRIFT_TASKS.items(), *MOTION_TASKS.items()]:
    TASKS.register(_name, _kind)


def register(name: str, kind: type[Task]) -> type[Task]:
    """Give a task a name. Processes that shall know it have to import what calls this; an entry point in the group
    ``rowcast.tasks`` makes it known to all.

    Raises:
        ConfigError: a name that is taken, or a class that is no task.
    """
    return TASKS.register(name, kind)


@dataclasses.dataclass(frozen=True)
class FoundTask:
    """A task that a text stands for.

    Attributes:
        name: what another process finds it by; a file with its whole path.
        kind: its class.
        code: digest of the user's file, as hexadecimal digits; '' for a task of an installed package.
    """

    name: str
    kind: type[Task]
    code: str = ""


def find_task(text: str, data_dir: str | Path | None = None) -> FoundTask:
    """The task that a text stands for: a registered name, ``file.py:Class`` or ``package.module:Class``.

    A file that holds one task needs no class. A family (``cruda``) stands for the task of it whose data is there.

    Raises:
        ConfigError: there is none, or what is there is no task; the message says what to write.
        DataError: a family, and none of its tasks has its data there.
    """
    place, colon, name = text.rpartition(":")
    if not colon:
        place, name = text, ""
    if place.endswith(".py"):
        return _in_a_file(text, Path(place), name)
    if colon:
        return FoundTask(text, _checked(text, _in_a_module(text, place, name)))
    kind = TASKS.find(text)
    chosen = kind.resolve(text, data_dir)
    return FoundTask(chosen, kind if chosen == text else TASKS.find(chosen))


def load_task(text: str) -> type[Task]:
    """The class of the task that a text stands for; as :func:`find_task`, but a family stands for itself."""
    return TASKS.find(text) if ":" not in text and not text.endswith(".py") else find_task(text).kind


def build_task(text: str, data_dir: str | Path | None = None, *, seed: int = 0, **options: Any) -> Any:
    """Make a task.

    Args:
        text: as :func:`find_task`.
        data_dir: folder with the files of its data, where it needs one.
        seed: everything random follows from it.
        options: what differs from the task's own settings.

    Returns:
        the task, of the class that the text stands for.

    Raises:
        ConfigError: unknown name or option, or a value out of range.
        DataError: the data cannot be read.

    Example::

        task = build_task("cruda-digits", seed=1)
        task.pretrain()
        robot = task.worker(0, workers=4)
        robot.compute()
        robot.optimizer.step()
        print(robot.evaluate())
    """
    return find_task(text, data_dir).kind.build(options, data_dir=data_dir, seed=seed)


def _in_a_file(text: str, path: Path, name: str) -> FoundTask:
    expected = "a Python file with a class derived from rowcast.tasks.Task"
    module, code = load_file(path, f"task {text}", expected)
    tasks = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Task) and value.__module__ == module.__name__
    }
    if not name:
        if len(tasks) != 1:
            found = ", ".join(tasks) or "none"
            raise ConfigError(f"task {text}: expected which class of the file is meant, as in {path}:MyTask ({found})")
        name = next(iter(tasks))
    if not hasattr(module, name):
        hint = near_match(name, tasks) if tasks else "it holds no class derived from rowcast.tasks.Task"
        raise ConfigError(f"task {text}: {path} has no {name!r}; {hint}")
    return FoundTask(f"{path.resolve()}:{name}", _checked(text, getattr(module, name)), code)


def _in_a_module(text: str, module: str, name: str) -> object:
    expected = f"a registered name ({', '.join(TASKS)}), my_file.py:MyTask or my_package:MyTask"
    return resolve(module, name, f"task {text}", expected)
