"""A tree of relays as a simulation: a server with robots and relays, each of which has robots and relays of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import cast

from rowcast.drivers.virtual.clock import rare_collections
from rowcast.drivers.virtual.device import Device, ServerCosts
from rowcast.drivers.virtual.lane import Lane
from rowcast.drivers.virtual.simulation import Robot, Simulation
from rowcast.drivers.virtual.uplink import MessageUplink
from rowcast.errors import LinkLost, LocalProtocolError
from rowcast.links import Trace
from rowcast.links.channel import Channel
from rowcast.session import Link
from rowcast.training import ServerNode, WorkerNode, WorkerState
from rowcast.training.relay import RelayNode
from rowcast.wire import Message

__all__ = ["JOIN_S", "TreeSimulation"]

#: Joining takes time where there are relays, before time 0: the first robot below a relay is sent away while that joins
#: above, and comes again (s).
JOIN_S = 60.0


class TreeSimulation(Simulation):
    """A server with its robots and its relays, in virtual time.

    What is made is the root; :meth:`add_relay` returns the part of the tree below a relay, to which robots and relays
    are added as to the root. All parts have one clock and one medium, and the root is what is run. Time 0 is the moment
    at which the last robot of the tree may start.

    Args:
        server, channel, costs, delay_s: see :class:`Simulation`; delays are those of robots and relays of this server.

    Raises:
        ConfigError: a delay that is negative or not finite.

    Attributes:
        relays: the parts below the relays of this server, by their names.
        above: the part that holds the server above; ``None``: this is the root.

    Example::

        tree = TreeSimulation(ServerNode(policy, settings=ServerSettings(expected_workers=2)))
        for k in range(2):
            relay = RelayNode(f"relay-{k}", policy, settings=ServerSettings(expected_workers=4))
            below = tree.add_relay(relay, up, down)
            for number in range(4):
                below.add_timing_only(worker_node(f"robot-{k}-{number}"), device, up, down)
        tree.run(3600)
    """

    def __init__(
        self,
        server: ServerNode,
        *,
        channel: Channel | None = None,
        costs: ServerCosts | None = None,
        delay_s: float | Mapping[str, float] = 0.0,
    ) -> None:
        super().__init__(server, channel=channel, costs=costs, delay_s=delay_s)
        self.relays: dict[str, TreeSimulation] = {}
        self.above: TreeSimulation | None = None
        self._root = self
        self._peer: Robot | None = None  # the relay, as the engine above has it
        self._attending = False
        self._ready = self._leaves = 0  # robots of the tree that may start, and all of them; at the root

    # -- who takes part ----------------------------------------------------------------------------------------

    def add_relay(
        self,
        node: RelayNode,
        up: Trace,
        down: Trace,
        *,
        costs: ServerCosts | None = None,
        delay_s: float | Mapping[str, float] = 0.0,
    ) -> TreeSimulation:
        """A relay comes, which connects to this server as soon as a robot below it has brought the layout.

        Args:
            node: its node.
            up, down: bandwidth of its link from the start of the team on, each direction.
            costs: its work for those below it.
            delay_s: of the links of those below it, see :class:`Simulation`.

        Returns:
            The part of the tree below the relay.

        Raises:
            ConfigError: a delay that is negative or not finite.
            LocalProtocolError: a robot or a relay of that name is there already.
        """
        self._check_name(node.name)
        below = TreeSimulation(node, channel=self._channel, costs=costs, delay_s=delay_s)
        below.clock, below._lanes, below._moved = self.clock, self._lanes, self._moved
        below.above, below._root = self, self._root
        below.started, below._zero = self.started, self._zero
        self.relays[node.name] = below
        guest = cast("WorkerNode", MessageUplink(below))  # what an engine asks of the node of a worker
        below._peer = self._linked(guest, Device(0.0), up, down, _nothing)
        return below

    def add(self, node: WorkerNode, device: Device, up: Trace, down: Trace, resume: Callable[[], None]) -> Robot:
        """See :class:`Simulation`.

        Raises:
            LocalProtocolError: a robot or a relay of that name is there already.
        """
        self._check_name(node.name)
        self._root._leaves += 1
        return super().add(node, device, up, down, resume)

    def _check_name(self, name: str) -> None:
        if name in self.robots or name in self.relays:
            raise LocalProtocolError(f"simulation: a robot or a relay named {name!r} is there already")

    def parts(self) -> Iterator[TreeSimulation]:
        """This part of the tree, and all that are below it."""
        yield self
        for below in self.relays.values():
            yield from below.parts()

    def leaves(self) -> Iterator[Robot]:
        """The robots of this part of the tree, through other relays as well."""
        for part in self.parts():
            yield from part.robots.values()

    @property
    def finished(self) -> bool:
        """Every robot is done."""
        return all(robot.node.over for robot in self.leaves())

    @property
    def delivered(self) -> int:
        """Messages delivered in this part of the tree so far, from and to its robots and relays."""
        return sum(part.messages for part in self.parts())

    # -- a relay, as the engine of its part sees it ----------------------------------------------------------------

    @property
    def relay(self) -> RelayNode:
        """The node of the server, which is that of a relay.

        Raises:
            LocalProtocolError: this is the root.
        """
        if not isinstance(self.server, RelayNode):
            raise LocalProtocolError("simulation: expected the part below a relay, got the root")
        return self.server

    @property
    def relay_host(self) -> RelayNode:
        """What is told of the connection to the server above."""
        return self.relay

    @property
    def dead(self) -> bool:
        """No relay of a simulation dies."""
        return False

    def _hear(self, now: float, link: Link, message: Message) -> None:
        super()._hear(now, link, message)
        if self.above is not None and (cause := self.server.arrived(now, link, 0)) is not None:
            raise LinkLost(cause)  # no bytes: what follows from the message

    def serve(self) -> None:
        """See :class:`Engine`; what follows from it is said above as well."""
        super().serve()
        above, peer = self.above, self._peer
        if above is not None and peer is not None and not self._attending:
            self._attending = True
            above.attend(peer)
            self._attending = False

    # -- a relay, as the engine of the server above sees it --------------------------------------------------------

    def _changed(self, robot: Robot) -> None:
        below = self.relays.get(robot.node.name)
        if below is None:
            if robot.computing and not self.started and robot.node.state is not WorkerState.COMPUTING:
                robot.computing = False  # its relay has joined anew, and so does it
                self._root._ready -= 1
            super()._changed(robot)
            return
        if (failure := robot.node.failure) is not None:
            raise failure
        if not below._attending:
            below._attending = True
            below.serve()
            below._attending = False

    def cut(self, name: str, down_s: float) -> None:
        """Cut the link of a robot or a relay now; it is back after ``down_s`` seconds, and connects then."""
        below = self.relays.get(name)
        peer = self.robots[name] if below is None else below._peer
        assert peer is not None
        self.disconnect(peer, "cut", down_s)

    # -- time --------------------------------------------------------------------------------------------------

    def run(self, until_s: float, *, progress: Callable[[float], None] | None = None, every_s: float = 10.0) -> None:
        """See :class:`Simulation`; a tree that has not started has :data:`JOIN_S` for that at least.

        Raises:
            RowcastError: a robot or a relay gave up.
            LocalProtocolError: this is not the root.
        """
        if self.above is not None:
            raise LocalProtocolError("simulation: expected the root of the tree, got the part below a relay")
        with rare_collections():
            while not self.started and self.clock.next <= max(until_s, JOIN_S):
                self.clock.step()
        super().run(until_s, progress=progress, every_s=every_s)

    def _complete(self) -> bool:
        root = self._root
        root._ready += 1
        return root._ready == root._leaves

    def _begin(self) -> None:
        if self.above is not None:
            self._root._begin()
            return
        for part in self.parts():
            part.started, part._zero = True, self.clock.now
        for part in self.parts():
            for peer in (*part.robots.values(), *(below._peer for below in part.relays.values())):
                assert peer is not None
                part._open_lanes(peer)
        for robot in self.leaves():
            robot.resume()

    def _passed(self, lane: Lane) -> None:
        if lane.simulation is self:
            super()._passed(lane)
        else:  # the clock and the medium are run by the root
            lane.simulation._passed(lane)


def _nothing() -> None:
    """A relay computes nothing."""
