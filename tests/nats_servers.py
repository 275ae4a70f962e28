"""The nats-servers of ``benchmarks/nats_processes.py``, for tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


def _load():
    sys.path.insert(0, str(FOLDER))  # it finds its neighbour
    try:
        spec = importlib.util.spec_from_file_location("nats_processes_of_benchmarks", FOLDER / "nats_processes.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


_nats = _load()
NatsServer, nats_cluster, free_ports = _nats.NatsServer, _nats.nats_cluster, _nats.free_ports
missing = [
    what
    for what, is_there in {
        "nats-server (or ROWCAST_NATS_SERVER)": _nats.nats_program() is not None,
        "nats-py": importlib.util.find_spec("nats") is not None,
    }.items()
    if not is_there
]
needs_nats = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")
