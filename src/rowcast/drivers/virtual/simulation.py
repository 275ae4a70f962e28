"""Nodes, links and computing robots as a discrete-event simulation."""

from __future__ import annotations

import contextlib
import gc
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from rowcast.drivers.virtual.clock import Clock
from rowcast.drivers.virtual.device import Device, ServerCosts
from rowcast.errors import LinkLost, LocalProtocolError, RemoteProtocolError, RowcastError
from rowcast.links import Trace
from rowcast.links.channel import Channel, Independent
from rowcast.session import Port
from rowcast.training import Phase, ServerNode, WorkerNode
from rowcast.wire import Go, Message, PushEnd, Rows
from rowcast.wire.frames import message_bytes

__all__ = ["Robot", "Simulation"]

#: A robot goes on computing behind everything else that happens at the same moment.
_COMPUTE = 1
_TIMER = 2


@dataclass(eq=False, slots=True)
class _Lane:
    """One direction of a robot's link: carries one message at a time.

    Attributes:
        port: the connection that it belongs to, as the server sees it; ``None`` while the link is down.
    """

    key: int
    trace: Trace
    poll: Callable[[float], Message | None]
    deliver: Callable[[Message], None]
    port: Port | None = None
    carrying: Message | None = None
    held_until: float = 0.0


@dataclass(eq=False, slots=True)
class Robot:
    """A worker with its device and its link.

    Attributes:
        node: the worker node.
        resume: called when it is to compute the next gradient (it calls :meth:`Simulation.computed` when that is
            there), and when the node is done.
        rounds: iterations computed.
        bytes_up, bytes_down: of row frames that arrived since the start of the team.
    """

    node: WorkerNode
    device: Device
    resume: Callable[[], None]
    up: _Lane = field(init=False)
    down: _Lane = field(init=False)
    worker_port: Port = field(init=False)
    server_port: Port = field(init=False)
    connected: bool = False
    computing: bool = False
    done: bool = False
    rounds: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    pause_s: float = 0.0
    worker_wake: float = math.inf
    server_wake: float = math.inf


class Simulation:
    """A server and its robots in virtual time.

    Before the team starts, links carry everything at once: an experiment begins when all hold the same parameters,
    and time 0 is the moment at which the last of them may start.

    Args:
        server: the server node.
        channel: the medium; ``None``: each link has its own.
        costs: the server's work.
        delay_s: propagation delay of each direction (s).
        seed: of reconnection pauses.

    Attributes:
        clock: the time.
        robots: by name.
        started: the team has started.
        messages: delivered so far.
    """

    def __init__(
        self,
        server: ServerNode,
        *,
        channel: Channel | None = None,
        costs: ServerCosts | None = None,
        delay_s: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.server = server
        self.clock = Clock()
        self.robots: dict[str, Robot] = {}
        self.started = False
        self.messages = 0
        self._channel = channel or Independent()
        self._costs = costs or ServerCosts()
        self._delay_s = delay_s
        self._random = random.Random(seed)
        self._by_port: dict[Port, Robot] = {}
        self._lanes: list[_Lane] = []
        self._zero = 0.0

    # -- who takes part ----------------------------------------------------------------------------------------

    def add(self, node: WorkerNode, device: Device, up: Trace, down: Trace, resume: Callable[[], None]) -> Robot:
        """A robot comes.

        Args:
            node: its worker node.
            device: what its computing costs.
            up, down: bandwidth of its link from the start of the team on, each direction.
            resume: see :class:`Robot`.
        """
        if node.name in self.robots:
            raise LocalProtocolError(f"simulation: a robot named {node.name!r} is there already")
        robot = Robot(node, device, resume)
        self.robots[node.name] = robot
        robot.up = self._lane(up, node.poll, partial(self._to_server, robot))
        robot.down = self._lane(
            down, lambda now: self.server.poll(now, robot.server_port), partial(self._to_worker, robot)
        )
        self.clock.at(self.clock.now, self._connect, robot)
        return robot

    def add_hollow(
        self,
        node: WorkerNode,
        device: Device,
        up: Trace,
        down: Trace,
        *,
        amounts: npt.NDArray[np.float32] | None = None,
    ) -> Robot:
        """A robot of which only the time matters: ``node`` has a hollow layout.

        Args:
            amounts: how much each gradient adds to each row, float32 [rows]; ``None``: 1 everywhere.
        """
        update = np.ones(node.layout.rows, dtype=np.float32) if amounts is None else amounts

        def resume() -> None:
            if node.phase is not Phase.COMPUTING:
                return
            self.clock.at(self.clock.now + self.gradient_s(robot), hand_in, priority=_COMPUTE)

        def hand_in() -> None:
            node.accumulate_rows(update)
            self.computed(robot)

        robot = self.add(node, device, up, down, resume)
        return robot

    # -- time --------------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Seconds since the team started (0 before)."""
        return self.clock.now - self._zero if self.started else 0.0

    def run(self, until_s: float, *, progress: Callable[[float], None] | None = None, every_s: float = 10.0) -> None:
        """Let time pass until ``until_s`` seconds after the start, or until nothing is left to happen.

        A team that is not complete does not start: then it returns when its nodes have waited for so long.

        Args:
            progress: called with :attr:`now` about each ``every_s`` seconds of virtual time.

        Raises:
            RowcastError: a worker gave up.
        """
        clock, channel = self.clock, self._channel
        tell_at = 0.0
        with _rare_collections():
            while True:
                due = channel.next_finish()
                time = min(due, clock.next)
                if time == math.inf or time - self._zero > until_s:
                    break
                # What the channel delivers goes before what happens at the same moment: it left earlier.
                if due <= clock.next:
                    clock.now = due
                    for key in channel.finished(due):
                        self._passed(self._lanes[key])
                else:
                    clock.step()
                if progress is not None and self.now >= tell_at:
                    progress(self.now)
                    tell_at = self.now + every_s
        if self.started and until_s < math.inf:
            clock.now = max(clock.now, min(self._zero + until_s, clock.next))

    @property
    def finished(self) -> bool:
        """Every robot is done."""
        return all(robot.node.phase is Phase.DONE for robot in self.robots.values())

    # -- computing ---------------------------------------------------------------------------------------------

    def gradient_s(self, robot: Robot) -> float:
        """Seconds from the permission to compute until the next update can be handed in."""
        device, policy = robot.device, robot.node.policy
        rounds = 1 if policy is None else policy.local_steps
        compute_s = sum(device.gradient_s(robot.rounds * rounds + step) for step in range(rounds))
        return (device.decode_s if robot.rounds else 0.0) + compute_s + device.encode_s

    def computed(self, robot: Robot) -> None:
        """The update of ``robot`` is accumulated: exchange it."""
        robot.rounds += 1
        robot.node.exchange(self.clock.now)
        robot.computing = False
        self.attend(robot)

    def attend(self, robot: Robot) -> None:
        """Something was done with the worker node of ``robot``: send, wake, go on."""
        if robot.connected and robot.up.carrying is None:
            self._pump(robot.up)
        self._after(robot)

    def _after(self, robot: Robot) -> None:
        """A worker node has changed: give up, compute, set its timer."""
        node = robot.node
        node.notices.clear()
        if node.failure is not None:
            raise node.failure
        if node.phase is Phase.COMPUTING and not robot.computing:
            robot.computing = True
            if self.started:
                robot.resume()
            elif all(other.node.phase is Phase.COMPUTING for other in self.robots.values()):
                self._begin()
        elif node.phase is Phase.DONE and not robot.done:
            robot.done = True
            robot.resume()
        due = node.next_timer()
        if due is not None and due < robot.worker_wake:
            robot.worker_wake = due
            self.clock.at(due, self._wake_worker, robot, due, priority=_TIMER)

    def _begin(self) -> None:
        """Everybody holds the parameters: time starts, and so do the links."""
        self.started = True
        self._zero = self.clock.now
        for robot in self.robots.values():
            for lane in (robot.up, robot.down):
                self._channel.add(lane.key, _starting_at(lane.trace, self._zero))
        for robot in self.robots.values():
            robot.resume()

    # -- links -------------------------------------------------------------------------------------------------

    def _lane(self, trace: Trace, poll: Callable[[float], Message | None], deliver: Callable[[Message], None]) -> _Lane:
        lane = _Lane(len(self._lanes), trace, poll, deliver)
        self._lanes.append(lane)
        if self.started:
            self._channel.add(lane.key, _starting_at(trace, self._zero))
        return lane

    def _pump(self, lane: _Lane) -> None:
        """Hand the next message to the link, if it is free."""
        now = self.clock.now
        if lane.carrying is not None or lane.port is None or now < lane.held_until:
            return
        message = lane.carrying = lane.poll(now)
        if message is None:
            return
        if self.started:
            self._channel.begin(now, lane.key, 8 * message_bytes(message))
        else:
            self.clock.at(now, self._passed, lane)

    def _passed(self, lane: _Lane) -> None:
        """The last bit of a message has left the link."""
        message, lane.carrying = lane.carrying, None
        if message is None:
            return
        if self._costs.pull_s and isinstance(message, Go):
            lane.held_until = self.clock.now + self._costs.pull_s
            self.clock.at(lane.held_until, self._pump, lane)
        if self._delay_s and self.started:
            self.clock.at(self.clock.now + self._delay_s, self._arrived, lane, lane.port, message)
        else:
            lane.deliver(message)
        self._pump(lane)
        self._serve()

    def _arrived(self, lane: _Lane, port: Port, message: Message) -> None:
        """A message comes out of the link, unless it was cut meanwhile."""
        if lane.port is port:
            lane.deliver(message)

    def _to_server(self, robot: Robot, message: Message) -> None:
        if self._costs.push_s and self.started and isinstance(message, PushEnd):
            self.clock.at(self.clock.now + self._costs.push_s, self._server_hears, robot, robot.server_port, message)
        else:
            self._server_hears(robot, robot.server_port, message)

    def _server_hears(self, robot: Robot, port: Port, message: Message) -> None:
        if robot.up.port is not port:
            return
        self.messages += 1
        if isinstance(message, Rows) and self.started:
            robot.bytes_up += message_bytes(message)
        server, now = self.server, self.clock.now
        server.heard(now, port)
        try:
            server.receive(now, port, message)
        except LinkLost as error:
            self._disconnect(robot, str(error))
        except RowcastError as error:
            server.blame(now, port, error)
        self._serve()

    def _serve(self) -> None:
        """Send what the server has got to say."""
        while ready := self.server.take_ready():  # what one robot is sent may let another one go on
            for port in ready:
                robot = self._by_port.get(port)
                if robot is None or port is not robot.server_port:
                    continue
                if robot.down.carrying is None:
                    self._pump(robot.down)
                if port.closing and robot.down.carrying is None:
                    self._disconnect(robot, "closed by the server")
                self._time_server(robot)

    def _time_server(self, robot: Robot) -> None:
        due = self.server.next_timer_of(robot.server_port)
        if due is not None and due < robot.server_wake:
            robot.server_wake = due
            self.clock.at(due, self._wake_server, robot, due, priority=_TIMER)

    def _to_worker(self, robot: Robot, message: Message) -> None:
        self.messages += 1
        if isinstance(message, Rows) and self.started:
            robot.bytes_down += message_bytes(message)
        node, now = robot.node, self.clock.now
        node.heard(now)
        try:
            node.receive(now, message)
        except RowcastError as error:
            if isinstance(error, RemoteProtocolError):
                node.blame(now, error)
            self._disconnect(robot, str(error))
        self.attend(robot)

    # -- connections -------------------------------------------------------------------------------------------

    def cut(self, name: str, down_s: float) -> None:
        """Cut the link of a robot now; it tries again after ``down_s`` seconds."""
        robot = self.robots[name]
        if robot.connected:
            self._disconnect(robot, "cut", down_s)

    def _connect(self, robot: Robot) -> None:
        if robot.connected or robot.node.phase is Phase.DONE:
            return
        robot.connected = True
        robot.worker_port, robot.server_port = Port("server"), Port(robot.node.name, shaped_by=robot.up.trace.name)
        robot.worker_port.shaped_by = robot.up.trace.name
        self._by_port[robot.server_port] = robot
        robot.up.port = robot.down.port = robot.server_port
        robot.node.link_up(self.clock.now, robot.worker_port)
        self.server.link_up(self.clock.now, robot.server_port)
        self._serve()
        self.attend(robot)

    def _disconnect(self, robot: Robot, cause: str, pause_s: float | None = None) -> None:
        if not robot.connected:
            return
        robot.connected = False
        for lane in (robot.up, robot.down):
            if lane.carrying is not None and self.started:
                self._channel.abort(self.clock.now, lane.key)
            lane.port = lane.carrying = None
            lane.held_until = 0.0
        del self._by_port[robot.server_port]
        robot.worker_wake = robot.server_wake = math.inf
        self.server.link_down(self.clock.now, robot.server_port, cause)
        robot.node.link_down(self.clock.now, cause)
        if robot.node.phase is not Phase.DONE:
            settings = robot.node.settings
            welcomed = robot.node.welcomed_at is not None and robot.node.welcomed_at >= robot.worker_port.opened_at
            first_s = settings.reconnect_first_s
            robot.pause_s = first_s if welcomed else min(max(2 * robot.pause_s, first_s), settings.reconnect_cap_s)
            wait_s = robot.pause_s * self._random.uniform(0.5, 1.0) if pause_s is None else pause_s
            self.clock.at(self.clock.now + wait_s, self._connect, robot)
            self.clock.at(self.server.settings.absence_limit_s + self.clock.now, self._look_for_absent)
        self._serve()

    def _look_for_absent(self) -> None:
        for port, cause in self.server.on_timer(self.clock.now):
            robot = self._by_port.get(port)
            if robot is not None:
                self._disconnect(robot, cause)
        self._serve()

    # -- timers ------------------------------------------------------------------------------------------------

    def _wake_worker(self, robot: Robot, due: float) -> None:
        if due != robot.worker_wake or not robot.connected:
            return
        robot.worker_wake = math.inf
        wanted = robot.node.next_timer()
        if wanted is not None and wanted <= self.clock.now:
            try:
                robot.node.on_timer(self.clock.now)
            except LinkLost as error:
                self._disconnect(robot, str(error))
        self.attend(robot)

    def _wake_server(self, robot: Robot, due: float) -> None:
        if due != robot.server_wake or not robot.connected:
            return
        robot.server_wake = math.inf
        wanted = self.server.next_timer_of(robot.server_port)
        if wanted is not None and wanted <= self.clock.now:
            cause = self.server.on_timer_of(self.clock.now, robot.server_port)
            if cause is not None:
                self._disconnect(robot, cause)
        self._serve()
        if robot.connected:
            self._time_server(robot)


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """The garbage collector looks at what is new fifty times more rarely: there are many messages, and no cycles."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _starting_at(trace: Trace, zero: float) -> Trace:
    """The trace as the channel's clock sees it: its time 0 is ``zero``. What it says before that, nobody asks for."""
    if zero == 0.0:
        return trace
    if trace.loop:
        return trace.shifted(trace.duration_s - zero % trace.duration_s)
    times = trace.times_s + zero
    times[0] = 0.0
    return Trace(times, trace.rates_bps, trace.name, loop=False, duration_s=trace.duration_s + zero)
