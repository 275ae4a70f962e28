"""CRIMP: robots map a place together, and find themselves in what the others saw (:mod:`rowcast.tasks.crimp.task`)."""

from rowcast.tasks.crimp.scene import Bounds, View
from rowcast.tasks.crimp.settings import CrimpSettings, RecordedSettings, RoomSettings
from rowcast.tasks.crimp.task import CrimpTask, RecordedTask, RedKitchenTask, RoomTask, SevenScenesTask
from rowcast.tasks.crimp.worker import CrimpWorker

__all__ = [
    "CRIMP_TASKS",
    "Bounds",
    "CrimpSettings",
    "CrimpTask",
    "CrimpWorker",
    "RecordedSettings",
    "RecordedTask",
    "RedKitchenTask",
    "RoomSettings",
    "RoomTask",
    "SevenScenesTask",
    "View",
]

#: What is registered: each task by its name.
CRIMP_TASKS: dict[str, type[CrimpTask]] = {
    "crimp-room": RoomTask,
    "crimp-redkitchen": RedKitchenTask,
    "crimp-7scenes": SevenScenesTask,
    "crimp-folder": RecordedTask,
}
