"""Robots that a server answers: how they come, and what is asked of each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from rowcast.codecs.tensors import tensor_codec_by_id
from rowcast.codecs.tensors.base import expect_carried
from rowcast.config import AnswererSettings
from rowcast.errors import ConfigError, LinkLost, LocalProtocolError, RemoteProtocolError
from rowcast.inference.model import ModelSpec, Side, server_side
from rowcast.inference.tensor_rows import TensorRows
from rowcast.inference.work import Piece, Work
from rowcast.journal import Journal
from rowcast.session.limits import StrangerLimits
from rowcast.session.link import Link
from rowcast.session.newcomers import Newcomers
from rowcast.session.notifier import Notifier
from rowcast.session.proof import is_name
from rowcast.session.recurring import Recurring
from rowcast.session.seeding import ASKS
from rowcast.session.states import Event
from rowcast.session.tables import table_parts
from rowcast.session.texts import shorten
from rowcast.wire import Answer, Hello, Request, RowLimits, Rows, Served
from rowcast.wire.fields import MAX_STREAM

__all__ = ["Hosting", "Robot", "Task"]

#: So many requests that the server has ended are remembered of a robot: rows of them may be on their way.
MOST_CLOSED = 256


@dataclass(eq=False)
class Task:
    """One request at the server.

    Attributes:
        robot: whose it is.
        number: of the request on its connection.
        side: what is computed for it.
        slabs: so often at most is a part of the rows computed.
        slab_ends: so often the robot has said that a part can be.
        down: operators whose tensors are sent back.
        codecs: the codec of each.
        inbox: rows that have come.
        due_at: when its answer is of no use any more (s), or ``None``.
        pieces: rows that have come and were not given to the engine.
        ready: so can those that have come.
        fed: how often rows were given to it.
        work: what the engine does for it now, or ``None``.
        ready_at: when its last row came (s); ``None`` before.
        queued_s, compute_s, batch: see :class:`rowcast.wire.Answer`.
        alone: it is not computed together with others.
        over: nothing more is computed for it: its answer waits to be sent, or there will be none.
    """

    robot: Robot
    number: int
    side: Side
    slabs: int
    down: tuple[int, ...]
    codecs: dict[int, int]
    inbox: TensorRows
    due_at: float | None
    pieces: list[Piece] = field(default_factory=list)
    slab_ends: int = 0
    ready: bool = False
    fed: int = 0
    work: Work | None = None
    ready_at: float | None = None
    queued_s: float = 0.0
    compute_s: float = 0.0
    batch: int = 1
    alone: bool = False
    over: bool = False

    @property
    def key(self) -> tuple[int, int]:
        """Names it to the engine."""
        return self.robot.serial, self.number

    @property
    def wants(self) -> bool:
        """The engine can do something for it."""
        return self.work is None and not self.over and self.ready

    def take(self, now: float, rows: Rows) -> None:
        """Rows came.

        Raises:
            RemoteProtocolError: see :meth:`.TensorRows.take`; or more slabs than the robot has asked for.
        """
        self.pieces.append(self.inbox.take(rows))
        self.slab_ends += rows.quota_end
        if self.slab_ends > self.slabs:
            raise RemoteProtocolError(f"rows: expected the end of a slab {self.slabs} times, got it once more")
        if self.inbox.complete:
            self.ready_at = now
        self.ready = self.ready or rows.quota_end or self.inbox.complete

    @property
    def whole(self) -> bool:
        """All of it is here, and nothing was computed: it can be computed together with others."""
        return self.fed == 0 and self.inbox.complete and not self.alone


@dataclass(eq=False)
class Robot:
    """A robot that was let in, on one connection.

    Attributes:
        name: its name.
        session: 16 bytes, one value for each life of the robot.
        link: the connection.
        serial: counts connections.
        tasks: its requests under way, by number: until the answer was handed out.
        newest: number of its newest request.
        closed: numbers of requests that the server has ended by itself: rows of them may still come.
        out: what is to be sent back, in order.
        counts: frames sent on each stream.
        received: frames that came on each stream.
    """

    name: str
    session: bytes
    link: Link
    serial: int
    tasks: dict[int, Task] = field(default_factory=dict)
    newest: int = 0
    closed: set[int] = field(default_factory=set)
    out: deque[Rows | Answer] = field(default_factory=deque)
    counts: dict[int, int] = field(default_factory=dict)
    received: dict[int, int] = field(default_factory=dict)

    def close(self, number: int) -> None:
        """The server ends a request by itself."""
        self.closed.add(number)
        if len(self.closed) > MOST_CLOSED:
            self.closed.remove(min(self.closed))


class Hosting:
    """Lets robots in.

    Args:
        model: what is served.
        settings: see :mod:`rowcast.config`.
        secret: the shared secret, or ``None``.
        live: the parameters change while they are served.
        journal: where events are recorded.
        entropy: source of random bytes.

    Attributes:
        robots: by connection.
        newcomers: connections that are not let in.
        notifier: what the driver is to look at.
        recurring: tells what strangers do again and again.
        version: of the parameters, as far as is known.
        forward_s: seconds of the whole model here, for one input.
    """

    def __init__(
        self,
        model: ModelSpec,
        settings: AnswererSettings,
        secret: bytes | None,
        *,
        live: bool,
        journal: Journal,
        entropy: Callable[[int], bytes],
    ) -> None:
        self.robots: dict[Link, Robot] = {}
        self.notifier = Notifier()
        self.recurring = Recurring(journal)
        self.version = 0
        self.forward_s = 0.0
        self._model = model
        self._settings = settings
        self._live = live
        self._journal = journal
        self._life = entropy(16)
        self._serial = 0
        self.newcomers = Newcomers(self._life, secret, entropy, StrangerLimits(settings))

    def connected(self, now: float, link: Link) -> None:
        """Somebody connected.

        Raises:
            LinkLost: there are too many strangers, or this address failed too often; close the connection.
        """
        if (refused := self.newcomers.refuses(now, link)) is not None:
            self.recurring.tell(now, refused[0], link.peer, refused[1])
            raise LinkLost(refused[1])
        link.opened(now)
        self.notifier.say(link, self.newcomers.enter(link))

    def disconnected(self, now: float, link: Link, cause: str) -> Robot | None:
        """A connection ended; the robot that was let in on it, if any."""
        if self.newcomers.lost(now, link) and not link.closing:
            self.recurring.tell(now, "no hello", link.peer, f"no introduction before it ended: {cause}")
        self.notifier.forget(link)
        robot = self.robots.pop(link, None)
        if robot is not None:
            self._journal.record(now, "link_down", peer=robot.name, cause=shorten(cause))
        return robot

    def greet(self, now: float, link: Link, hello: Hello) -> Robot | None:
        """A robot introduces itself.

        Returns:
            An older connection of the robot, which is to be closed; or ``None``.

        Raises:
            RemoteProtocolError: what it says is not well-formed, or out of turn.
        """
        if (refusal := self.newcomers.refusal(now, link, hello)) is not None:
            self._refuse(now, link, link.peer, *refusal)
            return None
        if (proof := self.newcomers.prove(link, hello)) is not None:
            self.notifier.say(link, proof)
        if not is_name(hello.name) or len(hello.session) != 16:
            raise RemoteProtocolError("hello: expected a printable name and a session of 16 bytes")
        if hello.wish != ASKS:
            text = "this server answers inferences and trains no team; connect with rowcast.split.Remote"
            self._refuse(now, link, hello.name, "model", text)
            return None
        if hello.layout != self._model.digest or not (self._live or hello.state == self._model.parameters):
            for part in table_parts("\n".join(self._model.describe()).encode()):
                self.notifier.say(link, part)
            what = "other operators" if hello.layout != self._model.digest else "other parameters"
            self._refuse(now, link, hello.name, "model", f"the robot's model has {what} than the server's")
            return None
        before = next((robot for robot in self.robots.values() if robot.name == hello.name), None)
        if before is not None and before.session != hello.session:
            text = f"a robot named {hello.name!r} is connected; choose another name"
            self._refuse(now, link, hello.name, "name", text)
            return None
        self._let_in(now, link, hello)
        return before

    def _let_in(self, now: float, link: Link, hello: Hello) -> None:
        self.newcomers.let_in(now, link, hello.name)
        link.conversation.move(Event.SERVED)
        link.introduced = link.decoder.trusted = True
        limits = RowLimits(self._model.most_rows)
        link.decoder.streams.update(dict.fromkeys(range(1, MAX_STREAM + 1), limits))
        self._serial += 1
        self.robots[link] = Robot(hello.name, hello.session, link, self._serial)
        self._journal.record(
            now,
            "link_up",
            peer=hello.name,
            congestion_control=link.congestion_control,
            shaped_by=link.shaped_by,
        )
        self._journal.record(
            now, "served", peer=hello.name, live=self._live, version=self.version, forward_s=self.forward_s
        )
        self.notifier.say(
            link, Served(self._life, self._live, self.version, self._settings.requests_per_robot, self.forward_s)
        )

    def _refuse(self, now: float, link: Link, peer: str, code: str, text: str) -> None:
        """Tell a robot why it is not let in, and close its connection."""
        text = shorten(text)
        link.introduced = code != "secret"
        self.recurring.tell(now, f"refused: {code}", peer, text)
        self.notifier.refuse(link, code, text)

    def task(self, now: float, robot: Robot, request: Request) -> Task:
        """A request, checked.

        Raises:
            RemoteProtocolError: tensors that the model does not have or that cannot be computed of each other, a number
                that was there before, or more requests than are allowed.
        """
        model, most = self._model, self._settings.requests_per_robot
        if request.number <= robot.newest:
            raise RemoteProtocolError(f"request: expected a number above {robot.newest}, got {request.number}")
        if len(robot.tasks) >= most:
            raise RemoteProtocolError(f"request: expected at most {most} under way, got another one")
        for name, ops in (("up", request.up), ("down", request.down)):
            fit = all(op < len(model.graph) and model.tensors[op] is not None for op in ops)
            if not ops or not fit or list(ops) != sorted(set(ops)):
                raise RemoteProtocolError(
                    f"request: {name}: expected ascending operators of the model with tensors that can travel, "
                    f"got {list(ops)[:10]}"
                )
        try:
            side = server_side(model.graph, request.up, request.down)
        except LocalProtocolError as error:
            raise RemoteProtocolError(f"request: {error}") from error
        if not 1 <= request.slabs <= model.most_rows or request.deadline_s < 0:
            raise RemoteProtocolError(
                f"request: expected slabs in 1 .. {model.most_rows} and a deadline of 0 s or more, "
                f"got {request.slabs} and {request.deadline_s:g} s"
            )
        codecs = self._codecs(request)
        due_at = now + request.deadline_s if request.deadline_s else None
        inbox = TensorRows(model, request.up)
        task = Task(robot, request.number, side, request.slabs, request.down, codecs, inbox, due_at)
        robot.newest = request.number
        robot.tasks[request.number] = task
        return task

    def _codecs(self, request: Request) -> dict[int, int]:
        """The codec of each tensor that is sent back."""
        if len(request.codecs) != len(request.down):
            raise RemoteProtocolError(
                f"request: expected a codec for each of {len(request.down)} tensors, got {len(request.codecs)}"
            )
        for op, number in zip(request.down, request.codecs, strict=True):
            try:
                expect_carried(tensor_codec_by_id(number), self._model.tensor(op))
            except ConfigError as error:
                raise RemoteProtocolError(f"request: {error}") from error
        return dict(zip(request.down, request.codecs, strict=True))
