"""The brokers of ``benchmarks/brokers.py``, for tests; and waiting with a bound."""

from __future__ import annotations

import importlib.util
import socket
import sys
import time
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "benchmarks" / "brokers.py"
_spec = importlib.util.spec_from_file_location("broker_processes_of_benchmarks", FILE)
_brokers = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _brokers
_spec.loader.exec_module(_brokers)

KafkaMock, Mosquitto = _brokers.KafkaMock, _brokers.Mosquitto
needs_mosquitto = pytest.mark.skipif(_brokers.mosquitto_program() is None, reason="mosquitto is not installed")
LIMIT_S = 20.0


def all_of(source, count, at_most=100):
    """The next ``count`` samples."""
    found, until = [], time.monotonic() + LIMIT_S
    while len(found) < count and time.monotonic() < until:
        found += source.take(min(at_most, count - len(found)), 0.5)
    assert len(found) == count, f"{len(found)} of {count} samples; {source.trouble}"
    return found


def taking_until(source, condition):
    """Take, as a training loop does, until something is so; what came."""
    found, until = [], time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < until, f"it never was; trouble: {source.trouble!r}"
        found += source.take(100, 0.05)
    return found


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
