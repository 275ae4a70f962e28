"""Inferences one after the other over a recorded link, without a clock: what a chooser of plans comes to.

What the chooser hears of the link is what the robot would know: bytes that the server has acknowledged half of a round
trip ago, and that bytes are on their way without news. Nothing of the rates to come.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rowcast.errors import LocalProtocolError
from rowcast.links import Trace
from rowcast.planning.choice import Chooser
from rowcast.planning.costs import CostModel
from rowcast.planning.course import AT_ROBOT, DECODE, DOWN, UP, Job, Span, course, follow
from rowcast.planning.plan import Plan

__all__ = ["Answers", "replay", "replay_newest"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Answers:
    """What became of each input.

    Attributes:
        input_s: float64 [answers], when the input was there.
        latency_s: float64 [answers], from the input to the answer; infinite where none came.
        energy_j: float64 [answers], what the robot spent until the answer; of those without one infinite.
        up_s: float64 [answers], how long the link up was busy.
        by_server: bool [answers], whose answer it was.
        probes: how many inputs were sent to learn the rate.
    """

    input_s: Floats
    latency_s: Floats
    energy_j: Floats
    up_s: Floats
    by_server: npt.NDArray[np.bool_]
    probes: int

    @property
    def mean_s(self) -> float:
        """Mean latency (s)."""
        return float(self.latency_s.mean())

    @property
    def mean_j(self) -> float:
        """Mean energy of an input (J)."""
        return float(self.energy_j.mean())

    def late(self, deadline_s: float) -> int:
        """Answers after a deadline, and inputs without an answer; a nanosecond is rounding."""
        return int((self.latency_s > deadline_s + 1e-9).sum())

    def mean_age_s(self, until_s: float) -> float:
        """How old the input of the newest answer is, on average from the first answer until ``until_s`` (s).

        Raises:
            LocalProtocolError: no answer before ``until_s``.
        """
        given = self.input_s + self.latency_s
        kept = given < until_s
        if not kept.any():
            raise LocalProtocolError(f"age: expected an answer before {until_s} s, got none")
        order = np.argsort(given[kept], kind="stable")
        times, inputs = given[kept][order], np.maximum.accumulate(self.input_s[kept][order])
        begin, end = times - inputs, np.append(times[1:], until_s) - inputs
        return float((end**2 - begin**2).sum() / 2 / (until_s - times[0]))


def replay(costs: CostModel, trace: Trace, chooser: Chooser, inputs_s: Iterable[float]) -> Answers:
    """Each input by itself: none waits for another, and none takes from another's link.

    Args:
        costs: graph, times, power; of the link the message's cost, the goodput and the proportion of the directions.
        trace: the rate of the link up.
        chooser: decides at the time of each input.
        inputs_s: when inputs are there (s), ascending.
    """
    run = _Run(costs, trace, chooser)
    for now in inputs_s:
        run.answer(now, now)
    return run.result()


def replay_newest(costs: CostModel, trace: Trace, chooser: Chooser, inputs_s: Iterable[float]) -> Answers:
    """One input at a time, always the newest: one that is there while another is in work replaces what waits.

    Deadlines count from when the input was there. So there are no more answers than inputs, and the queue is never
    longer than one. The last input only replaces the one before. Arguments are those of :func:`replay`.
    """
    run = _Run(costs, trace, chooser)
    free = 0.0
    for now, following in itertools.pairwise(inputs_s):
        if following <= free:
            continue  # replaced before anybody could look at it
        free = run.answer(now, max(now, free))
        if free == math.inf:
            break
    return run.result()


@dataclass
class _Sent:
    """A transfer whose progress the chooser has heard of until ``known_s``, and which is given up at ``end_s``."""

    spans: list[Span]
    end_s: float
    known_s: float


@dataclass
class _Run:
    costs: CostModel
    trace: Trace
    chooser: Chooser
    probes: int = 0
    _rows: list[tuple[float, float, float, float, bool]] = field(default_factory=list)
    _sent: list[_Sent] = field(default_factory=list)
    _courses: dict[int, tuple[Plan, tuple[Job, ...]]] = field(default_factory=dict)

    def answer(self, input_s: float, now: float) -> float:
        """Decide on an input, ``now`` that there is time for it; gives when its answer is there."""
        self._tell(now)
        decision = self.chooser.decide(now)
        self.probes += decision.probe
        spans = follow(self._course(decision.plan), self.costs, self.trace, now) if decision.plan.on_server else []
        remote_s = max((span.there_s for span in spans), default=math.inf)
        start_s = max(input_s + decision.local_start_s, now)
        ended_s = min(remote_s, start_s + self.costs.profile.local_s)
        up = [span for span in spans if span.job.place == UP]
        if up:
            self._sent.append(_Sent(up, ended_s, up[0].start_s))
        robot_s = max(ended_s - start_s, 0.0) + _busy(spans, (AT_ROBOT, DECODE), ended_s)
        up_s, down_s = (_busy(spans, (place,), ended_s) for place in (UP, DOWN))
        # What the robot does at the same time draws no more than a processor at work.
        energy_j = self.costs.joules(ended_s - now, min(robot_s, ended_s - now), up_s + down_s)
        self._rows.append((input_s, ended_s - input_s, energy_j, up_s, remote_s <= ended_s))
        return ended_s

    def result(self) -> Answers:
        """All that was answered."""
        input_s, latency_s, energy_j, up_s, by_server = (np.array(column) for column in zip(*self._rows, strict=True))
        return Answers(input_s, latency_s, energy_j, up_s, by_server, self.probes)

    def _course(self, plan: Plan) -> tuple[Job, ...]:
        known = self._courses.get(id(plan))
        if known is None:  # the plan is kept with its course, so that its number stays its own
            known = self._courses[id(plan)] = plan, course(self.costs, plan)
        return known[1]

    def _tell(self, now: float) -> None:
        """What the robot has heard of its transfers by now."""
        heard_s = now - self.costs.link.message_s
        news: list[tuple[float, float, float]] = []
        going = []
        for sent in self._sent:
            until_s = min(heard_s, sent.end_s, sent.spans[-1].end_s)
            if until_s > sent.known_s:
                news += _progress(self.trace, sent.spans, sent.known_s, until_s)
                sent.known_s = until_s
            if until_s == heard_s:
                going.append(sent)
        self._sent = going
        goodput = self.costs.link.goodput
        for until_s, bits, seconds in sorted(news):
            self.chooser.delivered(until_s, bits * goodput / 8, seconds)


def _progress(trace: Trace, spans: list[Span], begin_s: float, end_s: float) -> Iterator[tuple[float, float, float]]:
    """When, how many bits, and in how many seconds of sending, between two times."""
    bits = seconds = 0.0
    last = end_s
    for span in spans:
        first, last_of = max(span.start_s, begin_s), min(span.end_s, end_s)
        if last_of > first:
            bits += trace.bits(first, last_of)
            seconds += last_of - first
            last = last_of
    if seconds > 0:
        yield last, bits, seconds


def _busy(spans: list[Span], places: tuple[int, ...], end_s: float) -> float:
    """How long places work until ``end_s`` (s)."""
    return sum(
        min(span.end_s, end_s) - span.start_s for span in spans if span.job.place in places and span.start_s < end_s
    )
