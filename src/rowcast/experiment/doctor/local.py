"""Checks of this machine: versions, threads, memory, meters, emulated links."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy as np

from rowcast.drivers.netns.rights import why_not_here
from rowcast.energy import open_meter
from rowcast.errors import MeterError
from rowcast.experiment.doctor.check import Check
from rowcast.version import __version__

__all__ = [
    "VECTORS",
    "emulation_check",
    "local_checks",
    "memory_check",
    "meter_check",
    "threads_check",
    "versions_check",
]

#: Copies of the model that a worker holds at most: parameters, gradients, two of an inner optimizer, pending, what was
#: sent and not acknowledged, and what is expected.
VECTORS = 7
#: So much of the free memory a worker may take before other programs feel it.
COMFORTABLE = 0.5


def local_checks(parameters: int) -> list[Check]:
    """All that can be looked at without a server.

    Args:
        parameters: of the model that is to be trained.
    """
    return [versions_check(), threads_check(), memory_check(parameters), meter_check(), emulation_check()]


def versions_check() -> Check:
    """Rowcast, Python, PyTorch and numpy: can PyTorch compute?"""
    import torch

    total = float((torch.ones(8) @ torch.ones(8)).item())
    found = (
        f"rowcast {__version__}, Python {platform.python_version()}, PyTorch {torch.__version__}, "
        f"numpy {np.__version__}, {platform.machine()}"
    )
    if total != 8.0:
        return Check("versions", "fail", f"{found}; 8 ones sum up to {total:g}", "install PyTorch for this processor")
    return Check("versions", "ok", found)


def threads_check(threads: int | None = None, processors: int | None = None) -> Check:
    """How many threads PyTorch computes with, and on how many processors.

    Args:
        threads, processors: in place of those of this process.
    """
    import torch

    threads = torch.get_num_threads() if threads is None else threads
    processors = len(os.sched_getaffinity(0)) if processors is None else processors
    found = f"PyTorch computes with {threads} threads on {processors} processors"
    if threads > processors:
        return Check("threads", "warn", found, f"set OMP_NUM_THREADS={processors}: more threads wait for each other")
    if threads < processors // 2:
        return Check("threads", "warn", found, f"set OMP_NUM_THREADS={processors}, or --threads, if nothing else runs")
    return Check("threads", "ok", found)


def memory_check(parameters: int, meminfo: Path = Path("/proc/meminfo")) -> Check:
    """Free memory against what a worker takes for a model.

    Args:
        parameters: of the model.
        meminfo: where the system says what is free.
    """
    needed = 4 * VECTORS * parameters
    free = _free_bytes(meminfo)
    what = f"{parameters:,} parameters take about {needed / 2**20:,.0f} MiB in a worker"
    if free is None:
        return Check("memory", "warn", f"{what}; what is free cannot be read ({meminfo})", "look at it by hand")
    found = f"{what}, {free / 2**20:,.0f} MiB are free"
    if needed > free:
        return Check("memory", "fail", found, "end other programs, take a smaller model, or add memory")
    if needed > COMFORTABLE * free:
        return Check("memory", "warn", found, "end other programs: activations and the system need memory, too")
    return Check("memory", "ok", found)


def _free_bytes(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    for line in lines:
        name, _, rest = line.partition(":")
        if name == "MemAvailable" and rest.split():
            return int(rest.split()[0]) * 1024
    return None


def meter_check(sys_root: Path = Path("/sys")) -> Check:
    """The first power meter that proves itself: it is read while the load changes.

    Args:
        sys_root: where sysfs is.
    """
    try:
        opened = open_meter("auto", sys_root=sys_root)
    except MeterError as error:
        why = " ".join(str(error).split())
        return Check("meter", "warn", why, "energy is worked out of the journal, from power states")
    try:
        return Check("meter", "ok", opened.meter.source)
    finally:
        opened.meter.close()


def emulation_check() -> Check:
    """Whether ``rowcast emulate`` runs here; a worker on real links does not need it."""
    reason = why_not_here()
    if reason is None:
        return Check("emulation", "ok", "networks of namespaces can be made")
    return Check("emulation", "warn", reason, "only 'rowcast emulate' needs it")
