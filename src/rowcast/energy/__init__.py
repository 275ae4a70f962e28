"""Energy: what a robot draws in each state, what a worker spent, what an accuracy cost, and meters.

A figure is an amount with a source: either the table of power states (:class:`PowerStates`) applied to a journal
(:func:`worker_energy`), or a sensor that has proved that it reads (:func:`open_meter`).
"""

from __future__ import annotations

from rowcast.energy.account import Energy, StateSeconds, WorkerEnergy, total_energy, worker_energy
from rowcast.energy.jetson import Ina3221, JetsonStats
from rowcast.energy.meters import CounterMeter, Meter, MeterLog, PowerMeter, change_load, check_alive
from rowcast.energy.opening import CHOICES, REGISTRY, OpenedMeter, open_meter, register
from rowcast.energy.reaching import CensoredValue, any_censored, energy_to_metric, smoothed, time_to_metric
from rowcast.energy.sensors import Model, Nvml, NvmlPower, Rapl
from rowcast.energy.states import PowerStates

__all__ = [
    "CHOICES",
    "REGISTRY",
    "CensoredValue",
    "CounterMeter",
    "Energy",
    "Ina3221",
    "JetsonStats",
    "Meter",
    "MeterLog",
    "Model",
    "Nvml",
    "NvmlPower",
    "OpenedMeter",
    "PowerMeter",
    "PowerStates",
    "Rapl",
    "StateSeconds",
    "WorkerEnergy",
    "any_censored",
    "change_load",
    "check_alive",
    "energy_to_metric",
    "open_meter",
    "register",
    "smoothed",
    "time_to_metric",
    "total_energy",
    "worker_energy",
]
