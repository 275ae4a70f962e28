"""One direction of a robot's link as a TCP socket has it."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from rowcast.drivers.virtual.lane import Lane
from rowcast.drivers.virtual.tcp.receiver import Receiver
from rowcast.drivers.virtual.tcp.sender import SEGMENT_BYTES, Sender
from rowcast.links import Trace
from rowcast.session import Link
from rowcast.wire import Message
from rowcast.wire.frames import message_bytes

if TYPE_CHECKING:
    from rowcast.drivers.virtual.simulation import Simulation

__all__ = ["HEAD_BYTES", "QUEUE_PACKETS", "QUEUE_S", "Counts", "TcpLane"]

#: Of IPv4 and TCP with time stamps; of a packet that begins a connection, with its options.
HEAD_BYTES, SYN_BYTES = 52, 60
#: An option of TCP that tells of ranges behind a gap, and each of these.
BLOCKS_BYTES, BLOCK_BYTES = 4, 8
#: The queue in front of a link holds what that carries in so many seconds at its present rate, and so many packets at
#: any rate: as ``rowcast emulate`` has it.
QUEUE_S, QUEUE_PACKETS = 0.05, 5
#: More than this is not handed over before a part of it has left: as the sockets of :mod:`rowcast.drivers.sockets` have
#: it (``NOTSENT_LOWAT_BYTES``); they are taken to be writable again at the half of it.
UNSENT_BYTES = 16 << 10


class Packet:
    """What is on a link.

    Attributes:
        size: bytes of the IP packet.
        begin, end: bytes of the stream; none for an acknowledgement alone.
        upto, blocks: what it acknowledges of the stream of the other direction.
        opens: it begins a connection.
    """

    __slots__ = ("begin", "blocks", "end", "opens", "size", "upto")

    def __init__(self, begin: int, end: int, upto: int, blocks: tuple[tuple[int, int], ...], opens: bool) -> None:
        self.begin = begin
        self.end = end
        self.upto = upto
        self.blocks = blocks
        self.opens = opens
        heads = BLOCKS_BYTES + BLOCK_BYTES * len(blocks) if blocks else 0
        self.size = SYN_BYTES if opens else HEAD_BYTES + heads + end - begin


class Counts:
    """Packets that came to a link, left it, and found its queue full; and their bytes."""

    __slots__ = ("bytes_full", "bytes_in", "bytes_out", "packets_full", "packets_in", "packets_out")

    def __init__(self) -> None:
        self.packets_in = self.packets_out = self.packets_full = 0
        self.bytes_in = self.bytes_out = self.bytes_full = 0


class TcpLane(Lane):
    """A stream of bytes, in segments with heads, through a queue that drops what it has no room for.

    The sender hands messages over as long as its socket takes them, and they go in this order: an acknowledgement of
    a peer stands behind the rows that were handed over before it. A message is delivered when all of its bytes have
    arrived, and all before them. Every second segment is acknowledged, by a packet of the other direction; others
    travel with what that sends anyhow. A connection begins with three packets.

    Attributes:
        queue: packets that wait in front of the link, the first of them is on it.
        counts: of packets, since the team started.
        sender, receiver: the two ends of the stream.
        stands: its sender may send: it has heard of the other end.
    """

    __slots__ = (
        "_ack_set", "_begun_at", "_early", "_full", "_messages", "_queued_bytes", "_rates", "_set", "_trying",
        "counts", "queue", "receiver", "sender", "stands",
    )  # fmt: skip

    def __init__(self, simulation: Simulation, key: int, trace: Trace, delay_s: float) -> None:
        super().__init__(simulation, key, trace, delay_s)
        self.counts = Counts()
        self._rates: Trace | None = None
        self._reset()

    def _reset(self) -> None:
        self.sender, self.receiver = Sender(), Receiver()
        self.queue: deque[Packet] = deque()
        self._queued_bytes = 0
        self._messages: deque[tuple[int, Message]] = deque()  # with the end of each in the stream
        self.stands = False
        self._full = False
        self._set = self._ack_set = math.inf  # when the clock looks at the timers
        self._trying = 0  # packets that were to begin the connection
        self._begun_at = 0.0
        self._early = 0  # messages on their way that were handed over before the team started

    @property
    def other(self) -> TcpLane:
        """The other direction of the link."""
        other = self.simulation.lane_of(self.key ^ 1)
        assert isinstance(other, TcpLane)
        return other

    # -- what an engine sees ---------------------------------------------------------------------------------------

    def takes(self, now: float) -> bool:
        if self.connection is None or now < self.held_until or not self.stands:
            return False
        unsent = self.sender.unsent
        self._full = unsent >= UNSENT_BYTES or (self._full and 2 * unsent >= UNSENT_BYTES)
        return not self._full

    @property
    def busy(self) -> bool:
        return bool(self.queue)

    @property
    def idle(self) -> bool:
        return not self._messages and not self._early

    def carry(self, now: float, message: Message) -> None:
        simulation = self.simulation
        if not simulation.started:
            self._early += 1
            simulation.clock.at(now + self.delay_s, self._at_once, self.connection, message)
            return
        burden, self.burden = self.burden, 0
        self.sender.write(now, message_bytes(message) + burden)
        self._messages.append((self.sender.end, message))
        self._send(now)

    def _at_once(self, connection: Link | None, message: Message) -> None:
        """Before the team starts, links carry everything at once."""
        if self.connection is connection:
            self._early -= 1
            self.simulation.hand_over(self, message)

    def opened(self, now: float) -> None:
        if not self.simulation.started:
            self.stands = True
            self.sender.measured(2 * self.delay_s)
        elif self.robot is None:  # robots connect
            self._begin(now)

    def clear(self) -> None:
        self._reset()

    # -- how a connection begins -----------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        """The first packet of this end, until something comes from the other one."""
        self._trying += 1
        self._begun_at = now
        self._enqueue(now, Packet(0, 0, 0, (), True))
        wait_s = min(2.0 ** (self._trying - 1), 120.0)
        self.simulation.clock.at(now + wait_s, self._begin_again, self.connection)

    def _begin_again(self, connection: Link | None) -> None:
        if self.connection is connection and not self.stands:
            self._begin(self.simulation.clock.now)

    def _stand(self, now: float, opens: bool) -> bool:
        """A packet has come from the other end; whether that has opened this direction."""
        if self.stands or not self._trying:
            return False
        self.stands = True
        if self._trying == 1:
            self.sender.measured(now - self._begun_at)
        if opens:
            self._enqueue(now, self._acknowledgement())
        return True

    # -- onto the link ---------------------------------------------------------------------------------------------

    def _send(self, now: float) -> None:
        """Send what the window permits."""
        if not self.stands:
            return
        sender, receiver = self.sender, self.other.receiver
        while True:
            blocks = receiver.blocks
            room = SEGMENT_BYTES - (BLOCKS_BYTES + BLOCK_BYTES * len(blocks) if blocks else 0)
            segment = sender.take(now, room)
            if segment is None:
                break
            receiver.acknowledged()
            self._enqueue(now, Packet(segment.begin, segment.end, receiver.next, blocks, False))
        if sender.due < self._set:
            self._set = sender.due
            self.simulation.clock.at(sender.due, self._timer, self.connection, sender.due)

    def _acknowledgement(self) -> Packet:
        receiver = self.other.receiver
        receiver.acknowledged()
        return Packet(0, 0, receiver.next, receiver.blocks, False)

    def _enqueue(self, now: float, packet: Packet) -> None:
        """A packet comes to the queue, and is dropped if that is full."""
        counts, queue = self.counts, self.queue
        counts.packets_in += 1
        counts.bytes_in += packet.size
        if len(queue) >= QUEUE_PACKETS:
            if self._rates is None:
                self._rates = self.simulation.in_force(self.trace)
            if self._queued_bytes + packet.size > self.simulation.queue_s * self._rates.rate(now) / 8:
                counts.packets_full += 1
                counts.bytes_full += packet.size
                return
        queue.append(packet)
        self._queued_bytes += packet.size
        if len(queue) == 1:
            self.simulation.put(now, self, packet.size)

    def passed(self) -> None:
        """The last bit of the packet on the link has left it; what is complete with it is handed over here."""
        now = self.simulation.clock.now
        packet = self.queue.popleft()
        self._queued_bytes -= packet.size
        self.counts.packets_out += 1
        self.counts.bytes_out += packet.size
        if self.queue:
            self.simulation.put(now, self, self.queue[0].size)
        if self.delay_s:
            self.simulation.clock.at(now + self.delay_s, self._arrives, self.connection, packet)
        else:
            self._arrives(self.connection, packet)

    # -- at the other end ------------------------------------------------------------------------------------------

    def _arrives(self, connection: Link | None, packet: Packet) -> None:
        if self.connection is not connection or connection is None:
            return
        simulation, now, back = self.simulation, self.simulation.clock.now, self.other
        if packet.opens and self.robot is None and not back.stands:
            if not back._trying:
                back._begin(now)
            return
        opened = back._stand(now, packet.opens)
        if packet.opens and not opened and self.robot is not None:
            back._enqueue(now, back._acknowledgement())  # the last of the three packets was lost
        receiver = self.receiver
        back.sender.acknowledge(now, packet.upto, packet.blocks)
        if packet.end > packet.begin:
            receiver.segment(now, packet.begin, packet.end)
            if now < receiver.ack_at < self._ack_set:
                self._look_at_ack(receiver.ack_at)
        back._send(now)
        if receiver.ack_at <= now:
            back._enqueue(now, back._acknowledgement())
        messages = self._messages
        while messages and messages[0][0] <= receiver.next:
            simulation.hand_over(self, messages.popleft()[1])
            if self.connection is not connection:
                return
        if (opened or back._full) and back.connection is connection:
            simulation.pump(back)

    # -- timers ----------------------------------------------------------------------------------------------------

    def _timer(self, connection: Link | None, due: float) -> None:
        if self.connection is not connection or due != self._set:
            return
        self._set = math.inf
        now = self.simulation.clock.now
        self.sender.timer(now)
        self._send(now)

    def _late_ack(self, connection: Link | None, due: float) -> None:
        """An acknowledgement has waited long enough for data to travel with."""
        if self.connection is not connection or due != self._ack_set:
            return
        self._ack_set = math.inf
        receiver, now = self.receiver, self.simulation.clock.now
        if receiver.ack_at <= now:
            self.other._enqueue(now, self.other._acknowledgement())
        elif receiver.ack_at < math.inf:
            self._look_at_ack(receiver.ack_at)

    def _look_at_ack(self, due: float) -> None:
        self._ack_set = due
        self.simulation.clock.at(due, self._late_ack, self.connection, due)
