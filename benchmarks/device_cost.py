"""What a step costs on a device: the kernels as multiples of one copy there, and what the host does beside them.

A copy is one of a vector of the model's size from and to the device's memory. Kernels are timed by events in their
stream, each the shortest of several runs. The host's part is what ``Optimizer.step()`` takes beside the inner
optimizer's step, less the time in which kernels ran (PyTorch's profiler), with a server in a process of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from common import Figure, best_s
from goodput import server_process
from rowcast.codecs import codec_by_name
from rowcast.drivers.sockets import Endpoint, Team
from rowcast.optim import Optimizer
from rowcast.optim.device import DeviceHome
from rowcast.rows import Layout

__all__ = ["device_figures"]

#: Encode, decode and apply together, in copies; and what the host may take in a step (ms).
MOST_COPIES, MOST_HOST_MS = 6.0, 2.0


def device_figures(layout: Layout, device: torch.device, repeat: int, steps: int, pause_s: float) -> list[Figure]:
    """Kernels, and the host's part of a step.

    Args:
        layout: the rows.
        device: where; ``cpu`` runs the kernels of PyTorch on the processor, without bounds.
        repeat: runs of each kernel.
        steps: steps of which the shortest counts.
        pause_s: between two steps (s).
    """
    home = DeviceHome(device)
    figures = _kernels(home, layout, repeat)
    host_ms, kernels_ms, whole_ms = _steps(layout, device, home, steps, pause_s)
    bound = MOST_HOST_MS if device.type == "cuda" else None
    note = f"{whole_ms:.3f} ms beside the inner step, {kernels_ms:.3f} ms of it kernels; rowcast, {steps} steps"
    return [*figures, Figure("host's part of a step", host_ms, "ms", bound, note=note)]


def _kernels(home: DeviceHome, layout: Layout, repeat: int) -> list[Figure]:
    random = np.random.default_rng(0)
    noise = random.standard_normal(layout.elements, dtype=np.float32)
    vector, other, third = (home.vector(layout, noise) for _ in range(3))
    rows, chosen, kernels = np.arange(layout.rows, dtype=np.int64), home.all_rows(layout), home.kernels
    weights, room = home.upload(np.full(layout.rows, 0.25, dtype=np.float32)), torch.empty_like(vector.data)
    payload = home.kernels.encode(vector.data, chosen, consume=False)

    def timed(work: Callable[[], object]) -> float:
        return _best_on(home, work, repeat)

    copy_s = timed(lambda: other.data.copy_(third.data))
    encode_s = timed(lambda: kernels.encode(vector.data, chosen, consume=True))
    add_s = timed(lambda: kernels.add(other.data, chosen, payload, -1.0))
    codec = codec_by_name("onebit")
    stages = {
        "accumulate (check, add, measure)": timed(
            lambda: kernels.accumulate(vector.data, other.data, third.data, weights, chosen, room)
        ),
        "measure rows": timed(lambda: kernels.abs_sums(vector.data, chosen)),
        "write ahead of the replica": timed(lambda: kernels.spread(vector.data, other.data, weights, chosen, room)),
        "encode": encode_s,
        "decode and add, each of two vectors": add_s,
    }
    there_s = best_s(lambda: vector.encode(codec, rows), repeat)
    here_s = best_s(lambda: codec.encode(layout, noise, rows), min(repeat, 3))
    total = (encode_s + 2 * add_s) / copy_s
    bound = MOST_COPIES if home.device.type == "cuda" else None
    figures = [Figure("copy on the device", copy_s * 1e3, "ms", note=f"{home.name}, kernels of {kernels.name}")]
    figures += [
        Figure(name, seconds * 1e3, "ms", note=f"{seconds / copy_s:.2f} copies") for name, seconds in stages.items()
    ]
    return [
        *figures,
        Figure("encode, decode, apply / copy", total, "ratio", bound),
        Figure("encode to bytes in host memory", there_s * 1e3, "ms", note=f"on the host: {here_s * 1e3:.3f} ms"),
    ]


def _best_on(home: DeviceHome, work: Callable[[], object], repeat: int) -> float:
    """The shortest of several runs (s), by the device's own clock where it has one."""
    if home.device.type != "cuda":
        return best_s(work, repeat)
    best = float("inf")
    with home.working():
        for _ in range(repeat + 1):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(4):
                work()
            end.record()
            end.synchronize()
            best = min(best, begin.elapsed_time(end) / 4e3)
    return best


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
