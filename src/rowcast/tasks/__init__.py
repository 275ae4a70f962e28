"""What is trained: the seam of a job (:class:`Task`), the tasks by name, and how one is found.

The built-in tasks are in :mod:`rowcast.tasks.cruda`, :mod:`rowcast.tasks.crimp`, :mod:`rowcast.tasks.drift` and
:mod:`rowcast.tasks.motion`.
"""

from rowcast.tasks.base import Metric, Task, TaskSettings, TaskWorker
from rowcast.tasks.items import pack_item, unpack_item
from rowcast.tasks.loading import TASKS, FoundTask, build_task, find_task, load_task, register
from rowcast.tasks.options import TaskOptions
from rowcast.tasks.saved import Labelled, SavedModel, read_model, save_model
from rowcast.tasks.states import State

__all__ = [
    "TASKS",
    "FoundTask",
    "Labelled",
    "Metric",
    "SavedModel",
    "State",
    "Task",
    "TaskOptions",
    "TaskSettings",
    "TaskWorker",
    "build_task",
    "find_task",
    "load_task",
    "pack_item",
    "read_model",
    "register",
    "save_model",
    "unpack_item",
]
