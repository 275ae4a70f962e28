"""How long each operator of a captured model takes on this device, and the times of two devices as one profile.

A profile needs the times of robot and server, and a machine can measure its own only. :func:`measure` gives a profile
whose two sides are this device, to be saved on either machine. :func:`profile`, on the robot, takes the server's side
from such a file, or from a guess of how many times as fast it is; :func:`joined_files` puts two such files together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from rowcast.errors import ConfigError
from rowcast.graphs import Graph, Profile, load_profile
from rowcast.graphs.profile import Seconds
from rowcast.planning.streamed import schedule
from rowcast.split.captured import Captured
from rowcast.split.rowstream import RowStream

__all__ = ["joined", "joined_files", "measure", "profile"]

#: Runs before times count: memory is allocated, kernels are chosen.
WARM_UP = 3
#: Runs that are timed operator by operator, at least and at most.
FEWEST_TRACED, MOST_TRACED = 5, 200
#: Numbers of slabs with which the cost of a step is measured, and how often.
SLABS, STREAMED = (4, 16), 3
#: Launches of the smallest kernel that are timed together, and how often.
LAUNCHES, REPEATS = 200, 15


def measure(captured: Captured, inputs: Sequence[torch.Tensor] | None = None, *, seconds: float = 5.0) -> Profile:
    """Times of this device, on the threads that torch uses (``torch.set_num_threads``).

    The model runs for ``seconds`` as it does in use. Of these runs the median is the time of the whole model, and the
    99th percentile the sustained time. Then it runs for half as long with a look at the clock behind each operator (on
    a GPU: events in its stream). What that shows is scaled, so that the sum over the operators is the median of the
    whole model, and looking at the clock costs nothing. Inputs take no time. Last it runs in slabs of rows: what that
    takes on top is shared by the steps in which operators compute a part of their rows.

    Args:
        inputs: for batch 1, as ``flat_inputs`` gives them; by default random ones. On a GPU: there already.
        seconds: give minutes on a robot that becomes warm.

    Returns:
        A profile that has these times on both sides.

    Raises:
        ConfigError: not above 0 seconds.
    """
    if not seconds > 0:
        raise ConfigError(f"measure: expected seconds above 0, got {seconds}")
    given = tuple(inputs) if inputs is not None else _random_inputs(captured)
    device = given[0].device
    durations = _whole_runs(captured, given, seconds)
    whole_s = float(np.median(durations))
    shares = _traced(captured, given, seconds / 2)
    op_s = shares * (whole_s / shares.sum())
    floor_s = _floor(device)
    step_s = _step(captured, given, whole_s)
    return Profile(op_s, op_s, floor_s, floor_s, float(np.percentile(durations, 99)), step_s, step_s)


def profile(captured: Captured, server: float | Path = 1.0, *, seconds: float = 5.0) -> Profile:
    """Times of a robot, which is this device, and of its server.

    Args:
        server: how many times as fast as this device it is, or the file with what :func:`measure` gave there.
        seconds: as for :func:`measure`.

    Raises:
        ConfigError: a factor that is not above 0; a file that cannot be read, or that is of another model.
    """
    if not isinstance(server, Path):
        return measure(captured, seconds=seconds).faster(server=server)
    graph, there = load_profile(server)
    _expect_same(captured.graph, graph, "this model", str(server))
    return joined(measure(captured, seconds=seconds), there)


def joined(robot: Profile, server: Profile) -> Profile:
    """One profile of what :func:`measure` gave on the robot and what it gave on the server.

    Raises:
        ConfigError: they are of different models.
    """
    return Profile(
        robot.robot_s,
        server.robot_s,
        robot.robot_floor_s,
        server.robot_floor_s,
        robot.local_p99_s,
        robot.robot_step_s,
        server.robot_step_s,
    )


def joined_files(robot: Path, server: Path) -> tuple[Graph, Profile]:
    """The same of two files of ``rowcast.graphs.save_profile``, one written on each machine.

    Raises:
        ConfigError: a file that cannot be read, or two models that differ; the first difference is named.
    """
    (graph, of_robot), (other, of_server) = load_profile(robot), load_profile(server)
    _expect_same(graph, other, str(robot), str(server))
    return graph, joined(of_robot, of_server)


def _expect_same(mine: Graph, other: Graph, name: str, other_name: str) -> None:
    difference = mine.difference(other)
    if difference is not None:
        raise ConfigError(
            f"{name} and {other_name}: expected the same model, got another: {difference}; measure one on both"
        )


def _random_inputs(captured: Captured) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)

    def random(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
        if dtype.is_floating_point:
            return torch.randn(shape, generator=generator).to(dtype)
        # Small numbers are valid tokens.
        return torch.randint(0, 256 if dtype is torch.uint8 else 2, shape, generator=generator).to(dtype)

    return tuple(random(each.dtype, each.shape).to(each.device) for each in captured.inputs)


def _whole_runs(captured: Captured, inputs: Sequence[torch.Tensor], seconds: float) -> Seconds:
    """float64 [runs]: seconds of each run of the model."""
    wait = _waiter(inputs[0].device)
    part = captured.whole
    for _ in range(WARM_UP):
        part(*inputs)
    wait()
    found: list[float] = []
    start = end = time.perf_counter()
    while end - start < seconds or len(found) < FEWEST_TRACED:
        begin = time.perf_counter()
        part(*inputs)
        wait()
        end = time.perf_counter()
        found.append(end - begin)
    return np.array(found)


def _step(captured: Captured, inputs: Sequence[torch.Tensor], whole_s: float) -> float:
    """What an operator takes on top each time that it computes a part of its rows (s): the worst of a few numbers."""
    graph = captured.graph
    rows = {op: graph.ops[op].rows for op in graph.inputs}
    wait = _waiter(inputs[0].device)
    found = [0.0]
    for slabs in SLABS:
        if min(rows.values()) < slabs:
            continue
        _, worked = schedule(graph, slabs)
        share = np.diff(worked, axis=1, prepend=0.0)[[bool(op.inputs) for op in graph.ops]]
        steps = int(((share > 0) & (share < 1)).sum())
        if steps:
            times = [_streamed(captured, inputs, slabs, wait) for _ in range(1 + STREAMED)][1:]  # the first one plans
            found.append((float(np.median(times)) - whole_s) / steps)
    return max(found)


def _streamed(captured: Captured, inputs: Sequence[torch.Tensor], slabs: int, wait: Callable[[], object]) -> float:
    """Seconds of the model in so many slabs."""
    graph = captured.graph
    stream = RowStream(captured, range(len(graph)), graph.outputs)
    axes = [_row_axis(captured, op) for op in graph.inputs]
    begin = time.perf_counter()
    for slab in range(slabs):
        pushed = {}
        for op, tensor, axis in zip(graph.inputs, inputs, axes, strict=True):
            count = tensor.shape[axis]
            start, stop = -(-count * slab // slabs), -(-count * (slab + 1) // slabs)
            pushed[op] = tensor.narrow(axis, start, stop - start)
        stream.push_all(pushed)
    for op in graph.outputs:
        stream.take(op)
    wait()
    return time.perf_counter() - begin


def _row_axis(captured: Captured, op: int) -> int:
    tensor = captured.tensors[op]
    assert tensor is not None  # inputs can travel
    return tensor.row_axis


def _traced(captured: Captured, inputs: Sequence[torch.Tensor], seconds: float) -> Seconds:
    """float64 [ops]: the median of the time of each operator, with what looking at the clock costs."""
    graph = captured.graph
    computed = [op for op in range(len(graph)) if graph.ops[op].inputs]
    outputs = [f"t{op}" for op in graph.outputs]
    run = captured.code.function(
        [f"t{op}" for op in computed], [f"t{op}" for op in graph.inputs], outputs, outputs, marked=True
    )
    lines = _Events() if inputs[0].device.type == "cuda" else _Clock()
    runs: list[Seconds] = []
    start = time.perf_counter()
    with torch.no_grad():
        while len(runs) < FEWEST_TRACED or (time.perf_counter() - start < seconds and len(runs) < MOST_TRACED):
            lines.begin()
            run(lines.mark, *inputs)
            runs.append(lines.seconds())
    result = np.zeros(len(graph))
    result[computed] = np.median(runs, axis=0)
    return result


class _Clock:
    """Times between marks, of a processor."""

    def begin(self) -> None:
        self._times = [time.perf_counter()]

    def mark(self) -> None:
        self._times.append(time.perf_counter())

    def seconds(self) -> Seconds:
        return np.diff(self._times)


class _Events:
    """Times between marks in the stream of a GPU."""

    def begin(self) -> None:
        self._events: list[torch.cuda.Event] = []
        self.mark()

    def mark(self) -> None:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._events.append(event)

    def seconds(self) -> Seconds:
        torch.cuda.synchronize()
        pairs = zip(self._events, self._events[1:], strict=False)
        return np.array([1e-3 * before.elapsed_time(after) for before, after in pairs])


def _floor(device: torch.device) -> float:
    """Seconds of the smallest kernel, launched."""
    wait = _waiter(device)
    smallest = torch.ones(1, device=device)
    found = []
    with torch.no_grad():
        for _ in range(REPEATS):
            wait()
            begin = time.perf_counter()
            for _ in range(LAUNCHES):
                torch.relu(smallest)
            wait()
            found.append((time.perf_counter() - begin) / LAUNCHES)
    return float(np.median(found))


def _waiter(device: torch.device) -> Callable[[], None]:
    """What waits until the device has done what it was given."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None
