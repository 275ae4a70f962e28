"""The medium between emulated hosts as a state machine: packets in, exact departures out. It reads no clock.

A link is one direction of one station. It is served by the channel models of the simulator (:mod:`rowcast.links`), one
packet of each link under way at a time, and the next one begins at the exact moment at which the one before has ended,
however late the process that drives this wakes up. Departures are the same for any sequence of calls that tells of the
same arrivals.

What a packet goes through, in this order:

1. the queue: drop-tail, :class:`MediumLink` says how long;
2. the channel: ``8 * size_bytes`` bits at the rate of the trace, or at the share of it that the channel model gives;
3. loss: a packet that is lost has taken its time on the channel, as a frame that nobody could decode;
4. delay and jitter: so long after its last bit left the channel it comes out.

What ``size_bytes`` counts is up to the caller; the emulation counts the IP packet (the payload of the Ethernet frame).
"""

from __future__ import annotations

import dataclasses
import enum
import math
import random
from collections import deque
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from typing import Generic, TypeVar

from rowcast.errors import ConfigError, LocalProtocolError, near_match
from rowcast.links import CHANNELS, Trace

__all__ = ["Counts", "Medium", "MediumLink", "Verdict"]

P = TypeVar("P")

#: The longest delay and jitter (s) and queue (s) of a link.
MOST_DELAY_S = 60.0
MOST_QUEUE_S = 600.0


@dataclasses.dataclass(frozen=True)
class MediumLink:
    """One direction of a station's link.

    Args:
        trace: what it carries when nobody shares the channel; its time 0 is that of the medium.
        delay_s: from the moment at which the last bit of a packet has left the channel until it comes out (s).
        jitter_s: added to the delay of each packet: drawn for each by itself, uniform in 0 .. ``jitter_s``.
        loss: probability with which a packet that was on the channel does not come out, each by itself.
        queue_s: the queue holds what the trace carries in so many seconds at its present rate. A queue that is too long
            when the rate falls keeps what it has, and takes nothing new until it is short enough.
        queue_bytes: the queue holds so many bytes at any rate, instead of ``queue_s``.
        queue_packets: so many packets are taken at any rate, also at rate 0, and whatever their size.
        reorder: with jitter, a packet may come out before one that left earlier; else it waits for that.

    The queue counts whole packets until their last bit has left the channel, that under way included.

    Raises:
        ConfigError: a value out of its range.
    """

    trace: Trace
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    queue_s: float = 0.05
    queue_bytes: int | None = None
    queue_packets: int = 5
    reorder: bool = False

    def __post_init__(self) -> None:
        _in_range("delay_s", self.delay_s, MOST_DELAY_S, "s")
        _in_range("jitter_s", self.jitter_s, MOST_DELAY_S, "s")
        _in_range("loss", self.loss, 1.0, "(a probability; 0.01 is 1 %)")
        _in_range("queue_s", self.queue_s, MOST_QUEUE_S, "s")
        if self.queue_bytes is not None and self.queue_bytes < 0:
            raise ConfigError(f"medium: queue_bytes: expected 0 bytes or more, got {self.queue_bytes}; leave it away")
        if self.queue_packets < 1:
            raise ConfigError(
                f"medium: queue_packets: expected 1 or more, got {self.queue_packets}; nothing would pass"
            )


class Verdict(enum.Enum):
    """What became of a packet at the door of a link."""

    QUEUED = "queued"
    FULL = "full"


@dataclasses.dataclass
class Counts:
    """What a link has done so far. ``in = out + full + lost + released + held``, in packets and in bytes.

    Attributes:
        packets_in, bytes_in: that arrived.
        packets_out, bytes_out: that came out.
        packets_full, bytes_full: dropped because the queue was full.
        packets_lost, bytes_lost: lost on the channel.
        packets_released, bytes_released: let go by :meth:`Medium.release`.
        largest_queue_bytes: the most that was in the queue.
    """

    packets_in: int = 0
    bytes_in: int = 0
    packets_out: int = 0
    bytes_out: int = 0
    packets_full: int = 0
    bytes_full: int = 0
    packets_lost: int = 0
    bytes_lost: int = 0
    packets_released: int = 0
    bytes_released: int = 0
    largest_queue_bytes: int = 0


#: Size, the packet, the links that it goes on over when it comes out.
_Held = tuple[int, P, Sequence[int]]


class _Lane(Generic[P]):
    """A link and what is on it."""

    __slots__ = ("counts", "jitter", "key", "last_out", "link", "loss", "queue", "queued_bytes")

    def __init__(self, key: int, link: MediumLink, seed: int) -> None:
        self.key = key
        self.link = link
        self.queue: deque[_Held[P]] = deque()  # the first one is under way
        self.queued_bytes = 0
        self.last_out = 0.0
        self.counts = Counts()
        # One stream for each purpose, so that jitter does not decide about who is lost.
        self.loss = random.Random(f"rowcast medium {seed} {key} loss")
        self.jitter = random.Random(f"rowcast medium {seed} {key} jitter")

    def takes(self, now: float, size_bytes: int) -> bool:
        """Whether the queue has room for a packet."""
        link = self.link
        if len(self.queue) < link.queue_packets:
            return True
        limit = link.queue_s * link.trace.rate(now) / 8 if link.queue_bytes is None else link.queue_bytes
        return self.queued_bytes + size_bytes <= limit


class Medium(Generic[P]):
    """Links that share a channel, and the packets on them.

    Times are seconds since the traces began and never go back from one call to the next.

    Args:
        channel: name of the channel model, of :data:`rowcast.links.CHANNELS`.
        links: by their key, a whole number.
        seed: of loss and jitter; each link draws for itself, a packet after the other, so what is drawn does not depend
            on the other links.

    Raises:
        ConfigError: there is no such channel model, or no link.

    Attributes:
        counts: what each link has done so far, by its key.

    >>> medium = Medium("independent", {0: MediumLink(Trace.constant(8e6), delay_s=0.01)})
    >>> medium.arrive(1.0, 0, 1000, "a"), medium.arrive(1.0, 0, 1000, "b")
    (<Verdict.QUEUED: 'queued'>, <Verdict.QUEUED: 'queued'>)
    >>> [(round(time_s, 6), packet) for time_s, _, packet in medium.departed(1.5)]
    [(1.011, 'a'), (1.012, 'b')]
    """

    def __init__(self, channel: str, links: Mapping[int, MediumLink], seed: int = 0) -> None:
        if channel not in CHANNELS:
            raise ConfigError(f"medium: unknown channel {channel!r}; {near_match(channel, CHANNELS)}")
        if not links:
            raise ConfigError("medium: expected one link or more, got none; name the stations")
        self._channel = CHANNELS[channel]()
        self._lanes: dict[int, _Lane[P]] = {key: _Lane(key, link, seed) for key, link in links.items()}
        for key, link in links.items():
            self._channel.add(key, link.trace)
        self._now = 0.0
        self._serial = 0
        #: What has left the channel: (when it comes out, serial number, lane, packet), the earliest first.
        self._flying: list[tuple[float, int, _Lane[P], _Held[P]]] = []
        self._out: list[tuple[float, int, P]] = []
        self.counts: dict[int, Counts] = {key: lane.counts for key, lane in self._lanes.items()}

    def arrive(self, now: float, link: int, size_bytes: int, packet: P, onward: Sequence[int] = ()) -> Verdict:
        """A packet comes to a link.

        Args:
            now: when (s).
            link: which.
            size_bytes: what the trace carries of it; 0 or more.
            packet: handed back when it comes out; nothing is done with it.
            onward: links that it goes on over at the moment at which it comes out of this one, as from one station to
                another by way of the access point. It comes out of each.

        Raises:
            LocalProtocolError: a time that goes back, an unknown link, or a negative size.
        """
        lane = self._lanes.get(link)
        if lane is None or size_bytes < 0 or (onward and not self._lanes.keys() >= set(onward)):
            raise LocalProtocolError(
                f"medium: a packet of {size_bytes} bytes for link {link}, then {list(onward)}; expected 0 bytes or "
                f"more, and links of {sorted(self._lanes)}"
            )
        self._advance(now)
        return self._enter(now, lane, (size_bytes, packet, onward))

    def next_event(self) -> float:
        """When something happens next if nothing arrives (s); ``inf`` if never.

        In the past if something came out already that :meth:`departed` has not told of.
        """
        finish = self._channel.next_finish()
        if self._out:
            return self._out[0][0]
        return min(finish, self._flying[0][0]) if self._flying else finish

    def departed(self, now: float) -> list[tuple[float, int, P]]:
        """What came out until ``now``, and was not told of yet: exact time (s), link and packet, in order of time.

        Raises:
            LocalProtocolError: a time that goes back.
        """
        self._advance(now)
        out, self._out = self._out, []
        return out

    def release(self, now: float) -> list[tuple[float, int, P]]:
        """Let go of everything at ``now``, in order for each link: what departed, is under way, or waits.

        Returns:
            As :meth:`departed`; what was to go on over other links comes out of these at ``now``, too.
        """
        out = self.departed(now)
        held = [(lane, each) for _, _, lane, each in sorted(self._flying, key=lambda entry: entry[:2])]
        for lane in self._lanes.values():
            if lane.queue:
                self._channel.abort(now, lane.key)
            held += [(lane, each) for each in lane.queue]
            lane.queue.clear()
            lane.queued_bytes = 0
        self._flying.clear()
        for lane, (size_bytes, packet, onward) in held:
            lane.counts.packets_released += 1
            lane.counts.bytes_released += size_bytes
            out += [(now, key, packet) for key in (lane.key, *onward)]
        return out

    def held(self, link: int) -> tuple[int, int]:
        """Packets and bytes that are on a link: waiting, under way, or delayed."""
        lane = self._lanes[link]
        flying = [each[0] for _, _, other, each in self._flying if other is lane]
        return len(lane.queue) + len(flying), lane.queued_bytes + sum(flying)

    # -- ours --------------------------------------------------------------------------------------------------------

    def _advance(self, now: float) -> None:
        """Let happen what happens until ``now``, each thing at its own time."""
        if not self._now <= now < math.inf:
            raise LocalProtocolError(f"medium: time {now} s; expected a finite time, {self._now} s or later")
        self._now = now
        channel, flying, lanes = self._channel, self._flying, self._lanes
        while True:
            finish = channel.next_finish()
            out_at = flying[0][0] if flying else math.inf
            if out_at <= finish:
                if out_at > now:
                    return
                self._come_out(heappop(flying))
            elif finish > now:
                return
            else:
                for key in channel.finished(finish):
                    self._leave_channel(finish, lanes[key])

    def _enter(self, now: float, lane: _Lane[P], held: _Held[P]) -> Verdict:
        size_bytes, counts = held[0], lane.counts
        counts.packets_in += 1
        counts.bytes_in += size_bytes
        if not lane.takes(now, size_bytes):
            counts.packets_full += 1
            counts.bytes_full += size_bytes
            return Verdict.FULL
        lane.queue.append(held)
        lane.queued_bytes += size_bytes
        if lane.queued_bytes > counts.largest_queue_bytes:
            counts.largest_queue_bytes = lane.queued_bytes
        if len(lane.queue) == 1:
            self._channel.begin(now, lane.key, 8 * size_bytes)
        return Verdict.QUEUED

    def _leave_channel(self, now: float, lane: _Lane[P]) -> None:
        """The last bit of the packet under way has passed; the next one begins now."""
        held = lane.queue.popleft()
        lane.queued_bytes -= held[0]
        if lane.queue:
            self._channel.begin(now, lane.key, 8 * lane.queue[0][0])
        link = lane.link
        if link.loss and lane.loss.random() < link.loss:
            lane.counts.packets_lost += 1
            lane.counts.bytes_lost += held[0]
            return
        out_at = now + link.delay_s
        if link.jitter_s:
            out_at += link.jitter_s * lane.jitter.random()
        if not link.reorder:
            lane.last_out = out_at = max(out_at, lane.last_out)
        self._serial += 1
        heappush(self._flying, (out_at, self._serial, lane, held))

    def _come_out(self, entry: tuple[float, int, _Lane[P], _Held[P]]) -> None:
        out_at, _, lane, (size_bytes, packet, onward) = entry
        lane.counts.packets_out += 1
        lane.counts.bytes_out += size_bytes
        self._out.append((out_at, lane.key, packet))
        for key in onward:
            self._enter(out_at, self._lanes[key], (size_bytes, packet, ()))


def _in_range(name: str, value: float, most: float, unit: str) -> None:
    if not 0 <= value <= most:
        raise ConfigError(f"medium: {name}: expected 0 .. {most:g} {unit}, got {value}")
