"""A server and one worker whose messages a test hands over one by one."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

from rowcast.config import LinkSettings, ServerSettings
from rowcast.rows import Layout
from rowcast.session import Link
from rowcast.sync import parse_policy
from rowcast.training import ServerNode, WorkerNode
from rowcast.wire import Message, Rows

#: 40 rows of 100 elements: 400 bytes each in the raw code, and no frame holds more than two or three.
ROWS = Layout.from_shapes([("weight", (40, 100))], small_tensor=1)
#: Whatever is to be sent has room in the window.
WIDE = LinkSettings(frame_min_bytes=1024, frame_max_bytes=1024, window_min_bytes=1 << 20)


class Line:
    """A server and one worker whose messages are handed over at once, except those that the test withholds.

    Args:
        policy: policy text.
        settings: frame and window sizes of both.
        limits: of the server.
    """

    def __init__(self, policy: str, settings: LinkSettings = WIDE, limits: ServerSettings | None = None) -> None:
        self._entropy, self._settings = random.Random(0).randbytes, settings
        self.server = ServerNode(parse_policy(policy), settings=limits, link_settings=settings, entropy=self._entropy)
        self.begin_life(0.0)

    def begin_life(self, now: float) -> None:
        """A worker with empty memory connects; the one before is no more."""
        self.worker = WorkerNode("robot", ROWS, ROWS.zeros(), link_settings=self._settings, entropy=self._entropy)
        self.connect(now)

    def connect(self, now: float) -> None:
        self._ports = Link("server"), Link("robot")
        self.worker.link_up(now, self._ports[0])
        self.server.link_up(now, self._ports[1])

    def cut(self, now: float) -> None:
        self.worker.link_down(now, "cut")
        self.server.link_down(now, self._ports[1], "cut")

    def pass_on(
        self, now: float, down: Callable[[Message], Message | None] = lambda message: message, lost: tuple = ()
    ) -> list[Message]:
        """Hand over messages until nobody has any.

        Args:
            now: time (s).
            down: what becomes of a message to the worker; ``None``: it gets lost.
            lost: kinds of messages to the server that get lost.

        Returns:
            What the worker sent.
        """
        sent: list[Message] = []
        for _ in range(10_000):
            said = self.worker.poll(now)
            if said is not None:
                sent.append(said)
                if not isinstance(said, lost):
                    self.server.receive(now, self._ports[1], said)
            heard = self.server.poll(now, self._ports[1])
            if heard is not None and (heard := down(heard)) is not None:
                self.worker.receive(now, heard)
            if said is heard is None:
                return sent
        raise AssertionError("they never come to an end")

    def step(self, now: float, update: np.ndarray | None = None) -> None:
        """The worker hands in an update; all ones, if it is not said."""
        proposed = self.worker.replica - (np.ones(ROWS.elements, dtype=np.float32) if update is None else update)
        self.worker.hold()
        self.worker.accumulate([proposed], 1.0)
        self.worker.release()
        self.worker.exchange(now)


def rows_of(messages: list[Message]) -> list[Rows]:
    return [message for message in messages if isinstance(message, Rows)]
