"""Parts of ``fleet.py``: what a message costs in virtual time as a team grows, and what a large flat team takes.

The workers are hollow: the unchanged nodes, of which only the timing is simulated. All of them are at one server.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from common import Figure, reference_layout
from pulls import resident_bytes
from rowcast.config import LinkSettings
from rowcast.drivers.virtual import Device, Simulation
from rowcast.experiment.runners.links import model_bytes
from rowcast.experiment.timing_team import timing_team
from rowcast.journal import Journal
from rowcast.links import PROFILES, synthesise
from rowcast.rows import Layout
from rowcast.sync import VersionTable
from rowcast.tasks import Task

__all__ = ["memory", "messages"]

#: 500 rows, as in ``simulate.py``.
SMALL = Layout.from_shapes([(f"layer{k}", (50, 509)) for k in range(10)])
LINK_BPS = 50e6
COMPUTE_S = 2.18
TRACE_S = 600.0
#: Workers share traces: their memory is not what is measured.
TRACES = 64
FEW, MANY = 64, 1000
POLICIES = ("rog:4", "rowcast?pulls=common")
#: Virtual seconds from the start on in which messages are counted, and the time of a frame on its link then (s).
SECONDS, FRAME_S = 12.0, 0.05
#: The flat team that is to fit into memory, for so many virtual seconds; a whole model travels in a frame.
FLEET, FLEET_S, FLEET_FRAME_S = 10_000, 60.0, 10.0
GB = 1e9


@dataclass(frozen=True)
class Course:
    """What came of a team.

    Attributes:
        start_s: processor time until all workers have joined (s).
        run_s: processor time of what came then (s).
        messages: delivered after the start.
        steps: steps of a worker, the mean.
    """

    start_s: float
    run_s: float
    messages: int
    steps: float

    @property
    def message_us(self) -> float:
        """Processor time of a message after the start (us)."""
        return 1e6 * self.run_s / max(self.messages, 1)


def team_of(policy: str, workers: int, frame_s: float, steps: list[int]) -> Simulation:
    """A team of hollow workers on outdoor links, ready to run; its steps are counted in ``steps``."""
    scale = model_bytes(SMALL) / Task.reference_bytes
    links = LinkSettings(frame_s=frame_s, initial_rate_bps=max(LINK_BPS * scale, 1e5))
    traces = [synthesise(PROFILES["outdoor"], (0, k), TRACE_S).scaled(scale) for k in range(min(2 * workers, TRACES))]

    def count(record: dict[str, object]) -> None:
        steps[0] += record["event"] == "step"

    journals = [Journal(f"robot-{index}", count) for index in range(workers)]
    pairs = [(traces[2 * index % len(traces)], traces[(2 * index + 1) % len(traces)]) for index in range(workers)]
    return timing_team(policy, SMALL, [Device(COMPUTE_S)] * workers, pairs, journals, link_settings=links)


def course_of(policy: str, workers: int, seconds: float, frame_s: float) -> Course:
    """Let a team run for so many virtual seconds."""
    steps = [0]
    simulation = team_of(policy, workers, frame_s, steps)
    began = time.process_time()
    simulation.run(0.0)
    joined, told = time.process_time(), simulation.messages
    simulation.run(seconds)
    over = time.process_time()
    return Course(joined - began, over - joined, simulation.messages - told, steps[0] / workers)


def messages(*, tiny: bool) -> list[Figure]:
    """Processor time of a message in virtual time with few workers and with many, over the same virtual seconds.

    The few run before and behind the many, and the faster of both counts.
    """
    few, many, seconds = (4, 8, 4.0) if tiny else (FEW, MANY, SECONDS)
    figures = []
    for policy in POLICIES:
        course_of(policy, 4, 4.0, FRAME_S)  # kernels are loaded
        before = course_of(policy, few, seconds, FRAME_S)
        large = course_of(policy, many, seconds, FRAME_S)
        after = course_of(policy, few, seconds, FRAME_S)
        small_us = min(before.message_us, after.message_us)
        note = f"{small_us:.0f} and {large.message_us:.0f} us; {large.messages} messages, {large.steps:.1f} steps each"
        bound = None if tiny else 1.5
        name = f"{policy}: a message in virtual time, {many} / {few} workers"
        figures.append(Figure(name, large.message_us / small_us, "ratio", bound, note=note))
    return figures


def memory(*, tiny: bool) -> list[Figure]:
    """What the server remembers of how far each worker has come, and a whole flat team of hollow workers."""
    layout, name = reference_layout(tiny=tiny)
    workers, seconds = (24, 4.0) if tiny else (FLEET, FLEET_S)
    before = resident_bytes()
    table = VersionTable(layout.rows)
    for worker in range(workers):
        table.admit(f"robot-{worker}", 0)
    table_gb = (resident_bytes() - before) / GB
    each = table.worker_bytes
    del table
    before = resident_bytes()
    steps = [0]
    began = time.process_time()
    simulation = team_of("rog:4", workers, FLEET_FRAME_S, steps)
    simulation.run(0.0)
    joined_s = time.process_time() - began
    simulation.run(seconds)
    took_s = time.process_time() - began
    team_gb = (resident_bytes() - before) / GB
    note = f"{simulation.messages} messages, {steps[0] / workers:.1f} steps each, {SMALL.rows} rows"
    return [
        Figure("versions of a worker, bytes a row", each / layout.rows, "bytes", _bound(2.1, tiny), note=name),
        Figure(f"versions of {workers} workers", table_gb, "GB", note=f"resident; {each} bytes each"),
        Figure(f"{workers} hollow workers at one server, rog:4", team_gb, "GB", _bound(8.0, tiny), note="resident"),
        Figure(f"the same, {seconds:g} virtual seconds", took_s / 60, "min", _bound(10.0, tiny), note=note),
        Figure("of that until all have joined", joined_s, "s", note="processor time"),
    ]


def _bound(bound: float, tiny: bool) -> float | None:
    return None if tiny else bound
