"""Streams whose world drifts: a small model follows them, tested on each batch before it is trained on it.

Rehearsal (:mod:`rowcast.streams`) is off where nothing is said. It pays where classes come back: with a reservoir of
200 old samples a robot, 20 of them beside 10 new ones, 24.8 % instead of 13.7 % are right at first sight (``outdoor``)
and 60.9 % instead of 44.4 % (``wall``). It costs where the world itself moves: 7.3 dB of error instead of 6.7 dB
(``rssi``). To draw by the last loss (``importance:200``) gave less than the reservoir where that pays: 22.8 % and
55.6 %; 7.2 dB. The figures are those of ``benchmarks/drift.py``.
"""

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
