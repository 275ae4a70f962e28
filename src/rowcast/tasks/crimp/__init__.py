"""CRIMP: robots map a place together, and find themselves in what the others saw (:mod:`rowcast.tasks.crimp.task`)."""

from rowcast.tasks.crimp.task import CrimpTask, RecordedTask, RedKitchenTask, RoomTask, SevenScenesTask

__all__ = ["CRIMP_TASKS", "CrimpTask", "RecordedTask", "RedKitchenTask", "RoomTask", "SevenScenesTask"]

#: What is registered: each task by its name.
CRIMP_TASKS: dict[str, type[CrimpTask]] = {
    "crimp-room": RoomTask,
    "crimp-redkitchen": RedKitchenTask,
    "crimp-7scenes": SevenScenesTask,
    "crimp-folder": RecordedTask,
}
