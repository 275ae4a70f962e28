"""The loop of a robot's camera: an input every so often, whether the one before is answered or not."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from rowcast.split import Answer, Remote

__all__ = ["Inputs", "Look", "Tally", "run_camera"]

#: Between two looks at where it is (s).
TICK_S = 0.25
#: Means of what is shown are over so many answers.
LATELY = 20

#: One after the other, each as ``forward`` takes it.
Inputs = Sequence[tuple[Any, ...]]


@dataclass
class Tally:
    """What came of the inputs so far.

    Attributes:
        deadline_s: what answers are judged by, or ``None``.
        inputs: how many there were.
        by: answers by who has computed them.
        late: inputs whose answer came after the deadline, or not at all.
        superseded: inputs that a newer one took the place of.
        newest: the newest answer, or ``None``.
        lately: the last few answers.
        error: why there was no answer, the last time.
    """

    deadline_s: float | None = None
    inputs: int = 0
    by: Counter[str] = field(default_factory=Counter)
    late: int = 0
    superseded: int = 0
    newest: Answer | None = None
    lately: deque[Answer] = field(default_factory=lambda: deque(maxlen=LATELY))
    error: BaseException | None = None

    def add(self, answer: Answer) -> None:
        """There is an answer."""
        self.by[answer.by] += 1
        self.late += self.deadline_s is not None and answer.latency_s > self.deadline_s + 1e-9
        self.lately.append(answer)
        if self.newest is None or answer.outcome.asked_at > self.newest.outcome.asked_at:
            self.newest = answer

    @property
    def joules(self) -> float:
        """Of the last few answers, mean (J)."""
        return sum(each.joules for each in self.lately) / len(self.lately) if self.lately else 0.0


#: Told now and then where it is, with the seconds that are left.
Look = Callable[[Tally, float], None]


def run_camera(
    remote: Remote,
    inputs: Inputs,
    *,
    rate_hz: float,
    seconds: float,
    deadline_s: float | None = None,
    look: Look = lambda tally, left_s: None,
    keep: Callable[[int, Answer], None] = lambda number, answer: None,
    finish_s: float = 5.0,
) -> Tally:
    """Ask for an inference of one input after the other, and wait for the last answers.

    Args:
        remote: the model.
        inputs: one after the other, and again from the first.
        rate_hz: inputs in a second.
        seconds: for so long.
        deadline_s: what answers are judged by.
        look: told each quarter of a second where it is.
        keep: told of each answer with the number of its input, on another thread.
        finish_s: so long is waited for what is under way at the end (s).

    Raises:
        ConfigError: an input that the model does not take, or a deadline that the robot cannot keep.
        ServerUnavailable, AuthenticationFailed, ModelMismatch: there will be no answers from this server.
    """
    return _Loop(remote, Tally(deadline_s), look, keep).run(inputs, rate_hz, seconds, finish_s)


class _Loop:
    def __init__(self, remote: Remote, tally: Tally, look: Look, keep: Callable[[int, Answer], None]) -> None:
        self._remote = remote
        self._tally = tally
        self._look = look
        self._keep = keep
        self._changing = threading.Lock()
        self._under_way: set[Future[Answer]] = set()
        self._look_at = self._ends = 0.0

    def run(self, inputs: Inputs, rate_hz: float, seconds: float, finish_s: float) -> Tally:
        begun = self._look_at = time.monotonic()
        self._ends = begun + seconds
        for number in range(max(1, round(seconds * rate_hz))):
            self._wait(begun + number / rate_hz)
            self._ask(number, inputs[number % len(inputs)])
        self._wait(self._ends)
        until = time.monotonic() + finish_s
        while self._under_way and time.monotonic() < until:
            self._wait(min(until, time.monotonic() + 0.02))
        self._look(self._tally, 0.0)
        return self._tally

    def _ask(self, number: int, given: tuple[Any, ...]) -> None:
        self._tally.inputs += 1
        future = self._remote.submit(*given)
        with self._changing:
            self._under_way.add(future)
        future.add_done_callback(lambda done: self._over(done, number))

    def _wait(self, until: float) -> None:
        while (left_s := until - time.monotonic()) > 0:
            if (now := time.monotonic()) >= self._look_at:
                self._look_at = now + TICK_S
                self._look(self._tally, max(self._ends - now, 0.0))
            time.sleep(min(left_s, TICK_S))

    def _over(self, future: Future[Answer], number: int) -> None:
        """On the thread of the robot."""
        tally = self._tally
        with self._changing:
            self._under_way.discard(future)
            if future.cancelled():
                tally.superseded += 1
            elif (error := future.exception()) is not None:
                tally.late += 1
                tally.error = error
            else:
                tally.add(future.result())
        if not future.cancelled() and future.exception() is None:
            self._keep(number, future.result())
