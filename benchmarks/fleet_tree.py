"""Parts of ``fleet.py`` about trees of relays: accuracy against a flat team, and thousands of leaves.

``tree`` trains for real in virtual time. The leaves of ``leaves`` are hollow: the unchanged nodes, of which only the
timing is simulated.
"""

from __future__ import annotations

import contextlib
import random
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from common import Figure
from fleet_root import POLICY, alone
from grid_jobs import Digits
from rowcast.config import LinkSettings
from rowcast.drivers.virtual import Device, Simulation, TreeSimulation, VirtualWorker
from rowcast.errors import NonFiniteGradient
from rowcast.experiment.runners.links import model_bytes
from rowcast.experiment.runners.virtual import CALM_WORKER, calm_server, one_thread
from rowcast.experiment.timing_tree import timing_tree
from rowcast.journal import Journal
from rowcast.links import PROFILES, Trace, synthesise
from rowcast.rows import Layout
from rowcast.sync import parse_policy
from rowcast.tasks import Task, TaskWorker
from rowcast.training import ServerNode
from rowcast.training.relay import RelayNode

__all__ = ["leaves", "tree"]

GB = 1e9
COMPUTE_S = 2.18
TRACE_S = 600.0
#: Links share traces where there are many: their memory is not what is measured.
TRACES = 64

# -- tree: accuracy ----------------------------------------------------------------------------------------------------

CODECS = ("raw", "onebit")
SEEDS = (0, 1, 2)
#: Relays, and workers below each; the flat team has as many workers.
WIDE, EACH = 4, 4
STEPS = 100
#: Standard deviation of the logarithm of a gradient's time: without it all robots would push at the same moment.
SPREAD = 0.1
#: Fewer messages; what is compared is accuracy after as many steps.
LONG_FRAMES = LinkSettings(frame_s=0.5, window_s=1.0)


def tree(*, tiny: bool) -> list[Figure]:
    """Test accuracy of a flat team and of a tree after as many steps, from the same seeds."""
    figures = []
    for codec in CODECS[:1] if tiny else CODECS:
        policy, found = POLICY.format(codec), {}
        for name, relays in (("flat", 0), ("tree", WIDE)):
            each = [trained(policy, relays, seed, 3 if tiny else STEPS) for seed in (SEEDS[:1] if tiny else SEEDS)]
            found[name] = each
            note = f"{WIDE * EACH} workers; seeds: {', '.join(f'{one:.1f}' for one in each)}"
            figures.append(Figure(f"{codec}, {name}: accuracy", statistics.mean(each), "%", note=note))
        lost = statistics.mean(found["flat"]) - statistics.mean(found["tree"])
        name = f"{codec}: accuracy, flat less tree of {WIDE} relays with {EACH} workers each"
        figures.append(Figure(name, lost, "points", None if tiny else 1.0))
    return figures


def trained(policy: str, relays: int, seed: int, steps: int) -> float:
    """The accuracy (%) of a team that has made so many steps of each worker, on outdoor links.

    Args:
        policy: policy text.
        relays: so many have the workers below them, evenly; 0: all are at the server.
        seed: of the task, the links and the devices.
        steps: of each worker.
    """
    task = Digits.build((), data_dir=None, seed=seed)
    workers, entropy = WIDE * EACH, random.Random(seed)
    robots = [task.worker(index, workers) for index in range(workers)]
    layout = Layout.from_shapes([(name, tuple(value.shape)) for name, value in robots[0].model.named_parameters()])
    parsed = parse_policy(policy)
    # A transfer of the whole model takes as long as in the recordings, whatever its code.
    scale = int(parsed.row_codec.row_bytes(layout).sum()) / Task.reference_bytes
    server = ServerNode(
        parsed,
        settings=calm_server(relays or workers),
        link_settings=LONG_FRAMES,
        journal=_unkept("server"),
        entropy=entropy.randbytes,
    )
    whole = TreeSimulation(server)
    parts: list[Simulation] = [whole]
    if relays:
        parts = [
            whole.add_relay(
                RelayNode(
                    f"relay-{number}",
                    parsed,
                    settings=calm_server(workers // relays),
                    worker_settings=CALM_WORKER,
                    link_settings=LONG_FRAMES,
                    journal=_unkept(f"relay-{number}"),
                    entropy=entropy.randbytes,
                ),
                *_outdoor((seed, workers + number), scale),
            )
            for number in range(relays)
        ]
    accuracies: list[float] = []
    for index, robot in enumerate(robots):
        worker = VirtualWorker(
            parts[index * len(parts) // workers],
            f"robot-{index}",
            Device(COMPUTE_S, SPREAD, seed=1000 * seed + index),
            _outdoor((seed, index), scale),
            entropy=entropy.randbytes,
            settings=CALM_WORKER,
            link_settings=LONG_FRAMES,
            journal=_unkept(f"robot-{index}"),
        )
        worker.train(_loop(robot, worker, steps, accuracies))
    with one_thread():
        whole.run(1e6)
    if len(accuracies) != workers:
        raise RuntimeError(f"{policy}: expected {workers} workers at the end, got {len(accuracies)}")
    return statistics.mean(accuracies)


def _loop(robot: TaskWorker, worker: VirtualWorker, steps: int, accuracies: list[float]) -> Callable[[], None]:
    def loop() -> None:
        optimizer = robot.wrap(worker, nonfinite="skip")
        for _ in range(steps):
            robot.compute()
            with contextlib.suppress(NonFiniteGradient):  # counted as a step without a contribution
                optimizer.step()
        optimizer.close()
        accuracies.append(float(robot.evaluate()["accuracy"]))

    return loop


def _outdoor(seed: tuple[int, int], scale: float) -> tuple[Trace, Trace]:
    up, down = (synthesise(PROFILES["outdoor"], (*seed, way), TRACE_S).scaled(scale) for way in (0, 1))
    return up, down


def _unkept(name: str) -> Journal:
    return Journal(name, lambda record: None)


# -- leaves: a large tree ----------------------------------------------------------------------------------------------

#: 500 rows, as in ``simulate.py``.
SMALL = Layout.from_shapes([(f"layer{k}", (50, 509)) for k in range(10)])
LINK_BPS = 50e6
#: Relays, and leaves below each: the tree that is asked for, and a tenth of it for the slope.
FLEETS = ((10, 100), (100, 100))
FLEET_S = 60.0
#: A whole model travels in a frame: the time of one on its link (s).
FRAME_S = 10.0
MOST = 100_000


@dataclass(frozen=True)
class Fleet:
    """What came of a tree of hollow leaves.

    Attributes:
        leaves: how many.
        join_s: processor time until all had joined (s).
        run_s: processor time of what came then (s).
        messages: delivered after the start, at all servers.
        at_root: of these, at the root.
        steps: of a leaf, the mean.
        peak_bytes: most resident memory of the process.
    """

    leaves: int
    join_s: float
    run_s: float
    messages: int
    at_root: int
    steps: float
    peak_bytes: int

    @property
    def whole_s(self) -> float:
        """Processor time of all of it (s)."""
        return self.join_s + self.run_s


def fleet(relays: int, each: int, seconds: float) -> Fleet:
    """Let a tree run for so many virtual seconds."""
    scale, count = model_bytes(SMALL) / Task.reference_bytes, relays * each
    links = LinkSettings(frame_s=FRAME_S, initial_rate_bps=max(LINK_BPS * scale, 1e5))
    traces = [synthesise(PROFILES["outdoor"], (0, k), TRACE_S).scaled(scale) for k in range(min(2 * count, TRACES))]
    pairs = [(traces[2 * k % len(traces)], traces[(2 * k + 1) % len(traces)]) for k in range(count)]
    steps = 0

    def look(record: dict[str, object]) -> None:
        nonlocal steps
        steps += record["event"] == "step"

    journals = [Journal(f"robot-{k}", look) for k in range(count)]
    began = time.process_time()
    # Robots differ by up to 10 %: those of a real fleet do not compute in step.
    devices = [Device(COMPUTE_S * (1 + 0.1 * pace)) for pace in np.random.default_rng(0).random(count)]
    simulation = timing_tree(
        POLICY.format("onebit"), SMALL, devices, pairs, pairs[:relays], journals, link_settings=links
    )
    simulation.run(0.0)
    joined, told, told_root = time.process_time(), simulation.delivered, simulation.messages
    simulation.run(seconds)
    over = time.process_time()
    if {leaf.node.members for leaf in simulation.leaves()} != {count}:
        raise RuntimeError(f"leaves: expected each of {count} to share its updates with all others")
    return Fleet(
        count,
        joined - began,
        over - joined,
        simulation.delivered - told,
        simulation.messages - told_root,
        steps / count,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def leaves(*, tiny: bool) -> list[Figure]:
    """Processor time and memory of a large tree, and of ten times as many leaves by the slope of two trees."""
    shapes, seconds = (((2, 2), (2, 4)), 4.0) if tiny else (FLEETS, FLEET_S)
    small, large = (alone(fleet, *shape, seconds, here=tiny) for shape in shapes)
    assert isinstance(small, Fleet) and isinstance(large, Fleet)
    figures = []
    for one, (relays, _) in zip((small, large), shapes, strict=True):
        asked = one is large and not tiny
        name = f"{one.leaves} hollow leaves under {relays} relays"
        note = f"{one.messages} messages, {one.at_root} at the root, {one.steps:.1f} steps each; joined in "
        note += f"{one.join_s:.1f} s; {1e6 * one.run_s / max(one.messages, 1):.0f} us a message"
        figures += [
            Figure(f"{name}, {seconds:g} virtual seconds", one.whole_s / 60, "min", 10.0 if asked else None, note=note),
            Figure(f"{name}: memory", one.peak_bytes / GB, "GB", 8.0 if asked else None, note="the most"),
        ]
    more, ahead = large.leaves - small.leaves, MOST - large.leaves
    for name, before, after, unit in (
        ("processor time", small.whole_s / 60, large.whole_s / 60, "min"),
        ("memory", small.peak_bytes / GB, large.peak_bytes / GB, "GB"),
    ):
        slope = (after - before) / more
        note = f"{after:.3g} + ({after:.3g} - {before:.3g}) / {more} * {ahead}; extrapolated"
        figures.append(Figure(f"{MOST} leaves: {name}", after + slope * ahead, unit, note=note))
    return figures
