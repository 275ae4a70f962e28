"""Which way does it move? Short clips of handwritten digits of which one frame says nothing: order in time is needed.

Three models of the same parameters and the same FLOPs tell how far each gets: frames by themselves (``2d``), the
Temporal Shift Module (``tsm``), and its one-way form (``online``) that a robot can run frame by frame.
"""

from rowcast.tasks.motion.clips import DIRECTIONS, moving
from rowcast.tasks.motion.models import MODELS, FrameByFrame, MotionNet
from rowcast.tasks.motion.settings import MotionSettings
from rowcast.tasks.motion.task import MotionTask

__all__ = [
    "DIRECTIONS",
    "MODELS",
    "MOTION_TASKS",
    "FrameByFrame",
    "MotionNet",
    "MotionSettings",
    "MotionTask",
    "moving",
]

#: What is registered: each task by its name.
MOTION_TASKS: dict[str, type[MotionTask]] = {MotionTask.name: MotionTask}
