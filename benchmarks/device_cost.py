"""What a step costs on a device: work on rows as multiples of one copy there, and what the host does beside it.

A copy is one of a vector of the model's size from and to the device's memory. Each is the shortest of several runs,
timed by the host until the device is done. The host's part is what ``Optimizer.step()`` takes beside the inner
optimizer's step, less the time in which kernels ran (PyTorch's profiler), with a server in a process of its own.
Operations of PyTorch are counted without views; most are a kernel each. ``cpu:0`` does all of it on the processor.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from common import Figure, best_s
from goodput import server_process
from rowcast.codecs import codec_by_name
from rowcast.drivers.sockets import Endpoint, Team
from rowcast.optim import Optimizer
from rowcast.optim.device import DeviceHome
from rowcast.optim.device.vector import DeviceProposal
from rowcast.rows import Layout

__all__ = ["device_figures"]

#: Encode, decode and apply together, in copies; and what the host may take in a step (ms).
MOST_COPIES, MOST_HOST_MS = 6.0, 2.0


def device_figures(layout: Layout, device: torch.device, repeat: int, steps: int, pause_s: float) -> list[Figure]:
    """What is done with rows, and the host's part of a step.

    Args:
        layout: the rows.
        device: where; ``cpu`` does the same on the processor, without bounds.
        repeat: runs of each.
        steps: steps of which the shortest counts.
        pause_s: between two steps (s).
    """
    home = DeviceHome(device)
    figures = _work(home, layout, repeat)
    host_ms, kernels_ms, whole_ms = _steps(layout, device, home, steps, pause_s)
    bound = MOST_HOST_MS if device.type == "cuda" else None
    note = f"{whole_ms:.3f} ms beside the inner step, {kernels_ms:.3f} ms of it kernels; rowcast, {steps} steps"
    return [*figures, Figure("host's part of a step", host_ms, "ms", bound, note=note)]


def _work(home: DeviceHome, layout: Layout, repeat: int) -> list[Figure]:
    noise = np.random.default_rng(0).standard_normal(layout.elements, dtype=np.float32)
    pending, replica, proposed = (home.vector(layout, noise) for _ in range(3))
    codec, rows = codec_by_name("onebit"), np.arange(layout.rows, dtype=np.int64)
    weights, sums = np.full(layout.rows, 0.25, dtype=np.float32), np.zeros(layout.rows, dtype=np.float32)
    computed, payload = np.zeros(layout.rows), pending.encode(codec, rows, consume=False)
    proposal = DeviceProposal(home, layout, proposed.data, replica.data)

    def timed(work: Callable[[], object]) -> float:
        return _best_on(home, work, repeat)

    copy_s = timed(lambda: home.do(lambda: pending.data.copy_(replica.data)))
    encode, add = "encode, to bytes in host memory", "decode and add, each of two vectors"
    works: dict[str, Callable[[], object]] = {
        "accumulate (check, add, measure)": lambda: pending.accumulate(proposal, replica, weights, sums, computed),
        "measure rows": lambda: pending.sizes(rows),
        encode: lambda: pending.encode(codec, rows),
        add: lambda: replica.add(codec, payload, rows, -1.0),
    }
    times = {name: timed(work) for name, work in works.items()}
    notes = {name: f"{times[name] / copy_s:.2f} copies, {_operations(work)} operations" for name, work in works.items()}
    bound = MOST_COPIES if home.device.type == "cuda" else None
    figures = [Figure("copy on the device", copy_s * 1e3, "ms", note=home.name)]
    figures += [Figure(name, seconds * 1e3, "ms", note=notes[name]) for name, seconds in times.items()]
    whole = (times[encode] + 2 * times[add]) / copy_s
    return [*figures, Figure("encode, decode, apply / copy", whole, "ratio", bound)]


def _operations(work: Callable[[], object]) -> int:
    """How many operations of PyTorch something takes, views left out."""
    count = 0

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal count
            count += not func.is_view
            return func(*args, **(kwargs or {}))

    with Counting():
        work()
    return count


def _best_on(home: DeviceHome, work: Callable[[], object], repeat: int) -> float:
    """The shortest of several runs until the device is done (s)."""
    if home.device.type != "cuda":
        return best_s(work, repeat)

    def whole() -> None:
        work()
        torch.cuda.synchronize(home.device)

    return best_s(whole, repeat)


def _steps(
    layout: Layout, device: torch.device, home: DeviceHome, steps: int, pause_s: float
) -> tuple[float, float, float]:
    """The host's part, the kernels, and both together, of the shortest step, each without the inner optimizer (ms)."""
    model, other = (
        nn.ParameterList([nn.Parameter(torch.zeros(spec.shape, device=device)) for spec in layout.tensors])
        for _ in range(2)
    )
    for parameter in (*model, *other):
        parameter.grad = torch.full_like(parameter, 1e-3)
    inner, alone = (torch.optim.SGD(one.parameters(), lr=1e-2) for one in (model, other))
    times: list[tuple[float, float, float]] = []
    with server_process("rowcast") as port:
        team = Team(Endpoint("127.0.0.1", port), name="robot-0")
        team.home = home
        with Optimizer(inner, model, team) as optimizer:
            for _ in range(steps):
                time.sleep(pause_s)
                own_s, own_kernels_s = _profiled(device, alone.step)
                whole_s, kernels_s = _profiled(device, optimizer.step)
                whole_ms, kernels_ms = (whole_s - own_s) * 1e3, max(kernels_s - own_kernels_s, 0.0) * 1e3
                times.append((whole_ms - kernels_ms, kernels_ms, whole_ms))
    return min(times)


def _profiled(device: torch.device, work: Callable[[], object]) -> tuple[float, float]:
    """Seconds that something takes until the device is done, in a run; and those of kernels, in one before it."""
    if device.type != "cuda":
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun, 0.0
    torch.cuda.synchronize(device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        torch.cuda.synchronize(device)
    kernels_s = sum(event.self_device_time_total for event in profile.key_averages()) / 1e6
    begun = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - begun, kernels_s
