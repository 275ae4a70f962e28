"""Robots and a server that run one model together, in virtual time: the very nodes, over recorded links."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Protocol

from rowcast.drivers.virtual.engine import Engine, Peer
from rowcast.drivers.virtual.profiled import ProfileEngine
from rowcast.errors import LinkLost, RemoteProtocolError, RowcastError
from rowcast.inference import AnswererNode, AskerNode, Made, Outcome, Work
from rowcast.links import Trace
from rowcast.session import Link
from rowcast.wire import Message
from rowcast.wire.frames import message_bytes

__all__ = ["InferenceSimulation", "VirtualRobot"]

#: The engine is looked at behind messages of the same moment: so what came together is computed together.
_COMPUTE = 1


class _Computes(Protocol):
    """A node that has work."""

    @property
    def lanes(self) -> tuple[str, ...]: ...

    def take_work(self, now: float, lane: str) -> Sequence[Work]: ...

    def work_done(self, now: float, lane: str, works: Sequence[Work], made: Sequence[Made], seconds: float) -> None: ...

    def work_failed(self, now: float, works: Sequence[Work], error: RowcastError) -> None: ...

    def take_forgotten(self) -> list[Hashable]: ...


class _Processor:
    """Does the work of one node, each lane one thing after the other.

    Args:
        simulation: whose clock it goes by.
        node: the node.
        engine: says how long it takes.
        attend: called when the node has heard of something that is done.
    """

    def __init__(
        self,
        simulation: InferenceSimulation,
        node: _Computes,
        engine: ProfileEngine,
        attend: Callable[[], None],
    ) -> None:
        self._simulation = simulation
        self._node = node
        self._engine = engine
        self._attend = attend
        self._doing: dict[str, tuple[Sequence[Work], float]] = {}  # and since when (s)
        self.busy_s = 0.0

    def look(self) -> None:
        """Begin what there is to do; what nobody wants any more ends at once."""
        now = self._simulation.clock.now
        for lane in self._node.lanes:
            works, since = self._doing.get(lane, ((), now))
            if works and all(work.cancelled for work in works):
                self._doing[lane] = ((), now)
                self.busy_s += now - since
                self._node.work_done(now, lane, works, [Made()] * len(works), now - since)
                works = ()
            if not works:
                self._begin(now, lane)

    def _begin(self, now: float, lane: str) -> None:
        for key in self._node.take_forgotten():
            self._engine.forget(key)
        works = self._node.take_work(now, lane)
        self._doing[lane] = works, now
        if works:
            try:
                made, seconds = self._engine.run(works)
            except RowcastError as error:
                self._simulation.clock.at(now, self._failed, lane, works, error, priority=_COMPUTE)
                return
            self._simulation.clock.at(now + seconds, self._done, lane, works, made, seconds, priority=_COMPUTE)

    def _failed(self, lane: str, works: Sequence[Work], error: RowcastError) -> None:
        if self._doing[lane][0] is not works:
            return  # it was ended before
        self._doing[lane] = ((), self._simulation.clock.now)
        self._node.work_failed(self._simulation.clock.now, works, error)
        self._attend()

    def _done(self, lane: str, works: Sequence[Work], made: Sequence[Made], seconds: float) -> None:
        now = self._simulation.clock.now
        if self._doing[lane][0] is not works:
            return  # it was ended before
        self._doing[lane] = ((), now)
        self.busy_s += seconds
        self._node.work_done(now, lane, works, made, seconds)
        self._attend()


class _Line:
    """One direction of a link: one message at a time, at the rate of a trace."""

    def __init__(self, simulation: InferenceSimulation, trace: Trace, goodput: float) -> None:
        self._simulation = simulation
        self._trace = trace
        self._bits_per_byte = 8 / goodput
        self._carrying = False
        self.connection: Link | None = None
        self.deliver: Callable[[Message], None]
        self.next: Callable[[], bool]
        self.delay_s = 0.0

    def takes(self, now: float) -> bool:
        return not self._carrying and self.connection is not None

    def carry(self, now: float, message: Message) -> None:
        self._carrying = True
        end = self._trace.finish(now, self._bits_per_byte * message_bytes(message))
        if end < math.inf:
            self._simulation.clock.at(end, self._passed, self.connection, message)

    def _passed(self, connection: Link, message: Message) -> None:
        if connection is not self.connection:
            return
        self._carrying = False
        self._simulation.clock.at(self._simulation.clock.now + self.delay_s, self._arrived, connection, message)
        if self.takes(self._simulation.clock.now):
            self.next()

    def _arrived(self, connection: Link, message: Message) -> None:
        if connection is self.connection:
            self.deliver(message)

    def restart(self, connection: Link | None) -> None:
        """Another connection, or none: what was on the way is lost."""
        self.connection = connection
        self._carrying = False


class VirtualRobot(Peer):
    """A robot with its link and its processor.

    Attributes:
        node: the robot's node.
        outcomes: what came of its inferences, in the order in which they ended.
    """

    node: AskerNode
    up: _Line
    down: _Line

    def __init__(self, node: AskerNode, up: _Line, down: _Line, delay_s: float) -> None:
        super().__init__(node, up, down, delay_s)
        self.outcomes: list[Outcome] = []
        self.processor: _Processor


class InferenceSimulation(Engine[VirtualRobot]):
    """A server that answers inferences, and robots that ask.

    Args:
        server: the server's node.
        engine: what computing takes there.
        delay_s: half of a round trip (s).
        goodput: share of a link's rate that carries frames.

    Attributes:
        robots: by name.
    """

    server: AnswererNode

    def __init__(
        self, server: AnswererNode, engine: ProfileEngine, *, delay_s: float = 0.0025, goodput: float = 0.944
    ) -> None:
        super().__init__(server)
        self.robots: dict[str, VirtualRobot] = {}
        self._delay_s = delay_s
        self._goodput = goodput
        self._processor = _Processor(self, server, engine, self.serve)

    def add(
        self, node: AskerNode, engine: ProfileEngine, up: Trace, down: Trace, inputs_s: Iterable[float] = ()
    ) -> VirtualRobot:
        """A robot comes, and connects.

        Args:
            node: its node.
            engine: what computing takes there.
            up, down: the rate of its link.
            inputs_s: when inputs come (s), ascending.
        """
        robot = self._robot(node, up, down)
        robot.processor = _Processor(self, node, engine, lambda: self.attend(robot))
        self.robots[node.name] = robot
        self.clock.at(self.clock.now, self.connect, robot)
        self._ask_next(robot, iter(inputs_s))
        return robot

    def _robot(self, node: AskerNode, up: Trace, down: Trace) -> VirtualRobot:
        """A robot with its link."""
        lines = _Line(self, up, self._goodput), _Line(self, down, self._goodput)
        robot = VirtualRobot(node, *lines, self._delay_s)
        robot.up.delay_s = robot.down.delay_s = self._delay_s
        robot.up.deliver = lambda message: self._to_server(robot, message)
        robot.down.deliver = lambda message: self._to_robot(robot, message)
        robot.up.next = lambda: self.send_up(robot)
        robot.down.next = lambda: self.send_down(robot)
        return robot

    def ask(self, robot: VirtualRobot, inputs: Any = None, deadline_s: float | None = None) -> int:
        """An input comes to a robot now; the ticket of its inference. See :meth:`rowcast.inference.AskerNode.ask`."""
        ticket = robot.node.ask(self.clock.now, inputs, deadline_s)
        self.attend(robot)
        return ticket

    def run(self, until_s: float) -> None:
        """Go on until then (s)."""
        while self.clock.next <= until_s:
            self.clock.step()

    def restart_server(self, server: AnswererNode, engine: ProfileEngine) -> None:
        """The server dies, with all it had in memory, and another one is there at once."""
        for robot in list(self._by_link.values()):
            self.disconnect(robot, "the server died")
        self.server = server
        self._server_wake = math.inf
        self._processor = _Processor(self, server, engine, self.serve)

    def cut(self, name: str, down_s: float) -> None:
        """A robot's link is gone for so long (s)."""
        self.disconnect(self.robots[name], "cut", down_s)

    def disconnect(self, peer: VirtualRobot, cause: str, back_s: float | None = None) -> None:
        """See :meth:`.Engine.disconnect`. Until the link is back the robot tries to connect; its time goes on."""
        super().disconnect(peer, cause, back_s)
        if peer.back_at is not None and not peer.connected:
            peer.node.connecting(self.clock.now, "server")
            self.attend(peer)

    def _ask_next(self, robot: VirtualRobot, inputs_s: Iterable[float]) -> None:
        times = iter(inputs_s)

        def come() -> None:
            self.ask(robot)
            plan_next()

        def plan_next() -> None:
            at = next(times, None)
            if at is not None:
                self.clock.at(at, come)

        plan_next()

    # -- what the engine of nodes asks for -------------------------------------------------------------------------

    def serve(self) -> None:
        """Send what the server has got to say, let it compute, and set its timer."""
        super().serve()
        self._processor.look()
        super().serve()

    def _changed(self, peer: VirtualRobot) -> None:
        peer.outcomes.extend(peer.node.outcomes)
        peer.node.outcomes.clear()
        peer.processor.look()
        if peer.connected and peer.up.takes(self.clock.now):
            self.send_up(peer)

    def _opened(self, peer: VirtualRobot) -> None:
        peer.up.restart(peer.server_link)
        peer.down.restart(peer.server_link)
        for link in (peer.worker_link, peer.server_link):
            link.decoder.trusted = True

    def _closing(self, peer: VirtualRobot, now: float) -> None:
        peer.up.restart(None)
        peer.down.restart(None)

    def _to_server(self, robot: VirtualRobot, message: Message) -> None:
        now, link = self.clock.now, robot.server_link
        self.server.heard(now, link)
        try:
            self.server.receive(now, link, message)
        except RemoteProtocolError as error:
            self.server.blame(now, link, error)
        except LinkLost as error:
            self.disconnect(robot, str(error))
        self.serve()

    def _to_robot(self, robot: VirtualRobot, message: Message) -> None:
        now = self.clock.now
        robot.node.heard(now)
        try:
            robot.node.receive(now, message)
        except RemoteProtocolError as error:
            self.disconnect(robot, robot.node.blame(now, error))
        except LinkLost as error:
            self.disconnect(robot, str(error))
        self.attend(robot)
