"""The virtual-time driver: the same nodes, with a clock that jumps from event to event.

An hour of training takes as long as its arithmetic, and repeats to the byte. What a worker computes is real (a
:class:`VirtualSeat` for a training loop) or absent (:meth:`Simulation.add_hollow`).
"""

from rowcast.drivers.virtual.clock import Clock
from rowcast.drivers.virtual.device import Device, ServerCosts
from rowcast.drivers.virtual.seat import VirtualSeat
from rowcast.drivers.virtual.simulation import Simulation

__all__ = ["Clock", "Device", "ServerCosts", "Simulation", "VirtualSeat"]
