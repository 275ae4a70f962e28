"""The virtual-time driver: the same nodes, with a clock that jumps from event to event.

An hour of training takes as long as its arithmetic, and repeats to the byte. What a worker computes is real (a
:class:`VirtualWorker` for a training loop) or absent (:meth:`Simulation.add_timing_only`). Inferences
(:class:`InferenceSimulation`) take what a profile says. A team may have relays (:class:`TreeSimulation`).
"""

from rowcast.drivers.virtual.clock import Clock
from rowcast.drivers.virtual.device import Device, ServerCosts
from rowcast.drivers.virtual.gifts import Gifts
from rowcast.drivers.virtual.inferences import InferenceSimulation, VirtualRobot
from rowcast.drivers.virtual.profiled import ProfileEngine
from rowcast.drivers.virtual.simulation import Simulation
from rowcast.drivers.virtual.stream import VirtualStream
from rowcast.drivers.virtual.tree import TreeSimulation
from rowcast.drivers.virtual.worker import TimeOver, VirtualWorker

__all__ = [
    "Clock",
    "Device",
    "Gifts",
    "InferenceSimulation",
    "ProfileEngine",
    "ServerCosts",
    "Simulation",
    "TimeOver",
    "TreeSimulation",
    "VirtualRobot",
    "VirtualStream",
    "VirtualWorker",
]
