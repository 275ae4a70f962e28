"""The server: computes what robots ask for, together where that fits, and tells who asks too much to come later.

How robots come is the business of :mod:`~rowcast.inference.hosting`, what is computed next of
:mod:`~rowcast.inference.batches`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Hashable, Sequence

from rowcast.config import AnswererSettings
from rowcast.errors import LinkLost, RemoteProtocolError, RowcastError
from rowcast.inference.batches import Batches
from rowcast.inference.hosting import Hosting, Robot, Task
from rowcast.inference.model import ModelSpec
from rowcast.inference.tensor_rows import frame_of
from rowcast.inference.work import SERVE, Made, Work
from rowcast.journal import Journal
from rowcast.session.host import Host
from rowcast.session.link import Link
from rowcast.session.readable import readable
from rowcast.session.recurring import HERE
from rowcast.session.refusals import code_of
from rowcast.session.texts import shorten
from rowcast.wire import Ack, Answer, Busy, Drop, Heartbeat, Hello, Leave, Message, Refusal, Request, Rows

__all__ = ["AnswererNode"]

#: Whose request the engine could not compute is told to ask again after so long (s).
FAILURE_WAIT_S = 1.0


class AnswererNode(Host):
    """A server that answers inferences of one model.

    Args:
        model: what is served.
        settings: see :mod:`rowcast.config`.
        secret: the shared secret, or ``None``.
        live: the parameters change while they are served, so that only the graph is compared.
        forward_s: seconds of the whole model here, for one input; robots plan with it.
        journal: where events are recorded.
        entropy: source of random bytes (replaced in tests).

    Attributes:
        has_secret: robots must prove that they know a secret.
        notices: sentences for the user, oldest first; the driver shows and removes them.
        lanes: what is computed side by side.
        answered: requests that were answered.
        turned_away: requests that were told to come later.
        computations, computed: how often the engine has computed something, and for how many requests in all.
    """

    lanes = (SERVE,)

    def __init__(
        self,
        model: ModelSpec,
        *,
        settings: AnswererSettings | None = None,
        secret: bytes | None = None,
        live: bool = False,
        forward_s: float = 0.0,
        journal: Journal | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.settings = settings or AnswererSettings()
        self.journal = journal or Journal("server")
        self.has_secret = secret is not None
        self.answered = self.turned_away = 0
        self.computations = self.computed = 0
        self._hosting = Hosting(model, self.settings, secret, live=live, journal=self.journal, entropy=entropy)
        self._hosting.forward_s = forward_s
        self._batches = Batches(self.settings, forward_s)
        self._notifier, self._recurring = self._hosting.notifier, self._hosting.recurring
        self.notices = self._recurring.notices
        self._model = model
        self._to_forget: list[Hashable] = []

    @property
    def robots(self) -> dict[str, Robot]:
        """Robots that are connected, by name."""
        return {robot.name: robot for robot in self._hosting.robots.values()}

    @property
    def waiting(self) -> int:
        """Requests that wait for the engine."""
        return len(self._batches)

    # -- the driver's side -------------------------------------------------------------------------------------

    def listen(self, now: float) -> None:
        """Robots can connect from now on."""

    def stop(self, now: float) -> None:
        """The server stops: what was counted and not told is told."""
        self._recurring.on_timer(now, ending=True)
        self.journal.record(now, "end", cause="the server was stopped")

    def link_up(self, now: float, link: Link) -> None:
        """Somebody connected.

        Raises:
            LinkLost: there are too many strangers, or this address failed too often; close the connection.
        """
        self._hosting.connected(now, link)

    def secured(self, now: float, link: Link, channel: bytes, identity: str | None) -> None:
        """TLS stands on a connection that came up without; no message has come on it (see :class:`.Link`)."""
        link.secure(channel, identity)

    def link_down(self, now: float, link: Link, cause: str) -> None:
        """A connection ended: nobody waits for what was asked on it."""
        robot = self._hosting.disconnected(now, link, cause)
        if robot is not None:
            for task in list(robot.tasks.values()):
                self._end(now, task, dropped=True)

    def heard(self, now: float, link: Link, begun: tuple[int, int] = (0, 0)) -> None:
        """Bytes arrived, whole message or not: the link lives; see :class:`~rowcast.training.ServerNode`."""
        link.heard(now)
        link.decoder.hold(*begun)

    def blame(self, now: float, link: Link, error: RowcastError) -> None:
        """What came on ``link`` was wrong: tell the peer why and close; everybody else goes on."""
        if link.closing:
            return
        robot = self._hosting.robots.get(link)
        text = shorten(str(error))
        peer = link.peer if robot is None else robot.name
        self._recurring.tell(now, type(error).__name__, peer, text, member=robot is not None)
        link.control.clear()
        self._notifier.refuse(link, code_of(error), text)

    def trouble(self, now: float, kind: str, text: str) -> None:
        """Something that the driver notices at this end, perhaps again and again."""
        self._recurring.tell(now, kind, HERE, text)

    def farewell(self, link: Link, cause: str) -> None:
        """The server stops: tell the peer, then close."""
        link.control.clear()
        self._notifier.say(link, Leave(shorten(cause)))
        link.closing = True

    def expel(self, now: float, link: Link, cause: str) -> None:
        """Who is at this link may not be here any more: tell him, then close."""
        self.farewell(link, cause)

    def receive(self, now: float, link: Link, message: Message) -> None:
        """Handle one message.

        Raises:
            RemoteProtocolError: it has no place in the conversation; :meth:`blame` the link.
            LinkLost: the robot left; close the connection.
        """
        if link.closing:
            return
        message = readable(message)
        link.conversation.expect(message)
        if isinstance(message, Leave):
            link.closing = True
            raise LinkLost(message.cause)
        robot = self._hosting.robots.get(link)
        if robot is not None:
            if (cause := link.reads_nothing()) is not None:
                link.closing = True
                raise LinkLost(cause)
            self._hear(now, robot, message)
        elif isinstance(message, Hello):
            before = self._hosting.greet(now, link, message)
            if before is not None:  # it comes back before its old connection was found to be lost
                before.link.closing = True
                self._notifier.wake(before.link)

    def _hear(self, now: float, robot: Robot, message: Message) -> None:
        if isinstance(message, Rows):
            self._rows_came(now, robot, message)
        elif isinstance(message, Request):
            self._asked(now, robot, message)
        elif isinstance(message, Drop):
            self._dropped(now, robot, message.number)
        elif isinstance(message, Heartbeat):
            robot.link.told(now, message.arrived)
        elif isinstance(message, Refusal):
            raise LinkLost(f"the robot refused the server ({shorten(message.code, 20)}): {message.text}")
        else:
            raise RemoteProtocolError(f"expected a message about inferences, got {type(message).__name__}")

    def poll(self, now: float, link: Link) -> Message | None:
        """The next message to send on ``link``, or ``None``. Control overtakes rows."""
        message = link.next_control(now)
        if message is not None or link.closing:
            return message
        robot = self._hosting.robots.get(link)
        if robot is None or not robot.out:
            return None
        link.spoke_at = now
        following = robot.out.popleft()
        if not isinstance(following, Rows):
            # Until then it counts as under way: who reads nothing cannot have more and more computed.
            self._end(now, robot.tasks[following.number], dropped=False)
            return following
        number = robot.counts[following.stream] = robot.counts.get(following.stream, 0) + 1
        return following.numbered(number)

    def take_ready(self) -> list[Link]:
        """The links on which something may be sent since the last call."""
        return self._notifier.take()

    # -- requests ----------------------------------------------------------------------------------------------

    def _asked(self, now: float, robot: Robot, request: Request) -> None:
        task = self._hosting.task(now, robot, request)
        delay_s = self._batches.delay_s()
        if len(self._batches) >= self.settings.queue_limit:
            self._turn_away(now, task, delay_s, f"{len(self._batches)} requests wait to be computed")
        elif delay_s and request.deadline_s and delay_s + self._batches.usual_s > request.deadline_s:
            done_s = delay_s + self._batches.usual_s
            self._turn_away(now, task, delay_s, f"it would be computed in {done_s:.3g} s, after its deadline")

    def _turn_away(self, now: float, task: Task, wait_s: float, cause: str) -> None:
        """Nothing comes of a request."""
        self.turned_away += 1
        robot = task.robot
        self.journal.record(now, "busy", peer=robot.name, number=task.number, wait_s=wait_s, cause=shorten(cause))
        robot.close(task.number)
        self._end(now, task, dropped=True)
        self._notifier.say(robot.link, Busy(task.number, wait_s, shorten(cause)))

    def _rows_came(self, now: float, robot: Robot, rows: Rows) -> None:
        expected = robot.received.get(rows.stream, 0) + 1
        if rows.number != expected:
            raise RemoteProtocolError(f"rows: expected frame {expected} of stream {rows.stream}, got {rows.number}")
        robot.received[rows.stream] = expected
        task = robot.tasks.get(rows.iteration)
        if task is None and rows.iteration not in robot.closed:
            raise RemoteProtocolError(f"rows: expected those of a request under way, got some of {rows.iteration}")
        self._notifier.say(robot.link, Ack(rows.number, rows.stream))
        if task is None:
            return
        task.take(now, rows)
        self._batches.add(now, task)

    def _dropped(self, now: float, robot: Robot, number: int) -> None:
        if not 0 < number <= robot.newest:
            raise RemoteProtocolError(f"drop: expected the number of a request, got {number}")
        robot.closed.discard(number)
        task = robot.tasks.get(number)
        if task is not None:
            self._end(now, task, dropped=True)

    def _end(self, now: float, task: Task, *, dropped: bool) -> None:
        robot = task.robot
        robot.tasks.pop(task.number, None)
        if not dropped:
            self.answered += 1
            if not task.inbox.complete:  # rows that nothing was computed of are on their way
                robot.close(task.number)
        else:
            self._batches.remove(task)
            if not task.over and (task.fed or task.work is not None):
                self._to_forget.append(task.key)
            task.over = True
            robot.out = type(robot.out)(
                one for one in robot.out if (one.iteration if isinstance(one, Rows) else one.number) != task.number
            )
        self.journal.record(
            now,
            "answer",
            peer=robot.name,
            number=task.number,
            batch=task.batch,
            compute_s=task.compute_s,
            queued_s=task.queued_s,
            bytes=task.inbox.bytes,
            version=self._hosting.version,
            dropped=dropped,
        )

    # -- the engine's side -------------------------------------------------------------------------------------

    def take_work(self, now: float, lane: str = SERVE) -> Sequence[Work]:
        """What the engine is to do next; empty: nothing. It reports with :meth:`work_done`."""
        for task in self._batches.overdue(now):
            self._turn_away(now, task, 0.0, "its deadline was over before its turn came")
        works = self._batches.take(now, self._others)
        for work in works:
            task = self._batches.computing[work]
            if task.ready_at is not None:
                task.queued_s = now - task.ready_at
        return works

    @property
    def _others(self) -> bool:
        """Robots that might ask while one waits."""
        return len(self._hosting.robots) > 1

    def work_done(self, now: float, lane: str, works: Sequence[Work], made: Sequence[Made], seconds: float) -> None:
        """The engine has done some work, in ``seconds``."""
        self.computations += 1
        self.computed += len(works)
        for task, result in zip(self._batches.done(works, seconds), made, strict=True):
            if task.over:
                continue
            robot = task.robot
            robot.out.extend(frame_of(task.number, task.down.index(piece.op), piece) for piece in result.pieces)
            if result.complete:
                self._hosting.version = result.version
                robot.out.append(Answer(task.number, result.version, task.compute_s, task.queued_s))
                task.over = True
            self._notifier.wake(robot.link)
            self._batches.add(now, task)

    def work_failed(self, now: float, works: Sequence[Work], error: RowcastError) -> None:
        """The engine could not do some work: whose it is gets no answer. Of several each is tried by itself."""
        for task, work in zip(self._batches.done(works, None), works, strict=True):
            if task.over:
                continue
            self._to_forget.append(task.key)
            if len(works) > 1:
                self._batches.again(now, task, work)
            elif isinstance(error, RemoteProtocolError):
                self.blame(now, task.robot.link, error)
            else:
                self._turn_away(now, task, FAILURE_WAIT_S, f"the server failed: {error}")

    def take_forgotten(self) -> list[Hashable]:
        """Requests that the engine is to forget."""
        forgotten, self._to_forget = self._to_forget, []
        return forgotten

    # -- time --------------------------------------------------------------------------------------------------

    def next_wake(self) -> float | None:
        """When :meth:`on_timer` must be called (s), or ``None``. Work may be there then, too."""
        settings = self.settings
        due = min((self._due_of(link) for link in self._hosting.robots), default=math.inf)
        for link in self._hosting.newcomers.links():
            at = self._hosting.newcomers.wake_at(link, settings.handshake_limit_s, settings.heartbeat_s)
            due = due if at is None else min(due, at)
        work_at = self._batches.due_at(self._others)
        due = min(due, work_at) if work_at > -math.inf else due
        counted = self._recurring.due()
        due = due if counted is None else min(due, counted)
        return None if due == math.inf else due

    def _due_of(self, link: Link) -> float:
        settings = self.settings
        return min(
            link.heartbeat_due_at(settings.heartbeat_s, settings.silence_limit_s / 2),
            link.silent_at(settings.silence_limit_s),
        )

    def on_timer(self, now: float) -> list[tuple[Link, str]]:
        """Time passed.

        Returns:
            Connections that the driver must close, with the reason: call :meth:`link_down` for each.
        """
        settings = self.settings
        self._recurring.on_timer(now)
        silent = f"silent for {settings.silence_limit_s:g} s"
        dead = [
            (link, silent)
            for link in self._hosting.robots
            if link.is_silent(now, settings.silence_limit_s, settings.heartbeat_s)
        ]
        limit_s = settings.handshake_limit_s
        dead += [
            (link, f"no hello within {limit_s:g} s")
            for link in self._hosting.newcomers.strangers()
            if now >= link.opened_at + limit_s
        ]
        gone = {link for link, _ in dead}
        for link in [*self._hosting.robots, *self._hosting.newcomers.links()]:
            if link not in gone and now >= link.heartbeat_due_at(settings.heartbeat_s, settings.silence_limit_s / 2):
                link.spoke_at = link.reported_at = now
                self._notifier.say(link, Heartbeat(arrived=link.decoder.arrived))
        return dead
