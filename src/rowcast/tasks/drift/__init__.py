"""Streams whose world drifts: a small model follows them, tested on each batch before it is trained on it."""

from rowcast.tasks.drift.digits import DriftDigitsTask
from rowcast.tasks.drift.recorded import OutdoorTask, RecordedTask, RssiTask, WallTask
from rowcast.tasks.drift.settings import DigitsSettings, DriftSettings, RssiSettings
from rowcast.tasks.drift.task import DriftTask
from rowcast.tasks.drift.worker import DriftWorker

__all__ = [
    "DRIFT_TASKS",
    "DigitsSettings",
    "DriftDigitsTask",
    "DriftSettings",
    "DriftTask",
    "DriftWorker",
    "OutdoorTask",
    "RecordedTask",
    "RssiSettings",
    "RssiTask",
    "WallTask",
]

#: What is registered: each task by its name.
DRIFT_TASKS: dict[str, type[DriftTask]] = {
    kind.name: kind for kind in (OutdoorTask, WallTask, RssiTask, DriftDigitsTask)
}
