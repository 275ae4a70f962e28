"""The course of a plan: its work and transfers one by one, over a link whose rate changes on the way.

A prediction of a planner is for one rate. The same plan as jobs of robot, link and server can be followed over a
:class:`~rowcast.links.Trace`; over a constant rate it takes what the planner predicts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rowcast.errors import LocalProtocolError
from rowcast.links import Trace
from rowcast.planning.coding import Coding
from rowcast.planning.costs import CostModel
from rowcast.planning.plan import Plan
from rowcast.planning.streamed import BYTES, FRAMES, ROBOT, ROWS, SERVER, slab_amounts

__all__ = ["DECODE", "PLACES", "Job", "Span", "course", "follow"]

#: Where a job is done: each place does one at a time, in the order in which they are given. What comes back is decoded
#: beside the robot's other work.
PLACES = ("robot", "link up", "server", "link down", "decode")
AT_ROBOT, UP, AT_SERVER, DOWN, DECODE = range(5)


@dataclass(frozen=True)
class Job:
    """A piece of work or a transfer.

    Attributes:
        place: where, one of :data:`PLACES` by its number.
        what: for a time line.
        seconds: how long it takes; of a transfer, what it takes beside its bytes.
        bytes: what travels.
        needs: the job before which it cannot begin; ``None``: the input.
        after_s: how much later its result is there: half of a round trip.
    """

    place: int
    what: str
    seconds: float
    bytes: float
    needs: int | None
    after_s: float = 0.0


@dataclass(frozen=True)
class Span:
    """When a job is done (s); ``there_s``: when its result can be used."""

    job: Job
    start_s: float
    end_s: float
    there_s: float


def follow(jobs: Sequence[Job], costs: CostModel, trace: Trace, start_s: float) -> list[Span]:
    """When each job is done if the input is there at ``start_s``; infinite where the trace ends before.

    Args:
        jobs: as :func:`course` gives them.
        costs: the model; of its link the share of the rate that carries tensors, and the rate down in proportion.
        trace: the rate of the link up.
        start_s: time on the trace (s).
    """
    link = costs.link
    bits = (0.0, 8 / link.goodput, 0.0, 8 / link.goodput * link.up_bps / link.down_bps, 0.0)
    free = [start_s] * len(PLACES)
    there: list[float] = []
    spans: list[Span] = []
    for job in jobs:
        place = job.place
        begin = free[place] if job.needs is None else max(free[place], there[job.needs])
        if job.bytes:
            end = trace.finish(begin, job.bytes * bits[place]) + job.seconds if begin < math.inf else math.inf
        else:
            end = begin + job.seconds
        free[place] = end
        there.append(end + job.after_s)
        spans.append(Span(job, begin, end, there[-1]))
    return spans


def course(costs: CostModel, plan: Plan) -> tuple[Job, ...]:
    """A plan of one input as jobs; a batch, and operators that are split, have none.

    A serial plan in which the robot goes on with what came back is shown with all of the robot's work in front: it
    takes as long.

    Raises:
        LocalProtocolError: a plan without a course.
    """
    if plan.inputs > 1 or plan.method == "tensor":
        raise LocalProtocolError(f"course: expected a plan that splits the operators of one input, got {plan.method}")
    return tuple(_Course(costs, plan).slabs() if plan.slabs > 1 else _Course(costs, plan).serial())


class _Course:
    def __init__(self, costs: CostModel, plan: Plan) -> None:
        self.costs = costs
        self.plan = plan
        self.jobs: list[Job] = []
        self.mask = costs.mask(plan.on_server)
        self.codings = costs.codings_of(plan)

    def add(self, place: int, what: str, seconds: float, bytes_: float, needs: int | None, after_s: float = 0.0) -> int:
        self.jobs.append(Job(place, what, seconds, bytes_, needs, after_s))
        return len(self.jobs) - 1

    def serial(self) -> Iterable[Job]:
        profile, plan = self.costs.profile, self.plan
        last = self.add(AT_ROBOT, "compute", float(profile.robot_s[~self.mask].sum()), 0.0, None)
        for index in plan.up:
            last = self.tensor(index, self.codings.up, (AT_ROBOT, UP, AT_SERVER), last)
        if plan.on_server:
            last = self.add(AT_SERVER, "compute", float(profile.server_s[self.mask].sum()), 0.0, last)
        for index in plan.down:
            last = self.tensor(index, self.codings.down, (AT_SERVER, DOWN, DECODE), last)
        return self.jobs

    def tensor(self, index: int, way: Coding, places: tuple[int, int, int], last: int) -> int:
        """One tensor on its way, in pieces where it is coded; gives the job with which all of it is there."""
        costs, sender, over, receiver = self.costs, *places
        label, message_s = costs.graph.label(index), costs.link.message_s
        size = costs.bytes[index] * way.ratio[index]
        if not way.chosen[index]:
            return self.add(over, label, 0.0, float(size), last, message_s)
        pieces = int(costs.pieces[index])
        coding = [float(seconds[index]) / pieces for seconds in (way.robot_s, way.server_s)]
        encode_s, decode_s = coding if over == UP else coding[::-1]
        frame_s = (pieces - 1) * costs.link.frame_s / pieces
        before = last
        for _ in range(pieces):
            encoded = self.add(sender, "encode", encode_s, 0.0, before)
            sent = self.add(over, label, frame_s, float(size) / pieces, encoded, message_s)
            last = self.add(receiver, "decode", decode_s, 0.0, sent)
        return last

    def slabs(self) -> Iterable[Job]:
        costs, plan = self.costs, self.plan
        amounts = slab_amounts(costs, self.mask, plan.slabs, self.codings)
        message_s = costs.link.message_s
        names = [", ".join(map(costs.graph.label, tensors)) for tensors in (plan.up, plan.down)]
        for slab in range(plan.slabs):
            up, down = amounts.up[slab].tolist(), amounts.down[slab].tolist()
            last = self.add(AT_ROBOT, "compute", float(amounts.robot_s[slab]) + up[ROBOT], 0.0, None)
            needs = None
            if up[ROWS] > 0:
                needs = self.add(UP, names[0], up[FRAMES], up[BYTES], last, message_s * len(plan.up))
            work_s = float(amounts.server_s[slab]) + up[SERVER] + down[SERVER]
            last = self.add(AT_SERVER, "compute", work_s, 0.0, needs)
            if down[ROWS] > 0:
                last = self.add(DOWN, names[1], down[FRAMES], down[BYTES], last, message_s * len(plan.down))
                self.add(DECODE, "decode", down[ROBOT], 0.0, last)
        return self.jobs
