"""Nodes, links and computing robots as a discrete-event simulation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt

from rowcast.drivers.virtual.clock import rare_collections
from rowcast.drivers.virtual.device import Device, ServerCosts
from rowcast.drivers.virtual.engine import Direction, Engine, Peer
from rowcast.drivers.virtual.lane import Lane, starting_at
from rowcast.drivers.virtual.tcp.lane import QUEUE_S, TcpLane
from rowcast.errors import ConfigError, LinkLost, LocalProtocolError, RemoteProtocolError, RowcastError
from rowcast.links import Trace
from rowcast.links.channel import Channel, Independent
from rowcast.session import Link
from rowcast.training import ServerNode, WorkerNode, WorkerState
from rowcast.wire import Message, Rows
from rowcast.wire.frames import frame_bytes, message_bytes

__all__ = ["Robot", "Simulation"]

#: A robot goes on computing behind everything else that happens at the same moment.
_COMPUTE = 1


class Robot(Peer):
    """A worker with its device and its link.

    Attributes:
        node: the worker node.
        resume: called when it is to compute the next gradient (it calls :meth:`Simulation.computed` when that is
            there), and when the node is done.
        rounds: iterations computed.
        served_until: the server works for it until then (s).
        bytes_up, bytes_down: of row frames that arrived since the start of the team.
    """

    node: WorkerNode
    up: Lane
    down: Lane

    def __init__(self, node: WorkerNode, device: Device, resume: Callable[[], None], up: Lane, down: Lane) -> None:
        super().__init__(node, up, down)
        self.device = device
        self.resume = resume
        self.computing = False
        self.done = False
        self.rounds = 0
        self.served_until = 0.0
        self.bytes_up = 0
        self.bytes_down = 0


class Simulation(Engine[Robot]):
    """A server and its robots in virtual time.

    Before the team starts, links carry everything at once: an experiment begins when all hold the same parameters,
    and time 0 is the moment at which the last of them may start.

    Args:
        server: the server node.
        channel: the medium; ``None``: each link has its own.
        costs: the server's work.
        delay_s: propagation delay of each direction (s), of all links or by the name of the robot; else 0.
        tcp: links carry packets of TCP, :class:`~rowcast.drivers.virtual.tcp.lane.TcpLane`, and not one message at a
            time.
        queue_s: of those links, the queue in front of each holds what it carries in so many seconds at its present
            rate, and five packets at any rate.

    Raises:
        ConfigError: a delay that is negative or not finite.

    Attributes:
        clock: the time.
        robots: by name.
        started: the team has started.
        messages: delivered so far.
    """

    server: ServerNode

    def __init__(
        self,
        server: ServerNode,
        *,
        channel: Channel | None = None,
        costs: ServerCosts | None = None,
        delay_s: float | Mapping[str, float] = 0.0,
        tcp: bool = False,
        queue_s: float = QUEUE_S,
    ) -> None:
        super().__init__(server)
        for value in delay_s.values() if isinstance(delay_s, Mapping) else (delay_s,):
            if not 0 <= value < math.inf:
                raise ConfigError(f"delay of a link: expected a finite time of 0 s or more, got {value}")
        self.robots: dict[str, Robot] = {}
        self.started = False
        self.messages = 0
        self._channel = channel or Independent()
        self._delay_s = delay_s
        costs = costs or ServerCosts()
        self._push_s, self._pull_s = costs.push_s, costs.pull_s
        self._make_lane = TcpLane if tcp else Lane
        self.queue_s = queue_s
        self._lanes: list[Lane] = []
        self._moved: dict[Trace, Trace] = {}
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
        robot = self._linked(node, device, up, down, resume)
        self.robots[node.name] = robot
        self.clock.at(self.clock.now, self.connect, robot)
        return robot

    def _linked(self, node: WorkerNode, device: Device, up: Trace, down: Trace, resume: Callable[[], None]) -> Robot:
        """A robot with a link to the server."""
        delay_s = self._delay_s
        if isinstance(delay_s, Mapping):
            delay_s = delay_s.get(node.name, 0.0)
        robot = Robot(node, device, resume, self._lane(up, delay_s), self._lane(down, delay_s))
        hear = self._to_server if self._push_s else self._server_hears
        robot.up.deliver, robot.up.next = partial(hear, robot), partial(self.send_up, robot)
        robot.down.deliver, robot.down.next = partial(self._to_worker, robot), partial(self.send_down, robot)
        robot.down.robot = robot
        robot.delay_s = delay_s
        return robot

    def add_timing_only(
        self,
        node: WorkerNode,
        device: Device,
        up: Trace,
        down: Trace,
        *,
        amounts: npt.NDArray[np.float32] | None = None,
    ) -> Robot:
        """A robot of which only the time matters: ``node`` has a timing-only layout.

        Args:
            amounts: how much each gradient adds to each row, float32 [rows]; ``None``: 1 everywhere.
        """
        update = np.ones(node.layout.rows, dtype=np.float32) if amounts is None else amounts

        def resume() -> None:
            if node.state is not WorkerState.COMPUTING:
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
        clock, channel, lanes, passed = self.clock, self._channel, self._lanes, self._passed
        tell_at = 0.0
        with rare_collections():
            while True:
                due, event = channel.next_finish(), clock.next
                # What the channel delivers goes before what happens at the same moment: it left earlier.
                delivers = due <= event
                time = due if delivers else event
                if time == math.inf or time - self._zero > until_s:
                    break
                if delivers:
                    clock.now = due
                    for key in channel.finished(due):
                        passed(lanes[key])
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
        return all(robot.node.over for robot in self.robots.values())

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

    def _changed(self, robot: Robot) -> None:
        """A worker node has changed: give up, or compute."""
        node = robot.node
        node.notices.clear()
        if node.failure is not None:
            raise node.failure
        if node.state is WorkerState.COMPUTING and not robot.computing:
            robot.computing = True
            if self.started:
                robot.resume()
            elif self._complete():
                self._begin()
        elif node.over and not robot.done:
            robot.done = True
            robot.resume()

    def _complete(self) -> bool:
        """One more robot may start; whether all may."""
        # From behind: those who came last are told last, and nobody who is told first looks at a whole team.
        return all(other.node.state is WorkerState.COMPUTING for other in reversed(self.robots.values()))

    def _begin(self) -> None:
        """Everybody holds the parameters: time starts, and so do the links."""
        self.started = True
        self._zero = self.clock.now
        for robot in self.robots.values():
            self._open_lanes(robot)
        for robot in self.robots.values():
            robot.resume()

    # -- links -------------------------------------------------------------------------------------------------

    def _open_lanes(self, robot: Robot) -> None:
        for lane in (robot.up, robot.down):
            self._channel.add(lane.key, self.in_force(lane.trace))

    def in_force(self, trace: Trace) -> Trace:
        """The trace as the clock of the channel sees it; one for all links that share it."""
        if trace not in self._moved:
            self._moved[trace] = starting_at(trace, self._zero)
        return self._moved[trace]

    def _lane(self, trace: Trace, delay_s: float) -> Lane:
        lane = self._make_lane(self, len(self._lanes), trace, delay_s)
        self._lanes.append(lane)
        if self.started:
            self._channel.add(lane.key, self.in_force(trace))
        return lane

    def pump(self, lane: Lane) -> None:
        """Hand the next message to a link, if it is free."""
        spoke = False
        while lane.takes(self.clock.now) and lane.next():
            spoke = True
        if spoke and lane.robot is not None:
            self.serve()  # the server has spoken; what it hears it is served for when it hears it

    def begin(self, now: float, lane: Lane, message: Message) -> None:
        """The first bit of a message enters the link."""
        if self.started:
            burden, lane.burden = lane.burden, 0
            self._channel.begin(now, lane.key, 8 * (message_bytes(message) + burden))
        else:
            self.clock.at(now, self._passed, lane)

    def put(self, now: float, lane: Lane, size_bytes: int) -> None:
        """The first bit of a packet enters the link."""
        self._channel.begin(now, lane.key, 8 * size_bytes)

    def lane_of(self, key: int) -> Lane:
        """A direction of a link, by its key."""
        return self._lanes[key]

    def _passed(self, lane: Lane) -> None:
        """The last bit of a message, or of a packet, has left the link."""
        message = lane.passed()
        if message is None:
            return
        self._hold_after(lane, message)
        if lane.delay_s:
            self.clock.at(self.clock.now + lane.delay_s, self._arrived, lane, lane.connection, message)
        else:
            lane.deliver(message)
        self.pump(lane)

    def hand_over(self, lane: Lane, message: Message) -> None:
        """A message has come out of a link that carries packets."""
        self._hold_after(lane, message)
        lane.deliver(message)
        self.pump(lane)

    def _hold_after(self, lane: Lane, message: Message) -> None:
        """The server works for what it has sent."""
        if self._pull_s and self.started and lane.robot is not None:
            self._hold(lane, lane.robot, self.server.pull_work(message) * self._pull_s)

    def _has_left(self, direction: Direction) -> bool:
        return not isinstance(direction, Lane) or direction.idle

    def _hold(self, lane: Lane, robot: Robot, work_s: float) -> None:
        """The server works before it sends more to ``robot``."""
        if work_s:
            robot.served_until = lane.held_until = max(self.clock.now, robot.served_until) + work_s
            self.clock.at(lane.held_until, self.pump, lane)

    def _arrived(self, lane: Lane, connection: Link, message: Message) -> None:
        """A message comes out of the link, unless it was cut meanwhile."""
        if lane.connection is connection:
            lane.deliver(message)

    def _to_server(self, robot: Robot, message: Message) -> None:
        """The server works on a message before it hears it."""
        now, work = self.clock.now, self.server.push_work(message) if self.started else None
        if work is None or (work == 0 and now >= robot.served_until):
            self._server_hears(robot, message)
            return
        robot.served_until = max(now, robot.served_until) + work * self._push_s
        self.clock.at(robot.served_until, self._worked_on, robot, robot.server_link, message)

    def _worked_on(self, robot: Robot, connection: Link, message: Message) -> None:
        """The server hears a message, unless the link was cut meanwhile."""
        if robot.up.connection is connection:
            self._server_hears(robot, message)

    def _server_hears(self, robot: Robot, message: Message) -> None:
        link = robot.server_link
        self.messages += 1
        if self.started and type(message) is Rows:
            robot.bytes_up += frame_bytes(message)
        server, now = self.server, self.clock.now
        server.heard(now, link)
        try:
            self._hear(now, link, message)
        except LinkLost as error:
            self.disconnect(robot, str(error))
        except RowcastError as error:
            server.blame(now, link, error)
        self.serve()

    def _hear(self, now: float, link: Link, message: Message) -> None:
        """The server takes in a message that came on ``link``."""
        self.server.receive(now, link, message)

    def _to_worker(self, robot: Robot, message: Message) -> None:
        self.messages += 1
        if self.started and type(message) is Rows:
            robot.bytes_down += frame_bytes(message)
        node, now = robot.node, self.clock.now
        node.heard(now)
        try:
            node.receive(now, message)
        except RowcastError as error:
            if isinstance(error, RemoteProtocolError):
                node.blame(now, error)
            self.disconnect(robot, str(error))
        self.attend(robot)

    # -- connections -------------------------------------------------------------------------------------------

    def cut(self, name: str, down_s: float) -> None:
        """Cut the link of a robot now; it is back after ``down_s`` seconds, and the robot connects then."""
        self.disconnect(self.robots[name], "cut", down_s)

    def _opened(self, robot: Robot) -> None:
        robot.worker_link.shaped_by = robot.server_link.shaped_by = robot.up.trace.name
        robot.up.connection = robot.down.connection = robot.server_link
        robot.up.opened(self.clock.now)
        robot.down.opened(self.clock.now)

    def _closing(self, robot: Robot, now: float) -> None:
        for lane in (robot.up, robot.down):
            if lane.busy and self.started:
                self._channel.abort(now, lane.key)
            lane.connection = None
            lane.clear()
            lane.held_until = 0.0
        robot.served_until = 0.0
